"""Create `.env` from `.env.example` with a random webhook secret. Never overwrites `.env`."""

import os
import re
import secrets
import sys
from pathlib import Path


def main() -> None:
    """Write `.env` into the working directory, readable only by its owner."""
    example = Path(".env.example").read_text(encoding="utf-8")
    # 32 random bytes as hex: long enough for a signature, and no character needs quotes.
    text, replaced = re.subn(
        r"^STRIPE_WEBHOOK_SECRET=.*$",
        f"STRIPE_WEBHOOK_SECRET=whsec_{secrets.token_hex(32)}",
        example,
        flags=re.MULTILINE,
    )
    if replaced != 1:
        sys.exit(f".env.example has STRIPE_WEBHOOK_SECRET {replaced} times instead of once.")
    try:
        descriptor = os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # Not a failure: make would remove the file, which another make has just made.
        print(".env already exists and was not changed.")
        return
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    print("Created .env with a random STRIPE_WEBHOOK_SECRET. Put your Stripe API key there.")


if __name__ == "__main__":
    main()
