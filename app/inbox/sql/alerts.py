"""The statements of alerts, and of the outbox of their messages.

Each transition of an alert is one statement. It names the ``details`` that it replaces, so of two
leaders only one makes it. The new details hold the message, until it is in the outbox. So no
message is lost, and none is made twice, wherever a leader ends.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.literals import number
from app.inbox.sql.operations import alert_messages as messages
from app.inbox.sql.operations import alerts
from app.inbox.sql.schema import now

#: Seconds after which a message is no longer sent.
MESSAGE_SECONDS = 86400.0
#: Alerts that have ended are listed for so many seconds.
LISTED_SECONDS = 7 * 86400.0
#: Alerts that have ended, and messages, are kept for so many seconds.
KEPT_SECONDS = 30 * 86400.0
#: A message is due at most so many seconds from now. A later time was written before the clock
#: stepped back.
MAX_DELAY_SECONDS = 600.0
#: Messages that one call returns.
MOST = 20

_id = alerts.c.id == sa.bindparam("alert_id")
_details = sa.bindparam("details", type_=sa.Text)
_before = sa.bindparam("before", type_=sa.Text)
_is_raised = alerts.c.resolved_at.is_(sa.null())

_new = insert(alerts).values(
    id=sa.bindparam("alert_id"),
    alert=sa.bindparam("alert"),
    group=sa.bindparam("group"),
    since=sa.bindparam("since", type_=sa.Double),
    seen_at=now(),
    number=sa.bindparam("number", type_=sa.Integer),
    resolved_at=sa.null(),
    details=_details,
)
#: Raises an alert that is not raised. The caller does not know the details of an old one.
RAISE = _new.on_conflict_do_update(
    index_elements=[alerts.c.id],
    set_={
        "since": _new.excluded.since,
        "seen_at": now(),
        "number": _new.excluded.number,
        "resolved_at": sa.null(),
        "details": _new.excluded.details,
    },
    where=sa.or_(
        sa.and_(alerts.c.resolved_at.is_not(sa.null()), alerts.c.details == _before),
        alerts.c.resolved_at < now() - number(LISTED_SECONDS),
    ),
).returning(alerts.c.id)

#: Records that a raised alert has grown.
CONTINUE = (
    sa.update(alerts)
    .where(_id, _is_raised, alerts.c.details == _before)
    .values(seen_at=now(), number=sa.bindparam("number", type_=sa.Integer), details=_details)
    .returning(alerts.c.id)
)

#: Ends a raised alert.
RESOLVE = (
    sa.update(alerts)
    .where(_id, _is_raised, alerts.c.details == _before)
    .values(resolved_at=now(), details=_details)
    .returning(alerts.c.id)
)

#: Records that the condition of a raised alert still holds. It replaces no newer details.
SEE = (
    sa.update(alerts)
    .where(_id, _is_raised)
    .values(
        seen_at=now(),
        number=sa.bindparam("number", type_=sa.Integer),
        details=sa.case((alerts.c.details == _before, _details), else_=alerts.c.details),
    )
    .returning(alerts.c.id)
)

#: All alerts that are raised or ended lately, the latest first.
LISTED = (
    sa.select(alerts)
    .where(sa.or_(_is_raised, alerts.c.resolved_at > now() - number(LISTED_SECONDS)))
    .order_by(alerts.c.since.desc(), alerts.c.id)
)

#: Counts the raised alerts by their name.
RAISED = (
    sa.select(alerts.c.alert, sa.func.count().label("number"))
    .where(_is_raised)
    .group_by(alerts.c.alert)
    .order_by(alerts.c.alert)
)

#: Puts a message into the outbox, unless it is there.
ADD_MESSAGE = (
    insert(messages)
    .values(
        id=sa.bindparam("message_id"),
        alert_id=sa.bindparam("alert_id"),
        at=now(),
        body=sa.bindparam("body"),
        sent_at=sa.null(),
        tries=number(0),
        due_at=now(),
    )
    .on_conflict_do_nothing(index_elements=[messages.c.id])
    .returning(messages.c.id)
)

#: Removes the message from the details of its alert: it is in the outbox.
HANDED_OVER = (
    sa.update(alerts)
    .where(_id, alerts.c.details == _before)
    .values(details=_details)
    .returning(alerts.c.id)
)

_earlier = messages.alias()


def _is_open(table: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.sent_at.is_(sa.null()), table.c.at > now() - number(MESSAGE_SECONDS))


_is_due = sa.or_(messages.c.due_at <= now(), messages.c.due_at > now() + number(MAX_DELAY_SECONDS))

#: The first message of each alert that is not sent, if it is due.
DUE = (
    sa.select(messages.c.id, messages.c.alert_id, messages.c.body)
    .where(
        _is_open(messages),
        _is_due,
        ~sa.exists().where(
            _is_open(_earlier),
            _earlier.c.alert_id == messages.c.alert_id,
            _earlier.c.at < messages.c.at,
        ),
    )
    .order_by(messages.c.at)
    .limit(number(MOST))
)

_message = messages.c.id == sa.bindparam("message_id")
_not_sent = messages.c.sent_at.is_(sa.null())
_later = now() + sa.bindparam("seconds", type_=sa.Double)

#: Takes a message for one try. No other process takes it for so many seconds.
TAKE = (
    sa.update(messages)
    .where(_message, _not_sent, _is_due)
    .values(due_at=_later, tries=messages.c.tries + number(1))
    .returning(messages.c.tries)
    .execution_options(repeatable=False)
)

SENT = sa.update(messages).where(_message, _not_sent).values(sent_at=now()).returning(messages.c.id)

#: Tries a message again after so many seconds.
POSTPONE = (
    sa.update(messages).where(_message, _not_sent).values(due_at=_later).returning(messages.c.id)
)

#: Counts the messages that are not sent, with the most tries of one of them.
UNSENT = sa.select(
    sa.func.count().label("number"),
    sa.func.coalesce(sa.func.max(messages.c.tries), 0).label("tries"),
).where(_is_open(messages))

#: Removes alerts that ended long ago, and old messages.
PRUNE_ALERTS = (
    sa.delete(alerts)
    .where(alerts.c.resolved_at < now() - number(KEPT_SECONDS))
    .returning(alerts.c.id)
)
PRUNE_MESSAGES = (
    sa.delete(messages).where(messages.c.at < now() - number(KEPT_SECONDS)).returning(messages.c.id)
)
