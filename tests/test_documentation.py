"""The documentation is true: its links, commands, names, figures and examples."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
import stripe
from flask import Flask
from stripe.params import _webhook_endpoint_create_params as endpoint_params

from app.alerts import texts
from app.setting_fields import table
from app.settings import Settings
from app.states import NOT_RUN, OF_DELIVERIES, SUCCESSES, Outcome
from app.web.body_budget import FREE_BYTES, WAITING_BODIES, BodyBudget
from app.web.bridge import NO_ROUTE
from app.web.gunicorn_private import REASONS
from benchmarks import chart
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import SECRET, Receiver
from tests.support import pages
from tests.support.pages import PAGES, ROOT
from tests.support.serving import serving

MakeReceiver = Callable[..., Receiver]

OPERATIONS = "docs/operations.md"
#: Files that the pages show whole, for the reader to write.
SHOWN = set(pages.files("README.md", "docs/handlers.md", "docs/tracing.md"))
HANDLER = "def handle(notif, client): pass\n"
SNAPSHOT = "customer.source.created"
ARCHITECTURE = "docs/architecture.md"
DECISIONS = "docs/adr/README.md"
#: The rooms that the picture of the rooms shows. Many rooms use the three others.
ROOMS = {path.parent.name for path in (ROOT / "app").rglob("*/__init__.py")}
ROOMS -= {"log", "runtime", "migrations"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def links(page: str) -> Iterator[str]:
    """Yield the targets of a page's links and images, but for those of other sites."""
    text = re.sub(r"^```[\s\S]*?^```$|`[^`\n]*`", "", PAGES[page], flags=re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:", target):
            yield target


def anchors(page: str) -> list[str]:
    """Return the anchors of a page's headings, as repository hosts make them."""
    text = re.sub(r"^```[\s\S]*?^```$", "", PAGES[page], flags=re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def commands() -> Iterator[tuple[str, str]]:
    """Yield each ``flask`` command of the pages with its page, from behind that word."""
    for page in PAGES:
        for span in pages.code(page):
            if found := re.search(r"(?:^|[ /])flask ([a-z].*)", span):
                yield page, found[1]


def mistake(app: Flask, command: str) -> str | None:
    """Return the word of a command that does not exist, if there is one."""
    words = command.split()
    found: click.Command = app.cli
    while isinstance(found, click.Group) and words:
        word = words.pop(0)
        inner = found.get_command(click.Context(found), word)
        if inner is None:
            return word
        found = inner
    known = {name for each in found.params for name in (*each.opts, *each.secondary_opts)}
    return next((word for word in words if word[:2] == "--" and word not in known), None)


def log_names() -> set[str]:
    """Return the names of all log lines of app/."""
    calls = [
        node
        for path in (ROOT / "app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and node.func.attr in LEVELS
    ]
    names = [call.args[0] for call in calls if call.args]
    return {str(name.value) for name in names if isinstance(name, ast.Constant)}


def literals(*folders: str) -> set[str]:
    """Return all string literals of the code below the folders."""
    return {
        node.value
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def diagram(page: str, title: str) -> str:
    """Return the one diagram of a section."""
    (text,) = [block.text for block in pages.blocks(page, title) if block.kind == "mermaid"]
    return text


def room(module: str) -> str:
    """Return the room of a module of app/, such as ``web``; ``sql`` and ``engine`` are rooms."""
    parts = module.split(".")[1:3]
    return parts[1] if parts[0] == "inbox" and parts[-1] in {"sql", "engine"} else parts[0]


def room_imports() -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports the second."""
    found = {
        (room(".".join(path.relative_to(ROOT).with_suffix("").parts)), room(f"{module}.{name}"))
        for path in (ROOT / "app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for module, name in [(node.module or "", alias.name) for alias in node.names]
        if module.partition(".")[0] == "app"
    }
    return {pair for pair in found if len(set(pair)) > 1 and ROOMS.issuperset(pair)}


def normal(line: str) -> list[str]:
    """Return the columns of a line, without what differs from run to run."""
    line = re.sub(r"evt_\w+", "evt", line)
    return pages.columns(re.sub(r"[0-9]+", "0", line))


def without_hashes(line: str) -> list[str]:
    """Return the columns of a line, as ``normal`` does, without commits and fingerprints."""
    return [re.sub(r"\b(?=[a-f]*0)[0a-f]+\b", "hash", each) for each in normal(line)]


class TestLinks:
    """A reader who follows a link arrives."""

    @pytest.mark.parametrize("page", PAGES)
    def test_targets_exist(self, page: str) -> None:
        """Each relative link names a file that exists, and each anchor a heading of its page."""
        dead = []
        for target in links(page):
            name, _, anchor = target.partition("#")
            file = (ROOT / page).parent / name if name else ROOT / page
            linked = str(file.resolve().relative_to(ROOT))
            if not file.is_file() or (anchor and anchor not in anchors(linked)):
                dead.append(target)
        assert dead == []

    def test_links_are_found(self) -> None:
        """The front page links each page of docs/: with no link found, the test would be idle."""
        linked = {target.partition("#")[0] for target in links("README.md")}
        wanted = {page for page in PAGES if re.fullmatch(r"docs/[^/]+\.md", page)}
        assert wanted <= linked

    @pytest.mark.parametrize("page", PAGES)
    def test_headings_are_unique(self, page: str) -> None:
        """Two headings with one anchor would make a link ambiguous. A changelog repeats its own."""
        repeated = [anchor for anchor, count in Counter(anchors(page)).items() if count > 1]
        assert page == "CHANGELOG.md" or repeated == []

    def test_decisions_are_listed(self) -> None:
        """The index of the decisions links each of them."""
        decisions = {path.name for path in (ROOT / "docs/adr").glob("[0-9]*.md")}
        assert decisions == set(links(DECISIONS))

    def test_decisions_are_listed_with_their_titles(self) -> None:
        """The index has the title of each decision, and the number of the one that replaced it."""
        listed = dict(
            re.findall(r"^\| \[\d+\]\(([^)]+)\) \| (.+) \|$", PAGES[DECISIONS], re.MULTILINE)
        )
        assert len(listed) > 5
        for name, title in listed.items():
            page = PAGES[f"docs/adr/{name}"]
            (real,) = re.findall(r"^# \d+\. (.+)$", page, re.MULTILINE)
            by = re.search(r"replaced by \[decision (\d+)\]", page)
            assert title == (f"{real} (replaced by {by[1]})" if by else real)

    def test_replaced_decisions_are_not_cited(self) -> None:
        """No page but those of the decisions links one that another one has replaced."""
        replaced = {
            f"adr/{Path(page).name}" for page in PAGES if "**Status:** replaced by" in PAGES[page]
        }
        assert replaced
        others = [page for page in PAGES if not page.startswith("docs/adr/")]
        targets = {target.removeprefix("docs/") for page in others for target in links(page)}
        assert targets & replaced == set()


class TestVersions:
    """Each version says what changed and what an upgrade needs."""

    def test_each_version_has_an_upgrade_note(self) -> None:
        """The upgrading page has a section for each version of the changelog."""
        changed = re.findall(r"^## \[?([\w.]+)", PAGES["CHANGELOG.md"], re.MULTILINE)
        noted = re.findall(r"^## ([\w.]+)$", PAGES["docs/upgrading.md"], re.MULTILINE)
        assert len(changed) > 1
        assert noted == changed


class TestNames:
    """Names of files, tests, commands and log lines exist."""

    @pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
    def test_files_and_tests_exist(self, page: str) -> None:
        """Each path in a code span exists, and each test behind one is in that file."""
        missing = []
        for span in pages.code(page):
            found = re.fullmatch(r"((?:app|devkit|docs|handlers|tests)/[\w/.]*)(?:::(\w+))?", span)
            if found is None or found[1] in SHOWN:
                continue
            path = ROOT / found[1]
            if not path.exists() or (found[2] and f"def {found[2]}(" not in path.read_text()):
                missing.append(span)
        assert missing == []

    def test_commands_exist(self, app: Flask) -> None:
        """Each ``flask`` command in the pages exists, with the options that it is shown with."""
        found = list(commands())
        assert len(found) > 30
        wrong = [(page, command, mistake(app, command)) for page, command in found]
        assert [each for each in wrong if each[2]] == []

    def test_log_lines_exist(self) -> None:
        """Each log line that the operations page explains is one of the code's."""
        titles = ("Dead events", "Act on these", "For information")
        rows = [row for title in titles for row in pages.table(OPERATIONS, title)]
        explained = {name for row in rows for name in re.findall(r"`([a-z]+_[a-z_]+)`", row[0])}
        assert len(explained) > 30
        assert explained - literals("app", "handlers") == set()

    def test_log_lines_are_explained(self) -> None:
        """The operations page names each log line of app/."""
        names = log_names()
        assert len(names) > 30
        assert [name for name in sorted(names) if f"`{name}`" not in PAGES[OPERATIONS]] == []

    def test_reasons_of_refused_requests_are_explained(self) -> None:
        """The operations page has a row for each reason in the code, and no other reason."""
        calls = [
            node
            for path in (ROOT / "app/web").rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("refusals.write", "_RefusedError"))
        ]
        words = [each for call in calls for each in call.args if isinstance(each, ast.Constant)]
        reasons = {str(word.value) for word in words} | {*NO_ROUTE.values(), *REASONS.values()}
        rows = pages.table(OPERATIONS, "Refused requests")
        explained = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row[0])}
        assert explained == reasons | {"malformed"}

    def test_states_are_those_of_the_code(self, app: Flask) -> None:
        """The state diagram has the states that ``flask events list`` offers."""
        help_ = app.test_cli_runner().invoke(args=["events", "list", "--help"]).output
        offered = re.search(r"--state \[([a-z|]+)\]", help_)
        states = diagram(ARCHITECTURE, "The states of an event")
        drawn = {name for pair in re.findall(r"(\w+) --> (\w+)", states) for name in pair}
        assert offered is not None
        assert drawn == set(offered[1].split("|"))

    def test_rooms_are_drawn_with_their_imports(self) -> None:
        """The solid arrows in the picture of the rooms are the imports between them."""
        arrows = r"^ +(\w+) -->(?:\|[^|]*\|)? (\w+)$"
        drawn = re.findall(arrows, diagram(ARCHITECTURE, "The rooms"), re.MULTILINE)
        assert len(drawn) > 10
        assert sorted(drawn) == sorted(room_imports())

    def test_rooms_are_described(self) -> None:
        """The tables of the rooms name each package and module that lies directly in app/."""
        packages = {path.parent for path in (ROOT / "app").glob("*/__init__.py")}
        modules = set((ROOT / "app").glob("[!_]*.py"))
        names = {f"`{path.relative_to(ROOT)}`" for path in packages | modules}
        assert [name for name in sorted(names) if name not in PAGES[ARCHITECTURE]] == []

    def test_outcomes_are_those_of_the_code(self) -> None:
        """The glossary has a row for each outcome."""
        rows = pages.table("docs/glossary.md", "Outcomes")
        assert [row[0].strip("`") for row in rows] == [str(outcome) for outcome in Outcome]


class TestRunbooks:
    """Each alert and each outcome of a dead event has a section that says what to do."""

    ALERTS = (*texts.ENDS, "dead_events")
    OUTCOMES = tuple(row[1].strip("`") for row in pages.table(OPERATIONS, "Dead events"))

    def test_each_alert_has_one(self) -> None:
        """The address in an alert is a section, and the page of the alerts names the same ones."""
        listed = [row[0].strip("`") for row in pages.table("docs/alerts.md", "What wakes you")]
        assert sorted(listed) == sorted(self.ALERTS)
        for alert in self.ALERTS:
            page, _, anchor = texts.runbook(alert).partition("#")
            assert anchor in anchors(page)

    def test_test_message_has_a_page(self) -> None:
        """The message of ``flask alerts test`` leads to the page about alerts."""
        page = texts.Texts(None, livemode=True).test(0.0)["runbook"]
        assert (pages.ROOT / page).is_file()

    def test_each_outcome_of_a_done_event_has_a_row(self) -> None:
        """The table of done events says what happened and what to do."""
        rows = [row[0].strip("`") for row in pages.table(OPERATIONS, "Done events")]
        assert sorted(rows) == sorted(SUCCESSES | NOT_RUN)

    def test_each_dead_outcome_has_one(self) -> None:
        """The table of dead events has all of them, and each is the heading of a section."""
        assert set(self.OUTCOMES) == set(Outcome) - SUCCESSES - OF_DELIVERIES - {
            *NOT_RUN,
            Outcome.FAILED,
            Outcome.RELEASED,
        }
        assert set(self.OUTCOMES) <= set(anchors(OPERATIONS))

    @pytest.mark.parametrize("name", [*texts.ENDS, *OUTCOMES])
    def test_each_says_where_to_look_and_what_not_to_do(self, name: str) -> None:
        """A runbook has a page, a command, numbered steps, and a warning."""
        titles = re.findall(r"^### (.+)$", PAGES[OPERATIONS], re.MULTILINE)
        (title,) = (each for each in titles if each.lower().replace(" ", "_") == name)
        rows = dict(pages.table(OPERATIONS, title))
        text = pages.section(OPERATIONS, title)
        assert list(rows) == ["page", "command"]
        assert "`flask " in rows["command"]
        assert re.search(r"^1\. ", text, re.MULTILINE)
        assert "**Do not** " in text

    def test_pages_exist(self, make_receiver: MakeReceiver) -> None:
        """Each address of the operations page that a page of the documentation names exists."""
        app = make_receiver(ops_token="t" * 32).app
        spans = {span for page in PAGES for span in pages.code(page) if span[:4] == "/ops"}
        paths = {span.partition("?")[0].replace("...", "x") for span in spans}
        known = app.url_map.bind("localhost")
        assert len(paths) > 5
        assert [path for path in sorted(paths) if not known.test(path, "GET")] == []


class TestExamples:
    """Examples show what the service does."""

    def test_front_page_is_short(self) -> None:
        """It sells and starts; docs/ explains."""
        assert PAGES["README.md"].count("\n") <= 150

    def test_snapshot_types_without_a_thin_form(self) -> None:
        """The front page's numbers are those of the installed SDK."""
        tree = ast.parse(Path(endpoint_params.__file__).read_text(encoding="utf-8"))
        enabled = next(
            node.annotation
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "enabled_events"
        )
        types = {str(node.value) for node in ast.walk(enabled) if isinstance(node, ast.Constant)}
        types.discard("*")
        thin = set(samples.event_types())
        lacking = [each for each in types if f"v1.{each}" not in thin]
        sentence = f"{len(lacking)} of the {len(types)} snapshot types have no thin form"
        assert sentence in PAGES["README.md"], stripe.VERSION

    def test_both_kinds_are_taken(self, receiver: Receiver) -> None:
        """The front page's first sentence names the kinds of events that the service takes."""
        assert "receives **events from Stripe, thin and snapshot**" in PAGES["README.md"]
        for body in (samples.notification("v1.customer.created"), samples.snapshot_event(SNAPSHOT)):
            answer = receiver.deliver(body)
            assert answer.json == {"success": True, "outcome": "fallback"}

    def test_limits_of_bodies(self) -> None:
        """The pages name the limit of a body and of all large ones. The shipped nginx has more."""
        settings = {each.name: each.metadata["default"] for each in table(Settings)}
        limit, threads = int(settings["max_body_bytes"]), int(settings["web_threads"])
        together = BodyBudget(limit, threads).free
        assert WAITING_BODIES == 32
        assert f"| body | {limit:,} bytes, or" in PAGES["docs/deploy.md"]
        assert f"of the largest size: {together // 1_000_000} MB |" in PAGES["docs/deploy.md"]
        assert f"without the first {FREE_BYTES:,} bytes of each" in PAGES["docs/deploy.md"]
        nginx = (ROOT / "deploy" / "compose" / "nginx.conf").read_text(encoding="utf-8")
        assert "client_max_body_size 1m;" in nginx
        assert limit < 2**20

    def test_operations(self, make_receiver: MakeReceiver) -> None:
        """The commands on the operations page show what the page shows."""
        module = "import app\ndef handle(notif, client): raise app.GiveUp('{}')\n"
        reason = "the invoice has no customer"
        receiver = make_receiver({"v1_invoice_paid": module.format(reason)})
        receiver.deliver(samples.notification("v1.invoice.paid"))
        runner = receiver.app.test_cli_runner()
        (event,) = receiver.services.inbox.administration.latest(1)
        checked = 0
        for title in ("Events in the inbox", "Dead events", "The tables"):
            output = ""
            for kind, text in pages.blocks(OPERATIONS, title):
                if kind == "command":
                    command = re.sub(r"evt_\w+", event.id, text).replace('"plan added"', "reason")
                    is_retry = "retry evt" in text  # it would ask, and run the event
                    arguments = command.split()[1:] + ["--dry-run"] * is_retry
                    output = runner.invoke(args=arguments).output
                    address = receiver.services.inbox.address
                    output = output.replace(address, "sqlite:///var/inbox.sqlite3")
                else:
                    lines = [normal(line) for line in output.splitlines()]
                    assert [line for line in text.splitlines() if normal(line) not in lines] == []
                    checked += 1
        assert checked == 5

    def test_revision_is_the_newest(self, receiver: Receiver) -> None:
        """The revision on the operations page is the one of this version's tables."""
        newest = receiver.services.inbox.revisions().newest
        assert f"revision  {newest}\nnewest    {newest}\n" in PAGES["docs/operations.md"]

    def test_error_groups(self, make_receiver: MakeReceiver) -> None:
        """The commands on error groups show what the page shows."""
        broken = "def handle(notif, client):\n    {}['customer']\n"
        release = "9f31c04be2aa"
        receiver = make_receiver({"v1_invoice_paid": broken}, release=release)
        groups = receiver.services.inbox.groups
        groups.begin_release(release)
        for number in (0, 0, 1):
            receiver.deliver(samples.notification("v1.invoice.paid", event_id=f"evt_{number}"))
        groups.begin_release("5d0e77a1b3c4")
        (group,) = groups.list(1)
        output, checked = "", 0
        for kind, text in pages.blocks(OPERATIONS, "Error groups"):
            if kind == "command":
                command = text.replace("42d7200f52d7", group.fingerprint)
                arguments = [*command.split()[1:], *(["--dry-run"] if "retry" in text else [])]
                output = receiver.app.test_cli_runner().invoke(args=arguments).output
            else:
                package = receiver.services.settings.handlers_package
                output = output.replace(package, "handlers").replace(group.fingerprint, "42d7")
                shown = [without_hashes(line) for line in text.splitlines()]
                assert shown == [without_hashes(line) for line in output.splitlines()]
                checked += 1
        assert checked == 2
        assert output.startswith("2 events selected.\n")

    def test_reconcile(self, make_receiver: MakeReceiver, stripe_api: StripeApi) -> None:
        """The reconciliation that the page shows is a real one."""
        handled = dict.fromkeys(("v1_customer_created", "v1_invoice_paid"), HANDLER)
        receiver = make_receiver(handled, stripe_api_base=stripe_api.url)
        for event_type, is_delivered in (("v1.customer.created", True), ("v1.invoice.paid", False)):
            created = datetime.now(UTC) - timedelta(hours=1)
            notification = samples.notification(event_type, created=created)
            stripe_api.put_event(samples.event(notification))
            if is_delivered:
                receiver.deliver(notification)
        runner = receiver.app.test_cli_runner()
        said = runner.invoke(args=["events", "reconcile"], input="y\n").output
        (block,) = pages.shown("docs/reconcile.md", "Reconcile")
        assert list(map(normal, said.splitlines())) == list(map(normal, block))

    def test_doctor(self, make_receiver: MakeReceiver, stripe_api: StripeApi) -> None:
        """The examination that the page shows is a real one."""
        types = ("v1.billing.meter.error_report_triggered", "v1.checkout.session.completed")
        modules = {each.replace(".", "_"): HANDLER for each in types}
        receiver = make_receiver(modules, stripe_api_base=stripe_api.url)
        receiver.services.inbox.migrate()
        with serving(receiver.app) as url:
            name = stripe_api.destinations.add(url, [types[1]], secret=SECRET)
            said = receiver.app.test_cli_runner().invoke(args=["doctor"]).output
        for real, example in {
            url: "https://your.host/webhook",
            name: "ed_test_123",
            receiver.services.settings.handlers_package: "handlers",
            receiver.services.inbox.address: "sqlite:///var/inbox.sqlite3",
            f", the stand-in at {stripe_api.url}": "",
        }.items():
            said = said.replace(real, example)
        lines = pages.section("docs/destinations-and-doctor.md", "Doctor").splitlines()
        command, *block = [line for line in lines if line.startswith("    ")]
        assert command == "    $ flask doctor"
        assert [normal(line) for line in said.splitlines() if line] == list(map(normal, block))

    def test_chart_shows_the_tables(self) -> None:
        """docs/benchmarks.svg is drawn from docs/benchmarks.md as it is now."""
        assert chart.CHART.read_text(encoding="utf-8") == chart.draw(PAGES["docs/benchmarks.md"])
