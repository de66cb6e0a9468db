"""The attempts and the body of one event, in a form for a person."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from app import tracebacks
from app.inbox import Attempt
from app.tracebacks import Traceback

#: The longest indented body, in characters. Indented, deep nesting can be 1,000 times longer.
PRETTY_LENGTH = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """Consecutive attempts that ended in the same way."""

    first: Attempt
    last: Attempt
    traceback: Traceback
    """The traceback of the last attempt."""
    is_repeated: bool
    """True if the last traceback before this entry was the same."""
    count: int
    """The number of attempts."""


def entries(attempts: Iterable[Attempt], package: str, *, full: bool = False) -> list[Entry]:
    """Return the ``attempts`` of one event, the first one first, for handlers in this ``package``.

    Consecutive attempts with the same outcome and frames are one entry, unless ``full``.
    """
    parsed = [(each, tracebacks.parse(each.traceback or "", package)) for each in attempts]
    found: list[Entry] = []
    shown_kind = ""
    for _, group in groupby(parsed, lambda pair: pair[0].attempt if full else _ending(*pair)):
        members = list(group)
        last, traceback = members[-1]
        is_repeated = traceback.kind == shown_kind and bool(last.traceback)
        found.append(Entry(members[0][0], last, traceback, is_repeated, len(members)))
        shown_kind = traceback.kind if last.traceback else shown_kind
    return found


def _ending(attempt: Attempt, traceback: Traceback) -> tuple[str, str]:
    """Return the outcome of an attempt and its cause, without texts that vary."""
    return attempt.outcome, traceback.kind or attempt.reason or ""


def body_text(body: bytes) -> str:
    """Return a body as text. Bytes that are no UTF-8 are replaced."""
    return body.decode("utf-8", "replace")


def pretty_body(body: bytes) -> str:
    """Return a body as indented JSON.

    A body that is no JSON, or would be longer than ``PRETTY_LENGTH``, is returned as it arrived.
    """
    if len(body) > PRETTY_LENGTH:
        return body_text(body)
    pieces: list[str] = []
    length = 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(body)):
            pieces.append(piece)
            length += len(piece)
            if length > PRETTY_LENGTH:
                return body_text(body)
    except (ValueError, RecursionError):
        return body_text(body)
    return "".join(pieces)
