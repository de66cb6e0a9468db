"""Actions on events in a browser: the question, the action, and what was done."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from app.states import State
from tests.browser.conftest import BROKEN, MakePage, Site, check_accessible


def test_old_form(page: Page, make_page: MakePage, site: Site) -> None:
    """Of two people with the same question, the second one is told that nothing was done."""
    site.break_again()
    (dead,) = site.deliver_dead(BROKEN)
    second = make_page(name="ben")
    for each in (page, second):
        each.goto(f"{site.url}/events/{dead}/retry")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("main")).to_contain_text(f"anna retried {dead}.")
    site.wait_for_state(dead, State.DEAD)
    second.get_by_role("button", name="Retry", exact=True).click()
    expect(second.locator("main")).to_contain_text("Nothing was done: the event has changed")
    check_accessible(second)


@pytest.mark.parametrize("path", ["/retry", "/give-up", "/pause", "/resume"])
def test_question_is_accessible(page: Page, site: Site, path: str) -> None:
    """axe-core finds nothing wrong with a question, or with the page that says it is impossible."""
    page.goto(f"{site.url}{path}")
    check_accessible(page)
