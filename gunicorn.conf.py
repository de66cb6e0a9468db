"""How gunicorn serves the service. The settings are the service's own: see .env.example."""

import gc
from pathlib import Path
from typing import Any

from app.settings import Settings
from app.web.server import choose_processor

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the files are made by mkstemp and unlinked at once

settings = Settings.load()

wsgi_app = "app.web.server:load()"
worker_class = "app.web.server.Worker"
bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency
preload_app = True
# uvloop where it is installed: a tenth less processor time for a delivery.
asgi_loop = "auto"
asgi_lifespan = "off"
# 0: a request that still waits for a thread is dropped when its client leaves.
asgi_disconnect_grace_period = 0
# Per worker, and below the 1,024 open files that many systems allow a process.
worker_connections = 800
# Longer than the 60 s after which common load balancers drop an idle connection: the side that
# sends requests should be the one that closes.
keepalive = 75
# Below the 30 s after which Kubernetes, ECS and others kill.
graceful_timeout = 25
# Stripe and the proxies on the way send some 20 short fields; 800 clients at once should not fill
# the memory. An integer in a header has to stay under the 4,300 digits that Python converts.
limit_request_fields = 64
limit_request_field_size = 4096
# Heartbeat files: in memory, and writable where the root file system is not.
worker_tmp_dir = _SHARED_MEMORY if Path(_SHARED_MEMORY).is_dir() else None
control_socket_disable = True
logger_class = "app.log.GunicornLogger"
loglevel = settings.log_level


def when_ready(_server: object) -> None:
    """Keep what was loaded before the fork shared: the collector would write to every page."""
    gc.freeze()


def pre_fork(server: Any, worker: Any) -> None:
    """Let each worker stay on one processor, where there is one worker for each."""
    others = [getattr(each, "processor", None) for each in server.WORKERS.values()]
    worker.processor = choose_processor(others, server.cfg.workers)


def post_fork(server: Any, worker: Any) -> None:
    """Hand over the signals that reached the worker before it had handlers of its own.

    Until then it has the arbiter's, which only queue, in a queue that nobody reads here. A SIGTERM
    that was lost so would let the arbiter wait for all of the grace period, and then kill.
    """
    worker.early_signals = server.SIG_QUEUE
