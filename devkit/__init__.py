"""What tests, the demo and the CLI use instead of Stripe: samples and a stand-in for its API.

No module that serves deliveries imports this package.
"""
