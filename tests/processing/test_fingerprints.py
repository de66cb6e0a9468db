"""The error group of a failure: its fingerprint, its exception, and the place of the error."""

from __future__ import annotations

import importlib
import json
import linecache
import re
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stripe

from app.processing.fingerprints import MOST_EXCEPTIONS, NAME_LENGTH, UNKNOWN, Cause, cause_of

Fail = Callable[..., Cause]

RAISES = """
    def handle(value):
        raise KeyError(value)
"""


@pytest.fixture
def fail(make_handlers: Callable[..., str]) -> Fail:
    """A function that runs the module ``paid`` of a new package, and returns the error group.

    The names of modules and exceptions begin with ``handlers``, whatever the package is called.
    """

    def run(paid: str, value: object = None, **helpers: str) -> Cause:
        package = make_handlers(paid=paid, **helpers)
        linecache.clearcache()
        try:
            importlib.import_module(f"{package}.paid").handle(value)
        except BaseException as error:  # noqa: BLE001 - what a callback can raise
            cause = cause_of(error, package)
            return Cause(
                cause.fingerprint,
                cause.exception.replace(package, "handlers"),
                cause.place.replace(package, "handlers"),
            )
        return pytest.fail("it raised nothing")

    return run


def group(error: BaseException, package: str = "handlers") -> Cause:
    """Return the error group of an ``error`` that no handler module raised."""
    return cause_of(error, package)


def raised(act: Callable[[], object]) -> BaseException:
    """Return the exception that ``act`` raises."""
    try:
        act()
    except BaseException as error:  # noqa: BLE001 - whatever it raises
        return error
    return pytest.fail("it raised nothing")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cause]:
    """A function that replaces the module of one package, runs it, and returns the error group."""
    folder = tmp_path / "team"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(source: str, value: object = None) -> Cause:
        (folder / "paid.py").write_text(textwrap.dedent(source), encoding="utf-8")
        linecache.clearcache()
        importlib.invalidate_caches()
        for name in ("team", "team.paid"):
            sys.modules.pop(name, None)
        sys.dont_write_bytecode = True  # two versions of a file within a second
        module = importlib.import_module("team.paid")
        return group(raised(lambda: module.handle(value)), "team")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return run


def test_group_is_the_exception_and_the_line(package: Callable[..., Cause]) -> None:
    """The fingerprint is 12 hexadecimal digits. The text of the exception is no part of it."""
    first, second = package(RAISES, "cus_1"), package(RAISES, "cus_2")

    assert first == second
    assert re.fullmatch(r"[0-9a-f]{12}", first.fingerprint)
    assert (first.exception, first.place) == ("KeyError", "team/paid.py:3")


def test_fingerprint_survives_a_release_that_moves_the_line(
    package: Callable[..., Cause],
) -> None:
    """Lines above and another indentation change the place that is shown, and not the group."""
    before = package(RAISES)
    moved = package("""
        import json


        def handle(value):
            if not value:
                raise KeyError(value)
    """)

    assert moved.fingerprint == before.fingerprint
    assert (before.place, moved.place) == ("team/paid.py:3", "team/paid.py:7")


@pytest.mark.parametrize(
    "changed",
    [
        RAISES.replace("KeyError(value)", "KeyError(value, 1)"),
        RAISES.replace("KeyError(value)", "IndexError(value)"),
        "def handle(value):\n    charge(value)\ndef charge(value):\n    raise KeyError(value)\n",
    ],
)
def test_another_line_exception_or_function_is_another_group(
    package: Callable[..., Cause], changed: str
) -> None:
    """Each of the three tells errors apart."""
    assert package(changed).fingerprint != package(RAISES).fingerprint


def test_another_exception_of_the_same_line_is_another_group(
    package: Callable[..., Cause],
) -> None:
    """One line can fail in several ways."""
    source = "def handle(value):\n    return {}[value]\n"

    assert package(source, 1).exception == "KeyError"
    assert package(source, []).exception == "TypeError"
    assert package(source, 1).fingerprint != package(source, []).fingerprint


def test_place_is_the_innermost_line_of_the_team(fail: Fail) -> None:
    """A helper module counts. Libraries that it calls do not."""
    cause = fail(
        "from . import _money\ndef handle(value):\n    _money.amount('{')\n",
        _money="import json\ndef amount(text):\n    return json.loads(text)\n",
    )

    assert (cause.exception, cause.place) == (
        "json.decoder.JSONDecodeError",
        "handlers/_money.py:3",
    )


def test_name_has_no_private_modules(fail: Fail) -> None:
    """The SDK's exceptions are named as the team imports them."""
    cause = fail("import stripe\ndef handle(value):\n    raise stripe.RateLimitError('no')\n")
    assert cause.exception == "stripe.RateLimitError"

    own = fail(
        "from ._errors import NoPrice\ndef handle(value):\n    raise NoPrice('no')\n",
        _errors="from app import GiveUp\nclass NoPrice(GiveUp): pass\n",
    )
    assert (own.exception, own.place) == ("handlers.NoPrice", "handlers/paid.py:3")


def test_explicit_cause_is_the_group(fail: Fail) -> None:
    """A helper that wraps all errors would otherwise make one group of them."""
    cause = fail(
        """
        from app import GiveUp

        def handle(value):
            try:
                return {}[value]
            except KeyError as error:
                raise GiveUp("no price") from error
        """
    )
    assert (cause.exception, cause.place) == ("KeyError", "handlers/paid.py:6")


def test_error_while_handling_another_is_its_own_group(fail: Fail) -> None:
    """Without ``from``, the second error is the one that ended the attempt."""
    cause = fail(
        """
        def handle(value):
            try:
                return {}[value]
            except KeyError:
                raise ValueError("no price")
        """
    )
    assert (cause.exception, cause.place) == ("ValueError", "handlers/paid.py:6")


def test_cause_inside_a_library_is_not_the_group(fail: Fail) -> None:
    """The team called the library. What the library caught before is its own affair."""
    cause = fail(
        """
        import shutil

        def handle(value):
            shutil.unpack_archive("missing", format="zip2")
        """
    )
    assert (cause.exception, cause.place) == ("ValueError", "handlers/paid.py:5")


def test_circle_of_causes_ends(fail: Fail) -> None:
    """An exception can be its own cause."""
    cause = fail(
        """
        def handle(value):
            error = ValueError("no")
            error.__cause__ = other = KeyError("no")
            other.__cause__ = error
            raise error
        """
    )
    assert (cause.exception, cause.place) == ("ValueError", "handlers/paid.py:6")


def test_exception_group_is_grouped_by_one_of_its_exceptions(fail: Fail) -> None:
    """Their order varies, as with tasks that run at the same time. The group does not."""
    source = """
        def call(number):
            if number == 1:
                raise KeyError(number)
            raise TypeError(number)

        def handle(order):
            errors = []
            for number in order:
                try:
                    call(number)
                except Exception as error:
                    errors.append(error)
            raise ExceptionGroup("some", errors)
    """
    one, other = fail(source, (1, 2)), fail(source, (2, 1))

    assert (one.exception, one.place) == ("KeyError", "handlers/paid.py:4")
    assert (other.exception, other.place) == (one.exception, one.place)


def test_group_of_exceptions_without_a_traceback_is_the_line_that_raised_it(fail: Fail) -> None:
    """No more of them are examined than a bound."""
    cause = fail(
        "def handle(n):\n    raise ExceptionGroup('x', [ValueError()] * n)\n", MOST_EXCEPTIONS * 3
    )
    assert (cause.exception, cause.place) == ("ExceptionGroup", "handlers/paid.py:2")

    cause = fail(
        "def handle(n):\n    raise ExceptionGroup('x', [ValueError() for _ in range(n)])\n",
        MOST_EXCEPTIONS * 3,
    )
    assert (cause.exception, cause.place) == ("ExceptionGroup", "handlers/paid.py:2")


def test_recursion_has_one_group_at_every_depth(fail: Fail) -> None:
    """The innermost line depends on the depth of the stack. The first line does not."""
    source = """
        def one(value):
            two(value)

        def two(value):
            one(value)

        def handle(deeper):
            one(deeper) if deeper else (lambda: one(deeper))()
    """
    for deeper in (True, False):
        cause = fail(source, deeper)
        assert (cause.exception, cause.place) == ("RecursionError", "handlers/paid.py:3")


def test_recursion_of_a_library_is_the_line_that_called_it(fail: Fail) -> None:
    """No line of the team is there twice."""
    cause = fail(
        """
        import copy

        class Deep:
            def __deepcopy__(self, memo):
                return self

        def handle(value):
            nested = []
            for _ in range(100_000):
                nested = [nested]
            copy.deepcopy(nested)
        """
    )
    assert (cause.exception, cause.place) == ("RecursionError", "handlers/paid.py:12")


def test_syntax_error_is_the_line_that_cannot_be_compiled(fail: Fail) -> None:
    """A helper that is imported late has no frame. The line to correct is in it."""
    cause = fail("def handle(value):\n    from . import _new\n", _new="x = 1\nif x\n    y = 2\n")
    assert (cause.exception, cause.place) == ("SyntaxError", "handlers/_new.py:2")


def test_syntax_error_in_data_is_the_line_that_read_it(fail: Fail) -> None:
    """The text that cannot be compiled is a value. It is no part of the group."""
    source = "import ast\ndef handle(value):\n    ast.literal_eval(value)\n"
    one, other = fail(source, "1 +"), fail(source, "cus_1 cus_2")

    assert (one.exception, one.place) == ("SyntaxError", "handlers/paid.py:3")
    assert other.place == one.place


def test_missing_module_is_the_line_that_imports_it(fail: Fail) -> None:
    """The innermost frames are those of the import system."""
    cause = fail("def handle(value):\n    import no_such_module\n")
    assert (cause.exception, cause.place) == ("ModuleNotFoundError", "handlers/paid.py:2")


def test_code_without_source_is_grouped_by_its_distance_from_the_function(
    package: Callable[..., Cause], tmp_path: Path
) -> None:
    """A file can be gone. Two lines of one function are still two groups."""
    source = "def handle(value):\n    if value: raise KeyError\n    raise KeyError\n"
    package(source)
    (tmp_path / "team" / "paid.py").unlink()
    linecache.clearcache()
    handle = sys.modules["team.paid"].handle
    one, other = (group(raised(partial(handle, each)), "team") for each in (True, False))

    assert one.place == "team/paid.py:2"
    assert one.fingerprint != other.fingerprint


def test_error_without_code_of_the_team_is_grouped_by_the_sdk() -> None:
    """The SDK cannot read the event, so no callback was called."""
    client = stripe.StripeClient("sk_test_1")
    handler = client.notification_handler_without_verification(lambda *_: None)
    cause = group(raised(lambda: handler.handle(b"{")))

    assert cause.exception == "json.decoder.JSONDecodeError"
    assert re.fullmatch(r"stripe/[\w/]+\.py:\d+", cause.place)


def test_error_without_any_of_both_is_grouped_by_the_innermost_line() -> None:
    """The path of a file has no folders of this machine."""
    assert re.fullmatch(r"json/decoder\.py:\d+", group(raised(lambda: json.loads("{"))).place)
    here = group(raised(lambda: "x".index("y")))
    assert re.fullmatch(r"test_fingerprints\.py:\d+", here.place)


def test_exception_that_was_never_raised_has_a_group() -> None:
    """It has no traceback."""
    assert (group(KeyError("x")).exception, group(KeyError("x")).place) == ("KeyError", UNKNOWN)


class Hostile(Exception):
    """An exception that raises when it is read."""

    @property  # type: ignore[misc]  # what a callback can do
    def __class__(self) -> Any:
        """Raise. ``isinstance`` reads this attribute."""
        raise SystemExit(3)


def test_exception_whose_code_raises_is_grouped_by_its_type() -> None:
    """Finding the group never fails."""
    assert (group(Hostile()).exception, group(Hostile()).place) == ("Hostile", UNKNOWN)


def test_names_are_short_and_in_ascii() -> None:
    """A class can have any name. The database and the terminal can be of any encoding."""
    odd = type("\u00c4\x1b" + "x" * 2 * NAME_LENGTH, (Exception,), {"__module__": "builtins"})
    name = group(odd()).exception

    assert name.startswith(r"\xc4\ufffdxx")
    assert len(name) == NAME_LENGTH
