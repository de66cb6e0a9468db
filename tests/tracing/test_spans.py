"""The spans of deliveries, attempts and requests, through the front door."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import stripe
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.stripe_api.notification import read_notification
from app.tracing import otel
from app.tracing.otel import OpenTelemetry, path_template
from devkit import samples
from devkit.deliver import Logged
from devkit.stripe_api import StripeApi
from tests.conftest import SECRET, Receiver
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
DELIVERY, ATTEMPT = "POST /webhook", f"process {TYPE}"
HANDLER = "def handle(notif, client): pass\n"
FETCHING = "def handle(notif, client): notif.fetch_related_object()\n"
RAISING = "def handle(notif, client): raise LookupError(f'no {notif.related_object.id}')\n"
GIVING_UP = "import app\ndef handle(notif, client): raise app.GiveUp('no such plan')\n"

Traced = Callable[..., Receiver]
Spans = Callable[[], Mapping[str, ReadableSpan]]


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    """Return the attributes of a span."""
    return span.attributes or {}


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of a span and of its trace."""
    found = span.get_span_context()
    assert found is not None
    return found.trace_id, found.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    """Return the ids of the spans to which a span has a link."""
    return [(each.context.trace_id, each.context.span_id) for each in span.links]


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    """Return the ids of the parent of a span."""
    return (span.parent.trace_id, span.parent.span_id) if span.parent else None


def notification(**more: Any) -> dict[str, Any]:
    """Return a notification of the handled type."""
    return samples.notification(TYPE, event_id="evt_1", object_id="cus_secret", **more)


class TestInline:
    """The delivery runs the callback: one trace."""

    def test_attempt_is_a_child_of_its_delivery(self, traced: Traced, spans: Spans) -> None:
        """Both spans name the event, and no span holds the id of the customer."""
        traced({MODULE: HANDLER}).deliver(notification())
        delivery, attempt = spans()[DELIVERY], spans()[ATTEMPT]
        assert delivery.kind == SpanKind.SERVER
        assert attributes(delivery) == {
            "http.request.method": "POST",
            "http.route": "/webhook",
            "stripe.event.id": "evt_1",
            "stripe.event.type": TYPE,
            "stripe.event.livemode": False,
            "stripe.outcome": "handled",
            "http.response.status_code": 200,
        }
        assert attempt.kind == SpanKind.CONSUMER
        assert attributes(attempt) == {
            "messaging.system": "stripe",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": TYPE,
            "messaging.message.id": "evt_1",
            "stripe.attempt": 1,
            "stripe.outcome": "handled",
        }
        assert (parent(attempt), linked(attempt)) == (ids(delivery), [])
        assert delivery.status.status_code == attempt.status.status_code == StatusCode.UNSET

    def test_delivery_begins_a_trace(self, traced: Traced, spans: Spans) -> None:
        """A span around the request, which any client can choose, is not its parent."""
        receiver = traced({MODULE: HANDLER})
        with trace.get_tracer(__name__).start_as_current_span("around"):
            receiver.deliver(notification())
        assert parent(spans()[DELIVERY]) is None

    def test_requests_are_children_of_the_attempt(
        self, traced: Traced, spans: Spans, stripe_api: StripeApi
    ) -> None:
        """A request has the path without ids, the status, and Stripe's id of the request."""
        stripe_api.offer(notification(), None, None)
        receiver = traced({MODULE: FETCHING}, stripe_api_base=stripe_api.url)
        assert receiver.deliver(notification()).status_code == 200
        request = spans()["GET /v1/customers/{id}"]
        assert request.kind == SpanKind.CLIENT
        assert parent(request) == ids(spans()[ATTEMPT])
        known = attributes(request)
        assert known["http.response.status_code"] == 200
        assert known["server.address"] == "127.0.0.1"
        assert stripe_api.url.endswith(f":{known['server.port']}")
        assert "cus_secret" not in str([span.to_json() for span in spans().values()])

    def test_failed_request_is_an_error(
        self, traced: Traced, spans: Spans, stripe_api: StripeApi
    ) -> None:
        """A 4xx of Stripe's API is the error of the request, and of the attempt."""
        receiver = traced({MODULE: FETCHING}, stripe_api_base=stripe_api.url)
        assert receiver.deliver(notification()).status_code == 500
        request, attempt = spans()["GET /v1/customers/{id}"], spans()[ATTEMPT]
        assert request.status.status_code == StatusCode.ERROR
        assert attributes(request)["error.type"] == "404"
        assert attributes(attempt)["error.type"].endswith(".InvalidRequestError")

    def test_id_of_the_request_is_kept(
        self, traced: Traced, spans: Spans, stripe_api: StripeApi
    ) -> None:
        """Stripe's support asks for the id of a request (https://docs.stripe.com/api/request_ids)."""
        stripe_api.fail(status=402, headers={"Request-Id": "req_1"})
        receiver = traced({MODULE: FETCHING}, stripe_api_base=stripe_api.url)
        receiver.deliver(notification())
        request = spans()["GET /v1/customers/{id}"]
        assert attributes(request)["http.response.header.request-id"] == ("req_1",)

    def test_request_without_an_answer_is_an_error(self, traced: Traced, spans: Spans) -> None:
        """A connection that is refused has the type of the exception, and no status."""
        receiver = traced(stripe_api_base="http://127.0.0.1:9")
        with pytest.raises(stripe.APIConnectionError):
            receiver.services.client.v1.customers.retrieve(
                "cus_secret", options={"max_network_retries": 0}
            )
        request = spans()["GET /v1/customers/{id}"]
        assert request.status.status_code == StatusCode.ERROR
        assert "http.response.status_code" not in attributes(request)
        assert attributes(request)["error.type"]

    def test_failure_is_an_error_of_both(self, traced: Traced, spans: Spans) -> None:
        """The attempt has the type of the exception. Its text can quote the body, and is left."""
        traced({MODULE: RAISING}).deliver(notification())
        delivery, attempt = spans()[DELIVERY], spans()[ATTEMPT]
        assert attributes(attempt)["error.type"] == "LookupError"
        assert attributes(attempt)["stripe.outcome"] == "failed"
        assert attributes(delivery)["http.response.status_code"] == 500
        for span in (delivery, attempt):
            assert span.status.status_code == StatusCode.ERROR
            assert "cus_secret" not in span.to_json()

    def test_dead_event_is_an_error_of_the_attempt_only(self, traced: Traced, spans: Spans) -> None:
        """Stripe gets a 200 for an event that is given up on."""
        traced({MODULE: GIVING_UP}).deliver(notification())
        delivery, attempt = spans()[DELIVERY], spans()[ATTEMPT]
        assert attributes(delivery)["stripe.outcome"] == "gave_up"
        assert delivery.status.status_code == StatusCode.UNSET
        assert attributes(attempt)["error.type"] == "app.errors.GiveUp"
        assert attempt.status.status_code == StatusCode.ERROR

    def test_redelivery_is_linked_to_the_first_delivery(
        self, traced: Traced, spans: Spans, exporter: InMemorySpanExporter
    ) -> None:
        """Its attempt is a child of its own delivery, and has a link to the first one."""
        receiver = traced({MODULE: RAISING})
        receiver.deliver(notification())
        first = ids(spans()[DELIVERY])
        exporter.clear()
        receiver.deliver(notification())
        assert parent(spans()[ATTEMPT]) == ids(spans()[DELIVERY])
        assert linked(spans()[ATTEMPT]) == [first]

    def test_own_spans_of_a_callback_are_children(self, traced: Traced, spans: Spans) -> None:
        """A callback can record spans with the API of OpenTelemetry, and needs no set-up."""
        own = """
            from opentelemetry import trace
            def handle(notif, client):
                with trace.get_tracer("team").start_as_current_span("write the invoice"):
                    pass
        """
        traced({MODULE: own}).deliver(notification())
        assert parent(spans()["write the invoice"]) == ids(spans()[ATTEMPT])

    def test_log_lines_name_the_span(self, traced: Traced, spans: Spans, logged: Logged) -> None:
        """Each line has the ids of its trace and span, as 32 and 16 hexadecimal digits."""
        traced({MODULE: RAISING}).deliver(notification())
        for name, span in (("delivery", spans()[DELIVERY]), ("callback_raised", spans()[ATTEMPT])):
            line = logged(name)
            assert (line["trace_id"], line["span_id"]) == (
                f"{ids(span)[0]:032x}",
                f"{ids(span)[1]:016x}",
            )


class TestQueue:
    """The attempt follows later, perhaps in another process: a trace of its own."""

    def test_attempt_is_linked_to_its_delivery(
        self, traced: Traced, spans: Spans, database_url: str
    ) -> None:
        """The trace context survives the queue, with the event's row."""
        receiver = traced({MODULE: HANDLER}, processing="queue", database_url=database_url)
        receiver.deliver(notification())
        receiver.services.worker.start(1)
        wait_for(lambda: ATTEMPT in spans())
        delivery, attempt = spans()[DELIVERY], spans()[ATTEMPT]
        assert attributes(delivery)["stripe.outcome"] == "accepted"
        assert (parent(attempt), linked(attempt)) == (None, [ids(delivery)])
        assert ids(attempt)[0] != ids(delivery)[0]
        shown = receiver.app.test_cli_runner().invoke(args=["events", "show", "evt_1"]).output
        assert f"trace        00-{ids(delivery)[0]:032x}-{ids(delivery)[1]:016x}-" in shown

    def test_event_without_a_trace_is_run(self, traced: Traced, spans: Spans) -> None:
        """An event that a process without tracing recorded has no link."""
        receiver = traced({MODULE: HANDLER}, processing="queue")
        event = read_notification(samples.encode(notification()))
        receiver.services.inbox.deliveries.enqueue(event)
        receiver.services.worker.start(1)
        wait_for(lambda: ATTEMPT in spans())
        assert (parent(spans()[ATTEMPT]), linked(spans()[ATTEMPT])) == (None, [])


class TestHostileRequests:
    """Anyone can send requests and headers."""

    def test_unsigned_delivery_has_no_span(
        self, traced: Traced, exporter: InMemorySpanExporter
    ) -> None:
        """Requests without a signature cannot fill the storage of the traces."""
        receiver = traced()
        assert receiver.post(b"{}", None).status_code == 400
        assert receiver.post(b"{}", samples.sign(b"{}", "whsec_other")).status_code == 400
        assert exporter.get_finished_spans() == ()

    def test_signed_delivery_that_is_refused_has_a_span(self, traced: Traced, spans: Spans) -> None:
        """It is a mistake in the set-up of the destination."""
        traced().deliver({"object": "event"})
        assert attributes(spans()[DELIVERY])["http.response.status_code"] == 400
        assert attributes(spans()[DELIVERY])["stripe.outcome"] == "refused"
        assert spans()[DELIVERY].status.status_code == StatusCode.UNSET

    @pytest.mark.parametrize(
        ("header", "links"),
        [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 1),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", 0),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0),
            ("x" * 3000, 0),
            ("", 0),
        ],
        ids=["valid", "zero", "version", "long", "empty"],
    )
    def test_traceparent_of_a_request_is_only_a_link(
        self, traced: Traced, spans: Spans, header: str, links: int
    ) -> None:
        """The signature of Stripe does not cover the header: it neither joins a trace nor ends one.

        A proxy of the team can set it.
        """
        receiver = traced()
        body = samples.encode(notification())
        headers = {"Stripe-Signature": samples.sign(body, SECRET), "traceparent": header}
        receiver.client.post("/webhook", data=body, headers=headers)
        delivery = spans()[DELIVERY]
        assert parent(delivery) is None
        assert len(linked(delivery)) == links


class TestInbox:
    """The inbox decides whether a delivery and a result are recorded."""

    def test_lost_claim_is_an_error(self, traced: Traced, spans: Spans, sqlite_url: str) -> None:
        """The callback returned, but another attempt has taken the event over."""
        losing = """
            from tests.support import raw_sql
            def handle(notif, client): raw_sql.execute(*LOSE)
        """
        receiver = traced({MODULE: losing})
        receiver.module(MODULE).LOSE = sqlite_url, "UPDATE events SET claimed_by = 'another'"
        assert receiver.deliver(notification()).status_code == 409
        assert attributes(spans()[ATTEMPT])["stripe.outcome"] == "deferred"
        assert spans()[ATTEMPT].status.status_code == StatusCode.ERROR
        assert spans()[DELIVERY].status.status_code == StatusCode.UNSET

    def test_unrecorded_delivery_is_an_error(self, traced: Traced, spans: Spans) -> None:
        """It is answered 503, and its span says so."""
        receiver = traced(database_url="sqlite:////proc/none/inbox.sqlite3")
        assert receiver.deliver(notification()).status_code == 503
        assert attributes(spans()[DELIVERY])["http.response.status_code"] == 503
        assert spans()[DELIVERY].status.status_code == StatusCode.ERROR


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/v1/customers", "/v1/customers"),
        ("/v1/customers/cus_1", "/v1/customers/{id}"),
        ("/v1/customers/john_doe", "/v1/customers/{id}"),
        ("/v1/customers/cus_1/sources/card_1", "/v1/customers/{id}/sources/{id}"),
        ("/v1/invoices/in_1/pay", "/v1/invoices/{id}/pay"),
        ("/v2/core/events/evt_1", "/v2/core/events/{id}"),
        ("/v1/balance", "/v1/balance"),
        ("/v1/subscription_items/a%2Fb", "/v1/subscription_items/{id}"),
        ("", ""),
    ],
)
def test_paths_are_shown_without_ids(path: str, template: str) -> None:
    """A span names the kind of object, and never which one."""
    assert path_template(path) == template


class TestProcess:
    """Recording begins in the serving process, and never disturbs it."""

    def test_nothing_is_recorded_before_the_start(
        self,
        make_receiver: Callable[..., Receiver],
        exporter: InMemorySpanExporter,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A process that forks must not have the thread of an exporter."""
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        exporter.clear()
        receiver = make_receiver(
            {MODULE: "def handle(notif, client): notif.fetch_event()"},
            stripe_api_base="http://127.0.0.1:9",
        )
        assert isinstance(receiver.services.tracing, OpenTelemetry)
        receiver.deliver(notification())
        receiver.services.tracing.flush()
        assert exporter.get_finished_spans() == ()

    def test_wrong_variable_is_logged(
        self,
        traced: Traced,
        exporter: InMemorySpanExporter,
        monkeypatch: pytest.MonkeyPatch,
        logged: Logged,
    ) -> None:
        """The SDK refuses some values. The service runs without tracing."""
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
        # The state of a process that has no provider yet.
        monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
        assert traced().deliver(notification()).status_code == 200
        reason = logged("tracing_not_started")["reason"]
        assert reason == "ValueError: max_queue_size must be a positive integer."
        assert exporter.get_finished_spans() == ()

    def test_stop_does_not_wait_for_the_collector(
        self,
        traced: Traced,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A collector that hangs costs a stop ``FLUSH_SECONDS`` at most."""
        receiver = traced()
        released = threading.Event()
        monkeypatch.setattr(trace.get_tracer_provider(), "force_flush", released.wait)
        monkeypatch.setattr(otel, "FLUSH_SECONDS", 0.01)
        receiver.services.tracing.flush()
        assert not released.is_set()
        released.set()
