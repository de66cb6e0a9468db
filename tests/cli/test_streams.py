"""A stream that is closed or full ends a command with one sentence, without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
from flask.cli import ScriptInfo

from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql

ROOT = Path(__file__).parents[2]
TYPE = "v1.customer.created"
FULL = "Error: The output cannot be written: No space left on device.\n"
STOPPED = f"Stopped after this event: evt_1  {TYPE}  handled\n"

Make = Callable[..., Receiver]
End = Callable[..., object]


@pytest.fixture
def several(make_receiver: Make) -> Receiver:
    """Two dead events whose callback returns now."""
    receiver = make_receiver({"v1_customer_created": "def handle(notif, client): pass\n"})
    for event_id in ("evt_1", "evt_2"):
        receiver.deliver(samples.notification(TYPE, event_id=event_id))
    raw_sql.execute(receiver.services.settings.database_url, "UPDATE events SET state = 'dead'")
    return receiver


@pytest.fixture
def end(several: Receiver, monkeypatch: pytest.MonkeyPatch) -> End:
    """A function that runs a command with a replaced stream, and returns its exit status."""
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # Click replaces it at a broken pipe

    def end(name: str, stream: TextIO | None, *arguments: str) -> object:
        monkeypatch.setattr(sys, name, stream)
        info = ScriptInfo(create_app=lambda: several.app)
        with pytest.raises(SystemExit) as ended:
            several.app.cli.main(args=arguments, obj=info)
        return ended.value.code

    return end


@pytest.mark.parametrize(
    "command",
    [
        ["events", "list"],
        ["events", "stats", "--json"],
        ["events", "show", "evt_1"],
        ["doctor", "--no-ping"],
    ],
    ids=str,
)
def test_full_disk(end: End, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence has the error. Closing the file proves that no later flush fails."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert end("stdout", full, *command) == 1
    assert capsys.readouterr().err.endswith(FULL)


def test_retry_into_a_full_disk(
    several: Receiver, end: End, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error has the last event that was run."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert end("stdout", full, "events", "retry", "evt_1", "evt_2", "--yes") == 1
    assert capsys.readouterr().err.endswith(f"{STOPPED}{FULL}")
    assert (several.event("evt_1").state, several.event("evt_2").state) == ("done", "dead")


def test_retry_into_a_closed_pipe(end: End, capsys: pytest.CaptureFixture[str]) -> None:
    """``| head`` ends a command in silence, but not one that has run an event."""
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as pipe:
        assert end("stdout", pipe, "events", "retry", "evt_1", "--yes") == 1
    assert capsys.readouterr().err.endswith(STOPPED)


def test_question_without_standard_input(
    several: Receiver, end: End, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed standard input (``<&-``) cannot answer: nothing is run."""
    assert end("stdin", None, "events", "retry", "evt_1") == 1
    asked = "Error: Standard input is closed, so the command cannot ask. Add --yes.\n"
    assert capsys.readouterr().err.endswith(asked)
    assert several.event("evt_1").state == "dead"


def test_questions_are_asked_in_one_place() -> None:
    """Only one module calls click.confirm: elsewhere a closed stream would be a traceback."""
    asking = [
        file.name
        for file in (ROOT / "app/cli").rglob("*.py")
        if "click.confirm(" in file.read_text(encoding="utf-8")
    ]
    assert asking == ["output.py"]
