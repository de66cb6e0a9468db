"""All log lines have one format, and none holds a secret."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import runpy
import subprocess
import sys
import tempfile
import textwrap
import threading
import unicodedata
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from gunicorn.config import Config

from app import log
from app.log.libraries import QUIET_LOGGERS
from app.log.lines import LINE_BYTES, VALUE_SHARE, VALUES_LENGTHS
from app.log.logger import METHODS
from app.log.stream import MAX_WAITING
from app.text import HIDDEN, NOTE
from app.web.gunicorn_logger import GunicornLogger
from tests.support.files import write
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]

SECRET = 'whsec_marker"with\\odd'


def configure(log_format: str = "json", level: str = "info") -> None:
    """Set up logging with one secret."""
    log.configure(level, log_format, secrets=[SECRET, "sk_test_marker"])


def test_lines_are_json_with_the_event_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is one JSON object. Time, level and event come first."""
    configure()

    structlog.get_logger("team").warning("named", answer=42)

    line = capsys.readouterr().err
    assert list(json.loads(line))[:3] == ["timestamp", "level", "event"]
    assert line.endswith("}\n")
    assert {**json.loads(line), "timestamp": None} == {
        "timestamp": None,
        "level": "warning",
        "event": "named",
        "answer": 42,
    }


def test_lines_of_libraries_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of the standard library's loggers, and warnings, have the format of the service."""
    logging.captureWarnings(capture=False)  # as in a new process
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # the tests' own filter makes it an error
        configure()
        logging.getLogger("team").error("failed %s", "twice", extra={"ignored": 1})
        warnings.warn_explicit("old", UserWarning, "file.py", 1)
        logging.captureWarnings(capture=False)

    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["logger"]) == ("failed twice", "error", "team")
    assert second["logger"] == "py.warnings"


def test_level_applies_to_all_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL applies to the lines of the service and of libraries."""
    configure(level="warning")

    structlog.get_logger().info("ours")
    logging.getLogger("team").info("theirs")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", QUIET_LOGGERS)
def test_libraries_log_no_answers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Even at LOG_LEVEL=debug the SDK's lines with answers of Stripe's API are not written."""
    configure(level="debug")

    logging.getLogger(f"{name}.part").info("an answer with a customer in it")

    assert capsys.readouterr().err == ""


def test_driver_warns_of_no_error_that_it_raises(capsys: pytest.CaptureFixture[str]) -> None:
    """The service logs the error as an outage. The driver's errors in its own threads are shown."""
    configure(level="debug")

    logging.getLogger("psycopg").warning("error ignored terminating a pipeline")
    logging.getLogger("psycopg").error("unexpected")

    assert "ignored" not in (shown := capsys.readouterr().err)
    assert "unexpected" in shown


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        "sk_test_marker",
        "whsec_marker_of_somebody_else",
        "rk_live_marker123",
        "postgresql://user:marker@host/x",
    ],
)
def test_secrets_are_redacted_everywhere(
    log_format: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Secrets are redacted in names, values, nested values and exceptions."""
    configure(log_format)

    structlog.get_logger().info("named", value=text, nested={"list": [text]})
    logging.getLogger("team").error("with %s", text)
    structlog.get_logger().error("raised", exc_info=ValueError(text))

    printed = capsys.readouterr().err
    assert "marker" not in printed
    assert printed.count("[redacted]") >= 4


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_hold_no_local_variables(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Local variables hold customers' data, so tracebacks have none."""
    configure(log_format)

    def fail() -> None:
        local = "mar" + "ker"
        raise ValueError(len(local))

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("ours")
        logging.getLogger("team").exception("theirs")

    printed = capsys.readouterr().err
    assert printed.count("ValueError: 6") == 2
    assert "marker" not in printed


def test_console_format(capsys: pytest.CaptureFixture[str]) -> None:
    """A line on a terminal is no JSON. Without a terminal it has no colours."""
    configure("console")

    structlog.get_logger().info("named", answer=42)

    printed = capsys.readouterr().err
    assert "named" in printed
    assert "answer=42" in printed
    assert "\x1b" not in printed


TEAM = """
def charge(amount):
    raise ValueError("no such amount")

def handle(notif, client):
    charge(0)
"""


@pytest.mark.parametrize("level", ["info", "debug"])
def test_console_shows_the_exception_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, level: str
) -> None:
    """The frames of the team come next. The others are left out, unless the level is debug."""
    file = tmp_path / "team" / "handlers" / "v1_customer_created.py"
    write(file, TEAM)
    handle = runpy.run_path(str(file))["handle"]
    log.configure(level, "console", package="team.handlers")

    try:
        handle(None, None)
    except ValueError:
        structlog.get_logger().exception("failed")

    _, exception, first, *rest = capsys.readouterr().err.splitlines()
    assert exception == "ValueError: no such amount"
    assert first == f'  File "{file}", line 6, in handle'
    assert f'  File "{file}", line 3, in charge' in rest
    is_whole = "Traceback (most recent call last):" in rest
    assert is_whole is (level == "debug")
    assert ("1 more frame (LOG_LEVEL=debug)" in rest) is not is_whole
    assert any(f'File "{__file__}"' in line for line in rest) is is_whole


def test_console_shows_all_frames_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a frame of the team, nothing is left out: the error is the service's."""
    configure("console")
    try:
        int("six")
    except ValueError:
        structlog.get_logger().exception("failed")

    _, exception, *rest = capsys.readouterr().err.splitlines()
    assert exception.startswith("ValueError: invalid literal for int()")
    assert any(f'File "{__file__}"' in line for line in rest)


def test_lines_of_gunicorn_have_the_same_format(capsys: pytest.CaptureFixture[str]) -> None:
    """Gunicorn's own lines have the format of the service, and appear once."""
    configure()
    gunicorn = GunicornLogger(Config())

    gunicorn.info("Booting worker with pid: %s", 7)

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "Booting worker with pid: 7"
    assert json.loads(line)["logger"] == "gunicorn.error"


FORMATS = pytest.mark.parametrize("log_format", ["json", "console"])


class TestStream:
    """Lines go to the standard error of the start, even if that is replaced or closed."""

    def test_stream_is_taken_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """``sys.stderr`` of a callback would receive the lines of all threads."""
        configure()

        with contextlib.redirect_stderr(io.StringIO()) as instead:
            structlog.get_logger().info("ours")
            logging.getLogger("team").error("theirs")

        assert instead.getvalue() == ""
        assert names(capsys) == ["ours", "theirs"]

    @pytest.mark.parametrize("left_behind", [None, "closed"])
    def test_overlapping_redirections_lose_nothing(
        self, capsys: pytest.CaptureFixture[str], left_behind: str | None
    ) -> None:
        """Of two overlapping redirections, the later end leaves a closed stream behind."""
        configure()
        other = None if left_behind is None else io.StringIO()
        first, second = contextlib.redirect_stderr(other), contextlib.redirect_stderr(io.StringIO())

        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        if other:
            other.close()
        structlog.get_logger().info("ours")
        logging.getLogger("team").error("theirs")

        assert sys.stderr is other
        sys.stderr = sys.__stderr__
        assert names(capsys) == ["ours", "theirs"]

    @pytest.mark.parametrize(
        "error", [OSError(28, "No space left on device"), ValueError("closed"), TypeError("odd")]
    )
    def test_line_goes_to_the_descriptor_when_the_stream_fails(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        error: Exception,
    ) -> None:
        """When the stream fails, the line goes to the descriptor."""

        class Broken(io.StringIO):
            def write(self, _text: str) -> int:
                raise error

        monkeypatch.setattr(sys, "stderr", Broken())
        configure()

        structlog.get_logger().info("ours", name="J\u00fcrgen \ud800")
        logging.getLogger("team").error("theirs")

        assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == [
            "ours",
            "theirs",
        ]

    @pytest.mark.processes
    @FORMATS
    def test_process_without_standard_error_logs_nothing(self, log_format: str) -> None:
        """Descriptor 2 belongs to another file or connection in such a process."""
        code = """
            import os, sys
            from app import log
            from app.settings import _log_format
            import structlog
            assert sys.stderr is None and _log_format() == "json"
            log.configure("info", sys.argv[1])
            file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
            assert file == 2, file
            structlog.get_logger().info("ours")
        """
        with tempfile.NamedTemporaryFile() as file:
            # Closed by the shell: Python itself always passes on three descriptors.
            command = 'exec "$0" -c "$1" "$2" "$3" 2>&-'
            words = [sys.executable, textwrap.dedent(code), log_format, file.name]
            done = subprocess.run(["sh", "-c", command, *words], cwd=ROOT, check=False)
            assert (done.returncode, file.read()) == (0, b"")

    @pytest.mark.processes
    def test_unwritable_log_raises_nothing(self) -> None:
        """When stream and descriptor fail, as on a full disk, no log call raises."""
        code = """
            import logging, os, sys
            from app import log
            import structlog
            os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
            log.configure("info", "json")
            structlog.get_logger().info("ours")
            logging.getLogger("team").error("theirs")
            os._exit(7)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False)
        assert done.returncode == 7

    def test_only_a_terminal_gets_colours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An object that is no file is no terminal."""

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        configure("console")
        structlog.get_logger().info("named", evil="\x1b[2J\u202e", **{"\x1b[2J": 1})
        assert "\x1b[" in terminal.getvalue()
        assert "\x1b[2J" not in terminal.getvalue()

        monkeypatch.setattr(sys, "stderr", None)
        configure("console")
        assert not log.output.is_terminal


def names(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the events of all lines."""
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


class Odd:
    """Raises when it is printed."""

    def __init__(self, error: type[BaseException] = ValueError) -> None:
        """Take the error to raise."""
        self._error = error

    def __repr__(self) -> str:
        """Raise."""
        raise self._error

    __str__ = __repr__

    def __bool__(self) -> bool:
        """Raise."""
        raise self._error


class OddError(Exception):
    """Raises when it is printed, and has no name."""

    def __str__(self) -> str:
        """Raise."""
        raise TypeError


class Nameless(type):
    """The type of a type whose name raises."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]  # that is what is odd
        """Raise."""
        raise LookupError


class NamelessOdd(Odd, metaclass=Nameless):
    """An object whose type has no name."""


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR

#: Values that JSON, or Python's own printing, rejects.
VALUES: list[Any] = [
    b"\xff",
    uuid.UUID(int=1),
    {(1, 2): 3, uuid.UUID(int=1): 4, None: b"x"},
    CIRCULAR,
    [CIRCULAR] * 3,
    Odd(),
    Odd(SystemExit),
    Odd(asyncio.CancelledError),
    {Odd(): Odd()},
    NamelessOdd(),
    OddError(),
    "lone \ud800 surrogate",
    10**5000,
    float("nan"),
    object,
    Ellipsis,
    structlog,
]
# By number: pytest prints arguments, and some of these cannot be printed.
EACH_VALUE = pytest.mark.parametrize("number", range(len(VALUES)))


class TestAnything:
    """No log call raises, and each writes its line."""

    @FORMATS
    @EACH_VALUE
    def test_any_value(
        self, log_format: str, number: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As a value, a nested value, a bound value, an argument, the event or an exception."""
        configure(log_format)
        value = VALUES[number]
        ours, theirs = structlog.get_logger("team"), logging.getLogger("team")

        ours.info("named", value=value)
        ours.info("named", value=[{"deep": value}])
        ours.bind(value=value).info("named")
        ours.info("named %s", value)
        ours.info(value)
        ours.info("named", exc_info=value)
        ours.info("named", exc_info=(OddError, value, None))
        ours.info("named", exception=value, stack=value)
        theirs.info("named %s", value)
        theirs.info("named %(a)s", {"a": value})
        theirs.info(value)
        theirs.info("named", extra={"value": value})
        with structlog.contextvars.bound_contextvars(value=value):
            ours.info("named")
            theirs.info("named")

        printed = capsys.readouterr().err
        if log_format == "json":
            assert (
                len([json.loads(line, parse_constant=pytest.fail) for line in printed.splitlines()])
                == 14
            )
        assert printed.count("[info     ]" if log_format == "console" else '"level": "info"') == 14
        assert "--- Logging error ---" not in printed

    @FORMATS
    @pytest.mark.parametrize("kind", [structlog.get_logger, logging.getLogger])
    @pytest.mark.parametrize(
        "call",
        [
            ("info", ["named %d", "x"], {}),
            ("info", ["named", 1, 2], {}),
            ("info", ["named %(a)s", {"b": 1}], {}),
            ("log", [25, "named"], {}),
            ("log", [20, "named"], {}),
            ("exception", ["named"], {}),
            ("exception", ["named"], {"exc_info": ()}),
            ("info", ["named"], {"extra": {"name": 1, "message": 2}}),
            ("info", ["named"], {"stack_info": True}),
        ],
        ids=map(str, range(9)),
    )
    def test_any_call(
        self,
        log_format: str,
        kind: Callable[[], Any],
        call: tuple[str, list[Any], dict[str, Any]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Wrong arguments make no call raise."""
        configure(log_format)
        method, args, values = call

        getattr(kind(), method)(*args, **values)

        assert capsys.readouterr().err.count("named") == 1

    def test_wrong_arguments_are_in_the_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """When arguments do not fit the message, the line shows both."""
        configure()

        structlog.get_logger().info("named %d", "x", event="evt_1", self=1, method_name=2)
        structlog.get_logger().log("info", "named")
        logging.getLogger("team").info("named %d", "x")
        structlog.get_logger().info()

        ours, no_level, theirs, empty = map(json.loads, capsys.readouterr().err.splitlines())
        assert (ours["event"], ours["args"], ours["event_"], ours["self"]) == (
            "named %d",
            ["x"],
            "evt_1",
            1,
        )
        assert (theirs["event"], theirs["args"]) == ("named %d", ["x"])
        assert (no_level["event"], no_level["level"]) == ("named", "info")
        assert "event" not in empty

    def test_methods_have_the_levels_of_structlog(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each method has its level, and writes nothing below LOG_LEVEL, for any arguments."""
        configure(level="warning")
        logger = structlog.get_logger()

        for name in (*METHODS, "log"):
            getattr(logger, name)(*([30] if name == "log" else []), "%s", name, event=Odd())

        lines = map(json.loads, capsys.readouterr().err.splitlines())
        assert {line["event"]: line["level"] for line in lines} == {
            "warning": "warning",
            "warn": "warning",
            "error": "error",
            "exception": "error",
            "critical": "critical",
            "fatal": "critical",
            "log": "warning",
        }

    def test_events_can_be_captured(self) -> None:
        """``structlog.testing.capture_logs`` works in the tests of handlers."""
        configure()

        with structlog.testing.capture_logs() as captured:
            structlog.get_logger().info("named %s", "x", answer=42)

        assert captured == [{"event": "named x", "answer": 42, "log_level": "info"}]

    @pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("team")])
    @pytest.mark.parametrize(
        "say", [["named %s", Odd(KeyboardInterrupt)], [Odd(KeyboardInterrupt)]]
    )
    def test_ctrl_c_is_raised(self, log: Any, say: list[Any]) -> None:
        """Ctrl-C ends the process, not only the line."""
        configure()

        with pytest.raises(KeyboardInterrupt):
            log.info(*say)

    def test_ctrl_c_in_an_exception(self) -> None:
        """The same holds while an exception is rendered."""
        configure()

        with pytest.raises(KeyboardInterrupt):
            structlog.get_logger().info("named", exc_info=Odd(KeyboardInterrupt))


@FORMATS
class TestBound:
    """No line is longer than 32 KiB or controls a terminal."""

    @pytest.mark.parametrize(
        ("event", "values"),
        [
            ("x" * 10**7, {}),
            ("named", {"value": "\U0001f600" * 10**6}),
            ("named", {"value": ["\U0001f600" * 10**6] * 100}),
            ("named", {"value": "\x1b" * 10**7}),
            ("named", {f"value{number}": "x" * 3999 for number in range(100)}),
            ("named", {f"value{number}": "\x01" * 3999 for number in range(100)}),
            ("named", {f"value{number}": number for number in range(5000)}),
            ("named", {"k" * 10**7: 1}),
            ("named", {"\U0001f600" * 190 + str(number): 1 for number in range(200)}),
            ("named", {"value": {str(number): [number] * 100 for number in range(10**4)}}),
        ],
        ids=map(str, range(10)),
    )
    def test_line(
        self,
        log_format: str,
        event: str,
        values: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The line keeps the identifiers of the event beside long values."""
        configure(log_format)

        with structlog.contextvars.bound_contextvars(event_id="evt_1", attempt=2):
            structlog.get_logger().info(event, **values)
            logging.getLogger("team").info(event, {"values": values})
            cut = {
                key: each[:1] if isinstance(each, list) else each for key, each in values.items()
            }
            fail_with(event + str(cut)[: 10**6], structlog.get_logger())

        printed = capsys.readouterr().err
        if log_format == "json":
            assert len(printed.splitlines()) == 3
        for line in printed.splitlines():
            assert len(line.encode()) <= LINE_BYTES
            if log_format == "json":
                made = json.loads(line)
                assert (made["event_id"], made["attempt"]) == ("evt_1", 2)
        assert printed.count("evt_1") == 3

    @pytest.mark.parametrize("character", ["x", "\U0001f600", "\x1b", "\n"])
    def test_exception(
        self, log_format: str, character: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A text of 20 million characters leaves space for the stack."""
        configure(log_format)

        text = "begin" + character * 20_000_000 + "end"

        for logger in (structlog.get_logger(), logging.getLogger("team")):
            fail_with(text, logger)
            line = capsys.readouterr().err
            assert len(line.encode()) <= LINE_BYTES + 1
            assert "in raise_value_error" in line
            assert "ValueError: begin" in line
            assert "characters left out" in line
            is_kept = line.rstrip('}"\n').endswith("end")
            assert is_kept if log_format == "json" else "end\n  File " in line

    def test_no_line_controls_the_terminal(
        self, log_format: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Neither name, value, event, logger nor exception controls a terminal."""
        configure(log_format)
        evil = "\x1b[2J\u202eevil\u2028\x9b\r\x7f\u200b"

        structlog.get_logger().error(
            evil, value=evil, nested=[evil], **{evil: 1}, exc_info=OSError(evil)
        )
        logging.getLogger(evil).error(evil)
        logging.getLogger("team").error("two\nlines")

        printed = capsys.readouterr().err
        assert {each for each in printed if unicodedata.category(each) in HIDDEN} == {"\n"}
        assert printed.count("evil") >= 7
        assert "\nlines" not in printed

    def test_no_cut_shows_a_part_of_a_secret(
        self, log_format: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """No cut of any text shows a part of a secret, in any kind of value."""
        configure(log_format)
        longest = int(VALUES_LENGTHS[0] * VALUE_SHARE)
        side = (longest - NOTE) // 2

        for offset in range(len(SECRET) + 1):
            text = "-" * (side - offset) + SECRET + "-" * 10_000 + SECRET + "-" * (side - offset)
            structlog.get_logger().info("named", value=text, nested=[text])
            structlog.get_logger().info("raised", exc_info=ValueError(text))

        printed = capsys.readouterr().err
        assert [word for word in ("marker", "with", "odd") if word in printed] == []


def fail_with(text: str, logger: Any) -> None:
    """Log an exception with this text."""
    try:
        raise_value_error(text)
    except ValueError:
        logger.exception("raised")


def raise_value_error(text: str) -> None:
    """Raise it."""
    raise ValueError(text)


class TestNeverWaiting:
    """Important threads do not wait for standard error."""

    def test_lines_are_written_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another thread writes the lines, also those left at the end of the block, and ends."""
        stream = redirect(monkeypatch)
        with log.output.never_waiting():
            for number in range(3):
                log.output.write(f"{number}\n")
        wait_for(lambda: stream.getvalue() == "0\n1\n2\n")
        log.output.write("3\n")
        assert stream.getvalue().endswith("2\n3\n")
        wait_for(lambda: "log" not in {each.name for each in threading.enumerate()})

    def test_last_line_of_a_process_is_written_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that ends itself does not leave the line to another thread."""
        stream = redirect(monkeypatch)
        with log.output.never_waiting(), log.output.waiting():
            log.output.write("last\n")
            assert stream.getvalue() == "last\n"

    def test_waiting_lines_are_limited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Waiting lines use memory, and standard error may never be read again."""
        goes_on = threading.Event()
        stream = Stuck(goes_on)
        monkeypatch.setattr(log.output, "_stream", stream)
        with log.output.never_waiting():
            for _ in range(MAX_WAITING + 100):
                log.output.write(".")
        goes_on.set()
        wait_for(lambda: "log" not in {each.name for each in threading.enumerate()})
        assert MAX_WAITING <= len(stream.written) <= MAX_WAITING + 1

    def test_without_a_thread_the_caller_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A late line is better than none."""
        stream = redirect(monkeypatch)

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        # The limit of threads belongs to the user: it cannot be lowered for one test.
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with log.output.never_waiting():
            log.output.write("said\n")
            assert stream.getvalue() == "said\n"


class Stuck(io.StringIO):
    """A stream whose writes wait for an event."""

    def __init__(self, goes_on: threading.Event) -> None:
        """Take the event."""
        super().__init__()
        self._goes_on = goes_on
        self.written: list[str] = []

    def write(self, text: str) -> int:
        """Wait, and keep the text."""
        self._goes_on.wait(60)
        self.written.append(text)
        return len(text)


def redirect(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return the stream that replaces standard error from now on."""
    stream = io.StringIO()
    # Instead of a pipe, from which a test would read in pieces.
    monkeypatch.setattr(log.output, "_stream", stream)
    return stream
