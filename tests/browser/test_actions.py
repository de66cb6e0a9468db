"""Actions in a browser: retry, give up, pause, and all events of an error group."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from app.states import State
from tests.browser.conftest import BROKEN, GOOD, MakePage, Site, check_accessible


@pytest.fixture(autouse=True)
def _broken_again(site: Site) -> Iterator[None]:
    """Each test begins with a handler that fails, and leaves no pause."""
    site.break_again()
    yield
    site.mend()


def press(page: Page, name: str | re.Pattern[str]) -> None:
    """Press a button of a form."""
    page.locator("main").get_by_role("button", name=name).click()


def follow(page: Page, name: str | re.Pattern[str]) -> None:
    """Follow a link of the page."""
    page.locator("main").get_by_role("link", name=name).first.click()


@pytest.mark.parametrize("javascript", [True, False])
def test_retry_one_event(make_page: MakePage, site: Site, *, javascript: bool) -> None:
    """The page asks, acts, and says what it did. The audit log has the name and the reason."""
    (event_id,) = site.deliver_dead(BROKEN)
    site.mend()
    page = make_page(java_script_enabled=javascript)
    page.goto(f"{site.url}/events/{event_id}")
    follow(page, "Retry")
    expect(page.locator("h1")).to_have_text(f"Retry {event_id}?")
    if javascript:
        check_accessible(page)
    page.get_by_label("Reason").fill("mended <now>")
    press(page, "Retry")
    expect(page.get_by_role("status")).to_contain_text(f"anna retried {event_id}.")
    site.wait_for_state(event_id, State.DONE)
    page.goto(f"{site.url}/audit")
    row = page.locator("tbody tr").first
    for text in ("anna", "retry", event_id, "mended <now>"):
        expect(row).to_contain_text(text)
    if javascript:
        check_accessible(page)


def test_double_click_acts_once(page: Page, site: Site) -> None:
    """A second click on the button of a form does nothing."""
    (event_id,) = site.deliver_dead(BROKEN)
    site.mend()
    page.goto(f"{site.url}/events/{event_id}/retry")
    page.locator("main").get_by_role("button", name="Retry").dblclick()
    expect(page.get_by_role("status")).to_contain_text(f"anna retried {event_id}.")
    page.goto(f"{site.url}/audit?target={event_id}")
    assert page.locator("tbody tr").count() == 1


def test_retry_although_done(page: Page, site: Site) -> None:
    """An event that has succeeded needs a reason and a second answer."""
    event_id = site.deliver(GOOD)
    site.wait_for_state(event_id, State.DONE)
    page.goto(f"{site.url}/events/{event_id}")
    follow(page, "Retry although done")
    page.get_by_label("Reason").fill("the mail was lost")
    press(page, "Continue")
    expect(page.locator("h1")).to_have_text(f"Run {event_id} a second time?")
    press(page, "Retry although done")
    expect(page.get_by_role("status")).to_contain_text(f"anna retried {event_id}.")


@pytest.mark.parametrize("javascript", [True, False])
def test_retry_a_group(make_page: MakePage, site: Site, *, javascript: bool) -> None:
    """All events with one error are retried at once, after their number was shown."""
    ids = site.deliver_dead(BROKEN, 3)
    site.mend()
    page = make_page(java_script_enabled=javascript)
    page.goto(site.url)
    follow(page, "KeyError")
    follow(page, "Retry all with this error")
    expect(page.locator("main")).to_contain_text("3 events")
    press(page, re.compile("Retry 3 events"))
    expect(page.get_by_role("status")).to_contain_text("anna retried 3 events.")
    for each in ids:
        site.wait_for_state(each, State.DONE)


def test_pause_give_up_resume(page: Page, site: Site) -> None:
    """While the workers are paused an event waits. It can be given up with a reason."""
    follow(page, "Pause")
    press(page, "Pause")
    expect(page.locator("main")).to_contain_text("The workers are paused")
    event_id = site.deliver(BROKEN)
    site.wait_for_state(event_id, State.PENDING)

    page.goto(f"{site.url}/events/{event_id}")
    follow(page, "Give up")
    page.get_by_label("Reason").fill("a test event")
    press(page, "Give up")
    expect(page.get_by_role("status")).to_contain_text(f"anna gave up {event_id}.")
    site.wait_for_state(event_id, State.DEAD)

    page.goto(site.url)
    check_accessible(page)
    follow(page, "Resume")
    press(page, "Resume")
    expect(page.locator("main")).not_to_contain_text("The workers are paused")


def test_pause_one_type(page: Page, site: Site) -> None:
    """One event type is paused and resumed from its list."""
    page.goto(f"{site.url}/pause?type={GOOD}")
    press(page, "Pause")
    expect(page.get_by_role("status")).to_contain_text(f"paused the events of type {GOOD}")
    page.goto(site.url)
    expect(page.locator("#state")).to_contain_text(f"The type {GOOD} is paused")
    follow(page, "Resume")
    press(page, "Resume")
    expect(page.get_by_role("status")).to_contain_text(f"resumed the events of type {GOOD}")


def test_give_up_needs_a_reason(page: Page, site: Site) -> None:
    """The form says so, and nothing is changed."""
    page.goto(f"{site.url}/pause")
    press(page, "Pause")
    expect(page.get_by_role("status")).to_contain_text("paused the workers")
    event_id = site.deliver(GOOD)
    page.goto(f"{site.url}/events/{event_id}/give-up")
    page.get_by_label("Reason").fill(" ")
    press(page, "Give up")
    expect(page.locator("main")).to_contain_text("Write down the reason")
    page.goto(f"{site.url}/resume")
    press(page, "Resume")
    expect(page.get_by_role("status")).to_contain_text("resumed the workers")
    site.wait_for_state(event_id, State.DONE)
