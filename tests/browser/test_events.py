"""The list, one event and an error group in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from app.states import State
from tests.browser.conftest import (
    BROKEN,
    GIVES_UP,
    GOOD,
    PHONE,
    READ_TOKEN,
    MakePage,
    Site,
    check_accessible,
)


@pytest.fixture(scope="module")
def dead(site: Site) -> list[str]:
    """Two dead events with one error, beside another dead one and a done one."""
    site.deliver_dead(GIVES_UP)
    site.wait_for_state(site.deliver(GOOD), State.DONE)
    return site.deliver_dead(BROKEN, 2)


def rows(page: Page) -> int:
    """Return the number of events in the list."""
    return int(page.locator("table.events tbody tr").count())


@pytest.mark.parametrize("javascript", [True, False])
def test_filter_and_open(
    make_page: MakePage, site: Site, dead: list[str], *, javascript: bool
) -> None:
    """A filter is in the address. A chip removes it. A row leads to the event."""
    page = make_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/events?state=dead")
    assert rows(page) == 3
    page.get_by_text("Filter", exact=True).first.click()
    page.get_by_label("Type", exact=True).fill(BROKEN)
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(re.compile(rf"type={BROKEN}"))
    assert rows(page) == 2
    page.get_by_role("link", name="Remove the condition state").click()
    assert "state=dead" not in page.url
    page.get_by_role("link", name=dead[0]).click()
    page.wait_for_url(re.compile(dead[0]))
    expect(page.locator("main")).to_contain_text("KeyError")
    expect(page.locator("main")).to_contain_text('"object": "v2.core.event"')


def test_search_opens_an_event(page: Page, dead: list[str]) -> None:
    """An id in the search box leads to its event."""
    page.keyboard.press("/")
    page.keyboard.type(dead[0])
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/ops/events/{dead[0]}")


def test_group(page: Page, dead: list[str]) -> None:
    """The overview leads to an error group, which has its events and the failures by hour."""
    page.reload()
    page.get_by_role("link", name="KeyError").first.click()
    main = page.locator("main")
    expect(main).to_contain_text("v1_invoice_paid.py")
    for each in dead:
        expect(main).to_contain_text(each)
    check_accessible(page)


@pytest.mark.parametrize("path", ["/events", "/events?state=running", "/events?since=x", "/groups"])
@pytest.mark.usefixtures("dead")
def test_page_is_accessible(page: Page, site: Site, path: str) -> None:
    """axe-core finds nothing wrong with the lists, whether full, empty or with an error."""
    page.goto(f"{site.url}{path}")
    check_accessible(page)


def test_event_is_accessible(page: Page, site: Site, dead: list[str]) -> None:
    """axe-core finds nothing wrong with the page of an event, with all its parts open."""
    page.goto(f"{site.url}/events/{dead[0]}")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    check_accessible(page)


def test_reader_sees_no_body(make_page: MakePage, site: Site, dead: list[str]) -> None:
    """A person with OPS_READ_TOKEN sees attempts, and neither the body nor an action."""
    page = make_page(READ_TOKEN, "ben")
    page.goto(f"{site.url}/events/{dead[0]}")
    expect(page.locator("main")).to_contain_text("KeyError")
    expect(page.locator("main")).not_to_contain_text("v2.core.event")
    assert page.get_by_role("link", name="Retry").count() == 0


@pytest.mark.usefixtures("dead")
def test_rows_are_cards_on_a_phone(make_page: MakePage, site: Site) -> None:
    """On a phone each event is a card, with a name before each value."""
    page = make_page(viewport=PHONE)
    page.goto(f"{site.url}/events?state=dead")
    cell = page.locator("table.events td[data-label=Type]").first
    assert cell.evaluate("each => getComputedStyle(each).display") == "block"
    assert "Type" in cell.evaluate("each => getComputedStyle(each, '::before').content")
