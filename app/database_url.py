"""The conversion of ``DATABASE_URL``. No message holds a part of the URL, which has a password."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import sqlalchemy as sa

DRIVER = "postgresql+psycopg"

#: Other names of the two databases, with drivers that are not installed or not needed.
_OTHER_DRIVER = re.compile(r"(postgres|postgresql|sqlite)\+\w+")

_SEVERAL_HOSTS = (
    "names several hosts. Name one that always leads to the primary server, such as a proxy or a"
    " virtual address"
)

#: The parameters of the driver that are secret.
_SECRET_PARAMETERS = ("password", "sslpassword")

#: A shorter password is not redacted: it is a part of many words.
SHORTEST_PASSWORD = 4


def database_url(value: str) -> str:
    """Return the URL of a SQLite file or of a PostgreSQL database, for which psycopg is the driver.

    Raises ``ValueError``.
    """
    if _has_several_hosts(value):
        raise ValueError(_SEVERAL_HOSTS)
    try:
        url = sa.make_url(value)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(
            "is not a database URL. Use sqlite:///var/inbox.sqlite3 or"
            " postgresql://user:password@host/database"
        ) from None
    if url.drivername in {"postgres", "postgresql", DRIVER}:
        return _postgresql(value, url)
    if url.drivername == "sqlite":
        return _sqlite(value, url)
    if _OTHER_DRIVER.fullmatch(url.drivername):
        raise ValueError(
            "names a driver after the +. Write postgresql:// or sqlite:/// without one: the"
            " service has its own"
        )
    raise ValueError("names a database other than sqlite and postgresql. Use one of the two")


def listen_url(value: str) -> str | None:
    """Return the URL of a PostgreSQL database, or None for an empty text. Raises ``ValueError``."""
    if not value:
        return None
    url = database_url(value)
    if url.startswith("sqlite"):
        raise ValueError("names SQLite, which has no notifications. Leave it empty")
    return url


def _has_several_hosts(value: str) -> bool:
    """Return True for libpq's form of several hosts, which SQLAlchemy cannot read."""
    scheme, _, rest = value.partition("://")
    authority = re.split(r"[/?]", rest.rpartition("@")[2], maxsplit=1)[0]
    return scheme.startswith("postgres") and "," in authority


def _postgresql(value: str, url: sa.URL) -> str:
    if "%00" in value:
        raise ValueError("has %00, the character NUL, which PostgreSQL does not take. Remove it")
    if value.count("@") > 1:
        raise ValueError(
            "has more than one @. Percent-encode the user and the password: %40 for @, %2F for /,"
            " %3A for :, %25 for %"
        )
    hosts = [url.query.get(name, "") for name in ("host", "hostaddr")]
    if any(isinstance(each, tuple) or "," in each for each in hosts):
        raise ValueError(_SEVERAL_HOSTS)
    _check_parameters(url)
    host = unquote(url.host or "")
    if host.startswith("/"):  # libpq's form of the folder of a socket
        place = {"host": host} | ({"port": str(url.port)} if url.port else {})
        url = sa.URL.create(DRIVER, url.username, url.password, database=url.database).set(
            query={**url.query, **place}
        )
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def _check_parameters(url: sa.URL) -> None:
    """Refuse what libpq does not know: it would fail at each connection."""
    from psycopg import pq  # noqa: PLC0415 - SQLite needs no psycopg, which is slow to import

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    unknown = sorted(set(url.query) - known)
    if unknown:
        raise ValueError(f"has the parameter {unknown[0]}, which libpq does not know. Remove it")
    if not str(url.query.get("port", "0")).isdecimal():
        raise ValueError("has a port that is not a number")


def _sqlite(value: str, url: sa.URL) -> str:
    file = url.database or ""
    if url.host or url.username:
        raise ValueError(
            "has two slashes after sqlite:. Write three before a relative path, as in"
            " sqlite:///var/inbox.sqlite3, and four before an absolute one"
        )
    if not file or ":memory:" in file or url.query.get("mode") == "memory":
        raise ValueError("keeps SQLite in memory, which loses events. Name a file")
    if url.query or file.startswith("file:"):
        raise ValueError(
            "has options or is a URI of SQLite, which the service does not use. Name the file"
            " alone, as in sqlite:///var/inbox.sqlite3"
        )
    if file.startswith("~") or "$" in file:
        raise ValueError("has ~ or $ in the path, which is not replaced. Write the path itself")
    return value


def passwords(value: str) -> list[str]:
    """Return the passwords of a converted URL in each of their forms, to redact them.

    A password that is also the name of the user, the host or the database cannot be hidden.
    """
    url = sa.make_url(value)
    shown = url.set(query={}).render_as_string(hide_password=True)
    found = [url.password, *(url.query.get(name) for name in _SECRET_PARAMETERS)]
    texts = {text for text in found if isinstance(text, str)}
    forms = texts | {quote(text, safe="") for text in texts}
    return [form for form in forms if len(form) >= SHORTEST_PASSWORD and form not in shown]
