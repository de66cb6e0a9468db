"""The log of refused requests, and the limits of a request, with the real gunicorn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.settings import Settings
from app.web import bridge, framing
from app.web.refusals import LINES
from tests.support import pages
from tests.support.gunicorn_server import CONFIG, Serve, Server

HEAD = b"POST /echo HTTP/1.1\r\nHost: test\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

#: A request of each kind, with its status and its reason in the log. ``marker`` is personal.
REFUSED = [
    (b"GET /marker" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414, "request_line_too_long"),
    (b"GET /\0marker HTTP/1.1\r\n\r\n", 400, "invalid_request_line"),
    (b"marker / HTTP/1.1\r\n\r\n", 400, "invalid_request_line"),
    (b"GET / HTTP/marker\r\n\r\n", 400, "invalid_http_version"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request_line"),
    (b"GET / HTTP/1.1\nHost: marker\n\n", 400, "malformed"),
    (b"GET / HTTP/1.1\r\nmarker : x\r\n\r\n", 400, "invalid_header"),
    (HEAD + b"Host: marker\r\n\r\n", 400, "invalid_header"),
    (HEAD + b"X: marker\0\r\n\r\n", 400, "invalid_header"),
    (HEAD + b"Content-Length: marker\r\n\r\n", 400, "invalid_header"),
    (HEAD + b"X: " + b"marker" * 1000 + b"\r\n\r\n", 431, "header_too_large"),
    (HEAD + b"X: marker\r\n" * 100 + b"\r\n", 431, "header_too_large"),
    (HEAD + b"Transfer-Encoding: marker\r\n\r\n", 400, "unknown_transfer_coding"),
    (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "unknown_transfer_coding"),
    (CHUNKED + b"marker\r\n", 400, "invalid_chunk"),
    (CHUNKED + b"1;\rmarker\r\nx\r\n", 400, "invalid_chunk"),
    (CHUNKED + b"1\r\nmarker\r\n", 400, "invalid_chunk"),
    (CHUNKED + b"1\r\nx\r\n" * 1000, 400, "too_much_framing"),
    (HEAD + b"Content-Length: 65537\r\n\r\n", 413, "body_too_large"),
    (b"POST /marker@x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "unknown_path"),
    (b"POST /reset/marker1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "unknown_path"),
    (b"MARKER /webhook HTTP/1.1\r\nHost: marker\r\n\r\n", 405, "wrong_method"),
]


@pytest.fixture(scope="module")
def server_options() -> tuple[str, ...]:
    """One process for all tests: each limits its own warnings."""
    return ("--workers", "1")


def test_each_refused_request_is_logged(server: Server) -> None:
    """One warning each, with the kind of mistake and without a word of the request."""
    for request, status, reason in REFUSED:
        known = len(server.refusals())
        assert server.connect(request).response().status == status, request
        assert server.refusals()[known:] == [(status, reason)], request
    assert "marker" not in server.log.lower()
    assert {line["level"] for line in server.logged("request_refused")} == {"warning"}


def test_wrong_path_of_a_destination_is_shown(server: Server) -> None:
    """A POST to a plain path is logged with it: the URL of the destination has to be corrected."""
    assert server.ask("POST", "/webhooks?key=marker").status == 404
    assert server.ask("GET", "/webhook").status == 405
    first, second = server.logged("request_refused")[-2:]
    assert (first["reason"], first["method"], first["path"]) == (
        "unknown_path",
        "POST",
        "/webhooks",
    )
    assert (second["reason"], second["method"], second["path"]) == (
        "wrong_method",
        "GET",
        "/webhook",
    )


def test_scanners_are_not_logged(server: Server) -> None:
    """A GET of an unknown path is no delivery."""
    known = len(server.refusals())
    assert server.ask("GET", "/.env").status == 404
    assert server.ask("HEAD", "/admin").status == 404
    assert len(server.refusals()) == known


def test_error_of_the_application_is_no_refused_request(server: Server) -> None:
    """Gunicorn logs it itself, with its traceback."""
    known = len(server.refusals())
    assert server.ask("GET", "/odd-header").status == 500
    assert server.log.count("Error in ASGI application") == 1
    assert len(server.refusals()) == known


def test_scheme_headers_of_proxies_are_not_used(serve: Serve) -> None:
    """Contradictory ones are served, as behind two proxies, whatever the environment trusts."""
    server = serve(FORWARDED_ALLOW_IPS="*")
    environ = server.ask("GET", "/echo", X_Forwarded_Proto="http", X_Forwarded_Ssl="on").json
    assert environ["wsgi.url_scheme"] == "http"
    assert server.refusals() == []


def test_flood_of_malformed_requests_does_not_fill_the_log(serve: Serve) -> None:
    """The warnings of one reason are limited. At the stop the log has the number of the others."""
    server = serve("--workers", "1")
    for _ in range(LINES + 7):
        assert server.connect(b"GET\r\n\r\n").response().status == 400
    server.stop()

    assert server.refusals() == [(400, "invalid_request_line")] * LINES
    (left_out,) = server.logged("refusals_left_out")
    assert (left_out["reason"], left_out["left_out"]) == ("invalid_request_line", 7)


def documented() -> dict[str, int]:
    """Return the number of each limit in the documentation, by its first words."""
    rows = pages.table("docs/deploy.md", "Limits of a request")
    return {row[0]: int(re.sub(r"\D", "", row[1].partition(" ")[0])) for row in rows}


def test_documented_sizes_are_the_real_ones(server: Server) -> None:
    """A request of each size is served, and one byte or field more is refused."""
    limits = documented()
    line, field = limits["request line"], limits["one header field, with its line end"]
    target = b"/echo?" + b"x" * (line - len(b"GET /echo? HTTP/1.1"))
    fields = limits["header fields"]
    assert limits["body"] == Settings("sk_test_fake", ("whsec_fake",)).max_body_bytes
    body = 65536  # the limit of this server
    head = b"GET /echo HTTP/1.1\r\n"
    for request, status in [
        (b"GET %b HTTP/1.1\r\n\r\n" % target, 200),
        (b"GET %bx HTTP/1.1\r\n\r\n" % target, 414),
        (head + b"X: %b\r\n\r\n" % (b"x" * (field - len("X: \r\n"))), 200),
        (head + b"X: %b\r\n\r\n" % (b"x" * (field - len("X: \r\n") + 1)), 431),
        (head + b"X: x\r\n" * fields + b"\r\n", 200),
        (head + b"X: x\r\n" * (fields + 1) + b"\r\n", 431),
        (HEAD + b"Content-Length: %d\r\n\r\n%b" % (body, b"x" * body), 200),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (body + 1), 413),
    ]:
        assert server.connect(request).response().status == status


def test_documented_times_and_numbers_are_those_of_the_code() -> None:
    """The other limits are constants. Other tests show their effect, with smaller values."""
    limits = documented()
    config = Path(CONFIG).read_text(encoding="utf-8")
    found = dict(re.findall(r"^(keepalive|worker_connections) = (\d+)$", config, re.MULTILINE))
    slow = {"complete header of a new connection", "body after its header", "response to be read"}
    assert {limits[name] for name in slow} == {bridge.READ_SECONDS}
    assert limits["next header of an open connection"] == int(found["keepalive"])
    assert limits["connections of each web process"] == int(found["worker_connections"])
    assert limits["everything around the body"] == framing.FRAMING_BYTES
