"""Deliveries to /webhook: the response, the row in the inbox, the callback and the log.

Nothing is mocked. Signatures are real. A signed timestamp sets the age of a delivery.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.inbox import Event, Inbox, NewEvent
from app.web.refusals import LINES
from devkit import samples
from tests.conftest import API_KEY, SECRET, Receiver
from tests.support import raw_sql

TYPE = "v1.customer.created"
CREATED = "v1_customer_created"
OTHER = "v1.product.created"
HANDLED = {TYPE, OTHER}
UNKNOWN = "v1.sample.happened"
SINGLETON = "v1.balance.available"
NO_RELATED_OBJECT = "v1.billing.meter.no_meter_found"

SECOND, THIRD = "whsec_fake_second", "whsec_fake_third"

#: In every notification, and in a local variable of every callback. Neither it nor a secret may be
#: written anywhere, so no test id may contain the word.
MARKER = "marker"
NEVER_PRINTED = (MARKER, "whsec_", "sk_test_", "sk_live_")

CALLBACK = """
calls = []

def handle(notif, client):
    local = "mar" + "ker"
    calls.append(notif)
    {then}
"""

SNAPSHOT = {
    "id": "evt_1",
    "object": "event",
    "type": "customer.created",
    "api_version": "2026-10-28.endive",
    "created": 1_795_000_000,
    "livemode": False,
    "data": {"object": {"id": "cus_1", "object": "customer", "name": MARKER}},
}

RELATED = {"id": "cus_1", "type": "customer", "url": "/v1/customers/cus_1"}


class Printed:
    """The output of the service on standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Take pytest's fixture, which returns each part of the output once."""
        self._capsys = capsys
        self._out = self._err = ""

    def text(self) -> str:
        """Return all of it."""
        out, err = self._capsys.readouterr()
        self._out, self._err = self._out + out, self._err + err
        return self._out + self._err

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event. Each line on standard error has to be JSON."""
        self.text()
        lines = [json.loads(line) for line in self._err.splitlines()]
        return [line for line in lines if line["event"] == name]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """The output since the start of the test."""
    return Printed(capsys)


@pytest.fixture(autouse=True)
def _nothing_leaks(printed: Printed) -> Iterator[None]:
    """No test here writes a secret, a body or a local variable."""
    yield
    text = printed.text()
    assert [word for word in NEVER_PRINTED if word in text] == []


@dataclass(frozen=True)
class Door:
    """An application with callbacks for two types and a fallback, and its output."""

    receiver: Receiver
    printed: Printed

    @property
    def ran(self) -> list[tuple[str, str]]:
        """The id and the type of each notification that a callback got."""
        modules = [self.receiver.module(name) for name in (CREATED, "v1_product_created")]
        fallback = [notif for notif, _client, _details in self.receiver.module("fallback").calls]
        notifs = [*modules[0].calls, *modules[1].calls, *fallback]
        return [(notif.id, notif.type) for notif in notifs]

    @property
    def inbox(self) -> list[Event]:
        """The events in the inbox."""
        return self.receiver.services.inbox.administration.latest(10)

    def deliver(self, body: bytes | dict[str, Any], *, secret: str = SECRET) -> TestResponse:
        """Sign a body and post it."""
        return self.receiver.deliver(body, secret=secret)

    def post(self, body: bytes, signature: str | None) -> TestResponse:
        """Post bytes with exactly this header, even one that a client would reject."""
        headers = {} if signature is None else {"HTTP_STRIPE_SIGNATURE": signature}
        return self.receiver.post(body, None, environ_overrides=headers)

    def assert_taken(self, answer: TestResponse, outcome: str) -> dict[str, Any]:
        """Check a 2xx response, and return the log line of its delivery."""
        assert (answer.status_code, answer.json) == (200, {"success": True, "outcome": outcome})
        assert answer.content_type == "application/json"
        assert "Retry-After" not in answer.headers
        line = self._last_line()
        assert (line["outcome"], line["status"]) == (outcome, 200)
        assert "reason" not in line
        return line

    def assert_not_taken(
        self, answer: TestResponse, status: int, outcome: str, reason: str
    ) -> dict[str, Any]:
        """Check a response that is not 2xx, and return the log line of its delivery."""
        assert answer.status_code == status
        assert answer.content_type == "application/json"
        assert set(answer.json or {}) == {"error"}
        assert MARKER not in answer.text
        line = self._last_line()
        assert line["level"] == "warning"
        assert (line["outcome"], line["status"], line["reason"]) == (outcome, status, reason)
        return line

    def assert_refused(self, answer: TestResponse, reason: str, status: int = 400) -> None:
        """Check that a delivery was refused, and that only its log line was written."""
        line = self.assert_not_taken(answer, status, "refused", reason)
        assert "Retry-After" not in answer.headers
        assert not {"event_id", "event_type", "livemode", "context", "attempt"} & set(line)
        assert self.ran == []
        assert self.inbox == []

    def _last_line(self) -> dict[str, Any]:
        line = self.printed.lines("delivery")[-1]
        assert line["duration_ms"] > 0
        return line


OpenDoor = Callable[..., Door]


@pytest.fixture
def open_door(make_receiver: Callable[..., Receiver], printed: Printed) -> OpenDoor:
    """A function that makes an application: the code of the callback, and settings."""

    def make(then: str = "", **changes: Any) -> Door:
        modules = {CREATED: CALLBACK.format(then=then)}
        modules["v1_product_created"] = CALLBACK.format(then="")
        return Door(make_receiver(modules, **changes), printed)

    return make


@pytest.fixture
def door(open_door: OpenDoor) -> Door:
    """An application whose callbacks succeed, on SQLite."""
    return open_door()


def notification(event_type: str = TYPE, /, **changes: Any) -> dict[str, Any]:
    """Return a notification with changed fields. ``...`` removes a field."""
    body = {**samples.notification(event_type, unknown=True), MARKER: MARKER, **changes}
    return {name: value for name, value in body.items() if value is not ...}


def encode(**changes: Any) -> bytes:
    """Return the body of a notification with changed fields."""
    return samples.encode(notification(**changes))


def sign(body: bytes, at: object = None, secret: str = SECRET) -> str:
    """Sign as Stripe's documentation describes it, even a body that the SDK would not sign."""
    at = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def ago(seconds: int) -> int:
    """Return a timestamp of this age, rounded to the same side of the limit of 300 s."""
    return math.ceil(time.time()) - seconds if seconds < 300 else int(time.time()) - seconds


def ahead(seconds: int) -> int:
    """Return a timestamp so far in the future, rounded to the same side of the limit."""
    return int(time.time()) + seconds if seconds < 300 else math.ceil(time.time()) + seconds


def v1(header: str) -> str:
    """Return the ``v1`` item of a header from ``sign``."""
    return header.partition(",")[2]


# --- Authentic: the states and responses in inline mode


def test_new_event_is_run(open_door: OpenDoor, database_url: str) -> None:
    """A new event: 200 handled, recorded with its body, its callback run once."""
    door = open_door(database_url=database_url)
    body = encode(id="evt_1", context="acct_1")

    line = door.assert_taken(door.deliver(body), "handled")

    assert door.ran == [("evt_1", TYPE)]
    (event,) = door.inbox
    assert (event.id, event.type, event.livemode) == ("evt_1", TYPE, False)
    assert (event.context, event.body) == ("acct_1", body)
    assert (event.state, event.outcome, event.attempt, event.deliveries) == (
        "done",
        "handled",
        1,
        1,
    )
    assert line["level"] == "info"


def test_log_line_of_a_delivery(door: Door) -> None:
    """A delivery writes one line with exactly these fields."""
    line = door.assert_taken(
        door.deliver(notification(id="evt_1", context="acct_1/acct_2")), "handled"
    )

    del line["timestamp"], line["duration_ms"]
    assert line == {
        "level": "info",
        "event": "delivery",
        "event_id": "evt_1",
        "event_type": TYPE,
        "livemode": False,
        "context": "acct_1/acct_2",
        "secret": 1,
        "attempt": 1,
        "outcome": "handled",
        "status": 200,
    }
    assert len(door.printed.lines("delivery")) == 1


@pytest.mark.parametrize("event_type", [TYPE, NO_RELATED_OBJECT, SINGLETON, UNKNOWN])
def test_type_decides_the_callback(door: Door, event_type: str) -> None:
    """A type without a module runs the fallback, even if the SDK does not know the type."""
    answer = door.deliver(notification(event_type, id="evt_1"))
    door.assert_taken(answer, "handled" if event_type in HANDLED else "fallback")
    assert door.ran == [("evt_1", event_type)]


def test_done_event_is_not_run_again(open_door: OpenDoor, database_url: str) -> None:
    """A done event: 200 duplicate, even if the later delivery has another body."""
    door = open_door(database_url=database_url)
    door.deliver(notification(id="evt_1"))

    again = door.deliver(notification(id="evt_1"))
    other = door.deliver(notification(OTHER, id="evt_1"))

    line = door.assert_taken(again, "duplicate")
    assert (line["level"], line["attempt"]) == ("info", 1)
    door.assert_taken(other, "duplicate")
    assert door.ran == [("evt_1", TYPE)]
    (event,) = door.inbox
    assert (event.state, event.type, event.deliveries) == ("done", TYPE, 3)


def test_failing_event_is_run_again(open_door: OpenDoor, database_url: str) -> None:
    """A callback that raised: 500 and pending; the redelivery runs it as the next attempt."""
    door = open_door("if len(calls) < 3: raise ValueError(len(local))", database_url=database_url)
    body = encode(id="evt_1")

    for attempt in (1, 2):
        line = door.assert_not_taken(door.deliver(body), 500, "failed", "raised")
        assert (line["event_id"], line["attempt"]) == ("evt_1", attempt)
        event = door.receiver.event("evt_1")
        assert (event.state, event.outcome, event.reason) == ("pending", "failed", "ValueError: 6")

    assert door.assert_taken(door.deliver(body), "handled")["attempt"] == 3
    door.assert_taken(door.deliver(body), "duplicate")
    assert len(door.ran) == 3
    assert [line["attempt"] for line in door.printed.lines("callback_raised")] == [1, 2]


def test_failed_callback_sends_no_retry_after(open_door: OpenDoor) -> None:
    """500 has no Retry-After: Stripe applies its own back-off."""
    answer = open_door("raise ValueError(len(local))").deliver(notification())
    assert "Retry-After" not in answer.headers
    assert answer.json == {"error": "the callback failed; the event will be retried"}


@pytest.mark.parametrize(
    "then",
    [
        "raise KeyError('id')",
        "raise TypeError(len(local))",
        "raise AttributeError(len(local))",
        "handle(notif, client)",
        "import sys; sys.exit(1)",
        "import stripe; raise stripe.SignatureVerificationError('no', 'header', local)",
        "from app.errors import Refused; raise Refused('no', reason='mine')",
        "from app.errors import Deferred; raise Deferred('no', reason='mine')",
    ],
    ids=[
        "key error",
        "type error",
        "attribute error",
        "recursion",
        "exit",
        "error of the sdk",
        "refused",
        "deferred",
    ],
)
def test_each_exception_of_a_callback_is_its_failure(open_door: OpenDoor, then: str) -> None:
    """An exception is a failed attempt even if the reading of a notification could raise it."""
    door = open_door(then)

    door.assert_not_taken(door.deliver(notification(id="evt_1")), 500, "failed", "raised")

    assert door.receiver.event("evt_1").state == "pending"


def test_event_that_is_given_up_is_dead(open_door: OpenDoor, database_url: str) -> None:
    """GiveUp: 200 gave_up, and dead with the reason. A later delivery is a duplicate."""
    then = "from app import GiveUp; raise GiveUp('no such plan')"
    door = open_door(then, database_url=database_url)
    body = encode(id="evt_1")

    line = door.assert_taken(door.deliver(body), "gave_up")
    assert line["level"] == "warning"
    door.assert_taken(door.deliver(body), "duplicate")

    assert len(door.ran) == 1
    event = door.receiver.event("evt_1")
    assert (event.state, event.outcome, event.reason) == ("dead", "gave_up", "no such plan")
    assert event.deliveries == 2


def test_unreadable_event_is_dead(open_door: OpenDoor, database_url: str) -> None:
    """The SDK cannot read it: 200 unreadable and dead. A later delivery is a duplicate."""
    door = open_door(database_url=database_url)
    body = encode(id="evt_1", related_object=7)

    line = door.assert_taken(door.deliver(body), "unreadable")
    assert line["level"] == "warning"
    door.assert_taken(door.deliver(body), "duplicate")

    assert door.ran == []
    event = door.receiver.event("evt_1")
    assert (event.state, event.outcome, event.body) == ("dead", "unreadable", body)
    (unreadable,) = door.printed.lines("event_unreadable")
    assert (unreadable["event_id"], unreadable["event_type"]) == ("evt_1", TYPE)


def running_elsewhere(door: Door, body: bytes, lease_seconds: float) -> None:
    """Claim the event like another process, with a lease of this length."""
    values = json.loads(body)
    inbox = Inbox(door.receiver.services.settings.database_url, lease_seconds=lease_seconds)
    event = NewEvent(values["id"], values["type"], values["livemode"], context=None, body=body)
    assert inbox.deliveries.record_and_claim(event).claim is not None
    inbox.close()


def test_event_that_runs_elsewhere_is_deferred(open_door: OpenDoor, database_url: str) -> None:
    """Under a live lease: 409. After a 2xx the event would be lost if the holder died."""
    door = open_door(database_url=database_url, lease_seconds=12.5)
    body = encode(id="evt_1")
    running_elsewhere(door, body, lease_seconds=60)

    answer = door.deliver(body)

    line = door.assert_not_taken(answer, 409, "deferred", "running")
    assert (line["event_id"], line["attempt"], line["secret"]) == ("evt_1", 1, 1)
    assert answer.headers["Retry-After"] == "13"
    assert door.ran == []
    assert door.receiver.event("evt_1").state == "running"


def test_event_of_a_dead_runner_is_run(open_door: OpenDoor, database_url: str) -> None:
    """An orphan is run, as the next attempt."""
    door = open_door(database_url=database_url)
    body = encode(id="evt_1")
    running_elsewhere(door, body, lease_seconds=-1)
    raw_sql.orphan(database_url)

    assert door.assert_taken(door.deliver(body), "handled")["attempt"] == 2
    assert len(door.ran) == 1


def test_two_deliveries_at_once_run_one_callback(open_door: OpenDoor, database_url: str) -> None:
    """While one delivery runs the callback, another of the same event gets 409."""
    door = open_door("entered.set(); go.wait(30)", database_url=database_url)
    module = door.receiver.module(CREATED)
    module.entered, module.go = threading.Event(), threading.Event()
    other = Receiver(door.receiver.app, door.receiver.app.test_client())
    body = encode(id="evt_1")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Receiver.deliver, other, body)
        assert module.entered.wait(30)
        second = door.deliver(body)
        door.assert_not_taken(second, 409, "deferred", "running")
        module.go.set()
        door.assert_taken(first.result(), "handled")

    door.assert_taken(door.deliver(body), "duplicate")
    assert len(door.ran) == 1


@pytest.mark.parametrize(
    ("wrong_key", "right_key", "livemode"),
    [
        ("sk_test_fake", "sk_live_fake", True),
        ("rk_test_fake", "rk_live_fake", True),
        ("sk_live_fake", "sk_test_fake", False),
        ("rk_live_fake", "rk_test_fake", False),
    ],
    ids=["live to sk_test", "live to rk_test", "test to sk_live", "test to rk_live"],
)
def test_event_of_the_wrong_mode_waits_for_the_right_key(
    open_door: OpenDoor, database_url: str, wrong_key: str, right_key: str, *, livemode: bool
) -> None:
    """200 wrong_mode, recorded but not run. A service with a key of its mode runs it."""
    body = encode(id="evt_1", livemode=livemode)
    wrong = open_door(database_url=database_url, stripe_api_key=wrong_key)

    for deliveries in (1, 2):
        line = wrong.assert_taken(wrong.deliver(body), "wrong_mode")
        assert (line["level"], line["livemode"]) == ("warning", livemode)
        event = wrong.receiver.event("evt_1")
        assert (event.state, event.outcome, event.attempt) == ("done", "wrong_mode", 0)
        assert (event.livemode, event.deliveries, event.body) == (livemode, deliveries, body)
    assert wrong.ran == []

    right = open_door(database_url=database_url, stripe_api_key=right_key)
    assert right.assert_taken(right.deliver(body), "handled")["attempt"] == 1
    right.assert_taken(right.deliver(body), "duplicate")
    assert right.ran == [("evt_1", TYPE)]
    event = right.receiver.event("evt_1")
    assert (event.state, event.outcome, event.attempt) == ("done", "handled", 1)


def test_event_without_a_mode_is_a_test_event(open_door: OpenDoor) -> None:
    """An event without ``livemode`` is a test event, as in the SDK."""
    live = open_door(stripe_api_key="sk_live_fake")
    live.assert_taken(live.deliver(notification(livemode=...)), "wrong_mode")
    assert live.ran == []


def test_done_event_stays_done_in_the_wrong_mode(open_door: OpenDoor) -> None:
    """A delivery to a service with a key of the other mode does not change a done event."""
    body = encode(id="evt_1")
    right, wrong = open_door(), open_door(stripe_api_key="sk_live_fake")
    right.deliver(body)

    wrong.assert_taken(wrong.deliver(body), "wrong_mode")
    right.assert_taken(right.deliver(body), "duplicate")

    assert len(right.ran) == 1
    assert right.receiver.event("evt_1").outcome == "handled"


def test_shutting_down(open_door: OpenDoor, database_url: str) -> None:
    """A stopping process records nothing and runs nothing: 503 with Retry-After."""
    door = open_door(database_url=database_url)
    door.receiver.services.stopping.set()

    answer = door.deliver(notification())

    door.assert_not_taken(answer, 503, "unavailable", "stopping")
    assert answer.headers["Retry-After"] == "1"
    assert (door.ran, door.inbox) == ([], [])


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////dev/null/inbox.sqlite3",
        "postgresql+psycopg://user:marker@127.0.0.1:1/inbox",
    ],
    ids=["sqlite", "postgresql"],
)
@pytest.mark.parametrize("livemode", [False, True], ids=["to be run", "of the wrong mode"])
def test_inbox_not_reachable(open_door: OpenDoor, url: str, *, livemode: bool) -> None:
    """An event that cannot be recorded is not run: 503 with Retry-After."""
    door = open_door(database_url=url)

    answer = door.deliver(notification(id="evt_1", livemode=livemode))

    line = door.printed.lines("delivery")[-1]
    door.assert_not_taken(answer, 503, "unavailable", line["reason"])
    assert (line["event_id"], line["secret"]) == ("evt_1", 1)
    assert answer.headers["Retry-After"] == "5"
    assert answer.json == {"error": "the inbox is not available"}
    assert door.ran == []


def test_refusing_needs_no_inbox(open_door: OpenDoor) -> None:
    """A forged delivery is refused without access to the inbox."""
    door = open_door(database_url="sqlite:////dev/null/inbox.sqlite3")
    door.assert_not_taken(door.post(encode(), None), 400, "refused", "signature_missing")


# --- Refused: not authentic


def _edit(
    edit: Callable[[str], str], at: Callable[[], object] = lambda: None
) -> Callable[..., str]:
    """Return a function that signs a body at a time and edits the header."""
    return lambda body: edit(sign(body, at()))


def _joined(*signatures: Callable[[bytes], str], by: str = ",") -> Callable[[bytes], str]:
    """Return a function that joins several headers into one, as servers do."""
    return lambda body: by.join(signature(body) for signature in signatures)


def _at(at: Callable[[], object]) -> Callable[[bytes], str]:
    return lambda body: sign(body, at())


BAD_SIGNATURES: dict[str, tuple[Callable[[bytes], str | None], str]] = {
    "no header": (lambda _: None, "signature_missing"),
    "empty": (lambda _: "", "signature_missing"),
    "garbage": (lambda _: "garbage", "signature_malformed"),
    "commas": (lambda _: ",,,", "signature_malformed"),
    "no t": (_edit(v1), "signature_malformed"),
    "t without value": (_edit(lambda header: "t," + v1(header)), "signature_malformed"),
    "t empty": (_edit(lambda header: "t=," + v1(header)), "signature_malformed"),
    "t a word": (_at(lambda: "now"), "signature_malformed"),
    "t a float": (_at(lambda: float(ago(0))), "signature_malformed"),
    "t hexadecimal": (_at(lambda: hex(ago(0))), "signature_malformed"),
    "t of 5,000 digits": (_at(lambda: "1" * 5000), "signature_malformed"),
    "t with plus": (_at(lambda: f"+{ago(0)}"), "signature_mismatch"),
    "t with underscore": (_at(lambda: f"{ago(0):_}"), "signature_mismatch"),
    "t with leading zeros": (_at(lambda: f"00{ago(0)}"), "signature_mismatch"),
    "no v1": (_edit(lambda header: header.partition(",")[0]), "signature_malformed"),
    "v1 without value": (_edit(lambda header: header.partition("=")[0]), "signature_malformed"),
    "v1 empty": (_edit(lambda header: header[:-64]), "signature_mismatch"),
    "v1 cut short": (_edit(lambda header: header[:-1]), "signature_mismatch"),
    "v1 too long": (_edit(lambda header: header + "0"), "signature_mismatch"),
    "v0 only": (_edit(lambda header: header.replace("v1", "v0")), "signature_malformed"),
    "v2 only": (_edit(lambda header: header.replace("v1", "v2")), "signature_malformed"),
    "V1 in upper case": (_edit(lambda header: header.replace("v1", "V1")), "signature_malformed"),
    "hex in upper case": (
        _edit(lambda header: header[:-64] + header[-64:].upper()),
        "signature_mismatch",
    ),
    "space after comma": (
        _edit(lambda header: header.replace(",", ", ")),
        "signature_malformed",
    ),
    "semicolon": (_edit(lambda header: header.replace(",", ";")), "signature_malformed"),
    "another secret": (lambda body: sign(body, secret=SECOND), "signature_mismatch"),
    "secret without prefix": (lambda body: sign(body, secret=SECRET[6:]), "signature_mismatch"),
    "another body": (lambda body: sign(body + b" "), "signature_mismatch"),
    "another time": (
        _edit(lambda header: f"t={ago(-5)},{v1(header)}", lambda: ago(0)),
        "signature_mismatch",
    ),
    "301 s old": (_at(lambda: ago(301)), "signature_stale"),
    "a year old": (_at(lambda: ago(365 * 86400)), "signature_stale"),
    "time zero": (_at(lambda: 0), "signature_stale"),
    "negative time": (_at(lambda: -ago(0)), "signature_stale"),
    "301 s ahead": (_at(lambda: ahead(301)), "signature_from_future"),
    "ten years ahead": (_at(lambda: ahead(3650 * 86400)), "signature_from_future"),
    "10**400": (_at(lambda: 10**400), "signature_from_future"),
    "10**400 and a good t": (
        lambda body: f"t={10**400},t={ago(0)},{v1(sign(body, 10**400))}",
        "signature_from_future",
    ),
    "non-ASCII v1": (_edit(lambda header: header[:-1] + "\xe9"), "signature_malformed"),
    "non-ASCII v1 ahead of a good one": (
        _edit(lambda header: header.replace(",", ",v1=\xe9,")),
        "signature_malformed",
    ),
    "non-ASCII t": (_edit(lambda header: f"t=\xb2,{v1(header)}"), "signature_malformed"),
    "non-ASCII garbage": (lambda _: "\xff\xfe", "signature_malformed"),
    "stale t ahead of a good one": (
        lambda body: f"t={ago(301)},{sign(body)}",
        "signature_mismatch",
    ),
    "two headers, good one last": (
        _joined(lambda body: sign(body, ago(9), THIRD), sign),
        "signature_mismatch",
    ),
    "two headers joined by comma and space, good one last": (
        _joined(lambda body: sign(body, ago(9), THIRD), sign, by=", "),
        "signature_mismatch",
    ),
    "8 KiB of signatures": (
        lambda _: f"t={ago(0)}" + f",v1={'0' * 64}" * 120,
        "signature_mismatch",
    ),
    "8 KiB of commas": (lambda _: "," * 8190, "signature_malformed"),
    "8 KiB of equal signs": (lambda _: "=" * 8190, "signature_malformed"),
}


@pytest.mark.parametrize(
    ("make_signature", "reason"), BAD_SIGNATURES.values(), ids=BAD_SIGNATURES.keys()
)
def test_bad_signature_is_refused(
    door: Door, make_signature: Callable[[bytes], str | None], reason: str
) -> None:
    """Missing, malformed, not matching, too old, or from the future: 400 and nothing else."""
    body = encode()
    door.assert_refused(door.post(body, make_signature(body)), reason)


GOOD_SIGNATURES: dict[str, Callable[[bytes], str]] = {
    "299 s old": _at(lambda: ago(299)),
    "299 s ahead": _at(lambda: ahead(299)),
    "v1 twice": _edit(lambda header: f"{header},{v1(header)}"),
    "good v1 first": _edit(lambda header: f"{header},v1={'0' * 64}"),
    "good v1 last": _edit(lambda header: header.replace(",", f",v1={'0' * 64},")),
    "v0 beside it": _edit(lambda header: f"{header},v0={'0' * 64}"),
    "unknown items beside it": _edit(lambda header: f"x,{header},y=z"),
    "space after t=": _edit(lambda header: header.replace("t=", "t= ")),
    "v1 ahead of t": _edit(lambda header: ",".join(reversed(header.split(",")))),
    "stale t after a good one": _edit(lambda header: f"{header},t={ago(301)}"),
    "non-ASCII v1 after a good one": _edit(lambda header: header + ",v1=\xe9"),
    "two headers, good one first": _joined(sign, lambda body: sign(body, ago(9), THIRD)),
    "two headers joined by comma and space, good one first": _joined(
        sign, lambda body: sign(body, ago(9), THIRD), by=", "
    ),
    "last of 8 KiB": _edit(lambda header: header.replace(",", f",v1={'0' * 64}" * 118 + ",")),
}


@pytest.mark.parametrize("signature", GOOD_SIGNATURES.values(), ids=GOOD_SIGNATURES.keys())
def test_good_signature_is_accepted(door: Door, signature: Callable[[bytes], str]) -> None:
    """Any v1 may match. Clocks may differ by five minutes. Other schemes are ignored."""
    body = encode(id="evt_1")
    door.assert_taken(door.post(body, signature(body)), "handled")
    assert door.ran == [("evt_1", TYPE)]


@pytest.mark.parametrize("position", [1, 2, 3])
def test_log_line_has_the_position_of_the_secret(open_door: OpenDoor, position: int) -> None:
    """Each of several secrets may match. Its position shows when an old one is unused."""
    secrets = (SECRET, SECOND, THIRD)
    door = open_door(stripe_webhook_secrets=secrets)

    answer = door.deliver(notification(), secret=secrets[position - 1])

    assert door.assert_taken(answer, "handled")["secret"] == position


def test_rolled_secret_is_accepted(open_door: OpenDoor) -> None:
    """Stripe signs with both secrets during a roll. The old or the new one is enough."""
    body = encode()
    at = ago(0)
    header = f"{sign(body, at)},{v1(sign(body, at, SECOND))}"
    for secret in (SECRET, SECOND):
        door = open_door(stripe_webhook_secrets=(THIRD, secret))
        answer = door.post(body, header)
        assert answer.status_code == 200
        assert door.printed.lines("delivery")[-1]["secret"] == 2


@pytest.mark.parametrize("at", [ago, ahead], ids=["old", "ahead"])
def test_timestamp_is_checked_for_each_secret(
    open_door: OpenDoor, at: Callable[[int], int]
) -> None:
    """A match of a later secret does not replace the check of the timestamp."""
    door = open_door(stripe_webhook_secrets=(SECRET, SECOND))
    body = encode()
    reason = "signature_stale" if at is ago else "signature_from_future"
    door.assert_refused(door.post(body, sign(body, at(301), SECOND)), reason)


def test_no_secret_matches(open_door: OpenDoor) -> None:
    """A signature of an unknown secret is refused. The log line has no position."""
    door = open_door(stripe_webhook_secrets=(SECRET, SECOND))
    door.assert_refused(door.deliver(notification(), secret=THIRD), "signature_mismatch")
    assert "secret" not in door.printed.lines("delivery")[-1]


def test_unsigned_deliveries_do_not_fill_the_log(door: Door) -> None:
    """The lines of one reason are limited, unless a secret signed the delivery. All are counted."""
    body, refusals = encode(), door.receiver.services.refusals
    for _ in range(LINES + 3):
        assert door.post(body, None).status_code == 400
        door.post(body, sign(body, 1))
        door.deliver(b"null")
    refusals.flush()
    door.post(body, None)

    lines = [(line["reason"], line["rejections"]) for line in door.printed.lines("delivery")]
    numbers = {reason: [number for each, number in lines if each == reason] for reason, _ in lines}
    assert numbers["signature_missing"] == [*range(1, LINES + 1), LINES + 4]
    assert numbers["signature_stale"] == list(range(1, LINES + 4))
    assert numbers["not_an_event"] == list(range(1, LINES + 4))
    (left_out,) = door.printed.lines("refusals_left_out")
    assert (left_out["reason"], left_out["left_out"]) == ("signature_missing", 3)


def test_refusals_are_counted_by_reason(door: Door) -> None:
    """The log line of a refused delivery counts the refusals with this reason."""
    body = encode()
    for signature in (None, "garbage", None, sign(b""), None):
        door.post(body, signature)
    door.deliver(b"null")

    counted = [(line["reason"], line["rejections"]) for line in door.printed.lines("delivery")]
    assert counted == [
        ("signature_missing", 1),
        ("signature_malformed", 1),
        ("signature_missing", 2),
        ("signature_mismatch", 1),
        ("signature_missing", 3),
        ("not_an_event", 1),
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"[" * 60_000, b"1" * 5000, b"null", samples.encode(SNAPSHOT)],
    ids=["empty", "nested", "integer", "null", "snapshot"],
)
def test_nothing_is_parsed_before_the_signature_holds(door: Door, body: bytes) -> None:
    """Without a valid signature, the response says nothing about the body."""
    door.assert_refused(door.post(body, sign(b"another body")), "signature_mismatch")


# --- Refused: authentic, but no event notification

NOT_UTF8 = {
    "stray byte": encode()[:-1] + b',"x":"\xff"}',
    "latin-1": encode()[:-1] + ',"x":"\xe9"}'.encode("latin-1"),
    "encoded surrogate": encode()[:-1] + b',"x":"\xed\xa0\x80"}',
    "cut in a character": encode()[:-1] + b',"x":"\xe2\x82',
    "UTF-16 with a byte order mark": encode().decode().encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "not signed"])
@pytest.mark.parametrize("body", NOT_UTF8.values(), ids=NOT_UTF8.keys())
def test_body_that_is_not_utf8_is_refused(door: Door, body: bytes, *, signed: bool) -> None:
    """A body that is not UTF-8 is refused, even if the signature matches its bytes."""
    door.assert_refused(door.post(body, sign(body if signed else b"")), "body_not_utf8")


NOT_JSON = {
    "empty": b"",
    "white space": b" \n",
    "truncated": encode()[:-1],
    "twice": encode() * 2,
    "trailing comma": encode()[:-1] + b",}",
    "single quotes": encode().replace(b'"', b"'"),
    "form": b"id=evt_1&object=v2.core.event",
    "byte order mark": b"\xef\xbb\xbf" + encode(),
    "UTF-16": encode().decode().encode("utf-16-le"),
    "NUL at the end": encode() + b"\0",
    "control character": encode()[:-1] + b',"x":"\n"}',
    "integer of 5,000 digits": b"1" * 5000,
    "integer of 5,000 digits in a field": encode()[:-1] + b',"x":' + b"1" * 5000 + b"}",
    "100,000 lists": b"[" * 100_000,
    "100,000 lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects in a field": encode()[:-1]
    + b',"x":'
    + b'{"x":' * 100_000
    + b"0"
    + b"}" * 100_001,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_body_that_is_not_json_is_refused(open_door: OpenDoor, body: bytes) -> None:
    """A signed body that is not valid JSON: 400."""
    door = open_door(max_body_bytes=1_000_000)
    door.assert_refused(door.deliver(body), "not_json")
    assert door.printed.lines("delivery")[-1]["secret"] == 1


def nested(depth: int) -> bytes:
    """Return a notification with a list nested to this depth."""
    return encode()[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


def test_nesting_near_the_interpreters_limit(open_door: OpenDoor) -> None:
    """At the recursion limit, in our code or in the SDK, no response is 5xx."""
    door = open_door(max_body_bytes=1_000_000)
    least, most = 1, 400_000
    while most - least > 1:
        middle = (least + most) // 2
        taken = door.deliver(nested(middle)).status_code == 200
        least, most = (middle, most) if taken else (least, middle)

    for depth in range(max(least - 50, 1), least + 10):
        answer = door.deliver(nested(depth))
        line = door.printed.lines("delivery")[-1]
        assert answer.status_code in {200, 400}
        assert line["outcome"] in {"handled", "unreadable", "refused"}

    outcomes = [line["outcome"] for line in door.printed.lines("delivery")]
    assert outcomes.count("handled") == len(door.ran)


def each(field: str, values: dict[str, Any], /, **others: Any) -> dict[str, dict[str, Any]]:
    """Return, by test id, the changes that set one field to each of the values."""
    return {f"{field} {name}": {**others, field: value} for name, value in values.items()}


NO_WORDS: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "empty": "",
    "a list": ["evt_1"],
    "an object": {"id": "evt_1"},
    "a number": 7,
    "true": True,
    "NaN": math.nan,
    "too long": "v" * 256,
    "very long": "v" * 50_000,
    "with NUL": "evt_\0",
    "a lone surrogate": "evt_\ud800",
    "with space": "evt 1",
    "with line end": "evt_1\n",
    "not ASCII": "evt_\xe9",
    "an emoji": "\U0001f600",
}

NO_MODES: dict[str, Any] = {
    "null": None,
    "a word": "false",
    "zero": 0,
    "one": 1,
    "a list": [],
    "NaN": math.nan,
}

UNUSABLE = each("id", NO_WORDS) | each("type", NO_WORDS) | each("livemode", NO_MODES)

NO_NOTIFICATION = {
    "null": b"null",
    "list": b"[]",
    "list of a notification": b"[" + encode() + b"]",
    "number": b"7",
    "float": b"1e999",
    "string": b'"v2.core.event"',
    "true": b"true",
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "empty object": b"{}",
    "no object": encode(object=...),
    "object null": encode(object=None),
    "object a list": encode(object=["v2.core.event"]),
    "object a number": encode(object=2),
    "another object": encode(object="v2.core.event_destination"),
    "object in upper case": encode(object="V2.CORE.EVENT"),
    "a customer": b'{"id":"cus_1","object":"customer"}',
    "object named twice": encode()[:-1] + b',"object":"customer"}',
    "EventBridge envelope": samples.encode({"id": "1", "detail": notification()}),
    "Event Grid envelope": samples.encode({"specversion": "1.0", "data": notification()}),
    **{name: encode(**changes) for name, changes in UNUSABLE.items()},
}


@pytest.mark.parametrize("body", NO_NOTIFICATION.values(), ids=NO_NOTIFICATION.keys())
def test_body_that_is_no_notification_is_refused(door: Door, body: bytes) -> None:
    """Signed JSON without a usable object, id, type or mode: 400."""
    door.assert_refused(door.deliver(body), "not_an_event")
    assert door.printed.lines("delivery")[-1]["secret"] == 1


# --- Authentic and recorded, but unreadable for this SDK


def envelope(**inner: Any) -> dict[str, Any]:
    """Return a notification for an envelope, with changed fields."""
    return {**notification(id="evt_1"), "related_object": RELATED, **inner}


NO_RELATED_OBJECTS: dict[str, Any] = {
    "a number": 7,
    "a word": MARKER,
    "a list": [MARKER],
    "true": True,
    "without id, as a singleton's": {"type": "balance", "url": "/v1/balance"},
    "without type": {"id": "cus_1", "url": "/v1/customers/cus_1"},
    "without url": {"id": "cus_1", "type": "customer"},
}

NO_RELATED_OBJECTS_OF_A_KNOWN_TYPE: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "false": False,
    "zero": 0,
    "empty": {},
    "an empty list": [],
}

NO_CONTEXTS: dict[str, Any] = {
    "a number": 7,
    "true": True,
    "a list": [MARKER],
    "an object": {MARKER: MARKER},
    "NaN": math.nan,
}

NO_REASONS: dict[str, Any] = {
    "a word": MARKER,
    "a list": [MARKER],
    "a number": 7,
    "true": True,
    "without type": {MARKER: MARKER},
    "without request": {"type": "request"},
    "with request null": {"type": "request", "request": None},
    "with request a word": {"type": "request", "request": MARKER},
    "with request without id": {"type": "request", "request": {"idempotency_key": "k"}},
    "with request without key": {"type": "request", "request": {"id": "req_1"}},
}

#: The SDK unwraps EventBridge's ``detail`` and Event Grid's ``data``.
IN_ENVELOPES: dict[str, Any] = {
    "a number": 7,
    "a word": MARKER,
    "a list": [MARKER],
    "another object": {"object": MARKER},
    "a snapshot event": SNAPSHOT,
    "nothing but its object": {"object": "v2.core.event"},
    "another event": envelope(id="evt_2"),
    "another event as text": json.dumps(envelope(id="evt_2")),
    "another type": envelope(type=OTHER),
    "another type as text": json.dumps(envelope(type=OTHER)),
    "an unknown type": envelope(type=UNKNOWN),
    "null as text": "null",
}

UNREADABLE: dict[str, dict[str, Any]] = {
    "created missing": {"created": ...},
    **each("related_object", NO_RELATED_OBJECTS | NO_RELATED_OBJECTS_OF_A_KNOWN_TYPE),
    **{
        f"unknown type, {name}": changes
        for name, changes in each("related_object", NO_RELATED_OBJECTS, type=UNKNOWN).items()
    },
    "singleton without url": {"type": SINGLETON, "related_object": {"type": "balance"}},
    **each("context", NO_CONTEXTS),
    **each("reason", NO_REASONS),
    **each("detail", IN_ENVELOPES),
    **each("data", IN_ENVELOPES, specversion="1.0"),
}


@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_event_is_recorded_and_not_run(door: Door, changes: dict[str, Any]) -> None:
    """200 unreadable, and dead with its body, because a newer SDK may read it. It is not run.

    An event in an envelope is not run either: only the recorded event may run.
    """
    body = encode(id="evt_1", **changes)

    door.assert_taken(door.deliver(body), "unreadable")

    assert door.ran == []
    (event,) = door.inbox
    assert (event.id, event.type) == ("evt_1", changes.get("type", TYPE))
    assert (event.state, event.outcome, event.body) == ("dead", "unreadable", body)
    assert event.reason


# --- Authentic, odd, and readable

ODD: dict[str, dict[str, Any]] = {
    "id of one character": {"id": "x"},
    "id of 255 characters": {"id": "x" * 255},
    "id of marks": {"id": "'\"\\%s{}$<>;--"},
    "type of 255 characters": {"type": "v" * 255},
    "type of a snapshot event": {"type": "customer.created"},
    "type that Python could trip over": {"type": "__class__"},
    "created null": {"created": None},
    "created a list": {"created": [1]},
    "unknown type without related_object": {"type": UNKNOWN, "related_object": ...},
    "unknown type with related_object null": {"type": UNKNOWN, "related_object": None},
    "unknown type with related_object empty": {"type": UNKNOWN, "related_object": {}},
    "unknown type with related_object zero": {"type": UNKNOWN, "related_object": 0},
    "unknown type with related_object": {"type": UNKNOWN, "related_object": RELATED},
    "related_object where there is none": {"type": NO_RELATED_OBJECT, "related_object": [1]},
    "related_object of numbers": {"related_object": {"id": 1, "type": 2, "url": None}},
    "reason null": {"reason": None},
    "reason of another kind": {"reason": {"type": "other"}},
    "reason of a request": {"reason": samples.request_reason()},
    "reason of numbers": {
        "reason": {"type": "request", "request": {"id": 1, "idempotency_key": 2}}
    },
    "context null": {"context": None},
    "context false": {"context": False},
    "context zero": {"context": 0},
    "context an empty list": {"context": []},
    "unknown fields": {"snapshot_event": "evt_2", "changes": {"a": [None, 1.5]}},
    "data without specversion": {"data": notification(OTHER)},
    "specversion without data": {"specversion": "1.0"},
    "detail empty": {"detail": {}},
    "detail null": {"detail": None},
    "the same event in an envelope": {"detail": envelope()},
    "text beyond ASCII": {"x": "\xe9\u20ac\U0001f600"},
    "NUL in another field": {"x": "\0"},
    "lone surrogate in another field": {"x": "\udfff"},
    "NaN in another field": {"x": math.nan},
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD.keys())
def test_odd_but_readable_is_run(door: Door, changes: dict[str, Any]) -> None:
    """A notification that the SDK can read runs once, as the event that was recorded."""
    values = notification(**{"id": "evt_1", **changes})

    outcome = "handled" if values["type"] in HANDLED else "fallback"
    line = door.assert_taken(door.deliver(values), outcome)

    assert (line["event_id"], line["event_type"]) == (values["id"], values["type"])
    assert door.ran == [(values["id"], values["type"])]
    assert door.receiver.event(values["id"]).state == "done"


CONTEXTS = {
    "one account": ("acct_1", "acct_1"),
    "account of an account": ("acct_1/acct_2", "acct_1/acct_2"),
    "255 characters": ("a" * 255, "a" * 255),
    "empty": ("", None),
    "256 characters": ("a" * 256, None),
    "very long": ("a" * 50_000, None),
    "with NUL": ("acct_\0", None),
    "a lone surrogate": ("acct_\ud800", None),
    "with line end": ("acct_1\nlevel=", None),
    "not ASCII": ("acct_\xe9", None),
}


@pytest.mark.parametrize(("context", "kept"), CONTEXTS.values(), ids=CONTEXTS.keys())
def test_context_is_kept_where_it_can_be(
    open_door: OpenDoor, database_url: str, context: str, kept: str | None
) -> None:
    """A context that a database cannot store is omitted from the inbox and the log."""
    door = open_door(database_url=database_url)

    line = door.assert_taken(door.deliver(notification(id="evt_1", context=context)), "handled")

    assert door.receiver.event("evt_1").context == kept
    assert line.get("context") == kept
    assert len(door.ran) == 1


def test_last_of_two_equal_keys_counts(door: Door) -> None:
    """The inbox and the callback both get the last of two equal keys."""
    body = encode(id="evt_1")[:-1] + f',"id":"evt_2","type":"{OTHER}"}}'.encode()

    door.assert_taken(door.deliver(body), "handled")

    assert door.ran == [("evt_2", OTHER)]
    assert [event.id for event in door.inbox] == ["evt_2"]


@pytest.mark.parametrize(
    "spaced",
    [lambda body: b" \r\n\t" + body + b"\n", lambda body: json.dumps(json.loads(body), indent=2)],
    ids=["around", "inside"],
)
def test_bytes_are_kept_as_they_were_signed(
    door: Door, spaced: Callable[[bytes], bytes | str]
) -> None:
    """The inbox keeps the signed bytes, white space included."""
    changed = spaced(encode(id="evt_1"))
    body = changed if isinstance(changed, bytes) else changed.encode()
    door.assert_taken(door.deliver(body), "handled")
    assert door.receiver.event("evt_1").body == body


# --- HTTP


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "BREW"]
)
def test_only_post_is_taken(door: Door, method: str) -> None:
    """Another method gets 405 with Allow, even with a valid signature."""
    body = encode()
    headers = {"Stripe-Signature": sign(body)}

    answer = door.receiver.client.open("/webhook", method=method, data=body, headers=headers)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert answer.content_type == "application/json"
    assert method == "HEAD" or answer.json == {"error": "method not allowed"}
    assert (door.ran, door.inbox) == ([], [])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/webhook//",
        "//webhook",
        "///webhook",
        "/Webhook",
        "/webhook/evt_1",
        "/webhooks",
        "/static/x",
        "/%ff",
    ],
)
def test_other_paths_are_not_found(door: Door, path: str) -> None:
    """404 in JSON, and no redirect: Stripe does not follow redirects."""
    body = encode()
    headers = {"Stripe-Signature": sign(body)}

    # The client would read the first segment of //webhook as a host.
    overrides = {"PATH_INFO": path} if path.startswith("//") else {}
    answer = door.receiver.client.post(
        path, data=body, headers=headers, environ_overrides=overrides
    )

    assert (answer.status_code, answer.json) == (404, {"error": "not found"})
    assert answer.content_type == "application/json"
    assert (door.ran, door.inbox) == ([], [])


def test_slash_at_the_end_is_taken(door: Door) -> None:
    """/webhook/ is /webhook: a URL often gets a slash when it is typed."""
    body = encode(id="evt_1")

    answer = door.receiver.client.post(
        "/webhook/", data=body, headers={"Stripe-Signature": sign(body)}
    )

    assert answer.json == {"success": True, "outcome": "handled"}


@pytest.mark.parametrize("query", ["", "x=1", "id=evt_2&type=x", "%ff%00", "marker"])
def test_query_is_ignored(door: Door, query: str) -> None:
    """The query string is not signed, so it has no effect."""
    answer = door.receiver.post(
        body := encode(id="evt_1"), sign(body), environ_overrides={"QUERY_STRING": query}
    )
    door.assert_taken(answer, "handled")
    assert door.ran == [("evt_1", TYPE)]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "",
        "\xe9",
        None,
    ],
    ids=["json", "utf-16", "form", "multipart", "no boundary", "text", "empty", "odd", "none"],
)
def test_content_type_is_ignored(door: Door, content_type: str | None) -> None:
    """The raw bytes are read, because they are signed. The Content-Type has no effect."""
    body = encode(id="evt_1")
    headers = {"Stripe-Signature": sign(body)}

    answer = door.receiver.client.post(
        "/webhook", data=body, headers=headers, content_type=content_type
    )

    door.assert_taken(answer, "handled")
    assert door.receiver.event("evt_1").body == body


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
def test_content_encoding_is_not_undone(door: Door, coding: str) -> None:
    """No body is decompressed, so a small body cannot become a large one."""
    body = encode()
    answer = door.receiver.post(
        body, sign(body), environ_overrides={"HTTP_CONTENT_ENCODING": coding}
    )
    door.assert_taken(answer, "handled")


class Stream(io.BytesIO):
    """A body whose position shows how much was read."""

    def post(self, door: Door, signature: str, length: str | None) -> TestResponse:
        """Post it with a Content-Length, or as a server passes on a chunked body."""
        environ: dict[str, Any] = {"wsgi.input": self, "CONTENT_LENGTH": length or ""}
        if length is None:
            environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        return door.receiver.post(b"", signature, environ_overrides=environ)


LIMIT = 2048


def padded(size: int) -> bytes:
    """Return a notification of exactly this size in bytes."""
    body = encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("less", [0, 1])
def test_body_up_to_the_limit_is_taken(open_door: OpenDoor, less: int, *, chunked: bool) -> None:
    """MAX_BODY_BYTES is the size of the largest accepted body."""
    door = open_door(max_body_bytes=LIMIT)
    body = padded(LIMIT - less)
    answer = Stream(body).post(door, sign(body), None if chunked else str(len(body)))
    door.assert_taken(answer, "handled")
    assert door.inbox[0].body == body


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("more", [1, 2, 1_000_000])
def test_body_over_the_limit_is_refused(open_door: OpenDoor, more: int, *, chunked: bool) -> None:
    """413 before it is read to its end, even with a valid signature."""
    door = open_door(max_body_bytes=LIMIT)
    body = padded(LIMIT + more)
    stream = Stream(body)

    answer = stream.post(door, sign(body), None if chunked else str(len(body)))

    door.assert_refused(answer, "body_too_large", status=413)
    assert stream.tell() <= LIMIT + 1


def test_body_cut_at_the_limit_is_refused(open_door: OpenDoor) -> None:
    """A longer body is refused even if the signature matches its bytes up to the limit."""
    door = open_door(max_body_bytes=LIMIT)
    body = padded(LIMIT)
    answer = Stream(body + b"{}").post(door, sign(body), None)
    door.assert_refused(answer, "body_too_large", status=413)


@pytest.mark.parametrize("sent", [0, 1, LIMIT - 1])
def test_body_that_ends_early_is_refused(door: Door, sent: int) -> None:
    """A client that disconnects within the body: 400, and the log line says so."""
    body = padded(LIMIT)
    answer = Stream(body[:sent]).post(door, sign(body), str(LIMIT))
    door.assert_refused(answer, "body_incomplete")


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "\xb2", "9" * 5000])
def test_odd_content_length_is_refused(door: Door, length: str) -> None:
    """An invalid Content-Length gets 400 or 413, never 5xx."""
    body = padded(LIMIT)
    answer = Stream(body).post(door, sign(body), length)
    assert answer.status_code in {400, 413}
    assert (door.ran, door.inbox) == ([], [])


def test_secrets_bodies_and_locals_are_not_logged(open_door: OpenDoor) -> None:
    """Not even tracebacks at the debug level contain a secret, a body or a local variable.

    A fixture checks the output of every other test here.
    """
    door = open_door(f"raise ValueError('{API_KEY}')", log_level="debug")
    door.deliver(notification())
    door.deliver(notification(related_object=MARKER, context=[MARKER]))
    door.deliver({**SNAPSHOT, "object": MARKER})
    door.post(encode(), f"{sign(b'')},v1={SECRET},{MARKER}")

    text = door.printed.text()
    assert len(door.printed.lines("delivery")) == 4
    assert "ValueError: [redacted]" in text
    assert [word for word in NEVER_PRINTED if word in text] == []
