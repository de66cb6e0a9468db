"""Commands beside ``make dev`` use its inbox and its stand-in for Stripe's API."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask.cli import ScriptInfo, cli

from app import create_app
from app.cli import dev_server
from app.cli.dev_server import DevServer
from app.environment import Origin
from app.settings import Settings
from devkit import dev_state
from devkit.dev_state import announced
from devkit.stripe_api import StripeApi

OTHER = "http://127.0.0.1:9"


@pytest.fixture
def server(stripe_api: StripeApi) -> DevServer:
    """A ``make dev`` with a stand-in and an inbox of its own."""
    return DevServer(stripe_api.url, "http://127.0.0.1:4242/webhook", dev_server.INBOX)


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
        content = {"api": OTHER, "webhook": "x" * 99, "inbox": dev_server.INBOX}
        state_file.write_text(json.dumps(content))
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
        with announced(server), announced(DevServer(OTHER, OTHER, OTHER)) as problem:
            assert problem == "another `make dev` runs in this folder"
            assert dev_server.running() == server

    def test_file_that_cannot_be_written(self, server: DevServer, state_file: Path) -> None:
        """Without a state file, the reason is returned."""
        state_file.parent.write_text("no folder")
        with announced(server) as problem:
            assert problem == f"{state_file} cannot be written: File exists"
            assert dev_server.running() is None


class TestSettings:
    """Which inbox and which API a command uses."""

    def test_test_key_gets_both(self, server: DevServer, settings: Settings) -> None:
        """A test key without STRIPE_API_BASE uses the inbox and the stand-in, while they are up."""
        assert dev_server.beside(settings) == settings
        with announced(server):
            found = dev_server.beside(settings)
        assert (found.database_url, found.stripe_api_base) == (dev_server.INBOX, server.api)

    def test_inbox_on_postgresql_is_left_alone(self, server: DevServer, settings: Settings) -> None:
        """No setting of an inbox on PostgreSQL remains, and the own inbox needs no upgrade."""
        url = "postgresql://user:hidden@127.0.0.1:9/inbox"
        own = replace(
            settings,
            database_url=url,
            database_listen_url=url,
            database_schema="stripe",
            migrate="check",
        )
        expected = replace(settings, database_url=dev_server.INBOX, stripe_api_base=server.api)
        with announced(server):
            assert dev_server.beside(own) == expected

    @pytest.mark.parametrize("explicit", [(), ("DATABASE_URL",)])
    def test_named_api_is_used_with_its_inbox(
        self, explicit: tuple[str, ...], server: DevServer, settings: Settings
    ) -> None:
        """With the address of the stand-in in STRIPE_API_BASE, the inbox is that of ``make dev``.

        A command whose shell names the inbox of ``make dev`` uses both.
        """
        url = dev_server.INBOX if explicit else settings.database_url
        named = replace(
            settings,
            database_url=url,
            stripe_api_base=server.api,
            origin=Origin(environment=frozenset(explicit)),
        )
        with announced(server):
            assert dev_server.beside(named).database_url == dev_server.INBOX

    def test_other_inbox_never_meets_the_stand_in(
        self, server: DevServer, settings: Settings
    ) -> None:
        """A command whose shell names another inbox uses Stripe's own API.

        So does a command with another inbox than that of the shell of ``make dev``.
        """
        named = replace(settings, origin=Origin(environment=frozenset({"DATABASE_URL"})))
        with announced(server):
            assert dev_server.beside(named) == named
        with announced(server._replace(inbox="sqlite:////elsewhere/inbox.sqlite3")):
            assert dev_server.beside(settings) == settings

    def test_live_key_never_reaches_a_stand_in(self, server: DevServer, settings: Settings) -> None:
        """With a live key, commands use their own inbox and Stripe's own API."""
        live = replace(settings, stripe_api_key="sk_live_fake_for_tests")
        with announced(server):
            assert dev_server.beside(live) == live

    def test_setting_takes_precedence(self, server: DevServer, settings: Settings) -> None:
        """STRIPE_API_BASE is used if it is set, with the inbox of the settings."""
        named = replace(settings, stripe_api_base=OTHER)
        with announced(server):
            assert dev_server.beside(named) == named

    @pytest.mark.parametrize(
        ("base", "words"),
        [(OTHER, f"Stripe's API is {OTHER}."), (None, "Stripe's API is its own.")],
    )
    def test_command_names_other_targets(
        self,
        base: str | None,
        words: str,
        server: DevServer,
        settings: Settings,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A command that does not use those of ``make dev`` says so, without a password."""
        url = "postgresql://user:hidden@127.0.0.1:9/inbox"
        with announced(server):
            dev_server.say_target(replace(settings, database_url=url, stripe_api_base=base))
        shown = "postgresql://user:***@127.0.0.1:9/inbox"
        expected = f"Not beside `make dev`: the inbox is {shown}, and {words}\n"
        assert capsys.readouterr().err == expected

    def test_nothing_is_said_about_stripe_itself(
        self, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without ``make dev``, or if that uses Stripe itself, commands print nothing."""
        dev_server.say_target(settings)
        with announced(DevServer(None, OTHER, dev_server.inbox_address(settings))):
            dev_server.say_target(settings)
            assert dev_server.beside(settings) == settings
        assert capsys.readouterr().err == ""


class TestCommands:
    """Commands find the inbox and the stand-in without a setting, and print which ones they use."""

    @pytest.fixture
    def call(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        settings: Settings,
        server: DevServer,
    ) -> Callable[..., Result]:
        """A function that calls ``flask`` beside ``make dev``, as in a shell with a ``.env``."""
        monkeypatch.chdir(tmp_path)
        names = ("FLASK_RUN_FROM_CLI", "FLASK_DEBUG", "FLASK_APP", "STRIPE_API_BASE")
        for name in (*names, "DATABASE_URL"):
            monkeypatch.setenv(name, "")
        monkeypatch.delenv("DATABASE_URL")
        monkeypatch.setenv("FLASK_SKIP_DOTENV", "0")
        monkeypatch.setenv("STRIPE_API_KEY", settings.stripe_api_key)
        monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", settings.stripe_webhook_secrets[0])
        monkeypatch.setenv("HANDLERS_PACKAGE", settings.handlers_package)
        (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///real.sqlite3\n", encoding="utf-8")

        def run(*arguments: str) -> Result:
            with announced(server):
                return CliRunner().invoke(
                    cli,
                    arguments,
                    obj=ScriptInfo(create_app=create_app),
                    prog_name="flask",
                    catch_exceptions=False,
                )

        return run

    def test_stand_in_is_asked(
        self, call: Callable[..., Result], stripe_api: StripeApi, tmp_path: Path
    ) -> None:
        """The request reaches the stand-in, and standard error says so once."""
        result = call("destination", "list")
        assert result.exit_code == 0
        assert [each.path for each in stripe_api.asked] == ["/v2/core/event_destinations"]
        assert result.stderr == (
            f"Beside `make dev`: the inbox is {dev_server.INBOX}, and Stripe's API is"
            f" {stripe_api.url}.\n"
        )
        assert not (tmp_path / "real.sqlite3").exists()

    @pytest.mark.parametrize("arguments", [("shell",), ("events", "list")])
    def test_every_command_says_so(
        self, arguments: tuple[str, ...], call: Callable[..., Result]
    ) -> None:
        """``flask shell``, and a command that only reads the inbox, print the notice too."""
        assert call(*arguments).stderr.count("Beside `make dev`: the inbox is ") == 1
