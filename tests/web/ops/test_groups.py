"""The error groups, and the page of one group."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from devkit import samples
from tests.support import raw_sql
from tests.web.ops.conftest import READ_TOKEN, Browser

TYPE = "v1.customer.created"
FAILING = "def handle(notif, client):\n    raise KeyError('plan')\n"

Make = Callable[..., Browser]


@pytest.fixture
def ops(make_ops: Make) -> Browser:
    """Two events that failed with the same error, one of them twice."""
    ops = make_ops({"v1_customer_created": FAILING}, release="r2")
    for event_id in ("evt_1", "evt_2", "evt_2"):
        ops.receiver.deliver(samples.notification(TYPE, event_id=event_id))
    return ops


@pytest.fixture
def group(ops: Browser) -> str:
    """The group of both events."""
    fingerprint = ops.receiver.event("evt_1").fingerprint
    assert fingerprint is not None
    return fingerprint


def test_list(ops: Browser, group: str) -> None:
    """A row has the exception, the place, the numbers of events and attempts, and the release."""
    text = ops.get("/ops/groups").text
    assert f'href="/ops/groups/{group}">KeyError</a>' in text
    cells = re.findall(r'data-label="([^"]+)"[^>]*>([^<]*)<', text)
    assert ("Open events", "2") in cells
    assert ("Failed attempts", "3") in cells
    assert ("Releases", "r2") in cells
    assert "v1_customer_created.py:2" in dict(cells)["Place"]


def test_list_of_a_period(ops: Browser, sqlite_url: str) -> None:
    """The list can be limited to groups that failed lately. An empty one has words."""
    assert "KeyError" in ops.get("/ops/groups?since=24h").text
    raw_sql.execute(sqlite_url, "UPDATE stripe_receiver_error_groups SET last_at = 1000")
    assert "No attempt has failed in this time." in ops.get("/ops/groups?since=24h").text
    assert "KeyError" in ops.get("/ops/groups?since=nonsense").text


def test_no_groups(make_ops: Make) -> None:
    """Without a failure there are words."""
    assert "No attempt has failed." in make_ops().get("/ops/groups").text


def test_group(ops: Browser, group: str) -> None:
    """The page has the place, numbers by hour, releases, an example, and the open events."""
    text = ops.get(f"/ops/groups/{group}").text
    assert "<h1>KeyError</h1>" in text
    assert "2 events failed with this error last, and are not done." in text
    assert "v1_customer_created.py:2" in text
    assert re.search(r"<title>[^<]+: 3 failures \(r2 3\)</title>", text)
    assert re.search(r'<th scope="row">[^<]+UTC</th><td class="number">3</td><td>r2 3</td>', text)
    hour = r"<td>\d{4}-\d\d-\d\d \d\d:00 UTC</td>"
    assert re.search(rf'<th scope="row">r2</th><td class="number">3</td>{hour}{hour}', text)
    assert 'href="/ops/events/evt_2"' in text
    assert f'href="/ops/events?group={group}"' in text


def test_dead_events_cannot_be_given_up(ops: Browser, group: str, sqlite_url: str) -> None:
    """Without a pending event there is no button that gives up."""
    raw_sql.execute(sqlite_url, "UPDATE events SET state = 'dead'")
    text = ops.get(f"/ops/groups/{group}").text
    assert f'href="/ops/retry?group={group}"' in text
    assert "/ops/give-up" not in text


def test_actions(ops: Browser, group: str, make_ops: Make) -> None:
    """An operator can retry all, those that failed before this release, or give all up."""
    text = ops.get(f"/ops/groups/{group}").text
    assert f'href="/ops/retry?group={group}"' in text
    assert "failed-before" not in text  # r2 is the only release
    ops.receiver.services.inbox.groups.begin_release("r2")
    later = make_ops({"v1_customer_created": FAILING}, release="r3")
    later.receiver.services.inbox.groups.begin_release("r3")
    newer = later.get(f"/ops/groups/{group}").text
    assert f'href="/ops/retry?group={group}&amp;failed-before=r3"' in newer
    assert f'href="/ops/give-up?group={group}"' in text
    assert (
        "/ops/retry" not in Browser(ops.receiver, token=READ_TOKEN).get(f"/ops/groups/{group}").text
    )


def test_group_without_open_events(ops: Browser, group: str, sqlite_url: str) -> None:
    """When all of its events are done, the page says so and has no action."""
    raw_sql.execute(sqlite_url, "UPDATE events SET fingerprint = NULL, state = 'done'")
    raw_sql.execute(sqlite_url, "UPDATE stripe_receiver_error_hours SET hour = 5, release = ''")
    text = ops.get(f"/ops/groups/{group}").text
    assert "No event is open with this error." in text
    assert "No attempt failed with this error in the last 48 hours." in text
    assert "/ops/retry" not in text


def test_unknown_group(ops: Browser) -> None:
    """For an unknown group there are words."""
    answer = ops.get("/ops/groups/000000000000")
    assert answer.status_code == 404
    assert "There is no error group 000000000000." in answer.text


def test_unknown_name_in_a_filter(ops: Browser) -> None:
    """A list or an action with an unknown group or release is refused with its name."""
    for query, sentence in (
        ("group=nonsense", "There is no error group nonsense"),
        ("failed-before=typo", "No process of a release typo has started."),
    ):
        for path in ("/ops/events", "/ops/retry", "/ops/give-up"):
            answer = ops.get(f"{path}?{query}")
            assert (answer.status_code, sentence in answer.text) == (400, True), path
