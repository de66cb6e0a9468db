"""The names of gunicorn that the server builds on exist and have the expected signatures.

gunicorn documents none of them, so any release may change them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gunicorn
import pytest

from app.web.gunicorn_private import REASONS

ROOT = Path(__file__).parents[2]
ADAPTER = "app/web/gunicorn_private.py"
#: The modules with subclasses of gunicorn's classes.
SUBCLASSES = ["app/web/connection.py", "app/web/framing.py", "app/web/gunicorn_worker.py"]

PARSER = "gunicorn.asgi.parser:PythonProtocol"
PROTOCOL = "gunicorn.asgi.protocol:ASGIProtocol"
WORKER = "gunicorn.workers.gasgi:ASGIWorker"
ARBITER = "gunicorn.arbiter:Arbiter"
SOCKET = "gunicorn.sock:BaseSocket"
ATTRIBUTE = None
"""The signature of an attribute that is not a method."""


class Name(NamedTuple):
    """A name of gunicorn."""

    owner: str
    name: str
    signature: str | None
    why: str


NAMES = [
    Name(PARSER, "_find_line", "(self, limit, error)", "counts each line before it is parsed"),
    Name(PARSER, "_buffer", ATTRIBUTE, "tells how many bytes of a request are not parsed yet"),
    Name(PARSER, "is_complete", ATTRIBUTE, "tells pipelined bytes from those of this request"),
    Name(PARSER, "feed", "(self, data)", "counts each read from the socket"),
    Name(PARSER, "reset", "(self)", "clears the counts before the next request"),
    Name(PROTOCOL, "_setup_callback_parser", "(self)", "makes the parser that bounds framing"),
    Name(
        PROTOCOL, "_callback_parser", ATTRIBUTE, "is the parser that gets the bytes of the client"
    ),
    Name(PROTOCOL, "_on_headers_complete", "(self)", "is called by the parser"),
    Name(PROTOCOL, "_on_body", "(self, chunk)", "is called by the parser"),
    Name(PROTOCOL, "_on_message_complete", "(self)", "keeps a connection with a whole request"),
    Name(PROTOCOL, "_http1_buffered", "(self)", "counts pipelined bytes, to pause reading"),
    Name(PROTOCOL, "_is_websocket_upgrade", "(self, request)", "refuses WebSockets"),
    Name(PROTOCOL, "_arm_keepalive_timer", "(self)", "marks a connection as idle"),
    Name(PROTOCOL, "_keepalive_timeout", "(self)", "closes a connection without a complete header"),
    Name(PROTOCOL, "_keepalive_handle", ATTRIBUTE, "is the timer that a first header cancels"),
    Name(
        PROTOCOL,
        "_send_error_response",
        "(self, status, message, extra_headers=())",
        "answers an unknown transfer coding with 400 instead of 501",
    ),
    Name(PROTOCOL, "_close_transport", "(self)", "discards unread bytes before the close"),
    Name(PROTOCOL, "_closed", ATTRIBUTE, "tells that no further request is served"),
    Name(PROTOCOL, "_resume_reading", "(self)", "reads the bytes that are discarded"),
    Name(PROTOCOL, "connection_made", "(self, transport)", "bounds the wait for a first header"),
    Name(PROTOCOL, "connection_lost", "(self, exc)", "forgets the connection"),
    Name(PROTOCOL, "data_received", "(self, data)", "discards bytes after a refusal"),
    Name(PROTOCOL, "pause_writing", "(self)", "bounds the time to read a response"),
    Name(PROTOCOL, "resume_writing", "(self)", "ends that bound"),
    Name(PROTOCOL, "transport", ATTRIBUTE, "is aborted when a bound is exceeded"),
    Name(PROTOCOL, "worker", ATTRIBUTE, "has the bounds and the event loop"),
    Name(PROTOCOL, "cfg", ATTRIBUTE, "has the limits of the parser"),
    Name(WORKER, "_serve", "(self)", "accepts connections one at a time, and waits at a stop"),
    Name(WORKER, "_quick_shutdown", ATTRIBUTE, "tells SIGINT and SIGQUIT from SIGTERM"),
    Name(WORKER, "init_signals", "(self)", "keeps signals that arrive during the start"),
    Name(WORKER, "handle_exit_signal", "(self)", "stops accepting on SIGTERM"),
    Name(WORKER, "handle_quit_signal", "(self)", "stops accepting on SIGINT and SIGQUIT"),
    Name(WORKER, "run", "(self)", "exits when the grace period is over"),
    Name(WORKER, "notify", "(self)", "is the heartbeat"),
    Name(WORKER, "alive", ATTRIBUTE, "tells that the worker was told to stop"),
    Name(WORKER, "asgi", ATTRIBUTE, "is the bridge"),
    Name(WORKER, "cfg", ATTRIBUTE, "has the grace period and the backlog"),
    Name(WORKER, "loop", ATTRIBUTE, "is the event loop"),
    Name(WORKER, "nr_conns", ATTRIBUTE, "counts connections, for their limit"),
    Name(WORKER, "ppid", ATTRIBUTE, "tells that the arbiter is gone"),
    Name(WORKER, "servers", ATTRIBUTE, "is closed at a stop"),
    Name(WORKER, "sockets", ATTRIBUTE, "has the listeners"),
    Name(WORKER, "worker_connections", ATTRIBUTE, "is the limit on connections"),
    Name(WORKER, "SIGNALS", ATTRIBUTE, "is reset in processes that a callback forks"),
    Name(ARBITER, "SIG_QUEUE", ATTRIBUTE, "has signals that arrived during a worker's start"),
    Name(ARBITER, "WORKERS", ATTRIBUTE, "tells which CPUs are taken"),
    Name(SOCKET, "sock", ATTRIBUTE, "is the listening socket"),
]


def problem(expected: Name, owner: type | None = None) -> str | None:
    """Return the problem with a name in the installed gunicorn or in ``owner``, or None."""
    module, _, class_name = expected.owner.partition(":")
    where = f"gunicorn {gunicorn.__version__}: {class_name}.{expected.name}"
    try:
        cls = owner or getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        return f"{where} is missing ({error}). It {expected.why}."
    if not has_attribute(cls, expected.name):
        return f"{where} is missing. It {expected.why}."
    if expected.signature is not None:
        signature = str(inspect.signature(getattr(cls, expected.name)))
        if signature != expected.signature:
            return f"{where} is now {signature}, not {expected.signature}. It {expected.why}."
    return None


def has_attribute(cls: type, name: str) -> bool:
    """Return whether a class has an attribute, or assigns it to ``self``."""
    assigned = re.compile(rf"\bself\.{name}\b[^\n]*=(?!=)")
    own = [each for each in cls.__mro__ if each.__module__.startswith("gunicorn")]
    return hasattr(cls, name) or any(assigned.search(source(each)) for each in own)


@cache
def source(cls: type) -> str:
    """Return the source of a class. Python 3.11 and 3.12 parse the whole file to find it."""
    return inspect.getsource(cls)


@pytest.mark.parametrize(
    "expected", NAMES, ids=lambda expected: f"{expected.owner}.{expected.name}"
)
def test_gunicorn_has_the_name(expected: Name) -> None:
    """The installed gunicorn has the name, with the signature that the server relies on."""
    found = problem(expected)
    assert found is None, found


def test_parser_has_its_options() -> None:
    """The parser takes its limits and callbacks by the names that the server uses."""
    options = {
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "limit_request_line",
        "limit_request_fields",
        "limit_request_field_size",
    }
    parser: Any = importlib.import_module(PARSER.partition(":")[0]).PythonProtocol
    assert options - set(inspect.signature(parser).parameters) == set()


def test_each_error_of_the_parser_has_its_reason() -> None:
    """The log has a reason of ours for each error, because gunicorn's texts quote the request."""
    parser = importlib.import_module(PARSER.partition(":")[0])
    errors = {
        name
        for name, cls in vars(parser).items()
        if inspect.isclass(cls) and issubclass(cls, parser.ParseError)
    }
    errors -= {"ParseError", "InvalidProxyLine", "InvalidProxyHeader"}  # no PROXY protocol here
    assert errors | {"TooMuchFramingError"} == set(REASONS)


def test_missing_or_changed_name_is_explained() -> None:
    """The message has the name, gunicorn's version, the difference, and the reason."""
    feed = Name(PARSER, "feed", "(self, data)", "counts each read")
    version = gunicorn.__version__

    other = type("Other", (), {"feed": lambda self, data, more: (self, data, more)})
    assert problem(feed, other) == (
        f"gunicorn {version}: PythonProtocol.feed is now (self, data, more), not (self, data)."
        " It counts each read."
    )
    missing = f"gunicorn {version}: PythonProtocol.feed is missing. It counts each read."
    assert problem(feed, type("Empty", (), {})) == missing
    assert problem(feed._replace(signature=None), type("Empty", (), {})) == missing
    moved = problem(feed._replace(owner="gunicorn.asgi.gone:PythonProtocol"))
    assert moved is not None
    assert "No module named 'gunicorn.asgi.gone'" in moved


def tree(path: str) -> ast.Module:
    """Return the parsed module of a path."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def attributes(path: str) -> set[str]:
    """Return the names of all attributes that a module reads, sets or calls."""
    return {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}


def defined(path: str) -> set[str]:
    """Return the names that the classes of a module define or assign to ``self``."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def test_one_module_alone_imports_gunicorn() -> None:
    """Other modules use the adapters. Only the logger, which gunicorn documents, has its own."""
    found = {
        str(path.relative_to(ROOT))
        for path in [*(ROOT / "app").rglob("*.py"), ROOT / "gunicorn.conf.py"]
        if re.search(
            r"^\s*(from|import) gunicorn\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert found == {ADAPTER, "app/web/gunicorn_logger.py"}


def test_one_module_alone_uses_private_names() -> None:
    """No other module of the server uses a name that is private, or one of the arbiter's."""
    private = {each.name for each in NAMES if each.name.startswith("_") or each.owner == ARBITER}
    paths = [*(ROOT / "app" / "web").glob("*.py"), ROOT / "gunicorn.conf.py"]
    others = {str(path.relative_to(ROOT)) for path in paths} - {ADAPTER}
    assert {path: used for path in others if (used := attributes(path) & private)} == {}


def test_each_name_is_listed() -> None:
    """The list above has each inherited name that the server's classes use, and no other."""
    names = {each.name for each in NAMES}
    private = {name for name in attributes(ADAPTER) | defined(ADAPTER) if name.startswith("_")}
    private -= {"__all__", "__slots__"}
    own = set().union(*map(defined, [ADAPTER, *SUBCLASSES])) - names
    inherited = {
        node.attr
        for path in [ADAPTER, *SUBCLASSES]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in {"self", "super()", "self.worker", "arbiter", "listener"}
    }
    assert private | (inherited - own - {"__init__"}) == names
