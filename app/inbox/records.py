"""The JSON form of a whole event: its row, its attempts, retries and effects.

Times are ISO 8601 in UTC with microseconds. A body that is no UTF-8 is in ``body_base64``. Leases
are left out: a claim holds in its own inbox only.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.states import State

Row = dict[str, Any]
_Convert = Callable[[Any], Any]

#: The most characters of an id, a type or a name.
_MAX_NAME = 1000


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("is no text")
    value.encode()  # half of a pair of surrogates cannot be stored
    return value


def _name(value: Any) -> str:
    if not 0 < len(_text(value)) <= _MAX_NAME:
        raise ValueError("is empty or too long")
    return str(value)


def _state(value: Any) -> str:
    return State(value).value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")  # noqa: TRY004 - one error for all of them
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("is no whole number")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is no number")
    return float(value)


def _time(value: Any) -> float:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("has no time zone")
    return moment.timestamp()


#: The fields of an event, in their order, with what reads them. The body is read apart.
_EVENT: Mapping[str, _Convert] = {
    "id": _name,
    "type": _name,
    "livemode": _flag,
    "context": _name,
    "state": _state,
    "outcome": _name,
    "reason": _text,
    "traceback": _text,
    "attempt": _count,
    "deliveries": _count,
    "source": _name,
    "received_at": _time,
    "due_at": _time,
    "claimed_at": _time,
    "settled_at": _time,
    "claimed_by": _text,
    "concurrency_key": _name,
    "attempts_used": _number,
    "crashes": _count,
    "fingerprint": _name,
    "release": _name,
    "trace": _text,
    "erased_at": _time,
}
_ATTEMPT: Mapping[str, _Convert] = {
    "attempt": _count,
    "claimed_by": _text,
    "started_at": _time,
    "ended_at": _time,
    "outcome": _name,
    "reason": _text,
    "traceback": _text,
    "fingerprint": _name,
    "release": _name,
}
_RETRY: Mapping[str, _Convert] = {"at": _time, "by": _name, "why": _text}
_EFFECT: Mapping[str, _Convert] = {"purpose": _name, "at": _time}
_THIN: Mapping[str, _Convert] = {"snapshot_event": _name}

#: The fields that can be null, and can be missing.
_NULLABLE = frozenset(
    {
        *("context", "outcome", "reason", "traceback", "claimed_at", "settled_at", "claimed_by"),
        *("fingerprint", "release", "trace", "erased_at", "why", "snapshot_event"),
    }
)
_TIMES = frozenset(
    name
    for fields in (_EVENT, _ATTEMPT, _RETRY, _EFFECT)
    for name in fields
    if name == "at" or name.endswith("_at")
)
_BODIES = ("body", "body_base64")
_HISTORY = ("attempts", "retries", "effects")


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its attempts before the latest one, its retries by people, and its effects.

    Each row has the columns of its table.
    """

    event: Row
    attempts: list[Row]
    retries: list[Row]
    effects: list[Row]
    snapshot_event: str | None = None
    """The snapshot event of a thin event, if it is known."""

    @property
    def event_id(self) -> str:
        """The id of the event."""
        return str(self.event["id"])


def write_record(
    event: Row,
    attempts: Iterable[Row],
    retries: Iterable[Row],
    effects: Iterable[Row],
    snapshot_event: str | None = None,
) -> Row:
    """Return the JSON object of an event, from the columns of its rows.

    Without effects and a ``snapshot_event``, it is the one of the version before, which can import
    it.
    """
    done = [_written(each, _EFFECT) for each in effects]
    return {
        **_written(event, _EVENT),
        **_written_body(event["body"]),
        "attempts": [_written(each, _ATTEMPT) for each in attempts],
        "retries": [_written(each, _RETRY) for each in retries],
        **({"effects": done} if done else {}),
        **({"snapshot_event": snapshot_event} if snapshot_event else {}),
    }


def _written(row: Row, fields: Iterable[str]) -> Row:
    return {
        name: _iso(row[name]) if name in _TIMES and row[name] is not None else row[name]
        for name in fields
    }


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _written_body(body: bytes) -> Row:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def read_record(line: bytes) -> Record:
    """Return the event of one line of JSON. Raises ``ValueError`` with what is wrong.

    Fields that are null or zero for a new event can be missing.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - one error for all of them
    history = {name: _list(name, values.pop(name, [])) for name in _HISTORY}
    snapshot_event = values.pop("snapshot_event", None)
    body = _read_body(values)
    values = {**_defaults(values), **values}
    ended = [_read(each, _ATTEMPT) for each in history["attempts"]]
    if len({each["attempt"] for each in ended}) < len(ended):
        raise ValueError("has two attempts of one number")
    return Record(
        {**_read(values, _EVENT), "body": body},
        ended,
        [_read(each, _RETRY) for each in history["retries"]],
        [_read(each, _EFFECT) for each in history["effects"]],
        _read({"snapshot_event": snapshot_event}, _THIN)["snapshot_event"],
    )


def _defaults(values: Row) -> Row:
    """Return the fields of an event that can be missing."""
    received = values.get("received_at")
    is_settled = values.get("state") in {State.DONE, State.DEAD}
    return {
        **dict.fromkeys(("attempt", "deliveries", "attempts_used", "crashes"), 0),
        "source": "delivery",
        "due_at": received,
        "settled_at": received if is_settled else None,
        "concurrency_key": f"event {values.get('id')}",
    }


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError(f"has {name} that are no list of objects")
    return value


def _read_body(values: Row) -> bytes:
    given = [name for name in _BODIES if name in values]
    if len(given) != 1:
        raise ValueError("needs one of body and body_base64")
    value = values.pop(given[0])
    try:
        text = value if isinstance(value, str) else _text(value)
        return text.encode() if given[0] == "body" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"has a {given[0]} that cannot be read") from None


def _read(values: Row, fields: Mapping[str, _Convert]) -> Row:
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"has the field {unknown[0]!r}, which this version does not know")
    read = {}
    for name, convert in fields.items():
        value = values.get(name)
        try:
            read[name] = None if value is None and name in _NULLABLE else convert(value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"has a wrong {name!r}: {error}") from None
    return read
