"""``flask events give-up``, ``audit``, and the pause of one type."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from flask.testing import FlaskCliRunner

from app.cli.operator import operator
from app.inbox.administration import Administration
from devkit import samples
from tests.conftest import Receiver

TYPE, OTHER = "v1.customer.created", "v1.invoice.paid"
CREATED = "v1_customer_created"
GIVING_UP = "from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('no such plan')\n"

Make = Callable[..., Receiver]


def run(receiver: Receiver, *arguments: str, answer: str | None = None) -> Result:
    """Run a command of ``flask events``, and type an answer to its question."""
    runner: FlaskCliRunner = receiver.app.test_cli_runner()
    return runner.invoke(args=["events", *arguments], input=answer)


def deliver(receiver: Receiver, event_id: str, event_type: str = TYPE, **fields: Any) -> None:
    """Deliver an event."""
    notification = samples.notification(event_type, event_id=event_id, **fields)
    assert receiver.deliver(notification).status_code == 200


@pytest.fixture
def queue(make_receiver: Make) -> Receiver:
    """Two events of one type, and one of another, wait for a worker."""
    receiver = make_receiver(processing="queue")
    for number in (1, 2):
        deliver(receiver, f"evt_{number}")
    deliver(receiver, "evt_3", OTHER)
    return receiver


def log(receiver: Receiver) -> list[tuple[str, str | None, str | None, int | None]]:
    """Return the audit log, the first action first."""
    rows = json.loads(run(receiver, "audit", "--json").stdout)
    assert all(row["by"] == operator() for row in rows)
    return [tuple(row[name] for name in ("action", "target", "why", "affected")) for row in rows][
        ::-1
    ]


class TestGiveUp:
    """``give-up`` makes pending events dead."""

    def test_selected_events(self, queue: Receiver) -> None:
        """It says how many are selected, asks, and says how many it changed."""
        asked = ["give-up", "--type", TYPE, "--why", "test data", "--limit", "1"]
        shown = run(queue, *asked, "--dry-run")
        assert shown.stdout.startswith(
            "2 events selected; the oldest 1 will be given up (--limit).\nevent id"
        )
        assert "evt_1" in shown.stdout
        refused = run(queue, *asked, answer="n\n")
        assert "Give up on 1 event? [y/N]" in refused.stdout
        assert queue.event("evt_1").state == "pending"
        done = run(queue, *asked, answer="y\n")
        assert done.stdout.endswith("1 event given up.\n")
        event = queue.event("evt_1")
        assert (event.state, event.outcome, event.reason) == ("dead", "gave_up", "test data")
        assert queue.event("evt_2").state == "pending"
        assert log(queue) == [
            ("give_up_many", f"state=pending&type={TYPE}&mode=test", "test data", 1)
        ]
        shown = run(queue, "show", "evt_1")
        assert re.search(r"attempt 1: gave_up, from \S+ for \d\.\d{3} s\n", shown.stdout)

    def test_by_id(self, queue: Receiver) -> None:
        """All events of the command have to be pending. It names the others."""
        run(queue, "give-up", "evt_1", "--why", "no", "--yes")
        refused = run(queue, "give-up", "evt_1", "evt_2", "--why", "no", "--yes")
        assert refused.exit_code == 1
        assert "evt_1: is dead already" in refused.stderr
        assert "No event was given up." in refused.stderr
        assert queue.event("evt_2").state == "pending"
        assert run(queue, "give-up", "evt_2", "--why", "no", "--yes").stdout == (
            "1 event selected.\n1 event given up.\n"
        )
        assert log(queue) == [("give_up", f"evt_{number}", "no", 1) for number in (1, 2)]

    def test_nothing_selected(self, queue: Receiver) -> None:
        """An empty selection is no error, and nothing is asked."""
        shown = run(queue, "give-up", "--context", "acct_1", "--why", "no")
        assert (shown.exit_code, shown.stdout) == (0, "0 events selected.\n")
        assert log(queue) == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["evt_1"], "Missing option '--why'"),
            (["--why", "no"], "Give IDs, or select events with --state"),
            (["evt_1", "--type", TYPE, "--why", "no"], "Give either IDs or options"),
            (["--state", "dead", "--why", "no"], "Only pending events can be given up."),
        ],
    )
    def test_invalid_command(self, queue: Receiver, arguments: list[str], message: str) -> None:
        """A reason and a selection are required."""
        refused = run(queue, "give-up", *arguments)
        assert (refused.exit_code, message in refused.stderr) == (2, True)


class TestPauseOfAType:
    """``pause --type`` and ``resume --type``."""

    def test_pause_and_resume(self, queue: Receiver) -> None:
        """The list says which type is paused, why, and how to resume it."""
        paused = run(queue, "pause", "--type", TYPE, "--why", "broken")
        sentence = f"by {operator()}: broken. Resume it with `flask events resume --type {TYPE}`."
        assert paused.stdout.startswith(f"{TYPE} is paused since ")
        assert sentence in paused.stdout
        assert f"{TYPE} is already paused." in run(queue, "pause", "--type", TYPE).stdout
        shown = run(queue, "list").stdout
        assert sentence in shown
        assert [line.split()[-3] for line in shown.splitlines() if " evt_1 " in line] == ["paused"]
        claims = queue.services.inbox.claims
        claim = claims.claim_due(livemode=False)
        assert claim is not None
        assert claim.event_id == "evt_3"
        assert claims.claim_due(livemode=False) is None

        assert sentence in run(queue, "resume").stdout
        assert run(queue, "resume", "--type", OTHER).stdout == f"{OTHER} is not paused.\n"
        assert run(queue, "resume", "--type", TYPE).stdout == f"{TYPE} is resumed.\n"
        assert claims.claim_due(livemode=False) is not None
        actions = [(action, target) for action, target, _, _ in log(queue)]
        assert actions == [
            *(("pause", TYPE), ("pause", TYPE), ("resume", None)),
            *(("resume", OTHER), ("resume", TYPE)),
        ]

    def test_inline_mode_has_no_workers(self, receiver: Receiver) -> None:
        """In inline mode a paused type runs, and the output says so."""
        assert "without workers. A pause" in run(receiver, "pause", "--type", TYPE).stderr
        deliver(receiver, "evt_1")
        assert receiver.event("evt_1").state == "done"

    def test_misspelt_type(self, queue: Receiver) -> None:
        """A type without a handler module and without events is paused, with a warning."""
        warning = "No handler module takes {}, and the inbox has no event of it."
        typo = run(queue, "pause", "--type", "v1.customer.craeted")
        assert typo.exit_code == 0
        assert warning.format("v1.customer.craeted") in typo.stderr
        assert "v1.customer.craeted is paused since" in typo.stdout
        # It has events, but no handler module.
        assert "No handler module" not in run(queue, "pause", "--type", TYPE).stderr

    def test_type_without_events(self, make_receiver: Make) -> None:
        """A type that has a handler module is paused without a warning."""
        receiver = make_receiver({CREATED: GIVING_UP}, processing="queue")
        assert run(receiver, "pause", "--type", TYPE).stderr == ""

    def test_show_has_the_pauses(self, queue: Receiver) -> None:
        """A pending event is shown with the pause of the workers and that of its type."""
        assert "paused since" not in run(queue, "show", "evt_1").stdout
        run(queue, "pause", "--type", TYPE)
        assert run(queue, "show", "evt_1").stdout.startswith(f"{TYPE} is paused since ")
        assert "paused since" not in run(queue, "show", "evt_3").stdout
        run(queue, "pause")
        first, second, *_ = run(queue, "show", "evt_1").stdout.splitlines()
        assert first.startswith("The workers are paused since ")
        assert second.startswith(f"{TYPE} is paused since ")
        run(queue, "give-up", "evt_1", "--why", "no", "--yes")
        assert "paused since" not in run(queue, "show", "evt_1").stdout

    def test_resumed_at_the_same_moment(
        self, queue: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If another operator resumes in between, the command prints nothing."""
        # The moment cannot be chosen.
        monkeypatch.setattr(Administration, "paused_types", lambda _: {})
        assert run(queue, "pause", "--type", TYPE).stdout == ""


class TestAudit:
    """``audit`` shows the actions of operators."""

    def test_table(self, queue: Receiver) -> None:
        """The latest action comes first. A longer log continues with --before."""
        assert run(queue, "audit").stdout == "The audit log has no such entry.\n"
        run(queue, "pause", "--why", "deploy")
        run(queue, "give-up", "evt_1", "--why", "no", "--yes")
        first = run(queue, "audit", "--limit", "1").stdout
        head, row, more = first.splitlines()
        assert head.split() == ["at", "by", "action", "target", "events", "why"]
        assert row.split()[1:] == [operator(), "give_up", "evt_1", "1", "no"]
        place = re.fullmatch(r"There may be more: continue with --before (\d+)", more)
        assert place is not None
        rest = run(queue, "audit", "--before", place[1]).stdout.splitlines()
        assert [line.split()[1:] for line in rest[1:]] == [
            [operator(), "pause", "-", "-", "deploy"]
        ]
        assert "give_up" in run(queue, "audit", "--target", "evt_1").stdout

    def test_retry_by_id(self, make_receiver: Make) -> None:
        """Each id of a retry has an entry. An event that has changed was not affected."""
        receiver = make_receiver({CREATED: GIVING_UP})
        for number in (1, 2):
            deliver(receiver, f"evt_{number}")
        run(receiver, "retry", "evt_1", "evt_2", "--why", "mended", "--yes")
        assert log(receiver) == [("retry", f"evt_{number}", "mended", 1) for number in (1, 2)]

    def test_retry_of_a_selection(self, queue: Receiver) -> None:
        """A retry by filters has one entry with the filter and the number of events."""
        run(queue, "retry", "--type", TYPE, "--dry-run")
        run(queue, "retry", "--type", TYPE, "--yes")
        assert log(queue) == [("retry_many", f"type={TYPE}", None, 2)]
