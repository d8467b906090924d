"""Every fault on the wire, at every call of every kind of request.

Either the request has its effect, exactly once, or it fails with ``StoreUnavailable``; and the
next request works. With one retry, which is the default, one fault is no failure at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pyramid.response import Response

from pyramid_redis_lua_sessions import revoke, sessions_of
from pyramid_redis_lua_sessions.errors import StoreUnavailable
from tests.functional.test_migrate import psr, servers
from tests.support.app import SECRET, Browser, make_browser
from tests.support.faults import FAULTS, FaultProxy
from tests.support.predecessors import SECRET as OLD_SECRET

__all__ = ["psr", "servers"]  # fixtures

#: Of the faults, those that a client only learns of when its patience ends, after so many seconds.
SLOW = ("stall", "late")
SHORT = 0.3

TIMEOUT = 1200

NEW_SECRET = "a newer secret of the tests, more than 32 bytes long"


@dataclasses.dataclass(frozen=True)
class State:
    """What a user sees of a session, and how many sessions live in Redis."""

    values: dict[Any, Any]
    flash: tuple[Any, ...] = ()
    timeout: int = TIMEOUT
    owner: Any = None
    live: int = 1


VALUES = {"name": "value", "count": 1}
START = State(VALUES)
NOTHING = State({}, live=0)
OWNED = State(VALUES, owner=7)
OWNED_TWICE = State(VALUES, owner=7, live=2)


def look(request: Any) -> State:
    session = request.session
    flash = tuple(session.peek_flash())
    return State(dict(session), flash, session.timeout, session.owner)


def start_with_nothing(user: Browser) -> None:
    pass


def start(user: Browser) -> None:
    user.use(lambda session: session.update(VALUES))


def start_with_flash(user: Browser) -> None:
    start(user)
    user.use(lambda session: session.flash("hello"))


def start_logged_in(user: Browser) -> None:
    start(user)
    user.visit(log_in)


def start_logged_in_twice(user: Browser) -> None:
    start_logged_in(user.another())
    start_logged_in(user)


def start_before_rotation(user: Browser) -> None:
    settings = user.factory.settings
    old = make_browser(settings.redis_url, secret=SECRET, prefix=settings.prefix)
    start(old)
    for cookie in old.app.cookiejar:
        user.app.cookiejar.set_cookie(cookie)


def log_in(request: Any) -> None:
    request.session.owner = 7


def log_in_first(request: Any) -> None:
    request.session["name"] = "value"
    request.session.owner = 7


def write(request: Any) -> None:
    request.session["name"] = "other"
    del request.session["count"]
    request.session["more"] = [1, 2]


def count(request: Any) -> None:
    request.session["count"] += 1


def regenerate(request: Any) -> None:
    count(request)
    request.session.regenerate_id()


def start_over(request: Any) -> None:
    request.session.invalidate()
    request.session["name"] = "new"


def recookie(request: Any) -> None:
    request.session.please_recookie()
    assert request.session["name"] == "value"


def using(act: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda request: act(request.session)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of request.

    :ivar act: its view.
    :ivar after: what there is when it has had its effect; and what there was ``before``.
    :ivar prepare: makes what there was before; returns a cookie that is not in the jar, if any.
    :ivar ends: it ends the old id. Where no response comes of it, so that the browser keeps
        that, the session may be lost.
    """

    act: Callable[[Any], object]
    after: State
    before: State = START
    prepare: Callable[[Browser], str | None] = start
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    ends: bool = False


RETRY = {"on_conflict": "retry"}
COUNTED = State({**VALUES, "count": 2})

KINDS = {
    "read": Kind(look, START),
    "first read": Kind(look, START, settings={"first_timeout": 60}),
    "first write": Kind(
        using(lambda session: session.update(name="value")),
        State({"name": "value"}),
        NOTHING,
        start_with_nothing,
    ),
    "write": Kind(write, State({"name": "other", "more": [1, 2]})),
    "read and write in retry mode": Kind(count, COUNTED, settings=RETRY),
    "adjust timeout": Kind(
        using(lambda session: session.adjust_session_timeout(900)), State(VALUES, timeout=900)
    ),
    "regenerate": Kind(regenerate, COUNTED, ends=True),
    "regenerate in retry mode": Kind(regenerate, COUNTED, settings=RETRY, ends=True),
    "login": Kind(log_in, OWNED, ends=True),
    "login without a session": Kind(
        log_in_first, State({"name": "value"}, owner=7), NOTHING, start_with_nothing
    ),
    "logout": Kind(using(lambda session: session.invalidate()), NOTHING, ends=True),
    "logout and a new session": Kind(start_over, State({"name": "new"}), ends=True),
    "recookie": Kind(recookie, START),
    "flash": Kind(using(lambda session: session.flash("hello")), State(VALUES, ("hello",))),
    "pop_flash": Kind(
        using(lambda session: session.pop_flash()),
        START,
        State(VALUES, ("hello",)),
        start_with_flash,
    ),
    "clear": Kind(
        using(lambda session: session.clear()),
        NOTHING,
        settings={"invalidate_empty_session": True},
        ends=True,
    ),
    "ensure_id": Kind(
        using(lambda session: session.ensure_id()), State({}), NOTHING, start_with_nothing
    ),
    "sessions_of": Kind(
        lambda request: sessions_of(request, 7), OWNED_TWICE, OWNED_TWICE, start_logged_in_twice
    ),
    "revoke": Kind(lambda request: revoke(request, 7), OWNED, OWNED_TWICE, start_logged_in_twice),
    "rotation of secrets": Kind(
        look,
        START,
        prepare=start_before_rotation,
        settings={"secret": f"\n{NEW_SECRET}\n{SECRET}\n"},
    ),
}


def with_next(state: State) -> State:
    return dataclasses.replace(state, values={**state.values, "next": 1}, live=max(1, state.live))


def write_next(session: Any) -> None:
    session["next"] = 1


def unavailable(config: Any) -> None:
    config.add_exception_view(
        lambda exc, request: Response("try again later", status=503), context=StoreUnavailable
    )


class Trial:
    """One kind of request, one fault: at the first call, then at the second, and so on.

    :param client: of the server, past the proxy.
    """

    def __init__(
        self, kind: Kind, fault: str, retries: int, client: redis.Redis, prefix: str = "session:"
    ) -> None:
        self.kind = kind
        self.fault = fault
        self.retries = retries
        self.client = client
        self.prefix = prefix
        self.proxy = FaultProxy(client.connection_pool.connection_kwargs["port"]).start()
        self.browser = make_browser(
            self.proxy.url,
            configure=unavailable,
            prefix=prefix,
            redis_retries=retries,
            socket_timeout=SHORT if fault in SLOW else 10,
            **kind.settings,
        )

    def run(self) -> int:
        """:returns: how many calls were struck."""
        nth = 0
        try:
            struck = True
            while struck:
                nth += 1
                for key in self.client.keys(f"{self.prefix}*"):
                    self.client.delete(key)
                user = self.browser.another()
                cookie = self.kind.prepare(user)
                self.proxy.strike(self.fault, nth)
                struck = self.check(user, {"headers": {"Cookie": cookie}} if cookie else {})
        finally:
            self.proxy.close()
        return nth - 1

    def check(self, user: Browser, options: dict[str, Any]) -> bool:
        """Make the request, and judge what became of it.

        :param options: of requests, as long as the user has no cookie of ours.
        :returns: whether the fault has happened before it was over.
        """
        kind = self.kind
        try:
            user.visit(kind.act, status="*", **options)
            failed = user.response.status_int != 200
            assert not failed or user.response.status_int == 503
        except StoreUnavailable:  # from a response callback
            failed = True
        struck = self.proxy.has_struck
        self.proxy.heal()
        if self.retries or self.fault == "delay" or not struck:
            assert not failed

        outcomes = [kind.after]
        if failed:
            outcomes += [kind.before, NOTHING] if kind.ends else [kind.before]
        seen = self.state_of(user, {} if user.app.cookies else options)
        assert_one_of(outcomes, seen, failed)

        if failed and kind.ends and not seen.values:
            # The old id has ended, and no cookie came for the new one: the user logs in again.
            user.use(lambda session: session.regenerate_id() or write_next(session))
        else:
            user.use(write_next, **({} if user.app.cookies else options))
        outcomes = [with_next(seen)]
        assert_one_of(outcomes, self.state_of(user), failed)

        self.proxy.deliver_late()
        if failed:
            # Only now it has its effect: once, as any slow request.
            outcomes += [with_next(kind.after), with_next(kind.before)]
            outcomes += [NOTHING] if kind.ends else []
        assert_one_of(outcomes, self.state_of(user), failed)
        return struck

    def state_of(self, user: Browser, options: dict[str, Any] | None = None) -> State:
        """What the user sees; nothing in Redis is half there."""
        seen: State = user.visit(look, **(options or {}))
        live = 0
        for key in self.client.keys(f"{self.prefix}*"):
            if self.client.type(key) == b"hash":
                created, moved = self.client.hmget(key, "created", "moved")
                assert (created is None) != (moved is None)
                assert self.client.pttl(key) > 0
                live += created is not None
        return dataclasses.replace(seen, live=live)


def assert_one_of(outcomes: list[State], seen: State, failed: bool) -> None:
    if not failed:
        assert [seen] == outcomes
        return
    # What nobody knows of may live until its timeout: one new id at most.
    assert seen.live <= max(state.live for state in outcomes) + 1
    assert seen in [dataclasses.replace(state, live=seen.live) for state in outcomes]


def try_every_fault(kind: Kind, client: redis.Redis) -> int:
    """Try all faults side by side, as most of the time is spent waiting.

    :returns: how many calls were struck.
    """
    trials = {
        f"{fault}, {retries} retries": Trial(kind, fault, retries, client, f"{fault}{retries}:")
        for fault in FAULTS
        for retries in (0, 1)
    }
    with ThreadPoolExecutor(len(trials)) as pool:
        running = {name: pool.submit(trial.run) for name, trial in trials.items()}
    failures = {name: ran.exception() for name, ran in running.items() if ran.exception()}
    assert failures == {}
    struck = {ran.result() for ran in running.values()}
    assert len(struck) == 1
    return struck.pop()


@pytest.mark.parametrize("name", KINDS)
def test_request_has_its_effect_once_or_fails_cleanly(
    name: str, redis_url: str, redis_client: redis.Redis
) -> None:
    assert try_every_fault(KINDS[name], redis_client) > 0


def test_session_of_another_library_moves_once_or_fails_cleanly(
    psr: Any, redis_client: redis.Redis
) -> None:
    old: dict[str, tuple[str, dict[bytes, bytes]]] = {}

    def start(user: Browser) -> str:
        cookie, stored = old[user.factory.settings.prefix]
        for key, value in stored.items():
            redis_client.set(key, value, ex=1200)
        return cookie

    for fault in FAULTS:
        for retries in (0, 1):
            redis_client.flushdb()
            one = psr()
            one.do(f"session.update({VALUES!r})")
            stored = {key: redis_client.get(key) for key in redis_client.keys()}
            old[f"{fault}{retries}:"] = (str(one.cookie), stored)
    settings = {"secret": OLD_SECRET, "migrate_from": "pyramid_session_redis"}
    assert try_every_fault(Kind(look, START, START, start, settings), redis_client) > 2
