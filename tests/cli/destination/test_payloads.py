"""``flask destination`` with handler modules of both kinds, or for snapshot events only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import stripe
from click.testing import Result

from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.pages import PAGES

URL = "https://your.host/webhook"
THIN, SNAPSHOT, OTHER = "v1.customer.created", "customer.created", "customer.source.created"
THIN_MODULE = {"v1_customer_created": "def handle(notif, client): pass\n"}
SNAPSHOT_MODULES = {
    "customer_created": "def handle(event, client): pass\n",
    "customer_source_created": "def handle(event, client): pass\n",
}
FALLBACK = {"snapshot_fallback": "def handle(event, client): pass\n"}
OLDER = "2024-06-20"

Run = Callable[..., Result]


@pytest.fixture
def make_run(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> Callable[..., Run]:
    """A function that makes a service, and returns a function that runs its commands."""

    def make(modules: dict[str, str]) -> Run:
        runner = make_receiver(modules, stripe_api_base=stripe_api.url).app.test_cli_runner()

        def call(*arguments: str) -> Result:
            result = runner.invoke(args=["destination", *arguments])
            assert result.exception is None or isinstance(result.exception, SystemExit)
            return result

        return call

    return make


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """A function that runs commands of a service with modules of both kinds."""
    return make_run({**THIN_MODULE, **SNAPSHOT_MODULES})


@pytest.fixture
def add(stripe_api: StripeApi) -> Callable[..., str]:
    """A function that adds a snapshot destination."""

    def put(*types: str, **fields: Any) -> str:
        version = {"snapshot_api_version": stripe.api_version, **fields}
        return stripe_api.destinations.add(URL, list(types), event_payload="snapshot", **version)

    return put


def test_create_for_snapshot_events(run: Run, stripe_api: StripeApi) -> None:
    """It has the handled snapshot types, and objects of the version that the SDK describes."""
    result = run("create", "--url", URL, "--payload", "snapshot")
    (name,) = stripe_api.destinations.ids
    made = stripe_api.destinations.get(name)
    assert result.exit_code == 0
    assert f"  payload      snapshot ({stripe.api_version})\n" in result.stdout
    assert (made["event_payload"], made["enabled_events"]) == ("snapshot", [SNAPSHOT, OTHER])
    assert made["snapshot_api_version"] == stripe.api_version
    assert "It matches the code." in run("check", name).stdout


def test_create_with_an_api_version(run: Run, stripe_api: StripeApi) -> None:
    """--api-version sets another version. Thin events have none, so it is refused for them."""
    run("create", "--url", URL, "--payload", "snapshot", "--api-version", OLDER)
    (name,) = stripe_api.destinations.ids
    assert stripe_api.destinations.get(name)["snapshot_api_version"] == OLDER
    result = run("create", "--url", URL, "--api-version", OLDER)
    assert result.exit_code == 2
    assert "Thin events have no API version" in result.stderr
    assert len(stripe_api.asked) == 1


def test_create_without_a_type_of_the_kind(make_run: Callable[..., Run]) -> None:
    """The error names the kind that has no handler module."""
    thin, snapshot = make_run(THIN_MODULE), make_run(SNAPSHOT_MODULES)
    assert "No snapshot event type" in thin("create", "--url", URL, "--payload", "snapshot").stderr
    assert "No thin event type has a handler module" in snapshot("create", "--url", URL).stderr


def test_each_is_compared_with_its_kind(
    run: Run, stripe_api: StripeApi, add: Callable[..., str]
) -> None:
    """Neither destination misses the types of the other kind."""
    thin, snapshot = stripe_api.destinations.add(URL, [THIN]), add(SNAPSHOT, OTHER)
    assert [run("check", name).exit_code for name in (thin, snapshot)] == [0, 0]


def test_sync_enables_types_of_the_kind(
    run: Run, stripe_api: StripeApi, add: Callable[..., str]
) -> None:
    """Missing types of its kind are added, and --prune removes unhandled ones."""
    name = add(SNAPSHOT, "invoice.paid")
    document = json.loads(run("check", "--json", name).stdout)
    assert document["missing_at_stripe"] == [OTHER]
    assert document["without_a_handler"] == ["invoice.paid"]
    assert run("sync", name, "--prune", "--yes").exit_code == 0
    assert stripe_api.destinations.get(name)["enabled_events"] == [SNAPSHOT, OTHER]


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        (stripe.api_version, False),
        (f"2025-01-01.{stripe.api_version.partition('.')[2]}", False),
        (f"{stripe.api_version.partition('.')[0]}.preview", True),
        (OLDER, True),
        (None, False),
    ],
)
def test_api_version(
    run: Run, add: Callable[..., str], *, version: str | None, warned: bool
) -> None:
    """A version of another release is a warning, and no difference. A release breaks nothing."""
    name = add(SNAPSHOT, OTHER, snapshot_api_version=version)
    result, document = run("check", name), json.loads(run("check", "--json", name).stdout)
    assert (result.exit_code, document["differs"]) == (0, False)
    assert [each["what"] for each in document["warnings"]] == ["api_version"] * warned
    said = f"Its objects are of API version {version}, which cannot be changed"
    assert (said in result.stdout) is warned
    create = f"flask destination create --url {URL} --payload snapshot"
    assert (create in result.stdout) is warned
    assert document["snapshot_api_version"] == version


def test_list_shows_the_api_version(run: Run, add: Callable[..., str]) -> None:
    """The column of the payload has the version of snapshot events."""
    add(SNAPSHOT)
    _, row = run("list").stdout.splitlines()
    assert re.split(r" {2,}", row)[3] == f"snapshot ({stripe.api_version})"


def test_wildcard(run: Run, stripe_api: StripeApi, add: Callable[..., str]) -> None:
    """It enables all types, with a warning. --prune replaces it by the handled types."""
    name = add("*", SNAPSHOT)
    document = json.loads(run("check", "--json", name).stdout)
    assert [each["what"] for each in document["warnings"]] == ["wildcard"]
    assert (document["missing_at_stripe"], document["without_a_handler"]) == ([], ["*"])
    assert f"Enable exactly the handled types with `flask destination sync {name} --prune`" in (
        run("check", name).stdout
    )
    assert "There is nothing to change." in run("sync", name, "--yes").stdout
    assert f"  add     {OTHER}\n  remove  *\n" in run("sync", name, "--prune", "--yes").stdout
    assert stripe_api.destinations.get(name)["enabled_events"] == [SNAPSHOT, OTHER]
    assert run("check", name).exit_code == 0


def test_thin_destination_without_a_thin_module(
    make_run: Callable[..., Run], stripe_api: StripeApi
) -> None:
    """It is a problem, with the command for a snapshot destination, and is not synced."""
    run, name = make_run(SNAPSHOT_MODULES), stripe_api.destinations.add(URL, [THIN])
    sentence = (
        "Its payload is thin, which cannot be changed, and no handler module takes thin events."
        " Create a snapshot destination with"
        f" `flask destination create --url {URL} --payload snapshot`."
    )
    assert sentence in run("check", name).stdout
    result = run("sync", name, "--yes")
    assert (result.exit_code, result.stderr) == (1, f"Error: {sentence}\n")


def test_docs_show_the_real_sentence(make_run: Callable[..., Run], add: Callable[..., str]) -> None:
    """The documentation shows the problem of a snapshot destination without a module for it."""
    result = make_run(THIN_MODULE)("sync", add(SNAPSHOT))
    sentence = result.stderr.removeprefix("Error: ")
    assert f"```text\n{sentence}```" in PAGES["docs/destinations-and-doctor.md"]


def test_only_a_fallback_for_snapshot_events(
    make_run: Callable[..., Run], add: Callable[..., str]
) -> None:
    """A destination may send all types to ``snapshot_fallback.py``. There is nothing to sync."""
    run, name = make_run({**THIN_MODULE, **FALLBACK}), add("*")
    document = json.loads(run("check", "--json", name).stdout)
    assert (document["problems"], document["warnings"]) == ([], [])
    assert "No snapshot event type has a handler module" in run("sync", name).stderr
