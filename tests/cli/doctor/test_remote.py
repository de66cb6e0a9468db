"""The checks of ``flask doctor`` at Stripe: key, clock, destinations, ping."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli.output import duration, few
from app.errors import StartError
from app.inbox import NewEvent
from app.processing.registry import broken
from app.states import Outcome
from devkit import samples
from devkit.destinations import PATH, PING
from devkit.stripe_api import StripeApi
from tests.cli.doctor.conftest import MODULES, TYPES, examine
from tests.conftest import SECRET, Receiver
from tests.support import raw_sql
from tests.support.serving import serving

URL = "https://your.host/webhook"
CLOSED_PORT = "http://127.0.0.1:9/webhook"
EVENTS = "/v2/core/events"
SNAPSHOT = "customer.source.created"


class TestKey:
    """The permissions of the key, and failures of the API."""

    @pytest.mark.parametrize(
        ("paths", "forbidden"),
        [
            ([EVENTS], "events"),
            ([PATH], "event destinations"),
            ([EVENTS, PATH], "events and event destinations"),
        ],
    )
    def test_missing_permissions(
        self, paths: list[str], forbidden: str, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """Each missing permission is named, and the other checks continue."""
        stripe_api.destinations.add(URL, TYPES)
        for path in paths:
            stripe_api.fail(path, status=403)
        found = examine(ours, "--no-ping")
        assert found.about("key") == [
            (
                "WARN",
                f"a test key that may not read {forbidden} (403)"
                " -> Give it the permission at https://dashboard.stripe.com/apikeys",
            )
        ]
        assert found.about("clock")[0][0] == "OK"
        assert bool(found.about("destination")) is (PATH not in paths)
        assert found.status == 0

    def test_key_of_an_organization(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """Its mode and its account are settings, and each request names the account."""
        organization = make_ours(
            stripe_api_key="sk_org_fake_for_tests", stripe_mode="test", stripe_context="acct_own"
        )
        found = examine(organization, "--no-ping")
        kind = "an organization key for test mode and acct_own"
        assert found.about("key") == [("OK", f"{kind} that reads events and event destinations")]
        assert found.about("settings")[0][1].startswith(f"inline mode, {kind}, 1 signing secret")
        assert {each.stripe_context for each in stripe_api.asked} == {"acct_own"}

    @pytest.mark.parametrize(
        ("strike", "said"),
        [
            (lambda api: api.fail(status=401), "does not accept the API key (401)"),
            (lambda api: api.fail(PATH, status=404), "does not have it (404)"),
            (lambda api: api.fail(status=429), "rate limit is reached (429)"),
            (lambda api: api.fail(PATH, status=500), "Stripe's API failed (500)"),
            (lambda api: api.hold(), "did not answer in time"),
            (lambda api: api.reset(), "the connection broke off"),
            (lambda api: api.garble(), "The answer is not from Stripe's API"),
            (lambda api: api.garble(body=b"[]"), "The answer is not from Stripe's API"),
            (lambda api: api.garble(PATH, body=b"{}"), "The answer is not from Stripe's API"),
            (
                lambda api: api.garble(PATH, body=b'{"data": [{"id": "ed_1"}]}'),
                "The answer is not from Stripe's API",
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
        """Each failure of the API is one FAIL line, after all local checks."""
        strike(stripe_api)
        found = examine(ours)
        ((level, text),) = found.about("key")
        assert level == "FAIL"
        assert said in text
        assert text.endswith("-> Nothing else at Stripe was checked")
        assert found.lines[-1][1] == "key"
        assert found.about("inbox")[0][0] == "OK"
        assert found.status == 1

    def test_connection_refused(self, make_ours: Callable[..., Receiver]) -> None:
        """A refused connection is a FAIL line like other failures."""
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
    """The clock of this machine is compared with Stripe's: it decides the age of signatures."""

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
        """Half a minute is a WARN. Five minutes are a FAIL: every delivery is refused."""
        stripe_api.clock_ahead = ahead
        ((found, said),) = examine(ours, "--no-ping").about("clock")
        assert found == level
        assert said.startswith(text)

    def test_no_date(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """An answer with an invalid date is a WARN."""
        stripe_api.clock_ahead = None
        ((level, text),) = examine(ours, "--no-ping").about("clock")
        assert (level, text) == ("WARN", "Stripe's answer has no date -> Check your proxies")


class TestDestinations:
    """The destinations that point here are compared with the handlers."""

    def test_none(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """No destination is a WARN, and with --url a FAIL. Only webhook endpoints count."""
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
        """With several URLs, --url has to select one before any ping."""
        other = "https://other.host/webhook"
        mine = stripe_api.destinations.add(URL, TYPES)
        stripe_api.destinations.add(other, TYPES)
        unsaid, said = examine(ours), examine(ours, "--url", URL, "--no-ping")
        assert unsaid.about("destination") == [
            (
                "WARN",
                f"2 URLs could be this service's: {other}, {URL} -> Select one with --url",
            )
        ]
        assert unsaid.about("ping") == []
        assert said.about("destination") == [("OK", f"{mine} sends 2 handled types to {URL}")]

    def test_dead_handlers(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A handled type that no destination sends is a FAIL."""
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
        """Two destinations to one URL, for two kinds of accounts, can share the types."""
        for kind, types in (("@self", TYPES[:1]), ("@accounts", TYPES[1:])):
            stripe_api.destinations.add(URL, types, events_from=[kind])
        found = examine(ours, "--no-ping")
        assert found.about("types") == []
        assert [level for level, _ in found.about("destination")] == ["OK", "OK"]

    def test_destination_that_sends_nothing(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """The types of a disabled or a snapshot destination do not count."""
        stripe_api.destinations.add(URL, TYPES, status="disabled")
        stripe_api.destinations.add(URL, TYPES, event_payload="snapshot")
        found = examine(ours)
        assert [level for level, _ in found.about("destination")] == ["FAIL", "FAIL"]
        assert "no handler module takes snapshot events" in found.about("destination")[0][1]
        assert "It is disabled" in found.about("destination")[1][1]
        ((level, text),) = found.about("types")
        assert level == "FAIL"
        assert text.endswith("-> Correct the destinations first, see above")
        assert found.about("ping") == []

    def test_without_a_handler(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A type without a handler is a WARN with both remedies."""
        name = stripe_api.destinations.add(URL, [*TYPES, "v1.charge.failed"])
        assert examine(ours, "--no-ping").about("destination") == [
            (
                "WARN",
                f"{name} sends types without a handler: v1.charge.failed"
                f" -> They go to the fallback, or `flask destination sync {name} --prune`",
            )
        ]

    def test_nothing_handled(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """With only a fallback no type is missing, and all types go to the fallback."""
        stripe_api.destinations.add(URL, TYPES)
        found = examine(make_ours({}), "--no-ping")
        assert found.about("types") == []
        assert [level for level, _ in found.about("destination")] == ["WARN"]


class TestSnapshots:
    """A service with snapshot modules needs a snapshot destination, too."""

    @pytest.fixture
    def both(self, make_ours: Callable[..., Receiver]) -> Receiver:
        """An application with handlers of both kinds."""
        return make_ours({**MODULES, SNAPSHOT.replace(".", "_"): "def handle(event, client): pass"})

    def test_both(self, both: Receiver, url: str, stripe_api: StripeApi) -> None:
        """Each destination has a line. Only the thin one is pinged: Stripe's ping is thin."""
        thin = stripe_api.destinations.add(url, TYPES, secret=SECRET)
        snapshot = stripe_api.destinations.add(url, [SNAPSHOT], event_payload="snapshot")
        found = examine(both)
        assert sorted(found.about("destination")) == sorted(
            [
                ("OK", f"{thin} sends 2 handled types to {url}"),
                ("OK", f"{snapshot} sends 1 handled type to {url}"),
            ]
        )
        assert found.about("types") == []
        ((_, text),) = found.about("ping")
        assert text.startswith(f"{thin}: a ping ")

    def test_kind_without_a_destination(self, both: Receiver, stripe_api: StripeApi) -> None:
        """The types of each kind have a line of their own, with the remedy for this kind."""
        thin = stripe_api.destinations.add(URL, TYPES[:1])
        dead = "not enabled at Stripe, so their handlers are never called:"
        create = f"`flask destination create --url {URL} --payload snapshot`"
        found = examine(both, "--no-ping")
        assert found.about("types") == [
            ("FAIL", f"{dead} {TYPES[1]} -> `flask destination sync {thin}`"),
            ("FAIL", f"{dead} {SNAPSHOT} -> Create a snapshot destination: {create}"),
        ]

    def test_only_snapshot_modules(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """Without any destination, the remedy is a snapshot one. A thin one is a FAIL."""
        ours = make_ours({"customer_source_created": "def handle(event, client): pass"})
        ((_, text),) = examine(ours, "--no-ping").about("destination")
        assert text.endswith("--payload snapshot`")
        stripe_api.destinations.add(URL, TYPES)
        ((level, text),) = examine(ours, "--no-ping").about("destination")
        assert level == "FAIL"
        assert "no handler module takes thin events" in text

    def test_wildcard_and_api_version(self, both: Receiver, stripe_api: StripeApi) -> None:
        """Both are a WARN, and no type is missing."""
        stripe_api.destinations.add(URL, TYPES)
        name = stripe_api.destinations.add(
            URL, ["*"], event_payload="snapshot", snapshot_api_version="2024-06-20"
        )
        found = examine(both, "--no-ping")
        about = [(level, text) for level, text in found.about("destination") if name in text]
        assert [level for level, _ in about] == ["WARN", "WARN", "OK"]
        assert "Its objects are of API version 2024-06-20" in about[0][1]
        assert "Its event types are *" in about[1][1]
        assert about[2][1] == f"{name} sends 1 handled type to {URL}"
        assert (found.about("types"), found.status) == ([], 0)

    def test_permission_for_the_list(self, both: Receiver, stripe_api: StripeApi) -> None:
        """The list of snapshot events is a permission of its own, and is read only if needed."""
        stripe_api.fail("/v1/events", status=403)
        ((level, text),) = examine(both, "--no-ping").about("key")
        assert level == "WARN"
        assert text.startswith("a test key that may not read snapshot events (403)")

    def test_broken_modules(self, both: Receiver, stripe_api: StripeApi) -> None:
        """While a module is broken, destinations of both kinds are right, and have no types."""
        error = StartError("The handler modules cannot be used:", ["handlers/x.py: is wrong"])
        parts = replace(both.services, registry=broken(error))
        both.app.extensions["services"] = parts
        thin = stripe_api.destinations.add(URL, TYPES)
        snapshot = stripe_api.destinations.add(URL, ["*"], event_payload="snapshot")
        found = examine(both, "--no-ping")
        assert found.about("destination") == [
            ("OK", f"{name} sends events to {URL}") for name in (snapshot, thin)
        ]
        assert found.about("types") == []

    def test_no_request_without_snapshot_modules(
        self, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """A service for thin events reads one list."""
        examine(ours, "--no-ping")
        assert [asked.path for asked in stripe_api.asked] == [EVENTS, PATH]


class TestPing:
    """A ping goes from Stripe to the inbox."""

    def test_it_waits_for_the_inbox(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """The command waits for a slow ping: Stripe answers before it delivers."""

        def slow(environ: Any, start_response: Any) -> Any:
            time.sleep(0.5)
            return ours.app(environ, start_response)

        with serving(slow) as url:
            stripe_api.destinations.add(url, TYPES, secret=SECRET)
            ((level, _),) = examine(ours, "--wait", "60").about("ping")
        assert level == "OK"

    def test_ping_that_is_lost(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """A ping that does not arrive in time is a FAIL that says what to check."""
        name = stripe_api.destinations.add(CLOSED_PORT, TYPES)
        found = examine(ours, "--wait", "0.3")
        ((level, text),) = found.about("ping")
        assert (level, found.status) == ("FAIL", 1)
        assert text.startswith(f"{name}: a ping did not arrive in this inbox within 0.3 s -> Is")

    def test_secret_of_another(self, ours: Receiver, url: str, stripe_api: StripeApi) -> None:
        """A ping that the service refuses, because its secret is unknown, does not arrive."""
        stripe_api.destinations.add(url, TYPES, secret="whsec_fake_of_another")
        ((level, text),) = examine(ours, "--wait", "0.5").about("ping")
        assert level == "FAIL"
        assert "signing secret of the destination in STRIPE_WEBHOOK_SECRET?" in text

    def test_fallback_that_fails(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """A ping that arrives and is not handled is a WARN: the connection works."""
        receiver = make_ours({**MODULES, "fallback": "def handle(notif, client, details): 1 / 0"})
        with serving(receiver.app) as url:
            name = stripe_api.destinations.add(url, TYPES, secret=SECRET)
            ((level, text),) = examine(receiver).about("ping")
        assert level == "WARN"
        assert text.startswith(
            f"{name}: a ping arrived, with the outcome failed -> See the log of the service"
        )

    @pytest.mark.parametrize(
        ("processing", "remedy"),
        [("inline", "Its callback is still running"), ("queue", "Start a worker: `flask worker`")],
    )
    def test_not_run(
        self,
        processing: str,
        remedy: str,
        make_ours: Callable[..., Receiver],
        stripe_api: StripeApi,
    ) -> None:
        """A ping that was recorded and has not run in time is a WARN."""
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
            ("WARN", f"{name}: a ping arrived, and was not run within 0.1 s -> {remedy}")
        ]

    @pytest.mark.parametrize(
        ("status", "level", "said"),
        [(403, "WARN", "The API key may not do this (403)"), (500, "FAIL", "failed (500)")],
    )
    def test_ping_that_is_refused(
        self, status: int, level: str, said: str, ours: Receiver, stripe_api: StripeApi
    ) -> None:
        """A missing permission to ping is a WARN, any other failure a FAIL."""
        name = stripe_api.destinations.add(URL, TYPES)
        stripe_api.fail(f"{PATH}/{name}/ping", status=status)
        ((found, text),) = examine(ours).about("ping")
        assert found == level
        assert said in text
        assert text.endswith("-> --no-ping skips the ping")

    def test_unavailable_inbox(
        self, make_ours: Callable[..., Receiver], stripe_api: StripeApi, tmp_path: Path
    ) -> None:
        """Without an inbox the ping cannot be found: a FAIL."""
        (tmp_path / "file").touch()
        receiver = make_ours(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
        name = stripe_api.destinations.add(CLOSED_PORT, TYPES)
        assert examine(receiver).about("ping") == [
            ("FAIL", f"{name}: the inbox cannot be read -> See above")
        ]

    def test_ping_can_be_skipped(self, ours: Receiver, stripe_api: StripeApi) -> None:
        """With --no-ping no ping is requested."""
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
    """A long list shows the first names and the number of the others."""
    assert few(["a", "b"]) == "a, b"
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"
