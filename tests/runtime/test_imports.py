"""The garbage collector while modules are imported."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import app
from app.runtime.imports import without_collections
from app.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _collector_on() -> Iterator[None]:
    """Leave the collector as it was."""
    yield
    gc.enable()


def run(code: str, settings: Settings) -> str:
    """Return the output of ``code`` in a process with the ``settings`` that are required."""
    environment = {
        "STRIPE_API_KEY": settings.stripe_api_key,
        "STRIPE_WEBHOOK_SECRET": settings.stripe_webhook_secrets[0],
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("switch", [gc.enable, gc.disable])
def test_collector_is_off_in_the_block_only(switch: Callable[[], None]) -> None:
    """After the block, and after an error in it, the collector is as before."""
    switch()
    before, inside = gc.isenabled(), []

    def fail() -> NoReturn:
        with without_collections():
            inside.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert (inside, gc.isenabled()) == ([False], before)


def test_collector_skips_what_was_made() -> None:
    """Of what exists at the end of the block, no collection looks for garbage."""
    frozen = gc.get_freeze_count()
    with without_collections():
        made: list[list[int]] = [[] for _ in range(100)]
    assert gc.get_freeze_count() >= frozen + len(made)


def test_imported_application_freezes_nothing(settings: Settings) -> None:
    """A process of tests makes many applications. What they leave behind is collected."""
    app.create_app(settings)
    frozen = gc.get_freeze_count()
    app.create_app(settings)
    assert gc.get_freeze_count() == frozen


@pytest.mark.processes
def test_command_imports_the_application_in_such_a_block(settings: Settings) -> None:
    """In a command's process, the collector skips the modules."""
    code = "import app, gc; app.create_app(); print(gc.isenabled(), gc.get_freeze_count() > 50_000)"
    assert run(code, settings).split() == ["True", "True"]


#: Counts the collections while gunicorn's configuration is read.
COUNT = """
import gc
started = []
gc.callbacks.append(lambda phase, _: started.append(phase))
exec(open("gunicorn.conf.py").read())
print(len(started))
"""


@pytest.mark.processes
def test_gunicorn_reads_its_configuration_without_collections(settings: Settings) -> None:
    """The configuration imports SQLAlchemy: some hundred collections with the collector on."""
    assert int(run(COUNT, settings)) < 20
