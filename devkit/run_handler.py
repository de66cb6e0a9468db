"""Calls of one callback in tests, without the service around it."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from app import idempotency, log
from app.processing import around, handler_module, registry
from app.processing.registry import Callback, HandlerModule, Registry
from app.settings import Settings
from app.stripe_api.catalog import Kind, kind_of
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

    def __call__(
        self,
        module: ModuleType,
        event_type: str | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        **sample: Any,
    ) -> Any:
        """Call ``handle`` of ``module`` with a typed event, and return the event.

        The event is a notification, or the ``stripe.Event`` of a snapshot module. It runs within
        ``around`` of its package, as in the service. This object keeps the effects that
        ``app.once`` records. An exception is not caught. Only the two fallbacks need
        ``event_type``. For the other arguments see ``Deliver``. Raises ``StartError`` for a module
        that would prevent the start of the service.
        """
        self._configure_log()
        checked = registry.check(module)
        asked = event_type or checked.event_type
        is_fallback = checked.event_type in registry.FALLBACKS
        sample.setdefault("unknown", not is_fallback)
        body = sample_body(asked, fields, sample)
        self._api.offer(body, data, fields)
        seen: list[Any] = []
        router = Registry(() if is_fallback else (checked,), checked, checked).register(
            build_client(self._settings), wrap=lambda each: _noting(each, seen)
        )
        __tracebackhide__ = not self._full
        try:
            with idempotency.recording(body["id"], self._effects):
                router.route(asked, samples.encode(body))
        except Exception as error:
            if not self._full:
                error.__traceback__ = behind(error.__traceback__, LEADING)
            raise
        return seen[0]

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


def _noting(module: HandlerModule, seen: list[Any]) -> Callback:
    """Return the callback of the module, wrapped to record its event in ``seen``."""

    def call(event: Any, *others: object) -> None:
        seen.append(event)
        module.run(event, *others)

    return call


class _Effects:
    """The effects of all calls of one ``RunHandler``, in memory."""

    def __init__(self) -> None:
        self._recorded: set[tuple[str, str]] = set()

    def is_recorded(self, event_id: str, purpose: str) -> bool:
        return (event_id, purpose) in self._recorded

    def record(self, event_id: str, purpose: str) -> None:
        self._recorded.add((event_id, purpose))
