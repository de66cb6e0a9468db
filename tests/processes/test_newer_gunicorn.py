"""``make newer``: the server's tests on newer versions of gunicorn, from an index of wheels."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import gunicorn
import pytest

ROOT = Path(__file__).parents[2]
LOCKED = metadata.version("gunicorn")
#: A test that needs no server.
TEST = "tests/web/test_gunicorn_private.py"


def make_wheel(folder: Path, version: str) -> None:
    """Write a wheel of the installed gunicorn, but with a private name that has changed."""
    package = Path(gunicorn.__file__).parent
    info = f"gunicorn-{version}.dist-info"
    with zipfile.ZipFile(folder / f"gunicorn-{version}-py3-none-any.whl", "w") as wheel:
        for file in package.rglob("*.py"):
            source = file.read_text(encoding="utf-8").replace("_close_transport", "_close_all")
            wheel.writestr(f"gunicorn/{file.relative_to(package)}", source)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: gunicorn\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def try_newer(folder: Path, *versions: str) -> tuple[int, str]:
    """Run the command with an index of these ``versions``. Return its status and its output."""
    for version in versions:
        make_wheel(folder, version)
    ended = subprocess.run(
        [sys.executable, "tools/newer_gunicorn.py", TEST],
        cwd=ROOT,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_nothing_is_run_without_a_newer_version(tmp_path: Path) -> None:
    """If the locked version is the newest, and there is no pre-release, nothing is to be done."""
    status, output = try_newer(tmp_path, LOCKED)

    assert status == 0
    assert output.count(f"{LOCKED} is already tested") == 2


def test_index_that_cannot_be_reached_fails_nothing(tmp_path: Path) -> None:
    """Without an index, the command says so and succeeds."""
    status, output = try_newer(tmp_path)

    assert status == 0
    assert output.count("cannot be fetched") == 2


@pytest.mark.parametrize(
    ("version", "expected"), [("27.999", 1), ("27.999rc1", 0), ("999", 0)], ids=str
)
def test_only_an_allowed_version_fails_the_run(tmp_path: Path, version: str, expected: int) -> None:
    """A broken version is named with its reasons. A pre-release or a later one only warns."""
    status, output = try_newer(tmp_path, LOCKED, version)

    assert status == expected
    assert ": ASGIProtocol._close_transport is missing. It discards unread bytes" in output
    assert f"gunicorn {version}: FAILED" in output
    assert ("only a warning" in output) is (expected == 0)
