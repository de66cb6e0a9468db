"""The deliveries of the demo, and the answers and records that they must lead to."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devkit import samples
from devkit.cli.events_send import STALE_SECONDS
from devkit.http_client import Answer, post

if TYPE_CHECKING:
    from app.inbox import Event
    from devkit.stripe_api import StripeApi

SECRET = f"whsec_demo_{secrets.token_hex(16)}"

METER = "v1.billing.meter.error_report_triggered"
CHECKOUT = "v1.checkout.session.completed"
LOST = "v2.core.health.event_generation_failure.resolved"
UNHANDLED = "v1.customer.created"
UNKNOWN = "v2.demo.newer_than_the_sdk"
SNAPSHOT = "customer.source.created"
FAILING = "v1.invoice.paid"

#: State, attempts, deliveries and outcome of each event that must be in the inbox, and no other.
RECORDED = {
    "evt_demo_meter": ("done", 1, 2, "handled"),
    "evt_demo_checkout": ("done", 1, 1, "handled"),
    "evt_demo_lost": ("done", 1, 1, "handled"),
    "evt_demo_unhandled": ("done", 1, 1, "fallback"),
    "evt_demo_unknown": ("done", 1, 1, "fallback"),
    "evt_demo_snapshot": ("done", 1, 1, "fallback"),
    "evt_demo_live": ("done", 0, 1, "wrong_mode"),
    "evt_demo_failing": ("done", 2, 3, "handled"),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST of the demo, with the answer that it must get and the reason."""

    what: str
    body: dict[str, Any]
    status: int
    answer: str
    """The outcome, or the beginning of the error."""
    why: str
    secret: str = SECRET
    timestamp: int | None = None

    def post(self, url: str) -> Answer:
        """Sign the body, deliver it to ``url``, and return the answer."""
        body = samples.encode(self.body)
        return post(url, body, samples.sign(body, self.secret, self.timestamp))

    def is_answered_by(self, answer: Answer) -> bool:
        """Return true if ``answer`` is the expected one."""
        return answer.status == self.status and answer.outcome.startswith(self.answer)


def script(api: StripeApi) -> list[Delivery]:
    """Return the deliveries in order, and let ``api`` serve what the callbacks fetch."""
    meter, checkout = _sample("meter", METER), _sample("checkout", CHECKOUT, context="acct_demo")
    failing, lost = _sample("failing", FAILING), _sample("lost", LOST, unknown=True)
    api.put_event(samples.event(meter, {"developer_message_summary": "There is 1 invalid event"}))
    impact = {"event_type": "v1.payout.paid", "related_object_id": "po_demo"}
    api.put_event(samples.event(lost, {"impact": impact}))
    session = {"payment_status": "paid", "amount_total": 2000, "currency": "eur"}
    api.put_related_object(checkout, **session)
    api.put_related_object(failing)
    api.fail(failing["related_object"]["url"], status=429)
    fetched, repeated = "its module fetched the session", "it was handled: nothing ran"
    return [
        Delivery("a meter's error report", meter, 200, "handled", "its module fetched the event"),
        Delivery("the same once more", meter, 200, "duplicate", repeated),
        Delivery("a completed checkout", checkout, 200, "handled", fetched),
        Delivery(
            "one that Stripe lost", lost, 200, "handled", "its module says what to fetch instead"
        ),
        *_unhandled(),
        *_refused(),
        *_failing(failing),
        Delivery("the same once more", failing, 200, "duplicate", repeated),
    ]


def _unhandled() -> list[Delivery]:
    """Return deliveries of events without a module."""
    plain = _sample("unhandled", UNHANDLED)
    newer = _sample("unknown", UNKNOWN, unknown=True)
    live = _sample("live", METER, livemode=True)
    snapshot = samples.snapshot_event(SNAPSHOT, event_id="evt_demo_snapshot")
    return [
        Delivery("a type without a module", plain, 200, "fallback", "the fallback logged it"),
        Delivery("a type newer than the SDK", newer, 200, "fallback", "the fallback logged it"),
        Delivery("a snapshot event", snapshot, 200, "fallback", "it has no module either: logged"),
        Delivery("a live event", live, 200, "wrong_mode", "not run: the API key is a test key"),
    ]


def _refused() -> list[Delivery]:
    """Return deliveries that are refused and not recorded."""
    forged, other = _sample("forged", METER), "whsec_demo_of_another_sender"
    stale, then = _sample("stale", METER), int(time.time()) - STALE_SECONDS
    mismatch, old = "the signature does not match", "the signature is too old"
    other_object = {"id": "cus_demo", "object": "customer"}
    return [
        Delivery("a forged one", forged, 400, mismatch, "signed with another secret", other),
        Delivery("a stale one", stale, 400, old, "signed ten minutes ago", timestamp=then),
        Delivery("no event", other_object, 400, "the body is neither", "it is a customer"),
    ]


def _failing(notification: dict[str, Any]) -> list[Delivery]:
    """Return deliveries of an event whose callback fails first and then succeeds."""
    failed, reason = "the callback failed", "Stripe's API answered 429"
    succeeded = "it ran again, and succeeded"
    return [
        Delivery("one whose callback raises", notification, 500, failed, reason),
        Delivery("the same, redelivered", notification, 200, "handled", succeeded),
    ]


def _sample(name: str, event_type: str, **fields: Any) -> dict[str, Any]:
    return samples.notification(event_type, event_id=f"evt_demo_{name}", **fields)


def wrong_answers(deliveries: list[Delivery], answers: list[Answer]) -> list[str]:
    """Return a sentence for each delivery with an unexpected answer."""
    return [
        f"{delivery.what}: {answer.status} {answer.outcome},"
        f" instead of {delivery.status} {delivery.answer}"
        for delivery, answer in zip(deliveries, answers, strict=True)
        if not delivery.is_answered_by(answer)
    ]


def wrong_events(events: list[Event]) -> list[str]:
    """Return a sentence for each event whose record is unexpected or missing."""
    found = {each.id: (each.state, each.attempt, each.deliveries, each.outcome) for each in events}
    return [
        f"{event_id}: the inbox has {found.get(event_id)}, instead of {RECORDED.get(event_id)}"
        for event_id in sorted(found.keys() | RECORDED.keys())
        if found.get(event_id) != RECORDED.get(event_id)
    ]
