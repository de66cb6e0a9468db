"""The night of the documentation, with its commands and its outputs: from the alert to the end."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import pytest

from app.alerts.tasks import make_evaluation
from app.states import State
from devkit import samples
from tests.conftest import Receiver
from tests.support import pages, raw_sql
from tests.support.waiting import wait_for
from tests.web.ops.conftest import TOKEN, Browser

PAGE = "docs/bad-night.md"
TYPE, MODULE = "v1.invoice.paid", "v1_invoice_paid"
BROKEN = """
    PLANS = {"gold": 1}

    def handle(notif, client):
        plan = "silver"
        PLANS[plan]
"""
MENDED = "def handle(notif, client): pass\n"
EVENTS = ["evt_sample_0", "evt_sample_1"]
GROUP = "41f74b8e5a29"


class Night:
    """A service with a broken release, whose events are dead, and with the mended one."""

    def __init__(self, make_receiver: Callable[..., Receiver]) -> None:
        """Deliver two events to the broken release. They fail once, and are dead."""
        self._make = make_receiver
        self.now = self._release("41c9", BROKEN)
        for event_id in EVENTS:
            self.now.deliver(samples.notification(TYPE, event_id=event_id))
        self.run_until(State.DEAD)
        self.evaluate_alerts()
        (self.group,) = self.now.services.inbox.groups.list(2)

    def _release(self, release: str, module: str) -> Receiver:
        receiver = self._make(
            {MODULE: module}, processing="queue", max_attempts=1, release=release, ops_token=TOKEN
        )
        receiver.services.inbox.groups.begin_release(release)
        return receiver

    def deploy(self) -> None:
        """Replace the broken release by the mended one. Its workers end before."""
        self.now.services.worker.join()
        self.now = self._release("5d0e", MENDED)

    def run_until(self, state: State) -> None:
        """Let the workers run both events until they are in this state."""
        self.now.services.worker.start(1)
        wait_for(lambda: all(self.now.event(each).state == state for each in EVENTS))

    def evaluate_alerts(self) -> None:
        """Raise and end alerts, as a serving process does every 15 seconds."""
        make_evaluation(self.now.services.settings, self.now.services.inbox).run()

    def pass_a_minute(self) -> None:
        """Let an alert whose condition is gone end."""
        url = self.now.services.settings.database_url
        raw_sql.execute(url, "UPDATE stripe_receiver_alerts SET seen_at = seen_at - 61")
        self.evaluate_alerts()

    def enter(self, command: str) -> list[str]:
        """Enter a command of the page, and return the columns of each line that it says."""
        command = command.replace(GROUP, self.group.fingerprint)
        words = re.findall(r'"[^"]*"|\S+', command)[1:]
        runner = self.now.app.test_cli_runner()
        said = runner.invoke(args=[each.strip('"') for each in words], input="y\n").output
        said = re.sub(r"handlers_\w+(?=/)", "handlers", said).replace(self.group.fingerprint, GROUP)
        return [constant(line) for line in said.splitlines()]


def constant(line: str) -> str:
    """Return a line without its times, and with one space between two columns."""
    return " ".join(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line).split())


@pytest.fixture
def night(make_receiver: Callable[..., Receiver]) -> Night:
    """The night, when the alert arrives."""
    return Night(make_receiver)


def test_text_of_the_alert(night: Night) -> None:
    """The message that the page begins with is the one of the alert."""
    (alert,) = night.now.services.inbox.alerts.latest()
    ((shown,),) = pages.shown(PAGE, "The alert")
    text = re.sub(r"handlers_\w+(?=/)", "handlers", alert.text)
    assert shown == f"{text}. See `flask alerts list`"


def test_commands_lead_to_the_end(night: Night) -> None:
    """Each command of the page does what the page shows, in this order."""
    said: list[str] = []
    checked = 0
    for kind, text in pages.blocks(PAGE, "With the command line"):
        if kind == "command":
            if " retry " in text:
                night.deploy()
            elif " list --state dead" in text:
                night.run_until(State.DONE)
            elif checked > 5:
                night.pass_a_minute()
            said = night.enter(text)
        else:
            assert [line for line in text.splitlines() if constant(line) not in said] == []
            checked += 1
    assert checked == 7


class Screen:
    """A browser that shows one page of the service. A person presses links and buttons by name."""

    def __init__(self, night: Night) -> None:
        """Show nothing yet."""
        self._night = night
        self._html = ""

    @property
    def text(self) -> str:
        """The text of the page, without its elements."""
        return plain(self._html)

    def open(self, path: str) -> None:
        """Open an address."""
        self._html = Browser(self._night.now).get(path, follow_redirects=True).text

    def press(self, name: str) -> None:
        """Follow the first link with this text, or send the form with this button."""
        addresses = re.findall(r'<a [^>]*href="([^"]+)"[^>]*>([\s\S]*?)</a>', self._html)
        links = {plain(text): html.unescape(address) for address, text in reversed(addresses)}
        if name in links:
            self.open(links[name])
            return
        forms = re.findall(r'<form method="post" action="([^"]+)">([\s\S]*?)</form>', self._html)
        ((action, form),) = [each for each in forms if f">{name}</button>" in each[1]]
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
        fields = {field: html.unescape(value) for field, value in hidden}
        self._html = Browser(self._night.now).post(action, fields, follow=True).text


def plain(source: str) -> str:
    """Return the text of HTML, with one space between its words."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", source)).split())


def test_pages_lead_to_the_end(night: Night) -> None:
    """Each link and each button of the page exists, and leads to what the page shows."""
    screen = Screen(night)
    rows = pages.table(PAGE, "With the operations page")
    for step, said in rows:
        if "is deployed" in step:
            night.deploy()
        elif "the workers ran them" in step:
            night.run_until(State.DONE)
        ((pressed, address),) = re.findall(r"^(?:\*\*(.+)\*\*|`(.+?)`)", step)
        if pressed:
            screen.press(pressed)
        else:
            screen.open(address)
        assert said in screen.text, step
    assert len(rows) == 10


def test_release_is_a_condition_of_the_retry(night: Night) -> None:
    """The page's question is about events that failed before it, and about no others."""
    night.deploy()
    group = night.group.fingerprint
    screen = Screen(night)
    screen.open(f"/ops/groups/{group}")
    screen.press("Retry those that failed before release 5d0e")
    assert "before release 5d0e" in screen.text
    screen.open(f"/ops/retry?group={group}&failed-before=41c9")
    assert "There is nothing to do" in screen.text
