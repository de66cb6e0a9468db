"""The facts of alerts are read by an index, on both databases."""

from __future__ import annotations

import contextlib

import pytest
import sqlalchemy as sa

from app.inbox import Inbox
from app.inbox.sql import alert_facts
from tests.support import raw_sql

NAMES = ["handled", "failed"]


@pytest.mark.parametrize("analyze", [False, True])
def test_events_are_found_by_their_index(database_url: str, *, analyze: bool) -> None:
    """No statement walks the table of events, with statistics and without."""
    with contextlib.closing(Inbox(database_url, lease_seconds=30)) as inbox:
        inbox.migrate()
    engine = raw_sql.make_engine(database_url, isolation_level="AUTOCOMMIT")
    is_sqlite = database_url.startswith("sqlite")
    with engine.connect() as connection:
        if analyze:
            connection.exec_driver_sql("ANALYZE")
        for name in () if is_sqlite else ("seqscan", "bitmapscan", "sort"):  # as with in_order
            connection.exec_driver_sql(f"SET enable_{name} = off")
        dead = alert_facts.DEAD.params(since=0.0)
        for statement in (dead, alert_facts.PENDING):
            assert statement.get_execution_options()["in_order"] is True
            plan = _plan(connection, statement)
            assert "stripe_receiver_open " in f"{plan} ", plan
            assert "Seq Scan on events" not in plan, plan
            assert "SCAN events" not in plan, plan
        for counters in (alert_facts.ATTEMPTS, alert_facts.LAST_DELIVERY):
            plan = _plan(connection, counters.params(names=NAMES, bucket=0))
            assert "SCAN stripe_receiver_activity" not in plan, plan
            assert "Seq Scan" not in plan, plan
    engine.dispose()


def _plan(connection: sa.Connection, statement: sa.SelectBase) -> str:
    sql = statement.compile(connection, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(f"{explain} {sql}".replace("%", "%%"))
    return " ".join(str(row[-1]) for row in rows)
