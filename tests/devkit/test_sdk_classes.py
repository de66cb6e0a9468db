"""Classes of the SDK that the tools of authors find."""

import ast
import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devkit import sdk_classes
from devkit.event_classes import related_class
from devkit.sdk_classes import address


@pytest.fixture
def gil_is_released_by_the_collector() -> Iterator[None]:
    """A callback of the garbage collector lets other threads run, as hypothesis's does."""

    def let_others_run(*_: object) -> None:
        time.sleep(0.001)

    gc.callbacks.append(let_others_run)
    yield
    gc.callbacks.remove(let_others_run)


def forget() -> None:
    """Forget what was parsed, as in a new process."""
    for cached in (sdk_classes._address, sdk_classes._calls):  # noqa: SLF001 - as in a new process
        cached.cache_clear()


def test_only_the_services_of_the_class_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To parse all of them took a third of the time of `flask events send`."""
    wanted = related_class("v1.customer.created")
    assert wanted is not None
    forget()
    parsed: list[str] = []
    parse = sdk_classes._parse  # noqa: SLF001 - see below

    def note(source: str) -> ast.Module:
        parsed.append(source)
        return parse(source)

    # No mock: it parses, and counts.
    monkeypatch.setattr(sdk_classes, "_parse", note)
    assert address(wanted) == "/v1/customers/{customer}"
    assert 1 <= len(parsed) < 10


@pytest.mark.usefixtures("gil_is_released_by_the_collector")
def test_addresses_are_found_by_several_threads_at_once() -> None:
    """Tests of authors deliver from threads. Python 3.11 can parse in only one at a time."""
    wanted = related_class("v1.customer.created")
    assert wanted is not None
    forget()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(address, [wanted] * 4))

    assert len(set(found)) == 1
    assert found[0] is not None
    assert found[0].startswith("/v1/customers/")
