"""``app.testing``, the old name of the devkit."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A test of a team from before the rename.
OLD_TEST = """
from app.testing.deliver import Deliver
from app.testing.filled import api_object


def test_old_names(deliver: Deliver) -> None:
    assert deliver("v1.customer.created").outcome == "fallback"
"""


def run(folder: Path, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, with the service of ``root`` and without settings."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("deliver", "deliver"),
        ("demo", "demo"),
        ("destinations", "destinations"),
        ("dev", "dev"),
        ("event_list", "event_list"),
        ("filled", "placeholders"),
        ("plugin", "plugin"),
        ("samples", "samples"),
        ("stripe_api", "stripe_api"),
    ],
)
def test_old_module_is_the_new_one(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old import returns the new module, with the same classes, and warns with the new name."""
    monkeypatch.delitem(sys.modules, f"app.testing.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"^app.testing.{old} is now devkit.{new}: import"):
        module = importlib.import_module(f"app.testing.{old}")
    assert module is importlib.import_module(f"devkit.{new}")
    assert module.__name__ == f"devkit.{new}"


@pytest.mark.processes
def test_warning_names_the_line_that_imports(tmp_path: Path) -> None:
    """The warning has the file and line of the import to change."""
    (tmp_path / "old.py").write_text("from app.testing import samples\n", encoding="utf-8")
    done = run(tmp_path, "-W", "always", "old.py")
    assert done.returncode == 0
    assert "old.py:1: DeprecationWarning: app.testing.samples is now devkit.samples" in done.stderr


def test_unknown_module_is_not_found() -> None:
    """An unknown module is reported by its own name."""
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'app\.testing\.nonsense'"):
        importlib.import_module("app.testing.nonsense")


@pytest.mark.processes
def test_tests_of_a_team_keep_working(tmp_path: Path) -> None:
    """A conftest and a test with the old names pass with this project's settings of pytest."""
    lines = 'from app.testing.deliver import SECRET\npytest_plugins = ["app.testing.plugin"]\n'
    (tmp_path / "conftest.py").write_text(lines, encoding="utf-8")
    (tmp_path / "test_old.py").write_text(OLD_TEST, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    done = run(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", ".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "app.testing.plugin is now devkit.plugin" in done.stdout


@pytest.mark.processes
@pytest.mark.measured
def test_error_without_the_devkit(tmp_path: Path) -> None:
    """In the image, which has no devkit, the error says what to do."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    done = run(tmp_path, "-c", "import app.testing.deliver", root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: app.testing is now devkit, which is not installed here. The image does not"
        " contain it: import it only in tests."
    )
