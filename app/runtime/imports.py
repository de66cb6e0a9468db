"""Imports of many modules at the start of a process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Import modules in the block while the garbage collector is off.

    Afterwards it ignores all objects that the process has. So this is for its start only.

    Modules are many objects and hardly any garbage. To look for it during the imports, and once
    more at the end of the process, takes a fifth of the processor time of a short command.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
