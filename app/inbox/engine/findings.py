"""The state of SQLite's files, for ``flask doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from app.inbox.engine.inodes import Inodes, Paths
from app.inbox.engine.lock_note import Note


class Findings(NamedTuple):
    """The state of the files at their paths.

    ``has_folder``: the folder of the file exists. ``known``: a process has opened the file at this
    path before. ``user``: the process that may use another file than the one at the path.
    ``stuck``: the process that answers 503 until it is restarted, because the index of its log was
    removed. ``exposed``: the files that other users can open. ``aside``: the logs of former files.
    """

    has_folder: bool
    exists: bool
    known: bool
    user: int | None
    stuck: int | None
    exposed: tuple[Path, ...]
    aside: tuple[Path, ...]


def find(lock_path: Path, paths: Paths, here: Inodes, note: Note | None) -> Findings:
    """Return the state of the files at ``paths``, whose inodes are ``here``. Raises ``OSError``."""
    files = [lock_path, *map(Path, paths)]
    wal = Path(paths.wal)
    user = note if note is not None and note.is_of_live_process() else None
    return Findings(
        has_folder=wal.parent.is_dir(),
        exists=here.file is not None,
        known=note is not None,
        user=user.process if user and user.inodes.file != here.file else None,
        stuck=user.process if user and user.has_lost_index(here) else None,
        exposed=tuple(path for path in files if path.exists() and path.stat().st_mode & 0o077),
        aside=tuple(sorted(wal.parent.glob(f"{wal.name}.*"))),
    )
