"""Images that buildah builds without a daemon, and containers of them without a runtime."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.support.waiting import wait_for

T = TypeVar("T", str, bytes)

ROOT = Path(__file__).parents[2]
SECONDS = 300
"""The longest time that a command or a container may take."""

#: This machine's certificate authorities. Behind a proxy, pip in a build needs them.
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
#: The base image is made of these Debian packages: no registry is needed.
DEBIAN = ("bookworm", "python3,python3-venv,ca-certificates")

#: Starts a container: its root is read-only except for /tmp and /srv/var, as in deploy/.
START = """
root=$1 var=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$var" "$root/srv/var"
exec chroot --userspec="$user" --groups=0 "$root" env --ignore-environment "$@"
"""


def processes_with(var: Path) -> list[int]:
    """Return the ids of all processes in containers that have this folder at /srv/var."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has no such folder, or has just ended
            if (each / "root" / "srv" / "var").samefile(var):
                found.append(int(each.name))
    return found


def _children(process: subprocess.Popen[Any]) -> list[int]:
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(each) for each in file.read_text(encoding="utf-8").split()]


@contextlib.contextmanager
def _killed(process: subprocess.Popen[T]) -> Iterator[subprocess.Popen[T]]:
    """Kill the processes of a container at the end of the block, and wait until they have ended.

    ``process`` is unshare. The kernel ends a container with its first process, but not with
    unshare: its option ``--kill-child`` has no effect after chroot has changed the user.
    """
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for pid in _children(process) or [process.pid]:
                    with contextlib.suppress(ProcessLookupError):  # it has just ended
                        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Image:
    """An image: its files in the folder ``root``, and its configuration as Docker has it."""

    root: Path
    config: Mapping[str, Any]

    def megabytes(self, *folders: str) -> float:
        """Return the size of all files below these folders, in millions of bytes."""
        files = [each for folder in folders for each in (self.root / folder).rglob("*")]
        return sum(each.lstat().st_size for each in files if not each.is_dir()) / 1e6

    def command(self, var: Path, settings: Mapping[str, str], *words: str) -> list[str]:
        """Return the command that runs ``words``, or the image's own command, in a container.

        It has process and mount namespaces of its own, the image's user and environment, and the
        network of this machine. ``var`` is mounted at /srv/var.
        """
        own = dict(each.split("=", 1) for each in self.config["Env"])
        pairs = [f"{name}={value}" for name, value in {**own, **settings}.items()]
        inside = [f"--chdir={self.config['WorkingDir']}", *pairs, *(words or self.config["Cmd"])]
        namespaces = ["--mount", "--pid", "--fork"]
        start = ["sh", "-euc", START, "sh", str(self.root), str(var), self.config["User"]]
        return ["unshare", *namespaces, *start, *inside]

    def run(self, var: Path, settings: Mapping[str, str], *words: str) -> str:
        """Return the output of a command in a container. It has to succeed."""
        pipe, command = subprocess.PIPE, self.command(var, settings, *words)
        with _killed(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)) as process:
            output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors
        return output

    @contextlib.contextmanager
    def started(self, var: Path, settings: Mapping[str, str]) -> Iterator[Container]:
        """Run the image's own command in a container, and kill it at the end."""
        log = var.parent / "log"
        with log.open("wb") as output:
            command = self.command(var, settings)
            with _killed(subprocess.Popen(command, stdout=output, stderr=output)) as process:
                yield Container(process, log)


@dataclass(frozen=True)
class Container:
    """A running container, and the file with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id, outside of the container, of its first process."""
        (pid,) = _children(self.process)
        return pid

    @property
    def user(self) -> str:
        """The numbers of its user and group, with a colon."""
        status = Path(f"/proc/{self.pid}").stat()
        return f"{status.st_uid}:{status.st_gid}"

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of each line of the log with this ``event``."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the fields of the first line of the log with this ``event``."""

        def is_there() -> bool:
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            return bool(self.lines(event))

        wait_for(is_there, SECONDS)
        return self.lines(event)[0]


class Buildah:
    """Buildah with a store of its own, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder
        self.command = ["buildah", "--root", f"{folder}/store", "--runroot", f"{folder}/run"]
        pip = folder / "pip.conf"
        pip.write_text("[global]\ncert = /run/secrets/ca\n", encoding="utf-8")
        secrets = [f"--secret=id=pip,src={pip}", f"--secret=id=ca,src={AUTHORITIES}"]
        # OCI's format has no health check.
        own = ["--isolation=chroot", "--network=host", "--format=docker", "--layers"]
        self.options = [*own, *secrets]

    def run(self, *words: str) -> str:
        """Return the output of a buildah command. It has to succeed."""
        done = self._call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def build(self, context: Path, image: str, **arguments: str) -> str:
        """Build ``image`` with these build arguments. Return the errors, or an empty text."""
        pairs = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        done = self._call("build", *self.options, *pairs, "--tag", image, str(context))
        return done.stdout + done.stderr if done.returncode else ""

    def make_base(self, image: str) -> None:
        """Make an image of Debian's packages that has Python."""
        archive = str(self._folder / "base.tar")
        release, packages = DEBIAN
        options = ["--quiet", "--variant=essential", f"--include={packages}"]
        subprocess.run(["mmdebstrap", *options, release, archive], check=True, timeout=SECONDS)
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, archive, "/")
        self.run("commit", "--quiet", "--rm", container, image)

    @contextlib.contextmanager
    def unpacked(self, image: str) -> Iterator[Image]:
        """Give the image with its files, which the containers share."""
        container = self.run("from", image)
        try:
            inspected = json.loads(self.run("inspect", "--type", "image", image))
            yield Image(Path(self.run("mount", container)), inspected["Docker"]["config"])
        finally:
            self.run("rm", container)

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words], capture_output=True, text=True, check=False, timeout=SECONDS
        )
