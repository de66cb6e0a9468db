"""The event types that integrations need are real."""

from __future__ import annotations

import re

import pytest

from app.stripe_api.catalog import Kind, event_types, kind_of
from devkit.suggestions import PURPOSES, Suggestion

#: Some types are needed for two purposes.
ALL = {each.name: each for purpose in PURPOSES.values() for each in purpose}


@pytest.mark.parametrize("suggestion", ALL.values(), ids=ALL)
def test_type_is_one_of_the_sdk(suggestion: Suggestion) -> None:
    """It has thin events, or snapshot events, or both. One of API v2 has thin events only."""
    if suggestion.name.startswith("v2."):
        expected = {suggestion.thin: Kind.THIN}
        assert (suggestion.thin, suggestion.snapshot) == (suggestion.name, None)
    else:
        thin = f"v1.{suggestion.name}"
        has_thin = thin in event_types(Kind.THIN)
        expected = {suggestion.snapshot: Kind.SNAPSHOT} | ({thin: Kind.THIN} if has_thin else {})
        assert suggestion.snapshot == suggestion.name
        assert suggestion.thin == (thin if has_thin else None)
    for event_type, kind in expected.items():
        assert event_type in event_types(kind)
        assert kind_of(str(event_type)) is kind


@pytest.mark.parametrize("suggestion", ALL.values(), ids=ALL)
def test_type_to_write(suggestion: Suggestion) -> None:
    """It is the one of the wanted kind, or else the only one that there is."""
    assert suggestion.type_of(Kind.THIN) == (suggestion.thin or suggestion.snapshot)
    assert suggestion.type_of(Kind.SNAPSHOT) == (suggestion.snapshot or suggestion.thin)


def test_some_types_have_snapshot_events_only() -> None:
    """Of those that integrations need, these have no thin form in the installed SDK."""
    assert {each.name for each in ALL.values() if each.thin is None} == {
        "reserve.hold.created",
        "reserve.release.created",
    }


@pytest.mark.parametrize("purpose", PURPOSES)
def test_types_of_a_purpose_are_explained(purpose: str) -> None:
    """Each type is there once, with its meaning and a page of Stripe's documentation."""
    suggestions = PURPOSES[purpose]
    assert len({each.name for each in suggestions}) == len(suggestions) > 5
    assert all(
        re.fullmatch(r"https://docs\.stripe\.com/[a-z0-9/_-]+", each.page) for each in suggestions
    )
    assert all(each.meaning for each in suggestions)
