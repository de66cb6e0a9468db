"""Commands beside ``make dev`` use its stand-in for Stripe's API."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo, cli

from app import create_app
from app.cli import dev_server
from app.cli.dev_server import DevServer
from app.settings import Settings
from devkit import dev_state
from devkit.dev_state import announced
from devkit.stripe_api import StripeApi

OTHER = "http://127.0.0.1:9"


@pytest.fixture
def server(stripe_api: StripeApi) -> DevServer:
    """A ``make dev`` with a stand-in."""
    return DevServer(stripe_api.url, "http://127.0.0.1:4242/webhook")


class TestStateFile:
    """The state file names the addresses while its process runs, and not after."""

    def test_running_server_is_found(self, server: DevServer) -> None:
        """Commands find the addresses until the end of the block."""
        assert dev_server.running() is None
        with announced(server) as problem:
            assert problem is None
            assert dev_server.running() == server
        assert dev_server.running() is None

    def test_stale_file_is_replaced(self, server: DevServer, state_file: Path) -> None:
        """A file that was left by a killed process is ignored, and replaced by the next one."""
        state_file.parent.mkdir()
        state_file.write_text('{"api": "http://127.0.0.1:1", "webhook": "' + "x" * 99 + '"}')
        assert dev_server.running() is None
        with announced(server):
            assert dev_server.running() == server

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"other": 1}', "\udcff"])
    def test_unreadable_file_is_ignored(self, content: str, state_file: Path) -> None:
        """A file that is not complete, or of another version, is ignored."""
        state_file.parent.mkdir()
        state_file.write_bytes(content.encode("utf-8", "surrogateescape"))
        with state_file.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert dev_server.running() is None

    def test_second_server(self, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Commands use the first of two in one folder. The second one gets a reason."""
        monkeypatch.setattr(dev_state, "PAUSE_SECONDS", 0)
        with announced(server), announced(DevServer(OTHER, OTHER)) as problem:
            assert problem == "another `make dev` runs in this folder"
            assert dev_server.running() == server

    def test_file_that_cannot_be_written(self, server: DevServer, state_file: Path) -> None:
        """Without a state file, the reason is returned."""
        state_file.parent.write_text("no folder")
        with announced(server) as problem:
            assert problem == f"{state_file} cannot be written: File exists"
            assert dev_server.running() is None


class TestSettings:
    """Which API a command uses."""

    def test_test_key_gets_the_stand_in(self, server: DevServer, settings: Settings) -> None:
        """A test key without STRIPE_API_BASE uses the stand-in, while it runs."""
        assert dev_server.with_its_api(settings) == settings
        with announced(server):
            assert dev_server.with_its_api(settings).stripe_api_base == server.api

    def test_live_key_never_reaches_a_stand_in(self, server: DevServer, settings: Settings) -> None:
        """With a live key, commands use Stripe's own API."""
        live = replace(settings, stripe_api_key="sk_live_fake_for_tests")
        with announced(server):
            assert dev_server.with_its_api(live).stripe_api_base is None

    def test_setting_takes_precedence(self, server: DevServer, settings: Settings) -> None:
        """STRIPE_API_BASE is used if it is set."""
        named = replace(settings, stripe_api_base=OTHER)
        with announced(server):
            assert dev_server.with_its_api(named) == named

    @pytest.mark.parametrize(
        ("base", "words"),
        [
            ("its own", "Stripe's API is the one of `make dev`, "),
            (OTHER, f"Stripe's API is {OTHER}, and not the one of `make dev`."),
            (None, "Stripe's API is Stripe's own, and not the one of `make dev`."),
        ],
    )
    def test_command_names_its_api(
        self,
        base: str | None,
        words: str,
        server: DevServer,
        settings: Settings,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Beside ``make dev`` a command prints which API it uses, on standard error."""
        found = server.api if base == "its own" else base
        with announced(server):
            dev_server.say_api(replace(settings, stripe_api_base=found))
        assert capsys.readouterr().err.startswith(words)

    def test_nothing_is_said_about_stripe_itself(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without ``make dev``, or if that uses Stripe itself, commands print nothing."""
        dev_server.say_api(settings)
        with announced(DevServer(None, OTHER)):
            dev_server.say_api(settings)
            assert dev_server.with_its_api(settings) == settings
        assert capsys.readouterr().err == ""


class TestCommands:
    """Commands find the stand-in without a setting."""

    @pytest.fixture
    def call(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        settings: Settings,
        server: DevServer,
    ) -> Result:
        """The result of ``flask destination list`` beside ``make dev``, as in a shell."""
        monkeypatch.chdir(tmp_path)
        for name in ("FLASK_RUN_FROM_CLI", "FLASK_DEBUG", "FLASK_APP", "STRIPE_API_BASE"):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("STRIPE_API_KEY", settings.stripe_api_key)
        monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", settings.stripe_webhook_secrets[0])
        monkeypatch.setenv("DATABASE_URL", settings.database_url)
        monkeypatch.setenv("HANDLERS_PACKAGE", settings.handlers_package)
        info = ScriptInfo(create_app=create_app)
        with announced(server):
            return CliRunner().invoke(
                cli, ["destination", "list"], obj=info, prog_name="flask", catch_exceptions=False
            )

    def test_stand_in_is_asked(self, call: Result, stripe_api: StripeApi) -> None:
        """The request reaches the stand-in, and standard error says so."""
        assert call.exit_code == 0
        assert [each.path for each in stripe_api.asked] == ["/v2/core/event_destinations"]
        assert call.stderr == f"Stripe's API is the one of `make dev`, {stripe_api.url}.\n"
