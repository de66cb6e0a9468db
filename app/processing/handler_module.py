"""Imports one handler module and checks it: its event type, its callback, the parameters."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import stripe

from app.processing.around import Around
from app.processing.policies import EVENT_TYPE, NO_POLICY, Policy
from app.stripe_api.catalog import (
    EVENT_TYPE_SHAPE,
    Kind,
    kind_of,
    nearest_module,
    type_of_module,
)

Callback = Callable[..., Any]

#: The module for thin events of types without a module of their own, and the one for snapshot
#: events.
FALLBACK = "fallback"
SNAPSHOT_FALLBACK = "snapshot_fallback"
FALLBACKS = frozenset({FALLBACK, SNAPSHOT_FALLBACK})

#: The positional parameters of the callbacks.
_OF_THIN = ("notif", "client")
_OF_SNAPSHOT = ("event", "client")
_OF_FALLBACK = ("notif", "client", "details")


@dataclass(frozen=True, slots=True)
class HandlerModule:
    """One handler module: its event type, file, first docstring line, callback and policies.

    ``around`` is the hook that its callback runs in, None if the package has none.
    """

    event_type: str
    file: str
    summary: str
    callback: Callback
    around: Around | None = None
    policy: Policy = NO_POLICY

    @property
    def kind(self) -> Kind:
        """The kind of the events that it takes."""
        return kind_of(self.event_type)

    def run(self, event: Any, client: Any, *details: Any) -> None:
        """Run the callback, within the hook if there is one. Raises what one of them raises."""
        call = partial(self._call, event, client, *details)
        if self.around is None:
            call()
        else:
            self.around.run(call, event, client)

    def _call(self, *arguments: Any) -> None:
        result = self.callback(*arguments)
        if inspect.isawaitable(result):
            getattr(result, "close", lambda: None)()
            raise TypeError(f"{self.file}: handle returned an awaitable, which never ran")


class ModuleProblem(Exception):
    """A problem of one module, in words for the author of the module."""


def load(package_name: str, name: str) -> ModuleType:
    """Import the module ``name`` of the package. Raises ``ModuleProblem``."""
    if not name.isidentifier():
        raise ModuleProblem(_unknown_type(name))
    try:
        return importlib.import_module(f"{package_name}.{name}")
    except (Exception, SystemExit) as error:  # the team's code can raise anything
        raise ModuleProblem(
            f"{_failed_line(error, name)}cannot be imported: {_remedy(error)}"
        ) from error


def event_type(name: str, module: ModuleType) -> str:
    """Return the event type of ``module``, a file of this ``name``. Raises ``ModuleProblem``."""
    if name in FALLBACKS:
        return name
    declared = getattr(module, EVENT_TYPE, None)
    if declared is None:
        known = type_of_module(name)
        if known is None:
            raise ModuleProblem(_unknown_type(name))
        return known
    if not (isinstance(declared, str) and EVENT_TYPE_SHAPE.fullmatch(declared)):
        raise ModuleProblem(
            f"{EVENT_TYPE} is {declared!r}. Use the type of a thin event, such as"
            " 'v1.customer.created', or of a snapshot event, such as 'customer.created'"
        )
    return declared


def callback(event_type: str, module: ModuleType) -> Callback:
    """Return the module's ``handle``. Raises ``ModuleProblem`` when it could not be called."""
    parameters = _parameters(event_type)
    wanted = f"def handle({', '.join(parameters)})"
    handle = getattr(module, "handle", None)
    if handle is None:
        raise ModuleProblem(f"defines no handle. Define {wanted}")
    if not callable(handle):
        raise ModuleProblem(f"handle is not a function. Define {wanted}")
    _refuse_async(handle, wanted)
    check_parameters(handle, "handle", parameters, wanted)
    return cast("Callback", handle)


def _parameters(event_type: str) -> tuple[str, ...]:
    if event_type == FALLBACK:
        return _OF_FALLBACK
    return _OF_THIN if kind_of(event_type) is Kind.THIN else _OF_SNAPSHOT


def summary(module: ModuleType) -> str:
    """Return the first line of the module's docstring."""
    return (inspect.getdoc(module) or "").split("\n", 1)[0]


def last_line(error: BaseException) -> str:
    """Return the line of a traceback that names the ``error``."""
    return traceback.format_exception_only(error)[-1].strip()


def _unknown_type(name: str) -> str:
    """Return the problem of a module whose ``name`` is no event type."""
    near = nearest_module(name)
    if near and near == re.sub(r"[\W_]+", "_", name).lower():
        return f"is not spelled as a module. Rename it to {near}.py"
    hint = f"; nearest: {type_of_module(near)!r}" if near else ""
    return (
        f"{name.replace('_', '.')!r} is no event type of stripe {stripe.VERSION}{hint}."
        f" Name the file {f'{near}.py' if near else 'after the event type'}, set EVENT_TYPE in"
        " it for a type newer than the SDK, or begin the name of a helper with _"
    )


def _refuse_async(handle: Callback, wanted: str) -> None:
    """Raise ``ModuleProblem`` when a call of ``handle`` would return before any of its code ran."""
    if inspect.iscoroutinefunction(handle) or inspect.isasyncgenfunction(handle):
        raise ModuleProblem(f"{line_of(handle)}handle is async and would never run. Use {wanted}")
    if inspect.isgeneratorfunction(handle):
        raise ModuleProblem(
            f"{line_of(handle)}handle has a yield and would never run. Remove the yield"
        )


def check_parameters(
    function: Callback, name: str, parameters: tuple[str, ...], wanted: str
) -> None:
    """Raise ``ModuleProblem`` unless ``function``, of this ``name``, takes the ``parameters``."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*parameters)
    except TypeError:
        raise ModuleProblem(
            f"{line_of(function)}{name}{signature} has the wrong parameters. Use {wanted}"
        ) from None
    # Each position was bound to its own name, so another name shows that two are swapped.
    if any(
        value in parameters and value != parameter
        for parameter, value in bound.arguments.items()
        if parameter in parameters
    ):
        raise ModuleProblem(
            f"{line_of(function)}{name} has its parameters in another order. Use {wanted}"
        )


def line_of(function: Callback) -> str:
    """Return the line of a definition, as ``line 3: ``, or nothing."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"line {code.co_firstlineno}: " if code else ""


def _failed_line(error: BaseException, name: str) -> str:
    """Return the line of the module at which its import failed, as ``line 3: ``, or nothing."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").stem == name:
        return f"line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).stem == name]
    return f"line {lines[-1]}: " if lines else ""


def _remedy(error: BaseException) -> str:
    """Return why an import failed, and its remedy."""
    line = last_line(error)
    missing = re.match(r"ImportError: cannot import name '(\w+)' from '([\w.]+)'", line)
    if missing and missing[2] in sys.modules:
        module = sys.modules[missing[2]]
        # The SDK's packages import each of their names at its first use.
        names = [*vars(module), *getattr(module, "_import_map", ())]
        near = get_close_matches(missing[1], names, n=1)
        remedy = f"Use {near[0]}" if near else "Remove it, or correct the name"
        return f"{missing[2]} has no {missing[1]}. {remedy}"
    if isinstance(error, SyntaxError):
        return f"{line}. Correct this line"
    if isinstance(error, ModuleNotFoundError):
        return f"{line}. Correct the name, or install what is missing"
    return f"{line}. Fix this error: the module must import without one"
