"""``session.regenerate_id()``: a new token, all data, and nothing opened by the old one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pyramid.response import Response

from pyramid_redis_lua_sessions import StoreUnavailable
from pyramid_redis_lua_sessions.errors import InvalidSession_ChangesDropped
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import data_fields, stored_sessions
from tests.support.overlap import Overlap, Start, id_in, loaded, look, put, session_with, token_of
from tests.support.stored import set_start, start_of
from tests.support.traffic import call_names

KEY = "session:"


def regenerate(session: Any) -> None:
    session.regenerate_id()


def log_in(session: Any) -> None:
    session["user"] = "ada"
    session.regenerate_id()


def everything(overlap: Overlap, cookie: str | None) -> Any:
    """Return the values and messages that a request finds."""
    driven = overlap.begin(cookie)
    found = driven.do(lambda session: (dict(session), session.peek_flash()))
    driven.finish()
    return found


# -- what stays, what goes -----------------------------------------------------------------


def test_all_data_is_under_a_new_token_when_it_is_regenerated(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", ["tea"]), put(1, 2), lambda s: s.flash("hi"))
    answer = overlap.run(cookie, log_in)
    assert token_of(answer.cookie).verifier != token_of(cookie).verifier
    assert id_in(answer.cookie) == id_in(cookie)
    assert everything(overlap, answer.cookie) == ({"cart": ["tea"], 1: 2, "user": "ada"}, ["hi"])
    assert list(stored_sessions(redis_client)) == [id_in(answer.cookie)]


@pytest.mark.parametrize("load_first", [True, False])
def test_the_old_token_gives_nothing_once_it_is_replaced(start: Start, load_first: bool) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", 1))
    driven = overlap.begin(cookie)
    if load_first:
        driven.do(look("cart"))
    driven.do(log_in)
    driven.finish()
    assert everything(overlap, cookie) == ({}, [])


def test_it_takes_one_round_trip_when_a_loaded_session_is_regenerated(
    start: Start, proxy: CountingProxy
) -> None:
    overlap = start(redis_url=proxy.url)
    cookie = session_with(overlap, put("cart", 1))
    proxy.reset()
    overlap.run(cookie, log_in)
    assert proxy.round_trips == 2  # the load, and the save
    assert call_names(proxy) == ["EVALSHA"] * 2


def test_changes_made_before_and_after_the_call_are_kept_when_the_id_is_regenerated(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("before", 0), put("gone", 0), put("list", []))
    answer = overlap.run(
        cookie,
        put("before", 1),
        lambda session: session["list"].append(1),
        regenerate,
        put("after", 2),
        lambda session: session.__delitem__("gone"),
        lambda session: session.flash("late"),
    )
    assert everything(overlap, answer.cookie) == (
        {"before": 1, "after": 2, "list": [1]},
        ["late"],
    )


def test_one_token_is_made_when_it_is_regenerated_twice_in_a_request(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    answer = overlap.run(cookie, regenerate, regenerate)
    assert len(answer.cookies) == 1
    assert list(stored_sessions(redis_client)) == [id_in(answer.cookie)]


def test_nothing_is_made_when_an_empty_session_is_regenerated(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    assert overlap.run(None, regenerate).cookies == []
    assert redis_client.keys() == []


def test_the_data_ends_when_the_session_is_regenerated_and_then_invalidated(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    answer = overlap.run(cookie, regenerate, lambda session: session.invalidate())
    assert answer.deletes
    assert stored_sessions(redis_client) == {}


def test_the_values_are_sealed_for_the_new_token_when_it_is_regenerated(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    before = stored_sessions(redis_client)[id_in(cookie)]
    new = id_in(overlap.run(cookie, regenerate).cookie)
    after = stored_sessions(redis_client)[new]
    assert data_fields(before) == data_fields(after) == {b".a"}
    assert before[b".a"] != after[b".a"]


# -- the CSRF token --------------------------------------------------------------------------


def test_the_csrf_token_is_renewed_when_the_id_is_regenerated(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, lambda session: session.get_csrf_token())
    old = overlap.read(cookie)["_csrft_"]
    driven = overlap.begin(cookie)
    driven.do(regenerate)
    shown = driven.do(lambda session: session.get_csrf_token())
    answer = driven.finish()
    assert old != shown
    assert overlap.read(answer.cookie)["_csrft_"] == shown


def test_the_csrf_token_stays_when_that_is_asked_for(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, lambda session: session.get_csrf_token())
    old = overlap.read(cookie)["_csrft_"]
    answer = overlap.run(cookie, lambda session: session.regenerate_id(renew_csrf_token=False))
    assert overlap.read(answer.cookie)["_csrft_"] == old


@pytest.mark.parametrize("stored", [False, True])
def test_the_csrf_token_is_none_that_another_request_stored_meanwhile(
    start: Start, stored: bool
) -> None:
    """Who had the session before a login must not know a token that is good after it."""
    overlap = start()
    steps = [lambda session: session.new_csrf_token()] if stored else []
    cookie = session_with(overlap, put("a", 1), *steps)
    driven = overlap.begin(cookie)
    driven.do(regenerate)
    known = []
    overlap.run(cookie, lambda session: known.append(session.new_csrf_token()))
    after = overlap.begin(driven.finish().cookie)
    assert after.do(lambda session: session.get_csrf_token()) not in known
    assert after.do(dict) == {"a": 1}
    after.finish()


def test_no_csrf_token_is_made_when_there_was_none(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    assert overlap.read(overlap.run(cookie, regenerate).cookie) == {"a": 1}


# -- writes that slip in between ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_a_write_is_kept_when_it_slips_in_between_load_and_regeneration(
    start: Start, mode: str
) -> None:
    overlap = start(on_conflict=mode)
    cookie = session_with(
        overlap, put("same", 1), put("changed", 1), put("gone", 1), lambda s: s.flash("old")
    )
    slow = loaded(overlap, cookie)
    overlap.run(
        cookie,
        put("added", 2),
        put("changed", 2),
        lambda session: session.__delitem__("gone"),
        lambda session: session.pop_flash(),
        lambda session: session.flash("new"),
    )
    slow.do(log_in)
    answer = slow.finish()
    assert everything(overlap, answer.cookie) == (
        {"same": 1, "changed": 2, "added": 2, "user": "ada"},
        ["new"],
    )


def test_the_regenerating_request_is_the_last_writer_when_both_wrote_one_key(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("mine", 0), put("deleted", 0))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, put("mine", "theirs"), put("deleted", "theirs"))
    slow.do(put("mine", "mine"))
    slow.do(lambda session: session.__delitem__("deleted"))
    slow.do(regenerate)
    assert overlap.read(slow.finish().cookie) == {"mine": "mine"}


def test_a_timeout_of_its_own_is_kept_when_it_slips_in_before_the_regeneration(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, lambda session: session.adjust_session_timeout(77))
    slow.do(log_in)
    new = id_in(slow.finish().cookie)
    assert stored_sessions(redis_client)[new][b"timeout"] == b"77000"
    assert redis_client.pttl(KEY + new) <= 77_000


def test_it_conflicts_when_another_request_changed_what_the_regenerating_one_read(
    start: Start, redis_client: Any
) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("credit", 5))
    slow = loaded(overlap, cookie)
    assert slow.do(look("credit")) == 5
    overlap.run(cookie, put("credit", 0))
    slow.do(log_in)
    answer = slow.finish()
    assert (answer.status, answer.cookies) == (409, [])
    assert overlap.read(cookie) == {"credit": 0}
    assert list(stored_sessions(redis_client)) == [id_in(cookie)]


def test_it_conflicts_when_another_request_added_to_what_the_regenerating_one_counted(
    start: Start, redis_client: Any
) -> None:
    overlap = start(on_conflict="retry")
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    assert slow.do(len) == 1
    overlap.run(cookie, put("b", 2))
    slow.do(log_in)
    assert slow.finish().status == 409
    assert overlap.read(cookie) == {"a": 1, "b": 2}
    assert list(stored_sessions(redis_client)) == [id_in(cookie)]


def test_the_id_is_regenerated_once_when_the_request_runs_again_after_a_conflict(
    start: Start, redis_client: Any
) -> None:
    overlap = start(on_conflict="retry", configure=lambda config: config.include("pyramid_retry"))
    cookie = session_with(overlap, put("credit", 5))
    slow = loaded(overlap, cookie)
    slow.do(look("credit"))
    overlap.run(cookie, put("credit", 0))
    slow.do(log_in)
    assert slow.finish_attempt(), "it must be repeated"
    assert slow.do(look("credit")) == 0
    slow.do(log_in)
    answer = slow.finish()
    assert overlap.read(answer.cookie) == {"credit": 0, "user": "ada"}
    assert list(stored_sessions(redis_client)) == [id_in(answer.cookie)]


# -- requests in flight ------------------------------------------------------------------------


def test_the_new_privileges_never_show_under_the_old_token_when_requests_overlap(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", 1))
    early, late = loaded(overlap, cookie), overlap.begin(cookie)
    new = overlap.run(cookie, log_in).cookie
    assert early.do(dict) == {"cart": 1}
    assert late.do(dict) == {}
    early.do(put("x", 1))
    late.do(put("x", 1))
    for driven in (early, late):
        assert driven.finish().cookies == []
        assert isinstance(driven.problems[-1], InvalidSession_ChangesDropped)
    assert everything(overlap, cookie) == ({}, [])
    assert everything(overlap, new) == ({"cart": 1, "user": "ada"}, [])
    assert list(stored_sessions(redis_client)) == [id_in(new)]


def test_both_are_logged_in_when_two_logins_overlap(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", ["tea"]))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(log_in)
    second.do(log_in)
    one, two = first.finish(), second.finish()
    assert overlap.read(one.cookie) == {"cart": ["tea"], "user": "ada"}
    # What had ended with the old id is not copied a second time.
    assert overlap.read(two.cookie) == {"user": "ada"}


@pytest.mark.parametrize("end", [regenerate, lambda session: session.invalidate()])
def test_the_data_of_an_ended_session_stays_ended_when_a_slower_request_logs_in(
    start: Start, end: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("secret", 1), lambda session: session.flash("secret"))
    slow = loaded(overlap, cookie)
    assert slow.do(look("secret")) == 1
    overlap.run(cookie, end)
    slow.do(log_in)
    assert everything(overlap, slow.finish().cookie) == ({"user": "ada"}, [])


@pytest.mark.parametrize("with_token", [False, True])
def test_no_session_is_made_when_a_slower_request_only_regenerates(
    start: Start, redis_client: Any, with_token: bool
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1), lambda session: session.get_csrf_token())
    slow = loaded(overlap, cookie)
    new = overlap.run(cookie, log_in).cookie
    slow.do(lambda session: session.regenerate_id(renew_csrf_token=not with_token))
    if not with_token:
        slow.do(lambda session: session.get_csrf_token())
    assert slow.finish().cookies == []
    assert list(stored_sessions(redis_client)) == [id_in(new)]


# -- lifetimes, lost replies --------------------------------------------------------------


def test_the_absolute_end_stays_when_the_id_is_regenerated(start: Start, redis_client: Any) -> None:
    overlap = start(absolute_timeout=1000)
    cookie = session_with(overlap, put("a", 1))
    key = KEY + id_in(cookie)
    made = start_of(redis_client, key)
    set_start(redis_client, key, made - 900_000)
    assert overlap.run(cookie, log_in).cookie
    assert start_of(redis_client, key) == made - 900_000
    assert redis_client.pttl(key) <= 100_000


def test_a_lifetime_of_its_own_stays_when_the_id_is_regenerated(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    end = int(redis_client.time()[0]) + 500
    cookie = session_with(
        overlap,
        put("a", 1),
        lambda session: session.adjust_session_timeout(700),
        lambda session: session.adjust_session_expires(end),
    )
    new = id_in(overlap.run(cookie, log_in).cookie)
    fields = stored_sessions(redis_client)[new]
    assert (fields[b"timeout"], fields[b"deadline"]) == (b"700000", b"%d000" % end)
    assert redis_client.pttl(KEY + new) <= 500_000


def test_lifetimes_that_come_with_a_new_token_are_kept(start: Start, redis_client: Any) -> None:
    overlap = start()
    end = int(redis_client.time()[0]) + 500
    cookie = session_with(overlap, put("a", 1))
    driven = overlap.begin(cookie)
    driven.do(log_in)
    driven.do(lambda session: session.adjust_session_timeout(700))
    driven.do(lambda session: session.adjust_session_expires(end))
    new = id_in(driven.finish().cookie)
    fields = stored_sessions(redis_client)[new]
    assert (fields[b"timeout"], fields[b"deadline"]) == (b"700000", b"%d000" % end)
    assert redis_client.pttl(KEY + new) <= 500_000


def test_one_new_token_is_made_when_the_reply_was_lost(
    start: Start, proxy: CountingProxy, redis_client: Any
) -> None:
    overlap = start(redis_url=proxy.url)
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    overlap.run(cookie, put("late", 2))
    slow.do(log_in)
    proxy.reset()
    proxy.lose_replies(1)
    answer = slow.finish()
    assert proxy.command_names.count("EVALSHA") >= 4  # load and seal again, one of them twice
    assert overlap.read(answer.cookie) == {"a": 1, "late": 2, "user": "ada"}
    assert list(stored_sessions(redis_client)) == [id_in(answer.cookie)]


def test_no_new_token_is_put_in_place_when_its_cookie_cannot_be_sent(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("a", 1))
    deaf = start(func_check_response_allow_cookies=lambda response: False)
    driven = deaf.begin(cookie)
    driven.do(log_in)
    assert driven.finish().cookies == []
    assert isinstance(driven.problems[-1], InvalidSession_ChangesDropped)
    assert overlap.read(cookie) == {"a": 1}
    assert list(stored_sessions(redis_client)) == [id_in(cookie)]


def test_a_deadline_that_is_removed_meanwhile_stays_removed(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    deadline = time.time() + 100
    cookie = session_with(
        overlap, put("a", 1), lambda session: session.adjust_session_expires(deadline)
    )
    slow = loaded(overlap, cookie)
    overlap.run(cookie, lambda session: session.adjust_session_expires(None))
    slow.do(log_in)
    key = KEY + id_in(slow.finish().cookie)
    assert redis_client.hget(key, "deadline") is None
    assert redis_client.pttl(key) > 1_000_000


def unavailable(config: Any) -> None:
    config.add_exception_view(lambda exc, request: Response(status=503), context=StoreUnavailable)


@pytest.mark.parametrize("other", ["logout", "write"])
def test_new_token_whose_save_gets_no_answer_opens_nothing(
    start: Start, proxy: CountingProxy, redis_client: Any, other: str
) -> None:
    """It may have come through: nobody may hold privileges under the cookie from before."""
    overlap = start(redis_url=proxy.url, configure=unavailable)
    cookie = session_with(overlap, put("a", 1))
    slow = loaded(overlap, cookie)
    if other == "logout":
        overlap.run(cookie, lambda session: session.invalidate())
    else:
        overlap.run(cookie, put("late", 2))
    slow.do(log_in)
    proxy.reset()
    proxy.lose_replies(100)
    answer = slow.finish()
    proxy.lose_replies(0)
    assert (answer.status, answer.cookies) == (503, [])
    found = overlap.read(cookie)
    assert found == {} if other == "logout" else found in ({}, {"a": 1, "late": 2})
    assert "user" not in str(stored_sessions(redis_client))


# -- a token that is renewed now and then ----------------------------------------------------


def test_one_of_many_gives_the_id_that_stays_when_they_renew_it_at_once(
    start: Start, redis_client: Any
) -> None:
    """A session that has an owner, whom none of them changes: none is a login."""
    overlap = start()
    cookie = session_with(overlap, put("a", 1), lambda s: setattr(s, "owner", "ada"))
    contenders = [overlap.begin(cookie) for _ in range(50)]
    for number, driven in enumerate(contenders):
        driven.do(put("mine", number))
        driven.do(regenerate)
    cookies = [answer.cookie for answer in overlap.together(contenders) if answer.cookie]
    assert len(cookies) == 1
    assert list(stored_sessions(redis_client)) == [id_in(cookies[0])]
    driven = overlap.begin(cookies[0])
    assert driven.do(lambda session: (session.owner, session["a"])) == ("ada", 1)
    driven.finish()
    lost = [problem for driven in contenders for problem in driven.problems]
    assert {type(problem) for problem in lost} == {InvalidSession_ChangesDropped}
    assert len(lost) == 49


def test_login_as_another_is_kept_when_the_id_was_renewed_meanwhile(start: Start) -> None:
    overlap = start()
    cookie = session_with(overlap, lambda s: setattr(s, "owner", "ada"))
    driven = overlap.begin(cookie)
    driven.do(lambda session: setattr(session, "owner", "bob"))
    overlap.run(cookie, regenerate)
    again = overlap.begin(driven.finish().cookie)
    assert again.do(lambda session: session.owner) == "bob"
    again.finish()
