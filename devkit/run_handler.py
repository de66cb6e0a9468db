"""Calls of one callback in tests, without the service around it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from app import idempotency, log
from app.processing import around, handler_module, pairs, registry
from app.processing.registry import Callback, HandlerModule, Registry
from app.processing.router import Router
from app.settings import Settings
from app.stripe_api import fetch_cache
from app.stripe_api.catalog import Kind, kind_of, module_name, snapshot_type
from app.stripe_api.client import build_client
from devkit import samples
from devkit.failures import behind
from devkit.stripe_api import StripeApi

#: The files whose frames lead to the callback.
LEADING = frozenset({__file__, handler_module.__file__, around.__file__})


class RunHandler:
    """Calls the callback of one module without the service around it."""

    def __init__(self, settings: Settings, api: StripeApi, *, full: bool = False) -> None:
        """Take the settings of the client, and its stand-in for Stripe's API.

        The traceback of a callback's exception begins in the callback, unless it is ``full``.
        """
        self._settings = settings
        self._api = api
        self._full = full
        self._effects = _Effects()

    def __call__(  # noqa: PLR0913 - as ``Deliver``, and the module
        self,
        module: ModuleType,
        event_type: str | None = None,
        *,
        fields: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        snapshot_event: str | None = None,
        **sample: Any,
    ) -> Any:
        """Call ``handle`` of ``module`` with a typed event, and return the event.

        The event is a notification, or the ``stripe.Event`` of a snapshot module. It runs within
        ``around`` of its package, as in the service. This object keeps the effects that
        ``app.once`` records. A module with ``SHADOW`` only reads. If the package has the file of
        the type's other kind, both modules have the keys and effects of a pair. An exception is not
        caught. Only the two fallbacks need ``event_type``. For the other arguments see ``Deliver``.
        Raises ``StartError`` for a module that would prevent the start of the service.
        """
        self._configure_log()
        checked = registry.check(module)
        asked = event_type or checked.event_type
        is_fallback = checked.event_type in registry.FALLBACKS
        sample.setdefault("unknown", not is_fallback)
        body = sample_body(asked, fields, sample)
        self._api.offer(body, data, fields, changes=changes, snapshot_event=snapshot_event)
        seen: list[Any] = []
        router = Registry(() if is_fallback else (checked,), checked, checked).register(
            build_client(self._settings),
            wrap=lambda each: self._noting(each, seen, is_paired=_is_paired(module, checked)),
        )
        __tracebackhide__ = not self._full
        try:
            copy_context().run(self._route, router, body)
        except Exception as error:
            if not self._full:
                error.__traceback__ = behind(error.__traceback__, LEADING)
            raise
        return seen[0]

    def _route(self, router: Router, body: Mapping[str, Any]) -> None:
        fetch_cache.begin()
        with idempotency.recording(body["id"], self._effects):
            router.route(body["type"], samples.encode(body))

    def _noting(self, module: HandlerModule, seen: list[Any], *, is_paired: bool) -> Callback:
        """Return the callback of the module, wrapped to record its event in ``seen``."""

        def call(event: Any, *others: object) -> None:
            seen.append(event)
            key = pairs.key_of(event) if is_paired else None
            if key is not None:
                self._effects.link(event.id, key)
            if module.policy.shadow:
                idempotency.skip_effects()
            elif key is not None:
                idempotency.share_action(key)
            module.run(event, *others)

        return call

    def _configure_log(self) -> None:
        """Set up the log as the service does. At each call, because capsys replaces the stream."""
        given = self._settings
        log.configure(given.log_level, given.log_format, package=given.handlers_package)


def sample_body(
    event_type: str, fields: Mapping[str, Any] | None, sample: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a sample of either kind. ``fields`` are in the body of a snapshot event."""
    own = {} if kind_of(event_type) is Kind.THIN else {"fields": fields}
    return samples.body(event_type, **own, **sample)


def _is_paired(module: ModuleType, checked: HandlerModule) -> bool:
    """Return whether the package has the file of the other kind of the module's type."""
    other = snapshot_type(checked.event_type)
    if checked.kind is Kind.SNAPSHOT:
        other = f"v1.{checked.event_type}"
    package = module.__name__.rpartition(".")[0]
    return find_spec(f"{package}.{module_name(other)}") is not None


class _Effects:
    """The effects of all calls of one ``RunHandler``, in memory, by the action of the event."""

    def __init__(self) -> None:
        self._recorded: set[tuple[str, str]] = set()
        self._actions: dict[str, str] = {}

    def link(self, event_id: str, action_id: str) -> None:
        self._actions[event_id] = action_id

    def is_recorded(self, event_id: str, purpose: str) -> bool:
        return self._key(event_id, purpose) in self._recorded

    def record(self, event_id: str, purpose: str) -> None:
        self._recorded.add(self._key(event_id, purpose))

    def _key(self, event_id: str, purpose: str) -> tuple[str, str]:
        return self._actions.get(event_id, event_id), purpose
