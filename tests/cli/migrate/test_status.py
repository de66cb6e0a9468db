"""``flask migrate status``: which events came as both kinds, and what to do next."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from devkit import samples
from devkit.deliver import Deliver, MakeDeliver
from devkit.stripe_api import StripeApi
from tests.cli.migrate.conftest import MODULES
from tests.support import raw_sql

Run = Callable[..., Result]

SNAPSHOT, THIN = "customer.created", "v1.customer.created"


@pytest.fixture
def deliver(make_deliver: MakeDeliver, database_url: str) -> Deliver:
    """``deliver`` for a service with one pair, on each database."""
    deliver = make_deliver(modules=MODULES, database_url=database_url)
    deliver.receiver.services.inbox.migrate()
    return deliver


@pytest.fixture
def send(deliver: Deliver, stripe_api: StripeApi) -> Callable[..., None]:
    """A function that delivers the events of an action: by default those of both kinds."""

    def send(number: int, *types: str) -> None:
        thin = samples.notification(THIN, event_id=f"evt_n_{number}")
        snapshot = samples.snapshot_event(SNAPSHOT, event_id=f"evt_s_{number}")
        stripe_api.put_event(samples.event(thin, snapshot_event=f"evt_s_{number}"))
        for event_type in types or (SNAPSHOT, THIN):
            deliver(snapshot if event_type == SNAPSHOT else thin)

    return send


def row(run: Run, *options: str) -> Any:
    """Return the one row of the report."""
    (found,) = json.loads(run("status", "--json", *options).output)
    return found


def test_both_kinds_came(run: Run, send: Callable[..., None]) -> None:
    """The type is ready."""
    send(1)
    send(2, THIN, SNAPSHOT)
    found = row(run)
    assert found["type"] == SNAPSHOT
    assert [found[kind]["both"] for kind in ("snapshot", "thin")] == [2, 2]
    assert found["next"] == "ready: remove the type from the old endpoint"


@pytest.mark.parametrize(("kind", "event_type"), [("snapshot", SNAPSHOT), ("thin", THIN)])
def test_one_kind_came(run: Run, send: Callable[..., None], kind: str, event_type: str) -> None:
    """The report says which one, and since when."""
    send(1)
    send(2, event_type)
    found = row(run)
    assert (found[kind]["both"], found[kind]["alone"]) == (1, 1)
    assert found[kind]["alone_at"].endswith("Z")
    assert found["next"] == "find out why events came alone, or wait"
    assert found[kind]["alone_at"] in run("status").output


def received(database_url: str, **times: float) -> None:
    """Set how many seconds after 12:00 UTC of yesterday events were received."""
    noon = time.time() // 86400 * 86400 - 43200
    rows = [{"id": each, "at": noon + seconds} for each, seconds in times.items()]
    raw_sql.execute(database_url, "UPDATE events SET received_at = :at WHERE id = :id", *rows)


def test_since_when_both_came(run: Run, send: Callable[..., None], database_url: str) -> None:
    """It is the first event after the last one that came alone, of whichever kind."""
    for number in (1, 2, 3):
        send(number)
    times = {"evt_s_1": 0, "evt_n_1": 2, "evt_n_2": 10, "evt_s_2": 11, "evt_s_3": 20, "evt_n_3": 21}
    received(database_url, **times)
    found = row(run, "--hours", "48")
    assert found["both_since_at"].endswith("T12:00:02.000Z")
    assert found["snapshot"]["both_since_at"].endswith("T12:00:00.000Z")

    send(4, THIN)
    received(database_url, evt_n_4=5)
    found = row(run, "--hours", "48")
    assert found["both_since_at"].endswith("T12:00:10.000Z")
    assert found["both_since_at"] in run("status", "--hours", "48").output

    send(5, SNAPSHOT)
    received(database_url, evt_s_5=30)
    assert row(run, "--hours", "48")["both_since_at"] is None


def test_nothing_came(run: Run) -> None:
    """A type without events says nothing about its destination."""
    assert row(run)["next"] == "wait for events of both kinds"
    assert "wait for events of both kinds" in run("status").output


def test_dead_event(run: Run, send: Callable[..., None], database_url: str) -> None:
    """It needs a person before the type can move."""
    send(1)
    raw_sql.execute(database_url, "UPDATE events SET state = 'dead' WHERE id = 'evt_n_1'")
    assert row(run)["next"] == "repair the failed events"
    assert row(run)["thin"]["failed"] == 1


def test_hours(run: Run, send: Callable[..., None], database_url: str) -> None:
    """Older events do not count."""
    send(1)
    raw_sql.execute(database_url, "UPDATE events SET received_at = received_at - 7200")
    assert row(run, "--hours", "1")["snapshot"]["both"] == 0
    assert row(run, "--hours", "3")["snapshot"]["both"] == 1


def test_no_pair(make_deliver: MakeDeliver) -> None:
    """The command names the first step."""
    receiver = make_deliver(modules={}).receiver
    receiver.services.inbox.migrate()
    runner = receiver.app.test_cli_runner()
    assert "flask migrate plan" in runner.invoke(args=["migrate", "status"]).output


def test_shadow(make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str) -> None:
    """A shadow is compared too, and its failure is counted."""
    shadow = "SHADOW = True\ndef handle(notif, client): assert notif.id != 'evt_n_2'\n"
    modules = {**MODULES, "v1_customer_created": shadow}
    deliver = make_deliver(modules=modules, database_url=database_url)
    steps = []
    for number in (1, 2):
        thin = samples.notification(THIN, event_id=f"evt_n_{number}")
        stripe_api.put_event(samples.event(thin, snapshot_event=f"evt_s_{number}"))
        deliver(thin)
        deliver(samples.snapshot_event(SNAPSHOT, event_id=f"evt_s_{number}"))
        result = deliver.receiver.app.test_cli_runner().invoke(args=["migrate", "status", "--json"])
        (found,) = json.loads(result.output)
        steps.append(
            (found["shadow"], found["thin"]["both"], found["thin"]["failed"], found["next"])
        )
    assert steps == [
        (True, 1, 0, "ready: remove SHADOW from the thin module"),
        (True, 2, 1, "repair the failed events"),
    ]


@pytest.mark.parametrize("processing", ["inline", "queue"])
@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        ("SHADOW = True\ndef handle(notif, client): pass\n", "shadow"),
        ("def handle(notif, client): pass\n", "twin"),
    ],
    ids=["mended", "no shadow"],
)
def test_failed_shadow_that_ran_again(  # noqa: PLR0913 - pytest's fixtures
    make_deliver: MakeDeliver,
    stripe_api: StripeApi,
    database_url: str,
    *,
    processing: str,
    after: str,
    outcome: str,
) -> None:
    """Each event counts by its latest attempt, so a repaired module clears its failures."""
    places = {"database_url": database_url, "processing": processing}
    writing = "SHADOW = True\ndef handle(notif, client): client.v1.customers.create({})\n"
    deliver = make_deliver(modules={**MODULES, "v1_customer_created": writing}, **places)
    thin = samples.notification(THIN, event_id="evt_n")
    stripe_api.put_event(samples.event(thin, snapshot_event="evt_s"))
    deliver(thin)
    deliver(samples.snapshot_event(SNAPSHOT, event_id="evt_s"))
    deliver.run_due()
    assert "WriteRefused" in str(deliver.receiver.event("evt_n").traceback)

    deliver = make_deliver(modules={**MODULES, "v1_customer_created": after}, **places)
    run = deliver.receiver.app.test_cli_runner().invoke
    assert json.loads(run(args=["migrate", "status", "--json"]).output)[0]["thin"]["failed"] == 1
    assert run(args=["events", "retry", "evt_n", "--again", "--yes"]).exit_code == 0
    deliver.run_due()

    (found,) = json.loads(run(args=["migrate", "status", "--json"]).output)
    assert deliver.receiver.event("evt_n").outcome == outcome
    assert (found["thin"]["both"], found["thin"]["failed"]) == (1, 0)
