"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Generic[P, T]):
    """A fixed number of threads that call one function, for one event loop.

    An executor of the standard library makes two futures for each call, one with a lock of its
    own, and chains them: that was a tenth of what a whole request costs.
    """

    def __init__(self, act: Callable[P, T], threads: int, name: str) -> None:
        """Take the function, which must not raise, and how many ``threads`` may be in it at once.

        They begin at the first call, because no thread survives a fork.
        """
        self._act = act
        self.prepare: Callable[[], object] = lambda: None
        """What each thread calls first."""
        self._names = [f"{name}-{number}" for number in range(threads)]
        self._calls: SimpleQueue[_Call[T]] = SimpleQueue()
        self.abandoned = 0
        """How many calls are queued or running that nobody waits for any more."""

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Have a thread call the function, and return its result.

        When this is cancelled before a thread has begun, none will.
        """
        while self._names:
            threading.Thread(target=self._work, name=self._names[-1], daemon=True).start()
            self._names.pop()  # not before: a thread that could not start is tried again
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((future, lambda: self._act(*args, **kwargs)))
        try:
            return await future
        except asyncio.CancelledError:
            # Not when it has just ended: nobody will see to it any more.
            self.abandoned += future.cancelled()
            raise

    def _work(self) -> None:
        self.prepare()
        while True:
            self._run(*self._calls.get())

    def _run(self, future: asyncio.Future[T], act: Callable[[], T]) -> None:
        results = [] if future.cancelled() else [act()]
        with suppress(RuntimeError):  # the loop has been closed: the process is about to end
            future.get_loop().call_soon_threadsafe(self._end, future, results)

    def _end(self, future: asyncio.Future[T], results: list[T]) -> None:
        if future.cancelled():
            self.abandoned -= 1
        else:
            future.set_result(results[0])


_Call = tuple[asyncio.Future[T], Callable[[], T]]
