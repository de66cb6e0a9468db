"""/metrics and the port for operators, through the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.exceptions import Unauthorized
from werkzeug.test import TestResponse

from app.metrics.shared import SharedFiles
from app.web import metrics
from devkit import samples
from tests.conftest import Receiver

TOKEN = "0123456789abcdef-may-act-0123456789"
READ_TOKEN = "0123456789abcdef-may-look-0123456789"
OPS_PORT = 9400
MakeReceiver = Callable[..., Receiver]


def on_ops_port(client: FlaskClient, path: str, **more: Any) -> TestResponse:
    """Send a GET to the port for operators."""
    return client.get(path, environ_overrides={"SERVER_PORT": str(OPS_PORT)}, **more)


def shown(answer: TestResponse) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Return all of an answer."""
    return answer.status_code, answer.data, sorted(answer.headers)


def names(answer: TestResponse) -> set[str]:
    """Return the names of all series in an answer."""
    return {family.name for family in text_string_to_metric_families(answer.text)}


class TestToken:
    """Without a port for operators, the metrics need a token of the operations page."""

    def test_closed_by_default(self, client: FlaskClient) -> None:
        """Without OPS_TOKEN it is an unknown path."""
        for method in ("GET", "POST", "HEAD"):
            closed = client.open("/metrics", method=method)
            assert shown(closed) == shown(client.open("/unknown", method=method))

    def test_no_token(self, make_receiver: MakeReceiver) -> None:
        """Without a token, or with a wrong one, nothing is shown."""
        client = make_receiver(ops_token=TOKEN).client
        for credentials in (None, ("prometheus", "wrong")):
            answer = client.get("/metrics", auth=credentials)
            assert answer.status_code == 401
            assert "basic" in answer.headers["WWW-Authenticate"].lower()
            assert b"stripe_receiver" not in answer.data

    def test_tokens(self, make_receiver: MakeReceiver) -> None:
        """Both tokens open it, as a password or as a Bearer token."""
        client = make_receiver(ops_token=TOKEN, ops_read_token=READ_TOKEN).client
        for token in (TOKEN, READ_TOKEN):
            bearer = {"Authorization": f"Bearer {token}"}
            for answer in (
                client.get("/metrics", auth=("prometheus", token)),
                client.get("/metrics", headers=bearer),
            ):
                assert answer.status_code == 200
                assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
                assert answer.headers["Cache-Control"] == "no-store"

    def test_series(self, make_receiver: MakeReceiver) -> None:
        """It shows what this process counts, its inbox, and the metrics of the library."""
        receiver = make_receiver(ops_token=TOKEN)
        receiver.services.meter.start()
        receiver.deliver(samples.notification("v1.invoice.paid"))
        answer = receiver.client.get("/metrics", auth=("prometheus", TOKEN))
        assert names(answer) >= {
            "stripe_receiver_deliveries",
            "stripe_receiver_inbox_up",
            "python_info",
        }

    def test_locked_files(
        self, make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        """While a stopped process holds the lock of the files, the answer is 503."""

        def collect(_self: SharedFiles) -> None:
            raise TimeoutError("the files of the metrics are locked")

        # Replaced, so that no other process is needed. The lock has a test of its own.
        monkeypatch.setattr(SharedFiles, "collect", collect)
        receiver = make_receiver(ops_token=TOKEN)
        receiver.services.meter.start(tmp_path)
        answer = receiver.client.get("/metrics", auth=("prometheus", TOKEN))
        assert (answer.status_code, answer.json) == (
            503,
            {"error": "the files of the metrics are locked"},
        )
        assert answer.headers["Retry-After"] == "5"


class TestFullFileSystem:
    """A full file system costs the metrics of the process, and nothing else."""

    def test_nothing_is_counted(
        self, make_receiver: MakeReceiver, capsys: pytest.CaptureFixture[str], tmp_path: Any
    ) -> None:
        """The process logs it once, and shows what the others count."""
        receiver = make_receiver(ops_token=TOKEN)
        (tmp_path / "file").touch()
        receiver.services.meter.start(tmp_path / "file" / "folder")
        answer = receiver.deliver(samples.notification("v1.invoice.paid"))
        assert answer.status_code == 200
        assert capsys.readouterr().err.count("metrics_not_counted") == 1


class TestPort:
    """With OPS_PORT, operators have a port of their own."""

    @pytest.fixture
    def client(self, make_receiver: MakeReceiver) -> FlaskClient:
        """A client of an application with a port for operators."""
        return make_receiver(ops_token=TOKEN, ops_port=OPS_PORT).client

    @pytest.mark.parametrize("path", ["/metrics", "/ops", "/ops/", "/ops/events"])
    def test_closed_on_the_public_port(self, client: FlaskClient, path: str) -> None:
        """The port of the deliveries answers as for an unknown path, token or not."""
        for method in ("GET", "POST"):
            answer = client.open(path, method=method, auth=("anna", TOKEN))
            assert shown(answer) == shown(client.open("/unknown", method=method))

    @pytest.mark.parametrize("path", ["//metrics", "//ops", "///ops", "//webhook"])
    def test_two_slashes_are_unknown(self, client: FlaskClient, path: str) -> None:
        """Slashes at the beginning of a path lead to neither port's addresses."""
        for port in ("80", str(OPS_PORT)):
            overrides = {"SERVER_PORT": port, "PATH_INFO": path}
            answer = client.get("/", environ_overrides=overrides, auth=("anna", TOKEN))
            assert (answer.status_code, answer.json) == (404, {"error": "not found"})

    def test_only_the_port_needs_no_token(self, client: FlaskClient) -> None:
        """The view itself asks for the token of a request that came on another port."""
        with client.application.test_request_context("/metrics"), pytest.raises(Unauthorized):
            metrics.show()

    def test_metrics_need_no_token(self, client: FlaskClient) -> None:
        """On the port for operators, the metrics are open."""
        assert "stripe_receiver_inbox_up" in names(on_ops_port(client, "/metrics"))

    def test_page_needs_its_token(self, client: FlaskClient) -> None:
        """The operations page asks for its token on either port."""
        assert on_ops_port(client, "/ops").status_code == 401
        assert on_ops_port(client, "/ops", auth=("anna", TOKEN)).status_code == 200

    @pytest.mark.parametrize("path", ["/webhook", "/webhook/", "/", "/metricsx"])
    def test_nothing_else_is_there(self, client: FlaskClient, path: str) -> None:
        """The port for operators takes no delivery."""
        for method in ("GET", "POST"):
            answer = client.open(
                path, method=method, environ_overrides={"SERVER_PORT": str(OPS_PORT)}
            )
            assert answer.status_code == 404

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health_is_on_both(self, client: FlaskClient, path: str) -> None:
        """Each port has the health checks."""
        assert client.get(path).status_code == 200
        assert on_ops_port(client, path).status_code == 200

    def test_metrics_without_a_token_setting(self, make_receiver: MakeReceiver) -> None:
        """OPS_PORT alone opens the metrics there, and no operations page."""
        client = make_receiver(ops_port=OPS_PORT).client
        assert on_ops_port(client, "/metrics").status_code == 200
        assert on_ops_port(client, "/ops").status_code == 404

    def test_deliveries(self, make_receiver: MakeReceiver) -> None:
        """The public port takes deliveries as ever."""
        receiver = make_receiver(ops_port=OPS_PORT)
        assert receiver.deliver(samples.notification("v1.invoice.paid")).status_code == 200
        assert receiver.client.get("/webhook").status_code == 405
