"""A name of this process that no other process has."""

from __future__ import annotations

import os
import socket


def new_process_name() -> str:
    """Return ``host:pid:random``. The random part differs after a restart with the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"
