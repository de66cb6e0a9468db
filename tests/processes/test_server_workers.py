"""Worker processes, and the start of the real service under gunicorn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devkit import samples
from tests.support.gunicorn_server import (
    DEADLINE,
    ROOT,
    Serve,
    service_environment,
    started,
)
from tests.support.tiny_app import SECRET
from tests.support.waiting import wait_for


def test_killed_worker_is_replaced(serve: Serve) -> None:
    """After SIGKILL of a worker, another one starts and serves."""
    server = serve("--workers", "1")
    pid = server.pid()

    os.kill(pid, signal.SIGKILL)

    def another_answers() -> bool:
        with contextlib.suppress(ConnectionError):  # the killed one may still accept
            return server.pid() != pid
        return False

    wait_for(another_answers, DEADLINE)


# Only Linux has /proc. No other system lists the libraries of a process without a tool of its own.
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system does not list loaded libraries")
def test_workers_use_uvloop(serve: Serve) -> None:
    """The event loop is uvloop where it is installed."""
    server = serve("--workers", "1")

    assert "/uvloop/" in Path(f"/proc/{server.pid()}/maps").read_text(encoding="utf-8")


def test_workers_collect_garbage(serve: Serve) -> None:
    """A start collects none while it imports the service. Workers do, also after a reload."""
    server = serve("--workers", "1")

    def collecting() -> int:
        with contextlib.suppress(ConnectionError):  # the old worker may still accept
            return int(server.ask("GET", "/collects").body)
        return 0

    pid = server.pid()
    assert collecting() == pid
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: pid not in server.workers and collecting() in server.workers, DEADLINE)


def test_burst_of_connections_is_shared(serve: Serve) -> None:
    """No worker accepts all connections of a burst, because each has its own threads."""
    server = serve()
    wait_for(lambda: len({server.pid() for _ in range(20)}) == 2, DEADLINE)

    clients = [server.connect() for _ in range(100)]

    assert len({client.ask("GET", "/pid").body for client in clients}) == 2


def test_service_runs_under_gunicorn(tmp_path: Path) -> None:
    """Without arguments, gunicorn serves the real application and exits with 0.

    Its secrets can be files. It names a misspelt setting once, and a stand-in for Stripe's API.
    """
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"]
    environment = service_environment(tmp_path) | {
        "WEB_CONCURENCY": "4",
        "STRIPE_API_BASE": "http://127.0.0.1:9",
    }
    for name in ("STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "DATABASE_URL"):
        (tmp_path / name).write_text(f"{environment.pop(name)}\n", encoding="utf-8")
        environment[f"{name}_FILE"] = str(tmp_path / name)
    body = samples.encode(samples.notification("v1.customer.created"))
    with started(command, tmp_path, environment) as server:
        assert server.ask("GET", "/healthz").status == 200
        assert server.ask("POST", "/webhook").status == 400
        signature = samples.sign(body, SECRET)
        assert server.ask("POST", "/webhook", body, Stripe_Signature=signature).status == 200
        assert (tmp_path / "inbox.sqlite3").exists()
        (line,) = server.logged("service_configured")
        assert line["stripe_api"] == "http://127.0.0.1:9"
        (line,) = server.logged("setting_unknown")
        assert (line["variable"], line["nearest"]) == ("WEB_CONCURENCY", "WEB_CONCURRENCY")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"STRIPE_WEBHOOK_SECRET": "nonsense"}, "STRIPE_WEBHOOK_SECRET"),
        ({"HANDLERS_PACKAGE": "no_such_package"}, "HANDLERS_PACKAGE"),
    ],
    ids=["settings", "handlers"],
)
def test_failed_start_shows_its_problems_alone(
    tmp_path: Path, wrong: dict[str, str], problem: str
) -> None:
    """A start that fails exits with 1 and writes the problems, but no traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env=service_environment(tmp_path) | wrong,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert problem in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "gunicorn" not in ended.stderr
