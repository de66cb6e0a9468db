"""The image of the service, and the image of a team on top of it, in containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest

from devkit import samples
from devkit.deliver import API_KEY, SECRET
from devkit.http_client import Answer, post
from devkit.stripe_api import StripeApi
from tests.deploy.conftest import TEAM, make, version
from tests.support import pages
from tests.support.images import ROOT, SECONDS, Buildah, Image
from tests.support.otlp import collecting
from tests.support.waiting import wait_for

TYPE = "v1.checkout.session.completed"
OTHER = "v1.customer.created"
#: Names and versions in a lock, and in the folder of the installed packages.
LOCKED = re.compile(r"^([a-z0-9-]+)==([^\s;]+)", re.MULTILINE)
INSTALLED = re.compile(r"(.+)-(.+)\.dist-info")


def installed(image: Image) -> set[tuple[str, str]]:
    """Return the names and versions of the Python packages in an image."""
    (packages,) = image.root.glob("opt/venv/lib/python*/site-packages")
    found = [INSTALLED.fullmatch(each.name) for each in packages.iterdir()]
    return {(match[1].lower().replace("_", "-"), match[2]) for match in found if match}


def locked(lock: Path) -> set[tuple[str, str]]:
    """Return the names and versions in a lock."""
    return set(LOCKED.findall(lock.read_text(encoding="utf-8")))


def is_healthy(port: int) -> bool:
    """Return whether /healthz answers 200."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def deliver(port: int, notification: Mapping[str, object]) -> Answer:
    """Deliver a signed notification to a container."""
    body = samples.encode(notification)
    return post(f"http://127.0.0.1:{port}/webhook", body, samples.sign(body, SECRET))


@pytest.fixture
def settings(port: int) -> dict[str, str]:
    """Settings of a container."""
    return {"STRIPE_API_KEY": API_KEY, "STRIPE_WEBHOOK_SECRET": SECRET, "PORT": str(port)}


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the example that a test may change."""
    return Path(shutil.copytree(TEAM, tmp_path / "team"))


@pytest.fixture
def sbom(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    """The bill of materials that ``make sbom`` writes."""
    file = tmp_path / "sbom.json"
    make("sbom", f"SBOM={file}")
    bill: dict[str, list[dict[str, str]]] = json.loads(file.read_text(encoding="utf-8"))
    return bill


class TestService:
    """The image of the service."""

    def test_container_serves_and_stops(
        self, service_image: Image, settings: dict[str, str], var: Path, port: int
    ) -> None:
        """With a read-only root and as the image's user, a container records a delivery.

        It is the first process of its container, and it ends on SIGTERM with status 0.
        """
        with service_image.started(var, settings) as container:
            wait_for(lambda: is_healthy(port), SECONDS)
            assert container.user == service_image.config["User"] == "10001:0"
            answer = deliver(port, samples.notification("v1.customer.created"))
            assert (answer.status, answer.outcome) == (200, "fallback")
            listed = service_image.run(var, settings, "flask", "events", "list", "--json")
            assert [each["state"] for each in json.loads(listed)] == ["done"]
            os.kill(container.pid, signal.SIGTERM)
            assert container.process.wait(SECONDS) == 0

    def test_health_check(
        self, service_image: Image, settings: dict[str, str], var: Path, port: int
    ) -> None:
        """The health check of the image succeeds while the service answers."""
        kind, *check = service_image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        with service_image.started(var, settings):
            wait_for(lambda: is_healthy(port), SECONDS)
            assert service_image.run(var, settings, *check) == ""

    def test_label_has_the_version(self, service_image: Image) -> None:
        """`make image` labels the image with the version in pyproject.toml."""
        assert service_image.config["Labels"]["org.opencontainers.image.version"] == version()
        # Failures name the commit. The image has no git to read it from.
        revision = service_image.config["Labels"]["org.opencontainers.image.revision"]
        assert re.fullmatch(r"[0-9a-f]{12}", revision)
        assert f"RELEASE={revision}" in service_image.config["Env"]

    def test_size(self, service_image: Image) -> None:
        """The image adds less to its base than the documentation says, and not much less."""
        (limit,) = re.findall(r"adds at most (\d+) MB", pages.PAGES["docs/deploy.md"])
        assert 0.8 * int(limit) < service_image.megabytes("opt/venv", "srv") < int(limit)

    def test_sbom_lists_the_packages(
        self, service_image: Image, sbom: dict[str, list[dict[str, str]]]
    ) -> None:
        """`make sbom` names the service, and each package of the image with its version."""
        listed = {(each["name"], each["version"]) for each in sbom["components"]}
        assert listed == locked(ROOT / "requirements.lock")
        assert installed(service_image) <= listed
        # A lock is for all platforms. Only packages with a marker may be missing.
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        marked = {name for name, _ in listed if re.search(rf"^{name}==\S+ ;", lock, re.MULTILINE)}
        assert {name for name, _ in listed - installed(service_image)} <= marked


class TestExtra:
    """The image with the extra otel."""

    def test_container_exports_spans(
        self, otel_image: Image, settings: dict[str, str], var: Path, port: int
    ) -> None:
        """A delivery leaves the span of the delivery and that of its attempt at the collector."""
        with collecting() as collector:
            settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
            with otel_image.started(var, settings):
                wait_for(lambda: is_healthy(port), SECONDS)
                assert deliver(port, samples.notification(OTHER)).outcome == "fallback"
                wait_for(lambda: collector.named(f"process {OTHER}"), SECONDS)
            assert len(collector.named("POST /webhook")) == 1

    def test_packages_are_those_of_its_lock(self, otel_image: Image, service_image: Image) -> None:
        """The image has the packages of the other image, and those of the extra."""
        more = installed(otel_image) - installed(service_image)
        assert more == locked(ROOT / "requirements-otel.lock") - locked(ROOT / "requirements.lock")

    def test_lock_is_the_one_for_images_on_top(self, otel_image: Image) -> None:
        """An image on top of this one gets the versions of the extra as constraints."""
        own = (otel_image.root / "srv" / "requirements.lock").read_bytes()
        assert own == (ROOT / "requirements-otel.lock").read_bytes()


class TestTeam:
    """The example of a team with a handler and a package of its own."""

    def test_container_runs_the_handler(
        self, team_image: Image, settings: dict[str, str], var: Path, port: int
    ) -> None:
        """A signed delivery runs the team's handler, which uses the team's package."""
        notification = samples.notification(TYPE)
        with StripeApi().serve() as api:
            api.offer(notification, fields={"metadata": {"sku": "tea", "quantity": "2"}})
            settings["STRIPE_API_BASE"] = api.url
            with team_image.started(var, settings) as container:
                wait_for(lambda: is_healthy(port), SECONDS)
                answer = deliver(port, notification)
                assert (answer.status, answer.outcome) == (200, "handled")
                (line,) = container.lines("order_placed")
                assert (line["sku"], line["quantity"]) == ("tea", 2)

    def test_packages_of_the_service_stay(self, team_image: Image, service_image: Image) -> None:
        """The image of the team has the service's packages unchanged, and those of its lock."""
        own = locked(TEAM / "requirements.lock")
        assert installed(team_image) == installed(service_image) | own

    def test_shipped_handlers_are_gone(
        self, team_image: Image, settings: dict[str, str], var: Path
    ) -> None:
        """Only the team's handlers are plugged in."""
        listed = team_image.run(var, settings, "flask", "handlers", "list", "--json")
        assert [each["type"] for each in json.loads(listed)] == [TYPE, "fallback"]

    def test_other_version_of_a_package_is_refused(
        self, buildah: Buildah, service_image: Image, changed: Path
    ) -> None:
        """A lock that asks for another version of a package of the service fails the build."""
        assert ("typing-extensions", "4.16.0") in installed(service_image)
        lock = changed / "requirements.lock"
        text = lock.read_text(encoding="utf-8")
        lock.write_text(text.replace("extensions==4.16.0", "extensions==4.15.0"), encoding="utf-8")
        problem = buildah.build(changed, "changed")
        assert "The user requested typing-extensions==4.15.0" in problem
        assert "The user requested (constraint) typing-extensions==4.16.0" in problem

    def test_handler_that_cannot_work_is_refused(
        self, buildah: Buildah, team_image: Image, changed: Path
    ) -> None:
        """A handler with which the service would not start fails the build, by its name."""
        assert team_image.root.is_dir()
        handler = changed / "handlers" / "v1_custommer_created.py"
        handler.write_text("def handle(notif, client): pass\n", encoding="utf-8")
        problem = buildah.build(changed, "changed")
        assert "handlers/v1_custommer_created.py" in problem
        assert "v1.customer.created" in problem
