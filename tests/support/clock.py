"""A wall clock that a test moves, as NTP, a person, or a suspended machine does.

The monotonic clock does not move, as in an operating system.

"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.inbox.engine import sqlite
from tests.support import raw_sql
from tests.support.services import Service

SOURCE = Path(__file__).with_suffix(".c")

HAS_LIBRARY = sys.platform.startswith("linux") and shutil.which("cc") is not None
"""Whether a library can move the wall clock of a whole process here."""

#: Without a compiler: moves the clock of Python and of SQLite's statements.
SITECUSTOMIZE = """
    import mmap, os, struct, time

    with open(os.environ["CLOCK_FILE"], "rb") as file:
        moved = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    right = time.time
    time.time = lambda: right() + struct.unpack("d", moved[:])[0]

    try:
        from pysqlite3 import dbapi2 as driver
    except ImportError:
        import sqlite3 as driver
    connect = driver.connect

    def connect_moved(*args, **names):
        connection = connect(*args, **names)
        connection.create_function("julianday", 1, lambda _now: time.time() / 86400 + 2440587.5)
        return connection

    driver.connect = connect_moved
"""

#: The database's search path finds these functions before those of PostgreSQL.
FUNCTIONS = ("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp")
FUNCTION = """
    CREATE FUNCTION public.{name}() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.{name}() + (SELECT seconds FROM public.clock) * interval ''1 second'''
"""


class Clock:
    """One clock for all processes and PostgreSQL databases that use it."""

    def __init__(self, folder: Path) -> None:
        """Start with the right time. ``folder`` holds the files of the clock."""
        self._folder = folder
        file = folder / "clock"
        file.write_bytes(struct.pack("d", 0.0))
        with file.open("r+b") as opened:
            self._moved = mmap.mmap(opened.fileno(), 8)
        self._databases: list[str] = []
        self.environment: dict[str, Any] = {"CLOCK_FILE": str(file)}
        """The environment of a process that uses this clock."""

    @property
    def offset(self) -> float:
        """The seconds by which the clock is ahead of the right time."""
        return float(struct.unpack("d", self._moved[:])[0])

    def now(self) -> float:
        """Return the time of the clock, in seconds since 1970."""
        return time.time() + self.offset

    def step(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``, or back."""
        offset = self.offset + seconds
        self._moved[:] = struct.pack("d", offset)
        for url in self._databases:
            raw_sql.execute(url, f"UPDATE clock SET seconds = {offset}")  # noqa: S608 - a number

    def of_processes(self, package: Path, *, library: bool = HAS_LIBRARY) -> None:
        """Let the processes with this handler ``package`` use this clock.

        With the ``library``, every system call for the time uses it. Without it, only Python and
        the statements of SQLite do.

        """
        if library:
            built = self._folder / "clock.so"
            command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(built), str(SOURCE), "-lm"]
            subprocess.run(command, check=True)
            self.environment["LD_PRELOAD"] = str(built)
        else:
            (package.parent / "sitecustomize.py").write_text(textwrap.dedent(SITECUSTOMIZE))

    def of_service(self, service: Service) -> None:
        """Sign deliveries to the ``service`` by this clock."""
        service.clock = self.now

    def of_postgresql(self, url: str) -> None:
        """Let a new database use this clock instead of its server's."""
        raw_sql.execute(url, f"CREATE TABLE clock AS SELECT {self.offset}::float8 AS seconds")
        for name in FUNCTIONS:
            raw_sql.execute(url, FUNCTION.format(name=name))
        database = raw_sql.make_engine(url).url.database
        raw_sql.execute(url, f"ALTER DATABASE {database} SET search_path = public, pg_catalog")
        self._databases.append(url)

    def of_sqlite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let all SQLite statements of this process use this clock."""
        connect: Callable[..., Any] = sqlite.driver.connect

        def connect_moved(*args: Any, **names: Any) -> Any:
            connection = connect(*args, **names)
            connection.create_function("julianday", 1, lambda _: self.now() / 86400 + 2440587.5)
            return connection

        # The statements are the inbox's own. A process cannot change its wall clock.
        monkeypatch.setattr(sqlite.driver, "connect", connect_moved)
