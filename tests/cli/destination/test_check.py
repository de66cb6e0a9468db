"""``flask destination check``: a destination is compared with the code."""

from __future__ import annotations

import json
from collections.abc import Callable
from textwrap import indent
from typing import Any

import pytest
from click.testing import Result

from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.pages import PAGES

URL = "https://your.host/webhook"
UNHANDLED = "v1.charge.failed"

Run = Callable[..., Result]
CheckJson = Callable[..., dict[str, Any]]


@pytest.fixture
def add(stripe_api: StripeApi, types: list[str]) -> Callable[..., str]:
    """A function that adds a destination that matches the code, except for the arguments."""

    def put(url: str = URL, enabled: list[str] | None = None, **fields: Any) -> str:
        return stripe_api.destinations.add(url, types if enabled is None else enabled, **fields)

    return put


@pytest.fixture
def check_json(run: Run) -> CheckJson:
    """A function that checks a destination with --json. Returns the document and exit status."""

    def call(*arguments: str) -> dict[str, Any]:
        result = run("check", "--json", *arguments)
        return {**json.loads(result.stdout), "exit": result.exit_code}

    return call


def test_no_difference(run: Run, add: Callable[..., str]) -> None:
    """A matching destination is shown with its fields and types. The exit status is 0."""
    name = add(name="Ours")
    result = run("check", name)
    assert result.exit_code == 0
    assert result.stdout == (
        f"{name}  Ours\n"
        "  type         webhook_endpoint\n"
        "  payload      thin\n"
        "  status       enabled\n"
        "  mode         test\n"
        "  events from  @self\n"
        f"  sends to     {URL}\n"
        "\n"
        "enabled and handled:\n"
        "  v1.customer.created\n"
        "  v1.invoice.paid\n"
        "  v2.core.health.event_generation_failure.resolved\n"
        "\n"
        "It matches the code.\n"
    )


def test_docs_show_the_real_output(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi
) -> None:
    """The output in the documentation is the real one."""
    module = "def handle(notif, client): pass"
    names = ("v1_checkout_session_completed", "v1_billing_meter_error_report_triggered")
    ours = make_receiver(dict.fromkeys(names, module), stripe_api_base=stripe_api.url)
    types = ["v1.checkout.session.completed", UNHANDLED]
    name = stripe_api.destinations.add(URL, types, name="Production")
    result = ours.app.test_cli_runner().invoke(args=["destination", "check", name])
    page = PAGES["docs/destinations-and-doctor.md"]
    assert indent(result.stdout.replace(name, "ed_test_123"), "    ") in page


def test_missing_at_stripe(
    run: Run, check_json: CheckJson, add: Callable[..., str], types: list[str]
) -> None:
    """A handled type that is not enabled is a difference, also one from EVENT_TYPE."""
    name = add(enabled=["v1.customer.created"])
    found, result = check_json(name), run("check", name)
    assert (found["exit"], found["differs"], found["without_a_handler"]) == (1, True, [])
    assert found["missing_at_stripe"] == types[1:]
    assert result.exit_code == 1
    assert "missing at Stripe:\n  v1.invoice.paid   " in result.stdout
    assert "its handler is never called" in result.stdout
    assert f"`flask destination sync {name}`" in result.stdout


def test_without_a_handler(
    run: Run, check_json: CheckJson, add: Callable[..., str], types: list[str]
) -> None:
    """An enabled type without a handler is a difference, and goes to the fallback."""
    name = add(enabled=[*types, UNHANDLED])
    found, result = check_json(name), run("check", name)
    assert (found["exit"], found["missing_at_stripe"]) == (1, [])
    assert found["without_a_handler"] == [UNHANDLED]
    assert f"without a handler:\n  {UNHANDLED}  goes to the fallback\n" in result.stdout
    assert f"`flask destination sync {name} --prune`" in result.stdout


@pytest.mark.parametrize(
    "case",
    [
        (
            {"event_payload": "snapshot"},
            ["payload"],
            "no handler module takes snapshot events. Create a thin destination",
        ),
        ({"event_payload": "other"}, ["payload"], "Its payload is other, which cannot be changed"),
        (
            {"type": "amazon_eventbridge", "webhook_endpoint": None},
            ["type"],
            "it never sends to a URL",
        ),
        (
            {"status": "disabled", "status_details": {"disabled": {"reason": "user"}}},
            ["status"],
            "It is disabled (user): Stripe sends nothing",
        ),
        ({"status": "disabled"}, ["status"], "It is disabled: Stripe sends nothing"),
        (
            {"status": "disabled", "status_details": {"disabled": None}},
            ["status"],
            "It is disabled: Stripe sends nothing",
        ),
        ({"livemode": True}, ["mode"], "It is in live mode, and STRIPE_API_KEY is a test key"),
        ({"events_from": []}, ["events_from"], "events of no account"),
        ({"events_from": None}, ["events_from"], "events of no account"),
        (
            {"webhook_endpoint": {"url": "https://your.host/"}},
            ["url"],
            "the service takes deliveries at /webhook",
        ),
        ({"webhook_endpoint": {"url": None}}, ["url"], "takes deliveries at /webhook"),
        (
            {"livemode": True, "webhook_endpoint": {"url": "http://your.host/webhook"}},
            ["mode", "url"],
            "which is not https",
        ),
    ],
)
def test_each_other_difference(
    case: tuple[dict[str, Any], list[str], str],
    run: Run,
    check_json: CheckJson,
    add: Callable[..., str],
    stripe_api: StripeApi,
) -> None:
    """Each difference has a keyword, a sentence with a remedy, and the exit status 1."""
    fields, what, said = case
    name = add()
    answer = {**stripe_api.destinations.get(name), **fields}
    stripe_api.put(f"/v2/core/event_destinations/{name}", answer)
    found, result = check_json(name), run("check", name)
    assert (found["exit"], found["differs"]) == (1, True)
    assert [problem["what"] for problem in found["problems"]] == what
    assert said in result.stdout
    assert "It matches the code" not in result.stdout
    assert result.exit_code == 1


def test_expected_url(run: Run, check_json: CheckJson, add: Callable[..., str]) -> None:
    """With --url exactly this URL is accepted, with any path. The host is case-insensitive."""
    other = "https://your.host/stripe"
    at_path, right = add(other), add()
    assert check_json(at_path, "--url", other)["exit"] == 0
    assert check_json(right, "--url", "https://YOUR.host/webhook/")["exit"] == 0
    result = run("check", right, "--url", other)
    assert result.exit_code == 1
    assert f"It sends to {URL}, not to {other}." in result.stdout


@pytest.mark.parametrize(
    ("events_from", "status"),
    [
        (["@self"], 1),
        ([], 1),
        (["@accounts"], 0),
        (["@self", "@accounts"], 0),
        (["@organization_members/@accounts"], 0),
    ],
)
def test_connected_accounts(
    events_from: list[str], status: int, run: Run, add: Callable[..., str]
) -> None:
    """With --connected-accounts the destination must send their events."""
    result = run("check", add(events_from=events_from), "--connected-accounts")
    assert result.exit_code == status
    assert ("not of connected accounts" in result.stdout) is bool(status)


def test_types_of_a_snapshot_destination_are_not_compared(
    check_json: CheckJson, add: Callable[..., str]
) -> None:
    """Its types have other names, so the only problem shown is its payload."""
    found = check_json(add(enabled=["customer.created"], event_payload="snapshot"))
    assert (found["missing_at_stripe"], found["without_a_handler"]) == ([], [])
    assert found["exit"] == 1


def test_wildcard_misses_nothing(check_json: CheckJson, add: Callable[..., str]) -> None:
    """A wildcard enables all types, should Stripe ever allow it for thin destinations."""
    found = check_json(add(enabled=["*"]))
    assert (found["missing_at_stripe"], found["without_a_handler"]) == ([], ["*"])
