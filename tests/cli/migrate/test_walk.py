"""The steps of docs/migrate-to-thin.md: twelve types move, and no effect is doubled."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from click.testing import Result

from app.inbox import NewEvent
from app.stripe_api.catalog import module_name
from devkit import samples
from devkit.deliver import Deliver, MakeDeliver
from devkit.stripe_api import StripeApi
from tests.support import pages, raw_sql

PAGE = "docs/migrate-to-thin.md"
URL = "https://your.host/webhook"
TYPES = [
    *("customer.created", "customer.updated", "customer.deleted", "invoice.paid"),
    *("invoice.created", "invoice.finalized", "charge.failed", "charge.refunded"),
    *("product.created", "price.created", "payout.paid", "coupon.created"),
]
#: Half of the first attempts fail.
MODULE = """
    import random

    effects, first = [], set()

    def handle({name}, client):
        if {name}.id not in first:
            first.add({name}.id)
            if random.random() < 0.5:
                raise LookupError
        effects.append({name}.id.rpartition("_")[2])
"""


def sources(*kinds: str) -> dict[str, str]:
    """Return the modules of all types, of these kinds."""
    made = {}
    for each in TYPES:
        if "snapshot" in kinds:
            made[module_name(each)] = MODULE.format(name="event")
        if "thin" in kinds:
            made[module_name(f"v1.{each}")] = MODULE.format(name="notif")
    return made


class Team:
    """A team that moves, and an account at Stripe with an action of each type between steps."""

    def __init__(self, make: MakeDeliver, api: StripeApi, database_url: str) -> None:
        """Begin with snapshot modules, and an old endpoint with all types."""
        self._make, self._api, self._url = make, api, database_url
        self.endpoint = api.destinations.add(URL, TYPES, event_payload="snapshot")
        self.effects: Counter[str] = Counter()
        self.actions = 0
        self.deliver: Deliver
        self.deploy("snapshot")

    def deploy(self, *kinds: str) -> None:
        """Replace the release by one with modules of these kinds."""
        self.kinds = kinds
        modules = sources(*kinds)
        self.names = list(modules)
        self.deliver = self._make(modules=modules, database_url=self._url)

    def enter(self, command: str) -> Result:
        """Enter a command of the page."""
        words = command.replace("WE_OR_ED", self.endpoint).split()[1:]
        return self.deliver.receiver.app.test_cli_runner().invoke(args=words, input="y\n")

    def act(self) -> None:
        """Let actions happen: Stripe sends them to the destinations, until a 2xx and once more."""
        bodies = []
        for event_type in TYPES:
            self.actions += 1
            thin = samples.notification(f"v1.{event_type}", event_id=f"evt_n_{self.actions}")
            snapshot = samples.snapshot_event(event_type, event_id=f"evt_s_{self.actions}")
            self._api.put_event(samples.event(thin, snapshot_event=snapshot["id"]))
            for name in self._api.destinations.ids:
                found = self._api.destinations.get(name)
                is_thin = found["event_payload"] == "thin"
                body = thin if is_thin else snapshot
                if found["status"] == "enabled" and body["type"] in found["enabled_events"]:
                    bodies += [body] * 2
        random.shuffle(bodies)
        for body in bodies:
            while self.deliver(body).status != 200:
                pass
        for name in self.names:
            module = self.deliver.receiver.module(name)
            self.effects.update(module.effects)
            module.effects.clear()

    def step(self, command: str) -> None:
        """Do what the page says beside a command."""
        if " mirror " in command:
            self.deploy("snapshot", "thin")
            self.act()
        if " finish " in command:
            self._pass_days()

    def _pass_days(self) -> None:
        """Let the actions from before the thin destination become older than the comparison."""
        self.act()
        raw_sql.execute(self._url, "UPDATE events SET received_at = received_at - 400000")
        self.act()

    def switch_off(self) -> None:
        """Do the last steps."""
        self._api.destinations.change(self.endpoint, status="disabled")
        self.act()
        self.deploy("thin")
        self.act()


@pytest.fixture
def team(make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str) -> Team:
    """The team at the beginning."""
    random.seed(20261127)
    return Team(make_deliver, stripe_api, database_url)


def test_no_effect_is_doubled_or_lost(team: Team) -> None:
    """Each command of the page succeeds in its order. Each action has one effect."""
    team.act()
    said = []
    for kind, command in pages.blocks(PAGE, "Steps"):
        assert kind == "command"
        team.step(command)
        result = team.enter(command)
        assert result.exit_code == 0, result.output
        said.append(result.output)
        team.act()
    team.switch_off()

    plan, mirror, _status, finish = said
    assert "12 types of 12 can move to thin events." in plan
    assert mirror.startswith(f"A thin destination for {URL} with 12 event types:")
    assert finish.startswith("12 types can leave")
    assert set(team.effects.values()) == {1}
    assert len(team.effects) == team.actions


Run = Callable[..., Result]


class TestFinish:
    """It names what can be switched off, and what cannot."""

    @pytest.fixture
    def old(self, stripe_api: StripeApi) -> str:
        """An old endpoint."""
        types = ["customer.created", "invoice.paid", "customer.source.created", "charge.failed"]
        return stripe_api.destinations.add(URL, types, event_payload="snapshot")

    def test_not_yet(self, run: Run, deliver: Deliver, old: str) -> None:
        """Each type that has to wait has a reason. A type without a snapshot module can leave."""
        deliver.receiver.services.inbox.migrate()
        result = run("finish", old)
        assert result.exit_code == 1
        assert "Not yet: customer.created: wait for events of both kinds." in result.output
        assert "Not yet: invoice.paid: write the thin module." in result.output
        assert "Stays: customer.source.created has no thin form." in result.output
        assert "1 type can leave" in result.output
        assert "remove these types from" in result.output
        assert "3. Delete no module" in result.output

    @pytest.mark.parametrize("event_type", ["charge.failed", "v1.charge.failed"])
    def test_open_event(self, run: Run, deliver: Deliver, old: str, event_type: str) -> None:
        """The step that waits says for which types, of both kinds."""
        inbox = deliver.receiver.services.inbox
        event = NewEvent("evt_1", event_type, livemode=False, context=None, body=b"{}")
        inbox.deliveries.enqueue(event)
        said = run("finish", old).output
        assert f"--type {event_type}` (some are now)" in said
        assert said.count("(some are now)") == 1

    def test_none(self, run: Run, deliver: Deliver, stripe_api: StripeApi) -> None:
        """There are no steps."""
        deliver.receiver.services.inbox.migrate()
        old = stripe_api.destinations.add(URL, ["invoice.paid"], event_payload="snapshot")
        assert run("finish", old).output.endswith("No type can leave it.\n")
