"""The fields of ``Settings``: their variables, and the conversion of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from app import conversions
from app.database_url import passwords
from app.environment import Names
from app.text import bounded, redact_shapes, url_secrets

if TYPE_CHECKING:
    from app.settings import Settings

Field = dataclasses.Field[Any]

#: The maximum length of a wrong value in a message, in characters.
SHOWN_LENGTH = 100


def setting(
    default: str | None,
    convert: Callable[[str], object],
    description: str,
    *,
    variable: str | None = None,
    secret: bool = False,
) -> Any:
    """Return a field of ``Settings``.

    ``default`` is a text as in the environment, or None for a required setting. ``variable`` is
    the name of the environment variable, if it is not the attribute's. A ``secret`` stays out of
    the representation, so that it reaches no log by accident, and can be given as a file.
    """
    value = dataclasses.MISSING if default is None else convert(default)
    return dataclasses.field(
        default=value,
        repr=not secret,
        metadata={
            "default": default or "",
            "convert": convert,
            "description": description,
            "variable": variable,
            "secret": secret,
        },
    )


def table(settings: type[Settings]) -> list[Field]:
    """Return the fields that are settings. ``origin`` is none."""
    return [field for field in dataclasses.fields(settings) if field.metadata]


def variable(field: Field) -> str:
    """Return the name of the environment variable of a field."""
    return str(field.metadata["variable"] or field.name.upper())


def names(settings: type[Settings]) -> Names:
    """Return the variables of all settings."""
    fields = table(settings)
    secrets = (variable(field) for field in fields if field.metadata["secret"])
    return Names(frozenset(map(variable, fields)), frozenset(secrets))


def convert(
    settings: type[Settings], texts: Mapping[str, str], problems: dict[str, str]
) -> dict[str, Any]:
    """Return the value of each setting. Adds to ``problems``, and skips settings that are there."""
    converted: dict[str, Any] = {}
    for field in table(settings):
        name = variable(field)
        if name in problems:
            continue
        given = texts.get(name) or field.metadata["default"]
        try:
            converted[field.name] = field.metadata["convert"](conversions.visible(given))
        except ValueError as error:
            # A message can quote the value, which is a secret if two variables were swapped.
            shown = bounded(given, SHOWN_LENGTH, redact_shapes)
            problems[name] = f"{name} {str(error).replace(repr(given), repr(shown))}"
    return converted


def contradictions(settings: Settings) -> dict[str, str]:
    """Return the settings that contradict another one, each with the problem."""
    problems = _mode_problems(settings)
    base = settings.stripe_api_base
    if settings.livemode and base and not base.lower().startswith("https:"):
        problems["STRIPE_API_BASE"] = (
            f"STRIPE_API_BASE is not https, and STRIPE_API_KEY is {settings.key_kind}, which must"
            " not reach a stand-in. Remove STRIPE_API_BASE, or use a test key"
        )
    problems |= _ops_problems(settings)
    if settings.alert_secret in settings.stripe_webhook_secrets:
        text = "is also in STRIPE_WEBHOOK_SECRET. Its receiver could sign deliveries. Use another"
        problems["ALERT_SECRET"] = f"ALERT_SECRET {text} one"
    if settings.database_url.startswith("sqlite"):
        given = {
            "DATABASE_SCHEMA": settings.database_schema,
            "DATABASE_LISTEN_URL": settings.database_listen_url,
        }
        for name in [name for name, value in given.items() if value]:
            problems[name] = f"{name} is for PostgreSQL, and DATABASE_URL names SQLite. Remove one"
    return problems


def _ops_problems(settings: Settings) -> dict[str, str]:
    """Return what is wrong with the settings of the operations page, by setting."""
    if settings.ops_port == settings.port:
        return {"OPS_PORT": "OPS_PORT is the same as PORT, which takes deliveries. Use another one"}
    if settings.ops_read_token and not settings.ops_token:
        return {"OPS_READ_TOKEN": "OPS_READ_TOKEN has no effect without OPS_TOKEN. Set both"}
    if settings.ops_read_token and settings.ops_read_token == settings.ops_token:
        return {
            "OPS_READ_TOKEN": "OPS_READ_TOKEN is the same as OPS_TOKEN, which may change events."
            " Use another one"
        }
    return {}


def _mode_problems(settings: Settings) -> dict[str, str]:
    """Return what is wrong with the settings of an organization key, by setting."""
    mode = "live" if settings.livemode else "test"
    problems: dict[str, str | bool]
    if settings.is_organization:
        problems = {
            "STRIPE_MODE": not settings.stripe_mode
            and "is not set. Set live or test: an organization key (sk_org_...) does not say it",
            "STRIPE_CONTEXT": not settings.stripe_context
            and "is not set. Name an account, such as acct_1: with an organization key, each"
            " request needs one",
        }
    else:
        problems = {
            "STRIPE_MODE": settings.stripe_mode not in {"", mode}
            and f"is {settings.stripe_mode}, and STRIPE_API_KEY is a {mode} key. Remove it",
            "STRIPE_CONTEXT": bool(settings.stripe_context)
            and "is for an organization key (sk_org_...) only. Remove it",
        }
    return {name: f"{name} {text}" for name, text in problems.items() if text}


def secret_texts(settings: Settings) -> list[str]:
    """Return the texts that no log line, answer or message may hold.

    Of a database's URL that is the password. The rest of it is shown. Of ``ALERT_URL`` the parts
    are among them: an answer of its server can hold the path alone.
    """
    texts: list[str] = []
    for field in table(type(settings)):
        value = getattr(settings, field.name)
        if not field.metadata["secret"] or not value:
            continue
        if field.name in {"database_url", "database_listen_url"}:
            texts += passwords(value)
        elif field.name == "alert_url":
            texts += url_secrets(value)
        else:
            texts += [value] if isinstance(value, str) else value
    return texts
