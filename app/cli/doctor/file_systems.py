"""The file system of SQLite's file, from Linux's list of mounts."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: The list of mounts on Linux.
MOUNTS = Path("/proc/self/mountinfo")

#: File systems that are lost with the container or at a reboot.
EPHEMERAL = {"overlay", "aufs", "tmpfs", "ramfs"}

#: File systems of other machines. Under FUSE they have a name after ``fuse.``.
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "lustre", "beegfs"),
    *("sshfs", "glusterfs", "s3fs", "rclone", "gcsfuse", "blobfuse2", "juicefs", "davfs"),
}


def is_network(type_name: str) -> bool:
    """Return True for a file system of another machine, which SQLite cannot use safely."""
    return type_name.removeprefix("fuse.") in _NETWORK


def type_of(file: Path) -> str:
    """Return the type of the file system of ``file``, or an empty text if it is unknown.

    Links are followed: the folder of the file is often one.
    """
    if not MOUNTS.is_file():
        return ""
    found: tuple[int, str] = (0, "")
    real = Path(os.path.realpath(file))
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split()[4]))
        if real.is_relative_to(point) and len(point.parts) >= found[0]:
            found = len(point.parts), after.split()[0]  # a later mount hides an earlier one
    return found[1]


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
