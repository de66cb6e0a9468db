"""Fixtures for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli import dev_server


@pytest.fixture(autouse=True)
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state file of ``make dev``. A developer may run another one in this folder."""
    path = tmp_path / "var" / "dev.json"
    monkeypatch.setattr(dev_server, "STATE_FILE", path)
    return path
