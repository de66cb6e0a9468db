"""The facts that decide about alerts. Reading them costs the same with a million events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app.inbox.findings import Finding
from app.inbox.models import BREAKER, Note
from app.inbox.sql import alert_facts as statements
from app.inbox.sql import pauses, report
from app.inbox.sql.alert_facts import (
    AUTHENTIC,
    BOUND,
    BUCKET,
    BUCKETS_A_DAY,
    DEAD_BOUND,
)
from app.inbox.store import Store
from app.states import Outcome

#: Seconds in a day.
DAY = 86400.0
#: The days before today whose hours are compared.
DAYS = 7

#: What an attempt of the latest failure did, where its group has no place in the code.
_CAUSES = {
    Outcome.GAVE_UP: "given up",
    Outcome.UNREADABLE: "the SDK cannot read the body",
    Outcome.EXHAUSTED: "the last attempt failed",
    Outcome.CRASHED: "the process crashed",
    Outcome.UNRECORDED: "the inbox cannot store the result",
}

#: The outcomes of attempts that failed, and of those that did not.
FAILED = [str(each) for each in (Outcome.FAILED, *_CAUSES)]
SUCCEEDED = [str(Outcome.HANDLED), str(Outcome.FALLBACK)]


@dataclass(slots=True)
class DeadGroup:
    """The dead events of one error group, or of one outcome and type if they have no group.

    ``first_at`` and ``last_at``: when the first one of the last day died, and the last one.
    ``is_bounded``: there can be more.
    """

    fingerprint: str | None
    outcome: str
    type: str
    number: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    types: tuple[str, ...] = ()
    release: str | None = None
    cause: str = ""
    is_bounded: bool = False

    @property
    def key(self) -> str:
        """The group of the alert."""
        return self.fingerprint or f"{self.outcome}.{self.type}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pending events.

    ``overdue``: seconds since the first one was due. ``oldest``: seconds since the first one was
    received. ``paused_at``: when the workers were paused, or None. ``paused_types``: the paused
    event types.
    """

    number: int = 0
    is_bounded: bool = False
    overdue: float = 0.0
    oldest: float = 0.0
    paused_at: float | None = None
    paused_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Silence:
    """How long no delivery came, and how many came in the same hours of other days.

    ``same_hours``: one to seven days ago, None for a day from which the inbox knows nothing.
    """

    seconds: float
    same_hours: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Failures:
    """The attempts of a window, those that failed, and the error group with most of them.

    ``since``: the begin of the first period with a failure, in seconds since the epoch.
    """

    all: int = 0
    failed: int = 0
    worst: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to deliveries. Times are seconds since the epoch.

    ``failing_since``: the first failure after the last success, None if there is none.
    ``last_success``: 0 if there is none.
    """

    failing_since: float | None
    failures: int
    last_success: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts of one moment. ``now`` is the database's clock, in seconds since the epoch."""

    now: float
    dead: list[DeadGroup] = field(default_factory=list)
    waiting: Waiting = Waiting()
    silence: Silence | None = None
    failures: Failures = Failures()
    findings: list[Finding] = field(default_factory=list)
    open_breakers: dict[str, Note] = field(default_factory=dict)


class AlertFacts:
    """Reads the facts. Every method raises ``InboxUnavailable``."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def now(self) -> float:
        """Return the database's clock."""
        return float(self._store.read(statements.NOW)[0].now)

    def dead(self, now: float) -> list[DeadGroup]:
        """Return the groups of the latest dead events, the last death first."""
        rows = self._store.read(statements.DEAD, since=now - DAY)
        fingerprints = [each.fingerprint for each in rows if each.fingerprint]
        causes = (
            self._store.read(statements.CAUSES, fingerprints=fingerprints) if fingerprints else []
        )
        texts = {each.fingerprint: _cause(each.exception, each.place) for each in causes}
        return _merged(rows, texts)

    def waiting(self) -> Waiting:
        """Return how many events wait, and how long."""
        (pending,) = self._store.read(statements.PENDING)
        (due,) = self._store.read(report.OLDEST_DUE)
        paused = self._store.read(pauses.PAUSED)
        return Waiting(
            pending.number,
            is_bounded=pending.number >= BOUND,
            overdue=due.age or 0.0,
            oldest=pending.oldest or 0.0,
            paused_at=paused[0].at if paused else None,
            paused_types=tuple(each.type for each in self._store.read(pauses.PAUSED_TYPES)),
        )

    def open_breakers(self) -> dict[str, Note]:
        """Return the types that the circuit breaker has paused, each with the note about it."""
        rows = self._store.read(pauses.PAUSED_TYPES)
        return {each.type: Note(each.at, each.by, each.why) for each in rows if each.by == BREAKER}

    def silence(self, now: float, seconds: float) -> Silence | None:
        """Return how long no delivery came, if for ``seconds``. None in an inbox without any."""
        today = int(now // BUCKET)
        periods = int(seconds // BUCKET)
        if self._last_delivery(today - periods) is not None:
            return None
        last = self._last_delivery(0)
        if last is None:
            return None
        first = self._store.read(statements.FIRST_DELIVERY, names=AUTHENTIC)[0].bucket
        rows = self._store.read(
            statements.SAME_HOURS, names=AUTHENTIC, bucket=today, periods=max(1, periods)
        )
        counts = {int(each.day): int(each.number) for each in rows}
        known = (today - first) // BUCKETS_A_DAY
        days = range(1, DAYS + 1)
        same = tuple(counts.get(day, 0) if day <= known else None for day in days)
        return Silence(now - last, same)

    def _last_delivery(self, bucket: int) -> float | None:
        at: float | None = self._store.read(
            statements.LAST_DELIVERY, names=AUTHENTIC, bucket=bucket
        )[0].at
        return at

    def failures(self, now: float, seconds: float) -> Failures:
        """Return the attempts of the last ``seconds``, rounded to whole periods."""
        bucket = int((now - seconds) // BUCKET)
        rows = self._store.read(statements.ATTEMPTS, names=[*FAILED, *SUCCEEDED], bucket=bucket)
        counts = {each.name: int(each.number) for each in rows}
        failed = sum(counts.get(each, 0) for each in FAILED)
        worst = ""
        if failed:
            since = now - seconds
            found = self._store.read(statements.WORST, since=since, hour=int(since // 3600))
            worst = _cause(found[0].exception, found[0].place) if found else ""
        first = min((each.first for each in rows if each.name in FAILED), default=bucket)
        return Failures(sum(counts.values()), failed, worst, first * float(BUCKET))

    def answers(self) -> Answers:
        """Return how long deliveries have failed, without one that succeeded."""
        success = self._store.read(statements.LAST_SUCCESS)[0].at or 0.0
        (failed,) = self._store.read(statements.FAILED_SINCE, since=success)
        if not failed.number:
            return Answers(None, 0, success)
        return Answers(max(failed.bucket * float(BUCKET), success), int(failed.number), success)


def _cause(exception: str | None, place: str | None) -> str:
    """Return the exception and its place. The text is empty for a crash, which has none."""
    if not exception or exception == Outcome.CRASHED:
        return ""
    return f"{exception} in {place}" if place else exception


def _merged(rows: Iterable[sa.Row[Any]], causes: dict[str, str]) -> list[DeadGroup]:
    """Return one group for all rows with one fingerprint."""
    groups: dict[str, DeadGroup] = {}
    total = 0
    for row in rows:
        total += row.number
        new = DeadGroup(row.fingerprint, row.outcome, row.type)
        group = groups.setdefault(new.key, new)
        group.number += row.number
        begin = row.first_at or row.last_at
        group.first_at = min(group.first_at or begin, begin)
        group.last_at = max(group.last_at, row.last_at)
        group.types = tuple(sorted({*group.types, row.type}))
        group.release = group.release or row.release
        group.cause = causes.get(row.fingerprint, "") or _without_place(row)
    for group in groups.values():
        group.is_bounded = total >= DEAD_BOUND
    return list(groups.values())


def _without_place(row: sa.Row[Any]) -> str:
    words = _CAUSES.get(row.outcome, str(row.outcome))
    return f"{words} ({row.type})"
