"""An HTTP parser with a bound on the framing of a request.

gunicorn limits the number of fields and the bytes of each. Within these limits a body can come in
chunks of one byte, and a request byte by byte. A chunk size can have thousands of leading zeros.
For its size, such a request costs the event loop a thousand times more than others.
"""

from __future__ import annotations

from typing import Any

from app.web.gunicorn_private import HttpParser, ParseError

#: A request may have as many bytes of framing as its body has, and this many more.
FRAMING_BYTES = 32768

#: The cost of each line and of each read from the socket, counted as bytes of framing.
PIECE_BYTES = 64


class TooMuchFramingError(ParseError):  # type: ignore[misc] # gunicorn publishes no types
    """The request has too much framing for its body."""


class Parser(HttpParser):
    """A parser that refuses a request with too much framing for its body.

    Framing is the request line, the header, chunk sizes with their extensions, and trailers.
    ``feed`` raises ``ParseError`` when it exceeds ``FRAMING_BYTES`` and the body read so far.
    """

    __slots__ = ("_lines", "_pieces", "_received")

    def __init__(self, **options: Any) -> None:
        """Take the ``options`` of gunicorn's parser."""
        super().__init__(**options)
        self._clear_counts()

    def reset(self) -> None:
        """Begin the next request of the connection."""
        super().reset()
        self._clear_counts()

    def _clear_counts(self) -> None:
        self._received = self._lines = self._pieces = 0

    def feed(self, data: bytes) -> None:
        """Parse one read from the socket. Raises ``ParseError``."""
        if not self.is_complete:
            self.line_found(0)
        self._received += len(data)
        super().feed(data)

    @property
    def has_begun(self) -> bool:
        """True from the first byte of a request to its last."""
        return self._pieces > 0 and not self.is_complete

    def line_found(self, length: int) -> None:
        """Count a line of ``length`` bytes before it is parsed. Raises ``ParseError``."""
        self._pieces += 1
        body = self._received - self.buffered - self._lines
        self._lines += length
        if self._pieces * PIECE_BYTES + self._lines > FRAMING_BYTES + body:
            raise TooMuchFramingError(
                "The request line, headers and chunk sizes are too large for this body"
            )
