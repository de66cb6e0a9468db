"""``flask handlers new``: what it writes is right as it stands, and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from app.stripe_api.catalog import module_name
from devkit import samples, scaffold
from tests.conftest import Receiver

ROOT = Path(__file__).resolve().parents[3]
CREATED = "v1.customer.created"
METER = "v1.billing.meter.error_report_triggered"
NEWER = "v2.core.health.event_generation_failure.resolved"

#: One application for all tests of all types: each of its own would load 326 modules.
SHARED = """
    '''One service for all.'''

    import pytest

    from app import create_app
    from app.processing import registry
    from app.settings import Settings
    from devkit.deliver import API_KEY, SECRET, Deliver, Door, Receiver
    from devkit.stripe_api import StripeApi

    pytest_plugins = ["devkit.plugin"]


    @pytest.fixture(scope="session")
    def api():
        with StripeApi().serve() as api:
            yield api


    @pytest.fixture
    def stripe_api(api):
        api._asked.clear()
        return api


    @pytest.fixture(scope="session")
    def deliver(tmp_path_factory, api):
        door = Door()
        registry.load = door.load
        url = f"sqlite:///{tmp_path_factory.mktemp('var')}/inbox.sqlite3"
        app = create_app(Settings(API_KEY, (SECRET,), stripe_api_base=api.url, database_url=url))
        yield Deliver(Receiver(app, app.test_client()), api, door)
        Receiver(app, app.test_client()).close()
"""
PYTEST = """
    [tool.pytest]
    minversion = "9.0"
    strict = true
    pythonpath = ["."]
    addopts = ["--import-mode=importlib"]
    filterwarnings = ["error"]
"""


def write(file: Path, text: str) -> None:
    """Write a file, and the folders that it is in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    """Run one of the tools in a folder, and return what it says. It has to succeed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module and a test for each type of the SDK, and for one that is newer."""
    folder = tmp_path_factory.mktemp("everything")
    write(folder / "handlers" / "__init__.py", '"""Handlers."""\n')
    fallback = (ROOT / "handlers" / "fallback.py").read_text(encoding="utf-8")
    write(folder / "handlers" / "fallback.py", fallback)
    for event_type in [*samples.event_types(), NEWER]:
        name = f"{module_name(event_type)}.py"
        write(folder / "handlers" / name, scaffold.module_text(event_type))
        write(folder / "tests" / "handlers" / f"test_{name}", scaffold.test_text(event_type))
    return folder


class TestEveryType:
    """What is written is right for all types of the SDK, and for one that it does not know."""

    def test_linter_and_formatter_have_nothing_to_say(self, everything: Path) -> None:
        """The rules of this repository, with no exception made."""
        config = ["--config", str(ROOT / "pyproject.toml")]
        run(everything, "ruff", "check", *config)
        run(everything, "ruff", "format", "--check", *config)

    def test_types_hold(self, everything: Path) -> None:
        """Mypy, strict: notification, event and related object are of the classes named."""
        config = ["--config-file", str(ROOT / "pyproject.toml")]
        config += ["--cache-dir", str(ROOT / ".mypy_cache")]  # the SDK is in it already
        said = run(everything, "mypy", *config, "handlers", "tests")
        assert f"no issues found in {2 * len(samples.event_types()) + 4} source files" in said

    def test_tests_pass(self, everything: Path, tmp_path: Path) -> None:
        """Each test that is written passes as it stands."""
        # A folder of its own: the conftest of this one is none that a team would have.
        for name in ("handlers", "tests"):
            (tmp_path / name).symlink_to(everything / name)
        write(tmp_path / "pyproject.toml", dedented(PYTEST))
        write(tmp_path / "tests" / "conftest.py", dedented(SHARED))
        said = run(tmp_path, "pytest", "-q", "tests")
        (tmp_path / "tests" / "conftest.py").unlink()
        assert f"{3 * (len(samples.event_types()) + 1)} passed" in said


def dedented(text: str) -> str:
    """Return a text without its margin."""
    return "\n".join(line[4:] for line in text.splitlines())


class TestModule:
    """The module shows what the SDK offers for the type, and no more."""

    def test_object(self) -> None:
        """The related object is fetched, and its class named."""
        text = scaffold.module_text(CREATED)
        assert "notif: V1CustomerCreatedEventNotification," in text
        assert "event = notif.fetch_event()" in text
        assert "customer: Customer = notif.fetch_related_object()" in text
        assert "customer=customer.id," in text

    def test_singleton(self) -> None:
        """A singleton is fetched too; it has no id."""
        text = scaffold.module_text("v1.balance.available")
        assert "balance: Balance = notif.fetch_related_object()" in text
        assert "balance.id" not in text

    def test_none(self) -> None:
        """Where there is no related object, none is fetched."""
        text = scaffold.module_text("v1.billing.meter.no_meter_found")
        assert "notif.fetch_event()" in text
        assert "fetch_related_object" not in text

    def test_data_is_named(self) -> None:
        """What an event brings besides its notification is named."""
        assert "event.data has developer_message_summary, reason" in scaffold.module_text(METER)
        assert "event.data" not in scaffold.module_text(CREATED)

    def test_newer_type_is_named(self) -> None:
        """A type that the SDK does not know stands in the module, which is typed as unknown."""
        text = scaffold.module_text(NEWER)
        assert f'EVENT_TYPE = "{NEWER}"' in text
        assert "notif: UnknownEventNotification," in text


New = Callable[..., Result]


@pytest.fixture
def new(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> New:
    """A function that runs the command beside a package that has only a fallback."""
    monkeypatch.chdir(tmp_path / "packages")

    def call(*arguments: str) -> Result:
        return receiver.app.test_cli_runner().invoke(args=["handlers", "new", *arguments])

    return call


@pytest.fixture
def package(receiver: Receiver) -> str:
    """The name of the package."""
    return receiver.services.settings.handlers_package


class TestCommand:
    """The command writes two files, says so, and says what comes next."""

    def test_module_and_test_are_written(self, new: New, package: str) -> None:
        """The module is in the package that HANDLERS_PACKAGE names, its test below tests/."""
        result = new(CREATED)
        module = Path(package, "v1_customer_created.py")
        test = Path("tests", package, "test_v1_customer_created.py")
        assert (result.exit_code, result.stderr) == (0, "")
        assert module.read_text(encoding="utf-8") == scaffold.module_text(CREATED)
        assert test.read_text(encoding="utf-8") == scaffold.test_text(CREATED)
        assert result.stdout.startswith(f"Wrote {module}\nWrote {test}\n\nNext:\n")

    def test_next_steps_can_be_pasted(self, new: New, package: str) -> None:
        """What is said to come next: test, serve, send; a shell's own characters are quoted."""
        event_type = "v2.core.account[requirements].updated"
        steps = new(event_type).stdout.partition("Next:\n")[2].splitlines()
        name = "test_v2_core_account_including_requirements_updated.py"
        assert steps[0].endswith(f"python -m pytest tests/{package}/{name}")
        assert steps[1].split("#")[0].strip() == "make dev"
        assert steps[2].endswith(f"flask events send '{event_type}'")

    def test_dotted_package(
        self,
        make_receiver: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """For a package inside another, the test lies as deep below tests/."""
        for file in ("team/__init__.py", "team/hooks/__init__.py"):
            write(tmp_path / file, "")
        write(tmp_path / "team/hooks/fallback.py", "def handle(notif, client, details): ...\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        receiver = make_receiver(handlers_package="team.hooks")
        result = receiver.app.test_cli_runner().invoke(args=["handlers", "new", CREATED])
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "team/hooks/v1_customer_created.py").is_file()
        assert (tmp_path / "tests/team/hooks/test_v1_customer_created.py").is_file()

    def test_newer_type_needs_to_be_asked_for(self, new: New, package: str) -> None:
        """With --untyped a module is written for a type that the SDK does not know."""
        refused = new(NEWER)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "For a type that is newer than the SDK add --untyped" in refused.stderr
        assert new(NEWER, "--untyped").exit_code == 0
        assert Path(package, f"{module_name(NEWER)}.py").is_file()


class TestRefusals:
    """What cannot be right is refused with a sentence, and then nothing is written."""

    def test_unknown_type_gets_the_nearest(self, new: New, package: str) -> None:
        """A slip of the pen leads to the type that was meant."""
        result = new("v1.custommer.created")
        assert result.exit_code == 2
        assert "'v1.custommer.created' is no event type of stripe" in result.stderr
        assert "nearest: v1.customer.created, " in result.stderr
        assert sorted(path.name for path in Path(package).glob("*.py")) == [
            "__init__.py",
            "fallback.py",
        ]

    def test_nothing_is_near(self, new: New) -> None:
        """Where nothing is near, nothing is suggested."""
        result = new("zzz")
        assert result.exit_code == 2
        assert "nearest" not in result.stderr

    def test_type_of_no_notification(self, new: New) -> None:
        """--untyped is no way to write a module that the service refuses."""
        result = new("customer.created", "--untyped")
        assert result.exit_code == 2
        assert "begin with v1. or v2." in result.stderr

    def test_known_type_is_typed(self, new: New) -> None:
        """--untyped for a type that the SDK knows would give away the types."""
        result = new(CREATED, "--untyped")
        assert result.exit_code == 2
        assert "Leave out --untyped" in result.stderr

    @pytest.mark.parametrize("there", ["module", "test"])
    def test_file_stays(self, new: New, package: str, there: str) -> None:
        """A module that is there stays, and so does a test; the other one is not written."""
        files = {
            "module": Path(package, "v1_customer_created.py"),
            "test": Path("tests", package, "test_v1_customer_created.py"),
        }
        write(files[there], "mine")
        result = new(CREATED)
        assert result.exit_code == 1
        assert f"{files[there]} is there and stays as it is. Nothing was written" in result.stderr
        assert files.pop(there).read_text(encoding="utf-8") == "mine"
        assert [file for file in files.values() if file.exists()] == []

    def test_type_that_is_handled_elsewhere(
        self, make_receiver: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        """One type has one module, whatever that is called."""
        source = f'EVENT_TYPE = "{CREATED}"\ndef handle(notif, client): ...\n'
        receiver = make_receiver({"greetings": source})
        result = receiver.app.test_cli_runner().invoke(args=["handlers", "new", CREATED])
        assert result.exit_code == 1
        assert "/greetings.py is there and stays as it is" in result.stderr
        assert list(tmp_path.rglob("*v1_customer_created.py")) == []

    def test_folder_that_cannot_be_written(self, new: New, package: str) -> None:
        """What the system refuses is said in its words."""
        write(Path("tests"), "a file where a folder has to be")
        result = new(CREATED)
        assert result.exit_code == 1
        assert f"tests/{package}/test_v1_customer_created.py could not be written" in result.stderr
