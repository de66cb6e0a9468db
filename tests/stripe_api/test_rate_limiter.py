"""The rate limiter of Stripe's API: all threads and processes together keep to the limit.

Tests of elapsed time have lower bounds only, so a slow machine cannot fail them.

"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import stripe

from app.factory import make_client
from app.inbox import Inbox
from app.stripe_api.client import HTTPClient
from app.stripe_api.rate_limiter import PAUSE_SECONDS, PER_ENDPOINT, SLOW_SECONDS, RateLimiter
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
CUSTOMER = "https://api.stripe.com/v1/customers/cus_1?expand[0]=x"


def rows(url: str) -> dict[str, tuple[float, float]]:
    """Return for each bucket the time of its next slot, and the end of its slow time."""
    return {name: (free, slow) for name, free, slow in raw_sql.select(url, "budgets")}


def reserve(inbox: Inbox, bucket: str, slots: int) -> tuple[float, float]:
    """Reserve slots a hundred seconds apart. Returns the time of the first, and the interval."""
    delay, pace = inbox.rate_limits.reserve(bucket, slots, 100.0)
    return abs(round(delay, -2)), pace


class TestSlots:
    """The database hands out each slot once."""

    def test_slots_follow_each_other_across_processes(self, make_inbox: MakeInbox) -> None:
        """A process gets the slots after those that another process has reserved."""
        one, other = make_inbox(), make_inbox()
        assert reserve(one, "bucket", 2) == (0.0, 100.0)
        assert reserve(other, "bucket", 3) == (200.0, 100.0)
        assert reserve(one, "bucket", 1) == (500.0, 100.0)
        assert reserve(one, "another", 1) == (0.0, 100.0)

    def test_unused_slots_expire(self, make_inbox: MakeInbox, database_url: str) -> None:
        """After an hour without requests there is no burst of an hour's slots."""
        inbox = make_inbox()
        inbox.rate_limits.reserve("bucket", 1, 100.0)
        raw_sql.execute(database_url, "UPDATE budgets SET free_at = free_at - 3600")
        assert reserve(inbox, "bucket", 1) == (0.0, 100.0)
        assert reserve(inbox, "bucket", 1) == (100.0, 100.0)

    def test_429_pauses_and_halves_the_rate(self, make_inbox: MakeInbox) -> None:
        """After a 429 the pause has no slots, and the time after it half as many."""
        one, other = make_inbox(), make_inbox()
        one.rate_limits.slow_down("bucket", pause=1000.0, slow=2000.0)
        one.rate_limits.slow_down(
            "bucket", pause=10.0, slow=20.0
        )  # a shorter pause does not end a longer one
        assert reserve(other, "bucket", 2) == (1000.0, 200.0)
        assert reserve(other, "bucket", 1) == (1400.0, 200.0)

    def test_slow_time_ends(self, make_inbox: MakeInbox) -> None:
        """After its slow time a bucket has its full rate again."""
        inbox = make_inbox()
        inbox.rate_limits.slow_down("bucket", pause=0.0, slow=-1.0)
        assert inbox.rate_limits.reserve("bucket", 1, 100.0)[1] == 100.0


class TestWaiting:
    """A request waits for its slots."""

    def test_processes_and_threads_share_the_rate(self, make_inbox: MakeInbox) -> None:
        """Thirty requests of two processes take as long as thirty of one."""
        limiters = [RateLimiter(make_inbox().rate_limits, 30, mode="test") for _ in range(2)]
        begin = time.monotonic()
        with ThreadPoolExecutor(10) as pool:
            for number in range(30):
                path = f"https://api.stripe.com/v1/{'abcde'[number % 5]}"
                pool.submit(limiters[number % 2].wait, "get", path)
        # The last slot is 29/30 s after the first. A batch of three may be used at once.
        assert time.monotonic() - begin >= 26 / 30

    def test_endpoint_has_its_own_bucket(self, make_inbox: MakeInbox, database_url: str) -> None:
        """An endpoint is a method and a path without ids. All share the account's limit."""
        limiter = RateLimiter(make_inbox().rate_limits, 1000, mode="live")
        for method, path in (
            ("get", "/v1/customers/cus_1"),
            ("get", "/v1/customers/cus_2"),
            ("post", "/v1/customers/cus_2"),
            ("get", "/v2/core/events/evt_1?x=1"),
        ):
            limiter.wait(method, f"https://api.stripe.com{path}")
        assert set(rows(database_url)) == {
            "live all",
            "live GET /v1/customers/{id}",
            "live POST /v1/customers/{id}",
            "live GET /v2/core/events/{id}",
        }

    def test_endpoint_is_limited(self, make_inbox: MakeInbox) -> None:
        """An endpoint gets no more requests than Stripe allows, whatever the account's limit."""
        limiter, begin = (
            RateLimiter(make_inbox().rate_limits, 10_000, mode="test"),
            time.monotonic(),
        )
        for _ in range(PER_ENDPOINT // 2):
            limiter.wait("get", CUSTOMER)
        assert time.monotonic() - begin >= (PER_ENDPOINT // 2 - 3) / PER_ENDPOINT

    def test_request_that_waits_during_a_429_waits_longer(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """A slot that was handed out before a 429 is not used after it."""
        inbox = make_inbox()
        inbox.rate_limits.reserve("test all", 1, 1.5)
        limiter = RateLimiter(inbox.rate_limits, 10, mode="test")
        before = rows(database_url)
        waiting = threading.Thread(target=limiter.wait, args=["get", CUSTOMER])
        waiting.start()
        wait_for(lambda: rows(database_url)["test all"] != before["test all"])
        begin = time.monotonic()
        limiter.slow_down("2.5")
        waiting.join()
        assert time.monotonic() - begin >= 2.2

    @pytest.mark.parametrize(
        ("asked", "pause"),
        [(None, 1), ("", 1), ("0", 1), ("soon", 1), ("7", 7), ("2.5", 2.5), ("86400", 60)],
    )
    def test_pause_follows_retry_after(
        self,
        sqlite_url: str,
        logged: Callable[[str], dict[str, Any]],
        asked: str | None,
        pause: float,
        make_receiver: Callable[..., Receiver],
    ) -> None:
        """The pause follows Retry-After within its bounds, and is a second without one."""
        limiter = RateLimiter(make_receiver().services.inbox.rate_limits, 10, mode="test")
        limiter.slow_down(asked)
        free_at, slow_until = rows(sqlite_url)["test all"]
        assert slow_until - free_at == pytest.approx(SLOW_SECONDS)
        assert logged("stripe_rate_limited")["pause_seconds"] == pause

    def test_outage_leaves_each_process_its_own_limit(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """In an outage of the inbox, requests still keep to the rate and to the pause.

        The inbox is not asked for each request: that would take seconds.

        """
        monkeypatch.setattr("app.stripe_api.rate_limiter.OUTAGE_SECONDS", 600)
        (tmp_path / "file").touch()
        inbox = Inbox(f"sqlite:///{tmp_path}/file/inbox.sqlite3", lease_seconds=30)
        limiter, begin = RateLimiter(inbox.rate_limits, 10, mode="test"), time.monotonic()
        for number in range(6):
            limiter.wait("get", f"https://api.stripe.com/v1/{'abcdef'[number]}")
        assert time.monotonic() - begin >= 0.4
        begin = time.monotonic()
        limiter.slow_down(None)
        limiter.wait("get", CUSTOMER)
        assert time.monotonic() - begin >= PAUSE_SECONDS * 0.9
        # The seven endpoints and the account asked once each, and the pause was written once.
        assert capsys.readouterr().err.count("rate_limiter_not_shared") == 9


class TestClient:
    """The client of callbacks keeps to the limit."""

    SOURCE = """
        answers = []
        def handle(notif, client):
            answers.append(notif.fetch_related_object())
    """

    def test_lease_is_renewed_during_the_wait(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, database_url: str
    ) -> None:
        """A callback that waits for longer than a lease keeps its event."""
        receiver = make_receiver(
            {"v1_customer_created": self.SOURCE},
            stripe_api_base=stripe_api.url,
            stripe_rate_limit=50,
            lease_seconds=1,
            database_url=database_url,
        )
        notification = samples.notification(TYPE)
        stripe_api.put_related_object(notification)
        receiver.services.inbox.rate_limits.reserve(
            "test all", 1, 4.0
        )  # the next request waits for that
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(receiver.deliver, notification)
            wait_for(lambda: receiver.services.inbox.administration.find(notification["id"]))
            before = receiver.event(notification["id"]).lease_until or 0
            wait_for(lambda: (receiver.event(notification["id"]).lease_until or 0) > before + 1)
            # After the end of the first lease: the event is running, or it is done by now.
            assert receiver.deliver(notification).status_code in {409, 200}
            assert first.result().status_code == 200
        assert receiver.event(notification["id"]).attempt == 1
        assert len(stripe_api.asked) == 1

    def test_each_try_takes_a_slot(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """Each repetition by the SDK takes a slot, because Stripe counts it."""
        receiver = self.service(make_receiver, stripe_api, stripe_rate_limit=1)
        stripe_api.put("/v1/balance", {"object": "balance"})
        client = make_client(receiver.services.settings, receiver.services.inbox)
        begin = time.monotonic()
        stripe_api.fail(status=500)
        client.v1.balance.retrieve()
        client.v1.balance.retrieve()
        assert len(stripe_api.asked) == 3
        assert time.monotonic() - begin >= 1.8  # three slots, a second apart
        assert set(rows(sqlite_url)) == {"test all", "test GET /v1/balance"}

    def test_429_slows_down_all_processes(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, database_url: str
    ) -> None:
        """The next request of every process waits as long as Stripe asked, and a while longer."""
        receiver = self.service(
            make_receiver, stripe_api, stripe_rate_limit=1000, database_url=database_url
        )
        client = make_client(receiver.services.settings, receiver.services.inbox)
        stripe_api.fail(status=429, headers={"Retry-After": "30"})
        with pytest.raises(stripe.RateLimitError):
            client.v1.balance.retrieve()
        with contextlib.closing(Inbox(database_url, lease_seconds=30)) as other:
            delay, pace = other.rate_limits.reserve("test all", 1, 100.0)
        assert pace == 200.0
        assert 10.0 < delay <= 30.0

    def test_streamed_answer_takes_a_slot(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """Streamed answers, such as files, take a slot too, if there is a limit."""
        receiver = self.service(make_receiver, stripe_api, stripe_rate_limit=1000)
        limiter = RateLimiter(receiver.services.inbox.rate_limits, 1000, mode="test")
        for client in (HTTPClient(limiter), HTTPClient(None)):
            _, status, _ = client.request_stream("get", f"{stripe_api.url}/v1/file", {})
            assert status == 404
            client.close()  # type: ignore[no-untyped-call]  # the SDK's
        assert set(rows(sqlite_url)) == {"test all", "test GET /v1/file"}

    def test_stand_in_has_no_limit(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """A stand-in has no limit unless one is set."""
        receiver = self.service(make_receiver, stripe_api)
        receiver.services.inbox.check()
        client = make_client(receiver.services.settings, receiver.services.inbox)
        stripe_api.put("/v1/balance", {"object": "balance"})
        client.v1.balance.retrieve()
        assert rows(sqlite_url) == {}

    @staticmethod
    def service(
        make_receiver: Callable[..., Receiver], stripe_api: StripeApi, **changes: Any
    ) -> Receiver:
        """Return a service that uses the stand-in."""
        return make_receiver(stripe_api_base=stripe_api.url, **changes)
