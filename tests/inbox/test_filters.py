"""Filters in the address of a page."""

from __future__ import annotations

import time

import pytest

from app.inbox.filters import EventFilter, from_query, read_time, to_query

FULL = EventFilter(
    state="dead",
    type="v1.invoice.paid",
    context="acct_1/acct_2",
    since=1_700_000_000.25,
    outcome="gave_up",
    livemode=False,
    object_id="cus_1",
    group="crashed.v1.invoice.paid",
    until=1_700_000_100.0,
    failed_before="v1.2 & more".replace(" ", "+"),
    unchanged_since=1_700_000_050.5,
)


def pairs(query: str) -> dict[str, str]:
    """Return the names and values of a query string, as Flask does."""
    from urllib.parse import parse_qsl  # noqa: PLC0415 - for this function only

    return dict(parse_qsl(query))


@pytest.mark.parametrize("matching", [FULL, EventFilter(), EventFilter(livemode=True)])
def test_address_has_the_whole_filter(matching: EventFilter) -> None:
    """The filter of an address is the one that the address was made of."""
    assert from_query(pairs(to_query(matching))) == matching


def test_address_can_be_read() -> None:
    """Names are those of a form, times are ISO 8601 in UTC."""
    assert to_query(EventFilter(state="dead", since=1_700_000_000.0, object_id="cus_1")) == (
        "state=dead&since=2023-11-14T22%3A13%3A20Z&object=cus_1"
    )


def test_empty_and_other_names_are_no_condition() -> None:
    """A form sends its empty fields too, and a page has parameters of its own."""
    assert from_query({"state": "", "type": "  ", "before": "1~evt_1"}) == EventFilter()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", "broken", "state: 'broken' is none of pending, running, done, dead"),
        ("outcome", "accepted", "outcome: 'accepted' is none of "),
        ("mode", "prod", "mode: 'prod' is none of live, test"),
        ("since", "yesterday", "since: 'yesterday' is neither an age like 30m"),
        ("until", "9999-99-99", "until: '9999-99-99' is neither"),
        ("since", "999999999d", "since: '999999999d' is not in the years 1 to 9999"),
        ("since", "0001-01-01T00:00+00:01", "is not in the years 1 to 9999"),
        ("until", "9999-12-31T23:59-23:59", "is not in the years 1 to 9999"),
        ("until", "9999-12-31T23:59:59.999999", "is not in the years 1 to 9999"),
        ("type", "a\0b", "has a space or a character that no id has"),
        ("object", "cus 1", "object: 'cus 1' has a space"),
        ("group", "\N{PILE OF POO}", "group: "),
        ("context", "a" * 256, "context: "),
    ],
)
def test_invalid_value_is_a_sentence(name: str, value: str, message: str) -> None:
    """The sentence names the parameter and the value, and no database sees the value."""
    with pytest.raises(ValueError, match=message):
        from_query({name: value})


def test_times() -> None:
    """A time is an age, a date, or a time with or without a zone."""
    assert read_time("2h") == pytest.approx(time.time() - 7200, abs=60)
    assert read_time("1970-01-02") == 86400.0
    assert read_time("1970-01-01T02:00+01:00") == 3600.0
