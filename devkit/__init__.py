"""Tools for authors of handlers: samples, a stand-in for Stripe's API, fixtures, commands.

The image does not contain this package, and no module of the service imports it.
"""
