"""A name server that answers every question with the same addresses, as Docker's for a service."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: The flags of an answer without an error (https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1).
ANSWER = b"\x81\x80"
#: A pointer to the name in the question, type A, class IN, one second to live, four bytes.
RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04"
#: Bytes before the question.
HEADER = 12


def answer(query: bytes, addresses: list[str]) -> bytes:
    """Return the answer to a query, with one record for each IPv4 address."""
    counts = b"\x00\x01" + len(addresses).to_bytes(2) + b"\x00\x00\x00\x00"
    end = query.index(b"\x00", HEADER) + 5  # the name, its type and its class
    records = [RECORD + socket.inet_aton(address) for address in addresses]
    return query[:2] + ANSWER + counts + query[HEADER:end] + b"".join(records)


@contextmanager
def name_server(addresses: list[str]) -> Iterator[int]:
    """Serve, and give the port of UDP on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                query, client = server.recvfrom(512)
                if not query:
                    return
                server.sendto(answer(query, addresses), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
                stop.sendto(b"", server.getsockname())
            thread.join()
