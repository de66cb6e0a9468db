"""A fixed pool of threads for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

import structlog

from app.runtime.threads import start

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Call(Generic[T]):
    """One call: the function with its arguments, and its result if the call fails."""

    future: asyncio.Future[T]
    act: Callable[[], T] | None
    result: T

    def run(self) -> None:
        """Call the function, unless it was called before or its caller was cancelled."""
        act, self.act = self.act, None
        if act is not None and not self.future.cancelled():
            self.result = act()


class Pool(Generic[P, T]):
    """A fixed number of threads that call one function, for one event loop.

    Every call gets a result and no thread ends, even when the function raises. The executor of the
    standard library creates and chains two futures for each call, one of them with a lock. That
    was a tenth of the cost of a request.
    """

    def __init__(self, act: Callable[P, T], threads: int, name: str, *, failed: T) -> None:
        """Call ``act`` in up to ``threads`` threads, which are named after ``name``.

        A call that raises is logged, and its result is ``failed``. The threads start at the first
        call, because no thread survives a fork.
        """
        self._act = act
        self._failed = failed
        self._names = [f"{name}-{number}" for number in range(threads)]
        self._has_threads = False
        self._calls: SimpleQueue[_Call[T]] = SimpleQueue()
        self.abandoned = 0
        """Number of cancelled calls that are still queued or running."""

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of the function, which a thread calls.

        If this is cancelled while the call is queued, the function is not called. Raises
        ``RuntimeError`` or ``MemoryError`` while the pool cannot start a single thread.
        """
        self._start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = _Call(future, lambda: self._act(*args, **kwargs), self._failed)
        self._calls.put(call)
        try:
            return await future
        except asyncio.CancelledError:
            # The call can stay in the queue for a long time, without its arguments.
            call.act = None
            # Not if ``_end`` has already set the result: it will not subtract this call.
            self.abandoned += future.cancelled()
            raise

    def _start(self) -> None:
        """Start the missing threads, as far as the system allows."""
        while self._names:
            try:
                start(self._names[-1], partial(self._work, [None]))
            except (RuntimeError, MemoryError):
                if self._has_threads:
                    return
                raise
            self._has_threads = True
            self._names.pop()  # only now: a failed start is tried again

    def _work(self, current: list[_Call[T] | None]) -> None:
        """Run calls. ``current`` keeps the call that runs: this is called again if it raises."""
        while True:
            call = current[0] = current[0] or self._calls.get()
            self._run(call)
            current[0] = None

    def _run(self, call: _Call[T]) -> None:
        try:
            call.run()
        except BaseException:  # sys.exit() too
            with suppress(BaseException):  # without memory the line is lost, not the response
                log.exception("request_failed")
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            call.future.get_loop().call_soon_threadsafe(self._end, call)

    def _end(self, call: _Call[T]) -> None:
        if call.future.cancelled():
            self.abandoned -= 1
        else:
            call.future.set_result(call.result)
