"""The frame of all pages in a real browser: access, other sites, keyboard, sizes, colours."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import GIVES_UP, READ_TOKEN, MakePage, Site, check_accessible
from tests.support.serving import serving

PATHS = ("", "/destinations", "/audit", "/unknown")


def test_wrong_token(make_page: MakePage, site: Site) -> None:
    """A wrong token shows what to enter, and nothing of the page."""
    page = make_page("a wrong token")
    answer = page.goto(site.url)
    assert answer is not None
    assert answer.status == 401
    expect(page.locator("body")).to_contain_text("your own name, and the password the token")
    assert page.locator("nav").count() == 0


def test_reader_is_shown_no_forms(make_page: MakePage, site: Site) -> None:
    """A person with OPS_READ_TOKEN sees no form that acts."""
    page = make_page(READ_TOKEN, "ben")
    page.goto(site.url)
    expect(page.locator(".viewer")).to_have_text("ben (may look)")
    assert page.locator("form[method=post]").count() == 0


@pytest.mark.parametrize("path", PATHS)
def test_page_is_accessible(page: Page, site: Site, path: str) -> None:
    """axe-core finds nothing wrong, in both colour schemes. No page is wider than a phone."""
    page.goto(f"{site.url}{path}")
    check_accessible(page)


def test_form_of_another_site_is_refused(site: Site, page: Page) -> None:
    """A browser sends the credentials with a form of another site, and the page refuses it."""
    target = f"{site.url}/pause"

    def other_site(_environ: object, start_response: object) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])  # type: ignore[operator]  # WSGI
        form = f'<form method="post" action="{target}"><button>Win a prize</button></form>'
        link = f'<a href="{site.url}">See the page</a>'
        return [f"<!doctype html>{form}{link}".encode()]

    with serving(other_site) as address:
        # Another site, not another port: ports do not make two sites.
        page.goto(address.replace("127.0.0.1", "localhost"))
        with page.expect_response(target) as received:
            page.get_by_text("Win a prize").click()
        headers = received.value.request.all_headers()
        assert headers["sec-fetch-site"] == "cross-site"
        assert headers["authorization"].startswith("Basic ")
        assert received.value.status == 403
        expect(page.locator("main")).to_contain_text("started by another site. Nothing was changed")
        page.go_back()
        page.get_by_text("See the page").click()
        expect(page.locator("h1")).to_have_text("Overview")


def test_other_site_cannot_embed_the_page(page: Page, site: Site) -> None:
    """A frame of another site stays empty."""

    def other_site(_environ: object, start_response: object) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])  # type: ignore[operator]  # WSGI
        return [f'<!doctype html><iframe src="{site.url}"></iframe>'.encode()]

    with serving(other_site) as address:
        with page.expect_response(site.url) as received:
            page.goto(address.replace("127.0.0.1", "localhost"))
        assert received.value.status in {401, 403}
        assert "Overview" not in page.frames[1].content()


def test_keyboard(page: Page) -> None:
    """The key / goes to the search. The first Tab skips the frame. Focus is visible."""
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.evaluate("window.isSamePage = true")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.evaluate("window.isSamePage")
    page.keyboard.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.type("a/b")
    expect(search).to_have_value("a/b")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("search"))
    assert parse_qs(urlsplit(page.url).query)["q"] == ["a/b"]


def test_navigation_marks_the_page(page: Page) -> None:
    """The place of the page is marked in the navigation."""
    expect(page.locator("nav a[aria-current=page]")).to_have_text("Overview")


def test_refresh_can_be_paused(page: Page) -> None:
    """A page says how old it is. Its refresh can be paused, and goes on."""
    status = page.locator("#refreshed")
    expect(status).to_contain_text(re.compile(r"refreshed \d+ s ago"))
    page.get_by_role("button", name="Pause refresh").click()
    expect(status).to_have_text("refresh is paused")
    page.get_by_role("button", name="Resume refresh").click()
    expect(status).to_contain_text(re.compile(r"refreshed \d+ s ago"))


def test_without_javascript(make_page: MakePage, site: Site) -> None:
    """The page has no button that only works with JavaScript."""
    page = make_page(java_script_enabled=False)
    page.goto(site.url)
    expect(page.locator("h1")).to_have_text("Overview")
    expect(page.locator("#refresh")).to_be_hidden()
    assert page.locator("[data-copy]:visible").count() == 0
    page.get_by_role("link", name="Audit").click()
    page.wait_for_url("**/ops/audit")


def test_print(page: Page) -> None:
    """A page can be printed: the frame and its buttons are left out."""
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator("h1")).to_be_visible()


def test_refresh_in_place(make_page: MakePage, site: Site) -> None:
    """Every 10 seconds the parts of a page are replaced, but not the part under the pointer."""
    site.deliver_dead(GIVES_UP)
    page = make_page()
    page.clock.install()
    page.goto(site.url)
    state, dead = page.locator("#state"), page.locator("#facts dd").first
    expect(dead).to_have_text("1 event")
    page.locator("summary", has_text="The numbers").click()
    dead.hover()
    site.deliver_dead(GIVES_UP)

    page.clock.run_for(12_000)
    expect(state).to_contain_text("2 events are dead")
    expect(dead).to_have_text("1 event")

    page.locator("h1").hover()
    page.clock.run_for(12_000)
    expect(dead).to_have_text("2 events")
    expect(page.locator("#day-numbers table")).to_be_visible()

    page.get_by_role("button", name="Pause refresh").click()
    page.locator("h1").hover()
    site.deliver_dead(GIVES_UP)
    page.clock.run_for(30_000)
    expect(dead).to_have_text("2 events")


def test_exact_time_on_focus(make_page: MakePage, site: Site) -> None:
    """A relative time shows the exact one on focus."""
    page = make_page()
    page.goto(site.url)
    moment = page.locator("time").first
    moment.focus()
    shown = moment.evaluate("each => getComputedStyle(each, '::after').content")
    assert re.fullmatch(r'"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"', shown)
