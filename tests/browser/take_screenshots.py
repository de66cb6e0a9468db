"""Makes the pictures of docs/images: ``pytest tests/browser/take_screenshots.py``."""

from __future__ import annotations

import math
import socket
import time
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Page

from app.inbox import Inbox
from app.inbox.activity import Activity, period_of
from tests.browser.conftest import BROKEN, GIVES_UP, GOOD, PHONE, MakePage, Site
from tests.support import raw_sql
from tests.support.waiting import wait_for

IMAGES = Path(__file__).parents[2] / "docs" / "images"

#: Replaces texts on the page.
REPLACE = """
    pairs => {
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode())
            for (const [from, to] of pairs)
                texts.currentNode.data = texts.currentNode.data.replaceAll(from, to);
    }
"""


def fill(site: Site) -> None:
    """Deliver events, and write the activity of a day."""
    now = time.time()
    for number in range(12):
        site.deliver(GOOD if number % 3 else BROKEN)
    site.deliver(GIVES_UP)
    with closing(Inbox(site.database_url, lease_seconds=30)) as inbox:
        administration = inbox.administration
        wait_for(lambda: administration.report().waiting.number == 0, 60)
        rows = [Activity("secret", "1", period_of(now), 13, now)]
        for ago in range(24):
            at = now - ago * 3600
            number = int(40 + 35 * math.sin(at / 3600 / 24 * 2 * math.pi))
            rows.append(Activity("attempt", "handled", period_of(at), number, at))
            if ago % 5 == 0:
                rows.append(Activity("rejection", "signature_stale", period_of(at), 3, at))
        inbox.activity.add(rows)
    change = "UPDATE events SET received_at = received_at - 14000 WHERE state = 'dead'"
    raw_sql.execute(site.database_url, change)
    change = "UPDATE stripe_receiver_error_groups SET first_at = first_at - 14000"
    raw_sql.execute(site.database_url, change)


def take(page: Page, site: Site, name: str) -> None:
    """Save what the window shows, without the folder and the name of this machine."""
    IMAGES.mkdir(exist_ok=True)
    page.evaluate(REPLACE, [[str(site.folder.parent), "/srv"], [socket.gethostname(), "web-1"]])
    page.screenshot(path=IMAGES / f"{name}.png")


def test_take(make_page: MakePage, site: Site) -> None:
    """The overview, a group and an event on a desktop in light; the overview on a phone in dark."""
    fill(site)
    light = make_page(viewport={"width": 1000, "height": 900})
    light.goto(site.url)
    take(light, site, "operations-overview")
    light.get_by_role("link", name="KeyError").first.click()
    light.wait_for_url("**/groups/*")
    take(light, site, "operations-group")
    light.locator("table.events tbody a").first.click()
    light.wait_for_url("**/events/*")
    take(light, site, "operations-event")
    dark = make_page(viewport=PHONE, color_scheme="dark")
    dark.goto(site.url)
    take(dark, site, "operations-phone")
