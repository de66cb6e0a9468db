"""The recipe for Sentry in the documentation, with its SDK and a receiver of its reports."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug import Request, Response

from app.settings import environment
from devkit.http_server import serving
from tests.conftest import API_KEY, SECRET
from tests.support import pages

#: A process of its own: the SDK replaces parts of the standard library.
DELIVER = """
from app import create_app
from app.services import services
from devkit import samples
from devkit.deliver import Receiver
app = create_app()
receiver = Receiver(app, app.test_client())
for name in ("evt_fails", "evt_waits"):
    sample = samples.notification("v1.invoice.paid", event_id=name, object_id="in_secret")
    assert receiver.deliver(sample).status_code == 500
receiver.close()
"""

FAILING = """
from app import RetryLater

def handle(notif, client):
    if notif.id == "evt_waits":
        raise RetryLater(10)
    fail(notif.related_object.id)

def fail(invoice):
    raise LookupError("the invoice has no customer")
"""


def reports(envelope: bytes) -> list[dict[str, Any]]:
    """Return the reports of an envelope: https://develop.sentry.dev/sdk/data-model/envelopes/."""
    lines = [json.loads(line) for line in envelope.splitlines() if line]
    return [
        item
        for header, item in zip(lines[1::2], lines[2::2], strict=False)
        if header["type"] == "event"
    ]


@pytest.mark.processes
def test_recipe_reports_a_failed_callback(
    tmp_path: Path, make_handlers: Callable[..., str], sqlite_url: str
) -> None:
    """Each failed attempt is a report with the event, and without variables and ids of objects.

    An attempt that asks for another one is none.
    """
    hook = pages.files("docs/tracing.md")["handlers/around.py"]
    package = make_handlers(around=hook, v1_invoice_paid=FAILING)
    sent: list[bytes] = []

    @Request.application
    def receive(request: Request) -> Response:
        data = request.get_data()
        sent.append(gzip.decompress(data) if request.content_encoding == "gzip" else data)
        return Response("{}")

    with serving(receive) as port:
        changes = {
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "DATABASE_URL": sqlite_url,
            "HANDLERS_PACKAGE": package,
            "PYTHONPATH": f"{tmp_path}/packages:{pages.ROOT}",
            "SENTRY_DSN": f"http://key@127.0.0.1:{port}/1",
            "RELEASE": "41c9",
        }
        subprocess.run(
            [sys.executable, "-c", DELIVER], env=environment(**changes), cwd=tmp_path, check=True
        )
    (report,) = [each for envelope in sent for each in reports(envelope)]
    (error,) = report["exception"]["values"]
    assert (error["type"], error["value"]) == ("LookupError", "the invoice has no customer")
    assert report["tags"] == {"event_id": "evt_fails", "event_type": "v1.invoice.paid"}
    assert report["release"] == "41c9"
    assert error["stacktrace"]["frames"][-1]["function"] == "fail"
    assert [frame for frame in error["stacktrace"]["frames"] if "vars" in frame] == []
    assert b"in_secret" not in b"".join(sent)
    assert SECRET.encode() not in b"".join(sent)
