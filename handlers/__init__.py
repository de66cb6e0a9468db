"""The code of the team: one module for each event type, and a fallback for all others.

The name of a module is its event type: ``v1_customer_created.py`` handles ``v1.customer.created``.
It defines ``handle(notif, client)``. If ``handle`` returns, the event is done. If it raises, the
event is retried. If it raises ``app.GiveUp("reason")``, the event is dead, and a person decides.
"""
