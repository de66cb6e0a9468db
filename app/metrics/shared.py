"""The files in which the processes of one gunicorn share their counts.

The library of Prometheus writes one file for each process and kind of metric. It maps the file into
memory, so the counts survive SIGKILL. This module makes the folder, and adds up the files of dead
processes. Without that, each restart of a worker would add a file for ever.

A merge neither loses nor repeats a count, wherever its process is killed:

1. The sum of the merged file and the dead process's file is written to a new file.
2. The dead process's file gets another name, which says that the new file is complete.
3. The new file replaces the merged file.
4. The dead process's file is removed.

After step 2 the next merge does the rest.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

#: Seconds that a reader waits for the lock. Its holder needs milliseconds, unless it is stopped.
LOCK_SECONDS = 2.0
LOCK_PAUSE = 0.005

#: The kinds of metrics whose values are added up. The gauges of a dead process are removed.
ADDED = ("counter", "histogram", "summary")

#: The bytes of the files of one process. They are written in advance: when a file system is full,
#: a write to a mapped page without a block of its own ends the process with SIGBUS.
FILE_BYTES = {"counter": 256 * 1024, "histogram": 32 * 1024, "gauge_livesum": 4096}


class SharedFiles:
    """The files of all processes of one gunicorn."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the files of this process, and merge those of dead processes.

        Raises ``OSError`` if the file system has no space for them. While a stopped process holds
        the lock, dead processes are left to the next merge.
        """
        for kind, size in FILE_BYTES.items():
            file = self._folder / f"{kind}_{os.getpid()}.db"
            if not file.exists():  # else of a dead process with this number: it counts on
                new = file.with_suffix(".making")
                new.write_bytes(bytes(size))
                new.rename(file)
        with suppress(TimeoutError), self._locked():
            self._merge_dead()

    def collect(self) -> list[Metric]:
        """Return the sums of all processes, dead ones included.

        Raises ``TimeoutError`` while a stopped process holds the lock.
        """
        with self._locked():
            self._merge_dead()
            return list(MultiProcessCollector(None, self._folder).collect())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads, and other processes.

        A POSIX lock: a process that a callback forks does not inherit it, unlike one of ``flock``.
        """
        with self._lock, (self._folder / "lock").open("w") as file:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError("the files of the metrics are locked") from None
                time.sleep(LOCK_PAUSE)
            yield

    def _merge_dead(self) -> None:
        for kind in ADDED:
            self._finish(kind)
        for file in sorted(self._folder.glob("*_*.db")):
            kind, _, pid = file.stem.rpartition("_")
            if not pid.isdigit() or _is_alive(int(pid)):
                continue
            if kind in ADDED:
                self._merge(kind, file)
            else:
                file.unlink()

    def _merge(self, kind: str, file: Path) -> None:
        merged, new = self._merged(kind), self._new(kind)
        sources = [each for each in (merged, file) if each.exists()]
        new.write_bytes(bytes(sum(map(_used_bytes, sources)) + FILE_BYTES["gauge_livesum"]))
        total = MmapedDict(str(new))
        for source in sources:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):
                total.write_value(key, total.read_value(key)[0] + value, 0.0)
        total.close()
        file.rename(file.with_suffix(".merged"))
        self._finish(kind)

    def _finish(self, kind: str) -> None:
        """Do steps 3 and 4, if step 2 was done. Otherwise the new file may be incomplete."""
        new = self._new(kind)
        sources = list(self._folder.glob(f"{kind}_*.merged"))
        if sources and new.exists():
            new.replace(self._merged(kind))
        new.unlink(missing_ok=True)
        for source in sources:
            source.unlink()

    def _merged(self, kind: str) -> Path:
        return self._folder / f"{kind}_merged.db"

    def _new(self, kind: str) -> Path:
        return self._folder / f"{kind}_merged.new"


def _used_bytes(file: Path) -> int:
    with file.open("rb") as opened:
        return int.from_bytes(opened.read(4), "little")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number belongs to a process of another user now
        return True
    return True
