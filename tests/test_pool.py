"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from app.pool import Pool
from tests.waiting import wait_for


class Work:
    """A function that takes as long as a test wants, and says when it begins."""

    def __init__(self) -> None:
        """Begin with nothing begun."""
        self.begun: list[str] = []
        self.go: SimpleQueue[None] = SimpleQueue()

    def __call__(self, name: str) -> str:
        """Wait to be let go."""
        self.begun.append(name)
        self.go.get(timeout=30)
        return name.upper()

    def let_go(self, number: int) -> None:
        """Let so many of the calls end."""
        for _ in range(number):
            self.go.put(None)


@pytest.fixture
def work() -> Iterator[Work]:
    """The function, which no thread is left in."""
    work = Work()
    yield work
    work.let_go(20)


async def soon(condition: object) -> None:
    """Wait on the loop until the condition, which is called, holds."""
    assert callable(condition)
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen")


def test_as_many_run_at_once_as_there_are_threads(work: Work) -> None:
    """The rest waits, in the order in which it came, and each gets its own result."""

    async def main() -> list[str]:
        pool = Pool(work, 2, "test")
        calls = [asyncio.create_task(pool.call(name)) for name in "abcd"]
        await soon(lambda: len(work.begun) == 2)
        assert not any(call.done() for call in calls)
        work.let_go(4)
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == ["A", "B", "C", "D"]
    assert sorted(work.begun[:2]) == ["a", "b"]


def test_no_thread_is_there_before_the_first_call(work: Work) -> None:
    """A thread would not survive the fork of the process that made the pool."""
    Pool(work, 3, "none-yet")

    assert not [each for each in threading.enumerate() if each.name.startswith("none-yet")]


def test_call_that_nobody_waits_for_is_not_begun(work: Work) -> None:
    """Cancelled while it was queued, it is dropped; it counts until a thread has seen that."""

    async def main() -> None:
        pool = Pool(work, 1, "test")
        first = asyncio.create_task(pool.call("first"))
        await soon(lambda: work.begun)
        second = asyncio.create_task(pool.call("second"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert second.cancelled()
        assert pool.abandoned == 1
        work.let_go(1)
        assert await first == "FIRST"
        await soon(lambda: not pool.abandoned)

    asyncio.run(main())
    assert work.begun == ["first"]


def test_call_that_has_begun_runs_to_its_end(work: Work) -> None:
    """Cancelled while it ran, it still counts until it has ended."""

    async def main() -> None:
        pool = Pool(work, 1, "test")
        call = asyncio.create_task(pool.call("only"))
        await soon(lambda: work.begun)
        call.cancel()
        await asyncio.wait([call])
        assert pool.abandoned == 1
        work.let_go(1)
        await soon(lambda: not pool.abandoned)

    asyncio.run(main())


def test_call_that_has_just_ended_is_not_counted(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between its end and the moment in which its caller hears of it."""

    async def main() -> None:
        pool = Pool(work, 1, "test")
        call = asyncio.create_task(pool.call("only"))
        await soon(lambda: work.begun)
        # Before any step of the loop in which the result is there, cancel in that very step.
        end = pool._end  # noqa: SLF001 - no other way to be there in that moment

        def end_and_cancel(future: asyncio.Future[str], results: list[str]) -> None:
            end(future, results)
            call.cancel()

        monkeypatch.setattr(pool, "_end", end_and_cancel)
        work.let_go(1)
        await asyncio.wait([call])
        assert call.cancelled()
        assert pool.abandoned == 0

    asyncio.run(main())


def test_thread_that_could_not_start_is_tried_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that was out of threads for a moment does not lose one for good."""
    start = threading.Thread.start

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> str:
        pool = Pool(work, 1, "test")
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await pool.call("lost")
        monkeypatch.setattr(threading.Thread, "start", start)
        work.let_go(1)
        return await pool.call("only")

    assert asyncio.run(main()) == "ONLY"


def test_call_that_ends_after_the_loop_does_no_harm(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends leaves its threads behind, and none of them complains."""
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    ended = threading.Event()

    def act(name: str) -> str:
        try:
            return work(name)
        finally:
            ended.set()

    async def main() -> Pool[[str], str]:
        pool = Pool(act, 1, "test")
        task = asyncio.create_task(pool.call("only"))
        await soon(lambda: work.begun)
        task.cancel()
        return pool

    pool = asyncio.run(main())
    work.let_go(2)
    assert ended.wait(30)

    async def again() -> str:  # by the same thread, which has got over it
        return await pool.call("again")

    assert asyncio.run(again()) == "AGAIN"
    wait_for(lambda: work.begun == ["only", "again"])
    assert complaints == []
