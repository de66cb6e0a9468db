"""SQLite: which version is safe, how it is opened, and how many threads write to it.

SQLite has one writer at a time. So a process has one connection for writing. One thread at a time
writes the statements of all threads that wait: one lock, one transaction, one commit. A single
statement commits itself, and so does a batch of one kind. Every further call of the driver can hand
the GIL to another thread while the lock is held. A transaction costs nearly the same for one event
and for eight. So it is delayed a moment for statements that are about to come: a group commit, as
with ``commit_delay`` and ``commit_siblings`` of PostgreSQL
(https://www.postgresql.org/docs/current/runtime-config-wal.html).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox.engine.checkpoint import KEPT_BYTES, MOST_PAGES, Checkpoints
from app.inbox.engine.sqlite_file import Connection, SqliteFile, driver
from app.inbox.sql.batch import BatchForm

__all__ = [
    "VERSION",
    "Siblings",
    "SqliteWriter",
    "driver",
    "journal_mode",
    "make_engine",
    "prepare",
]

VERSION: tuple[int, ...] = driver.sqlite_version_info

#: The SQL of a statement, and whose and which parameter stands in each place.
_Compiled = tuple[str, list[tuple[str, int]]]

#: The second line behind the file lock, for tools that write without it.
BUSY_TIMEOUT_MS = 4_000

#: Statements that are written in one transaction at most, so that no process waits for long.
MOST_AT_ONCE = 64

#: Seconds that a statement waits at most for its siblings, to be committed with them.
COMMIT_DELAY = 0.0004

#: Seconds that a statement waits for its turn before the delivery is answered 503.
TURN_TIMEOUT = 5.0


def journal_mode(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe in this ``version`` of SQLite.

    Before 3.51.3 a checkpoint in WAL mode can race with a commit and lose it
    (https://sqlite.org/wal.html#walresetbug); 3.50.7 and 3.44.6 have the correction too.
    TRUNCATE and not DELETE: the last commit of DELETE may roll back when power is lost.
    """
    backports = ((3, 50, 7), (3, 51)), ((3, 44, 6), (3, 45))
    fixed = version >= (3, 51, 3) or any(low <= version < high for low, high in backports)
    return "WAL" if fixed else "TRUNCATE"


def synchronous() -> str:
    """Return how far a commit goes that nobody asked to be durable.

    After a callback that succeeded NORMAL keeps the promise: the commit survives the death of
    every process, and a crash of the machine can at worst repeat the event.
    """
    return "NORMAL" if journal_mode(VERSION) == "WAL" else "FULL"


def prepare(connection: Any) -> None:
    """Set how a new ``connection`` waits and writes."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute(f"PRAGMA journal_mode = {journal_mode(VERSION)}")
    connection.execute(f"PRAGMA synchronous = {synchronous()}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {KEPT_BYTES}")


def make_engine(url: sa.URL, connect: Callable[[], Connection], *, autocommit: bool) -> sa.Engine:
    """Return an engine that connects with ``connect``.

    It commits every statement, or begins by hand.
    """
    # hide_parameters: an error's text goes to the log, and a parameter is the body.
    engine = sa.create_engine(url, module=driver, hide_parameters=True)

    @sa.event.listens_for(engine, "do_connect")
    def _connect(*_arguments: object) -> Connection:
        return connect()

    @sa.event.listens_for(engine, "checkout")
    def _check_out(connection: Connection, _record: object, _proxy: object) -> None:
        try:
            connection.file.verify(connection)
        except InboxUnavailable as error:  # all of that age are replaced by new ones
            raise sa.exc.InvalidatePoolError(error.reason) from error

    if not autocommit:

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class _Job:
    """One statement that waits for its turn, and then what came of it."""

    __slots__ = ("done", "durable", "error", "leads", "parameters", "row", "statement", "turn")

    def __init__(
        self, statement: sa.Executable | None, parameters: dict[str, Any], *, durable: bool
    ) -> None:
        #: None for a turn in which nothing is written.
        self.statement = statement
        self.parameters = parameters
        self.durable = durable
        self.row: tuple[Any, ...] | None = None
        self.error: BaseException | None = None
        self.done = False
        self.leads = False
        #: Held until the statement was written, or its thread leads.
        self.turn = threading.Lock()
        self.turn.acquire()


class Siblings:
    """The threads that are about to write: each from when it enters until it leaves."""

    def __init__(self) -> None:
        """Begin with none."""
        self._threads: dict[int, None] = {}

    def __enter__(self) -> None:
        """Count this thread."""
        self._threads[threading.get_ident()] = None

    def __exit__(self, *_error: object) -> None:
        """Count this thread no longer."""
        del self._threads[threading.get_ident()]

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self._threads)


class _NotAsOneError(Exception):
    """Not every row was there to be changed."""


class SqliteWriter:
    """Writes for all threads of this process, one transaction at a time."""

    def __init__(
        self,
        engine: sa.Engine,
        file: SqliteFile,
        batch_forms: Mapping[Any, BatchForm],
        siblings: Siblings,
    ) -> None:
        """Take the ``file``, and the ``engine`` that compiles for it.

        ``batch_forms`` says how statements are written as a batch; ``siblings`` which
        threads are worth waiting for.
        """
        self._engine = engine
        self._file = file
        self._lock = file.lock()
        self._batch_forms = batch_forms
        self._siblings = siblings
        self._checkpoints = Checkpoints(engine, self._alone)
        self._mutex = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._is_led = False
        self._connection: Connection | None = None
        #: Held while the thread that leads waits for its siblings.
        self._delay: threading.Lock | None = None
        self._synchronous = synchronous()
        self._statements: dict[tuple[Any, int], _Compiled] = {}

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        If ``durable``, the commit is on the disk before this returns. Raises the driver's
        error, or ``InboxUnavailable`` when the turn does not come.
        """
        job = _Job(statement, parameters, durable=durable)
        self._wait_for_turn(job)
        if job.leads:
            self._lead()
        if job.error is not None:
            raise job.error
        return job.row

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let no other thread write in the block. Raises ``InboxUnavailable`` after a time-out."""
        job = _Job(None, {}, durable=False)
        self._wait_for_turn(job)
        try:
            yield
        finally:
            self._skip(job)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no thread of any process write in the block. Raises ``InboxUnavailable``."""
        with self.turn(), self._lock:
            yield

    def _wait_for_turn(self, job: _Job) -> None:
        """Wait until the ``job`` was written by another thread, or this one leads."""
        with self._mutex:
            self._waiting.append(job)
            if not self._is_led:
                self._is_led = job.leads = True
                return
            if self._delay is not None and not self._is_sibling_missing():
                self._delay.release()
                self._delay = None
        try:
            in_time = job.turn.acquire(timeout=TURN_TIMEOUT)
        except BaseException:  # Ctrl-C, to a command
            if not self._leave(job) and job.leads:
                self._skip(job)
            raise
        if not in_time and self._leave(job):
            raise InboxUnavailable("the inbox is busy", reason="inbox_locked")

    def _leave(self, job: _Job) -> bool:
        """Wait no longer. False when that comes too late: it was written, or this thread leads."""
        with self._mutex:
            if not job.leads:
                with contextlib.suppress(ValueError):  # being written: its claim ends by itself
                    self._waiting.remove(job)
                return not job.done
        job.turn.acquire()  # it is being released, and would be once more by this thread
        return False

    def _skip(self, job: _Job) -> None:
        """Let the next one lead instead of the thread of this ``job``."""
        with self._mutex:
            self._waiting.remove(job)
        self._hand_over([])

    def _lead(self) -> None:
        """Write what waits, and let another thread lead."""
        jobs: list[_Job] = []
        try:
            self._write_what_waits(jobs)
        finally:
            self._hand_over(jobs)
        if journal_mode(VERSION) == "WAL":
            self._checkpoints.count()

    def _write_what_waits(self, jobs: list[_Job]) -> None:
        try:
            self._delay_commit()
            # What comes while other processes write is written with the rest.
            with self._lock:
                jobs += self._take()
                self._write(jobs)
        except BaseException as error:  # noqa: BLE001 - each of the threads gets it raised
            jobs += [] if jobs else self._take()
            explained = self._file.explain(error)
            for job in jobs:
                job.error, job.done = job.error or explained, True
        if any(job.error is not None for job in jobs):
            # A file that could not be written when it was opened stays so for this connection.
            self._disconnect()

    def _delay_commit(self) -> None:
        """Wait a moment for those who are about to write, unless all of them wait already."""
        with self._mutex:
            if not self._is_sibling_missing():
                return
            delay = self._delay = threading.Lock()
            delay.acquire()
        delay.acquire(timeout=COMMIT_DELAY)
        with self._mutex:
            self._delay = None

    def _is_sibling_missing(self) -> bool:
        return len(self._siblings) > len(self._waiting)

    def _take(self) -> list[_Job]:
        """Take what is to be written now. The statement of the thread that leads comes first."""
        with self._mutex:
            statements = itertools.takewhile(lambda job: job.statement is not None, self._waiting)
            jobs = list(itertools.islice(statements, MOST_AT_ONCE))
            for _ in jobs:
                self._waiting.popleft()
            return jobs

    def _hand_over(self, jobs: list[_Job]) -> None:
        """Let the threads go on whose ``jobs`` are done, and the first one that waits lead."""
        with self._mutex:
            self._is_led = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                jobs = [*jobs, self._waiting[0]]
        for job in jobs:
            job.turn.release()

    def _write(self, jobs: list[_Job]) -> None:
        """Write all in one transaction, or each alone when one of them cannot be written."""
        connection = self._connect()
        self._file.verify(connection)
        self._synchronize(connection, durable=any(job.durable for job in jobs))
        together = [partial(self._write_group, connection, group) for group in self._group(jobs)]
        in_turn = [partial(self._write_one, connection, job) for job in jobs]
        if not _commit(connection, together) and not _commit(connection, in_turn):
            _write_alone(jobs, in_turn)
        # What was written is answered only if it can be found at the path.
        if not self._file.has_file(connection):
            self._file.verify(connection)
        for job in jobs:
            job.done = True

    def _synchronize(self, connection: Any, *, durable: bool) -> None:
        """Let the next commit go as far as it has to."""
        mode = "FULL" if durable else synchronous()
        if mode != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {mode}")
            self._synchronous = mode

    def _group(self, jobs: list[_Job]) -> list[list[_Job]]:
        """Put those together that can be written as one statement, each other one by itself."""
        groups: dict[object, list[_Job]] = {}
        for job in jobs:
            key = job.statement if job.statement in self._batch_forms else job
            groups.setdefault(key, []).append(job)
        return list(groups.values())

    def _write_group(self, connection: Any, jobs: list[_Job]) -> None:
        first = jobs[0]
        together = self._batch_forms.get(first.statement)
        if together is None:
            self._write_one(connection, first)
            return
        sql, names = self._prepare(first.statement, len(jobs), together.make)
        values = tuple([jobs[number].parameters[name] for name, number in names])
        if connection.execute(sql, values).rowcount != len(jobs):
            raise _NotAsOneError
        for job in jobs:
            job.row = together.row(job.parameters)

    def _write_one(self, connection: Any, job: _Job) -> None:
        sql, names = self._prepare(job.statement)
        values = tuple([job.parameters[name] for name, _ in names])
        # All rows are fetched, because a statement that is not at its end cannot be committed.
        rows: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
        job.row = rows[0] if rows else None

    def _prepare(
        self,
        statement: Any,
        number: int = 0,
        make: Callable[[int], sa.Executable] | None = None,
    ) -> _Compiled:
        """Return a statement, or so many of it as one, as the driver takes it."""
        compiled = self._statements.get((statement, number))
        if compiled is None:
            compiled = _compile(make(number) if make else statement, self._engine)
            self._statements[statement, number] = compiled
        return compiled

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._file.open(self._lock)
        return self._connection

    def close(self) -> None:
        """Close the connection, when nobody uses it. The next statement connects again."""
        self._checkpoints.close()
        with contextlib.suppress(InboxUnavailable), self.turn():
            self._disconnect()
            self._lock.close()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._synchronous = synchronous()
        if connection is not None:
            connection.close()


def _commit(connection: Any, acts: Sequence[Callable[[], None]]) -> bool:
    """Do all in one transaction. False when one of them could not be done, and none was."""
    if len(acts) > 1:
        connection.execute("BEGIN IMMEDIATE")  # when this fails, no single one would succeed
    try:
        for act in acts:
            act()
        if len(acts) > 1:
            connection.execute("COMMIT")
    except (driver.Error, _NotAsOneError) as error:
        connection.rollback()
        if _is_locked(error):
            raise
        return False
    return True


def _write_alone(jobs: list[_Job], acts: Sequence[Callable[[], None]]) -> None:
    """Do each in a transaction of its own, and keep the errors of those that cannot be done."""
    locked: driver.Error | None = None
    for job, act in zip(jobs, acts, strict=True):
        try:
            if locked is None:
                act()
        except driver.Error as error:
            job.error = error
            if _is_locked(error):  # the next one would wait for as long, and so hold up everybody
                locked = error
        else:
            job.error = locked


def _is_locked(error: BaseException) -> bool:
    """Whether somebody who does not take the lock writes: it was waited for long enough."""
    return isinstance(error, driver.OperationalError) and "locked" in str(error)


def _compile(statement: Any, engine: sa.Engine) -> _Compiled:
    """Return a statement's SQL, and the names of its parameters in their order.

    A name may end in ``__`` and a number: whose it is, where several are written as one.
    """
    compiled = statement.compile(engine)
    names = [name.partition("__") for name in compiled.positiontup]
    return compiled.string, [(name, int(number or 0)) for name, _, number in names]
