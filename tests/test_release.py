"""The release of the running code: the setting, else the git commit of the working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.release import git_release
from app.settings import Settings

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, and return what it prints."""
    done = subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


def commit(folder: Path) -> str:
    """Make a commit, and return its short form."""
    git(folder, "commit", "--allow-empty", "--message=x")
    return git(folder, "rev-parse", "--short=12", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of git without a commit."""
    folder = tmp_path / "team"
    folder.mkdir()
    git(folder, "init")
    return folder


def test_setting_wins(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the release is the commit of the working directory."""
    monkeypatch.chdir(checkout)
    environ = {"STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}
    expected = commit(checkout)
    assert Settings.load(environ, dotenv=None).release == expected
    assert Settings.load({**environ, "RELEASE": "1.4.2"}, dotenv=None).release == "1.4.2"


def test_commit_of_the_checkout(checkout: Path) -> None:
    """A branch, also where git has packed it, and a commit without a branch."""
    first = commit(checkout)
    assert git_release(checkout) == first

    git(checkout, "pack-refs", "--all")
    assert git_release(checkout) == first

    second = commit(checkout)
    assert second != first
    assert git_release(checkout) == second

    git(checkout, "checkout", "--detach", first)
    assert git_release(checkout) == first


def test_folder_inside_a_checkout(checkout: Path) -> None:
    """The service can be one folder of a larger repository."""
    inside = checkout / "services" / "stripe"
    inside.mkdir(parents=True)
    expected = commit(checkout)
    assert git_release(inside) == expected


def test_work_tree_has_its_own_commit(checkout: Path, tmp_path: Path) -> None:
    """Its ``.git`` is a file, and its branches are in the folder of the first checkout."""
    first = commit(checkout)
    other = tmp_path / "other"
    git(checkout, "worktree", "add", "-b", "fix", str(other))
    second = commit(other)

    assert (git_release(checkout), git_release(other)) == (first, second)


def test_no_release_is_no_error(checkout: Path, tmp_path: Path) -> None:
    """A folder without git, a repository without a commit, and files of another format."""
    assert git_release(Path("/")) == ""
    assert git_release(checkout) == ""

    (checkout / ".git" / "HEAD").write_bytes(b"\xff\n")
    assert git_release(checkout) == ""

    (checkout / ".git" / "HEAD").write_text("not a commit\n", encoding="utf-8")
    assert git_release(checkout) == ""

    (tmp_path / ".git").write_text("gitdir: nowhere\n", encoding="utf-8")
    assert git_release(tmp_path) == ""
