"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from devkit.deliver import API_KEY, SECRET, Deliver, Logged, RunHandler
from devkit.stripe_api import StripeApi
from handlers import v1_checkout_session_completed
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: A fenced block of Python, and the file that the paragraph above it names last.
FILE = re.compile(r"`([\w/]+\.py)`(?:(?!`[\w/]+\.py`|```)[\s\S])*?\n\n```python\n([\s\S]*?)```")
#: What mypy knows of the SDK already, where `make check` has run.
CACHE = str(ROOT / ".mypy_cache")
#: What a developer has in the folder of the project, and a clone has not.
NOT_CLONED = shutil.ignore_patterns(
    # Files of coverage come and go while other tests run.
    *(".git", ".venv", "var", ".env", "__pycache__", ".*_cache", ".coverage*", ".hypothesis")
)


def section(title: str) -> str:
    """Return a section of the README, up to the next heading of any level."""
    return re.split(r"^#+ ", README.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def files() -> dict[str, str]:
    """Return each file that the README shows whole, by its path."""
    return dict(FILE.findall(README))


def commands(title: str) -> list[str]:
    """Return the commands of a section in order: its indented lines."""
    return re.findall(r"^    (\S.*)$", re.sub(r"```[\s\S]*?```", "", section(title)), re.MULTILINE)


def shown(title: str) -> list[str]:
    """Return the lines of output that a section shows."""
    blocks = re.findall(r"```text\n([\s\S]*?)```", section(title))
    return [line for block in blocks for line in block.splitlines()]


class Author:
    """A new author in a clean clone that is installed: two terminals and an editor."""

    def __init__(self, clone: Path) -> None:
        """Take the clone."""
        self.clone = clone
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Nothing of this machine but where programs are; and a port that is not taken.
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(clone), "PORT": str(port)}
        self._second: subprocess.Popen[bytes] | None = None

    def enter(self, command: str) -> str:
        """Enter a command, and return what it says. It has to succeed."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.clone,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def leave_running(self, command: str) -> None:
        """Enter a command in the second terminal."""
        with (self.clone / "second").open("wb") as output:
            self._second = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.clone,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def sees(self, *parts: str) -> None:
        """Wait for a line in the second terminal that holds all of the parts."""

        def is_there() -> bool:
            lines = (self.clone / "second").read_text(encoding="utf-8").splitlines()
            return any(all(part in line for part in parts) for line in lines)

        wait_for(is_there, 60)

    def end(self) -> None:
        """Press Ctrl-C in the second terminal, which reaches all that runs in it."""
        if self._second is not None:
            os.killpg(self._second.pid, signal.SIGINT)
            self._second.wait(60)


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    """A new author, with the packages of this environment installed as make installs them."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=NOT_CLONED)
    venv = clone / ".venv"
    venv.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (venv / part).symlink_to(Path(sys.prefix) / part)
    (venv / ".installed").touch()
    author = Author(clone)
    yield author
    author.end()


class TestNewAuthor:
    """Who follows "Write a handler" word by word comes to its end."""

    def test_page_is_followed(self, author: Author) -> None:
        """Each command does what is said of it, and each output that is shown is seen."""
        write, check, types, serve, send, again, plugged_in = commands("Write a handler")
        changed, taken_over, logged, mistake = shown("Write a handler")
        said = author.enter(write)
        for file in files():
            assert f"Wrote {file}\n" in said
        assert "3 passed" in author.enter(check)
        assert re.search(r"v1\.customer\.created +object +stripe\.Customer", author.enter(types))
        author.leave_running(serve)
        author.sees("service_configured")
        module, test = files()
        (author.clone / module).write_text(files()[module], encoding="utf-8")
        author.sees(changed)
        author.sees(taken_over)
        assert " 200 " in author.enter(send)
        author.sees(*logged.split("  "))
        swapped = files()[module].replace(
            "def handle(notif: V1CustomerCreatedEventNotification, client: StripeClient)",
            "def handle(client, notif)",
        )
        (author.clone / module).write_text(swapped, encoding="utf-8")
        author.sees(mistake)
        author.sees("goes on with the handlers as they were before")
        (author.clone / module).write_text(files()[module], encoding="utf-8")
        (author.clone / test).write_text(files()[test], encoding="utf-8")
        assert "2 passed" in author.enter(again)
        assert re.search(
            rf"v1\.customer\.created +{module} +A customer was created: greet them\.",
            author.enter(plugged_in),
        )

    def test_untyped(self, author: Author) -> None:
        """The command for a type that is newer than the SDK writes what is said above it."""
        (command,) = re.findall(r"`(make handler UNTYPED=1[^`]+)`", section("Rules"))
        said = author.enter(command)
        module = author.clone / re.findall(r"^Wrote (handlers/.*)$", said, re.MULTILINE)[0]
        declaration = f'EVENT_TYPE = "{command.rpartition("=")[2]}"'
        assert declaration in module.read_text(encoding="utf-8").splitlines()
        assert "3 passed" in author.enter(f"make test ARGS=tests/handlers/test_{module.name}")

    def test_make_handler_needs_a_type(self, author: Author) -> None:
        """Without a type it says how to name one, and with a wrong one which are near."""
        assert "make handler TYPE=v1.customer.created" in author.enter("! make handler")
        assert "nearest: v1.customer.created" in author.enter(
            "! make handler TYPE=v1.custommer.created"
        )


class TestFiles:
    """The files that the page shows are as good as those that are written."""

    def test_both_are_found(self) -> None:
        """A handler and its test: with none found, the tests here would be idle."""
        assert list(files()) == [
            "handlers/v1_customer_created.py",
            "tests/handlers/test_v1_customer_created.py",
        ]

    def test_they_pass_the_checks(self, tmp_path: Path) -> None:
        """Who copies them finds nothing to mend for linter, formatter or types."""
        for name, text in {"handlers/__init__.py": '"""Handlers."""\n', **files()}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        config = ["--config", str(ROOT / "pyproject.toml")]
        for command in (
            ["ruff", "check", *config],
            ["ruff", "format", "--check", *config],
            ["mypy", "--config-file", config[1], "--cache-dir", CACHE, *files()],
        ):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                env={**os.environ, "MYPYPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr


IDIOMS = re.findall(r"^\| `([^`]+)` \|", section("What a test can do"), re.MULTILINE)


class TestIdioms:
    """Each line of the table of what a test can do is one that works."""

    def test_all_are_there(self) -> None:
        """Redelivery, failure then retry, a pair out of order, a duplicate: one line each."""
        methods = {idiom.partition("(")[0] for idiom in IDIOMS}
        wanted = {"deliver", *(f"deliver.{name}" for name in vars(Deliver) if name[0] != "_")}
        assert wanted <= methods
        assert {"run_handler", "stripe_api.fail", "stripe_api.hold", "stripe_api.reset"} <= methods

    @pytest.mark.parametrize("idiom", IDIOMS)
    def test_line_works(
        self,
        idiom: str,
        deliver: Deliver,
        run_handler: RunHandler,
        stripe_api: StripeApi,
        logged: Logged,
    ) -> None:
        """It runs as it stands, before and after a delivery."""
        names = {
            "TYPE": "v1.customer.created",
            "v1_customer_created": v1_checkout_session_completed,  # one that is shipped
            "deliver": deliver,
            "run_handler": run_handler,
            "stripe_api": stripe_api,
            "logged": logged,
        }
        deliver("v1.customer.created")
        eval(idiom, names)  # noqa: S307 - the README is ours


class TestStripesCommandLine:
    """The lines for Stripe's CLI fit this service, on a current CLI and on an older one."""

    @pytest.mark.parametrize(
        ("number", "options"),
        [(0, ["--events", "--forward-to"]), (1, ["--thin-events", "--forward-thin-to"])],
    )
    def test_listen(self, number: int, options: list[str]) -> None:
        """Both name a type of event notifications, and the address at which the service listens."""
        words = commands("With Stripe's own command line")[number].split()
        settings = Settings(API_KEY, (SECRET,))
        assert words[:2] == ["stripe", "listen"]
        assert words[2::2] == options
        assert words[3].startswith("v1.")
        assert words[5] == f"localhost:{settings.port}/webhook"

    def test_trigger(self) -> None:
        """What is triggered is what is listened for."""
        current, older, trigger = commands("With Stripe's own command line")
        assert trigger.split()[:2] == ["stripe", "trigger"]
        assert trigger.split()[2] in current
        assert trigger.split()[2] in older

    def test_secret(self) -> None:
        """It is said where the secret that the CLI prints belongs."""
        text = section("With Stripe's own command line")
        assert "prints a signing secret, `whsec_...`" in text
        assert "`STRIPE_WEBHOOK_SECRET` in `.env`" in text
