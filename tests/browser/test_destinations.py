"""The change of a destination's event types in a browser, with and without JavaScript."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from devkit.stripe_api import StripeApi
from tests.browser.conftest import BROKEN, GIVES_UP, GOOD, MakePage, Site, check_accessible


@pytest.mark.parametrize("javascript", [True, False])
def test_sync(make_page: MakePage, site: Site, stripe: StripeApi, *, javascript: bool) -> None:
    """The plan is shown first. With JavaScript the form answers without a reload."""
    name = stripe.destinations.add("https://your.host/webhook", [GOOD], name="Production")
    page = make_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/destinations")
    page.get_by_role("link", name="Read them from Stripe now").click()
    page.get_by_role("link", name="Plan the change of Production").click()
    expect(page.locator("main")).to_contain_text("adds 2 event types to this destination")
    if javascript:
        check_accessible(page)
        page.evaluate("window.isSamePage = true")
    page.get_by_role("button", name="Change the destination").click()
    expect(page.locator("main")).to_contain_text("There is nothing to change.")
    if javascript:
        assert page.evaluate("window.isSamePage")
        expect(page.locator("nav a[aria-current]")).to_have_text("Destinations")
        expect(page.get_by_role("status")).to_contain_text("anna changed the event types")
        page.go_back()
        expect(page.get_by_role("status")).to_have_count(0)
        assert page.url.endswith("/sync")
    assert set(stripe.destinations.get(name)["enabled_events"]) == {BROKEN, GIVES_UP, GOOD}
    stripe.destinations.remove(name)
