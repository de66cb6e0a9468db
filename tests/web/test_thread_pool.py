"""The pool of threads for an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
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
    """A function that blocks until a test lets it return."""

    def __init__(self) -> None:
        """Start with no call."""
        self.begun: list[str] = []
        self.go: SimpleQueue[None] = SimpleQueue()

    def __call__(self, name: str) -> str:
        """Block until ``let_go``."""
        self.begun.append(name)
        self.go.get(timeout=30)
        return name.upper()

    def let_go(self, number: int) -> None:
        """Let this many calls return."""
        for _ in range(number):
            self.go.put(None)


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once, not after a second."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def work() -> Iterator[Work]:
    """The function. No call blocks after the test."""
    work = Work()
    yield work
    work.let_go(20)


async def soon(condition: object) -> None:
    """Wait on the event loop until ``condition()`` is true."""
    assert callable(condition)
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen")


def test_as_many_run_at_once_as_there_are_threads(work: Work) -> None:
    """Further calls wait in order. Each call gets its own result."""

    async def main() -> list[str]:
        pool = Pool(work, 2, "test", failed=FAILED)
        calls = [asyncio.create_task(pool.call(name)) for name in "abcd"]
        await soon(lambda: len(work.begun) == 2)
        assert not any(call.done() for call in calls)
        work.let_go(4)
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == ["A", "B", "C", "D"]
    assert sorted(work.begun[:2]) == ["a", "b"]


def test_threads_start_at_the_first_call(work: Work) -> None:
    """No thread would survive a fork between the creation of the pool and the first call."""
    Pool(work, 3, "none-yet", failed=FAILED)

    assert not [each for each in threading.enumerate() if each.name.startswith("none-yet")]


def test_cancelled_call_in_the_queue_is_not_run(work: Work) -> None:
    """It counts as abandoned until a thread has removed it from the queue."""

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


def test_cancelled_call_in_the_queue_keeps_no_argument(work: Work) -> None:
    """The body of a request whose client has left is freed, also while all threads are busy."""

    class Body:
        """An argument that can be watched."""

        def __call__(self) -> None:
            """Do nothing."""

    async def main() -> None:
        pool = Pool(lambda act: act(), 1, "test", failed=None)
        first = asyncio.create_task(pool.call(lambda: work("first")))
        await soon(lambda: work.begun)
        body = Body()
        freed = weakref.ref(body)
        second = asyncio.create_task(pool.call(body))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        del body, second
        gc.collect()
        assert freed() is None
        work.let_go(1)
        await first

    asyncio.run(main())


def test_cancelled_call_runs_to_its_end(work: Work) -> None:
    """A running call that is cancelled counts as abandoned until it ends."""

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


def test_call_that_is_cancelled_after_its_end_is_not_abandoned(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call can be cancelled after its result is set and before its caller continues."""

    async def main() -> None:
        pool = Pool(work, 1, "test", failed=FAILED)
        call = asyncio.create_task(pool.call("only"))
        await soon(lambda: work.begun)
        # Cancel in the same step of the loop that sets the result.
        end = pool._end  # noqa: SLF001 - no public call runs in that step

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
    """A thread that cannot start is started at a later call."""
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
    """The thread continues with the next call, even if the error cannot be logged."""
    failures = [error, error]

    def act(name: str) -> str:
        if failures:
            raise failures.pop()
        return name.upper()

    if not can_log:  # a test cannot exhaust the memory at this moment
        monkeypatch.setattr(module.log, "exception", refuse, raising=False)

    async def main() -> list[str]:
        pool = Pool(act, 1, "test", failed=FAILED)
        return [await pool.call(name) for name in "abc"]

    assert asyncio.run(main()) == [FAILED, FAILED, "C"]
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("request_failed") == (2 if can_log else 0)


def refuse(*_arguments: object, **_fields: object) -> NoReturn:
    """Fail like a call without memory."""
    raise MemoryError


def test_passing_on_a_result_is_retried(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the function is not called again."""
    work.let_go(1)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        failures = [MemoryError(), MemoryError()]
        hand_over = loop.call_soon_threadsafe

        def fail_first(*arguments: Any, **options: Any) -> asyncio.Handle:
            if failures:
                raise failures.pop()
            return hand_over(*arguments, **options)

        # A test cannot exhaust the memory at this moment.
        monkeypatch.setattr(loop, "call_soon_threadsafe", fail_first)
        return await Pool(work, 1, "test", failed=FAILED).call("only")

    assert asyncio.run(main()) == "ONLY"
    assert work.begun == ["only"]


def test_call_is_not_lost_between_the_queue_and_its_thread(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that fails after it took a call from the queue continues with this call."""
    work.let_go(1)

    async def main() -> str:
        pool = Pool(work, 1, "test", failed=FAILED)
        failures = [MemoryError(), MemoryError()]
        run = pool._run  # noqa: SLF001 - it runs after a call was taken from the queue

        def fail_first(call: Any) -> None:
            if failures:
                raise failures.pop()
            run(call)

        monkeypatch.setattr(pool, "_run", fail_first)
        return await pool.call("only")

    assert asyncio.run(main()) == "ONLY"
    assert work.begun == ["only"]


def test_pool_works_with_fewer_threads(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only some threads can start, calls wait for them and none fails."""
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

    # A test cannot set the system's limit of threads for this process alone.
    monkeypatch.setattr(threading.Thread, "start", start_some)
    assert asyncio.run(main()) == ["A", "B", "C"]


def test_call_that_ends_after_the_loop_does_no_harm(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread whose event loop is closed raises nothing."""
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

    async def again() -> str:  # by the same thread
        return await pool.call("again")

    assert asyncio.run(again()) == "AGAIN"
    wait_for(lambda: work.begun == ["only", "again"])
    assert complaints == []
