"""Addresses of Stripe's dashboard, in the right mode and account.

Only addresses that are certain are built. For other objects there is the dashboard's search.
"""

from __future__ import annotations

import re
from urllib.parse import quote

DASHBOARD = "https://dashboard.stripe.com"

#: The dashboard's page of an object, by the prefix of its id.
PAGES = {
    "ch": "payments",
    "cus": "customers",
    "in": "invoices",
    "pi": "payments",
    "po": "payouts",
    "price": "prices",
    "prod": "products",
    "py": "payments",
    "sub": "subscriptions",
}

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]+")
_OBJECT = re.compile(r"([a-z]+)_[A-Za-z0-9_]+")


def event_link(event_id: str, *, livemode: bool, context: str | None) -> str:
    """Return the dashboard's page of an event."""
    return f"{_base(livemode=livemode, context=context)}/events/{quote(event_id, safe='')}"


def object_link(object_id: str, *, livemode: bool, context: str | None) -> str:
    """Return the dashboard's page of an object, or its search for the id."""
    base = _base(livemode=livemode, context=context)
    shape = _OBJECT.fullmatch(object_id)
    page = PAGES.get(shape[1]) if shape else None
    if page:
        return f"{base}/{page}/{object_id}"
    if _ACCOUNT.fullmatch(object_id):
        return f"{base}/connect/accounts/{object_id}"
    return f"{base}/search?query={quote(object_id, safe='')}"


def account_link(context: str, *, livemode: bool) -> str | None:
    """Return the dashboard of the account of a ``context``. None if it names no account."""
    return _base(livemode=livemode, context=context) if _account(context) else None


def _base(*, livemode: bool, context: str | None) -> str:
    account = _account(context)
    words = [DASHBOARD, *([account] if account else []), *([] if livemode else ["test"])]
    return "/".join(words)


def _account(context: str | None) -> str | None:
    """Return the account of a context: of ``acct_1/acct_2`` the inner one."""
    last = (context or "").rpartition("/")[2]
    return last if _ACCOUNT.fullmatch(last) else None
