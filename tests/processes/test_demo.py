"""``make demo``, run as a process that starts other processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from app.processing import registry
from devkit import demo
from devkit.http_client import Answer
from devkit.stripe_api import StripeApi

ROOT = Path(__file__).resolve().parents[2]
#: Settings of a user for another service. None of them may reach the service of the demo.
FOREIGN = {
    "STRIPE_API_KEY": "sk_live_fake_of_a_user",
    "STRIPE_WEBHOOK_SECRET": "no secret at all",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "HANDLERS_PACKAGE": "no_such_package",
    "LOG_LEVEL": "error",
}
HANDLED = demo.Delivery("an event", {}, 200, "handled", "it is so")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """A function that starts the demo with its temporary files in ``tmp_path``."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "devkit.demo"],
            cwd=ROOT,
            env={**os.environ, **FOREIGN, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until the condition holds. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Return true if the process exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def workers(folder: Path) -> list[int]:
    """Return the worker processes in the log of the demo's gunicorn."""
    logs = [path.read_text(encoding="utf-8") for path in folder.glob("*/log")]
    return [int(pid) for log in logs for pid in re.findall(r"worker with pid: (\d+)", log)]


class TestDemo:
    """The demo shows the service, compares its results, and cleans up."""

    @pytest.mark.measured
    def test_all_is_as_expected(
        self, run: Callable[[], subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        """The demo succeeds with any settings of the user, and leaves no file."""
        process = run()
        shown, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        assert "All of it as expected." in shown
        assert list(tmp_path.iterdir()) == []

    def test_tables_are_shown(self, run: Callable[[], subprocess.Popen[str]]) -> None:
        """Answers, inbox, requests to Stripe's API and log lines are aligned tables."""
        shown, _ = run().communicate(timeout=120)
        rows = [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]
        assert ["a meter's error report", "200", "handled", "its module fetched the event"] in rows
        assert ["evt_demo_failing", "v1.invoice.paid", "done", "2", "3", "handled"] in rows
        assert ["GET /v2/core/events/evt_demo_meter", "event=evt_demo_meter", "-"] in rows
        logged = next(row for row in rows if "meter_usage_rejected" in row)
        assert "summary=There is 1 invalid event" in logged[-1]
        assert str(ROOT) not in shown

    @pytest.mark.measured
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_signal_ends_everything(
        self, number: int, run: Callable[[], subprocess.Popen[str]], tmp_path: Path
    ) -> None:
        """A signal ends all processes of the demo, removes its files, and prints nothing."""
        process = run()
        wait_for(lambda: workers(tmp_path))
        pids = workers(tmp_path)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (128 + number, "")
        assert [pid for pid in pids if is_running(pid)] == []
        assert list(tmp_path.iterdir()) == []


class TestService:
    """The service of the demo is the real one, as a child process."""

    def test_service_that_cannot_start(self, tmp_path: Path) -> None:
        """If the service fails to start, the demo exits with the log of the service."""
        demo.write_handlers(tmp_path)
        (tmp_path / demo.PACKAGE / "v1_custommer_created.py").write_text("", encoding="utf-8")
        with (
            pytest.raises(SystemExit, match=r"does not answer(.|\n)*v1\.custommer\.created"),
            demo.service(tmp_path, "http://127.0.0.1:1"),
        ):
            pytest.fail("it is not ready")

    def test_service_that_is_slow(self, tmp_path: Path) -> None:
        """If the service is not ready in time, it is ended, and the demo fails."""
        demo.write_handlers(tmp_path)
        with (
            pytest.raises(SystemExit, match="not ready after 0 s"),
            demo.service(tmp_path, "http://127.0.0.1:1", patience=0),
        ):
            pytest.fail("it is not ready")

    def test_service_that_breaks_off(self, tmp_path: Path) -> None:
        """If a delivery has no answer, the demo exits with the log of the service."""
        demo.write_handlers(tmp_path)
        with (
            pytest.raises(SystemExit, match=r"Connection refused(.|\n)*Booting worker"),
            StripeApi().serve() as api,
            demo.service(tmp_path, api.url) as url,
        ):
            HANDLED.post(url.replace("127.0.0.1", "127.0.0.2"))

    def test_process_that_ignores_sigterm_is_killed(self) -> None:
        """A process that ignores SIGTERM is killed with its children."""
        child = "import time; time.sleep(600)"
        script = (
            "import signal, subprocess, sys, time;"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            f"child = subprocess.Popen([sys.executable, '-c', {child!r}]);"
            "print(child.pid, flush=True);"
            "time.sleep(600)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            demo.end(process, patience=0.1)
            assert process.returncode == -signal.SIGKILL
            wait_for(lambda: not is_running(pid) or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    """Return true if the process has ended and its parent has not read its status."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return state.stdout.startswith("Z")


class TestVerdict:
    """Unexpected results are printed and decide the exit status."""

    @pytest.mark.parametrize(
        ("answer", "problems"),
        [
            (Answer(200, "handled", 1.0), []),
            (Answer(200, "duplicate", 1.0), ["an event: 200 duplicate, instead of 200 handled"]),
            (Answer(500, "handled", 1.0), ["an event: 500 handled, instead of 200 handled"]),
        ],
    )
    def test_answers_are_compared(self, answer: Answer, problems: list[str]) -> None:
        """An answer must have the expected status, and the expected beginning of its text."""
        assert demo.wrong_answers([HANDLED], [answer]) == problems
        longer = replace(answer, outcome=f"{answer.outcome} and more")
        assert bool(demo.wrong_answers([HANDLED], [longer])) == bool(problems)

    def test_missing_events_are_noticed(self) -> None:
        """With an empty inbox each expected event is a problem."""
        problems = demo.wrong_events([])
        assert len(problems) == len(demo.RECORDED)
        assert (
            "evt_demo_live: the inbox has None, instead of ('done', 0, 1, 'wrong_mode')" in problems
        )

    def test_problems_fail_the_demo(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each problem is printed to standard error, and the exit status is 1."""
        assert demo.judge(["this", "that"]) == 1
        assert capsys.readouterr().err == "Not as expected:\n  this\n  that\n"


def test_each_shipped_module_is_shown() -> None:
    """The demo delivers an event for each handler module of the repository."""
    delivered = {delivery.body.get("type") for delivery in demo.script(StripeApi())}
    assert {module.event_type for module in registry.load("handlers").modules} <= delivered
