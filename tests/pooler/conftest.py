"""Fixtures of the tests behind PgBouncer in transaction mode, which ``make test-pooler`` runs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.services import DEADLINE, HANDLER, HOST, MODULE, Lab
from tests.support.waiting import wait_for

#: Debian installs it here, which is not on the PATH of every user.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

if PGBOUNCER is None:
    collect_ignore_glob = ["test_*"]

CONFIGURATION = """
[databases]
* = host={host} port={server_port} user={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
{user}
"""


@dataclass(frozen=True)
class Pooler:
    """PgBouncer in front of a new database, and the URLs of both."""

    url: str
    direct_url: str
    port: int


def free_port() -> int:
    """Return a port on which nothing listens."""
    with closing(socket.create_server((HOST, 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(server: sa.URL, size: int) -> Iterator[int]:
    """Run a PgBouncer with ``size`` connections to the ``server``. Yields its port."""
    assert PGBOUNCER is not None
    port, host = free_port(), str(server.query.get("host") or server.host)
    # It refuses to run as root, and has to reach the server's socket.
    owner = pwd.getpwuid(Path(host).stat().st_uid if Path(host).exists() else os.getuid())
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        file = Path(folder) / "pgbouncer.ini"
        text = CONFIGURATION.format(
            host=host,
            server_port=server.port or 5432,
            role=server.username,
            port=port,
            size=size,
            user=f"user = {owner.pw_name}" if os.getuid() == 0 else "",
        )
        file.write_text(text)
        os.chown(folder, owner.pw_uid, -1)
        process = subprocess.Popen([PGBOUNCER, str(file)], stdout=subprocess.DEVNULL)

        def accepts() -> bool:
            assert process.poll() is None, "PgBouncer ended"
            with closing(socket.socket()) as client:
                return client.connect_ex((HOST, port)) == 0

        try:
            wait_for(accepts, DEADLINE)
            yield port
        finally:
            process.terminate()
            process.wait(DEADLINE)


@pytest.fixture
def pooler(postgresql: str) -> Iterator[Pooler]:
    """PgBouncer with two connections, in front of a database of strict defaults."""
    name = f"test_{uuid.uuid4().hex}"
    server = sa.make_url(postgresql).set(drivername="postgresql+psycopg")
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        for default in ("synchronous_commit = off", "default_transaction_isolation = serializable"):
            connection.execute(f"ALTER DATABASE {name} SET {default}")
        with running(server, size=2) as port:
            direct = server.set(database=name)
            pooled = direct.set(host=HOST, port=port).difference_update_query(["host"])
            yield Pooler(
                pooled.render_as_string(hide_password=False),
                direct.render_as_string(hide_password=False),
                port,
            )
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services whose callbacks write a journal. They end with the test."""
    with closing(Lab(tmp_path / "packages" / make_handlers(**{MODULE: HANDLER}))) as lab:
        yield lab
