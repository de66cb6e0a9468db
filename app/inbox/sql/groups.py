"""The statements about error groups and releases. The trigger of ``0006_operations.py`` counts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import error_groups, error_hours, releases
from app.inbox.sql.schema import events, now
from app.states import State

#: The most open events that are counted of one group, and of each group of a list.
MOST_OPEN = 10_000
MOST_OPEN_IN_LIST = 1_000
#: The most releases of a group that are listed.
MOST_RELEASES = 100

_this_group = error_groups.c.fingerprint == sa.bindparam("fingerprint")


def _with_open(most: int) -> sa.Select[Any]:
    """Select groups, each with the number of its pending and dead events: at most ``most`` + 1."""
    open_events = (
        sa.select(number(1))
        .where(
            events.c.fingerprint == error_groups.c.fingerprint,
            events.c.state.in_([word(State.PENDING), word(State.DEAD)]),
        )
        .limit(number(most + 1))
        .correlate(error_groups)
        .subquery()
    )
    count = sa.select(sa.func.count()).select_from(open_events).scalar_subquery()
    return sa.select(*error_groups.c, count.label("open"))


#: Selects the groups that failed since a time, the latest failure first.
LIST = (
    _with_open(MOST_OPEN_IN_LIST)
    .where(error_groups.c.last_at >= sa.bindparam("since"))
    .order_by(error_groups.c.last_at.desc(), error_groups.c.fingerprint)
    .limit(sa.bindparam("limit"))
)
FIND = _with_open(MOST_OPEN).where(_this_group)

#: Writes the words for a group. Another release can have the same line at another number.
NOTE = (
    sa.update(error_groups)
    .where(_this_group)
    .values(exception=sa.bindparam("exception_"), place=sa.bindparam("place_"))
    .returning(error_groups.c.fingerprint)
)

_in_this_group = error_hours.c.fingerprint == sa.bindparam("fingerprint")
HOURS = (
    sa.select(error_hours.c.hour, error_hours.c.release, error_hours.c.attempts)
    .where(_in_this_group, error_hours.c.hour >= sa.bindparam("hour_"))
    .order_by(error_hours.c.hour, error_hours.c.release)
)
_last = sa.func.max(error_hours.c.hour)
_releases = (
    sa.select(
        error_hours.c.fingerprint,
        error_hours.c.release,
        sa.cast(sa.func.sum(error_hours.c.attempts), sa.Integer).label("attempts"),
        sa.func.min(error_hours.c.hour).label("first_hour"),
        _last.label("last_hour"),
        sa.func.row_number()
        .over(
            partition_by=error_hours.c.fingerprint, order_by=[_last.desc(), error_hours.c.release]
        )
        .label("place"),
    )
    .where(error_hours.c.fingerprint.in_(sa.bindparam("fingerprints", expanding=True)))
    .group_by(error_hours.c.fingerprint, error_hours.c.release)
    .subquery()
)
#: Selects the releases of some groups, the latest failure first.
RELEASES = (
    sa.select(*[each for each in _releases.c if each.name != "place"])
    .where(_releases.c.place <= number(MOST_RELEASES))
    .order_by(_releases.c.fingerprint, _releases.c.place)
)

#: The releases of which a process has started, the latest first.
BEGUN = (
    sa.select(releases.c.release)
    .order_by(releases.c.first_at.desc(), releases.c.release)
    .limit(sa.bindparam("limit"))
)
HAS_BEGUN = sa.select(releases.c.release).where(releases.c.release == sa.bindparam("release"))

#: Records the first start of a release.
BEGIN_RELEASE = (
    insert(releases)
    .values(release=sa.bindparam("release"), first_at=now())
    .on_conflict_do_nothing(index_elements=[releases.c.release])
    .returning(releases.c.release)
)
