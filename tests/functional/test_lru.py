"""``set_redis_ttl = false``: a Redis that evicts as an LRU cache, and switching to it and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import Browser, Reports, let_time_pass, make_browser
from tests.support.waiting import wait_until


def started(redis_url: str, **options: Any) -> Browser:
    browser = make_browser(redis_url, **{"set_redis_ttl": "false", "timeout": "100", **options})
    browser.use(lambda session: session.update(a=1))
    return browser


def read(browser: Browser) -> Any:
    return browser.use(lambda session: session.get("a"))


def left(client: redis.Redis, browser: Browser) -> float:
    """Return the remaining life in seconds that the session itself states."""
    seconds, micros = client.time()
    stated: float = int(client.hget(browser.key, "expires")) / 1000 - seconds - micros / 1e6
    return stated


def about(seconds: float) -> Any:
    return pytest.approx(seconds - 5, abs=5.01)


def test_session_has_no_ttl_and_states_its_end_itself(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url)
    assert redis_client.pttl(browser.key) == -1
    assert left(redis_client, browser) == about(100)
    for request in (read, lambda b: b.use(lambda session: session.update(b=1))):
        let_time_pass(redis_client, browser.key, 50)
        request(browser)
        assert redis_client.pttl(browser.key) == -1
        assert left(redis_client, browser) == about(100)


def test_session_ends_after_its_idle_timeout(redis_url: str, redis_client: redis.Redis) -> None:
    reports = Reports()
    browser = started(redis_url, func_invalid_logger=reports)
    key = browser.key
    let_time_pass(redis_client, key, 101)
    assert read(browser) is None
    assert reports.kinds == ["InvalidSession_PayloadTimeout"]
    assert not redis_client.exists(key)


def test_session_ends_by_the_real_clock(redis_url: str) -> None:
    browser = started(redis_url, timeout="0.2", timeout_trigger="0.001")
    wait_until(lambda: read(browser) is None)


def test_write_of_a_request_in_flight_does_not_bring_an_ended_session_back(
    redis_url: str, redis_client: redis.Redis
) -> None:
    reports = Reports()
    browser = started(redis_url, func_invalid_logger=reports)
    key = browser.key

    def slow(session: Any) -> None:
        session["a"] += 1
        let_time_pass(redis_client, key, 101)

    browser.use(slow)
    assert reports.kinds == ["InvalidSession_ChangesDropped"]
    assert read(browser) is None


def test_session_never_ends_when_its_timeout_is_never(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="0")
    assert not redis_client.hexists(browser.key, "expires")
    assert read(browser) == 1
    assert not redis_client.hexists(browser.key, "expires")


def test_all_lifetimes_work(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, absolute_timeout="1000", first_timeout="20")
    assert left(redis_client, browser) == about(20)
    assert read(browser) == 1
    assert left(redis_client, browser) == about(100)
    browser.use(lambda session: session.adjust_session_timeout(500))
    assert left(redis_client, browser) == about(500)
    browser.use(lambda session: session.adjust_session_timeout(0))
    assert left(redis_client, browser) == about(1000)
    browser.use(lambda session: session.adjust_session_expires(time.time() + 200))
    assert left(redis_client, browser) == about(200)
    browser.use(lambda session: session.regenerate_id())
    assert read(browser) == 1
    assert left(redis_client, browser) == about(200)
    assert redis_client.pttl(browser.key) == -1
    let_time_pass(redis_client, browser.key, 201)
    assert read(browser) is None


def test_trigger_spares_writes(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout_trigger="50")
    let_time_pass(redis_client, browser.key, 30)
    before = redis_client.hget(browser.key, "expires")
    assert read(browser) == 1
    assert redis_client.hget(browser.key, "expires") == before
    let_time_pass(redis_client, browser.key, 30)
    assert read(browser) == 1
    assert left(redis_client, browser) == about(100)


def test_expires_property_is_the_end(redis_url: str) -> None:
    browser = started(redis_url)
    assert browser.use(lambda session: session.expires) == pytest.approx(time.time() + 100, abs=10)


# -- switching over live sessions -------------------------------------------------------------


def reconfigured(browser: Browser, redis_url: str, **options: Any) -> Browser:
    again = make_browser(redis_url, **{"timeout": "100", **options})
    for cookie in browser.app.cookiejar:
        again.app.cookiejar.set_cookie(cookie)
    return again


REQUESTS: dict[str, Callable[[Browser], Any]] = {
    "a read": read,
    "a write": lambda browser: browser.use(lambda session: session.update(b=1)),
    "an adjustment": lambda browser: browser.use(lambda s: s.adjust_session_timeout(100)),
    "a new id": lambda browser: browser.use(lambda session: session.regenerate_id()),
}


@pytest.mark.parametrize("trigger", [None, "10"])
@pytest.mark.parametrize("name", REQUESTS)
def test_session_gets_its_ttl_when_it_is_switched_on_by(
    name: str, redis_url: str, redis_client: redis.Redis, trigger: str | None
) -> None:
    browser = reconfigured(started(redis_url), redis_url, timeout_trigger=trigger)
    REQUESTS[name](browser)
    assert 80_000 < redis_client.pttl(browser.key) <= 100_000
    assert not redis_client.hexists(browser.key, "expires")
    assert read(browser) == 1


@pytest.mark.parametrize("trigger", [None, "10"])
@pytest.mark.parametrize("name", REQUESTS)
def test_session_loses_its_ttl_when_it_is_switched_off_by(
    name: str, redis_url: str, redis_client: redis.Redis, trigger: str | None
) -> None:
    browser = started(redis_url, set_redis_ttl="true")
    options = {"set_redis_ttl": "false", "timeout_trigger": trigger}
    browser = reconfigured(browser, redis_url, **options)
    REQUESTS[name](browser)
    assert redis_client.pttl(browser.key) == -1
    assert left(redis_client, browser) == about(100)
    assert read(browser) == 1


def test_session_that_had_ended_stays_so_when_the_ttl_is_switched_on(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url)
    let_time_pass(redis_client, browser.key, 101)
    assert read(reconfigured(browser, redis_url)) is None


def test_session_of_no_ttl_gets_one_together_with_a_timeout(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = reconfigured(started(redis_url, timeout="0"), redis_url)
    assert read(browser) == 1
    assert 80_000 < redis_client.pttl(browser.key) <= 100_000


def test_both_modes_work_side_by_side_on_one_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """As while a release is rolled out over several servers."""
    one = started(redis_url)
    for number in range(6):
        other = reconfigured(one, redis_url, set_redis_ttl="true" if number % 2 else "false")
        let_time_pass(redis_client, one.key, 60)
        assert read(other) == 1
        other.use(lambda session, n=number: session.update({f"n{n}": n}))
    assert len(one.use(dict)) == 7


# -- a Redis that really evicts ---------------------------------------------------------------


def test_sessions_are_evicted_and_users_start_anew(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server(config={"maxmemory-policy": "allkeys-lru"})
    reports = Reports()
    browser = started(server.url, func_invalid_logger=reports)
    with server.client() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 500_000)
        number = 0
        while client.exists(browser.key):
            client.set(f"filling {number}", "x" * 20_000)
            number += 1
            assert number < 10_000
    assert read(browser) is None
    assert reports.kinds == ["InvalidSession_NotInBackend"]
    browser.use(lambda session: session.update(a=2))
    assert read(browser) == 2


def test_read_goes_on_when_redis_is_full_and_may_not_evict(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server(config={"maxmemory-policy": "noeviction"})
    browser = started(server.url)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        assert read(browser) == 1


def test_read_in_this_mode_is_one_round_trip(proxy: CountingProxy) -> None:
    browser = started(proxy.url)
    proxy.reset()
    assert read(browser) == 1
    assert proxy.round_trips == 1
