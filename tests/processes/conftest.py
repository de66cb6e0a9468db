"""Fixtures of the tests with real servers."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gunicorn_server import Serve, Server, running
from tests.support.services import COVERAGE, HANDLER, MODULE, Lab, make_tables


@pytest.fixture
def modules() -> dict[str, str]:
    """The source of each handler module. A test module may override this."""
    return {MODULE: HANDLER}


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """The URL of a SQLite file with the tables of an empty inbox.

    With the mark ``no_tables``, neither the file nor its folder exists.
    """
    if request.node.get_closest_marker("no_tables") is None:
        make_tables(sqlite_url)
    return sqlite_url


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


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that starts gunicorn, with the arguments of ``running``."""
    with contextlib.ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(running(tmp_path, *options, **more))


@pytest.fixture(scope="module")
def server_options() -> tuple[str, ...]:
    """The options of ``server``. A test module may override this."""
    return ()


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    server_options: tuple[str, ...],
    process_coverage: str | None,
) -> Iterator[Server]:
    """One gunicorn for all tests of a module that do not change its state. It is measured."""
    folder = tmp_path_factory.mktemp("server")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            if process_coverage is not None:
                patch.setenv(COVERAGE, process_coverage)
            server = stack.enter_context(running(folder, *server_options))
        yield server


@pytest.fixture
def many_files() -> Iterator[None]:
    """Enough open files for this process and for the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
