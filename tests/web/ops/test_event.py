"""The page of one event."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from devkit import samples
from devkit.deliver import MakeDeliver
from devkit.stripe_api import StripeApi
from tests.support import pairs, raw_sql
from tests.web.ops.conftest import READ_TOKEN, TOKEN, Browser

TYPE = "v1.customer.created"
FAILING = """
    attempts = 0

    def handle(notif, client):
        global attempts
        attempts += 1
        if attempts < 4:
            raise ValueError(f"request req_{attempts} failed")
"""

Make = Callable[..., Browser]


@pytest.fixture
def ops(make_ops: Make) -> Browser:
    """An application whose callback fails three times."""
    return make_ops({"v1_customer_created": FAILING})


def deliver(ops: Browser, event_id: str = "evt_1", times: int = 1, **fields: Any) -> None:
    """Deliver an event several times."""
    for _ in range(times):
        ops.receiver.deliver(samples.notification(TYPE, event_id=event_id, **fields))


def shown(ops: Browser, event_id: str = "evt_1") -> str:
    """Return the page of an event."""
    answer = ops.get(f"/ops/events/{event_id}")
    assert answer.status_code == 200
    return answer.text


def test_facts(ops: Browser) -> None:
    """The page has the state in a sentence, the type, the account and the object, with links."""
    deliver(ops, context="acct_1", object_id="cus_1")
    text = shown(ops)
    assert "Pending: attempt 1 ended <time" in text
    for address in (
        f"/ops/events?type={TYPE}",
        "/ops/events?object=cus_1",
        "/ops/events?context=acct_1",
        "https://dashboard.stripe.com/acct_1/test/events/evt_1",
        "https://dashboard.stripe.com/acct_1/test/customers/cus_1",
        'https://dashboard.stripe.com/acct_1/test"',
    ):
        assert f'href="{address}' in text
    assert "1 delivery" in text


def test_facts_of_a_snapshot_event(ops: Browser) -> None:
    """A snapshot event has the same links: to the event, its account, its object and its type."""
    event = samples.snapshot_event(
        "customer.created", event_id="evt_1", account="acct_1", object_id="cus_1"
    )
    ops.receiver.deliver(event)
    text = shown(ops)
    for address in (
        "/ops/events?type=customer.created",
        "/ops/events?object=cus_1",
        "/ops/events?context=acct_1",
        "https://dashboard.stripe.com/acct_1/test/events/evt_1",
        "https://dashboard.stripe.com/acct_1/test/customers/cus_1",
    ):
        assert f'href="{address}' in text
    assert "&#34;api_version&#34;: &#34;" in text
    answer = ops.get("/ops/events?object=cus_1&type=customer.created")
    assert "evt_1" in answer.text


def test_effects(ops: Browser) -> None:
    """What ``app.once`` recorded is there: a retry skips it."""
    deliver(ops)
    assert "<h2>Effects</h2>" not in shown(ops)
    ops.receiver.services.inbox.effects.record("evt_1", "send <the> mail")
    text = shown(ops)
    assert "<h2>Effects</h2>" in text
    assert "</time> send &lt;the&gt; mail</li>" in text


def test_attempts(ops: Browser) -> None:
    """Attempts with the same end are one entry. The latest is open, and has the team's frames."""
    deliver(ops, times=4)
    text = shown(ops)
    summaries = re.findall(r"<details id=\"attempt-(\d)\"( open)?>\s*<summary>([^<]+)", text)
    assert [(number, bool(is_open)) for number, is_open, _ in summaries] == [
        ("4", True),
        ("3", False),
    ]
    assert summaries[0][2].startswith("Attempt 4: handled")
    assert summaries[1][2].startswith("Attempts 1 to 3: failed, all with the same end")
    trace = text.partition("<pre")[2].partition("</pre>")[0]
    assert "ValueError: request req_3 failed" in trace
    assert "v1_customer_created.py" in trace
    assert "runner.py" not in trace
    assert "app/processing/runner.py" in text


def test_same_traceback_is_shown_once(ops: Browser, sqlite_url: str) -> None:
    """Another outcome with the same traceback is an entry that does not repeat it."""
    deliver(ops, times=3)
    raw_sql.execute(sqlite_url, "UPDATE attempts SET outcome = 'exhausted' WHERE attempt = 2")
    text = shown(ops)
    assert text.count("The same traceback as above.") == 2
    assert text.count('aria-label="Traceback of attempt') == 1


def test_attempt_without_a_traceback(ops: Browser, sqlite_url: str) -> None:
    """A crash has no traceback. A clock that stepped back gives no negative duration."""
    deliver(ops)
    raw_sql.execute(
        sqlite_url,
        "UPDATE events SET traceback = NULL, reason = 'the process died', claimed_at = 9e9",
    )
    text = shown(ops)
    assert "<p>the process died</p>" in text
    assert "The clock stepped back during it" in text


def test_event_that_runs_first(ops: Browser, sqlite_url: str) -> None:
    """While the first attempt runs, there are words for the missing attempts."""
    deliver(ops)
    raw_sql.execute(sqlite_url, "UPDATE events SET state = 'running', lease_until = 9e9")
    assert "The first attempt runs." in shown(ops)


def test_body(ops: Browser, make_ops: Make) -> None:
    """The body is indented JSON, for those who may act."""
    deliver(ops)
    assert "&#34;object&#34;: &#34;v2.core.event&#34;" in shown(ops)
    reader = Browser(ops.receiver, token=READ_TOKEN)
    text = shown(reader)
    assert "v2.core.event" not in text
    assert "Your token does not show bodies" in text
    assert 'class="button' not in text
    open_ops = make_ops(ops_read_bodies="on")
    assert "v2.core.event" in shown(Browser(open_ops.receiver, token=READ_TOKEN))


def test_long_body_is_not_indented(ops: Browser, sqlite_url: str) -> None:
    """Deep nesting makes the indented body too long. The page is as short as what arrived."""
    deliver(ops)
    nested = "[" * 900 + ",".join("0" * 2000) + "]" * 900
    raw_sql.execute(sqlite_url, f"UPDATE events SET body = x'{nested.encode().hex()}'")  # noqa: S608 - a value of the test
    text = shown(ops)
    assert nested in text
    assert len(text) < 40_000


def test_other_events_of_the_object(ops: Browser) -> None:
    """The page lists other events of the same object, and not the event itself."""
    deliver(ops, "evt_1", object_id="cus_1")
    deliver(ops, "evt_2", object_id="cus_1")
    deliver(ops, "evt_3", object_id="cus_2")
    text = shown(ops).partition("Other events of cus_1")[2]
    assert re.findall(r'<a class="id" href="/ops/events/(\w+)"', text) == ["evt_2"]
    assert "Other events" not in shown(ops, "evt_3")


@pytest.mark.parametrize(
    ("event_type", "has_filter"),
    [("v1.account.application.authorized", False), ("v1.balance.available", True)],
)
def test_event_without_an_id_of_an_object(
    ops: Browser, event_type: str, *, has_filter: bool
) -> None:
    """Without a related object, or with a singleton, there is no link to Stripe's page of it."""
    ops.receiver.deliver(samples.notification(event_type, event_id="evt_9"))
    text = shown(ops, "evt_9")
    assert ("/ops/events?object=" in text) == has_filter
    assert text.count("https://dashboard.stripe.com") == 1


def test_unknown_event(ops: Browser) -> None:
    """For an unknown id there are words, and the command that finds missing events."""
    answer = ops.get("/ops/events/evt_none")
    assert answer.status_code == 404
    assert "The inbox has no event evt_none." in answer.text
    assert "flask events reconcile" in answer.text


def test_erased_event(ops: Browser, sqlite_url: str) -> None:
    """An erased event says so. It has no body and no action."""
    deliver(ops)
    raw_sql.execute(sqlite_url, "UPDATE events SET erased_at = 1000, body = x'', state = 'done'")
    text = shown(ops)
    assert "It was erased <time" in text
    assert "The body was erased." in text
    assert "/retry" not in text


def test_old_release(ops: Browser, sqlite_url: str) -> None:
    """A failed event has a link to its error group, and the release under which it failed."""
    deliver(ops)
    raw_sql.execute(sqlite_url, "UPDATE events SET fingerprint = '0123456789ab', release = '41c9'")
    text = shown(ops)
    assert 'href="/ops/groups/0123456789ab"' in text
    assert "failed under release 41c9" in text


def test_twin(make_deliver: MakeDeliver, stripe_api: StripeApi) -> None:
    """Each event of a pair leads to the other one, once it is in the inbox."""
    deliver = make_deliver(modules=pairs.MODULES, ops_token=TOKEN)
    ops = Browser(deliver.receiver)
    pairs.send_thin(deliver, stripe_api)
    missing = shown(ops, "evt_n").partition("<dt>Twin</dt>")[2].partition("</dd>")[0]
    assert "evt_s" in missing
    assert missing.endswith(" is not in the inbox")

    pairs.send_snapshot(deliver)
    text = shown(ops, "evt_s")
    assert "Done <time" in text
    assert "without a run: the callback of its twin has succeeded." in text
    assert '<dt>Twin</dt><dd><a class="id" href="/ops/events/evt_n">evt_n</a>' in text
    assert 'href="/ops/events/evt_s">evt_s</a> customer.created' in shown(ops, "evt_n")


def test_failed_shadow(make_deliver: MakeDeliver, stripe_api: StripeApi) -> None:
    """It is done, but the page warns, and shows the reason and the traceback."""
    deliver = make_deliver(modules=pairs.FAILING_SHADOW, ops_token=TOKEN)
    ops = Browser(deliver.receiver)
    pairs.send_thin(deliver, stripe_api)
    text = shown(ops, "evt_n")
    assert '<p class="notice warn"><strong class="state-done">Done, although the callback' in text
    assert "<p>Reason: ValueError: no</p>" in text
    assert 'aria-label="Traceback of attempt 1">ValueError: no' in text


@pytest.mark.parametrize("outcome", ["twin", "shadow"])
def test_outcomes_of_pairs_select(
    make_deliver: MakeDeliver, stripe_api: StripeApi, outcome: str
) -> None:
    """Each of them is a choice of the filter, and the list has its events only."""
    modules = pairs.MODULES if outcome == "twin" else pairs.FAILING_SHADOW
    deliver = make_deliver(modules=modules, ops_token=TOKEN)
    pairs.send_snapshot(deliver)
    pairs.send_thin(deliver, stripe_api)
    text = Browser(deliver.receiver).get(f"/ops/events?outcome={outcome}").text
    assert f"<option selected>{outcome}</option>" in text
    assert "evt_n</a>" in text
    assert "evt_s</a>" not in text
    result = deliver.receiver.app.test_cli_runner().invoke(
        args=["events", "list", "--outcome", outcome]
    )
    assert [line.split()[1] for line in result.output.splitlines()[1:]] == ["evt_n"]
