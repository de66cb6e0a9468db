"""The output of a process that a test started."""

from __future__ import annotations

import os
import subprocess
import threading


class Output:
    """The standard output of a process, read continuously: a full pipe would block it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take a ``process`` whose standard output is a pipe."""
        self._process = process
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                self._written += chunk

    @property
    def text(self) -> str:
        """The output so far."""
        return bytes(self._written).decode()

    def finish(self, seconds: float) -> None:
        """Read to the end, when no process has the pipe any more, at most ``seconds``."""
        self._reader.join(seconds)
