"""Every kind of request: what there is before, and what it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import redis
from pyramid.response import Response

from pyramid_redis_lua_sessions import revoke, sessions_of
from pyramid_redis_lua_sessions.errors import StoreUnavailable
from tests.support.browser import SECRET, Browser, make_browser

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
    user.visit(look)  # brings the new cookie; the values are sealed anew when it comes back


def log_in(request: Any) -> None:
    request.session.owner = 7


def log_in_first(request: Any) -> None:
    request.session["name"] = "value"
    request.session.owner = 7


def write(request: Any) -> None:
    request.session["name"] = "other"
    request.session.pop("count", None)
    request.session["more"] = [1, 2]


def count(request: Any) -> None:
    request.session["count"] = request.session.get("count", 0) + 1


def regenerate(request: Any) -> None:
    count(request)
    request.session.regenerate_id()


def start_over(request: Any) -> None:
    request.session.invalidate()
    request.session["name"] = "new"


def recookie(request: Any) -> None:
    request.session.please_recookie()
    look(request)


def using(act: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda request: act(request.session)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of request.

    :ivar act: its view.
    :ivar after: what there is when it has had its effect; and what there was ``before``.
    :ivar prepare: makes what there was before; returns a cookie that is not in the jar, if any.
    :ivar ends: it ends the session, or replaces its token. Where no response comes of it, so
        that the browser keeps that, the session may be lost.
    :ivar stray: how many sessions may live until their timeout of which, as no reply came, nobody
        knows: an owner has none.
    """

    act: Callable[[Any], object]
    after: State
    before: State = START
    prepare: Callable[[Browser], str | None] = start
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    ends: bool = False
    stray: int = 0


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
        stray=1,
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
    "logout": Kind(using(lambda session: session.invalidate()), NOTHING),
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
        using(lambda session: session.ensure_id()), State({}), NOTHING, start_with_nothing, stray=1
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


def unavailable(config: Any) -> None:
    """An exception view, as any application should have one."""
    config.add_exception_view(
        lambda exc, request: Response("try again later", status=503), context=StoreUnavailable
    )


def state_of(user: Browser, client: redis.Redis, **options: Any) -> State:
    """What the user sees, and how many sessions live; nothing in Redis is half there.

    :param client: of the server, past any proxy.
    """
    seen: State = user.visit(look, **options)
    live = 0
    for key in client.keys(f"{user.factory.settings.prefix}*"):
        if client.type(key) == b"hash":
            token, moved = client.hmget(key, "@", "moved")
            assert (token is None) != (moved is None)
            assert client.pttl(key) > 0
            live += token is not None
    return dataclasses.replace(seen, live=live)
