"""The page about metrics, the alert rules and the dashboard name the series of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric

from app.alerts.texts import runbook
from app.inbox import Gauges
from app.metrics.exposition import Exposition
from app.metrics.series import PREFIX
from app.metrics.state import InboxState
from app.states import NOT_RUN, SUCCESSES
from tests.support import pages

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
#: What an alert of the service itself is called where a rule has the same condition.
ALERTS = (
    *("dead_events", "backlog", "failures", "silence", "inbox_not_writable"),
    *("destination_disabled", "reconcile_gap"),
)


def own_metrics() -> Iterator[Metric]:
    """Yield all metrics of the service."""
    gauges = Gauges({"dead": 1}, 0.0, {"1": 0.0})
    exposition = Exposition(None, lambda: gauges, lambda: None)
    assert exposition.series is not None
    yield from exposition.series.registry.collect()
    yield from InboxState(lambda: gauges).collect()


@pytest.fixture(scope="module")
def series() -> dict[str, str]:
    """The names of the series on the page, and their types."""
    return {
        f"{metric.name}{'_total' if metric.type == 'counter' else ''}": metric.type
        for metric in own_metrics()
    }


def test_each_series_is_documented(series: dict[str, str]) -> None:
    """The page has a row with the type of each series, and no other."""
    rows = pages.table("docs/metrics.md", "Series")
    documented = {f"{PREFIX}_{name.strip('`')}": kind for name, kind, *_ in rows}
    assert documented == series


def test_labels_are_documented() -> None:
    """The page names the labels of each series."""
    rows = pages.table("docs/metrics.md", "Series")
    documented = {
        name.strip("`"): set(re.findall(r"`(\w+)`", labels)) for name, _, labels, *_ in rows
    }
    for metric in own_metrics():
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        name = metric.name.removeprefix(f"{PREFIX}_") + "_total" * (metric.type == "counter")
        assert labels <= documented[name], name


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_used_series_exist(series: dict[str, str], file: Path) -> None:
    """An alert or a panel of a series that does not exist would never show anything."""
    used = set(re.findall(rf"{PREFIX}_\w+", file.read_text(encoding="utf-8")))
    known = {name for name, kind in series.items() if kind != "histogram"}
    known |= {f"{name}_bucket" for name, kind in series.items() if kind == "histogram"}
    assert len(used) > 5
    assert used <= known


def test_rules_have_runbooks() -> None:
    """Each rule has a runbook: the one of the service's own alert, or a section of that page."""
    text = RULES.read_text(encoding="utf-8")
    links = re.findall(r"runbook_url: (\S+)", text)
    assert len(links) == text.count("- alert:")
    own = {runbook(alert) for alert in ALERTS}
    others = {f"docs/operations.md#{anchor}" for anchor in ("health", "refused-requests")}
    assert set(links) == own | others


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=["rules", "dashboard"])
def test_no_success_counts_as_a_failure(file: Path) -> None:
    """What counts failed attempts leaves out each outcome of a success."""
    (successes,) = re.findall(r"outcome!~\\?\"([\w|]+)", file.read_text(encoding="utf-8"))
    assert set(successes.split("|")) == SUCCESSES - NOT_RUN


def test_dashboard_shows_each_series(series: dict[str, str]) -> None:
    """The dashboard has a panel for each series, with an id of its own."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    )
    assert [name for name in series if name not in expressions] == []
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
