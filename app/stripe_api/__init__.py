"""All that the service needs of Stripe: signatures, notifications, event types, and the API."""
