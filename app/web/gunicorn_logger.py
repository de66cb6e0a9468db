"""gunicorn's own log lines, in the format of the service."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no type information
    """gunicorn's logger. It passes its lines to the root logger, which ``log.configure`` set up."""

    def setup(self, cfg: Any) -> None:
        """Replace the handlers that gunicorn sets up."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
        self.error_log.propagate = True
