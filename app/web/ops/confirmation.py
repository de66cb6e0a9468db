"""The page before an action: it says what the action does, and to how many events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flask import Response, make_response, render_template, request
from werkzeug.exceptions import Forbidden

from app.text import storable
from app.web.ops.auth import viewer
from app.web.ops.sentences import Sentence

#: The longest reason, in characters.
REASON_LENGTH = 500

REASON_NEEDED = "Write down the reason. Other operators will read it."


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question: what the button does. ``fields`` are returned with the form.

    ``about`` is the state of the one event in question.
    """

    title: str
    sentences: Sequence[str]
    button: str
    action: str
    back: str
    fields: Mapping[str, str] = field(default_factory=dict)
    about: Sentence | None = None
    needs_reason: bool = False
    is_danger: bool = False


def ask(question: Confirmation, *, problem: str = "") -> Response:
    """Return the page with the question. With a ``problem``, the form could not be used: 400."""
    html = render_template(
        "ops/confirm.html", question=question, problem=problem, why=request.form.get("why", "")
    )
    return make_response(html, 400 if problem else 200)


def refuse(title: str, sentence: str, back: str) -> Response:
    """Return the page of an action that is impossible now: nothing was changed."""
    html = render_template("ops/refusal.html", title=title, sentence=sentence, back=back)
    return make_response(html, 409)


def require_right_to_act() -> None:
    """Refuse the question of an action to a viewer who may only look. Raises 403."""
    if not viewer().may_act:
        raise Forbidden("Your token may look and change nothing. Use the one in OPS_TOKEN.")


def reason() -> str | None:
    """Return the reason in the form of this request, None without one."""
    return storable(request.form.get("why", "").strip()[:REASON_LENGTH]) or None
