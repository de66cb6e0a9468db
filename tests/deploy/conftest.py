"""The image of the service and the one of the example, built once for all tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import ROOT, Buildah, Image, processes_with
from tests.support.ports import free_port

BASE = "localhost/base"
SERVICE = "stripe-event-receiver"
TEAM = ROOT / "examples" / "team"


def version() -> str:
    """Return the version in pyproject.toml."""
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("version = ")]
    return line.split('"')[1]


def make(*words: str) -> None:
    """Run make at the top of the repository, free of the make that runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    """Buildah with a base image that has Python."""
    # Not in pytest's folder: the images are large, and mounted.
    with tempfile.TemporaryDirectory(prefix="buildah-") as folder:
        buildah = Buildah(Path(folder))
        buildah.make_base(BASE)
        yield buildah
        buildah.run("rm", "--all")


@pytest.fixture(scope="session")
def service_image(buildah: Buildah) -> Iterator[Image]:
    """The image of the service, built as an operator builds it."""
    options = " ".join([*buildah.options, f"--build-arg=BASE_IMAGE={BASE}"])
    make("image", f"BUILDER={' '.join(buildah.command)}", f"BUILD_OPTIONS={options}")
    with buildah.unpacked(f"{SERVICE}:{version()}") as image:
        yield image


@pytest.fixture(scope="session")
def otel_image(buildah: Buildah) -> Iterator[Image]:
    """The image of the service with the extra otel."""
    options = " ".join([*buildah.options, f"--build-arg=BASE_IMAGE={BASE}"])
    builder = f"BUILDER={' '.join(buildah.command)}"
    make("image", "EXTRA=otel", builder, f"BUILD_OPTIONS={options}")
    with buildah.unpacked(f"{SERVICE}:{version()}-otel") as image:
        yield image


@pytest.fixture(scope="session")
def team_image(buildah: Buildah, service_image: Image) -> Iterator[Image]:
    """The image of the example, on top of the one of the service."""
    assert service_image.root.is_dir()
    problem = buildah.build(TEAM, "team")
    assert problem == ""
    with buildah.unpacked("team") as image:
        yield image


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    """A folder for /srv/var that the user of the image may write.

    No process of a container with this folder is left after the test.
    """
    folder = tmp_path / "var"
    folder.mkdir()
    os.chown(folder, 10001, 0)
    yield folder
    assert processes_with(folder) == []


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()
