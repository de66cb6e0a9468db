"""A rolling upgrade: the release before and this one on one inbox, under load."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.inbox.migrate import FOLDER, migrations, works_with
from tests.support import raw_sql
from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    DUPLICATE,
    FAILED,
    HANDLED,
    ROOT,
    Answer,
    Lab,
    Service,
    state,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.no_tables

HEAD = migrations().head

#: The first migration after the release before. It is the last one that changes `events`.
FIRST = "0007"


def git(*arguments: str) -> bytes:
    """Run git in the repository, which needs its full history."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture
def code_before(tmp_path: Path) -> Path:
    """The folder with the code of the release before."""
    if git("rev-parse", "--is-shallow-repository").strip() == b"true":
        pytest.skip("a shallow clone does not have the release before: git fetch --unshallow")
    (first,) = (FOLDER / "versions").glob(f"{FIRST}_*.py")
    added = git("log", "--diff-filter=A", "--format=%H", "--", str(first)).split()
    before = f"{added[-1].decode()}^"
    folder = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(git("archive", before))) as archive:
        archive.extractall(folder, filter="data")
    return folder


class Load:
    """Deliveries of new events, one after the other from each thread, until ``stop``."""

    def __init__(self, name: str, service: Service, threads: int = 2) -> None:
        """Begin to deliver to the ``service``."""
        self.answers: dict[str, Answer] = {}
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._running: list[Future[None]] = [
            self._pool.submit(self._deliver, service, f"evt_{name}_{each}")
            for each in range(threads)
        ]

    def _deliver(self, service: Service, prefix: str) -> None:
        number = 0
        while not self._stopping.is_set():
            event_id = f"{prefix}_{number}"
            self.answers[event_id] = service.deliver(event_id)
            number += 1
            self._stopping.wait(0.1)

    def proceeds(self, count: int = 20) -> None:
        """Wait for ``count`` more answers."""
        before = len(self.answers)
        wait_for(
            lambda: (
                len(self.answers) >= before + count or any(each.done() for each in self._running)
            ),
            DEADLINE,
        )

    def stop(self) -> None:
        """Stop, and raise what went wrong."""
        self._stopping.set()
        self._pool.shutdown()
        for each in self._running:
            each.result()


def flask(lab: Lab, *arguments: str, **settings: str) -> str:
    """Run a command of the new release, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env=lab.environment(**settings),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(("sqlite", "inline", "auto"), id="sqlite-inline-auto"),
        pytest.param(
            ("postgresql", "queue", "check"),
            id="postgresql-queue-check",
            marks=pytest.mark.postgresql,
        ),
    ],
)
def test_old_and_new_replicas_share_the_inbox(
    request: pytest.FixtureRequest, lab: Lab, code_before: Path, mode: tuple[str, str, str]
) -> None:
    """No delivery is refused, and each event runs once, before, during and after the migration.

    An old replica can start after the migration. Under MIGRATE=check the new one waits for the
    command, and goes on without a restart.
    """
    database, processing, migrate = mode
    url = str(request.getfixturevalue(f"{database}_url"))
    settings: dict[str, Any] = {
        "PROCESSING": processing,
        "WEB_CONCURRENCY": 1,
        "RETRY_BASE_SECONDS": 0.01,
    }
    taken = HANDLED if processing == "inline" else ACCEPTED

    def start_old() -> Service:
        lab.code = code_before
        try:
            return lab.start(url, **settings)
        finally:
            lab.code = ROOT

    old = start_old()
    wait_for(old.is_ready, DEADLINE)
    ((revision, _),) = raw_sql.select(url, "stripe_receiver_version")
    assert revision < HEAD
    lab.tell("fail", "evt_failing")
    assert old.deliver("evt_failing").brief == (FAILED if processing == "inline" else taken)
    loads = [Load("old", old)]
    loads[0].proceeds()

    new = lab.start(url, MIGRATE=migrate, **settings)
    if migrate == "check":
        wait_for(lambda: "inbox_unavailable_at_start" in new.log, DEADLINE)
        assert new.readiness().brief == (503, "unavailable")
        loads[0].proceeds()
        said = flask(lab, "db", "upgrade", DATABASE_URL=url)
        assert f"to revision {HEAD}" in said
    wait_for(new.is_ready, DEADLINE)
    loads.append(Load("new", new))
    another = start_old()
    wait_for(another.is_ready, DEADLINE)
    loads.append(Load("another", another))
    for load in loads:
        load.proceeds()
        load.stop()

    answers = {event_id: each.brief for load in loads for event_id, each in load.answers.items()}
    assert set(answers.values()) == {taken}
    assert new.deliver("evt_failing").status == 200
    wait_for(lambda: state(url, "evt_failing") == ("done", "handled", 2), DEADLINE)
    wait_for(
        lambda: not raw_sql.select(url, "(SELECT 1 FROM events WHERE state <> 'done') AS undone"),
        DEADLINE,
    )
    runs = Counter(entry.event_id for entry in lab.journal() if entry.what == "start")
    assert {event_id: runs[event_id] for event_id in answers} == dict.fromkeys(answers, 1)
    assert [row[1:2] for row in raw_sql.select(url, "attempts")] == [(1,)]
    for service in (old, new, another):
        assert service.deliver("evt_old_0_0").brief == DUPLICATE
        assert service.deliver("evt_new_0_0").brief == DUPLICATE
    assert raw_sql.select(url, "stripe_receiver_version") == [(HEAD, works_with())]
