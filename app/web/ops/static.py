"""The style sheet, the script and the icon of the operations page.

The address of each has its hash, so a browser may keep it for ever.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import NotFound

FOLDER = Path(__file__).parent / "static"

TYPES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

CACHE = "private, max-age=31536000, immutable"

blueprint = Blueprint("static", __name__)


@blueprint.get("/static/<version>/<name>")
def file(version: str, name: str) -> Response:
    """Return one of the files, in the version of its address."""
    if name not in TYPES or version != _version(name):
        raise NotFound
    response = Response(_content(name), mimetype=TYPES[name])
    response.headers["Cache-Control"] = CACHE
    return response


def address(name: str) -> str:
    """Return the address of a file, with its hash."""
    return url_for("ops.static.file", version=_version(name), name=name)


@functools.cache
def _content(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


@functools.cache
def _version(name: str) -> str:
    return hashlib.sha256(_content(name)).hexdigest()[:12]
