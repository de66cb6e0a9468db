"""Finds the handler modules and checks them.

Importing a handler module registers nothing. ``load`` finds them once, before the first request,
and reports all problems at once, each with the name of its file.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn, cast

import stripe

from app import text
from app.errors import StartError
from app.processing import around_module, handler_module, policies
from app.processing.around import AROUND, Around
from app.processing.handler_module import (
    FALLBACK,
    FALLBACKS,
    SNAPSHOT_FALLBACK,
    Callback,
    HandlerModule,
    ModuleProblem,
)
from app.processing.pairs import paired_types
from app.processing.policies import NO_POLICY, Policy
from app.processing.router import Router, Wrap
from app.stripe_api.catalog import Kind, kind_of, module_name, snapshot_type

#: The maximum length of one problem in characters. It can quote an exception of the team's code.
PROBLEM_LENGTH = 2000

__all__ = [
    "FALLBACK",
    "FALLBACKS",
    "SNAPSHOT_FALLBACK",
    "Callback",
    "HandlerModule",
    "Registry",
    "broken",
    "check",
    "load",
]


@dataclass(frozen=True, slots=True)
class Registry:
    """All handler modules of one package.

    ``modules`` are sorted by event type. ``fallback`` is for thin events, and
    ``snapshot_fallback`` for snapshot events if the package has one.
    """

    modules: tuple[HandlerModule, ...]
    fallback: HandlerModule
    snapshot_fallback: HandlerModule | None = None

    @property
    def around(self) -> Around | None:
        """The hook that all callbacks run in, None if the package has none."""
        return self.fallback.around

    @property
    def handled_types(self) -> frozenset[str]:
        """The types with a handler module, including those that ``EVENT_TYPE`` declares."""
        return frozenset(module.event_type for module in self.modules)

    @property
    def paired_types(self) -> frozenset[str]:
        """The types with one module for snapshot and one for thin events, in both spellings.

        A shadow counts: another replica can have the same module without ``SHADOW``.
        """
        return paired_types(self.handled_types)

    def counterpart(self, event_type: str) -> HandlerModule | None:
        """Return the module for the events of the other kind of this type, None without one.

        The two are a pair, or a shadow and its snapshot module.
        """
        same = (each for each in self.modules if each.event_type != event_type)
        name = snapshot_type(event_type)
        return next((each for each in same if snapshot_type(each.event_type) == name), None)

    def types_of(self, kind: Kind) -> frozenset[str]:
        """The types of one ``kind`` with a handler module."""
        return frozenset(each.event_type for each in self.modules if each.kind is kind)

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies of the types whose module declares some."""
        return {each.event_type: each.policy for each in self.modules if each.policy != NO_POLICY}

    def policy(self, event_type: str) -> Policy:
        """Return the policies of this type."""
        return self.policies.get(event_type, NO_POLICY)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of events that Stripe is to send: of the modules, else of the fallbacks."""
        found = {each.kind for each in self.modules}
        if self.snapshot_fallback:
            found.add(Kind.SNAPSHOT)
        return frozenset(found or {Kind.THIN})

    def register(self, client: stripe.StripeClient, wrap: Wrap) -> Router:
        """Return the router of all callbacks. It calls what ``wrap`` returns for each module."""
        return Router(client, self.modules, self.fallback, self.snapshot_fallback, wrap)


class _BrokenRegistry:
    """Stands for the registry of a package with a broken module. Each use raises its problems."""

    def __init__(self, error: StartError) -> None:
        self._error = error
        self.paired_types = frozenset[str]()

    def register(self, *_arguments: object, **_named: object) -> _BrokenRegistry:
        """Return a router that cannot run an event."""
        return self

    def __getattr__(self, _name: str) -> NoReturn:
        raise self._error


def broken(error: StartError) -> Registry:
    """Return a registry for commands that need no handler, for a package that ``load`` refuses.

    ``modules`` and ``fallback`` raise ``error``. Nothing can run an event with it.
    """
    return cast("Registry", _BrokenRegistry(error))


def load(package_name: str, redact: text.Redact = text.redact_shapes) -> Registry:
    """Import and check every handler module of the package.

    Modules whose name begins with ``_`` are helpers and are skipped. Raises ``StartError`` with all
    problems at once, each with the name of its file and its remedy. A problem can quote an
    exception of a module, so ``redact`` is applied to each.
    """
    return _Loader(package_name, redact).load()


def check(module: ModuleType) -> HandlerModule:
    """Check one imported handler module, and the hook of its package, as ``load`` does.

    Raises ``StartError`` when the service would not start with it.
    """
    package_name, _, name = module.__name__.rpartition(".")
    loader = _Loader(package_name)
    loader.load_hook()
    checked = loader.check(name, module)
    if checked is None or loader.problems:
        raise StartError("The handler module cannot be used:", loader.problems)
    return checked


class _Loader:
    """Imports the modules of one package, and collects their problems."""

    def __init__(self, package_name: str, redact: text.Redact = text.redact_shapes) -> None:
        self._package_name = package_name
        self._redact = redact
        self._around: Around | None = None
        self.problems: list[str] = []

    def load(self) -> Registry:
        """Return the registry. Raises ``StartError`` with all problems."""
        names = self._names()
        self.load_hook()
        handlers = [name for name in names if name != AROUND]
        modules = [module for name in handlers if (module := self.check(name))]
        self._refuse_two_for_one_type(modules)
        self._refuse_shadow_of_nothing(modules)
        fallbacks = {each.event_type: each for each in modules if each.event_type in FALLBACKS}
        fallback = fallbacks.get(FALLBACK)
        if FALLBACK not in names:
            self._add(FALLBACK, "is missing. Define handle(notif, client, details) in it")
        if self.problems or fallback is None:
            raise StartError("The handler modules cannot be used:", sorted(self.problems))
        typed = [each for each in modules if each.event_type not in fallbacks]
        typed.sort(key=lambda module: module.event_type)
        return Registry(tuple(typed), fallback, fallbacks.get(SNAPSHOT_FALLBACK))

    def load_hook(self) -> None:
        """Load the hook of the package for its modules, or add its problem. It is optional."""
        if AROUND not in self._names():
            return
        try:
            module = handler_module.load(self._package_name, AROUND)
            self._around = around_module.load(self._file(AROUND), module)
        except ModuleProblem as problem:
            self._add(AROUND, str(problem))

    def _add(self, name: str, problem: str) -> None:
        self.problems.append(f"{self._file(name)}: {self._safe(problem)}")

    def _safe(self, problem: str) -> str:
        return text.bounded(problem, PROBLEM_LENGTH, self._redact)

    def _file(self, name: str) -> str:
        return f"{self._package_name.replace('.', '/')}/{name}.py"

    def _names(self) -> list[str]:
        """Return the sorted names of the handler modules, without helpers."""
        try:
            package = importlib.import_module(self._package_name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the team's code can raise anything
            reason = self._safe(handler_module.last_line(error))
            problem = f"HANDLERS_PACKAGE={self._package_name} cannot be imported: {reason}"
            raise StartError("The handler modules cannot be used:", [problem]) from None
        folders = [Path(folder) for folder in getattr(package, "__path__", [])]
        names = {path.stem for folder in folders for path in folder.glob("*.py")}
        names |= {path.parent.name for folder in folders for path in folder.glob("*/__init__.py")}
        return sorted(name for name in names if not name.startswith("_"))

    def check(self, name: str, module: ModuleType | None = None) -> HandlerModule | None:
        """Return the checked module of this name, or add its problem and return None.

        Imports the module unless it is given.
        """
        try:
            module = module or handler_module.load(self._package_name, name)
            event_type = handler_module.event_type(name, module)
            callback = handler_module.callback(event_type, module)
        except ModuleProblem as problem:
            self._add(name, str(problem))
            return None
        kind = None if event_type in FALLBACKS else kind_of(event_type)
        wrong = policies.problems(module, kind)
        for each in wrong:
            self._add(name, each)
        if wrong:
            return None
        return HandlerModule(
            event_type,
            self._file(name),
            handler_module.summary(module),
            callback,
            self._around,
            policies.read(module),
        )

    def _refuse_shadow_of_nothing(self, modules: list[HandlerModule]) -> None:
        handled = {each.event_type for each in modules}
        for each in modules:
            wanted = snapshot_type(each.event_type)
            if each.policy.shadow and wanted not in handled:
                self.problems.append(
                    f"{each.file}: SHADOW = True needs the snapshot module"
                    f" {module_name(wanted)}.py beside it. Add that module, or remove SHADOW"
                )

    def _refuse_two_for_one_type(self, modules: list[HandlerModule]) -> None:
        files: dict[str, list[str]] = {}
        for module in modules:
            files.setdefault(module.event_type, []).append(module.file)
        for event_type, same in files.items():
            if len(same) > 1:
                self.problems.append(
                    f"{same[0]}: {event_type!r} is handled in {' and '.join(same[1:])} as well."
                    " Keep one: with two, a retry would repeat the one that succeeded"
                )
