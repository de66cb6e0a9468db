"""``flask events show``: a readable body, and tracebacks that begin with the exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.cli.output import iso_time
from app.operations import history
from devkit import samples
from devkit.deliver import Deliver, MakeDeliver
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import pairs, raw_sql

Make = Callable[..., Receiver]
#: A small body that is very long when it is indented.
NESTED = "[" * 900 + ",".join("0" * 2000) + "]" * 900
TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
FAILING = """
    attempts = 0

    def handle(notif, client):
        global attempts
        attempts += 1
        raise ValueError(f"request req_{attempts} failed")
"""


@pytest.fixture
def receiver(make_receiver: Make) -> Receiver:
    """An application whose callback fails with another text each time."""
    return make_receiver({MODULE: FAILING})


@pytest.fixture
def paired(make_deliver: MakeDeliver, database_url: str) -> Deliver:
    """``deliver`` for a service with a pair, on each database."""
    return make_deliver(modules=pairs.MODULES, database_url=database_url)


def deliver(receiver: Receiver, times: int) -> None:
    """Deliver an event several times."""
    for _ in range(times):
        receiver.deliver(samples.notification(TYPE, event_id="evt_1"))


def show(receiver: Receiver, *options: str, event_id: str = "evt_1") -> list[str]:
    """Return the lines of ``flask events show``."""
    runner = receiver.app.test_cli_runner()
    return runner.invoke(args=["events", "show", event_id, *options]).stdout.splitlines()


def twin_of(paired: Deliver, event_id: str) -> tuple[str, Any]:
    """Return the line about the twin of an event, and what a program gets."""
    (line,) = (each for each in show(paired.receiver, event_id=event_id) if each[:4] == "twin")
    (value,) = json.loads("\n".join(show(paired.receiver, "--json", event_id=event_id)))["twins"]
    return line.split(maxsplit=1)[1], value


def test_snapshot_event_is_shown(receiver: Receiver) -> None:
    """The object in a snapshot event is shown as indented JSON. It can be listed by its id."""
    event = samples.snapshot_event(
        "customer.source.created", event_id="evt_1", account="acct_1", object_id="src_1"
    )
    receiver.deliver(event)
    lines = show(receiver)
    assert "type         customer.source.created" in lines
    assert "context      acct_1" in lines
    assert '      "id": "src_1",' in lines
    runner = receiver.app.test_cli_runner()
    listed = runner.invoke(args=["events", "list", "--object", "src_1"]).stdout
    assert "evt_1" in listed


def test_exception_is_shown_first(receiver: Receiver) -> None:
    """Behind it are the frames of the handler package. Others are left out."""
    deliver(receiver, 1)
    lines = show(receiver)
    (at,) = (number for number, line in enumerate(lines) if line.startswith("attempt 1: failed"))
    assert lines[at + 1] == "ValueError: request req_1 failed"
    assert f"{MODULE}.py" in lines[at + 2]
    assert lines[at + 3] == '    raise ValueError(f"request req_{attempts} failed")'
    assert lines[at + 4].endswith(" more frames (--full)")
    assert len(lines) == at + 5


def test_same_ends_are_one_entry(receiver: Receiver) -> None:
    """Attempts with the same frames are one entry, with the text of the last one."""
    deliver(receiver, 3)
    lines = show(receiver)
    assert len([line for line in lines if line.startswith("attempts 1 to 3: failed, ")]) == 1
    assert [
        line for line in lines if "req_" in line and "reason" not in line and "{" not in line
    ] == ["ValueError: request req_3 failed"]


def test_full_shows_everything(receiver: Receiver) -> None:
    """--full has each attempt and each frame."""
    deliver(receiver, 2)
    lines = show(receiver, "--full")
    assert [line[:17] for line in lines if line.startswith("attempt")][1:] == [
        "attempt 1: failed",
        "attempt 2: failed",
    ]
    assert lines.count("Traceback (most recent call last):") == 2
    assert any("app/processing/runner.py" in line for line in lines)
    assert "more frame" not in "\n".join(lines)


def test_same_traceback_with_another_outcome(receiver: Receiver, sqlite_url: str) -> None:
    """Another outcome is another entry. The same traceback is not repeated."""
    deliver(receiver, 2)
    raw_sql.execute(sqlite_url, "UPDATE events SET outcome = 'exhausted', state = 'dead'")
    lines = show(receiver)
    (at,) = (number for number, line in enumerate(lines) if line.startswith("attempt 2: exhausted"))
    assert lines[at + 1 :] == ["The same traceback."]


def test_attempts_without_a_traceback_are_told_apart(receiver: Receiver, sqlite_url: str) -> None:
    """Attempts that crashed are one entry. They have no traceback."""
    deliver(receiver, 3)
    crashed = "SET outcome = 'crashed', traceback = NULL, reason = NULL"
    raw_sql.execute(sqlite_url, f"UPDATE attempts {crashed}")
    raw_sql.execute(sqlite_url, f"UPDATE events {crashed}")
    lines = show(receiver)
    assert lines[-1].startswith("attempts 1 to 3: crashed, all with the same end, from ")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{"b":1,"a":["\u00e9"]}', ["{", '  "b": 1,', '  "a": [', '    "\u00e9"', "  ]", "}"]),
        ("no JSON", ["no JSON"]),
        ("[" * 100_000, ["[" * 100_000]),
        (NESTED, [NESTED]),
    ],
)
def test_body_is_indented(receiver: Receiver, sqlite_url: str, body: str, shown: list[str]) -> None:
    """A body in JSON has one value in each line. Another body is shown as it is."""
    deliver(receiver, 1)
    blob = f"x'{body.encode().hex()}'"
    raw_sql.execute(sqlite_url, f"UPDATE events SET body = {blob}")  # noqa: S608 - a value of the test
    lines = show(receiver)
    at = lines.index("body")
    assert lines[at + 1 : at + 1 + len(shown)] == shown


def test_long_body_is_not_indented() -> None:
    """A body over the limit of the indented text is not even parsed."""
    body = b"[" + b" " * history.PRETTY_LENGTH + b"]"
    assert history.pretty_body(body) == body.decode()


def test_effects_are_shown(receiver: Receiver) -> None:
    """What ``app.once`` recorded is shown with its time, also to programs."""
    deliver(receiver, 1)
    receiver.services.inbox.effects.record("evt_1", "send the mail")
    (effect,) = receiver.services.inbox.effects.of_event("evt_1")
    recorded = iso_time(effect.at)
    assert show(receiver)[-1] == f"effect 'send the mail' recorded at {recorded}"
    (value,) = json.loads("\n".join(show(receiver, "--json")))["effects"]
    assert value == {"purpose": "send the mail", "at": recorded}


def test_both_events_of_a_pair_show_their_twin(paired: Deliver, stripe_api: StripeApi) -> None:
    """Each has the id, the type and the outcome of the other one, and the command that shows it."""
    pairs.send_snapshot(paired)
    pairs.send_thin(paired, stripe_api)

    line, value = twin_of(paired, "evt_s")
    assert line.startswith("evt_n, v1.customer.created, done, twin: `")
    assert line.endswith("flask events show evt_n`")
    assert value == {"id": "evt_n", "type": pairs.THIN, "state": "done", "outcome": "twin"}
    assert twin_of(paired, "evt_n")[1]["outcome"] == "handled"


def test_twin_that_has_not_come(paired: Deliver, stripe_api: StripeApi) -> None:
    """The thin event names it. Nothing names the twin of a snapshot event that came alone."""
    pairs.send_thin(paired, stripe_api)

    line, value = twin_of(paired, "evt_n")
    assert line == "evt_s, which is not in the inbox"
    assert value == {"id": "evt_s", "type": None, "state": None, "outcome": None}

    paired(samples.snapshot_event(pairs.SNAPSHOT, event_id="evt_other"))
    assert (
        json.loads("\n".join(show(paired.receiver, "--json", event_id="evt_other")))["twins"] == []
    )


def test_event_that_waits_for_its_twin(
    make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
) -> None:
    """Its reason says so, and the twin is shown."""
    sending = "before = lambda: None\ndef handle(event, client): before()\n"
    modules = {**pairs.MODULES, "customer_created": sending}
    deliver = make_deliver(modules=modules, database_url=database_url)
    module: Any = deliver.receiver.module("customer_created")
    lines: list[str] = []

    def send() -> None:
        pairs.send_thin(deliver, stripe_api)
        lines.extend(show(deliver.receiver, event_id="evt_n"))

    module.before = send
    pairs.send_snapshot(deliver)

    assert "reason       its twin was running" in lines
    assert any(each.startswith("twin         evt_s, customer.created, running") for each in lines)


def test_failed_shadow(make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str) -> None:
    """It is done, with its reason and its traceback, and names its snapshot event."""
    deliver = make_deliver(modules=pairs.FAILING_SHADOW, database_url=database_url)
    pairs.send_snapshot(deliver)
    assert pairs.send_thin(deliver, stripe_api).outcome == "shadow"

    lines = show(deliver.receiver, event_id="evt_n")
    assert "reason       ValueError: no" in lines
    assert lines[lines.index("ValueError: no") + 1].endswith("line 2, in handle")
    assert twin_of(deliver, "evt_n")[1]["id"] == "evt_s"
    assert twin_of(deliver, "evt_s")[1]["outcome"] == "shadow"
