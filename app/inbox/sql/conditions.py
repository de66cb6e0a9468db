"""Conditions of a filter that need a query of their own."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql import parking
from app.inbox.sql.literals import word
from app.inbox.sql.operations import releases
from app.inbox.sql.rows import ZERO
from app.inbox.sql.schema import events, now, retries
from app.states import Outcome, State


def failed_before(release: str) -> sa.ColumnElement[bool]:
    """True if the latest attempt failed under a release that began before this one.

    With an unknown release, an attempt counts if it ended before this one began: attempts of older
    versions and crashes have none.
    """
    begin = sa.select(releases.c.first_at).where(releases.c.release == release).scalar_subquery()
    earlier = sa.select(releases.c.release).where(releases.c.first_at < begin)
    unknown = sa.and_(events.c.release.is_(None), events.c.settled_at < begin)
    return sa.and_(
        (events.c.state + word("")).in_([word(each) for each in (State.PENDING, State.DEAD)]),
        parking.outcome != word(Outcome.RELEASED),
        sa.or_(events.c.release.in_(earlier), unknown),
    )


def unchanged_since(at: float) -> sa.ColumnElement[bool]:
    """True if no attempt ended since then, and no person retried the event.

    A time in the future was written before the clock stepped back, so it does not count.
    """
    settled_at = sa.func.coalesce(events.c.settled_at, ZERO)
    retried = sa.exists().where(retries.c.event_id == events.c.id, retries.c.at.between(at, now()))
    return sa.and_(sa.or_(settled_at <= at, settled_at > now()), ~retried)
