"""The name of the person who runs a command, for the audit log."""

from __future__ import annotations

import getpass
import socket


def operator() -> str:
    """Return the user and host of this command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
