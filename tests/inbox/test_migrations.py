"""Each migration makes what it made when it landed, and an inbox of each revision goes on."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.inbox import NewEvent
from app.inbox.migrate import migrations, upgrade
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
HEAD = migrations().head

LANDED = Path(__file__).parent / "migrations"

#: One row for each part of the tables. A check constraint of SQLite stands only in the statement.
PARTS = {
    "sqlite": (
        "SELECT 'column', m.name, p.name, p.type, p.\"notnull\", p.dflt_value, p.pk"
        " FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table'",
        "SELECT type, name, sql FROM sqlite_master WHERE type != 'table' AND sql IS NOT NULL",
        "SELECT 'check', name, substr(sql, instr(sql, 'CONSTRAINT')) FROM sqlite_master"
        " WHERE sql LIKE '%CONSTRAINT%CHECK%'",
    ),
    "postgresql": (
        "SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),"
        " a.attnotnull, pg_get_expr(d.adbin, d.adrelid)"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0",
        "SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        # From version 18, NOT NULL is a constraint too. The columns have it in each version.
        "SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND contype != 'n'",
        "SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT 'function', proname, prosrc FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace",
        "SELECT 'options', relname, array_to_string(reloptions, ' ') FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL",
    ),
}


def parts(connection: sa.Connection) -> set[str]:
    """Return a line for each part of the tables."""
    statements = PARTS[connection.dialect.name]
    rows = [row for each in statements for row in connection.exec_driver_sql(each)]
    return {" ".join(" ".join(map(str, row)).split()) for row in rows}


@pytest.mark.no_tables
def test_landed_migrations_stay_as_they_are(database_url: str) -> None:
    """What each revision adds and removes is in ``migrations/``, for both databases.

    A new revision is added there, as the failure shows it. A change of one that landed needs a new
    revision instead.
    """
    url = sa.make_url(database_url)
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(exist_ok=True)
    engine = raw_sql.make_engine(database_url)
    lines: list[str] = []
    before: set[str] = set()
    for revision in sorted(migrations().revisions):
        with engine.begin() as connection:
            upgrade(connection, None, may_create=True, to=revision)
        with engine.connect() as connection:
            after = parts(connection)
        lines += ["", f"# {revision}", *(f"- {each}" for each in sorted(before - after))]
        lines += [f"+ {each}" for each in sorted(after - before)]
        before = after
    engine.dispose()

    landed = (LANDED / f"{engine.name}.txt").read_text(encoding="utf-8").splitlines()

    changes = difflib.unified_diff(landed, lines[1:], "landed", "now", lineterm="", n=0)
    assert landed == lines[1:], "\n".join(changes)


@pytest.mark.no_tables
@pytest.mark.parametrize("revision", sorted(migrations().revisions)[:-1])
def test_inbox_of_each_revision_goes_on(
    open_inbox: MakeInbox, database_url: str, revision: str
) -> None:
    """After the migration, the waiting event runs once, and the one that is done does not."""
    done, waiting = (replace(EVENT, id=f"evt_{word}") for word in ("done", "waiting"))
    first = open_inbox(database_url)
    first.migrate()
    claim = first.deliveries.record_and_claim(done).claim
    assert claim is not None
    assert first.claims.finish(claim)
    first.deliveries.enqueue(waiting)
    raw_sql.make_older(database_url, revision)

    inbox = open_inbox(database_url)
    inbox.migrate()

    assert inbox.revisions() == (HEAD, HEAD, False)
    claims = [inbox.claims.claim_due(livemode=False) for _ in range(2)]
    assert [each and each.event_id for each in claims] == ["evt_waiting", None]
    assert claims[0] is not None
    assert inbox.claims.finish(claims[0])
    for event in (done, waiting):
        assert inbox.deliveries.record_and_claim(event).state == "done"
    assert {each.id: each.attempt for each in inbox.administration.latest(3)} == {
        "evt_done": 1,
        "evt_waiting": 1,
    }
