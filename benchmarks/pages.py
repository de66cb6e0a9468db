"""Each page, command and query of an operator with a large inbox, on both databases.

    python -m benchmarks.pages [EVENTS]

It fills an inbox with so many events, asks for each address and each command several times, and
prints the median and the longest time in milliseconds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import psycopg
from flask import Flask

from app import create_app
from app.inbox import Inbox
from app.services import services
from app.settings import Settings
from app.states import State
from benchmarks.million import EVENTS, fill
from benchmarks.retention import postgresql

TIMES = 15
TOKEN = "fake-token-of-a-benchmark-0123456789"
UNKNOWN = "v1.no.event"

Named = tuple[str, Callable[[], object]]


def main() -> None:
    """Measure on SQLite and on PostgreSQL, and print a row for each page, command and query."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        _measure("SQLite", f"sqlite:///{folder}/inbox.sqlite3", count)
    with postgresql() as url:
        _measure("PostgreSQL, without VACUUM", url, count)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        _report("PostgreSQL", url)


def _measure(name: str, url: str, count: int) -> None:
    fill(url.replace("postgresql://", "postgresql+psycopg://"), count)
    print(f"{count} events")
    _report(name, url)


def _report(name: str, url: str) -> None:
    settings = Settings(
        "sk_test_fake", ("whsec_fake",), database_url=url, ops_token=TOKEN, log_level="error"
    )
    app = create_app(settings)
    inbox = services(app).inbox
    for what, ask in (*_pages(app, inbox), *_commands(app), *_queries(inbox)):
        times = [_milliseconds(ask) for _ in range(TIMES)]
        cells = f"{statistics.median(times):>8.1f}{max(times):>8.1f}"
        print(f"{name:28}{what:52}{cells}", flush=True)
    inbox.close()


def _milliseconds(ask: Callable[[], object]) -> float:
    begun = time.perf_counter()
    ask()
    return (time.perf_counter() - begun) * 1000


def _pages(app: Flask, inbox: Inbox) -> Iterator[Named]:
    latest = inbox.administration.latest(1)[0]
    group = inbox.groups.list(1)[0].fingerprint
    filters = [
        *(f"state={each}" for each in State),
        *(f"type={each}" for each in (latest.type, UNKNOWN)),
        *(f"state={each}&type={UNKNOWN}" for each in State),
        *("context=acct_none", "object=cus_none", "outcome=fallback", "outcome=gave_up"),
        *("state=done&outcome=wrong_mode", f"group={group}", "since=30d", "until=2d"),
    ]
    addresses = [
        *("/ops", "/ops/events", *(f"/ops/events?{each}" for each in filters)),
        *(f"/ops/events/{latest.id}", "/ops/groups", f"/ops/groups/{group}", "/ops/audit"),
        *("/metrics", "/readyz"),
    ]
    client = app.test_client()

    def ask(address: str) -> None:
        answer = client.get(address, headers={"Authorization": f"Bearer {TOKEN}"})
        if answer.status_code != 200:
            raise SystemExit(f"{address}: {answer.status}")

    for each in addresses:
        yield each, lambda each=each: ask(each)  # type: ignore[misc]  # bound at once


def _commands(app: Flask) -> Iterator[Named]:
    runner = app.test_cli_runner()

    def ask(words: str) -> None:
        ended = runner.invoke(args=words.split())
        if ended.exit_code:
            raise SystemExit(f"flask {words}: {ended.output}")

    for each in ("list", "list --state dead", "stats", "groups", "audit"):
        words = f"events {each}"
        yield f"flask {words}", lambda words=words: ask(words)  # type: ignore[misc]  # as above


def _queries(inbox: Inbox) -> Iterator[Named]:
    administration = inbox.administration
    yield "report of the doctor", administration.report
    yield "oldest due event", administration.oldest_due_seconds


if __name__ == "__main__":
    main()
