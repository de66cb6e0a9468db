"""The budget for Stripe's API: what all threads and processes make together stays below it.

Where a test looks at the time, it is that at least some of it has passed: no slow machine can fail
it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
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
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
CUSTOMER = "https://api.stripe.com/v1/customers/cus_1?expand[0]=x"


@pytest.fixture
def make_inbox(database_url: str) -> Iterator[Callable[[], Inbox]]:
    """A function that opens the test's database as another process would."""
    opened: list[Inbox] = []

    def make() -> Inbox:
        opened.append(Inbox(database_url, lease_seconds=30))
        return opened[-1]

    yield make
    for inbox in opened:
        inbox.close()


def rows(url: str) -> dict[str, tuple[float, float]]:
    """Return for each bucket when its next slot is and until when it is slow."""
    return {name: (free, slow) for name, free, slow in raw_sql.select(url, "budgets")}


def reserve(inbox: Inbox, bucket: str, slots: int) -> tuple[float, float]:
    """Reserve slots a hundred seconds apart. Returns when the first is, and the pace."""
    delay, pace = inbox.rate_limits.reserve(bucket, slots, 100.0)
    return abs(round(delay, -2)), pace


class TestSlots:
    """The database hands out slots, each of them once."""

    def test_slots_follow_each_other_across_processes(
        self, make_inbox: Callable[[], Inbox]
    ) -> None:
        """What one process has reserved, another one gets after it."""
        one, other = make_inbox(), make_inbox()
        assert reserve(one, "bucket", 2) == (0.0, 100.0)
        assert reserve(other, "bucket", 3) == (200.0, 100.0)
        assert reserve(one, "bucket", 1) == (500.0, 100.0)
        assert reserve(one, "another", 1) == (0.0, 100.0)

    def test_slots_of_the_past_are_not_saved_up(
        self, make_inbox: Callable[[], Inbox], database_url: str
    ) -> None:
        """After an hour without a request there is no burst of an hour's slots."""
        inbox = make_inbox()
        inbox.rate_limits.reserve("bucket", 1, 100.0)
        raw_sql.execute(database_url, "UPDATE budgets SET free_at = free_at - 3600")
        assert reserve(inbox, "bucket", 1) == (0.0, 100.0)
        assert reserve(inbox, "bucket", 1) == (100.0, 100.0)

    def test_slow_bucket_pauses_and_has_half_as_many(self, make_inbox: Callable[[], Inbox]) -> None:
        """After a 429 nobody gets a slot before the pause is over, and then half as many."""
        one, other = make_inbox(), make_inbox()
        one.rate_limits.slow_down("bucket", pause=1000.0, slow=2000.0)
        one.rate_limits.slow_down(
            "bucket", pause=10.0, slow=20.0
        )  # a shorter pause ends no longer one
        assert reserve(other, "bucket", 2) == (1000.0, 200.0)
        assert reserve(other, "bucket", 1) == (1400.0, 200.0)

    def test_slow_time_ends(self, make_inbox: Callable[[], Inbox]) -> None:
        """When it is over the bucket has as many as ever."""
        inbox = make_inbox()
        inbox.rate_limits.slow_down("bucket", pause=0.0, slow=-1.0)
        assert inbox.rate_limits.reserve("bucket", 1, 100.0)[1] == 100.0


class TestWaiting:
    """A request waits for its slots."""

    def test_processes_and_threads_share_the_rate(self, make_inbox: Callable[[], Inbox]) -> None:
        """Thirty requests of two processes take as long as thirty of one."""
        budgets = [RateLimiter(make_inbox().rate_limits, 30, mode="test") for _ in range(2)]
        begin = time.monotonic()
        with ThreadPoolExecutor(10) as pool:
            for number in range(30):
                path = f"https://api.stripe.com/v1/{'abcde'[number % 5]}"
                pool.submit(budgets[number % 2].wait, "get", path)
        # The last slot is 29/30 s after the first, and a batch of three may be used at once.
        assert time.monotonic() - begin >= 26 / 30

    def test_endpoint_has_a_rate_of_its_own(
        self, make_inbox: Callable[[], Inbox], database_url: str
    ) -> None:
        """Ids are no part of an endpoint, the method is; all of them have one rate in common."""
        budget = RateLimiter(make_inbox().rate_limits, 1000, mode="live")
        for method, path in (
            ("get", "/v1/customers/cus_1"),
            ("get", "/v1/customers/cus_2"),
            ("post", "/v1/customers/cus_2"),
            ("get", "/v2/core/events/evt_1?x=1"),
        ):
            budget.wait(method, f"https://api.stripe.com{path}")
        assert set(rows(database_url)) == {
            "live all",
            "live GET /v1/customers/{id}",
            "live POST /v1/customers/{id}",
            "live GET /v2/core/events/{id}",
        }

    def test_endpoint_is_limited(self, make_inbox: Callable[[], Inbox]) -> None:
        """One endpoint is not asked more often than Stripe allows, whatever the rate of all."""
        budget, begin = RateLimiter(make_inbox().rate_limits, 10_000, mode="test"), time.monotonic()
        for _ in range(PER_ENDPOINT // 2):
            budget.wait("get", CUSTOMER)
        assert time.monotonic() - begin >= (PER_ENDPOINT // 2 - 3) / PER_ENDPOINT

    def test_who_waits_when_a_429_comes_waits_on(
        self, make_inbox: Callable[[], Inbox], database_url: str
    ) -> None:
        """A slot that was given out before the 429 is not used after it."""
        inbox = make_inbox()
        inbox.rate_limits.reserve("test all", 1, 1.5)
        budget = RateLimiter(inbox.rate_limits, 10, mode="test")
        before = rows(database_url)
        waiting = threading.Thread(target=budget.wait, args=["get", CUSTOMER])
        waiting.start()
        wait_for(lambda: rows(database_url)["test all"] != before["test all"])
        begin = time.monotonic()
        budget.slow_down("2.5")
        waiting.join()
        assert time.monotonic() - begin >= 2.2

    @pytest.mark.parametrize(
        ("asked", "pause"),
        [(None, 1), ("", 1), ("0", 1), ("soon", 1), ("7", 7), ("2.5", 2.5), ("86400", 60)],
    )
    def test_stripe_says_how_long(
        self,
        sqlite_url: str,
        logged: Callable[[str], dict[str, Any]],
        asked: str | None,
        pause: float,
        make_receiver: Callable[..., Receiver],
    ) -> None:
        """Retry-After is honoured, in its bounds, and a pause of a second made without it."""
        budget = RateLimiter(make_receiver().services.inbox.rate_limits, 10, mode="test")
        budget.slow_down(asked)
        free_at, slow_until = rows(sqlite_url)["test all"]
        assert slow_until - free_at == pytest.approx(SLOW_SECONDS)
        assert logged("stripe_rate_limited")["pause_seconds"] == pause

    def test_without_the_database_each_process_has_its_own(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """While the inbox cannot be reached requests still keep to the rate, and to the pause.

        It is not asked at each request then: that would take seconds.
        """
        monkeypatch.setattr("app.stripe_api.rate_limiter.OUTAGE_SECONDS", 600)
        (tmp_path / "file").touch()
        inbox = Inbox(f"sqlite:///{tmp_path}/file/inbox.sqlite3", lease_seconds=30)
        budget, begin = RateLimiter(inbox.rate_limits, 10, mode="test"), time.monotonic()
        for number in range(6):
            budget.wait("get", f"https://api.stripe.com/v1/{'abcdef'[number]}")
        assert time.monotonic() - begin >= 0.4
        begin = time.monotonic()
        budget.slow_down(None)
        budget.wait("get", CUSTOMER)
        assert time.monotonic() - begin >= PAUSE_SECONDS * 0.9
        # Each of the seven endpoints and all of them together asked once; the pause was to be told.
        assert capsys.readouterr().err.count("rate_limiter_not_shared") == 9


class TestClient:
    """The client that callbacks get keeps to it."""

    SOURCE = """
        answers = []
        def handle(notif, client):
            answers.append(notif.fetch_related_object())
    """

    def test_wait_is_time_in_which_the_lease_is_renewed(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, database_url: str
    ) -> None:
        """A callback that waits for longer than a lease keeps its event: nobody else runs it."""
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
        )  # whoever asks next waits for that
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(receiver.deliver, notification)
            wait_for(lambda: receiver.services.inbox.administration.find(notification["id"]))
            before = receiver.event(notification["id"]).lease_until or 0
            wait_for(lambda: (receiver.event(notification["id"]).lease_until or 0) > before + 1)
            # Past the end of the lease as it was: the event is running, or by now it has run.
            assert receiver.deliver(notification).status_code in {409, 200}
            assert first.result().status_code == 200
        assert receiver.event(notification["id"]).attempt == 1
        assert len(stripe_api.asked) == 1

    def test_each_try_is_a_request(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """What the SDK repeats takes a slot each time: Stripe counts it each time."""
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

    def test_answer_of_429_slows_down_all_processes(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, database_url: str
    ) -> None:
        """The next request of any process waits for as long as Stripe asked, and then longer."""
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

    def test_answer_that_is_read_piece_by_piece_counts_too(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """Files are requests like any other, with a budget and without."""
        receiver = self.service(make_receiver, stripe_api, stripe_rate_limit=1000)
        budget = RateLimiter(receiver.services.inbox.rate_limits, 1000, mode="test")
        for client in (HTTPClient(budget), HTTPClient(None)):
            _, status, _ = client.request_stream("get", f"{stripe_api.url}/v1/file", {})
            assert status == 404
            client.close()  # type: ignore[no-untyped-call]  # the SDK's
        assert set(rows(sqlite_url)) == {"test all", "test GET /v1/file"}

    def test_stand_in_has_no_limit(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, sqlite_url: str
    ) -> None:
        """Unless one is set, a stand-in is asked as often as one likes."""
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
        """Return a service that asks the stand-in."""
        return make_receiver(stripe_api_base=stripe_api.url, **changes)
