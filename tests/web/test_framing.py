"""The bound on the framing of a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gunicorn.asgi.parser import ParseError

from app.web.framing import FRAMING_BYTES, PIECE_BYTES, Parser

HEAD = b"POST /webhook HTTP/1.1\r\nHost: test\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Bodies:
    """A parser, and the parts of bodies that it has parsed."""

    def __init__(self) -> None:
        """Start without any."""
        self.pieces: list[bytes] = []
        self.parser = Parser(on_body=self.pieces.append)

    def feed(self, data: bytes, size: int) -> None:
        """Feed ``data`` in reads of ``size`` bytes."""
        for start in range(0, len(data), size):
            self.parser.feed(data[start : start + size])


@pytest.fixture
def bodies() -> Bodies:
    """A new parser."""
    return Bodies()


def chunks(data: bytes, size: int) -> bytes:
    """Return ``data`` in chunks of ``size`` bytes."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def with_length(data: bytes) -> bytes:
    """Return a complete request with ``data`` as its body."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data


LARGE = b"x" * 16 * 1024 * 1024

PROPER: dict[str, tuple[Callable[[], bytes], int]] = {
    "16 MiB with a length, in the smallest packets": (lambda: with_length(LARGE), 536),
    "16 MiB in chunks of 4 KiB": (lambda: CHUNKED + chunks(LARGE, 4096), 1460),
    "16 MiB in chunks of 16 KiB": (lambda: CHUNKED + chunks(LARGE, 16384), 65536),
    "1 MiB in chunks of 128 bytes": (lambda: CHUNKED + chunks(LARGE[: 2**20], 128), 65536),
    "400 chunks of one byte": (lambda: CHUNKED + chunks(b"x" * 400, 1), 65536),
    "a header of 24 KiB": (lambda: HEAD + b"X: %b\r\n" % (b"x" * 4000) * 6 + b"\r\n", 65536),
    "a header of a byte at a time": (lambda: HEAD + b"Content-Length: 0\r\n\r\n", 1),
}


@pytest.mark.parametrize(("request_bytes", "size"), PROPER.values(), ids=PROPER.keys())
def test_proper_request_is_read(
    bodies: Bodies, request_bytes: Callable[[], bytes], size: int
) -> None:
    """A body in large or moderate pieces is not limited."""
    bodies.feed(request_bytes(), size)

    assert bodies.parser.is_complete


def test_chunks_of_one_byte_are_parsed_up_to_a_bound(bodies: Bodies) -> None:
    """Of 60,000 chunks in a single read, the parser reads about 500."""
    with pytest.raises(ParseError):
        bodies.parser.feed(CHUNKED + chunks(b"x" * 60_000, 1))

    assert 400 < len(bodies.pieces) < 600


def test_request_in_reads_of_one_byte_is_read_up_to_a_bound(bodies: Bodies) -> None:
    """Each read wakes the event loop, so reads of one byte are bounded."""
    with pytest.raises(ParseError):
        bodies.feed(with_length(b"x" * 60_000), 1)

    assert len(b"".join(bodies.pieces)) < FRAMING_BYTES / PIECE_BYTES


def test_each_request_of_a_connection_has_its_own_bound(bodies: Bodies) -> None:
    """The framing of one request does not count for the next."""
    request = with_length(b"")
    for _ in range(1000):
        bodies.parser.feed(request)
        assert bodies.parser.is_complete
        bodies.parser.reset()


def test_pipelined_bytes_do_not_raise_the_bound(bodies: Bodies) -> None:
    """Bytes of the next request do not count as the body of this one."""
    bodies.parser.feed(with_length(b"") + LARGE[:300_000])
    tail = bodies.parser.remaining()
    assert bodies.parser.pipelined == len(tail) == 300_000
    bodies.parser.reset()

    assert bodies.parser.pipelined == 0
    with pytest.raises(ParseError):
        bodies.parser.feed(CHUNKED + chunks(b"x" * 1000, 1) + tail)


def test_pipelined_request_waits(bodies: Bodies) -> None:
    """It is parsed from its first byte when the request before it is finished."""
    bodies.feed(with_length(b"first"), 65536)
    second = with_length(b"second")
    bodies.feed(second, 10)

    assert bodies.pieces == [b"first"]
    assert bodies.parser.remaining() == second
    bodies.parser.reset()
    bodies.feed(second, 10)
    assert b"".join(bodies.pieces) == b"firstsecond"
