"""A door in front of the callbacks, for tests of what happens while one runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event as Flag

from app import text
from app.processing import registry
from app.processing.registry import HandlerModule, Registry


class Door:
    """A door in front of all callbacks. It is open unless a test closes it."""

    def __init__(self) -> None:
        """Start open."""
        self._open = Flag()
        self._open.set()
        self.reached = Flag()
        """Set when a callback has reached the door."""

    def load(self, package_name: str, *redact: text.Redact) -> Registry:
        """Load the handler modules like the service, each behind the door."""
        loaded = _load(package_name, *redact)
        modules = tuple(map(self._guard, loaded.modules))
        snapshot_fallback = loaded.snapshot_fallback and self._guard(loaded.snapshot_fallback)
        return replace(
            loaded,
            modules=modules,
            fallback=self._guard(loaded.fallback),
            snapshot_fallback=snapshot_fallback,
        )

    def _guard(self, module: HandlerModule) -> HandlerModule:
        def enter(*arguments: object) -> object:
            self.reached.set()
            self._open.wait()
            return module.callback(*arguments)

        return replace(module, callback=enter)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop callbacks at the door until the block ends."""
        self.reached.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


#: The function of the service: a test replaces the attribute while it creates an application.
_load = registry.load
