"""Prometheus's own tool reads the metrics, the alert rules and the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import stripe

from app.states import Outcome
from devkit import samples
from tests.conftest import Receiver
from tests.support.images import ROOT

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"


def promtool(*words: object, text: str = "", folder: Path = ROOT) -> None:
    """Run promtool. Fail with its output if it finds a problem."""
    done = subprocess.run(
        ["promtool", *map(str, words)],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_rules_are_valid() -> None:
    """Prometheus accepts the rules."""
    promtool("check", "rules", RULES)


def test_rules_raise_and_resolve(tmp_path: Path) -> None:
    """Each rule raises its alert when its condition holds, and only then."""
    for file in (RULES, Path(__file__).with_name("alerts_test.yaml")):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    promtool("test", "rules", "alerts_test.yaml", folder=tmp_path)


def test_each_rule_is_tested() -> None:
    """No rule is without a case in which it raises its alert."""
    rules = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
    cases = Path(__file__).with_name("alerts_test.yaml").read_text(encoding="utf-8")
    raised = re.findall(r"alertname: (\w+)\n +eval_time: \S+\n +exp_alerts:\n", cases)
    assert set(raised) == set(rules)


def test_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    """Prometheus can run the query of each panel."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": each.replace("$__rate_interval", "5m")}
        for number, each in enumerate(expressions)
    ]
    file = tmp_path / "panels.yaml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", file)


def test_scrape_is_valid(make_receiver: Callable[..., Receiver]) -> None:
    """The metrics follow Prometheus's format and its rules for names."""
    receiver = make_receiver(ops_port=9400, stripe_api_base="http://127.0.0.1:9")
    meter = receiver.services.meter
    meter.start()
    receiver.deliver(samples.notification("v1.invoice.paid"))
    receiver.post(b"{}", None)
    with pytest.raises(stripe.APIConnectionError):
        receiver.services.client.v1.customers.retrieve("cus", options={"max_network_retries": 0})
    meter.attempt("v1.invoice.paid", Outcome.FAILED, 1.5)
    meter.flush()
    answer = receiver.client.get("/metrics", environ_overrides={"SERVER_PORT": "9400"})
    promtool("check", "metrics", text=answer.text)
