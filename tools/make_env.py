"""Make `.env` from `.env.example`, with a webhook secret of its own; one that is there stays."""

import os
import re
import secrets
import sys
from pathlib import Path


def main() -> None:
    """Write `.env` into the working directory, readable by its owner alone, and say so."""
    example = Path(".env.example").read_text(encoding="utf-8")
    # 32 random bytes, as hex: long enough to sign with, and never in need of quotes.
    text, replaced = re.subn(
        r"^STRIPE_WEBHOOK_SECRET=.*$",
        f"STRIPE_WEBHOOK_SECRET=whsec_{secrets.token_hex(32)}",
        example,
        flags=re.MULTILINE,
    )
    if replaced != 1:
        sys.exit(f".env.example names STRIPE_WEBHOOK_SECRET {replaced} times; once is needed.")
    try:
        descriptor = os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # Not a failure: make would remove the file, which another make has just made.
        print(".env is there already and stays as it is.")
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print("Made .env from .env.example with a random STRIPE_WEBHOOK_SECRET; your keys go there.")


if __name__ == "__main__":
    main()
