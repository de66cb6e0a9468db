"""Tracebacks with the exception first, and then the frames of the team's code."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from app.tracebacks import parse

RUNNER = (
    '  File "/srv/app/processing/runner.py", line 183, in call\n    result = callback(notif)\n'
    "             ^^^^^^^^^^^^^^^\n"
)
SDK = '  File "/opt/venv/lib/python3.13/site-packages/stripe/_handler.py", line 9, in handle\n'
OWN = '  File "/srv/handlers/v1_invoice_paid.py", line 7, in handle\n    charge()\n'
DEEPER = '  File "/srv/handlers/_lib/money.py", line 2, in charge\n    raise ValueError("no")\n'
HEAD = "Traceback (most recent call last):\n"


def summary(text: str, package: str = "handlers") -> str:
    """Return the short form of a traceback."""
    return parse(text, package).brief("--full")


def printed(act: Callable[[], object]) -> str:
    """Return the traceback of the exception that ``act`` raises, as Python prints it."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it raises
        return "".join(traceback.format_exception(error)).rstrip()
    return pytest.fail("it raised nothing")


def test_exception_comes_first() -> None:
    """The frames of the team follow in their order. The others are counted."""
    text = HEAD + RUNNER + SDK + OWN + DEEPER + "ValueError: no\n"
    assert summary(text) == f"ValueError: no\n{OWN}{DEEPER}2 more frames (--full)"
    assert parse(text, "handlers").full == f"ValueError: no\n{OWN}{DEEPER}\n{text.rstrip()}"


def test_nothing_is_left_out() -> None:
    """Without other frames there is no note, and the whole is the same."""
    found = parse(f"{HEAD}{OWN}ValueError: no", "handlers")
    assert found.full == found.brief("--full") == f"ValueError: no\n{OWN.rstrip()}"
    assert summary(f"{HEAD}{OWN}{SDK}ValueError: no").endswith("\n1 more frame (--full)")


def test_causes_follow() -> None:
    """Each cause has its exception first too, and its frames."""
    text = (
        f"{HEAD}{DEEPER}KeyError: 'price'\n"
        "\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{HEAD}{SDK}OSError: down\n"
        "\nThe above exception was the direct cause of the following exception:\n\n"
        f"{HEAD}{RUNNER}{OWN}RuntimeError: no price\n"
    )
    assert summary(text) == (
        f"RuntimeError: no price\n{OWN}caused by OSError: down\nwhile handling KeyError: 'price'\n"
        f"{DEEPER}2 more frames (--full)"
    )


def test_text_of_several_lines_is_kept() -> None:
    """An exception's text and its notes can have lines of any form."""
    text = f"{HEAD}{OWN}ValueError: no\n\n  File of the customer\nTraceback (most recent\na note"
    assert summary(text) == (
        f"ValueError: no\n\n  File of the customer\nTraceback (most recent\na note\n{OWN}".rstrip()
    )


def test_traceback_that_was_cut() -> None:
    """The note about the cut is no exception."""
    cut = (
        '  File "/srv/app/x.py", line 1, in ... 99 characters left out ... "/y.py", line 2, in z\n'
    )
    alone = " ... 99 characters left out ... \n"
    text = HEAD + OWN + cut + alone + "  [Previous line repeated 9 more times]\n" + "ValueError: no"
    assert summary(text) == f"ValueError: no\n{OWN}1 more frame (--full)"


def test_exception_without_frames() -> None:
    """An exception that was logged and not raised has only its text."""
    found = parse("ValueError: no\n", "handlers")
    assert (found.summary, found.is_own, found.left_out) == ("ValueError: no", False, 0)


def test_group_of_exceptions_is_shown_as_it_is() -> None:
    """Its form has several exceptions beside each other."""

    def fail() -> None:
        raise ExceptionGroup("two", [ValueError("a"), ValueError("b")])

    text = printed(fail)
    assert summary(text) == parse(text, "handlers").full == text


def test_real_traceback() -> None:
    """The form is the one of this Python, with its marks below the code."""
    found = parse(printed(lambda: int("x" + "y")), __name__.rpartition(".")[0])
    assert found.summary.startswith("ValueError: invalid literal")
    assert f'  File "{__file__}", line ' in found.summary
    assert found.left_out == 0


def test_all_frames_of_another_error() -> None:
    """Without a frame of the team, the full form has all frames behind the exception."""
    found = parse(f"{HEAD}{RUNNER}{SDK}ValueError: no", "handlers")
    assert found.full == f"ValueError: no\n{RUNNER}{SDK}".rstrip()
    assert found.brief("--full") == "ValueError: no\n2 more frames (--full)"


@pytest.mark.parametrize(
    ("path", "package", "own"),
    [
        ("/srv/handlers/v1_invoice_paid.py", "handlers", True),
        ("handlers/v1_invoice_paid.py", "handlers", True),
        ("C:\\work\\handlers\\v1_invoice_paid.py", "handlers", True),
        ("/srv/team/handlers/x.py", "team.handlers", True),
        ("/opt/venv/lib/python3.13/site-packages/team/handlers/x.py", "team.handlers", True),
        ("/opt/venv/lib/python3.13/site-packages/tornado/handlers/x.py", "handlers", False),
        ("/usr/lib/python3/dist-packages/handlers/x.py", "handlers", True),
        ("/usr/lib/python3.13/logging/handlers.py", "handlers", False),
        ("/srv/my_handlers/x.py", "handlers", False),
        ("/home/me/handlers/app/processing/runner.py", "handlers", False),
        ("/home/me/handlers/devkit/deliver.py", "handlers", False),
        ("/home/me/handlers/handlers/x.py", "handlers", True),
    ],
)
def test_frames_of_the_team(path: str, package: str, *, own: bool) -> None:
    """A file belongs to the team by its place in the handler package, on any machine."""
    text = f'{HEAD}  File "{path}", line 1, in handle\nValueError: no'
    assert parse(text, package).is_own is own


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (f"{HEAD}{RUNNER}{OWN}ValueError: another text: with colons", True),
        (f"{HEAD}{RUNNER}{OWN}ValueError", True),
        (f"{HEAD}{RUNNER}{OWN}KeyError: no", False),
        (f"{HEAD}{RUNNER}{DEEPER}ValueError: no", False),
    ],
)
def test_same_kind(other: str, *, same: bool) -> None:
    """Two tracebacks are of one kind if frames and types are the same: texts have ids in them."""
    kind = parse(f"{HEAD}{RUNNER}{OWN}ValueError: no", "handlers").kind
    assert (parse(other, "handlers").kind == kind) is same
