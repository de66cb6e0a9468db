"""Checks the module ``around.py`` of a handler package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from app.processing import handler_module
from app.processing.around import AROUND, Around
from app.processing.handler_module import ModuleProblem
from app.processing.policies import EVENT_TYPE

_PARAMETERS = ("notif", "client")
_WANTED = "@contextlib.contextmanager on a def around(notif, client) with one yield"


def load(file: str, module: ModuleType) -> Around:
    """Return the hook of an imported module. Raises ``ModuleProblem`` if it could not work."""
    for name in ("handle", EVENT_TYPE):
        if hasattr(module, name):
            raise ModuleProblem(
                f"defines {name}, but its name is that of the hook that callbacks run in. Rename"
                " the file"
            )
    around = getattr(module, AROUND, None)
    if around is None:
        raise ModuleProblem(f"defines no around. Use {_WANTED}")
    if not callable(around):
        raise ModuleProblem(f"around is not a function. Use {_WANTED}")
    _require_manager(around)
    handler_module.check_parameters(around, AROUND, _PARAMETERS, _WANTED)
    return Around(file, handler_module.summary(module), around)


def _require_manager(around: Callable[..., Any]) -> None:
    """Raise ``ModuleProblem`` unless a call of ``around`` makes a context manager."""
    line = handler_module.line_of(around)
    if inspect.isclass(around):
        methods = [getattr(around, name, None) for name in ("__enter__", "__exit__")]
        if None in methods:
            raise ModuleProblem("around is a class without __enter__ and __exit__. Define both")
        if any(map(inspect.iscoroutinefunction, methods)):
            raise ModuleProblem("around has an async __enter__ or __exit__, which would never run")
        return
    original = inspect.unwrap(around)
    if inspect.iscoroutinefunction(original) or inspect.isasyncgenfunction(original):
        raise ModuleProblem(f"{line}around is async and would never run. Use {_WANTED}")
    if not inspect.isgeneratorfunction(original):
        raise ModuleProblem(f"{line}around is no context manager. Use {_WANTED}")
    if inspect.isgeneratorfunction(around):
        raise ModuleProblem(f"{line}around lacks its decorator. Use {_WANTED}")
