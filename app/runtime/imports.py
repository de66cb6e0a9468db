"""Imports of many modules at the start of a process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Import modules in the block without the garbage collector, which skips them from then on.

    Modules are many objects and hardly any garbage. To look for it during the imports, and once
    more at the end of the process, takes a quarter of the time of a short command.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
