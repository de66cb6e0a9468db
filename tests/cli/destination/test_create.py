"""``flask destination create``: a destination with exactly what is handled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    """Thin, to the URL, for the own account, named after the host, with the handled types."""
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
    """The line for .env has the new secret behind the present ones, which stay hidden."""
    result = run("create", "--url", URL)
    (name,) = stripe_api.destinations.ids
    secret = stripe_api.destinations.secret(name)
    assert result.stdout.count(secret) == 1
    assert f"\n  STRIPE_WEBHOOK_SECRET=...,{secret}\n" in result.stdout
    assert result.stdout.startswith(f"Created {name} in test mode.\n")
    assert secret not in run("list").output + run("check", name).output


def test_name_and_accounts(run: Run, stripe_api: StripeApi) -> None:
    """--name names it, --connected-accounts has it bring the events of those."""
    assert run("create", "--url", URL, "--name", "Ours", "--connected-accounts").exit_code == 0
    (name,) = stripe_api.destinations.ids
    made = stripe_api.destinations.get(name)
    assert (made["name"], made["events_from"]) == ("Ours", ["@accounts"])


def test_nothing_is_handled(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> None:
    """Without a handler nothing is asked: an empty list would be a destination for nothing."""
    receiver = make_receiver({}, stripe_api_base=stripe_api.url)
    result = receiver.app.test_cli_runner().invoke(args=["destination", "create", "--url", URL])
    assert result.exit_code == 1
    assert "Write a handler first." in result.stderr
    assert stripe_api.asked == []


def test_live_needs_https(ours: Receiver, run: Run, stripe_api: StripeApi) -> None:
    """In live mode a plain URL is refused before Stripe is asked; in test mode it is fine."""
    plain = "http://your.host/webhook"
    assert run("create", "--url", plain).exit_code == 0
    settings = replace(ours.services.settings, stripe_api_key="sk_live_fake_for_tests")
    ours.app.extensions["services"] = replace(ours.services, settings=settings)
    result = run("create", "--url", plain)
    assert (result.exit_code, len(stripe_api.asked)) == (1, 1)
    assert "live mode needs https" in result.stderr
    assert "in live mode" in run("create", "--url", URL).stdout


@pytest.mark.parametrize("url", ["your.host", "ftp://your.host", "https://"])
def test_what_is_no_url(url: str, run: Run, stripe_api: StripeApi) -> None:
    """It is refused before Stripe is asked, exit status 2."""
    result = run("create", "--url", url)
    assert result.exit_code == 2
    assert "is no URL like https://your.host/webhook" in result.stderr
    assert stripe_api.asked == []


def test_other_path_is_remarked(run: Run) -> None:
    """A path that is not the service's needs a proxy, and that is said."""
    assert "needs a proxy" in run("create", "--url", "https://your.host/stripe").stdout
    assert "needs a proxy" not in run("create", "--url", URL).stdout


def test_answer_without_a_secret(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """When Stripe does not tell the secret, the command fails and says where it is."""
    name = stripe_api.destinations.add(URL, types)
    endpoint = {"url": URL, "signing_secret": None}
    stripe_api.put(PATH, {**stripe_api.destinations.get(name), "webhook_endpoint": endpoint})
    result = run("create", "--url", URL)
    assert result.exit_code == 1
    assert "did not tell its signing secret" in result.stderr


def test_sixteen_are_enough(run: Run, stripe_api: StripeApi, types: list[str]) -> None:
    """Stripe's own words say that there are too many."""
    for _ in range(16):
        stripe_api.destinations.add(URL, types)
    result = run("create", "--url", URL)
    assert result.exit_code == 3
    assert "(400): You have reached the maximum of 16 event destinations" in result.stderr
