"""create_app constructs the services and connects to nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import app
from app.errors import StartError
from app.settings import Settings
from tests.conftest import MakeHandlers, Receiver


def test_create_app_connects_to_nothing(settings: Settings, tmp_path: Path) -> None:
    """A server forks after this. No file of the inbox exists until the first delivery."""
    app.create_app(settings)
    assert not (tmp_path / "var").exists()


def test_settings_come_from_the_environment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an argument, as ``flask`` and gunicorn call it, the environment has the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_fake")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_fake")
    monkeypatch.setenv("HANDLERS_PACKAGE", settings.handlers_package)

    made = app.create_app()

    assert app.services.services(made).settings.livemode is True


def test_broken_handlers_stop_the_start(settings: Settings, make_handlers: MakeHandlers) -> None:
    """Problems of a module are reported before the first request."""
    package = make_handlers(v1_no_such_type="")
    with pytest.raises(StartError, match="no event type"):
        app.create_app(replace(settings, handlers_package=package))


LEAK = """
    SECRETS = "sk_test_marker / whsec_marker / pass-marker / sk_live_other"
    {source}
"""


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError(f'cannot use {SECRETS} \\x1b[31m\\nforged \\u202e line')",
        "raise SystemExit(SECRETS)",
        "EVENT_TYPE = SECRETS",
        "def handle(notif, client, *, key=SECRETS, more): pass",
    ],
)
def test_problem_of_a_module_holds_no_secret_and_is_one_line(
    source: str, settings: Settings, make_handlers: MakeHandlers
) -> None:
    """Text of the module is redacted and printable: the problem reaches terminals and logs."""
    wrong = replace(
        settings,
        stripe_api_key="sk_test_marker",
        stripe_webhook_secrets=("whsec_marker",),
        database_url="postgresql+psycopg://user:pass-marker@host/base",
        handlers_package=make_handlers(v1_customer_created=LEAK.format(source=source)),
    )
    with pytest.raises(StartError) as raised:
        app.create_app(wrong)

    (problem,) = raised.value.problems
    assert "marker" not in str(raised.value)
    assert "sk_live_other" not in problem
    assert problem.count("[redacted]") == 4
    assert problem.isprintable()
    assert str(raised.value).splitlines()[1:] == [f"  - {problem}"]


def test_problem_of_a_package_holds_no_secret(
    settings: Settings, make_handlers: MakeHandlers
) -> None:
    """The package itself can fail to import, and its exception is redacted as well."""
    package = make_handlers(__init__="raise RuntimeError('cannot use sk_test_marker \\x1b[31m')")
    wrong = replace(settings, stripe_api_key="sk_test_marker", handlers_package=package)
    with pytest.raises(StartError, match=r"cannot use \[redacted\] \ufffd\[31m"):
        app.create_app(wrong)


@pytest.mark.processes
@pytest.mark.parametrize("command", [["flask", "handlers", "list"], ["gunicorn"]])
def test_start_error_is_only_the_message(command: list[str], tmp_path: Path) -> None:
    """Every start ends with status 1 and only the message, without a traceback."""
    root = Path(app.__file__).parent.parent
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "PORT": "0"}
    arguments = ["--config", str(root / "gunicorn.conf.py")] if command == ["gunicorn"] else []
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        cwd=tmp_path,  # a folder without a .env file
        env=environ | ({} if arguments else {"FLASK_APP": "app"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        ["The", "settings"],
        ["-", "STRIPE_API_KEY"],
        ["-", "STRIPE_WEBHOOK_SECRET"],
        ["-", "PORT"],
    ]


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/", 404, "not found"),
        ("GET", "/webhooks", 404, "not found"),
        ("GET", "/webhook/", 405, "method not allowed"),
        ("GET", "/webhook", 405, "method not allowed"),
    ],
)
def test_errors_of_flask_are_json(
    receiver: Receiver, method: str, path: str, status: int, error: str
) -> None:
    """All answers are JSON, those for a wrong path as well."""
    answer = receiver.client.open(path, method=method)
    assert (answer.status_code, answer.json) == (status, {"error": error})


def test_unexpected_error_is_500_without_details(
    make_receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unexpected error is logged with its traceback, and the answer has no details."""
    receiver = make_receiver()
    receiver.app.testing = False

    def broken(*_arguments: object) -> str:
        raise RuntimeError("marker")

    # No input is known that causes an unexpected error, so the test raises one.
    monkeypatch.setattr("app.processing.receiver.Receiver.receive", broken)
    answer = receiver.post(b"{}", None)

    assert (answer.status_code, answer.json) == (500, {"error": "internal server error"})
    printed = capsys.readouterr().err
    assert "RuntimeError: marker" in printed
    assert '"reason": "internal_error"' in printed
