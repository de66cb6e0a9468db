"""Errors of Stripe's API, as errors of commands."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from app.stripe_api import errors
from app.stripe_api.errors import checked, clean, sentence
from app.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["StripeFailedError", "checked", "clean", "explained", "sentence"]


class StripeFailedError(click.ClickException):
    """Stripe's API failed or refused. The message is the sentence to show.

    The exit status is 3. Status 1 is a result of the command, and 2 a wrong option.
    """

    exit_code = 3

    def __init__(self, message: str) -> None:
        """Take the sentence. It may quote an answer, so it is made printable."""
        super().__init__(printable(message))


@contextmanager
def explained() -> Iterator[None]:
    """Turn every error of the SDK inside the block into a ``StripeFailedError``."""
    try:
        with errors.explained():
            yield
    except errors.StripeFailed as error:
        raise StripeFailedError(str(error)) from error.__cause__
