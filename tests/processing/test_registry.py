"""Handler modules are found, checked all at once, and registered on the SDK's handler."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stripe

from app.errors import StartError
from app.processing import registry
from app.stripe_api.catalog import module_name
from devkit import samples
from tests.conftest import MakeHandlers

HANDLE = """
    '''What it does.

    And more.'''
    def handle(notif, client):
        pass
"""
CREATED = "v1_customer_created"


def problems(package: str) -> list[str]:
    """Return the problems of a package."""
    with pytest.raises(StartError) as raised:
        registry.load(package)
    assert str(raised.value).startswith("The handler modules cannot be used:\n")
    return raised.value.problems


def test_modules_are_found_by_their_names(make_handlers: MakeHandlers) -> None:
    """A file named after an event type is that type's handler. Helpers and other files are not."""
    package = make_handlers(v1_invoice_paid=HANDLE, v1_customer_created=HANDLE, _helper="x = 1")

    loaded = registry.load(package)

    assert [(m.event_type, m.file, m.summary) for m in loaded.modules] == [
        ("v1.customer.created", f"{package}/v1_customer_created.py", "What it does."),
        ("v1.invoice.paid", f"{package}/v1_invoice_paid.py", "What it does."),
    ]
    assert loaded.fallback.file == f"{package}/fallback.py"


def test_fallback_alone_is_enough(make_handlers: MakeHandlers) -> None:
    """Without any module, the fallback gets all events."""
    assert registry.load(make_handlers()).modules == ()


def test_module_can_be_a_folder(make_handlers: MakeHandlers) -> None:
    """A handler module may be a package of the same name."""
    package = make_handlers()
    folder = Path(sys.path[0]) / package / CREATED
    folder.mkdir()
    (folder / "__init__.py").write_text("def handle(notif, client): pass\n")

    assert [m.event_type for m in registry.load(package).modules] == ["v1.customer.created"]


def test_every_type_of_the_sdk_is_accepted_and_called_with_its_class(
    make_handlers: MakeHandlers,
) -> None:
    """A module named after any of the SDK's types gets that type's notification."""
    types = samples.event_types()
    assert len(types) >= 326
    source = "calls = []\ndef handle(notif, client):\n    calls.append((notif, client))\n"
    package = make_handlers(**{module_name(each): source for each in types})
    loaded = registry.load(package)
    client = stripe.StripeClient("sk_test_fake")
    router = loaded.register(client, lambda module: module.callback)

    for each in types:
        router.route(each, samples.encode(samples.notification(each, context="acct_1")))
        ((notif, bound),) = sys.modules[f"{package}.{module_name(each)}"].calls
        assert notif.type == each == type(notif).LOOKUP_TYPE
        assert type(notif).__name__.endswith("EventNotification")
        assert str(bound._requestor._options.stripe_context) == "acct_1"  # noqa: SLF001 - no getter


@pytest.mark.processes
def test_classes_of_registered_types_are_imported_at_start() -> None:
    """The first event of a type is not slower: all of its classes are imported at the start."""
    code = """
import sys
from app.processing import registry
import stripe
loaded = registry.load("handlers")
loaded.register(stripe.StripeClient("sk_test_fake"), lambda module: module.callback)
print(*(name for name in sys.modules if name.startswith("stripe.events._v1_")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [
        "stripe.events._v1_billing_meter_error_report_triggered_event",
        "stripe.events._v1_checkout_session_completed_event",
    ]


def test_type_newer_than_the_sdk_is_routed_by_name(make_handlers: MakeHandlers) -> None:
    """A type that the SDK does not know is passed to the module that declares it."""
    newer = "v2.core.health.event_generation_failure.resolved"
    package = make_handlers(
        lost=f"EVENT_TYPE = {newer!r}\ncalls = []\ndef handle(notif, client): calls.append(notif)"
    )
    loaded = registry.load(package)
    router = loaded.register(stripe.StripeClient("sk_test_fake"), lambda m: m.callback)
    body: dict[str, Any] = {
        "id": "evt_1",
        "object": "v2.core.event",
        "created": "2026-11-23T00:00:00Z",
        "livemode": False,
    }

    router.route(newer, samples.encode({**body, "type": newer}))
    router.route("v9.not.known", samples.encode({**body, "type": "v9.not.known"}))
    router.route(
        "v1.billing.meter.no_meter_found",
        samples.encode({**body, "type": "v1.billing.meter.no_meter_found"}),
    )

    assert [notif.type for notif in sys.modules[f"{package}.lost"].calls] == [newer]
    fallback = sys.modules[f"{package}.fallback"].calls
    assert [(notif.type, details.is_known_event_type) for notif, _client, details in fallback] == [
        ("v9.not.known", False),
        ("v1.billing.meter.no_meter_found", True),
    ]


def test_declared_type_that_the_sdk_knows_is_registered(make_handlers: MakeHandlers) -> None:
    """After an upgrade of the SDK, a module with EVENT_TYPE gets the class of its type."""
    source = (
        "EVENT_TYPE = 'v1.customer.created'\n"
        "calls = []\ndef handle(notif, client): calls.append(notif)"
    )
    package = make_handlers(new_customer=source)
    loaded = registry.load(package)
    router = loaded.register(stripe.StripeClient("sk_test_fake"), lambda m: m.callback)

    router.route("v1.customer.created", samples.encode(samples.notification("v1.customer.created")))

    (notif,) = sys.modules[f"{package}.new_customer"].calls
    assert type(notif) is stripe.events.V1CustomerCreatedEventNotification


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        (
            "v1_custommer_created",
            HANDLE,
            f"'v1.custommer.created' is no event type of stripe {stripe.VERSION};"
            " nearest: 'v1.customer.created'. Name the file v1_customer_created.py",
        ),
        ("V1_Customer_Created", HANDLE, "Rename it to v1_customer_created.py"),
        ("v1.customer.created", HANDLE, "Rename it to v1_customer_created.py"),
        ("v1-custommer-created", HANDLE, "Name the file v1_customer_created.py"),
        ("utils", "x = 1", "begin the name of a helper with _"),
        (CREATED, "x = 1", "defines no handle. Define def handle(notif, client)"),
        (CREATED, "handle = 1", "handle is not a function"),
        (CREATED, "def handle(notif): pass", "handle(notif) has the wrong parameters"),
        (CREATED, "def handle(notif, client, more): pass", "has the wrong parameters"),
        (CREATED, "def handle(notif, client, *, more): pass", "has the wrong parameters"),
        (CREATED, "def handle(client, notif): pass", "has its parameters in another order"),
        (CREATED, "async def handle(notif, client): pass", "line 1: handle is async"),
        (CREATED, "async def handle(notif, client): yield", "handle is async and would never run"),
        (CREATED, "def handle(notif, client): yield", "handle has a yield and would never run"),
        (CREATED, "x = 1\ndef handle(:\n", "line 2: cannot be imported: SyntaxError:"),
        (CREATED, "x = 1\n\nimport nothing_there", "line 3: cannot be imported: ModuleNotFound"),
        (CREATED, "raise SystemExit(3)", "line 1: cannot be imported: SystemExit: 3"),
        (CREATED, "import _helper_that_raises", "cannot be imported"),
        (CREATED, "x = 1 +", "SyntaxError: invalid syntax. Correct this line"),
        (CREATED, "import nothing_there", "Correct the name, or install what is missing"),
        (CREATED, "1 / 0", "Fix this error: the module must import without one"),
        (
            CREATED,
            "from stripe.events import V1CustommerCreatedEventNotification",
            "stripe.events has no V1CustommerCreatedEventNotification."
            " Use V1CustomerCreatedEventNotification",
        ),
        (CREATED, "from stripe import zzz", "stripe has no zzz. Remove it, or correct the name"),
        ("new", "EVENT_TYPE = 'Customer created'", "EVENT_TYPE is 'Customer created'. Use the"),
        ("new", "EVENT_TYPE = ['v1.a']", "EVENT_TYPE is ['v1.a']. Use the type"),
        ("fallback", "def handle(notif, client): pass", "Use def handle(notif, client, details)"),
    ],
)
def test_wrong_module_is_named_with_the_remedy(
    make_handlers: MakeHandlers, name: str, source: str, words: str
) -> None:
    """Every problem of a module stops the start, with the file's name and the remedy."""
    package = make_handlers(**{name: source})
    (problem,) = problems(package)
    assert problem.startswith(f"{package}/{name}.py: ")
    assert words in problem


def test_all_problems_are_reported_at_once(make_handlers: MakeHandlers) -> None:
    """Three wrong modules make three lines, in the order of their names."""
    package = make_handlers(v1_a="", v1_customer_created="def handle(): pass", v1_b="1 +")

    said = problems(package)

    assert [problem.split(":")[0] for problem in said] == [
        f"{package}/{name}.py" for name in ("v1_a", "v1_b", "v1_customer_created")
    ]


def test_two_modules_for_one_type_are_refused(make_handlers: MakeHandlers) -> None:
    """One event type has one callback: with two, a retry would repeat the one that succeeded."""
    source = "EVENT_TYPE = 'v1.customer.created'\ndef handle(notif, client): pass"
    package = make_handlers(another=source, v1_customer_created=HANDLE)

    (problem,) = problems(package)

    assert problem == (
        f"{package}/another.py: 'v1.customer.created' is handled in"
        f" {package}/v1_customer_created.py as well. Keep one: with two, a retry would repeat"
        " the one that succeeded"
    )


def test_missing_fallback_is_refused(make_handlers: MakeHandlers) -> None:
    """Without a fallback, no callback would get the events of other types."""
    package = make_handlers(v1_customer_created=HANDLE)
    (Path(sys.path[0]) / package / "fallback.py").unlink()

    (problem,) = problems(package)

    assert problem.startswith(f"{package}/fallback.py: is missing.")


@pytest.mark.parametrize("name", ["no_such_package", "string"])
def test_wrong_package_is_refused(name: str) -> None:
    """A wrong HANDLERS_PACKAGE is reported, whether it does not exist or is no package."""
    (problem,) = problems(name)
    assert name in problem


def test_callable_object_is_a_callback(make_handlers: MakeHandlers) -> None:
    """Any object that can be called with a notification and a client is a callback."""
    source = "from functools import partial\nhandle = partial(lambda x, notif, client: None, 1)"
    loaded = registry.load(make_handlers(v1_customer_created=source))
    assert len(loaded.modules) == 1


def test_one_module_is_checked_like_all_others(make_handlers: MakeHandlers) -> None:
    """``check`` applies the same rules to an imported module, for tests of handlers."""
    package = make_handlers(v1_customer_created=HANDLE, v1_a="")
    checked = registry.check(importlib.import_module(f"{package}.v1_customer_created"))
    assert (checked.event_type, checked.file) == (
        "v1.customer.created",
        f"{package}/v1_customer_created.py",
    )
    with pytest.raises(StartError, match=rf"{package}/v1_a\.py: 'v1\.a' is no event type"):
        registry.check(importlib.import_module(f"{package}.v1_a"))
