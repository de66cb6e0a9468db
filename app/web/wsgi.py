"""Calls a WSGI application for a request that has been read completely."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

#: The key of the environment with the ``Host`` of the request, which any client can choose.
HOST = "stripe_receiver.host"

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]


class Response(NamedTuple):
    """A complete response."""

    status: int
    headers: Headers
    body: bytes


def call(wsgi_app: WSGIApplication, scope: Scope, body: bytes) -> Response:
    """Return the application's response to the request with this ASGI ``scope`` and ``body``.

    Raises what the application raises.
    """
    chunks: list[bytes] = []
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        started.append((status, headers))
        return chunks.append

    result = wsgi_app(_environ(scope, body), start_response)
    try:
        chunks.extend(result)
    finally:
        if close := getattr(result, "close", None):
            close()
    status, headers = started[-1]
    return Response(int(status[:3]), encoded(headers), b"".join(chunks))


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return ``headers`` as bytes."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def path(scope: Scope) -> str:
    """Return the path of the request, without the prefix of a proxy."""
    return _split(_path(scope["raw_path"]), scope["root_path"].rstrip("/"))[1]


def _environ(scope: Scope, body: bytes) -> WSGIEnvironment:
    server, client = scope["server"] or ("localhost", 0), scope["client"] or ("", 0)
    prefix, path = _split(_path(scope["raw_path"]), scope["root_path"].rstrip("/"))
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": prefix,
        "PATH_INFO": path,
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key, text = _key(name), value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    # Flask's routing refuses a host name such as a..b, and a request to upgrade to WebSocket. The
    # service uses neither header, and its signature decides about a delivery. The operations page
    # compares the host with the origin of a form.
    environ.pop("HTTP_UPGRADE", None)
    environ[HOST] = environ.get("HTTP_HOST", "")
    environ["HTTP_HOST"] = "localhost"
    return environ


def _split(path: str, prefix: str) -> tuple[str, str]:
    # Requests of health checks reach the service without the proxy, and so without its prefix.
    return (prefix, path[len(prefix) :]) if path.startswith(f"{prefix}/") else ("", path)


def _path(raw: bytes) -> str:
    # A request target can be a whole URL: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    path = raw if raw.startswith(b"/") else b"/" + raw.partition(b"://")[2].partition(b"/")[2]
    return unquote_to_bytes(path).decode("latin-1")


@functools.lru_cache(maxsize=128)
def _key(header: bytes) -> str:
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"
