"""The commands of the image, which contains the service and no devkit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.cli import AppGroup

from app import cli
from devkit.stripe_api import StripeApi
from tests.conftest import API_KEY, SECRET

pytestmark = pytest.mark.no_tables

ROOT = Path(__file__).resolve().parents[2]
TYPE = "v1.customer.created"
COMMANDS = {
    "": {
        *("alerts", "db", "destination", "doctor", "events", "handlers", "migrate", "worker"),
        *("routes", "run", "shell"),
    },
    "alerts": {"list", "test"},
    "events": {
        *("list", "show", "stats", "groups", "audit", "retry", "give-up", "reconcile"),
        *("pause", "resume", "export", "import", "prune", "erase"),
    },
    "handlers": {"list"},
    "db": {"backup", "check", "current", "restore", "upgrade"},
    "destination": {"check", "create", "list", "sync"},
    "migrate": {"finish", "mirror", "plan", "status"},
}


def copied() -> list[str]:
    """Return what the Dockerfile copies from the build context."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = text.replace("${REQUIREMENTS}", "requirements.lock")
    return re.findall(r"^COPY (?!--from)(\S+) ", text, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the image."""
    folder = tmp_path_factory.mktemp("image")
    for name in copied():
        if (ROOT / name).is_dir():
            # With the bytecode, but not that which other tests are just writing.
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


#: Imports the service, and runs each command that it reads in a process of its own. The imports
#: of a command take ten times as long as the command itself.
RUN = """
import json, os, sys
import app.factory
from flask.cli import main

def run(words, environment, output, errors):
    for number, name in enumerate([os.devnull, output, errors]):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin = open(0)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["flask", *words]
    sys.exit(main())

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs commands with the files of the image."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class Image:
    """The files of the image, with an inbox and a stand-in for Stripe's API."""

    def __init__(
        self, run: subprocess.Popen[str], output: Path, database_url: str, api_url: str
    ) -> None:
        """Take the process that runs commands, a folder for their output, and two settings."""
        self._process = run
        self._output = output
        self.environment = {
            "PATH": os.environ["PATH"],
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_API_BASE": api_url,
            "DATABASE_URL": database_url,
        }

    def flask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``flask`` with these words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output, errors = (self._output / name for name in ("output", "errors"))
        for file in (output, errors):
            file.write_text("")
        command = {"output": str(output), "errors": str(errors), "environment": self.environment}
        self._process.stdin.write(json.dumps({"words": words, **command}) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(words, status, output.read_text(), errors.read_text())

    def listed(self, *group: str) -> set[str]:
        """Return the commands that the help of a group lists."""
        shown = self.flask(*group, "--help")
        assert shown.returncode == 0, shown.stderr
        _, _, commands = shown.stdout.partition("Commands:")
        return set(re.findall(r"^  ([a-z-]+)  ", commands, re.MULTILINE))


@pytest.fixture
def image(
    run: subprocess.Popen[str], tmp_path: Path, sqlite_url: str, stripe_api: StripeApi
) -> Image:
    """The image, with an empty inbox."""
    return Image(run, tmp_path, sqlite_url, stripe_api.url)


def test_image_has_no_devkit(folder: Path) -> None:
    """The image contains the service, the handlers, gunicorn's settings, the lock, and no more."""
    names = {each.name for each in folder.iterdir()}
    assert names == {"app", "handlers", "gunicorn.conf.py", "requirements.lock"}


@pytest.mark.parametrize("group", COMMANDS)
def test_commands_are_those_of_an_operator(image: Image, group: str) -> None:
    """The help lists the commands for a running service, and none for authors of handlers."""
    assert image.listed(*group.split()) == COMMANDS[group]


@pytest.mark.parametrize(
    "words",
    [["events", "send", TYPE], ["handlers", "new", TYPE], ["handlers", "types"]],
    ids=" ".join,
)
def test_commands_for_authors_are_unknown(image: Image, words: list[str]) -> None:
    """A command of the devkit is an error of usage, like any word that is no command."""
    refused = image.flask(*words)
    assert refused.returncode == 2
    assert f"No such command '{words[1]}'" in refused.stderr


def test_each_command_works(image: Image, stripe_api: StripeApi, tmp_path: Path) -> None:
    """A command of each kind runs to its end without the devkit."""
    destination = stripe_api.destinations.add("https://your.host/webhook", [TYPE])
    assert image.flask("doctor", "--no-ping").returncode == 1
    for words, status in {
        ("db", "upgrade"): 0,
        ("db", "check"): 0,
        ("db", "backup", str(tmp_path / "backup")): 0,
        ("events", "list"): 0,
        ("events", "show", "evt_1"): 1,
        ("events", "stats"): 0,
        ("events", "retry", "--state", "dead", "--yes"): 0,
        ("events", "reconcile", "--yes"): 0,
        ("events", "pause"): 0,
        ("handlers", "list"): 0,
        ("destination", "list"): 0,
        ("destination", "check", destination): 1,
        ("migrate", "status"): 0,
        ("worker",): 1,
    }.items():
        done = image.flask(*words)
        assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        assert "devkit" not in done.stderr


def test_groups_without_the_devkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the devkit all groups are registered."""
    # No mock of a module: the devkit is installed here, under another name it is not.
    monkeypatch.setattr(cli, "DEVKIT", "no_such_package")
    commands = AppGroup()
    cli.register(commands)
    groups = {"alerts", "db", "destination", "doctor", "events", "handlers", "migrate", "worker"}
    assert set(commands.commands) == groups
