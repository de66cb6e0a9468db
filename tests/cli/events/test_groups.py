"""``flask events groups``: the error groups, and one of them in detail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from app.cli.events.groups import MOST_HOURS
from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql

Make = Callable[..., Receiver]
TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
FAILING = """
    def handle(notif, client):
        if notif.id == "evt_1":
            raise KeyError(notif.id)
        raise ValueError(notif.id)
"""


@pytest.fixture
def receiver(make_receiver: Make) -> Receiver:
    """An application of release 1.4.2 whose callback fails in two ways."""
    return make_receiver({MODULE: FAILING}, release="1.4.2")


def deliver(receiver: Receiver, event_id: str) -> None:
    """Deliver an event."""
    receiver.deliver(samples.notification(TYPE, event_id=event_id))


def run(receiver: Receiver, *arguments: str) -> Result:
    """Run ``flask events groups``."""
    return receiver.app.test_cli_runner().invoke(args=["events", "groups", *arguments])


def as_json(receiver: Receiver, *arguments: str) -> Any:
    """Return what the command prints for programs."""
    return json.loads(run(receiver, *arguments, "--json").stdout)


def test_groups_are_a_table(receiver: Receiver) -> None:
    """The latest failure comes first. A row has the number of open events, and all attempts."""
    for event_id in ("evt_1", "evt_2", "evt_3", "evt_3"):
        deliver(receiver, event_id)
    raw_sql.execute(
        receiver.services.settings.database_url,
        "UPDATE stripe_receiver_error_groups SET last_at = last_at - 9 WHERE attempts = 1",
    )

    shown = run(receiver)
    assert shown.exit_code == 0
    head, *rows, last = (re.split(r" {2,}", line) for line in shown.stdout.splitlines())
    assert head == [
        *("group", "exception", "place", "open events", "attempts"),
        *("first", "last", "releases", "example"),
    ]
    assert [(row[1], row[3], row[4], row[7], row[8]) for row in rows] == [
        ("ValueError", "2", "3", "1.4.2", "evt_3"),
        ("KeyError", "1", "1", "1.4.2", "evt_1"),
    ]
    assert rows[0][2].endswith(f"/{MODULE}.py:5")
    assert last == ["Show one with `flask events groups GROUP`."]


def test_list_has_all_releases(receiver: Receiver) -> None:
    """A row has the latest releases, and the number of the others. JSON has all of them."""
    deliver(receiver, "evt_1")
    deliver(receiver, "evt_2")
    first, second = (each["group"] for each in as_json(receiver))
    for number in range(4):
        raw_sql.execute(
            receiver.services.settings.database_url,
            f"INSERT INTO stripe_receiver_error_hours VALUES ('{first}', {number}, 'r{number}', 2)",  # noqa: S608 - the test's own
        )

    assert "  1.4.2, r3, r2 and 2 more  evt_" in run(receiver).stdout
    releases = {each["group"]: each["releases"] for each in as_json(receiver)}
    assert [each["release"] for each in releases[first]] == ["1.4.2", "r3", "r2", "r1", "r0"]
    assert [each["release"] for each in releases[second]] == ["1.4.2"]
    assert as_json(receiver, first)["releases"] == releases[first]


def test_list_is_cut(receiver: Receiver) -> None:
    """By the limit, with a line that says so, and by the time of the latest failure."""
    deliver(receiver, "evt_1")
    deliver(receiver, "evt_2")

    assert "There may be more than this one (--limit)." in run(receiver, "--limit", "1").stdout
    assert "There may be more than these 2 (--limit)." in run(receiver, "--limit", "2").stdout
    assert len(as_json(receiver, "--since", "1h")) == 2
    later = run(receiver, "--since", "2100-01-01")
    assert later.stdout == "No attempt has failed since then.\n"


def test_no_failure(receiver: Receiver) -> None:
    """An empty list has words, and is an empty list for programs."""
    receiver.services.inbox.migrate()
    assert run(receiver).stdout == "No attempt has failed.\n"
    assert as_json(receiver) == []


def test_one_group(receiver: Receiver) -> None:
    """It has the hours, the releases, an example, and the command that runs its events again."""
    deliver(receiver, "evt_1")
    (listed,) = as_json(receiver)
    group = listed["group"]
    hour = f"{listed['first_at'][:13]}:00Z"

    shown = run(receiver, group)
    assert shown.exit_code == 0
    facts, releases, hours, hints = shown.stdout.split("\n\n")
    assert dict(re.split(r" {2,}", line) for line in facts.splitlines()) == {
        "group": group,
        "exception": "KeyError",
        "place": listed["place"],
        "open events": "1",
        "attempts": "1",
        "first": listed["first_at"],
        "last": listed["last_at"],
        "last type": TYPE,
    }
    assert re.split(r" {2,}", releases.splitlines()[1]) == ["1.4.2", "1", hour, hour]
    assert re.split(r" {2,}", hours.splitlines()[1]) == [hour, "1"]
    assert hints.splitlines() == [
        "The event that failed last: `flask events show evt_1`",
        f"Its open events: `flask events list --group {group}`",
        f"Run them again: `flask events retry --group {group}`",
    ]


def test_one_group_for_programs(receiver: Receiver) -> None:
    """It has the object of the list, and the hours by release."""
    deliver(receiver, "evt_1")
    (listed,) = as_json(receiver)
    hour = f"{listed['first_at'][:13]}:00Z"

    assert (listed["last_release"], listed["open"], listed["open_is_bounded"]) == (
        "1.4.2",
        1,
        False,
    )
    assert (listed["last_event"], listed["last_type"]) == ("evt_1", TYPE)
    assert as_json(receiver, listed["group"]) == {
        **listed,
        "releases": [{"release": "1.4.2", "attempts": 1, "first_hour": hour, "last_hour": hour}],
        "hours": [{"hour": hour, "release": "1.4.2", "attempts": 1}],
    }


def test_group_without_open_events_and_words(receiver: Receiver) -> None:
    """Its events have succeeded, and the process ended before it wrote what failed."""
    deliver(receiver, "evt_1")
    url = receiver.services.settings.database_url
    raw_sql.execute(url, "UPDATE events SET state = 'done'")
    raw_sql.execute(url, "UPDATE stripe_receiver_error_groups SET exception = NULL, place = NULL")
    raw_sql.execute(url, "UPDATE stripe_receiver_error_hours SET release = ''")
    raw_sql.execute(url, "UPDATE stripe_receiver_error_groups SET release = NULL")
    (listed,) = as_json(receiver)
    assert as_json(receiver, listed["group"])["releases"][0]["release"] is None

    shown = run(receiver, listed["group"]).stdout
    assert re.search(r"^exception +unknown$", shown, re.MULTILINE)
    assert re.search(r"^unknown +1 ", shown, re.MULTILINE)
    assert "retry" not in shown
    assert re.search(
        r"  unknown +unknown +0 .* unknown +evt_1$", run(receiver).stdout, re.MULTILINE
    )


def test_old_hours_are_left_out(receiver: Receiver) -> None:
    """A group can fail for months. The table has one day."""
    deliver(receiver, "evt_1")
    (listed,) = as_json(receiver)
    for hour in range(MOST_HOURS):
        raw_sql.execute(
            receiver.services.settings.database_url,
            f"INSERT INTO stripe_receiver_error_hours VALUES ('{listed['group']}', {hour}, '', 2)",  # noqa: S608 - the test's own
        )

    shown = run(receiver, listed["group"]).stdout
    assert "Left out: 1 earlier hour (--json)." in shown
    assert len(re.findall(r"^\d{4}-\d\d-\d\dT", shown, re.MULTILINE)) == MOST_HOURS
    assert len(as_json(receiver, listed["group"])["hours"]) == MOST_HOURS + 1
    since = run(receiver, listed["group"], "--since", "1d").stdout
    assert "earlier" not in since


def test_unknown_group(receiver: Receiver) -> None:
    """It says so, and fails."""
    receiver.services.inbox.migrate()
    shown = run(receiver, "f00d")
    assert (shown.exit_code, shown.stderr) == (1, "Error: There is no error group f00d.\n")


def test_event_names_its_group(receiver: Receiver) -> None:
    """``show`` leads from an event to the events with the same error."""
    deliver(receiver, "evt_1")
    (listed,) = as_json(receiver)
    runner = receiver.app.test_cli_runner()

    text = runner.invoke(args=["events", "show", "evt_1"]).stdout
    assert re.search(rf"^group +{listed['group']}$", text, re.MULTILINE)
    assert re.search(r"^release +1\.4\.2$", text, re.MULTILINE)
    shown = json.loads(runner.invoke(args=["events", "show", "evt_1", "--json"]).stdout)
    assert (shown["history"][0]["group"], shown["release"]) == (listed["group"], "1.4.2")


@pytest.fixture
def releases(make_receiver: Make) -> tuple[Receiver, Receiver]:
    """An application of release 1.4.2 that fails, and one of 1.5.0 that fails for one event."""
    old = make_receiver({MODULE: FAILING}, release="1.4.2")
    record_release(old)
    deliver(old, "evt_1")
    deliver(old, "evt_2")
    mended = "def handle(notif, client):\n    if notif.id == 'evt_3': raise ValueError(notif.id)\n"
    new = make_receiver({MODULE: mended}, release="1.5.0")
    record_release(new)
    deliver(new, "evt_3")
    return old, new


def record_release(receiver: Receiver) -> None:
    """Record the release, as a process does after its start."""
    maintenance = receiver.services.maintenance
    (task,) = [each for each in maintenance._tasks if each.name == "release"]  # noqa: SLF001 - no other way
    maintenance.run_once(task, "this process")


def retry(receiver: Receiver, *options: str) -> Result:
    """Run ``flask events retry`` without a question."""
    return receiver.app.test_cli_runner().invoke(args=["events", "retry", "--yes", *options])


def test_events_of_a_group_run_again(releases: tuple[Receiver, Receiver]) -> None:
    """After a repair, those with this error, and no others."""
    _, new = releases
    group = next(each["group"] for each in as_json(new) if each["exception"] == "KeyError")

    ran = retry(new, "--group", group)
    assert ran.exit_code == 0
    assert "evt_1  v1.customer.created  handled" in ran.stdout
    assert [new.event(f"evt_{number}").state for number in (1, 2, 3)] == [
        *("done", "pending", "pending")
    ]


@pytest.mark.parametrize("command", ["list", "retry", "give-up --why w", "export"])
def test_unknown_name_is_refused(releases: tuple[Receiver, Receiver], command: str) -> None:
    """A mistyped release or group is an error with its name, not an empty selection."""
    _, new = releases
    runner = new.app.test_cli_runner()
    for options, sentence in (
        (["--group", "nonsense"], "There is no error group nonsense."),
        (
            ["--failed-before", "1.5"],
            "No process of a release 1.5 has started. The latest releases: 1.5.0, 1.4.2.",
        ),
    ):
        refused = runner.invoke(args=["events", *command.split(), *options])
        assert (refused.exit_code, refused.stderr) == (1, f"Error: {sentence}\n")


def test_command_records_its_release(make_receiver: Make) -> None:
    """A command can be the first process of a release. Its failures belong to it."""
    old = make_receiver({MODULE: FAILING}, release="1.4.2")
    deliver(old, "evt_1")
    assert old.services.inbox.groups.begun(9) == ("1.4.2",)
    new = make_receiver({MODULE: FAILING}, release="1.5.0")
    assert retry(new, "--failed-before", "1.5.0").stdout.startswith("1 event selected.")
    assert new.event("evt_1").release == "1.5.0"
    newest = make_receiver({MODULE: "def handle(notif, client): pass\n"}, release="1.6.0")
    assert "handled" in retry(newest, "--failed-before", "1.6.0").stdout
    assert newest.services.inbox.groups.begun(9) == ("1.6.0", "1.5.0", "1.4.2")


def test_events_that_failed_before_a_release_run_again(
    releases: tuple[Receiver, Receiver],
) -> None:
    """Those that the new release failed too are left."""
    _, new = releases
    ran = retry(new, "--failed-before", "1.5.0")

    assert ran.exit_code == 0
    assert [new.event(f"evt_{number}").state for number in (1, 2, 3)] == ["done", "done", "pending"]
    assert new.event("evt_3").attempt == 1
    assert "There is no event" in retry(new, "--failed-before", "1.4.2").stdout
    assert [each["open"] for each in as_json(new) if each["exception"] == "KeyError"] == [0]
