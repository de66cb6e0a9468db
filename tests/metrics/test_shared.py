"""The files in which processes share their counts: nothing is lost or counted twice."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app.metrics import shared
from app.metrics.shared import FILE_BYTES, SharedFiles

COUNTER = "stripe_receiver_attempts"


@pytest.fixture
def files(tmp_path: Path) -> SharedFiles:
    """Shared files in a new folder."""
    return SharedFiles(tmp_path)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(file: Path, name: str, value: float, labels: dict[str, str] | None = None) -> None:
    """Write a value as the library does."""
    labels = labels or {}
    opened: Any = MmapedDict(str(file))
    opened.write_value(mmap_key(COUNTER, name, [*labels], [*labels.values()], "Help."), value, 0.0)
    opened.close()


def count(file: Path, value: float) -> None:
    """Write a counter."""
    write(file, f"{COUNTER}_total", value)


def values(files: SharedFiles) -> dict[str, float]:
    """Return all values that a scrape shows, by name and labels."""
    samples = [sample for metric in files.collect() for sample in metric.samples]
    return {"".join([each.name, *each.labels.values()]): each.value for each in samples}


def names(folder: Path) -> set[str]:
    """Return the names of the files with values."""
    return {file.name for file in folder.iterdir()} - {"lock"}


def test_processes_are_added_up(files: SharedFiles, tmp_path: Path) -> None:
    """Live processes keep their own files, of which a scrape shows the sum."""
    count(tmp_path / f"counter_{os.getpid()}.db", 2)
    count(tmp_path / f"counter_{os.getppid()}.db", 3)
    assert values(files) == {f"{COUNTER}_total": 5}
    assert len(names(tmp_path)) == 2


@pytest.mark.processes
def test_dead_process_is_merged(files: SharedFiles, tmp_path: Path, dead: int) -> None:
    """The counts of dead processes stay, in one file for each kind of metric."""
    count(tmp_path / f"counter_{os.getpid()}.db", 2)
    for number in range(1, 4):
        count(tmp_path / f"counter_{dead}.db", number)
        assert values(files) == {f"{COUNTER}_total": 2 + number * (number + 1) / 2}
    assert names(tmp_path) == {f"counter_{os.getpid()}.db", "counter_merged.db"}


@pytest.mark.processes
def test_files_do_not_grow(files: SharedFiles, tmp_path: Path, dead: int) -> None:
    """After many restarts, the merged file is as large as after the first one."""
    sizes = set()
    for _ in range(20):
        count(tmp_path / f"counter_{dead}.db", 1)
        files.prepare()
        sizes.add((tmp_path / "counter_merged.db").stat().st_size)
    assert values(files) == {f"{COUNTER}_total": 20}
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.processes
def test_histograms_are_merged(files: SharedFiles, tmp_path: Path, dead: int) -> None:
    """Buckets are cumulative at a scrape only. A merge does not accumulate them."""
    for pid in (dead, os.getpid()):
        write(tmp_path / f"histogram_{pid}.db", f"{COUNTER}_bucket", 1, {"le": "0.5"})
        write(tmp_path / f"histogram_{pid}.db", f"{COUNTER}_bucket", 2, {"le": "+Inf"})
        write(tmp_path / f"histogram_{pid}.db", f"{COUNTER}_sum", 9.5)
    expected = {
        f"{COUNTER}_bucket0.5": 2,
        f"{COUNTER}_bucket+Inf": 6,
        f"{COUNTER}_count": 6,
        f"{COUNTER}_sum": 19,
    }
    assert values(files) == expected
    assert values(files) == expected


@pytest.mark.processes
def test_gauges_of_a_dead_process_go(files: SharedFiles, tmp_path: Path, dead: int) -> None:
    """A gauge of a process that has ended would stay wrong for ever."""
    for pid, number in ((dead, 8), (os.getpid(), 3)):
        write(tmp_path / f"gauge_livesum_{pid}.db", COUNTER, number)
    assert values(files) == {COUNTER: 3}


@pytest.mark.processes
@pytest.mark.parametrize("step", ["write_bytes", "rename", "replace", "unlink"])
def test_killed_during_a_merge(
    files: SharedFiles, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Wherever a merge is killed, the next one neither loses nor repeats a count."""
    count(tmp_path / "counter_merged.db", 40)
    count(tmp_path / f"counter_{dead}.db", 2)

    class KilledError(Exception):
        pass

    def killed(self: Path, *_arguments: Any, **_options: Any) -> None:
        if "counter_" in self.name:  # not the file of the lock
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, killed)  # the process ends before this step
        with pytest.raises(KilledError):
            values(files)

    assert values(files) == {f"{COUNTER}_total": 42}
    assert names(tmp_path) == {"counter_merged.db"}


def test_process_number_is_used_again(files: SharedFiles, tmp_path: Path) -> None:
    """A new process with the number of a dead one counts on in its files."""
    count(tmp_path / f"counter_{os.getpid()}.db", 7)
    files.prepare()
    assert values(files) == {f"{COUNTER}_total": 7}


def test_files_are_written_in_advance(files: SharedFiles, tmp_path: Path) -> None:
    """The file system has all blocks before the library maps a file."""
    files.prepare()
    assert {file.name: file.stat().st_size for file in tmp_path.glob("*.db")} == {
        f"{kind}_{os.getpid()}.db": size for kind, size in FILE_BYTES.items()
    }
    assert values(files) == {}


def test_process_of_another_user(
    files: SharedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that now belongs to a process of another user is not merged yet."""

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)  # tests can run as root, which may signal each process
    count(tmp_path / "counter_1.db", 1)
    assert values(files) == {f"{COUNTER}_total": 1}
    assert names(tmp_path) == {"counter_1.db"}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock in another process, as if it was stopped."""
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder, begun, end))
    process.start()
    assert begun.wait(60)
    yield
    end.set()
    process.join()


def hold(folder: Path, begun: Any, end: Any) -> None:
    """Hold the lock until the end."""
    with (folder / "lock").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        begun.set()
        end.wait(60)


@pytest.mark.processes
def test_stopped_holder_of_the_lock(
    files: SharedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrape fails soon, and a new process starts all the same."""
    monkeypatch.setattr(shared, "LOCK_SECONDS", 0.02)  # no mock: a shorter wait
    with locked(tmp_path):
        with pytest.raises(TimeoutError, match="locked"):
            files.collect()
        files.prepare()
    assert len(list(tmp_path.glob("*.db"))) == len(FILE_BYTES)
