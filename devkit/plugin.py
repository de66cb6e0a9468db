"""Fixtures for tests of handlers: ``pytest_plugins = ["devkit.plugin"]`` in a conftest.py.

``deliver`` sends an event through the whole service. ``run_handler`` calls one callback without
the service. ``stripe_api`` is the stand-in for Stripe's API that both use. ``logged`` returns a log
line.

Only pytest imports this module: it needs pytest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app import log
from app.factory import create_app
from app.inbox import Inbox
from app.processing import registry
from app.settings import Settings, environment
from app.stripe_api import client
from devkit import failures
from devkit.deliver import (
    API_KEY,
    SECRET,
    Deliver,
    Logged,
    MakeDeliver,
    Receiver,
)
from devkit.door import Door
from devkit.run_handler import RunHandler
from devkit.stripe_api import StripeApi


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Redirect the log to the captured stream of the test: its fixtures had another one."""
    log.output.take()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make the log in the report of a failed test readable, with the exception first."""
    report = yield
    if report.failed:
        package = getattr(item, "funcargs", {}).get("handlers_package", "handlers")
        full = bool(item.config.getoption("fulltrace"))
        report.sections = [
            (title, failures.readable(text, package, full=full) if "stderr" in title else text)
            for title, text in report.sections
        ]
    return report


@pytest.fixture
def stripe_api() -> Iterator[StripeApi]:
    """The stand-in for Stripe's API, serving."""
    with StripeApi().serve() as api:
        yield api


@pytest.fixture(scope="session")
def handlers_package() -> str:
    """The package of the tested handlers: HANDLERS_PACKAGE, as the service reads it."""
    fakes = environment(
        STRIPE_API_KEY=API_KEY, STRIPE_WEBHOOK_SECRET=SECRET, STRIPE_MODE="", STRIPE_CONTEXT=""
    )
    return Settings.load(fakes).handlers_package


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file. Neither the file nor its folder exists yet."""
    return f"sqlite:///{tmp_path}/var/inbox.sqlite3"


@pytest.fixture
def settings(sqlite_url: str, handlers_package: str) -> Settings:
    """Complete settings: one secret, a test key, SQLite. Only the package is this machine's."""
    return Settings(
        stripe_api_key=API_KEY,
        stripe_webhook_secrets=(SECRET,),
        database_url=sqlite_url,
        handlers_package=handlers_package,
    )


@pytest.fixture
def api_timeout() -> tuple[float, float]:
    """The time-outs of Stripe's API in seconds, to connect and to read, as in the service.

    Shorten them for a test of a time-out: ``@pytest.mark.parametrize("api_timeout", [(1, 1)])``.
    """
    return client.TIMEOUT


@pytest.fixture(scope="session")
def _inbox_template(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A SQLite file with the tables of an empty inbox. A fixture of that name may replace it."""
    path = tmp_path_factory.mktemp("inbox") / "inbox.sqlite3"
    with closing(Inbox(f"sqlite:///{path}", lease_seconds=30)) as inbox:
        inbox.migrate()
    return path


@pytest.fixture
def make_receiver(
    settings: Settings, sqlite_url: str, _inbox_template: Path | None
) -> Iterator[Callable[..., Receiver]]:
    """A function that creates an application with changed settings.

    Before the first one, the inbox of ``sqlite_url`` becomes a copy of the template: to make its
    tables takes longer than most tests.
    """
    made: list[Receiver] = []

    def make(**changes: Any) -> Receiver:
        changed = replace(settings, **changes)
        if _inbox_template is not None and changed.database_url == sqlite_url:
            _copy(_inbox_template, sa.make_url(sqlite_url))
        app = create_app(changed)
        made.append(Receiver(app, app.test_client()))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


def _copy(template: Path, url: sa.URL) -> None:
    """Copy the file into a new folder, as in a new test. A lost file stays lost."""
    if url.get_backend_name() != "sqlite" or not url.database or url.query:
        return
    file = Path(url.database)
    with suppress(OSError):  # mostly the folder exists; the application says what is wrong
        file.parent.mkdir(mode=0o700, parents=True)
        shutil.copy(template, file)


@pytest.fixture
def make_deliver(
    make_receiver: Callable[..., Receiver],
    stripe_api: StripeApi,
    api_timeout: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> MakeDeliver:
    """A function that returns ``deliver`` for an application with changed settings."""

    def make(**changes: Any) -> Deliver:
        door = Door()
        with monkeypatch.context() as patch:
            # No mock: the real modules, each behind a door that a test can close.
            patch.setattr(registry, "load", door.load)
            # No mock: a shorter time-out for faster tests.
            patch.setattr(client, "TIMEOUT", api_timeout)
            receiver = make_receiver(stripe_api_base=stripe_api.url, **changes)
        return Deliver(receiver, stripe_api, door)

    return make


@pytest.fixture
def deliver(make_deliver: MakeDeliver, handlers_package: str) -> Deliver:
    """Delivers signed events to the real application with the handlers of the team."""
    return make_deliver(handlers_package=handlers_package)


@pytest.fixture
def run_handler(
    request: pytest.FixtureRequest,
    settings: Settings,
    stripe_api: StripeApi,
    api_timeout: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> RunHandler:
    """Calls one callback with a typed notification, without the service around it."""
    # No mock: a shorter time-out for faster tests.
    monkeypatch.setattr(client, "TIMEOUT", api_timeout)
    full = bool(request.config.getoption("fulltrace"))
    return RunHandler(replace(settings, stripe_api_base=stripe_api.url), stripe_api, full=full)


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Logged:
    """Returns the fields of the one log line with a name in this test."""
    lines: list[dict[str, Any]] = []

    def find(name: str) -> dict[str, Any]:
        lines.extend(map(json.loads, capsys.readouterr().err.splitlines()))
        (line,) = [line for line in lines if line["event"] == name]
        return line

    return find
