"""Makes text from outside fit for logs and the inbox: printable, short, without secrets.

Text is redacted before it is cut: a secret that was cut in two would not be recognized.
"""

from __future__ import annotations

import json
import re
import traceback
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

Redact = Callable[[str], str]

#: The shapes of secrets that are not among this process's settings.
SECRET_SHAPES = (
    r"\bwhsec_[^\s\"',]+",
    r"\b[sr]k_(?:live|test|org)_[^\s\"',]+",
    # user:password in a URL. A password that is not percent-encoded can have any of :/@ in it.
    r"(?<=://)[^\s/:@\"']*:(?:[^\s\"']{1,256}|[^\s/@\"']+)(?=@)",
)

#: Every text with one of these shapes holds one of these words.
SECRET_SIGNS = ("whsec_", "k_live_", "k_test_", "k_org_", "://")

#: Characters beside a cut that are redacted and then dropped. No secret is longer.
MARGIN = 4000

#: The maximum length of the note about a cut, in characters.
NOTE = 50

#: A shorter part of a secret URL is a word such as ``services``, which other texts hold too.
URL_SECRET_LENGTH = 16

#: The control characters of a text with several lines.
LINES = "\n\t"

#: Unicode categories of characters that control a terminal, reverse text, or are invisible.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

#: The maximum length of a database's error in the log, in characters.
ERROR_LENGTH = 500


def redactor(secrets: Iterable[str]) -> Redact:
    """Return a function that replaces the ``secrets`` in a text, and all text in their shapes."""
    # Plain, as JSON escapes them, and as Python quotes them.
    forms = {form for each in secrets for form in (each, json.dumps(each)[1:-1], repr(each)[1:-1])}
    own = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, own), *SECRET_SHAPES]))
    signs = [*own, *SECRET_SIGNS]

    def redact(text: str) -> str:
        # Few texts hold a secret, and a search for words is much faster than a pattern.
        if any(sign in text for sign in signs):
            return pattern.sub("[redacted]", text)
        return text

    return redact


#: Replaces text in the shape of a secret. The secrets of the settings need ``redactor``.
redact_shapes = redactor(())


def url_secrets(url: str) -> list[str]:
    """Return a secret ``url`` and its parts that make it secret, as sent and percent-decoded.

    These are the path with the query, and its pieces of ``URL_SECRET_LENGTH`` characters or more.
    """
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    pieces = [target, parts.path, *re.split("[/?&=]", target)]
    long = {each for each in pieces if len(each) >= URL_SECRET_LENGTH or "?" in each}
    return sorted({url, *long, *map(unquote, long)})


def printable(text: str, keep: str = "") -> str:
    """Return ``text`` with its ``HIDDEN`` characters replaced, except those in ``keep``.

    White space becomes a space, every other character U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(each if each in keep else _visible(each) for each in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in HIDDEN:
        return character
    return " " if character.isspace() else "\ufffd"


def storable(text: str) -> str:
    """Return ``text`` in valid UTF-8 without NUL, for both databases and all readers of JSON."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def as_json(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as JSON of printable ASCII, with line ends if there is an ``indent``.

    Raises what ``json.dumps`` raises.
    """
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def head(text: str, most: int, redact: Redact) -> str:
    """Return the first ``most`` characters, redacted, without a part of a secret at the end."""
    if len(text) <= most + MARGIN:
        return redact(text)[:most]
    return redact(text[: most + MARGIN])[:-MARGIN][:most]


def tail(text: str, most: int, redact: Redact) -> str:
    """Return the last ``most`` characters, redacted, without a part of a secret at the start."""
    if len(text) <= most + MARGIN:
        return redact(text)[-most:]
    return redact(text[-most - MARGIN :])[MARGIN:][-most:]


def bounded(text: str, most: int, redact: Redact) -> str:
    """Return ``text``, redacted, in at most ``most`` characters: 100 or more.

    A longer text keeps its start and its end, with a note of the number of characters left out. The
    cost depends on ``most``, not on the length of the text.
    """
    if len(text) <= most + 2 * MARGIN:
        text = redact(text)
    if len(text) <= most:
        return text
    side = (most - NOTE) // 2
    note = f" ... {len(text) - 2 * side} characters left out ... "
    return f"{head(text, side, redact)}{note}{tail(text, side, redact)}"


def type_name(value: object) -> str:
    """Return the name of the type of ``value``, even if its metaclass overrides the name."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def in_one_line(error: BaseException) -> str:
    """Return the type of a database's ``error`` and the first line of its text, for the log.

    Further lines of PostgreSQL's errors can quote the row, and with it the body. The line is cut
    after ``ERROR_LENGTH`` characters.
    """
    cause = getattr(error, "orig", error)
    try:
        lines = head(str(cause).strip(), ERROR_LENGTH, redact_shapes).splitlines() or [""]
    except Exception as failure:  # noqa: BLE001 - a driver's own code can raise anything
        lines = [f"not shown: {type_name(failure)}"]
    return f"{type(cause).__name__}: {printable(lines[0])}"


def printed_traceback(error: BaseException, most: int, redact: Redact) -> str:
    """Return the traceback as Python prints it: with lines of code, without local variables.

    It is redacted, and has at most ``most`` characters: 400 or more. When it must be cut, the text
    of an exception gets a quarter of them, and the stack the rest.
    """

    def shorter(text: str) -> str:
        return bounded(text, most // 4, redact) if len(text) > most else text

    try:
        whole = traceback.TracebackException.from_exception(error, compact=True)
        _shorten(whole, shorter)
        pieces = list(whole.format())
    except Exception as failure:  # noqa: BLE001 - attributes of an exception can be anything
        name = f"{type_name(error)} (not shown: {type_name(failure)})\n"
        pieces = [*traceback.format_tb(error.__traceback__), name]
    if sum(map(len, pieces)) <= most:
        return redact("".join(pieces))
    return bounded("".join(bounded(each, most // 4, redact) for each in pieces), most, redact)


def _shorten(whole: traceback.TracebackException, shorter: Redact) -> None:
    """Shorten the texts of an exception and of its causes.

    Before printing: Python splits each text into lines first, which takes seconds for a long one.
    """
    todo = [whole]
    for each in todo:
        known = vars(each)
        known["_str"] = shorter(known.get("_str", ""))
        if isinstance(known.get("__notes__"), list):
            known["__notes__"] = [
                shorter(note) if isinstance(note, str) else note for note in known["__notes__"]
            ]
        todo += filter(None, (each.__cause__, each.__context__, *(each.exceptions or ())))
