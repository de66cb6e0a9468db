"""The statements that find the events about an object, and erase them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from app.inbox.sql.literals import word
from app.inbox.sql.operations import audit
from app.inbox.sql.schema import attempts, effects, events, now, retries
from app.states import State


class contains(FunctionElement[bool]):  # noqa: N801 - a function in SQL
    """True if the first argument contains the second one. Both are texts, or both are bytes."""

    inherit_cache = True
    type = sa.Boolean()


@compiles(contains, "sqlite")
def _contains_on_sqlite(element: contains, compiler: Any, **names: Any) -> str:
    return f"instr({compiler.process(element.clauses, **names)}) > 0"


@compiles(contains, "postgresql")
def _contains_on_postgresql(element: contains, compiler: Any, **names: Any) -> str:
    # Qualified: without that it is a keyword with a syntax of its own.
    return f"pg_catalog.position({compiler.process(element.clauses, **names)}) > 0"


_words = sa.bindparam("words", type_=sa.Text)


def _any_contains(*columns: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return sa.func.coalesce(sa.or_(*(contains(each, _words) for each in columns)), sa.false())


_this_event = sa.bindparam("event_id", type_=sa.Text)


def _next_rows(is_found: sa.ColumnElement[bool], *key: sa.Column[Any]) -> sa.Select[Any]:
    """Select the next rows after a place in the order of the ``key``, and which are found.

    The place is a row's key: the parameters are the names of its columns after ``after_``.
    """
    after = [sa.bindparam(f"after_{each.name}", type_=each.type) for each in key]
    return (
        sa.select(*key, is_found.label("is_found"))
        .where(sa.tuple_(*key) > sa.tuple_(*after))
        .order_by(*key)
        .limit(sa.bindparam("rows", type_=sa.Integer))
    )


#: The next events in the order of receipt, and which of them contain the words.
NEXT_EVENTS = _next_rows(
    sa.or_(
        contains(events.c.body, sa.bindparam("bytes", type_=sa.LargeBinary)),
        _any_contains(
            events.c.concurrency_key, events.c.context, events.c.reason, events.c.traceback
        ),
    ),
    events.c.received_at,
    events.c.id,
)

#: The next attempts, and which of them contain the words.
NEXT_ATTEMPTS = _next_rows(
    _any_contains(attempts.c.reason, attempts.c.traceback), attempts.c.event_id, attempts.c.attempt
)

#: The next effects, and which of them contain the words.
NEXT_EFFECTS = _next_rows(_any_contains(effects.c.purpose), effects.c.event_id, effects.c.purpose)

#: The events whose retries contain the words. People ask for few of them.
RETRIES = sa.select(retries.c.event_id).where(_any_contains(retries.c.why)).distinct()

ERASE_ATTEMPTS = (
    sa.update(attempts)
    .where(attempts.c.event_id == _this_event)
    .values(reason=sa.null(), traceback=sa.null())
)
ERASE_RETRIES = sa.update(retries).where(retries.c.event_id == _this_event).values(why=sa.null())

#: Erases an event that has ended, if it has made no attempt since it was found.
ERASE = (
    sa.update(events)
    .where(
        events.c.id == _this_event,
        events.c.attempt == sa.bindparam("seen_attempt", type_=sa.Integer),
        events.c.state.in_([word(State.DONE), word(State.DEAD)]),
    )
    .values(
        # A dead event needs a person. This one can never run, so there is nothing to do.
        state=word(State.DONE),
        body=sa.bindparam("empty", type_=sa.LargeBinary),
        reason=sa.null(),
        traceback=sa.null(),
        concurrency_key=word("event ") + events.c.id,
        context=sa.case((contains(events.c.context, _words), sa.null()), else_=events.c.context),
        erased_at=now(),
    )
    .returning(events.c.id)
)

#: Erases the words from the purposes of effects. The effects stay recorded.
ERASE_EFFECTS = (
    sa.update(effects)
    .where(effects.c.event_id == _this_event, contains(effects.c.purpose, _words))
    .values(purpose=sa.func.replace(effects.c.purpose, _words, word("[erased]")))
)

#: Erases the words from the audit log: a filter can name an object.
ERASE_AUDIT = (
    sa.update(audit)
    .where(_any_contains(audit.c.target, audit.c.why))
    .values(target=word("erased"), why=sa.null())
)
