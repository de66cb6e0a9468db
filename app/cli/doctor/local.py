"""What the doctor looks at on this side: the settings, the handlers, the inbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from app.cli.destination.compare import mode
from app.cli.doctor.lines import Level, Line, count, duration, few
from app.errors import StartError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox import Inbox
    from app.inbox.report import Report
    from app.registry import Registry
    from app.settings import Settings

#: Where Linux says which file system lies where.
MOUNTS = Path("/proc/self/mountinfo")
#: Those that go with the container, or with the machine's memory.
THROWN_AWAY = {"overlay", "aufs", "tmpfs", "ramfs"}
#: Seconds for which Stripe delivers again, in live and in test mode (some hours there).
REDELIVERY_SECONDS = {True: 3 * 86400, False: 86400}
#: Seconds that a due event may wait for a worker: what is slow, and what is wrong.
SLOW_SECONDS, STUCK_SECONDS = 60, 900


def problems(what: str, error: StartError) -> Iterator[Line]:
    """Yield a line for each problem that keeps the service from starting."""
    for problem in error.problems:
        yield Line(Level.FAIL, what, problem)


def settings_lines(settings: Settings) -> Iterator[Line]:
    """Yield what the settings say."""
    secrets = count(len(settings.stripe_webhook_secrets), "signing secret")
    text = f"{settings.processing} mode, a {mode(live=settings.livemode)} key, {secrets}"
    if settings.stripe_api_base and settings.livemode:
        yield Line(
            Level.WARN,
            "settings",
            f"{text}, and STRIPE_API_BASE is {settings.stripe_api_base}, not Stripe",
            "Remove STRIPE_API_BASE where live events are handled",
        )
    elif settings.stripe_api_base:
        yield Line(Level.OK, "settings", f"{text}, the stand-in at {settings.stripe_api_base}")
    else:
        yield Line(Level.OK, "settings", text)


def handlers_lines(registry: Registry, settings: Settings) -> Iterator[Line]:
    """Yield what is plugged in."""
    if registry.modules:
        types = count(len(registry.modules), "event type")
        text = f"{types} and a fallback, in {settings.handlers_package}"
        yield Line(Level.OK, "handlers", text)
    else:
        yield Line(
            Level.WARN,
            "handlers",
            "no event type has a handler module: every event goes to the fallback",
            f"Write a handler in {settings.handlers_package}",
        )


def inbox_lines(inbox: Inbox, settings: Settings) -> Iterator[Line]:
    """Yield whether the inbox can be written and is kept, and what waits in it."""
    try:
        inbox.check()
        report = inbox.report()
    except Unavailable as error:
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} cannot be reached or written ({error.reason})",
            "Check DATABASE_URL and the database. Until then deliveries are answered 503",
        )
        return
    except StartError as error:
        yield from problems("inbox", error)
        return
    yield from list(_durability(inbox, settings, report)) or [
        Line(Level.OK, "inbox", f"{inbox.address} can be written")
    ]
    yield _waiting(report, settings)
    yield _dead(report)


def _durability(inbox: Inbox, settings: Settings, report: Report) -> Iterator[Line]:
    """Yield what could lose what was acknowledged, or run it twice."""
    queue = settings.processing == "queue"
    if report.not_durable:
        yield Line(
            Level.FAIL if queue else Level.WARN,
            "inbox",
            f"{inbox.address} can lose commits: {few(list(report.not_durable))} is off",
            "Switch it on in PostgreSQL's configuration",
        )
    url = sa.make_url(settings.database_url)
    place = _file_system(Path(url.database or "")) if url.get_backend_name() == "sqlite" else ""
    if queue and place in THROWN_AWAY:
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} lies on {place}, which goes with the container: what was answered"
            " 200 and has not run is lost then",
            "Mount a volume there, or use PostgreSQL",
        )
    if report.hosts:
        yield Line(
            Level.WARN,
            "inbox",
            f"several hosts ran events on SQLite in turns: {few(list(report.hosts))}",
            "Use PostgreSQL for more than one container: SQLite is a file on one machine",
        )


def _file_system(file: Path) -> str:
    """Return the type of the file system that ``file`` is on, as far as the system says it."""
    if not MOUNTS.is_file():
        return ""
    found: tuple[int, str] = (0, "")
    absolute = file.absolute()
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace(r"\040", " "))
        if absolute.is_relative_to(point):
            found = max(found, (len(point.parts), after.split()[0]))
    return found[1]


def _waiting(report: Report, settings: Settings) -> Line:
    """Judge by how long what waits has waited, and for whom."""
    if not report.waiting:
        return Line(Level.OK, "pending", "no event waits")
    text = f"{report.waiting} waiting, the oldest for {duration(report.oldest)}"
    if settings.processing == "queue":
        level = Level.WARN if report.overdue > SLOW_SECONDS else Level.OK
        level = Level.FAIL if report.overdue > STUCK_SECONDS else level
        overdue = f", due for {duration(report.overdue)}" if level else ""
        remedy = "Start workers, or more of them (WORKER_THREADS)" if level else ""
        return Line(level, "pending", text + overdue, remedy)
    if report.oldest > REDELIVERY_SECONDS[settings.livemode]:
        return Line(
            Level.WARN,
            "pending",
            f"{text}: longer than Stripe delivers again",
            "Resend them in Stripe's dashboard, or run them with `flask events retry`",
        )
    return Line(Level.OK, "pending", f"{text}: Stripe will deliver again")


def _dead(report: Report) -> Line:
    if not report.dead:
        return Line(Level.OK, "dead", "no event is dead")
    text = f"{report.dead} dead: given up, not readable, or failed too often"
    return Line(Level.WARN, "dead", text, "See why with `flask events list --state dead`")
