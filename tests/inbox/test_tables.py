"""The inbox beside other applications, in a schema of its own, and beside older replicas."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.errors import InboxUnavailable, MigrationPending, StartError
from app.inbox import Claim, Failure, Inbox, NewEvent
from app.inbox.migrate import FOLDER, migrations, upgrade, works_with
from devkit import samples
from devkit.deliver import Logged
from tests.conftest import Receiver
from tests.support import new_tables, raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.pages import PAGES
from tests.support.waiting import wait_for

pytestmark = pytest.mark.no_tables

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
HEAD = migrations().head
#: The relations of a database, with their columns in order.
CATALOGS = {
    "sqlite": "SELECT m.name, m.sql FROM sqlite_master m ORDER BY 1",
    "postgresql": "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a"
    " ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1, a.attnum",
}


def run(url: str, *statements: str) -> None:
    """Run these statements, as another application or a person does."""
    engine = raw_sql.make_engine(url)
    with engine.begin() as connection:
        for each in statements:
            connection.exec_driver_sql(each)
    engine.dispose()


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    engine = raw_sql.make_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(sql)]
    engine.dispose()
    return found


def catalog(url: str) -> list[tuple[object, ...]]:
    """Return everything that the database has, as far as another application can see it."""
    return rows(url, CATALOGS[sa.make_url(url).get_backend_name()])


def create_folder(url: str, open_inbox: MakeInbox) -> None:
    """Create the folder of a SQLite file, as the application that has its tables there."""
    if url.startswith("sqlite"):
        inbox = open_inbox(url, migrates=False)
        with pytest.raises(MigrationPending):
            inbox.migrate()
        inbox.close()


def refused(inbox: Inbox) -> str:
    """Return why the inbox refuses a database."""
    with pytest.raises(StartError) as raised:
        inbox.migrate()
    return str(raised.value)


def claim(inbox: Inbox) -> Claim:
    """Claim the event of these tests."""
    found = inbox.deliveries.record_and_claim(EVENT).claim
    assert found is not None
    return found


@contextmanager
def make_role(url: str, *grants: str) -> Iterator[str]:
    """Give the URL of a role with these rights to the block."""
    role = f"role_{sa.make_url(url).database}"
    run(url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'", *(each.format(role=role) for each in grants))
    try:
        named = sa.make_url(url).set(username=role, password="x")
        yield named.render_as_string(hide_password=False)
    finally:
        run(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def make_legacy(
    url: str, inbox: Inbox, revision: str = "0004", *, named: str | None = None
) -> None:
    """Make the inbox one that version 0.2.0 has created.

    ``named`` is the revision that it says it is of, if that is not the ``revision``.
    """
    inbox.migrate()
    raw_sql.make_older(url, revision)
    run(
        url,
        "DROP TABLE stripe_receiver_version",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        f"INSERT INTO alembic_version VALUES ('{named or revision}')",  # noqa: S608 - the test's own
    )


class TestOtherApplications:
    """Tables of another application are never touched."""

    @pytest.mark.parametrize("revision", ["0003", "ae1027a6acf"])
    def test_foreign_tables_are_refused_by_name(
        self, open_inbox: MakeInbox, database_url: str, revision: str
    ) -> None:
        """A foreign ``events`` beside a foreign ``alembic_version`` stays unchanged."""
        create_folder(database_url, open_inbox)
        run(
            database_url,
            "CREATE TABLE events (id TEXT PRIMARY KEY, title TEXT)",
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            f"INSERT INTO alembic_version VALUES ('{revision}')",  # noqa: S608 - the test's own
        )
        before = catalog(database_url)

        message = refused(open_inbox(database_url))

        assert "something named 'events' that is not of this service" in message
        assert "Nothing was changed. Set DATABASE_" in message
        if database_url.startswith("postgresql"):
            assert message in PAGES["docs/operations.md"]
        assert catalog(database_url) == before
        assert rows(database_url, "SELECT * FROM alembic_version") == [(revision,)]

    @pytest.mark.parametrize(
        ("sql", "name"),
        [
            ("CREATE TABLE leaders (name TEXT)", "leaders"),
            ("CREATE VIEW events AS SELECT 1 AS id", "events"),
            ("CREATE INDEX events_due ON foreign_table (id)", "events_due"),
            ("CREATE TABLE stripe_receiver_version (id TEXT)", "stripe_receiver_version"),
        ],
    )
    def test_each_name_is_checked(
        self, open_inbox: MakeInbox, database_url: str, sql: str, name: str
    ) -> None:
        """Any table, view or index with a name of ours is refused before anything is created."""
        create_folder(database_url, open_inbox)
        run(database_url, "CREATE TABLE foreign_table (id TEXT)", sql)
        before = catalog(database_url)

        assert f"something named {name!r}" in refused(open_inbox(database_url))
        assert catalog(database_url) == before

    @pytest.mark.parametrize(
        ("sql", "name"),
        [
            (
                "CREATE FUNCTION forget_event() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "forget_event",
            ),
            ("CREATE TYPE events AS ENUM ('a')", "events"),
        ],
    )
    def test_functions_and_types_are_checked(
        self, open_inbox: MakeInbox, postgresql_url: str, sql: str, name: str
    ) -> None:
        """PostgreSQL's functions and types have names too."""
        run(postgresql_url, sql)
        assert f"something named {name!r}" in refused(open_inbox(postgresql_url))

    def test_migration_does_not_take_a_foreign_table(
        self, open_inbox: MakeInbox, database_url: str
    ) -> None:
        """An old inbox is not upgraded while another application has a table of a new name."""
        make_legacy(database_url, open_inbox(database_url), named="0002")
        before = catalog(database_url)

        message = refused(open_inbox(database_url))

        assert "something named 'leaders'" in message
        assert "something named 'watermarks'" in message
        assert catalog(database_url) == before

    def test_inbox_without_its_version_is_refused(
        self, open_inbox: MakeInbox, database_url: str
    ) -> None:
        """Tables with our columns need our revision beside them."""
        make_legacy(database_url, open_inbox(database_url), named="ae1027a6acf")
        before = catalog(database_url)

        assert "something named 'events'" in refused(open_inbox(database_url))
        assert catalog(database_url) == before

    @pytest.mark.parametrize("revisions", [["0003"], ["0003", "0004"], []])
    def test_foreign_version_table_stays(
        self, open_inbox: MakeInbox, database_url: str, revisions: list[str]
    ) -> None:
        """Where no other name is taken, the inbox is created beside ``alembic_version``."""
        create_folder(database_url, open_inbox)
        run(
            database_url,
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            *(f"INSERT INTO alembic_version VALUES ('{each}')" for each in revisions),  # noqa: S608 - the test's own
        )
        inbox = open_inbox(database_url)

        inbox.migrate()

        assert claim(inbox).attempt == 1
        there = [row[0] for row in rows(database_url, "SELECT * FROM alembic_version")]
        assert there == revisions
        assert open_inbox(database_url).revisions().current == HEAD

    def test_running_service_answers_503(
        self, make_receiver: Callable[..., Receiver], postgresql_url: str
    ) -> None:
        """A process that could not check the tables at its start refuses deliveries, not itself."""
        receiver = make_receiver(database_url=postgresql_url)
        run(postgresql_url, "CREATE TABLE events (id TEXT)")

        answer = receiver.deliver(samples.notification("v1.customer.created"))

        assert answer.status_code == 503
        assert answer.json == {"error": "the inbox cannot be used"}
        assert receiver.client.get("/readyz").status_code == 503
        shown = receiver.app.test_cli_runner().invoke(args=["events", "list"])
        assert "Error: The inbox cannot be used: the schema 'public'" in shown.output

    def test_changed_table_is_refused(self, open_inbox: MakeInbox, database_url: str) -> None:
        """An inbox that lacks a table or a column is not used."""
        open_inbox(database_url).migrate()
        run(
            database_url,
            "DROP TABLE pauses",
            "ALTER TABLE events RENAME COLUMN spent TO former",
        )

        message = refused(open_inbox(database_url))

        assert "the inbox's table 'pauses'" in message
        assert "is missing. Restore a backup" in message
        assert "lacks the columns spent" in message


class TestVersions:
    """The version table is the inbox's own."""

    def test_inbox_of_an_older_release_is_taken_over(
        self, open_inbox: MakeInbox, database_url: str
    ) -> None:
        """Its events stay, and so does ``alembic_version``, which its replicas read."""
        first = open_inbox(database_url)
        claim(first)
        make_legacy(database_url, first)

        second = open_inbox(database_url)
        second.migrate()

        assert second.deliveries.record_and_claim(EVENT).state == "running"
        assert rows(database_url, "SELECT * FROM alembic_version") == [("0004",)]
        versions = rows(database_url, "SELECT * FROM stripe_receiver_version")
        assert versions == [(HEAD, works_with())]

    @pytest.mark.parametrize("revision", ["0003", "0004"])
    def test_way_back_to_0_2_0(
        self, open_inbox: MakeInbox, database_url: str, revision: str
    ) -> None:
        """``alembic_version`` names the tables of 0.2.0, which runs no migration of its own."""
        make_legacy(database_url, open_inbox(database_url), revision)

        open_inbox(database_url).migrate()

        assert rows(database_url, "SELECT * FROM alembic_version") == [("0004",)]

    def test_legacy_table_can_be_dropped(self, open_inbox: MakeInbox, database_url: str) -> None:
        """After the takeover, ``alembic_version`` is not read any more."""
        make_legacy(database_url, open_inbox(database_url))
        open_inbox(database_url).migrate()
        run(database_url, "DROP TABLE alembic_version")
        inbox = open_inbox(database_url)

        inbox.migrate()

        assert inbox.revisions() == (HEAD, HEAD, False)

    def test_newer_tables_are_used_if_they_work_with_this_version(
        self, open_inbox: MakeInbox, database_url: str
    ) -> None:
        """A replica can start while the next version is being deployed."""
        open_inbox(database_url).migrate()
        run(
            database_url,
            "UPDATE stripe_receiver_version SET version_num = '9999'",
            "ALTER TABLE events ADD COLUMN newer TEXT",
        )
        inbox = open_inbox(database_url)

        inbox.migrate()

        assert claim(inbox).attempt == 1
        assert inbox.revisions() == ("9999", HEAD, False)
        assert inbox.upgrade() == ("9999", HEAD, False)

    def test_each_migration_says_what_works_with_it(self) -> None:
        """The oldest code that works with the newest tables is one that exists."""
        assert works_with() in migrations().revisions

    def test_files_have_the_names_of_their_revisions(self) -> None:
        """The revisions are found without Alembic, by the names of the files."""
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        scripts = ScriptDirectory.from_config(config)
        assert migrations().head == scripts.get_current_head()
        assert migrations().revisions == {each.revision for each in scripts.walk_revisions()}

    def test_statistics_follow_the_queue(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """Autovacuum analyses after a fixed number of changes, however many events are done."""
        open_inbox(postgresql_url).migrate()

        options = rows(postgresql_url, "SELECT reloptions FROM pg_class WHERE relname = 'events'")

        set_ = ["autovacuum_analyze_scale_factor=0", "autovacuum_analyze_threshold=500"]
        assert options == [(set_,)]


class TestSchema:
    """``DATABASE_SCHEMA``: several inboxes and applications in one database of PostgreSQL."""

    def test_inbox_works_in_its_schema(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """Statements, triggers and reads use the schema, whatever ``search_path`` is."""
        run(postgresql_url, "CREATE TABLE events (id TEXT PRIMARY KEY, title TEXT)")
        before = catalog(postgresql_url)
        separator = "&" if "?" in postgresql_url else "?"
        url = f"{postgresql_url}{separator}options=-csearch_path%3Dnowhere"
        inbox = open_inbox(url, schema="user")  # a word that SQL has to quote

        inbox.migrate()
        inbox.claims.fail(claim(inbox), Failure("broken", delay=0.0))
        inbox.claims.finish(claim(inbox))
        assert inbox.administration.reopen("evt_1", by="me", why=None, again=True)
        inbox.check()
        inbox.administration.report()

        assert [each.outcome for each in inbox.administration.attempts("evt_1")] == [
            "failed",
            "handled",
        ]
        assert inbox.address.endswith("(schema user)")
        run(postgresql_url, 'DELETE FROM "user".events')
        assert rows(postgresql_url, 'SELECT * FROM "user".attempts') == []
        assert rows(postgresql_url, 'SELECT * FROM "user".retries') == []
        assert catalog(postgresql_url) == before

    def test_inboxes_of_one_database_are_separate(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """Two schemas are two inboxes: events, versions and notifications."""
        one, two = (open_inbox(postgresql_url, schema=name) for name in ("one", "two"))
        one.migrate()
        two.migrate()
        heard: list[str] = []
        stopping = threading.Event()
        listeners = [
            threading.Thread(
                target=each.claims.listen, args=[lambda name=name: heard.append(name), stopping]
            )
            for name, each in (("one", one), ("two", two))
        ]
        for thread in listeners:
            thread.start()
        try:

            def is_heard() -> bool:
                two.deliveries.notify()  # the first ones may come before it listens
                return heard.count("two") > 3

            claim(one)
            wait_for(is_heard)
        finally:
            stopping.set()
            for thread in listeners:
                thread.join(30)

        assert "one" not in heard
        assert two.administration.find("evt_1") is None

    def test_inbox_can_move_into_a_schema(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """The statements of the operations page move everything: events, triggers, revision."""
        first = open_inbox(postgresql_url)
        first.claims.fail(claim(first), Failure("broken", delay=0.0))
        first.close()
        (sql,) = re.findall(
            r"^```sql\n(.*?)^```", PAGES["docs/operations.md"], re.MULTILINE | re.DOTALL
        )
        run(postgresql_url, sql)
        inbox = open_inbox(postgresql_url, schema="stripe")

        inbox.migrate()
        inbox.claims.finish(claim(inbox))

        outcomes = [each.outcome for each in inbox.administration.attempts("evt_1")]
        assert outcomes == ["failed", "handled"]
        assert catalog(postgresql_url) == []

    def test_schema_instead_of_a_move_is_logged(
        self, make_receiver: Callable[..., Receiver], postgresql_url: str, logged: Logged
    ) -> None:
        """A new inbox beside one that ``search_path`` finds may be a mistake."""
        make_receiver(database_url=postgresql_url).services.inbox.migrate()
        for _ in range(2):  # the second start finds the tables
            second = make_receiver(database_url=postgresql_url, database_schema="own")
            second.services.inbox.migrate()

        line = logged("inbox_created_beside_another")

        assert (line["schema"], line["other"]) == ("own", "public")

    def test_new_inbox_before_a_running_one(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """A running process stays with its tables when ``search_path`` finds others first."""
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, f"ALTER DATABASE {name} SET search_path = early, public")
        first = open_inbox(postgresql_url)
        first.migrate()
        first.claims.finish(claim(first))
        with make_role(postgresql_url, f"GRANT CREATE ON DATABASE {name} TO {{role}}") as url:
            run(postgresql_url, f"ALTER ROLE role_{name} SET search_path = nowhere")
            second = open_inbox(url, schema="early")
            second.migrate()
            assert claim(second).attempt == 1
            second.close()

            assert first.deliveries.record_and_claim(EVENT).state == "done"
            assert [each.id for each in first.administration.latest(9)] == ["evt_1"]
            run(postgresql_url, "DROP TABLE public.pauses, public.events CASCADE")
            with pytest.raises(InboxUnavailable):
                claim(first)
            with pytest.raises(InboxUnavailable) as raised:
                claim(first)
            assert "in the schema 'public' is missing. Restore a backup" in raised.value.reason

    @pytest.mark.parametrize("exists", [False, True])
    def test_inbox_that_would_hide_another_is_refused(
        self, open_inbox: MakeInbox, postgresql_url: str, *, exists: bool
    ) -> None:
        """Replicas of 0.2.0 would use it at once, and others without a setting after a restart."""
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, f"ALTER DATABASE {name} SET search_path = early, public, late")
        open_inbox(postgresql_url).migrate()
        if exists:
            run(postgresql_url, "CREATE SCHEMA early")

        message = refused(open_inbox(postgresql_url, schema="early"))

        assert "the schema 'public' has an inbox, and 'early' comes before it" in message
        assert "Set DATABASE_SCHEMA to a schema that is not in search_path" in message
        sql = "SELECT count(*) FROM pg_namespace WHERE nspname = 'early'"
        assert rows(postgresql_url, sql) == [(int(exists),)]
        open_inbox(postgresql_url, schema="late").migrate()

    def test_schema_with_any_name_is_found(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """The schema that ``search_path`` finds can have a name that SQL has to quote."""
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, 'CREATE SCHEMA "Na""me"')
        run(postgresql_url, f'ALTER DATABASE {name} SET search_path = "Na""me"')
        inbox = open_inbox(postgresql_url)

        inbox.migrate()

        assert claim(inbox).attempt == 1
        assert inbox.administration.report().lossy_encoding is None
        assert rows(postgresql_url, 'SELECT id FROM "Na""me".events') == [("evt_1",)]

    def test_search_path_of_another_client(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """A pooled session can have the ``search_path`` of another client: no table goes there."""
        run(postgresql_url, "CREATE SCHEMA other_app")
        engine = raw_sql.make_engine(postgresql_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("SET search_path = other_app")
            with pytest.raises(InboxUnavailable) as raised:
                upgrade(connection, None, may_create=False)
        engine.dispose()
        assert "changed search_path. Set DATABASE_SCHEMA" in raised.value.reason

        inbox = open_inbox(postgresql_url)
        inbox.migrate()
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, f"ALTER DATABASE {name} SET search_path = other_app")
        inbox.close()  # the next connection has the other path
        assert claim(inbox).attempt == 1
        run(postgresql_url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        with pytest.raises(InboxUnavailable):
            inbox.check()
        inbox.check()
        sql = "SELECT schemaname FROM pg_tables WHERE tablename = 'events'"
        assert rows(postgresql_url, sql) == [("public",)]

    def test_backup_of_the_found_schema(
        self, open_inbox: MakeInbox, postgresql_url: str, tmp_path: Path
    ) -> None:
        """A backup reads the schema that was found, whatever ``search_path`` is later."""
        inbox = open_inbox(postgresql_url)
        claim(inbox)
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, f"ALTER DATABASE {name} SET search_path = nowhere")
        assert inbox.back_up(tmp_path / "backup") == 1

    def test_one_inbox_has_one_channel(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """Replicas with ``DATABASE_SCHEMA=public`` notify those without it, also of 0.2.0."""
        inbox = open_inbox(postgresql_url, schema="public")
        inbox.migrate()
        engine = raw_sql.make_engine(postgresql_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("LISTEN events_due")
            inbox.deliveries.notify()
            driver = connection.connection.driver_connection
            assert driver is not None
            assert len(list(driver.notifies(timeout=30, stop_after=1))) == 1
        engine.dispose()

    def test_migrations_of_schemas_do_not_wait(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """Only migrations of one inbox exclude each other, with ``DATABASE_SCHEMA`` or without."""
        one, two, same = (open_inbox(postgresql_url, schema=name) for name in ("one", "two", "one"))
        two.migrate()
        with one._store.engine.migration():  # noqa: SLF001 - a migration that takes long
            assert open_inbox(postgresql_url, schema="two").revisions().current == HEAD
            for each in (same, open_inbox(postgresql_url)):
                with pytest.raises(InboxUnavailable):
                    each.revisions()

    def test_schema_that_is_missing_waits_for_a_migration(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """Under ``MIGRATE=check``, ``flask db upgrade`` creates the schema, and is named."""
        inbox = open_inbox(postgresql_url, schema="own", migrates=False)
        with pytest.raises(MigrationPending, match="run `flask db upgrade`"):
            inbox.check()
        assert inbox.revisions() == (None, HEAD, True)

        inbox.upgrade()

        inbox.check()

    def test_owner_without_the_right_to_create(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """A migration creates objects, and the sentence names the missing right."""
        with make_role(postgresql_url, "GRANT CREATE ON SCHEMA public TO {role}") as url:
            first = open_inbox(url)
            make_legacy(url, first)
            first.close()
            run(postgresql_url, f"REVOKE CREATE ON SCHEMA public FROM {sa.make_url(url).username}")

            message = refused(open_inbox(url))

            assert "GRANT CREATE ON SCHEMA public TO role" in message

    def test_missing_schema_is_created_at_a_start(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """A running service waits for it: a person may have dropped it to restore a backup."""
        inbox = open_inbox(postgresql_url, schema="own")
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
        assert "the schema own of the inbox does not exist" in raised.value.reason
        assert "A start with DATABASE_SCHEMA=own creates it" in raised.value.reason

        inbox.migrate()

        inbox.check()

    def test_role_without_rights(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """Without the right to create a schema or tables, the sentence says what to run."""
        with make_role(postgresql_url) as url:
            message = refused(open_inbox(url, schema="own"))
            assert "CREATE SCHEMA own AUTHORIZATION role" in message
            message = refused(open_inbox(url))
            assert "may not create tables in the schema 'public'" in message
            assert "GRANT CREATE ON SCHEMA public TO role" in message

    def test_read_only_database(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """A standby is an outage: it may become the primary, so the start is not ended."""
        name = sa.make_url(postgresql_url).database
        run(postgresql_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(InboxUnavailable, match="not available") as raised:
            open_inbox(postgresql_url).migrate()
        assert "read-only" in raised.value.reason

    def test_service_needs_no_right_to_create(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """Where another role migrates, the rights that the upgrading page names are enough."""
        open_inbox(postgresql_url, schema="own").migrate()
        grants = (
            "GRANT USAGE ON SCHEMA own TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA own TO {role}",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA own TO {role}",
        )
        with make_role(postgresql_url, *grants) as url:
            inbox = open_inbox(url, schema="own", migrates=False)
            inbox.migrate()
            inbox.claims.fail(claim(inbox), Failure("broken", delay=0.0))
            inbox.claims.finish(claim(inbox))
            assert inbox.administration.reopen("evt_1", by="me", why=None, again=True)
            inbox.check()
            inbox.close()
            raw_sql.make_older(f"{postgresql_url}&options=-csearch_path%3Down", "0005")
            run(postgresql_url, *(each.format(role=sa.make_url(url).username) for each in grants))
            message = refused(open_inbox(url, schema="own"))
            assert f"may not migrate the tables from revision 0005 to {HEAD}" in message
            assert "GRANT CREATE ON SCHEMA own TO role" in message
            run(postgresql_url, f"GRANT CREATE ON SCHEMA own TO {sa.make_url(url).username}")
            message = refused(open_inbox(url, schema="own"))
            assert "Run `flask db upgrade` with the role that owns them" in message
            assert "GRANT" not in message

    def test_search_path_without_a_schema(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """A ``search_path`` that names nothing is reported with the remedy."""
        run(postgresql_url, "DROP SCHEMA public")
        with pytest.raises(InboxUnavailable) as raised:
            open_inbox(postgresql_url).migrate()
        assert "Create one, or set DATABASE_SCHEMA" in raised.value.reason

    def test_schema_that_comes_first_later(
        self, open_inbox: MakeInbox, postgresql_url: str
    ) -> None:
        """The inbox is found behind a new schema. A table that hides one of its own is refused."""
        name = sa.make_url(postgresql_url).database
        first = open_inbox(postgresql_url)
        claim(first)
        make_legacy(postgresql_url, first)
        run(
            postgresql_url,
            "CREATE SCHEMA early",
            f"ALTER DATABASE {name} SET search_path = early, public",
        )
        second = open_inbox(postgresql_url)
        second.migrate()
        assert second.administration.find("evt_1") is not None
        assert (
            rows(
                postgresql_url, "SELECT * FROM pg_class WHERE relnamespace = 'early'::regnamespace"
            )
            == []
        )

        run(postgresql_url, "CREATE TABLE early.events (id TEXT)")
        message = refused(open_inbox(postgresql_url))
        assert "another table 'events' comes before the inbox's one in search_path" in message
        assert "DATABASE_SCHEMA=public" in message


class TestDroppedTables:
    """A person dropped the tables under a running service."""

    @pytest.mark.parametrize("schema", [None, "own"])
    def test_schema_that_was_made_again_is_migrated(
        self, open_inbox: MakeInbox, postgresql_url: str, schema: str | None
    ) -> None:
        """The process that ran before needs no restart, for writes and for reads."""
        inbox = open_inbox(postgresql_url, schema=schema)
        inbox.migrate()
        claim(inbox)
        name = schema or "public"
        again = (f"DROP SCHEMA {name} CASCADE", f"CREATE SCHEMA {name}")

        run(postgresql_url, *again)
        with pytest.raises(InboxUnavailable):
            inbox.check()
        assert claim(inbox).attempt == 1

        run(postgresql_url, *again)
        with pytest.raises(InboxUnavailable):
            inbox.administration.latest(1)
        assert inbox.administration.latest(1) == []

    def test_older_tables_are_migrated(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """A backup of an older version was restored under a running service."""
        inbox = open_inbox(postgresql_url)
        inbox.migrate()
        raw_sql.make_older(postgresql_url, "0003")
        with pytest.raises(InboxUnavailable):
            claim(inbox)
        assert claim(inbox).attempt == 1


class TestCheck:
    """``MIGRATE=check``: the service waits for ``flask db upgrade``."""

    def test_inbox_waits(self, open_inbox: MakeInbox, database_url: str) -> None:
        """Nothing is created until ``upgrade`` ran. Then a waiting process goes on by itself."""
        waiting = open_inbox(database_url, migrates=False)
        with pytest.raises(MigrationPending) as raised:
            waiting.migrate()
        assert raised.value.reason == f"there are no tables, and this version needs revision {HEAD}"
        with pytest.raises(MigrationPending):
            waiting.check()
        assert catalog(database_url) == []
        assert waiting.revisions() == (None, HEAD, True)

        assert open_inbox(database_url, migrates=False).upgrade() == (None, HEAD, True)

        waiting.check()
        assert claim(waiting).attempt == 1
        assert waiting.upgrade() == (HEAD, HEAD, False)


def test_tests_use_the_tables_of_alembic(
    open_inbox: MakeInbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose tables the other tests make quickly is like one that Alembic migrated."""
    urls = [f"sqlite:///{tmp_path}/{name}/inbox.sqlite3" for name in ("alembic", "first", "next")]
    open_inbox(urls[0]).migrate()
    # No mock: as in a new process, and as conftest.py does for the other tests.
    monkeypatch.setattr(new_tables, "_made", [])
    monkeypatch.setattr(alembic.command, "upgrade", new_tables.upgrade)
    for url in urls[1:]:
        open_inbox(url).migrate()

    by_alembic, first, quick = (
        rows(url, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")
        for url in urls
    )
    assert first == by_alembic
    assert quick == by_alembic
    tables = [name for kind, name, *_ in by_alembic if kind == "table"]
    for name in tables:
        assert rows(urls[2], f"SELECT * FROM {name}") == rows(urls[0], f"SELECT * FROM {name}")  # noqa: S608 - names of ours
