"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.testing import samples
from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


HANDLER, TEST = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_handler_runs(
    make_receiver: Callable[..., Receiver],
    stripe_api: StripeApi,
    logged: Callable[[str], dict[str, Any]],
) -> None:
    """The whole handler of the README, in a file of its type's name, does what it says."""
    receiver = make_receiver({"v1_customer_created": HANDLER}, stripe_api_base=stripe_api.url)
    notification = samples.notification("v1.customer.created")
    stripe_api.put_related_object(notification, email="jenny@example.com")

    assert receiver.deliver(notification).status_code == 200

    assert logged("customer_created")["email"] == "jenny@example.com"


def test_the_handler_passes_the_checks(tmp_path: Path) -> None:
    """Who copies it finds nothing to mend: not for the linter, the formatter, or the types."""
    # A folder of that name, so that the rules for handlers apply.
    file = tmp_path / "handlers" / "v1_customer_created.py"
    file.parent.mkdir()
    (file.parent / "__init__.py").write_text('"""Handlers."""\n')
    file.write_text(HANDLER)
    config = ["--config", str(ROOT / "pyproject.toml")]
    for command in (
        ["ruff", "check", *config, str(file)],
        ["ruff", "format", "--check", *config, str(file)],
        ["mypy", "--config-file", str(ROOT / "pyproject.toml"), str(file)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
