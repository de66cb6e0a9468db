"""A burst of one type before events of another: how long these wait, with and without a policy."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import replace

from app.inbox import Inbox, NewEvent
from app.inbox.claim_rules import ClaimRules

BULK, SMALL = "v1.customer.updated", "v1.checkout.session.completed"
CALLBACK_SECONDS = 0.005
THREADS = 4
SMALL_EVENTS = 200
SMALL_SECONDS = 0.01
RULES = {"no policy": ClaimRules(), 'PRIORITY = "low"': ClaimRules(low=frozenset({BULK}))}


def run(burst: int) -> None:
    """Run a burst of so many events beside some of another type, and print how long these wait."""
    if burst == 0:
        return
    print(
        f"\nA burst of {burst} events before {SMALL_EVENTS} of another type, {THREADS} threads,"
        f" callbacks of {CALLBACK_SECONDS * 1000:.0f} ms, SQLite"
    )
    print(f"{'policy of the burst':32}{'p50 ms':>9}{'p99 ms':>9}")
    for name, rules in RULES.items():
        waits = sorted(_measure(rules, burst))
        p50, p99 = statistics.median(waits), waits[int(len(waits) * 0.99)]
        print(f"{name:32}{p50 * 1000:>9.1f}{p99 * 1000:>9.1f}", flush=True)


def _measure(rules: ClaimRules, burst: int) -> list[float]:
    """Return the seconds for which each event of the small type waited for its claim."""
    event = NewEvent("", BULK, livemode=False, context=None, body=b"{}")
    recorded: dict[str, float] = {}
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/inbox.sqlite3"
        with closing(Inbox(url, lease_seconds=600, rules=lambda: rules)) as inbox:
            for number in range(burst):
                inbox.deliveries.enqueue(replace(event, id=f"evt_bulk_{number}"))
            workers = [
                threading.Thread(target=_work, args=(inbox, recorded, waits))
                for _ in range(THREADS)
            ]
            for worker in workers:
                worker.start()
            for number in range(SMALL_EVENTS):
                each = replace(event, id=f"evt_small_{number}", type=SMALL)
                recorded[each.id] = time.monotonic()
                inbox.deliveries.enqueue(each)
                time.sleep(SMALL_SECONDS)
            for worker in workers:
                worker.join()
    return waits


def _work(inbox: Inbox, recorded: dict[str, float], waits: list[float]) -> None:
    """Run events until all of the small type have run."""
    while len(waits) < SMALL_EVENTS:
        claim = inbox.claims.claim_due(livemode=False)
        if claim is None:
            time.sleep(CALLBACK_SECONDS)
            continue
        if claim.type == SMALL:
            waits.append(time.monotonic() - recorded[claim.event_id])
        time.sleep(CALLBACK_SECONDS)
        inbox.claims.finish(claim)
