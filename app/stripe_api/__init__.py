"""What talks to Stripe's API: the client, its rate limiter, and the cache of fetched events."""
