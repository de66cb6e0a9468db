"""``flask handlers new`` writes sound modules and tests, and overwrites nothing."""

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

#: One application for the tests of all types: an application loads 326 modules.
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
    """Write a file and its parent folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    """Run a tool in a folder, and return its output. It must succeed."""
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
    """The files are sound for all types of the SDK, and for an unknown type."""

    def test_linter_and_formatter_pass(self, everything: Path) -> None:
        """All files pass the linter and the formatter of this repository."""
        config = ["--config", str(ROOT / "pyproject.toml")]
        run(everything, "ruff", "check", *config)
        run(everything, "ruff", "format", "--check", *config)

    def test_type_checker_passes(self, everything: Path) -> None:
        """All files pass mypy in strict mode, with the named classes."""
        config = ["--config-file", str(ROOT / "pyproject.toml")]
        config += ["--cache-dir", str(ROOT / ".mypy_cache")]  # the SDK is in it already
        said = run(everything, "mypy", *config, "handlers", "tests")
        assert f"no issues found in {2 * len(samples.event_types()) + 4} source files" in said

    def test_tests_pass(self, everything: Path, tmp_path: Path) -> None:
        """Each test passes unchanged."""
        # Another folder: this conftest is not one of a team.
        for name in ("handlers", "tests"):
            (tmp_path / name).symlink_to(everything / name)
        write(tmp_path / "pyproject.toml", dedented(PYTEST))
        write(tmp_path / "tests" / "conftest.py", dedented(SHARED))
        said = run(tmp_path, "pytest", "-q", "tests")
        (tmp_path / "tests" / "conftest.py").unlink()
        assert f"{3 * (len(samples.event_types()) + 1)} passed" in said


def dedented(text: str) -> str:
    """Return a text without its indentation."""
    return "\n".join(line[4:] for line in text.splitlines())


class TestModule:
    """The module shows what the SDK has for the type."""

    def test_object(self) -> None:
        """The related object is fetched with its class."""
        text = scaffold.module_text(CREATED)
        assert "notif: V1CustomerCreatedEventNotification," in text
        assert "event = notif.fetch_event()" in text
        assert "customer: Customer = notif.fetch_related_object()" in text
        assert "customer=customer.id," in text

    def test_singleton(self) -> None:
        """A singleton is fetched too, and has no id."""
        text = scaffold.module_text("v1.balance.available")
        assert "balance: Balance = notif.fetch_related_object()" in text
        assert "balance.id" not in text

    def test_none(self) -> None:
        """Without a related object none is fetched."""
        text = scaffold.module_text("v1.billing.meter.no_meter_found")
        assert "notif.fetch_event()" in text
        assert "fetch_related_object" not in text

    def test_data_is_named(self) -> None:
        """A comment names the data of the event."""
        assert "event.data has developer_message_summary, reason" in scaffold.module_text(METER)
        assert "event.data" not in scaffold.module_text(CREATED)

    def test_newer_type_is_named(self) -> None:
        """A type that the SDK does not know is declared, and typed as unknown."""
        text = scaffold.module_text(NEWER)
        assert f'EVENT_TYPE = "{NEWER}"' in text
        assert "notif: UnknownEventNotification," in text


New = Callable[..., Result]


@pytest.fixture
def new(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> New:
    """A function that runs the command for a package with only a fallback."""
    monkeypatch.chdir(tmp_path / "packages")

    def call(*arguments: str) -> Result:
        return receiver.app.test_cli_runner().invoke(args=["handlers", "new", *arguments])

    return call


@pytest.fixture
def package(receiver: Receiver) -> str:
    """The name of the package."""
    return receiver.services.settings.handlers_package


class TestCommand:
    """The command writes two files, and prints them with the next steps."""

    def test_module_and_test_are_written(self, new: New, package: str) -> None:
        """The module is in HANDLERS_PACKAGE, its test in tests/."""
        result = new(CREATED)
        module = Path(package, "v1_customer_created.py")
        test = Path("tests", package, "test_v1_customer_created.py")
        assert (result.exit_code, result.stderr) == (0, "")
        assert module.read_text(encoding="utf-8") == scaffold.module_text(CREATED)
        assert test.read_text(encoding="utf-8") == scaffold.test_text(CREATED)
        assert result.stdout.startswith(f"Wrote {module}\nWrote {test}\n\nNext:\n")

    def test_next_steps_can_be_pasted(self, new: New, package: str) -> None:
        """The next steps are test, serve and send. Special characters of a shell are quoted."""
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
        """A nested package has its tests in a nested folder."""
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
        """With --untyped the command writes a module for a type that the SDK does not know."""
        refused = new(NEWER)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "If the type is newer than the SDK, add --untyped" in refused.stderr
        assert new(NEWER, "--untyped").exit_code == 0
        assert Path(package, f"{module_name(NEWER)}.py").is_file()


class TestRefusals:
    """Each refusal is a sentence, and nothing is written."""

    def test_unknown_type_gets_the_nearest(self, new: New, package: str) -> None:
        """A misspelled type is an error with the nearest types."""
        result = new("v1.custommer.created")
        assert result.exit_code == 2
        assert "'v1.custommer.created' is no event type of stripe" in result.stderr
        assert "nearest: v1.customer.created, " in result.stderr
        assert sorted(path.name for path in Path(package).glob("*.py")) == [
            "__init__.py",
            "fallback.py",
        ]

    def test_nothing_is_near(self, new: New) -> None:
        """Without a similar type there is no suggestion."""
        result = new("zzz")
        assert result.exit_code == 2
        assert "nearest" not in result.stderr

    def test_type_of_no_notification(self, new: New) -> None:
        """--untyped refuses a type that the service would refuse."""
        result = new("customer.created", "--untyped")
        assert result.exit_code == 2
        assert "begin with v1. or v2." in result.stderr

    def test_known_type_is_typed(self, new: New) -> None:
        """--untyped is refused for a type that the SDK knows: it would lose the types."""
        result = new(CREATED, "--untyped")
        assert result.exit_code == 2
        assert "Omit --untyped" in result.stderr

    @pytest.mark.parametrize("there", ["module", "test"])
    def test_file_stays(self, new: New, package: str, there: str) -> None:
        """An existing module or test is not overwritten, and the other file is not written."""
        files = {
            "module": Path(package, "v1_customer_created.py"),
            "test": Path("tests", package, "test_v1_customer_created.py"),
        }
        write(files[there], "mine")
        result = new(CREATED)
        assert result.exit_code == 1
        assert f"{files[there]} already exists. Nothing was written" in result.stderr
        assert files.pop(there).read_text(encoding="utf-8") == "mine"
        assert [file for file in files.values() if file.exists()] == []

    def test_type_that_is_handled_elsewhere(
        self, make_receiver: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        """A type has one module, under any file name."""
        source = f'EVENT_TYPE = "{CREATED}"\ndef handle(notif, client): ...\n'
        receiver = make_receiver({"greetings": source})
        result = receiver.app.test_cli_runner().invoke(args=["handlers", "new", CREATED])
        assert result.exit_code == 1
        assert "/greetings.py already exists" in result.stderr
        assert list(tmp_path.rglob("*v1_customer_created.py")) == []

    def test_folder_that_cannot_be_written(self, new: New, package: str) -> None:
        """An error of the file system is shown."""
        write(Path("tests"), "a file where a folder has to be")
        result = new(CREATED)
        assert result.exit_code == 1
        assert f"tests/{package}/test_v1_customer_created.py could not be written" in result.stderr
