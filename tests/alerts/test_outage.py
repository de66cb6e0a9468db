"""An inbox that cannot be written is an alert too, from one process of each host."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from werkzeug import Response

from app.alerts import outage
from app.alerts.outage import OutageAlert
from app.alerts.tasks import make_outage
from tests.alerts.conftest import Lab, log_lines

MakeLab = Callable[..., Lab]

RAISED, RESOLVED = ("inbox_not_writable", "raised"), ("inbox_not_writable", "resolved")


class Host:
    """A service whose SQLite file can be taken away, and its processes."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        """Take the service, and the folder of its file."""
        self.lab = lab
        self._folder = folder
        lab.inbox.check()

    def process(self) -> OutageAlert:
        """Return the task of a new process."""
        return make_outage(self.lab.settings, self.lab.inbox)

    def away(self) -> None:
        """Take the inbox away: a folder is where the file was."""
        self.lab.inbox.close()
        for each in self._folder.glob("inbox.sqlite3*"):
            each.rename(each.with_name(f"away.{each.name}"))

    def back(self) -> None:
        """Put the inbox back."""
        for each in self._folder.glob("away.*"):
            each.rename(each.with_name(each.name.removeprefix("away.")))


@pytest.fixture
def host(
    make_lab: MakeLab, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Host:
    """A host with an empty folder for temporary files. There is no time before an alert."""
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 0.0)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return Host(make_lab(database_url=sqlite_url), tmp_path / "var")


def test_one_message_of_all_processes(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """All processes of a host notice the outage, and one message says so. So does its end."""
    processes = [host.process() for _ in range(3)]
    host.away()
    for each in 2 * processes:
        each.run()
    assert host.lab.receiver.states == [RAISED]
    (request,) = host.lab.receiver.received
    assert request.is_signed
    name = socket.gethostname()
    assert request.body["group"] == name
    assert f"The inbox cannot be written on {name} since 20" in request.body["text"]
    assert request.body["runbook"] == "docs/operations.md#inbox-not-writable"
    host.back()
    for each in 2 * processes:
        each.run()
    assert host.lab.receiver.states == [RAISED, RESOLVED]
    assert f"the inbox can be written on {name}" in host.lab.receiver.texts[1]
    events = [each["event"] for each in log_lines(capsys)]
    assert (events.count("alert_raised"), events.count("alert_resolved")) == (1, 1)


def test_short_outage(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of seconds is no alert."""
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 30.0)
    process = host.process()
    host.away()
    process.run()
    process.run()
    host.back()
    process.run()
    assert host.lab.receiver.received == []


def test_two_short_outages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an outage begins anew with each one."""
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 30.0)
    process, monotonic = host.process(), time.monotonic
    host.away()
    process.run()
    host.back()
    process.run()
    host.away()
    # A mock: no test waits for half a minute.
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 31)
    process.run()
    assert host.lab.receiver.received == []


@pytest.mark.parametrize("step", [-3600.0, 86400.0])
def test_receiver_is_away_too(host: Host, capsys: pytest.CaptureFixture[str], step: float) -> None:
    """The message is repeated with its id after a pause, or a step back, by any process."""
    host.away()
    host.lab.receiver.answers.append(Response("down", 503))
    host.process().run()
    host.process().run()
    assert len(host.lab.receiver.received) == 1
    note = next(Path(tempfile.gettempdir()).iterdir())
    values = json.loads(note.read_text())
    note.write_text(json.dumps({**values, "due_at": values["due_at"] + step}))
    host.process().run()
    host.process().run()
    ids = [each.id for each in host.lab.receiver.received]
    assert ids == [values["raised_id"]] * 2
    (line,) = [each for each in log_lines(capsys) if each["event"] == "alert_not_sent"]
    assert (line["tries"], line["reason"]) == (1, "503 SERVICE UNAVAILABLE: down")


def test_end_is_repeated(host: Host) -> None:
    """An end that is not taken is sent later, unless it is a day old."""
    process = host.process()
    host.away()
    process.run()
    host.back()
    host.lab.receiver.answers.append(Response("down", 503))
    process.run()
    process.run()
    assert host.lab.receiver.states == [RAISED, RESOLVED]
    note = next(Path(tempfile.gettempdir()).iterdir())
    note.write_text(json.dumps({**json.loads(note.read_text()), "since": 0}))
    host.process().run()
    host.process().run()
    assert host.lab.receiver.states == [RAISED, RESOLVED]
    assert note.read_text() == ""


def test_process_that_holds_the_note(host: Host) -> None:
    """While one process works on the note, the others wait for their next round."""
    process, other = host.process(), host.process()
    host.away()
    with other._note.locked() as is_ours:  # noqa: SLF001 - another process at this moment
        assert is_ours
        process.run()
    assert host.lab.receiver.received == []
    process.run()
    with other._note.locked():  # noqa: SLF001 - the same
        host.back()
        process.run()
    assert host.lab.receiver.states == [RAISED]


@pytest.mark.parametrize("kind", ["no folder", "link", "other user"])
def test_no_file(host: Host, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file of its own, a process keeps the note in its memory."""
    folder = Path(tempfile.gettempdir())
    if kind == "no folder":
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    process = host.process()
    path = process._note._path()  # noqa: SLF001 - where another user could put something
    if kind == "link":
        path.symlink_to(folder / "elsewhere")
    elif kind == "other user":
        path.touch()
        uid = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    host.away()
    process.run()
    process.run()
    assert host.lab.receiver.states == [RAISED]
    host.back()
    process.run()
    process.run()
    assert host.lab.receiver.states == [RAISED, RESOLVED]
    assert not (folder / "elsewhere").exists()


def test_unreadable_note(host: Host) -> None:
    """A note of another version is replaced."""
    host.away()
    process = host.process()
    process._note._path().write_text('{"other": 1}')  # noqa: SLF001 - of another version
    process.run()
    assert host.lab.receiver.states == [RAISED]


def test_without_a_receiver(
    make_lab: MakeLab, host: Host, capsys: pytest.CaptureFixture[str], sqlite_url: str
) -> None:
    """Without ALERT_URL there are log lines."""
    lab = make_lab(database_url=sqlite_url, alert_url=None)
    process = make_outage(lab.settings, lab.inbox)
    lab.inbox.check()
    lab.inbox.close()
    host.away()
    process.run()
    host.back()
    process.run()
    process.run()
    events = [each["event"] for each in log_lines(capsys)]
    assert (events.count("alert_raised"), events.count("alert_resolved")) == (1, 1)
    assert host.lab.receiver.received == []
