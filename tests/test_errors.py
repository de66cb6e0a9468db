"""The line of a database's error."""

from __future__ import annotations

import pytest

from app.errors import LINE_LENGTH, in_one_line


class OddError(Exception):
    """Raises when it is printed."""

    def __str__(self) -> str:
        """Raise."""
        raise LookupError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no such host\nDETAIL: the row"), "OSError: no such host"),
        (
            OSError("no\x1b[2J such\u202e host\u2028DETAIL: the row"),
            "OSError: no\ufffd[2J such\ufffd host",
        ),
        (
            OSError("cannot reach x://user:password@host"),
            "OSError: cannot reach x://[redacted]@host",
        ),
        (OSError("x" * 10**7), f"OSError: {'x' * LINE_LENGTH}"),
        (OSError(" \n"), "OSError: "),
        (OddError(), "OddError: not shown: LookupError"),
    ],
    ids=map(str, range(6)),
)
def test_line_is_short_and_printable(error: Exception, line: str) -> None:
    """Further lines can quote the row, and control characters could control a terminal."""
    assert in_one_line(error) == line


def test_password_is_redacted_before_the_cut() -> None:
    """A part of a password would not be recognized as a secret."""
    error = OSError("x" * (LINE_LENGTH - 15) + " ://user:password@host")
    assert "pass" not in in_one_line(error)
