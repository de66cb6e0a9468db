"""Slow, silent and disconnecting clients, with the real gunicorn."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from app.web.body_budget import FREE_BYTES, WAITING_BODIES
from app.web.connection import LINGER_READS
from tests.support.gunicorn_server import DEADLINE, SLOW, Serve, Server
from tests.support.waiting import wait_for


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW.keys())
def test_slow_senders_do_not_delay_deliveries(serve: Serve, sent: bytes) -> None:
    """500 clients that send too little delay no delivery. Each is closed after ``read_seconds``."""
    server = serve(read_seconds=2)
    slow = [server.connect(sent) for _ in range(500)]

    delivered = 0
    while not any(client.is_readable() for client in slow):
        assert server.deliver() == 200
        delivered += 1

    assert delivered > 0
    wait_for(lambda: all(client.is_readable() for client in slow), DEADLINE)
    assert server.deliver() == 200


@pytest.mark.measured
def test_half_a_body_is_answered_408(serve: Serve) -> None:
    """A client with an incomplete body gets 408 before its connection is closed."""
    server = serve(read_seconds=0.2)
    client = server.connect(SLOW["half a body"])

    assert client.response().status == 408
    assert client.rest() == b""
    assert server.refusals() == [(408, "body_too_slow")]


@pytest.mark.measured
def test_slow_sender_on_a_used_connection_is_closed(serve: Serve) -> None:
    """After its first request, a connection is closed when it is idle or sends half a header."""
    server = serve("--keep-alive", "1")
    idle, slow = server.connect(), server.connect()
    assert idle.ask("GET", "/echo").status == slow.ask("GET", "/echo").status == 200

    slow.send(SLOW["half a header"])

    assert idle.rest() == slow.rest() == b""
    assert server.refusals() == [(None, "header_too_slow")]


@pytest.mark.measured
def test_connection_that_has_waited_longest_makes_room(serve: Serve) -> None:
    """Over the limit on connections, the one that has waited longest is dropped."""
    server = serve("--workers", "1", "--worker-connections", "10")
    callback = server.hold("busy")
    silent = [server.connect() for _ in range(30)]

    assert server.deliver() == 200
    wait_for(lambda: all(client.is_readable() for client in silent[:20]), DEADLINE)
    assert not silent[-1].is_readable()
    assert {reason for _, reason in server.refusals()} == {"too_many_connections"}
    server.release("busy")
    assert callback.result(DEADLINE).status == 200


def test_large_incomplete_bodies_make_room(serve: Serve) -> None:
    """Many clients with half of a large body cannot fill the memory, and delay no delivery.

    Each of them gets 503 when newer large bodies need its room.
    """
    limit = FREE_BYTES + 100_000
    server = serve("--workers", "1", max_body_bytes=limit, threads=2)
    room = WAITING_BODIES + 2
    header = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {limit}\r\n\r\n".encode()
    clients = [server.connect(header) for _ in range(2 * room)]
    for client in clients:
        client.send(b"x" * (limit - 1))

    wait_for(lambda: sum(client.is_readable() for client in clients) >= room, DEADLINE)
    assert server.ask("POST", "/echo", b"x" * limit).status == 200
    assert server.deliver() == 200
    refused = [client for client in clients if client.is_readable()]
    assert {client.response().status for client in refused} == {503}
    assert room <= len(refused) <= room + 2
    assert {reason for _, reason in server.refusals()} == {"no_room_for_body"}
    waiting = next(client for client in reversed(clients) if client not in refused)
    waiting.send(b"x")
    assert waiting.response().status == 200


@pytest.mark.measured
def test_slow_reader_is_closed(serve: Serve) -> None:
    """A client that does not read its response is disconnected after ``read_seconds``."""
    server = serve(read_seconds=0.5)
    client = server.connect(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_for(client.is_readable)  # the response has begun
    time.sleep(1)  # twice the limit; to read earlier would count as reading the response

    assert len(client.rest()) < 20_000_000
    assert server.refusals() == [(None, "response_not_read")]


def test_response_larger_than_the_socket_buffers_arrives(server: Server) -> None:
    """A client that starts to read when all buffers are full gets the complete response."""
    client = server.connect(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
    sizes = [0]
    while sizes[-1] == 0 or len(set(sizes[-20:])) > 1:  # until no byte has arrived for 0.2 s
        time.sleep(0.01)
        sizes.append(client.unread())
    assert sizes[-1] < 20_000_000

    assert len(client.response("GET").body) == 20_000_000


def test_disconnect_within_a_body_is_not_logged(serve: Serve) -> None:
    """A client that disconnects within its body writes no line to the log."""
    server = serve("--workers", "1")
    assert server.deliver() == 200  # all lines of the start are written
    before = server.log
    server.connect(SLOW["half a body"]).close()

    assert server.deliver() == 200
    assert server.log == before


def test_refused_client_can_send_its_body(server: Server) -> None:
    """To close with unread bytes would reset the connection, and could discard the response."""
    client = server.connect(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1048576\r\n\r\n")
    response = client.response()
    for _ in range(16):
        client.send(b"x" * 65536)

    assert response.status == 413
    assert client.rest() == b""


def test_bytes_discarded_after_a_refusal_are_bounded(server: Server) -> None:
    """A refused client that continues to send is disconnected after ``LINGER_READS`` reads."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9999999999\r\n\r\n"
    )
    # uvloop reads up to 256 KiB at a time. The kernel buffers the rest.
    most, sent = LINGER_READS * 262_144 + 20_000_000, 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.send(b"x" * 65536)
            sent += 65536

    assert sent < most


def test_refused_client_that_stays_is_closed(serve: Serve) -> None:
    """A refused client that neither sends nor closes is disconnected."""
    server = serve("--workers", "1")
    idle = server.connect()
    worker = int(idle.ask("GET", "/pid").body)
    before = sockets_of(worker)

    client = server.connect(b"\x16\x03\x01\x02\x00\r\n\r\n")

    assert client.response().status == 400
    assert client.rest() == b""
    wait_for(lambda: sockets_of(worker) == before)


def sockets_of(pid: int) -> int:
    """Return the number of open sockets of a process."""
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(file.readlink()))
    return sum(link.startswith("socket:") for link in links)
