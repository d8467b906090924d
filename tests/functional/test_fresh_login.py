"""Fresh logins: ``session.confirm()``, and the view option ``fresh``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response

from pyramid_redis_lua_sessions import StoreUnavailable, return_path
from pyramid_redis_lua_sessions.engine.state import SessionState
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import SECRET, Browser, make_browser
from tests.support.stored import TOKEN

KINDS: dict[str, dict[str, Any]] = {
    "merge": {},
    "retry": {"on_conflict": "retry"},
    "encrypted": {"encryption_key": "k" * 32},
    "unsealed": {"seal": "false", "serialize": "json"},
    "own serializer": {"serialize": lambda value: value.encode(), "deserialize": bytes.decode},
}


@pytest.fixture(params=KINDS)
def browser(request: pytest.FixtureRequest, redis_url: str) -> Browser:
    browser = make_browser(redis_url, **KINDS[request.param])
    browser.use(lambda session: session.update(a="1"))
    return browser


@pytest.fixture
def pass_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets Redis' clock, as sessions are told it, go on by so many seconds; to be called once."""

    def go_on(seconds: float) -> None:
        now_ms = SessionState.now_ms
        monkeypatch.setattr(SessionState, "now_ms", lambda s: now_ms(s) + int(seconds * 1000))

    return go_on


def confirmed(browser: Browser, seconds: float = 300, *name: str) -> bool:
    found: bool = browser.use(lambda session: session.confirmed_within(seconds, *name))
    return found


def confirm(browser: Browser, *name: str) -> None:
    browser.use(lambda session: session.confirm(*name))


# -- confirming --------------------------------------------------------------------------


def test_confirmation_counts_for_so_long(
    browser: Browser, pass_by: Callable[[float], None]
) -> None:
    assert not confirmed(browser)
    confirm(browser)
    assert confirmed(browser)
    assert browser.use(dict) == {"a": "1"}  # no key of the application's
    pass_by(299)
    assert not confirmed(browser, 100)
    assert confirmed(browser, 400)


def test_confirmation_is_over(browser: Browser, pass_by: Callable[[float], None]) -> None:
    confirm(browser)
    pass_by(301)
    assert not confirmed(browser)


def test_confirmation_counts_in_its_own_request(browser: Browser) -> None:
    def view(session: Any) -> bool:
        session.confirm()
        return bool(session.confirmed_within(300))

    assert browser.use(view)


def test_what_was_confirmed_has_a_name(browser: Browser) -> None:
    confirm(browser, "totp")
    assert not confirmed(browser)
    assert confirmed(browser, 300, "totp")
    confirm(browser)
    assert confirmed(browser)
    assert confirmed(browser, 300, "totp")


def test_confirmation_renews_the_token(browser: Browser) -> None:
    before, old = browser.token, browser.copy()
    confirm(browser)
    assert browser.token not in (None, before)
    assert not confirmed(old)
    assert confirmed(browser)


def test_confirmation_lasts_over_new_tokens_and_saves(browser: Browser) -> None:
    browser.use(lambda session: setattr(session, "owner", "7"))
    confirm(browser)
    browser.use(lambda session: session.regenerate_id())
    browser.use(lambda session: session.regenerate_id(restart_lifetime=True))
    browser.use(lambda session: session.update(b="2"))
    browser.use(lambda session: session.clear())
    assert confirmed(browser)


@pytest.mark.parametrize("owner", ["8", None])
def test_another_owner_takes_it_away(browser: Browser, owner: str | None) -> None:
    browser.use(lambda session: setattr(session, "owner", "7"))
    confirm(browser)
    browser.use(lambda session: setattr(session, "owner", "7"))
    assert confirmed(browser)
    browser.use(lambda session: setattr(session, "owner", owner))
    assert not confirmed(browser)


def test_login_can_be_confirmed_at_once(browser: Browser) -> None:
    def log_in(session: Any) -> None:
        session.owner = "7"
        session.regenerate_id(restart_lifetime=True)
        session.confirm()

    created = browser.use(lambda session: (session.new, session._state.created_ms())[1])
    confirm(browser, "before")
    time.sleep(0.01)
    browser.use(log_in)
    assert confirmed(browser)
    assert not confirmed(browser, 300, "before")
    assert browser.use(lambda session: (session.new, session._state.created_ms())[1]) > created


def test_end_of_the_session_takes_it_away(browser: Browser) -> None:
    confirm(browser)
    browser.use(lambda session: (session.invalidate(), session.update(a="1")))
    assert not confirmed(browser)


def test_confirmation_of_a_session_that_has_ended_confirms_nothing(
    browser: Browser, redis_client: redis.Redis
) -> None:
    def view(session: Any) -> None:
        assert session["a"] == "1"
        redis_client.delete(browser.key)
        session.confirm()

    browser.use(view)
    assert not confirmed(browser)


def test_of_two_at_once_the_first_stands(browser: Browser) -> None:
    browser.use(lambda session: setattr(session, "owner", "7"))
    other = browser.copy()

    def view(session: Any) -> None:
        assert session["a"] == "1"
        confirm(other)
        session.confirm()

    browser.use(view)
    assert other.use(lambda session: (session.owner, session.confirmed_within(300))) == ("7", True)


# -- somebody who can write to Redis ----------------------------------------------------------


def test_older_confirmation_cannot_be_put_back(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    confirm(browser)
    stored = redis_client.hget(browser.key, "confirmed")
    assert stored is not None
    browser.use(lambda session: setattr(session, "owner", 7))
    redis_client.hset(browser.key, "confirmed", stored)
    assert not confirmed(browser)
    assert browser.use(lambda session: session.owner) is None  # a broken seal: a new session


def test_time_is_asked_for_where_somebody_took_the_mark_away(
    redis_url: str, redis_client: redis.Redis, pass_by: Callable[[float], None]
) -> None:
    browser = make_browser(redis_url)
    confirm(browser)
    token = redis_client.hget(browser.key, TOKEN)
    assert token is not None
    redis_client.hset(browser.key, TOKEN, token[:-1])
    assert confirmed(browser)
    pass_by(301)
    assert not confirmed(browser)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[]", "1", "[" * 100_000),
        *('{"password": "x"}', '{"password": 1e99}', '{"password": true}'),
    ],
    ids=lambda text: text[:20],
)
def test_garbage_without_seals_confirms_nothing(
    redis_url: str, redis_client: redis.Redis, text: str
) -> None:
    browser = make_browser(redis_url, seal="false", serialize="json")
    browser.use(lambda session: session.update(a=1))
    encoded = browser.factory.codec.encode(text)
    redis_client.hset(browser.key, "confirmed", encoded)
    assert not confirmed(browser)
    confirm(browser)
    assert confirmed(browser)


def test_confirmation_of_the_future_does_not_count(
    browser: Browser, pass_by: Callable[[float], None]
) -> None:
    confirm(browser)
    pass_by(-60)
    assert not confirmed(browser)


# -- round trips, errors ----------------------------------------------------------------------


def test_only_the_first_confirmation_costs_a_round_trip_more(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))

    def trips(view: Callable[[Any], Any]) -> int:
        proxy.reset()
        browser.use(view)
        return proxy.round_trips

    assert trips(lambda session: session.confirm()) == 3
    assert trips(lambda session: session.confirmed_within(300)) == 1
    assert trips(lambda session: session.confirm()) == 2
    assert trips(lambda session: session["a"]) == 1


def test_session_that_has_confirmed_nothing_is_not_asked_for_the_time(
    proxy: CountingProxy,
) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))
    proxy.reset()
    assert not confirmed(browser)
    assert proxy.round_trips == 1


@pytest.mark.parametrize("mode", ["raise", "ephemeral"])
def test_nothing_is_confirmed_while_redis_is_away(
    new_redis_server: Callable[..., RedisServer], mode: str
) -> None:
    server = new_redis_server()
    browser = make_browser(server.url, on_redis_error=mode)
    confirm(browser)
    server.kill()

    def view(session: Any) -> None:
        with pytest.raises(StoreUnavailable):
            session.confirm()
        if mode == "ephemeral":
            assert not session.confirmed_within(300)

    browser.use(view)


@pytest.mark.parametrize("name", [None, 5, b"password"])
def test_name_is_a_text(redis_url: str, name: Any) -> None:
    def view(session: Any) -> None:
        with pytest.raises(TypeError, match="str for a name"):
            session.confirm(name)

    make_browser(redis_url).use(view)


# -- the view option ----------------------------------------------------------------------------


def account(redis_url: str, fresh: Any = 300, **options: Any) -> Browser:
    """A user who is logged in, and an application with a view that wants a fresh login."""

    def confirm_password(request: Any) -> Any:
        if request.method == "POST":
            request.session.confirm(*request.POST.getall("name"))
            return HTTPSeeOther(return_path(request, "/default"))
        return Response(return_path(request, "/default"))

    def configure(config: Configurator) -> None:
        config.add_route("confirm", "/confirm")
        config.add_view(confirm_password, route_name="confirm")
        config.add_route("account", "/account/{page:.*}")
        config.add_view(
            lambda request: Response(request.method), route_name="account", fresh=fresh, **options
        )

    browser = make_browser(redis_url, configure=configure, confirm_route="confirm")
    browser.use(lambda session: setattr(session, "owner", 7))
    return browser


PATHS = [
    "/account/mail",
    "/account/mail?a=b&c=d%20e",
    "/account/caf%C3%A9?x=%26&y=%2F%2Fevil.example",
    "/account/x?next=%2F%2Fevil.example",
]


@pytest.mark.parametrize("path", PATHS)
def test_user_confirms_and_comes_back(redis_url: str, path: str) -> None:
    browser = account(redis_url)
    away = browser.app.get(path, status=303)
    assert away.headers["Cache-Control"] == "no-store"
    assert away.headers["Vary"] == "Cookie"
    page = away.follow()
    assert page.text == path
    back = browser.app.post(page.request.path_qs, status=303)
    assert back.location == f"http://localhost{path}"
    assert back.follow(status=200).text == "GET"


def test_view_is_answered_where_the_login_is_fresh(
    redis_url: str, pass_by: Callable[[float], None]
) -> None:
    browser = account(redis_url)
    confirm(browser)
    assert browser.app.post("/account/mail", status=200).text == "POST"
    pass_by(301)
    browser.app.get("/account/mail", status=303)


def test_view_can_ask_for_another_name(redis_url: str) -> None:
    browser = account(redis_url, fresh=(300, "totp"))
    confirm(browser)
    away = browser.app.get("/account/mail", status=303)
    # The page is told what it is to ask for.
    assert away.location == "http://localhost/confirm?next=%2Faccount%2Fmail&name=totp"
    confirm(browser, "totp")
    browser.app.get("/account/mail", status=200)


@pytest.mark.parametrize(
    ("referrer", "back"),
    [
        (None, "/default"),
        ("http://localhost/account/form?x=1", "/account/form?x=1"),
        ("http://localhost/", "/"),
        ("https://localhost/account/form", "/default"),
        ("http://localhost:81/account/form", "/default"),
        ("http://localhost.evil.example/account", "/default"),
        ("http://evil.example/http://localhost/account", "/default"),
        ("http://localhost//evil.example", "/default"),
        ("http://nextdoors/account/form", "/default"),
        ("about:blank", "/default"),
    ],
)
def test_form_that_was_sent_is_not_sent_again(
    redis_url: str, referrer: str | None, back: str
) -> None:
    browser = account(redis_url)
    headers = {} if referrer is None else {"Referer": referrer}
    page = browser.app.post("/account/mail", headers=headers, status=303).follow()
    assert page.request.method == "GET"
    assert page.text == back


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "/a\\b"),
        *("http://evil.example", "https:evil.example", "javascript:alert(1)", "evil", "", "."),
        *("/\t/evil.example", "/\n/evil.example", "\t//evil.example", " //evil.example", "/é"),
        *("/a b", "/a\r\nX: y", "/" + "a" * 5000, "/\x00", "@evil.example", "/\u2028/x"),
    ],
)
def test_nobody_is_sent_elsewhere(redis_url: str, elsewhere: str) -> None:
    browser = account(redis_url)
    for answer in (
        browser.app.get("/confirm", {"next": elsewhere}).text,
        browser.app.post("/confirm", {"next": elsewhere}, status=303).location,
    ):
        assert answer.removeprefix("http://localhost") == "/default"


@pytest.mark.parametrize("query", ["next=%ff", "next=/a&next=%ff", "%ff=1", "next", "next=/a%00"])
def test_query_that_cannot_be_read_leads_to_the_default(redis_url: str, query: str) -> None:
    assert account(redis_url).app.get(f"/confirm?{query}").text in ("/default", "/a")


def test_who_may_not_see_the_view_is_not_asked(redis_url: str) -> None:
    class Policy:
        def identity(self, request: Any) -> Any:
            return None

        authenticated_userid = identity

        def permits(self, request: Any, context: Any, permission: str) -> bool:
            return False

    def configure(config: Configurator) -> None:
        config.set_security_policy(Policy())
        config.add_route("confirm", "/confirm")
        config.add_route("account", "/account")
        config.add_view(
            lambda request: Response("secret"),
            route_name="account",
            fresh=300,
            permission="see",
            http_cache=60,
        )

    browser = make_browser(redis_url, configure=configure, confirm_route="confirm")
    assert "Location" not in browser.app.get("/account", status=403).headers


# -- configuration --------------------------------------------------------------------------------


def configured(**settings: str) -> Configurator:
    named = {f"redis.sessions.{name}": value for name, value in settings.items()}
    config = Configurator(settings={"redis.sessions.secret": SECRET, **named})
    config.include("pyramid_redis_lua_sessions")
    return config


@pytest.mark.parametrize(
    "fresh", [0, -1, "x", True, (300,), (300, 5), (0, "totp"), (300, "a", "b"), [300, "a"]]
)
def test_option_that_is_no_time_is_refused(fresh: Any) -> None:
    config = configured(confirm_route="confirm")
    config.add_route("confirm", "/confirm")
    config.add_view(lambda request: None, name="page", fresh=fresh)
    with pytest.raises(ConfigurationError) as caught:
        config.commit()
    assert f"fresh = {fresh!r}" in str(caught.value)


def test_option_without_a_page_is_refused() -> None:
    config = configured()
    config.add_view(lambda request: None, name="page", fresh=300)
    with pytest.raises(ConfigurationError, match=r"needs redis\.sessions\.confirm_route"):
        config.commit()


def test_page_that_is_no_route_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"confirm_route = 'nowhere' is no route"):
        configured(confirm_route="nowhere").commit()


def test_page_that_needs_more_than_its_name_is_refused() -> None:
    config = configured(confirm_route="confirm")
    config.add_route("confirm", "/{language}/confirm")
    with pytest.raises(ConfigurationError, match=r"confirm_route = 'confirm' .* needs 'language'"):
        config.commit()
    config = configured(confirm_route="confirm")
    config.add_route(
        "confirm", "/{a}", pregenerator=lambda request, elements, given: (elements, given)
    )
    config.commit()


@pytest.mark.parametrize("url", ["https://example.com/confirm", "//example.com/confirm"])
def test_page_that_is_an_external_route_is_refused(url: str) -> None:
    config = configured(confirm_route="confirm")
    config.add_route("confirm", url)
    with pytest.raises(ConfigurationError, match=r"confirm_route = 'confirm' is an external route"):
        config.commit()


def test_page_that_another_application_serves_under_the_same_host() -> None:
    config = configured(confirm_route="confirm")
    config.add_route("confirm", "/other/confirm", static=True)
    config.commit()


def test_page_on_which_users_confirm_is_not_to_ask_for_that_itself() -> None:
    config = configured(confirm_route="confirm")
    config.add_route("confirm", "/confirm")
    config.add_view(lambda request: None, route_name="confirm", fresh=300)
    with pytest.raises(ConfigurationError, match=r"fresh = 300 .* without end"):
        config.commit()
