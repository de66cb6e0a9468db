"""Snapshot events through the real gunicorn: large bodies, and bodies as Stripe writes them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from devkit import samples
from tests.support.services import DUPLICATE, HANDLED, SECRETS, Answer, Lab, Service, find

TYPE = "invoice.paid"
#: Writes what it got into a file with the id of the event.
HANDLER = """
    import json
    import pathlib

    def handle(event, client):
        invoice = event.data.object
        noted = {
            "class": f"{type(invoice).__module__}.{type(invoice).__name__}",
            "lines": len(invoice.lines.data),
            "name": invoice.customer_name,
            "account": str(client._requestor._options.stripe_context),
        }
        folder = pathlib.Path(__file__).parent
        (folder / f"{event.id}.json").write_text(json.dumps(noted), encoding="utf-8")
"""


@pytest.fixture
def modules() -> dict[str, str]:
    """One snapshot module."""
    return {"invoice_paid": HANDLER}


def invoice(event_id: str, lines: int) -> dict[str, Any]:
    """Return the event of an invoice with this number of lines, each of 1 KB."""
    line = {"object": "line_item", "description": "x" * 1000, "amount": 100}
    items = [{**line, "id": f"il_{number}"} for number in range(lines)]
    fields = {
        "id": f"in_{event_id}",
        "customer_name": "Jenny Rosén",
        "lines": {"object": "list", "data": items, "has_more": False},
    }
    return samples.snapshot_event(TYPE, event_id=event_id, account="acct_1", fields=fields)


def stringify(event: dict[str, Any]) -> bytes:
    """Return the bytes of JavaScript's ``JSON.stringify(event, null, 2)``, as Stripe sends them."""
    return json.dumps(event, indent=2, ensure_ascii=False).encode()


def signed_by_node(body: bytes, secret: str) -> str:
    """Return the header that stripe-node's ``generateTestHeaderString`` makes.

    It is not made by the Python SDK, which checks it.
    """
    timestamp = str(int(time.time()))
    payload = timestamp.encode() + b"." + body
    return f"t={timestamp},v1={hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()}"


def deliver(service: Service, body: bytes) -> Answer:
    """Deliver a body."""
    signature = signed_by_node(body, SECRETS[0])
    return service.ask("POST", "/webhook", body, {"Stripe-Signature": signature})


def noted(lab: Lab, event_id: str) -> dict[str, Any]:
    """Return what the callback wrote."""
    text = (lab.package / f"{event_id}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_large_and_pretty_events_are_handled(lab: Lab, tmp_path: Path) -> None:
    """An invoice of 256 KB fits into the default limits, and is stored byte by byte.

    The body is written and signed as in Stripe's own languages. Over the limit it gets 413.
    """
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    service = lab.start(url)
    large = stringify(invoice("evt_large", 230))
    assert 256_000 < len(large) < 300_000

    assert deliver(service, large).brief == HANDLED
    assert deliver(service, large).brief == DUPLICATE
    assert noted(lab, "evt_large") == {
        "class": "stripe._invoice.Invoice",
        "lines": 230,
        "name": "Jenny Rosén",
        "account": "acct_1",
    }
    event = find(url, "evt_large")
    assert (event.body, event.type, event.context) == (large, TYPE, "acct_1")
    assert event.concurrency_key == "acct_1 invoice in_evt_large"

    for event_id, body in {
        "evt_pretty": stringify(invoice("evt_pretty", 1)),
        "evt_compact": samples.encode(invoice("evt_compact", 2)),
    }.items():
        assert deliver(service, body).brief == HANDLED
        assert noted(lab, event_id)["class"] == "stripe._invoice.Invoice"

    too_large = stringify(invoice("evt_over", 600))
    assert deliver(service, too_large).status == 413
    service.terminate()
    assert service.wait() == 0
