"""Reads the texts of all settings: from the environment, ``.env`` and files of secrets.

All parts of the service read them here, so that they agree. ``.env`` is the one in the working
directory. ``flask`` would read the nearest ``.env`` of all parent folders, and replace ``${NAME}``
in it. So ``make`` and the image switch that off with ``FLASK_SKIP_DOTENV``.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dotenv
from dotenv.parser import parse_stream

from app.text import redact_shapes

#: The end of the name of a variable that names a file with the value: ``STRIPE_API_KEY_FILE``.
FILE = "_FILE"

#: The similarity of a misspelt name to a setting, from 0 to 1. ``TEST_DATABASE_URL`` is below it.
SIMILARITY = 0.83

#: A token that was made at random. The path of a file has a slash or a dot, or is shorter.
TOKEN = re.compile(r"[A-Za-z0-9+=_-]{32,}")

_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class Misspelt(NamedTuple):
    """A variable that is no setting, and the setting with the nearest name."""

    name: str
    nearest: str


class Origin(NamedTuple):
    """The ``.env`` that was read, if any, and variables with a special origin.

    ``misspelt`` has those that look like misspelt settings. ``environment`` has the settings to
    which the environment gives another value than ``.env``: ``flask`` may have copied ``.env``.
    """

    dotenv: str | None = None
    misspelt: tuple[Misspelt, ...] = ()
    environment: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the settings. Those of ``secrets`` can be given as files."""

    settings: frozenset[str]
    secrets: frozenset[str]

    @property
    def variables(self) -> frozenset[str]:
        """All variables that are read."""
        return self.settings | {f"{name}{FILE}" for name in self.secrets}


@dataclass(frozen=True, slots=True)
class Given:
    """The texts of the settings that are set.

    ``problems`` has a sentence for each setting without a usable text.
    """

    texts: dict[str, str]
    problems: dict[str, str]
    origin: Origin


def read(names: Names, environ: Mapping[str, str], dotenv_path: str | Path | None) -> Given:
    """Return the texts of the settings in ``environ`` and in a ``.env``.

    The environment wins. A variable that is empty there hides the one in ``.env``. No text has
    white space around it. Raises ``ValueError`` if the ``.env`` cannot be read.
    """
    path = Path(dotenv_path).absolute() if dotenv_path else None
    inside = _read_dotenv(path) if path else None
    source = {**_not_in(environ, inside or {}), **environ}
    problems = _read_by_flask(names, environ, path)
    problems |= _not_replaced(names, [inside or {}, environ])
    texts = {name: source[name].strip() for name in names.settings if name in source}
    texts |= _read_secrets(names, source, problems)
    return Given(
        texts={name: text for name, text in texts.items() if text},
        problems=problems,
        origin=Origin(
            dotenv=None if inside is None else str(path),
            misspelt=tuple(_misspelt(names, {*(inside or {}), *environ})),
            environment=frozenset(
                name.removesuffix(FILE)
                for name in names.variables
                if environ.get(name) not in {None, "", (inside or {}).get(name)}
            ),
        ),
    )


def _not_in(environ: Mapping[str, str], inside: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``.env`` that the environment sets neither directly nor by file."""
    files = {name.removesuffix(FILE) for name, text in environ.items() if text}
    taken = files | set(environ)
    return {name: text for name, text in inside.items() if name.removesuffix(FILE) not in taken}


def _not_replaced(names: Names, sources: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return a problem for each ``${NAME}``: some tools replace it in ``.env``, and others do not.

    Also where the environment wins: ``flask`` may have put its replacement there.
    """
    found = {name for source in sources for name in names.settings if "${" in source.get(name, "")}
    advice = "has ${...}, which is not replaced. Write the value itself. In a URL, $ is %24"
    return {name: f"{name} {advice}" for name in sorted(found)}


def _read_secrets(
    names: Names, source: Mapping[str, str], problems: dict[str, str]
) -> dict[str, str]:
    """Return the texts that are given as files. Adds to ``problems``."""
    texts = {}
    for name in sorted(names.secrets):
        file = source.get(f"{name}{FILE}", "").strip()
        if file and source.get(name, "").strip():
            problems[name] = f"{name} and {name}{FILE} are both set. Remove one of them"
        elif _is_secret(file):
            problems[name] = (
                f"{name}{FILE} holds the value itself, not the path of a file. Name the variable"
                f" {name}"
            )
        elif file:
            try:
                texts[name] = _read_secret(Path(file))
            except ValueError as error:
                problems[name] = f"{name}{FILE}: {error}"
    return texts


def _is_secret(file: str) -> bool:
    """Return true for a secret where a path is expected. A message must not quote it."""
    if "://" in file or TOKEN.fullmatch(file):
        return True
    return not file.startswith("/") and redact_shapes(file) != file


def _read_secret(path: Path) -> str:
    """Return the content of a file, without the white space around it."""
    content = _read_file(path)
    if content is None:
        raise ValueError(f"there is no file {path}")
    if not content.strip():
        raise ValueError(f"{path} is empty")
    return content.strip()


def _read_dotenv(path: Path) -> dict[str, str] | None:
    """Return the variables of ``.env``, or None if there is no such file."""
    content = _read_file(path)
    if content is None:
        return None
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(content)):
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
        elif binding.error or binding.key is not None:
            raise ValueError(f"{path}: line {binding.original.line} is not NAME=value. Correct it")
    return values


def _read_file(path: Path) -> str | None:
    """Return the text of a file, or None if there is none. Raises ``ValueError`` with a remedy."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, ValueError):  # ValueError: a NUL in the path
        return None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. Let the user of the service read it"
        ) from None
    if content.startswith(_UTF16_BOMS) or b"\0" in content:
        raise ValueError(
            f"{path} is not UTF-8 but UTF-16, as > in PowerShell writes it. Save it as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(
            f"{path}: line {line} has the byte 0x{byte:02x}, which is not UTF-8. Save the file as"
            " UTF-8"
        ) from None


def _misspelt(names: Names, given: Iterable[str]) -> Iterator[Misspelt]:
    known = names.variables
    for name in sorted(set(given) - known):
        for nearest in difflib.get_close_matches(name.upper(), known, n=1, cutoff=SIMILARITY):
            yield Misspelt(name, nearest)


def _read_by_flask(names: Names, environ: Mapping[str, str], path: Path | None) -> dict[str, str]:
    """Return a problem for each setting that ``flask`` has taken from another file.

    The server does not read that file, and could use another inbox.
    """
    skips = environ.get("FLASK_SKIP_DOTENV", "").lower() not in {"", "0", "false", "no"}
    if skips or environ.get("FLASK_RUN_FROM_CLI") != "true":
        return {}
    problems: dict[str, str] = {}
    for name in (".flaskenv", ".env"):
        found = dotenv.find_dotenv(name, usecwd=True)
        if found and Path(found) != path:
            values = dotenv.dotenv_values(found, encoding="utf-8")
            for each in sorted(names.variables):
                if values.get(each) and values[each] == environ.get(each):
                    problems[each.removesuffix(FILE)] = (
                        f"{each} was read by flask from {found}, which the server does not read."
                        " Set FLASK_SKIP_DOTENV=1, as make and the image do"
                    )
    return problems
