"""Pyramid events that tell what becomes of sessions, and ``func_invalid_logger`` beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_redis_lua_sessions import (
    SessionConflict,
    SessionConflicted,
    SessionCreated,
    SessionEvent,
    SessionInvalidated,
    SessionRegenerated,
    SessionRejected,
    revoke,
)
from pyramid_redis_lua_sessions.errors import InvalidSession_PayloadTimeout, fingerprint
from tests.support.application import signed_cookie
from tests.support.browser import Browser, let_time_pass, make_browser
from tests.support.overlap import Overlap, id_in
from tests.support.stored import A_SESSION, TOKEN, set_start

VALUE = "a-value-that-nobody-may-see"


class Events:
    """A subscriber, and a ``func_invalid_logger``, that keep what they were told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.logged: list[Any] = []

    def configure(self, config: Configurator) -> None:
        config.add_subscriber(lambda event: self.seen.append(event), SessionEvent)

    def log(self, request: Any, problem: Any) -> None:
        self.logged.append(problem)

    def take(self) -> list[Any]:
        """What came since the last look."""
        seen, self.seen = self.seen, []
        return seen

    def take_kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.take()]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def browser(redis_url: str, events: Events) -> Browser:
    return make_app(redis_url, events)


def make_app(redis_url: str | None, events: Events, **options: Any) -> Browser:
    return make_browser(
        redis_url, configure=events.configure, func_invalid_logger=events.log, **options
    )


def name_of(browser: Browser) -> str:
    return fingerprint(browser.session_id or "")


def test_nothing_is_sent_for_visitors_without_a_cookie(browser: Browser, events: Events) -> None:
    for use in (dict, lambda s: s.owner, lambda s: s.invalidate(), lambda s: s.regenerate_id()):
        browser.another().use(use)
    browser.visit(lambda request: None)
    assert (events.take(), events.logged) == ([], [])


def test_nothing_is_sent_for_ordinary_requests(browser: Browser, events: Events) -> None:
    browser.use(lambda session: session.update(a=1))
    events.take()
    for use in (dict, lambda s: s.update(a=2), lambda s: s.clear(), lambda s: s.flash("x")):
        browser.use(use)
    assert (events.take(), events.logged) == ([], [])


# -- created, regenerated, invalidated ---------------------------------------------


def test_session_that_ends_because_it_is_empty_is_invalidated(
    redis_url: str, events: Events
) -> None:
    browser = make_app(redis_url, events, invalidate_empty_session=True)
    browser.use(lambda session: session.update(a=1))
    name = name_of(browser)
    events.take()
    browser.use(lambda session: session.clear())
    (event,) = events.take()
    assert (type(event), event.fingerprint) == (SessionInvalidated, name)
    assert event.reason == "emptied"


def test_session_that_ends_for_a_later_login_is_invalidated(redis_url: str, events: Events) -> None:
    first = make_app(redis_url, events, owner_sessions=1)
    first.use(lambda session: setattr(session, "owner", "ada"))
    events.take()
    second = first.another()
    second.use(lambda session: setattr(session, "owner", "ada"))
    found = [(type(event), event.fingerprint, event.reason) for event in events.take()]
    assert found == [
        (SessionCreated, name_of(second), "login"),
        (SessionInvalidated, name_of(first), "owner_sessions"),
    ]


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        pytest.param(lambda s: s.update(a=VALUE), "first write", id="first write"),
        pytest.param(lambda s: s.ensure_id(), "ensure_id", id="ensure_id"),
        pytest.param(lambda s: s.flash(VALUE), "first write", id="flash"),
        pytest.param(lambda s: setattr(s, "owner", VALUE), "login", id="login"),
    ],
)
def test_created(browser: Browser, events: Events, use: Callable[[Any], Any], reason: str) -> None:
    browser.use(use)
    (event,) = events.take()
    assert (type(event), event.reason) == (SessionCreated, reason)
    assert event.fingerprint == name_of(browser)
    assert isinstance(event.request, Request)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        pytest.param(lambda s: s.regenerate_id(), "regenerate_id", id="regenerate_id"),
        pytest.param(lambda s: setattr(s, "owner", VALUE), "login", id="login"),
    ],
)
def test_regenerated(
    browser: Browser, events: Events, use: Callable[[Any], Any], reason: str
) -> None:
    browser.use(lambda session: session.update(a=VALUE))
    before = browser.token
    events.take()
    browser.use(use)
    (event,) = events.take()
    assert (type(event), event.reason) == (SessionRegenerated, reason)
    assert event.fingerprint == name_of(browser)
    assert browser.token != before


def test_invalidated(browser: Browser, events: Events) -> None:
    browser.use(lambda session: session.update(a=VALUE))
    name = name_of(browser)
    events.take()
    browser.use(lambda session: session.invalidate())
    (event,) = events.take()
    assert (type(event), event.reason) == (SessionInvalidated, "invalidate")
    assert event.fingerprint == name
    browser.use(lambda session: session.invalidate())
    assert events.take() == []


def test_invalidated_and_created_when_a_new_session_follows(
    browser: Browser, events: Events
) -> None:
    browser.use(lambda session: session.update(a=1))
    previous = name_of(browser)
    events.take()

    def anew(session: Any) -> None:
        session.invalidate()
        session["b"] = 1

    browser.use(anew)
    ended, created = events.take()
    assert (type(ended), ended.fingerprint) == (SessionInvalidated, previous)
    assert (type(created), created.fingerprint) == (SessionCreated, name_of(browser))


def test_nothing_is_invalidated_when_the_session_had_ended_already(
    browser: Browser, events: Events, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update(a=1))
    redis_client.delete(browser.key)
    events.take()
    browser.use(lambda session: session.invalidate())
    assert events.take() == []


@pytest.mark.parametrize("by", ["request", "registry"])
def test_revoke_sends_invalidated_for_each_session_that_it_ends(
    browser: Browser, events: Events, by: str
) -> None:
    devices = [browser.another() for _ in range(3)]
    for device in devices:
        device.use(lambda session: setattr(session, "owner", "ada"))
    events.take()
    if by == "request":
        browser.visit(lambda request: revoke(request, "ada"))
    else:
        revoke(browser.wsgi.registry, "ada")
    sent = events.take()
    assert [(type(event), event.reason) for event in sent] == [(SessionInvalidated, "revoke")] * 3
    assert {event.fingerprint for event in sent} == {name_of(device) for device in devices}
    assert [event.request is None for event in sent] == [by == "registry"] * 3


def test_event_that_no_cookie_can_be_sent_for_is_none_of_a_creation(
    redis_url: str, events: Events
) -> None:
    browser = make_app(redis_url, events, func_check_response_allow_cookies=lambda response: False)
    browser.use(lambda session: session.update(a=1))
    (event,) = events.take()
    assert type(event) is SessionRejected
    assert event.reason == "the cookie cannot be sent; changes dropped"


# -- rejected ----------------------------------------------------------------------


def no_such_session(browser: Browser, client: redis.Redis) -> None:
    client.delete(browser.key)


def has_ended(browser: Browser, client: redis.Redis) -> None:
    browser.copy().use(lambda session: session.invalidate())


def idle_too_long(browser: Browser, client: redis.Redis) -> None:
    client.hset(browser.key, "expires", "1")


def absolute_timeout(browser: Browser, client: redis.Redis) -> None:
    # Its TTL stands for the absolute timeout that applied when it was made: a shorter one is
    # found out when the session is met.
    set_start(client, browser.key, 1)


def deadline(browser: Browser, client: redis.Redis) -> None:
    client.hset(browser.key, "deadline", "1")


def bad_signature(browser: Browser, client: redis.Redis) -> None:
    value = browser.app.cookies["session"]
    browser.app.reset()
    browser.app.set_cookie("session", value[:-3] + ("AAA" if value[-3:] != "AAA" else "BBB"))


def foreign_secret(browser: Browser, client: redis.Redis) -> None:
    value = signed_cookie(browser.session_id or "").partition("=")[2]
    browser.app.reset()
    browser.app.set_cookie("session", value)


def seal_broken(browser: Browser, client: redis.Redis) -> None:
    client.hset(browser.key, ".a", b"x" * 40)


def owner_seal_broken(browser: Browser, client: redis.Redis) -> None:
    client.hset(browser.key, "owner", b"x" * 40)


def wrong_type(browser: Browser, client: redis.Redis) -> None:
    client.delete(browser.key)
    client.set(browser.key, "x")


def not_a_session(browser: Browser, client: redis.Redis) -> None:
    client.hdel(browser.key, TOKEN)


def does_not_decode(browser: Browser, client: redis.Redis) -> None:
    bound = browser.bound
    client.hset(browser.key, ".a", bound.seal(b".a", b"?"))


REJECTIONS: dict[str, tuple[Callable[[Browser, redis.Redis], None], str, str]] = {
    "no such session": (no_such_session, "no such session", "NotInBackend"),
    "ended": (has_ended, "session has ended", "NotInBackend"),
    "idle": (idle_too_long, "session has expired", "PayloadTimeout"),
    "absolute timeout": (absolute_timeout, "session has expired", "PayloadTimeout"),
    "deadline": (deadline, "session has expired", "PayloadTimeout"),
    "bad signature": (bad_signature, "no cookie of the session verifies", "BadCookie"),
    "foreign secret": (foreign_secret, "no cookie of the session verifies", "BadCookie"),
    "seal broken": (seal_broken, "seal broken", "DeserializationError"),
    "owner's seal broken": (owner_seal_broken, "seal broken", "DeserializationError"),
    "wrong type": (wrong_type, "not a session", "DeserializationError"),
    "not a session": (not_a_session, "not a session", "DeserializationError"),
    "does not decode": (does_not_decode, "a value does not decode", "DeserializationError"),
}


@pytest.mark.parametrize(("spoil", "reason", "kind"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejected_with_its_reason_to_subscriber_and_logger(
    redis_url: str,
    redis_client: redis.Redis,
    events: Events,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Browser, redis.Redis], None],
    reason: str,
    kind: str,
) -> None:
    browser = make_app(redis_url, events, absolute_timeout=86400)
    browser.use(lambda session: session.update(a=VALUE))
    session_id = browser.session_id or ""
    spoil(browser, redis_client)
    events.take()
    caplog.set_level("DEBUG")
    browser.use(dict)
    (event,) = events.take()
    assert type(event) is SessionRejected
    assert event.reason == reason
    assert events.logged == [event.problem]
    assert type(event.problem).__name__ == f"InvalidSession_{kind}"
    signed = kind != "BadCookie"
    assert event.fingerprint == (fingerprint(session_id) if signed else None)
    shown = f"{caplog.text} {event.problem!r} {event.problem} {event.reason} {vars(event)!r}"
    assert session_id not in shown
    assert VALUE not in shown


def test_rejected_when_changes_are_dropped(redis_url: str, events: Events) -> None:
    with Overlap(redis_url, configure=events.configure) as overlap:
        cookie = overlap.run(None, lambda session: session.update(a=1)).cookie
        slow = overlap.begin(cookie)
        slow.do(lambda session: session.update(a=2))
        overlap.run(cookie, lambda session: session.invalidate())
        events.take()
        slow.finish()
    (event,) = events.take()
    assert type(event) is SessionRejected
    assert event.reason == "session has ended; changes dropped"
    assert event.fingerprint == fingerprint(id_in(cookie))


def test_conflict_is_sent_with_its_reason(redis_url: str, events: Events) -> None:
    def count(session: Any) -> None:
        session["n"] = session.get("n", 0) + 1

    def sorry(request: Any) -> Response:
        return Response(status=409)

    def configure(config: Configurator) -> None:
        events.configure(config)
        config.add_exception_view(sorry, context=SessionConflict)

    with Overlap(redis_url, configure=configure, on_conflict="retry") as overlap:
        cookie = overlap.run(None, count).cookie
        slow = overlap.begin(cookie)
        slow.do(count)
        overlap.run(cookie, count)
        events.take()
        assert slow.finish().status == 409
    (event,) = events.take()
    assert (type(event), event.reason) == (SessionConflicted, "outdated")
    assert event.fingerprint == fingerprint(id_in(cookie))


def test_rejected_once_for_each_of_several_cookies(
    redis_url: str, redis_client: redis.Redis, events: Events
) -> None:
    browser = make_app(redis_url, events)
    one, two = browser.another(), browser.another()
    for user in (one, two):
        user.use(lambda session: session.update(a=1))
        redis_client.delete(user.key)
    header = "; ".join(f"session={user.app.cookies['session']}" for user in (one, two))
    events.take()
    browser.use(dict, headers={"Cookie": header})
    assert [event.fingerprint for event in events.take()] == [name_of(one), name_of(two)]


def test_expired_session_is_reported_in_lru_mode(
    redis_url: str, redis_client: redis.Redis, events: Events
) -> None:
    browser = make_app(redis_url, events, set_redis_ttl=False, absolute_timeout=3600, timeout=0)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 3601)
    events.take()
    browser.use(dict)
    assert [event.reason for event in events.take()] == ["session has expired"]


@pytest.mark.parametrize("options", [{}, {"set_redis_ttl": False}, {"timeout": 0}], ids=str)
def test_session_that_its_absolute_timeout_has_ended_is_reported_as_such(
    redis_url: str,
    redis_client: redis.Redis,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    browser = make_app(redis_url, events, absolute_timeout=3600, **options)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    browser.use(lambda session: session.update(a=1))
    monkeypatch.undo()
    let_time_pass(redis_client, browser.key, 3600)
    events.take()
    browser.use(dict)
    (event,) = events.take()
    assert event.reason == "absolute timeout has passed"
    assert type(event.problem) is InvalidSession_PayloadTimeout


def test_invalidated_session_is_announced_though_the_next_id_is_taken(
    redis_url: str, redis_client: redis.Redis, events: Events
) -> None:
    ids = iter(["one", "taken", "two"])
    browser = make_app(redis_url, events, id_generator=lambda: next(ids))
    browser.use(lambda session: session.update(a=1))
    redis_client.hset("session:taken", TOKEN, A_SESSION)
    events.take()
    browser.use(lambda session: (session.invalidate(), session.update(b=2)))
    kinds = {type(event): event.fingerprint for event in events.take()}
    assert kinds == {SessionInvalidated: fingerprint("one"), SessionCreated: fingerprint("two")}


# -- the subscriber ----------------------------------------------------------------


def test_subscriber_of_one_kind_gets_no_other(redis_url: str) -> None:
    seen: list[Any] = []
    browser = make_browser(
        redis_url, configure=lambda config: config.add_subscriber(seen.append, SessionInvalidated)
    )
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.regenerate_id())
    browser.use(lambda session: session.invalidate())
    assert [type(event) for event in seen] == [SessionInvalidated]


def test_events_show_no_id_and_no_value(browser: Browser, events: Events) -> None:
    browser.use(lambda session: setattr(session, "owner", VALUE))
    ids = [browser.session_id or ""]
    browser.use(lambda session: session.regenerate_id())
    ids.append(browser.session_id or "")
    browser.use(lambda session: session.invalidate())
    sent = events.take()
    assert len(sent) == 3
    for event in sent:
        held = {name: value for name, value in vars(event).items() if name != "request"}
        for secret in (*ids, VALUE):
            assert secret not in repr(held)
            assert secret not in repr(event)


def test_attempt_that_is_thrown_away_sends_nothing_before_it_saved(
    redis_url: str, events: Events
) -> None:
    browser = make_app(redis_url, events)

    def fails(request: Any) -> Response:
        request.session["a"] = 1
        request.session.regenerate_id()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        browser.visit(fails)
    assert "SessionCreated" not in events.take_kinds()
