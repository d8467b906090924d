"""What ``watch`` records of a request, beside what a proxy in front of Redis counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
import redis
from pyramid.testing import DummyRequest

from pyramid_redis_lua_sessions import RedisSessionFactory, StoreUnavailable, revoke, sessions_of
from pyramid_redis_lua_sessions.connect.pools import PoolUse
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from pyramid_redis_lua_sessions.watch import Call, watch
from tests.support.browser import SECRET, Browser, make_browser, take_along
from tests.support.waiting import wait_until


def watched(browser: Browser, view: Callable[[Any], Any]) -> list[Call]:
    """Make one request, and return what was recorded when it was over."""
    return browser.visit(lambda request: (watch(request), view(request))[0])


def steps(calls: list[Call]) -> list[tuple[str, str, int]]:
    return [(call.name, call.status, call.round_trips) for call in calls]


@pytest.fixture
def browser(proxy: CountingProxy) -> Browser:
    made = make_browser(proxy.url)
    made.use(lambda session: session.update(a=1, list=[1], text="ä" * 40))
    return made


def write(request: Any) -> None:
    request.session["a"] = 2


def log_in(request: Any) -> None:
    request.session.regenerate_id()
    request.session.owner = "alice"


REQUESTS: dict[str, tuple[Callable[[Any], Any], list[tuple[str, str, int]]]] = {
    "untouched": (lambda request: None, []),
    "read": (lambda request: request.session["a"], [("load_and_touch", "LOADED", 1)]),
    "written": (write, [("load_and_touch", "LOADED", 1), ("save_fields", "SAVED", 1)]),
    "log in": (
        log_in,
        [
            ("load_and_touch", "LOADED", 1),
            ("index_session + renew_token", "SAVED + SAVED", 1),
        ],
    ),
    "log out": (lambda request: request.session.invalidate(), [("end_session", "ENDED", 1)]),
    "log out and flash": (
        lambda request: (request.session.invalidate(), request.session.flash("bye")),
        [("end_session + create_unique", "ENDED + CREATED", 1)],
    ),
    "expiry": (
        lambda request: request.session.adjust_session_timeout(5),
        [("load_and_touch", "LOADED", 1), ("adjust_timeout", "ADJUSTED", 1)],
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_calls_are_those_that_the_proxy_counted(
    name: str, browser: Browser, proxy: CountingProxy
) -> None:
    view, expected = REQUESTS[name]
    proxy.reset()
    calls = watched(browser, view)
    assert steps(calls) == expected
    assert_equal(calls, proxy)
    assert all(call.microseconds > 0 for call in calls)


def assert_equal(calls: list[Call], proxy: CountingProxy) -> None:
    assert sum(call.round_trips for call in calls) == proxy.round_trips
    assert sum(call.bytes_sent for call in calls) == proxy.bytes_sent
    assert sum(call.bytes_received for call in calls) == proxy.bytes_received


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", ["false", "true"])
def test_bytes_are_exact_whatever_the_client(
    protocol: int, decode: str, proxy: CountingProxy
) -> None:
    url = f"{proxy.url}?protocol={protocol}&decode_responses={decode}"
    browser = make_browser(url)
    browser.use(lambda session: session.update(a=1, b=b"\0\xff" * 300))
    proxy.reset()
    assert_equal(watched(browser, write), proxy)
    proxy.reset()
    assert_equal(watched(browser.another(), lambda request: request.session.update(c=1)), proxy)


def test_script_that_redis_has_lost_takes_a_second_round_trip(
    browser: Browser, proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    redis_client.script_flush()
    proxy.reset()
    calls = watched(browser, log_in)
    assert [call.round_trips for call in calls] == [2, 3]  # the pipeline, then each by its source
    assert proxy.command_names.count("EVAL") == 3
    assert_equal(calls, proxy)


def test_answer_that_is_an_error_is_counted(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    with CountingProxy(server.port) as proxy, server.client() as client:
        browser = make_browser(proxy.url)
        browser.use(lambda session: session.update(a=1))
        client.delete(browser.key)
        client.set(browser.key, "something else")
        proxy.reset()
        calls = watched(browser, lambda request: request.session.get("a"))
        assert steps(calls) == [("load_and_touch", "GONE", 1)]
        assert_equal(calls, proxy)

        client.config_set("maxmemory", 1)
        proxy.reset()
        calls = []

        def fill(request: Any) -> None:
            calls.append(watch(request))
            request.session["a"] = "b" * 100

        with pytest.raises(StoreUnavailable, match="OOM"):
            browser.another().visit(fill)
        assert steps(calls[0]) == [("create_unique", "StoreUnavailable", 1)]
        assert_equal(calls[0], proxy)


def test_call_without_an_answer_is_no_round_trip(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    browser = make_browser(server.url, redis_retries=0)
    browser.use(lambda session: session.update(a=1))
    server.kill()
    calls = []

    def view(request: Any) -> None:
        calls.append(watch(request))
        with pytest.raises(StoreUnavailable):
            request.session.get("a")

    browser.visit(view)
    ((call,),) = calls
    assert (call.status, call.round_trips, call.bytes_received) == ("StoreUnavailable", 0, 0)


def test_calls_of_an_owners_sessions_are_recorded(browser: Browser, proxy: CountingProxy) -> None:
    browser.visit(log_in)
    browser.another().visit(log_in)
    proxy.reset()
    calls = watched(browser, lambda request: sessions_of(request, "alice"))
    assert steps(calls) == [
        ("load_and_touch", "LOADED", 1),
        ("zscan", "", 1),
        ("describe_session + describe_session", "LOADED + LOADED", 1),
    ]
    assert_equal(calls, proxy)
    proxy.reset()
    calls = watched(browser, lambda request: revoke(request, "alice"))
    assert steps(calls) == [
        ("load_and_touch", "LOADED", 1),
        ("zscan", "", 1),
        ("describe_session", "LOADED", 1),
        ("end_session", "ENDED", 1),
        ("zrem", "", 1),
    ]
    assert_equal(calls, proxy)


def test_wait_for_a_connection_is_recorded_with_how_they_stand(browser: Browser) -> None:
    narrow = take_along(browser, browser.factory.settings.redis_url or "", redis_max_connections=1)
    pool = narrow.factory.store_for(None).client.connection_pool

    def view(request: Any) -> list[Call]:
        calls = watch(request)
        taken = pool.get_connection()
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(copy_context().run, request.session.get, "a")
            wait_until(lambda: bool(pool._waiting))
            pool.release(taken)
            reading.result()
        request.session["b"] = 1
        return calls

    waited, free = narrow.visit(view)
    assert (waited.waits, free.waits) == (1, 0)
    assert 0 < waited.microseconds_waited <= waited.microseconds
    assert free.microseconds_waited == 0
    assert waited.connections == PoolUse(used=0, idle=1, limit=1)
    taken = pool.get_connection()
    assert pool.use() == PoolUse(used=1, idle=0, limit=1)
    pool.release(taken)


def test_server_that_has_become_a_replica_is_a_redirection(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    browser = make_browser(server.url)
    browser.use(lambda session: session.update(a=1))
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        calls: list[Call] = []

        def view(request: Any) -> None:
            calls.extend([watch(request)])
            request.session["a"] = 2

        with pytest.raises(StoreUnavailable):
            browser.visit(view)
    (load, *_) = calls[0]
    assert (load.status, load.redirections) == ("StoreUnavailable", 2)  # it is tried again


def test_who_comes_later_is_told_too(browser: Browser) -> None:
    """A store that is watched already is not watched anew: nobody would be forgotten."""
    first, second = [], []
    store = browser.factory.store_for(None).watched(first.append)
    assert store.watched(second.append) is store
    store.describe(["nobody"])
    assert first == second
    assert [call.name for call in first] == ["describe_session"]


def test_list_fills_while_the_request_runs(browser: Browser) -> None:
    seen = []

    def view(request: Any) -> Any:
        calls = watch(request)
        assert watch(request) is calls
        request.session["a"] = 3
        seen.append(len(calls))
        request.add_response_callback(lambda request, response: request.session.update(late=1))
        return calls

    calls = browser.visit(view)
    assert seen == [1]
    names = [call.name for call in calls]
    assert names == ["load_and_touch", "save_fields", "save_fields"]


def test_watch_that_comes_late_records_the_rest(browser: Browser) -> None:
    def view(request: Any) -> Any:
        request.session["a"] = 3
        return watch(request)

    assert steps(browser.visit(view)) == [("save_fields", "SAVED", 1)]


def test_request_that_nobody_watches_uses_the_store_of_the_factory(browser: Browser) -> None:
    factory = browser.factory
    assert browser.visit(factory.store_for) is factory.store_for(None)
    assert browser.visit(lambda r: (watch(r), factory.store_for(r))[1]) is not factory.store_for(
        None
    )


def test_own_commands_of_the_application_are_not_recorded(
    browser: Browser, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> Any:
        calls = watch(request)
        client = request.session.redis
        assert isinstance(client, redis.Redis)
        with client.pipeline() as pipeline:
            pipeline.set("x", 1).get("x")
            assert pipeline.execute() == [True, b"1"]
        assert client.execute_command("GET", "x") == b"1"
        return calls

    assert browser.visit(view) == []


def test_each_factory_is_told_by_its_prefix(redis_url: str, redis_client: redis.Redis) -> None:
    factories = [
        RedisSessionFactory(SECRET, url=redis_url, prefix=prefix) for prefix in ("one:", "two:")
    ]
    request = DummyRequest()
    calls = watch(request)
    for factory in factories:
        factory(request).ensure_id()
        factory.store_for(None).client.close()
    assert [(call.name, call.prefix) for call in calls] == [
        ("create_unique", "one:"),
        ("create_unique", "two:"),
    ]


def test_record_shows_neither_session_ids_nor_values(browser: Browser) -> None:
    calls = watched(browser, lambda request: request.session.update(secret="swordfish"))
    assert browser.session_id not in repr(calls)
    assert not re.search("secret|swordfish", repr(calls))
