"""Threads that work for an event loop."""

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
    """One call: the function with its arguments, and the result that it has so far."""

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

    Every call gets a result and no thread ends, even when the function raises. An executor of the
    standard library makes and chains two futures for each call, one with a lock of its own. That
    was a tenth of the cost of a request.
    """

    def __init__(self, act: Callable[P, T], threads: int, name: str, *, failed: T) -> None:
        """Take the function, and how many ``threads`` may be in it at once.

        A call that raises is logged, and its result is ``failed``. The threads begin at the first
        call, because no thread survives a fork.
        """
        self._act = act
        self._failed = failed
        self.prepare: Callable[[], object] = lambda: None
        """A function that each thread calls first. The thread goes on when it raises."""
        self._names = [f"{name}-{number}" for number in range(threads)]
        self._has_threads = False
        self._calls: SimpleQueue[_Call[T]] = SimpleQueue()
        self.abandoned = 0
        """How many cancelled calls are still queued or running."""

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Have a thread call the function, and return its result.

        When this is cancelled before a thread has begun, the function is not called. Raises
        ``RuntimeError`` or ``MemoryError`` while the pool cannot start a single thread.
        """
        self._start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put(_Call(future, lambda: self._act(*args, **kwargs), self._failed))
        try:
            return await future
        except asyncio.CancelledError:
            # Not when it has just ended: ``_end`` ran before and counts it down no more.
            self.abandoned += future.cancelled()
            raise

    def _start(self) -> None:
        """Start the threads that are missing, as many as the system lets start."""
        while self._names:
            try:
                start(self._names[-1], partial(self._work, [self.prepare], [None]))
            except (RuntimeError, MemoryError):
                if self._has_threads:
                    return
                raise
            self._has_threads = True
            self._names.pop()  # not before: a thread that could not start is tried again

    def _work(self, first: list[Callable[[], object]], current: list[_Call[T] | None]) -> None:
        """Call what is in ``first`` once, then run calls. It can be called again when it raised."""
        while first:
            first.pop()()
        while True:
            # Kept in a list: a call is not lost when this raises before it has a result.
            call = current[0] = current[0] or self._calls.get()
            self._run(call)
            current[0] = None

    def _run(self, call: _Call[T]) -> None:
        try:
            call.run()
        except BaseException:  # a sys.exit() is an error like any other
            with suppress(BaseException):  # when memory is short a line is lost, not the answer
                log.exception("request_failed")
        with suppress(RuntimeError):  # the loop has been closed: the process is about to end
            call.future.get_loop().call_soon_threadsafe(self._end, call)

    def _end(self, call: _Call[T]) -> None:
        if call.future.cancelled():
            self.abandoned -= 1
        else:
            call.future.set_result(call.result)
