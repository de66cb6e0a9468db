"""If the service cannot start, ``flask doctor`` and commands that need no handler work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo, cli

from app import create_app
from app.errors import StartError
from app.inbox import Inbox, NewEvent
from app.states import State
from tests.conftest import MakeHandlers


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str) -> None:
    """There is no .env, and variables that flask sets are reset after the test."""
    monkeypatch.chdir(tmp_path)
    for name in ("FLASK_RUN_FROM_CLI", "FLASK_DEBUG", "FLASK_APP"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_fake_for_tests")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_fake_for_tests")
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:9")


def flask(*arguments: str) -> Result:
    """Call ``flask`` as in a shell: it creates the application itself."""
    info = ScriptInfo(create_app=create_app)
    return CliRunner().invoke(cli, arguments, obj=info, prog_name="flask")


def test_wrong_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong setting is a FAIL line with its remedy. Other checks are skipped."""
    monkeypatch.setenv("STRIPE_API_KEY", "pk_test_fake")
    monkeypatch.setenv("PORT", "http")
    result = flask("doctor")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0].startswith("FAIL  settings      STRIPE_API_KEY does not begin with sk_live_")
    assert lines[1].startswith("FAIL  settings      PORT is 'http'. Use a whole number")
    assert lines[2].startswith("WARN  others        not checked")
    assert lines[-1] == "0 OK, 1 WARN, 2 FAIL"
    assert "pk_test_fake" not in result.output


def test_parts_of_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden character, quotes and a password with a raw @ are named, without the value."""
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_Zq\u200bZq")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", '"whsec_Zq"')
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:Z@Zq@127.0.0.1/inbox")
    monkeypatch.setenv("WEB_CONCURENCY", "4")
    result = flask("doctor")
    assert [" ".join(line.split()[:4]) for line in result.stdout.splitlines()[:4]] == [
        "FAIL settings STRIPE_API_KEY has",
        "FAIL settings STRIPE_WEBHOOK_SECRET has",
        "FAIL settings DATABASE_URL has",
        "FAIL settings WEB_CONCURENCY is",
    ]
    assert "Zq" not in result.output


def test_wrong_handlers_are_shown(
    monkeypatch: pytest.MonkeyPatch, make_handlers: MakeHandlers
) -> None:
    """Each wrong module is a FAIL line. Other checks still run."""
    package = make_handlers(v1_customer_createdd="", v1_invoice_paid="def handle(): pass")
    monkeypatch.setenv("HANDLERS_PACKAGE", package)
    result = flask("doctor", "--no-ping")
    fails = [line for line in result.stdout.splitlines() if line.startswith("FAIL  handlers")]
    assert result.exit_code == 1
    assert [line.split()[2] for line in fails] == [
        f"{package}/v1_customer_createdd.py:",
        f"{package}/v1_invoice_paid.py:",
    ]
    assert re.search(r"^(OK|WARN)  +inbox", result.stdout, flags=re.MULTILINE)
    assert "FAIL  key" in result.stdout  # the port is closed


@pytest.mark.parametrize(
    "command", [["handlers", "list"], ["nonsense"], ["--help"], ["routes"], ["run"]]
)
def test_every_other_command_says_what_is_wrong(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each other command fails with the list of problems, like the service."""
    monkeypatch.setenv("PORT", "http")
    result = flask(*command)
    assert isinstance(result.exception, StartError)
    assert "PORT is 'http'" in str(result.exception)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, make_handlers: MakeHandlers, sqlite_url: str) -> str:
    """A package with a broken module, and an inbox with a pending event ``evt_1``."""
    package = make_handlers(v1_customer_created="import no_such_module\n")
    monkeypatch.setenv("HANDLERS_PACKAGE", package)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    event = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
    inbox.deliveries.enqueue(event)
    inbox.close()
    return package


@pytest.mark.parametrize(
    ("command", "mode", "words"),
    [
        ("events list", "inline", "evt_1"),
        ("events list --json", "inline", '"id": "evt_1"'),
        ("events show evt_1", "inline", "state        pending"),
        ("events retry evt_1 --dry-run", "inline", "evt_1"),
        ("events retry evt_1 --yes", "queue", "due now"),
        ("events pause", "queue", "paused"),
        ("events pause --type v1.customer.created", "queue", "paused since"),
        ("events resume", "queue", "not paused"),
        ("events send v1.customer.created --url http://127.0.0.1:1/", "inline", "No service"),
        ("destination list", "inline", "Stripe"),
        ("handlers types customer.created", "inline", "v1.customer.created"),
        ("--help", "inline", "destination"),
    ],
)
@pytest.mark.usefixtures("broken")
def test_broken_module_blocks_no_command_that_needs_none(
    command: str, mode: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that read, and those that leave the callbacks to workers, need no handler."""
    monkeypatch.setenv("PROCESSING", mode)
    result = flask(*command.split())
    assert not isinstance(result.exception, StartError)
    assert words in result.output
    assert "cannot be imported" not in result.output


@pytest.mark.parametrize(
    ("command", "mode"),
    [
        ("events retry evt_1 --yes", "inline"),
        ("events reconcile --yes", "inline"),
        ("events reconcile --yes", "queue"),
        ("worker", "queue"),
        ("handlers list", "inline"),
        ("handlers new v1.invoice.paid", "inline"),
        ("destination create --url https://example.com/webhook", "inline"),
        ("destination check we_1", "inline"),
        ("destination sync we_1", "inline"),
        ("run", "inline"),
    ],
)
def test_broken_module_stops_commands_that_need_handlers(
    command: str, mode: str, monkeypatch: pytest.MonkeyPatch, broken: str, sqlite_url: str
) -> None:
    """They list the problems, and change nothing."""
    monkeypatch.setenv("PROCESSING", mode)
    result = flask(*command.split())
    assert isinstance(result.exception, StartError)
    (problem,) = result.exception.problems
    assert problem.startswith(f"{broken}/v1_customer_created.py: line 1: cannot be imported")
    event = Inbox(sqlite_url, lease_seconds=30).administration.find("evt_1")
    assert event is not None
    assert (event.state, event.attempt) == (State.PENDING, 0)


def test_a_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``flask``, as under a server, wrong settings are an error."""
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(StartError):
        create_app()


def test_a_service_that_can_start_has_all_commands() -> None:
    """With valid settings all commands are listed."""
    result = flask("--help")
    assert result.exit_code == 0
    for name in ("destination", "doctor", "events", "handlers"):
        assert f"\n  {name} " in result.stdout
