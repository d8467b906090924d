"""A session while the body of the response streams: the request is over, and nothing is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pyramid.request import Request
from pyramid.response import Response

from tests.support.application import make_app, stored_sessions

CHANGES: dict[str, Callable[[Any], object]] = {
    "assign": lambda session: session.__setitem__("value", "streamed"),
    "delete": lambda session: session.__delitem__("value"),
    "setdefault": lambda session: session.setdefault("other", 1),
    "update": lambda session: session.update(other=1),
    "pop": lambda session: session.pop("value"),
    "popitem": lambda session: session.popitem(),
    "clear": lambda session: session.clear(),
    "or": lambda session: session.__ior__({"other": 1}),
    "managed_dict": lambda session: session.managed_dict,
    "changed": lambda session: session.changed(),
    "do_persist": lambda session: session.do_persist(),
    "flash": lambda session: session.flash("streamed"),
    "pop_flash": lambda session: session.pop_flash(),
    "pop_flash of an empty queue": lambda session: session.pop_flash("other"),
    "new_csrf_token": lambda session: session.new_csrf_token(),
    "invalidate": lambda session: session.invalidate(),
    "regenerate_id": lambda session: session.regenerate_id(),
    "owner": lambda session: setattr(session, "owner", "ann"),
    "no owner": lambda session: setattr(session, "owner", None),
    "label": lambda session: setattr(session, "label", "here"),
    "adjust_session_timeout": lambda session: session.adjust_session_timeout(60),
    "adjust_session_expires": lambda session: session.adjust_session_expires(4e9),
    "please_recookie": lambda session: session.please_recookie(),
    "adjust_cookie_max_age": lambda session: session.adjust_cookie_max_age(60),
    "adjust_cookie_expires": lambda session: session.adjust_cookie_expires(None),
}

READS: dict[str, Callable[[Any], object]] = {
    "get": lambda session: session["value"],
    "contains": lambda session: "value" in session,
    "items": lambda session: list(session.items()),
    "pop of nothing": lambda session: session.pop("other", None),
    "setdefault of what is there": lambda session: session.setdefault("value", 1),
    "peek_flash": lambda session: session.peek_flash(),
    "get_csrf_token": lambda session: session.get_csrf_token(),
    "owner": lambda session: session.owner,
    "session_id": lambda session: session.session_id,
    "ended": lambda session: session.ended,
    "timeout": lambda session: session.timeout,
}


class Lost(Exception):
    """What a view fails with, to be rendered by a view that streams."""


def start(request: Any) -> None:
    request.session["value"] = "first"
    request.session.flash("hello")


def streaming(
    url: str, act: Callable[[Any], object], before: Callable[[Any], object], raised: bool = False
) -> tuple[Any, list[Any]]:
    """An application that acts on its session while it streams, and what came of that."""
    seen: list[Any] = []

    def body(request: Any) -> Iterator[bytes]:
        yield b"one"
        try:
            seen.append(act(request.session))
        except Exception as exc:
            seen.append(exc)
        yield b"two"

    def view(request: Any) -> Response:
        before(request)
        if raised:
            raise Lost
        return Response(app_iter=body(request))

    def configure(config: Any) -> None:
        config.add_exception_view(
            lambda exc, request: Response(app_iter=body(request)), context=Lost
        )

    return make_app(url, {"start": start, "view": view}, configure=configure), seen


BEFORE: dict[str, Callable[[Any], object]] = {
    "untouched": lambda request: None,
    "asked for": lambda request: request.session,
    "looked at": lambda request: request.session["value"],
    "changed": lambda request: request.session.update(value="view"),
}


@pytest.mark.parametrize("raised", [False, True], ids=["returned", "rendered"])
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES.keys())
def test_change_while_the_body_streams_is_an_error(
    redis_url: str,
    redis_client: redis.Redis,
    act: Callable[[Any], object],
    before: Callable[[Any], object],
    raised: bool,
) -> None:
    app, seen = streaming(redis_url, act, before, raised)
    app.get("/start")
    assert app.get("/view").text == "onetwo"
    assert [type(error) for error in seen] == [RuntimeError]
    assert "over" in str(seen[0])
    assert len(stored_sessions(redis_client)) == 1
    assert app.get("/view").text == "onetwo"  # nor was it logged out


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES.keys())
def test_change_while_the_body_streams_for_a_visitor_without_a_session_is_an_error(
    redis_url: str, redis_client: redis.Redis, act: Callable[[Any], object]
) -> None:
    app, seen = streaming(redis_url, act, lambda request: "value" in request.session)
    app.get("/view")
    assert [type(error) for error in seen] == [RuntimeError] or isinstance(seen[0], KeyError)
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("act", READS.values(), ids=READS.keys())
def test_what_was_loaded_can_be_read_while_the_body_streams(
    redis_url: str, act: Callable[[Any], object]
) -> None:
    app, seen = streaming(redis_url, act, lambda request: inside.append(act(request.session)))
    inside: list[Any] = []
    app.get("/start")
    app.get("/view")
    assert seen == inside


@pytest.mark.parametrize("act", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("before", ["untouched", "asked for"])
def test_first_look_while_the_body_streams_is_an_error(
    redis_url: str, before: str, act: Callable[[Any], object]
) -> None:
    app, seen = streaming(redis_url, act, BEFORE[before])
    app.get("/start")
    app.get("/view")
    assert [type(error) for error in seen] == [RuntimeError]


def test_session_of_a_subrequest_is_over_with_it(redis_url: str) -> None:
    seen: list[Any] = []

    def outer(request: Any) -> str:
        inner = Request.blank("/start", cookies=request.cookies)
        request.invoke_subrequest(inner, use_tweens=True)
        with pytest.raises(RuntimeError):
            inner.session["value"] = "lost"
        request.session["value"] = "outer"
        seen.append(inner.session["value"])
        return "done"

    app = make_app(redis_url, {"start": start, "outer": outer})
    app.get("/start")
    app.get("/outer")
    assert seen == ["first"]


def test_session_is_not_over_in_what_runs_last(redis_url: str) -> None:
    # A NewResponse subscriber and a finished callback use it first, when the view has answered.
    def count(request: Any) -> None:
        session = request.session
        session["n"] = session.get("n", 0) + 1

    def configure(config: Any) -> None:
        config.add_subscriber(
            lambda event: event.request.add_finished_callback(count), "pyramid.events.NewRequest"
        )

    app = make_app(redis_url, {"start": start, "quiet": lambda request: None}, configure=configure)
    app.get("/start")
    app.get("/quiet")
    app.get("/quiet")
    found = make_app(redis_url, {"n": lambda request: str(request.session["n"])})
    found.set_cookie("session", app.cookies["session"])
    assert found.get("/n").text == "3"
