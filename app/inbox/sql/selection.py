"""The statements that select and count the events of a filter, each by one index.

A filter has several conditions. The most selective one chooses the index, and the others are
tested on the rows that this index finds, in the order of receipt. These are the candidates. Their
number is bounded, so a filter that matches nothing ends as soon as one that matches all.

Neither planner can be told which index to use on both databases, so the statements leave only one:

- Other conditions are on expressions (``type || ''``), which have no index.
- The order begins with the first columns of the index, so that no other index provides it. The
  condition on them is a range of rows, ``(type, received_at) <= (...)``: PostgreSQL's planner drops
  a column from the order that is equal to a constant.
- On PostgreSQL they have the execution option ``in_order``: it reads in the order of an index.
- The condition of a partial index is repeated as it stands in the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from app.inbox.filters import EventFilter
from app.inbox.models import EventRow
from app.inbox.sql import parking
from app.inbox.sql.conditions import failed_before, unchanged_since
from app.inbox.sql.indexes import object_id
from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import orphaned, shown
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import events
from app.states import WITHOUT_MODULE, Outcome, State

Condition = sa.ColumnElement[bool]

#: Earlier and later than every event.
FIRST, LAST = 0.0, 1e12

_OPEN = (State.PENDING.value, State.DEAD.value)
_SETTLED = (State.DONE.value, State.DEAD.value)
#: The outcomes of dead events. They are pending with the same outcome after a retry.
_DEADLY = {
    *(Outcome.GAVE_UP, Outcome.EXHAUSTED, Outcome.UNREADABLE),
    *(Outcome.CRASHED, Outcome.UNRECORDED),
}
_WAITING = {Outcome.FAILED, Outcome.RELEASED}


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the order of receipt.

    ``first`` and ``last`` are times, both inclusive. ``edge`` is the id of the event of the cursor:
    the events of the same time beyond it are in the window. ``oldest_first``: the direction.
    """

    first: float
    last: float
    edge: str | None = None
    oldest_first: bool = False

    def until(self, end: float | None) -> Window:
        """Return the part before the time ``end`` in its direction. All of it if that is None."""
        if end is None:
            return self
        return replace(self, last=end) if self.oldest_first else replace(self, first=end)


@dataclass(frozen=True, slots=True)
class Source:
    """An index, and the conditions that it does not have.

    ``prefix``: the first columns of the index with their values, compared as one row with the time.
    ``where``: other conditions of the index. ``rest``: the conditions that it does not have.
    ``is_ordered``: the index has the order of receipt.
    """

    prefix: tuple[tuple[sa.ColumnElement[Any], str], ...] = ()
    where: tuple[Condition, ...] = ()
    rest: tuple[Condition, ...] = ()
    is_ordered: bool = True

    def _conditions(self, window: Window) -> list[Condition]:
        """Return the conditions for which the index is used."""
        if not self.prefix:
            return [*self.where, self._time >= window.first, self._time <= window.last]
        row = sa.tuple_(*[column for column, _ in self.prefix], self._time)
        values = [sa.literal(value, sa.Text) for _, value in self.prefix]
        low, high = (sa.literal(each, sa.Double) for each in (window.first, window.last))
        return [*self.where, row >= sa.tuple_(*values, low), row <= sa.tuple_(*values, high)]

    @property
    def _time(self) -> sa.ColumnElement[float]:
        time = events.c.received_at
        return time if self.is_ordered else time + number(0.0)

    def _order(self, window: Window) -> list[sa.ColumnElement[Any]]:
        order = [*[column for column, _ in self.prefix], self._time, events.c.id]
        return [each if window.oldest_first else each.desc() for each in order]

    def keys(self, window: Window, limit: int) -> sa.Select[Any]:
        """Return the statement that selects ids and times of the first matching events."""
        conditions = [*self._conditions(window), *self.rest]
        if window.edge is not None:
            conditions.append(_beyond(window))
        return (
            sa.select(events.c.id, events.c.received_at)
            .where(*conditions)
            .order_by(*self._order(window))
            .limit(limit)
            .execution_options(in_order=True)
        )

    def horizon(self, window: Window, bound: int) -> sa.Select[Any]:
        """Return the statement that selects the time of the candidate number ``bound`` + 1."""
        return (
            sa.select(events.c.received_at)
            .where(*self._conditions(window))
            .order_by(*self._order(window)[:-1])
            .limit(1)
            .offset(bound)
            .execution_options(in_order=True)
        )

    def numbers(self, window: Window, bound: int) -> sa.Select[Any]:
        """Return the statement that counts up to ``bound`` + 1 candidates, and the matching ones.

        It counts the latest candidates.
        """
        matches = sa.case((sa.and_(sa.true(), *self.rest), ONE), else_=ZERO).label("matches")
        candidates = (
            sa.select(matches if self.rest else ONE.label("matches"))
            .where(*self._conditions(window))
            .order_by(*self._order(window)[:-1])
            .limit(number(bound + 1))
            .subquery()
        )
        matching = sa.func.coalesce(sa.func.sum(candidates.c.matches), ZERO)
        return (
            sa.select(sa.func.count().label("searched"), matching.label("matching"))
            .select_from(candidates)
            .execution_options(in_order=True)
        )


def _beyond(window: Window) -> Condition:
    """Leave out the event of the cursor, and those of the same time before it."""
    time, edge = events.c.received_at, sa.literal(window.edge, sa.Text)
    if window.oldest_first:
        return sa.or_(time > window.first, events.c.id > edge)
    return sa.or_(time < window.last, events.c.id < edge)


def keys(parts: Sequence[tuple[Source, Window]], limit: int) -> sa.CompoundSelect[Any]:
    """Return the statement that selects the first matching events of each search.

    It is one statement, so that an event whose state changes is found once.
    """
    found = [source.keys(window, limit).subquery() for source, window in parts]
    return sa.union_all(*map(sa.select, found)).execution_options(in_order=True)


def horizons(parts: Sequence[Source], window: Window, bound: int) -> sa.CompoundSelect[Any]:
    """Return the statement that selects the ``horizon`` of each search, with its ``number``."""
    found = [source.horizon(window, bound).subquery() for source in parts]
    numbered = [
        sa.select(number(place).label("number"), each.c.received_at)
        for place, each in enumerate(found)
    ]
    return sa.union_all(*numbered).execution_options(in_order=True)


#: The condition of the indexes of objects and accounts on PostgreSQL.
_is_idle = events.c.state != word(State.RUNNING)


def sources(matching: EventFilter) -> list[Source]:
    """Return the searches that together find the events of a filter.

    No two of them find the same event.
    """
    if matching.state == State.RUNNING:
        return [_running(matching)]
    if matching.object_id is not None:
        this = object_id() == matching.object_id
        return [Source((), (this, _is_idle), _rest(matching, "object_id")), *_moving(matching)]
    if matching.group is not None:
        group = (events.c.fingerprint, matching.group)
        where, rest = (events.c.fingerprint.is_not(None),), _rest(matching, "group", "state")
        return [Source((group, (events.c.state, each)), where, rest) for each in _states(matching)]
    if matching.context is not None:
        context = (events.c.context, matching.context)
        has_context = events.c.context.is_not(None)
        idle = Source((context,), (has_context, _is_idle), _rest(matching, "context"))
        return [idle, *_moving(matching)]
    return _by_state(matching)


def _moving(matching: EventFilter, *states: State) -> list[Source]:
    """Return the searches for running events, and for those in other ``states``.

    The indexes with an entry for each event leave out states through which every event goes.
    """
    if matching.state is not None:
        return []
    # A running event has no outcome.
    running = [_running(matching)] if matching.outcome is None else []
    return [*(_open(each, matching) for each in states), *running]


def _running(matching: EventFilter) -> Source:
    running = events.c.state == word(State.RUNNING)
    return Source((), (running,), _rest(matching, "state"), is_ordered=False)


def _by_state(matching: EventFilter) -> list[Source]:
    """Return the searches for a filter without object, group and account."""
    if matching.state in _OPEN or _is_open(matching):
        return [_open(each, matching) for each in _states(matching)]
    if matching.outcome in WITHOUT_MODULE:
        return _without_module(matching)
    if matching.type is not None:
        type_ = (events.c.type, matching.type)
        settled = Source((type_,), (_is_one_of("state", _SETTLED),), _rest(matching, "type"))
        return [settled, *_moving(matching, State.PENDING)]
    return [Source(rest=_rest(matching))]


def _is_open(matching: EventFilter) -> bool:
    """Return True if only pending and dead events can match."""
    is_failure = matching.outcome in _DEADLY | _WAITING or matching.failed_before is not None
    return matching.state is None and is_failure


def _without_module(matching: EventFilter) -> list[Source]:
    """Return the searches for an outcome of a done event that no handler module has run.

    It is pending with the same outcome after a retry.
    """
    where = (events.c.state == word(State.DONE), _is_one_of("outcome", sorted(WITHOUT_MODULE)))
    outcome = (events.c.outcome, matching.outcome or "")
    done = Source((outcome,), where, _rest(matching, "outcome", "state"))
    return [done] if matching.state else [done, _open(State.PENDING, matching)]


def _open(state: str, matching: EventFilter) -> Source:
    prefix = ((events.c.state, state),)
    return Source(prefix, (_is_one_of("state", _OPEN),), _rest(matching, "state"))


def _is_one_of(name: str, words: Sequence[str]) -> Condition:
    """Return the condition of a partial index."""
    return events.c[name].in_([word(each) for each in words])


def _states(matching: EventFilter) -> list[str]:
    """Return the state of the filter, or those in which the latest attempt has failed."""
    return [State(matching.state).value] if matching.state is not None else list(_OPEN)


def _rest(matching: EventFilter, *but: str) -> tuple[Condition, ...]:
    """Return the conditions of the filter except those of the index, as expressions."""
    matching = replace(matching, **dict.fromkeys(but))
    conditions: list[Condition] = [
        events.c[name] + word("") == value
        for name in ("state", "type", "context")
        if (value := getattr(matching, name)) is not None
    ]
    if matching.outcome is not None:
        conditions.append(parking.outcome == matching.outcome)
    if matching.livemode is not None:
        conditions.append(events.c.livemode == matching.livemode)
    if matching.group is not None:
        conditions.append(events.c.fingerprint + word("") == matching.group)
    if matching.failed_before is not None:
        conditions.append(failed_before(matching.failed_before))
    if matching.unchanged_since is not None:
        conditions.append(unchanged_since(matching.unchanged_since))
    return tuple(conditions)


_ids: sa.BindParameter[list[str]] = sa.bindparam("ids", expanding=True)

#: The rows of a list, without body and traceback.
ROWS = sa.select(
    *[
        object_id().label(name)
        if name == "object_id"
        else orphaned(events).is_(sa.true()).label(name)
        if name == "is_orphan"
        else events.c[name]
        for name in EventRow.__dataclass_fields__
    ]
).where(events.c.id.in_(_ids))

#: The same events, complete.
EVENTS = sa.select(*shown).where(events.c.id.in_(_ids))
