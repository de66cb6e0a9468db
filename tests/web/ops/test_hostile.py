"""Texts from outside never become markup, and never hide or reorder other text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from app.text import HIDDEN
from devkit import samples
from tests.support import raw_sql
from tests.web.ops.conftest import Browser

EVIL = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
    "\u202egnp\u2066\x00\x1b[31m\r\n"
)
LONG = "y" * 10_000
RAISING = f"""
    def handle(notif, client):
        raise ValueError({EVIL + LONG!r})
"""
TYPE = "v1.customer.created"
ID = "evt_'\"><script>x"
CONTEXT = "acct_<b>&\"'"

Make = Callable[..., Browser]


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text: str) -> None:
        """Read the ``text``."""
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text += data


def check(ops: Browser, address: str) -> Page:
    """Load a page and check that it has only the elements of its templates, and visible text."""
    answer = ops.get(address)
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert not {"img", "b", "iframe"} & set(names)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "action", "src"):
            value = attributes.get(name)
            assert value is None or value.startswith(("/ops", "#", "https://dashboard.stripe.com/"))
    hidden = {each for each in answer.text if unicodedata.category(each) in HIDDEN} - {"\n", "\t"}
    assert hidden == set()
    return page


@pytest.fixture
def ops(make_ops: Make) -> Browser:
    """An inbox with an event of which everything is hostile."""
    ops = make_ops({"v1_customer_created": RAISING})
    note = samples.notification(TYPE, event_id=ID, context=CONTEXT, object_id=f"cus_{ID}")
    note["data"] = {"text": EVIL, "long": LONG, "deep": "[" * 50}
    ops.receiver.deliver(note)
    return ops


def test_list_and_event(ops: Browser) -> None:
    """Ids, contexts, reasons, tracebacks and bodies are shown as text."""
    listed = check(ops, "/ops/events")
    assert "<script>alert(1)</script>" in listed.text
    assert len(listed.text) < 20_000
    (address,) = [
        attributes["href"]
        for tag, attributes in listed.tags
        if attributes.get("class") == "id" and tag == "a"
    ]
    page = check(ops, str(address))
    assert "{{ 7*7 }}" in page.text
    assert CONTEXT in page.text
    check(ops, f"{address}/retry")
    check(ops, f"{address}/give-up")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe not \x00 utf-8 " + EVIL.encode(),
        b"[" * 60_000,
        b'{"a": "' + b"z" * 65_000 + b'"}',
        "\u202e\u0000\ud800".encode("utf-8", "surrogatepass"),
        b"",
    ],
)
def test_bodies(ops: Browser, sqlite_url: str, body: bytes) -> None:
    """A body of any bytes is shown as text: invalid, deep, long, or empty."""
    raw_sql.execute(sqlite_url, f"UPDATE events SET id = 'evt_1', body = x'{body.hex()}'")  # noqa: S608 - hex digits
    check(ops, "/ops/events/evt_1")


def test_filter_and_operator(ops: Browser) -> None:
    """Values of the address and names of people are shown as text."""
    check(ops, "/ops/events?type=%3Cscript%3E&context=%22%3E%3Cb%3E&object='onx='")
    evil = Browser(ops.receiver, name="<script>\u202e")
    check(evil, "/ops/events")


def test_nul_is_no_outage(make_ops: Make, postgresql_url: str) -> None:
    """PostgreSQL compares no text with NUL. It is in no id, and is replaced in a reason."""
    ops = make_ops(database_url=postgresql_url, processing="queue")
    ops.receiver.deliver(samples.notification(TYPE, event_id="evt_1"))
    for path in ("/search?q=%00", "/events/evt_%00", "/groups/a%00b"):
        assert ops.get(f"/ops{path}").status_code == 404
    assert ops.get("/ops/audit?target=%00").status_code == 200
    assert ops.post("/ops/pause", {"why": "a\0b"}).status_code == 303
    assert "a\ufffdb" in ops.get("/ops/audit").text
