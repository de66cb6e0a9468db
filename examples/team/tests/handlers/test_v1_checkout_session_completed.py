"""A customer completed a Checkout Session."""

from devkit.deliver import Deliver, Logged

TYPE = "v1.checkout.session.completed"


def test_order_is_read_from_the_metadata(deliver: Deliver, logged: Logged) -> None:
    """The order is logged with its quantity as a number."""
    delivery = deliver(TYPE, fields={"metadata": {"sku": "tea", "quantity": "2"}})

    assert (delivery.status, delivery.outcome) == (200, "handled")
    line = logged("order_placed")
    assert (line["sku"], line["quantity"]) == ("tea", 2)


def test_session_without_an_order_is_given_up(deliver: Deliver) -> None:
    """A retry would not help: the event is dead, and its reason names the field."""
    delivery = deliver(TYPE, fields={"metadata": {"sku": "tea"}})

    assert delivery.outcome == "gave_up"
    assert delivery.event is not None
    assert delivery.event.reason == "the metadata has no valid quantity"
