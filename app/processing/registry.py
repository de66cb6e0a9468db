"""Finds the handler modules, checks them, and registers them on the SDK's handler.

Importing a handler module changes nothing: what is plugged in is decided here, once, before
the first request, and all that is wrong is said at once with the name of the file.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import stripe
from stripe.events import _event_classes as sdk

from app.errors import StartError

Callback = Callable[..., Any]

#: What a callback is given, by position.
PARAMETERS = ("notif", "client")
FALLBACK_PARAMETERS = ("notif", "client", "details")

#: The name of the module for every type that has none of its own.
FALLBACK = "fallback"

#: The types of event notifications; a snapshot event's has no version in front.
EVENT_TYPE_SHAPE = re.compile(r"v[1-9][0-9]*\.[a-z0-9_.\[\]]+")


@dataclass(frozen=True, slots=True)
class Module:
    """One handler module: the event type that it is written for, its file, its callback."""

    event_type: str
    file: str
    summary: str
    callback: Callback


@dataclass(frozen=True, slots=True)
class Registry:
    """All handler modules of one package.

    ``modules`` are sorted by event type. An event type that is newer than the SDK reaches its
    callback through the SDK's fallback.
    """

    modules: tuple[Module, ...]
    fallback: Module

    def register(
        self,
        client: stripe.StripeClient,
        wrap: Callable[[Module], Callback],
    ) -> stripe.StripeEventNotificationHandlerWithoutVerification:
        """Build the SDK's handler with every callback passed through ``wrap``.

        The class of each registered type is imported here, so that the first event of a type
        is as fast as the next (https://docs.stripe.com/webhooks/event-notification-handlers).
        """
        handler = client.notification_handler_without_verification(self._build_fallback(wrap))
        known = event_types()
        for module in self.modules:
            if module.event_type in known:
                getattr(handler, method_name(module.event_type))(wrap(module))
                sdk.get_v2_event_notification_class(module.event_type)
                sdk.get_v2_event_class(module.event_type)
        return handler

    def _build_fallback(self, wrap: Callable[[Module], Callback]) -> Callback:
        """Return a fallback that routes the types that the SDK does not know by name."""
        known = event_types()
        untyped = {m.event_type: wrap(m) for m in self.modules if m.event_type not in known}
        fallback = wrap(self.fallback)

        def route(notif: Any, client: stripe.StripeClient, details: Any) -> None:
            callback = untyped.get(notif.type)
            if callback is None:
                fallback(notif, client, details)
            else:
                callback(notif, client)

        return route


def event_types() -> frozenset[str]:
    """Return every event type that the installed SDK knows."""
    return frozenset(sdk._V2_EVENT_NOTIFICATION_CLASS_LOOKUP)  # noqa: SLF001 - not public


def method_name(event_type: str) -> str:
    """Return how the SDK spells the method that registers ``event_type``."""
    return f"on_{module_name(event_type)}"


def module_name(event_type: str) -> str:
    """Return the name of the handler module for ``event_type``."""
    return event_type.replace("[", "_including_").replace("]", "").replace(".", "_")


def load(package_name: str) -> Registry:
    """Import and check every handler module of the package.

    Modules whose name begins with ``_`` are helpers and are left alone. Raises ``StartError``
    with all problems at once, each with the file's name and what to do.
    """
    return _Loader(package_name).load()


def check(module: ModuleType) -> Module:
    """Check one handler module that was imported, as ``load`` does.

    Raises ``StartError`` with what is wrong with it.
    """
    package_name, _, name = module.__name__.rpartition(".")
    loader = _Loader(package_name)
    checked = loader.check(name, module)
    if checked is None:
        raise StartError("The handler module cannot be used:", loader.problems)
    return checked


class _Problem(Exception):
    """One thing that is wrong with one module, in the words that the author reads."""


class _Loader:
    """Imports the modules of one package, and collects what is wrong with them."""

    def __init__(self, package_name: str) -> None:
        self._package_name = package_name
        self.problems: list[str] = []

    def load(self) -> Registry:
        """Return the registry, or raise ``StartError`` with all that is wrong."""
        names = self._names()
        modules = [module for name in names if (module := self.check(name))]
        self._refuse_two_for_one_type(modules)
        fallback = next((module for module in modules if module.event_type == FALLBACK), None)
        if FALLBACK not in names:
            self._note(FALLBACK, "is missing. Define handle(notif, client, details) in it")
        if self.problems or fallback is None:
            raise StartError("The handler modules cannot be used:", sorted(self.problems))
        modules.remove(fallback)
        return Registry(tuple(sorted(modules, key=lambda module: module.event_type)), fallback)

    def _note(self, name: str, problem: str) -> None:
        self.problems.append(f"{self._file(name)}: {problem}")

    def _file(self, name: str) -> str:
        return f"{self._package_name.replace('.', '/')}/{name}.py"

    def _names(self) -> list[str]:
        """Return the names of the handler modules, sorted. Helpers are not among them."""
        try:
            package = importlib.import_module(self._package_name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the team's code raises
            reason = f"HANDLERS_PACKAGE={self._package_name} cannot be imported: {_last(error)}"
            raise StartError("The handler modules cannot be used:", [reason]) from None
        folders = [Path(folder) for folder in getattr(package, "__path__", [])]
        names = {path.stem for folder in folders for path in folder.glob("*.py")}
        names |= {path.parent.name for folder in folders for path in folder.glob("*/__init__.py")}
        return sorted(name for name in names if not name.startswith("_"))

    def check(self, name: str, module: ModuleType | None = None) -> Module | None:
        """Return the module of a name, imported if need be, or note what is wrong with it."""
        try:
            module = module or self._import(name)
            event_type = _event_type(name, module)
            callback = _callback(module, FALLBACK_PARAMETERS if name == FALLBACK else PARAMETERS)
        except _Problem as problem:
            self._note(name, str(problem))
            return None
        return Module(event_type, self._file(name), _summary(module), callback)

    def _import(self, name: str) -> ModuleType:
        if not name.isidentifier():
            raise _Problem(_nearest(name))
        try:
            return importlib.import_module(f"{self._package_name}.{name}")
        except (Exception, SystemExit) as error:  # whatever the team's code raises
            raise _Problem(f"{_line(error, name)}cannot be imported: {_why(error)}") from error

    def _refuse_two_for_one_type(self, modules: list[Module]) -> None:
        files: dict[str, list[str]] = {}
        for module in modules:
            files.setdefault(module.event_type, []).append(module.file)
        for event_type, same in files.items():
            if len(same) > 1:
                self.problems.append(
                    f"{same[0]}: {event_type!r} is handled in {' and '.join(same[1:])} as well."
                    " Keep one: with two, a retry would repeat the one that succeeded"
                )


def _event_type(name: str, module: ModuleType) -> str:
    """Return the event type that ``module`` is for, or raise ``_Problem``."""
    if name == FALLBACK:
        return FALLBACK
    declared = getattr(module, "EVENT_TYPE", None)
    if declared is None:
        known = {module_name(event_type): event_type for event_type in event_types()}
        if name not in known:
            raise _Problem(_nearest(name))
        return known[name]
    if not (isinstance(declared, str) and EVENT_TYPE_SHAPE.fullmatch(declared)):
        raise _Problem(
            f"EVENT_TYPE is {declared!r}. Use the type of an event notification, such as"
            " 'v1.customer.created'; they all begin with v1. or v2."
        )
    return declared


def _nearest(name: str) -> str:
    """Say that ``name`` is no event type, and which are nearest."""
    types = sorted(event_types())
    wanted = re.sub(r"[\W_]+", "_", name).lower()
    near = get_close_matches(wanted, [module_name(each) for each in types], n=1, cutoff=0.6)
    if near == [wanted]:
        return f"is not spelled as a module. Rename it to {wanted}.py"
    hint = next((f"; nearest: {each!r}" for each in types if [module_name(each)] == near), "")
    return (
        f"{name.replace('_', '.')!r} is no event type of stripe {stripe.VERSION}{hint}."
        f" Name the file {near[0] + '.py' if near else 'after the event type'}, set EVENT_TYPE in"
        " it for a type newer than the SDK, or begin the name of a helper with _"
    )


def _callback(module: ModuleType, parameters: tuple[str, ...]) -> Callback:
    """Return the module's ``handle``, or raise ``_Problem`` when it could not be called."""
    wanted = f"def handle({', '.join(parameters)})"
    handle = getattr(module, "handle", None)
    if handle is None:
        raise _Problem(f"defines no handle. Define {wanted}")
    if not callable(handle):
        raise _Problem(f"handle is no function. Define {wanted}")
    _refuse_deferred(handle, wanted)
    _check_parameters(handle, parameters, wanted)
    return cast("Callback", handle)


def _refuse_deferred(handle: Callback, wanted: str) -> None:
    """Refuse what would return at once without having run."""
    if inspect.iscoroutinefunction(handle) or inspect.isasyncgenfunction(handle):
        raise _Problem(f"{_at(handle)}handle is async and would never run. Use {wanted}")
    if inspect.isgeneratorfunction(handle):
        raise _Problem(f"{_at(handle)}handle has a yield and would never run. Remove the yield")


def _check_parameters(handle: Callback, parameters: tuple[str, ...], wanted: str) -> None:
    signature = inspect.signature(handle)
    try:
        bound = signature.bind(*parameters)
    except TypeError:
        raise _Problem(
            f"{_at(handle)}handle{signature} has the wrong parameters. Use {wanted}"
        ) from None
    # Each name was bound to a value of that name: one that stands elsewhere was swapped.
    if any(
        value in parameters and value != name
        for name, value in bound.arguments.items()
        if name in parameters
    ):
        raise _Problem(f"{_at(handle)}handle has its parameters in another order. Use {wanted}")


def _at(function: Callback) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"line {code.co_firstlineno}: " if code else ""


def _line(error: BaseException, name: str) -> str:
    """Return where in the module an import failed, as ``line 3: ``, or nothing."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").stem == name:
        return f"line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).stem == name]
    return f"line {lines[-1]}: " if lines else ""


def _why(error: BaseException) -> str:
    """Return why an import failed, and what to do about it."""
    missing = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    if missing and missing[2] in sys.modules:
        module = sys.modules[missing[2]]
        # The SDK's packages import each of their names when it is first asked for.
        names = [*vars(module), *getattr(module, "_import_map", ())]
        near = get_close_matches(missing[1], names, n=1)
        remedy = f"Use {near[0]}" if near else "Remove it, or correct the name"
        return f"{missing[2]} has no {missing[1]}. {remedy}"
    if isinstance(error, SyntaxError):
        return f"{_last(error)}. Correct this line"
    if isinstance(error, ModuleNotFoundError):
        return f"{_last(error)}. Correct the name, or install what is missing"
    return f"{_last(error)}. Nothing may fail while the module is imported: mend it"


def _last(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _summary(module: ModuleType) -> str:
    return (inspect.getdoc(module) or "").split("\n", 1)[0]
