"""The rules of the receiver that HTTP cannot show. ``test_webhook.py`` has all others."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import CallbackFailed, Refused
from app.processing.receiver import Delivery
from app.states import Outcome
from devkit import samples
from tests.conftest import SECRET, Receiver

TYPE = "v1.customer.created"


def test_receiver_needs_no_http(receiver: Receiver) -> None:
    """The receiver works without a request and without an application context."""
    body = samples.encode(samples.notification(TYPE, event_id="evt_1", context="acct_1"))
    delivery = Delivery()

    outcome = receiver.services.receiver.receive(body, samples.sign(body, SECRET), delivery)

    assert outcome == Outcome.FALLBACK
    assert delivery == Delivery(
        "evt_1", TYPE, livemode=False, context="acct_1", secret=1, attempt=1
    )


def test_rejected_delivery_has_no_fields_of_its_body(receiver: Receiver) -> None:
    """A rejected body sets only the secret of its delivery, and none of its own content."""
    body = samples.encode(samples.notification(TYPE) | {"id": None})
    delivery = Delivery()

    with pytest.raises(Refused):
        receiver.services.receiver.receive(body, samples.sign(body, SECRET), delivery)

    assert delivery == Delivery(secret=1)


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (b"payload", None),
        (b"payload", "payload"),
        (b"payload", "t=1,v1=payload"),
        (b"payload", "t=1,v1=\xe9"),
        (b"payload", samples.sign(b"payload", SECRET, 1)),
        (b"payload", samples.sign(b"payload", SECRET, int(time.time()) + 10**6)),
        (b"payload\xff", "t=1,v1=payload"),
        (b"payload", samples.sign(b"payload", SECRET)),
        (b'{"object":"payload"}', samples.sign(b'{"object":"payload"}', SECRET)),
    ],
    ids=[
        "missing",
        "malformed",
        "mismatch",
        "non-ASCII",
        "stale",
        "from the future",
        "not UTF-8",
        "not JSON",
        "no notification",
    ],
)
def test_rejection_does_not_quote_the_payload(
    receiver: Receiver, body: bytes, signature: str | None
) -> None:
    """The SDK's errors carry the whole body. The rejection neither quotes nor chains them."""
    with pytest.raises(Refused) as refused:
        receiver.services.receiver.receive(body, signature, Delivery())

    error = refused.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    shown = "".join(traceback.TracebackException.from_exception(error).format_exception_only())
    assert "payload" not in shown.replace("payload style", "")
    assert "payload" not in error.reason


def test_failure_does_not_chain_the_error_of_the_callback(receiver: Receiver) -> None:
    """A callback's error is logged where it is raised. Its text never reaches an answer."""
    receiver.module("fallback").handle.__globals__["calls"] = None
    body = samples.encode(samples.notification(TYPE))

    with pytest.raises(CallbackFailed) as failed:
        receiver.services.receiver.receive(body, samples.sign(body, SECRET), Delivery())

    assert (failed.value.__cause__, failed.value.__context__) == (None, None)


SLOW = """
    import threading

    begun, ends = threading.Event(), threading.Event()

    def handle(notif, client):
        if notif.id == "evt_slow":
            begun.set()
            assert ends.wait(30)
"""


def test_running_callback_delays_no_delivery(
    make_receiver: Callable[..., Receiver],
) -> None:
    """A delivery is committed and answered while other callbacks of the process run."""
    receiver = make_receiver({"v1_customer_created": SLOW})

    def deliver(event_id: str) -> int:
        return receiver.deliver(samples.notification(TYPE, event_id=event_id)).status_code

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(deliver, "evt_slow")
        module = receiver.module("v1_customer_created")
        assert module.begun.wait(30)
        assert deliver("evt_fast") == 200
        assert not slow.done()
        module.ends.set()
        assert slow.result(30) == 200
