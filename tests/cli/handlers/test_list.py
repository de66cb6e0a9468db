"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.conftest import Receiver

MODULE = '"""Greets."""\ndef handle(notif, client): pass\n'


def test_types_files_and_summaries_are_listed(make_receiver: Callable[..., Receiver]) -> None:
    """Each type has its file and the first line of its docstring. The fallbacks are last."""
    modules = {"v1_invoice_paid": MODULE, "v1_customer_created": MODULE}
    snapshot = MODULE.replace("notif", "event")
    modules |= {"customer_source_created": snapshot, "snapshot_fallback": snapshot}
    receiver = make_receiver(modules)
    package = receiver.services.settings.handlers_package

    result = receiver.app.test_cli_runner().invoke(args=["handlers", "list"])

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["type", "file", "summary"],
        ["customer.source.created", f"{package}/customer_source_created.py", "Greets."],
        ["v1.customer.created", f"{package}/v1_customer_created.py", "Greets."],
        ["v1.invoice.paid", f"{package}/v1_invoice_paid.py", "Greets."],
        ["fallback", f"{package}/fallback.py"],
        ["snapshot_fallback", f"{package}/snapshot_fallback.py", "Greets."],
    ]


def test_empty_list_has_words(receiver: Receiver) -> None:
    """Without a module the output says that the fallback handles all events."""
    result = receiver.app.test_cli_runner().invoke(args=["handlers", "list"])

    assert result.stdout.startswith("No event type has a handler module: the fallback")


def test_json_is_for_programs(make_receiver: Callable[..., Receiver]) -> None:
    """--json prints one list and nothing else."""
    receiver = make_receiver({"v1_customer_created": f"{MODULE}MAX_ATTEMPTS = 3\n"})
    package = receiver.services.settings.handlers_package

    result = receiver.app.test_cli_runner().invoke(args=["handlers", "list", "--json"])

    assert json.loads(result.stdout) == [
        {
            "type": "v1.customer.created",
            "file": f"{package}/v1_customer_created.py",
            "pair": None,
            "policies": {"MAX_ATTEMPTS": 3},
            "summary": "Greets.",
        },
        {
            "type": "fallback",
            "file": f"{package}/fallback.py",
            "pair": None,
            "policies": {},
            "summary": "",
        },
    ]


def test_policies_are_listed_as_the_modules_have_them(
    make_receiver: Callable[..., Receiver],
) -> None:
    """A column shows the policies of each type if a module declares some."""
    limits = "MAX_ATTEMPTS = 3\nRETRY_BASE_SECONDS = 0.5\n"
    receiver = make_receiver({"v1_invoice_paid": MODULE, "v1_customer_created": MODULE + limits})

    result = receiver.app.test_cli_runner().invoke(args=["handlers", "list"])

    heading, created, paid, _ = result.stdout.splitlines()
    assert heading.split() == ["type", "file", "policies", "summary"]
    assert "  MAX_ATTEMPTS=3, RETRY_BASE_SECONDS=0.5  Greets." in created
    assert paid.split()[2:] == ["Greets."]


@pytest.mark.parametrize(
    ("constant", "policies", "cells", "roles"),
    [
        ("", {}, ("with v1_customer_created.py", "with customer_created.py"), ("pair", "pair")),
        (
            "SHADOW = True\n",
            {"SHADOW": True},
            ("with shadow v1_customer_created.py", "shadow of customer_created.py   SHADOW=True"),
            ("shadowed", "shadow"),
        ),
    ],
)
def test_modules_of_a_pair_name_each_other(
    make_receiver: Callable[..., Receiver],
    constant: str,
    policies: dict[str, bool],
    cells: tuple[str, str],
    roles: tuple[str, str],
) -> None:
    """A shadow names its snapshot module. ``SHADOW`` is in the column of policies, too."""
    snapshot = MODULE.replace("notif", "event")
    modules = {"customer_created": snapshot, "v1_customer_created": MODULE + constant}
    receiver = make_receiver(modules)
    package, run = (
        receiver.services.settings.handlers_package,
        receiver.app.test_cli_runner().invoke,
    )

    heading, *lines = run(args=["handlers", "list"]).stdout.splitlines()
    assert heading.split()[2] == "pair"
    for line, cell in zip(lines, cells, strict=False):
        assert re.sub(" {3,}", "   ", line.partition(".py")[2].strip()).startswith(cell)
    listed = json.loads(run(args=["handlers", "list", "--json"]).stdout)
    assert [each["policies"] for each in listed] == [{}, policies, {}]
    assert [each["pair"] for each in listed] == [
        {
            "role": roles[0],
            "type": "v1.customer.created",
            "file": f"{package}/v1_customer_created.py",
        },
        {"role": roles[1], "type": "customer.created", "file": f"{package}/customer_created.py"},
        None,
    ]
