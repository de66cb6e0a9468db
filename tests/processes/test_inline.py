"""Inline mode under the real gunicorn: crowds, kills, stops and outages.

Callbacks write a journal, and the tests read it: the inbox alone could be wrong.

"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.inbox import Inbox
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.support.services import (
    BODY_MARKER,
    DEADLINE,
    DUPLICATE,
    EVENT,
    EVENT_TYPE,
    FAILED,
    HANDLED,
    HOST,
    MODULE,
    NO_INBOX,
    ONCE,
    PASSWORD,
    ROOT,
    RUNNING,
    SECRETS,
    Answer,
    Lab,
    Postgresql,
    Service,
    assert_discreet,
    children_of,
    find,
    is_alive,
    notification,
    says_why,
    skip_without_prlimit,
    state,
    stop_process,
)
from tests.support.waiting import wait_for

NOT_READY = (503, "unavailable")


# Crowds


CROWD = 300
"""The number of simultaneous deliveries."""
CROWDED = [f"evt_{number}" for number in range(20)]


def wait_until_all_listen(services: list[Service]) -> None:
    """Wait until each of the services has a port."""
    assert len({service.port for service in services}) == len(services)


def deliver_at_once(lab: Lab, services: list[Service]) -> list[Future[Answer]]:
    """Deliver each event of ``CROWDED`` equally often, all at the same time."""
    for event_id in CROWDED:
        notification(event_id)  # cached before: a delivery must not wait for it
    wait_until_all_listen(services)
    gate = threading.Barrier(CROWD)

    def deliver(number: int) -> Answer:
        gate.wait(DEADLINE)
        return services[number % len(services)].deliver(CROWDED[number % len(CROWDED)])

    return [lab.pool.submit(deliver, number) for number in range(CROWD)]


def assert_crowd_runs_once(lab: Lab, database_url: str, services: list[Service]) -> None:
    """Deliver a crowd, half of its callbacks slow, and check every answer, run and event."""
    slow, quick = CROWDED[:10], CROWDED[10:]
    gates = [lab.tell("hold", event_id) for event_id in slow]
    answers = deliver_at_once(lab, services)
    wait_for(lambda: len(lab.journal()) == len(slow) + 2 * len(quick), DEADLINE)
    for gate in gates:
        gate.unlink()

    counted = Counter(answer.result(DEADLINE).brief for answer in answers)

    assert counted[HANDLED] == len(CROWDED)
    assert set(counted) <= {HANDLED, DUPLICATE, RUNNING}
    assert {event_id: lab.account(event_id) for event_id in CROWDED} == dict.fromkeys(CROWDED, ONCE)
    events = [find(database_url, event_id) for event_id in CROWDED]
    assert {(event.state, event.outcome, event.attempt) for event in events} == {
        ("done", "handled", 1)
    }
    assert sum(event.deliveries for event in events) == CROWD


def test_crowd_of_deliveries_runs_each_event_once(lab: Lab, database_url: str) -> None:
    """300 simultaneous deliveries of 20 events to 2 processes of 12 threads run 20 callbacks.

    A process that gets nearly all of them still has threads besides those for slow callbacks.

    """
    assert_crowd_runs_once(lab, database_url, [lab.start(database_url, WEB_THREADS=12)])


def test_three_replicas_run_each_event_once(lab: Lab, postgresql_url: str) -> None:
    """The same deliveries to three replicas with one PostgreSQL also run 20 callbacks."""
    services = [lab.start(postgresql_url, WEB_THREADS=12) for _ in range(3)]
    assert_crowd_runs_once(lab, postgresql_url, services)
    # The replicas competed: each answered some of the deliveries.
    assert all('"event": "delivery"' in service.log for service in services)


#: The handler package is imported right before the inbox is opened.
START_TOGETHER = """
    import os, time
    from pathlib import Path

    FOLDER = Path(__file__).parent
    (FOLDER / f"{os.getpid()}.here").touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.001)
"""


@pytest.mark.no_tables
def test_ten_replicas_start_at_once(lab: Lab, database_url: str) -> None:
    """Ten replicas that start with one empty database become ready, and one creates the tables."""
    (lab.package / "__init__.py").write_text(textwrap.dedent(START_TOGETHER))
    services = [lab.start(database_url, WEB_CONCURRENCY=1) for _ in range(10)]
    wait_for(lambda: len(list(lab.package.glob("*.here"))) == 10, DEADLINE)

    (lab.package / "go").touch()
    answers = [service.readiness() for service in services]

    assert [answer.brief for answer in answers] == [(200, "ready")] * 10
    assert not any("inbox_unavailable_at_start" in service.log for service in services)
    tables, marks = made_tables(database_url)
    assert {"attempts", "events", "readiness", "stripe_receiver_version"} <= set(tables)
    assert marks == 1
    delivered = [service.deliver(EVENT).brief for service in services]
    assert delivered == [HANDLED, *[DUPLICATE] * 9]


def made_tables(database_url: str) -> tuple[list[str], int]:
    """Return the names of all tables, and how often their creation was recorded."""
    engine = sa.create_engine(database_url)
    try:
        with engine.connect() as connection:
            marks = connection.execute(
                sa.text("SELECT count(*) FROM stripe_receiver_version")
            ).scalar_one()
        return sorted(sa.inspect(engine).get_table_names()), marks
    finally:
        engine.dispose()


# Crashes and leases


def test_event_of_a_killed_process_runs_again(lab: Lab, database_url: str) -> None:
    """After SIGKILL in a callback: 409 until the lease ends, then the event runs once more."""
    lease = 3
    service = lab.start(database_url, LEASE_SECONDS=lease)
    killed, _, pid = lab.hold(service.deliver, EVENT)

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        killed.result(DEADLINE)
    lease_end = find(database_url, EVENT).lease_until
    too_early = service.deliver(EVENT)
    again, release, _ = lab.hold(service.deliver_until_taken, EVENT, attempt=2)
    second_lease_end = find(database_url, EVENT).lease_until
    release()

    assert (too_early.brief, too_early.retry_after) == (RUNNING, lease)
    assert again.result(DEADLINE).brief == HANDLED
    assert lease_end is not None
    assert second_lease_end is not None
    assert second_lease_end - lease >= lease_end  # the second claim came after that
    assert [service.deliver(EVENT).brief for _ in range(3)] == [DUPLICATE] * 3
    assert lab.account(EVENT) == [("start", 1), ("start", 2), ("end", 2)]
    assert state(database_url, EVENT) == ("done", "handled", 2)


def test_callback_of_three_leases_runs_once(lab: Lab, database_url: str) -> None:
    """The lease of a running callback never ends, however often the event is delivered."""
    lease = 2
    service = lab.start(database_url, LEASE_SECONDS=lease)
    long, release, _ = lab.hold(service.deliver, EVENT)
    (start,) = lab.journal(EVENT)

    while time.monotonic() < start.at + 3.5 * lease:
        answer = service.deliver(EVENT)
        assert (answer.brief, answer.retry_after) == (RUNNING, lease)
        time.sleep(0.05)
    release()

    assert long.result(DEADLINE).brief == HANDLED
    assert service.deliver(EVENT).brief == DUPLICATE
    assert lab.account(EVENT) == ONCE


@pytest.mark.parametrize("second_ends", ["succeeds", "fails", "goes on"])
def test_stopped_process_cannot_change_another_attempt(
    lab: Lab, database_url: str, second_ends: str
) -> None:
    """A process that is continued after its lease ends itself, and changes nothing of its event."""
    lease = 1
    first_service, second_service = (
        lab.start(database_url, WEB_CONCURRENCY=1, LEASE_SECONDS=lease) for _ in range(2)
    )
    first, wake_first, pid = lab.hold(first_service.deliver, EVENT)
    stop_process(pid, database_url)
    second, release_second, _ = lab.hold(second_service.deliver_until_taken, EVENT, attempt=2)
    if second_ends == "fails":
        lab.tell("fail", EVENT, attempt=2)
    if second_ends == "succeeds":
        lab.tell("fail", EVENT, attempt=1)
    if second_ends != "goes on":
        release_second()
        second.result(DEADLINE)

    before = state(database_url, EVENT)
    wake_first()
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(ConnectionError):
        first.result(DEADLINE)
    wait_for(lambda: not is_alive(pid), DEADLINE)
    after = state(database_url, EVENT)
    if second_ends == "goes on":
        release_second()

    expected = {
        "succeeds": (("done", "handled", 2), HANDLED, DUPLICATE),
        "fails": (("pending", "failed", 2), FAILED, HANDLED),
        "goes on": (("running", None, 2), HANDLED, DUPLICATE),
    }[second_ends]
    wait_for(lambda: says_why(first_service.log), DEADLINE)
    assert "claim_lost" not in first_service.log  # it did not try
    assert before == after == expected[0]
    assert second.result(DEADLINE).brief == expected[1]
    assert first_service.deliver(EVENT).brief == expected[2]
    with contextlib.closing(Inbox(database_url, lease_seconds=1)) as inbox:
        assert inbox.administration.attempts(EVENT)[0].outcome == "crashed"


def test_callback_that_raises_is_run_again(lab: Lab, database_url: str) -> None:
    """Each time the callback raises: 500 and a new attempt. After success: a duplicate."""
    service = lab.start(database_url)
    lab.tell("fail", EVENT, attempt=1)
    lab.tell("fail", EVENT, attempt=2)

    delivered = []
    for _ in range(5):
        brief = service.deliver(EVENT).brief
        delivered.append((brief, state(database_url, EVENT)))

    assert delivered == [
        (FAILED, ("pending", "failed", 1)),
        (FAILED, ("pending", "failed", 2)),
        (HANDLED, ("done", "handled", 3)),
        (DUPLICATE, ("done", "handled", 3)),
        (DUPLICATE, ("done", "handled", 3)),
    ]
    assert lab.account(EVENT) == [
        *[("start", 1), ("raise", 1)],
        *[("start", 2), ("raise", 2)],
        *[("start", 3), ("end", 3)],
    ]


# Outages of the inbox


def assert_unavailable(answer: Answer) -> None:
    """Fail unless the answer is 503 with Retry-After."""
    assert (answer.brief, answer.retry_after) == (NO_INBOX, 5)


def test_outage_of_postgresql_loses_and_repeats_nothing(
    lab: Lab, own_postgresql: Postgresql
) -> None:
    """Without its server: 503. After the outage it works again, and successes are recorded."""
    service = lab.start(own_postgresql.url)
    assert service.deliver("evt_before").brief == HANDLED
    running, release, _ = lab.hold(service.deliver, "evt_running")

    own_postgresql.stop()
    assert_unavailable(service.deliver("evt_during"))
    assert service.readiness().brief == NOT_READY
    release()
    assert_unavailable(running.result(DEADLINE))
    own_postgresql.start()
    wait_for(service.is_ready, DEADLINE)

    assert service.deliver_until_taken("evt_running").brief == DUPLICATE
    assert service.deliver("evt_during").brief == HANDLED
    assert service.deliver("evt_before").brief == DUPLICATE
    for event_id in ("evt_before", "evt_running", "evt_during"):
        assert lab.account(event_id) == ONCE
        assert state(own_postgresql.url, event_id) == ("done", "handled", 1)


@pytest.mark.parametrize("delivered", ["later", "at once"])
def test_success_is_kept_through_an_outage_longer_than_the_lease(
    lab: Lab, own_postgresql: Postgresql, delivered: str
) -> None:
    """Its process does not run the callback again, even though the lease has ended.

    Another process could not know of the success. It claims the event unless the result is recorded
    first.

    """
    lease = 1
    service = lab.start(own_postgresql.url, WEB_CONCURRENCY=1, LEASE_SECONDS=lease)
    running, release, _ = lab.hold(service.deliver, EVENT)
    lease_end = find(own_postgresql.url, EVENT).lease_until
    assert lease_end is not None

    own_postgresql.stop()
    release()
    assert_unavailable(running.result(DEADLINE))
    wait_for(lambda: time.time() > lease_end + lease, DEADLINE)
    if delivered == "later":
        own_postgresql.start()
        wait_for(lambda: state(own_postgresql.url, EVENT) == ("done", "handled", 1), DEADLINE)
    else:
        goes_on = lab.pool.submit(wait_for, lambda: service.deliver(EVENT).status == 200, DEADLINE)
        own_postgresql.start()
        goes_on.result(DEADLINE)

    assert service.deliver(EVENT).brief == DUPLICATE
    assert lab.account(EVENT) == ONCE


@pytest.mark.measured
def test_command_ends_only_when_its_results_are_recorded(
    lab: Lab, own_postgresql: Postgresql
) -> None:
    """After an outage a callback that a command ran successfully does not run again."""
    url = own_postgresql.url
    service = lab.start(url, LEASE_SECONDS=1)
    lab.tell("fail", EVENT)
    assert service.deliver(EVENT).brief == FAILED
    release = lab.tell("hold", EVENT, 2)
    command = Service(
        lab.environment(DATABASE_URL=url, LEASE_SECONDS=1),
        ("-m", "flask", "events", "retry", EVENT, "--yes"),
    )
    lab.services.append(command)
    wait_for(lambda: bool(lab.started(EVENT, 2)), DEADLINE)

    own_postgresql.stop()
    release.unlink()
    wait_for(lambda: "Waiting until it can record" in command.log, DEADLINE)
    own_postgresql.start()
    command.wait()

    assert state(url, EVENT) == ("done", "handled", 2)
    assert service.deliver(EVENT).brief == DUPLICATE


def test_callback_that_outlasts_an_outage_does_not_run_twice(
    lab: Lab, own_postgresql: Postgresql
) -> None:
    """A callback that outlasts the outage keeps its event, even though its lease has ended.

    Another process could not know of it. It claims the event unless the lease is renewed first.

    """
    lease = 1
    service = lab.start(own_postgresql.url, WEB_CONCURRENCY=1, LEASE_SECONDS=lease)
    running, release, _ = lab.hold(service.deliver, EVENT)

    own_postgresql.stop()
    stopped = time.time()
    wait_for(lambda: time.time() > stopped + 2 * lease, DEADLINE)
    start = lab.pool.submit(own_postgresql.start)
    answers = set()

    def is_renewed() -> bool:
        answers.add(service.deliver(EVENT).brief)
        return start.done() and (find(own_postgresql.url, EVENT).lease_until or 0) > time.time()

    wait_for(is_renewed, DEADLINE)
    answers.add(service.deliver(EVENT).brief)
    release()

    assert RUNNING in answers
    assert answers <= {RUNNING, NO_INBOX}
    assert running.result(DEADLINE).brief == HANDLED
    assert service.deliver(EVENT).brief == DUPLICATE
    assert lab.account(EVENT) == ONCE


@pytest.mark.measured
def test_service_starts_before_its_postgresql(lab: Lab, own_postgresql: Postgresql) -> None:
    """Started without its server it answers 503, and becomes ready when the server starts."""
    own_postgresql.stop()
    service = lab.start(own_postgresql.url)

    assert service.ask("GET", "/healthz").brief == (200, "ok")
    assert service.readiness().brief == NOT_READY
    assert_unavailable(service.deliver(EVENT))
    own_postgresql.start()

    wait_for(service.is_ready, DEADLINE)
    assert service.deliver(EVENT).brief == HANDLED
    assert lab.account(EVENT) == ONCE


def test_full_disk_loses_and_repeats_nothing(lab: Lab, sqlite_url: str) -> None:
    """While SQLite's file cannot grow: 503. No restart is needed, and successes are kept."""
    skip_without_prlimit()
    service = lab.start(sqlite_url, WEB_CONCURRENCY=1)
    running, release, pid = lab.hold(service.deliver, "evt_running")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    # Space for the journal, and for no page of a database.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2048, most))
    assert_unavailable(service.deliver("evt_during"))
    assert service.readiness().brief == NOT_READY
    release()
    assert_unavailable(running.result(DEADLINE))
    assert lab.journal("evt_during") == []
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    wait_for(service.is_ready, DEADLINE)

    assert service.deliver_until_taken("evt_running").brief == DUPLICATE
    assert service.deliver("evt_during").brief == HANDLED
    for event_id in ("evt_running", "evt_during"):
        assert lab.account(event_id) == ONCE
        assert state(sqlite_url, event_id) == ("done", "handled", 1)


#: Runs gunicorn without root's right to write everywhere. Other users have no such right.
WITHOUT_PRIVILEGE = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: counts from exec on
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[1:]])
"""


def replace_processes(service: Service) -> None:
    """Kill the processes that serve, and wait until gunicorn has started new ones."""
    before = set(children_of(service.process.pid))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not before & set(children_of(service.process.pid)), DEADLINE)
    assert service.ask("GET", "/healthz").brief == (200, "ok")


@pytest.mark.parametrize("when", ["before the start", "after the start"])
@pytest.mark.parametrize("which", ["folder", "file", "lock file"])
def test_sqlite_without_permission_is_waited_for(
    lab: Lab, sqlite_url: str, which: str, when: str
) -> None:
    """While a file of SQLite cannot be written: 503. No restart is needed after that."""
    file = Path(str(sa.make_url(sqlite_url).database))
    protected = {"folder": file.parent, "file": file, "lock file": Path(f"{file}.lock")}[which]

    if when == "before the start":
        protected.chmod(0o500)
    service = lab.start(sqlite_url, launcher=("-c", WITHOUT_PRIVILEGE))
    assert service.ask("GET", "/healthz").brief == (200, "ok")
    protected.chmod(0o500)
    if when == "after the start":
        replace_processes(service)  # the old ones may have the file open, and can write it
    if (which, when) != ("folder", "after the start"):  # the files exist by then
        assert service.readiness().brief == NOT_READY
        assert_unavailable(service.deliver(EVENT))
    # All files: SQLite creates others beside its first one, with the same mode.
    for path in (file.parent, *file.parent.iterdir()):
        path.chmod(0o700)

    wait_for(service.is_ready, DEADLINE)
    # A process may have opened a file in between. Then it rejects one more delivery.
    wait_for(lambda: service.deliver(EVENT).brief == HANDLED, DEADLINE)
    assert lab.account(EVENT) == ONCE


@pytest.mark.no_tables
def test_sqlite_without_its_folder_is_waited_for(lab: Lab, sqlite_url: str) -> None:
    """While SQLite's folder cannot be created: 503. No restart is needed after that."""
    folder = Path(str(sa.make_url(sqlite_url).database)).parent
    folder.write_text("a file of this name is in the way")
    service = lab.start(sqlite_url)

    assert service.readiness().brief == NOT_READY
    assert_unavailable(service.deliver(EVENT))
    folder.unlink()

    wait_for(service.is_ready, DEADLINE)
    assert service.deliver(EVENT).brief == HANDLED


# Start and stop


def test_stop_waits_for_a_callback(lab: Lab, database_url: str) -> None:
    """After SIGTERM no request is accepted, running callbacks are answered, and the status is 0."""
    service = lab.start(database_url)
    running, release, _ = lab.hold(service.deliver, EVENT)

    service.terminate()
    wait_for(service.refuses, DEADLINE)
    release()

    assert running.result(DEADLINE).brief == HANDLED
    assert service.wait() == 0
    assert lab.account(EVENT) == ONCE
    assert state(database_url, EVENT) == ("done", "handled", 1)


def test_stop_leaves_a_long_callback_to_the_next_process(lab: Lab, database_url: str) -> None:
    """A callback that outlasts the grace period ends with its process, and runs again later."""
    service = lab.start(database_url, "--graceful-timeout", "2", LEASE_SECONDS=2)
    running, _, _ = lab.hold(service.deliver, EVENT)

    service.terminate()
    assert service.wait() == 0
    with pytest.raises(ConnectionError):
        running.result(DEADLINE)
    assert state(database_url, EVENT) == ("running", None, 1)
    successor = lab.start(database_url, LEASE_SECONDS=2)

    assert successor.deliver_until_taken(EVENT).brief == HANDLED
    assert lab.account(EVENT) == [("start", 1), ("start", 2), ("end", 2)]
    assert state(database_url, EVENT) == ("done", "handled", 2)


def fail_to_start(lab: Lab, **settings: str) -> list[str]:
    """Start gunicorn, which must fail with status 1 and no traceback. Returns its output."""
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:0"],
        cwd=ROOT,
        env=lab.environment(**settings),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert_discreet(ended.stderr)
    return ended.stderr.splitlines()


def test_wrong_settings_are_the_only_output(lab: Lab) -> None:
    """Wrong settings end the start with one line each, and no other output."""
    said = fail_to_start(
        lab,
        STRIPE_API_KEY="",
        STRIPE_WEBHOOK_SECRET=f"{SECRETS[0]},{SECRETS[0]}",
        DATABASE_URL="mysql://root:MarkerOfPassword@db/x",
        LEASE_SECONDS="soon",
    )

    assert said[0] == "The settings cannot be used:"
    names = [line.removeprefix("  - ").split()[0] for line in said[1:]]
    assert names == ["STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "DATABASE_URL", "LEASE_SECONDS"]


def test_broken_handlers_are_the_only_output(lab: Lab) -> None:
    """Broken handler modules end the start with one line each, and no other output."""
    broken = {
        "v1_custommer_created": "def handle(notif, client): ...",
        "v1_invoice_paid": "import no_such_module",
        "v1_charge_failed": "def handle(notif): ...",
    }
    for name, source in broken.items():
        (lab.package / f"{name}.py").write_text(source)

    said = fail_to_start(lab, DATABASE_URL="sqlite:////nowhere/inbox.sqlite3")

    assert said[0] == "The handler modules cannot be used:"
    files = [line.removeprefix("  - ").split(":")[0] for line in said[1:]]
    assert files == [f"{lab.package.name}/{name}.py" for name in sorted(broken)]


# Confidentiality

TELLTALE = """
    import logging, os

    from app import GiveUp

    def handle(notif, client):
        local = "".join(["Marker", "Of", "Local"])
        secret = os.environ["STRIPE_WEBHOOK_SECRET"]
        body = notif.fetch_event()
        logging.getLogger("team").warning("the key is %s", client._requestor.api_key)
        if notif.id == "evt_give_up":
            raise GiveUp(f"nobody can book {secret}")
        if notif.id == "evt_exit":
            raise SystemExit(f"{secret}")
        fail(local, secret, body, notif)

    def fail(local, secret, body, notif):
        try:
            {}[local]
        except KeyError:
            raise ValueError(f"no account for {secret}") from None
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_confidential_is_logged(
    lab: Lab, stripe_api: StripeApi, sqlite_url: str, log_format: str
) -> None:
    """At LOG_LEVEL=debug no line holds a secret, a body or a local variable."""
    (lab.package / f"{MODULE}.py").write_text(textwrap.dedent(TELLTALE))
    service = lab.start(
        sqlite_url, STRIPE_API_BASE=stripe_api.url, LOG_LEVEL="debug", LOG_FORMAT=log_format
    )
    events = ["evt_raise", "evt_give_up", "evt_exit"]
    for event_id in events:
        sample = samples.notification(EVENT_TYPE, event_id=event_id)
        stripe_api.put_event(samples.event(sample, {"marker": BODY_MARKER}))

    delivered = [service.deliver(event_id, SECRETS[1]).status for event_id in events]
    forged = service.deliver("evt_forged", "whsec_of_somebody_else").status
    broken = service.ask("POST", "/webhook", BODY_MARKER.encode(), {"Stripe-Signature": "t=1"})
    service.terminate()

    assert (delivered, forged, broken.status) == ([500, 200, 500], 400, 400)
    assert service.wait() == 0
    service.end()
    assert_discreet(service.log)
    assert service.log.count("[redacted]") >= 2 * len(events)
    assert "Traceback" in service.log
    assert "evt_raise" in service.log
    if log_format == "json":
        assert {type(json.loads(line)) for line in service.log.splitlines()} == {dict}


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://someone:{PASSWORD}@{HOST}:9/inbox",
        f"postgresql://{HOST}:9/inbox?user=someone&password={PASSWORD}",
    ],
    ids=["before the host", "in the query"],
)
def test_password_of_the_database_is_not_logged(lab: Lab, url: str) -> None:
    """Neither the start nor an outage shows the password, in any form of the URL."""
    service = lab.start(url, LOG_LEVEL="debug")

    assert service.readiness().brief == NOT_READY
    assert_unavailable(service.deliver(EVENT))
    service.terminate()
    assert service.wait() == 0
    service.end()
    assert "not_ready" in service.log
    assert_discreet(service.log)
