"""create_app puts the parts together, and connects to nothing."""

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


def test_nothing_is_connected_yet(settings: Settings, tmp_path: Path) -> None:
    """A server forks after this: no file of the inbox exists until the first delivery."""
    app.create_app(settings)
    assert not (tmp_path / "var").exists()


def test_settings_come_from_the_environment(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an argument, as ``flask`` and gunicorn call it, the environment counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_fake")
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_fake")
    monkeypatch.setenv("HANDLERS_PACKAGE", settings.handlers_package)

    made = app.create_app()

    assert app.services.services(made).settings.livemode is True


def test_broken_handlers_stop_the_start(settings: Settings, make_handlers: MakeHandlers) -> None:
    """What is wrong with a module is said before the first request."""
    package = make_handlers(v1_no_such_type="")
    with pytest.raises(StartError, match="no event type"):
        app.create_app(replace(settings, handlers_package=package))


@pytest.mark.parametrize("command", [["flask", "handlers", "list"], ["gunicorn"]])
def test_start_errors_are_the_message_alone(command: list[str], tmp_path: Path) -> None:
    """Whatever starts the service, it ends with status 1 and the message, without a traceback."""
    root = Path(app.__file__).parent.parent
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "PORT": "0"}
    arguments = ["--config", str(root / "gunicorn.conf.py")] if command == ["gunicorn"] else []
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        cwd=tmp_path,  # where no .env lies
        env=environ | ({} if arguments else {"FLASK_APP": "app"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
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
        ("GET", "/webhook/", 404, "not found"),
        ("GET", "/webhook", 405, "method not allowed"),
    ],
)
def test_what_flask_refuses_is_json_too(
    receiver: Receiver, method: str, path: str, status: int, error: str
) -> None:
    """All answers have one form, those for a wrong address as well."""
    answer = receiver.client.open(path, method=method)
    assert (answer.status_code, answer.json) == (status, {"error": error})


def test_a_fault_of_ours_is_500_without_details(
    make_receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error that nobody foresaw is logged with its traceback, and shown to nobody else."""
    receiver = make_receiver()
    receiver.app.testing = False

    def broken(*_arguments: object) -> str:
        raise RuntimeError("marker")

    # No input is known that gets here, so the fault has to be put in by hand.
    monkeypatch.setattr("app.processing.receiver.Receiver.receive", broken)
    answer = receiver.post(b"{}", None)

    assert (answer.status_code, answer.json) == (500, {"error": "internal server error"})
    printed = capsys.readouterr().err
    assert "RuntimeError: marker" in printed
    assert '"reason": "internal_error"' in printed
