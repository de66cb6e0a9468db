"""The local checks: settings, handlers, inbox."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from app.cli.doctor import file_systems, waiting
from app.cli.doctor.lines import Level, Line
from app.cli.hints import hint
from app.cli.output import few, plural
from app.errors import InboxUnavailable, MigrationPending, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox import Inbox
    from app.inbox.report import Report
    from app.processing.registry import Registry
    from app.settings import Settings


def problems(what: str, error: StartError) -> Iterator[Line]:
    """Yield a line for each problem that keeps the service from starting."""
    for problem in error.problems:
        yield Line(Level.FAIL, what, problem)


def settings_lines(settings: Settings) -> Iterator[Line]:
    """Yield lines about valid settings."""
    for name, nearest in settings.origin.misspelt:
        text = f"{name} is no setting, and has no effect"
        yield Line(Level.WARN, "settings", text, f"Do you mean {nearest}?")
    yield _settings_line(settings)


def _settings_line(settings: Settings) -> Line:
    file = settings.origin.dotenv
    source = f"the environment and {file}" if file else "the environment"
    secrets = plural(len(settings.stripe_webhook_secrets), "signing secret")
    text = f"{settings.processing} mode, {settings.key_kind}, {secrets}"
    if settings.stripe_api_base and settings.livemode:
        return Line(
            Level.WARN,
            "settings",
            f"{text}, and STRIPE_API_BASE is {settings.stripe_api_base}, not Stripe",
            "Remove STRIPE_API_BASE in live mode",
        )
    if settings.stripe_api_base:
        text += f", the stand-in at {settings.stripe_api_base}"
    return Line(Level.OK, "settings", f"{text}; from {source}")


def handlers_lines(registry: Registry, settings: Settings) -> Iterator[Line]:
    """Yield a line about valid handler modules."""
    if registry.modules:
        types = plural(len(registry.modules), "event type")
        text = f"{types} and a fallback, in {settings.handlers_package}"
        yield Line(Level.OK, "handlers", text)
    else:
        yield Line(
            Level.WARN,
            "handlers",
            "no event type has a handler module: every event goes to the fallback",
            f"Write a handler in {settings.handlers_package}",
        )


def fallback_lines(registry: Registry, inbox: Inbox, *, livemode: bool) -> Iterator[Line]:
    """Yield a line if the fallback took events of this mode whose type has a module now."""
    try:
        counts = inbox.administration.counts_by_fallback(livemode=livemode)
    except (InboxUnavailable, StartError):
        return  # another line reports it
    handled = [module.event_type for module in registry.modules]
    taken = [event_type for event_type in handled if event_type in counts]
    if taken:
        events = plural(sum(counts[each] for each in taken), "event")
        yield Line(
            Level.WARN,
            "handlers",
            f"the fallback took {events} before there was a handler for {few(taken)}",
            f"Run them with {hint('events', 'retry', '--outcome', 'fallback')}",
        )


def inbox_lines(inbox: Inbox, settings: Settings) -> Iterator[Line]:
    """Yield lines about the inbox: can it be written, is it durable, how long is its backlog."""
    inbox.forbid_creation()
    lines = list(_misplaced(inbox, settings))
    yield from lines
    if lines:
        return
    try:
        inbox.migrate(fail_fast=True)
        inbox.check()
        report = inbox.administration.report()
        polling = inbox.administration.polling_reason() if settings.is_queue else None
    except MigrationPending as error:
        text = f"{error.reason} (MIGRATE=check): deliveries are answered 503"
        yield Line(Level.FAIL, "inbox", text, f"Run {hint('db', 'upgrade')}")
        return
    except InboxUnavailable as error:
        yield _unreachable(inbox, error.reason)
        return
    except StartError as error:
        yield from problems("inbox", error)
        return
    lines = [*_durability(inbox, settings, report), *_exposed(inbox), *_polling(polling)]
    yield from lines or [Line(Level.OK, "inbox", f"{inbox.address} can be written")]
    yield from waiting.lines(inbox, report, settings)


def _polling(reason: str | None) -> Iterator[Line]:
    """Yield why no notification wakes a worker, if so."""
    if reason is not None:
        yield Line(
            Level.WARN,
            "inbox",
            f"workers learn of new events by polling only, up to half a second late ({reason})",
            "Set DATABASE_LISTEN_URL to a URL of the same database without the pooler",
        )


def _misplaced(inbox: Inbox, settings: Settings) -> Iterator[Line]:
    """Yield why the SQLite file cannot be checked, if so."""
    found = inbox.examine()
    if found is None:
        return
    if found.known and not found.exists:
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} is missing, and was here before: deliveries are answered 503",
            "Put the file back. Or restart the service: it starts with an empty inbox, without the"
            " record of handled events",
        )
    elif not found.exists:
        yield _not_created_yet(inbox, settings)
    elif found.user is not None:
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} was replaced while process {found.user} had it open",
            "The process opens the new file at its next delivery. If it does not, see its log",
        )
    elif found.stuck is not None:
        yield Line(
            Level.FAIL,
            "inbox",
            f"the index of {inbox.address} was removed while process {found.stuck} had it open:"
            " it answers 503",
            "Restart the service",
        )


def _not_created_yet(inbox: Inbox, settings: Settings) -> Line:
    folder = next(parent for parent in _file(settings).parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return _unreachable(inbox, f"{folder} is no folder that can be written")
    created = Line(
        Level.WARN,
        "inbox",
        f"{inbox.address} does not exist: the next start creates it",
        "Start the service. If it is running, its folder was removed, and deliveries are answered"
        " 503: put the folder back",
    )
    return next(_place(inbox, settings), created)


def _unreachable(inbox: Inbox, reason: str) -> Line:
    if "unsupported startup parameter" in reason:
        return Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} is a pooler that refuses parameters of DATABASE_URL ({reason})",
            "Remove them from DATABASE_URL, and set them for the role or the database",
        )
    return Line(
        Level.FAIL,
        "inbox",
        f"{inbox.address} cannot be reached or written ({reason})",
        "Check DATABASE_URL and the database, and for SQLite the rights and the disk. If the"
        " service cannot use it either, deliveries are answered 503",
    )


def _file(settings: Settings) -> Path:
    return Path(sa.make_url(settings.database_url).database or "").absolute()


def _exposed(inbox: Inbox) -> Iterator[Line]:
    """Yield files that other users can open, and logs of replaced files."""
    found = inbox.examine()
    if found is not None and found.exposed:
        yield Line(
            Level.WARN,
            "inbox",
            "other users can read events or hold the lock:"
            f" {few([str(path) for path in found.exposed])}",
            "Make the user of the service the owner of these files, and remove all other rights",
        )
    if found is not None and found.aside:
        yield Line(
            Level.WARN,
            "inbox",
            f"logs of replaced files may hold events: {few([str(path) for path in found.aside])}",
            "Remove them when you no longer need the events in the replaced files",
        )


def _durability(inbox: Inbox, settings: Settings, report: Report) -> Iterator[Line]:
    """Yield what could lose acknowledged events, or run them twice."""
    queue = settings.is_queue
    if report.not_durable:
        yield Line(
            Level.FAIL if queue else Level.WARN,
            "inbox",
            f"{inbox.address} can lose commits: {few(list(report.not_durable))} is off",
            "Switch it on in PostgreSQL's configuration",
        )
    if report.lossy_encoding is not None:
        yield Line(
            Level.WARN,
            "inbox",
            f"{inbox.address} has the encoding {report.lossy_encoding}, which lacks most"
            " characters: an error with such a character is stored without its traceback",
            f"Copy it to a database with the encoding UTF8, with {hint('db', 'backup')} and"
            f" {hint('db', 'restore')}",
        )
    yield from _place(inbox, settings)
    if report.hosts:
        yield Line(
            Level.WARN,
            "inbox",
            f"several hosts ran events on this SQLite file: {few(list(report.hosts))}",
            "Use PostgreSQL for more than one container: SQLite is a file on one machine",
        )


def _place(inbox: Inbox, settings: Settings) -> Iterator[Line]:
    """Yield why SQLite's file cannot stay on its file system, if so."""
    url = sa.make_url(settings.database_url)
    place = file_systems.type_of(_file(settings)) if url.get_backend_name() == "sqlite" else ""
    if settings.is_queue and place in file_systems.EPHEMERAL:
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} is on {place}, which is lost with the container, and with it all"
            " events that were answered 200 and have not run",
            "Mount a volume there, or use PostgreSQL",
        )
    if file_systems.is_network(place):
        yield Line(
            Level.FAIL,
            "inbox",
            f"{inbox.address} is on {place}, a network file system: SQLite's locks and shared"
            " memory do not work across it, so events can be lost or run twice",
            "Use a local disk, or PostgreSQL",
        )
