"""The modules and tests of ``flask handlers new`` are sound for every event type of the SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.stripe_api.catalog import Kind, module_name
from devkit import samples, scaffold, snapshot_scaffold
from tests.support.files import write

ROOT = Path(__file__).resolve().parents[2]
NEWER = "v2.core.health.event_generation_failure.resolved"
NEWER_SNAPSHOT = "customer.thing.made"
#: The snapshot types, and one of each class of object. The modules of one class differ in names.
SNAPSHOTS = [*samples.event_types(Kind.SNAPSHOT), NEWER_SNAPSHOT]
TESTED_SNAPSHOTS = [
    *{samples.snapshot_class(each): each for each in SNAPSHOTS[:-1]}.values(),
    NEWER_SNAPSHOT,
]

#: One application for the tests of all types: an application loads 602 modules.
SHARED = """
    '''One service for all.'''

    import pytest

    from app import create_app
    from app.processing import registry
    from app.settings import Settings
    from devkit.deliver import API_KEY, SECRET, Deliver, Receiver
    from devkit.door import Door
    from devkit.stripe_api import StripeApi

    pytest_plugins = ["devkit.plugin"]


    @pytest.fixture(scope="session")
    def api():
        with StripeApi().serve() as api:
            yield api


    @pytest.fixture
    def stripe_api(api):
        api._asked.clear()
        return api


    @pytest.fixture(scope="session")
    def deliver(tmp_path_factory, api):
        door = Door()
        registry.load = door.load
        url = f"sqlite:///{tmp_path_factory.mktemp('var')}/inbox.sqlite3"
        app = create_app(Settings(API_KEY, (SECRET,), stripe_api_base=api.url, database_url=url))
        yield Deliver(Receiver(app, app.test_client()), api, door)
        Receiver(app, app.test_client()).close()
"""
PYTEST = """
    [tool.pytest]
    minversion = "9.0"
    strict = true
    pythonpath = ["."]
    addopts = ["--import-mode=importlib"]
    filterwarnings = ["error"]
"""


def run(folder: Path, *arguments: str) -> str:
    """Run a tool in a folder, and return its output. It must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module and a test for each type of the SDK, and for one that is newer."""
    folder = tmp_path_factory.mktemp("everything")
    write(folder / "handlers" / "__init__.py", '"""Handlers."""\n')
    fallback = (ROOT / "handlers" / "fallback.py").read_text(encoding="utf-8")
    write(folder / "handlers" / "fallback.py", fallback)
    for event_type in [*samples.event_types(), NEWER]:
        name = f"{module_name(event_type)}.py"
        write(folder / "handlers" / name, scaffold.module_text(event_type))
        write(folder / "tests" / "handlers" / f"test_{name}", scaffold.test_text(event_type))
    for event_type in SNAPSHOTS:
        name = f"{module_name(event_type)}.py"
        write(folder / "handlers" / name, snapshot_scaffold.module_text(event_type))
    for event_type in TESTED_SNAPSHOTS:
        test = folder / "tests" / "handlers" / f"test_{module_name(event_type)}.py"
        write(test, snapshot_scaffold.test_text(event_type))
    return folder


class TestEveryType:
    """The files are sound for all types of the SDK, and for an unknown type."""

    def test_linter_and_formatter_pass(self, everything: Path) -> None:
        """All files pass the linter and the formatter of this repository."""
        config = ["--config", str(ROOT / "pyproject.toml")]
        run(everything, "ruff", "check", *config)
        run(everything, "ruff", "format", "--check", *config)

    def test_type_checker_passes(self, everything: Path) -> None:
        """All files pass mypy in strict mode, with the named classes."""
        config = ["--config-file", str(ROOT / "pyproject.toml")]
        config += ["--cache-dir", str(ROOT / ".mypy_cache")]  # the SDK is in it already
        said = run(everything, "mypy", *config, "handlers", "tests")
        files = 2 * len(samples.event_types()) + len(SNAPSHOTS) + len(TESTED_SNAPSHOTS) + 4
        assert f"no issues found in {files} source files" in said

    def test_tests_pass(self, everything: Path, tmp_path: Path) -> None:
        """Each test passes unchanged. Of the snapshot types, one of each class is tested."""
        # Another folder: this conftest is not one of a team.
        for name in ("handlers", "tests"):
            (tmp_path / name).symlink_to(everything / name)
        write(tmp_path / "pyproject.toml", dedented(PYTEST))
        write(tmp_path / "tests" / "conftest.py", dedented(SHARED))
        said = run(tmp_path, "pytest", "-q", "tests")
        (tmp_path / "tests" / "conftest.py").unlink()
        number = 3 * (len(samples.event_types()) + 1) + 2 * len(TESTED_SNAPSHOTS)
        assert f"{number} passed" in said


def dedented(text: str) -> str:
    """Return a text without its indentation."""
    return "\n".join(line[4:] for line in text.splitlines())
