"""Whether deliveries fail for so long that Stripe will disable the destination.

Stripe's API does not tell it. The inbox counts the answers of the service. While it lacks events
that Stripe lists, deliveries fail on their way.
"""

from __future__ import annotations

from app.formats import duration, iso_time
from app.inbox.alert_facts import DAY, Answers
from app.inbox.findings import FAILING, OK, WARNING, Finding
from app.watch.at_stripe import Found

NAME = "destination_failing"

#: Stripe disables a destination after so many seconds in which all deliveries failed.
DISABLED_AFTER = 9 * DAY
#: Seconds of failures before a warning, and before a failure.
WARN_SECONDS, FAIL_SECONDS = 6 * 3600.0, 5 * DAY


def finding(answers: Answers, now: float, gap: Finding | None, before: Finding | None) -> Found:
    """Return whether all deliveries fail, and since when. ``now`` is the database's clock.

    ``gap`` is the last finding about missing events. Counters are kept for eight days, so an older
    begin is in the finding ``before``.
    """
    known = before.details.get("failing_since") if before else None
    begins = [
        answers.failing_since,
        gap.since if gap and gap.level == FAILING else None,
        known,
    ]
    after = [each for each in begins if each is not None and each >= answers.last_success]
    if answers.failing_since is None and begins[1] is None:
        after = []
    since = min(after, default=now)
    details = {"failing_since": since} if after else {}
    if now - since < WARN_SECONDS:
        return Found(NAME, OK, "deliveries are answered with 2xx", details)
    failed = f" ({answers.failures} failed here)" if answers.failures else ""
    end = iso_time(since + DISABLED_AFTER, "minutes")
    text = (
        f"no delivery was answered with 2xx for {duration(now - since)}{failed}. Stripe disables an"
        f" event destination after nine days of failures: on {end}"
    )
    level = FAILING if now - since >= FAIL_SECONDS else WARNING
    return Found(NAME, level, text, {**details, "number": answers.failures})
