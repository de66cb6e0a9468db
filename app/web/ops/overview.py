"""The overview: one sentence of state, the last day, and what runs."""

from __future__ import annotations

from flask import Blueprint, render_template

from app.services import services

blueprint = Blueprint("overview", __name__)


@blueprint.get("", strict_slashes=False)
def show() -> str:
    """Show the overview."""
    report = services().inbox.administration.report()
    return render_template("ops/overview.html", report=report)
