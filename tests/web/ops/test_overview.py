"""The overview: a sentence for each thing that is wrong, and the state of the inbox."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable

import pytest

from app.inbox import Failure, NewEvent, Outcome
from app.inbox.activity import Activity, period_of
from app.inbox.groups import Group
from app.inbox.models import Count
from app.web.ops import problems
from devkit import samples
from tests.web.ops.conftest import Browser

PAID, CREATED = "v1.invoice.paid", "v1.customer.created"
GIVES_UP = "import app\ndef handle(notif, client): raise app.GiveUp('no price')\n"
DEPLOY = "deploy <1>"


def sentences(page: str) -> list[str]:
    """Return the texts of the notices in the first section, without tags."""
    (section,) = re.findall(r'<section id="state".*?</section>', page, re.DOTALL)
    found = re.findall(r'<p class="notice (\w+)">(.*?)</p>', section, re.DOTALL)
    return [f"{level}: {html.unescape(re.sub(r'<.*?>', '', text))}" for level, text in found]


def overview(ops: Browser) -> str:
    """Return the page."""
    answer = ops.get("/ops")
    assert answer.status_code == 200
    return answer.text


def test_all_is_well(ops: Browser) -> None:
    """A sound inbox has one sentence, and words for what is empty."""
    page = overview(ops)
    assert sentences(page) == ["ok: All well: 0 events in the last 24 hours, no event is dead."]
    assert "No pending or dead event has failed." in page
    assert "none in the last 8 days" in page
    assert "Workers" not in page


def test_queue_mode_says_how_long_events_wait(make_ops: Callable[..., Browser]) -> None:
    """In queue mode the page has the oldest due event, and a pause for those who may act."""
    ops = make_ops(processing="queue")
    page = overview(ops)
    assert sentences(page)[0].endswith("no event is dead, oldest due 0 s.")
    assert 'href="/ops/pause"' in page
    assert 'href="/ops/pause"' not in overview(ops.reader())


def test_worker_threads_of_all_processes(make_ops: Callable[..., Browser]) -> None:
    """In queue mode the page says how many worker threads are idle, or that none is alive."""
    ops = make_ops(processing="queue")
    assert "<dd>none is alive, not paused" in overview(ops)
    for process, busy, idle in (("host:1:a", 3, 1), ("other:1:a", 0, 4)):
        ops.receiver.services.inbox.activity.show_threads(process, busy, idle)
    assert "<dd>5 of 8 idle, not paused" in overview(ops)


def test_dead_events_with_one_cause(make_ops: Callable[..., Browser]) -> None:
    """Dead events of one error group are named with its exception and place."""
    ops = make_ops({"v1_invoice_paid": GIVES_UP})
    for _ in range(2):
        ops.receiver.deliver(samples.notification(PAID))
    page = overview(ops)
    (sentence,) = sentences(page)
    assert sentence.startswith("fail: 2 events are dead. One error, since 0 s ago: ")
    assert "GiveUp in handlers" in sentence
    assert sentence.endswith("Open the group")
    assert page.count('href="/ops/groups/') == 2


def test_dead_events_with_several_causes(make_ops: Callable[..., Browser]) -> None:
    """Dead events of several error groups lead to the list. Each group is shown."""
    ops = make_ops({"v1_invoice_paid": GIVES_UP, "v1_customer_created": GIVES_UP})
    for event_type in (PAID, CREATED):
        ops.receiver.deliver(samples.notification(event_type))
    page = overview(ops)
    (sentence,) = sentences(page)
    assert "2 events are dead. The first of these errors was 0 s ago. List them" in sentence
    assert page.count('href="/ops/groups/') == 2


def test_dead_event_without_a_group(ops: Browser) -> None:
    """An event that died without an error group is in the list of dead events."""
    (event_id,) = enqueue(ops, 1)
    claims = ops.receiver.services.inbox.claims
    claim = claims.claim_one(event_id, by="me")
    assert claim is not None
    assert claims.mark_dead(claim, Outcome.EXHAUSTED, Failure("no price"))
    assert sentences(overview(ops)) == ["fail: 1 event is dead. List them"]


@pytest.mark.parametrize(
    ("exception", "place", "release", "words"),
    [
        ("KeyError", "handlers/x.py:31", "41c9", "KeyError in handlers/x.py:31 (release 41c9)"),
        ("KeyError", None, None, "KeyError"),
        (None, None, None, f"its process ended while it ran ({PAID})"),
    ],
)
def test_cause(exception: str | None, place: str | None, release: str | None, words: str) -> None:
    """An error group has words, also if its process ended before it could write them."""
    group = Group("9f2c", exception, place, PAID, 0.0, 0.0, 1, "evt_1", release, Count(1))
    assert problems.cause(group) == words


def enqueue(ops: Browser, count: int) -> list[str]:
    """Record pending events, and return their ids."""
    ids = [f"evt_{number}" for number in range(count)]
    for each in ids:
        event = NewEvent(each, PAID, livemode=False, context=None, body=b"{}")
        ops.receiver.services.inbox.deliveries.enqueue(event)
    return ids


def test_backlog(make_ops: Callable[..., Browser]) -> None:
    """In queue mode, due events that wait too long are a problem. The limit is that of alerts."""
    ops = make_ops(processing="queue", alert_backlog_seconds=0.0001)
    enqueue(ops, 2)
    (sentence,) = sentences(overview(ops))
    assert sentence.startswith("fail: 2 events are pending, and the oldest due one has waited for")


def test_pause(make_ops: Callable[..., Browser]) -> None:
    """A pause is shown with the person and the reason, as text."""
    ops = make_ops(processing="queue")
    ops.receiver.services.inbox.administration.pause(by="anna", why=DEPLOY)
    page = overview(ops)
    assert sentences(page) == [
        f"warn: The workers are paused since 0 s ago by anna: {DEPLOY} Resume"
    ]
    assert 'href="/ops/resume"' in page
    assert DEPLOY not in page


def test_paused_type(make_ops: Callable[..., Browser]) -> None:
    """A paused type is shown with a link that resumes it."""
    ops = make_ops(processing="queue")
    ops.receiver.services.inbox.administration.pause(by="anna", why=None, type_=PAID)
    page = overview(ops)
    assert sentences(page) == [f"warn: The type {PAID} is paused since 0 s ago by anna. Resume"]
    assert f'href="/ops/resume?type={PAID}"' in page


def test_findings_and_alerts(ops: Browser) -> None:
    """Findings of the watch, and alerts about what the page does not read itself, are shown."""
    inbox = ops.receiver.services.inbox
    inbox.findings.record("clock_off", "warn", "the clock is 40 s behind Stripe's")
    inbox.findings.record("key_revoked", "fail", "Stripe does not accept the API key")
    inbox.findings.record("types_drifted", "ok", "All handled types are enabled")
    for alert in ("silence", "failures", "dead_events"):
        inbox.alerts.raise_(
            alert,
            alert=alert,
            group=None,
            since=time.time() - 7300,
            number=1,
            before="",
            details={"text": f"About {alert}"},
        )
    page = overview(ops)
    for path in ("groups", "destinations"):
        assert f'href="/ops/{path}">Open the' in page
    assert sentences(page) == [
        "fail: About failures. Since 2 hours ago. Open the error groups",
        "fail: About silence. Since 2 hours ago. Open the destinations",
        "fail: Stripe does not accept the API key. Since 0 s ago. Destinations",
        "warn: The clock is 40 s behind Stripe's. Since 0 s ago. Destinations",
    ]


@pytest.mark.parametrize("scheme", ["svg", "table"])
def test_the_day(ops: Browser, scheme: str) -> None:
    """The last day is a chart with titles, and a table with the same numbers."""
    now = time.time()
    rows = [
        Activity("attempt", "handled", period_of(now), 1204, now),
        Activity("rejection", "signature_stale", period_of(now), 17, now),
        Activity("secret", "1", period_of(now), 9, now),
        Activity("secret", "2", period_of(now - 7300), 9, now - 7300),
    ]
    ops.receiver.services.inbox.activity.add(rows)
    enqueue(ops, 1)
    page = overview(ops)
    if scheme == "svg":
        assert page.count("<title>") == 1 + 24
        assert "UTC: 1,204 done, 1 pending, 17 rejected</title>" in page
    else:
        cells = "".join(f'<td class="number">{each}</td>' for each in ("1,204", "1", "17", "0"))
        assert cells in page
    assert re.search(r"\d+ s ago</time> \(secret 1\), .*2 hours ago</time> \(secret 2\)", page)
    assert "All well: 1,204 events in the last 24 hours" in page
