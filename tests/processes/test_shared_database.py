"""Services in a database of PostgreSQL that another application uses too."""

from __future__ import annotations

from typing import Any

import pytest

from app.inbox import Inbox
from tests.support import raw_sql
from tests.support.services import ACCEPTED, DEADLINE, HANDLED, Lab
from tests.support.waiting import wait_for

FOREIGN = [("1", "a title")]


@pytest.mark.no_tables
def test_inboxes_beside_another_application(lab: Lab, postgresql_url: str) -> None:
    """Without a schema of its own a start is refused. With one it works, and others do not notice.

    A schema that is dropped and made again needs no restart.
    """
    for sql in (
        "CREATE TABLE events (id TEXT PRIMARY KEY, title TEXT)",
        "INSERT INTO events VALUES ('1', 'a title')",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('0003')",
    ):
        raw_sql.execute(postgresql_url, sql)
    settings: dict[str, Any] = {"WEB_CONCURRENCY": 1}
    refused = lab.start(postgresql_url, **settings)
    inline = lab.start(postgresql_url, DATABASE_SCHEMA="one", **settings)
    queue = lab.start(postgresql_url, DATABASE_SCHEMA="two", PROCESSING="queue", **settings)

    assert refused.wait() != 0
    refused.end()
    assert "something named 'events' that is not of this service" in refused.log
    assert "Traceback" not in refused.log
    assert inline.deliver("evt_1").brief == HANDLED
    assert queue.deliver("evt_1").brief == ACCEPTED
    inbox = Inbox(postgresql_url, lease_seconds=1, schema="two")

    def is_done() -> bool:
        event = inbox.administration.find("evt_1")
        return event is not None and event.state == "done"

    wait_for(is_done, DEADLINE)
    inbox.close()

    raw_sql.execute(postgresql_url, "DROP SCHEMA one CASCADE")
    assert inline.deliver("evt_2").status == 503
    raw_sql.execute(postgresql_url, "CREATE SCHEMA one")
    assert inline.deliver("evt_2").brief == HANDLED

    assert raw_sql.select(postgresql_url, "public.events") == FOREIGN
    assert raw_sql.select(postgresql_url, "public.alembic_version") == [("0003",)]
    assert lab.account("evt_1") == [("start", 1), ("end", 1)] * 2
