"""What ``flask events send`` changes at the stand-in for Stripe's API, and in snapshot events."""

from __future__ import annotations

from contextlib import contextmanager
from difflib import get_close_matches
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import click

from app.cli.hints import flask_command
from app.cli.output import say
from app.text import printable
from devkit import placeholders, samples
from devkit.http_client import put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.services import Services

NO_STAND_IN = (
    "--field, --lost and --snapshot-event put an object into the stand-in for Stripe's API. Start"
    " it with `make dev`, or name another one in STRIPE_API_BASE."
)


def put_objects(own: Services, bodies: list[dict[str, Any]], fields: Mapping[str, Any]) -> None:
    """Set ``fields`` of the objects: at the stand-in, or in the bodies of snapshot events."""
    for body in bodies:
        if samples.is_snapshot(body):
            known = body["data"]["object"]
            _check_fields(known, known.get("object", ""), fields)
            known.update(fields)
            continue
        related = body.get("related_object")
        if related is None:
            raise click.UsageError(f"{body['type']} names no object that has fields.")
        known = placeholders.api_object(body)
        _check_fields(known, related["type"], fields)
        _put(own, related["url"], {**known, **fields})


def _check_fields(known: Mapping[str, Any], kind: str, fields: Mapping[str, Any]) -> None:
    """Refuse a field that the object does not have. An object of an unknown kind has any field."""
    unknown = [name for name in fields if name not in known]
    if unknown and kind:
        near = ", ".join(get_close_matches(unknown[0], known)) or ", ".join(known)
        raise click.UsageError(f"The object {kind!r} has no field {unknown[0]!r}; nearest: {near}")


def name_snapshot_event(own: Services, body: Mapping[str, Any], snapshot_event: str) -> None:
    """Let the full event of a notification name the ``snapshot_event`` of the same action."""
    full = {**placeholders.event(body), "snapshot_event": snapshot_event}
    _put(own, samples.event_url(body), full)


def lose(own: Services, bodies: list[dict[str, Any]]) -> None:
    """Let the stand-in serve and list the events, and print how to find them."""
    event_type = bodies[0]["type"]
    context = bodies[0].get("context") or bodies[0].get("account")
    if event_type not in own.reconciler.types:
        raise click.ClickException(
            f"{event_type} has no handler module, and reconciliation looks only for types with one."
            f" Write it: make handler TYPE={event_type}"
        )
    for body in bodies:
        path = samples.event_url(body)
        _put(own, path, body if samples.is_snapshot(body) else placeholders.event(body))
        say(f"{body['id']}  {event_type}  exists at the stand-in, and is not delivered")
    account = ["--account", context] if context else []
    say(f"Find what was not delivered: {flask_command('events', 'reconcile', *account)}")


def _put(own: Services, path: str, api_object: Mapping[str, Any]) -> None:
    """Put an object into the stand-in. Raises ``ClickException`` unless it accepts the object."""
    base = own.settings.stripe_api_base
    if base is None:
        raise click.ClickException(NO_STAND_IN)
    with answering(base, "Start it with `make dev`, or correct STRIPE_API_BASE."):
        status = put(base + path, api_object)
    if status != HTTPStatus.CREATED:
        raise click.ClickException(
            f"{base} is no stand-in of the devkit: it answered {status} to PUT {path}."
        )


@contextmanager
def answering(url: str, remedy: str) -> Iterator[None]:
    """Turn a missing answer into a ``ClickException``. ``remedy`` is for a port that is closed."""
    try:
        yield
    except ConnectionRefusedError:
        raise click.ClickException(f"No service listens at {url}. {remedy}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(
            printable(f"{url} did not answer: {str(error) or type(error).__name__}")
        ) from None
