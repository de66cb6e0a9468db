"""Pages and counts of the events of a filter, and the indexes that they use, on both databases."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.inbox import Event, Inbox, NewEvent
from app.inbox.filters import EventFilter
from app.inbox.models import Count, Cursor, Page
from app.inbox.selection import BOUND, TESTED
from app.inbox.sql import selection
from app.inbox.sql.selection import Window
from benchmarks import million
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

EVENTS = 400
LAST = 4e9
CREATED = million.TYPES[8]

FILTERS = [
    EventFilter(**conditions)
    for conditions in (
        *({}, {"state": "done"}, {"state": "running"}, {"livemode": False}),
        *({"state": "dead"}, {"state": "pending"}, {"state": "dead", "type": million.TYPES[0]}),
        *({"type": million.TYPES[0]}, {"type": million.TYPES[1], "state": "done"}),
        *({"context": "acct_1"}, {"context": "acct_0", "type": million.TYPES[0]}),
        *({"object_id": "cha_00000057"}, {"object_id": "cha_00000057", "state": "done"}),
        *({"group": million.fingerprint(0)}, {"group": million.fingerprint(1), "state": "dead"}),
        *({"outcome": "fallback"}, {"outcome": "wrong_mode", "state": "done"}),
        *({"outcome": "exhausted"}, {"outcome": "failed"}, {"outcome": "handled"}),
        *({"outcome": "fallback", "state": "pending"}, {"outcome": "gave_up", "state": "done"}),
        *({"failed_before": "release-05"}, {"failed_before": "release-05", "state": "dead"}),
        {"failed_before": "release-05", "group": million.fingerprint(0)},
        {"context": "acct_1", "group": million.fingerprint(0), "failed_before": "release-09"},
        {"object_id": "cha_00000057", "group": million.fingerprint(0)},
    )
]

#: The columns of each index, as the plan of PostgreSQL and of SQLite names them.
INDEXES = {
    EventFilter(): "events_received",
    EventFilter(state="done"): "events_received",
    EventFilter(outcome="handled"): "events_received",
    EventFilter(state="running"): "events_running",
    EventFilter(state="dead"): "stripe_receiver_open",
    EventFilter(state="pending", type="v1.charge.succeeded"): "stripe_receiver_open",
    EventFilter(outcome="gave_up"): "stripe_receiver_open",
    EventFilter(failed_before="release-05"): "stripe_receiver_open",
    EventFilter(outcome="fallback", state="done"): "stripe_receiver_outcome",
    EventFilter(type="v1.charge.succeeded"): (
        *("stripe_receiver_type", "stripe_receiver_open", "events_running"),
    ),
    EventFilter(context="acct_1"): ("stripe_receiver_context", "events_running"),
    EventFilter(object_id="cus_1"): ("stripe_receiver_object", "events_running"),
    EventFilter(type="v1.charge.succeeded", state="done"): "stripe_receiver_type",
    EventFilter(context="acct_1", state="dead"): "stripe_receiver_context",
    EventFilter(group="1" * 12): "stripe_receiver_group",
    EventFilter(group="1" * 12, state="dead", type="v1.charge.failed"): "stripe_receiver_group",
    EventFilter(object_id="cus_1", state="dead", context="acct_1"): "stripe_receiver_object",
}


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An inbox with events of every kind."""
    # Of 400 events too few would be dead.
    monkeypatch.setattr(million, "FAILED_SHARE", 0.3)
    monkeypatch.setattr(million, "GROUPS", 10)  # each fills 360 rows, which no test here reads
    million.fill(database_url, EVENTS, analyze=False)
    return database_url


@pytest.fixture
def inbox(open_inbox: MakeInbox, url: str) -> Inbox:
    """The inbox with these events."""
    return open_inbox(url)


def matches(event: Event, matching: EventFilter, releases: dict[str, float]) -> bool:
    """Return True if the event matches, by the words of ``EventFilter``."""
    related = json.loads(event.body)["related_object"]["id"]
    values = {"object_id": related, "group": event.fingerprint}
    names = ("state", "type", "context", "outcome", "livemode")
    values |= {name: getattr(event, name) for name in names}
    wanted = {name: getattr(matching, name) for name in values}
    if any(value is not None and value != values[name] for name, value in wanted.items()):
        return False
    if matching.failed_before is not None:
        return (
            event.release is not None and releases[event.release] < releases[matching.failed_before]
        )
    return True


def ids(page: Page) -> list[str]:
    """Return the ids of the events of a page."""
    return [event.id for event in page.events]


def test_filters_select_what_they_say(inbox: Inbox, url: str) -> None:
    """Every filter selects exactly its events, in both directions, page by page."""
    administration = inbox.administration
    events = administration.latest(EVENTS)
    releases = dict(raw_sql.select(url, "stripe_receiver_releases"))
    assert len(events) == EVENTS
    for matching in FILTERS:
        expected = [each.id for each in events if matches(each, matching, releases)]
        assert administration.count(matching) == Count(len(expected)), matching
        assert [each.id for each in administration.select(matching, EVENTS)] == expected, matching
        assert [each.id for each in administration.walk(matching)] == expected[::-1], matching
        found: list[str] = []
        cursor: Cursor | None = None
        while cursor is not None or not found:
            page = administration.page(matching, limit=7, before=cursor)
            found += ids(page)
            assert not page.is_partial
            cursor = page.older
            if not expected:
                break
        assert found == expected, matching


def test_most_filters_of_this_test_select_something(inbox: Inbox) -> None:
    """The test above would pass with filters that select nothing."""
    numbers = [inbox.administration.count(each).number for each in FILTERS]
    assert sum(number > 0 for number in numbers) > len(FILTERS) * 2 // 3


def test_pages_go_both_ways(inbox: Inbox) -> None:
    """From any page, the newer one and the older one are reached. Ends have no cursor."""
    administration, matching = inbox.administration, EventFilter(state="done")
    first = administration.page(matching, limit=10)
    second = administration.page(matching, limit=10, before=first.older)
    assert (first.newer, len(ids(second))) == (None, 10)
    assert set(ids(first)).isdisjoint(ids(second))
    back = administration.page(matching, limit=10, after=second.newer)
    assert ids(back) == ids(first)
    assert back.newer is None
    assert ids(administration.page(matching, limit=10, before=back.older)) == ids(second)
    oldest = administration.page(matching, limit=10, after=Cursor(0.0))
    assert administration.page(matching, limit=10, before=oldest.older).events == []
    assert administration.page(matching, limit=EVENTS).older is None


def test_events_of_one_moment_are_on_one_page_each(inbox: Inbox, url: str) -> None:
    """Events of the same time have an order, so no page repeats or omits one."""
    raw_sql.execute(url, "UPDATE events SET received_at = 1700000000")
    for matching in (EventFilter(), EventFilter(state="dead"), EventFilter(type=CREATED)):
        for backwards in (False, True):
            found: list[str] = []
            cursor: Cursor | None = Cursor(0.0) if backwards else None
            while cursor is not None or not found:
                page = inbox.administration.page(
                    matching,
                    limit=9,
                    before=None if backwards else cursor,
                    after=cursor if backwards else None,
                )
                found += ids(page)
                cursor = page.newer if backwards else page.older
            assert len(found) == len(set(found)) == inbox.administration.count(matching).number


def test_event_that_changes_its_state_is_found_once(inbox: Inbox) -> None:
    """Each page finds an event that goes through all states, and finds it once."""
    notification = NewEvent("evt_moving", "v1.moving", livemode=False, context=None, body=b"{}")
    inbox.deliveries.enqueue(notification)
    is_ended = threading.Event()

    def move() -> None:
        while not is_ended.is_set():
            claim = inbox.claims.claim_one("evt_moving", by="me", again=True)
            assert claim is not None
            inbox.claims.finish(claim)

    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(move)
        pages = [
            inbox.administration.page(EventFilter(type="v1.moving"), limit=5) for _ in range(100)
        ]
        is_ended.set()
        moving.result()
    assert {tuple(ids(page)) for page in pages} == {("evt_moving",)}


def test_times_limit_the_pages(inbox: Inbox) -> None:
    """``since`` and ``until`` are inclusive. A cursor beyond them changes nothing."""
    events = inbox.administration.latest(EVENTS)
    since, until = events[300].received_at, events[100].received_at
    for more in (EventFilter(), EventFilter(state="done"), EventFilter(type=million.TYPES[0])):
        matching = replace(more, since=since, until=until)
        expected = [
            each.id
            for each in events[100:301]
            if more.state in {None, each.state} and more.type in {None, each.type}
        ]
        assert ids(inbox.administration.page(matching, limit=EVENTS)) == expected
        assert inbox.administration.count(matching).number == len(expected)
        late, early = Cursor(LAST, "evt"), Cursor(0.0)
        assert ids(inbox.administration.page(matching, limit=EVENTS, before=late)) == expected
        assert ids(inbox.administration.page(matching, limit=EVENTS, after=early)) == expected
        assert ids(inbox.administration.page(matching, limit=9, before=early)) == []


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "matching",
    [
        EventFilter(state="done", livemode=False),
        EventFilter(type=million.TYPES[0], state="dead"),
        EventFilter(outcome="exhausted", type=million.TYPES[1]),
    ],
)
def test_search_stops_at_its_bound(inbox: Inbox, matching: EventFilter, *, backwards: bool) -> None:
    """A page that is not full says so, and the pages after it find the rest."""
    expected = [each.id for each in inbox.administration.select(matching, EVENTS)]
    assert expected
    found: list[str] = []
    partial = 0
    cursor: Cursor | None = Cursor(0.0) if backwards else Cursor(LAST)
    while cursor is not None:
        page = inbox.administration.page(
            matching,
            limit=3,
            before=None if backwards else cursor,
            after=cursor if backwards else None,
            bound=10,
        )
        partial += page.is_partial
        found += reversed(ids(page)) if backwards else ids(page)
        cursor = page.newer if backwards else page.older
    assert found == (expected[::-1] if backwards else expected)
    assert partial > 0


def test_count_stops_at_its_bound(inbox: Inbox) -> None:
    """A count that stopped says that there may be more."""
    administration = inbox.administration
    assert administration.count(EventFilter(), bound=EVENTS) == Count(EVENTS)
    bounded = administration.count(EventFilter(), bound=EVENTS - 1)
    assert bounded == Count(EVENTS - 1, is_bounded=True)
    tested = administration.count(EventFilter(state="done", livemode=False), bound=50)
    assert tested.is_bounded
    assert tested.number < 50
    assert (str(Count(BOUND, is_bounded=True)), str(Count(1204))) == ("10,000+", "1,204")


def test_row_is_an_event_without_body_and_traceback(inbox: Inbox) -> None:
    """A row of a list has the fields of the event, and the id of its object."""
    (event,) = inbox.administration.latest(1)
    (row,) = inbox.administration.page(EventFilter(), limit=1).events
    for name in row.__dataclass_fields__:
        if name != "object_id":
            assert getattr(row, name) == getattr(event, name)
    assert row.object_id == json.loads(event.body)["related_object"]["id"]


def test_event_without_object(inbox: Inbox, url: str) -> None:
    """A key with the account and the type only names no object."""
    raw_sql.execute(url, "UPDATE events SET subject = '- v1.customer.created'")
    (row,) = inbox.administration.page(EventFilter(), limit=1).events
    assert row.object_id is None
    assert inbox.administration.count(EventFilter(object_id="v1.customer.created")) == Count(0)


def test_attempt_of_an_unknown_release(inbox: Inbox, url: str) -> None:
    """An attempt without a release counts if it ended before the release was first seen."""
    matching = EventFilter(failed_before="release-05", state="dead")
    known = inbox.administration.count(matching).number
    dead = inbox.administration.select(EventFilter(state="dead"), EVENTS)
    assert 0 < known < len(dead)
    raw_sql.execute(url, "UPDATE events SET release = NULL, settled_at = 1 WHERE state = 'dead'")
    assert inbox.administration.count(matching).number == len(dead)
    raw_sql.execute(url, "UPDATE events SET settled_at = 4e9 WHERE state = 'dead'")
    assert inbox.administration.count(matching).number == 0
    assert inbox.administration.count(EventFilter(failed_before="unknown")).number == 0


def test_unchanged_since(inbox: Inbox, url: str) -> None:
    """Events with a result or a retry since then are left out, unless their time is to come."""
    at = inbox.alert_facts.now()
    unchanged = EventFilter(state="dead", unchanged_since=at)
    dead = inbox.administration.select(EventFilter(state="dead"), EVENTS)
    raw_sql.execute(url, "UPDATE events SET settled_at = 1")
    assert inbox.administration.count(unchanged).number == len(dead)
    set_settled = "UPDATE events SET settled_at = :at WHERE id = :id"
    raw_sql.execute(url, set_settled, {"at": at + 0.001, "id": dead[0].id})
    raw_sql.note_retry(url, dead[1].id)
    raw_sql.execute(url, set_settled, {"at": at + 7200, "id": dead[2].id})
    left = {each.id for each in inbox.administration.select(unchanged, EVENTS)}
    assert left == {each.id for each in dead} - {dead[0].id, dead[1].id}


@pytest.mark.parametrize("analyze", [False, True])
def test_each_filter_uses_its_index(inbox: Inbox, url: str, *, analyze: bool) -> None:
    """The plan has the index of the most selective condition, with statistics and without."""
    assert inbox.administration.latest(1)
    engine = raw_sql.make_engine(url, isolation_level="AUTOCOMMIT")
    is_sqlite = url.startswith("sqlite")
    with engine.connect() as connection:
        if analyze:
            connection.exec_driver_sql("ANALYZE")
        for name in () if is_sqlite else ("seqscan", "bitmapscan", "sort"):
            connection.exec_driver_sql(f"SET enable_{name} = off")
        for matching, names in INDEXES.items():
            window = Window(0.0, LAST, "evt_1")
            sources = selection.sources(matching)
            indexes = [names] * len(sources) if isinstance(names, str) else names
            statements = [
                (index, make(window, 50))
                for index, source in zip(indexes, sources, strict=True)
                for make in (source.keys, source.horizon, source.numbers)
                if source.is_ordered or make != source.horizon
            ]
            for index, statement in statements:
                plan = _plan(connection, statement)
                assert f"{index} " in f"{plan} ", (matching, plan)
                assert "Seq Scan on events" not in plan, (matching, plan)
                assert "SCAN events" not in plan or index == "events_running", (matching, plan)
    engine.dispose()


def _plan(connection: sa.Connection, statement: sa.Select[tuple[object, ...]]) -> str:
    sql = statement.compile(connection, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(f"{explain} {sql}".replace("%", "%%"))
    return " ".join(str(row[-1]) for row in rows)


def test_cursor_in_an_address() -> None:
    """A cursor is one word, and the word gives the same cursor."""
    for cursor in (Cursor(1_700_000_000.123456, "evt_1"), Cursor(0.1 + 0.2)):
        assert Cursor.parse(str(cursor)) == cursor
    for text in ("", "evt_1", "nan~evt_1", "1e999", "1~\0"):
        with pytest.raises(ValueError, match="is no place in the list"):
            Cursor.parse(text)


def test_bounds() -> None:
    """A count shows at least as many events as a search tests."""
    assert TESTED <= BOUND
    assert list(itertools.islice(FILTERS, 1)) == [EventFilter()]
