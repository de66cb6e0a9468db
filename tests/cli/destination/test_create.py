"""``flask destination create``: a destination with exactly the handled types."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from devkit.destinations import PATH
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver

URL = "https://your.host/webhook"

Run = Callable[..., Result]


def test_it_has_exactly_the_handled_types(
    run: Run, stripe_api: StripeApi, types: list[str]
) -> None:
    """The new destination is thin, for the own account, named after the host of the URL."""
    result = run("create", "--url", URL)
    (name,) = stripe_api.destinations.ids
    made = stripe_api.destinations.get(name)
    assert result.exit_code == 0
    assert (made["type"], made["event_payload"]) == ("webhook_endpoint", "thin")
    assert made["enabled_events"] == types
    assert (made["name"], made["events_from"]) == ("your.host", ["@self"])
    assert made["webhook_endpoint"] == {"url": URL}
    assert run("check", name, "--url", URL).exit_code == 0


def test_secret_is_shown_once(run: Run, stripe_api: StripeApi) -> None:
    """The line for .env adds the new secret to the present ones, which stay hidden."""
    result = run("create", "--url", URL)
    (name,) = stripe_api.destinations.ids
    secret = stripe_api.destinations.secret(name)
    assert result.stdout.count(secret) == 1
    assert f"\n  STRIPE_WEBHOOK_SECRET=...,{secret}\n" in result.stdout
    assert result.stdout.startswith(f"Created {name} in test mode.\n")
    assert secret not in run("list").output + run("check", name).output


def test_operator_is_recorded(run: Run, ours: Receiver, stripe_api: StripeApi) -> None:
    """The audit log names the new destination."""
    assert run("create", "--url", URL).stderr == ""
    (entry,) = ours.services.inbox.audit.entries(9)
    assert (entry.action, [entry.target]) == ("create_destination", stripe_api.destinations.ids)


@pytest.mark.no_tables
def test_missing_inbox_does_not_stop_it(run: Run, stripe_api: StripeApi, tmp_path: Path) -> None:
    """Before the first start there is no audit log. The command says so, and creates none."""
    result = run("create", "--url", URL)
    (name,) = stripe_api.destinations.ids
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Created {name} in test mode.\n")
    assert "The audit log was not written: " in result.stderr
    assert not (tmp_path / "var").exists()


def test_name_and_accounts(run: Run, stripe_api: StripeApi) -> None:
    """--name sets the name, --connected-accounts the accounts."""
    assert run("create", "--url", URL, "--name", "Ours", "--connected-accounts").exit_code == 0
    (name,) = stripe_api.destinations.ids
    made = stripe_api.destinations.get(name)
    assert (made["name"], made["events_from"]) == ("Ours", ["@accounts"])


def test_nothing_is_handled(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> None:
    """Without a handler there is no request: a destination needs at least one type."""
    receiver = make_receiver({}, stripe_api_base=stripe_api.url)
    result = receiver.app.test_cli_runner().invoke(args=["destination", "create", "--url", URL])
    assert result.exit_code == 1
    assert "Write a handler first." in result.stderr
    assert stripe_api.asked == []


def test_live_needs_https(ours: Receiver, run: Run, stripe_api: StripeApi) -> None:
    """An http URL is refused before any request in live mode, and accepted in test mode."""
    plain = "http://your.host/webhook"
    assert run("create", "--url", plain).exit_code == 0
    settings = replace(ours.services.settings, stripe_api_key="sk_live_fake_for_tests")
    ours.app.extensions["services"] = replace(ours.services, settings=settings)
    result = run("create", "--url", plain)
    assert (result.exit_code, len(stripe_api.asked)) == (1, 1)
    assert "live mode needs https" in result.stderr
    assert "in live mode" in run("create", "--url", URL).stdout


@pytest.mark.parametrize("url", ["your.host", "ftp://your.host", "https://"])
def test_value_that_is_no_url(url: str, run: Run, stripe_api: StripeApi) -> None:
    """It is refused before any request, with exit status 2."""
    result = run("create", "--url", url)
    assert result.exit_code == 2
    assert "is no URL like https://your.host/webhook" in result.stderr
    assert stripe_api.asked == []


def test_other_path_needs_a_proxy(run: Run) -> None:
    """For a URL with another path the output says that it needs a proxy."""
    assert "needs a proxy" in run("create", "--url", "https://your.host/stripe").stdout
    assert "needs a proxy" not in run("create", "--url", URL).stdout


def test_answer_without_a_secret(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """If Stripe does not return the secret, the command fails and says where to find it."""
    name = stripe_api.destinations.add(URL, types)
    endpoint = {"url": URL, "signing_secret": None}
    stripe_api.put(PATH, {**stripe_api.destinations.get(name), "webhook_endpoint": endpoint})
    result = run("create", "--url", URL)
    assert result.exit_code == 1
    assert "did not return its signing secret" in result.stderr


def test_too_many_destinations(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """The error quotes Stripe's message about the maximum."""
    for _ in range(16):
        stripe_api.destinations.add(URL, types)
    result = run("create", "--url", URL)
    assert result.exit_code == 3
    assert "(400): You have reached the maximum of 16 event destinations" in result.stderr
