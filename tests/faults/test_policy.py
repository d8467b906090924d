"""``on_redis_error``: what a page gets when Redis cannot be reached, and for how long it waits."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import revoke, sessions_of
from pyramid_redis_lua_sessions.errors import (
    InvalidSession_ChangesDropped,
    InvalidSession_StoreUnavailable,
    StoreUnavailable,
    fingerprint,
)
from pyramid_redis_lua_sessions.events import SessionEvent, SessionRejected
from tests.support.application import set_cookies
from tests.support.browser import SECRET, Browser, Reports, make_browser
from tests.support.faults import FaultProxy

from .kinds import NEW_SECRET, log_in, start, unavailable

MODES = ("raise", "ephemeral")

both_modes = pytest.mark.parametrize("mode", MODES)


class Seen:
    """What an application is told by events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def configure(self, config: Any) -> None:
        unavailable(config)
        config.add_subscriber(self.events.append, SessionEvent)


def logged_in(url: str, **options: Any) -> Browser:
    """A user with a session and an owner."""
    user = make_browser(url, **{"configure": unavailable, "redis_retries": 0, **options})
    start(user)
    user.visit(log_in)
    return user


def break_off(proxy: FaultProxy) -> None:
    """From now on every call fails at once."""
    proxy.strike("before", times=10**6)


# -- a load that fails -----------------------------------------------------------------


def look(session: Any) -> Any:
    return dict(session)


LOOKS: dict[str, Callable[[Any], Any]] = {
    "dict": look,
    "get": lambda session: session.get("name"),
    "new": lambda session: session.new,
    "peek_flash": lambda session: session.peek_flash(),
    "session_id": lambda session: session.session_id,
    "owner": lambda session: session.owner,
    "write": lambda session: session.update(name="other"),
    "csrf": lambda session: session.get_csrf_token(),
}


@pytest.mark.parametrize("act", LOOKS.values(), ids=LOOKS)
def test_load_that_fails_raises_by_default(act: Callable[[Any], Any], proxy: FaultProxy) -> None:
    user = logged_in(proxy.url)
    name = user.session_id
    break_off(proxy)
    user.use(act, status=503)
    assert set_cookies(user.response) == []
    proxy.heal()
    assert user.use(lambda session: (session["name"], session.owner)) == ("value", 7)
    assert user.session_id == name


@pytest.mark.parametrize("act", LOOKS.values(), ids=LOOKS)
def test_load_that_fails_gives_an_empty_session_in_ephemeral_mode(
    act: Callable[[Any], Any],
    proxy: FaultProxy,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen, reports = Seen(), Reports()
    options = {"configure": seen.configure, "func_invalid_logger": reports}
    user = logged_in(proxy.url, on_redis_error="ephemeral", **options)
    name = user.session_id
    stored = client.hgetall(user.key)
    seen.events.clear()
    break_off(proxy)
    with caplog.at_level(logging.WARNING, "pyramid_redis_lua_sessions"):
        user.use(act)
        assert user.use(look) == {}
    assert user.response.status_int == 200
    # It is not stored, and the cookie is neither set nor deleted.
    assert set_cookies(user.response) == []
    assert client.hgetall(user.key) == stored
    assert client.keys("session:*") != []
    # It is logged, and reported as an event.
    kinds = [type(problem) for problem in reports.problems]
    assert kinds.count(InvalidSession_StoreUnavailable) == 2
    assert set(kinds) <= {InvalidSession_StoreUnavailable, InvalidSession_ChangesDropped}
    assert {type(event) for event in seen.events} == {SessionRejected}
    assert seen.events[0].reason == "Redis cannot be reached"
    assert seen.events[0].fingerprint == fingerprint(str(name))
    assert caplog.text.count("Redis cannot be reached (session") == 2
    assert str(name) not in caplog.text
    # Redis is back: so is the user, still logged in.
    proxy.heal()
    assert user.use(lambda session: (session["name"], session.owner)) == ("value", 7)
    assert user.session_id == name


def test_changes_to_an_empty_session_are_dropped_and_reported_though_redis_is_back(
    proxy: FaultProxy, client: redis.Redis
) -> None:
    reports = Reports()
    user = logged_in(proxy.url, on_redis_error="ephemeral", func_invalid_logger=reports)
    stored = client.hgetall(user.key)

    def act(session: Any) -> None:
        assert dict(session) == {}
        proxy.heal()
        session["name"] = "other"
        session.flash("hello")
        session.adjust_session_timeout(5)

    break_off(proxy)
    user.use(act)
    assert client.hgetall(user.key) == stored
    assert len(client.keys("session:*")) == 2  # the session, the index
    assert reports.kinds == ["InvalidSession_StoreUnavailable", "InvalidSession_ChangesDropped"]
    assert set_cookies(user.response) == []


@both_modes
def test_visitors_without_a_cookie_notice_nothing_while_nothing_is_stored(
    mode: str, proxy: FaultProxy
) -> None:
    visitor = make_browser(proxy.url, on_redis_error=mode)
    break_off(proxy)
    assert visitor.use(look) == {}
    assert visitor.visit(lambda request: None) is None
    assert set_cookies(visitor.response) == []


@both_modes
def test_request_without_a_look_at_the_session_does_not_need_redis(
    mode: str, proxy: FaultProxy
) -> None:
    user = logged_in(proxy.url, on_redis_error=mode)
    break_off(proxy)
    proxy.reset()
    user.visit(lambda request: None)
    user.visit(lambda request: request.session)
    assert proxy.calls == 0


# -- what raises in both modes -----------------------------------------------------------


def late(act: Callable[[Any], Any]) -> Callable[[Any, FaultProxy], Any]:
    """What fails only at the save point: Redis goes away after the load."""

    def view(request: Any, proxy: FaultProxy) -> Any:
        dict(request.session)
        break_off(proxy)
        return act(request)

    return view


def at_once(act: Callable[[Any], Any]) -> Callable[[Any, FaultProxy], Any]:
    def view(request: Any, proxy: FaultProxy) -> Any:
        break_off(proxy)
        return act(request)

    return view


def set_owner(request: Any) -> None:
    request.session.owner = 8


def regenerate(request: Any) -> None:
    request.session.regenerate_id()


def set_no_owner(request: Any) -> None:
    request.session.owner = None


def log_in_again(request: Any) -> None:
    request.session["name"] = "other"
    request.session.owner = 8


def write(request: Any) -> None:
    request.session["name"] = "other"


def adjust(request: Any) -> None:
    request.session.adjust_session_timeout(900)


def flash(request: Any) -> None:
    request.session.flash("hello")


def after_an_empty_session(act: Callable[[Any], Any]) -> Callable[[Any, FaultProxy], Any]:
    """What is asked of the session after the look at it has failed."""

    def view(request: Any, proxy: FaultProxy) -> Any:
        break_off(proxy)
        try:
            assert dict(request.session) == {}
        except StoreUnavailable:
            assert request.registry.settings["redis.sessions.on_redis_error"] == "raise"
        return act(request)

    return view


RAISING: dict[str, Callable[[Any, FaultProxy], Any]] = {
    "save": late(write),
    "save of a timeout": late(adjust),
    "save of a flash message": late(flash),
    "regenerate_id": at_once(regenerate),
    "regenerate_id, Redis lost after the load": late(regenerate),
    "regenerate_id of an empty session": after_an_empty_session(regenerate),
    "owner": at_once(set_owner),
    "owner, Redis lost after the load": late(set_owner),
    "owner of an empty session": after_an_empty_session(set_owner),
    "no owner of an empty session": after_an_empty_session(set_no_owner),
    "revoke": at_once(lambda request: revoke(request, 7)),
    "revoke, Redis lost after the load": late(lambda request: revoke(request, 7)),
    "sessions_of": at_once(lambda request: sessions_of(request, 7)),
    "revoke from outside": at_once(lambda request: revoke(request.registry, 7)),
}


@both_modes
@pytest.mark.parametrize("act", RAISING.values(), ids=RAISING)
def test_what_must_not_fail_silently_raises(
    act: Callable[[Any, FaultProxy], Any], mode: str, proxy: FaultProxy, client: redis.Redis
) -> None:
    user = logged_in(proxy.url, on_redis_error=mode)
    name, stored = user.session_id, client.hgetall(user.key)
    user.visit(lambda request: act(request, proxy), status=503)
    assert set_cookies(user.response) == []
    assert client.hgetall(user.key) == stored
    assert len(client.keys("session:*")) == 2  # the session, the index
    proxy.heal()
    assert user.use(lambda session: (session["name"], session.owner)) == ("value", 7)
    assert user.session_id == name


@pytest.mark.parametrize("ask", [revoke, sessions_of])
def test_no_session_of_an_owner_is_taken_for_that_of_a_request_which_could_not_load_it(
    ask: Callable[[Any, Any], Any], proxy: FaultProxy
) -> None:
    user = logged_in(proxy.url, on_redis_error="ephemeral")

    def view(request: Any) -> None:
        assert dict(request.session) == {}
        proxy.heal()
        ask(request, 7)

    break_off(proxy)
    user.visit(view, status=503)
    assert user.use(lambda session: session.owner) == 7


def test_timeout_of_an_empty_session_is_dropped_and_reported(proxy: FaultProxy) -> None:
    reports = Reports()
    user = logged_in(proxy.url, on_redis_error="ephemeral", func_invalid_logger=reports)
    break_off(proxy)
    user.use(lambda session: session.adjust_session_timeout(5))
    assert reports.kinds == ["InvalidSession_StoreUnavailable", "InvalidSession_ChangesDropped"]


@pytest.mark.parametrize("start_over", [False, True])
def test_login_whose_reply_is_lost_leaves_the_session_of_another_user_alone(
    start_over: bool, proxy: FaultProxy
) -> None:
    """Whose id the generator had returned once more: a draw may be taken."""
    ids = iter(["hers", "his", "hers", "free"])
    options = {"id_generator": lambda: next(ids), "configure": unavailable, "redis_retries": 0}
    browser = make_browser(proxy.url, **options)
    hers, his = browser.another(), browser.another()
    hers.use(lambda session: session.update(name="hers"))
    his.use(lambda session: session.update(name="his"))

    def act(request: Any) -> None:
        if start_over:
            request.session.invalidate()
        request.session.owner = 7

    proxy.strike("no_reply", 1 if start_over else 2)  # after the load
    his.visit(act, status=503)
    assert hers.use(dict) == {"name": "hers"}


@pytest.mark.parametrize("act", [log_in_again, regenerate])
def test_renewal_that_comes_late_does_not_take_the_session_away(
    act: Callable[[Any], Any], proxy: FaultProxy, client: redis.Redis
) -> None:
    """No session is left that nobody has a cookie of, and that is an owner's."""
    user = logged_in(proxy.url, redis_socket_timeout=PATIENCE)
    proxy.strike("late", 2)  # after the load
    user.visit(act, status=503)
    proxy.deliver_late()
    assert user.use(lambda session: (session["name"], session.owner)) == ("value", 7)
    assert len([key for key in client.keys("session:*") if client.type(key) == b"hash"]) == 1


@pytest.mark.parametrize("act", [log_in_again, regenerate])
def test_renewal_whose_session_was_revoked_before_it_was_repeated_is_reported_as_lost(
    act: Callable[[Any], Any], proxy: FaultProxy, client: redis.Redis
) -> None:
    """The first reply was lost. No cookie of the ended session goes out, nor does it come back."""
    reports = Reports()
    user = logged_in(proxy.url, redis_retries=1, func_invalid_logger=reports)
    twin = user.copy()
    revoked: list[int] = []

    def lose_and_revoke() -> str:
        if proxy.calls == 2:  # after the load
            return "no_reply"
        revoked.append(sum(revoke(user.wsgi.registry, owner) for owner in (7, 8)))
        return ""

    proxy.strike(lose_and_revoke, 2, times=2)
    user.visit(act)
    assert revoked == [1]
    assert reports.kinds == ["InvalidSession_ChangesDropped"]
    assert set_cookies(user.response) == []
    assert twin.use(lambda session: (dict(session), session.owner)) == ({}, None)
    names = [key for key in client.keys("session:*") if b"owner:" not in key]
    assert [key for key in names if client.hexists(key, "@")] == []


def test_session_after_one_that_could_not_be_loaded_is_one_as_any_other(
    proxy: FaultProxy, client: redis.Redis
) -> None:
    user = logged_in(proxy.url, on_redis_error="ephemeral")

    def act(session: Any) -> None:
        assert dict(session) == {}
        proxy.heal()
        session.invalidate()
        session["name"] = "new"
        session.ensure_id()
        session.invalidate()

    break_off(proxy)
    user.use(act)
    assert [
        key for key in client.keys("session:*") if b"owner:" not in key and client.hexists(key, "@")
    ] == []


@both_modes
def test_first_write_raises(mode: str, proxy: FaultProxy, client: redis.Redis) -> None:
    visitor = make_browser(proxy.url, configure=unavailable, on_redis_error=mode)
    break_off(proxy)
    for act in (write, set_owner, lambda request: request.session.ensure_id()):
        visitor.visit(act, status=503)
        assert set_cookies(visitor.response) == []
    assert client.keys("*") == []


INVALIDATIONS: dict[str, Callable[[Any, FaultProxy], Any]] = {
    "at once": at_once(lambda request: request.session.invalidate()),
    "Redis lost after the load": late(lambda request: request.session.invalidate()),
    "of an empty session": after_an_empty_session(lambda request: request.session.invalidate()),
}


@both_modes
@pytest.mark.parametrize("act", INVALIDATIONS.values(), ids=INVALIDATIONS)
def test_invalidate_raises_and_deletes_the_cookie(
    act: Callable[[Any, FaultProxy], Any], mode: str, proxy: FaultProxy, client: redis.Redis
) -> None:
    user = logged_in(proxy.url, on_redis_error=mode)
    key, twin = user.key, user.copy()
    user.visit(lambda request: act(request, proxy), status=503)
    assert [cookie.deletes for cookie in set_cookies(user.response)] == [True]
    assert user.session_id is None
    # It says what is true: the session lives, as whoever has the cookie finds.
    proxy.heal()
    assert client.hexists(key, "@")
    assert twin.use(lambda session: session["name"]) == "value"


def test_invalidate_whose_reply_is_lost_deletes_the_cookie(proxy: FaultProxy) -> None:
    user = logged_in(proxy.url)
    twin = user.copy()
    proxy.strike("no_reply")
    user.use(lambda session: session.invalidate(), status=503)
    assert twin.use(dict) == {}
    assert user.session_id is None


@pytest.mark.parametrize("how", ["asked for", "signed with an old secret"])
def test_cookie_that_is_due_does_not_take_the_answer_away(how: str, proxy: FaultProxy) -> None:
    user = logged_in(proxy.url)
    if how == "signed with an old secret":
        user = with_settings(user, proxy.url, secret=f"\n{NEW_SECRET}\n{SECRET}\n")
    break_off(proxy)

    def view(request: Any) -> None:
        if how == "asked for":
            request.session.please_recookie()
        dict(request.session)

    user.visit(view, status=503)
    assert proxy.calls == 1


def test_page_that_only_asks_for_the_cookie_is_served(
    proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    user = logged_in(proxy.url)
    break_off(proxy)
    user.use(lambda session: session.please_recookie())
    assert set_cookies(user.response) == []
    assert "the cookie is not sent again" in caplog.text


def with_settings(user: Browser, url: str, **options: Any) -> Browser:
    """The same user, of an application with other settings."""
    other = make_browser(url, **{"configure": unavailable, "redis_retries": 0, **options})
    for cookie in user.app.cookiejar:
        other.app.cookiejar.set_cookie(cookie)
    return other


# -- how long a page waits -----------------------------------------------------------------


def look_and_log_out(request: Any) -> None:
    dict(request.session)
    request.session.invalidate()


def log_out_and_in(request: Any) -> None:
    request.session.invalidate()
    request.session.owner = 8


#: What is asked, the mode, the first of the request's calls that fails, how many do.
FAILING: dict[str, tuple[Callable[[Any], Any], str, int, int]] = {
    "read": (lambda request: dict(request.session), "raise", 1, 1),
    "read, ephemeral": (lambda request: dict(request.session), "ephemeral", 1, 1),
    "write": (write, "raise", 2, 1),
    "login": (log_in_again, "raise", 1, 1),
    "login, Redis lost after the load": (log_in_again, "raise", 2, 2),
    "logout": (lambda request: request.session.invalidate(), "raise", 1, 2),
    "logout, ephemeral": (lambda request: request.session.invalidate(), "ephemeral", 1, 2),
    "look and logout, ephemeral": (look_and_log_out, "ephemeral", 1, 2),
    "logout and login": (log_out_and_in, "raise", 1, 3),
    "revoke, ephemeral": (lambda request: revoke(request, 7), "ephemeral", 1, 1),
    "sessions_of, ephemeral": (lambda request: sessions_of(request, 7), "ephemeral", 1, 1),
}


@pytest.mark.parametrize("page", FAILING)
def test_page_makes_no_more_calls_that_fail_than_documented(page: str, proxy: FaultProxy) -> None:
    act, mode, first, calls = FAILING[page]
    user = logged_in(proxy.url, on_redis_error=mode)
    proxy.strike("before", first, times=10**6)
    user.visit(act, status="*")
    assert user.response.status_int == (200 if page == "read, ephemeral" else 503)
    assert proxy.calls - (first - 1) == calls


#: Seconds to wait for a connection, and for a reply.
PATIENCE = 0.2

#: What the documentation says of the time between a call and its repetition, seconds.
BACKOFF = 0.5

#: For a machine that is busy with other things.
SLACK = 1.0


@pytest.fixture
def unreachable() -> Iterator[int]:
    """A port to which nobody can connect, as behind a firewall that drops what is sent."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(3):  # these fill the queue of those who wait to be accepted
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            waiting.append(client)
        yield port
        for client in waiting:
            client.close()


PAGES: dict[str, tuple[Callable[[Any], Any], str, int]] = {
    "read": (lambda request: dict(request.session), "raise", 1),
    "read, ephemeral": (lambda request: dict(request.session), "ephemeral", 1),
    "login": (log_in, "raise", 1),
    "logout": (lambda request: request.session.invalidate(), "raise", 2),
}


#: What may happen to Redis, and how often a call then waits.
OUTAGES = {"refuses": 0, "is silent": 2, "cannot be reached": 2, "can no longer be reached": 3}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("page", PAGES)
def test_page_waits_no_longer_than_documented(
    page: str, outage: str, proxy: FaultProxy, unreachable: int
) -> None:
    act, mode, calls = PAGES[page]
    options = {
        "on_redis_error": mode,
        "redis_retries": 1,
        "redis_socket_timeout": PATIENCE,
        "redis_socket_connect_timeout": PATIENCE,
    }
    user = logged_in(proxy.url, **options)
    if outage == "refuses":
        proxy.close()
    elif outage == "is silent":
        proxy.fall_silent()
    elif outage == "can no longer be reached":
        proxy.fall_silent()
        pool = user.factory.store_for(None).client.connection_pool
        for connection in pool._get_free_connections():
            connection.port = unreachable
    else:
        elsewhere = f"redis://127.0.0.1:{unreachable}"
        user = with_settings(user, elsewhere, preload_scripts=False, **options)
    start = time.monotonic()
    user.visit(act, status="*")
    took = time.monotonic() - start
    assert user.response.status_int == (200 if mode == "ephemeral" else 503)
    waits = OUTAGES[outage]
    assert took > waits * PATIENCE
    backoffs = 1 if waits == 2 else 2
    assert took < calls * (waits * PATIENCE + backoffs * BACKOFF) + SLACK
