"""Files for tests."""

from __future__ import annotations

from pathlib import Path


def write(file: Path, text: str) -> None:
    """Write a file and its parent folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
