"""The hook ``around.py``: every callback runs within it, and it cannot hide a failure."""

from __future__ import annotations

import importlib
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe

from app import GiveUp
from app.errors import StartError
from app.processing import registry
from devkit.deliver import Deliver, Delivery, MakeDeliver, RunHandler
from tests.conftest import MakeHandlers, Receiver

TYPE = "v1.customer.created"

#: Notes each step. The id of an event names where it fails, and how the exit reacts.
AROUND = """
    \"\"\"Notes its steps.\"\"\"

    from contextlib import contextmanager
    import app

    steps = []

    def fail(notif, place):
        if place in notif.id:
            raise app.GiveUp(place) if "gives_up" in notif.id else KeyError(place)

    @contextmanager
    def around(notif, client):
        steps.append(f"enter {notif.id}")
        fail(notif, "enter")
        try:
            yield
        except Exception as error:
            steps.append(f"exit {type(error).__name__}")
            if "swallow" in notif.id:
                return
            if "translate" in notif.id:
                raise app.GiveUp("translated")
            if "hide" in notif.id:
                raise RuntimeError("hidden") from None
            raise
        steps.append("exit")
        fail(notif, "commit")
"""
CLASS = """
    steps = []

    class around:
        def __init__(self, notif, client):
            self.notif = notif

        def __enter__(self):
            steps.append(f"enter {self.notif.id}")

        def __exit__(self, kind, error, traceback):
            steps.append(f"exit {kind.__name__}")
            if "again" in self.notif.id:
                raise error
            return "swallow" in self.notif.id
"""
HANDLE = """
    from .around import steps
    import app

    def handle(notif, client, details=None):
        steps.append("callback")
        if "callback" in notif.id:
            raise app.GiveUp("no plan") if "gives_up" in notif.id else LookupError("no plan")
"""
MODULES = {"v1_customer_created": HANDLE, "fallback": HANDLE}


@pytest.fixture
def hooked(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a package with a generator as hook."""
    return make_deliver(modules={"around": AROUND, **MODULES})


def steps(deliver: Deliver) -> list[Any]:
    """Return the steps that the hook and the callback noted."""
    noted: list[Any] = deliver.receiver.module("around").steps
    return noted


def cause(deliver: Deliver, delivery: Delivery) -> tuple[str, str]:
    """Return the exception of the failure's error group, and the file of its place."""
    assert delivery.event is not None
    assert delivery.event.fingerprint is not None
    group = deliver.receiver.services.inbox.groups.find(delivery.event.fingerprint)
    assert group is not None
    return str(group.exception), str(group.place).rpartition("/")[2].partition(":")[0]


class TestAttempt:
    """The attempt succeeds only if the hook and the callback do."""

    @pytest.mark.parametrize(
        ("event_type", "outcome"),
        [(TYPE, "handled"), ("v1.billing.meter.no_meter_found", "fallback")],
    )
    def test_callback_runs_within_it(self, hooked: Deliver, event_type: str, outcome: str) -> None:
        """It is entered with the notification before each callback, and left after it."""
        assert hooked(event_type, event_id="evt_1").outcome == outcome
        assert steps(hooked) == ["enter evt_1", "callback", "exit"]

    def test_snapshot_event(self, make_deliver: MakeDeliver) -> None:
        """It runs within the hook, has an idempotency key, and can have effects."""
        source = """
    from .around import steps
    import app

    def handle(event, client):
        with app.once(event, "mail") as first:
            steps.append((app.idempotency_key(event, "mail"), first))
"""
        deliver = make_deliver(modules={"around": AROUND, "customer_source_created": source})
        source_of_customer = {"id": "card_1", "object": "card"}
        body = {
            "id": "evt_1",
            "object": "event",
            "type": "customer.source.created",
            "created": int(time.time()),
            "livemode": False,
            "api_version": stripe.api_version,
            "data": {"object": source_of_customer},
        }
        assert deliver.receiver.deliver(body).get_json()["outcome"] == "handled"
        assert steps(deliver) == ["enter evt_1", ("evt_1:mail", True), "exit"]

    def test_error_before_the_callback_is_a_failure(self, hooked: Deliver) -> None:
        """The callback does not run, and the event is retried. The place is in the hook."""
        failed = hooked(TYPE, event_id="evt_enter")
        assert (failed.status, failed.outcome) == (500, "failed")
        assert failed.event is not None
        assert failed.event.state == "pending"
        assert steps(hooked) == ["enter evt_enter"]
        assert cause(hooked, failed) == ("KeyError", "around.py")

    def test_error_after_the_callback_is_a_failure(self, hooked: Deliver) -> None:
        """A commit that fails is a failure of the attempt, although the callback returned."""
        failed = hooked(TYPE, event_id="evt_commit")
        assert (failed.status, failed.outcome) == (500, "failed")
        assert steps(hooked) == ["enter evt_commit", "callback", "exit"]
        assert cause(hooked, failed) == ("KeyError", "around.py")
        assert failed.again().outcome == "failed"

    @pytest.mark.parametrize("event_id", ["evt_gives_up_enter", "evt_gives_up_commit"])
    def test_hook_can_give_up(self, hooked: Deliver, event_id: str) -> None:
        """An exception of the hook means what it means in a callback."""
        assert hooked(TYPE, event_id=event_id).outcome == "gave_up"

    def test_exit_sees_the_error_of_the_callback(self, hooked: Deliver) -> None:
        """The place of the failure is in the callback, not at the yield."""
        failed = hooked(TYPE, event_id="evt_callback")
        assert failed.outcome == "failed"
        assert steps(hooked) == ["enter evt_callback", "callback", "exit LookupError"]
        assert cause(hooked, failed) == ("LookupError", "v1_customer_created.py")

    @pytest.mark.parametrize("hook", [AROUND, CLASS])
    @pytest.mark.parametrize(
        ("event_id", "outcome"),
        [("evt_callback_swallow", "failed"), ("evt_callback_swallow_gives_up", "gave_up")],
    )
    def test_suppressed_error_is_a_failure(
        self, make_deliver: MakeDeliver, hook: str, event_id: str, outcome: str
    ) -> None:
        """An exit that suppresses the exception makes no success of it. The exception counts."""
        deliver = make_deliver(modules={"around": hook, **MODULES})
        failed = deliver(TYPE, event_id=event_id)
        assert failed.outcome == outcome
        assert cause(deliver, failed)[1] == "v1_customer_created.py"

    def test_class_can_raise_the_error_again(self, make_deliver: MakeDeliver) -> None:
        """The place stays that of the callback."""
        deliver = make_deliver(modules={"around": CLASS, **MODULES})
        failed = deliver(TYPE, event_id="evt_callback_again")
        assert cause(deliver, failed) == ("LookupError", "v1_customer_created.py")

    def test_exit_can_translate_the_error(self, hooked: Deliver) -> None:
        """The exception of the exit decides. The place is that of the error in the callback."""
        failed = hooked(TYPE, event_id="evt_callback_translate")
        assert failed.outcome == "gave_up"
        assert cause(hooked, failed) == ("LookupError", "v1_customer_created.py")
        assert failed.event is not None
        assert "LookupError: no plan" in str(failed.event.traceback)

    def test_exit_can_hide_the_error(self, hooked: Deliver) -> None:
        """``from None`` is respected: the place is that of the exit."""
        failed = hooked(TYPE, event_id="evt_callback_hide")
        assert cause(hooked, failed) == ("RuntimeError", "around.py")

    def test_awaitable_is_an_error_within_it(self, make_deliver: MakeDeliver) -> None:
        """A callback that returns an awaitable never ran, so the exit must not commit."""
        source = "async def later(): pass\nhandle = lambda notif, client: later()"
        deliver = make_deliver(modules={"around": AROUND, "v1_customer_created": source})
        assert deliver(TYPE, event_id="evt_1").outcome == "failed"
        assert steps(deliver) == ["enter evt_1", "exit TypeError"]

    @pytest.mark.processes
    @pytest.mark.parametrize("place", ["enter", "callback", "exit"])
    def test_forked_process_does_not_leave_it(
        self, make_deliver: MakeDeliver, tmp_path: Path, place: str
    ) -> None:
        """A child ends where it was forked: the session of its parent is not its own to commit."""
        notes = tmp_path / "notes"
        fork = "\n    pid = os.fork()\n    if pid: os.waitpid(pid, 0)\n"
        hook = (
            "import os\nfrom contextlib import contextmanager\n"
            f"def note(word):\n    with open({str(notes)!r}, 'a') as file: print(word, file=file)\n"
            "@contextmanager\ndef around(notif, client):"
            f"{fork if place == 'enter' else ''}\n    yield\n"
            f"    note('exit'){fork if place == 'exit' else ''}"
        )
        callback = (
            "import os\nfrom .around import note\ndef handle(notif, client):\n"
            f"    note('callback'){fork if place == 'callback' else ''}"
        )
        deliver = make_deliver(modules={"around": hook, "v1_customer_created": callback})
        assert deliver(TYPE).outcome == "handled"
        assert notes.read_text(encoding="utf-8").split() == ["callback", "exit"]


GENERATOR = "from contextlib import contextmanager\n@contextmanager\n"


class TestStart:
    """A hook that could not work stops the start, as a handler module does."""

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("x = 1", "defines no around. Use @contextlib.contextmanager on a def around(notif,"),
            ("around = 1", "around is not a function"),
            ("1 / 0", "line 1: cannot be imported: ZeroDivisionError"),
            ("def around(notif, client): yield", "line 1: around lacks its decorator"),
            ("def around(notif, client): pass", "line 1: around is no context manager"),
            ("async def around(notif, client): pass", "line 1: around is async"),
            (
                "from contextlib import asynccontextmanager\n@asynccontextmanager\n"
                "async def around(notif, client): yield",
                "line 2: around is async",
            ),
            (f"{GENERATOR}def around(notif): yield", "around(notif) has the wrong parameters"),
            (f"{GENERATOR}def around(client, notif): yield", "has its parameters in another order"),
            ("class around: pass", "around is a class without __enter__ and __exit__"),
            (
                "class around:\n  def __enter__(self): pass\n  async def __exit__(self, *a): pass",
                "around has an async __enter__ or __exit__",
            ),
            (
                "class around:\n  def __enter__(self): pass\n  def __exit__(self, *a): pass",
                "around() has the wrong parameters",
            ),
            (f"{GENERATOR}def around(notif, client): yield\nEVENT_TYPE = ''", "defines EVENT_TYPE"),
            ("def handle(notif, client): pass", "defines handle, but its name is that of the hook"),
        ],
    )
    def test_wrong_hook_is_named_with_the_remedy(
        self, make_handlers: MakeHandlers, source: str, words: str
    ) -> None:
        """The problem has the file, and is reported with those of the other modules."""
        package = make_handlers(around=source, v1_a="")
        with pytest.raises(StartError) as error:
            registry.load(package)
        assert len(error.value.problems) == 2
        assert error.value.problems[0].startswith(f"{package}/around.py: ")
        assert words in error.value.problems[0]

    def test_hook_is_listed(self, make_receiver: Callable[..., Receiver]) -> None:
        """``flask handlers list`` shows it last, with its summary."""
        receiver = make_receiver({"around": AROUND})
        package = receiver.services.settings.handlers_package
        result = receiver.app.test_cli_runner().invoke(args=["handlers", "list", "--json"])
        assert json.loads(result.stdout)[-1] == {
            "type": "around",
            "file": f"{package}/around.py",
            "pair": None,
            "policies": {},
            "summary": "Notes its steps.",
        }


class TestDevkit:
    """Tests of handlers run callbacks within the hook, too."""

    def run(self, run_handler: RunHandler, package: str, event_id: str) -> Any:
        """Run the callback of the package for one event."""
        run_handler(importlib.import_module(f"{package}.v1_customer_created"), event_id=event_id)
        return importlib.import_module(f"{package}.around").steps

    def test_run_handler_runs_it(
        self, run_handler: RunHandler, make_handlers: MakeHandlers
    ) -> None:
        """One line tests a callback together with the hook."""
        package = make_handlers(around=AROUND, v1_customer_created=HANDLE)
        noted = self.run(run_handler, package, "evt_1")
        assert noted == ["enter evt_1", "callback", "exit"]

    @pytest.mark.parametrize(
        ("event_id", "error", "first"),
        [
            ("evt_enter", KeyError, "around.py"),
            ("evt_commit", KeyError, "around.py"),
            ("evt_callback", LookupError, "v1_customer_created.py"),
            ("evt_callback_swallow", LookupError, "v1_customer_created.py"),
            ("evt_gives_up_callback", GiveUp, "v1_customer_created.py"),
        ],
    )
    def test_traceback_begins_in_the_code_of_the_team(
        self,
        run_handler: RunHandler,
        make_handlers: MakeHandlers,
        event_id: str,
        error: type[Exception],
        first: str,
    ) -> None:
        """The exception reaches the test, and no frame of the service or of contextlib leads it."""
        package = make_handlers(around=AROUND, v1_customer_created=HANDLE)
        with pytest.raises(error) as raised:
            self.run(run_handler, package, event_id)
        frames = [Path(each.filename).name for each in traceback.extract_tb(raised.tb)]
        assert frames[2] == first

    def test_wrong_hook_is_refused(
        self, run_handler: RunHandler, make_handlers: MakeHandlers
    ) -> None:
        """The service would not start with it."""
        package = make_handlers(around="x = 1", v1_customer_created=HANDLE.replace(".around", "."))
        with pytest.raises(StartError, match=r"around\.py: defines no around"):
            run_handler(importlib.import_module(f"{package}.fallback"), TYPE)
