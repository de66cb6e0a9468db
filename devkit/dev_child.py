"""gunicorn under ``make dev``: it stops when the process of ``make dev`` is gone.

After SIGKILL, that process cannot end its children. They would keep the port, with a stand-in that
does not answer. The first argument is the descriptor of a socket whose other end only ``make dev``
has. The other arguments are those of gunicorn.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from gunicorn.app.wsgiapp import run

from app.runtime.threads import start


def main() -> None:
    """Run gunicorn."""
    start("parent", partial(_stop_after_parent, int(sys.argv.pop(1))))
    run(prog="gunicorn")


def _stop_after_parent(descriptor: int) -> None:
    os.read(descriptor, 1)  # returns at the end of the parent
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
