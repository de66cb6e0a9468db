"""What docs/alerts.md shows is what happens."""

from __future__ import annotations

import json
import threading
from http.server import HTTPServer
from typing import Any

import pytest
from werkzeug import Request, Response

from app.alerts.post import Poster
from app.alerts.texts import runbook
from devkit.http_server import HOST, serving
from tests.support import pages

PAGE = "docs/alerts.md"


def test_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter for PagerDuty triggers an incident, and resolves the same one."""
    (source,) = [each.text for each in pages.blocks(PAGE, "Receivers") if each.kind == "python"]
    taken: list[dict[str, Any]] = []

    @Request.application
    def pagerduty(request: Request) -> Response:
        taken.append(json.loads(request.get_data()))
        return Response(status=202)

    monkeypatch.setenv("PAGERDUTY_KEY", "key")
    with serving(pagerduty) as port:
        events = "https://events.pagerduty.com/v2/enqueue"
        assert events in source
        code = source.replace(events, f"http://{HOST}:{port}/")
        names: dict[str, Any] = {}
        exec(code.rpartition("\nHTTPServer")[0], names)  # noqa: S102 - the program of the page
        monkeypatch.setattr(names["Adapter"], "log_message", lambda *_: None)
        with HTTPServer((HOST, 0), names["Adapter"]) as server:
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            poster = Poster(f"http://{HOST}:{server.server_address[1]}/", None)
            for state in ("raised", "resolved"):
                body = {"text": "2 events are dead", "alert": "dead_events", "group": "9f2c"}
                assert poster.post("msg_1", json.dumps({**body, "state": state}).encode()).is_taken
            server.shutdown()
    assert [each["event_action"] for each in taken] == ["trigger", "resolve"]
    assert [each["dedup_key"] for each in taken] == 2 * ["dead_events:9f2c"]
    assert taken[0]["payload"]["summary"] == "2 events are dead"


def test_message() -> None:
    """The example has the fields of a message, and each is described."""
    (example,) = [each.text for each in pages.blocks(PAGE, "A message") if each.kind == "json"]
    fields = json.loads(example)
    described = [name for row in pages.table(PAGE, "A message") for name in row[0].split(", ")]
    assert [name.strip("`") for name in described] == [
        "text", "alert", "group", "state", "since", "count", "types", "release", "runbook",
    ]  # fmt: skip
    assert set(fields) == {name.strip("`") for name in described}
    assert fields["runbook"] == runbook(fields["alert"])
