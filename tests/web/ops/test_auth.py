"""Who may open the operations page, and what a refused person is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import request
from structlog.testing import capture_logs

from app.settings import Settings
from app.web.ops import auth
from tests.conftest import Receiver
from tests.web.ops.conftest import READ_TOKEN, SAME_ORIGIN, TOKEN, Browser

MakeReceiver = Callable[..., Receiver]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "/", "/events", "/static/x/page.css"])
def test_without_token_there_is_no_page(receiver: Receiver, method: str, path: str) -> None:
    """Without OPS_TOKEN each address of the page is answered as an unknown path, byte for byte."""
    answer = receiver.client.open(f"/ops{path}", method=method, auth=("anna", TOKEN))
    unknown = receiver.client.open("/unknown", method=method, auth=("anna", TOKEN))

    assert answer.status_code == 404
    assert answer.data == unknown.data
    assert list(answer.headers) == list(unknown.headers)


def test_browser_is_asked_for_the_token(ops: Browser) -> None:
    """A request without credentials gets 401 and a challenge, which is no failure."""
    with capture_logs() as logs:
        answers = [ops.receiver.client.get("/ops") for _ in range(auth.FAILURES + 1)]

    assert {answer.status_code for answer in answers} == {401}
    challenge = answers[0].headers["WWW-Authenticate"]
    assert challenge.startswith(f'Basic realm="{auth.REALM}"')
    assert "your own name, and the token" in answers[0].text
    assert logs == []


@pytest.mark.parametrize("path", ["/ops", "/ops/", "/ops/unknown", "/ops/static/x/page.css"])
def test_each_address_needs_the_token(ops: Browser, path: str) -> None:
    """An address tells nothing without the token, not even whether it exists."""
    assert ops.receiver.client.get(path).status_code == 401
    assert ops.receiver.client.post(path).status_code == 401


@pytest.mark.parametrize(
    ("name", "token"),
    [("anna", ""), ("anna", TOKEN[:-1]), ("anna", f"{TOKEN}x"), ("", TOKEN), (" ", TOKEN)],
)
def test_wrong_credentials(ops: Browser, name: str, token: str) -> None:
    """A wrong token, and a missing name, are refused."""
    answer = ops.receiver.client.get("/ops", auth=(name, token))
    assert answer.status_code == 401
    assert "the password the token" in answer.text


@pytest.mark.parametrize(
    "header", ["Basic x", "Basic /w==", "Bearer", "Digest a=b", "Ärger", f"Token {TOKEN}"]
)
def test_malformed_credentials(ops: Browser, header: str) -> None:
    """A header that cannot be read is refused like a wrong token."""
    answer = ops.receiver.client.get("/ops", headers={"Authorization": header})
    assert answer.status_code == 401


def test_empty_token_opens_nothing(make_ops: Callable[..., Browser]) -> None:
    """Without OPS_READ_TOKEN an empty password is wrong."""
    ops = make_ops(ops_read_token="")
    assert ops.receiver.client.get("/ops", auth=("anna", "")).status_code == 401


def test_failures_are_limited(ops: Browser) -> None:
    """Further wrong tokens of an address get 429. The log is limited, and has no token."""
    with capture_logs() as logs:
        answers = [
            ops.receiver.client.get("/ops", auth=("anna", f"{TOKEN}{number}"))
            for number in range(auth.FAILURES + 5)
        ]

    assert [answer.status_code for answer in answers] == [401] * auth.FAILURES + [429] * 5
    assert answers[-1].headers["Retry-After"] == str(auth.SECONDS)
    assert "WWW-Authenticate" not in answers[-1].headers
    assert {line["reason"] for line in logs} == {"wrong_ops_token"}
    assert len(logs) == 10
    assert TOKEN not in f"{logs}{answers[0].text}{answers[-1].text}"


def test_right_token_is_never_locked_out(ops: Browser) -> None:
    """After many failures of its address, the right token opens the page all the same."""
    for _ in range(auth.FAILURES + 1):
        ops.receiver.client.get("/ops", auth=("eve", "wrong"))

    assert ops.get("/ops").status_code == 200


class TestFailureLimit:
    """The count of failures is bounded in memory, and ends."""

    def test_addresses_are_counted_apart(self) -> None:
        """The failures of one address do not count for another one."""
        limit = auth.FailureLimit()
        for _ in range(auth.FAILURES):
            assert limit.allows("192.0.2.1")
        assert not limit.allows("192.0.2.1")
        assert limit.allows("192.0.2.2")

    def test_ipv6_is_counted_by_network(self) -> None:
        """One client can use all addresses of a /64."""
        limit = auth.FailureLimit()
        for number in range(auth.FAILURES):
            assert limit.allows(f"2001:db8::{number:x}")
        assert not limit.allows("2001:db8::ffff%eth0")

    def test_ipv4_clients_of_an_ipv6_socket_are_counted_apart(self) -> None:
        """Their addresses are IPv6 addresses of one /64."""
        limit = auth.FailureLimit()
        for _ in range(auth.FAILURES):
            assert limit.allows("::ffff:192.0.2.1")
        assert not limit.allows("192.0.2.1")
        assert limit.allows("::ffff:192.0.2.2")

    def test_further_addresses_are_counted_together(self) -> None:
        """Beyond the maximum of addresses, and without one, there is one count for all."""
        limit = auth.FailureLimit()
        for number in range(auth.ADDRESSES):
            assert limit.allows(f"10.0.{number // 256}.{number % 256}")
        for number in range(auth.FAILURES - 1):
            assert limit.allows(f"10.1.0.{number}")
        assert limit.allows("")
        assert not limit.allows("10.2.0.1")

    def test_period_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After a minute the count begins anew."""
        limit = auth.FailureLimit()
        for _ in range(auth.FAILURES + 1):
            limit.allows("192.0.2.1")
        # The clock cannot be waited for: a period is a minute.
        monkeypatch.setattr(auth, "SECONDS", 0)
        limit._end = 0.0  # noqa: SLF001 - the clock of a process cannot be moved
        assert limit.allows("192.0.2.1")


@pytest.mark.parametrize(
    ("token", "headers", "expected"),
    [
        (TOKEN, {}, ("token", True, True, False)),
        (TOKEN, {"X-Operator": "deploy\u00adbot "}, ("deploy\ufffdbot", True, True, False)),
        (READ_TOKEN, {"X-Operator": "n" * 100}, ("n" * 60, False, False, False)),
    ],
)
def test_program(
    ops: Browser, token: str, headers: dict[str, str], expected: tuple[Any, ...]
) -> None:
    """A program sends a Bearer token, and may name itself."""
    given = {"Authorization": f"Bearer {token}", **headers}
    with ops.receiver.app.test_request_context("/ops", headers=given):
        auth.require_viewer()
        found = auth.viewer()
        assert auth.is_authorized(request, ops.receiver.services.settings)
    assert (found.name, found.may_act, found.sees_bodies, found.is_browser) == expected
    assert ops.receiver.client.get("/ops", headers=given).status_code == 200


@pytest.mark.parametrize(
    ("token", "read_bodies", "rights"),
    [
        (TOKEN, "off", (True, True)),
        (READ_TOKEN, "off", (False, False)),
        (READ_TOKEN, "on", (False, True)),
    ],
)
def test_rights(
    make_ops: Callable[..., Browser], token: str, read_bodies: str, rights: tuple[bool, bool]
) -> None:
    """OPS_TOKEN may act and see bodies. OPS_READ_TOKEN sees them only with OPS_READ_BODIES."""
    ops = make_ops(ops_read_bodies=read_bodies)
    with ops.receiver.app.test_request_context("/ops", auth=("Zoë", token)):
        auth.require_viewer()
        found = auth.viewer()
    assert (found.may_act, found.sees_bodies) == rights
    assert found.name == "Zoë"
    assert token not in repr(found)


def test_reader_may_not_act(reader: Browser) -> None:
    """A POST with OPS_READ_TOKEN gets 403 and a sentence, and the page says what it may do."""
    answer = reader.post("/ops/unknown")
    assert answer.status_code == 403
    assert "may look and change nothing" in answer.text
    assert "ben (may look)" in reader.get("/ops").text


class TestSettings:
    """Wrong tokens are refused at the start, by name, without their value."""

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"OPS_TOKEN": TOKEN[:31]}, "OPS_TOKEN is too easy to guess"),
            ({"OPS_TOKEN": "ab" * 20}, "OPS_TOKEN is too easy to guess"),
            ({"OPS_TOKEN": f"{TOKEN}\u00e4"}, "OPS_TOKEN has a space, or a character"),
            ({"OPS_TOKEN": f"{TOKEN} x"}, "OPS_TOKEN has a space, or a character"),
            ({"OPS_READ_TOKEN": READ_TOKEN}, "OPS_READ_TOKEN has no effect without OPS_TOKEN"),
            ({"OPS_TOKEN": TOKEN, "OPS_READ_TOKEN": TOKEN}, "OPS_READ_TOKEN is the same as"),
            ({"OPS_TOKEN_FILE": TOKEN}, "OPS_TOKEN_FILE holds the value itself"),
        ],
    )
    def test_refused(self, changes: dict[str, str], problem: str) -> None:
        """Each mistake has a sentence."""
        needed = {"STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}
        with pytest.raises(SystemExit) as refused:
            Settings.load({**needed, **changes}, None)
        assert problem in str(refused.value)
        assert "0123456789" not in str(refused.value)


def test_post_of_a_program(ops: Browser) -> None:
    """A program with a Bearer token sends no CSRF token: no browser sends its token by itself."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    post = ops.receiver.client.post
    assert post("/ops/unknown", headers=headers).status_code == 404
    assert post("/ops/unknown", headers={**headers, **SAME_ORIGIN}).status_code == 403
