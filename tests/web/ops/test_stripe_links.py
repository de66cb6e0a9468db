"""The links to Stripe's dashboard: the right mode, account and page."""

from __future__ import annotations

import pytest

from app.web.ops.stripe_links import account_link, event_link, object_link

STRIPE = "https://dashboard.stripe.com"


@pytest.mark.parametrize(
    ("livemode", "context", "link"),
    [
        (True, None, f"{STRIPE}/events/evt_1"),
        (False, None, f"{STRIPE}/test/events/evt_1"),
        (True, "acct_1", f"{STRIPE}/acct_1/events/evt_1"),
        (False, "acct_1/acct_2", f"{STRIPE}/acct_2/test/events/evt_1"),
        (True, "no account", f"{STRIPE}/events/evt_1"),
    ],
)
def test_event(livemode: bool, context: str | None, link: str) -> None:  # noqa: FBT001 - a parameter of the test
    """A link leads to the account of the event, and to the test pages for a test event."""
    assert event_link("evt_1", livemode=livemode, context=context) == link


@pytest.mark.parametrize(
    ("object_id", "path"),
    [
        ("cus_1", "customers/cus_1"),
        ("in_1", "invoices/in_1"),
        ("pi_1", "payments/pi_1"),
        ("sub_1", "subscriptions/sub_1"),
        ("acct_1", "connect/accounts/acct_1"),
        ("mtr_test_61", "search?query=mtr_test_61"),
        ("cus_1/../x?y=<z>", "search?query=cus_1%2F..%2Fx%3Fy%3D%3Cz%3E"),
        ("in_1_secret", "invoices/in_1_secret"),
    ],
)
def test_object(object_id: str, path: str) -> None:
    """Objects whose page is known have a link to it. Others have a search."""
    assert object_link(object_id, livemode=True, context=None) == f"{STRIPE}/{path}"


def test_account() -> None:
    """A context that names an account has a link to its dashboard."""
    assert account_link("acct_1", livemode=False) == f"{STRIPE}/acct_1/test"
    assert account_link("acct_1", livemode=True) == f"{STRIPE}/acct_1"
    assert account_link("<script>", livemode=True) is None
