"""``flask doctor``: the whole output and the exit status."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devkit.stripe_api import StripeApi
from tests.cli.doctor.conftest import TYPES, examine
from tests.conftest import SECRET, Receiver


def test_sound_installation(ours: Receiver, url: str, stripe_api: StripeApi) -> None:
    """A sound installation has one OK line for each check, with a real ping. Exit status 0."""
    name = stripe_api.destinations.add(url, TYPES, secret=SECRET)
    found = examine(ours, "--strict")
    package = ours.services.settings.handlers_package
    assert found.status == 0
    assert {level for level, _, _ in found.lines} == {"OK"}
    assert [what for _, what, _ in found.lines] == [
        "settings",
        "handlers",
        "inbox",
        "pending",
        "dead",
        "key",
        "clock",
        "destination",
        "ping",
    ]
    (settings, handlers, inbox, *_), texts = found.lines, dict(line[1:] for line in found.lines)
    assert settings[2].startswith("inline mode, a test key, 1 signing secret, the stand-in at ")
    assert handlers[2] == f"2 event types and a fallback, in {package}"
    assert inbox[2] == f"{ours.services.inbox.address} can be written"
    assert texts["key"] == "a test key that reads events and event destinations"
    assert texts["destination"] == f"{name} sends 2 handled types to {url}"
    assert texts["ping"].startswith(f"{name}: a ping came and was handled in ")
    (pinged,) = ours.services.inbox.administration.latest(limit=2)
    assert (pinged.type, pinged.outcome) == ("v2.core.event_destination.ping", "fallback")


@pytest.mark.parametrize(("option", "status"), [([], 0), (["--strict"], 1)])
def test_warning_alone(
    option: list[str], status: int, ours: Receiver, stripe_api: StripeApi
) -> None:
    """A WARN changes the exit status only with --strict."""
    stripe_api.destinations.add("https://your.host/webhook", [*TYPES, "v1.charge.failed"])
    found = examine(ours, "--no-ping", *option)
    assert {level for level, _, _ in found.lines} == {"OK", "WARN"}
    assert found.status == status


def test_failure(make_ours: Callable[..., Receiver], stripe_api: StripeApi) -> None:
    """One FAIL is exit status 1, even if all other lines are OK."""
    stripe_api.destinations.add("https://your.host/webhook", TYPES[:1])
    found = examine(make_ours(), "--no-ping")
    assert [level for level, _, _ in found.lines].count("FAIL") == 1
    assert found.status == 1
