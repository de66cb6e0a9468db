"""The commands, files and outputs that the documentation shows are real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import sqlalchemy as sa

from app.settings import Settings
from devkit import samples
from devkit.deliver import API_KEY, SECRET, Deliver, Logged, MakeDeliver, RunHandler
from devkit.stripe_api import StripeApi
from handlers import v1_checkout_session_completed
from tests.support import pages
from tests.support.pages import ROOT, columns, section
from tests.support.ports import free_port
from tests.support.waiting import wait_for

FRONT, HANDLERS, TESTING = "README.md", "docs/handlers.md", "docs/testing.md"
SNAPSHOT_MODULE = "handlers/reporting_report_run_succeeded.py"
SNAPSHOT_TEST = "tests/handlers/test_reporting_report_run_succeeded.py"
#: The type information of the SDK that `make check` has stored.
CACHE = str(ROOT / ".mypy_cache")
#: Files that a developer has in the folder of the project, and a clone has not. But bytecode is
#: copied: to compile the clone takes longer than most of its commands.
NOT_CLONED = shutil.ignore_patterns(
    # Files of coverage and unfinished bytecode come and go while other tests run.
    *(".git", ".venv", "var", ".env", "*.pyc.*", ".*_cache", ".coverage*", ".hypothesis")
)


class Author:
    """A new author in a clean clone that is installed: two terminals and an editor."""

    def __init__(self, clone: Path) -> None:
        """Take the clone."""
        self.clone = clone
        self.port = str(free_port())
        # Of this machine's environment only the path of its programs, and a free port.
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(clone), "PORT": self.port}
        self._second: subprocess.Popen[bytes] | None = None

    def enter(self, command: str) -> str:
        """Enter a command, and return what it says. It has to succeed."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.clone,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def leave_running(self, command: str) -> None:
        """Enter a command in the second terminal."""
        with (self.clone / "second").open("wb") as output:
            self._second = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.clone,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def save(self, file: str, text: str) -> None:
        """Save a file in the editor."""
        (self.clone / file).write_text(text, encoding="utf-8")

    def sees(self, shown: str, output: str = "") -> None:
        """Wait for a line with the columns of ``shown``, apart from sample ids and durations.

        It is in the ``output`` of the last command, or comes in the second terminal.
        """
        constant = re.sub(r"(evt_sample_)[0-9a-f]+|[0-9]+(\.)[0-9]+(?= )", r"\1\2", shown)
        parts = columns(constant.replace("4242", self.port))
        second = self.clone / "second"

        def is_there() -> bool:
            text = second.read_text(encoding="utf-8") if second.exists() else ""
            lines = (output + text).splitlines()
            return any(all(part in line for part in parts) for line in lines)

        wait_for(is_there)

    def end(self) -> None:
        """Press Ctrl-C in the second terminal, which reaches all that runs in it."""
        if self._second is not None:
            os.killpg(self._second.pid, signal.SIGINT)
            self._second.wait(60)


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    """A new author, with the packages of this environment installed as make installs them."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=NOT_CLONED)
    venv = clone / ".venv"
    venv.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (venv / part).symlink_to(Path(sys.prefix) / part)
    (venv / ".installed").touch()
    author = Author(clone)
    yield author
    author.end()


def swapped(module: str) -> str:
    """Return the text of the module with the mistake that the page shows."""
    right = "def handle(notif: V1CustomerCreatedEventNotification, client: StripeClient)"
    assert right in module
    return module.replace(right, "def handle(client, notif)")


class TestNewAuthor:
    """An author who follows "Write a handler" step by step reaches its end."""

    def test_page_is_followed(self, author: Author) -> None:
        """Each command succeeds, and each output that is shown is seen."""
        steps = pages.blocks(HANDLERS, "Write a handler")
        shown = pages.files(HANDLERS)
        module = next(iter(shown))
        unsaved = iter(list(shown.items())[:2])  # other sections show the others
        output, seen = "", 0
        for kind, text in steps:
            if kind == "python":
                author.save(*next(unsaved))
            elif text == "make dev":
                author.leave_running(text)
            elif kind == "command":
                output = author.enter(text)
            else:
                is_mistake = "parameters in another order" in text
                if is_mistake:
                    author.save(module, swapped(shown[module]))
                for line in text.splitlines():
                    author.sees(line, output)
                    seen += 1
                if is_mistake:
                    author.sees("keeps the previous handlers")
                    author.save(module, shown[module])
        assert next(unsaved, None) is None
        assert len([kind for kind, _ in steps if kind == "command"]) == 7
        assert seen >= 12

    def test_untyped(self, author: Author) -> None:
        """The command for a type that is newer than the SDK writes the declaration above it."""
        (command,) = re.findall(r"`(make handler UNTYPED=1[^`]+)`", section(HANDLERS, "Rules"))
        said = author.enter(command)
        module = author.clone / re.findall(r"^Wrote (handlers/.*)$", said, re.MULTILINE)[0]
        declaration = f'EVENT_TYPE = "{command.rpartition("=")[2]}"'
        assert declaration in module.read_text(encoding="utf-8").splitlines()
        assert "3 passed" in author.enter(f"make test ARGS=tests/handlers/test_{module.name}")

    def test_make_handler_needs_a_type(self, author: Author) -> None:
        """Without a type it says how to name one; with a wrong one it names the nearest."""
        assert "make handler TYPE=v1.customer.created" in author.enter("! make handler")
        assert "nearest: v1.customer.created" in author.enter(
            "! make handler TYPE=v1.custommer.created"
        )


class TestFiles:
    """The files that the pages show are as good as the written ones."""

    def test_all_are_found(self) -> None:
        """With none found, the tests here would be idle."""
        assert list(pages.files(FRONT, HANDLERS)) == [
            "handlers/v1_invoice_paid.py",
            "handlers/v1_customer_created.py",
            "tests/handlers/test_v1_customer_created.py",
            "handlers/around.py",
            "handlers/v1_charge_refunded.py",
            "handlers/v1_charge_dispute_created.py",
            SNAPSHOT_MODULE,
            SNAPSHOT_TEST,
            "handlers/v1_invoice_payment_failed.py",
        ]

    def test_they_pass_the_checks(self, tmp_path: Path) -> None:
        """Linter, formatter and type checker accept a copy of them."""
        shown = pages.files(FRONT, HANDLERS)
        for name, text in {"handlers/__init__.py": '"""Handlers."""\n', **shown}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        file = str(ROOT / "pyproject.toml")
        # The second one says where app/ is: it sorts among the project's own imports.
        config = ["--config", file, "--config", f"src = ['{ROOT}']"]
        for command in (
            ["ruff", "check", *config],
            ["ruff", "format", "--check", *config],
            ["mypy", "--config-file", file, "--cache-dir", CACHE, *shown],
        ):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                env={**os.environ, "MYPYPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    def test_handler_of_the_front_page_works(
        self, make_deliver: MakeDeliver, make_handlers: Callable[..., str]
    ) -> None:
        """It is handled with a customer, and dead with the reason without one."""
        source = pages.files(FRONT)["handlers/v1_invoice_paid.py"]
        deliver = make_deliver(handlers_package=make_handlers(v1_invoice_paid=source))
        handled = deliver("v1.invoice.paid", fields={"customer": "cus_1", "period_end": 1})
        dead = deliver("v1.invoice.paid")
        assert handled.outcome == "handled"
        assert (dead.status, dead.outcome) == (200, "gave_up")
        assert dead.event is not None
        assert dead.event.reason == "the invoice has no customer"

    def test_snapshot_module_passes_its_test(
        self, make_deliver: MakeDeliver, make_handlers: Callable[..., str], logged: Logged
    ) -> None:
        """The test of the snapshot module is true for the module that the page shows."""
        shown = pages.files(HANDLERS)
        package = make_handlers(reporting_report_run_succeeded=shown[SNAPSHOT_MODULE])
        deliver = make_deliver(handlers_package=package)
        names: dict[str, Any] = {}
        exec(shown[SNAPSHOT_TEST], names)  # noqa: S102 - the code of the page
        names["test_file_is_logged"](deliver, logged)
        names["test_report_without_a_file_is_dead"](deliver)

    def test_session_of_the_hook_works(
        self,
        make_deliver: MakeDeliver,
        make_handlers: Callable[..., str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What a callback wrote is committed when it returns, and rolled back when it raises."""
        url = f"sqlite:///{tmp_path}/orders.sqlite3"
        monkeypatch.setenv("ORDERS_URL", url)
        engine = sa.create_engine(url)
        with engine.begin() as orders:
            orders.execute(sa.text("CREATE TABLE refunds (event TEXT PRIMARY KEY, charge TEXT)"))
        shown = pages.files(HANDLERS)
        source = shown["handlers/v1_charge_refunded.py"]
        source += "    if not attempts:\n        attempts.append(1)\n        raise ValueError\n"
        source += "\nattempts = []\n"
        package = make_handlers(around=shown["handlers/around.py"], v1_charge_refunded=source)
        deliver = make_deliver(handlers_package=package)

        def refunds() -> list[tuple[str, str]]:
            with engine.connect() as orders:
                rows = orders.execute(sa.text("SELECT event, charge FROM refunds")).all()
            return [tuple(row) for row in rows]

        failed = deliver("v1.charge.refunded", object_id="ch_1")
        assert (failed.outcome, refunds()) == ("failed", [])
        handled = failed.again()
        assert (handled.outcome, refunds()) == ("handled", [(failed.notification["id"], "ch_1")])
        for each in (engine, deliver.receiver.module("around").ENGINE):
            each.dispose()

    def test_mail_is_sent_once(
        self,
        make_deliver: MakeDeliver,
        make_handlers: Callable[..., str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The callback that fails after the mail sends no second one, and repeats its key."""
        source = pages.files(HANDLERS)["handlers/v1_charge_dispute_created.py"]
        source += "    if not attempts:\n        attempts.append(1)\n        raise ValueError\n"
        source += "\nattempts = []\n"
        package = make_handlers(v1_charge_dispute_created=source)
        deliver = make_deliver(handlers_package=package)
        mails: list[tuple[str, ...]] = []

        class Smtp:
            def __init__(self, _host: str) -> None:
                """Connect to nothing."""

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_error: object) -> None:
                """Close nothing."""

            def sendmail(self, *mail: str) -> None:
                mails.append(mail)

        # A mock: there is no mail server.
        monkeypatch.setattr(deliver.receiver.module("v1_charge_dispute_created"), "SMTP", Smtp)
        monkeypatch.setenv("SMTP_HOST", "mail.example.com")
        failed = deliver("v1.charge.dispute.created", object_id="dp_1")
        assert [failed.outcome, failed.again().outcome] == ["failed", "handled"]
        assert mails == [("us@example.com", "support@example.com", "Dispute dp_1")]


IDIOMS = [row[0].strip("`") for row in pages.table(TESTING, "What a test can do")]
#: The beginnings of the lines of this table that need queue mode.
OF_QUEUE_MODE = ("deliver.burst", "deliver.run_due")


class TestIdioms:
    """Each line of the table "What a test can do" works."""

    def test_all_are_there(self) -> None:
        """Redelivery, failure then retry, a pair out of order, a duplicate: one line each."""
        methods = {idiom.partition("(")[0] for idiom in IDIOMS}
        wanted = {"deliver", *(f"deliver.{name}" for name in vars(Deliver) if name[0] != "_")}
        assert wanted <= methods
        assert {"run_handler", "stripe_api.fail", "stripe_api.hold", "stripe_api.reset"} <= methods

    @pytest.mark.parametrize("idiom", IDIOMS)
    def test_line_works(
        self,
        idiom: str,
        make_deliver: MakeDeliver,
        run_handler: RunHandler,
        stripe_api: StripeApi,
        logged: Logged,
    ) -> None:
        """It runs unchanged after a delivery, in the mode that its row names."""
        mode = "queue" if idiom.startswith(OF_QUEUE_MODE) else "inline"
        deliver = make_deliver(processing=mode)
        names = {
            "TYPE": "v1.customer.created",
            "URL": "https://your.host/webhook",
            "v1_customer_created": v1_checkout_session_completed,  # a shipped one
            "deliver": deliver,
            "make_deliver": make_deliver,
            "run_handler": run_handler,
            "stripe_api": stripe_api,
            "logged": logged,
            "fixture": samples.notification("v1.customer.created"),
        }
        deliver("v1.customer.created")
        eval(idiom, names)  # noqa: S307 - the page is ours


class TestStripesCommandLine:
    """The lines for Stripe's CLI fit this service, on a current CLI and on an older one."""

    @pytest.mark.parametrize(
        ("number", "options"),
        [(0, ["--events", "--forward-to"]), (1, ["--thin-events", "--forward-thin-to"])],
    )
    def test_listen(self, number: int, options: list[str]) -> None:
        """Both name a type of event notifications, and the address at which the service listens."""
        words = pages.commands(TESTING, "With Stripe's own command line")[number].split()
        settings = Settings(API_KEY, (SECRET,))
        assert words[:2] == ["stripe", "listen"]
        assert words[2::2] == options
        assert words[3].startswith("v1.")
        assert words[5] == f"localhost:{settings.port}/webhook"

    def test_trigger(self) -> None:
        """The triggered type is the one that both listen for."""
        current, older, trigger = pages.commands(TESTING, "With Stripe's own command line")
        assert trigger.split()[:2] == ["stripe", "trigger"]
        assert trigger.split()[2] in current
        assert trigger.split()[2] in older

    def test_secret(self) -> None:
        """The page says where the secret that the CLI prints belongs."""
        text = section(TESTING, "With Stripe's own command line")
        assert "prints a signing secret, `whsec_...`" in text
        assert "`STRIPE_WEBHOOK_SECRET` in `.env`" in text
