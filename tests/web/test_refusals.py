"""Warnings about refused requests are limited, and hold nothing personal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.web.refusals import LINES, RefusalLog, shown_method, shown_path


def logged(act: Callable[[RefusalLog], None]) -> list[tuple[Any, ...]]:
    """Return the event, reason and number of each line that ``act`` causes."""
    with capture_logs() as lines:
        act(RefusalLog())
    return [(line["event"], line["reason"], line.get("left_out")) for line in lines]


def test_one_reason_gets_a_limited_number_of_lines() -> None:
    """The other refusals are counted, and one line at the end of the interval has the number."""

    def flood(refusals: RefusalLog) -> None:
        for _ in range(LINES + 5):
            refusals.write("malformed", status=400)

    assert logged(flood) == [("request_refused", "malformed", None)] * LINES


@pytest.mark.parametrize("ends", [RefusalLog.end_intervals, lambda log: log.allows("unknown_path")])
def test_interval_ends(
    ends: Callable[[RefusalLog], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it the number is logged, by the server's tick or the next refusal. The next begins."""

    def flood(refusals: RefusalLog) -> None:
        for _ in range(LINES + 5):
            refusals.write("malformed", status=400)
        refusals.end_intervals()
        now = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: now)  # a minute is too long for a test
        ends(refusals)
        refusals.write("malformed", status=400)

    line = ("request_refused", "malformed", None)
    left_out = ("refusals_left_out", "malformed", 5)
    assert logged(flood) == [line] * LINES + [left_out, line]


def test_each_reason_has_its_own_limit() -> None:
    """A flood of one kind hides no other kind."""

    def flood(refusals: RefusalLog) -> None:
        for _ in range(LINES + 1):
            refusals.write("malformed")
        refusals.write("unknown_path")

    assert logged(flood)[-1] == ("request_refused", "unknown_path", None)


def test_end_of_the_process_tells_the_number() -> None:
    """A stop does not wait for the end of the interval. Without left out lines it logs nothing."""

    def flood(refusals: RefusalLog) -> None:
        refusals.write("unknown_path")
        for _ in range(LINES + 2):
            refusals.write("malformed")
        refusals.flush()

    assert logged(flood)[-2:] == [
        ("request_refused", "malformed", None),
        ("refusals_left_out", "malformed", 2),
    ]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/", "/"),
        ("/webhooks", "/webhooks"),
        ("/api/v1/stripe-webhook/", "/api/v1/stripe-webhook/"),
        ("/users/jane@example.com", "/users/(not shown)"),
        ("/reset/AbCd1234efGH/", "/reset/(not shown)/"),
        ("/v3/hooks/9f86d081", "/(not shown)/hooks/(not shown)"),
        ("/" + "a" * 21, "/(not shown)"),
        ("/a/b/c/d/e", "(not shown)"),
        ("/\u202egpj", "/(not shown)"),
        ("http://host/webhook", "(not shown)"),
        ("*", "(not shown)"),
        ("", "(not shown)"),
    ],
)
def test_only_plain_segments_are_shown(path: str, shown: str) -> None:
    """A segment with an address, a token or control characters is not logged."""
    assert shown_path(path) == shown


def test_only_a_registered_method_is_shown() -> None:
    """Any other word can come from a client."""
    assert [shown_method(each) for each in ("GET", "PATCH", "sk_live_marker", "get")] == [
        "GET",
        "PATCH",
        "(not shown)",
        "(not shown)",
    ]
