"""The conditions that need a person: pure functions of facts that were read from the inbox.

A condition that is raised already holds until its facts are clearly better: it must not flap.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from app.formats import duration, few, iso_time, plural, sentence
from app.inbox.alert_facts import DAY, DeadGroup, Facts, Failures, Waiting
from app.inbox.findings import FAILING, WARNING, Finding

#: The attempts and the failed ones of a window below which their share says nothing.
MIN_ATTEMPTS, MIN_FAILURES = 10, 5

#: The part of a limit below which a raised condition has ended.
CALM = 0.5

#: Silence is judged by the same hours of other days. So many of the last seven days must be known,
#: and so many deliveries must have come on average: one an hour can be absent by chance.
MIN_DAYS, MIN_MEAN = 3, 10.0

#: Seconds in which Stripe redelivers, by live mode. In test mode it is some hours.
REDELIVERY_SECONDS = {True: 3 * DAY, False: DAY}


#: The findings of the watch that are alerts when they warn: they fail when it is too late.
EARLY = frozenset({"clock_off", "destination_failing"})

#: The findings that the page of destinations is about.
OF_DESTINATIONS = frozenset({"destination_disabled", "destination_failing", "types_drifted"})


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of the settings, and the mode of the service."""

    backlog_seconds: float
    silence_seconds: float
    failure_share: float
    window_seconds: float
    is_queue: bool
    livemode: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that holds, since ``since``, in seconds since the epoch.

    ``text`` says what is wrong. ``page`` is the address of the page about it, and ``command`` the
    arguments of ``flask`` without a page. ``subject`` names the group in the alert's end.
    """

    alert: str
    since: float
    number: int
    text: str
    page: str
    command: tuple[str, ...]
    group: str | None = None
    types: tuple[str, ...] = ()
    release: str | None = None
    subject: str = ""

    @property
    def id(self) -> str:
        """The key of the alert: its name, with the group if there is one."""
        return f"{self.alert}:{self.group}" if self.group else self.alert


def conditions(facts: Facts, rules: Rules, raised: Collection[str]) -> list[Condition]:
    """Return what holds. ``raised`` are the ids of the alerts that are raised now."""
    found = [
        *_dead(facts),
        *_backlog(facts, rules, is_raised="backlog" in raised),
        *_silence(facts, rules),
        *_failures(facts, rules, is_raised="failures" in raised),
        *_breakers(facts),
        *(_of_finding(each) for each in facts.findings if _is_alert(each)),
    ]
    return list({each.id: each for each in found}.values())


def _dead(facts: Facts) -> Iterator[Condition]:
    """Yield each error group in which events died within a day, and are still dead."""
    for group in facts.dead:
        if group.last_at > facts.now - DAY:
            yield _dead_condition(group)


def _dead_condition(group: DeadGroup) -> Condition:
    verb, cause = "is" if group.number == 1 else "are", group.cause
    events = _events(group.number, is_bounded=group.is_bounded)
    page = (
        f"/ops/groups/{group.key}"
        if group.fingerprint
        else f"/ops/events?state=dead&type={group.type}"
    )
    command: tuple[str, ...] = ("events", "list", "--state", "dead", "--type", group.type)
    if group.fingerprint:
        command = ("events", "groups", group.fingerprint)
    return Condition(
        "dead_events",
        since=group.first_at,
        number=group.number,
        text=f"{events} {verb} dead: {cause}",
        page=page,
        command=command,
        group=group.key,
        types=group.types,
        release=group.release,
        subject=cause,
    )


def _backlog(facts: Facts, rules: Rules, *, is_raised: bool) -> Iterator[Condition]:
    """Yield a condition if events wait too long.

    In inline mode a failed event waits for Stripe. That is too long when Stripe stops redelivering.
    """
    limit = rules.backlog_seconds
    if not limit:
        return
    waiting = facts.waiting
    if rules.is_queue:
        age = waiting.overdue
    else:
        age, limit = waiting.oldest, max(limit, REDELIVERY_SECONDS[rules.livemode])
    if age > limit * (CALM if is_raised and rules.is_queue else 1):
        yield Condition(
            "backlog",
            since=facts.now - age,
            number=waiting.number,
            text=_backlog_text(waiting, age, is_queue=rules.is_queue),
            page="/ops/events?state=pending",
            command=("events", "stats"),
        )


def _backlog_text(waiting: Waiting, age: float, *, is_queue: bool) -> str:
    events = f"{_events(waiting.number, is_bounded=waiting.is_bounded)} pending, the oldest"
    if not is_queue:
        return f"{events} for {duration(age)}: Stripe no longer redelivers"
    if waiting.paused_at:
        since = iso_time(waiting.paused_at, "minutes")
        return f"{events} due for {duration(age)}. Workers are paused since {since}"
    if waiting.paused_types:
        paused = few(waiting.paused_types)
        return f"{events} due for {duration(age)}. Some types are paused: {paused}"
    return f"{events} due for {duration(age)}. Start workers, or more of them"


def _events(number: int, *, is_bounded: bool) -> str:
    """Return a number of events, of which there can be more if it ``is_bounded``."""
    return f"{number}+ events" if is_bounded else plural(number, "event")


def _silence(facts: Facts, rules: Rules) -> Iterator[Condition]:
    """Yield a condition if no delivery came, and there should have been some.

    There should be if Stripe lists events that did not arrive, or if deliveries came in the same
    hours of other days. A new inbox knows no other days.
    """
    limit, silence = rules.silence_seconds, facts.silence
    if not limit or silence is None or facts.waiting.paused_at or silence.seconds <= limit:
        return
    gap = next((each for each in facts.findings if each.name == "reconcile_gap"), None)
    why = _busy_days(silence.same_hours)
    if gap is not None and gap.level == FAILING:
        why = gap.text
    if why:
        yield Condition(
            "silence",
            since=facts.now - silence.seconds,
            number=1,
            text=f"No delivery for {duration(silence.seconds)}. {why}",
            page="/ops",
            command=("doctor",),
        )


def _busy_days(same_hours: Sequence[int | None]) -> str:
    """Return how many deliveries are usual in these hours, or an empty text if none are sure.

    ``same_hours`` are the deliveries one to seven days ago, None where the inbox knows none.
    """
    known = [number for number in same_hours if number is not None]
    busy = [number for number in known if number]
    a_week_ago = same_hours[-1]
    if len(busy) < MIN_DAYS or 2 * len(busy) < len(known) or a_week_ago == 0:
        return ""
    if a_week_ago is None and len(busy) < len(known):
        return ""  # it may be the first weekend
    mean = sum(busy) / len(busy)
    if mean < MIN_MEAN:
        return ""
    return f"In the same hours of {len(busy)} of the last 7 days there were {mean:.0f} on average"


def _failures(facts: Facts, rules: Rules, *, is_raised: bool) -> Iterator[Condition]:
    """Yield a condition if a large share of the attempts of a window failed."""
    attempts: Failures = facts.failures
    limit = rules.failure_share * (CALM if is_raised else 1)
    if not limit or attempts.failed < (1 if is_raised else MIN_FAILURES):
        return
    if attempts.all < (1 if is_raised else MIN_ATTEMPTS) or attempts.failed <= limit * attempts.all:
        return
    worst = f". Most of them: {attempts.worst}" if attempts.worst else ""
    yield Condition(
        "failures",
        since=attempts.since,
        number=attempts.failed,
        text=f"{attempts.failed} of {plural(attempts.all, 'attempt')} failed within"
        f" {duration(rules.window_seconds)}{worst}",
        page="/ops/groups",
        command=("events", "groups"),
    )


def _breakers(facts: Facts) -> Iterator[Condition]:
    """Yield each event type that its circuit breaker has paused."""
    for event_type, note in facts.open_breakers.items():
        yield Condition(
            "type_paused",
            since=note.at,
            number=1,
            text=f"{event_type} is paused by its circuit breaker: {note.why}",
            page=f"/ops/events?state=pending&type={event_type}",
            command=("events", "list", "--state", "pending", "--type", event_type),
            group=event_type,
            types=(event_type,),
            subject=event_type,
        )


def _is_alert(finding: Finding) -> bool:
    """Return whether a finding needs a person. Some need one before it is too late."""
    return finding.level == FAILING or (finding.level == WARNING and finding.name in EARLY)


def _of_finding(finding: Finding) -> Condition:
    """Return the condition of a finding of the watch: ``name`` or ``name:group``."""
    alert, _, group = finding.name.partition(":")
    types = finding.details.get("types", ())
    return Condition(
        alert,
        since=finding.since,
        number=int(finding.details.get("number", 1)),
        text=sentence(finding.text),
        page="/ops/destinations" if alert in OF_DESTINATIONS else "/ops",
        command=("doctor",),
        group=group or None,
        types=tuple(types),
        subject=group,
    )
