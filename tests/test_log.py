"""One format for all lines, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings

import pytest
import structlog
from gunicorn.config import Config

from app import log

SECRET = 'whsec_marker"with\\odd'


def configure(log_format: str = "json", level: str = "info") -> None:
    """Set up logging with one secret."""
    log.configure(level, log_format, secrets=[SECRET, "sk_test_marker"])


def test_our_lines_are_json_with_the_name_first(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is one JSON object: who reads it sees when, how grave, and what, first."""
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


def test_lines_of_other_libraries_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard library's loggers, and warnings, come out as ours do."""
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


def test_level_holds_for_both(capsys: pytest.CaptureFixture[str]) -> None:
    """LOG_LEVEL is one setting for everybody's lines."""
    configure(level="warning")

    structlog.get_logger().info("ours")
    logging.getLogger("team").info("theirs")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", log.QUIET_LOGGERS)
def test_libraries_that_log_answers_stay_quiet(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even at LOG_LEVEL=debug the SDK does not write what Stripe's API answered."""
    configure(level="debug")

    logging.getLogger(f"{name}.part").info("an answer with a customer in it")

    assert capsys.readouterr().err == ""


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
def test_secrets_are_replaced_wherever_they_stand(
    log_format: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a name, a value, a nested value or an exception: no secret gets through."""
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
    """A traceback shows where, never with what: local variables hold customers' data."""
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


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal a line is no JSON; without one it has no colours."""
    configure("console")

    structlog.get_logger().info("named", answer=42)

    printed = capsys.readouterr().err
    assert "named" in printed
    assert "answer=42" in printed
    assert "\x1b" not in printed


def test_gunicorns_lines_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    """Gunicorn's own lines go through the same format, and only once."""
    configure()
    gunicorn = log.GunicornLogger(Config())

    gunicorn.info("Booting worker with pid: %s", 7)

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "Booting worker with pid: 7"
    assert json.loads(line)["logger"] == "gunicorn.error"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed")])
def test_log_that_cannot_be_written_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A full disk or a closed pipe behind standard error does not fail a delivery."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise error

    configure()
    monkeypatch.setattr(sys, "stderr", Full())

    structlog.get_logger().info("ours")
    logging.getLogger("team").error("theirs")


def test_lines_go_to_standard_error_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was put in the place of standard error gets the lines from then on."""
    configure()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    structlog.get_logger().info("named")

    assert json.loads(stream.getvalue())["event"] == "named"
