"""``flask handlers new`` writes sound modules and tests, and overwrites nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from app.stripe_api.catalog import module_name
from devkit import scaffold, snapshot_scaffold
from tests.conftest import Receiver
from tests.support.files import write

ROOT = Path(__file__).resolve().parents[3]
CREATED = "v1.customer.created"
SOURCE = "customer.source.created"
METER = "v1.billing.meter.error_report_triggered"
NEWER = "v2.core.health.event_generation_failure.resolved"


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

    def test_object_of_a_snapshot_event(self) -> None:
        """A snapshot module reads the object in the event, with its class."""
        text = snapshot_scaffold.module_text("checkout.session.completed")
        assert "def handle(event: Event, client: StripeClient) -> None:" in text
        assert "from stripe.checkout import Session" in text
        assert 'session = cast("Session", event.data.object)' in text
        assert "session=session.id," in text
        assert "another class" not in text
        assert "balance=balance.object," in snapshot_scaffold.module_text("balance.available")

    def test_object_of_several_classes(self) -> None:
        """A comment says that a source can be of another class."""
        assert "It can be of another class" in snapshot_scaffold.module_text(SOURCE)

    def test_newer_snapshot_type_is_named(self) -> None:
        """A snapshot type that the SDK does not know is declared, and its object is not typed."""
        text = snapshot_scaffold.module_text("customer.thing.made")
        assert 'EVENT_TYPE = "customer.thing.made"' in text
        assert "cast" not in text

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
        # Not ``team``: another test in this process may have imported a package of that name.
        for file in ("dotted/__init__.py", "dotted/hooks/__init__.py"):
            write(tmp_path / file, "")
        write(tmp_path / "dotted/hooks/fallback.py", "def handle(notif, client, details): ...\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        receiver = make_receiver(handlers_package="dotted.hooks")
        result = receiver.app.test_cli_runner().invoke(args=["handlers", "new", CREATED])
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "dotted/hooks/v1_customer_created.py").is_file()
        assert (tmp_path / "tests/dotted/hooks/test_v1_customer_created.py").is_file()

    @pytest.mark.parametrize("arguments", [[SOURCE], ["customer.thing.made", "--untyped"]])
    def test_snapshot_module_is_written(self, new: New, package: str, arguments: list[str]) -> None:
        """The type says the kind of the module."""
        result = new(*arguments)
        assert result.exit_code == 0, result.stderr
        module = Path(package, f"{module_name(arguments[0])}.py").read_text(encoding="utf-8")
        assert "def handle(event: Event, client: StripeClient)" in module
        test = Path("tests", package, f"test_{module_name(arguments[0])}.py")
        assert f'TYPE = "{arguments[0]}"' in test.read_text(encoding="utf-8")
        assert f"events send {arguments[0]}" in result.stdout

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

    def test_type_of_no_event(self, new: New) -> None:
        """--untyped refuses a type that the service would refuse."""
        result = new("Customer", "--untyped")
        assert result.exit_code == 2
        assert "A type is like v2.thing.happened, or thing.happened for a snap" in result.stderr

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
