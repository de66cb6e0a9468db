"""``flask events export`` and ``import``: lines of JSON, and what happens to a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devkit import samples
from tests.conftest import Receiver

Make = Callable[..., Receiver]
TYPE = "v1.customer.created"
OTHER = "v1.invoice.paid"


@pytest.fixture
def receiver(make_receiver: Make, database_url: str) -> Receiver:
    """An inbox with five events of two types, one of them dead."""
    giving_up = "from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('no plan')\n"
    receiver = make_receiver({"v1_invoice_paid": giving_up}, database_url=database_url)
    for number in range(4):
        receiver.deliver(samples.notification(TYPE, event_id=f"evt_{number}"))
    receiver.deliver(samples.notification(OTHER, event_id="evt_dead", object_id="in_1"))
    return receiver


@pytest.fixture
def target(make_receiver: Make, tmp_path: Path) -> Receiver:
    """A service with another inbox, which is empty."""
    return make_receiver({}, database_url=f"sqlite:///{tmp_path}/target.sqlite3")


def run(receiver: Receiver, *arguments: str, given: str | None = None) -> tuple[int, str, str]:
    """Run a command of ``flask events``. Returns its exit status, output and errors."""
    done = receiver.app.test_cli_runner().invoke(args=["events", *arguments], input=given)
    return done.exit_code, done.stdout, done.stderr


def exported(receiver: Receiver, *arguments: str) -> list[dict[str, Any]]:
    """Return the events that a successful export prints."""
    status, lines, said = run(receiver, "export", *arguments)
    assert status == 0, said
    events = [json.loads(line) for line in lines.splitlines()]
    count = len(events)
    assert said == f"{count} event{'' if count == 1 else 's'} exported.\n"
    return events


class TestExport:
    """``export`` prints whole events."""

    def test_all_events(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        """The latest comes first. Each has its body, its state and its history."""
        monkeypatch.setattr("app.cli.events.transfer.ROWS", 2)
        events = exported(receiver)
        assert [each["id"] for each in events] == ["evt_dead", "evt_3", "evt_2", "evt_1", "evt_0"]
        dead = events[0]
        assert json.loads(dead["body"])["related_object"]["id"] == "in_1"
        assert (dead["state"], dead["outcome"], dead["reason"]) == ("dead", "gave_up", "no plan")
        assert dead["received_at"].endswith("Z")
        assert (dead["attempts"], dead["retries"]) == ([], [])

    def test_selection(self, receiver: Receiver) -> None:
        """Options select events, as in the list. A limit takes the latest."""
        assert {each["id"] for each in exported(receiver, "--type", OTHER)} == {"evt_dead"}
        latest = exported(receiver, "--type", TYPE, "--limit", "2")
        assert [each["id"] for each in latest] == ["evt_3", "evt_2"]
        assert exported(receiver, "--state", "running") == []

    def test_ids(self, receiver: Receiver) -> None:
        """Single events are named. One that is unknown is an error."""
        assert [each["id"] for each in exported(receiver, "evt_1", "evt_0")] == ["evt_1", "evt_0"]
        status, lines, said = run(receiver, "export", "evt_1", "evt_x")
        assert (status, lines) == (1, "")
        assert "The inbox has no event evt_x." in said
        status, _, said = run(receiver, "export", "evt_1", "--limit", "1")
        assert status == 2
        assert "Give either IDs or options" in said


class TestImport:
    """``import`` adds the events that are missing."""

    def test_round_trip(
        self, receiver: Receiver, target: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other inbox exports the same lines. A second import adds nothing."""
        monkeypatch.setattr("app.cli.events.transfer.ROWS", 2)
        _, lines, _ = run(receiver, "export")
        file = tmp_path / "events.jsonl"
        file.write_text(f"{lines}\n")
        assert run(target, "import", str(file))[:2] == (0, "5 events added, 0 known.\n")
        assert run(target, "export")[1] == lines
        assert run(target, "import", str(file))[:2] == (0, "0 events added, 5 known.\n")
        entries = target.services.inbox.audit.entries(10)
        assert [(each.action, each.affected) for each in entries] == [("import", 0), ("import", 5)]
        again = samples.notification(TYPE, event_id="evt_0")
        assert target.deliver(again).get_json()["outcome"] == "duplicate"

    def test_standard_input(self, receiver: Receiver, target: Receiver) -> None:
        """``-`` reads the lines of a pipe."""
        lines = run(receiver, "export", "evt_0")[1]
        assert run(target, "import", "-", given=lines)[1] == "1 event added, 0 known.\n"
        assert [each["id"] for each in exported(target)] == ["evt_0"]

    def test_pending_event(self, make_receiver: Make, target: Receiver, tmp_path: Path) -> None:
        """It does not run in two inboxes, unless you say so."""
        queue = make_receiver({}, processing="queue", worker_threads=0)
        for event_id in ("evt_1", "evt_2"):
            queue.deliver(samples.notification(TYPE, event_id=event_id))
        files = tmp_path / "one", tmp_path / "two"
        for file, event_id in zip(files, ("evt_1", "evt_2"), strict=True):
            file.write_text(run(queue, "export", event_id)[1])
        status, said, _ = run(target, "import", str(files[0]))
        assert status == 0
        assert "1 event could still run at the export, and is dead here." in said
        assert run(target, "import", str(files[1]), "--runnable")[1] == "1 event added, 0 known.\n"
        assert target.event("evt_1").state == "dead"
        assert target.event("evt_2").state == "pending"

    def test_wrong_line(
        self,
        receiver: Receiver,
        target: Receiver,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its number is named. Nothing is imported, not even the steps before it."""
        monkeypatch.setattr("app.cli.events.transfer.ROWS", 2)
        file = tmp_path / "events.jsonl"
        file.write_text(run(receiver, "export")[1] + '{"id": 7}\n')
        status, _, said = run(target, "import", str(file))
        assert status == 1
        assert "Line 6 needs one of body and body_base64. Nothing was imported." in said
        assert exported(target) == []

    def test_missing_file(self, target: Receiver, tmp_path: Path) -> None:
        """The sentence has the reason."""
        status, _, said = run(target, "import", str(tmp_path / "none"))
        assert status == 1
        assert "The file cannot be read (" in said

    def test_missing_inbox(self, make_receiver: Make, tmp_path: Path) -> None:
        """An inbox that was never created is named as such, and the sentence creates it."""
        folder, file = tmp_path / "later", tmp_path / "events.jsonl"
        file.touch()
        folder.touch()  # or the start would create the inbox
        target = make_receiver({}, database_url=f"sqlite:///{folder}/inbox.sqlite3")
        folder.unlink()
        folder.mkdir()
        status, _, said = run(target, "import", str(file))
        sentence = "Error: There is no inbox here; create it with `flask db upgrade`."
        assert (status, said.splitlines()[-1]) == (1, sentence)
        assert not (folder / "inbox.sqlite3").exists()

    def test_lost_inbox(self, target: Receiver, tmp_path: Path) -> None:
        """An inbox that was here before is missing. A new one would be empty."""
        file = tmp_path / "events.jsonl"
        file.touch()
        (tmp_path / "target.sqlite3").unlink()
        status, _, said = run(target, "import", str(file))
        assert status == 1
        assert "Error: The inbox's file is missing: inbox_file_missing. Run `flask doctor`" in said

    def test_several_halted_events(self, target: Receiver, tmp_path: Path) -> None:
        """The sentence agrees with their number."""
        line = {"type": TYPE, "livemode": False, "body": "{}", "state": "pending"}
        at = {"received_at": "2026-11-25T10:00:00Z"}
        lines = [json.dumps({**line, **at, "id": f"evt_{each}"}) for each in range(2)]
        file = tmp_path / "events.jsonl"
        file.write_text("\n".join(lines))
        assert (
            "2 events could still run at the export, and are dead here."
            in run(target, "import", str(file))[1]
        )


class TestFixture:
    """``export ID --fixture`` writes a body for a test."""

    def test_file_and_output(self, receiver: Receiver, tmp_path: Path) -> None:
        """The data of customers is replaced. An existing file is not."""
        status, said, _ = run(receiver, "export", "evt_dead", "--fixture")
        fixture = json.loads(said)
        assert (status, fixture["type"]) == (0, OTHER)
        assert "in_1" not in said
        assert fixture["related_object"]["url"] == f"/v1/invoices/{fixture['related_object']['id']}"
        file = tmp_path / "fixture.json"
        arguments = ("export", "evt_dead", "--fixture", str(file))
        assert run(receiver, *arguments)[:2] == (0, f"Wrote {file}.\n")
        assert json.loads(file.read_text()) == fixture
        status, _, said = run(receiver, *arguments)
        assert status == 1
        assert "cannot be written (" in said

    def test_refusals(self, receiver: Receiver) -> None:
        """It takes one event, which the inbox has with its body."""
        for arguments, words in (
            (("evt_0", "evt_1"), "--fixture takes one ID."),
            ((), "--fixture takes one ID."),
            (("evt_x",), "The inbox has no event evt_x."),
        ):
            status, _, said = run(receiver, "export", *arguments, "--fixture")
            assert status > 0
            assert words in said
        event = receiver.event("evt_0")
        assert receiver.services.inbox.erasure.erase(event, "cus_x") is True
        said = run(receiver, "export", "evt_0", "--fixture")[2]
        assert "The body of evt_0 was erased." in said
