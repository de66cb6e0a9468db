"""What a callback uses so that a retry of its event repeats nothing that was done.

``idempotency_key`` is for requests to Stripe's API, ``once`` for effects elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

#: The longest key that Stripe takes (https://docs.stripe.com/api/idempotent_requests).
MAX_KEY_LENGTH = 255

#: Printable ASCII: a header and both databases can have it.
_PURPOSE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,98}[\x21-\x7e])?")


class HasId(Protocol):
    """An event notification, or a snapshot event."""

    id: str


class EffectRecords(Protocol):
    """Keeps which effects of events are done."""

    def is_recorded(self, event_id: str, purpose: str) -> bool:
        """Return whether the effect of an event with this ``purpose`` is recorded."""

    def record(self, event_id: str, purpose: str) -> None:
        """Record an effect durably. Recording it again changes nothing."""


@dataclass(slots=True)
class _Run:
    """The run of a callback: its event, where its effects are recorded, and its process."""

    event_id: str
    action_id: str
    records: EffectRecords
    process: int = field(default_factory=os.getpid)
    is_over: bool = False
    skips_effects: bool = False


#: The run of this context.
_current: ContextVar[_Run | None] = ContextVar("run_with_effects", default=None)


def idempotency_key(notif: HasId, purpose: str) -> str:
    """Return the idempotency key of one request to Stripe's API.

    It is the same in each attempt of the event, and in the runs of both events of a pair. Other
    events and other purposes have other keys.
    ``purpose`` is 1 to 100 characters of printable ASCII. Raises ``ValueError`` for another one.
    """
    event_id, purpose = _action_id(notif), _checked(purpose)
    key = f"{event_id}:{purpose}"
    if ":" not in event_id and len(key) <= MAX_KEY_LENGTH:
        return key
    return hashlib.sha256(f"{len(event_id)}:{key}".encode()).hexdigest()


@contextmanager
def once(notif: HasId, purpose: str) -> Iterator[bool]:
    """Record that a block had its effect, and tell a later attempt of the event.

    Yields True until the inbox has the record, then False: ``if`` skips the effect. The record is
    made when the block ends without an exception. A crash before the record, or an inbox that is
    unavailable then, repeats the effect.

    Raises ``ValueError`` for a ``purpose`` that ``idempotency_key`` refuses, and for another event
    than that of the callback. Raises ``RuntimeError`` outside of a callback, and in a process that
    it forked. Raises ``InboxUnavailable``.
    """
    run = _run_of(notif)
    purpose = _checked(purpose)
    if run.skips_effects:
        yield False
        return
    is_first = not run.records.is_recorded(run.event_id, purpose)
    yield is_first
    # A process that was forked in the block leaves the record to its parent.
    if is_first and os.getpid() == run.process:
        run.records.record(run.event_id, purpose)


@contextmanager
def recording(event_id: str, records: EffectRecords) -> Iterator[None]:
    """Let ``once`` in the block record effects of this event."""
    run = _Run(event_id, event_id, records)
    token = _current.set(run)
    try:
        yield
    finally:
        run.is_over = True  # for a thread that still runs in a copy of this context
        _current.reset(token)


def share_action(action_id: str) -> None:
    """Let this run make the keys of ``action_id``: both events of a pair have the same keys.

    Does nothing outside of a run.
    """
    run = _current.get()
    if run is not None:
        run.action_id = action_id


def skip_effects() -> None:
    """Let ``once`` say in this run that each effect is done: it runs as a shadow."""
    run = _current.get()
    if run is not None:
        run.skips_effects = True


def _action_id(notif: HasId) -> str:
    """Return the id that all attempts have in common, and both events of a pair."""
    run = _current.get()
    if run is None or run.is_over or notif.id != run.event_id:
        return str(notif.id)
    return run.action_id


def _checked(purpose: object) -> str:
    if isinstance(purpose, str) and _PURPOSE.fullmatch(purpose):
        return purpose
    raise ValueError(f"the purpose is {purpose!r}. Use 1 to 100 characters of printable ASCII")


def _run_of(notif: HasId) -> _Run:
    """Return the run of this context, if it is one of the event."""
    run = _current.get()
    if run is None or run.is_over:
        raise RuntimeError(
            "once() works only while a callback runs, in its thread or in a copy of its context"
        )
    if os.getpid() != run.process:
        raise RuntimeError("once() does not work in a process that a callback forked")
    if notif.id != run.event_id:
        raise ValueError(f"once() got {notif.id}, and the callback runs for {run.event_id}")
    return run
