"""The tests that docs/testing.md shows pass."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from app.settings import Settings
from tests.conftest import MakeHandlers
from tests.support import pages

(SHOWN,) = [
    block.text
    for block in pages.blocks("docs/testing.md", "Pairs, bursts and the hook")
    if block.kind == "python"
]
GREETING = """
    import app

    def handle({name}, client):
        options = {{"idempotency_key": app.idempotency_key({name}, "greet")}}
        client.v1.customers.update({customer}, {{"description": "new"}}, options)
"""
#: The modules that the page describes.
MODULES = {
    "customer_created": GREETING.format(name="event", customer="event.data.object.id"),
    "v1_customer_created": GREETING.format(name="notif", customer="notif.related_object.id"),
    "v1_customer_updated": "COALESCE = True\ndef handle(notif, client): pass\n",
    "around": """
        from contextlib import contextmanager
        import app

        @contextmanager
        def around(notif, client):
            if str(getattr(notif, "context", None)) == "acct_closed":
                raise app.GiveUp("the account is closed")
            yield
    """,
}


@pytest.fixture
def handlers_package(make_handlers: MakeHandlers) -> str:
    """The package of a team with these modules."""
    return make_handlers(**MODULES)


@pytest.fixture
def settings(settings: Settings, handlers_package: str) -> Settings:
    """The settings of that team."""
    return replace(settings, handlers_package=handlers_package)


@pytest.mark.parametrize("name", re.findall(r"^def (test_\w+)", SHOWN, re.MULTILINE))
def test_shown_test_passes(
    name: str, handlers_package: str, request: pytest.FixtureRequest
) -> None:
    """Each test of the page is run with the fixtures that it names."""
    code = SHOWN.replace("from handlers import", f"from {handlers_package} import")
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - the code of the page
    test = names[name]
    assert inspect.isfunction(test)
    test(**{each: request.getfixturevalue(each) for each in inspect.signature(test).parameters})
