"""What a process that a test started has written."""

from __future__ import annotations

import os
import subprocess
import threading


class Output:
    """The standard output of a process, read as it comes: a full pipe would hold it up."""

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
        """What was written so far."""
        return bytes(self._written).decode()

    def finish(self, seconds: float) -> None:
        """Read to the end, which comes when nobody has the pipe any more."""
        self._reader.join(seconds)
