"""Overlapping requests of one session: what is merged, what conflicts, what a race leaves."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import sqlalchemy as sa
import sqlalchemy.orm
import zope.sqlalchemy
from pyramid.request import Request
from pyramid.response import Response
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions import SessionConflict, StoreError
from pyramid_redis_lua_sessions.errors import InvalidSession_ChangesDropped
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import make_app, stored_sessions
from tests.support.overlap import Overlap, Start, loaded, look, put, session_with, take
from tests.support.voting import Voting

#: Everybody who takes part in a race.
CONTENDERS = 50


def count(session: Any) -> None:
    """A step that reads, adds one, and writes."""
    session["n"] = session.get("n", 0) + 1


def flash(message: str, **options: Any) -> Callable[[Any], None]:
    """A step that adds a flash message."""
    return lambda session: session.flash(message, **options)


# -- merge ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_both_are_kept_when_requests_write_different_keys(start: Start, mode: str) -> None:
    overlap = start(on_conflict=mode)
    cookie = session_with(overlap, put("kept", 0))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(put("a", 1))
    second.do(put("b", 2))
    assert first.finish().status == second.finish().status == 200
    assert overlap.read(cookie) == {"kept": 0, "a": 1, "b": 2}


@pytest.mark.parametrize("mode", ["merge", "retry"])
@pytest.mark.parametrize("last", [0, 1])
def test_the_last_to_finish_wins_when_requests_write_one_key(
    start: Start, mode: str, last: int
) -> None:
    overlap = start(on_conflict=mode)
    cookie = session_with(overlap, put("key", "old"))
    requests = [loaded(overlap, cookie), loaded(overlap, cookie)]
    for number, driven in enumerate(requests):
        driven.do(put("key", number))
    requests[1 - last].finish()
    requests[last].finish()
    assert overlap.read(cookie) == {"key": last}


def test_a_value_only_read_is_not_written_back_when_the_request_writes_another(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("balance", 10), put("cart", ["tea"]))
    slow = loaded(overlap, cookie)
    assert slow.do(look("balance")) == 10
    assert slow.do(look("cart")) == ["tea"]
    overlap.run(cookie, put("balance", 20), lambda session: session["cart"].append("milk"))
    slow.do(put("seen", True))
    slow.finish()
    assert overlap.read(cookie) == {"balance": 20, "cart": ["tea", "milk"], "seen": True}


def test_a_deleted_key_stays_deleted_when_another_request_writes_a_different_one(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("old", 1), put("kept", 2))
    slow = loaded(overlap, cookie)
    assert slow.do(dict) == {"old": 1, "kept": 2}
    overlap.run(cookie, take("old"))
    slow.do(put("new", 3))
    slow.finish()
    assert overlap.read(cookie) == {"kept": 2, "new": 3}


def test_clear_leaves_what_it_has_not_seen_when_another_request_adds_it(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("old", 1), flash("old"))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, put("new", 2), flash("new"))
    slow.do(lambda session: session.clear())
    slow.finish()
    assert overlap.read(cookie) == {"new": 2}
    assert overlap.begin(cookie).do(lambda session: session.peek_flash()) == ["new"]


def test_a_nested_change_is_kept_when_another_request_writes_a_different_key(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", {"tea": 1}))
    slow = loaded(overlap, cookie)
    slow.do(lambda session: session["cart"].update(milk=2))
    overlap.run(cookie, put("seen", True))
    slow.finish()
    assert overlap.read(cookie) == {"cart": {"tea": 1, "milk": 2}, "seen": True}


def test_nothing_is_lost_when_all_save_different_keys_at_once(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("kept", 0))
    contenders = [loaded(overlap, cookie) for _ in range(CONTENDERS)]
    for number, driven in enumerate(contenders):
        driven.do(put(number, number))
    answers = overlap.together(contenders)
    assert {answer.status for answer in answers} == {200}
    assert overlap.read(cookie) == {"kept": 0, **{n: n for n in range(CONTENDERS)}}


def test_one_wins_whole_when_all_save_one_key_at_once(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("key", None))
    contenders = [loaded(overlap, cookie) for _ in range(CONTENDERS)]
    for number, driven in enumerate(contenders):
        driven.do(put("key", [number] * 100))
    overlap.together(contenders)
    won = overlap.read(cookie)["key"]
    assert won in [[number] * 100 for number in range(CONTENDERS)]


# -- merge: flash messages -------------------------------------------------------------


def messages(overlap: Overlap, cookie: str) -> Any:
    driven = overlap.begin(cookie)
    found = driven.do(lambda session: session.peek_flash())
    driven.finish()
    return found


def test_messages_of_overlapping_requests_survive_in_the_order_of_their_saves(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, flash("0"))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(flash("1"))
    second.do(flash("2"))
    first.do(flash("3"))
    second.finish()
    first.finish()
    assert messages(overlap, cookie) == ["0", "2", "1", "3"]


def test_all_messages_survive_when_all_requests_add_one_at_once(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("kept", 0))
    contenders = [loaded(overlap, cookie) for _ in range(CONTENDERS)]
    for number, driven in enumerate(contenders):
        driven.do(flash(str(number)))
    overlap.together(contenders)
    assert sorted(messages(overlap, cookie), key=int) == [str(n) for n in range(CONTENDERS)]


def test_a_popped_message_is_gone_and_a_new_one_stays_when_one_request_pops_as_another_adds(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, flash("old"))
    popping, adding = loaded(overlap, cookie), loaded(overlap, cookie)
    assert popping.do(lambda session: session.pop_flash()) == ["old"]
    adding.do(flash("new"))
    adding.finish()
    popping.finish()
    assert messages(overlap, cookie) == ["new"]


def test_a_popped_message_does_not_come_back_when_a_slower_request_adds_one(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, flash("old"))
    adding = loaded(overlap, cookie)
    assert adding.do(lambda session: session.peek_flash()) == ["old"]
    overlap.run(cookie, lambda session: session.pop_flash())
    adding.do(flash("new"))
    adding.finish()
    assert messages(overlap, cookie) == ["new"]


def test_queues_do_not_mix_when_requests_overlap(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("kept", 0))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(flash("a", queue="errors"))
    second.do(flash("b"))
    first.finish()
    second.finish()
    driven = overlap.begin(cookie)
    assert driven.do(lambda session: session.pop_flash("errors")) == ["a"]
    assert driven.do(lambda session: session.pop_flash()) == ["b"]


def test_a_duplicate_is_left_out_only_when_the_request_has_seen_its_like(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("kept", 0))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    for driven in (first, second):
        driven.do(flash("twin", allow_duplicate=False))
        driven.do(flash("twin", allow_duplicate=False))
    first.finish()
    second.finish()
    assert messages(overlap, cookie) == ["twin", "twin"]  # neither had seen the other's
    overlap.run(cookie, flash("twin", allow_duplicate=False))
    assert messages(overlap, cookie) == ["twin", "twin"]


def test_a_duplicate_is_left_out_for_good_when_overlapping_requests_are_repeated(
    start: Start,
) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("kept", 0))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(flash("twin", allow_duplicate=False))
    second.do(flash("twin", allow_duplicate=False))
    assert first.finish().status == 200
    assert second.finish().status == 409
    assert messages(overlap, cookie) == ["twin"]


# -- merge: emptied sessions -------------------------------------------------------------


def test_an_emptied_session_ends_when_nobody_writes_meanwhile_and_its_cookie_stays(
    start: Start, redis_client: Any
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("a", 1), flash("b"))
    answer = overlap.run(cookie, take("a"), lambda session: session.pop_flash())
    # The response may arrive after that of a login: only invalidate() deletes a cookie.
    assert answer.cookies == []
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("late", [put("new", 2), flash("new")], ids=["value", "flash"])
def test_an_emptied_session_lives_on_when_another_request_writes_meanwhile(
    start: Start, late: Any
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("a", 1))
    emptying = loaded(overlap, cookie)
    emptying.do(take("a"))
    overlap.run(cookie, late)
    assert emptying.finish().cookies == []
    later = overlap.begin(cookie)
    assert later.do(lambda session: (dict(session), session.peek_flash())) in [
        ({"new": 2}, []),
        ({}, ["new"]),
    ]


def test_an_emptied_session_stays_ended_when_a_slower_request_writes(
    start: Start, redis_client: Any
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, take("a"))
    slow.do(put("b", 2))
    answer = slow.finish()
    assert answer.cookies == []
    assert isinstance(slow.problems[-1], InvalidSession_ChangesDropped)
    assert stored_sessions(redis_client) == {}


def test_an_emptied_session_lives_on_when_it_is_not_to_end(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    assert overlap.run(cookie, take("a")).cookies == []
    slow.do(put("b", 2))
    slow.finish()
    assert overlap.read(cookie) == {"b": 2}


# -- races for an id ---------------------------------------------------------------------


def test_each_gets_a_session_of_its_own_when_the_generator_gives_all_the_same_id_first(
    start: Start, redis_client: Any
) -> None:
    drawn = itertools.count()
    begun: set[int] = set()  # threads: each contender has one

    def generator() -> str:
        number, thread = next(drawn), threading.get_ident()
        if thread in begun:
            return f"another-{number}"
        begun.add(thread)
        return "the-only-one"

    overlap = start(id_generator=generator)
    contenders = [loaded(overlap, "") for _ in range(CONTENDERS)]
    for number, driven in enumerate(contenders):
        driven.do(put("mine", number))
    answers = overlap.together(contenders)
    for number, answer in enumerate(answers):
        assert overlap.read(answer.cookie) == {"mine": number}
    stored = stored_sessions(redis_client)
    assert len(stored) == CONTENDERS
    assert "the-only-one" in stored


def test_one_gets_the_id_when_the_generator_has_no_other(start: Start, redis_client: Any) -> None:
    def configure(config: Any) -> None:
        config.add_exception_view(_unavailable, context=StoreError)

    overlap = start(id_generator=lambda: "the-only-one", configure=configure)
    contenders = [loaded(overlap, "") for _ in range(CONTENDERS)]
    for number, driven in enumerate(contenders):
        driven.do(put("mine", number))
    answers = overlap.together(contenders)
    winners = [number for number, answer in enumerate(answers) if answer.status == 200]
    assert len(winners) == 1
    assert [answer.cookies for answer in answers if answer.status != 200] == [[]] * 49
    assert overlap.read(answers[winners[0]].cookie) == {"mine": winners[0]}
    assert list(stored_sessions(redis_client)) == ["the-only-one"]


def _unavailable(request: Any) -> Response:
    return Response("no session", status=503)


# -- retry: what is a conflict -------------------------------------------------------------


def test_the_later_counter_conflicts_when_both_read_the_same_count(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("n", 5))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(count)
    second.do(count)  # would store the very same bytes: still a conflict
    assert first.finish().status == 200
    assert second.finish().status == 409
    assert overlap.read(cookie) == {"n": 6}


def test_a_key_read_as_absent_conflicts_when_another_request_creates_it(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("kept", 0))
    slow = loaded(overlap, cookie)
    assert slow.do(look("coupon")) is None
    overlap.run(cookie, put("coupon", "used"))
    slow.do(put("price", 10))
    assert slow.finish().status == 409
    assert overlap.read(cookie) == {"kept": 0, "coupon": "used"}


def test_a_key_that_was_read_conflicts_when_another_request_deletes_it(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("coupon", 1))
    slow = loaded(overlap, cookie)
    assert slow.do(look("coupon")) == 1
    overlap.run(cookie, take("coupon"))
    slow.do(put("price", 9))
    assert slow.finish().status == 409
    assert overlap.read(cookie) == {}


def test_a_test_for_a_key_conflicts_only_when_its_answer_would_be_another(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("key", 1))
    untroubled, troubled = loaded(overlap, cookie), loaded(overlap, cookie)
    for driven in (untroubled, troubled):
        assert driven.do(lambda session: "key" in session)
    overlap.run(cookie, put("key", 2))
    untroubled.do(put("a", 1))
    assert untroubled.finish().status == 200
    overlap.run(cookie, take("key"))
    troubled.do(put("b", 1))
    assert troubled.finish().status == 409


LOOKS_AT_ALL = {
    "len": len,
    "bool": bool,
    "iter": list,
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "items": lambda session: list(session.items()),
    "==": lambda session: session == {},
    "copy": lambda session: session.copy(),
    "managed_dict": lambda session: len(session.managed_dict),
    "peek_flash": lambda session: session.peek_flash(),
    "pop_flash": lambda session: session.pop_flash("empty"),
    "flash": lambda session: session.flash("m", allow_duplicate=False),
}


@pytest.mark.parametrize("look_at_all", LOOKS_AT_ALL.values(), ids=LOOKS_AT_ALL)
@pytest.mark.parametrize(
    "meanwhile", [put("new", 1), take("old"), flash("new")], ids=["add", "delete", "flash"]
)
def test_a_look_at_all_conflicts_when_another_request_adds_or_removes_anything(
    start: Start, look_at_all: Any, meanwhile: Any
) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("old", 1), put("kept", 2))
    slow = loaded(overlap, cookie)
    slow.do(look_at_all)
    overlap.run(cookie, meanwhile)
    slow.do(put("result", 1))
    assert slow.finish().status == 409
    assert "result" not in overlap.read(cookie)


def test_values_conflict_when_another_request_changes_one_of_them(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("a", 1), put("b", 2))
    slow, untroubled = loaded(overlap, cookie), loaded(overlap, cookie)
    assert sum(slow.do(lambda session: list(session.values()))) == 3
    assert untroubled.do(len) == 2
    overlap.run(cookie, put("b", 3))
    slow.do(put("sum", 3))
    untroubled.do(put("number", 2))
    assert untroubled.finish().status == 200
    assert slow.finish().status == 409


def test_nothing_conflicts_when_a_request_only_reads(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    assert slow.do(dict) == {"n": 1}
    overlap.run(cookie, count)
    assert slow.finish().status == 200
    assert overlap.read(cookie) == {"n": 2}


def test_nothing_conflicts_when_requests_read_and_write_different_keys(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("a", 1), put("b", 1))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(lambda session: put("a", session["a"] + 1)(session))
    second.do(lambda session: put("b", session["b"] + 1)(session))
    assert first.finish().status == second.finish().status == 200
    assert overlap.read(cookie) == {"a": 2, "b": 2}


def test_nothing_is_half_saved_when_a_request_conflicts(start: Start) -> None:
    overlap = start(on_conflict="retry", invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1), put("old", 1), flash("old"))
    before = overlap.begin(cookie)
    slow = loaded(overlap, cookie)
    for step in (count, put("blind", 1), take("old"), flash("new")):
        slow.do(step)
    slow.do(lambda session: session.adjust_session_timeout(77))
    overlap.run(cookie, put("n", 2))
    assert slow.finish().status == 409
    assert before.do(dict) == {"n": 2, "old": 1}
    assert before.do(lambda session: session.peek_flash()) == ["old"]
    assert before.do(lambda session: session.timeout) == 1200


def test_a_nested_change_conflicts_when_another_request_changed_the_value(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("cart", []))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(lambda session: session["cart"].append("tea"))
    second.do(lambda session: session["cart"].append("milk"))
    assert first.finish().status == 200
    assert second.finish().status == 409
    assert overlap.read(cookie) == {"cart": ["tea"]}


def test_one_save_fits_when_all_who_read_the_count_save_at_once(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("n", 0))
    contenders = [loaded(overlap, cookie) for _ in range(CONTENDERS)]
    for driven in contenders:
        driven.do(count)
    answers = overlap.together(contenders)
    assert sorted(answer.status for answer in answers) == [200] + [409] * (CONTENDERS - 1)
    assert overlap.read(cookie) == {"n": 1}


@pytest.mark.parametrize("saves_between", [0, 3])
def test_a_save_is_not_its_own_conflict_when_its_reply_was_lost(
    start: Start, proxy: CountingProxy, saves_between: int
) -> None:
    overlap = start(redis_url=proxy.url, on_conflict="retry")
    cookie = session_with(overlap, put("n", 5))
    for _ in range(saves_between):
        overlap.run(cookie, put("other", 1))
    driven = loaded(overlap, cookie)
    driven.do(count)
    proxy.reset()
    proxy.lose_replies(1)
    assert driven.finish().status == 200
    assert proxy.command_names.count("EVALSHA") == 2  # it was sent twice
    assert overlap.read(cookie)["n"] == 6


class BetweenTries(NoBackoff):
    """What happens after a reply was lost, before the client sends the call again."""

    act: Callable[[], object] | None = None

    def __deepcopy__(self, memo: object) -> BetweenTries:
        return self  # redis-py copies it for every connection

    def compute(self, failures: int) -> float:
        act, self.act = self.act, None
        if act is not None:
            act()
        return super().compute(failures)


@pytest.mark.parametrize("mode", ["merge", "retry"])
@pytest.mark.parametrize(
    ("late", "between", "left"),
    [
        (put("key", "late"), put("key", "between"), {"key": "between"}),
        (take("key"), put("key", "between"), {"key": "between"}),
        (put("key", "late"), take("key"), {}),
    ],
    ids=["a write", "a delete", "a write that is deleted"],
)
def test_a_repeated_save_does_not_undo_a_write_that_came_after_it(
    start: Start,
    proxy: CountingProxy,
    mode: str,
    late: Callable[[Any], None],
    between: Callable[[Any], None],
    left: dict[str, str],
) -> None:
    tries = BetweenTries()
    client = redis.Redis.from_url(proxy.url, retry=Retry(tries, 1))
    overlap = start(on_conflict=mode, client_callable=lambda request, **options: client)
    others = start(on_conflict=mode)
    cookie = session_with(overlap, put("key", "old"), put("other", 1))
    slow = loaded(overlap, cookie)
    slow.do(late)
    acknowledged = []
    tries.act = lambda: acknowledged.append(others.run(cookie, between).status)
    proxy.reset()
    proxy.lose_replies(1)
    assert slow.finish().status == 200
    assert acknowledged == [200]
    assert proxy.command_names.count("EVALSHA") == 2
    assert others.read(cookie) == {**left, "other": 1}


def test_a_repeated_adjustment_does_not_undo_one_that_came_after_it(
    start: Start, proxy: CountingProxy
) -> None:
    tries = BetweenTries()
    client = redis.Redis.from_url(proxy.url, retry=Retry(tries, 1))
    overlap = start(client_callable=lambda request, **options: client)
    others = start()
    cookie = session_with(overlap, put("key", 1))
    slow = loaded(overlap, cookie)
    slow.do(lambda session: session.adjust_timeout_for_session(100))
    tries.act = lambda: others.run(cookie, lambda session: session.adjust_timeout_for_session(200))
    proxy.lose_replies(1)
    assert slow.finish().status == 200
    assert loaded(others, cookie).do(lambda session: session.timeout) == 200


@pytest.mark.parametrize(
    "change",
    [put("key", 2), take("key"), lambda session: session.adjust_timeout_for_session(100)],
    ids=["write", "delete", "timeout"],
)
@pytest.mark.parametrize(
    "end",
    [lambda session: session.invalidate(), lambda session: session.regenerate_id()],
    ids=["invalidated", "regenerated"],
)
def test_a_save_that_others_saw_is_not_reported_as_dropped_when_the_session_ended_since(
    start: Start,
    proxy: CountingProxy,
    end: Callable[[Any], None],
    change: Callable[[Any], None],
) -> None:
    """Its reply was lost, and before the client repeats it the session ends."""
    tries = BetweenTries()
    client = redis.Redis.from_url(proxy.url, retry=Retry(tries, 1))
    overlap = start(client_callable=lambda request, **options: client)
    others = start()
    cookie = session_with(overlap, put("key", 1), put("other", 1))
    slow = loaded(overlap, cookie)
    slow.do(change)
    tries.act = lambda: others.run(cookie, end)
    proxy.lose_replies(1)
    assert slow.finish().status == 200
    assert slow.problems == []
    assert others.read(cookie) == {}


@pytest.mark.parametrize("name", ["owner", "label"])
def test_who_reads_owner_or_label_conflicts_with_who_sets_it(start: Start, name: str) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    assert slow.do(lambda session: getattr(session, name)) is None
    slow.do(put("a", "for nobody"))
    overlap.run(cookie, lambda session: setattr(session, "label", "phone"))
    expected = 409 if name == "label" else 200
    assert slow.finish().status == expected
    assert overlap.read(cookie) == {"a": 1 if name == "label" else "for nobody"}


def test_two_overlapping_logins_do_not_conflict_over_the_owner(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("a", 1))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    for driven in (first, second):
        driven.do(lambda session: setattr(session, "owner", "ada"))
    assert first.finish().status == 200
    assert second.finish().status == 200


# -- retry: the request runs again ---------------------------------------------------------


def retrying(start: Start, attempts: int, **options: Any) -> Overlap:
    return start(
        on_conflict="retry",
        settings={"retry.attempts": attempts},
        configure=lambda config: config.include("pyramid_retry"),
        **options,
    )


def test_a_conflicting_request_runs_again_on_fresh_data_when_pyramid_retry_is_there(
    start: Start,
) -> None:
    overlap = retrying(start, attempts=3)
    cookie = session_with(overlap, put("n", 5))
    slow = loaded(overlap, cookie)
    slow.do(count)
    slow.do(put("first attempt", True))
    overlap.run(cookie, count)
    assert slow.finish_attempt(), "it must be repeated"
    assert slow.do(look("n")) == 6
    slow.do(count)
    assert slow.finish().status == 200
    assert slow.attempts == 2
    assert overlap.read(cookie) == {"n": 7}


def test_the_conflict_is_answered_with_409_when_it_was_the_last_attempt(start: Start) -> None:
    overlap = retrying(start, attempts=2)
    cookie = session_with(overlap, put("n", 0))
    slow = loaded(overlap, cookie)
    slow.do(count)
    overlap.run(cookie, count)
    assert slow.finish_attempt()
    slow.do(count)
    overlap.run(cookie, count)
    assert slow.finish().status == 409
    assert overlap.read(cookie) == {"n": 2}


def test_the_applications_own_view_sees_the_conflict_when_it_has_one(start: Start) -> None:
    def sorry(exc: Exception, request: Any) -> Response:
        return Response(type(exc).__name__, status=503)

    def configure(config: Any) -> None:
        config.commit()
        config.add_exception_view(sorry, context=SessionConflict)

    overlap = start(on_conflict="retry", configure=configure)
    cookie = session_with(overlap, put("n", 0))
    slow = loaded(overlap, cookie)
    slow.do(count)
    overlap.run(cookie, count)
    answer = slow.finish()
    assert (answer.status, answer.response.text) == (503, "SessionConflict")


def test_the_counter_is_exact_when_all_count_at_once_and_run_again(redis_url: str) -> None:
    app = make_app(
        redis_url,
        {"count": count_in_view, "read": lambda request: str(request.session["n"])},
        on_conflict="retry",
        settings={"retry.attempts": CONTENDERS},
        configure=lambda config: config.include("pyramid_retry"),
    )
    cookie = app.get("/count").headers["Set-Cookie"].partition(";")[0]
    everybody = threading.Barrier(CONTENDERS)

    def contend(_: int) -> int:
        request = Request.blank("/count", headers={"Cookie": cookie})
        request.environ["tests.barrier"] = everybody
        return int(request.get_response(app.app).status_int)

    with ThreadPoolExecutor(CONTENDERS) as threads:
        statuses = list(threads.map(contend, range(CONTENDERS)))
    assert statuses == [200] * CONTENDERS
    assert app.get("/read", headers={"Cookie": cookie}).text == str(1 + CONTENDERS)


def count_in_view(request: Any) -> None:
    count(request.session)
    barrier = request.environ.pop("tests.barrier", None)
    if barrier is not None:  # all first attempts have read the same count
        barrier.wait()


# -- in a transaction ------------------------------------------------------------------------


class Database:
    """A real database in the request's transaction, and a count of its commits."""

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        metadata = sa.MetaData()
        self.orders = sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))
        order = sa.ForeignKey("orders.id", deferrable=True, initially="DEFERRED")
        self.paid = sa.Table("paid", metadata, sa.Column("order_id", sa.Integer, order))
        metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            connection.execute(self.orders.insert().values(id=1))
        self.commits = 0
        sa.event.listen(self.engine, "connect", _enforce_foreign_keys)
        sa.event.listen(self.engine, "commit", self._committed)

    def _committed(self, connection: Any) -> None:
        self.commits += 1

    def pay(self, request: Any, order_id: int = 1) -> None:
        """Write a row; the commit fails where there is no such order."""
        session = sa.orm.Session(self.engine)
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        session.execute(self.paid.insert().values(order_id=order_id))
        zope.sqlalchemy.mark_changed(session)

    @property
    def rows(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(sa.select(self.paid)).all())


def _enforce_foreign_keys(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


@pytest.fixture
def database(tmp_path: Any) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/orders.db")
    yield database
    database.engine.dispose()


def transactional(start: Start, mode: str) -> Overlap:
    def configure(config: Any) -> None:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.add_exception_view(_unavailable, context=sa.exc.IntegrityError)

    return start(
        on_conflict=mode,
        settings={"retry.attempts": 3, "tm.manager_hook": "pyramid_tm.explicit_manager"},
        configure=configure,
    )


def test_each_successful_request_commits_once_when_it_conflicts_and_runs_again(
    start: Start, database: Database
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("n", 0))
    slow = loaded(overlap, cookie)
    slow.do(count)
    overlap.run(cookie, count)
    slow.do_request(database.pay)
    assert slow.finish_attempt(), "it must be repeated"
    assert (database.commits, database.rows) == (0, 0)
    slow.do(count)
    slow.do_request(database.pay)
    assert slow.finish().status == 200
    assert (database.commits, database.rows) == (1, 1)
    assert overlap.read(cookie) == {"n": 2}


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("merge", "none"),
        ("merge", "regenerate"),
        ("retry", "none"),
        ("retry", "regenerate"),
    ],
)
def test_the_session_is_as_it_was_when_the_database_refuses_its_commit(
    start: Start, database: Database, mode: str, ending: str
) -> None:
    overlap = transactional(start, mode)
    cookie = session_with(overlap, put("n", 1), put("old", 1), flash("old"))
    slow = loaded(overlap, cookie)
    slow.do(count)
    slow.do(take("old"))
    slow.do(put("new", 1))
    slow.do(lambda session: session.pop_flash())
    slow.do(flash("new"))
    if ending == "regenerate":
        slow.do(lambda session: session.regenerate_id())
    slow.do_request(lambda request: database.pay(request, order_id=404))
    answer = slow.finish()
    assert answer.status == 503
    assert answer.cookie is None
    assert database.rows == 0
    assert overlap.read(cookie) == {"n": 1, "old": 1}
    assert messages(overlap, cookie) == ["old"]


@pytest.mark.parametrize(
    "mine",
    [
        pytest.param(put("key", "mine"), id="assigned"),
        pytest.param(take("key"), id="deleted"),
        pytest.param(lambda session: session.update(key="mine", more=1), id="among others"),
    ],
)
def test_what_an_undone_save_has_replaced_comes_back_and_not_what_its_request_had_loaded(
    start: Start, database: Database, mine: Callable[[Any], None]
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("key", "loaded"), put("other", 1))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, put("key", "acknowledged"))
    slow.do(mine)
    slow.do_request(lambda request: database.pay(request, order_id=404))
    assert slow.finish().status == 503
    assert overlap.read(cookie) == {"key": "acknowledged", "other": 1}


def test_a_save_whose_reply_was_lost_is_taken_back_too(
    start: Start, database: Database, proxy: CountingProxy
) -> None:
    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(_unavailable, context=sa.exc.IntegrityError)

    overlap = start(redis_url=proxy.url, on_conflict="retry", configure=configure)
    cookie = session_with(overlap, put("key", "loaded"), put("gone", 1))
    slow = loaded(overlap, cookie)
    slow.do(put("key", "mine"))
    slow.do(take("gone"))
    slow.do_request(lambda request: database.pay(request, order_id=404))
    proxy.lose_replies(1)
    assert slow.finish().status == 503
    assert overlap.read(cookie) == {"key": "loaded", "gone": 1}


def test_own_timeout_that_another_request_set_comes_back_with_an_undone_save(
    start: Start, database: Database
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("key", 1))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, lambda session: session.adjust_timeout_for_session(500))
    slow.do(lambda session: session.adjust_timeout_for_session(100))
    slow.do(put("key", 2))
    slow.do_request(lambda request: database.pay(request, order_id=404))
    assert slow.finish().status == 503
    assert loaded(overlap, cookie).do(lambda session: session.timeout) == 500


@pytest.mark.parametrize("mode", ["merge", "retry"])
@pytest.mark.parametrize("retries", [False, True], ids=["one attempt", "pyramid_retry"])
@pytest.mark.parametrize("tm", [False, True], ids=["no transaction", "pyramid_tm"])
@pytest.mark.parametrize("late", [False, True], ids=["nobody writes", "another writes"])
def test_an_emptied_session_ends_where_it_is_empty_at_the_very_end(
    redis_url: str, redis_client: Any, mode: str, retries: bool, tm: bool, late: bool
) -> None:
    def empty(request: Any) -> None:
        request.session.clear()
        if late:
            request.add_response_callback(write_meanwhile)

    def write_meanwhile(request: Any, response: Any) -> None:
        # The save point has passed; the session's own callback comes last.
        cookie = request.environ["HTTP_COOKIE"]
        assert other.get("/write", headers={"Cookie": cookie}).status_int == 200

    def configure(config: Any) -> None:
        if retries:
            config.include("pyramid_retry")
        if tm:
            config.include("pyramid_tm")

    other = make_app(redis_url, {"write": lambda request: request.session.update(late=1)})
    app = make_app(
        redis_url,
        {"make": lambda request: request.session.update(a=1), "empty": empty},
        on_conflict=mode,
        invalidate_empty_session=True,
        settings={"tm.manager_hook": "pyramid_tm.explicit_manager"},
        configure=configure,
    )
    app.get("/make")
    app.get("/empty")
    # What the other one wrote is in the old session, or if that had ended already in a new one.
    assert len(stored_sessions(redis_client)) == late


def test_what_was_read_before_a_session_is_invalidated_must_still_be_so(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    n = slow.do(look("n"))
    slow.do(lambda session: session.invalidate())
    slow.do(put("n", n + 1))
    overlap.run(cookie, put("n", 5))
    assert slow.finish().status == 409


def test_a_logout_does_not_conflict(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    slow.do(dict)
    slow.do(lambda session: session.invalidate())
    overlap.run(cookie, put("n", 5))
    assert slow.finish().deletes
    assert overlap.read(cookie) == {}


#: Votes after the session, and before the database, which commits in its vote.
BEFORE_ZOPE = "right before zope"


def test_nothing_is_put_back_when_the_session_has_gone_meanwhile(
    start: Start, database: Database, redis_client: Any
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("n", 1), put("gone", 1))
    slow = loaded(overlap, cookie)
    slow.do(put("n", 2))
    slow.do(take("gone"))
    slow.do_request(lambda request: Voting(request, redis_client.flushdb, BEFORE_ZOPE))
    slow.do_request(lambda request: database.pay(request, order_id=404))
    assert slow.finish().status == 503
    assert redis_client.keys() == []


@pytest.mark.parametrize("name", ["zope", "a database", "/var/data.fs", "140234"])
def test_no_database_votes_when_the_session_conflicts_whatever_its_sort_key(
    start: Start, name: str
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("n", 0))
    votes: list[str] = []
    slow = loaded(overlap, cookie)
    slow.do(count)
    overlap.run(cookie, count)
    slow.do_request(lambda request: Voting(request, lambda: votes.append(name), name))
    assert slow.finish_attempt(), "it must be repeated"
    assert votes == []


def test_a_coupon_is_redeemed_once_where_taking_it_empties_the_session(start: Start) -> None:
    overlap = start(on_conflict="retry", invalidate_empty_session=True)
    cookie = session_with(overlap, put("coupon", 10))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    for driven in (first, second):
        assert driven.do(lambda session: session.pop("coupon")) == 10
    assert sorted([first.finish().status, second.finish().status]) == [200, 409]


def test_own_timeout_of_a_failed_transaction_is_taken_back(
    start: Start, database: Database
) -> None:
    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("key", 1))
    overlap.run(cookie, put("key", 1))  # found what it wrote, long before
    slow = loaded(overlap, cookie)
    slow.do(lambda session: session.adjust_timeout_for_session(5))
    slow.do_request(lambda request: database.pay(request, order_id=404))
    assert slow.finish().status == 503
    assert loaded(overlap, cookie).do(lambda session: session.timeout) == 1200


def test_a_failed_save_is_taken_back_though_another_request_wrote_another_key_in_vain(
    start: Start, database: Database
) -> None:
    def pay(request: Any) -> None:
        count(request.session)
        Voting(request, lambda: overlap.run(cookie, put("seen", 1)), BEFORE_ZOPE)
        database.pay(request, order_id=404)

    overlap = transactional(start, "retry")
    cookie = session_with(overlap, put("n", 5), put("seen", 1))
    slow = overlap.begin(cookie)
    slow.do_request(pay)
    assert slow.finish().status == 503
    assert overlap.read(cookie) == {"n": 5, "seen": 1}
