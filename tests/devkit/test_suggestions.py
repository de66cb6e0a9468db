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
    """Its thin events exist, and its snapshot events unless it is a type of API v2."""
    assert suggestion.thin in event_types(Kind.THIN)
    assert kind_of(suggestion.thin) is Kind.THIN
    is_v2 = suggestion.name.startswith("v2.")
    assert suggestion.snapshot == (None if is_v2 else suggestion.name)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_types_of_a_purpose_are_explained(purpose: str) -> None:
    """Each type is there once, with its meaning and a page of Stripe's documentation."""
    suggestions = PURPOSES[purpose]
    assert len({each.name for each in suggestions}) == len(suggestions) > 5
    assert all(
        re.fullmatch(r"https://docs\.stripe\.com/[a-z0-9/_-]+", each.page) for each in suggestions
    )
    assert all(each.meaning for each in suggestions)
