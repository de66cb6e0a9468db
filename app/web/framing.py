"""gunicorn's HTTP parser, with a bound on the framing of a request.

gunicorn limits the number of fields and the bytes of each. Within these limits a body can come in
chunks of one byte, and a request byte by byte. A chunk size can have thousands of leading zeros.
Such a request costs the event loop a thousand times more than its bytes.
"""

from __future__ import annotations

from typing import Any

from gunicorn.asgi.parser import ParseError, PythonProtocol

#: Bytes of framing that a request may have beyond as many as its body has.
FRAMING_BYTES = 32768

#: Bytes that each line and each read from the socket count in addition, for what they cost.
PIECE_BYTES = 64


class Parser(PythonProtocol):  # type: ignore[misc] # gunicorn publishes no types
    """A parser that refuses a request whose framing outweighs its body.

    Framing is the request line, the header, chunk sizes with their extensions, and trailers.
    ``feed`` raises ``ParseError`` when it exceeds ``FRAMING_BYTES`` and the body read so far.
    """

    __slots__ = ("_lines", "_pieces", "_received")

    def __init__(self, **options: Any) -> None:
        """Take the ``options`` of gunicorn's parser."""
        super().__init__(**options)
        self._begin()

    def reset(self) -> None:
        """Begin the next request of the connection."""
        super().reset()
        self._begin()

    def _begin(self) -> None:
        self._received = self._lines = self._pieces = 0

    @property
    def pipelined(self) -> int:
        """How many bytes of the next request are held while this one is answered."""
        return len(self._buffer) if self.is_complete else 0

    def feed(self, data: bytes) -> None:
        """Parse one read from the socket. Raises ``ParseError``."""
        if not self.is_complete:
            self._count(0)
        self._received += len(data)
        super().feed(data)

    def _find_line(self, limit: int, error: Exception) -> int:
        # The parser looks for each of its lines here, and before it looks at a byte of one.
        end: int = super()._find_line(limit, error)
        if end >= 0:
            self._count(end)
        return end

    def _count(self, length: int) -> None:
        self._pieces += 1
        body = self._received - len(self._buffer) - self._lines
        self._lines += length
        if self._pieces * PIECE_BYTES + self._lines > FRAMING_BYTES + body:
            raise ParseError("The request has too many pieces, or too much beside its body")
