"""What the doctor says of Stripe's side: key, clock, destinations, ping."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli.doctor.lines import duration, few
from app.inbox import NewEvent, Outcome
from devkit import samples
from devkit.destinations import PATH, PING
from devkit.stripe_api import StripeApi
from tests.cli.doctor.conftest import MODULES, TYPES, examine
from tests.conftest import SECRET, Receiver
from tests.support import raw_sql
from tests.support.serving import serving

URL = "https://your.host/webhook"
NOBODY = "http://127.0.0.1:9/webhook"
EVENTS = "/v2/core/events"


class TestKey:
    """What the key reaches."""

    @pytest.mark.parametrize(
        ("paths", "lacking"),
        [
            ([EVENTS], "events"),
            ([PATH], "event destinations"),
            ([EVENTS, PATH], "events and event destinations"),
        ],
    )
    def test_permissions_that_lack(
        self, paths: list[str], lacking: str, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """Each call that the key may not make is named, and the rest goes on."""
        stripe_api.destinations.add(URL, TYPES)
        for path in paths:
            stripe_api.fail(path, status=403)
        found = examine(ours, "--no-ping")
        assert found.about("key") == [
            (
                "WARN",
                f"a test key that may not read {lacking} (403)"
                " -> Give it the permission at https://dashboard.stripe.com/apikeys",
            )
        ]
        assert found.about("clock")[0][0] == "OK"
        assert bool(found.about("destination")) is (PATH not in paths)
        assert found.status == 0

    @pytest.mark.parametrize(
        ("strike", "said"),
        [
            (lambda api: api.fail(status=401), "does not accept the API key (401)"),
            (lambda api: api.fail(PATH, status=404), "does not have it (404)"),
            (lambda api: api.fail(status=429), "rate limit is reached (429)"),
            (lambda api: api.fail(PATH, status=500), "Stripe's API failed (500)"),
            (lambda api: api.hold(), "did not answer in time"),
            (lambda api: api.reset(), "the connection broke off"),
            (lambda api: api.garble(), "What answered is not Stripe's API"),
            (lambda api: api.garble(body=b"[]"), "What answered is not Stripe's API"),
            (lambda api: api.garble(PATH, body=b"{}"), "What answered is not Stripe's API"),
            (
                lambda api: api.garble(PATH, body=b'{"data": [{"id": "ed_1"}]}'),
                "What answered is not Stripe's API",
            ),
        ],
        ids=["401", "404", "429", "500", "time-out", "reset", "html", "list", "object", "fields"],
    )
    def test_each_failure(
        self,
        strike: Callable[[StripeApi], object],
        said: str,
        ours: Receiver,
        stripe_api: StripeApi,
    ) -> None:
        """Whatever Stripe's API does is one FAIL line, after all that is on this side."""
        strike(stripe_api)
        found = examine(ours)
        ((level, text),) = found.about("key")
        assert level == "FAIL"
        assert said in text
        assert text.endswith("-> Nothing at Stripe was looked at")
        assert found.lines[-1][1] == "key"
        assert found.about("inbox")[0][0] == "OK"
        assert found.status == 1

    def test_nobody_listens(self, make_ours: Callable[..., Receiver]) -> None:
        """A connection that is refused is a FAIL line like others."""
        ours = make_ours()
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            base = f"http://127.0.0.1:{unused.getsockname()[1]}"
            settings = replace(ours.services.settings, stripe_api_base=base)
            ours.app.extensions["services"] = replace(ours.services, settings=settings)
            ((level, text),) = examine(ours).about("key")
        assert level == "FAIL"
        assert "the connection was refused" in text


class TestClock:
    """This machine's clock beside Stripe's: signatures are as old as the clocks differ."""

    @pytest.mark.parametrize(
        ("ahead", "level", "text"),
        [
            (0, "OK", "as Stripe's"),
            (-20, "OK", "as Stripe's"),
            (130, "WARN", "2 minutes behind Stripe's"),
            (-190, "WARN", "3 minutes ahead of Stripe's"),
            (400, "FAIL", "6 minutes behind Stripe's"),
            (-7300, "FAIL", "2 hours ahead of Stripe's"),
        ],
    )
    def test_difference(
        self, ahead: int, level: str, text: str, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """Half a minute is remarkable; from five minutes on every delivery is refused."""
        stripe_api.clock_ahead = ahead
        ((found, said),) = examine(ours, "--no-ping").about("clock")
        assert found == level
        assert said.startswith(text)

    def test_no_date(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """An answer whose date is none is a warning."""
        stripe_api.clock_ahead = None
        ((level, text),) = examine(ours, "--no-ping").about("clock")
        assert (level, text) == ("WARN", "Stripe's answer told no time -> Check the proxies")


class TestDestinations:
    """Those that point here, beside the handlers."""

    def test_none(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """None is a warning, and a failure when the URL is known; other kinds do not count."""
        stripe_api.destinations.add("https://your.host/other", TYPES)
        stripe_api.destinations.add(URL, TYPES, type="amazon_eventbridge")
        guessed, known = examine(ours), examine(ours, "--url", URL)
        ((level, text),) = guessed.about("destination")
        assert (level, guessed.status) == ("WARN", 0)
        assert text.startswith("none sends to a URL that ends in /webhook -> Create one")
        ((level, text),) = known.about("destination")
        assert (level, known.status) == ("FAIL", 1)
        assert f"none sends to {URL} -> Create one: `flask destination create --url {URL}`" in text

    def test_several_urls(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """Which of several URLs is the service's own has to be said, before anything is pinged."""
        other = "https://other.host/webhook"
        mine = stripe_api.destinations.add(URL, TYPES)
        stripe_api.destinations.add(other, TYPES)
        unsaid, said = examine(ours), examine(ours, "--url", URL, "--no-ping")
        assert unsaid.about("destination") == [
            (
                "WARN",
                f"2 URLs could be this service's: {other}, {URL} -> Say which one is, with --url",
            )
        ]
        assert unsaid.about("ping") == []
        assert said.about("destination") == [("OK", f"{mine} sends 2 handled types to {URL}")]

    def test_dead_handlers(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A handled type that no destination brings is a failure."""
        name = stripe_api.destinations.add(URL, TYPES[:1])
        found = examine(ours, "--no-ping")
        assert found.about("types") == [
            (
                "FAIL",
                f"not enabled at Stripe, so their handlers are never called: {TYPES[1]}"
                f" -> `flask destination sync {name}`",
            )
        ]

    def test_types_can_be_shared(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """Two destinations to one URL, for two kinds of accounts, may bring a part each."""
        for kind, types in (("@self", TYPES[:1]), ("@accounts", TYPES[1:])):
            stripe_api.destinations.add(URL, types, events_from=[kind])
        found = examine(ours, "--no-ping")
        assert found.about("types") == []
        assert [level for level, _ in found.about("destination")] == ["OK", "OK"]

    def test_one_that_sends_nothing_brings_no_type(
        self, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """What a disabled or a snapshot destination has is not brought."""
        stripe_api.destinations.add(URL, TYPES, status="disabled")
        stripe_api.destinations.add(URL, TYPES, event_payload="snapshot")
        found = examine(ours)
        assert [level for level, _ in found.about("destination")] == ["FAIL", "FAIL"]
        assert "which the service refuses" in found.about("destination")[0][1]
        assert "It is disabled" in found.about("destination")[1][1]
        ((level, text),) = found.about("types")
        assert level == "FAIL"
        assert text.endswith("-> See what is wrong with the destinations, above")
        assert found.about("ping") == []

    def test_without_a_handler(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """What goes to the fallback is a warning, with both ways out."""
        name = stripe_api.destinations.add(URL, [*TYPES, "v1.charge.failed"])
        assert examine(ours, "--no-ping").about("destination") == [
            (
                "WARN",
                f"{name} sends what has no handler: v1.charge.failed -> The fallback takes them,"
                f" or `flask destination sync {name} --prune`",
            )
        ]

    def test_nothing_handled(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """With a fallback alone no handler is dead, and everything goes there."""
        stripe_api.destinations.add(URL, TYPES)
        found = examine(make_ours({}), "--no-ping")
        assert found.about("types") == []
        assert [level for level, _ in found.about("destination")] == ["WARN"]


class TestPing:
    """From Stripe to the inbox: the whole way."""

    def test_it_waits_for_the_inbox(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A ping that takes its time is waited for: Stripe answers before it delivers."""

        def slow(environ: Any, start_response: Any) -> Any:
            time.sleep(0.5)
            return ours.app(environ, start_response)

        with serving(slow) as url:
            stripe_api.destinations.add(url, TYPES, secret=SECRET)
            ((level, _),) = examine(ours, "--wait", "60").about("ping")
        assert level == "OK"

    def test_lost_on_the_way(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A ping that does not come within the time is a failure that says where to look."""
        name = stripe_api.destinations.add(NOBODY, TYPES)
        found = examine(ours, "--wait", "0.3")
        ((level, text),) = found.about("ping")
        assert (level, found.status) == ("FAIL", 1)
        assert text.startswith(f"{name}: a ping did not come to this inbox within 0.3 s -> Does")

    def test_secret_of_another(self, ours: Receiver, url: str, stripe_api: StripeApi) -> None:
        """A ping that the service refuses, because it lacks the secret, does not come either."""
        stripe_api.destinations.add(url, TYPES, secret="whsec_fake_of_another")
        ((level, text),) = examine(ours, "--wait", "0.5").about("ping")
        assert level == "FAIL"
        assert "signing secret in STRIPE_WEBHOOK_SECRET?" in text

    def test_fallback_that_fails(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """A ping that comes and is not handled is a warning: the way is right."""
        receiver = make_ours({**MODULES, "fallback": "def handle(notif, client, details): 1 / 0"})
        with serving(receiver.app) as url:
            name = stripe_api.destinations.add(url, TYPES, secret=SECRET)
            ((level, text),) = examine(receiver).about("ping")
        assert level == "WARN"
        assert text.startswith(f"{name}: a ping came, and became failed -> See the service's log")

    @pytest.mark.parametrize(
        ("processing", "remedy"),
        [("inline", "Its callback still runs"), ("queue", "Start a worker: `flask worker`")],
    )
    def test_not_run(
        self,
        processing: str,
        remedy: str,
        make_ours: Callable[..., Receiver],
        stripe_api: StripeApi,
    ) -> None:
        """A ping that was recorded and nobody has run is a warning, after the time."""
        ours = make_ours(processing=processing)
        name = stripe_api.destinations.add(URL, TYPES)
        notification = samples.notification(PING)
        stripe_api.put(f"{PATH}/{name}/ping", samples.event(notification))
        event = NewEvent(notification["id"], PING, livemode=False, context=None, body=b"{}")
        ours.services.inbox.deliveries.record_skipped(event, Outcome.WRONG_MODE)
        raw_sql.execute(
            ours.services.settings.database_url,
            "UPDATE events SET state = 'pending', outcome = NULL",
        )
        assert examine(ours, "--wait", "0.1").about("ping") == [
            ("WARN", f"{name}: a ping came, and was not run within 0.1 s -> {remedy}")
        ]

    @pytest.mark.parametrize(
        ("status", "level", "said"),
        [(403, "WARN", "The API key may not do this (403)"), (500, "FAIL", "failed (500)")],
    )
    def test_ping_that_is_refused(
        self, status: int, level: str, said: str, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """A key that may not ping is a warning, any other failure is one."""
        name = stripe_api.destinations.add(URL, TYPES)
        stripe_api.fail(f"{PATH}/{name}/ping", status=status)
        ((found, text),) = examine(ours).about("ping")
        assert found == level
        assert said in text
        assert text.endswith("-> --no-ping leaves it out")

    def test_inbox_that_is_away(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi, tmp_path: Path
    ) -> None:
        """Without an inbox nobody can say whether a ping came."""
        (tmp_path / "file").touch()
        receiver = make_ours(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
        name = stripe_api.destinations.add(NOBODY, TYPES)
        assert examine(receiver).about("ping") == [
            ("FAIL", f"{name}: the inbox cannot be read -> See above")
        ]

    def test_it_can_be_left_out(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """With --no-ping Stripe is asked for none."""
        stripe_api.destinations.add(URL, TYPES)
        assert examine(ours, "--no-ping").about("ping") == []
        assert [asked.method for asked in stripe_api.asked].count("POST") == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 minutes"), (7200, "2 hours"), (2.6 * 86400, "2 days")],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has the largest unit of which there are two."""
    assert duration(seconds) == text


def test_long_lists_are_cut() -> None:
    """One screen: of many names the first few are told, and how many more there are."""
    assert few(["a", "b"]) == "a, b"
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"
