"""The default of the setting RELEASE: the git commit of the working directory.

The commit is read from git's files. The image has no git, and a program would cost time at each
start.
"""

from __future__ import annotations

import re
from pathlib import Path

#: The digits of a commit, as ``make image`` shortens it.
DIGITS = 12

_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def git_release(folder: Path) -> str:
    """Return the short commit of the checkout around ``folder``. Empty if there is none."""
    try:
        commit = _commit(_git_folder(folder.resolve()))
    except (OSError, ValueError, StopIteration):  # no checkout, no permission, another format
        return ""
    return commit[:DIGITS]


def _git_folder(folder: Path) -> Path:
    """Return git's folder. In a work tree or a submodule, ``.git`` is a file with its path."""
    found = next(each / ".git" for each in (folder, *folder.parents) if (each / ".git").exists())
    if found.is_dir():
        return found
    return found.parent / found.read_text("utf-8").removeprefix("gitdir:").strip()


def _commit(git: Path) -> str:
    """Return the commit that is checked out. Raises ``ValueError`` if it is not in a file."""
    head = (git / "HEAD").read_text("utf-8").strip()
    if not head.startswith("ref: "):
        return _checked(head)
    branch = head.removeprefix("ref: ")
    shared = git / "commondir"
    common = git / shared.read_text("utf-8").strip() if shared.exists() else git
    if (common / branch).exists():
        return _checked((common / branch).read_text("utf-8").strip())
    packed = (common / "packed-refs").read_text("utf-8").splitlines()
    return _checked(next(each.split()[0] for each in packed if each.endswith(f" {branch}")))


def _checked(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise ValueError("no commit")
    return commit
