"""Makes a test fixture of a real event: the same shape, without the data of a customer.

Words of Stripe's API are kept: names of fields, types, statuses, currencies. They are read from the
installed SDK. Numbers, booleans and nulls are kept too. Every other text is replaced.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import stripe

#: The longest beginning of an id that is kept though the SDK does not name it: ``acct_``, ``evt_``.
MAX_PREFIX = 4

#: Fields whose texts are no words of Stripe's, even if they look so: a name can be ``Price``.
FREE_TEXT = frozenset(
    {
        *("city", "description", "email", "first_name", "last_name", "line1", "line2", "name"),
        *("nickname", "note", "phone", "postal_code", "state_province", "town", "username"),
    }
)
#: The ends of the names of such fields.
FREE_ENDS = (
    *("_description", "_email", "_name", "_phone", "address", "descriptor", "footer", "memo"),
    *("message", "title"),
)
#: Fields whose texts are kept if they are codes of ISO 3166 or 4217.
CODES = frozenset({"country", "currency"})
#: Objects with names of a person's own as keys, or numbers that tell of a person.
PRIVATE = frozenset({"metadata", "dob"})

#: A word of Stripe's, or a version of its API.
_WORD = re.compile(r"[a-z][a-z0-9_.]*|\d{4}-\d\d-\d\d(\.[a-z]+)?")
_ID = re.compile(r"([a-z][a-z0-9]*)(_test|_live)?_\w+", re.ASCII)
#: A currency or a country.
_CODE = re.compile(r"[A-Za-z]{2,3}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_WEB = re.compile(r"\w+://.*", re.DOTALL)


def anonymised(notification: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the body of an event without the data of a customer.

    One id has one replacement of the same prefix everywhere, and so has every other text. The type
    of the event is kept, also one that the SDK does not know.
    """
    copy: dict[str, Any] = _Anonymiser().replace("", notification)
    return {**copy, "type": notification["type"]}


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of Stripe's API in the installed SDK."""
    words: set[str] = set()
    for path in Path(inspect.getfile(stripe)).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for literal in re.findall(r"Literal\[([^\]]*)\]", text):
            words.update(re.findall(r'"([^"\n]+)"', literal))
        for url in re.findall(r'"(/v[12]/[^"\s]*)"', text):
            words.update(url.split("/"))
        words.update(re.findall(r'OBJECT_NAME[^"\n]*"([^"]+)"', text))
        words.update(re.findall(r"^\s+([a-z]\w*): ", text, re.MULTILINE))
    return frozenset(word for word in words if _WORD.fullmatch(word))


class _Anonymiser:
    """Replaces texts, each by the same one everywhere."""

    def __init__(self) -> None:
        """Start without a replacement."""
        self._replaced: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}

    def replace(self, name: str, value: Any) -> Any:
        """Return the replacement of the ``value`` of a field."""
        if name in PRIVATE:
            return self._private(value)
        if isinstance(value, dict):
            return {self._key(key): self.replace(key, each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.replace(name, each) for each in value]
        return self._text(name, value) if isinstance(value, str) else value

    def _private(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return None
        return {
            key if key in vocabulary() else f"key_{number}": 1
            if isinstance(each, int)
            else f"value_{number}"
            for number, (key, each) in enumerate(value.items(), start=1)
        }

    def _key(self, key: str) -> str:
        """Return the name of a field, or a replacement for a key that is no word of Stripe's."""
        return key if key in vocabulary() else self._once("key", key, "key_{}".format)

    def _text(self, name: str, text: str) -> str:
        """Return the replacement of the text of a field."""
        is_free = name in FREE_TEXT or name.endswith(FREE_ENDS)
        shaped = None if is_free else self._shaped(name, text)
        if shaped is not None:
            return shaped
        if _EMAIL.fullmatch(text):
            return self._once("email", text, "jenny.{}@example.com".format)
        if _WEB.fullmatch(text):
            return self._once("url", text, "https://example.com/{}".format)
        return self._once("text", text, "text {}".format)

    def _shaped(self, name: str, text: str) -> str | None:
        """Return the replacement of a word, number, time, path or id. None for another text."""
        if text in vocabulary() or (name in CODES and _CODE.fullmatch(text)):
            return text
        if _NUMBER.fullmatch(text):
            return re.sub(r"\d", "1", text)
        if found := _TIME.fullmatch(text):
            return f"2026-01-01T00:00:00{re.sub(r'[0-9]', '0', found[1] or '')}Z"
        if "/" in text and not _WEB.fullmatch(text):
            return "/".join(self._text("", part) if part else "" for part in text.split("/"))
        found = _ID.fullmatch(text)
        return self._id(found[1], found[2] or "", text) if found else None

    def _id(self, prefix: str, mode: str, text: str) -> str:
        """Return the replacement of an id. A long prefix is kept if it is a word of Stripe's."""
        kept = prefix if len(prefix) <= MAX_PREFIX or prefix in vocabulary() else "id"
        return self._once("id", text, f"{kept}{mode}_fake{{}}".format)

    def _once(self, kind: str, text: str, make: Callable[[int], str]) -> str:
        """Return the replacement of ``text``: the one from before, or a new one."""
        if (kind, text) not in self._replaced:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._replaced[kind, text] = make(self._counts[kind])
        return self._replaced[kind, text]
