"""The report of pytest for a failed test of a handler begins with the team's own code."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from devkit.failures import readable
from tests.support.files import write

ROOT = Path(__file__).resolve().parents[2]
HANDLER = """
    def handle(notif, client):
        raise RuntimeError("no price for this customer")
"""
TESTS = """
    import sys

    from team import v1_customer_created

    pytest_plugins = ["devkit.plugin"]


    def test_through_the_service(deliver):
        print("from the test", file=sys.stderr)
        assert deliver("v1.customer.created").outcome == "handled"


    def test_callback_alone(run_handler):
        run_handler(v1_customer_created)


    def test_unreadable_type(run_handler):
        run_handler(v1_customer_created, "v1.invoice.paid")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a handler package and its tests."""
    folder = tmp_path_factory.mktemp("project")
    write(folder / "team" / "__init__.py", "")
    write(folder / "team" / "fallback.py", "def handle(notif, client, details): pass\n")
    write(folder / "team" / "v1_customer_created.py", textwrap.dedent(HANDLER))
    write(folder / "test_team.py", textwrap.dedent(TESTS))
    return folder


def report(folder: Path, *options: str) -> dict[str, str]:
    """Return the report of each failed test."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "HANDLERS_PACKAGE": "team"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_team.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    names = ("test_through_the_service", "test_callback_alone", "test_unreadable_type")
    text, reports = done.stdout, {}
    for name in reversed(names):
        text, _, reports[name] = (
            text.partition(f"_ {name} _")[0],
            "",
            text.partition(f"_ {name} _")[2],
        )
    return reports


def test_exception_is_shown_first(folder: Path) -> None:
    """The frames of the service and of the SDK are left out."""
    reports = report(folder)

    lines = reports["test_through_the_service"].splitlines()
    (at,) = (number for number, line in enumerate(lines) if "callback_raised" in line)
    assert "from the test" in lines
    assert lines[at + 1] == "RuntimeError: no price for this customer"
    assert lines[at + 2].endswith('team/v1_customer_created.py", line 3, in handle')
    assert lines[at + 4].endswith("more frames (--full-trace)")
    assert not any("_event_notification_handler.py" in line for line in lines)

    alone = reports["test_callback_alone"]
    assert "E       RuntimeError: no price for this customer" in alone
    assert "_event_notification_handler.py" not in alone
    assert "devkit/" not in alone


@pytest.mark.measured
def test_full_trace_shows_all_frames(folder: Path) -> None:
    """The option of pytest brings them back."""
    reports = report(folder, "--full-trace")
    assert all("_event_notification_handler.py" in text for text in reports.values())
    assert "Traceback (most recent call last):" in reports["test_through_the_service"]


@pytest.mark.parametrize(
    "line",
    ["", "a line", '{"timestamp": "a line that was cut', '{"event": "of another program"}'],
)
def test_other_lines_stay(line: str) -> None:
    """Only lines of the log are changed."""
    assert readable(line, "handlers", full=False) == line


def test_error_of_the_service_is_whole() -> None:
    """A traceback without a frame of the team has all frames."""
    frame = 'Traceback (most recent call last):\\n  File \\"/srv/app/x.py\\", line 1, in x\\n'
    line = f'{{"timestamp": "t", "level": "error", "event": "e", "exception": "{frame}OSError: x"}}'
    shown = readable(line, "handlers", full=False)
    assert shown.splitlines()[1:] == ["OSError: x", '  File "/srv/app/x.py", line 1, in x']
