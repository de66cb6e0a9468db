"""Malformed, unusual and large requests, with the real gunicorn."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.gunicorn_server import Serve, Server

MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a method in lower case": b"post / HTTP/1.1\r\n\r\n",
    "a NUL in the target": b"GET /\0 HTTP/1.1\r\n\r\n",
    "a non-ASCII target": b"GET /\xe9 HTTP/1.1\r\n\r\n",
    "a long target": b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: test\r\nX: \0\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: test\n\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 100 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a length of 4,301 digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 4301 + b"\r\n\r\n",
    "a length of 4,000 digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    "identity in chunks": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "gzip": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "gzip in chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip and chunked, in two headers": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a vertical tab before chunked": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a negative chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n",
    "a chunk without an end": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    "a huge chunk": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 3000 + b"\r\n" + b"x" * 70000,
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_refused(server: Server, request_bytes: bytes) -> None:
    """A request that is not HTTP gets 4xx and is closed. No exception is logged."""
    client = server.connect(request_bytes)

    assert 400 <= client.response().status < 500
    assert client.rest() == b""
    assert "Traceback" not in server.log


ODD = {
    "HTTP/1.0": (b"GET /echo HTTP/1.0\r\n\r\n", 200),
    "a whole URL": (b"GET http://test/echo?a=b HTTP/1.1\r\nHost: test\r\n\r\n", 200),
    "a whole URL without a path": (b"GET http://test HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a bad URL": (b"GET http://[::1 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a host that is no name": (b"POST /echo HTTP/1.1\r\nHost: a..b\r\n\r\n", 200),
    "a host with a bad port": (b"POST /echo HTTP/1.1\r\nHost: a:b:c\r\n\r\n", 200),
    "an upgrade to WebSocket": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        200,
    ),
    "a path that is no UTF-8": (b"GET /%ff%00 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a host that is none": (b"GET /echo HTTP/1.1\r\nHost: a b[\xe9\r\n\r\n", 200),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "CONNECT": (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a wrong method": (b"BREW /echo HTTP/1.1\r\nHost: test\r\n\r\n", 405),
    "a WebSocket": (
        b"GET /echo HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        200,  # a server may ignore Upgrade: https://www.rfc-editor.org/rfc/rfc9110#section-7.8
    ),
    "an unknown expectation": (b"GET /echo HTTP/1.1\r\nHost: test\r\nExpect: more\r\n\r\n", 200),
    "a media type that is none": (
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: \xff; charset=\xff\r\n"
        b"Content-Length: 1\r\n\r\nx",
        200,
    ),
}


@pytest.mark.parametrize(("request_bytes", "status"), ODD.values(), ids=ODD.keys())
def test_odd_request_is_answered(server: Server, request_bytes: bytes, status: int) -> None:
    """An unusual but valid request gets a response, and never 5xx."""
    assert server.connect(request_bytes).response().status == status
    assert "Traceback" not in server.log


def test_body_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    """A Content-Length over the limit gets 413. The client gets no 100 (Continue)."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 65537\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )

    response = client.response()

    assert (response.status, response.json) == (413, {"error": "the body is too large"})
    assert response.headers["Connection"] == "close"
    assert client.rest() == b""


def test_endless_chunks_are_refused(server: Server) -> None:
    """A chunked body gets 413 as soon as it exceeds the limit, and is closed."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    assert client.response().status == 413
    client.rest()


def test_body_of_the_limit_is_read(server: Server) -> None:
    """A body of exactly the limit is read, with a Content-Length and in chunks."""
    whole = server.ask("POST", "/echo", b"x" * 65536)
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    client.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n0\r\n\r\n")
    chunked = client.response()

    assert whole.json["body"] == chunked.json["body"] == "x" * 65536
    assert whole.json["CONTENT_LENGTH"] == chunked.json["CONTENT_LENGTH"] == "65536"
    assert "HTTP_TRANSFER_ENCODING" not in chunked.json


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"


#: Complete requests with a small body and much framing, within all other limits.
MUCH_FRAMING = {
    "60,000 chunks of one byte": CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 60000 + b"0\r\n\r\n",
    "chunk extensions": CHUNKED
    + b"\r\n"
    + (b"1;a=" + b"b" * 4000 + b"\r\nx\r\n") * 20
    + b"0\r\n\r\n",
    "chunk sizes with zeros": CHUNKED + b"\r\n" + (b"0" * 4000 + b"1\r\nx\r\n") * 20 + b"0\r\n\r\n",
    "a chunk size with 40,000 zeros": CHUNKED
    + b"\r\n"
    + b"0" * 40000
    + b"1\r\nx\r\n"
    + b"0\r\n\r\n",
    "trailers": CHUNKED + b"\r\n0\r\n" + (b"X: " + b"x" * 3000 + b"\r\n") * 20 + b"\r\n",
    "headers": CHUNKED + (b"X: " + b"x" * 3000 + b"\r\n") * 20 + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MUCH_FRAMING.values(), ids=MUCH_FRAMING.keys())
def test_request_with_too_much_framing_is_refused(server: Server, request_bytes: bytes) -> None:
    """Framing is bounded like the body, because the event loop has to parse it."""
    client = server.connect()
    with contextlib.suppress(ConnectionError):
        client.send(request_bytes)

    response = client.response()

    assert (response.status, response.headers["Connection"]) == (400, "close")
    assert client.rest() == b""


def test_large_body_in_small_chunks_is_read(serve: Serve) -> None:
    """The bound on framing does not limit the body: 16 MiB in chunks of 4 KiB are read."""
    server = serve(max_body_bytes=16 * 1024 * 1024)
    client = server.connect(CHUNKED + b"\r\n")
    for _ in range(4096):
        client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    client.send(b"0\r\n\r\n")

    assert client.response().json["CONTENT_LENGTH"] == "16777216"


def test_expect_100_continue_is_answered(server: Server) -> None:
    """A request with Expect: 100-continue gets 100, and then its response."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    interim = client.sock.recv(25)
    client.send(b"hello")

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.response().json["body"] == "hello"


def test_pipelined_requests_are_answered(server: Server) -> None:
    """Two requests that are sent at once get two responses."""
    client = server.connect(b"GET /echo?1 HTTP/1.1\r\nHost: test\r\n\r\n" * 2)
    first = client.sock.recv(65536)
    received = first + (b"" if first.count(b"HTTP/1.1 200 OK") == 2 else client.sock.recv(65536))

    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_head_has_no_body(server: Server) -> None:
    """HEAD gets no body, and the connection stays usable."""
    client = server.connect()
    head = client.ask("HEAD", "/echo")
    again = client.ask("GET", "/echo")

    assert (head.status, head.body) == (200, b"")
    assert again.status == 200


def test_environment_is_what_wsgi_says(server: Server) -> None:
    """Bytes become latin-1 text and repeated headers are joined. A name with ``_`` is dropped.

    The host is a constant: routing refuses one that is no name.
    """
    client = server.connect(
        b"POST /echo?q=%C3%A9&r=a HTTP/1.1\r\nHost: test:80\r\nX-Two: 1\r\nX-Two: \xe9\r\n"
        b"Stripe_Signature: a\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    )
    environ = client.response().json
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/echo",
        "QUERY_STRING": "q=%C3%A9&r=a",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(client.sock.getsockname()[1]),
        "HTTP_HOST": "localhost",
        "HTTP_X_TWO": "1,\u00e9",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "2",
        "wsgi.url_scheme": "http",
        "body": "hi",
    }

    assert {key: environ.get(key) for key in expected} == expected
    assert "HTTP_STRIPE_SIGNATURE" not in environ


def test_path_prefix_is_removed(serve: Serve) -> None:
    """With gunicorn's root path, a path with the prefix is answered as the one without it.

    A path without the prefix is answered too, because health checks do not come from the proxy.
    The variable of other gunicorn workers has no effect.
    """
    server = serve(GUNICORN_CMD_ARGS="--root-path=/stripe", SCRIPT_NAME="/other")
    environs = [server.ask("GET", path).json for path in ("/stripe/echo", "/echo")]
    found = [(each["SCRIPT_NAME"], each["PATH_INFO"]) for each in environs]
    assert found == [("/stripe", "/echo"), ("", "/echo")]
    assert server.ask("GET", "/stripes/echo").status == 404
