"""Packages of a team beside those of the service, with the commands of docs/extending.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.conftest import TEAM
from tests.support import pages
from tests.support.images import ROOT, SECONDS

PAGE = "docs/extending.md"
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-deploy.lock")
GIT = "git -c user.name=team -c user.email=team@example.com"
#: The page's command, without an installation of what was locked.
LOCK = "make --old-file=.venv/.installed lock UPGRADE="


def call(folder: Path, command: str, **variables: str) -> str:
    """Return the output of a shell command. It has to succeed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=folder,
        env={**env, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def versions(lock: Path) -> dict[str, str]:
    """Return the versions in a lock by package."""
    text = lock.read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """The example beside a clone of the service that is installed."""
    service = tmp_path / "stripe-event-receiver"
    service.mkdir()
    for name in ("app", "devkit", "handlers", "requirements.lock"):
        (service / name).symlink_to(ROOT / name)
    (service / ".venv").symlink_to(sys.prefix)
    return Path(shutil.copytree(TEAM, tmp_path / "team"))


def test_example_passes_its_tests(team: Path, tmp_path: Path) -> None:
    """The tests of the example pass beside a clone of the service, by the page's command."""
    (command,) = [each for each in pages.commands(PAGE, "Tests") if "pytest" in each]
    # Another folder than the environment of this repository, which has no package of a team.
    own = tmp_path / "packages"
    (install,) = [each for each in pages.commands(PAGE, "Tests") if "pip install" in each]
    call(team, f"{install} --quiet --no-deps --target {own}")
    path = f"PYTHONPATH={own}:"
    assert "2 passed" in call(team, command.replace("PYTHONPATH=", path, 1))


def test_packages_are_locked_with_constraints(team: Path) -> None:
    """The page's command gives a package that both need the version of the service.

    It refuses a requirement that contradicts the service's version.
    """
    _, command = pages.commands(PAGE, "Packages")[:2]
    shutil.copy(ROOT / "requirements.lock", team / "service.lock")
    requirements = team / "requirements.in"
    uv = f"{command} --quiet"
    requirements.write_text("requests\nphonenumbers\n", encoding="utf-8")
    call(team, uv)
    own, service = versions(team / "requirements.lock"), versions(team / "service.lock")
    assert "phonenumbers" in own
    assert own["requests"] == service["requests"]
    requirements.write_text(f"requests<{service['requests']}\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="No solution found"):
        call(team, uv)


def lock_with(folder: Path, change: tuple[str, str]) -> None:
    """Change a line of pyproject.toml, lock, and commit."""
    project = folder / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    assert text.count(change[0]) == 1
    project.write_text(text.replace(*change), encoding="utf-8")
    call(folder, f"{LOCK}; {GIT} commit --quiet --all --message change")


def test_fork_merges_an_upgrade(tmp_path: Path) -> None:
    """By the page's commands, a fork keeps its package, and gets the service's new versions."""
    fork = tmp_path / "fork"
    fork.mkdir()
    for name in ("pyproject.toml", "Makefile", *LOCKS):
        shutil.copy(ROOT / name, fork)
    (fork / ".venv").symlink_to(sys.prefix)
    first = f"{GIT} init --quiet --initial-branch team; {GIT} add pyproject.toml Makefile *.lock"
    call(fork, f"{first}; {GIT} commit --quiet --message base; {GIT} branch upstream")
    # The locked entries of the two packages are neighbours: the merge conflicts.
    last = "sys_platform == 'linux' or sys_platform == 'darwin')\"\"\",\n]"
    lock_with(fork, (last, last.replace("]", '    "filelock",\n]')))
    call(fork, f"{GIT} checkout --quiet upstream")
    lock_with(fork, ('"flask>=3.1,<4"', '"flask==3.1.2"'))
    call(fork, f"{GIT} tag v9.0.0")
    call(fork, f"{GIT} checkout --quiet team")

    *begin, _, merge, take, lock, _ = pages.commands(PAGE, "A fork")
    assert [each.split()[:3] for each in begin[:2]] == [
        ["git", "remote", "rename"],
        ["git", "remote", "add"],
    ]
    with pytest.raises(AssertionError, match=r"Merge conflict in requirements\.lock"):
        call(fork, merge.replace("git", GIT).replace("VERSION", "9.0.0"))
    assert lock == "make lock UPGRADE="
    call(fork, f"{take}; {LOCK}")

    before, after = versions(ROOT / "requirements.lock"), versions(fork / "requirements.lock")
    assert after.pop("filelock")
    assert after == before | {"flask": "3.1.2"}
