"""Fixtures of the tests with real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.services import HANDLER, MODULE, Lab


@pytest.fixture
def modules() -> dict[str, str]:
    """The source of each handler module. A test module may override this."""
    return {MODULE: HANDLER}


@pytest.fixture
def lab(
    tmp_path: Path, make_handlers: Callable[..., str], modules: dict[str, str]
) -> Iterator[Lab]:
    """Services whose callbacks the test controls. They end with the test."""
    lab = Lab(tmp_path / "packages" / make_handlers(**modules))
    try:
        yield lab
    finally:
        lab.close()
