"""gunicorn's configuration. The service's own settings are described in .env.example."""

import gc

# The imports make many objects and hardly any garbage. To look for it takes a sixth of a start.
gc.disable()

from pathlib import Path
from typing import Any

from app.metrics import folder
from app.runtime import cpu_affinity
from app.settings import Settings
from app.web import gunicorn_private, listen

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the files are made by mkstemp and unlinked at once

settings = Settings.load()

wsgi_app = "app.web.startup:load()"
worker_class = "app.web.gunicorn_worker.WebWorker"
bind = listen.bind_addresses(settings)
workers = settings.web_concurrency
preload_app = True
# uvloop where it is installed: a delivery then takes a tenth less processor time.
asgi_loop = "auto"
asgi_lifespan = "off"
# 0: when its client disconnects, a queued request is dropped.
asgi_disconnect_grace_period = 0
# For each worker. Many systems allow a process 1,024 open files.
worker_connections = 800
# Common load balancers drop an idle connection after 60 s. This is longer: the side that sends
# requests should close first.
keepalive = 75
# Kubernetes, ECS and others kill after 30 s.
graceful_timeout = 25
# Stripe and the proxies on the way send about 20 short fields. 800 clients at once must not fill
# the memory. An integer in a header must stay below the 4,300 digits that Python converts.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 4096
# No header of a proxy is used. gunicorn would refuse a request whose scheme headers contradict each
# other, as behind two proxies of which one terminates TLS.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# Heartbeat files: in memory, which is writable even with a read-only root file system.
worker_tmp_dir = _SHARED_MEMORY if Path(_SHARED_MEMORY).is_dir() else None
control_socket_disable = True
logger_class = "app.web.gunicorn_logger.GunicornLogger"
loglevel = settings.log_level


def on_starting(server: Any) -> None:
    """Refuse an address that cannot be opened, in one sentence."""
    listen.check_ports(server.cfg.address, settings.ops_port)


def when_ready(_server: object) -> None:
    """Keep the memory that was filled before the fork shared: a collection would write to it."""
    gc.freeze()


def pre_fork(server: Any, worker: Any) -> None:
    """Let garbage be collected again, which a reload stops too, and choose the worker's CPU."""
    gc.enable()
    if settings.worker_cpu_affinity == "auto":
        others = [each.cpu for each in gunicorn_private.workers(server)]
        worker.cpu = cpu_affinity.choose(others, server.cfg.workers)


def post_fork(server: Any, worker: Any) -> None:
    """Pin the worker, and pass it the signals that arrived before it had its own handlers.

    Until then it has the arbiter's handlers, which put signals into a queue that a worker never
    reads. After a lost SIGTERM the arbiter would wait for the grace period, and then kill.
    """
    worker.early_signals = gunicorn_private.queued_signals(server)
    if settings.worker_cpu_affinity == "auto":
        cpu_affinity.pin(worker.cpu, server.cfg.workers)


def on_exit(_server: object) -> None:
    """Remove the folder in which the processes shared their counts."""
    folder.remove()
