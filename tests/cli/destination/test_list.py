"""``flask destination list``: the destinations at Stripe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from click.testing import Result
from werkzeug import Request

from devkit.stripe_api import StripeApi

URL = "https://your.host/webhook"
TYPE = "v1.customer.created"


def test_each_is_a_row(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """Each destination is a row, the newest first."""
    old = stripe_api.destinations.add(URL, [TYPE], name="Old one", event_payload="snapshot")
    new = stripe_api.destinations.add(
        URL,
        [TYPE, "v1.invoice.paid"],
        name="New",
        events_from=["@self", "@accounts"],
        status="disabled",
        status_details={"disabled": {"reason": "user"}},
    )
    bus = stripe_api.destinations.add(URL, [TYPE], type="amazon_eventbridge", events_from=None)
    stripe_api.destinations.change(bus, webhook_endpoint={"url": None})

    result = run("list")

    assert result.exit_code == 0
    assert [re.split(r" {2,}", line) for line in result.stdout.splitlines()] == [
        ["id", "name", "status", "payload", "events from", "types", "sends to"],
        [bus, "A destination", "enabled", "thin", "1", "amazon_eventbridge"],
        [new, "New", "disabled (user)", "thin", "@self, @accounts", "2", URL],
        [old, "Old one", "enabled", "snapshot", "@self", "1", URL],
    ]


def test_columns_are_aligned(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """Each cell is below its heading."""
    stripe_api.destinations.add(URL, [TYPE], name="A very long name of a destination")
    head, row = run("list").stdout.splitlines()
    assert head.index("sends to") == row.index(URL)


def test_empty_list_has_words(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """Without a destination the output names the mode and the command that creates one."""
    stripe_api.destinations.add(URL, [TYPE], livemode=True)
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.startswith("No event destinations in test mode. Create one with")


def test_all_pages_are_read(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """All pages are read, each with URLs, also when the list changes in between."""
    names = [stripe_api.destinations.add(URL, [TYPE]) for _ in range(12)]
    stripe_api.destinations.before_answer = lambda request: (
        "page" in request.args and stripe_api.destinations.add(URL, [TYPE])
    )
    rows = json.loads(run("list", "--json").stdout)
    assert [row["id"] for row in rows] == list(reversed(names))
    assert {row["url"] for row in rows} == {URL}


def test_page_that_expired(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """If the destination before the next page was deleted, Stripe's message is shown."""
    names = [stripe_api.destinations.add(URL, [TYPE]) for _ in range(12)]

    def delete(request: Request) -> None:
        if "page" in request.args:
            stripe_api.destinations.remove(names[2])

    stripe_api.destinations.before_answer = delete
    result = run("list")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: Stripe's API refused the request (400): The page token")


def test_shifted_page_repeats_nothing(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """A destination on two pages, because the list shifted, is shown once."""
    one, two = (stripe_api.destinations.add(URL, [TYPE], name=name) for name in ("One", "Two"))
    pages: list[dict[str, Any]] = [
        {"data": [stripe_api.destinations.get(two)], "next_page_url": "/v2/core/next"},
        {
            "data": [stripe_api.destinations.get(two), stripe_api.destinations.get(one)],
            "next_page_url": None,
        },
    ]
    for path, page in zip(("/v2/core/event_destinations", "/v2/core/next"), pages, strict=True):
        stripe_api.put(path, page)
    assert [row["id"] for row in json.loads(run("list", "--json").stdout)] == [two, one]


def test_json(run: Callable[..., Result], stripe_api: StripeApi) -> None:
    """--json prints one list and nothing else."""
    name = stripe_api.destinations.add(URL, ["v1.invoice.paid", TYPE], name="Ours")
    assert json.loads(run("list", "--json").stdout) == [
        {
            "id": name,
            "name": "Ours",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "snapshot_api_version": None,
            "status": "enabled",
            "livemode": False,
            "events_from": ["@self"],
            "url": URL,
            "enabled_events": [TYPE, "v1.invoice.paid"],
        }
    ]
