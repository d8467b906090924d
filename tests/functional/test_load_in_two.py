"""A load is an HGETALL and a script in one packet; what others do between the two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.between import Between
from tests.support.browser import Browser, make_browser


@pytest.fixture
def between(redis_server: RedisServer) -> Iterator[Between]:
    with Between(redis_server.port) as proxy:
        yield proxy


@pytest.fixture(params=["2", "3"])
def browser(request: Any, between: Between, redis_client: redis.Redis) -> Browser:
    """A user with a session ``{"a": 1, "b": [1]}``, of an application that others step into.

    With RESP3, fields travel otherwise than a script's reply.
    """
    made = make_browser(f"{between.url}?protocol={request.param}")
    made.use(lambda session: session.update(a=1, b=[1]))
    return made


def meanwhile(browser: Browser, between: Between, act: Callable[[Any], Any]) -> None:
    """Let another request of the same browser run in between."""
    twin = browser.copy()
    between.act = lambda: twin.use(act)


def look(session: Any) -> Any:
    return dict(session), session.new, session.ended


def test_nothing_happens(browser: Browser) -> None:
    assert browser.use(look) == ({"a": 1, "b": [1]}, False, False)


def test_session_that_ends_in_between_is_gone(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    meanwhile(browser, between, lambda session: session.invalidate())
    before = browser.app.cookies["session"]
    assert browser.use(look) == ({}, True, True)
    assert between.act is None
    assert browser.app.cookies["session"] == before  # it was in flight
    assert redis_client.hkeys(browser.key) == [b"moved"]
    assert redis_client.pttl(browser.key) <= 60_000  # the marker lives no longer for it


def test_write_to_a_session_that_ends_in_between_is_dropped(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    meanwhile(browser, between, lambda session: session.invalidate())
    browser.use(lambda session: session.update(c=1))
    assert not redis_client.hexists(browser.key, "@")


def test_session_that_is_evicted_in_between_is_gone_and_not_made_anew(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    between.act = redis_client.flushall
    assert browser.use(look) == ({}, True, False)
    assert redis_client.dbsize() == 0


def test_token_that_is_replaced_in_between_opens_nothing(
    browser: Browser, between: Between
) -> None:
    twin = browser.copy()
    between.act = lambda: twin.use(lambda session: session.regenerate_id())
    assert browser.use(look) == ({}, True, True)
    assert twin.use(look) == ({"a": 1, "b": [1]}, False, False)


def test_what_is_saved_in_between_is_kept(browser: Browser, between: Between) -> None:
    meanwhile(browser, between, lambda session: session.update(a=2, c=3))
    # The load was before.
    assert browser.use(lambda session: (look(session), session.update(d=4))[0][0]) == {
        "a": 1,
        "b": [1],
    }
    assert browser.use(dict) == {"a": 2, "b": [1], "c": 3, "d": 4}


def test_what_is_saved_in_between_conflicts_in_retry_mode(between: Between) -> None:
    browser = make_browser(between.url, on_conflict="retry")
    browser.use(lambda session: session.update(a=1))
    meanwhile(browser, between, lambda session: session.update(a=5))
    browser.use(lambda session: session.update(a=session["a"] + 1), status=409)
    assert browser.use(dict) == {"a": 5}


def test_new_token_takes_along_what_is_saved_in_between(browser: Browser, between: Between) -> None:
    meanwhile(browser, between, lambda session: session.update(c=3))
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(dict) == {"a": 1, "b": [1], "c": 3}


def test_session_that_comes_into_being_in_between_is_loaded(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    stored: Any = redis_client.dump(browser.key)
    redis_client.delete(browser.key)
    between.act = lambda: redis_client.restore(browser.key, 60_000, stored)
    assert browser.use(look) == ({"a": 1, "b": [1]}, False, False)


def test_token_that_is_put_in_place_in_between_opens_what_is_stored_then(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    before: Any = redis_client.dump(browser.key)
    browser.use(lambda session: (session.regenerate_id(), session.update(a=2)))
    after: Any = redis_client.dump(browser.key)
    redis_client.restore(browser.key, 60_000, before, replace=True)
    between.act = lambda: redis_client.restore(browser.key, 60_000, after, replace=True)
    assert browser.use(look) == ({"a": 2, "b": [1]}, False, False)


def test_something_else_that_is_put_there_in_between_is_refused(
    browser: Browser,
    between: Between,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    between.act = lambda: redis_client.set(browser.key, "x")
    with caplog.at_level(logging.INFO):
        assert browser.use(look) == ({}, True, False)
    assert "not a session" in caplog.text


def test_session_that_takes_the_place_of_something_else_in_between_is_loaded(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    stored: Any = redis_client.dump(browser.key)
    redis_client.set(browser.key, "x")
    between.act = lambda: redis_client.restore(browser.key, 60_000, stored, replace=True)
    assert browser.use(look) == ({"a": 1, "b": [1]}, False, False)


def test_value_that_is_spoilt_in_between_is_found_by_the_next_load(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    between.act = lambda: redis_client.hset(browser.key, ".a", "spoilt")
    assert browser.use(dict) == {"a": 1, "b": [1]}
    assert browser.use(dict) == {}


def test_scripts_that_are_lost_in_between_are_sent_again(
    browser: Browser, between: Between, redis_client: redis.Redis
) -> None:
    between.act = redis_client.script_flush
    assert browser.use(look) == ({"a": 1, "b": [1]}, False, False)
