"""The migrations of the inbox, run by ``app.inbox`` at start."""
