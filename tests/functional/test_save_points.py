"""When a request's changes reach Redis, and where the errors of a save are seen."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from webtest import TestApp

from pyramid_redis_lua_sessions import (
    RedisSessionFactory,
    StoreError,
    StoreUnavailable,
    UnserializableValue,
)
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import (
    SECRET,
    data_fields,
    is_compact,
    make_app,
    set_cookies,
    stored_sessions,
)
from tests.support.browser import make_browser
from tests.support.traffic import call_names


class Boom(Exception):
    """What the views of these tests fail with."""


def write(request: Any) -> None:
    request.session["value"] = request.params.get("value", "first")


def read(request: Any) -> str:
    return str(request.session.get("value"))


def show(request: Any) -> str:
    """All keys and values, and the flash messages."""
    return f"{sorted(request.session.items())} {request.session.peek_flash()}"


VIEWS = {"write": write, "read": read, "show": show}


def boom_view(config: Any) -> None:
    config.add_exception_view(lambda exc, request: Response("boom", status=500), context=Boom)


def only(sessions: dict[str, dict[bytes, bytes]]) -> tuple[str, dict[bytes, bytes]]:
    (item,) = sessions.items()
    return item


# -- nothing before the view returned --------------------------------------------------

ACTS: dict[str, Callable[[Any], object]] = {
    "set": lambda session: session.update(value="second"),
    "delete": lambda session: session.pop("value"),
    "change in place": lambda session: session["list"].append(1),
    "clear": lambda session: session.clear(),
    "flash": lambda session: session.flash("message"),
    "pop_flash": lambda session: session.pop_flash(),
    "new csrf token": lambda session: session.new_csrf_token(),
    "invalidate": lambda session: session.invalidate(),
    "regenerate": lambda session: session.regenerate_id(),
    "adjust timeout": lambda session: session.adjust_session_timeout(60),
    "adjust expires": lambda session: session.adjust_session_expires(time.time() + 60),
    "changed": lambda session: (session["list"].append(1), session.changed()),
    "do_persist": lambda session: (session["list"].append(1), session.do_persist()),
}


def start(request: Any) -> None:
    request.session.update(value="first", list=[])
    request.session.flash("first")


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_nothing_is_saved_before_the_view_returned(
    proxy: CountingProxy, act: Callable[[Any], object]
) -> None:
    inside: list[int] = []

    def view(request: Any) -> None:
        act(request.session)
        inside.append(proxy.round_trips)

    app = make_app(proxy.url, {"start": start, "view": view})
    app.get("/start")
    proxy.reset()
    app.get("/view")
    # One look at content is one load; invalidate() looks at nothing.
    assert inside[0] <= 1
    assert proxy.round_trips == inside[0] + 1


def test_ensure_id_alone_creates_at_once(proxy: CountingProxy, redis_client: redis.Redis) -> None:
    inside: list[set[str]] = []

    def view(request: Any) -> None:
        request.session.ensure_id()
        inside.append(set(stored_sessions(redis_client)))

    make_app(proxy.url, {"view": view}).get("/view")
    assert inside == [set(stored_sessions(redis_client))]
    assert len(inside[0]) == 1


def test_save_happens_before_tweens_above_see_the_response(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS, configure=with_tween(over=EXCVIEW))
    app.get("/write?watch=1")
    assert WATCHED.pop() == 1


WATCHED: list[int] = []


def tween_factory(handler: Any, registry: Any) -> Any:
    """A tween of the application, that acts as the query string says."""

    def tween(request: Any) -> Any:
        response = handler(request)
        if "watch" in request.params:
            client = request.session.redis
            WATCHED.append(len(client.keys("*")))
        if "late" in request.params:
            request.session["late"] = "tween"
        return response

    return tween


def with_tween(**where: str) -> Callable[[Any], None]:
    def configure(config: Any) -> None:
        config.add_tween(f"{__name__}.tween_factory", **where)

    return configure


# -- late changes ----------------------------------------------------------------------


def test_changes_in_an_exception_view_are_saved_beside_those_of_the_view(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "before"
        raise Boom

    def render(exc: Any, request: Any) -> Response:
        request.session.flash("sorry")
        return Response("boom", status=500)

    def configure(config: Any) -> None:
        config.add_exception_view(render, context=Boom)

    app = make_app(redis_url, {**VIEWS, "fail": fail}, configure=configure)
    app.get("/fail", status=500)
    assert app.get("/show").text == "[('value', 'before')] ['sorry']"


@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
@pytest.mark.parametrize("change_before", [True, False], ids=["changed before", "only read before"])
def test_changes_in_a_later_response_callback_are_saved(
    redis_url: str, existing: bool, change_before: bool
) -> None:
    def view(request: Any) -> None:
        session = request.session
        if change_before:
            session["value"] = "view"
        else:
            session.get("value")

        def late(request: Any, response: Any) -> None:
            session["late"] = "callback"

            def later(request: Any, response: Any) -> None:
                session["later"] = "callback of the callback"

            request.add_response_callback(later)

        request.add_response_callback(late)

    app = make_app(redis_url, {**VIEWS, "view": view})
    if existing:
        app.get("/write")
    response = app.get("/view")
    assert len(set_cookies(response)) == (not existing)
    shown = app.get("/show").text
    assert "('late', 'callback')" in shown
    assert "('later', 'callback of the callback')" in shown
    if change_before:
        assert "('value', 'view')" in shown


@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
def test_changes_in_a_subscriber_of_new_response_are_saved(redis_url: str, existing: bool) -> None:
    def late(event: Any) -> None:
        if event.request.path == "/read":
            event.request.session["late"] = "subscriber"

    app = make_app(redis_url, VIEWS, configure=lambda c: c.add_subscriber(late, NewResponse))
    if existing:
        app.get("/write")
    assert len(set_cookies(app.get("/read"))) == (not existing)
    assert "('late', 'subscriber')" in app.get("/show").text


@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
@pytest.mark.parametrize("path", ["read", "write", "plain"])
def test_changes_in_a_tween_above_the_exception_views_are_saved(
    redis_url: str, existing: bool, path: str
) -> None:
    app = make_app(
        redis_url,
        {**VIEWS, "plain": lambda request: None},
        configure=with_tween(over=EXCVIEW),
    )
    if existing:
        app.get("/write")
    assert len(set_cookies(app.get(f"/{path}?late=1"))) == (not existing)
    assert "('late', 'tween')" in app.get("/show").text


def test_value_changed_in_place_after_the_save_is_saved_again(redis_url: str) -> None:
    def view(request: Any) -> None:
        request.session["value"] = basket = ["view"]
        request.add_response_callback(lambda request, response: basket.append("callback"))

    app = make_app(redis_url, {**VIEWS, "view": view})
    app.get("/view")
    assert app.get("/read").text == "['view', 'callback']"


def test_invalidate_in_a_late_callback_ends_what_was_saved(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["value"] = "second"
        request.add_response_callback(lambda request, response: session.invalidate())

    app = make_app(redis_url, {**VIEWS, "view": view})
    app.get("/write")
    (deletion,) = set_cookies(app.get("/view"))
    assert deletion.deletes
    assert stored_sessions(redis_client) == {}


def test_invalidate_in_a_late_callback_ends_the_session_that_this_request_made(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["value"] = "second"
        request.add_response_callback(lambda request, response: session.invalidate())

    app = make_app(redis_url, {**VIEWS, "view": view})
    assert not any(cookie.value for cookie in set_cookies(app.get("/view")))
    assert stored_sessions(redis_client) == {}


def test_one_save_only_when_nothing_changes_late(proxy: CountingProxy) -> None:
    def view(request: Any) -> None:
        request.session["value"].append(1)

    def make(request: Any) -> None:
        request.session["value"] = []

    app = make_app(proxy.url, {"make": make, "view": view}, configure=with_tween(over=EXCVIEW))
    proxy.reset()
    app.get("/make")
    assert proxy.command_names.count("EVALSHA") == 1
    proxy.reset()
    app.get("/view")
    assert call_names(proxy) == ["EVALSHA", "EVALSHA"]


# -- exceptions as answers -------------------------------------------------------------


def test_raised_redirect_saves(redis_url: str, redis_client: redis.Redis) -> None:
    seen: list[set[bytes]] = []

    def go(request: Any) -> None:
        request.session["value"] = "kept"
        raise HTTPFound("/read")

    def tween_view(exc: Any, request: Any) -> Any:
        # It is saved before the exception view renders it: errors are seen there.
        seen.append(data_fields(only(stored_sessions(redis_client))[1]))
        return exc

    app = make_app(
        redis_url,
        {**VIEWS, "go": go},
        configure=lambda c: c.add_exception_view(tween_view, context=HTTPFound),
        save_on_exception="false",
        cookie_on_exception="false",
    )
    assert app.get("/go", status=302).follow().text == "kept"
    assert seen == [{b".value"}]


@pytest.mark.parametrize("save_on_exception", ["true", "false"])
@pytest.mark.parametrize("configure", [None, boom_view], ids=["uncaught", "exception view"])
def test_save_on_exception_decides_about_the_changes_of_an_existing_session(
    redis_url: str, save_on_exception: str, configure: Callable[[Any], None] | None
) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "second"
        raise Boom

    app = make_app(
        redis_url,
        {**VIEWS, "fail": fail},
        configure=configure,
        save_on_exception=save_on_exception,
    )
    app.get("/write")
    if configure is None:
        with pytest.raises(Boom):
            app.get("/fail")
    else:
        app.get("/fail", status=500)
    assert app.get("/read").text == ("second" if save_on_exception == "true" else "first")


def test_raised_error_response_counts_as_exception(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "second"
        raise HTTPNotFound

    app = make_app(redis_url, {**VIEWS, "fail": fail}, save_on_exception="false")
    app.get("/write")
    app.get("/fail", status=404)
    assert app.get("/read").text == "first"


def test_returned_error_response_does_not_count_as_exception(redis_url: str) -> None:
    def missing(request: Any) -> Response:
        request.session["value"] = "second"
        return Response("none", status=404)

    app = make_app(redis_url, {**VIEWS, "missing": missing}, save_on_exception="false")
    app.get("/write")
    app.get("/missing", status=404)
    assert app.get("/read").text == "second"


def test_unhandled_exception_saves_nothing_for_a_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "new"
        raise Boom

    with pytest.raises(Boom):
        make_app(redis_url, {"fail": fail}).get("/fail")
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize("save_on_exception", ["true", "false"])
@pytest.mark.parametrize("configure", [None, boom_view], ids=["uncaught", "exception view"])
def test_invalidate_is_executed_even_if_the_request_then_fails(
    redis_url: str,
    redis_client: redis.Redis,
    save_on_exception: str,
    configure: Callable[[Any], None] | None,
) -> None:
    def fail(request: Any) -> None:
        request.session.invalidate()
        raise Boom

    app = make_app(
        redis_url,
        {**VIEWS, "fail": fail},
        configure=configure,
        save_on_exception=save_on_exception,
    )
    app.get("/write")
    if configure is None:
        with pytest.raises(Boom):
            app.get("/fail")
    else:
        app.get("/fail", status=500)
    assert stored_sessions(redis_client) == {}
    assert app.get("/read").text == "None"


def test_invalidate_is_executed_even_if_the_save_fails(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def fail(request: Any) -> None:
        request.session.invalidate()
        request.session["value"] = lambda: None

    app = make_app(redis_url, {**VIEWS, "fail": fail})
    app.get("/write")
    with pytest.raises(UnserializableValue):
        app.get("/fail")
    assert stored_sessions(redis_client) == {}


def test_invalidate_is_executed_even_if_redis_refuses_the_session_that_follows(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def renew(request: Any) -> None:
        request.session.invalidate()
        request.session["value"] = "second"

    # A generator that repeats itself: the new session finds its id taken.
    app = make_app(redis_url, {**VIEWS, "renew": renew}, id_generator=lambda: "always the same")
    app.get("/write")
    with pytest.raises(StoreError):
        app.get("/renew")
    assert stored_sessions(redis_client) == {}


# -- errors of the save ----------------------------------------------------------------


def error_view(seen: list[Any]) -> Callable[[Any], None]:
    def render(exc: Any, request: Any) -> Response:
        seen.append(exc)
        return Response("save failed", status=503)

    def configure(config: Any) -> None:
        config.add_exception_view(render, context=Exception)

    return configure


@pytest.mark.parametrize("raised", [False, True], ids=["returned", "raised redirect"])
def test_unserializable_value_reaches_the_exception_view_and_changes_nothing(
    redis_url: str, redis_client: redis.Redis, raised: bool
) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "second"
        request.session["the culprit"] = lambda: None
        if raised:
            raise HTTPFound("/read")

    seen: list[Any] = []
    app = make_app(redis_url, {**VIEWS, "fail": fail}, configure=error_view(seen))
    app.get("/write")
    before = stored_sessions(redis_client)
    app.get("/fail", status=503)
    (error,) = seen
    assert isinstance(error, UnserializableValue)
    assert error.key == "the culprit"
    assert "the culprit" in str(error)
    assert stored_sessions(redis_client) == before


def test_unserializable_value_in_a_new_session_stores_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "fine"
        request.session["culprit"] = lambda: None

    seen: list[Any] = []
    app = make_app(redis_url, {"fail": fail}, configure=error_view(seen))
    assert set_cookies(app.get("/fail", status=503)) == []
    assert [type(error) for error in seen] == [UnserializableValue]
    assert redis_client.dbsize() == 0


def test_value_that_became_unserializable_in_place_names_its_key(redis_url: str) -> None:
    def make(request: Any) -> None:
        request.session["basket"] = []

    def fail(request: Any) -> None:
        request.session["basket"].append(lambda: None)

    seen: list[Any] = []
    app = make_app(redis_url, {"make": make, "fail": fail}, configure=error_view(seen))
    app.get("/make")
    app.get("/fail", status=503)
    assert [error.key for error in seen] == ["basket"]


def test_exception_view_of_a_failed_save_can_still_flash(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = lambda: None

    def render(exc: Any, request: Any) -> Response:
        request.session.flash("could not be saved")
        return Response("save failed", status=500)

    def configure(config: Any) -> None:
        config.add_exception_view(render, context=UnserializableValue)

    app = make_app(redis_url, {**VIEWS, "fail": fail}, configure=configure)
    app.get("/write")
    app.get("/fail", status=500)
    assert app.get("/show").text == "[('value', 'first')] ['could not be saved']"


@pytest.mark.parametrize("moment", ["load", "save", "create"])
def test_redis_that_is_down_reaches_the_exception_view(
    new_redis_server: Callable[..., RedisServer], moment: str
) -> None:
    server = new_redis_server()

    def view(request: Any) -> None:
        if moment != "create":
            assert request.session["value"] == "first"
        request.session["value"] = "second"
        server.kill()

    seen: list[Any] = []
    app = make_app(server.url, {**VIEWS, "view": view}, configure=error_view(seen))
    if moment != "create":
        app.get("/write")
    if moment == "load":
        server.kill()
    assert set_cookies(app.get("/view", status=503)) == []
    assert [type(error) for error in seen] == [StoreUnavailable]


def test_redis_that_is_down_does_not_hide_the_applications_own_exception(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()

    def fail(request: Any) -> None:
        request.session["value"] = "second"
        server.kill()
        raise Boom

    app = make_app(server.url, {**VIEWS, "fail": fail})
    app.get("/write")
    with pytest.raises(Boom):
        app.get("/fail")


def test_redis_that_is_down_does_not_disturb_a_view_that_ignores_the_session(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    app = make_app(server.url, {**VIEWS, "plain": lambda request: "plain"})
    app.get("/write")
    server.kill()
    assert app.get("/plain").text == "plain"


# -- without includeme -----------------------------------------------------------------


def test_factory_that_is_set_without_includeme_saves_in_the_response_callback(
    redis_url: str,
) -> None:
    config = Configurator()
    config.set_session_factory(RedisSessionFactory(SECRET, redis_url=redis_url))
    for name, view in {"write": write, "show": show}.items():
        config.add_route(name, "/" + name)
        config.add_view(lambda request, view=view: Response(str(view(request))), route_name=name)
    app = TestApp(config.make_wsgi_app())
    assert len(set_cookies(app.get("/write", {"value": "1"}))) == 1
    app.get("/write", {"value": "2"})
    assert app.get("/show").text == "[('value', '2')] []"


def test_quick_saves_leave_a_typical_session_compact(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # What recognises repeated saves stays within what Redis keeps in a listpack.
    browser = make_browser(redis_url)
    typical = {
        "user_id": 48_213,
        "_csrft_": "x" * 43,
        "name": "Ada Lovelace",
        "language": "en",
        "groups": ["editor", "staff", "member"],
        "seen": 1_767_225_600.25,
    }
    browser.use(lambda session: session.update(typical))
    for number in range(200):
        browser.use(lambda session, number=number: session.update(seen=number))
        assert is_compact(redis_client, browser.key), number
