"""The team's code: one module per event type, and the fallback for all others.

A module is named after its event type (``v1.customer.created`` is handled in
``v1_customer_created.py``) and defines ``handle(notif, client)``. Return: done. Raise: try
again. Raise ``app.GiveUp("reason")``: never again, show it to a person.
"""
