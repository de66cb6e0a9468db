"""``flask handlers suggest``: what an integration needs, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from app.processing import registry
from app.stripe_api.catalog import Kind
from devkit.suggestions import PURPOSES
from tests.conftest import Receiver
from tests.support import pages
from tests.support.files import write

HANDLE = "def handle(event, client): pass"
#: One of each kind.
MODULES = {
    "v1_charge_dispute_created": "def handle(notif, client): pass",
    "charge_dispute_closed": HANDLE,
}

Suggest = Callable[..., Result]


@pytest.fixture
def receiver(make_receiver: Callable[..., Receiver]) -> Receiver:
    """An application with two modules for disputes."""
    return make_receiver(MODULES)


@pytest.fixture
def package(receiver: Receiver) -> str:
    """The name of the package."""
    return receiver.services.settings.handlers_package


@pytest.fixture
def suggest(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Suggest:
    """A function that runs the command beside the package."""
    monkeypatch.chdir(tmp_path / "packages")

    def call(*arguments: str) -> Result:
        return receiver.app.test_cli_runner().invoke(args=["handlers", "suggest", *arguments])

    return call


def test_types_and_their_modules_are_listed(suggest: Suggest, package: str) -> None:
    """A module of either kind counts. The pages of Stripe and the next command follow."""
    result = suggest("disputes")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split()[1:3] for line in lines[1 : lines.index("")]}
    assert rows["v1.charge.dispute.created"] == [
        "charge.dispute.created",
        f"{package}/v1_charge_dispute_created.py",
    ]
    assert rows["v1.charge.dispute.closed"][1] == f"{package}/charge_dispute_closed.py"
    assert rows["v1.charge.dispute.updated"][1] == "-"
    assert "https://docs.stripe.com/disputes/responding" in lines
    assert lines[-1].startswith("4 types without a module. To write them: ")
    assert lines[-1].endswith("flask handlers suggest disputes --write")


def test_json_is_for_programs(suggest: Suggest, package: str) -> None:
    """--json prints one list and nothing else. A type of API v2 has no snapshot events."""
    created = json.loads(suggest("disputes", "--json").stdout)[0]
    assert created == {
        "thin_type": "v1.charge.dispute.created",
        "snapshot_type": "charge.dispute.created",
        "meaning": "respond before its deadline",
        "page": "https://docs.stripe.com/disputes/responding",
        "file": f"{package}/v1_charge_dispute_created.py",
    }
    found = json.loads(suggest("connect", "--json").stdout)
    thin = {each["thin_type"] for each in found if each["snapshot_type"] is None}
    assert {str(each)[:3] for each in thin} == {"v2."}
    (hold,) = (each for each in found if each["snapshot_type"] == "reserve.hold.created")
    assert hold["thin_type"] is None
    assert "Leave out one of --write and --json" in suggest("connect", "--json", "--write").stderr


def written(result: Result) -> list[str]:
    """Return the names of the files that were written."""
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    return [Path(words[1]).name for words in lines if words[:1] == ["Wrote"]]


def test_missing_modules_are_written(suggest: Suggest, package: str) -> None:
    """Afterwards each type has one module, which is sound. A second call writes nothing."""
    result = suggest("disputes", "--write")
    assert len(written(result)) == 8
    assert "--payload snapshot" not in result.stdout
    assert f"-m pytest {Path('tests', package)}\n" in result.stdout
    loaded = registry.load(package)
    types = {each.thin for each in PURPOSES["disputes"]} - {"v1.charge.dispute.closed"}
    assert loaded.handled_types == types | {"charge.dispute.closed"}


def test_snapshot_modules_are_written(suggest: Suggest, package: str) -> None:
    """``--kind snapshot`` is for a team that stays on snapshot events."""
    hint = suggest("disputes", "--kind", "snapshot").stdout.splitlines()[-1]
    assert hint.endswith("flask handlers suggest disputes --kind snapshot --write")
    files = written(suggest("disputes", "--kind", "snapshot", "--write"))
    assert len(files) == 8
    assert "charge_dispute_updated.py" in files
    assert "test_charge_dispute_updated.py" in files
    types = {each.snapshot for each in PURPOSES["disputes"]} - {"charge.dispute.created"}
    assert registry.load(package).handled_types == types | {"v1.charge.dispute.created"}


@pytest.mark.parametrize("kind", ["thin", "snapshot"])
def test_type_of_one_kind_gets_its_module(
    make_receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
) -> None:
    """One without thin events gets a snapshot module, one of API v2 a thin one."""
    receiver = make_receiver({})
    monkeypatch.chdir(tmp_path / "packages")
    arguments = ["handlers", "suggest", "connect", "--kind", kind, "--write"]
    result = receiver.app.test_cli_runner().invoke(args=arguments)
    assert {"reserve_hold_created.py", "v2_core_account_closed.py"} <= set(written(result))
    assert ("v1_payout_failed.py" in written(result)) is (kind == "thin")
    assert ("payout_failed.py" in written(result)) is (kind == "snapshot")
    assert "flask destination create --payload snapshot\n" in result.stdout
    registry.load(receiver.services.settings.handlers_package)


def test_nothing_is_left_to_write(make_receiver: Callable[..., Receiver]) -> None:
    """If all have a module, it says so."""
    names = [each.type_of(Kind.THIN).replace(".", "_") for each in PURPOSES["disputes"]]
    receiver = make_receiver(dict.fromkeys(names, "def handle(notif, client): pass"))
    runner = receiver.app.test_cli_runner()
    written = runner.invoke(args=["handlers", "suggest", "disputes", "--write"])
    assert written.stdout == "Each of these types has a module.\n"
    assert "without a module" not in runner.invoke(args=["handlers", "suggest", "disputes"]).stdout


def test_no_file_is_overwritten(suggest: Suggest, package: str) -> None:
    """If a test is there already, nothing is written."""
    there = Path("tests", package, "test_v1_charge_dispute_updated.py")
    write(there, "mine")
    result = suggest("disputes", "--write")
    assert result.exit_code == 1
    assert "already exists. Nothing was written" in result.stderr
    assert there.read_text(encoding="utf-8") == "mine"
    assert not Path(package, "v1_charge_dispute_updated.py").exists()
    assert not Path(package, "v1_charge_dispute_funds_withdrawn.py").exists()


def test_documentation_shows_the_output(
    make_receiver: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows it for the shipped handlers."""
    monkeypatch.setenv("PATH", "")  # the page names the program in .venv
    runner = make_receiver(handlers_package="handlers").app.test_cli_runner()
    (shown,) = pages.shown("docs/handlers.md", "What an integration needs")
    said = runner.invoke(args=["handlers", "suggest", "disputes"]).stdout.splitlines()
    assert [line for line in said if not line.startswith("6 types")] == shown[:-1]
    assert shown[-1].startswith("6 types without a module. To write them: .venv/bin/flask handlers")


def test_purposes_are_named(suggest: Suggest) -> None:
    """A wrong purpose is refused with the right ones, which the page names, too."""
    rows = pages.table("docs/handlers.md", "What an integration needs")
    assert [row[0].strip("`") for row in rows] == list(PURPOSES)
    assert "'subscriptions', 'one-time-payments', 'connect', 'disputes', 'invoicing'" in (
        suggest("payments").stderr
    )
