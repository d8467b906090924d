"""``first_timeout``: clients that never return a cookie cannot fill Redis."""

from __future__ import annotations

import time
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import redis

from tests.support.browser import let_time_pass, make_browser

#: Cookieless first writes.
WRITES = 100_000

#: So many at once, in much less than a minute.
PART = 1000

#: The flood lasts an hour; a session that is returned to lives as long.
TIMEOUT = 3600
FIRST_TIMEOUT = 60


def flood(url: str, client: redis.Redis, **options: Any) -> dict[str, int]:
    """Let a crawler come so often without cookies, spread evenly over an hour.

    The hour is not waited for: what would have expired at its end is removed as Redis does it,
    by the TTL that each session was given.
    """
    client.flushall()
    empty = used_memory(client)
    browser = make_browser(url, timeout=TIMEOUT, **options)

    def view(request: Any) -> None:
        request.session.get_csrf_token()  # what every page with a form does

    life = 1000 * int(options.get("first_timeout", TIMEOUT))
    statuses = []
    for part in range(0, WRITES, PART):
        started = time.monotonic()
        for _ in range(PART):
            environ = {"tests.view": view}
            setup_testing_defaults(environ)
            list(browser.wsgi(environ, lambda s, headers, exc_info=None: statuses.append(s)))
        keys: Any = client.keys("session:*")
        assert len(keys) == PART
        with client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.pttl(key)
            lives = pipeline.execute()
            took = 1000 * (time.monotonic() - started)
            assert life - took <= min(lives) <= max(lives) <= life
            # The first one came almost an hour ago, the last one now. Those that are left stay,
            # however long the test takes.
            for number, key in enumerate(keys, start=part):
                if life <= TIMEOUT * 1000 * number // WRITES:
                    pipeline.delete(key)
                else:
                    pipeline.pexpire(key, 2 * TIMEOUT * 1000)
                    pipeline.move(key, 1)
            pipeline.execute()
    assert statuses == ["200 OK"] * WRITES
    left: Any = client.info("keyspace")["db1"]
    return {"sessions": left["keys"], "bytes": used_memory(client) - empty}


def used_memory(client: redis.Redis) -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"])


@pytest.mark.torture
def test_flood_without_cookies_leaves_only_the_last_minute(
    redis_url: str, redis_client: redis.Redis
) -> None:
    without = flood(redis_url, redis_client)
    limited = flood(redis_url, redis_client, first_timeout=FIRST_TIMEOUT)
    print(f"\n{WRITES} first writes without a cookie, over an hour")
    for name, found in (("without", without), ("first_timeout = 60", limited)):
        size = found["bytes"] / 1e6
        print(f"{name:>20}: {found['sessions']:>7} sessions alive at its end, {size:.1f} MB")
    assert without["sessions"] == WRITES
    assert abs(limited["sessions"] - WRITES * FIRST_TIMEOUT / TIMEOUT) <= 1
    assert limited["bytes"] < without["bytes"] / 10


MODES = pytest.mark.parametrize(
    "options",
    [
        {},
        {"timeout_trigger": 1000},
        {"timeout_trigger": 10},
        {"absolute_timeout": 86400},
        {"absolute_timeout": 86400, "timeout_trigger": 1000},
        {"timeout": 0},
        {"timeout": 0, "absolute_timeout": 86400},
        {"set_redis_ttl": False},
        {"set_redis_ttl": False, "timeout_trigger": 1000},
        {"set_redis_ttl": False, "absolute_timeout": 86400},
        {"set_redis_ttl": False, "timeout": 0},
        {"on_conflict": "retry"},
    ],
    ids=str,
)


@MODES
@pytest.mark.parametrize("how", ["write", "ensure_id", "ensure_id and write", "login"])
def test_session_ends_when_its_cookie_does_not_come_back(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any], how: str
) -> None:
    browser = make_browser(redis_url, first_timeout=60, **options)
    uses = {
        "write": lambda session: session.update(a=1),
        "ensure_id": lambda session: session.ensure_id(),
        "ensure_id and write": lambda session: (session.ensure_id(), session.update(a=1)),
        "login": lambda session: setattr(session, "owner", "ada"),
    }
    browser.use(uses[how])
    let_time_pass(redis_client, browser.key, 61)
    assert browser.use(lambda session: session.new)


@MODES
@pytest.mark.parametrize("how", ["read", "write", "login"])
def test_session_lives_as_ever_when_its_cookie_came_back(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any], how: str
) -> None:
    browser = make_browser(redis_url, first_timeout=60, **options)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 59)
    uses = {
        "read": lambda session: session["a"],
        "write": lambda session: session.update(b=2),
        "login": lambda session: setattr(session, "owner", "ada"),
    }
    browser.use(uses[how])
    assert not redis_client.hexists(browser.key, "first")
    let_time_pass(redis_client, browser.key, 1100)
    assert browser.use(lambda session: session.get("a")) == 1


def test_session_that_is_ensured_and_regenerated_in_its_first_request_lives_shortly(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # Nobody has sent its cookie back: a new id is no proof that somebody will.
    browser = make_browser(redis_url, first_timeout=60)

    def use(session: Any) -> None:
        session.ensure_id()
        session["a"] = 1
        session.regenerate_id()

    browser.use(use)
    assert redis_client.ttl(browser.key) <= 60  # type: ignore[operator]


def test_absolute_timeout_shorter_than_first_timeout_ends_the_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, first_timeout=60, absolute_timeout=30)
    browser.use(lambda session: session.update(a=1))
    assert redis_client.ttl(browser.key) <= 30  # type: ignore[operator]


def test_own_timeout_of_a_new_session_does_not_lengthen_its_first_life(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, first_timeout=60)

    def use(session: Any) -> None:
        session["a"] = 1
        session.adjust_session_timeout(86400)

    browser.use(use)
    assert redis_client.ttl(browser.key) <= 60  # type: ignore[operator]
    browser.use(dict)
    assert redis_client.ttl(browser.key) > 80000  # type: ignore[operator]


def test_cookie_of_a_session_that_is_gone_buys_no_longer_life(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """A crawler that replays one old cookie, at a view that logs out and flashes a message."""

    def leave(session: Any) -> None:
        session.invalidate()
        session.flash("goodbye")

    browser = make_browser(redis_url, timeout=TIMEOUT, first_timeout=FIRST_TIMEOUT)
    browser.use(lambda session: session.update(a=1))
    old = browser.copy()
    for _ in range(3):
        user = old.copy()
        user.use(leave)
        assert 0 < redis_client.pttl(user.key) <= FIRST_TIMEOUT * 1000
        user.use(dict)
        assert redis_client.pttl(user.key) > FIRST_TIMEOUT * 1000
