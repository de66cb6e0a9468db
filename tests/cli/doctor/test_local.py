"""What the doctor says of settings, handlers and the inbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.doctor import local
from app.inbox import NewEvent
from app.testing.stripe_api import StripeApi
from tests import by_hand
from tests.cli.doctor.conftest import examine
from tests.conftest import Receiver

HOUR = 3600


def put(receiver: Receiver, event_id: str, changes: str) -> None:
    """Put an event into the inbox, and change its row by hand."""
    event = NewEvent(event_id, "v1.invoice.paid", livemode=False, context=None, body=b"{}")
    receiver.service.inbox.set_aside(event, "wrong_mode")
    by_hand.execute(
        receiver.service.settings.database_url,
        f"UPDATE events SET {changes} WHERE id = '{event_id}'",  # noqa: S608 - the tests' own words
    )


class TestSettings:
    """The settings, in one line."""

    def test_stand_in_is_no_place_for_live_events(self, make_ours: Callable[..., Receiver]) -> None:
        """With a live key a STRIPE_API_BASE is a warning, with a test key it is only told."""
        (test,) = examine(make_ours(), "--no-ping").about("settings")
        live = make_ours(stripe_api_key="sk_live_fake_for_tests")
        (line,) = examine(live, "--no-ping").about("settings")
        assert test[0] == "OK"
        assert line[0] == "WARN"
        assert line[1].endswith("-> Remove STRIPE_API_BASE where live events are handled")

    def test_stripe_itself(self, ours: Receiver) -> None:
        """Without a stand-in nothing is said of one; several secrets are counted."""
        settings = replace(
            ours.service.settings, stripe_api_base=None, stripe_webhook_secrets=("a", "b")
        )
        (line,) = local.settings_lines(settings)
        assert line.text == "inline mode, a test key, 2 signing secrets"


class TestHandlers:
    """What is plugged in."""

    def test_one(self, make_ours: Callable[..., Receiver]) -> None:
        """One is one."""
        receiver = make_ours({"v1_invoice_paid": "def handle(notif, client): pass"})
        (line,) = examine(receiver, "--no-ping").about("handlers")
        assert line[1].startswith("1 event type and a fallback, in ")

    def test_none(self, make_ours: Callable[..., Receiver]) -> None:
        """Without any it warns: every event goes to the fallback."""
        (line,) = examine(make_ours({}), "--no-ping").about("handlers")
        assert line[0] == "WARN"
        assert "every event goes to the fallback -> Write a handler in " in line[1]


class TestInbox:
    """Whether the inbox can be written, and keeps what it has to keep."""

    def test_out_of_reach(self, make_ours: Callable[..., Receiver], tmp_path: Path) -> None:
        """An inbox that cannot be written is a FAIL, with the reason and without the password."""
        (tmp_path / "file").touch()
        lost = make_ours(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
        away = make_ours(database_url="postgresql+psycopg://me:hidden_word@127.0.0.1:9/inbox")
        for receiver in (lost, away):
            found = examine(receiver, "--no-ping")
            ((level, text),) = found.about("inbox")
            assert level == "FAIL"
            assert text.startswith(f"{receiver.service.inbox.address} cannot be reached or written")
            assert "Check DATABASE_URL" in text
            assert "hidden_word" not in found.result.output
            assert found.about("pending") == found.about("dead") == []

    def test_read_only(self, make_ours: Callable[..., Receiver], postgresql_url: str) -> None:
        """An inbox that can be read and not written is a FAIL: that is how a replica looks."""
        receiver = make_ours(database_url=postgresql_url)
        receiver.service.inbox.check()
        name = postgresql_url.rpartition("/")[2].partition("?")[0]
        change = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
        by_hand.execute(postgresql_url, change)
        receiver.service.inbox.close()
        ((level, text),) = examine(receiver, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "cannot be reached or written" in text

    def test_of_a_newer_version(self, ours: Receiver) -> None:
        """An inbox that a newer version has changed says so."""
        ours.service.inbox.check()
        url = ours.service.settings.database_url
        by_hand.execute(url, "UPDATE alembic_version SET version_num = '9999'")
        again = replace(ours.service, inbox=type(ours.service.inbox)(url, lease_seconds=30))
        ours.app.extensions["service"] = again
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "FAIL"
        assert "an inbox of revision 9999, made by a newer version" in text

    def test_several_hosts_on_sqlite(self, ours: Receiver) -> None:
        """Hosts that ran events in turns on SQLite are a warning that names PostgreSQL."""
        for event_id, host, hours in (("evt_1", "a", 5), ("evt_2", "b", 3), ("evt_3", "a", 1)):
            changes = f"claimed_by = '{host}:1:ab', settled_at = settled_at - {hours * HOUR}"
            put(ours, event_id, changes)
        ((level, text),) = examine(ours, "--no-ping").about("inbox")
        assert level == "WARN"
        assert "several hosts ran events on SQLite in turns: a, b -> Use PostgreSQL" in text

    @pytest.mark.parametrize(("processing", "level"), [("inline", "WARN"), ("queue", "FAIL")])
    def test_postgresql_that_can_lose_commits(
        self,
        processing: str,
        level: str,
        make_ours: Callable[..., Receiver],
        postgresql_url: str,
    ) -> None:
        """In queue mode the answer is a promise, so it fails there; in inline mode it warns."""
        receiver = make_ours(database_url=postgresql_url, processing=processing)
        name = postgresql_url.rpartition("/")[2].partition("?")[0]
        by_hand.execute(postgresql_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
        lines = examine(receiver, "--no-ping").about("inbox")
        assert [line[0] for line in lines] == [level]
        assert "synchronous_commit is off" in lines[0][1]

    @pytest.mark.parametrize(
        ("processing", "kind", "level"),
        [
            ("queue", "overlay", "FAIL"),
            ("queue", "tmpfs", "FAIL"),
            ("queue", "ext4", "OK"),
            ("inline", "overlay", "OK"),
        ],
    )
    def test_disk_that_goes_with_the_container(  # noqa: PLR0913, PLR0917 - three cases, three fixtures
        self,
        processing: str,
        kind: str,
        level: str,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In queue mode SQLite has to lie on a disk that stays; in inline mode it need not."""
        mounts = tmp_path / "mounts"
        place = str(tmp_path / "a disk").replace(" ", r"\040")
        mounts.write_text(
            f"23 22 0:5 / {place} rw shared:1 - {kind} none rw\n"
            "24 22 0:6 / /somewhere/else rw - tmpfs none rw\n"
            "22 1 8:1 / / rw - btrfs /dev/sda rw\n",
            encoding="utf-8",
        )
        monkeypatch.setattr(local, "MOUNTS", mounts)
        url = f"sqlite:///{tmp_path}/a disk/inbox.sqlite3"
        receiver = make_ours(processing=processing, database_url=url)
        lines = examine(receiver, "--no-ping").about("inbox")
        assert [line[0] for line in lines] == [level]
        assert (f"lies on {kind}, which goes with the container" in lines[0][1]) is (
            level == "FAIL"
        )

    def test_system_that_says_nothing_of_its_disks(
        self,
        make_ours: Callable[..., Receiver],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where the kind of a disk cannot be known, nothing is said of it."""
        monkeypatch.setattr(local, "MOUNTS", tmp_path / "absent")
        lines = examine(make_ours(processing="queue"), "--no-ping").about("inbox")
        assert [line[0] for line in lines] == ["OK"]

    def test_this_system_can_be_read(self) -> None:
        """The real table of this machine is understood, where there is one."""
        assert bool(local._file_system(Path("/"))) is local.MOUNTS.is_file()  # noqa: SLF001 - nothing else shows it alone


class TestEvents:
    """What waits, and what is dead."""

    @pytest.mark.parametrize(
        ("hours", "level", "text"),
        [
            (0.5, "OK", "1 waiting, the oldest for 30 minutes: Stripe will deliver again"),
            (50, "WARN", "1 waiting, the oldest for 2 days: longer than Stripe delivers again"),
        ],
    )
    def test_pending_in_inline_mode(
        self, hours: float, level: str, text: str, ours: Receiver
    ) -> None:
        """An event that failed waits for Stripe, which does not deliver it for ever."""
        put(ours, "evt_1", f"state = 'pending', received_at = received_at - {hours * HOUR}")
        ((found, said),) = examine(ours, "--no-ping").about("pending")
        assert found == level
        assert said.startswith(text)

    def test_live_events_are_delivered_for_three_days(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """Stripe tries longer in live mode."""
        live = make_ours(stripe_api_key="sk_live_fake_for_tests")
        put(live, "evt_1", f"state = 'pending', received_at = received_at - {50 * HOUR}")
        assert examine(live, "--no-ping").about("pending")[0][0] == "OK"
        put(live, "evt_2", f"state = 'pending', received_at = received_at - {80 * HOUR}")
        assert examine(live, "--no-ping").about("pending")[0][0] == "WARN"
        assert stripe_api.asked

    @pytest.mark.parametrize(
        ("due", "level", "said"),
        [
            (3600, "OK", "1 waiting, the oldest for 0 s"),
            (-30, "OK", "1 waiting"),
            (-300, "WARN", "due for 5 minutes -> Start workers"),
            (-7200, "FAIL", "due for 2 hours -> Start workers"),
        ],
    )
    def test_pending_in_queue_mode(
        self, due: int, level: str, said: str, make_ours: Callable[..., Receiver]
    ) -> None:
        """An event that is due waits for a worker: not for long."""
        receiver = make_ours(processing="queue")
        put(receiver, "evt_1", f"state = 'pending', due_at = due_at + {due}")
        ((found, text),) = examine(receiver, "--no-ping").about("pending")
        assert found == level
        assert said in text

    def test_dead(self, ours: Receiver) -> None:
        """Dead events are a warning, with where to look."""
        put(ours, "evt_1", "state = 'dead'")
        ((level, text),) = examine(ours, "--no-ping").about("dead")
        assert level == "WARN"
        assert text.startswith("1 dead: ")
        assert "`flask events list --state dead`" in text
