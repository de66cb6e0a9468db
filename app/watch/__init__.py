"""The watch: regular checks at Stripe, by one process of an inbox."""
