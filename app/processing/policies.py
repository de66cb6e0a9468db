"""The policies of an event type: constants of its handler module, which the registry checks.

``SHADOW`` holds in both modes, the others in queue mode only: in inline mode Stripe decides when an
event is delivered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import ModuleType
from typing import Any

from app.inbox.claim_rules import ClaimRules
from app.stripe_api.catalog import Kind

#: A constant whose name is at least this similar to the name of a policy counts as misspelt, and so
#: does one with a single wrong letter. A constant of the team's own, such as ``RETRY_MAX_SECONDS``,
#: is less similar.
SIMILARITY = 0.9

#: The values of ``PRIORITY``.
NORMAL, LOW = "normal", "low"

#: The constant that names an event type (``handler_module.py``).
EVENT_TYPE = "EVENT_TYPE"


@dataclass(frozen=True, slots=True)
class Policy:
    """The policies of one event type. None: as the settings say."""

    max_attempts: int | None = None
    retry_base_seconds: float | None = None
    concurrency: int | None = None
    """How many of its events may run at once, in all processes."""
    priority: str = NORMAL
    """``low``: its events wait for those of types with normal priority."""

    coalesce: bool = False
    """Of several due events of one object only the newest runs."""

    shadow: bool = False
    """Its events run beside those of its snapshot module, and write nothing to Stripe."""

    def of_queue_mode(self) -> Policy:
        """Return the policies that have no effect in inline mode."""
        return dataclasses.replace(self, shadow=False)

    def constants(self) -> dict[str, Any]:
        """Return the constants that differ from the default, as the module has them."""
        return {
            each.name.upper(): value
            for each in dataclasses.fields(self)
            if (value := getattr(self, each.name)) != each.default
        }

    def __str__(self) -> str:
        """Return the constants for a person: ``MAX_ATTEMPTS=3, PRIORITY=low``."""
        return ", ".join(f"{name}={value}" for name, value in self.constants().items())


#: The policies of a type whose module declares none.
NO_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class _Constant:
    """The check of one constant, and the values that pass it, in words."""

    is_valid: Callable[[Any], bool]
    values: str


def _whole_number(least: int, most: int) -> _Constant:
    return _Constant(
        lambda value: type(value) is int and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def _seconds(least: float, most: float) -> _Constant:
    return _Constant(
        lambda value: type(value) in {int, float} and least <= value <= most,
        f"a number of seconds from {least} to {most}",
    )


def _one_of(*words: str) -> _Constant:
    values = " or ".join(map(repr, words))
    return _Constant(lambda value: isinstance(value, str) and value in words, values)


_BOOLEAN = _Constant(lambda value: isinstance(value, bool), "True or False")

#: The limits of the settings with these names hold here too.
_CONSTANTS: Mapping[str, _Constant] = {
    "MAX_ATTEMPTS": _whole_number(1, 10000),
    "RETRY_BASE_SECONDS": _seconds(0.01, 86400),
    "CONCURRENCY": _whole_number(1, 1024),
    "PRIORITY": _one_of(NORMAL, LOW),
    "COALESCE": _BOOLEAN,
    "SHADOW": _BOOLEAN,
}

#: Why a module of snapshot events cannot have a policy.
_ONLY_THIN = {
    "COALESCE": "A snapshot event has its own copy of the object, so none can stand for another",
    "SHADOW": "A shadow runs beside the snapshot module of its type",
}


def read(module: ModuleType) -> Policy:
    """Return the policies of a ``module`` without problems."""
    given = {name.lower(): getattr(module, name) for name in _CONSTANTS if hasattr(module, name)}
    return Policy(**given)


def claim_rules(policies: Mapping[str, Policy], paired: Collection[str]) -> ClaimRules:
    """Return the rules by which workers claim events of types with these ``policies``.

    No ``paired`` type coalesces. The newest event may not run, because the other event of its pair
    has. Then it would serve none of the superseded ones.
    """
    return ClaimRules(
        low=frozenset(name for name, each in policies.items() if each.priority == LOW),
        limits=frozenset(
            (name, each.concurrency) for name, each in policies.items() if each.concurrency
        ),
        coalesced=frozenset(
            name for name, each in policies.items() if each.coalesce and name not in paired
        ),
    )


def problems(module: ModuleType, kind: Kind | None) -> list[str]:
    """Return what is wrong with the policies of a ``module``, in words for its author.

    ``kind`` is the one of its events. None: it is a fallback, and can have none, because a policy
    is one of a type.
    """
    found = []
    for name, value in sorted(vars(module).items()):
        if name in _CONSTANTS:
            if kind is None:
                found.append(f"{name} has no effect in the fallback. Set it in a type's own module")
            elif not _CONSTANTS[name].is_valid(value):
                found.append(f"{name} is {value!r}. Use {_CONSTANTS[name].values}")
            elif name in _ONLY_THIN and value and kind is Kind.SNAPSHOT:
                found.append(f"{name} is for thin events. {_ONLY_THIN[name]}. Remove it")
        elif name.isupper() and name != EVENT_TYPE and (near := _nearest(name)):
            found.append(f"{name} has no effect; nearest: {near}. Correct or rename it")
    return found


def _nearest(name: str) -> str | None:
    """Return the constant of which ``name`` is a misspelling, or None."""
    for each in (*_CONSTANTS, EVENT_TYPE):
        one_wrong_letter = 1 - 1 / len(each)
        ratio = SequenceMatcher(None, name, each).ratio()
        if ratio >= min(SIMILARITY, one_wrong_letter):
            return each
    return None
