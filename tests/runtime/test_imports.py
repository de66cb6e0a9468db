"""The garbage collector while modules are imported."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest

import app
from app.runtime.imports import without_collections
from app.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def _collector_on() -> Iterator[None]:
    """Leave the collector as it was."""
    yield
    gc.enable()


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> Callable[[str], list[str]]:
    """A function that returns what ``code`` prints, in a process with the required settings."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "STRIPE_API_KEY": settings.stripe_api_key,
        "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secrets[0],
    }

    def run(code: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,  # a folder without a .env file
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    return run


@pytest.mark.usefixtures("_collector_on")
@pytest.mark.parametrize("switch", [gc.enable, gc.disable])
def test_collector_is_off_in_the_block_only(
    switch: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the block, and after an error in it, the collector is as before."""
    monkeypatch.setattr(gc, "freeze", Mock())  # the garbage of other tests is to be collected
    switch()
    before, inside = gc.isenabled(), []

    def fail() -> NoReturn:
        with without_collections():
            inside.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert (inside, gc.isenabled()) == ([False], before)


#: A frozen object is in none of the collector's lists.
FREEZE = """
import gc
from app.runtime.imports import without_collections
with without_collections():
    made = []
later = []
print(*(any(each is one for each in gc.get_objects()) for one in (made, later)))
"""


@pytest.mark.processes
def test_collector_ignores_what_was_made(run: Callable[[str], list[str]]) -> None:
    """It looks for garbage only in what is made after the block."""
    assert run(FREEZE) == ["False", "True"]


def test_imported_application_freezes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of tests makes many applications. What they leave behind is collected."""
    freeze = Mock()
    app.create_app(settings)
    monkeypatch.setattr(gc, "freeze", freeze)
    app.create_app(settings)
    freeze.assert_not_called()


@pytest.mark.processes
def test_plugin_imports_the_application(run: Callable[[str], list[str]]) -> None:
    """So nothing is frozen in the tests of a team either."""
    assert run("import sys, devkit.plugin; print('app.factory' in sys.modules)") == ["True"]


#: Counts the collections of the ``code`` that follows.
COUNT = """
import gc
phases = []
gc.callbacks.append(lambda phase, _: phases.append(phase))
{code}
print(phases.count("start"), gc.isenabled())
"""


@pytest.mark.processes
def test_command_imports_the_application_in_such_a_block(
    run: Callable[[str], list[str]],
) -> None:
    """With the collector on, there were some hundred collections."""
    collections, is_on = run(COUNT.format(code="import app; app.create_app()"))
    assert (int(collections) < 40, is_on) == (True, "True")


@pytest.mark.processes
def test_gunicorn_reads_its_configuration_without_collections(
    run: Callable[[str], list[str]],
) -> None:
    """It imports SQLAlchemy: with the collector on, there were some hundred collections."""
    code = f"exec(open({str(ROOT / 'gunicorn.conf.py')!r}).read())"
    assert run(COUNT.format(code=code)) == ["0", "False"]
