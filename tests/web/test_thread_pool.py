"""Threads that work for an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, NoReturn

import pytest

from app.runtime import threads
from app.web import thread_pool as module
from app.web.thread_pool import Pool
from tests.support.waiting import wait_for

FAILED = "failed"


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


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a second."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)


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
        pool = Pool(work, 2, "test", failed=FAILED)
        calls = [asyncio.create_task(pool.call(name)) for name in "abcd"]
        await soon(lambda: len(work.begun) == 2)
        assert not any(call.done() for call in calls)
        work.let_go(4)
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == ["A", "B", "C", "D"]
    assert sorted(work.begun[:2]) == ["a", "b"]


def test_no_thread_is_there_before_the_first_call(work: Work) -> None:
    """A thread would not survive the fork of the process that made the pool."""
    Pool(work, 3, "none-yet", failed=FAILED)

    assert not [each for each in threading.enumerate() if each.name.startswith("none-yet")]


def test_call_that_nobody_waits_for_is_not_begun(work: Work) -> None:
    """Cancelled while it was queued, it is dropped; it counts until a thread has seen that."""

    async def main() -> None:
        pool = Pool(work, 1, "test", failed=FAILED)
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
        pool = Pool(work, 1, "test", failed=FAILED)
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
        pool = Pool(work, 1, "test", failed=FAILED)
        call = asyncio.create_task(pool.call("only"))
        await soon(lambda: work.begun)
        # Before any step of the loop in which the result is there, cancel in that very step.
        end = pool._end  # noqa: SLF001 - no other way to be there in that moment

        def end_and_cancel(done: Any) -> None:
            end(done)
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

    def refuse_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> str:
        pool = Pool(work, 1, "test", failed=FAILED)
        monkeypatch.setattr(threading.Thread, "start", refuse_thread)
        with pytest.raises(RuntimeError, match="new thread"):
            await pool.call("lost")
        monkeypatch.setattr(threading.Thread, "start", start)
        work.let_go(1)
        return await pool.call("only")

    assert asyncio.run(main()) == "ONLY"


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), MemoryError(), StopIteration()]
)
@pytest.mark.parametrize("can_log", [True, False])
def test_call_that_raises_has_a_result(
    error: BaseException,
    can_log: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The thread goes on with the next call, also if the error cannot be logged."""
    failures = [error, error]

    def act(name: str) -> str:
        if failures:
            raise failures.pop()
        return name.upper()

    if not can_log:  # no test can take all memory away at just this moment
        monkeypatch.setattr(module.log, "exception", refuse, raising=False)

    async def main() -> list[str]:
        pool = Pool(act, 1, "test", failed=FAILED)
        return [await pool.call(name) for name in "abc"]

    assert asyncio.run(main()) == [FAILED, FAILED, "C"]
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("request_failed") == (2 if can_log else 0)


def refuse(*_arguments: object, **_fields: object) -> NoReturn:
    """Be out of memory."""
    raise MemoryError


def test_result_that_could_not_be_handed_over_is_tried_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is not made a second time for that."""
    work.let_go(1)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        failures = [MemoryError(), MemoryError()]
        hand_over = loop.call_soon_threadsafe

        def fail_first(*arguments: Any, **options: Any) -> asyncio.Handle:
            if failures:
                raise failures.pop()
            return hand_over(*arguments, **options)

        # No test can take the memory away at just this moment.
        monkeypatch.setattr(loop, "call_soon_threadsafe", fail_first)
        return await Pool(work, 1, "test", failed=FAILED).call("only")

    assert asyncio.run(main()) == "ONLY"
    assert work.begun == ["only"]


def test_call_is_not_lost_between_the_queue_and_its_thread(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that fails with a call in its hands takes it up again."""
    work.let_go(1)

    async def main() -> str:
        pool = Pool(work, 1, "test", failed=FAILED)
        failures = [MemoryError(), MemoryError()]
        run = pool._run  # noqa: SLF001 - what is called once a call was taken

        def fail_first(call: Any) -> None:
            if failures:
                raise failures.pop()
            run(call)

        monkeypatch.setattr(pool, "_run", fail_first)
        return await pool.call("only")

    assert asyncio.run(main()) == "ONLY"
    assert work.begun == ["only"]


def test_the_threads_that_there_are_do_the_work(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that has a thread for the pool, but not all, delays calls and fails none."""
    start_thread = threading.Thread.start
    started: list[str] = []
    limit = 1

    def start_some(thread: threading.Thread) -> None:
        if len(started) == limit:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start_thread(thread)

    async def main() -> list[str]:
        nonlocal limit
        pool = Pool(work, 3, "test", failed=FAILED)
        calls = [asyncio.create_task(pool.call(name)) for name in "ab"]
        await soon(lambda: work.begun == ["a"])
        assert len(started) == 1
        limit = 3
        calls.append(asyncio.create_task(pool.call("c")))
        await soon(lambda: len(work.begun) == 3)
        work.let_go(3)
        return await asyncio.gather(*calls)

    # As at the system's limit of threads, which a test cannot set for this process alone.
    monkeypatch.setattr(threading.Thread, "start", start_some)
    assert asyncio.run(main()) == ["A", "B", "C"]


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
        pool = Pool(act, 1, "test", failed=FAILED)
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
