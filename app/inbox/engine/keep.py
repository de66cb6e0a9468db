"""Objects whose finalizer would do harm."""

from __future__ import annotations

import ctypes


def keep_for_ever(thing: object) -> None:
    """Keep an object from being finalized, at the end of the process too."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
