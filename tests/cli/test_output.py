"""No command prints a character that controls the terminal."""

from __future__ import annotations

import ast
import json
import os
import pty
import unicodedata
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from app.cli import output
from app.cli.doctor.lines import Level, Line
from app.text import HIDDEN
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql

ROOT = Path(__file__).parents[2]
EVIL = "\x1b[2J\u202eevil\u2028\x9b\r\x7f\u200bend"
SHOWN = "\ufffd[2J\ufffdevil \ufffd \ufffd\ufffdend"

#: The only modules that print. The doctor colours its levels itself.
PRINTING = {"app/cli/output.py", "app/cli/doctor/lines.py"}

Make = Callable[..., Receiver]


def assert_harmless(printed: str) -> None:
    """Assert that line ends and tabs are the only characters that a terminal does not show."""
    assert {each for each in printed if unicodedata.category(each) in HIDDEN} <= {"\n", "\t"}


def test_all_commands_print_in_one_place() -> None:
    """Only these modules call click.echo: elsewhere it could print control characters."""
    printing = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "app/cli").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "click.echo", "click.secho"}
    }
    assert printing == PRINTING


def test_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line end in a text from outside does not start a new line."""
    output.say(f"{EVIL}\nstate dead")
    output.say(EVIL, err=True)
    assert capsys.readouterr() == (f"{SHOWN} state dead\n", f"{SHOWN}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\n  b", "a b"), ("x" * 10, "x" * 10), ("x" * 11, "xxxxxx ...")],
)
def test_long_text_is_shortened(text: str, shown: str) -> None:
    """A text that is too long for a table ends in dots. It is on one line."""
    assert output.shortened(text, 10) == shown


class TestProgress:
    """Long work shows a progress bar on a terminal, and only there."""

    def test_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a terminal, only the lines are printed."""
        for each in output.progress("ab", 2, "Running"):
            output.say_beside_progress(each)
        output.say_on_terminal("Reading ...")
        assert capsys.readouterr() == ("a\nb\n", "")

    def test_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a terminal, the bar shows the position, and each line replaces the bar above it."""
        reading, writing = pty.openpty()
        with os.fdopen(reading, "rb", 0) as screen, os.fdopen(writing, "w") as terminal:
            monkeypatch.setattr("sys.stderr", terminal)
            monkeypatch.setattr("sys.stdout", terminal)
            output.say_on_terminal("Reading ...")
            for each in output.progress("ab", 2, "Running"):
                output.say_beside_progress(each)
            for _ in output.progress("", 0, "Nothing"):
                pass
            terminal.write("the end")
            terminal.flush()
            shown = ""
            while "the end" not in shown:  # a terminal passes on a part at a time
                shown += screen.read(4096).decode()
        lines = shown.replace("\r\n", "\n").split("\n")
        assert lines[0] == "Reading ..."
        assert "Running  [----------]  0/2" in lines[1].replace("-" * 20, "-" * 10)
        assert lines[1].endswith("\r\x1b[Ka")
        assert "  1/2" in lines[2]
        assert lines[2].endswith("\r\x1b[Kb")
        assert "  2/2" in lines[3]
        assert "Nothing" not in shown


def test_lines_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """``say_lines`` keeps line ends and tabs, as in a traceback."""
    output.say_lines(f"a\n\t{EVIL}")
    assert capsys.readouterr().out == f"a\n\t{SHOWN}\n"


def test_cells_are_as_wide_as_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A line end in a cell does not break its row. Columns are as wide as the shown text."""
    output.say_table([("a", "b"), ("1\n2", EVIL)])
    assert capsys.readouterr().out == f"a    b\n1 2  {SHOWN}\n"


def test_json_is_the_same_in_printable_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON keeps every character, escaped as printable ASCII."""
    output.say_json({"reason": EVIL})
    printed = capsys.readouterr().out
    assert_harmless(printed)
    assert printed.isascii()
    assert json.loads(printed) == {"reason": EVIL}


def test_doctor_has_no_colours_but_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in the text or remedy of a line are removed."""
    Line(Level.FAIL, "types", f"{EVIL}\nOK", f"{EVIL}\nOK").show()
    assert_harmless(click.unstyle(capsys.readouterr().out))


def spoil(url: str, table: str, *columns: str) -> None:
    """Put control characters into columns of a table, as another program could."""
    evil = "x'" + f"{EVIL}\nstate pending".encode().hex() + "'"
    for column in columns:
        value = evil if column == "body" else f"CAST({evil} AS TEXT)"
        raw_sql.execute(url, f"UPDATE {table} SET {column} = {value}")  # noqa: S608 - names of the test's own


@pytest.fixture
def events(make_receiver: Make, sqlite_url: str) -> Callable[..., Result]:
    """A function that runs ``flask events`` on an inbox with control characters in all texts."""
    module = "from app import GiveUp\ndef handle(notif, client):\n    raise GiveUp('no')\n"
    receiver = make_receiver({"v1_customer_created": module}, database_url=sqlite_url)
    receiver.deliver(samples.notification("v1.customer.created", event_id="evt_1"))
    runner = receiver.app.test_cli_runner()

    def call(*words: str) -> Result:
        return runner.invoke(args=["events", *words])

    call("retry", "evt_1", "--yes", "--why", "x")
    call("pause", "--why", "x")
    spoil(sqlite_url, "events", "type", "context", "outcome", "reason", "traceback", "body")
    spoil(sqlite_url, "attempts", "claimed_by", "outcome", "reason", "traceback")
    spoil(sqlite_url, "retries", '"by"', "why")
    spoil(sqlite_url, "pauses", '"by"', "why")
    return call


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["show", "evt_1"],
        ["show", "evt_1", "--full"],
        ["show", "evt_1", "--json"],
        ["retry", "evt_1", "--dry-run"],
        ["retry", "evt_1", "--yes"],
        ["pause"],
    ],
    ids=" ".join,
)
def test_events_are_harmless(events: Callable[..., Result], words: list[str]) -> None:
    """Texts from the inbox are printed without control characters."""
    printed = events(*words).output
    assert_harmless(printed)
    assert "evil" in printed
    own_lines = [line for line in printed.splitlines() if line.startswith("state pending")]
    # The body, and the traceback of both attempts or of each.
    count = {("show", "evt_1"): 2, ("show", "evt_1", "--full"): 3}
    assert len(own_lines) == count.get(tuple(words), 0)


@pytest.mark.parametrize(
    "words",
    [["list"], ["check", "{id}"], ["sync", "{id}", "--check"], ["sync", "{id}"]],
    ids=" ".join,
)
def test_destinations_are_harmless(
    make_receiver: Make, stripe_api: StripeApi, words: list[str]
) -> None:
    """Texts from Stripe are printed without control characters."""
    module = "def handle(notif, client): pass\n"
    receiver = make_receiver({"v1_customer_created": module}, stripe_api_base=stripe_api.url)
    evil = f"{EVIL}\nIt is as the code wants it."
    name = stripe_api.destinations.add("https://your.host/webhook", ["v1.invoice.paid"], name=evil)
    webhook = {"url": f"https://your.host/{evil}"}
    stripe_api.destinations.change(name, webhook_endpoint=webhook, enabled_events=["v1.x", evil])

    named = [word.format(id=name) for word in words]
    printed = (
        receiver.app.test_cli_runner().invoke(args=["destination", *named], input="n\n").output
    )

    assert_harmless(printed)
    assert "evil" in printed
    assert "It matches the code." not in printed.splitlines()


def test_errors_of_stripe_are_harmless(make_receiver: Make, stripe_api: StripeApi) -> None:
    """A quoted message of Stripe's is printed without control characters."""
    receiver = make_receiver(stripe_api_base=stripe_api.url)
    error = {"type": "invalid_request_error", "message": f"No {EVIL}"}
    body = json.dumps({"error": error}).encode()
    stripe_api.garble(body=body, status=400)

    printed = receiver.app.test_cli_runner().invoke(args=["destination", "list"]).output

    assert_harmless(printed)
    assert "evil" in printed


@pytest.mark.parametrize("words", [["show", EVIL], ["retry", EVIL]], ids=str)
def test_id_that_is_not_there_is_harmless(receiver: Receiver, words: list[str]) -> None:
    """An unknown id in an error is printed without control characters."""
    receiver.services.inbox.migrate()
    printed = receiver.app.test_cli_runner().invoke(args=["events", *words]).output
    assert_harmless(printed)
    assert f"The inbox has no event {SHOWN}." in printed


@pytest.mark.parametrize(("count", "text"), [(0, "0 events"), (1, "1 event"), (2, "2 events")])
def test_plural(count: int, text: str) -> None:
    """The noun agrees with its number."""
    assert output.plural(count, "event") == text


@pytest.mark.parametrize(
    ("seconds", "precise", "short"),
    [
        (0, "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00Z"),
        (1795860000.9996, "2026-11-28T10:00:00.999Z", "2026-11-28T10:00:00Z"),
    ],
)
def test_times(seconds: float, precise: str, short: str) -> None:
    """A time is ISO 8601 in UTC with ``T`` and ``Z``, also for a whole second."""
    assert output.iso_time(seconds) == precise
    assert output.iso_time(seconds, "seconds") == short
