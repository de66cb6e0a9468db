"""The hook of a handler package: ``around.py``, whose ``around`` each callback runs in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from app.runtime import forks

#: The name of the module, and of the context manager in it.
AROUND = "around"


@dataclass(frozen=True, slots=True)
class Around:
    """The hook of a package: its file, first line of documentation, and context manager."""

    file: str
    summary: str
    enter: Callable[[Any, Any], AbstractContextManager[object]]

    def run(self, callback: Callable[[], None], event: Any, client: Any) -> None:
        """Run ``callback`` within the context manager.

        Returns only if the callback and the exit both returned. If the exit suppresses the
        exception of the callback, it is raised again: a failure never becomes a success. A process
        that is forked in the callback ends before the exit, which belongs to its parent.
        """
        raised: BaseException | None = None
        try:
            with ExitStack() as stack:
                with forks.ending_in_the_block():
                    stack.enter_context(self.enter(event, client))
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
