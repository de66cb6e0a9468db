"""Run the server's tests on newer versions of gunicorn than the locked one.

The server builds on names of gunicorn that any release may change. This tries the newest version
that pyproject.toml allows, and the newest of all, pre-releases included. A failure with the second
is only a warning. Each version is installed into a temporary folder. The .venv is not changed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    "tests/web/test_gunicorn_private.py",
    "tests/web/test_framing.py",
    "tests/processes/test_server_callbacks.py",
    "tests/processes/test_server_clients.py",
    "tests/processes/test_server_http.py",
    "tests/processes/test_server_stop.py",
    "tests/processes/test_server_workers.py",
]
FETCH_SECONDS = 120
TEST_SECONDS = 300


def main() -> int:
    """Try both versions. Returns the exit status. Arguments are the tests to run."""
    tests = sys.argv[1:] or TESTS
    tried = {metadata.version("gunicorn")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (allowed,) = (line for line in project["dependencies"] if line.startswith("gunicorn"))
    passed = works(allowed, [], tried, tests)
    if not works("gunicorn", ["--pre"], tried, tests):
        print("pyproject.toml does not allow this version: only a warning.")
    return 0 if passed else 1


def works(requirement: str, options: list[str], tried: set[str], tests: list[str]) -> bool:
    """Return whether the ``tests`` pass with the newest version, unless it is in ``tried``."""
    with tempfile.TemporaryDirectory() as folder:
        version = install(requirement, options, Path(folder))
        if version is None or version in tried:
            result = "cannot be fetched" if version is None else f"{version} is already tested"
            print(f"{requirement}: {result}", flush=True)
            return True
        tried.add(version)
        print(f"{requirement}: testing {version}", flush=True)
        passed = run(tests, Path(folder))
        print(f"gunicorn {version}: {'passed' if passed else 'FAILED'}", flush=True)
        return passed


def install(requirement: str, options: list[str], folder: Path) -> str | None:
    """Install gunicorn into ``folder`` and return its version, or None if it cannot be fetched."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--target", str(folder)]
    try:
        subprocess.run(  # noqa: S603 - the requirement is the repository's own
            [*command, *options, requirement], check=True, timeout=FETCH_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    (found,) = metadata.distributions(name="gunicorn", path=[str(folder)])
    return found.version


def run(tests: list[str], folder: Path) -> bool:
    """Return whether the ``tests`` pass in time with the packages in ``folder``."""
    at_once = str(min(4, len(tests)) if len(tests) > 1 else 0)
    command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses", at_once, *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(  # noqa: S603 - the tests are the repository's own
        command, cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        return process.wait(TEST_SECONDS) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):  # servers of tests that took too long
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
