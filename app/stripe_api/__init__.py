"""All that the service needs of Stripe: signatures, bodies of events, event types, and the API."""
