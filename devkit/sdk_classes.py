"""Finds classes in the installed SDK, and the addresses of their objects at Stripe's API."""

from __future__ import annotations

import ast
import inspect
import threading
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import cast

import stripe

#: Python 3.11 counts the depth of a tree for all threads together. Two threads that parse at the
#: same moment get a ``SystemError``.
_parser = threading.Lock()


def public_name(sdk_class: type[stripe.StripeObject]) -> str:
    """Return the public import name of a class of the SDK: ``stripe.billing.Meter``."""
    return f"{sdk_class.__module__.rpartition('.')[0]}.{sdk_class.__name__}"


def object_name(sdk_class: type[stripe.StripeObject]) -> str:
    """Return the ``object`` of a class of the API: ``billing.meter``."""
    return cast("str", sdk_class.OBJECT_NAME)  # type: ignore[attr-defined]  # all have it


@cache
def named_class(name: str, module_name: str) -> type[stripe.StripeObject]:
    """Return the class that a string annotation in a module of the SDK names.

    Raises ``KeyError`` unless the module imports it, at least for type checkers.
    """
    imported = _imports(_parse(inspect.getsource(import_module(module_name))))
    found_in, _, own_name = imported[name].rpartition(".")
    return cast("type[stripe.StripeObject]", getattr(import_module(found_in), own_name))


def address(sdk_class: type[stripe.StripeObject]) -> str | None:
    """Return the address of objects of a class as a template, or ``None`` if they have none.

    It is the path in the services of the SDK, such as ``/v1/billing/meters/{id}``. Of several, it
    is that of ``retrieve``, and the one with the fewest placeholders. A class without ``retrieve``
    (``Discount``) has the address of another method.
    """
    return _address(sdk_class.__module__, sdk_class.__qualname__)


@cache
def _address(module: str, name: str) -> str | None:
    found = [
        (method != "retrieve", url.count("{"), url)
        for number, source in enumerate(_services())
        if f"from {module} import" in source  # to parse all of them takes as long as an import
        for method, returned, url in _calls(number)
        if returned == f"{module}.{name}"
    ]
    return min(found)[2] if found else None


@cache
def _services() -> tuple[str, ...]:
    """The sources of all services of the SDK."""
    folder = Path(inspect.getfile(stripe)).parent
    return tuple(path.read_text(encoding="utf-8") for path in folder.rglob("_*_service.py"))


def _parse(source: str) -> ast.Module:
    with _parser:
        return ast.parse(source)


@cache
def _calls(number: int) -> tuple[tuple[str, str, str], ...]:
    """Return the name, the returned class and the address of each method of a service."""
    service = _parse(_services()[number])
    imported = _imports(service)
    return tuple(
        (node.name, imported.get(str(node.returns.value), ""), url)
        for node in ast.walk(service)
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Constant)
        for url in _urls(node)
    )


def _urls(function: ast.FunctionDef) -> list[str]:
    constants = [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str) and value.startswith("/v")]


def _imports(module: ast.Module) -> dict[str, str]:
    """Return the full names that a module imports at its top, for type checkers too.

    Imports in functions do not count: to look for them takes twice as long as to parse the module.
    """
    conditional = [each.body for each in module.body if isinstance(each, ast.If)]
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in chain(module.body, *conditional)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
