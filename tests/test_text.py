"""Text from outside becomes printable, short and free of secrets."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from app import text

SECRET = 'whsec_marker"with\\odd' + "Z" * 60
redact = text.redactor([SECRET])


def raised(error: BaseException, depth: int = 0) -> BaseException:
    """Raise an error, ``depth`` calls deep, and return it with its traceback."""
    with pytest.raises(type(error)):
        fail_below(error, depth)
    return error


def fail_below(error: BaseException, depth: int) -> None:
    """Raise the error after ``depth`` more calls."""
    if depth % 2:
        fail_below(error, depth - 1)
    elif depth:
        # On another line: Python prints equal frames once.
        fail_below(error, depth - 1)
    else:
        fail_at_last(error)


def fail_at_last(error: BaseException) -> None:
    """Raise the error."""
    raise error


class TestPrintable:
    """Text on a terminal cannot control it and has no invisible characters."""

    def test_every_character_of_the_hidden_categories_is_replaced(self) -> None:
        """All of Unicode: control, format, surrogate, unassigned, line and paragraph separators."""
        everything = "".join(map(chr, range(sys.maxunicode + 1)))

        shown = text.printable(everything)

        assert len(shown) == len(everything)
        assert {unicodedata.category(each) for each in set(shown)} & text.HIDDEN == set()
        kept = [each for each in everything if unicodedata.category(each) not in text.HIDDEN]
        assert set(kept) <= set(shown)

    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("plain", "plain"),
            ("J\u00fcrgen \U0001f600\u00a0!", "J\u00fcrgen \U0001f600\u00a0!"),
            ("\x1b[2Jboo\x07\x7f\x9b", "\ufffd[2Jboo\ufffd\ufffd\ufffd"),
            ("evil\u202etxt.exe\u2066\u200b", "evil\ufffdtxt.exe\ufffd\ufffd"),
            ("one\u2028two\u2029three\r\nfour\x85", "one two three  four "),
            ("a\ud800b", "a\ufffdb"),
        ],
    )
    def test_one_line(self, given: str, shown: str) -> None:
        """White space becomes a space, so that no text starts a line of its own."""
        assert text.printable(given) == shown

    def test_several_lines(self) -> None:
        """A traceback keeps its line ends and tabs."""
        assert text.printable("a\n\tb\r\x1b", text.LINES) == "a\n\tb \ufffd"


class TestRedact:
    """Secrets are found in each form in which a line can hold them."""

    @pytest.mark.parametrize("form", [SECRET, json.dumps(SECRET), repr(SECRET)])
    def test_forms(self, form: str) -> None:
        """Plain, in JSON, and as Python quotes it."""
        assert "odd" not in redact(f"x {form} y")


class TestBounded:
    """A text of any length becomes a short one without a part of a secret."""

    def test_short_text_stays(self) -> None:
        """Only its secrets are redacted."""
        assert text.bounded("short", 100, redact) == "short"
        assert text.bounded(f"a {SECRET} b", 100, redact) == "a [redacted] b"

    @pytest.mark.parametrize("length", [1001, 5000, 9001, 20_000_000])
    def test_long_text_keeps_its_start_and_its_end(self, length: int) -> None:
        """A note says how many characters are left out."""
        given = "begin" + "x" * (length - 8) + "end"

        cut = text.bounded(given, 1000, redact)

        assert len(cut) <= 1000
        assert cut.startswith("beginx")
        assert cut.endswith("xend")
        left_out = length - 2 * ((1000 - text.NOTE) // 2)
        assert f"x ... {left_out} characters left out ... x" in cut

    def test_text_that_is_short_without_its_secrets_is_not_cut(self) -> None:
        """The length after redaction counts."""
        assert text.bounded(f"{SECRET} " * 20, 300, redact) == "[redacted] " * 20

    @pytest.mark.parametrize("most", [100, 1000])
    @pytest.mark.parametrize("around", ["-", " ", '"'])
    def test_no_cut_shows_a_part_of_a_secret(self, most: int, around: str) -> None:
        """The secret is moved so that each of its characters in turn is at the cut."""
        shapes = [SECRET, "rk_live_ZZZZZZZZZZ", "://user:ZZZZZZZZZZ@host"]
        side = (most - text.NOTE) // 2
        for secret in shapes:
            for edge in (side, side + text.MARGIN):
                for offset in range(len(secret) + 1):
                    before = around * (edge - offset)
                    after = around * 10 * text.MARGIN
                    for given in (before + secret + after, after + secret + before):
                        cuts = [
                            text.bounded(given, most, redact),
                            text.head(given, side, redact),
                            text.tail(given, side, redact),
                        ]
                        assert not [cut for cut in cuts if "Z" in cut], (edge, offset)


class TestTraceback:
    """The stack is kept, however long the text of the exception is."""

    def test_short_one_is_as_python_prints_it(self) -> None:
        """The traceback has the lines of code."""
        printed = text.printed_traceback(raised(ValueError("no")), 8000, redact)
        assert printed.startswith("Traceback (most recent call last):\n")
        assert printed.endswith("    raise error\nValueError: no\n")

    def test_secret_is_redacted(self) -> None:
        """The secret is redacted in a traceback that is not cut."""
        printed = text.printed_traceback(raised(ValueError(SECRET)), 8000, redact)
        assert printed.endswith("ValueError: [redacted]\n")

    @pytest.mark.parametrize("depth", [0, 300])
    @pytest.mark.parametrize("length", [5000, 20_000_000])
    def test_last_frame_is_kept(self, depth: int, length: int) -> None:
        """Neither a long text nor many frames remove the last frame."""
        error = raised(ValueError("begin" + "x" * length + "end"), depth)

        printed = text.printed_traceback(error, 4000, redact)

        assert len(printed) <= 4000
        assert printed.startswith("Traceback (most recent call last):\n")
        assert "in fail_at_last\n    raise error\nValueError: beginx" in printed
        assert printed.endswith("xend\n")

    def test_notes_and_causes_are_cut_too(self) -> None:
        """Python would split each of these texts into lines."""
        error = ExceptionGroup("group", [OSError("first" + "\n" * 10**7)])
        error.add_note("note" + "\n" * 10**7)
        error.__notes__.append(5)  # type: ignore[arg-type]  # a note can be of any type
        error.__cause__ = OSError("cause" + "\n" * 10**7)

        printed = text.printed_traceback(raised(error), 16_000, redact)

        assert len(printed) <= 16_000
        for word in ("group", "first", "note", "cause", "5\n"):
            assert word in printed
        assert printed.count("characters left out") == 3

    def test_exception_that_cannot_be_printed_shows_its_frames(self) -> None:
        """Attributes that Python's own printing reads can be anything."""

        class Odd(SyntaxError):
            @property
            def lineno(self) -> int:  # type: ignore[override]  # that is what is odd
                raise LookupError

        printed = text.printed_traceback(raised(Odd("x")), 4000, redact)

        assert "in fail_at_last\n" in printed
        assert printed.endswith("Odd (not shown: LookupError)\n")


class OddError(Exception):
    """Raises when it is printed."""

    def __str__(self) -> str:
        """Raise."""
        raise LookupError


class TestErrorLine:
    """An error of a database in one line of the log."""

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
            (OSError("x" * 10**7), f"OSError: {'x' * text.ERROR_LENGTH}"),
            (OSError(" \n"), "OSError: "),
            (OddError(), "OddError: not shown: LookupError"),
        ],
        ids=map(str, range(6)),
    )
    def test_line_is_short_and_printable(self, error: Exception, line: str) -> None:
        """Further lines can quote the row, and control characters could control a terminal."""
        assert text.in_one_line(error) == line

    def test_password_is_redacted_before_the_cut(self) -> None:
        """A part of a password would not be recognized as a secret."""
        error = OSError("x" * (text.ERROR_LENGTH - 15) + " ://user:password@host")
        assert "pass" not in text.in_one_line(error)


def test_storable_text_is_utf8_without_nul() -> None:
    """PostgreSQL stores no NUL, and neither database a lone surrogate."""
    assert text.storable("a\0b\ud800c\U0001f600") == "a\ufffdb?c\U0001f600"


def test_json_is_printable_ascii() -> None:
    """DEL is escaped, which ``json.dumps`` does not do."""
    value = {"a\x7f": ["\x1b\u202e\u2028\x7f"]}

    line = text.as_json(value)

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value
