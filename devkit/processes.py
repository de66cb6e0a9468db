"""Processes of the service that the demo and ``make dev`` start."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

#: The folder that contains app/, handlers/ and gunicorn.conf.py.
ROOT = Path(__file__).resolve().parents[1]

#: Signals that end the demo and ``make dev``.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Seconds that the service gets to stop. It has no work that has to finish.
END_SECONDS = 5.0


def end(process: subprocess.Popen[bytes], patience: float = END_SECONDS) -> None:
    """End ``process`` with SIGTERM, and after ``patience`` seconds its whole group with SIGKILL."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with suppress(ProcessLookupError):  # the group usually has no process left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ignore_end_signals() -> None:
    """Ignore further signals: a second Ctrl-C must not interrupt the clean-up."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
