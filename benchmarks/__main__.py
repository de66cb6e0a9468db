"""``make bench``: the service beside the snippet of Stripe's documentation.

Both run under the same gunicorn settings and take the same signed notifications from ``wrk``, in
turn, for several rounds; the ratios are taken round by round, so that a machine that slows down
slows both. Everything stays on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import burst, frozen, idle, mixed, priority
from benchmarks.serving import Subject, load, serve

#: As it would be served without the service, and as it is by the service's own worker, which is
#: faster than gunicorn's.
SNIPPETS = [
    Subject(
        "snippet, gthread",
        ("benchmarks.snippet:load_wsgi()", "--worker-class", "gthread", "--threads", "8"),
        (("WORKER_CPU_AFFINITY", "off"),),
    ),
    Subject("snippet, the service's worker", ("benchmarks.snippet:load()",)),
]
SUBJECTS = [
    *SNIPPETS,
    Subject("service, inline, SQLite"),
    # Recorded only: what is worked off beside it would be another figure.
    Subject("service, queue, SQLite", environ=(("PROCESSING", "queue"), ("WORKER_THREADS", "0"))),
]


@dataclass(frozen=True)
class Figures:
    """What one round of one subject showed."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory_mb: float


def main() -> None:
    """Measure all subjects in turn, and print the medians and the ratios to the snippets."""
    options = _options()
    if options.frozen:
        frozen.run()
        return
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk, which is not here. On Debian: apt-get install wrk")
    subjects = SUBJECTS + ([_on_postgresql(options.postgresql)] if options.postgresql else [])
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append({each.name: _measure(each, options) for each in subjects})
    if rounds:
        _report(rounds)
    burst.run(options.burst)
    mixed.run(options.mixed)
    idle.run(options.idle)
    priority.run(options.priority)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="0 for none")
    parser.add_argument("--seconds", type=int, default=5, help="of load, for each subject a round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--burst", type=int, default=5000, help="deliveries at once; 0 for none")
    parser.add_argument("--mixed", type=int, default=5, help="seconds beside slow ones; 0 for none")
    parser.add_argument("--idle", type=int, default=20, help="events for idle workers; 0 for none")
    parser.add_argument("--priority", type=int, default=3000, help="events of a burst; 0 for none")
    parser.add_argument("--frozen", action="store_true", help="only freeze a PostgreSQL of its own")
    parser.add_argument("--postgresql", metavar="URL", help="measure the service on it as well")
    return parser.parse_args()


def _on_postgresql(url: str) -> Subject:
    return Subject("service, inline, PostgreSQL", environ=(("DATABASE_URL", url),))


def _measure(subject: Subject, options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as folder, serve(subject, Path(folder)) as server:
        file, connections = Path(folder) / "load", options.connections
        # Warm: classes imported, pools full.
        load(server, file, connections=connections, seconds=1)
        before = server.cpu_seconds()
        result = load(server, file, connections=connections, seconds=options.seconds)
        cpu = server.cpu_seconds() - before
        if result["refused"] or result["broken"] or result["used"] > 1:
            sys.exit(f"{subject.name}: not a fair measurement: {result}")
        requests = result["requests"]
        return Figures(
            rate=requests / result["seconds"],
            p50_ms=result["p50_ms"],
            p99_ms=result["p99_ms"],
            cpu_us=cpu / requests * 1e6,
            memory_mb=server.memory_mb(),
        )


def _report(rounds: list[dict[str, Figures]]) -> None:
    print(f"{'':32}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'MB':>7}")
    for name in rounds[0]:
        _row(name, [each[name] for each in rounds], "{:>12.0f}", "{:>9.1f}")
    for snippet in SNIPPETS:
        print(f"\nmedian of the ratios to: {snippet.name}")
        for name in rounds[0]:
            ratios = [_ratio(each[name], each[snippet.name]) for each in rounds]
            _row(name, ratios, "{:>12.2f}", "{:>9.2f}")


def _ratio(one: Figures, other: Figures) -> Figures:
    return Figures(
        one.rate / other.rate,
        one.p50_ms / other.p50_ms,
        one.p99_ms / other.p99_ms,
        one.cpu_us / other.cpu_us,
        one.memory_mb / other.memory_mb,
    )


def _row(name: str, figures: list[Figures], rate: str, other: str) -> None:
    cells = [
        rate.format(statistics.median(each.rate for each in figures)),
        other.format(statistics.median(each.p50_ms for each in figures)),
        other.format(statistics.median(each.p99_ms for each in figures)),
        other.format(statistics.median(each.cpu_us for each in figures)),
        other.format(statistics.median(each.memory_mb for each in figures))[2:],
    ]
    print(f"{name:32}{''.join(cells)}")


if __name__ == "__main__":
    main()
