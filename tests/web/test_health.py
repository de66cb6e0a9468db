"""The health checks of an orchestrator and a load balancer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Receiver

MakeReceiver = Callable[..., Receiver]


def test_healthz_does_not_need_the_inbox(make_receiver: MakeReceiver, tmp_path: Path) -> None:
    """/healthz gets 200 as long as the process can respond."""
    (tmp_path / "file").touch()
    receiver = make_receiver(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")

    answer = receiver.client.get("/healthz")

    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_readyz_writes_to_the_inbox(make_receiver: MakeReceiver, database_url: str) -> None:
    """/readyz gets 200 if a row could be written."""
    receiver = make_receiver(database_url=database_url)

    answer = receiver.client.get("/readyz")

    assert (answer.status_code, answer.json) == (200, {"status": "ready"})


def test_readyz_has_the_reason(
    make_receiver: MakeReceiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an inbox /readyz gets 503 with a reason. The details are only in the log."""
    (tmp_path / "file").touch()
    receiver = make_receiver(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")

    answer = receiver.client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json == {"status": "unavailable", "reason": "the inbox is not available"}
    assert answer.headers["Retry-After"] == "5"
    assert str(tmp_path) in capsys.readouterr().err


def test_readyz_while_shutting_down(receiver: Receiver) -> None:
    """A stopping process gets 503, even if the inbox is available."""
    receiver.services.stopping.set()

    answer = receiver.client.get("/readyz")

    assert answer.status_code == 503
    assert answer.json == {"status": "unavailable", "reason": "the service is shutting down"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_only_get_is_answered(receiver: Receiver, path: str) -> None:
    """Another method gets 405 in JSON."""
    answer = receiver.client.post(path)
    assert (answer.status_code, answer.json) == (405, {"error": "method not allowed"})
