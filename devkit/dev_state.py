"""The state file of ``make dev``: commands in the same folder find the stand-in by it."""

from __future__ import annotations

import fcntl
import json
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from app.cli import dev_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedRandom

    from app.cli.dev_server import DevServer

#: A command that reads the file locks it for a moment. Tries to lock it, and seconds between two.
TRIES, PAUSE_SECONDS = 5, 0.05


@contextmanager
def announced(server: DevServer) -> Iterator[str | None]:
    """Write the state file, and lock it until the end of the block.

    Yields None, or why commands will not find this server: a second one in the same folder, or a
    file that cannot be written.
    """
    path = dev_server.STATE_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        yield f"{path} cannot be written: {error.strerror}"
        return
    with file:
        if _lock(file):
            file.truncate(0)
            file.write(json.dumps(server._asdict()).encode())
            file.flush()
            yield None
        else:
            yield "another `make dev` runs in this folder"


def _lock(file: BufferedRandom) -> bool:
    """Lock the file, and return true if that succeeded."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(PAUSE_SECONDS)
    return False
