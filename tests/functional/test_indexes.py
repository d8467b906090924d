"""``session.index``: sessions found by more than their owner."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import (
    StoreError,
    export_sessions,
    revoke,
    sessions_of,
    update_sessions,
)
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import stored_sessions
from tests.support.browser import Browser, make_browser
from tests.support.command import run
from tests.support.overlap import Start, put

from .test_cli_sessions import write_ini
from .test_revoke import Step, step  # noqa: F401

MODES = ["merge", "retry"]


def found(browser: Browser, **index: Any) -> list[str]:
    return [info.fingerprint for info in sessions_of(browser.wsgi.registry, **index)]


def name_of(browser: Browser) -> str:
    name = browser.use(lambda session: session.fingerprint)
    assert isinstance(name, str)
    return name


def indexed(value: Any, name: str = "sid") -> Callable[[Any], None]:
    return lambda session: session.index(name, value)


def index_keys(client: Any) -> list[bytes]:
    return sorted(client.keys("session:index:*"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start_with", ["nothing", "anonymous", "login"])
@pytest.mark.parametrize("value", ["a b/é", "", 7, -1])
def test_session_is_found_by_what_it_is_indexed_by(
    redis_url: str, value: Any, start_with: str, mode: str
) -> None:
    browser = make_browser(redis_url, on_conflict=mode)
    if start_with != "nothing":
        browser.use(put("n", 1))

    def view(session: Any) -> None:
        if start_with == "login":
            session.owner = "ada"
        session.index("sid", value)

    browser.use(view)
    other = browser.another()
    other.use(indexed("other"))
    assert found(browser, sid=value) == [name_of(browser)]
    assert found(browser, sid=str(value) if type(value) is int else 7) == []
    assert found(browser, sub=value) == []
    if start_with == "login":
        assert found(browser, owner="ada") == [name_of(browser)]
    assert revoke(browser.wsgi.registry, sid=value) == 1
    assert browser.use(lambda session: session.session_id) is None
    assert name_of(other)


def test_current_session_is_marked_and_spared(redis_url: str) -> None:
    browser = make_browser(redis_url)
    users = [browser.another() for _ in range(3)]
    for user in users:
        user.use(indexed(1))
    infos = users[1].visit(lambda request: sessions_of(request, sid=1))
    assert [info.current for info in infos] == [False, True, False]
    assert users[1].visit(lambda request: revoke(request, sid=1)) == 2
    assert users[1].visit(lambda request: revoke(request, except_current=False, sid=1)) == 1


@pytest.mark.parametrize("new", ["another", None])
def test_session_is_found_by_its_last_value_alone(redis_url: str, new: Any) -> None:
    browser = make_browser(redis_url)
    browser.use(indexed("first"))
    browser.use(indexed(new))
    assert found(browser, sid="first") == []
    assert revoke(browser.wsgi.registry, sid="first") == 0
    assert found(browser, sid="another") == ([name_of(browser)] if new else [])


def test_two_indexes_that_requests_set_at_once_are_both_kept(start: Start) -> None:
    overlap = start()
    cookie = overlap.run(None, put("n", 1)).cookie
    slow = overlap.begin(cookie)
    slow.do(indexed(1, "a"))
    overlap.run(cookie, indexed(2, "b"))
    slow.finish()
    assert len(sessions_of(overlap.registry, a=1)) == len(sessions_of(overlap.registry, b=2)) == 1


def test_new_token_keeps_the_index_and_heals_one_that_was_evicted(
    redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url)
    browser.use(indexed("x"))
    browser.use(lambda session: session.regenerate_id())
    assert found(browser, sid="x") == [name_of(browser)]
    redis_client.delete(*index_keys(redis_client))
    assert found(browser, sid="x") == []
    browser.use(lambda session: session.regenerate_id())
    assert found(browser, sid="x") == [name_of(browser)]


def test_logout_and_clear(redis_url: str) -> None:
    browser = make_browser(redis_url)
    browser.use(indexed("x"))
    browser.use(lambda session: session.clear())
    assert found(browser, sid="x") == [name_of(browser)]
    browser.use(lambda session: session.invalidate())
    browser.use(put("n", 1))
    assert found(browser, sid="x") == []


def test_no_value_of_the_session_shows_the_index(redis_url: str) -> None:
    browser = make_browser(redis_url, invalidate_empty_session=True)
    browser.use(indexed("x"))
    assert browser.use(dict) == {}
    assert browser.use(len) == 0
    browser.use(put("n", 1))
    browser.use(lambda session: session.pop("n"))
    assert found(browser, sid="x") == [name_of(browser)]


#: What the functions that find sessions have arguments for.
ARGUMENTS = sorted(
    {
        name
        for function in (sessions_of, revoke, update_sessions, export_sessions)
        for name in inspect.signature(function).parameters
        if name != "index"
    }
)


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "é", "a" * 65, *ARGUMENTS])
def test_name_that_no_index_can_have_is_refused(redis_url: str, name: str) -> None:
    browser = make_browser(redis_url)
    with pytest.raises(ValueError, match="small letters"):
        browser.use(indexed("x", name))


@pytest.mark.parametrize("value", [1.5, True, b"x", ["x"]])
def test_value_that_is_neither_text_nor_number_is_refused(redis_url: str, value: Any) -> None:
    browser = make_browser(redis_url)
    with pytest.raises(TypeError):
        browser.use(indexed(value))
    with pytest.raises(TypeError):
        sessions_of(browser.wsgi.registry, sid=value)


@pytest.mark.parametrize("asked", [{}, {"a": 1, "b": 2}, {"owner": "ada", "a": 1}, {"a": None}])
@pytest.mark.parametrize("function", [sessions_of, revoke])
def test_exactly_one_criterion_is_given(redis_url: str, function: Any, asked: Any) -> None:
    with pytest.raises(TypeError):
        function(make_browser(redis_url).wsgi.registry, **asked)


def test_foreign_id_in_an_index_is_neither_listed_nor_ended(
    redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url)
    victim = browser.another()
    victim.use(indexed("victim"))
    browser.use(indexed("x"))
    for key in index_keys(redis_client):
        redis_client.zadd(key, {victim.session_id or "": 1})
    # Nor where its own sealed field is copied.
    value = redis_client.hget(browser.key, "=sid")
    assert found(browser, sid="x") == [name_of(browser)]
    redis_client.hset(victim.key, "=sid", value)
    assert found(browser, sid="x") == [name_of(browser)]
    assert revoke(browser.wsgi.registry, sid="x") == 1


def test_index_that_was_altered_is_a_broken_seal(redis_url: str, redis_client: Any) -> None:
    browser = make_browser(redis_url)
    browser.use(indexed("x"))
    redis_client.hset(browser.key, "=sid", b"0" * 16 + b"sx")
    assert browser.use(lambda session: session.session_id) is None


def test_index_costs_no_round_trip_at_a_login(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)

    def view(session: Any) -> None:
        session.owner = "ada"
        session.index("sid", 1)
        session.index("sub", 2)

    for prepared in (False, True):
        user = browser.another()
        if prepared:
            user.use(put("n", 1))
        proxy.reset()
        user.use(view)
        assert proxy.round_trips == (2 if prepared else 1)
        proxy.reset()
        user.use(put("n", 2))
        assert proxy.round_trips == 2


def test_value_is_not_stored_without_its_index(redis_url: str, redis_client: Any) -> None:
    redis_client.execute_command(*"ACL SETUSER no_index on >pw ~* +@all -zadd".split())
    try:
        browser = make_browser(redis_url.replace("://", "://no_index:pw@"))
        browser.use(put("n", 1))
        with pytest.raises(StoreError):
            browser.use(indexed("x"))
        assert "=sid" not in str(redis_client.hkeys(browser.key))
        browser.use(put("n", 2))
    finally:
        redis_client.execute_command("ACL", "DELUSER", "no_index")


def test_lost_reply_to_an_index_changes_nothing(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(put("n", 1))

    def view(request: Any) -> None:
        len(request.session)
        request.session.index("sid", "x")
        proxy.lose_replies(1)

    browser.visit(view)
    assert found(browser, sid="x") == [name_of(browser)]


def test_keys_of_values_that_are_used_once_are_swept(redis_url: str, redis_client: Any) -> None:
    browser = make_browser(redis_url)
    for number in range(3):
        user = browser.another()
        user.use(indexed(number))
        if number:
            redis_client.delete(user.key)
    assert len(index_keys(redis_client)) == 3
    for key in index_keys(redis_client):
        redis_client.zincrby(key, -120_000_000, redis_client.zrange(key, 0, 0)[0])
    redis_client.zadd("session:of somebody else", {"x": 1})
    assert run("sweep", "--url", redis_url) == 0
    assert len(index_keys(redis_client)) == 1
    assert redis_client.exists("session:of somebody else")


@pytest.mark.parametrize("reveal", [False, True])
def test_command_shows_by_what_a_session_is_found(
    redis_url: str, redis_client: Any, tmp_path: Any, capsys: Any, reveal: bool
) -> None:
    browser = make_browser(redis_url)
    browser.use(indexed("the sid"))
    more = ["--reveal"] if reveal else []
    ini = write_ini(tmp_path, redis_url)
    assert run("show", ini, "--session", name_of(browser), *more) == 0
    shown = capsys.readouterr().out
    assert "index sid" in shown
    assert ("the sid" in shown) == reveal


# -- what changes hands while it is being ended --------------------------------------------


@pytest.mark.parametrize("how", ["another owner", "nobody"])
def test_session_that_has_another_owner_since_the_look_at_it_does_not_end(
    redis_url: str,
    redis_client: redis.Redis,
    step: Step,  # noqa: F811
    how: str,
) -> None:
    other = make_browser(redis_url)
    user = other.another()
    user.use(lambda session: setattr(session, "owner", "ada"))
    browser = make_browser(None, client_callable=step.client)
    later = "bob" if how == "another owner" else None
    step.number = 0
    # The index, the session; now it is to end.
    step.before = {3: lambda: user.use(lambda session: setattr(session, "owner", later))}
    assert revoke(browser.wsgi.registry, "ada") == 0
    assert step.before == {}
    assert len(stored_sessions(redis_client)) == 1
    assert user.use(lambda session: session.owner) == later
