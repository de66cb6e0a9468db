"""``flask destination sync``: the enabled types become the handled types."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from devkit.stripe_api import StripeApi
from tests.conftest import Receiver

URL = "https://your.host/webhook"
CUSTOMER, INVOICE, CHARGE = "v1.customer.created", "v1.invoice.paid", "v1.charge.failed"

Run = Callable[..., Result]


@pytest.fixture
def name(stripe_api: StripeApi) -> str:
    """A destination without two handled types, and with a type that has no handler."""
    return stripe_api.destinations.add(URL, [CUSTOMER, CHARGE], name="Ours")


@pytest.fixture
def enabled(stripe_api: StripeApi, name: str) -> Callable[[], list[str]]:
    """A function that returns the currently enabled types."""
    return lambda: list(stripe_api.destinations.get(name)["enabled_events"])


def updates(stripe_api: StripeApi) -> int:
    """Return the number of requests that change something."""
    return [asked.method for asked in stripe_api.asked].count("POST")


def test_plan_is_shown_and_applied(
    run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]
) -> None:
    """Missing types are added. Without --prune, types without a handler stay."""
    result = run("sync", name, "--yes")
    assert result.exit_code == 0
    assert result.stdout == (
        f"Plan for {name} (Ours):\n"
        "  add     v1.invoice.paid\n"
        "  add     v2.core.health.event_generation_failure.resolved\n"
        "  keep    v1.customer.created\n"
        "  keep    v1.charge.failed  (has no handler; --prune removes it)\n"
        "\n"
        "Adding: deploy the handlers first, then sync. Until then the running version passes these"
        " types to its fallback, and its handlers never get those events.\n"
        f"Changed: {name} now has 4 event types.\n"
    )
    assert enabled() == sorted([*types, CHARGE])


def test_operator_is_recorded(run: Run, ours: Receiver, name: str) -> None:
    """The audit log names the changed destination."""
    assert run("sync", name, "--yes").stderr == ""
    (entry,) = ours.services.inbox.audit.entries(9)
    assert (entry.action, entry.target) == ("sync_destination", name)


def test_prune_removes(
    run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]
) -> None:
    """With --prune types without a handler are removed, and the order of deployment is shown."""
    result = run("sync", name, "--prune", "--yes")
    assert "  remove  v1.charge.failed\n" in result.stdout
    assert "Adding: deploy the handlers first, then sync." in result.stdout
    assert "Removing: sync first, then deploy the version without the handlers." in result.stdout
    assert enabled() == types
    assert run("check", name).exit_code == 0


def test_only_removing(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """If no type is added, the output has no advice about adding."""
    name = stripe_api.destinations.add(URL, [*types, CHARGE])
    result = run("sync", name, "--prune", "--yes")
    assert "Removing: " in result.stdout
    assert "Adding: " not in result.stdout


def test_it_asks(run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]) -> None:
    """Without --yes it asks for confirmation, and changes nothing unless the answer is yes."""
    no = run("sync", name, input="n\n")
    assert no.exit_code == 1
    assert f"Change {name}? [y/N]: n" in no.stdout
    assert enabled() == [CUSTOMER, CHARGE]
    assert run("sync", name, input="").exit_code == 1  # no terminal to answer
    assert enabled() == [CUSTOMER, CHARGE]
    assert run("sync", name, input="y\n").exit_code == 0
    assert enabled() == sorted([*types, CHARGE])


def test_nothing_to_change(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """Without a difference there is no confirmation and no update."""
    name = stripe_api.destinations.add(URL, types)
    result = run("sync", name)
    assert result.exit_code == 0
    assert result.stdout.endswith("\nThere is nothing to change.\n")
    assert updates(stripe_api) == 0


def test_without_prune_nothing_is_removed(
    run: Run, stripe_api: StripeApi, types: list[str]
) -> None:
    """Without --prune, types without a handler alone cause no update."""
    name = stripe_api.destinations.add(URL, [*types, CHARGE])
    result = run("sync", name, "--yes")
    assert "--prune removes it" in result.stdout
    assert "There is nothing to change." in result.stdout
    assert updates(stripe_api) == 0


def test_check_changes_nothing(
    run: Run, name: str, stripe_api: StripeApi, types: list[str]
) -> None:
    """--check has the output and exit status of `flask destination check`, with any options."""
    result = run("sync", name, "--check", "--prune", "--yes")
    check = run("check", name)
    assert (result.exit_code, result.stdout) == (1, check.stdout)
    same = stripe_api.destinations.add(URL, types)
    assert run("sync", same, "--check").exit_code == 0
    assert updates(stripe_api) == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"event_payload": "snapshot"}, "Its payload is snapshot"),
        ({"type": "azure_event_grid"}, "Its type is azure_event_grid"),
    ],
)
def test_destination_that_is_not_thin(
    fields: dict[str, str], said: str, run: Run, stripe_api: StripeApi
) -> None:
    """A snapshot destination, or one that sends to no URL, is not changed."""
    name = stripe_api.destinations.add(URL, [CUSTOMER], **fields)
    result = run("sync", name, "--yes")
    assert (result.exit_code, updates(stripe_api)) == (1, 0)
    assert result.stderr.startswith(f"Error: {said}")


def test_never_an_empty_list(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi, name: str
) -> None:
    """Without a handler nothing is changed, even with --prune."""
    receiver = make_receiver({}, stripe_api_base=stripe_api.url)
    result = receiver.app.test_cli_runner().invoke(
        args=["destination", "sync", name, "--prune", "--yes"]
    )
    assert (result.exit_code, updates(stripe_api)) == (1, 0)
    assert "Write a handler first." in result.stderr


@pytest.mark.parametrize(
    "changed", [{"enabled_events": [CUSTOMER, INVOICE]}, {"type": "amazon_eventbridge"}]
)
def test_change_between_plan_and_answer(
    changed: dict[str, object],
    run: Run,
    name: str,
    stripe_api: StripeApi,
) -> None:
    """If the types change before the confirmation, the command changes nothing and says so."""
    before = stripe_api.destinations.get(name)
    address = f"/v2/core/event_destinations/{name}"
    stripe_api.destinations.before_answer = lambda _: (
        stripe_api.destinations.change(name, **changed) if len(stripe_api.asked) == 2 else None
    )
    result = run("sync", name, input="y\n")
    assert result.exit_code == 1
    assert "Its event types have changed since the plan was shown" in result.stderr
    assert [asked.path for asked in stripe_api.asked] == [address, address]
    assert stripe_api.destinations.get(name) == {
        **before,
        **changed,
        "updated": stripe_api.destinations.get(name)["updated"],
    }


def test_change_during_the_update(run: Run, name: str, stripe_api: StripeApi) -> None:
    """If Stripe's answer has other types than the request, the command fails."""
    other = {**stripe_api.destinations.get(name), "enabled_events": [CHARGE]}
    stripe_api.destinations.before_answer = lambda _: (
        stripe_api.put(f"/v2/core/event_destinations/{name}", other)
        if len(stripe_api.asked) == 2
        else None
    )
    result = run("sync", name, "--yes")
    assert result.exit_code == 1
    assert "has other event types now" in result.stderr
