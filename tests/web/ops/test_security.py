"""Requests that other sites start, and the headers of all answers."""

from __future__ import annotations

import pytest
from werkzeug.test import TestResponse

from app.web import wsgi
from app.web.bridge import FORM_BYTES
from tests.web.ops.conftest import TOKEN, Browser


def post(ops: Browser, headers: dict[str, str], token: str | None = None) -> TestResponse:
    """Send a form to an address that has no page: 404 means that the request was taken."""
    given = ops.csrf_token() if token is None else token
    return ops.receiver.client.post(
        "/ops/unknown", data={"csrf_token": given}, auth=(ops.name, TOKEN), headers=headers
    )


@pytest.mark.parametrize("path", ["/ops", "/ops/unknown"])
def test_headers(ops: Browser, path: str) -> None:
    """Each page has the headers that keep other sites and search engines out."""
    for answer in (ops.get(path), ops.receiver.client.get(path), ops.post(path)):
        headers = answer.headers
        policy = dict(
            each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";")
        )
        assert policy.pop("default-src") == policy.pop("frame-ancestors") == "'none'"
        assert policy.pop("base-uri") == "'none'"
        assert set(policy.values()) == {"'self'"}
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Robots-Tag"] == "noindex, nofollow"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"


def test_page_has_no_inline_code(ops: Browser) -> None:
    """The policy forbids inline scripts and styles, and the page has none."""
    text = ops.get("/ops").text
    assert "style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
    assert text.count("<script") == text.count("<script src=") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        # Chrome behind a proxy that changes Host: Sec-Fetch-Site is enough.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://ops.example.com"}, 404),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        # http to another machine: browsers send no Sec-Fetch-Site.
        ({"Origin": "http://localhost"}, 404),
        ({"Origin": "http://LOCALHOST:80"}, 404),
        ({"Origin": "http://localhost:8080"}, 403),
        ({"Origin": "http://localhost.example.com"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://evil.example@localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 404),
    ],
)
def test_origin_of_a_form(ops: Browser, headers: dict[str, str], status: int) -> None:
    """A form is taken only from a page of this site."""
    assert post(ops, headers).status_code == status


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("ops.example.com", "https://ops.example.com", 404),
        ("ops.example.com:443", "https://ops.example.com", 404),
        ("10.0.0.5:4243", "http://10.0.0.5:4243", 404),
        ("backend:4242", "https://ops.example.com", 403),
        ("", "null", 403),
        ("[", "http://[", 403),
        ("evil..example", "https://ops.example.com", 403),
    ],
)
def test_origin_is_compared_with_the_host(
    ops: Browser, host: str, origin: str, status: int
) -> None:
    """The bridge hides the header Host from Flask, and keeps it for this comparison."""
    answer = ops.receiver.client.post(
        "/ops/unknown",
        data={"csrf_token": ops.csrf_token()},
        auth=(ops.name, TOKEN),
        headers={"Origin": origin},
        environ_overrides={wsgi.HOST: host},
    )
    assert answer.status_code == status


@pytest.mark.parametrize("token", ["", "wrong", "ä"])
def test_csrf_token(ops: Browser, token: str) -> None:
    """A form without the right token changes nothing."""
    answer = post(ops, {"Sec-Fetch-Site": "same-origin"}, token)
    assert answer.status_code == 403
    assert "The form is out of date" in answer.text


def test_csrf_token_is_of_one_person(ops: Browser) -> None:
    """The token of a form belongs to the credentials that loaded it."""
    other = Browser(ops.receiver, "ben").csrf_token()
    assert other != ops.csrf_token()
    assert post(ops, {"Sec-Fetch-Site": "same-origin"}, other).status_code == 403


@pytest.mark.parametrize(
    ("site", "destination", "status"),
    [
        ("cross-site", "document", 200),
        ("cross-site", "iframe", 403),
        ("cross-site", "script", 403),
        ("same-site", "empty", 403),
        ("same-origin", "empty", 200),
        ("none", "document", 200),
    ],
)
def test_other_sites_may_only_link(ops: Browser, site: str, destination: str, status: int) -> None:
    """A link in a chat leads to a page. A frame or a script of another site does not."""
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": destination}
    assert ops.get("/ops", headers=headers).status_code == status


def test_large_form_is_refused(ops: Browser) -> None:
    """The page has a limit of its own for a form."""
    answer = ops.post("/ops/unknown", {"why": "x" * FORM_BYTES})
    assert answer.status_code == 413
    assert "The form is too large" in answer.text
