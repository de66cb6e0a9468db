"""Inboxes that are closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest

from app.inbox import Inbox

MakeInbox = Callable[..., Inbox]


@pytest.fixture
def open_inbox() -> Iterator[MakeInbox]:
    """A function that opens the inbox of a URL, with the options of ``Inbox``.

    By default no lease ends during a test.
    """
    with ExitStack() as stack:

        def make(url: str, lease_seconds: float = 600.0, **options: Any) -> Inbox:
            inbox = Inbox(url, lease_seconds=lease_seconds, **options)
            return stack.enter_context(closing(inbox))

        yield make


@pytest.fixture
def make_inbox(database_url: str, open_inbox: MakeInbox) -> MakeInbox:
    """A function that opens the test's database as another process does."""
    return partial(open_inbox, database_url)


@pytest.fixture
def inbox(make_inbox: MakeInbox) -> Inbox:
    """The inbox on each database in turn."""
    return make_inbox()
