"""Gone means gone: sessions that ended, expired or were evicted under a request in flight."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_redis_lua_sessions.errors import (
    InvalidSession_ChangesDropped,
    InvalidSession_NotInBackend,
)
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import stored_sessions
from tests.support.browser import make_browser
from tests.support.overlap import Overlap, Start, id_in, loaded, put, session_with
from tests.support.stored import grow_older
from tests.support.waiting import wait_until

KEY = "session:"


def invalidate(session: Any) -> None:
    session.invalidate()


def key_of(cookie: str | None) -> str:
    """Return the Redis key of the session that a cookie names."""
    return KEY + id_in(cookie)


def everything_in(client: Any) -> dict[bytes, dict[bytes, bytes]]:
    return {key: client.hgetall(key) for key in client.scan_iter()}


# -- how a session can end under a request -------------------------------------------------


def log_out(overlap: Overlap, client: Any, cookie: str) -> None:
    overlap.run(cookie, invalidate)


def regenerate(overlap: Overlap, client: Any, cookie: str) -> None:
    overlap.run(cookie, lambda session: session.regenerate_id())


def empty(overlap: Overlap, client: Any, cookie: str) -> None:
    overlap.run(cookie, lambda session: session.clear())


def expire(overlap: Overlap, client: Any, cookie: str) -> None:
    client.pexpire(key_of(cookie), 1)
    wait_until(lambda: not client.exists(key_of(cookie)))


def evict(overlap: Overlap, client: Any, cookie: str) -> None:
    client.delete(key_of(cookie))


ENDINGS = [log_out, regenerate, empty, expire, evict]

#: What a view may do with a session that has ended meanwhile.
WRITES: dict[str, Callable[[Any], Any]] = {
    "assign": put("new", 1),
    "delete": lambda session: session.__delitem__("n"),
    "nested change": lambda session: session["list"].append(1),
    "clear": lambda session: session.clear(),
    "flash": lambda session: session.flash("new"),
    "pop_flash": lambda session: session.pop_flash(),
    "csrf": lambda session: session.new_csrf_token(),
    "timeout": lambda session: session.adjust_session_timeout(99),
    "expires": lambda session: session.adjust_session_expires(3_000_000_000),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_a_save_changes_nothing_and_is_reported_when_its_session_is_gone(
    start: Start, redis_client: Any, end: Any, write: Any, mode: str
) -> None:
    overlap = start(invalidate_empty_session=True, on_conflict=mode)
    cookie = session_with(overlap, put("n", 1), put("list", []), lambda s: s.flash("old"))
    slow = loaded(overlap, cookie)
    slow.do(write)
    end(overlap, redis_client, cookie)
    before = everything_in(redis_client)
    answer = slow.finish()
    assert everything_in(redis_client) == before
    assert answer.cookies == []
    if answer.status == 409:
        # What it had read is no longer so: the request has to run again.
        assert (mode, end) == ("retry", empty)
    else:
        assert answer.status == 200
        assert [type(problem) for problem in slow.problems] == [InvalidSession_ChangesDropped]


@pytest.mark.parametrize("end", ENDINGS)
def test_nothing_is_reported_when_a_request_only_read_a_session_that_is_gone(
    start: Start, redis_client: Any, end: Any
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    end(overlap, redis_client, cookie)
    assert slow.do(dict) == {"n": 1}
    assert slow.finish().cookies == []
    assert slow.problems == []


@pytest.mark.parametrize("end", ENDINGS)
def test_an_old_cookie_finds_nothing_when_its_session_is_gone(
    start: Start, redis_client: Any, end: Any
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1))
    end(overlap, redis_client, cookie)
    driven = overlap.begin(cookie)
    assert driven.do(dict) == {}
    assert driven.do(lambda session: session.new)
    assert driven.finish().cookies == []
    assert isinstance(driven.problems[0], InvalidSession_NotInBackend)


@pytest.mark.parametrize("please", ["please_recookie", "adjust_cookie_max_age"])
@pytest.mark.parametrize("end", ENDINGS)
def test_no_cookie_is_sent_again_when_its_session_is_gone(
    start: Start, redis_client: Any, end: Any, please: str
) -> None:
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    args = [] if please == "please_recookie" else [1000]
    slow.do(lambda session: getattr(session, please)(*args))
    end(overlap, redis_client, cookie)
    before = redis_client.keys()
    assert slow.finish().cookies == []
    assert redis_client.keys() == before


@pytest.mark.parametrize("use_ttl", [True, False])
def test_a_save_does_not_revive_a_session_that_has_expired_in_the_meantime(
    start: Start, redis_client: Any, use_ttl: bool
) -> None:
    overlap = start(timeout=0.15, set_redis_ttl=use_ttl)
    cookie = session_with(overlap, put("n", 1))
    slow = loaded(overlap, cookie)
    slow.do(put("n", 2))
    # Asked without a touch: a load would keep the session alive.
    wait_until(lambda: not alive(redis_client, key_of(cookie)))
    assert slow.finish().cookies == []
    assert isinstance(slow.problems[-1], InvalidSession_ChangesDropped)
    assert stored_sessions(redis_client) == {}


def alive(client: Any, key: str) -> bool:
    expires = client.hget(key, "expires")
    seconds, microseconds = client.time()
    if expires is not None:
        return int(expires) > seconds * 1000 + microseconds // 1000
    return bool(client.exists(key))


@pytest.mark.parametrize("end", [expire, evict])
def test_a_request_that_logs_in_is_logged_in_when_its_session_is_gone(
    start: Start, redis_client: Any, end: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("cart", 1))
    slow = loaded(overlap, cookie)
    end(overlap, redis_client, cookie)
    slow.do(put("user", "ada"))
    slow.do(lambda session: session.regenerate_id())
    assert overlap.read(slow.finish().cookie) == {"user": "ada"}


# -- markers and grace ---------------------------------------------------------------------


def test_an_ended_session_leaves_only_a_marker_with_a_ttl_when_the_user_logs_out(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("secret", 1))
    assert overlap.run(cookie, invalidate).deletes
    assert set(redis_client.hgetall(key_of(cookie))) == {b"moved"}
    assert 0 < redis_client.pttl(key_of(cookie)) <= 60_000


def test_a_request_in_flight_touches_neither_redis_nor_the_cookie_when_its_session_ended(
    start: Start, redis_client: Any
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("n", 1))
    overlap.run(cookie, invalidate)
    before = redis_client.hgetall(key_of(cookie))
    ttl = redis_client.pttl(key_of(cookie))
    driven = overlap.begin(cookie)
    driven.do(put("a", 1))
    driven.do(lambda session: session.flash("b"))
    assert driven.do(dict) == {"a": 1}  # the view works with it as with any
    assert driven.do(lambda session: session.ensure_id()) is None
    assert driven.finish().cookies == []
    assert isinstance(driven.problems[-1], InvalidSession_ChangesDropped)
    assert redis_client.hgetall(key_of(cookie)) == before
    assert redis_client.keys() == [key_of(cookie).encode()]
    assert redis_client.pttl(key_of(cookie)) <= ttl


@pytest.mark.parametrize("grace", [5, 0.05])
def test_an_old_marker_counts_as_an_unknown_id_when_grace_is_over(
    start: Start, redis_client: Any, grace: float
) -> None:
    overlap = start(grace=grace)
    cookie = session_with(overlap, put("n", 1))
    overlap.run(cookie, invalidate)
    age_marker(redis_client, key_of(cookie), milliseconds=int(grace * 1000) + 100)
    answer = overlap.run(cookie, put("fresh", 1))
    assert overlap.read(answer.cookie) == {"fresh": 1}
    assert key_of(answer.cookie) != key_of(cookie)


@pytest.mark.parametrize("marker", ["9999999999999", "99999999999999999999", "1", "nan", "x"])
def test_a_marker_that_is_not_from_these_seconds_is_an_unknown_id(
    start: Start, redis_client: Any, marker: str
) -> None:
    """Who writes a marker of the future into Redis must not keep a user out for good."""
    overlap = start()
    cookie = session_with(overlap, put("n", 1))
    redis_client.delete(key_of(cookie))
    redis_client.hset(key_of(cookie), "moved", "nonce." + "digest of 16 byt" + marker)
    answer = overlap.run(cookie, put("n", 2))
    assert overlap.read(answer.cookie) == {"n": 2}


def test_a_marker_counts_as_long_as_grace_says_when_it_is_longer_than_the_default(
    start: Start, redis_client: Any
) -> None:
    overlap = start(grace=30)
    cookie = session_with(overlap, put("n", 1))
    overlap.run(cookie, invalidate)
    age_marker(redis_client, key_of(cookie), milliseconds=20_000)
    assert overlap.run(cookie, put("fresh", 1)).cookies == []


def age_marker(client: Any, key: str, milliseconds: int) -> None:
    moved = client.hget(key, "moved")
    client.hset(key, "moved", moved[:22] + b"%d" % (int(moved[22:]) - milliseconds))


PAGE = {"Sec-Fetch-Mode": "navigate"}
FORM = {"headers": PAGE, "extra_environ": {"REQUEST_METHOD": "POST"}}


@pytest.mark.parametrize(
    ("request_", "age_ms", "anew"),
    [
        pytest.param({"headers": PAGE}, 1_200, True, id="a page"),
        pytest.param({"headers": PAGE}, 500, False, id="a page, at once"),
        pytest.param(FORM, 1_200, False, id="a form"),
        pytest.param({"headers": {"Sec-Fetch-Mode": "cors"}}, 1_200, False, id="what a page asks"),
        pytest.param({}, 1_200, False, id="whatever it is"),
    ],
)
def test_whoever_was_logged_out_elsewhere_can_log_in_again_at_once(
    redis_url: str, redis_client: Any, request_: dict[str, Any], age_ms: int, anew: bool
) -> None:
    browser = make_browser(redis_url, grace=30)
    browser.use(put("n", 1))
    before = browser.token
    browser.copy().use(invalidate)
    age_marker(redis_client, browser.key, age_ms)
    token = browser.use(lambda session: session.get_csrf_token(), **request_)
    assert (browser.token != before) is anew
    if anew:
        assert browser.use(lambda session: session.get_csrf_token()) == token


def test_a_page_does_not_replace_the_cookie_of_a_login_that_it_was_sent_before(
    redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url, grace=30)
    browser.use(put("n", 1))
    before = browser.token
    browser.copy().use(lambda session: session.regenerate_id())
    grow_older(redis_client, browser.key, 1_200)
    browser.use(lambda session: session.get_csrf_token(), headers=PAGE)
    assert browser.token == before


def test_a_new_session_is_made_when_a_request_in_flight_invalidates_and_then_writes(
    start: Start,
) -> None:
    overlap = start()
    cookie = session_with(overlap, put("n", 1))
    overlap.run(cookie, invalidate)
    answer = overlap.run(cookie, lambda session: session.get("n"), invalidate, put("user", "ada"))
    assert overlap.read(answer.cookie) == {"user": "ada"}


# -- logging out ---------------------------------------------------------------------------


def test_the_log_names_no_id_and_no_value_when_changes_are_dropped(
    start: Start, redis_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    overlap = start()
    cookie = session_with(overlap, put("n", "value-of-n"))
    slow = loaded(overlap, cookie)
    slow.do(put("n", "value-that-is-lost"))
    overlap.run(cookie, invalidate)
    slow.finish()
    assert "changes dropped" in caplog.text
    assert "value-" not in caplog.text
    assert key_of(cookie).removeprefix(KEY) not in caplog.text


def test_the_session_ends_once_when_two_requests_log_out(start: Start, redis_client: Any) -> None:
    overlap = start()
    cookie = session_with(overlap, put("n", 1))
    first, second = loaded(overlap, cookie), loaded(overlap, cookie)
    first.do(invalidate)
    second.do(invalidate)
    first.finish()
    marker = redis_client.hgetall(key_of(cookie))
    second.finish()
    assert redis_client.hgetall(key_of(cookie)) == marker
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_a_logout_ends_the_session_when_a_write_slips_in_before_it(
    start: Start, redis_client: Any, mode: str
) -> None:
    overlap = start(on_conflict=mode)
    cookie = session_with(overlap, put("n", 1))
    leaving = loaded(overlap, cookie)
    assert leaving.do(dict) == {"n": 1}
    overlap.run(cookie, put("n", 2))
    leaving.do(invalidate)
    answer = leaving.finish()
    assert (answer.status, answer.deletes) == (200, True)
    assert stored_sessions(redis_client) == {}


def test_the_session_ends_when_the_reply_to_a_logout_was_lost(
    start: Start, proxy: CountingProxy, redis_client: Any
) -> None:
    overlap = start(redis_url=proxy.url)
    cookie = session_with(overlap, put("n", 1))
    driven = loaded(overlap, cookie)
    driven.do(invalidate)
    proxy.lose_replies(1)
    assert driven.finish().deletes
    assert stored_sessions(redis_client) == {}


def test_one_session_is_made_when_the_reply_to_its_creation_was_lost(
    start: Start, proxy: CountingProxy, redis_client: Any
) -> None:
    overlap = start(redis_url=proxy.url)
    session_with(overlap, put("n", 1))  # connects
    driven = overlap.begin()
    driven.do(put("n", 2))
    proxy.lose_replies(1)
    answer = driven.finish()
    assert overlap.read(answer.cookie) == {"n": 2}
    assert len(stored_sessions(redis_client)) == 2


def test_the_session_ends_once_when_the_reply_to_an_emptying_save_was_lost(
    start: Start, proxy: CountingProxy, redis_client: Any
) -> None:
    overlap = start(redis_url=proxy.url, invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1))
    driven = loaded(overlap, cookie)
    driven.do(lambda session: session.clear())
    proxy.lose_replies(1)
    assert driven.finish().cookies == []
    assert driven.problems == []
    assert stored_sessions(redis_client) == {}


def test_what_follows_an_emptying_request_goes_into_a_new_session(
    start: Start, redis_client: Any
) -> None:
    """A user empties the cart, and puts something in at once."""
    overlap = start(invalidate_empty_session=True)
    cookie = session_with(overlap, put("n", 1))
    assert overlap.run(cookie, lambda session: session.clear()).cookies == []
    answer = overlap.run(cookie, put("n", 2))
    assert overlap.read(answer.cookie) == {"n": 2}
    assert len(stored_sessions(redis_client)) == 1


# -- a marker that is lost -----------------------------------------------------------------


def lose_marker(client: Any, key: str) -> None:
    client.delete(key)


def let_clock_jump(client: Any, key: str) -> None:
    """As if Redis' clock had gone on by a minute: ending, or token, is so much older."""
    moved = client.hget(key, "moved")
    if moved is None:
        grow_older(client, key, 60_000)
    else:
        client.hset(key, "moved", moved[:22] + b"%d" % (int(moved[22:]) - 60_000))


def log_in(session: Any) -> None:
    session.owner = "ann"


def log_out_and_in(session: Any) -> None:
    session.invalidate()
    session.owner = "ann"


@pytest.mark.parametrize(
    ("login", "lose"),
    [(log_out_and_in, lose_marker), (log_out_and_in, let_clock_jump), (log_in, let_clock_jump)],
)
def test_late_write_that_is_not_known_as_late_has_a_session_of_its_own_and_leaves_the_login_alone(
    start: Start, redis_client: Any, login: Callable[[Any], None], lose: Callable[[Any, str], None]
) -> None:
    # What docs/concurrency.rst says of it: the cookie may replace that of the login.
    overlap = start()
    cookie = session_with(overlap, put("cart", ["tea"]))
    late, in_time = overlap.begin(cookie), overlap.begin(cookie)
    new = overlap.run(cookie, login).cookie
    in_time.do(put("late", True))
    assert in_time.finish().cookies == []
    lose(redis_client, key_of(cookie))
    before = stored_sessions(redis_client)
    late.do(put("late", True))
    answer = late.finish()
    assert overlap.read(answer.cookie) == {"late": True}
    after = stored_sessions(redis_client)
    assert {name: after[name] for name in before} == before
    assert id_in(new) in before
