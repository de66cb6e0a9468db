"""``flask handlers types``: the event types of the installed SDK."""

from __future__ import annotations

import pytest
from flask.testing import FlaskCliRunner

from app.stripe_api.catalog import Kind
from devkit import samples


def rows(runner: FlaskCliRunner, *arguments: str) -> list[list[str]]:
    """Return the rows below the headings as cells."""
    result = runner.invoke(args=["handlers", "types", *arguments])
    assert result.exit_code == 0, result.stderr
    headings, *found = [line.split() for line in result.stdout.splitlines()]
    assert headings == ["type", "kind", "object", "class"]
    return found


def test_each_type_is_shown_with_its_kind(runner: FlaskCliRunner) -> None:
    """All types are listed in order, with their kind and that of their object."""
    shown = rows(runner)
    thin, snapshots = samples.event_types(), samples.event_types(Kind.SNAPSHOT)
    assert [row[0] for row in shown] == sorted([*thin, *snapshots])
    assert {row[0]: row[1:3] for row in shown} == {
        **{each: ["snapshot", "copy"] for each in snapshots},
        **{each: ["thin", samples.related_object_kind(each)] for each in thin},
    }


@pytest.mark.parametrize(
    ("event_type", "cells"),
    [
        ("v1.customer.created", ["thin", "object", "stripe.Customer"]),
        ("v2.core.account.closed", ["thin", "object", "stripe.v2.core.Account"]),
        ("v1.balance.available", ["thin", "singleton", "stripe.Balance"]),
        ("v1.billing.meter.no_meter_found", ["thin", "none"]),
        ("customer.source.created", ["snapshot", "copy", "stripe.Source"]),
        ("treasury.received_debit.created", ["snapshot", "copy", "stripe.treasury.ReceivedDebit"]),
    ],
)
def test_class_is_named(runner: FlaskCliRunner, event_type: str, cells: list[str]) -> None:
    """The last column is the class of the object, by its import name."""
    assert rows(runner, event_type) == [[event_type, *cells]]


@pytest.mark.parametrize(
    ("pattern", "first", "last"),
    [
        ("v1.checkout", "v1.checkout.session.async_payment_failed", "v1.checkout.session.expired"),
        ("V1.*meter.no", "v1.billing.meter.no_meter_found", "v1.billing.meter.no_meter_found"),
        ("[requirements]", "v2.core.account[requirements].updated", None),
    ],
)
def test_pattern(runner: FlaskCliRunner, pattern: str, first: str, last: str | None) -> None:
    """A part of a name matches, * matches any text, and brackets match themselves."""
    shown = rows(runner, pattern)
    assert shown[0][0] == first
    assert shown[-1][0] == (last or first)


def test_no_match_has_words(runner: FlaskCliRunner) -> None:
    """Without a match the command fails with the nearest types."""
    result = runner.invoke(args=["handlers", "types", "v1.custommer.created"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "contains 'v1.custommer.created'; nearest: v1.customer.created, " in result.stderr
    assert "nearest" not in runner.invoke(args=["handlers", "types", "zzz"]).stderr
