"""The imports from the SDK in a module that ``flask handlers new`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devkit import samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import stripe

#: Columns of a line of code, as in pyproject.toml.
LINE_LENGTH = 100


def sdk_imports(
    names: Mapping[str, Sequence[str]], object_class: type[stripe.StripeObject] | None
) -> str:
    """Return the imports of ``names`` by package and of a class, in the order of the linter."""
    wanted = {package: list(each) for package, each in names.items()}
    if object_class:
        package, _, name = samples.public_name(object_class).rpartition(".")
        wanted.setdefault(package, []).append(name)
    lines = [
        f"from {package} import {', '.join(sorted(wanted[package]))}" for package in sorted(wanted)
    ]
    return "\n".join(map(_wrapped, lines))


def _wrapped(line: str) -> str:
    """Return an import, wrapped like the formatter does if it is too long."""
    if len(line) <= LINE_LENGTH:
        return line
    head, _, names = line.partition(" import ")
    return f"{head} import (\n    {names},\n)"
