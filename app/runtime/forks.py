"""Isolates the service from processes that a callback forks.

A forked process inherits everything of its parent: the listening socket, the connections of
clients, and the pipe through which a signal wakes the parent's event loop. It would also return
from the callback, record the result and answer the request.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import structlog

log = structlog.get_logger(__name__)


class _Masks(threading.local):
    """The signal masks of a thread before its fork. A stack: ``isolate`` may be called twice."""

    def __init__(self) -> None:
        self.before: list[set[int]] = []


_masks = _Masks()


def isolate(
    signals: Iterable[int],
    listeners: Iterable[Any] = (),
    *,
    reopen_log: Callable[[], object],
) -> None:
    """Isolate this process from the processes that it forks from now on.

    In a child the ``signals`` have their default effect, and affect only the child. The child keeps
    neither the sockets of ``listeners`` nor the connections that they accepted. It calls
    ``reopen_log`` when it has a new standard error.
    """
    signals = list(signals)
    names = {_local_name(each) for each in listeners}

    def block() -> None:
        # A signal that reaches the child before it is isolated would stop the parent.
        _masks.before.append(signal.pthread_sigmask(signal.SIG_BLOCK, signals))

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before.pop())

    os.register_at_fork(before=block, after_in_parent=unblock)
    open_outputs = partial(_open_outputs, reopen_log)
    steps = (partial(_reset, signals), partial(_drop_sockets, names), open_outputs, unblock)
    for step in steps:  # registered apart: the next step runs even if one fails
        os.register_at_fork(after_in_child=step)


def _reset(signals: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in signals:
        signal.signal(number, signal.SIG_DFL)


def _open_outputs(reopen_log: Callable[[], object]) -> None:
    """Reopen both outputs: a lock that another thread held is never released in the child."""
    sys.stdout, sys.stderr = _open_output(1), _open_output(2)
    reopen_log()


def _open_output(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _drop_sockets(names: set[object]) -> None:
    """Drop all sockets with one of these local ``names``. Their peers do not notice."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(each.name) for each in Path("/dev/fd").iterdir()]:
        if _name_of(descriptor) in names:
            # Not closed: the event loop's objects may later close a file with that number.
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _name_of(descriptor: int) -> object:
    """Return the local name of a socket, or None for any other descriptor."""
    try:
        held = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return _local_name(held)
    finally:
        held.detach()


def _local_name(sock: Any) -> object:
    """Return the port or path of a socket. Accepted connections have that of their listener."""
    name = sock.getsockname()
    return name[1] if isinstance(name, tuple) else name


@contextmanager
def ending_in_the_block() -> Iterator[None]:
    """End every process that is forked in the block when it leaves the block.

    The exit status is 0, the code of a ``SystemExit``, or 1 after any other exception.
    """
    pid = os.getpid()
    status = 0
    try:
        yield
    except BaseException as error:
        if os.getpid() == pid:
            raise
        status = _status(error)
    finally:
        if os.getpid() != pid:
            os._exit(status)


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    with suppress(BaseException):  # it must end, logged or not
        log.error("forked_process_failed", exc_info=error)
    return 1
