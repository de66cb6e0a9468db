"""A large inbox, filled in a few minutes: 1,000,000 events as a platform has them after 90 days.

    python -m benchmarks.million DATABASE_URL [EVENTS]

The events are the same at each run. ``fill`` is for other benchmarks.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

from app.inbox import Inbox
from app.inbox.engine import sqlite
from app.inbox.sql.operations import error_groups, error_hours, releases
from app.inbox.sql.schema import attempts, events

EVENTS = 1_000_000
DAYS = 90
DAY = 86400
GROUPS = 50
#: The share of the events whose latest attempt has failed. Three quarters of them are dead.
FAILED_SHARE = 0.013
TYPES = (
    *("v1.charge.succeeded", "v1.payment_intent.succeeded", "v1.payment_intent.created"),
    *("v1.customer.updated", "v1.invoice.paid", "v1.invoice.finalized", "v1.invoice.created"),
    *("v1.customer.subscription.updated", "v1.customer.created", "v1.checkout.session.completed"),
    *("v1.invoice.payment_succeeded", "v1.charge.updated", "v1.payment_method.attached"),
    *("v1.customer.subscription.created", "v1.charge.failed", "v1.payment_intent.payment_failed"),
    *("v1.invoice.payment_failed", "v1.setup_intent.succeeded", "v1.customer.deleted"),
    *(
        "v1.customer.subscription.deleted",
        "v1.charge.refunded",
        "v1.payout.paid",
        "v1.payout.created",
    ),
    *("v1.account.updated", "v1.transfer.created", "v1.charge.dispute.created"),
    *("v1.charge.dispute.closed", "v1.radar.early_fraud_warning.created", "v1.price.updated"),
    "v1.billing.meter.error_report_triggered",
)
#: A type that no event of the last 60 days has.
FORMER_TYPE = "v1.order.created"
ACCOUNTS = 40
OBJECTS = 100_000
OPEN_STATES = ("pending", "dead")
RELEASES = [f"release-{number:02}" for number in range(10)]
#: Rows in one statement.
BATCH = 5_000

Row = dict[str, Any]
Batch = tuple[sa.Table, list[Row]]


def rows(count: int, end: float, seed: int = 1) -> Iterator[Batch]:
    """Yield the rows of ``count`` events until ``end``, in batches for each table."""
    chance = random.Random(seed)  # noqa: S311 - the events have to be the same at each run
    weights = [1 / (number + 1) for number in range(len(TYPES))]
    types = chance.choices(TYPES, weights, k=count)
    begin = end - DAYS * DAY
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        made = [
            _event(chance, number, types[number], begin + DAYS * DAY * number / count)
            for number in numbers
        ]
        yield events, made
        failed = [each for each in made if each["fingerprint"] is not None]
        yield attempts, [_attempt(each, number) for each in failed for number in range(1, 3)]
    yield from _groups(count, begin)


def _event(chance: random.Random, number: int, type_: str, at: float) -> Row:
    fate = chance.random()
    context = None
    if chance.random() < 0.1:
        context = f"acct_{min(int(chance.expovariate(0.2)), ACCOUNTS)}"
    if type_ == TYPES[3] and number % 3 == 0 and number < EVENTS // 3:
        type_ = FORMER_TYPE
    kind = type_.split(".")[1]
    # Most objects have a few events, and the most active one has a few thousand.
    object_id = f"{kind[:3]}_{int(min(chance.paretovariate(0.5) * 50, 1e9)) % OBJECTS:08}"
    return {
        "id": f"evt_{number:010x}{chance.getrandbits(40):010x}",
        "type": type_,
        "livemode": fate < 0.98,
        "context": context,
        "body": _body(number, type_, context, object_id, at),
        "deliveries": 1,
        "received_at": at,
        "due_at": at,
        "concurrency_key": f"{context or '-'} {kind} {object_id}",
        "claimed_by": f"host-1:{number % 8}:ab12cd.{number}",
        "claimed_at": at + 0.01,
        "attempts_used": 0.0,
        "crashes": 0,
        "source": "delivery",
        "suspected_seconds": 0.0,
        **_result(chance, fate, at),
    }


def _result(chance: random.Random, fate: float, at: float) -> Row:
    """Return the columns of the result: 1 % dead, 0.3 % pending, 1.5 % without a module."""
    row: Row = {"state": "done", "outcome": "handled", "reason": None, "traceback": None}
    row |= {"attempt": 1, "settled_at": at + 0.05, "fingerprint": None, "release": None}
    if fate < FAILED_SHARE:
        group = min(int(chance.expovariate(0.12)), GROUPS - 1)
        dead = fate < FAILED_SHARE * 3 / 4
        row |= {
            "state": "dead" if dead else "pending",
            "outcome": "exhausted" if dead else "failed",
            "reason": f"KeyError: 'field_{group}'",
            "traceback": "Traceback (most recent call last):\n" + "  File ...\n" * 20,
            "attempt": 3,
            "settled_at": at + 3600,
            "fingerprint": fingerprint(group),
            "release": RELEASES[int(fate * 1e6) % len(RELEASES)],
        }
    elif fate < FAILED_SHARE + 0.013:
        row["outcome"] = "fallback"
    elif fate < FAILED_SHARE + 0.015:
        row |= {"outcome": "wrong_mode", "attempt": 0, "claimed_by": None, "claimed_at": None}
    return row


def fingerprint(group: int) -> str:
    """Return the fingerprint of an error group."""
    return f"{group:012x}"


def _body(number: int, type_: str, context: str | None, object_id: str, at: float) -> bytes:
    kind = type_.split(".")[1]
    notification = {
        "id": f"evt_{number}",
        "object": "v2.core.event",
        "type": type_,
        "livemode": True,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at)),
        "context": context,
        "related_object": {"id": object_id, "type": kind, "url": f"/v1/{kind}s/{object_id}"},
        "reason": {"type": "request", "request": {"id": f"req_{number}", "idempotency_key": None}},
    }
    return json.dumps(notification).encode()


def _attempt(event: Row, number: int) -> Row:
    names = ("claimed_by", "reason", "traceback", "fingerprint", "release")
    times = {"started_at": event["claimed_at"], "ended_at": event["settled_at"]}
    same = {name: event[name] for name in names}
    return {"event_id": event["id"], "attempt": number, "outcome": "failed", **times, **same}


def _groups(count: int, begin: float) -> Iterator[Batch]:
    hour = int(begin // 3600)
    yield (
        error_groups,
        [
            {
                "fingerprint": fingerprint(number),
                "exception": "KeyError",
                "place": f"handlers/v1_invoice_paid.py:{number}",
                "type": TYPES[number % len(TYPES)],
                "first_at": begin,
                "last_at": begin + DAYS * DAY - number * 3600,
                "attempts": count // 100,
                "event_id": "evt_1",
                "release": RELEASES[-1],
            }
            for number in range(GROUPS)
        ],
    )
    yield (
        error_hours,
        [
            {"fingerprint": fingerprint(number), "hour": hour + each, "release": release}
            | {"attempts": 1 + each % 7}
            for number in range(GROUPS)
            for each, release in zip(range(0, DAYS * 24, 6), RELEASES * DAYS, strict=False)
        ],
    )
    span = DAYS * DAY / len(RELEASES)
    yield (
        releases,
        [{"release": each, "first_at": begin + n * span} for n, each in enumerate(RELEASES)],
    )


def fill(url: str, count: int = EVENTS, *, analyze: bool = True) -> None:
    """Fill a new inbox at ``url``. If ``analyze``, its planner has statistics afterwards."""
    inbox = Inbox(url, lease_seconds=600)
    inbox.migrate()
    inbox.close()
    end = time.time()
    engine = (
        sa.create_engine(url, module=sqlite.driver) if _is_sqlite(url) else sa.create_engine(url)
    )
    with engine.begin() as connection:
        # An index is made in a tenth of the time that its updates would take.
        made = _take_indexes(connection)
        for table, batch in rows(count, end):
            _insert(connection, table, batch)
        for statement in made:
            connection.exec_driver_sql(statement)
    if analyze:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE" if _is_sqlite(url) else "VACUUM (ANALYZE)")
    engine.dispose()


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def _take_indexes(connection: sa.Connection) -> list[str]:
    """Drop the indexes that the migrations made, and return the statements that make them."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        query = (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
            " AND indexname NOT LIKE '%%_pkey' AND indexname NOT LIKE '%%_pkc'"
        )
    found = connection.exec_driver_sql(query).all()
    for name, _ in found:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    return [statement for _, statement in found]


def _insert(connection: sa.Connection, table: sa.Table, batch: Iterable[Row]) -> None:
    made = list(batch)
    if not made:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(sa.insert(table), made)
        return
    keys = [*made[0]]
    columns = ", ".join(f'"{table.c[key].name}"' for key in keys)
    raw: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment] # SQLAlchemy's interface is that of any driver
    with raw.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in made:
            copy.write_row([row[key] for key in keys])


if __name__ == "__main__":
    begun = time.monotonic()
    fill(sys.argv[1], *map(int, sys.argv[2:3]))
    print(f"filled in {time.monotonic() - begun:.0f} s")
