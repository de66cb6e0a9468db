"""The event types that common integrations need, each with Stripe's page about it."""

from __future__ import annotations

from typing import NamedTuple

from app.stripe_api.catalog import Kind, event_types

_SUBSCRIPTIONS = "https://docs.stripe.com/billing/subscriptions/webhooks"
_FULFILLMENT = "https://docs.stripe.com/checkout/fulfillment"
_PAYMENT_STATUS = "https://docs.stripe.com/payments/payment-intents/verifying-status"
_REFUNDS = "https://docs.stripe.com/refunds"
_CONNECT = "https://docs.stripe.com/connect/webhooks"
_ACCOUNTS_V2 = "https://docs.stripe.com/api/v2/core/accounts/event-types"
_RESERVES = (
    "https://docs.stripe.com/changelog/clover/2026-02-25/reserve-holds-releases-plans-events"
)
_RESPONDING = "https://docs.stripe.com/disputes/responding"
_DISPUTES = "https://docs.stripe.com/disputes/how-disputes-work"
_FRAUD_WARNING = "https://docs.stripe.com/api/early_fraud_warnings/object"
_INVOICES = "https://docs.stripe.com/invoicing/integration/workflow-transitions"
_DUE_DATES = "https://docs.stripe.com/changelog/acacia/2024-09-30/billing-due-date-webhooks"


class Suggestion(NamedTuple):
    """An event type that an integration needs: what it means, and Stripe's page.

    ``name`` is the type without ``v1.``, which is that of the snapshot event. Some types have
    snapshot events only, and a type that begins with ``v2.`` has thin events only.
    """

    name: str
    meaning: str
    page: str

    @property
    def thin(self) -> str | None:
        """The type of the thin event, or None if there is none."""
        thin = self.name if self.name.startswith("v2.") else f"v1.{self.name}"
        return thin if thin in event_types(Kind.THIN) else None

    @property
    def snapshot(self) -> str | None:
        """The type of the snapshot event, or None if there is none."""
        return self.name if self.name in event_types(Kind.SNAPSHOT) else None

    def type_of(self, kind: Kind) -> str:
        """Return the type of the event of this ``kind``, or of the only kind that there is."""
        wanted, other = self.thin, self.snapshot
        if kind is Kind.SNAPSHOT:
            wanted, other = other, wanted
        return wanted or other or self.name


#: The suggestions by purpose.
PURPOSES: dict[str, tuple[Suggestion, ...]] = {
    "subscriptions": (
        Suggestion("customer.subscription.created", "it began, and may be unpaid", _SUBSCRIPTIONS),
        Suggestion("customer.subscription.updated", "its plan or status changed", _SUBSCRIPTIONS),
        Suggestion("customer.subscription.deleted", "it ended", _SUBSCRIPTIONS),
        Suggestion("customer.subscription.paused", "it is paused", _SUBSCRIPTIONS),
        Suggestion("customer.subscription.resumed", "it is active again", _SUBSCRIPTIONS),
        Suggestion(
            "customer.subscription.trial_will_end", "its trial ends in three days", _SUBSCRIPTIONS
        ),
        Suggestion("invoice.paid", "a period is paid", _SUBSCRIPTIONS),
        Suggestion("invoice.payment_failed", "a period is not paid", _SUBSCRIPTIONS),
        Suggestion(
            "invoice.payment_action_required", "the customer has to authenticate", _SUBSCRIPTIONS
        ),
        Suggestion("invoice.finalization_failed", "the invoice needs a person", _SUBSCRIPTIONS),
        Suggestion("invoice.upcoming", "it renews in some days", _SUBSCRIPTIONS),
    ),
    "one-time-payments": (
        Suggestion("checkout.session.completed", "it is complete, perhaps unpaid", _FULFILLMENT),
        Suggestion(
            "checkout.session.async_payment_succeeded", "the delayed payment came", _FULFILLMENT
        ),
        Suggestion(
            "checkout.session.async_payment_failed", "the delayed payment failed", _FULFILLMENT
        ),
        Suggestion("payment_intent.succeeded", "a payment without Checkout", _PAYMENT_STATUS),
        Suggestion("payment_intent.payment_failed", "an attempt to pay failed", _PAYMENT_STATUS),
        Suggestion("charge.refunded", "money goes back to the customer", _REFUNDS),
        Suggestion("refund.failed", "the bank returned the refund", _REFUNDS),
    ),
    "connect": (
        Suggestion("account.updated", "its requirements or capabilities changed", _CONNECT),
        Suggestion("account.application.deauthorized", "it left your platform", _CONNECT),
        Suggestion("account.external_account.updated", "its bank account changed", _CONNECT),
        Suggestion("person.updated", "a person of the account changed", _CONNECT),
        Suggestion("payout.failed", "its payout failed", _CONNECT),
        Suggestion(
            "v2.core.account[requirements].updated", "Accounts v2: requirements", _ACCOUNTS_V2
        ),
        Suggestion(
            "v2.core.account[configuration.merchant].capability_status_updated",
            "Accounts v2: payments",
            _ACCOUNTS_V2,
        ),
        Suggestion(
            "v2.core.account[configuration.recipient].capability_status_updated",
            "Accounts v2: transfers",
            _ACCOUNTS_V2,
        ),
        Suggestion("v2.core.account.closed", "Accounts v2: it is closed", _ACCOUNTS_V2),
        Suggestion("reserve.hold.created", "part of its balance is reserved", _RESERVES),
        Suggestion("reserve.release.created", "reserved funds are released", _RESERVES),
    ),
    "disputes": (
        Suggestion("charge.dispute.created", "respond before its deadline", _RESPONDING),
        Suggestion("charge.dispute.updated", "its evidence or status changed", _DISPUTES),
        Suggestion("charge.dispute.closed", "it is won or lost", _DISPUTES),
        Suggestion("charge.dispute.funds_withdrawn", "its amount is debited", _DISPUTES),
        Suggestion("charge.dispute.funds_reinstated", "its amount is back", _DISPUTES),
        Suggestion(
            "radar.early_fraud_warning.created", "a refund can prevent a dispute", _FRAUD_WARNING
        ),
    ),
    "invoicing": (
        Suggestion("invoice.finalized", "it is open, and has its number", _INVOICES),
        Suggestion("invoice.finalization_failed", "it needs a person", _INVOICES),
        Suggestion("invoice.sent", "the customer got it", _INVOICES),
        Suggestion("invoice.paid", "it is paid", _INVOICES),
        Suggestion("invoice.payment_failed", "an attempt to pay failed", _INVOICES),
        Suggestion("invoice.overdue", "it is unpaid after its due date", _DUE_DATES),
        Suggestion("invoice.marked_uncollectible", "it is a bad debt", _INVOICES),
        Suggestion("invoice.voided", "it does not count any more", _INVOICES),
    ),
}
