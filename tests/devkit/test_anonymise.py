"""Anonymised fixtures: nothing of a customer is left, and the shape of the event is."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devkit import samples
from devkit.anonymise import anonymised, vocabulary
from devkit.deliver import Deliver

CUSTOMER = {
    "id": "cus_Q1w2e3r4t5",
    "object": "customer",
    "name": "active",
    "email": "jane.roe@acme.org",
    "phone": "+49 30 1234567",
    "address": {"city": "Springfield", "country": "US", "line1": "12 Elm", "state": "CA"},
    "currency": "usd",
    "balance": -1250,
    "delinquent": False,
    "discount": None,
    "tax_exempt": "reverse",
    "default_source": "card_1AbCdEfGh",
    "invoice_settings": {"default_payment_method": "pm_1AbCdEfGh"},
    "metadata": {"order ref": "Rocket 5", "name": 7},
    "dob": {"day": 3, "month": 4, "year": 1990},
    "sources": {"url": "/v1/customers/cus_Q1w2e3r4t5/sources", "data": ["card_1AbCdEfGh"]},
    "url": "https://acme.org/jane",
    "unit_amount_decimal": "12345.5",
    "client_secret": "pi_3AbCdEf_secret_GhIjKl",
}
SNAPSHOT = {
    "id": "evt_1QxAbCdEf",
    "object": "event",
    "api_version": "2026-10-28.endive",
    "type": "customer.updated",
    "created": 1795600800,
    "livemode": True,
    "context": "acct_1Abc/acct_2Def",
    "data": {"object": CUSTOMER, "previous_attributes": {"email": "jane.roe@acme.org"}},
    "request": {"id": "req_AbCdEfGh", "idempotency_key": "order-4711 of Jane"},
}


def texts(value: Any) -> set[str]:
    """Return all texts in a JSON value, with the keys of objects."""
    if isinstance(value, dict):
        return set(value).union(*map(texts, value.values()))
    if isinstance(value, list):
        return set().union(*map(texts, value))
    return {value} if isinstance(value, str) else set()


def test_data_of_a_customer_is_replaced() -> None:
    """Ids keep their prefix, and are the same everywhere. Words and numbers of Stripe's stay."""
    found = anonymised(SNAPSHOT)
    customer = found["data"]["object"]
    kept = ("object", "currency", "balance", "delinquent", "discount", "tax_exempt")
    assert {name: customer[name] for name in kept} == {name: CUSTOMER[name] for name in kept}
    assert (found["object"], found["type"], found["created"], found["livemode"]) == (
        *("event", "customer.updated", 1795600800, True),
    )
    assert found["api_version"] == "2026-10-28.endive"
    assert re.fullmatch(r"acct_fake\d/acct_fake\d", found["context"])
    assert customer["default_source"] == customer["sources"]["data"][0] == "card_fake5"
    assert customer["sources"]["url"] == f"/v1/customers/{customer['id']}/sources"
    assert customer["invoice_settings"]["default_payment_method"] == "pm_fake6"
    previous = found["data"]["previous_attributes"]
    assert customer["email"] == previous["email"] == "jenny.1@example.com"
    assert customer["url"] == "https://example.com/1"
    assert customer["unit_amount_decimal"] == "11111.1"
    assert customer["metadata"] == {"key_1": "value_1", "name": 1}
    assert customer["dob"] == {"day": 1, "month": 1, "year": 1}
    assert customer["address"]["country"] == "US"
    assert customer["name"].startswith("text ")


def test_names_of_an_invoice_are_replaced() -> None:
    """A text of a customer is replaced even if it is a word of Stripe's, by the field's name."""
    texts = {
        "customer_name": "price",
        "customer_email": "jane.roe@acme.org",
        "customer_phone": "5551234",
        "statement_descriptor": "invoice",
        "footer": "product",
        "memo": "charge",
        "ip_address": "192.0.2.7",
    }
    body = {**SNAPSHOT, "data": {"object": {"object": "invoice", **texts, "status": "open"}}}
    found = anonymised(body)["data"]["object"]
    assert (found["object"], found["status"]) == ("invoice", "open")
    assert {name: found[name] for name in texts if found[name] == texts[name]} == {}


#: The texts that replace others. A text of a customer can contain a part of them by chance.
REPLACEMENTS = f"https://example.com/ jenny.1@example.com text value_ key_ {'1' * 40} 0.{'0' * 40}"
REPLACEMENTS += " 2026-01-01T00:00:00 _test_fake _live_fake"


def survivors(original: dict[str, Any]) -> set[str]:
    """Return the pieces of six characters that a body shares with its fixture.

    Those in words of Stripe's and in replacements do not count.
    """
    known = known_windows() | windows(str(original["type"]))
    left = re.sub(r"_fake\d+", "", json.dumps(anonymised(original), ensure_ascii=False))
    parts = {part for text in texts(original) for part in text.split("/")}
    return {each for each in windows(*parts) - known if each in left}


@cache
def known_windows() -> set[str]:
    """Return the pieces of all words of Stripe's and of the replacements."""
    return windows(*vocabulary(), REPLACEMENTS)


def windows(*words: str) -> set[str]:
    """Return all pieces of six characters."""
    return {word[at : at + 6] for word in words for at in range(len(word) - 5)}


def test_nothing_of_the_original_is_left() -> None:
    """No piece of six characters survives that is no word of Stripe's."""
    assert survivors(SNAPSHOT) == set()


WORD = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
FIELD = st.one_of(st.sampled_from(sorted(CUSTOMER)), WORD)
VALUE = st.recursive(
    st.one_of(
        WORD,
        st.integers(),
        st.none(),
        st.booleans(),
        st.from_regex(r"[a-z]{2,12}_[A-Za-z0-9]{8,20}", fullmatch=True),
        st.from_regex(r"/[a-z0-9]{2,9}/[A-Za-z0-9_]{8,20}", fullmatch=True),
        st.emails(),
    ),
    lambda each: st.one_of(st.lists(each, max_size=3), st.dictionaries(FIELD, each, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(FIELD, VALUE, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_body_is_anonymised(fields: dict[str, Any]) -> None:
    """That holds for every text in every place, and the shape stays the same."""
    original = {"type": "v1.a", "data": fields}
    assert survivors(original) == set()
    assert len(anonymised(original)["data"]) == len(fields)


def test_fixture_can_be_delivered(deliver: Deliver) -> None:
    """A test of a handler delivers it like a sample. An unknown type stays too."""
    original = samples.notification("v1.customer.created", context="acct_1AbCdEf")
    assert deliver(anonymised(original)).outcome == "fallback"
    unknown = {**original, "type": "v1.own_thing.happened", "id": "evt_2"}
    delivery = deliver(anonymised(unknown))
    assert (delivery.status, delivery.notification["type"]) == (200, "v1.own_thing.happened")
