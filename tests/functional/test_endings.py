"""Endings that reach who still has a connection open."""

from __future__ import annotations

import errno
import http.client
import importlib
import json
import os
import queue
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.events import NewResponse
from pyramid.exceptions import ConfigurationError

from pyramid_redis_lua_sessions import revoke
from pyramid_redis_lua_sessions.endings import (
    Ending,
    Watch,
    owner_digest,
    subscriber,
    watch_ending,
)
from pyramid_redis_lua_sessions.endings.subscriber import subscriber_of
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import Browser, make_browser
from tests.support.command import run, write_ini
from tests.support.least_privilege import USER, add_user, with_user
from tests.support.serving import served
from tests.support.waiting import wait_until

stream_module = importlib.import_module("pyramid_redis_lua_sessions.endings.stream")

OWNER = "ada@example.com"
NAME = "session endings"


def include(config: Any) -> None:
    config.include("pyramid_redis_lua_sessions.endings")


def made(url: str, **options: Any) -> Browser:
    return make_browser(url, configure=include, publish_endings=True, **options)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    yield
    wait_until(lambda: threads() == [])


class Told:
    """Watches the session of a user, and keeps what it is told."""

    def __init__(self, user: Browser) -> None:
        self.endings: queue.Queue[Ending] = queue.Queue()
        watch = user.visit(lambda request: watch_ending(request, self.endings.put))
        assert isinstance(watch, Watch)
        self.watch = watch

    def next(self) -> Ending:
        return self.endings.get(timeout=20)

    def wait_until_heard(self, user: Browser) -> None:
        """Until the channel is subscribed to, and was asked for."""
        known = subscriber_of(user.factory)
        key = user.factory.key_of(user.session_id or "")
        wait_until(lambda: (channel := known.channel(key)) is not None and channel.due > 0.0)


@pytest.fixture
def user(redis_url: str) -> Browser:
    user = made(redis_url, invalidate_empty_session=True)
    user.use(lambda session: session.update(a=1))
    return user


def log_in(user: Browser) -> None:
    user.use(lambda session: setattr(session, "owner", OWNER))


# -- what ends a session -----------------------------------------------------------


def log_out(user: Browser) -> None:
    user.copy().use(lambda session: session.invalidate())


def log_out_and_go_on(user: Browser) -> None:
    user.copy().use(lambda session: (session.invalidate(), session.flash("bye")))


def revoke_from_elsewhere(user: Browser) -> None:
    revoke(user.wsgi.registry, OWNER)


def revoke_the_others(user: Browser) -> None:
    other = user.another()
    log_in(other)
    other.visit(lambda request: revoke(request, OWNER))


ENDED: dict[str, Callable[[Browser], None]] = {
    "logout": log_out,
    "logout and a new session": log_out_and_go_on,
    "revoked by an administrator": revoke_from_elsewhere,
    "logged out everywhere else": revoke_the_others,
}


@pytest.mark.parametrize("end", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("late", [False, True])
def test_ending_is_told_with_fingerprint_and_owner(
    user: Browser, end: Callable[[Browser], None], late: bool
) -> None:
    log_in(user)
    name = fingerprint(user.session_id or "")
    told = Told(user)
    if late:
        told.wait_until_heard(user)
    end(user)
    ending = told.next()
    assert (ending.fingerprint, ending.reason) == (name, "ended")
    # Where the ending was faster than the subscription, it was found by asking.
    digest = owner_digest(user.wsgi.registry, OWNER)
    assert ending.owner == digest if late else ending.owner in ("", digest)
    assert told.watch.fingerprint == name
    assert OWNER not in repr(ending)


def test_digest_of_an_owner_is_the_name_of_the_index(
    user: Browser, redis_client: redis.Redis
) -> None:
    log_in(user)
    digest = owner_digest(user.wsgi.registry, OWNER)
    assert redis_client.exists(f"session:owner:{digest}") == 1


def test_ending_of_a_session_without_owner_has_none(user: Browser) -> None:
    told = Told(user)
    told.wait_until_heard(user)
    log_out(user)
    assert told.next() == Ending(fingerprint(user.session_id or ""), "", "ended")


def test_login_that_is_one_too_many_is_told_to_the_oldest(redis_url: str) -> None:
    user = made(redis_url, owner_sessions=1)
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    log_in(user.another())
    ending = told.next()
    assert (ending.owner, ending.reason) == (owner_digest(user.wsgi.registry, OWNER), "ended")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda session: session.clear(), id="emptied"),
        pytest.param(lambda session: session.adjust_session_expires(1), id="expires now"),
        pytest.param(
            lambda session: (session.update(a=2), session.adjust_session_expires(1)), id="saved"
        ),
        pytest.param(
            lambda session: (session.regenerate_id(), session.adjust_session_expires(1)),
            id="new token",
        ),
    ],
)
def test_session_that_ends_itself_is_told(user: Browser, end: Callable[[Any], Any]) -> None:
    told = Told(user)
    told.wait_until_heard(user)
    user.copy().use(end)
    assert told.next().reason == "ended"


@pytest.mark.parametrize("what", [["--owner", OWNER], ["--all"], ["--session"]], ids=str)
def test_command_tells_it_too(
    redis_url: str, tmp_path: Path, capsys: Any, user: Browser, what: list[str]
) -> None:
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    if what == ["--session"]:
        what = [*what, told.watch.fingerprint]
    ini = write_ini(tmp_path, redis_url, publish_endings=True)
    assert run("revoke", ini, *what, "--yes") == 0
    assert told.next().owner == owner_digest(user.wsgi.registry, OWNER)


def test_ending_by_another_index_tells_whose_it_was(user: Browser) -> None:
    log_in(user)
    user.use(lambda session: session.index("oidc_sid", "08a5019c"))
    told = Told(user)
    told.wait_until_heard(user)
    revoke(user.wsgi.registry, oidc_sid="08a5019c")
    ending = told.next()
    assert (ending.owner, ending.reason) == (owner_digest(user.wsgi.registry, OWNER), "ended")


@pytest.mark.parametrize("what", ["--all", "--session"])
def test_command_tells_it_without_a_configuration_too(
    redis_url: str, capsys: Any, user: Browser, what: str
) -> None:
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    which = [what, told.watch.fingerprint] if what == "--session" else [what]
    assert run("revoke", "--url", redis_url, *which, "--yes") == 0
    # Whose it was, only the secret would tell.
    assert told.next() == Ending(told.watch.fingerprint, "", "ended")


@pytest.mark.parametrize("options", [{}, {"set_redis_ttl": False}], ids=str)
def test_session_that_expires_is_told_by_the_timer(redis_url: str, options: dict[str, Any]) -> None:
    user = made(redis_url, timeout=0.4, **options)
    user.use(lambda session: session.update(a=1))
    told = Told(user)
    assert told.next() == Ending(told.watch.fingerprint, "", "expired")


def test_session_that_vanishes_is_noticed_without_a_message(
    user: Browser, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evicted, say; or its life was cut short since it was asked for."""
    monkeypatch.setattr(subscriber, "ASK_AGAIN", 0.05)
    told = Told(user)
    told.wait_until_heard(user)
    redis_client.delete(user.key)
    assert told.next().reason == "expired"


@pytest.mark.parametrize("what", ["ended", "expired"])
def test_session_that_ended_before_it_was_listened_for_is_found_by_asking(
    user: Browser, redis_client: redis.Redis, what: str
) -> None:
    locator, told = user.session_id or "", queue.Queue[Ending]()
    if what == "ended":
        log_out(user)
    else:
        redis_client.delete(user.key)
    subscriber_of(user.factory).watch(locator, told.put)
    assert told.get(timeout=20).reason == what


# -- who is told, and who is not ---------------------------------------------------


def test_all_who_watch_are_told_whatever_one_of_them_does(
    user: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Told(user), Told(user)

    def fails(ending: Ending) -> None:
        raise ZeroDivisionError

    user.visit(lambda request: watch_ending(request, fails))
    other = user.another()
    other.use(lambda session: session.update(a=1))
    others = Told(other)
    log_out(user)
    assert first.next() == second.next()
    wait_until(lambda: "an ending could not be told" in caplog.text)
    assert others.endings.empty()
    log_out(other)
    assert others.next().fingerprint == others.watch.fingerprint


def test_callback_that_ends_its_thread_deafens_nobody(user: Browser) -> None:
    def exits(ending: Ending) -> None:
        raise SystemExit

    other = user.another()
    other.use(lambda session: session.update(a=1))
    user.visit(lambda request: watch_ending(request, exits))
    told = Told(other)
    told.wait_until_heard(other)
    log_out(user)
    wait_until(lambda: subscriber_of(user.factory).watched(user.session_id or "") == 0)
    log_out(other)
    assert told.next().reason == "ended"


def test_watch_for_which_no_thread_can_be_started_leaves_nothing(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            Told(user)
        answer = user.app.get(f"/session-endings?session={fingerprint(user.session_id or '')}")
        assert answer.body == b"retry: 15000\n\n"
    assert subscriber_of(user.factory).watched(user.session_id or "") == 0
    told = Told(user)
    log_out(user)
    assert told.next().reason == "ended"


def test_process_without_a_descriptor_left_listens_as_soon_as_there_is_one(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = selectors.DefaultSelector, threading.Event()

    def none_left() -> Any:
        refused.set()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(selectors, "DefaultSelector", none_left)
    told = Told(user)
    assert refused.wait(20)
    monkeypatch.setattr(selectors, "DefaultSelector", real)
    log_out(user)
    assert told.next().reason == "ended"


def test_session_that_is_left_and_watched_again_before_redis_answers_loses_no_connection(
    user: Browser,
) -> None:
    """As where a page is reloaded over and over: each time all would be asked for anew."""
    other = user.another()
    other.use(lambda session: session.update(a=1))
    known = subscriber_of(user.factory)
    keys = [user.factory.key_of(each.session_id or "") for each in (user, other)]
    for key, each in zip(keys, (user, other), strict=True):
        known._channels[key] = subscriber.Channel(each.session_id or "")
    ours, theirs = socket.socketpair()
    with ours, theirs, subscriber.Listening(known, theirs) as listening:
        listening._join(keys)
        for _ in range(3):
            listening._leave(keys[:1])
            listening._join(keys[:1])
        links = list(listening._links.values())
        wait_until(
            lambda: (
                [listening._hear(link) for link in links]
                and not any(link.leaving for link in links)
            )
        )
        assert {key for link in links for key in link.keys} == {*keys}
    known._channels.clear()


def test_who_cancels_is_told_nothing_and_leaves_nothing(
    user: Browser, redis_client: redis.Redis
) -> None:
    gone, stays = Told(user), Told(user)
    gone.watch.cancel()
    gone.watch.cancel()
    assert subscriber_of(user.factory).watched(user.session_id or "") == 1
    log_out(user)
    stays.next()
    assert gone.endings.empty()
    wait_until(lambda: threads() == [])
    again = made(user.factory.settings.redis_url or "")
    again.use(lambda session: session.update(a=1))
    Told(again).watch.cancel()
    wait_until(lambda: threads() == [])


def test_session_that_is_watched_again_at_once_is_heard(user: Browser) -> None:
    for _ in range(20):
        Told(user).watch.cancel()
    told = Told(user)
    log_out(user)
    assert told.next().reason == "ended"


def test_session_lives_on_with_a_new_token(user: Browser) -> None:
    told = Told(user)
    told.wait_until_heard(user)
    before = user.copy()
    log_in(user)
    assert told.endings.empty()
    # Whoever has only the old cookie watches nothing.
    assert before.visit(lambda request: watch_ending(request, print)) is None
    log_out(user)
    assert told.next().reason == "ended"


@pytest.mark.parametrize("cookie", ["", "session=forged", "session=\xff", "session="])
def test_there_is_nothing_to_watch_without_a_session(user: Browser, cookie: str) -> None:
    visitor = user.another()
    seen = visitor.visit(
        lambda request: watch_ending(request, print), extra_environ={"HTTP_COOKIE": cookie}
    )
    assert seen is None
    assert threads() == []


def test_watching_keeps_nobody_alive(
    user: Browser, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "ASK_AGAIN", 0.01)
    redis_client.pexpire(user.key, 500_000)
    stored = redis_client.hgetall(user.key)
    told = Told(user)
    told.wait_until_heard(user)
    asked = subscriber_of(user.factory).channel(user.factory.key_of(user.session_id or ""))
    assert asked is not None
    first = asked.due
    wait_until(lambda: asked.due > first)
    assert 0 < redis_client.pttl(user.key) <= 500_000
    assert redis_client.hgetall(user.key) == stored
    told.watch.cancel()


def test_forked_process_has_a_subscriber_of_its_own(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = subscriber_of(user.factory)
    assert subscriber_of(user.factory) is first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert subscriber_of(user.factory) is not first


@pytest.mark.parametrize("query", ["?decode_responses=true", "?protocol=3", "?protocol=2"])
def test_any_kind_of_client_hears(redis_server: RedisServer, redis_url: str, query: str) -> None:
    user = made(f"{redis_server.url}{query}", prefix="sessions of ä:")
    user.use(lambda session: session.update(a=1))
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    log_out(user)
    assert told.next().owner != ""


def test_client_of_the_applications_own_hears(redis_server: RedisServer, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_server.url)
    user = made(redis_url, redis_client_callable=lambda request, **options: client)
    user.use(lambda session: session.update(a=1))
    told = Told(user)
    told.wait_until_heard(user)
    log_out(user)
    assert told.next().reason == "ended"
    wait_until(lambda: threads() == [])
    client.close()


def test_message_that_is_none_of_ours_is_left_alone(
    redis_server: RedisServer, redis_url: str
) -> None:
    user = made(redis_server.url)
    user.use(lambda session: session.update(a=1))
    told = Told(user)
    told.wait_until_heard(user)
    with redis_server.client() as client:
        for text in ("", "x", "\xff", "000000000000", "{}"):
            client.publish(user.key, text.encode("latin-1"))
            try:
                client.execute_command("SPUBLISH", user.key, text)
            except redis.ResponseError:
                pass  # before 7.0
    assert user.use(dict) == {"a": 1}
    assert told.endings.empty()
    log_out(user)
    assert told.next().reason == "ended"


def test_message_that_is_forged_ends_nothing_and_is_not_told(
    redis_server: RedisServer, redis_url: str
) -> None:
    user = made(redis_server.url)
    user.use(lambda session: session.update(a=1))
    told = Told(user)
    told.wait_until_heard(user)
    known = subscriber_of(user.factory)
    channel = known.channel(user.factory.key_of(user.session_id or ""))
    assert channel is not None
    with redis_server.client() as client:
        for text in (told.watch.fingerprint, f"{told.watch.fingerprint} <script>"):
            due = channel.due
            publish = "PUBLISH" if redis_server.version < (7, 0) else "SPUBLISH"
            assert client.execute_command(publish, user.key, text) == 1
            wait_until(lambda due=due: channel.due > due)  # it was asked for
    assert told.endings.empty()
    assert user.use(dict) == {"a": 1}
    log_out(user)
    assert told.next() == Ending(told.watch.fingerprint, "", "ended")


def test_user_who_may_not_listen_is_asked_for(
    redis_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(subscriber, "ASK_AGAIN", 0.05)
    with redis_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "resetchannels", "+@all"
        )
    user = made(redis_server.url.replace("://", "://deaf:deaf@"))
    user.use(lambda session: session.update(a=1))
    told = Told(user)
    wait_until(lambda: "may not subscribe" in caplog.text)
    log_out(user)
    assert told.next().reason == "ended"


def test_user_who_may_listen_from_now_on_is_told(
    redis_server: RedisServer,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(subscriber, "DEAF", 0.05)
    monkeypatch.setattr(subscriber, "ASK_AGAIN", 0.05)
    with redis_server.client() as client:
        rule = ("ACL", "SETUSER", "deaf", "on", ">deaf", "~*", "+@all")
        client.execute_command(*rule, "resetchannels")
        user = made(redis_server.url.replace("://", "://deaf:deaf@"))
        user.use(lambda session: session.update(a=1))
        told = Told(user)
        wait_until(lambda: "may not subscribe" in caplog.text)
        client.execute_command(*rule, "&*")

        def is_heard() -> bool:
            connections: Any = client.client_list()
            return any(int(c["sub"]) + int(c.get("ssub", 0)) for c in connections)

        wait_until(is_heard)
        log_out(user)
        assert told.next().reason == "ended"
        wait_until(lambda: threads() == [])
        client.execute_command("ACL", "DELUSER", "deaf")


# -- opt in ------------------------------------------------------------------------


def test_nothing_is_published_unless_it_is_asked_for(redis_url: str, proxy: CountingProxy) -> None:
    for publishes in (False, True):
        user = make_browser(proxy.url, publish_endings=publishes)
        user.use(lambda session: session.update(a=1))
        name = fingerprint(user.session_id or "").encode()
        proxy.reset()
        user.use(lambda session: session.invalidate())
        sha = SCRIPTS["end_session"].sha1
        (end,) = [command for command in proxy.commands if command.sha == sha]
        assert (name in end.args) == publishes
        # Whose it was is known only if it was loaded.
        assert proxy.round_trips == (2 if publishes else 1)


@pytest.mark.parametrize("options", [{}, {"deserialized_fails_new": False}], ids=str)
def test_logout_of_a_session_that_is_corrupt_ends_it_too(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any]
) -> None:
    user = made(redis_url, **options)
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    redis_client.hset(user.key, "owner", "x")
    user.copy().use(lambda session: session.invalidate())
    assert told.next() == Ending(told.watch.fingerprint, "", "ended")
    assert not redis_client.hexists(user.key, "created")


def test_logout_that_did_not_look_tells_whose_it_was(user: Browser) -> None:
    log_in(user)
    told = Told(user)
    told.wait_until_heard(user)
    log_out_and_go_on(user)
    assert told.next().owner == owner_digest(user.wsgi.registry, OWNER)


def test_include_without_the_setting_is_an_error_that_names_it(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.sessions\.publish_endings = true"):
        make_browser(redis_url, configure=include)


# -- the stream --------------------------------------------------------------------


class Events:
    """An EventSource, as far as it takes one."""

    def __init__(self, port: int, user: Browser, query: str | None = None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        if query is None:
            query = f"?session={fingerprint(user.session_id or '')}"
        cookies = "; ".join(f"{name}={value}" for name, value in user.app.cookies.items())
        headers = {"Cookie": cookies} if cookies else {}
        self.connection.request("GET", f"/session-endings{query}", headers=headers)
        self.response = self.connection.getresponse()

    def line(self) -> str:
        return self.response.readline().decode().strip()

    def rest(self) -> list[str]:
        return self.response.read().decode().split()

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@contextmanager
def serving(user: Browser) -> Iterator[int]:
    with served(user.wsgi, threads=40) as port:
        yield port


def test_stream_says_that_the_session_has_ended_and_ends(user: Browser) -> None:
    with serving(user) as port:
        events = Events(port, user)
        response = events.response
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in response.headers
        assert events.line() == "retry: 2000"
        log_out(user)
        assert events.rest() == ["event:", "ended", "data:", '{"reason":', '"ended"}']
        events.close()


def test_stream_says_that_the_session_has_expired(redis_url: str) -> None:
    user = made(redis_url, timeout=0.5)
    user.use(lambda session: session.update(a=1))
    with serving(user) as port:
        events = Events(port, user)
        assert json.loads(" ".join(events.rest()[5:])) == {"reason": "expired"}
        events.close()


@pytest.mark.parametrize("how", ["ended", "another session", "no cookie", "forged"])
def test_page_of_a_session_that_is_over_is_told_at_once(user: Browser, how: str) -> None:
    query = f"?session={fingerprint(user.session_id or '')}"
    if how == "ended":
        log_out(user)
    elif how == "another session":
        user = user.another()
        user.use(lambda session: session.update(a=1))
    else:
        user = user.another()
        if how == "forged":
            user.app.set_cookie("session", "forged")
    with serving(user) as port:
        events = Events(port, user, query)
        assert events.rest()[2:4] == ["event:", "ended"]
        events.close()


@pytest.mark.parametrize("query", ["", "?session=", "?session=x", "?session=%ff", "?%", "?a&b;;="])
def test_browser_without_a_session_is_sent_away(user: Browser, query: str) -> None:
    with serving(user) as port:
        events = Events(port, user.another(), query)
        assert (events.response.status, events.response.read()) == (204, b"")
        events.close()
    assert threads() == []


def test_cookie_from_before_a_login_hears_nothing_and_comes_again(user: Browser) -> None:
    old = user.copy()
    log_in(user)
    with serving(user) as port:
        events = Events(port, old)
        assert events.rest() == ["retry:", "2000"]
        events.close()


def test_one_browser_does_not_take_all_threads(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MOST", 3)
    with serving(user) as port:
        opened = [Events(port, user) for _ in range(3)]
        for events in opened:
            assert events.line() == "retry: 2000"
        refused = Events(port, user)
        assert refused.rest() == ["retry:", "15000"]
        log_out(user)
        for events in (*opened, refused):
            events.rest()
            events.close()


def test_response_that_another_takes_the_place_of_watches_nothing(redis_url: str) -> None:
    def fails(event: Any) -> None:
        if event.request.path == "/session-endings":
            raise ZeroDivisionError

    def configure(config: Any) -> None:
        include(config)
        config.add_subscriber(fails, NewResponse)

    user = make_browser(redis_url, configure=configure, publish_endings=True)
    user.use(lambda session: session.update(a=1))
    with pytest.raises(ZeroDivisionError):
        user.app.get(f"/session-endings?session={fingerprint(user.session_id or '')}")
    assert subscriber_of(user.factory).watched(user.session_id or "") == 0


def test_stream_shows_that_it_lives_and_ends_in_time(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT", 0.01)
    monkeypatch.setattr(stream_module, "LONGEST", 0.1)
    with serving(user) as port:
        events = Events(port, user)
        assert set(events.rest()) == {"retry:", "2000", ":"}
        events.close()
    wait_until(lambda: threads() == [])


def test_browser_that_goes_away_is_forgotten(
    user: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT", 0.02)
    with serving(user) as port:
        events = Events(port, user)
        events.line()
        assert subscriber_of(user.factory).watched(user.session_id or "") == 1
        events.close()
        wait_until(lambda: threads() == [])


def test_stream_without_redis_has_the_browser_come_again(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    user = made(server.url, redis_retries=0)
    user.use(lambda session: session.update(a=1))
    server.kill()
    response = user.app.get(f"/session-endings?session={fingerprint(user.session_id or '')}")
    assert (response.status_int, response.body) == (200, b"retry: 15000\n\n")


def test_stream_is_open_though_the_application_asks_for_a_permission(redis_url: str) -> None:
    def configure(config: Any) -> None:
        config.set_default_permission("view")
        include(config)

    user = make_browser(redis_url, configure=configure, publish_endings=True)
    assert user.app.get("/session-endings").status_int == 204


# -- the page ----------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "endings.rst").read_text("utf-8")


def test_stream_and_probe_do_without_the_root_of_the_application(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """It may look at the session, which would refresh it, or at a database."""

    def root(request: Any) -> None:
        request.session.get("a")

    def configure(config: Any) -> None:
        config.set_root_factory(root)
        include(config)
        config.include("pyramid_redis_lua_sessions.health")

    user = make_browser(redis_url, configure=configure, publish_endings=True)
    assert user.app.get("/session-endings").status_int == 204
    user.use(lambda session: session.update(a=1))
    redis_client.pexpire(user.key, 500_000)
    assert user.app.get("/session-health").json["ready"]
    assert 0 < redis_client.pttl(user.key) <= 500_000


def test_rule_of_the_page_suffices(redis_server: RedisServer, redis_url: str) -> None:
    rules = re.findall(r"^    ACL SETUSER sessions (.*)$", PAGE, re.MULTILINE)
    assert len(rules) == 2
    since_seven = redis_server.version >= (7, 0)
    with redis_server.client() as client:
        add_user(redis_server)
        for words in rules[: 1 + since_seven]:
            client.execute_command("ACL", "SETUSER", USER, *words.split())
        client.acl_log_reset()
        user = made(with_user(redis_server.url))
        user.use(lambda session: session.update(a=1))
        told = Told(user)
        told.wait_until_heard(user)
        log_out(user)
        assert told.next().reason == "ended"
        wait_until(lambda: threads() == [])
        refused = {entry["object"] for entry in client.acl_log()}
        # Before 7.0 the sharded command is none that Redis knows; nothing else is tried in vain.
        assert refused == set()
        client.execute_command("ACL", "DELUSER", USER)


def test_script_of_the_page_is_that_of_the_demo_and_short() -> None:
    assert ".. literalinclude:: ../demo/static/endings.js" in PAGE
    script = (Path(__file__).resolve().parents[2] / "demo/static/endings.js").read_text("utf-8")
    stripped = [line.strip() for line in script.splitlines()]
    lines = [line for line in stripped if line and not line.startswith("//")]
    assert len(lines) <= 25


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"every {subscriber.ASK_AGAIN:g} seconds" in PAGE
    assert subscriber.LONGEST_PAUSE == 5
    assert "after up to five seconds" in PAGE
    assert subscriber.DEAF == 300
    assert re.search(r"tries again after\s+five minutes", PAGE)
    assert re.search(rf"within {subscriber.ASK_AGAIN:g}\s+seconds", PAGE)
    assert f"longer than {stream_module.HEARTBEAT:g} seconds" in PAGE
    assert f"gets {stream_module.MOST} streams" in PAGE
    assert stream_module.LONGEST == 600
    assert "for ten minutes at a time" in PAGE
