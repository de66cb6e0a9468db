"""Calls of one callback in tests, without the service around it."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from app import log
from app.processing import registry
from app.processing.registry import Callback, HandlerModule, Registry
from app.settings import Settings
from app.stripe_api.client import build_client
from devkit import samples
from devkit.failures import behind
from devkit.stripe_api import StripeApi


class RunHandler:
    """Calls the callback of one module without the service around it."""

    def __init__(self, settings: Settings, api: StripeApi, *, full: bool = False) -> None:
        """Take the settings of the client, and its stand-in for Stripe's API.

        The traceback of a callback's exception begins in the callback, unless it is ``full``.
        """
        self._settings = settings
        self._api = api
        self._full = full

    def __call__(
        self,
        module: ModuleType,
        event_type: str | None = None,
        *,
        data: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        **sample: Any,
    ) -> Any:
        """Call ``handle`` of ``module`` with a typed notification, and return the notification.

        An exception of the callback is not caught. Only the fallback needs ``event_type``. For the
        other arguments see ``Deliver``. Raises ``StartError`` for a module that would prevent the
        start of the service.
        """
        # At each call, as the service does at its start: capsys replaces standard error.
        log.configure(
            self._settings.log_level,
            self._settings.log_format,
            package=self._settings.handlers_package,
        )
        checked = registry.check(module)
        asked = event_type or checked.event_type
        sample.setdefault("unknown", checked.event_type != registry.FALLBACK)
        notification = samples.notification(asked, **sample)
        self._api.offer(notification, data, fields)
        modules = () if checked.event_type == registry.FALLBACK else (checked,)
        seen: list[Any] = []
        handler = Registry(modules, checked).register(
            build_client(self._settings), wrap=lambda each: _noting(each, seen)
        )
        __tracebackhide__ = not self._full
        try:
            handler.handle(samples.encode(notification))
        except Exception as error:
            if not self._full:
                error.__traceback__ = behind(error.__traceback__, __file__)
            raise
        return seen[0]


def _noting(module: HandlerModule, seen: list[Any]) -> Callback:
    """Return the callback of the module, wrapped to record its notification in ``seen``."""

    def call(notif: Any, *others: object) -> None:
        seen.append(notif)
        module.callback(notif, *others)

    return call
