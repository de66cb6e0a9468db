"""BIND_HOST and a port in use, with the real gunicorn and its own configuration."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from devkit import samples
from devkit.http_client import post
from tests.support.services import DEADLINE, EVENT_TYPE, ROOT, SECRETS, Lab, Service
from tests.support.waiting import wait_for


def free_port() -> int:
    """Return a port that is free on the IPv6 loopback."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return int(probe.getsockname()[1])


def health_check() -> list[str]:
    """Return the command of the image's health check."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.*\])", text)
    return [sys.executable, *json.loads(command)[1:]]


def test_ipv6_address_and_a_port_in_use(lab: Lab, tmp_path: Path) -> None:
    """BIND_HOST decides where it listens. A second service says in one sentence why it cannot."""
    port = free_port()
    environment = lab.environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/inbox.sqlite3", BIND_HOST="::1", PORT=port
    )
    service = Service(environment, ("-m", "gunicorn"))
    lab.services.append(service)
    wait_for(lambda: f"Listening at: http://[::1]:{port}" in service.log, DEADLINE)

    body = samples.encode(samples.notification(EVENT_TYPE))
    url = f"http://[::1]:{port}/webhook"
    assert post(url, body, samples.sign(body, SECRETS[0])).outcome == "handled"
    assert f'"webhook": "{url}"' in service.log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    healthy = subprocess.run(health_check(), env=environment, check=False)
    assert healthy.returncode == 0

    second = Service(environment, ("-m", "gunicorn"))
    lab.services.append(second)
    assert second.wait() == 1
    second.end()
    _, _, said = second.log.partition("The service cannot listen:\n")
    assert said.startswith(
        f"  - Port {port} cannot be opened: {os.strerror(errno.EADDRINUSE)}. End the process"
    )
    assert said.count("\n") == 1
    assert "Errno" not in second.log
