"""Each command reports each failure of Stripe's API in one sentence, with exit status 3."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import Result

from app.stripe_api import client
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver

URL = "https://your.host/webhook"
COMMANDS = {
    "list": ["list"],
    "check": ["check", "ed_1"],
    "create": ["create", "--url", URL],
    "sync": ["sync", "ed_1", "--yes"],
}
FAILURES: dict[str, tuple[Callable[[StripeApi], object], str]] = {
    "401": (lambda api: api.fail(status=401), "does not accept the API key (401)"),
    "403": (lambda api: api.fail(status=403), "The API key may not do this (403)"),
    "404": (lambda api: api.fail(status=404), "Stripe does not have it (404)"),
    "429": (lambda api: api.fail(status=429), "Stripe's rate limit is reached (429)"),
    "500": (lambda api: api.fail(status=500), "Stripe's API failed (500)"),
    "time-out": (lambda api: api.hold(), "Stripe's API did not answer in time"),
    "reset": (lambda api: api.reset(), "cannot be reached: the connection broke off"),
    "no JSON": (lambda api: api.garble(), "The answer is not from Stripe's API"),
    "a list": (lambda api: api.garble(body=b"[]"), "The answer is not from Stripe's API"),
    "null": (lambda api: api.garble(body=b"null"), "The answer is not from Stripe's API"),
    "nothing": (lambda api: api.garble(body=b"{}"), "The answer is not from Stripe's API"),
    "other JSON": (
        lambda api: api.garble(body=b'{"object": "v2.core.event_destination", "id": "ed_1"}'),
        "The answer is not from Stripe's API",
    ),
}

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe is asked once, with a time-out of one second: the same code, shorter tests."""
    monkeypatch.setattr(client, "MAX_NETWORK_RETRIES", 0)
    if "time-out" in request.node.name:
        monkeypatch.setattr(client, "TIMEOUT", (1, 1))


def is_one_sentence(result: Result, said: str) -> None:
    """Assert that the command failed with one line that holds ``said``, and exit status 3."""
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_each_failure(
    command: str, failure: str, run: Run, stripe_api: StripeApi
) -> None:
    """One line on standard error, no traceback, nothing on standard output."""
    strike, said = FAILURES[failure]
    strike(stripe_api)
    result = run(*COMMANDS[command])
    is_one_sentence(result, said)
    assert result.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_connection_refused(command: str, ours: Receiver, run: Run) -> None:
    """A refused connection is reported in the same way."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}"
        settings = replace(ours.services.settings, stripe_api_base=base)
        ours.app.extensions["services"] = replace(ours.services, settings=settings)
        is_one_sentence(run(*COMMANDS[command]), "the connection was refused")


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("request_number", [2, 3], ids=["second read", "update"])
def test_sync_that_fails_in_the_middle(
    request_number: int, failure: str, run: Run, stripe_api: StripeApi
) -> None:
    """A failure after the plan was shown leaves the destination as it was."""
    name = stripe_api.destinations.add(URL, ["v1.customer.created"])
    strike, said = FAILURES[failure]
    stripe_api.destinations.before_answer = lambda _: (
        strike(stripe_api) if len(stripe_api.asked) == request_number - 1 else None
    )
    result = run("sync", name, "--yes")
    is_one_sentence(result, said)
    assert result.stdout.startswith(f"Plan for {name}")
    assert "Changed" not in result.stdout
    assert stripe_api.destinations.get(name)["enabled_events"] == ["v1.customer.created"]


@pytest.mark.parametrize("failure", ["401", "500", "time-out", "reset", "no JSON"])
def test_create_that_may_have_worked(failure: str, run: Run, stripe_api: StripeApi) -> None:
    """If it is unknown whether the destination exists, the error says how to find out."""
    strike, _ = FAILURES[failure]
    strike(stripe_api)
    result = run("create", "--url", URL)
    assert ("may exist nevertheless" in result.stderr) is (failure != "401")


@pytest.mark.parametrize("failure", ["500", "reset"])
def test_second_page_fails(failure: str, run: Run, stripe_api: StripeApi) -> None:
    """An incomplete list is not shown."""
    for _ in range(12):
        stripe_api.destinations.add(URL, ["v1.customer.created"])
    strike, said = FAILURES[failure]
    stripe_api.destinations.before_answer = lambda _: (
        strike(stripe_api) if len(stripe_api.asked) == 1 else None
    )
    result = run("list")
    is_one_sentence(result, said)
    assert result.stdout == ""


def test_transient_failures_are_retried(
    run: Run, stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK retries a transient failure, and the command succeeds."""
    monkeypatch.setattr(client, "MAX_NETWORK_RETRIES", 2)
    stripe_api.fail(status=500)
    stripe_api.reset()
    assert run("list").exit_code == 0
    assert len(stripe_api.asked) == 3
