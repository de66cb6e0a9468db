"""The composition root: it constructs all services, for the server and for every command."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import click
import stripe
from flask import Flask

from app import log, text
from app.alerts.tasks import alert_tasks
from app.commands import Commands
from app.errors import StartError
from app.inbox import Inbox
from app.maintenance import retention
from app.maintenance.schedule import Maintenance, Task
from app.metrics.meter import FLUSH_SECONDS, Meter
from app.processing import registry
from app.processing.deferred_results import DeferredResults
from app.processing.held_claims import HeldClaims
from app.processing.leases import Leases, tick_seconds_of
from app.processing.outages import Outages
from app.processing.policies import claim_rules
from app.processing.receiver import Receiver
from app.processing.registry import Registry
from app.processing.rescuer import Rescuer
from app.processing.results import Classifier
from app.processing.retry_policy import RetryPolicy
from app.processing.runner import Runner
from app.processing.type_breaker import OnAttempt, TypeBreaker
from app.processing.worker import Worker
from app.reconcile.reconciler import Reconciler
from app.runtime.watchdog import Watchdog
from app.services import Services
from app.setting_fields import secret_texts
from app.settings import Settings, environment
from app.stripe_api.client import build_client
from app.stripe_api.rate_limiter import RateLimiter
from app.tracing.choice import make_tracing
from app.tracing.spans import Tracing
from app.watch.tasks import watch_tasks
from app.web import routes
from app.web.refusals import RefusalLog

#: Seconds between two tries to record the release of this process.
RELEASE_SECONDS = 5.0
#: Seconds between two searches for due events of paused types, and for those in a wrong lane.
PARK_SECONDS = 1.0
#: Seconds between two searches for missing indexes.
INDEXES_SECONDS = 300.0


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application for ``settings``, by default those of the environment.

    Connects neither to the inbox nor to Stripe, so that a server can fork afterwards. Raises
    ``StartError`` when the settings or the handler modules are wrong. Commands get an application
    nevertheless. With broken handler modules, those work that need none. With wrong settings, only
    ``flask doctor`` works, which reports the problems.
    """
    loaded = settings
    try:
        loaded = settings or _load_settings()
        return _make_app(loaded)
    except StartError as error:
        from app.cli import startup_failure  # noqa: PLC0415 - a server does not load the CLI

        if settings is not None or not startup_failure.looks_for_commands():
            raise
        if loaded is None:
            return startup_failure.only_doctor(error)
        return _make_app(loaded, registry.broken(error))


def _load_settings() -> Settings:
    """Return the settings of the environment.

    A command beside ``make dev`` gets its inbox and its API, and prints which ones it uses.
    """
    settings = Settings.load()
    if click.get_current_context(silent=True) is None:  # a server does not load the CLI
        return settings
    from app.cli import dev_server  # noqa: PLC0415 - see above

    settings = dev_server.beside(settings)
    dev_server.say_target(settings)
    return settings


def _make_app(settings: Settings, handlers: Registry | None = None) -> Flask:
    secrets = secret_texts(settings)
    log.configure(
        settings.log_level,
        settings.log_format,
        secrets=secrets,
        package=settings.handlers_package,
    )
    app = Flask("app", static_folder=None)
    app.extensions["services"] = make_services(
        settings, handlers or registry.load(settings.handlers_package, text.redactor(secrets))
    )
    routes.add(app, settings)
    app.cli = Commands("app")
    return app


def make_services(settings: Settings, handlers: Registry) -> Services:
    """Return all services of one process, for these handler modules."""
    inbox = make_inbox(settings, handlers)
    meter = _make_meter(settings, handlers, inbox)
    tracing = make_tracing(environment())
    client = make_client(settings, inbox, meter, tracing)
    parts = make_leases(inbox, settings.lease_seconds, meter.lease_lost)
    breaker = TypeBreaker(inbox.type_breakers, settings.type_breaker_failures)
    counted = breaker.after(meter.attempt)
    runner = _make_runner(settings, handlers, inbox, client, parts, tracing, counted)
    stopping = threading.Event()
    worker = _make_worker(settings, inbox, runner, parts, stopping)
    meter.busy_and_idle, worker.on_superseded = worker.busy_and_idle, meter.superseded
    breaker.busy_and_idle, breaker.probe = worker.busy_and_idle, worker.probe
    reconciler = Reconciler(settings, handlers, inbox, client, runner)
    reconciler.on_missing = meter.reconcile_missing
    return Services(
        settings=settings,
        registry=handlers,
        inbox=inbox,
        client=client,
        watchdog=parts.watchdog,
        deferred_results=parts.deferred,
        leases=parts.leases,
        runner=runner,
        worker=worker,
        receiver=Receiver(
            settings, inbox.deliveries, runner, worker, stopping=stopping, tracing=tracing
        ),
        reconciler=reconciler,
        refusals=RefusalLog(meter.rejection),
        meter=meter,
        tracing=tracing,
        maintenance=_make_maintenance(settings, handlers, inbox, client, meter, breaker, stopping),
        stopping=stopping,
    )


def _make_meter(settings: Settings, handlers: Registry, inbox: Inbox) -> Meter:
    # Only a process that serves metrics asks for the types: modules of a command can be broken.
    return Meter(inbox, lambda: [each.event_type for each in handlers.modules], settings.release)


def _make_runner(  # noqa: PLR0913, PLR0917 - the services, in the order of their making
    settings: Settings,
    handlers: Registry,
    inbox: Inbox,
    client: stripe.StripeClient,
    parts: LeaseParts,
    tracing: Tracing,
    on_attempt: OnAttempt,
) -> Runner:
    return Runner(
        handlers,
        client,
        inbox.claims,
        inbox.effects,
        inbox.pairs,
        leases=parts.leases,
        deferred=parts.deferred,
        watchdog=parts.watchdog,
        classifier=_make_classifier(settings, handlers),
        tracing=tracing,
        on_attempt=on_attempt,
    )


def _make_maintenance(  # noqa: PLR0913, PLR0917 - as above
    settings: Settings,
    handlers: Registry,
    inbox: Inbox,
    client: stripe.StripeClient,
    meter: Meter,
    breaker: TypeBreaker,
    stopping: threading.Event,
) -> Maintenance:
    """Return the regular work of a serving process."""
    # It writes once. Later rounds are for an inbox that was unavailable.
    begin_release = partial(inbox.groups.begin_release, settings.release)
    tasks = [
        Task("release", RELEASE_SECONDS, begin_release, at_start=True),
        Task("activity", FLUSH_SECONDS, meter.flush),
        *alert_tasks(settings, inbox),
        *retention.tasks(settings, inbox, stopping),
        *watch_tasks(settings, handlers, inbox, client),
    ]
    if settings.migrate == "auto":
        tasks.append(Task("indexes", INDEXES_SECONDS, inbox.indexes.build, at_start=True))
    if settings.is_queue:
        moves = {"paused_types": inbox.administration.park, "lanes": inbox.lanes.place}
        tasks += [Task(name, PARK_SECONDS, move) for name, move in moves.items()]
        tasks += breaker.tasks()
    return Maintenance(tasks, inbox.reconciliation, stopping)


class LeaseParts(NamedTuple):
    """The lease thread and the parts that it works on."""

    leases: Leases
    held: HeldClaims
    deferred: DeferredResults
    outages: Outages
    watchdog: Watchdog
    rescuer: Rescuer


def make_leases(
    inbox: Inbox, lease_seconds: float, on_lost: Callable[[], object] = lambda: None
) -> LeaseParts:
    """Return the lease thread of one process, which is not started, and its parts.

    ``on_lost`` is called when another attempt took over a claim.
    """
    held = HeldClaims(inbox.claims, lease_seconds, on_lost)
    deferred = DeferredResults()
    outages = Outages(held, deferred)
    watchdog = Watchdog(lease_seconds, lambda: len(held) > 0, log.output.waiting)
    tick = tick_seconds_of(lease_seconds)
    rescuer = Rescuer(inbox.rescue, tick)
    leases = Leases(held, deferred, rescuer, outages=outages, watchdog=watchdog, tick_seconds=tick)
    return LeaseParts(leases, held, deferred, outages, watchdog, rescuer)


def _make_worker(
    settings: Settings, inbox: Inbox, runner: Runner, parts: LeaseParts, stopping: threading.Event
) -> Worker:
    worker = Worker(
        inbox.claims,
        runner,
        leases=parts.leases,
        watchdog=parts.watchdog,
        outages=parts.outages,
        livemode=settings.livemode,
        stopping=stopping,
    )
    parts.rescuer.on_orphan = worker.rescue_now
    return worker


def make_inbox(settings: Settings, handlers: Registry | None = None) -> Inbox:
    """Return the inbox of these ``settings``, for these modules. It does not connect."""
    own = handlers if settings.is_queue else None  # policies hold in queue mode only
    return Inbox(
        settings.database_url,
        lease_seconds=settings.lease_seconds,
        max_crashes=settings.max_crashes,
        schema=settings.database_schema,
        migrates=settings.migrate == "auto",
        listen_url=settings.database_listen_url,
        rules=lambda: claim_rules(own.policies, own.paired_types) if own else claim_rules({}, ()),
    )


def make_client(
    settings: Settings,
    inbox: Inbox | None = None,
    meter: Meter | None = None,
    tracing: Tracing | None = None,
) -> stripe.StripeClient:
    """Return a client of Stripe's API. With an ``inbox`` it keeps to the shared rate limit.

    The ``meter`` counts its requests, and ``tracing`` makes spans of them.
    """
    on_wait: Callable[[float], object] = meter.rate_limit_wait if meter else _ignore
    on_request: Callable[[str], object] = meter.stripe_request if meter else _ignore
    rate, limiter = settings.requests_per_second, None
    if inbox is not None and rate:
        mode = "live" if settings.livemode else "test"
        limiter = RateLimiter(inbox.rate_limits, rate, mode=mode, on_wait=on_wait)
    return build_client(settings, limiter, on_request, tracing)


def _ignore(_measured: object) -> None:
    """Count nothing."""


def _make_classifier(settings: Settings, handlers: Registry) -> Classifier:
    defaults = RetryPolicy(
        base_seconds=settings.retry_base_seconds,
        cap_seconds=settings.retry_cap_seconds,
        max_attempts=settings.max_attempts,
    )
    return Classifier(
        (lambda event_type: defaults.of(handlers.policy(event_type)))
        if settings.is_queue
        else None,
        text.redactor(secret_texts(settings)),
        package=settings.handlers_package,
        release=settings.release or None,
    )
