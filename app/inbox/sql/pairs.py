"""The statements about pairs: a snapshot event and the thin event of the same action at Stripe.

A hold lets one event of a pair run. It belongs to one claim, and ends with it: no statement that
ends a claim has to know of holds, and none of an older version can leave one behind.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql import parking
from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import orphaned
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import attempts, events, now, pair_holds, thin_events
from app.states import Outcome, State

#: Twins of one event that are shown. Stripe names one snapshot event for each thin event.
MOST_TWINS = 5

_key = sa.bindparam("pair_key", type_=sa.Text)
_event_id = sa.bindparam("event_id", type_=sa.Text)

_this_claim = sa.and_(
    events.c.id == _event_id,
    events.c.attempt == sa.bindparam("claim", type_=sa.Integer),
    events.c.claimed_by == sa.bindparam("token", type_=sa.Text),
    events.c.state == word(State.RUNNING),
)

_twin = events.alias("twin")
_others = sa.union_all(
    sa.select(_key.label("id")),
    sa.select(thin_events.c.event_id).where(thin_events.c.snapshot_event == _key),
).subquery("others")

#: ``unrecorded``: the callback may have succeeded. The event is dead, and a person decides.
_SUCCEEDED = [word(Outcome.HANDLED), word(Outcome.UNRECORDED)]


def _has(outcome: sa.Column[str | None], event_id: sa.Column[str]) -> sa.ColumnElement[bool]:
    """True if the other event of the pair has the ``outcome`` of a success in a table."""
    # A number and not a join: PostgreSQL without statistics would read the whole table.
    number_of = (
        sa.select(sa.func.count(ONE))
        .where(event_id == _others.c.id, outcome.in_(_SUCCEEDED))
        .correlate(_others)
        .scalar_subquery()
    )
    return sa.exists(sa.select(_others.c.id).where(_others.c.id != _event_id, number_of > ZERO))


#: True if the other event of the pair succeeded, in its latest attempt or in one before: a person
#: can have had it run again. An event can have run before its type was a pair.
has_succeeded = sa.or_(
    _has(_twin.c.outcome, _twin.c.id), _has(attempts.c.outcome, attempts.c.event_id)
)

_holder = events.alias("holder")

#: True while the claim of a hold has not ended. The callback of a released event may run until the
#: event is due.
is_live = sa.and_(
    _holder.c.id == pair_holds.c.event_id,
    _holder.c.claimed_by == pair_holds.c.token,
    sa.or_(
        sa.and_(
            _holder.c.state == word(State.RUNNING),
            sa.func.coalesce(orphaned(_holder), sa.false()).is_(sa.false()),
        ),
        sa.and_(
            _holder.c.state == word(State.PENDING),
            parking.outcome_of(_holder) == word(Outcome.RELEASED),
            _holder.c.due_at > now(),
            _holder.c.due_at < parking.parked,
        ),
    ),
)

#: Locks the event on PostgreSQL, so that no other attempt takes it before the hold is committed. A
#: hold of this claim that was written later would replace the one of that attempt.
_claimed = (
    sa.select(_key, events.c.id, events.c.claimed_by)
    .where(_this_claim, ~has_succeeded)
    .with_for_update(read=True, of=events)
)
_held = insert(pair_holds).from_select(["pair_key", "event_id", "token"], _claimed)

#: Takes the hold of a pair for a claim, or moves it from an earlier claim of the same event. The
#: primary key decides between two processes.
HOLD = _held.on_conflict_do_update(
    index_elements=[pair_holds.c.pair_key],
    set_={"token": _held.excluded.token},
    where=pair_holds.c.event_id == _held.excluded.event_id,
).returning(pair_holds.c.pair_key)

#: Why ``HOLD`` returned nothing.
FIND = sa.select(
    has_succeeded.label("has_succeeded"),
    *(
        sa.select(each).where(pair_holds.c.pair_key == _key).scalar_subquery().label(name)
        for name, each in (
            ("holder", pair_holds.c.event_id),
            ("held_by", pair_holds.c.token),
            ("is_live", sa.exists(sa.select(_holder.c.id).where(is_live))),
        )
    ),
)

#: Ends the claim of a hold if its event is an orphan. Its process may live and have lost only its
#: connection: then it must not renew the lease or record a success beside the other event.
END_ORPHAN = (
    sa.update(events)
    .where(
        events.c.id == sa.bindparam("holder", type_=sa.Text),
        events.c.claimed_by == sa.bindparam("held_by", type_=sa.Text),
        orphaned(events),
    )
    .values(claimed_by=events.c.claimed_by + word(".lost"))
    .returning(events.c.id)
)

#: Removes a hold whose claim has ended. A claim that has ended never runs again, so a hold of
#: another claim is a later one and stays.
FREE = (
    sa.delete(pair_holds)
    .where(
        pair_holds.c.pair_key == _key,
        pair_holds.c.event_id == sa.bindparam("holder", type_=sa.Text),
        pair_holds.c.token == sa.bindparam("held_by", type_=sa.Text),
        ~sa.exists(sa.select(_holder.c.id).where(is_live)),
    )
    .returning(pair_holds.c.pair_key)
)

#: Notes the snapshot event of a thin event that is in the inbox.
NOTE = (
    insert(thin_events)
    .from_select(
        ["event_id", "snapshot_event"],
        sa.select(events.c.id, _key).where(events.c.id == _event_id),
    )
    .on_conflict_do_nothing(index_elements=[thin_events.c.event_id])
)

#: Finds the key of a pair, from the id of either event.
NOTED = sa.select(thin_events.c.snapshot_event).where(
    sa.or_(thin_events.c.event_id == _event_id, thin_events.c.snapshot_event == _event_id)
)

#: The events of a pair, from the id of either.
_own_key = sa.func.coalesce(
    sa.select(thin_events.c.snapshot_event)
    .where(thin_events.c.event_id == _event_id)
    .scalar_subquery(),
    _event_id,
)
of_one_action = sa.union_all(
    sa.select(_event_id.label("id")),
    sa.select(_own_key),
    sa.select(thin_events.c.event_id).where(thin_events.c.snapshot_event == _own_key),
)

_action = of_one_action.subquery("action")

#: The other events of an action, also one that is not in the inbox.
TWINS = (
    sa.select(_action.c.id, _twin.c.type, _twin.c.state, parking.outcome_of(_twin).label("outcome"))
    .distinct()
    .select_from(_action)
    .outerjoin(_twin, _twin.c.id == _action.c.id)
    .where(_action.c.id != _event_id)
    .order_by(_action.c.id)
    .limit(number(MOST_TWINS))
)
