"""View options: reads that keep nobody alive, and views that may not use the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPNotFound
from pyramid.response import Response

from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, let_time_pass, make_browser, take_along

View = Callable[[Any], Any]


def with_view(
    url: str, view: View, configure: Any = None, settings: Any = None, **given: Any
) -> Browser:
    """A user who has a session, and an application with one view more, at ``/view``.

    :param given: view options, and with ``of_sessions`` settings of the sessions.
    """
    options = given.pop("of_sessions", {})

    def set_up(config: Configurator) -> None:
        if configure is not None:
            configure(config)
        config.add_route("view", "/view")
        config.add_view(
            lambda request: view(request) or Response("done"), route_name="view", **given
        )

    browser = make_browser(url, configure=set_up, settings=settings, **options)
    browser.use(lambda session: session.update(a=1))
    return browser


def read(request: Any) -> None:
    assert request.session["a"] == 1


# -- touch_session ---------------------------------------------------------------------------


def test_poll_writes_nothing_and_keeps_nobody_alive(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = with_view(redis_url, read, touch_session=False, of_sessions={"timeout": "1000"})
    let_time_pass(redis_client, browser.key, 600)
    held = redis_client.hgetall(browser.key)
    for _ in range(2):
        response = browser.app.get("/view")
        assert response.headers["Vary"] == "Cookie"
    assert redis_client.pttl(browser.key) <= 400_000
    assert redis_client.hgetall(browser.key) == held
    let_time_pass(redis_client, browser.key, 401)
    with pytest.raises(KeyError):
        browser.app.get("/view")


def test_poll_is_one_round_trip_and_no_write(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    def changes() -> int:
        info: Any = redis_client.info("persistence")
        return int(info["rdb_changes_since_last_save"])

    browser = with_view(proxy.url, read, touch_session=False)
    before = changes()
    proxy.reset()
    browser.app.get("/view")
    assert proxy.round_trips == 1
    assert changes() == before


@pytest.mark.parametrize("touch", [True, None])
def test_view_touches_unless_it_says_otherwise(
    redis_url: str, redis_client: redis.Redis, touch: bool | None
) -> None:
    browser = with_view(redis_url, read, touch_session=touch, of_sessions={"timeout": "1000"})
    let_time_pass(redis_client, browser.key, 600)
    browser.app.get("/view")
    assert redis_client.pttl(browser.key) > 900_000


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_poll_that_changes_the_session_saves_it(redis_url: str, mode: str) -> None:
    def count(request: Any) -> None:
        request.session["n"] = request.session.get("n", 0) + 1

    options = {"on_conflict": mode}
    browser = with_view(redis_url, count, touch_session=False, of_sessions=options)
    for _ in range(3):
        browser.app.get("/view")
    assert browser.use(lambda session: session["n"]) == 3


def test_poll_of_an_ended_session_finds_none_and_leaves_the_cookie(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = with_view(redis_url, lambda r: Response(str(dict(r.session))), touch_session=False)
    redis_client.delete(browser.key)
    response = browser.app.get("/view")
    assert response.text == "{}"
    assert "Set-Cookie" not in response.headers


def test_poll_sends_no_cookie_again_and_seals_nothing_anew(
    redis_url: str, redis_client: redis.Redis
) -> None:
    old, new = "the old secret, with more than 32 bytes", "the new secret, with more than 32 bytes"
    browser = with_view(redis_url, read, of_sessions={"secret": old})
    held = redis_client.hgetall(browser.key)

    def set_up(config: Configurator) -> None:
        config.add_route("view", "/view")
        config.add_view(
            lambda request: read(request) or Response("done"),
            route_name="view",
            touch_session=False,
        )

    browser = take_along(browser, redis_url, secret=f"{new}\n{old}", configure=set_up)
    assert "Set-Cookie" not in browser.app.get("/view").headers
    assert redis_client.hgetall(browser.key) == held
    browser.use(dict)
    assert "Set-Cookie" in browser.response.headers
    assert "Set-Cookie" not in browser.app.get("/view").headers
    assert redis_client.hgetall(browser.key) == held
    browser.use(dict)
    assert redis_client.hgetall(browser.key) != held


def test_touch_can_be_turned_off_in_code(redis_url: str, redis_client: redis.Redis) -> None:
    def poll(request: Any) -> None:
        request.session.touch = False
        assert request.session.touch is False
        read(request)

    browser = make_browser(redis_url, timeout="1000")
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 600)
    browser.visit(poll)
    assert redis_client.pttl(browser.key) <= 400_000


def test_touch_cannot_be_turned_off_when_it_is_too_late(redis_url: str) -> None:
    def view(request: Any) -> None:
        read(request)
        request.session.touch = True  # as it is
        with pytest.raises(RuntimeError, match="had been looked at"):
            request.session.touch = False

    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    browser.visit(view)


def test_view_that_does_not_touch_fails_where_something_has(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.add_subscriber(
            lambda event: event.request.session.get("a"), "pyramid.events.ContextFound"
        )

    browser = with_view(redis_url, read, configure, touch_session=False)
    with pytest.raises(RuntimeError, match="looked at the session before it"):
        browser.app.get("/view")


class Policy:
    """Finds the user in the session."""

    def identity(self, request: Any) -> Any:
        return request.session.owner

    authenticated_userid = identity

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return self.identity(request) is not None


def test_permission_is_looked_up_without_touching(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = with_view(
        redis_url,
        read,
        lambda config: config.set_security_policy(Policy()),
        touch_session=False,
        permission="see",
        of_sessions={"timeout": "1000"},
    )
    browser.app.get("/view", status=403)
    browser.use(lambda session: setattr(session, "owner", 7))
    let_time_pass(redis_client, browser.key, 600)
    browser.app.get("/view", status=200)
    assert redis_client.pttl(browser.key) <= 400_000


# -- uses_session ------------------------------------------------------------------------------

USES: dict[str, View] = {
    "reads": lambda request: request.session.get("a"),
    "writes": lambda request: request.session.update(b=1),
    "asks for the id": lambda request: request.session.session_id,
    "logs out": lambda request: request.session.invalidate(),
    "logs in": lambda request: setattr(request.session, "owner", 7),
    "makes a CSRF token": lambda request: request.session.get_csrf_token(),
    "asks for the client": lambda request: request.session.redis,
    "asks whether it is new": lambda request: request.session.new,
}


@pytest.mark.parametrize("use", USES)
def test_view_that_says_it_does_not_use_the_session_fails_when_it(
    use: str, redis_url: str, redis_client: redis.Redis
) -> None:
    browser = with_view(redis_url, USES[use], uses_session=False)
    held = redis_client.hgetall(browser.key)
    with pytest.raises(RuntimeError, match="uses_session=False"):
        browser.app.get("/view")
    assert redis_client.hgetall(browser.key) == held


def test_view_that_does_not_use_the_session_costs_nothing_and_does_not_vary(
    proxy: CountingProxy,
) -> None:
    browser = with_view(
        proxy.url, lambda request: Response(repr(request.session)), uses_session=False
    )
    proxy.reset()
    response = browser.app.get("/view")
    assert not {"Vary", "Set-Cookie"} & set(response.headers)
    assert proxy.commands == []


def test_view_fails_where_the_session_was_used_before_it(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.add_subscriber(
            lambda event: event.request.session.get("a"), "pyramid.events.ContextFound"
        )

    browser = with_view(redis_url, lambda request: None, configure, uses_session=False)
    with pytest.raises(RuntimeError, match="used the session before it"):
        browser.app.get("/view")


def test_view_fails_where_the_policy_uses_the_session(redis_url: str) -> None:
    browser = with_view(
        redis_url,
        lambda request: None,
        lambda config: config.set_security_policy(Policy()),
        uses_session=False,
        permission="see",
    )
    with pytest.raises(RuntimeError, match="uses_session=False"):
        browser.app.get("/view")


def test_session_that_somebody_kept_from_before_is_refused_too(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        def keep(event: Any) -> None:
            event.request.kept = event.request.session

        config.add_subscriber(keep, "pyramid.events.ContextFound")

    browser = with_view(redis_url, lambda r: r.kept.get("a"), configure, uses_session=False)
    with pytest.raises(RuntimeError, match="uses_session=False"):
        browser.app.get("/view")


def test_session_of_another_factory_is_refused_too(redis_url: str) -> None:
    browser = with_view(redis_url, lambda r: other(r).get("a"), uses_session=False)
    other = make_browser(redis_url, cookie_name="other").factory
    with pytest.raises(RuntimeError, match="uses_session=False"):
        browser.app.get("/view")


def test_session_that_was_not_used_before_can_be_used_by_the_page_of_the_error(
    redis_url: str,
) -> None:
    """Of two sessions one was used before the view: that is the error, and the other is free."""

    def configure(config: Configurator) -> None:
        def use_one(event: Any) -> None:
            event.request.session  # noqa: B018
            other(event.request).get("a")

        config.add_subscriber(use_one, "pyramid.events.ContextFound")
        config.add_exception_view(
            lambda request: Response(f"a is {request.session['a']}", status=500), RuntimeError
        )

    browser = with_view(redis_url, lambda request: None, uses_session=False)
    other = make_browser(redis_url, cookie_name="other").factory
    browser = with_view(redis_url, lambda request: None, configure, uses_session=False)
    assert browser.app.get("/view", status=500).text == "a is 1"


def test_callback_that_uses_the_session_after_the_view_fails(redis_url: str) -> None:
    def view(request: Any) -> None:
        request.add_response_callback(lambda request, response: request.session.get("a"))

    with pytest.raises(RuntimeError, match="uses_session=False"):
        with_view(redis_url, view, uses_session=False).app.get("/view")


def test_page_that_renders_an_error_of_such_a_view_may_use_the_session(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        def not_found(request: Any) -> Response:
            return Response(f"a is {request.session['a']}", status=404)

        config.add_notfound_view(not_found)

    def view(request: Any) -> None:
        request.session  # noqa: B018
        raise HTTPNotFound

    browser = with_view(redis_url, view, configure, uses_session=False)
    response = browser.app.get("/view", status=404)
    assert response.text == "a is 1"
    assert response.headers["Vary"] == "Cookie"


@pytest.mark.parametrize("looks", [True, False])
def test_view_that_uses_the_session_now_and_then_varies_always(redis_url: str, looks: bool) -> None:
    def view(request: Any) -> Response:
        if looks:
            read(request)
        return Response("done", vary="Accept")

    browser = with_view(redis_url, view, uses_session=True)
    assert browser.app.get("/view").headers["Vary"] == "Accept, Cookie"


# -- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["touch_session", "uses_session"])
@pytest.mark.parametrize("value", ["false", 2, (), 0, 1])
def test_option_that_is_neither_true_nor_false_is_refused(option: str, value: Any) -> None:
    config = Configurator(settings={"redis.sessions.secret": "x" * 32})
    config.include("pyramid_redis_lua_sessions")
    config.add_view(lambda request: None, name="page", **{option: value})
    with pytest.raises(ConfigurationError) as caught:
        config.commit()
    assert f"{option} = {value!r}" in str(caught.value)


# -- how long do I still have ------------------------------------------------------------------


def ask(browser: Browser, path: str = "/session-time-left") -> Any:
    response = browser.app.get(path)
    assert response.headers["Cache-Control"] == "no-store"
    return response.json


def includes(config: Configurator) -> None:
    config.include("pyramid_redis_lua_sessions.time_left")


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_time_left_is_told_and_not_extended(
    redis_url: str, redis_client: redis.Redis, mode: str
) -> None:
    browser = make_browser(redis_url, configure=includes, timeout="1000", on_conflict=mode)
    assert ask(browser) == {"alive": False, "seconds": 0}
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 600)
    for _ in range(2):
        answer = ask(browser)
        assert answer["alive"] is True
        assert 300 < answer["seconds"] <= 400
    assert redis_client.pttl(browser.key) <= 400_000
    assert 900 < browser.app.post("/session-time-left").json["seconds"] <= 1000
    assert redis_client.pttl(browser.key) > 900_000
    redis_client.delete(browser.key)
    assert ask(browser) == {"alive": False, "seconds": 0}


def test_time_left_of_a_session_that_never_ends_is_null(redis_url: str) -> None:
    browser = make_browser(redis_url, configure=includes, timeout="0")
    browser.use(lambda session: session.update(a=1))
    assert ask(browser) == {"alive": True, "seconds": None}


def test_time_left_is_told_to_who_is_nobody_where_all_else_needs_a_permission(
    redis_url: str,
) -> None:
    def configure(config: Configurator) -> None:
        includes(config)
        config.set_security_policy(Policy())
        config.set_default_permission("see")

    browser = make_browser(redis_url, configure=configure)
    assert ask(browser) == {"alive": False, "seconds": 0}
    assert browser.app.post("/session-time-left").json["alive"] is False


def test_time_left_can_stand_elsewhere(redis_url: str) -> None:
    browser = make_browser(
        redis_url,
        configure=lambda config: config.include(
            "pyramid_redis_lua_sessions.time_left", route_prefix="/account"
        ),
    )
    assert ask(browser, "/account/session-time-left")["alive"] is False


def test_extending_asks_for_the_csrf_token_where_the_application_does(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        includes(config)
        config.set_default_csrf_options(require_csrf=True)

    browser = make_browser(redis_url, configure=configure)
    token = browser.use(lambda session: session.get_csrf_token())
    browser.app.post("/session-time-left", status=400)
    browser.app.post("/session-time-left", {"csrf_token": token}, status=200)
