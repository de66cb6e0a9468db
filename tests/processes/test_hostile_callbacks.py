"""The service under gunicorn, with callbacks that misuse the process."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata

import pytest

from app.log.lines import LINE_BYTES
from app.processing.results import REASON_LENGTH, TRACEBACK_LENGTH
from app.text import HIDDEN
from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    FAILED,
    HANDLED,
    MODULE,
    ROOT,
    Lab,
    Service,
    find,
    state,
)
from tests.support.waiting import wait_for

#: The event's id names the act. Callbacks signal each other by files in their folder.
HANDLER = r"""
    import contextlib, io, logging, time, uuid
    from pathlib import Path

    import structlog

    FOLDER = Path(__file__).parent
    log = structlog.get_logger(__name__)

    def handle(notif, client):
        {"first": first, "second": second, "values": values, "long": long, "steer": steer}.get(
            notif.id.split("_")[1], plain
        )()

    def tell(word):
        (FOLDER / word).touch()

    def wait(word):
        while not (FOLDER / word).exists():
            time.sleep(0.01)

    def first():
        stream = None if (FOLDER / "none").exists() else io.StringIO()
        with contextlib.redirect_stderr(stream):
            tell("first_entered")
            wait("second_entered")
        if stream:
            stream.close()
        tell("first_left")

    def second():
        wait("first_entered")
        with contextlib.redirect_stderr(io.StringIO()):
            tell("second_entered")
            log.info("inside")
            wait("first_left")

    def plain():
        log.info("ours")
        logging.getLogger("team").warning("theirs")

    class Odd:
        def __repr__(self):
            raise LookupError

        __str__ = __repr__

    def values():
        circular = {}
        circular["self"] = circular
        for value in (
            b"\xff", uuid.UUID(int=1), {uuid.UUID(int=1): 1}, {(1, 2): 3}, {"key": b"\xff"},
            circular, Odd(), {Odd(): Odd()}, 10**5000, float("nan"), "\ud800",
        ):
            log.info("value", value=value)
            log.info("value %s %d", value)
            logging.getLogger("team").warning("value %d", value)
            logging.getLogger("team").warning("value", extra={"name": value})

    def long():
        raise ValueError("begin" + "x" * 20_000_000 + "end")

    def steer():
        raise ValueError("\x1b[2J\u202eevil\u2028\x9b\r\x7f\u200bend")
"""

#: The lines that ``values`` logs.
VALUES = 4 * 11

FORMATS = pytest.mark.parametrize("log_format", ["json", "console"])


@pytest.fixture
def modules() -> dict[str, str]:
    """A hostile callback."""
    return {MODULE: HANDLER}


def wait_until(database_url: str, event_id: str, wanted: str) -> None:
    """Wait until an event has this state."""
    wait_for(lambda: state(database_url, event_id)[0] == wanted, DEADLINE)


def assert_no_control_characters(printed: str) -> None:
    """Fail if a character in ``printed`` controls a terminal."""
    assert {each for each in printed if unicodedata.category(each) in HIDDEN} <= {"\n", "\t"}


def overlap(lab: Lab, service: Service) -> None:
    """Let two callbacks redirect standard error. The first to begin ends first."""
    answers = [lab.later(service.deliver, event_id) for event_id in ("evt_first", "evt_second")]
    assert {answer.result(DEADLINE).status for answer in answers} == {200}
    wait_for((lab.package / "first_left").exists, DEADLINE)


@pytest.mark.parametrize("left_behind", ["none", "closed"])
@pytest.mark.parametrize("processing", ["inline", "queue"])
def test_overlapping_redirections_of_standard_error_do_no_harm(
    lab: Lab, sqlite_url: str, processing: str, left_behind: str
) -> None:
    """Later deliveries are answered and run, and every line appears."""
    (lab.package / left_behind).touch()
    service = lab.start(
        sqlite_url, PROCESSING=processing, WEB_CONCURRENCY=1, WEB_THREADS=2, WORKER_THREADS=2
    )
    overlap(lab, service)
    wait_until(sqlite_url, "evt_second", "done")

    event_ids = [f"evt_after_{number}" for number in range(8)]
    answers = [service.deliver(event_id).brief for event_id in event_ids]

    assert answers == [HANDLED if processing == "inline" else ACCEPTED] * 8
    for event_id in event_ids:
        wait_until(sqlite_url, event_id, "done")
    assert service.is_ready()
    wait_for(lambda: service.log.count('"event": "theirs"') == 8, DEADLINE)
    for line in ("inside", "ours", "delivery"):
        counted = service.log.count(f'"event": "{line}"')
        assert counted == {"inside": 1, "ours": 8, "delivery": 10}[line]


@FORMATS
def test_log_calls_fail_no_event(lab: Lab, sqlite_url: str, log_format: str) -> None:
    """A callback may log any value: it continues, runs once, and each line appears."""
    service = lab.start(sqlite_url, LOG_FORMAT=log_format, WEB_CONCURRENCY=1)

    assert service.deliver("evt_values").brief == HANDLED

    assert state(sqlite_url, "evt_values") == ("done", "handled", 1)

    def lines() -> list[str]:
        return [line for line in service.log.splitlines() if "evt_values" in line]

    def of_values() -> list[str]:
        return [line for line in lines() if "value" in line.replace("evt_values", "")]

    # A thread of this process reads the output.
    wait_for(lambda: len(of_values()) >= VALUES, DEADLINE)
    assert len(of_values()) == VALUES
    assert "Logging error" not in service.log
    if log_format == "json":
        assert {json.loads(line)["event_id"] for line in lines()} == {"evt_values"}


@FORMATS
def test_long_exception_makes_a_short_line(lab: Lab, sqlite_url: str, log_format: str) -> None:
    """Of 20 million characters the log and the inbox keep a part, and the place of the error."""
    service = lab.start(sqlite_url, LOG_FORMAT=log_format, WEB_CONCURRENCY=1)

    assert service.deliver("evt_long").brief == FAILED

    wait_for(lambda: "delivery" in service.log, DEADLINE)
    assert len(service.log) < 2 * LINE_BYTES
    event = find(sqlite_url, "evt_long")
    assert len(event.reason or "") == REASON_LENGTH
    assert len(event.traceback or "") <= TRACEBACK_LENGTH
    for text in (service.log, event.traceback or ""):
        assert "in long" in text
        assert "ValueError: beginx" in text
        assert "xend" in text


@FORMATS
def test_exception_cannot_control_a_terminal(lab: Lab, sqlite_url: str, log_format: str) -> None:
    """Neither the log nor a command prints a control character."""
    service = lab.start(sqlite_url, LOG_FORMAT=log_format, WEB_CONCURRENCY=1)
    assert service.deliver("evt_steer").brief == FAILED
    wait_for(lambda: "delivery" in service.log, DEADLINE)

    for words in (["show", "evt_steer"], ["show", "evt_steer", "--json"], ["list"]):
        shown = subprocess.run(
            [sys.executable, "-m", "flask", "events", *words],
            cwd=ROOT,
            env=lab.environment(DATABASE_URL=sqlite_url),
            capture_output=True,
            check=True,
        )
        assert_no_control_characters(shown.stdout.decode())
        assert "evil" in shown.stdout.decode()

    assert "evil" in service.log
    assert_no_control_characters(service.log)
