"""The frame of all pages: files, errors, and the words of times and numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app import formats
from app.web.ops import overview, view
from tests.web.ops.conftest import Browser


def test_files_have_versioned_addresses(ops: Browser) -> None:
    """The style sheet, the script and the icon are kept by browsers: a change has a new address."""
    addresses = re.findall(r'"(/ops/static/[^"]+)"', ops.get("/ops").text)
    assert len(addresses) == 3
    for address in addresses:
        answer = ops.get(address)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert ops.get(re.sub(r"/\w{12}/", "/123456789012/", address)).status_code == 404


def test_addresses_keep_the_prefix_of_a_proxy(ops: Browser) -> None:
    """Behind a path of a proxy, all links of the page have that path."""
    text = ops.get("/ops", environ_overrides={"SCRIPT_NAME": "/hooks"}).text
    links = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
    assert len(links) > 7
    assert [link for link in links if not link.startswith("/hooks/ops")] == []


@pytest.mark.parametrize("path", ["/ops/unknown", "/ops/static/x/y", "/ops/a/b/c"])
def test_unknown_page(ops: Browser, path: str) -> None:
    """An unknown address has a page, with a link to the overview."""
    answer = ops.get(path)
    assert answer.status_code == 404
    assert "There is no such page." in answer.text
    assert 'href="/ops"' in answer.text


def test_inbox_is_away(make_ops: Callable[..., Browser], tmp_path: Path) -> None:
    """Without its inbox the page says so, with 503."""
    (tmp_path / "file").touch()
    ops = make_ops(database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
    with capture_logs() as logs:
        answer = ops.get("/ops")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Deliveries are answered 503" in answer.text
    assert str(tmp_path) not in answer.text
    assert "page_unavailable" in {line["event"] for line in logs}


def test_failed_page(ops: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the page is logged, and its text is not shown."""

    def fail() -> object:
        raise ValueError("a text with data")

    # No request makes a sound page fail.
    monkeypatch.setattr(overview, "services", fail)
    with capture_logs() as logs:
        answer = ops.get("/ops")
    assert answer.status_code == 500
    assert "page_failed" in answer.text
    assert "a text with data" not in answer.text
    assert [line["event"] for line in logs] == ["page_failed"]


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (0.2, "0 s ago"),
        (59, "59 s ago"),
        (125, "2 minutes ago"),
        (7300, "2 hours ago"),
        (190000, "2 days ago"),
        (-130, "in 2 minutes"),
    ],
)
def test_times_are_relative(passed: float, shown: str) -> None:
    """A time is shown relative to now, with the exact UTC time on hover or focus."""
    at = time.time() - passed
    html = view.when(at)
    assert f">{shown}</time>" in html
    assert time.strftime('data-exact="%Y-%m-%d %H:%M:%S UTC"', time.gmtime(at)) in html
    assert 'tabindex="0"' in html


def test_numbers_and_nouns_agree() -> None:
    """Numbers have commas, and plurals agree."""
    assert view.when(None) == "never"
    assert formats.counted(1, "event") == "1 event"
    assert formats.counted(1204, "event") == "1,204 events"
    assert formats.counted("10,000+", "entry", "entries") == "10,000+ entries"
