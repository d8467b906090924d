"""No session is stored whose id no browser ever learns."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from webtest import TestApp

from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import make_app, set_cookies, stored_sessions
from tests.support.browser import Reports

ALLOW = "pyramid_redis_lua_sessions.check_response_allow_cookies"


class Boom(Exception):
    """What the views of these tests fail with."""


def boom_view(config: Any) -> None:
    """Render the failure with an exception view."""
    config.add_exception_view(lambda exc, request: Response("boom", status=500), context=Boom)


def late_failure_factory(handler: Any, registry: Any) -> Any:
    """A tween of the application, above the session's own, that fails on ``?late``."""

    def late_failure(request: Any) -> Any:
        response = handler(request)
        if "late" in request.params:
            raise Boom
        return response

    return late_failure


def late_failure(config: Any) -> None:
    boom_view(config)
    config.add_tween(
        f"{__name__}.late_failure_factory",
        under=EXCVIEW,
        over="pyramid_redis_lua_sessions.tween.session_tween_factory",
    )


def fail(request: Any) -> None:
    request.session["value"] = "new"
    raise Boom


def write(request: Any) -> None:
    request.session["value"] = "first"


def cached(request: Any) -> Response:
    request.session["value"] = "new"
    return Response("ok", cache_control="public")


def read(request: Any) -> str:
    return str(request.session.get("value"))


def uncaught(app: TestApp, path: str) -> None:
    with pytest.raises(Boom):
        app.get(path)


# -- a new session whose cookie cannot be delivered ------------------------------------


def test_cacheable_response_stores_no_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    reports = Reports()
    app = make_app(
        redis_url,
        {"cached": cached},
        func_check_response_allow_cookies=ALLOW,
        func_invalid_logger=reports,
    )
    assert set_cookies(app.get("/cached")) == []
    assert redis_client.dbsize() == 0
    assert len(reports.problems) == 1  # changes were lost, so somebody is told


def test_response_made_cacheable_by_a_late_callback_leaves_no_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        request.session["value"] = "new"

        def cache(request: Any, response: Any) -> None:
            response.cache_control = "public"

        request.add_response_callback(cache)

    app = make_app(redis_url, {"view": view}, func_check_response_allow_cookies=ALLOW)
    assert set_cookies(app.get("/view")) == []
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("configure", [None, boom_view], ids=["uncaught", "exception view"])
def test_failed_request_stores_no_new_session_when_cookie_on_exception_is_off(
    redis_url: str, redis_client: redis.Redis, configure: Callable[[Any], None] | None
) -> None:
    app = make_app(redis_url, {"fail": fail}, configure=configure, cookie_on_exception="false")
    if configure is None:
        uncaught(app, "/fail")
    else:
        assert set_cookies(app.get("/fail", status=500)) == []
    assert redis_client.dbsize() == 0


def test_failure_after_the_save_point_leaves_no_new_session_when_cookie_on_exception_is_off(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"write": write}, configure=late_failure, cookie_on_exception="false")
    assert set_cookies(app.get("/write?late=1", status=500)) == []
    assert stored_sessions(redis_client) == {}


def test_failure_after_the_save_point_delivers_the_cookie_by_default(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"write": write, "read": read}, configure=late_failure)
    assert len(set_cookies(app.get("/write?late=1", status=500))) == 1
    assert app.get("/read").text == "first"


@pytest.mark.parametrize("cookie_on_exception", ["true", "false"])
def test_uncaught_exception_stores_no_new_session(
    redis_url: str, redis_client: redis.Redis, cookie_on_exception: str
) -> None:
    app = make_app(redis_url, {"fail": fail}, cookie_on_exception=cookie_on_exception)
    uncaught(app, "/fail")
    assert redis_client.dbsize() == 0


def test_uncaught_exception_above_the_save_point_leaves_no_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def configure(config: Any) -> None:
        # Over EXCVIEW no exception view sees it.
        config.add_tween(f"{__name__}.late_failure_factory", over=EXCVIEW)

    app = make_app(redis_url, {"write": write}, configure=configure)
    uncaught(app, "/write?late=1")
    assert stored_sessions(redis_client) == {}


def test_failing_response_callback_leaves_no_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        def broken(request: Any, response: Any) -> None:
            raise Boom

        request.add_response_callback(broken)
        request.session["value"] = "new"

    uncaught(make_app(redis_url, {"view": view}), "/view")
    assert stored_sessions(redis_client) == {}


def test_failing_subscriber_of_new_response_leaves_no_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # The cookie stood in a response that is never sent.
    def configure(config: Any) -> None:
        def broken(event: Any) -> None:
            raise Boom

        config.add_subscriber(broken, "pyramid.events.NewResponse")

    uncaught(make_app(redis_url, {"write": write}, configure=configure), "/write")
    assert stored_sessions(redis_client) == {}


# -- ensure_id creates at once ---------------------------------------------------------


def ensure(request: Any) -> str:
    return str(request.session.ensure_id())


def ensure_and_fail(request: Any) -> None:
    request.session.ensure_id()
    raise Boom


def ensure_and_cache(request: Any) -> Response:
    return Response(str(request.session.ensure_id()), cache_control="public")


def test_ensure_id_on_an_empty_session_sends_its_cookie(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"ensure": ensure, "read": read})
    response = app.get("/ensure")
    assert set(stored_sessions(redis_client)) == {response.text}
    assert len(set_cookies(response)) == 1
    # It is the browser's session from now on: the next request neither makes nor drops one.
    assert app.get("/ensure").text == response.text
    assert len(stored_sessions(redis_client)) == 1


def test_ensure_id_on_a_cacheable_response_leaves_no_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"view": ensure_and_cache}, func_check_response_allow_cookies=ALLOW)
    assert set_cookies(app.get("/view")) == []
    assert stored_sessions(redis_client) == {}


def test_ensure_id_in_a_request_that_fails_uncaught_leaves_no_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    uncaught(make_app(redis_url, {"view": ensure_and_fail}), "/view")
    assert stored_sessions(redis_client) == {}


def test_ensure_id_in_a_request_that_fails_leaves_no_session_when_cookie_on_exception_is_off(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(
        redis_url, {"view": ensure_and_fail}, configure=boom_view, cookie_on_exception="false"
    )
    assert set_cookies(app.get("/view", status=500)) == []
    assert stored_sessions(redis_client) == {}


def test_ensure_id_in_a_request_that_fails_sends_its_cookie_by_default(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"view": ensure_and_fail}, configure=boom_view)
    assert len(set_cookies(app.get("/view", status=500))) == 1
    assert len(stored_sessions(redis_client)) == 1


def test_ensured_session_that_is_invalidated_again_leaves_none(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        request.session.ensure_id()
        request.session.invalidate()

    make_app(redis_url, {"view": view}).get("/view")
    assert stored_sessions(redis_client) == {}


def test_ensured_session_whose_data_follow_is_one_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> str:
        session_id = str(request.session.ensure_id())
        request.session["value"] = "late"
        return session_id

    app = make_app(redis_url, {"view": view, "read": read})
    response = app.get("/view")
    assert set(stored_sessions(redis_client)) == {response.text}
    assert len(set_cookies(response)) == 1
    assert app.get("/read").text == "late"


# -- anonymous visitors ----------------------------------------------------------------


def set_and_delete(session: Any) -> None:
    session["value"] = 1
    del session["value"]


HARMLESS: dict[str, Callable[[Any], object]] = {
    "read": lambda session: session.get("value"),
    "in": lambda session: "value" in session,
    "iterate": list,
    "copy": lambda session: session.copy(),
    "managed_dict": lambda session: session.managed_dict,
    "pop_flash": lambda session: session.pop_flash(),
    "peek_flash": lambda session: session.peek_flash("queue"),
    "pop": lambda session: session.pop("value", None),
    "clear": lambda session: session.clear(),
    "changed": lambda session: session.changed(),
    "safecheck": lambda session: session.session_id_safecheck,
    "session_id": lambda session: session.session_id,
    "regenerate_id": lambda session: session.regenerate_id(),
    "invalidate": lambda session: session.invalidate(),
    "set and delete": set_and_delete,
    "flash and pop": lambda session: (session.flash("message"), session.pop_flash()),
    "set and invalidate": lambda session: (session.update(a=1), session.invalidate()),
    "adjust timeout": lambda session: session.adjust_session_timeout(60),
    "please_recookie": lambda session: session.please_recookie(),
}


@pytest.mark.parametrize("invalidate_empty_session", ["true", "false"])
@pytest.mark.parametrize("act", HARMLESS.values(), ids=HARMLESS.keys())
def test_anonymous_request_that_keeps_nothing_touches_neither_redis_nor_the_cookie(
    proxy: CountingProxy,
    redis_client: redis.Redis,
    act: Callable[[Any], object],
    invalidate_empty_session: str,
) -> None:
    def view(request: Any) -> None:
        act(request.session)

    app = make_app(proxy.url, {"view": view}, invalidate_empty_session=invalidate_empty_session)
    proxy.reset()
    response = app.get("/view")
    assert proxy.commands == []
    assert set_cookies(response) == []
    assert redis_client.dbsize() == 0


# -- a new id that cannot be delivered -------------------------------------------------


def regenerate(request: Any) -> None:
    request.session["value"] = "privileged"
    request.session.regenerate_id()


def regenerate_and_fail(request: Any) -> None:
    regenerate(request)
    raise Boom


def regenerate_and_cache(request: Any) -> Response:
    regenerate(request)
    return Response("ok", cache_control="public")


def test_id_is_not_regenerated_on_a_cacheable_response(
    redis_url: str, redis_client: redis.Redis
) -> None:
    reports = Reports()
    app = make_app(
        redis_url,
        {"write": write, "view": regenerate_and_cache, "read": read},
        func_check_response_allow_cookies=ALLOW,
        func_invalid_logger=reports,
    )
    app.get("/write")
    before = stored_sessions(redis_client)
    assert set_cookies(app.get("/view")) == []
    # The new privileges are not under the old id either.
    assert stored_sessions(redis_client) == before
    assert len(reports.problems) == 1
    assert app.get("/read").text == "first"


@pytest.mark.parametrize("configure", [None, boom_view], ids=["uncaught", "exception view"])
def test_id_is_not_regenerated_by_a_failed_request_when_cookie_on_exception_is_off(
    redis_url: str, redis_client: redis.Redis, configure: Callable[[Any], None] | None
) -> None:
    app = make_app(
        redis_url,
        {"write": write, "view": regenerate_and_fail, "read": read},
        configure=configure,
        cookie_on_exception="false",
    )
    app.get("/write")
    before = stored_sessions(redis_client)
    if configure is None:
        uncaught(app, "/view")
    else:
        assert set_cookies(app.get("/view", status=500)) == []
    assert stored_sessions(redis_client) == before
    assert app.get("/read").text == "first"


def test_id_is_not_regenerated_by_a_request_that_fails_uncaught(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"write": write, "view": regenerate_and_fail, "read": read})
    app.get("/write")
    before = stored_sessions(redis_client)
    uncaught(app, "/view")
    assert stored_sessions(redis_client) == before
    assert app.get("/read").text == "first"


def test_session_ends_when_the_response_with_its_new_token_is_made_cacheable_too_late(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        def cache(request: Any, response: Any) -> None:
            response.cache_control = "public"

        request.add_response_callback(cache)
        regenerate(request)

    app = make_app(
        redis_url,
        {"write": write, "view": view, "read": read},
        func_check_response_allow_cookies=ALLOW,
    )
    app.get("/write")
    # Nobody is to hold new privileges under the cookie from before.
    assert set_cookies(app.get("/view")) == []
    assert stored_sessions(redis_client) == {}
    assert app.get("/read").text == "None"


def test_session_ends_when_a_tween_above_fails_and_its_new_token_cannot_be_sent(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(
        redis_url,
        {"write": write, "view": regenerate, "read": read},
        configure=late_failure,
        cookie_on_exception="false",
    )
    app.get("/write")
    assert set_cookies(app.get("/view?late=1", status=500)) == []
    assert stored_sessions(redis_client) == {}
    assert app.get("/read").text == "None"


LATE_ACTS: dict[str, Callable[[Any], object]] = {
    "write": lambda session: session.update(value="late"),
    "ensure_id": lambda session: session.ensure_id(),
    "regenerate": lambda session: session.regenerate_id(),
    "login": lambda session: setattr(session, "owner", "ada"),
    "invalidate and write": lambda session: (session.invalidate(), session.update(value="late")),
}


def replacing_factory(handler: Any, registry: Any) -> Any:
    """A tween of the application, above all, that answers with a response of its own."""

    def replacing(request: Any) -> Any:
        return Response(handler(request).text)

    return replacing


def replacing(config: Any) -> None:
    config.add_tween(f"{__name__}.replacing_factory", over=EXCVIEW)


@pytest.mark.parametrize("known", [False, True], ids=["new visitor", "stored session"])
@pytest.mark.parametrize("moment", ["NewResponse", "finished callback"])
@pytest.mark.parametrize("replaced_by", ["exception view", "tween"])
@pytest.mark.parametrize("act", LATE_ACTS.values(), ids=LATE_ACTS.keys())
def test_session_first_used_when_the_views_response_was_replaced_has_its_cookie(
    redis_url: str,
    redis_client: redis.Redis,
    act: Callable[[Any], object],
    replaced_by: str,
    moment: str,
    known: bool,
) -> None:
    def use(request: Any) -> None:
        if request.path == "/view":
            act(request.session)

    def configure(config: Any) -> None:
        (late_failure if replaced_by == "exception view" else replacing)(config)
        if moment == "NewResponse":
            config.add_subscriber(lambda event: use(event.request), "pyramid.events.NewResponse")
        else:
            config.add_subscriber(
                lambda event: event.request.add_finished_callback(use), "pyramid.events.NewRequest"
            )

    views = {"write": write, "view": lambda request: "ok", "read": read}
    app = make_app(redis_url, views, configure=configure)
    if known:
        app.get("/write")
    if replaced_by == "exception view":
        assert app.get("/view?late=1", status=500).text == "boom"
    else:
        assert app.get("/view").text == "ok"
    live = stored_sessions(redis_client)
    assert len(live) <= 1
    if live:
        assert app.cookies
        app.get("/write")
        assert stored_sessions(redis_client).keys() == live.keys()
    else:
        assert not known
        assert act is LATE_ACTS["regenerate"]
