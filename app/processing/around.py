"""The hook of a handler package: ``around.py``, whose ``around`` each callback runs in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from app.processing import handler_module
from app.processing.handler_module import PARAMETERS, ModuleProblem
from app.runtime import forks

#: The name of the module, and of the context manager in it.
AROUND = "around"

WANTED = "@contextlib.contextmanager on a def around(notif, client) with one yield"


@dataclass(frozen=True, slots=True)
class Around:
    """The hook of a package: its file, first line of documentation, and context manager."""

    file: str
    summary: str
    enter: Callable[[Any, Any], AbstractContextManager[object]]

    def run(self, callback: Callable[[], None], notif: Any, client: Any) -> None:
        """Run ``callback`` within the context manager.

        Returns only if the callback and the exit both returned. If the exit suppresses the
        exception of the callback, it is raised again: a failure never becomes a success. A process
        that is forked in the callback ends before the exit, which belongs to its parent.
        """
        raised: BaseException | None = None
        try:
            with ExitStack() as stack:
                with forks.ending_in_the_block():
                    stack.enter_context(self.enter(notif, client))
                try:
                    with forks.ending_in_the_block():
                        callback()
                except BaseException as error:
                    raised = error
                    raise
        except BaseException as error:
            is_of_exit = raised is not None and error.__context__ is raised
            if is_of_exit and not error.__suppress_context__:
                # The place of the failure is that in the callback, not that in the exit.
                error.__cause__ = raised
            raise
        if raised is not None:
            raise raised


def load(file: str, module: ModuleType) -> Around:
    """Return the hook of an imported module. Raises ``ModuleProblem`` if it could not work."""
    for name in ("handle", "EVENT_TYPE"):
        if hasattr(module, name):
            raise ModuleProblem(
                f"defines {name}, but its name is that of the hook that callbacks run in. Rename"
                " the file"
            )
    around = getattr(module, AROUND, None)
    if around is None:
        raise ModuleProblem(f"defines no around. Use {WANTED}")
    if not callable(around):
        raise ModuleProblem(f"around is not a function. Use {WANTED}")
    _require_manager(around)
    handler_module.check_parameters(around, AROUND, PARAMETERS, WANTED)
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
        raise ModuleProblem(f"{line}around is async and would never run. Use {WANTED}")
    if not inspect.isgeneratorfunction(original):
        raise ModuleProblem(f"{line}around is no context manager. Use {WANTED}")
    if inspect.isgeneratorfunction(around):
        raise ModuleProblem(f"{line}around lacks its decorator. Use {WANTED}")
