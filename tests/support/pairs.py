"""Delivers the two events of one action at Stripe."""

from __future__ import annotations

from devkit import samples
from devkit.deliver import Deliver, Delivery
from devkit.stripe_api import StripeApi

SNAPSHOT, THIN = "customer.created", "v1.customer.created"

#: A pair whose callbacks return.
MODULES = {
    "customer_created": "def handle(event, client): pass\n",
    "v1_customer_created": "def handle(notif, client): pass\n",
}

#: The same modules, where the thin one is a shadow whose callback raises.
FAILING_SHADOW = {
    **MODULES,
    "v1_customer_created": "SHADOW = True\ndef handle(notif, client): raise ValueError('no')\n",
}


def send_snapshot(deliver: Deliver) -> Delivery:
    """Deliver the snapshot event ``evt_s``."""
    return deliver(samples.snapshot_event(SNAPSHOT, event_id="evt_s"))


def send_thin(deliver: Deliver, api: StripeApi) -> Delivery:
    """Deliver the thin event ``evt_n``, which names ``evt_s``."""
    thin = samples.notification(THIN, event_id="evt_n")
    api.put_event(samples.event(thin, snapshot_event="evt_s"))
    return deliver(thin)
