"""The list of events, its filters and pages, and the search."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.web.ops import events
from devkit import samples
from tests.web.ops.conftest import READ_TOKEN, Browser

TYPE = "v1.customer.created"
GIVING_UP = "from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('no such plan')\n"

Make = Callable[..., Browser]


@pytest.fixture
def ops(make_ops: Make) -> Browser:
    """A dead event of an account, and a done one of another type."""
    ops = make_ops({"v1_customer_created": GIVING_UP})
    deliver(ops, "evt_1", TYPE, context="acct_1", object_id="cus_1")
    deliver(ops, "evt_2", "v1.invoice.paid")
    return ops


def deliver(ops: Browser, event_id: str, event_type: str = TYPE, **fields: Any) -> None:
    """Deliver an event."""
    ops.receiver.deliver(samples.notification(event_type, event_id=event_id, **fields))


def listed(ops: Browser, address: str = "/ops/events") -> list[str]:
    """Return the ids of the events on a page of the list."""
    answer = ops.get(address)
    assert answer.status_code == 200
    return re.findall(r'<th scope="row"><a [^>]*>([^<]+)</a>', answer.text)


def links(text: str, label: str) -> list[str]:
    """Return the addresses of the links with this label."""
    pattern = rf'<a [^>]*href="([^"]+)"[^>]*>{re.escape(label)}</a>'
    return [html.unescape(each) for each in re.findall(pattern, text)]


def test_rows(ops: Browser) -> None:
    """A row has the type, state and outcome, the account, the reason, and a link to the event."""
    text = ops.get("/ops/events").text
    assert listed(ops) == ["evt_2", "evt_1"]
    assert links(text, "evt_1") == ["/ops/events/evt_1"]
    for shown in (TYPE, ">dead</span>", ">gave_up</span>", "acct_1", "no such plan", "2 events"):
        assert shown in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=dead", ["evt_1"]),
        ("outcome=fallback", ["evt_2"]),
        ("type=v1.invoice.paid", ["evt_2"]),
        ("context=acct_1", ["evt_1"]),
        ("object=cus_1", ["evt_1"]),
        ("since=1h", ["evt_2", "evt_1"]),
        ("since=2999-01-01", []),
        ("until=2020-01-01T10:00Z", []),
        ("state=dead&type=v1.invoice.paid", []),
        ("state=&type=&object=", ["evt_2", "evt_1"]),
    ],
)
def test_filters(ops: Browser, query: str, expected: list[str]) -> None:
    """Each filter is in the address, so it can be sent to a colleague."""
    assert listed(ops, f"/ops/events?{query}") == expected


def test_group_is_one_that_exists(ops: Browser) -> None:
    """A mistyped error group is refused by name. An empty list would look like success."""
    group = ops.receiver.event("evt_1").fingerprint
    assert listed(ops, f"/ops/events?group={group}") == ["evt_1"]
    refused = ops.get("/ops/events?group=000000000000")
    assert refused.status_code == 400
    assert "There is no error group 000000000000" in refused.text


def test_chips(ops: Browser) -> None:
    """Each condition is shown, with a link that removes it and keeps the others."""
    text = ops.get("/ops/events?state=dead&since=24h&context=acct_1").text
    chips = re.findall(r"<li>(.*?)</li>", text.partition("chips")[2].partition("</ul>")[0])
    assert [re.sub(r"<.*", "", each).strip() for each in chips[:3]] == [
        "state: dead",
        "account: acct_1",
        "since: 24h",
    ]
    removes = [html.unescape(each) for each in re.findall(r'href="([^"]+)"', "".join(chips))]
    assert [parse_qs(urlsplit(each).query) for each in removes] == [
        {"context": ["acct_1"], "since": ["24h"]},
        {"state": ["dead"], "since": ["24h"]},
        {"state": ["dead"], "context": ["acct_1"]},
        {},
    ]


@pytest.mark.parametrize(
    "query", ["state=lost", "since=yesterday", "since=999999999d", "before=x", "type=a%20b"]
)
def test_invalid_filter(ops: Browser, query: str) -> None:
    """A condition that cannot be read is named, with 400. The form keeps it."""
    answer = ops.get(f"/ops/events?{query}")
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert '<details class="filter" open>' in answer.text


def test_words_without_events(ops: Browser, make_ops: Make, tmp_path: object) -> None:
    """A list without an event says so, with the conditions."""
    text = ops.get("/ops/events?state=pending&type=v1.x").text
    assert "There are no events that are pending, of type v1.x." in text
    empty = make_ops(database_url=f"sqlite:///{tmp_path}/other.sqlite3")
    assert "The inbox has no events yet." in empty.get("/ops/events").text


def test_pages(ops: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links lead to the older and the newer events, with the same conditions."""
    monkeypatch.setattr(events, "PAGE", 2)  # a shorter page, for fewer events in the test
    for number in range(3, 6):
        deliver(ops, f"evt_{number}")
    first = ops.get("/ops/events?state=dead").text
    assert listed(ops, "/ops/events?state=dead") == ["evt_5", "evt_4"]
    assert links(first, "Newer") == []
    (older,) = links(first, "Older")
    assert "state=dead" in older
    assert listed(ops, older) == ["evt_3", "evt_1"]
    last = ops.get(older).text
    assert links(last, "Older") == []
    (newer,) = links(last, "Newer")
    assert listed(ops, newer) == ["evt_5", "evt_4"]


def test_actions(ops: Browser) -> None:
    """An operator sees what can be done with the whole list. A reader sees none of it."""
    text = ops.get("/ops/events").text
    assert links(text, "Retry all pending and dead") == ["/ops/retry"]
    assert links(text, "Give up all pending") == ["/ops/give-up"]
    dead = ops.get("/ops/events?state=dead").text
    assert links(dead, "Retry all") == ["/ops/retry?state=dead"]
    assert "/ops/give-up" not in dead
    assert "/ops/retry" not in ops.get("/ops/events?state=done").text
    reader = Browser(ops.receiver, token=READ_TOKEN)
    assert "/ops/retry" not in reader.get("/ops/events").text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("evt_1", "/ops/events/evt_1"),
        (" evt_9 ", "/ops/events/evt_9"),
        ("cus_1", "/ops/events?object=cus_1"),
        ("acct_1", "/ops/events?context=acct_1"),
        ("acct_1/acct_2", "/ops/events?context=acct_1%2Facct_2"),
        (TYPE, f"/ops/events?type={TYPE}"),
        ("customer.created", "/ops/events?type=customer.created"),
        ("0123456789ab", "/ops/groups/0123456789ab"),
        ("crashed.v1.invoice.paid", "/ops/groups/crashed.v1.invoice.paid"),
    ],
)
def test_search(ops: Browser, text: str, address: str) -> None:
    """The search leads to the event, or to the list with the right filter."""
    answer = ops.get("/ops/search", query_string={"q": text})
    assert (answer.status_code, answer.headers["Location"]) == (303, address)


def test_search_of_another_id(ops: Browser) -> None:
    """An event whose id has another form is found too. Other texts have words."""
    deliver(ops, "9-of-another-form")
    found = ops.get("/ops/search?q=9-of-another-form")
    assert found.headers["Location"] == "/ops/events/9-of-another-form"
    missing = ops.get("/ops/search", query_string={"q": "<b>who</b>\u202e"})
    assert missing.status_code == 404
    assert "&lt;b&gt;who&lt;/b&gt;\ufffd" in missing.text
    assert ops.get("/ops/search?q=").status_code == 200
