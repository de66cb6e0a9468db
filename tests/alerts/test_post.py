"""One message is posted and signed, and nothing that the receiver does holds up the service."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from werkzeug import Response

from app.alerts import post
from app.alerts.post import SHOWN_LENGTH, Answer, Poster
from tests.support.alert_receiver import SECRET, AlertReceiver

BODY = json.dumps({"text": "2 events are dead"}).encode()


@contextmanager
def raw_server(answer: bytes, *, ends: bool = True) -> Iterator[str]:
    """Serve one connection with an ``answer``, and then close it if it ``ends``."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            open_connections.append(connection)
            connection.recv(65536)
            connection.sendall(answer)
            if ends:
                connection.close()

        open_connections: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        thread.join()
        for each in open_connections:
            each.close()


class TestSignature:
    """The receiver can verify who sent a message, and when."""

    def test_standard_webhooks(self, alert_receiver: AlertReceiver) -> None:
        """The signature is the one of the specification, with the time of this try."""
        answer = Poster(alert_receiver.url, SECRET).post("msg_1", BODY)
        assert answer == Answer(is_taken=True, text="200 OK: ok")
        (request,) = alert_receiver.received
        assert request.is_signed
        assert request.id == "msg_1"
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60

    def test_without_secret(self, alert_receiver: AlertReceiver) -> None:
        """Without a secret there is no signature, and the id stays."""
        Poster(alert_receiver.url, None).post("msg_1", BODY)
        (request,) = alert_receiver.received
        assert "webhook-signature" not in request.headers
        assert request.headers["webhook-id"] == "msg_1"

    def test_no_credentials_of_the_user(
        self, alert_receiver: AlertReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: object
    ) -> None:
        """The credentials of a .netrc are for other programs."""
        netrc = f"{tmp_path}/netrc"
        with open(netrc, "w", encoding="utf-8") as file:  # noqa: PTH123 - a path as a text
            file.write("machine 127.0.0.1 login MarkerOfUser password MarkerOfPassword\n")
        monkeypatch.setenv("NETRC", netrc)
        Poster(alert_receiver.url, None).post("msg_1", BODY)
        assert "authorization" not in alert_receiver.received[0].headers


class TestAnswers:
    """Each answer is a few words, without the URL, which is a secret."""

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (Response("invalid_payload", 400), "400 BAD REQUEST: invalid_payload"),
            (Response("no\n\x1b[1mteam", 404), "404 NOT FOUND: no \ufffd[1mteam"),
            (Response("", 500), "500 INTERNAL SERVER ERROR"),
            (
                Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
                "302 FOUND: redirects are not followed",
            ),
        ],
    )
    def test_not_taken(self, alert_receiver: AlertReceiver, answer: Response, text: str) -> None:
        """Any status but 2xx is a failure. A redirect is not followed."""
        alert_receiver.answers.append(answer)
        found = Poster(alert_receiver.url, SECRET).post("msg_1", BODY)
        assert found == Answer(is_taken=False, text=text)
        assert len(alert_receiver.received) == 1

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("/services/T0/MarkerOfAlertUrl", "/services/T0/MarkerOfAlertUrl"),
            ("/services/T0/MarkerOfAlertUrl", "MarkerOfAlertUrl"),
            ("/services/T0/Marker%4ffAlertUrl", "MarkerOfAlertUrl"),
            ("/x?key=Marker1", "/x?key=Marker1"),
            ("/x?key=MarkerOfAlertUrl", "MarkerOfAlertUrl"),
        ],
    )
    def test_answer_with_the_url(
        self, alert_receiver: AlertReceiver, path: str, shown: str
    ) -> None:
        """Many servers repeat the path in an error. It is shown without the parts of the URL."""
        url = alert_receiver.url.removesuffix("/services/MarkerOfAlertUrl") + path
        alert_receiver.answers.append(Response(f"Cannot POST {shown} or {url}!", 404))
        answer = Poster(url, SECRET).post("msg_1", BODY)
        assert answer.text == "404 NOT FOUND: Cannot POST [redacted] or [redacted]!"

    def test_long_answer(self, alert_receiver: AlertReceiver) -> None:
        """Of an answer of any length, a bounded part is read and shown."""
        alert_receiver.answers.append(Response("x" * 10_000_000))
        answer = Poster(alert_receiver.url, SECRET).post("msg_1", BODY)
        assert answer == Answer(is_taken=True, text=f"200 OK: {'x' * SHOWN_LENGTH}")

    @pytest.mark.parametrize(
        ("sent", "text"),
        [
            (b"", "the connection broke off"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "ConnectionError"),
        ],
    )
    def test_no_http(self, sent: bytes, text: str) -> None:
        """A server that speaks no HTTP is a failure."""
        with raw_server(sent) as url:
            assert Poster(url, SECRET).post("msg_1", BODY) == Answer(is_taken=False, text=text)

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("http://127.0.0.1:9/MarkerOfAlertUrl", "the connection was refused"),
            ("http://alerts.invalid/MarkerOfAlertUrl", "its name cannot be resolved"),
        ],
    )
    def test_no_server(self, url: str, text: str) -> None:
        """The reason is named, and not the URL."""
        assert Poster(url, SECRET).post("msg_1", BODY) == Answer(is_taken=False, text=text)

    def test_no_certificate(self, alert_receiver: AlertReceiver) -> None:
        """A server that speaks no TLS has no certificate."""
        url = alert_receiver.url.replace("http:", "https:")
        answer = Poster(url, SECRET).post("msg_1", BODY)
        assert answer == Answer(is_taken=False, text="its certificate cannot be verified")


class TestHangs:
    """A receiver that hangs costs a bounded time."""

    def test_no_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a byte of the answer, the request ends at its time-out."""
        monkeypatch.setattr(post, "TIMEOUT", (1, 0.05))
        with raw_server(b"", ends=False) as url:
            answer = Poster(url, SECRET).post("msg_1", BODY)
        assert answer == Answer(is_taken=False, text="no answer within 0.05 s")

    def test_byte_by_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the deadline the request is left alone. There is no second one beside it."""
        monkeypatch.setattr(post, "DEADLINE_SECONDS", 0.05)
        with raw_server(b"HTTP/1.1 200 OK\r\n", ends=False) as url:
            poster = Poster(url, SECRET)
            assert poster.post("msg_1", BODY).text == "no answer within 0.05 s"
            assert poster.post("msg_1", BODY).text == "the last request has no answer yet"
