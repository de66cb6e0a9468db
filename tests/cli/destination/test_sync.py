"""``flask destination sync``: the types at Stripe become the types that are handled."""

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
    """A destination that lacks two handled types, and has one without a handler."""
    return stripe_api.destinations.add(URL, [CUSTOMER, CHARGE], name="Ours")


@pytest.fixture
def enabled(stripe_api: StripeApi, name: str) -> Callable[[], list[str]]:
    """A function that returns the types that are enabled now."""
    return lambda: list(stripe_api.destinations.get(name)["enabled_events"])


def updates(stripe_api: StripeApi) -> int:
    """Return how often anything was to be changed."""
    return [asked.method for asked in stripe_api.asked].count("POST")


def test_plan_is_shown_and_applied(
    run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]
) -> None:
    """What is missing is added; what has no handler stays unless it is to be pruned."""
    result = run("sync", name, "--yes")
    assert result.exit_code == 0
    assert result.stdout == (
        f"Plan for {name} (Ours):\n"
        "  add     v1.invoice.paid\n"
        "  add     v2.core.health.event_generation_failure.resolved\n"
        "  keep    v1.customer.created\n"
        "  keep    v1.charge.failed  (has no handler; --prune removes it)\n"
        "\n"
        "Adding: deploy the handlers first, then sync. Until they run, the running version gives"
        " these types to its fallback, which takes them for good.\n"
        f"Changed: {name} has 4 event types now.\n"
    )
    assert enabled() == sorted([*types, CHARGE])


def test_prune_removes(
    run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]
) -> None:
    """With --prune what has no handler goes, and the order of a removal is said."""
    result = run("sync", name, "--prune", "--yes")
    assert "  remove  v1.charge.failed\n" in result.stdout
    assert "Adding: deploy the handlers first, then sync." in result.stdout
    assert "Removing: sync first, then deploy the version without the handlers." in result.stdout
    assert enabled() == types
    assert run("check", name).exit_code == 0


def test_only_removing(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """Where nothing is added, nothing is said of adding."""
    name = stripe_api.destinations.add(URL, [*types, CHARGE])
    result = run("sync", name, "--prune", "--yes")
    assert "Removing: " in result.stdout
    assert "Adding: " not in result.stdout


def test_it_asks(run: Run, name: str, enabled: Callable[[], list[str]], types: list[str]) -> None:
    """Without --yes it asks, and changes nothing unless the answer is yes."""
    no = run("sync", name, input="n\n")
    assert no.exit_code == 1
    assert f"Change {name}? [y/N]: n" in no.stdout
    assert enabled() == [CUSTOMER, CHARGE]
    assert run("sync", name, input="").exit_code == 1  # nobody is there to answer
    assert enabled() == [CUSTOMER, CHARGE]
    assert run("sync", name, input="y\n").exit_code == 0
    assert enabled() == sorted([*types, CHARGE])


def test_nothing_to_change(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """Where nothing differs nothing is asked and nothing is sent."""
    name = stripe_api.destinations.add(URL, types)
    result = run("sync", name)
    assert result.exit_code == 0
    assert result.stdout.endswith("\nNothing to change.\n")
    assert updates(stripe_api) == 0


def test_without_prune_nothing_is_removed(
    run: Run, stripe_api: StripeApi, types: list[str]
) -> None:
    """Types without a handler alone are no reason for a change."""
    name = stripe_api.destinations.add(URL, [*types, CHARGE])
    result = run("sync", name, "--yes")
    assert "--prune removes it" in result.stdout
    assert "Nothing to change." in result.stdout
    assert updates(stripe_api) == 0


def test_check_changes_nothing(
    run: Run, name: str, stripe_api: StripeApi, types: list[str]
) -> None:
    """--check says and exits as `flask destination check` does, whatever else is given."""
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
        ({"type": "azure_event_grid"}, "It is of type azure_event_grid"),
    ],
)
def test_what_cannot_be_brought_in_line(
    fields: dict[str, str], said: str, run: Run, stripe_api: StripeApi
) -> None:
    """A snapshot destination, or one that sends to no URL, is left alone."""
    name = stripe_api.destinations.add(URL, [CUSTOMER], **fields)
    result = run("sync", name, "--yes")
    assert (result.exit_code, updates(stripe_api)) == (1, 0)
    assert result.stderr.startswith(f"Error: {said}")


def test_never_an_empty_list(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi, name: str
) -> None:
    """Without a handler nothing is changed, with --prune neither."""
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
    """When somebody changes the types while the command asks, it says so and changes nothing."""
    before = stripe_api.destinations.get(name)
    address = f"/v2/core/event_destinations/{name}"
    stripe_api.destinations.before_answer = lambda _: (
        stripe_api.destinations.change(name, **changed) if len(stripe_api.asked) == 2 else None
    )
    result = run("sync", name, input="y\n")
    assert result.exit_code == 1
    assert "Somebody else changed its event types meanwhile" in result.stderr
    assert [asked.path for asked in stripe_api.asked] == [address, address]
    assert stripe_api.destinations.get(name) == {
        **before,
        **changed,
        "updated": stripe_api.destinations.get(name)["updated"],
    }


def test_change_at_the_same_time(run: Run, name: str, stripe_api: StripeApi) -> None:
    """When Stripe answers other types than it was given, that is said."""
    other = {**stripe_api.destinations.get(name), "enabled_events": [CHARGE]}
    stripe_api.destinations.before_answer = lambda _: (
        stripe_api.put(f"/v2/core/event_destinations/{name}", other)
        if len(stripe_api.asked) == 2
        else None
    )
    result = run("sync", name, "--yes")
    assert result.exit_code == 1
    assert "has other event types now" in result.stderr
