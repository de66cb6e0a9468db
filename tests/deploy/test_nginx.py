"""deploy/compose/nginx.conf with the real nginx, in front of two real web services."""

from __future__ import annotations

import http.client
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from devkit import samples
from tests.support import pages
from tests.support.gunicorn_server import Response
from tests.support.images import ROOT, SECONDS
from tests.support.name_server import name_server
from tests.support.ports import free_port
from tests.support.services import EVENT_TYPE, HANDLER, MODULE, SECRETS, Lab, Service
from tests.support.waiting import wait_for

CONFIG = ROOT / "deploy" / "compose" / "nginx.conf"
#: The beginning of the location that forwards deliveries.
LOCATION = "        location ~ ^/webhook/?$ {\n"
#: The addresses of the two web services, as of two containers.
ADDRESSES = ["127.0.0.2", "127.0.0.3"]
#: What a service answers after it was sent a delivery, while it stops and when it dies.
ANSWERS = {"stops": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "dies": b""}


class Nginx:
    """Nginx with the shipped configuration, for other addresses, and with an own certificate."""

    def __init__(self, folder: Path, *, names: int, port: int, location: str = LOCATION) -> None:
        """Take a folder, the ports of the name server and of the services, and a location."""
        self.port = free_port()
        self._certificate = folder / "certificate"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(folder / "key"), "-out", str(self._certificate)]
        make = ["openssl", "req", "-x509", *key, *name, *files]
        subprocess.run(make, check=True, capture_output=True)
        text = CONFIG.read_text(encoding="utf-8")
        for shipped, own in {
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "resolver 127.0.0.11": f"resolver 127.0.0.1:{names}",
            "http://web:4242": f"http://web:{port}",
            "/run/tls/": f"{folder}/",
            "/dev/std": f"{folder}/std",
            LOCATION: location,
            "proxy_connect_timeout 2s": "proxy_connect_timeout 1s",
        }.items():
            assert shipped in text
            text = text.replace(shipped, own)
        self._file = folder / "nginx.conf"
        self._file.write_text(text, encoding="utf-8")
        self._folder = folder

    def command(self, *options: str) -> list[str]:
        """Return a command of nginx for this configuration."""
        directives = f"daemon off; pid {self._folder}/nginx.pid;"
        return ["nginx", "-e", "stderr", "-c", str(self._file), "-g", directives, *options]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it, and stop it at the end."""
        process = subprocess.Popen(self.command())
        try:
            wait_for(self.listens, SECONDS)
            yield
        finally:
            process.terminate()
            process.wait(SECONDS)

    def listens(self) -> bool:
        """Return whether it answers."""
        with suppress(OSError):
            return self.ask("GET", "/").status == http.client.NOT_FOUND
        return False

    @property
    def errors(self) -> str:
        """Its error log so far."""
        return (self._folder / "stderr").read_text(encoding="utf-8")

    def has_met(self, error: str) -> bool:
        """Return whether it has logged an error of a service."""
        return error in self.errors

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request over TLS. ``_`` in a header's name becomes ``-``."""
        context = ssl.create_default_context(cafile=str(self._certificate))
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=SECONDS, context=context
        )
        with closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())

    def deliver(self, event_id: str, path: str = "/webhook") -> tuple[int, str]:
        """Deliver an event. Return the status, and the outcome or the error."""
        body = samples.encode(samples.notification(EVENT_TYPE, event_id=event_id))
        signature = samples.sign(body, SECRETS[0])
        answer = self.ask("POST", path, body, Stripe_Signature=signature)
        return answer.status, answer.json.get("outcome") or answer.json["error"]


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services that end with the test."""
    lab = Lab(tmp_path / "packages" / make_handlers(**{MODULE: HANDLER}))
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def web(lab: Lab, postgresql_url: str, port: int) -> list[Service]:
    """Two web services that run no callbacks, as in compose.yaml."""
    return [
        lab.start(
            postgresql_url,
            *("--bind", f"{address}:{port}"),
            PROCESSING="queue",
            WORKER_THREADS=0,
            WEB_CONCURRENCY=1,
        )
        for address in ADDRESSES
    ]


@pytest.fixture
def nginx(tmp_path: Path, web: list[Service], port: int) -> Iterator[Nginx]:
    """Nginx in front of the two, with the lines that the page shows for a path prefix."""
    for service in web:
        wait_for(service.is_ready, SECONDS)
    (snippet,) = [
        block.text
        for block in pages.blocks("docs/deploy.md", "Behind a path prefix")
        if block.kind == "nginx"
    ]
    with name_server(ADDRESSES) as names:
        nginx = Nginx(tmp_path, names=names, port=port, location=snippet)
        with nginx.running():
            yield nginx


@contextmanager
def vanished(address: str, port: int) -> Iterator[None]:
    """Drop all new connections to an address, as the network does after a container is removed."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):  # the kernel drops what does not fit into the backlog
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(server.getsockname())
        yield


@contextmanager
def failing(address: str, port: int, answer: bytes) -> Iterator[list[bytes]]:
    """Answer all requests to an address with these bytes, and close. Give the requests."""
    asked: list[bytes] = []

    class Failing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(65536))
            self.request.sendall(answer)

    class Server(socketserver.TCPServer):
        allow_reuse_address = True  # a connection of the service before can still be closing

    with Server((address, port), Failing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def accepted(services: list[Service]) -> list[int]:
    """Return how many deliveries each service has accepted."""
    return [each.log.count('"outcome": "accepted"') for each in services]


def deliver_until(
    is_met: Callable[[], bool], nginx: Nginx, name: str, path: str = "/webhook"
) -> list[str]:
    """Deliver events until nginx has met a failure. All are accepted. Return their ids.

    Nginx chooses a service at random.
    """
    ids: list[str] = []
    while not is_met():
        assert len(ids) < 64, nginx.errors
        ids.append(f"evt_{name}_{len(ids)}")
        assert nginx.deliver(ids[-1], path) == (200, "accepted")
    return ids


def test_configuration_is_valid(tmp_path: Path) -> None:
    """Nginx accepts the configuration."""
    nginx = Nginx(tmp_path, names=53, port=4242)
    done = subprocess.run(nginx.command("-t"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_deliveries_reach_all_containers(
    nginx: Nginx, web: list[Service], lab: Lab, postgresql_url: str, port: int
) -> None:
    """Both services get deliveries. When one stops, dies or vanishes, the other one gets all.

    A worker runs them. No other path is forwarded but the one with the page's prefix.
    """
    ids: list[str] = []
    while len(ids) < 8 or min(accepted(web)) == 0:  # nginx chooses at random
        assert len(ids) < 64, accepted(web)
        ids.append(f"evt_{len(ids)}")
        assert nginx.deliver(ids[-1]) == (200, "accepted")
    web[0].terminate()
    assert web[0].wait() == 0
    ids += deliver_until(partial(nginx.has_met, "refused"), nginx, "refused")
    for name, answer in ANSWERS.items():
        with failing(ADDRESSES[0], port, answer) as asked:
            ids += deliver_until(partial(bool, asked), nginx, name)
    with vanished(ADDRESSES[0], port):
        is_met = partial(nginx.has_met, "timed out")
        ids += deliver_until(is_met, nginx, "vanished", "/stripe/webhook/")

    assert nginx.deliver("evt_prefix", "/stripe/webhook") == (200, "accepted")
    refused = nginx.ask("POST", "/webhook", b"{}")
    assert (refused.status, "error" in refused.json) == (400, True)
    assert "error" in nginx.ask("POST", "/webhook/", b"{}").json
    assert nginx.ask("POST", "/webhook", b"x" * 300_000).status == 400
    large = nginx.ask("POST", "/webhook", b"x" * 600_000)
    assert (large.status, large.json) == (413, {"error": "the body is too large"})
    assert {nginx.ask("GET", path).status for path in ("/readyz", "/healthz", "/")} == {404}

    lab.start_worker(postgresql_url)
    done = [*ids, "evt_prefix"]
    wait_for(
        lambda: {each.event_id for each in lab.journal() if each.what == "end"} == {*done}, SECONDS
    )
