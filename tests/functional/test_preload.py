"""Scripts: loaded when the application starts, and healed whenever Redis has lost them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import stored_sessions
from tests.support.browser import Browser, make_browser
from tests.support.traffic import call_names

SHAS = [script.sha1 for script in SCRIPTS.values()]

NewServer = Callable[..., RedisServer]


def flush(client: redis.Redis) -> None:
    """Make Redis forget all scripts, as after a restart or a failover."""
    client.script_flush()
    assert not any(client.script_exists(*SHAS))


def test_scripts_are_in_redis_when_the_application_has_started(
    redis_url: str, redis_client: redis.Redis
) -> None:
    flush(redis_client)
    make_browser(redis_url)
    assert all(redis_client.script_exists(*SHAS))


def test_nothing_is_sent_at_start_when_preloading_is_off(proxy: CountingProxy) -> None:
    proxy.reset()
    browser = make_browser(proxy.url, preload_scripts="false")
    assert proxy.commands == []
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}


def test_redis_that_is_down_at_start_is_a_warning(
    new_redis_server: NewServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis_server()
    server.kill()
    with caplog.at_level(logging.INFO, "pyramid_redis_lua_sessions"):
        browser = make_browser(server.url)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "could not be loaded at start" in caplog.text
    assert browser.use(repr)  # what needs no session works
    server.start()
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}


@pytest.mark.parametrize("code", ["wrong password", "not allowed"])
def test_redis_that_refuses_at_start_is_a_warning_without_the_password(
    new_redis_server: NewServer, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    server = new_redis_server(config={"requirepass": "the-right-password"})
    url = server.url.replace("the-right-password", "the-wrong-password")
    if code == "not allowed":
        with server.client() as client:
            client.acl_setuser(
                "limited", True, passwords="+the-wrong-password", commands=["+ping"], keys=["*"]
            )
        url = url.replace("://:", "://limited:")
    with caplog.at_level(logging.DEBUG, "pyramid_redis_lua_sessions"):
        make_browser(url)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "password" not in caplog.text


def test_application_that_starts_twice_loads_twice(redis_url: str) -> None:
    """As several worker processes do."""
    one, other = make_browser(redis_url), make_browser(redis_url)
    one.use(lambda session: session.update(a=1))
    for cookie in one.app.cookiejar:
        other.app.cookiejar.set_cookie(cookie)
    assert other.use(dict) == {"a": 1}


# -- lost scripts ------------------------------------------------------------------------------

STEPS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "read": (lambda s: s["a"], {"a": 1}),
    "write": (lambda s: s.update(b=2), {"a": 1, "b": 2}),
    "delete": (lambda s: s.pop("a"), {}),
    "timeout": (lambda s: s.adjust_session_timeout(50), {"a": 1}),
    "cookie": (lambda s: (s["a"], s.please_recookie()), {"a": 1}),
    "new id": (lambda s: s.regenerate_id(), {"a": 1}),
    "log in": (lambda s: (s.regenerate_id(), s.update(user="x")), {"a": 1, "user": "x"}),
    "log out": (lambda s: s.invalidate(), {}),
    "log out and in": (lambda s: (s.invalidate(), s.update(b=2)), {"b": 2}),
}


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
@pytest.mark.parametrize("moment", ["before", "during", "before and during"])
@pytest.mark.parametrize("name", STEPS)
def test_lost_scripts_are_no_matter_when_the_request_is_a(
    name: str, moment: str, on_conflict: str, redis_url: str, redis_client: redis.Redis
) -> None:
    step, expected = STEPS[name]
    browser = make_browser(redis_url, on_conflict=on_conflict)
    browser.use(lambda session: session.update(a=1))
    old = browser.copy()

    def view(session: Any) -> None:
        step(session)
        if "during" in moment:
            flush(redis_client)

    if "before" in moment:
        flush(redis_client)
    browser.use(view)
    assert browser.use(dict) == expected
    if "log" in name or name == "new id":
        assert old.use(dict) == {}


def test_first_write_heals(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    flush(redis_client)
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}
    assert redis_client.dbsize() == 1


def test_lost_script_costs_one_more_round_trip_once(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))
    flush(redis_client)
    for expected, round_trips in ((["EVALSHA", "SCRIPT", "EVAL"], 2), (["EVALSHA"], 1)):
        proxy.reset()
        assert browser.use(lambda session: session["a"]) == 1
        assert call_names(proxy) == expected
        assert proxy.round_trips == round_trips


@pytest.mark.parametrize("way", ["load", "pipeline"])
def test_script_that_was_lost_once_stays_however_many_others_run(
    way: str, redis_url: str, redis_client: redis.Redis
) -> None:
    """Since 7.4 a server evicts scripts that came by EVAL, beyond 500 of them."""
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))

    def step(session: Any) -> None:
        if way == "load":
            assert session["a"] == 1
        else:
            session.owner = "alice"

    flush(redis_client)
    browser.use(step)
    healed = {script.sha1 for script in SCRIPTS.values() if known(redis_client, script.sha1)}
    assert healed
    for number in range(501):
        redis_client.eval(f"return {number}", 0)
    assert all(known(redis_client, sha) for sha in healed)


def known(client: redis.Redis, sha: str) -> bool:
    return bool(client.script_exists(sha)[0])


def test_scripts_that_are_lost_within_the_login_pipeline_leave_one_session(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session.owner = "alice"
        flush(redis_client)
        proxy.reset()

    browser.use(view)
    assert proxy.command_names == ["EVALSHA", "EVALSHA", *2 * ["SCRIPT", "EVAL"]]
    assert browser.use(lambda session: (dict(session), session.owner)) == ({"a": 1}, "alice")
    assert list(stored_sessions(redis_client)) == [browser.session_id]


@pytest.mark.parametrize("lost", ["index_session", "renew_token"])
def test_only_one_script_of_the_login_pipeline_is_lost(
    redis_url: str, redis_client: redis.Redis, lost: str
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session.owner = "alice"
        flush(redis_client)
        for name, script in SCRIPTS.items():
            if name != lost:
                redis_client.script_load(script.source)

    browser.use(view)
    assert browser.use(dict) == {"a": 1}
    assert list(stored_sessions(redis_client)) == [browser.session_id]


def test_scripts_that_are_lost_again_and_again_lose_no_write(
    redis_server: RedisServer, redis_url: str
) -> None:
    """Somebody flushes the scripts all the time, so that it happens at every moment."""
    browser = make_browser(redis_url, on_conflict="retry")
    browser.use(lambda session: session.update(count=0))
    over = threading.Event()

    def flush_all_the_time() -> None:
        with redis_server.client() as client:
            while not over.is_set():
                client.script_flush()

    thread = threading.Thread(target=flush_all_the_time)
    thread.start()
    try:
        for number in range(60):
            browser.use(lambda session: session.update(count=session["count"] + 1))
            browser.use(lambda session: session.flash("m"))
            if number % 5 == 0:
                browser.use(lambda session: session.regenerate_id())
    finally:
        over.set()
        thread.join()
    assert browser.use(dict) == {"count": 60}
    assert len(browser.use(lambda session: session.pop_flash())) == 60


def test_restart_of_redis_is_healed(new_redis_server: NewServer) -> None:
    server = new_redis_server(config={"appendonly": "yes"})
    browser = make_browser(server.url)
    browser.use(lambda session: session.update(a=1))
    server.restart(keep_data=True)
    with server.client() as client:
        flush(client)  # Redis 6.2 keeps scripts in the append-only file, 7.0 does not
    assert browser.use(dict) == {"a": 1}
    browser.use(lambda session: (session.regenerate_id(), session.update(b=2)))
    assert browser.use(dict) == {"a": 1, "b": 2}


def windows(browser: Browser, count: int) -> list[Browser]:
    return [browser.copy() for _ in range(count)]


def test_many_clients_that_miss_the_scripts_at_once_all_heal(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    contenders = windows(browser, 50)
    flush(redis_client)
    barrier = threading.Barrier(len(contenders))
    failures: list[BaseException] = []

    def run(number: int, window: Browser) -> None:
        try:
            barrier.wait()
            window.use(lambda session: session.update({f"n{number}": number}))
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=run, args=(number, window))
        for number, window in enumerate(contenders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert browser.use(len) == 51
