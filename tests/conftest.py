"""Fixtures: real databases, real handler packages, real signatures, the real application."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from jinja2 import FileSystemBytecodeCache

from app.inbox import Inbox
from app.log.stream import StandardError
from app.runtime.watchdog import Watchdog
from app.settings import Settings
from devkit.deliver import API_KEY, SECRET, Receiver
from tests.support import new_tables
from tests.support.memory import memory_folder
from tests.support.services import COVERAGE, Postgresql, embedded_postgresql

__all__ = ["API_KEY", "SECRET", "Receiver"]

#: The fixtures that teams use for their handlers. Fixtures of the same names here extend them.
pytest_plugins = ["devkit.plugin", "tests.support.inboxes"]

FALLBACK = """
    calls = []

    def handle(notif, client, details):
        calls.append((notif, client, details))
"""


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a folder of its own, in memory where that is possible.

    Tests start further runs of pytest. In a common folder, the runs remove each other's files.

    """
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist has a part of the folder
        folder = tempfile.mkdtemp(prefix="pytest-", dir=memory_folder())
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the garbage collector away from the collected tests, which all live until the end.

    Each worker of pytest-xdist collects all tests. The collector would visit their objects again
    and again, and in each full collection of the tests.

    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        session.config.add_cleanup(gc.unfreeze)  # pytest then looks for what was not closed
        gc.set_threshold(10_000)  # tests make many objects that live until their end
        gc.enable()


#: Files that start no process, but mostly wait. One test of the first takes 18 s.
WAITING = ("tests/processing/test_leases.py", "tests/processing/test_worker.py")


#: The fixtures that start a PostgreSQL server, or use one.
POSTGRESQL = {"postgresql", "own_postgresql"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test the mark ``postgresql`` by its fixtures, or by a parameter of that value."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if "postgresql" in parameters or POSTGRESQL & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.postgresql)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker of pytest-xdist begin with some of the files that start processes or wait.

    The workers get equal parts of the list. A worker that has finished takes tests from the end of
    another one's part. With short tests there, all end at the same time.

    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[Path, list[pytest.Item]] = {}
    quick: list[pytest.Item] = []
    for item in items:
        is_quick = "processes" not in item.path.parts and not item.nodeid.startswith(WAITING)
        (quick if is_quick else files.setdefault(item.path, [])).append(item)
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for file in sorted(files.values(), key=len, reverse=True):
        min(parts, key=len).extend(file)
    size = -(-len(items) // workers)
    for part in parts:
        free = max(0, size - len(part))
        part.extend(quick[:free])
        del quick[:free]
    items[:] = [item for part in parts for item in part] + quick


#: No log line may hold these: the secrets of the tests, and the start of every body.
NEVER_LOGGED = (SECRET, API_KEY, '"object":"v2.core.event"', r"\"object\":\"v2.core.event\"")


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In every test, no log line may hold a secret or a body."""
    written: list[str] = []
    write = StandardError.write

    def listen(self: StandardError, text: str) -> None:
        written.append(text)
        write(self, text)

    # Beside the log, not instead of it: capsys can be read only once, and belongs to the test.
    monkeypatch.setattr(StandardError, "write", listen)
    yield
    text = "".join(written)
    assert [word for word in NEVER_LOGGED if word in text] == []


@pytest.fixture(scope="session", autouse=True)
def process_coverage() -> Iterator[str | None]:
    """Start processes without coverage, except in tests with the mark ``measured``.

    Returns how coverage is configured, or None without coverage.
    """
    with pytest.MonkeyPatch.context() as patch:
        found = os.environ.get(COVERAGE)
        patch.delenv(COVERAGE, raising=False)
        yield found


@pytest.fixture(autouse=True)
def _measured(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, process_coverage: str | None
) -> None:
    """Measure the processes that a test with the mark ``measured`` starts."""
    if request.node.get_closest_marker("measured") is not None and process_coverage is not None:
        monkeypatch.setenv(COVERAGE, process_coverage)


#: The folders whose tests may start Python processes.
STARTING = ("browser", "deploy", "pooler", "processes")


@pytest.fixture(autouse=True)
def _no_python_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that forks or starts this Python with ``subprocess``, without the mark.

    Other ways to start it are not noticed.
    """
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if folder in STARTING or request.node.get_closest_marker("processes"):
        return
    start = subprocess.Popen.__init__

    def refuse(self: Any, args: Any, *more: Any, **options: Any) -> None:
        words = args if isinstance(args, list | tuple) else [args]
        if sys.executable in map(str, words):
            pytest.fail("mark the test with `processes`")
        start(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("mark the test with `processes`"))


@pytest.fixture(autouse=True)
def _no_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one such timer, and pytest uses it. Real servers test the watchdog."""
    monkeypatch.setattr(Watchdog, "start", lambda _self: None)


@pytest.fixture(scope="session", autouse=True)
def _templates_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The applications of all tests share the compiled templates, which Jinja compares by source.

    To compile those of one page takes longer than its test.
    """
    with pytest.MonkeyPatch.context() as patch:
        shared = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))
        patch.setattr(Flask, "jinja_options", {"bytecode_cache": shared})
        yield


@pytest.fixture(autouse=True)
def _activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is activated in the shell, so messages show commands as ``flask ...``."""
    programs = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([programs, os.environ["PATH"]]))


@pytest.fixture(autouse=True)
def _quick_tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the tables of a new SQLite file, but not in tests of migrations.

    Those have the mark ``no_tables``.
    """
    # No mock: it copies the tables that Alembic made in the first file of this process.
    if request.node.get_closest_marker("no_tables") is None:
        monkeypatch.setattr(alembic.command, "upgrade", new_tables.upgrade)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL server: TEST_DATABASE_URL, or one from the wheel."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with embedded_postgresql() as server:
        yield server.get_uri()


@pytest.fixture(scope="session")
def postgresql_connection(postgresql: str) -> Iterator[psycopg.Connection]:
    """A connection to the server, with autocommit: it makes and drops the databases of tests.

    A new one for each test costs a third of the CPU time that its database costs.
    """
    with psycopg.connect(postgresql, autocommit=True) as connection:
        yield connection


@pytest.fixture
def _is_on_postgresql(request: pytest.FixtureRequest) -> None:
    """Fail a test that asks for a database or a server while it runs, without the mark."""
    if request.node.get_closest_marker("postgresql") is None:
        pytest.fail("mark the test with `postgresql`")


@pytest.fixture
def own_postgresql(_is_on_postgresql: None) -> Iterator[Postgresql]:
    """A PostgreSQL server that the test may stop."""
    with embedded_postgresql() as server:
        yield Postgresql(server)


@pytest.fixture
def make_postgresql_url(
    _is_on_postgresql: None, postgresql: str, postgresql_connection: psycopg.Connection
) -> Iterator[Callable[..., str]]:
    """A function that makes a new, empty PostgreSQL database, with SQL's ``options`` if given."""
    names: list[str] = []
    connection = postgresql_connection
    # It takes half as long as to write each block of the new database into the log.
    copy = "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""

    def make(options: str = "") -> str:
        name = f"test_{uuid.uuid4().hex}"
        connection.execute(f"CREATE DATABASE {name} {options} {copy}")
        names.append(name)
        return _url_of(postgresql, name)

    yield make
    for name in names:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _url_of(server: str, database: str) -> str:
    url = sa.make_url(server).set(drivername="postgresql+psycopg", database=database)
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgresql_template(
    postgresql: str, postgresql_connection: psycopg.Connection
) -> Iterator[str]:
    """The name of a PostgreSQL database with the tables of an empty inbox."""
    name = f"template_{uuid.uuid4().hex}"
    postgresql_connection.execute(f"CREATE DATABASE {name}")
    with contextlib.closing(Inbox(_url_of(postgresql, name), lease_seconds=30)) as inbox:
        inbox.migrate()
    yield name
    postgresql_connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgresql_url(request: pytest.FixtureRequest, make_postgresql_url: Callable[..., str]) -> str:
    """The URL of a new PostgreSQL database, with the tables of an empty inbox.

    With the mark ``no_tables`` it is empty.
    """
    if request.node.get_closest_marker("no_tables") is not None:
        return make_postgresql_url()
    return make_postgresql_url(f"TEMPLATE {request.getfixturevalue('postgresql_template')}")


@pytest.fixture
def make_limited_url(
    postgresql_connection: psycopg.Connection, make_postgresql_url: Callable[..., str]
) -> Iterator[Callable[[int], str]]:
    """A function that makes a new database whose owner may have so many connections."""
    role = f"test_{uuid.uuid4().hex}"
    databases: list[str] = []
    connection = postgresql_connection

    def make(limit: int) -> str:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}' CONNECTION LIMIT {limit}")
        url = sa.make_url(make_postgresql_url(f"OWNER {role}"))
        databases.append(str(url.database))
        return url.set(username=role, password=role).render_as_string(hide_password=False)

    yield make
    for name in databases:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.execute(f"DROP ROLE {role}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of both databases in turn: the inbox promises the same on both."""
    return str(request.getfixturevalue(f"{request.param}_url"))


MakeHandlers = Callable[..., str]


@pytest.fixture
def make_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeHandlers]:
    """A function that writes a handler package with these modules, and returns its name."""

    def make(**modules: str) -> str:
        name = f"handlers_{uuid.uuid4().hex}"
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        for module, source in {"__init__": "", "fallback": FALLBACK, **modules}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder.parent))
        return name

    yield make
    # Python keeps a finder for each folder, and a later test would visit those of all before it.
    for path in [each for each in sys.path_importer_cache if each.startswith(str(tmp_path))]:
        del sys.path_importer_cache[path]


@pytest.fixture
def settings(settings: Settings, make_handlers: MakeHandlers) -> Settings:
    """Complete settings: one secret, a test key, SQLite, a package with only a fallback."""
    return replace(settings, handlers_package=make_handlers())


@pytest.fixture
def _inbox_template(request: pytest.FixtureRequest, _inbox_template: Path) -> Path | None:
    """A SQLite file with the tables of an empty inbox. None with the mark ``no_tables``."""
    return None if request.node.get_closest_marker("no_tables") else _inbox_template


@pytest.fixture
def make_receiver(
    make_receiver: Callable[..., Receiver], make_handlers: MakeHandlers
) -> Callable[..., Receiver]:
    """A function that makes an application with these ``modules`` and changed settings."""

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Receiver:
        if modules is not None:
            changes["handlers_package"] = make_handlers(**modules)
        return make_receiver(**changes)

    return make


@pytest.fixture
def receiver(make_receiver: Callable[..., Receiver]) -> Receiver:
    """An application with only a fallback."""
    return make_receiver()


@pytest.fixture
def app(receiver: Receiver) -> Flask:
    """The application with only a fallback."""
    return receiver.app


@pytest.fixture
def client(receiver: Receiver) -> FlaskClient:
    """A client of the application with only a fallback."""
    return receiver.client


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    """The runner of ``flask`` commands."""
    return app.test_cli_runner()
