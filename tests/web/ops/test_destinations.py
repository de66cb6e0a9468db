"""The page of the event destinations, against the stand-in for Stripe's API."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import stripe

from devkit.stripe_api import StripeApi
from tests.web.ops.conftest import Browser

URL = "https://your.host/webhook"
CUSTOMER, INVOICE, CHARGE = "v1.customer.created", "v1.invoice.paid", "v1.charge.failed"
MODULE = "def handle(notif, client): pass\n"
MODULES = {"v1_customer_created": MODULE, "v1_invoice_paid": MODULE}


@pytest.fixture
def ops(make_ops: Callable[..., Browser], stripe_api: StripeApi) -> Browser:
    """The browser of a person who may act, for a service with two handlers."""
    return make_ops(MODULES, stripe_api_base=stripe_api.url)


@pytest.fixture
def name(stripe_api: StripeApi) -> str:
    """A destination without one handled type, and with a type that has no handler."""
    return stripe_api.destinations.add(URL, [CUSTOMER, CHARGE], name="Ours <1>")


def enabled(stripe_api: StripeApi, name: str) -> list[str]:
    """Return the enabled types."""
    return list(stripe_api.destinations.get(name)["enabled_events"])


def seen(page: str) -> str:
    """Return the fingerprint of the plan that a page shows."""
    (found,) = re.findall(r'name="seen" value="(\w+)"', page)
    return str(found)


def test_page_makes_no_request(ops: Browser, stripe_api: StripeApi, name: str) -> None:
    """Stripe is asked only when a person who may act asks for it."""
    text = ops.get("/ops/destinations").text
    assert name not in text
    assert "/ops/destinations/now" in text
    assert stripe_api.asked == []


def test_findings_of_the_watch(ops: Browser, stripe_api: StripeApi) -> None:
    """The page shows each destination as the watch has found it, and the other checks."""
    findings = ops.receiver.services.inbox.findings
    details = {
        "id": "we_1",
        "name": "Ours <1>",
        "url": URL,
        "status": "disabled",
        "payload": "thin",
        "enabled_events": 2,
        "missing": [INVOICE],
        "unhandled": [CHARGE],
        "problems": [],
    }
    text = "event destination we_1 is disabled: Stripe sends nothing"
    findings.record("destination_disabled:we_1", "fail", text, details)
    other = {**details, "id": "we_2", "name": "", "missing": [], "unhandled": []}
    findings.record("destination_disabled:we_2", "ok", "we_2 sends 2 handled types", other)
    findings.record("clock_off", "ok", "the clock is as Stripe's")
    page = ops.get("/ops/destinations").text
    assert "Event destination we_1 is disabled: Stripe sends nothing. Since" in page
    assert "Ours &lt;1&gt;" in page
    assert f"{INVOICE}: their handlers are never called" in page
    assert f"{CHARGE}: they go to the fallback" in page
    assert page.count("/sync") == 1
    assert "The clock is as Stripe&#39;s. <span" in page
    assert "/sync" not in ops.reader().get("/ops/destinations").text
    assert stripe_api.asked == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (900.0, "every 15 minutes, for the first time at most 15 minutes after the start."),
        (0.0, "The watch is switched off: <code>WATCH_SECONDS</code> is 0."),
    ],
)
def test_no_findings(make_ops: Callable[..., Browser], seconds: float, words: str) -> None:
    """Without a finding the page says when the watch first asks Stripe, or that it is off."""
    assert words in make_ops(watch_seconds=seconds).get("/ops/destinations").text


def test_destinations_are_compared(ops: Browser, stripe_api: StripeApi, name: str) -> None:
    """Each destination is shown with its problems and its drift."""
    matching = stripe_api.destinations.add(URL, [CUSTOMER, INVOICE], name="Second")
    snapshot = stripe_api.destinations.add(URL, ["*"], event_payload="snapshot", name="Third")
    text = ops.get("/ops/destinations/now").text
    for each in (name, matching, snapshot):
        assert each in text
    assert "Ours &lt;1&gt;" in text
    assert f"their handlers are never called: {INVOICE}." in text
    assert f"they go to the fallback: {CHARGE}." in text
    assert text.count("It matches the handlers.") == 1
    assert "Its payload is snapshot, which cannot be changed, and no handler module takes" in text
    assert "`flask destination create --url https://your.host/webhook`" in text


def test_no_destination(ops: Browser) -> None:
    """Without a destination the page says how to create one."""
    assert "flask destination create" in ops.get("/ops/destinations/now").text


def test_sync_shows_its_plan_first(ops: Browser, stripe_api: StripeApi, name: str) -> None:
    """The plan says what is added and kept. The form changes exactly that."""
    path = f"/ops/destinations/{name}/sync"
    plan = ops.get(path).text
    assert "adds 1 event type to this destination and removes 0 event types" in plan
    assert "Adding: deploy the handlers first" in plan
    assert enabled(stripe_api, name) == [CUSTOMER, CHARGE]

    done = ops.post(path, {"seen": seen(plan)}, follow=True)

    assert done.status_code == 200
    assert sorted(enabled(stripe_api, name)) == sorted([CUSTOMER, CHARGE, INVOICE])
    assert "There is nothing to change. The destination has 3 event types." in done.text
    assert f"anna changed the event types of {name}." in done.text
    (entry,) = ops.receiver.services.inbox.audit.entries(9)
    assert (entry.by, entry.action, entry.target) == ("anna", "sync_destination", name)


def test_prune(ops: Browser, stripe_api: StripeApi, name: str) -> None:
    """Types without a handler are removed if the plan says so."""
    path = f"/ops/destinations/{name}/sync"
    plan = ops.get(f"{path}?prune=yes").text
    assert "removes 1 event type" in plan
    assert "Removing: sync first" in plan
    assert ops.post(path, {"seen": seen(plan), "prune": "yes"}).status_code == 303
    assert sorted(enabled(stripe_api, name)) == sorted([CUSTOMER, INVOICE])


@pytest.mark.parametrize("case", ["other types", "other plan", "second time", "no plan"])
def test_another_plan_is_refused(ops: Browser, stripe_api: StripeApi, name: str, case: str) -> None:
    """A form acts only on the plan that it has shown, and only once."""
    path = f"/ops/destinations/{name}/sync"
    fields = {"seen": seen(ops.get(path).text)}
    if case == "other types":
        stripe_api.destinations.change(name, enabled_events=[CUSTOMER])
    elif case == "other plan":
        fields["prune"] = "yes"
    elif case == "second time":
        ops.post(path, fields)
    else:
        fields = {}
    before = enabled(stripe_api, name)
    answer = ops.post(path, fields)
    assert answer.status_code == 409
    assert "Nothing was changed" in answer.text
    assert enabled(stripe_api, name) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"enabled_events": [CUSTOMER]}, "Nothing was changed"),
        ({"put": [CHARGE]}, "the destination has other types now"),
    ],
)
def test_change_during_the_update(
    ops: Browser, stripe_api: StripeApi, name: str, change: dict[str, list[str]], sentence: str
) -> None:
    """A change by another person between two requests to Stripe is noticed."""
    path, address = f"/ops/destinations/{name}/sync", f"/v2/core/event_destinations/{name}"
    fields = {"seen": seen(ops.get(path).text)}
    other = {**stripe_api.destinations.get(name), "enabled_events": change.get("put")}

    def act(_request: object) -> None:
        if len(stripe_api.asked) == 3:
            if "put" in change:
                stripe_api.put(address, other)
            else:
                stripe_api.destinations.change(name, **change)

    stripe_api.destinations.before_answer = act
    answer = ops.post(path, fields)
    assert answer.status_code == 409
    assert sentence in answer.text


def test_snapshot_destination_has_no_plan(ops: Browser, stripe_api: StripeApi) -> None:
    """The types of a destination that is not thin are not changed."""
    name = stripe_api.destinations.add(URL, ["*"], event_payload="snapshot")
    answer = ops.get(f"/ops/destinations/{name}/sync")
    assert answer.status_code == 409
    assert "cannot be changed" in answer.text


def test_snapshot_destination(make_ops: Callable[..., Browser], stripe_api: StripeApi) -> None:
    """With a snapshot module, its types are compared and changed. A wildcard has a warning."""
    modules = {**MODULES, "customer_created": "def handle(event, client): pass\n"}
    ops = make_ops(modules, stripe_api_base=stripe_api.url)
    name = stripe_api.destinations.add(
        URL, ["*"], event_payload="snapshot", snapshot_api_version=stripe.api_version
    )
    text = ops.get("/ops/destinations/now").text
    assert f"<dd>snapshot ({stripe.api_version})</dd>" in text
    assert "Its event types are *: Stripe sends all types to it" in text
    path = f"/ops/destinations/{name}/sync"
    plan = ops.get(f"{path}?prune=yes").text
    assert "adds 1 event type to this destination and removes 1 event type." in plan
    assert ops.post(path, {"seen": seen(plan), "prune": "yes"}).status_code == 303
    assert enabled(stripe_api, name) == ["customer.created"]


def test_failure_of_stripe(ops: Browser, stripe_api: StripeApi) -> None:
    """A refusal by Stripe is shown in a sentence."""
    answer = ops.get("/ops/destinations/we_unknown/sync")
    assert answer.status_code == 502
    assert "Stripe does not have it (404)" in answer.text
    stripe_api.fail(status=401, times=10)
    answer = ops.get("/ops/destinations/now")
    assert "Stripe does not accept the API key (401)" in answer.text


@pytest.mark.parametrize("path", ["now", "we_1/sync"])
def test_reader_makes_no_request(ops: Browser, stripe_api: StripeApi, path: str) -> None:
    """A person who may look makes the service send no request to Stripe."""
    reader = ops.reader()
    assert reader.get(f"/ops/destinations/{path}").status_code == 403
    assert "/now" not in reader.get("/ops/destinations").text
    assert stripe_api.asked == []
