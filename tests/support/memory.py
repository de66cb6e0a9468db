"""A folder in memory for the files of the tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Bytes that have to be free. A whole run needs some 700 MB.
ROOM = 4 * 2**30


def memory_folder() -> str | None:
    """Return a folder in memory, or None: the disk is used.

    The tests make hundreds of databases and sync each of them. A busy disk takes seconds for that.
    Programs are run from the folder, which some containers forbid.

    """
    folder = Path("/dev/shm")  # noqa: S108 - everything below it is made by mkdtemp
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return None
    if os.statvfs(folder).f_flag & os.ST_NOEXEC or shutil.disk_usage(folder).free < ROOM:
        return None
    return str(folder)
