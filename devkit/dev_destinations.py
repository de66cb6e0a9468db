"""The event destinations of ``make dev`` at its stand-in for Stripe's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import stripe

from app.stripe_api.catalog import Kind, kind_of

if TYPE_CHECKING:
    from devkit.stripe_api import StripeApi

#: The name of each destination of ``make dev``.
NAME = "make dev"


class DevDestinations:
    """One destination for each kind of event that has a handler module, and one for no module."""

    def __init__(self, api: StripeApi, webhook: str, secret: str) -> None:
        """Take the stand-in, the URL of the service, and its signing secret."""
        self._all = api.destinations
        self._webhook = webhook
        self._secret = secret
        self._ids: dict[Kind, str] = {}

    def enable(self, types: list[str]) -> None:
        """Enable exactly ``types``. A destination that was deleted is not made again."""
        for kind in Kind:
            wanted = [each for each in types if kind_of(each) is kind]
            is_needed = bool(wanted) or (kind is Kind.THIN and not types)
            known = self._ids.get(kind)
            if known is None and is_needed:
                self._ids[kind] = self._add(kind, wanted)
            elif known in self._all.ids and is_needed:
                self._all.change(known, enabled_events=wanted)
            elif known in self._all.ids:
                self._all.remove(self._ids.pop(kind))

    def _add(self, kind: Kind, types: list[str]) -> str:
        version = stripe.api_version if kind is Kind.SNAPSHOT else None
        return self._all.add(
            self._webhook,
            types,
            secret=self._secret,
            name=NAME,
            event_payload=str(kind),
            snapshot_api_version=version,
        )
