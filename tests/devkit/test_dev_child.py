"""The program that runs gunicorn for ``make dev``. ``tests/processes/test_dev.py`` runs it."""

from __future__ import annotations

import importlib
import threading


def test_import_starts_nothing() -> None:
    """Only the program watches its parent and runs gunicorn."""
    importlib.import_module("devkit.dev_child")

    assert "parent" not in {thread.name for thread in threading.enumerate()}
