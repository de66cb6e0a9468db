"""``DATABASE_URL``: what is accepted, what is refused, and that no password is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import structlog

from app.database_url import database_url, passwords
from tests.conftest import Receiver

SHORT = "postgresql+psycopg://"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///var/inbox.sqlite3", "sqlite:///var/inbox.sqlite3"),
        ("sqlite:////srv/a@b/inbox.sqlite3", "sqlite:////srv/a@b/inbox.sqlite3"),
        ("postgres://me:secret@db:5433/inbox", f"{SHORT}me:secret@db:5433/inbox"),
        ("postgresql://db/inbox?sslmode=require", f"{SHORT}db/inbox?sslmode=require"),
        ("postgresql://[::1]:5433/inbox", f"{SHORT}[::1]:5433/inbox"),
        ("postgresql:///inbox?host=/run/pg", f"{SHORT}/inbox?host=%2Frun%2Fpg"),
        ("postgresql://me@%2Frun%2Fpg/inbox", f"{SHORT}me@/inbox?host=%2Frun%2Fpg"),
        ("postgresql://me@%2Frun:5433/inbox", f"{SHORT}me@/inbox?host=%2Frun&port=5433"),
        # A password with one of :/%? works as it is: only @ is ambiguous.
        ("postgresql://me:a:/%?b@db/inbox", f"{SHORT}me:a%3A%2F%25%3Fb@db/inbox"),
        ("postgresql://me:a,b@db/inbox", f"{SHORT}me:a%2Cb@db/inbox"),
    ],
)
def test_accepted(given: str, used: str) -> None:
    """Each form that leads to one SQLite file or one PostgreSQL server is accepted."""
    assert database_url(given) == used


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("postgresql://me:ZqZq", "is not a database URL. Use sqlite:///var/inbox.sqlite3 or"),
        ("postgresql://me:ZqZq/db/inbox", "is not a database URL"),
        ("host=db password=ZqZq", "is not a database URL"),
        ("jdbc:postgresql://db/inbox?password=ZqZq", "is not a database URL"),
        ("mysql://me:ZqZq@db/inbox", "names a database other than sqlite and postgresql"),
        ("postgresql+psycopg2://me:ZqZq@db/inbox", "names a driver after the +. Write"),
        ("sqlite+aiosqlite:///inbox.sqlite3", "names a driver after the +. Write"),
        ("postgresql://me:Z@ZqZq@db/inbox", "has more than one @. Percent-encode the user and"),
        ("postgresql://me:Z@/ZqZq@db/inbox", "has more than one @"),
        ("postgresql://me:Z@?ZqZq@db/inbox", "has more than one @"),
        ("postgresql://me:ZqZq%00@db/inbox", "has %00, the character NUL"),
        ("postgresql://me@db/inbox?password=ZqZq%00", "has %00, the character NUL"),
        ("postgresql://me:ZqZq@db1,db2/inbox", "names several hosts. Name one that always"),
        ("postgresql://me:Z,@ZqZq@db1:1,db2:2/inbox", "names several hosts"),
        ("postgresql://me@/inbox?host=db1&host=db2", "names several hosts"),
        ("postgresql://me@/inbox?host=db1,db2", "names several hosts"),
        ("postgresql://me@/inbox?hostaddr=::1,::2", "names several hosts"),
        ("postgresql://db/inbox?pgbouncer=true", "has the parameter pgbouncer, which libpq does"),
        ("postgresql://db/inbox?port=ZqZq", "has a port that is not a number"),
        ("sqlite://var/inbox.sqlite3", "has two slashes after sqlite:. Write three before"),
        ("sqlite://", "keeps SQLite in memory, which loses events"),
        ("sqlite:///", "keeps SQLite in memory"),
        ("sqlite:///:memory:", "keeps SQLite in memory"),
        ("sqlite:///file::memory:?uri=true", "keeps SQLite in memory"),
        ("sqlite:///file:inbox?mode=memory&uri=true", "keeps SQLite in memory"),
        ("sqlite:///file:inbox.sqlite3?uri=true", "has options or is a URI of SQLite"),
        ("sqlite:///inbox.sqlite3?timeout=9", "has options or is a URI of SQLite"),
        ("sqlite:///~/inbox.sqlite3", "has ~ or $ in the path, which is not replaced"),
        ("sqlite:///$HOME/inbox.sqlite3", "has ~ or $ in the path"),
    ],
)
def test_refused(given: str, words: str) -> None:
    """Every other form is refused in a sentence, which holds no part of the URL."""
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        database_url(given)
    assert "Zq" not in str(raised.value)


@pytest.mark.parametrize("word", ["Zq:Zq", "Zq/Zq", "Zq%Zq", "Zq%40Zq", "Zq?Zq", "Zq#Zq"])
def test_password_reaches_no_output(
    word: str, make_receiver: Callable[..., Receiver], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the doctor nor the log shows it, not even where the whole URL is logged."""
    given = f"postgresql://me:{word}@127.0.0.1:9/inbox?sslpassword={word.replace('%', '%25')}"
    used = database_url(given)
    receiver = make_receiver(database_url=used, stripe_api_base="http://127.0.0.1:9")
    log = structlog.get_logger()
    password = str(sa.make_url(used).password)

    said = receiver.app.test_cli_runner().invoke(args=["doctor", "--no-ping"])
    for text in (given, used, password, f"'{password}'"):
        log.error("shown", text=text)
    error = psycopg.OperationalError(f"cannot connect to {used} with {password}")
    log.error("shown", exc_info=error)

    assert "FAIL  inbox         postgresql+psycopg://me:***@127.0.0.1:9/inbox" in said.output
    assert "Zq" not in said.output
    printed = capsys.readouterr().err
    assert printed.count("shown") == 5
    assert "Zq" not in printed


def test_other_passwords() -> None:
    """One that is a common word of the address, or very short, cannot be redacted everywhere."""
    assert passwords(f"{SHORT}inbox:inbox@db/inbox") == []
    assert passwords(f"{SHORT}me:abc@db/inbox") == []
    assert passwords("sqlite:///var/inbox.sqlite3") == []
    assert passwords(f"{SHORT}/inbox?password=secret") == ["secret"]


def test_folder_of_a_socket_is_used(make_receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    """The driver searches the socket in the folder, in each of both forms."""
    folder = str(tmp_path)
    for given in (
        f"postgresql:///inbox?host={folder}",
        f"postgresql://{folder.replace('/', '%2F')}/inbox",
    ):
        receiver = make_receiver(
            database_url=database_url(given), stripe_api_base="http://127.0.0.1:9"
        )
        said = receiver.app.test_cli_runner().invoke(args=["doctor", "--no-ping"])
        assert f'connection to server on socket "{folder}/.s.PGSQL.5432" failed' in said.output
