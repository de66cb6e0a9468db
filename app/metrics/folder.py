"""The folder of the shared files: one for each gunicorn, in memory where that is possible.

It is apart from ``shared``, which loads the library of Prometheus. The library reads the folder's
name from the environment when it is loaded, so the folder has to be there before that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from app.errors import StartError
from app.settings import environment, export

#: The variable in which the library of Prometheus finds the folder.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder is made by mkdtemp
PREFIX = "stripe-receiver-metrics-"

#: The file that the processes of a gunicorn lock while they live. The lock is inherited by a fork.
LIVE = "live"


def make() -> Path:
    """Return the folder of this process and of those that it forks. It stays at a reload.

    Removes the folders of services that were killed. Raises ``StartError`` if none can be made.
    """
    if folder := _own():
        return folder
    for parent in (SHARED_MEMORY, _temporary()):
        try:
            folder = _make(parent)
        except OSError:
            continue
        export(VARIABLE, str(folder))
        _remove_dead(parent)
        return folder
    problem = "no folder for metrics can be made. Set TMPDIR to a folder that can be written"
    raise StartError("The service cannot start:", [problem])


def remove() -> None:
    """Remove the folder that this process has made, if it has."""
    if folder := _own():
        shutil.rmtree(folder, ignore_errors=True)


def _own() -> Path | None:
    """Return the folder that this process has made. An upgraded gunicorn inherits the variable."""
    folder = Path(environment().get(VARIABLE, ""))
    is_own = folder.name.startswith(f"{PREFIX}{os.getpid()}-") and folder.is_dir()
    return folder if is_own else None


def _temporary() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # no folder for temporary files can be written
        return SHARED_MEMORY


def _make(parent: Path) -> Path:
    """Return a new folder, locked until all processes that inherit the lock have ended."""
    # Another process must not find it before it is locked.
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    descriptor = os.open(hidden / LIVE, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return hidden.rename(parent / f"{PREFIX}{os.getpid()}-{hidden.name[-8:]}")


def _remove_dead(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            with (folder / LIVE).open("r+b") as live:
                fcntl.flock(live, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # its service lives, or it belongs to another user
            continue
