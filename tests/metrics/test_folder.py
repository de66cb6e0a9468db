"""The folder in which the processes of a gunicorn share their counts."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.errors import StartError
from app.metrics import folder

#: A process that makes its folder in its first argument, and then waits.
CHILD = """
import sys
from pathlib import Path

from app.metrics import folder

folder.SHARED_MEMORY = Path(sys.argv[1])
print(folder.make(), flush=True)
input()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test stands for shared memory."""
    monkeypatch.setattr(folder, "SHARED_MEMORY", tmp_path)  # no mock: another place
    monkeypatch.setenv(folder.VARIABLE, "/of/an/earlier/gunicorn")
    return tmp_path


def test_one_folder_for_each_gunicorn(parent: Path) -> None:
    """A start makes a folder of its own, whatever it inherits. A reload keeps it."""
    made = folder.make()
    assert folder.make() == made
    assert list(parent.iterdir()) == [made]
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert os.environ[folder.VARIABLE] == str(made)


def test_it_goes_with_its_process(parent: Path) -> None:
    """The end of gunicorn removes it, and never one that it only inherited."""
    folder.remove()
    folder.make()
    folder.remove()
    assert list(parent.iterdir()) == []


@pytest.mark.processes
def test_folders_of_dead_services_go(parent: Path) -> None:
    """A start removes the folder of a service that was killed, and none of a live one."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    other = Path(process.stdout.readline().strip())
    own = folder.make()
    assert set(parent.iterdir()) == {own, other}
    folder.remove()
    process.kill()
    process.communicate()
    assert set(parent.iterdir()) == {other}
    own = folder.make()
    assert set(parent.iterdir()) == {own}


def test_without_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no shared memory, TMPDIR has the folder."""
    monkeypatch.setattr(folder, "SHARED_MEMORY", tmp_path / "missing")  # no mock: another place
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert folder.make().parent == tmp_path


def test_no_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a read-only file system and no shared memory, the start says what to set."""

    def gettempdir() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(folder, "SHARED_MEMORY", tmp_path / "missing")  # no mock: another place
    # Replaced, because root can write to every folder of this machine.
    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    with pytest.raises(StartError, match="Set TMPDIR to a folder that can be written"):
        folder.make()
