"""The local checks of ``flask doctor``: settings, handlers, inbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.doctor import file_systems, local
from app.cli.doctor.lines import Level
from app.environment import Misspelt, Origin
from app.inbox import NewEvent, Outcome
from app.inbox.engine import file_lock, postgresql_engine
from app.inbox.engine import sqlite_file as inbox_file
from app.inbox.engine.sqlite_file import SqliteFile
from devkit.stripe_api import StripeApi
from tests.cli.doctor.conftest import examine
from tests.conftest import Receiver
from tests.support import network, raw_sql
from tests.support.services import Postgresql

HOUR = 3600
#: The changes that make an event one that failed and waits.
FAILED = "state = 'pending', attempt = 1"


def put(receiver: Receiver, event_id: str, changes: str) -> None:
    """Put an event into the inbox, and change its row with raw SQL."""
    event = NewEvent(event_id, "v1.invoice.paid", livemode=False, context=None, body=b"{}")
    receiver.services.inbox.deliveries.record_skipped(event, Outcome.WRONG_MODE)
    raw_sql.execute(
        receiver.services.settings.database_url,
        f"UPDATE events SET {changes} WHERE id = '{event_id}'",  # noqa: S608 - constants of the tests
    )


def file_of(receiver: Receiver) -> Path:
    """Return the path of the SQLite file."""
    return Path(receiver.services.settings.database_url.removeprefix("sqlite:///"))


class TestSettings:
    """The settings are one line."""

    def test_stand_in_with_a_live_key(self, make_ours: Callable[..., Receiver]) -> None:
        """STRIPE_API_BASE is a WARN with a live key, and part of the OK line with a test key."""
        (test,) = examine(make_ours(), "--no-ping").about("settings")
        live = make_ours(stripe_api_key="sk_live_fake_for_tests")
        (line,) = examine(live, "--no-ping").about("settings")
        assert test[0] == "OK"
        assert line[0] == "WARN"
        assert line[1].endswith("-> Remove STRIPE_API_BASE in live mode")

    def test_stripe_itself(self, ours: Receiver) -> None:
        """Without a stand-in the line does not mention one. It has the number of secrets."""
        settings = replace(
            ours.services.settings, stripe_api_base=None, stripe_webhook_secrets=("a", "b")
        )
        (line,) = local.settings_lines(settings)
        assert line.text == "inline mode, a test key, 2 signing secrets; from the environment"

    def test_origin(self, ours: Receiver) -> None:
        """The ``.env`` is named, and each misspelt name is a WARN."""
        origin = Origin("/srv/.env", (Misspelt("WEB_CONCURENCY", "WEB_CONCURRENCY"),))
        wrong, line = local.settings_lines(replace(ours.services.settings, origin=origin))
        assert wrong == (
            Level.WARN,
            "settings",
            "WEB_CONCURENCY is no setting, and has no effect",
            "Do you mean WEB_CONCURRENCY?",
        )
        assert line.text.endswith("; from the environment and /srv/.env")


class TestHandlers:
    """The handler modules are one line."""

    def test_one(self, make_ours: Callable[..., Receiver]) -> None:
        """One type is in the singular."""
        receiver = make_ours({"v1_invoice_paid": "def handle(notif, client): pass"})
        (line,) = examine(receiver, "--no-ping").about("handlers")
        assert line[1].startswith("1 event type and a fallback, in ")

    def test_none(self, make_ours: Callable[..., Receiver]) -> None:
        """No handler module is a WARN: every event goes to the fallback."""
        (line,) = examine(make_ours({}), "--no-ping").about("handlers")
        assert line[0] == "WARN"
        assert "every event goes to the fallback -> Write a handler in " in line[1]


class TestInbox:
    """The inbox has to be writable and durable."""

    def test_out_of_reach(self, make_ours: Callable[..., Receiver], tmp_path: Path) -> None:
        """An inbox that cannot be written is a FAIL with the reason, without the password."""
        (tmp_path / "file").touch()
        lost = make_ours(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
        away = make_ours(database_url="postgresql+psycopg://me:hidden_word@127.0.0.1:9/inbox")
        for receiver in (lost, away):
            found = examine(receiver, "--no-ping")
            ((level, text),) = found.about("inbox")
            assert level == "FAIL"
            address = receiver.services.inbox.address
            assert text.startswith(f"{address} cannot be reached or written")
            assert "Check DATABASE_URL" in text
            assert "hidden_word" not in found.result.output
            assert found.about("pending") == found.about("dead") == []

    def test_read_only(self, make_ours: Callable[..., Receiver], postgresql_url: str) -> None:
        """A read-only inbox is a FAIL: a standby of PostgreSQL looks like that."""
        receiver = make_ours(database_url=postgresql_url)
        receiver.services.inbox.check()
        name = postgresql_url.rpartition("/")[2].partition("?")[0]
        change = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        raw_sql.execute(postgresql_url, change)
        receiver.services.inbox.close()
        ((level, text),) = examine(receiver, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "cannot be reached or written" in text

    def test_of_a_newer_version(self, ours: Receiver) -> None:
        """An inbox that a newer version has migrated is a FAIL that says so."""
        ours.services.inbox.check()
        url = ours.services.settings.database_url
        raw_sql.set_revision(url, "9999")
        again = replace(ours.services, inbox=type(ours.services.inbox)(url, lease_seconds=30))
        ours.app.extensions["services"] = again
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "an inbox of revision 9999, made by a newer version" in text

    @pytest.mark.no_tables
    def test_beside_another_application(
        self, make_ours: Callable[..., Receiver], postgresql_url: str
    ) -> None:
        """A table of another application is a FAIL with its name and the setting to change."""
        raw_sql.execute(postgresql_url, "CREATE TABLE events (title TEXT)")
        receiver = make_ours(database_url=postgresql_url)
        ((level, text),) = examine(receiver, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "the schema 'public' of DATABASE_URL has something named 'events'" in text
        assert "Set DATABASE_SCHEMA" in text

    @pytest.mark.no_tables
    def test_pending_migration(self, make_ours: Callable[..., Receiver]) -> None:
        """A start that waits for a migration is a FAIL with the command to run."""
        ((level, text),) = examine(make_ours(migrate="check"), "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "there are no tables, and this version needs revision" in text
        assert text.endswith("-> Run `flask db upgrade`")

    def test_encoding_of_postgresql(
        self,
        make_ours: Callable[..., Receiver],
        make_postgresql_url: Callable[..., str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is a FAIL without an inbox, as it stops a start, and a WARN with an older one."""
        url = make_postgresql_url("ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")
        ((level, text),) = examine(make_ours(database_url=url), "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "has the encoding LATIN1, which lacks most characters" in text

        with monkeypatch.context() as earlier:  # versions before did not look at the encoding
            earlier.setattr(postgresql_engine, "ENCODINGS", {"LATIN1"})
            make_ours(database_url=url).services.inbox.migrate()
        ((level, text),) = examine(make_ours(database_url=url), "--no-ping").about("inbox")
        assert level == "WARN"
        assert "Copy it to a database with the encoding UTF8" in text

    @pytest.mark.parametrize(("processing", "level"), [("inline", "OK"), ("queue", "WARN")])
    def test_pooler(
        self,
        make_ours: Callable[..., Receiver],
        postgresql_url: str,
        processing: str,
        level: str,
    ) -> None:
        """A pooler is a WARN in queue mode: notifications need a direct connection."""
        path = network.Path(postgresql_url, is_pooler=True)
        settings = {"database_url": path.url, "processing": processing}
        ((found, text),) = examine(make_ours(**settings), "--no-ping").about("inbox")
        assert found == level
        assert ("polling only" in text) == (level == "WARN")
        settings["database_listen_url"] = postgresql_url
        ((found, _),) = examine(make_ours(**settings), "--no-ping").about("inbox")
        assert found == "OK"
        path.close()

    def test_pooler_that_refuses_options(
        self, make_ours: Callable[..., Receiver], postgresql_url: str
    ) -> None:
        """Options in DATABASE_URL are a FAIL that says so: a pooler does not know them."""
        path = network.Path(postgresql_url, is_pooler=True)
        url = f"{path.url}?options=-c%20work_mem%3D7MB"
        ((level, text),) = examine(make_ours(database_url=url), "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "refuses parameters of DATABASE_URL" in text
        assert "Remove them from DATABASE_URL" in text
        path.close()

    def test_several_hosts_on_sqlite(self, ours: Receiver) -> None:
        """Events of several hosts in one SQLite file are a WARN that recommends PostgreSQL."""
        for event_id, host, hours in (("evt_1", "a", 5), ("evt_2", "b", 3), ("evt_3", "a", 1)):
            changes = f"claimed_by = '{host}:1:ab', settled_at = settled_at - {hours * HOUR}"
            put(ours, event_id, changes)
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "WARN"
        assert "several hosts ran events on this SQLite file: a, b -> Use PostgreSQL" in text

    @pytest.mark.parametrize(("processing", "level"), [("inline", "WARN"), ("queue", "FAIL")])
    def test_postgresql_that_can_lose_commits(
        self,
        processing: str,
        level: str,
        make_ours: Callable[..., Receiver],
        own_postgresql: Postgresql,
    ) -> None:
        """It is a FAIL in queue mode, where a 200 is a promise, and a WARN in inline mode."""
        own_postgresql.set("fsync", "off")
        receiver = make_ours(database_url=own_postgresql.url, processing=processing)
        lines = examine(receiver, "--no-ping").about("inbox")
        assert [line[0] for line in lines] == [level]
        assert "fsync is off" in lines[0][1]

    @pytest.mark.no_tables
    def test_missing_file_is_not_created(
        self, make_ours: Callable[..., Receiver], tmp_path: Path
    ) -> None:
        """Before the first start the file does not exist, and the doctor does not create it."""
        receiver = make_ours(started=False)
        found = examine(receiver)
        assert found.about("inbox") == [
            (
                "WARN",
                f"{receiver.services.inbox.address} does not exist: the next start creates it"
                " -> Start the service. If it is running, its folder was removed, and deliveries"
                " are answered 503: put the folder back",
            )
        ]
        assert found.about("pending") == []
        assert list(tmp_path.glob("var/*")) == []

    @pytest.mark.no_tables
    def test_place_of_a_missing_file_counts(
        self,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An ephemeral disk is a FAIL before the first start too."""
        mounts = tmp_path / "mounts"
        mounts.write_text("22 1 8:1 / / rw - overlay none rw\n", encoding="utf-8")
        monkeypatch.setattr(file_systems, "MOUNTS", mounts)
        receiver = make_ours(started=False, processing="queue")
        assert not (tmp_path / "var").exists()
        ((level, text),) = examine(receiver, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "is on overlay" in text

    def test_file_that_was_removed(self, ours: Receiver) -> None:
        """A missing file that a service has used is a FAIL, and is not created again."""
        file = file_of(ours)
        file.unlink()
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "is missing, and was here before" in text
        assert "-> Put the file back." in text
        assert not file.exists()

    def test_file_that_was_replaced(self, ours: Receiver) -> None:
        """A running process with another open file than the one at the path is a FAIL."""
        file = file_of(ours)
        shutil.copyfile(file, f"{file}.new")
        Path(f"{file}.new").replace(file)
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert f"was replaced while process {os.getpid()} had it open" in text

    def test_index_that_was_removed(self, ours: Receiver) -> None:
        """A running process whose index was removed is a FAIL, at every call."""
        ours.services.inbox.check()
        Path(f"{file_of(ours)}-shm").unlink()
        for _ in range(2):
            ((level, text),) = examine(ours, "--no-ping").about("inbox")
            assert level == "FAIL"
            assert f"was removed while process {os.getpid()} had it open" in text
            assert "-> Restart the service" in text

    def test_files_that_others_can_open(
        self, ours: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Files that other users can open, and that cannot be made private, are a WARN."""
        ours.services.inbox.check()
        file = file_of(ours)
        file.chmod(0o644)
        # No test can give a file to another user and still write it as this one.
        monkeypatch.setattr(file_lock, "make_private", lambda _file: None)
        monkeypatch.setattr(inbox_file, "make_private", lambda _file: None)
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "WARN"
        assert f"other users can read events or hold the lock: {file} ->" in text

    def test_log_that_was_set_aside(self, ours: Receiver) -> None:
        """The log of a replaced file is named: it may contain events."""
        kept = Path(f"{file_of(ours)}-wal.1")
        kept.touch()
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "WARN"
        assert f"logs of replaced files may hold events: {kept} ->" in text

    def test_folder_that_cannot_be_searched(
        self, ours: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the file cannot be examined, the check for write access reports it."""

        def refuse(_file: object) -> None:
            raise PermissionError(13, "Permission denied")

        # The tests may run as root, which can search every folder.
        monkeypatch.setattr(SqliteFile, "look", refuse)
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "cannot be reached or written (PermissionError" in text

    @pytest.mark.parametrize(
        ("processing", "kind", "level"),
        [
            ("queue", "overlay", "FAIL"),
            ("queue", "tmpfs", "FAIL"),
            ("queue", "ext4", "OK"),
            ("inline", "overlay", "OK"),
        ],
    )
    def test_ephemeral_disk(  # noqa: PLR0913, PLR0917 - three cases, three fixtures
        self,
        processing: str,
        kind: str,
        level: str,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In queue mode the SQLite file needs a persistent disk, in inline mode it does not."""
        mounts = tmp_path / "mounts"
        place = str(tmp_path / "a disk").replace(" ", r"\040")
        mounts.write_text(
            f"23 22 0:5 / {place} rw shared:1 - {kind} none rw\n"
            "24 22 0:6 / /somewhere/else rw - tmpfs none rw\n"
            "22 1 8:1 / / rw - btrfs /dev/sda rw\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(file_systems, "MOUNTS", mounts)
        url = f"sqlite:///{tmp_path}/a disk/inbox.sqlite3"
        receiver = make_ours(processing=processing, database_url=url)
        lines = examine(receiver, "--no-ping").about("inbox")
        assert [line[0] for line in lines] == [level]
        assert (f"is on {kind}, which is lost with the container" in lines[0][1]) is (
            level == "FAIL"
        )

    def test_unknown_file_system(
        self,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """If the type of the file system is unknown, there is no line about it."""
        monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "absent")
        lines = examine(make_ours(processing="queue"), "--no-ping").about("inbox")
        assert [line[0] for line in lines] == ["OK"]

    def test_this_system_can_be_read(self) -> None:
        """The real list of mounts of this machine can be read, if it exists."""
        assert bool(file_systems.type_of(Path("/"))) is file_systems.MOUNTS.is_file()

    @pytest.mark.parametrize(
        ("kind", "level"),
        [
            *((each, "FAIL") for each in ("nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "sshfs")),
            *((each, "OK") for each in ("xfs", "fuse.mergerfs", "virtiofs")),
        ],
    )
    def test_network_file_system(
        self,
        kind: str,
        level: str,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """SQLite is not safe on one, also behind a link and where it hides another mount."""
        disk, mounts = tmp_path / "disk", tmp_path / "mounts"
        disk.mkdir()
        (tmp_path / "var").symlink_to(disk)
        lines = [
            f"2{number} 1 0:5 / {disk} rw - {each} none rw"
            for number, each in enumerate(("zfs", kind))
        ]
        mounts.write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/sda rw", *lines]))
        monkeypatch.setattr(file_systems, "MOUNTS", mounts)
        url = f"sqlite:///{tmp_path}/var/inbox.sqlite3"
        ((found, text),) = examine(make_ours(database_url=url), "--no-ping").about("inbox")
        assert found == level
        assert (f"is on {kind}, a network file system" in text) is (level == "FAIL")


class TestEvents:
    """Pending and dead events."""

    @pytest.mark.parametrize(
        ("hours", "level", "text"),
        [
            (0.5, "OK", "1 event, the oldest for 30 minutes: Stripe will redeliver"),
            (50, "WARN", "1 event, the oldest for 2 days: Stripe no longer redelivers"),
        ],
    )
    def test_pending_in_inline_mode(
        self, hours: float, level: str, text: str, ours: Receiver
    ) -> None:
        """A failed event waits for a redelivery, and Stripe does not redeliver for ever."""
        put(ours, "evt_1", f"{FAILED}, received_at = received_at - {hours * HOUR}")
        ((found, said),) = examine(ours, "--no-ping").about("pending")
        assert found == level
        assert said.startswith(text)

    def test_live_events_are_delivered_for_three_days(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """Stripe redelivers longer in live mode."""
        live = make_ours(stripe_api_key="sk_live_fake_for_tests")
        put(live, "evt_1", f"{FAILED}, received_at = received_at - {50 * HOUR}")
        assert examine(live, "--no-ping").about("pending")[0][0] == "OK"
        put(live, "evt_2", f"{FAILED}, received_at = received_at - {80 * HOUR}")
        assert examine(live, "--no-ping").about("pending")[0][0] == "WARN"
        assert stripe_api.asked

    @pytest.mark.parametrize(
        ("due", "level", "said"),
        [
            (3600, "OK", "1 event, the oldest for 0 s"),
            (-30, "OK", "1 event"),
            (-300, "WARN", "due for 5 minutes -> Start workers"),
            (-7200, "FAIL", "due for 2 hours -> Start workers"),
        ],
    )
    def test_pending_in_queue_mode(
        self, due: int, level: str, said: str, make_ours: Callable[..., Receiver]
    ) -> None:
        """A due event that waits too long for a worker is a WARN, and later a FAIL."""
        receiver = make_ours(processing="queue")
        put(receiver, "evt_1", f"state = 'pending', due_at = due_at + {due}")
        ((found, text),) = examine(receiver, "--no-ping").about("pending")
        assert found == level
        assert said in text

    def test_accepted_before_inline_mode(self, ours: Receiver) -> None:
        """Stripe got a 200 in queue mode, so such an event waits for a person."""
        put(ours, "evt_1", FAILED)
        put(ours, "evt_2", "state = 'pending'")
        ((level, text),) = examine(ours, "--no-ping").about("pending")
        assert level == "WARN"
        assert "1 event of them never ran: queue mode accepted them, so Stripe does not" in text
        assert text.endswith("-> Run them with `flask events retry --state pending`")

    def test_paused_workers(self, make_ours: Callable[..., Receiver]) -> None:
        """A pause is a WARN with the command that ends it, and explains what waits."""
        receiver = make_ours(processing="queue")
        put(receiver, "evt_1", "state = 'pending', due_at = due_at - 300")
        receiver.services.inbox.administration.pause(by="ana", why="a deployment")
        found = examine(receiver, "--no-ping")
        assert found.about("pending")[0][1].endswith("-> The workers are paused: see below")
        ((level, text),) = found.about("paused")
        assert level == "WARN"
        assert text.startswith("the workers are paused since ")
        assert text.endswith("by ana: a deployment -> Resume them with `flask events resume`")

    def test_type_paused_by_its_circuit_breaker(self, make_ours: Callable[..., Receiver]) -> None:
        """The line says that the cause has to be repaired, and that a success ends the pause."""
        receiver = make_ours(processing="queue")
        receiver.services.inbox.type_breakers.add("v1.invoice.paid", 3, limit=3)
        receiver.services.inbox.type_breakers.open("v1.invoice.paid", "3 failures in a row", -1.0)
        ((level, text),) = examine(receiver, "--no-ping").about("paused")
        assert level == "WARN"
        assert "by its circuit breaker: 3 failures in a row -> Repair the cause" in text
        assert "`flask events resume --type v1.invoice.paid` does not wait for that" in text

    def test_paused_type_in_inline_mode(self, ours: Receiver) -> None:
        """The pause of queue mode is shown after a change to inline mode too."""
        pause = ours.services.inbox.administration.pause
        pause(by="ana", why=None, type_="v1.invoice.paid")
        ((level, text),) = examine(ours, "--no-ping").about("paused")
        assert level == "WARN"
        assert "by ana. It has no effect in inline mode, and holds again in queue mode" in text
        assert text.endswith("Resume it with `flask events resume --type v1.invoice.paid`")

    def test_dead(self, ours: Receiver) -> None:
        """Dead events are a WARN with the command that lists them."""
        put(ours, "evt_1", "state = 'dead'")
        ((level, text),) = examine(ours, "--no-ping").about("dead")
        assert level == "WARN"
        assert text.startswith("1 dead event: ")
        assert "`flask events list --state dead`" in text
