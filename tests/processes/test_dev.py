"""``make dev`` with real processes, a real port, and files that change."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from app.cli.dev_server import INBOX, DevServer
from app.inbox import Inbox, NewEvent
from app.settings import Settings
from app.states import Outcome, State
from app.stripe_api.event_body import read_event
from devkit import dev, dev_service, placeholders, samples
from devkit.dev_state import announced
from devkit.http_client import Answer, post
from devkit.stripe_api import StripeApi
from tests.conftest import API_KEY, SECRET
from tests.support.output import Output
from tests.support.ports import free_port
from tests.support.services import children_of, is_alive
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "team_handlers"
TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
FALLBACK = "def handle(notif, client, details): pass\n"
SAY = """
import structlog

def handle(notif, client):
    customer = notif.fetch_related_object()
    structlog.get_logger().info("{words}", kind=customer.object)
"""


class Dev:
    """The command in a folder with a handler package."""

    def __init__(self, folder: Path, **changes: str) -> None:
        """Start it on a free port."""
        self.folder = folder
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devkit.dev"],
            cwd=folder,
            env={**environment(folder), "PORT": str(self.port), **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._output = Output(self.process)

    @property
    def shown(self) -> str:
        """The output so far."""
        return self._output.text

    def shows(self, words: str, times: int = 1) -> None:
        """Wait until the output contains ``words``."""
        wait_for(lambda: self.shown.count(words) >= times)

    def write(self, source: str, name: str = MODULE) -> None:
        """Save a handler module."""
        (self.folder / PACKAGE / f"{name}.py").write_text(source, encoding="utf-8")

    def send(self, event_type: str = TYPE) -> Answer:
        """Deliver a sample."""
        body = samples.encode(samples.notification(event_type))
        url = f"http://127.0.0.1:{self.port}/webhook"
        return post(url, body, samples.sign(body, SECRET))

    def flask(self, *arguments: str, **changes: str) -> str:
        """Call a command in another terminal, and return its output. It has to succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", *arguments],
            cwd=self.folder,
            env={**environment(self.folder), **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._output.finish(60)
        return status


def environment(folder: Path) -> dict[str, str]:
    """Return complete settings."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "STRIPE_API_KEY": API_KEY,
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_BASE": "",
        "DATABASE_URL": f"sqlite:///{folder}/inbox.sqlite3",
        "HANDLERS_PACKAGE": PACKAGE,
        "LOG_LEVEL": "info",
    }


StartDev = Callable[..., Dev]

#: Runs the command. SIGINT comes while it writes to standard output.
SIGNAL_WHILE_WRITING = """
import io
import os
import re
import signal
import sys

from devkit import dev


class Output(io.RawIOBase):
    def writable(self):
        return True

    def write(self, data):
        if getattr(signal.getsignal(signal.SIGINT), "__module__", None) == "devkit.dev":
            signal.raise_signal(signal.SIGINT)
        return os.write(1, data)


sys.stdout = io.TextIOWrapper(io.BufferedWriter(Output()), line_buffering=True)
dev.main()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartDev]:
    """A function that starts the command for a package with modules and a fallback."""
    started: list[Dev] = []

    def make(modules: dict[str, str] | None = None, **changes: str) -> Dev:
        (tmp_path / PACKAGE).mkdir()
        for name, source in {"__init__": "", "fallback": FALLBACK, **(modules or {})}.items():
            (tmp_path / PACKAGE / f"{name}.py").write_text(source, encoding="utf-8")
        started.append(Dev(tmp_path, **changes))
        return started[-1]

    yield make
    for each in started:
        with suppress(ProcessLookupError):
            each.end()


class TestReload:
    """A changed handler handles the next delivery."""

    def test_changes_are_taken_over(self, start: StartDev) -> None:
        """A changed module and an added one handle the next delivery.

        During a restart no delivery is refused: the port stays open.
        """
        running = start({MODULE: SAY.format(words="first_words")})
        running.shows("Ready.")
        assert running.send().outcome == "handled"
        for number in range(2):
            running.write(SAY.format(words=f"words_{number}"))
            running.shows("Reloaded.", times=number + 1)
            assert running.send().outcome == "handled"
            running.shows(f"words_{number}")
        assert f"Changed: {MODULE}.py" in running.shown
        assert running.shown.count("first_words") == 1
        running.write(SAY.format(words="new_words"), "v1_customer_updated")
        running.shows("Reloaded.", times=3)
        assert running.send("v1.customer.updated").outcome == "handled"
        running.shows("new_words")


#: A broken module, and the message with its line and problem.
BROKEN = [
    ("def handle(notif, client:\n", MODULE, "line 1: cannot be imported: SyntaxError:"),
    ("def handle(client, notif): ...\n", MODULE, "line 1: handle has its parameters in another"),
    ("\ndef handle(notif): ...\n", MODULE, "line 2: handle(notif) has the wrong parameters"),
    ("async def handle(notif, client): ...\n", MODULE, "line 1: handle is async and would never"),
    ("import strype\n", MODULE, "line 1: cannot be imported: ModuleNotFoundError: No module named"),
    (SAY, "v1_custommer_created", "'v1.custommer.created' is no event type of stripe"),
]


class TestBrokenHandlers:
    """Problems of a module are printed with file, line and remedy. The service continues."""

    def test_service_goes_on(self, start: StartDev) -> None:
        """Each problem is printed, and the service continues with the previous handlers."""
        good = SAY.format(words="good_words")
        running = start({MODULE: good})
        running.shows("Ready.")
        for number, (source, name, words) in enumerate(BROKEN, start=1):
            running.write(source, name)
            running.shows("The service keeps the previous handlers.", number)
            assert f"{PACKAGE}/{name}.py: {words}" in running.shown
            assert running.send().outcome == "handled"
        running.shows("good_words", times=len(BROKEN))
        (running.folder / PACKAGE / "v1_custommer_created.py").unlink()
        running.write(good.replace("good_words", "mended_words"))
        running.shows("Reloaded.")
        running.send()
        running.shows("mended_words")

    @pytest.mark.measured
    def test_start_with_a_broken_module(self, start: StartDev) -> None:
        """If a module is broken at the start, the service starts after its correction.

        Until then, deliveries are answered 503: no client hangs.
        """
        running = start({MODULE: "def handle(): ...\n"})
        running.shows("The service starts as soon as you correct this.")
        assert running.send().status == 503
        running.write(SAY.format(words="mended_words"))
        running.shows("Ready.")
        assert running.send().outcome == "handled"
        running.shows("mended_words")

    @pytest.mark.measured
    def test_service_that_ends_by_itself(self, start: StartDev) -> None:
        """If the service ends, a message says so, and the next change starts it again."""
        module = (
            "import os, signal\ndef handle(notif, client): os.kill(os.getppid(), signal.SIGTERM)\n"
        )
        running = start({MODULE: module})
        running.shows("Ready.")
        running.send()
        running.shows("The service has ended.")
        answer = running.send()
        assert (answer.status, answer.outcome[:19]) == (503, "there is no service")
        running.write(SAY.format(words="new_words"))
        running.shows("Ready.", 2)
        assert running.send().outcome == "handled"


EXITS, BLOCKS = "import os; os._exit(0)\n", "import time; time.sleep(1000)\n"


class TestQuickChanges:
    """The previous process serves until the changed one is ready, whatever the changed one does."""

    @pytest.mark.measured
    def test_every_order(self, start: StartDev) -> None:
        """After each series of saves, the last good module handles the next delivery."""
        running = start({MODULE: SAY.format(words="first_words")})
        running.shows("Ready.")
        kept, reloaded = "The service keeps the previous handlers.", "Reloaded."
        exited = "The service did not start (exit status 0)."
        good, bad = SAY.format(words="second_words"), "def handle(notif, client:\n"
        series = [
            # It does not get ready before the next save.
            ([f"import time; time.sleep(60)\n{good}", bad], kept, "first_words"),
            ([bad, bad], kept, "first_words"),
            ([EXITS], exited, "first_words"),
            ([BLOCKS, bad, BLOCKS, good], reloaded, "second_words"),
        ]
        shown = dict.fromkeys([kept, exited, reloaded], 0)
        for sources, message, _ in series:
            for source in sources:
                changes = running.shown.count("Changed: ")
                running.write(source)
                assert running.send().outcome == "handled"
                running.shows("Changed: ", changes + 1)
            shown[message] += 1
            running.shows(message, shown[message])
            assert running.send().outcome == "handled"
        assert running.shown.count(reloaded) == 1
        for _, _, words in series:
            running.shows(words)
        self._kill_during_a_start(running, good)

    def _kill_during_a_start(self, running: Dev, good: str) -> None:
        """A process that ends while the next one starts is replaced by it."""
        (current,) = children_of(running.process.pid)
        running.write(BLOCKS)
        wait_for(lambda: len(children_of(running.process.pid)) == 2)
        os.kill(current, signal.SIGKILL)
        wait_for(lambda: current not in children_of(running.process.pid))
        running.write(good)
        running.shows("Ready.", 2)
        assert running.send().outcome == "handled"

    def test_signal_during_a_start(self, start: StartDev) -> None:
        """A signal while a process starts ends this process as well."""
        running = start({MODULE: SAY.format(words="words")})
        running.shows("Ready.")
        running.send()
        running.write(BLOCKS)
        wait_for(lambda: len(children_of(running.process.pid)) == 2)
        started = children_of(running.process.pid)
        assert running.end() == 0
        assert not any(map(is_alive, started))

    def test_start_that_blocks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A start that blocks is reported once, and deliveries are answered 503."""
        monkeypatch.setattr(dev_service, "SLOW_SECONDS", 0)
        (tmp_path / PACKAGE).mkdir()
        (tmp_path / PACKAGE / "__init__.py").write_text(BLOCKS, encoding="utf-8")
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        with socket.create_server(("127.0.0.1", 0)) as port, ExitStack() as stack:
            service = dev_service.Service(port, {**environment(tmp_path), "PYTHONPATH": path})
            stack.callback(service.end)
            service.start()
            service.update()
            service.update()
            answer = post(f"http://127.0.0.1:{port.getsockname()[1]}/webhook", b"{}", "t=1")
        assert answer.status == 503
        shown = capfd.readouterr().out
        assert shown.count("The service is not ready after 0 s: an import may be blocked.") == 1
        assert shown.count("The service starts as soon as you correct this.") == 1


class TestQueueMode:
    """With PROCESSING=queue the service runs callbacks in its own workers."""

    def test_event_runs_after_the_answer(self, start: StartDev) -> None:
        """A delivery is accepted, and its callback runs with the stand-in."""
        running = start({MODULE: SAY.format(words="worker_words")}, PROCESSING="queue")
        running.shows("Ready.")
        assert running.send().outcome == "accepted"
        running.shows("worker_words")


class TestStandIn:
    """Callbacks can fetch the objects of every delivered event."""

    def test_everything_that_was_sent_is_found(self, start: StartDev) -> None:
        """The stand-in answers events and objects of deliveries, with the SDK's fields."""
        module = (
            "def handle(notif, client):\n"
            "    assert notif.fetch_event().data.developer_message_summary\n"
            "    assert notif.fetch_related_object().status\n"
        )
        running = start({"v1_billing_meter_error_report_triggered": module})
        running.shows("Ready.")
        assert running.send("v1.billing.meter.error_report_triggered").outcome == "handled"

    @pytest.mark.measured
    def test_other_api_can_be_named(self, start: StartDev, stripe_api: StripeApi) -> None:
        """With STRIPE_API_BASE callbacks use that API, for example Stripe itself."""
        running = start({MODULE: SAY.format(words="words")}, STRIPE_API_BASE=stripe_api.url)
        running.shows(f"{stripe_api.url}, as STRIPE_API_BASE says")
        running.send()
        assert [asked.path.rpartition("/")[0] for asked in stripe_api.asked] == ["/v1/customers"]
        running.write(SAY.format(words="other_words"))
        running.shows("Reloaded.")

    def test_commands_beside_it(self, start: StartDev) -> None:
        """Commands in the same folder use this service and its stand-in, without a setting."""
        running = start({MODULE: SAY.format(words="words")})
        (running.folder / ".env").write_text("PORT=9\n", encoding="utf-8")
        running.shows("Ready.")
        doctor = running.flask("doctor", "--strict")
        assert "OK    destination " in doctor, doctor
        assert "OK    ping " in doctor
        running.write(SAY.format(words="words"), "v1_customer_updated")
        running.shows("Reloaded.")
        doctor = running.flask("doctor", "--strict")
        assert "OK    destination " in doctor, doctor
        sent = running.flask("events", "send", TYPE)
        assert "handled" in sent
        assert f"Delivering to http://127.0.0.1:{running.port}/webhook" in sent

    def test_inbox_of_env_is_left_alone(self, start: StartDev, tmp_path: Path) -> None:
        """A rehearsal runs none of its events, and leaves its watermarks as they are."""
        url = f"sqlite:///{tmp_path}/real.sqlite3"
        (tmp_path / ".env").write_text(f"DATABASE_URL={url}\nPROCESSING=queue\n", encoding="utf-8")
        body = samples.encode(samples.notification(TYPE))
        event = NewEvent("evt_real", TYPE, livemode=False, context=None, body=body)
        with closing(Inbox(url, lease_seconds=1)) as inbox:
            inbox.migrate()
            inbox.deliveries.enqueue(event)
            running = start({MODULE: SAY.format(words="words")}, DATABASE_URL="")
            running.shows("Inbox         sqlite:///var/dev.sqlite3\n")
            running.shows("Ready.")
            lost = running.flask("events", "send", TYPE, "--lost", DATABASE_URL="").split()
            assert "Recorded 1 event." in running.flask(
                "events", "reconcile", "--yes", DATABASE_URL=""
            )
            running.shows("words")
            assert running.end() == 0
            found = inbox.administration.find("evt_real")
            assert found
            assert (found.state, found.attempt) == (State.PENDING, 0)
            assert inbox.reconciliation.watermarks(livemode=False, context="") == {}
        command = "DATABASE_URL=sqlite:///var/dev.sqlite3"
        assert f"To see them: {command}" in running.shown
        listed = running.flask("events", "list", DATABASE_URL=command.partition("=")[2])
        assert "evt_real" not in listed
        assert any(word in listed for word in lost if word.startswith("evt_"))

    @pytest.mark.measured
    def test_second_one_in_a_folder(
        self, start: StartDev, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Commands use the first of two. The second one says how to use it."""
        monkeypatch.chdir(tmp_path)  # the first one is this process
        with announced(DevServer("http://127.0.0.1:9", "http://127.0.0.1:9/webhook", INBOX)):
            second = start({MODULE: SAY.format(words="words")}, DATABASE_URL="")
            second.shows("Ready.")
            api, inbox = re.findall(
                r"in other terminals, set STRIPE_API_BASE=(\S+) DATABASE_URL=(\S+):", second.shown
            )[0]
            url = re.findall(r"events send TYPE --url (\S+)", second.shown)[0]
            sent = ("events", "send", TYPE, "--field", "name=Jenny", "--url", url)
            assert "handled" in second.flask(*sent, STRIPE_API_BASE=api, DATABASE_URL=inbox)
        assert "another `make dev` runs in this folder." in second.shown

    @pytest.mark.measured
    @pytest.mark.parametrize("base", ["", "https://127.0.0.1:9"])
    def test_live_key_is_refused(self, base: str, start: StartDev) -> None:
        """A live key never reaches a stand-in, its own or another one."""
        running = start(STRIPE_API_KEY="sk_live_fake_for_tests", STRIPE_API_BASE=base)
        assert running.process.wait(60) == 1
        running.shows("STRIPE_API_KEY is a live key, which a stand-in for Stripe's API must not")

    def test_types_of_the_destination(self, tmp_path: Path) -> None:
        """The handled types are those of file names, and those that modules declare."""
        for name, source in {
            "__init__": "",
            "fallback": FALLBACK,
            MODULE: "",
            "_helper": 'EVENT_TYPE = "v2.helper.happened"',
            "anything": 'import os\nEVENT_TYPE: str = "v2.thing.happened"  # newer\n',
        }.items():
            (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        (tmp_path / ".#lock.py").symlink_to(tmp_path / "nowhere.py")
        assert dev.handled_types(tmp_path) == [TYPE, "v2.thing.happened"]

    def test_source_is_the_inbox(self, tmp_path: Path) -> None:
        """An event is found by its id, an object by its address, and nothing else."""
        url = f"sqlite:///{tmp_path}/inbox.sqlite3"
        with closing(Inbox(url, lease_seconds=1)) as inbox:
            assert dev.find(inbox, "/v1/anything") is None
            inbox.migrate()
            plain = samples.notification("v1.billing.meter.no_meter_found")
            sample = samples.notification(TYPE)
            for each in (sample, plain):
                body = samples.encode(each)
                inbox.deliveries.record_and_claim(
                    NewEvent(each["id"], each["type"], livemode=False, context=None, body=body)
                )
            assert dev.find(inbox, f"/v2/core/events/{sample['id']}") == placeholders.event(sample)
            related = placeholders.api_object(sample)
            assert dev.find(inbox, sample["related_object"]["url"]) == related
            assert dev.find(inbox, "/v1/anything") is None
            self._put_snapshot(inbox)

    def _put_snapshot(self, inbox: Inbox) -> None:
        """A snapshot event and its object are found, and neither is after its erasure."""
        event = samples.snapshot_event("customer.created")
        stored = read_event(samples.encode(event))
        claim = inbox.deliveries.record_and_claim(stored).claim
        assert claim is not None
        customer = event["data"]["object"]
        assert dev.find(inbox, f"/v1/events/{event['id']}") == event
        assert dev.find(inbox, f"/v1/customers/{customer['id']}") == customer
        inbox.claims.finish(claim, Outcome.HANDLED)
        (found,) = inbox.erasure.find(customer["id"])
        assert inbox.erasure.erase(found, customer["id"])
        assert dev.find(inbox, f"/v1/events/{event['id']}") is None

    def test_inbox_that_is_away(self, tmp_path: Path) -> None:
        """If the inbox is unavailable, nothing is found. The service logs the reason."""
        (tmp_path / "file").write_text("no folder", encoding="utf-8")
        url = f"sqlite:///{tmp_path}/file/inbox.sqlite3"
        with closing(Inbox(url, lease_seconds=1)) as inbox:
            assert dev.find(inbox, "/v1/anything") is None


class TestEnd:
    """The command ends all that it has started."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_signal_ends_everything(self, start: StartDev, number: int) -> None:
        """A signal ends the command and its service, with status 0 and no traceback."""
        running = start()
        running.shows("Ready.")
        running.send()
        assert running.end(number) == 0
        assert "Traceback" not in running.shown
        with pytest.raises(ConnectionRefusedError):
            running.send()

    @pytest.mark.measured
    def test_killed_command(self, start: StartDev) -> None:
        """After SIGKILL the service stops: a killed ``make dev`` keeps no port."""
        running = start()
        running.shows("Ready.")
        (service,) = children_of(running.process.pid)
        running.end(signal.SIGKILL)
        wait_for(lambda: not is_alive(service))
        with pytest.raises(ConnectionRefusedError):
            running.send()

    def test_signal_during_a_write(self, tmp_path: Path) -> None:
        """A signal that interrupts a write to standard output ends the command normally."""
        (tmp_path / PACKAGE).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", SIGNAL_WHILE_WRITING],
            cwd=tmp_path,
            env={**environment(tmp_path), "PORT": str(free_port())},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_port_that_is_taken(self, start: StartDev) -> None:
        """If the port is taken, the error says what to do."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            number = other.getsockname()[1]
            running = start(PORT=str(number))
            assert running.process.wait(60) == 1
            running.shows(f"Port {number} cannot be opened: Address already in use.")
            assert "make dev PORT=4243" in running.shown

    def test_address_of_the_setting(self, start: StartDev) -> None:
        """BIND_HOST decides on which address it listens. Without it, only on the loopback."""
        running = start(BIND_HOST="::1")
        running.shows(f"Webhook       http://[::1]:{running.port}/webhook")
        running.shows("service_configured")
        body = samples.encode(samples.notification(TYPE))
        url = f"http://[::1]:{running.port}/webhook"
        assert post(url, body, samples.sign(body, SECRET)).status == 200

    @pytest.mark.measured
    @pytest.mark.parametrize("name", ["no_such_package", "no.such.package"])
    def test_package_that_is_none(self, start: StartDev, name: str) -> None:
        """A package that cannot be found is an error."""
        running = start(HANDLERS_PACKAGE=name)
        assert running.process.wait(60) == 1
        running.shows(f"HANDLERS_PACKAGE={name} is not a package that can be found from here")


def test_settings_of_the_service(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The service has one process and logs text. It has the mode of the settings."""
    for name, value in {
        "WEB_CONCURRENCY": "4",
        "PROCESSING": "queue",
        "LOG_LEVEL": "debug",
    }.items():
        monkeypatch.setenv(name, value)
    found = dev.service_environment(settings, "http://127.0.0.1:1")
    assert (found["WEB_CONCURRENCY"], found["PROCESSING"]) == ("1", "queue")
    assert (found["LOG_FORMAT"], found["LOG_LEVEL"]) == ("console", "debug")
    assert found["STRIPE_API_BASE"] == "http://127.0.0.1:1"


def test_file_that_was_just_removed(tmp_path: Path) -> None:
    """A file that is removed during a check is a change like any other."""
    (tmp_path / "there.py").write_text("", encoding="utf-8")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    found = dev.snapshot(tmp_path)
    assert found[tmp_path / "gone.py"] is None
    assert found[tmp_path / "there.py"] is not None
