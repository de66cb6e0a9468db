"""Actions on events in a browser: the question, the action, and what was done."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from app.states import State
from tests.browser.conftest import BROKEN, GOOD, MakePage, Site, check_accessible


def act(page: Page, link: str, button: str, why: str = "") -> None:
    """Follow the link to a question, write the reason, and press its button."""
    page.get_by_role("link", name=link, exact=True).first.click()
    page.get_by_role("textbox", name=re.compile("^Reason")).fill(why)
    page.get_by_role("button", name=button, exact=True).click()


@pytest.mark.parametrize("javascript", [True, False])
def test_retry_and_bulk_retry(make_page: MakePage, site: Site, *, javascript: bool) -> None:
    """A handler is mended. One event of the group is retried, then all others, and all are done."""
    site.break_again()
    dead = site.deliver_dead(BROKEN, 3)
    site.mend()
    page = make_page(java_script_enabled=javascript)
    main = page.locator("main")

    page.goto(f"{site.url}/events/{dead[0]}")
    act(page, "Retry", "Retry", "handler mended")
    expect(main).to_contain_text(f"anna retried {dead[0]}.")
    expect(main).to_contain_text("handler mended")
    site.wait_for_state(dead[0], State.DONE)

    page.goto(f"{site.url}/events/{dead[1]}")
    page.locator('a[href*="/groups/"]').last.click()
    group = page.url
    act(page, "Retry all with this error", "Retry 2 events")
    expect(main).to_contain_text("anna retried 2 events.")
    for each in dead:
        site.wait_for_state(each, State.DONE)
    page.goto(group)
    expect(main).to_contain_text("No event is open with this error.")


def test_done_event_is_asked_twice(page: Page, site: Site) -> None:
    """A retry of an event that has succeeded needs a reason and a second answer."""
    done = site.deliver(GOOD)
    site.wait_for_state(done, State.DONE)
    page.goto(f"{site.url}/events/{done}")
    act(page, "Retry although done", "Continue")
    assert page.get_by_role("textbox", name=re.compile("^Reason")).evaluate(
        "each => !each.validity.valid"
    )
    page.get_by_role("textbox", name=re.compile("^Reason")).fill("lost effect")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("main")).to_contain_text("A second run repeats its effects")
    check_accessible(page)
    page.get_by_role("button", name="Retry although done").click()
    expect(page.locator("main")).to_contain_text(f"anna retried {done}.")


def test_pause_give_up_and_resume(page: Page, site: Site) -> None:
    """A type is paused. Its event waits, and is given up with a reason. The type is resumed."""
    main = page.locator("main")
    page.goto(f"{site.url}/events?type={GOOD}")
    act(page, "Pause this type", "Pause", "investigation")
    expect(main).to_contain_text(f"anna paused the events of type {GOOD}.")
    waiting = site.deliver(GOOD)
    page.goto(f"{site.url}/events/{waiting}")
    expect(main).to_contain_text("Its type is paused.")
    act(page, "Give up", "Give up", "a test")
    expect(main).to_contain_text("Dead: given up")
    expect(main).to_contain_text("gave it up, a test")
    page.goto(f"{site.url}/events?type={GOOD}")
    expect(main).to_contain_text("This type is paused")
    check_accessible(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    act(page, "Resume this type", "Resume")
    site.wait_for_state(site.deliver(GOOD), State.DONE)


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
