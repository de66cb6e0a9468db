"""The gunicorn worker that serves a ``Bridge``: signals, stop, and the limit on connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import sys
from typing import Any

from app.log import output
from app.runtime import forks, shutdown
from app.web import gunicorn_private
from app.web.connection import Connection

TICK_SECONDS = 0.1

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}

#: Seconds after which a computing thread gives the GIL to a waiting one. Python's default, 5 ms, is
#: longer than the steps of many callbacks. A thread that releases the GIL earlier by itself is
#: never asked for it, and the event loop could wait for seconds.
SWITCH_SECONDS = 0.001

#: gunicorn sends SIGKILL when ``graceful_timeout`` is over. The worker exits this much earlier.
SPARE_SECONDS = 1.0


class WebWorker(gunicorn_private.LoopWorker):
    """gunicorn's asgi worker for a ``Bridge``, with a limit on connections and on a stop.

    The event loop sends the heartbeat, so a callback may run longer than ``timeout``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of gunicorn."""
        super().__init__(*args, **kwargs)
        self.early_signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Signals that arrived before the event loop ran. ``gunicorn.conf.py`` sets the queue."""
        self._waiting: dict[Connection, None] = {}

    def add_waiting(self, connection: Connection) -> None:
        """Note that a connection has no complete request. It may be dropped."""
        self._waiting[connection] = None

    def remove_waiting(self, connection: Connection) -> None:
        """Note that a connection has a complete request, or is closed."""
        self._waiting.pop(connection, None)

    def make_room(self) -> None:
        """Drop the connection that has waited longest, if there are more than the limit.

        A new connection waits too. It is dropped itself if all others have a complete request.
        """
        if self.nr_conns > self.worker_connections:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self.asgi.refusals.write("too_many_connections")
            oldest.transport.abort()

    def handle_exit_signal(self) -> None:
        """Stop accepting connections. Running callbacks continue."""
        super().handle_exit_signal()
        self._stop_accepting()

    def handle_quit_signal(self) -> None:
        """Stop without waiting for callbacks."""
        super().handle_quit_signal()
        self._stop_accepting()

    def run(self) -> None:
        """Serve until told to stop. Then exit, even while callbacks run."""
        sys.setswitchinterval(SWITCH_SECONDS)
        forks.isolate(self.SIGNALS, self.sockets, reopen_log=output.take)
        self.asgi.background.start()
        super().run()
        shutdown.end(self.asgi.unfinished, self.asgi.background.release)
        self.asgi.background.end()

    async def serve(self) -> None:
        """Serve until told to stop, then wait for requests until the grace period is over."""
        self.install_signal_handlers()
        for listener in self.sockets:
            await self._listen(listener.sock)
        if self._is_told_to_stop():
            self.handle_exit_signal()
        while self.alive:
            await self._tick()
        grace = self.cfg.graceful_timeout - SPARE_SECONDS
        for _ in shutdown.begin(self._stop_accepting, self.asgi.unfinished, grace):
            if self.stops_at_once:
                break
            await self._tick()
        self.asgi.refusals.flush()

    def _is_told_to_stop(self) -> bool:
        """Return whether a stop signal arrived during the start. gunicorn would lose it."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self.early_signals.get_nowait() in STOP_SIGNALS:
                    return True
        return False

    async def _listen(self, sock: Any) -> None:
        # asyncio accepts up to ``backlog`` connections at a time. With 1, a burst spreads over the
        # workers. Otherwise the worker that wakes up first accepts all of it.
        server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=1)
        sock.listen(self.cfg.backlog)
        self.servers.append(server)

    async def _tick(self) -> None:
        self.notify()
        self.asgi.refusals.end_intervals()
        if self.ppid != os.getppid():
            self.handle_exit_signal()
        await asyncio.sleep(TICK_SECONDS)

    def _stop_accepting(self) -> None:
        self.asgi.stopping.set()
        for server in self.servers:
            server.close()
