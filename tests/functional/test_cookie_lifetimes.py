"""How a persistent cookie slides, and when a cookie is sent again."""

import datetime
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from webtest import TestApp

from pyramid_redis_lua_sessions import cookies as cookies_module
from pyramid_redis_lua_sessions.engine.tokens import Token
from tests.support.application import (
    SetCookie,
    make_app,
    set_cookies,
    signed_cookie,
    stored_sessions,
    token_in,
)

MONTH = 30 * 24 * 3600
DAY = 24 * 3600


def write(request: Any) -> None:
    request.session["value"] = "written"


def read(request: Any) -> str:
    return str(request.session.get("value"))


def logout(request: Any) -> None:
    request.session.invalidate()


def plain(request: Any) -> None:
    pass


VIEWS = {"write": write, "read": read, "logout": logout, "plain": plain}


@pytest.fixture
def signed_ago(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sign a cookie as it would have been some seconds ago."""

    def sign(token: Token | str, seconds_ago: float, max_age: int | None, **options: Any) -> str:
        with monkeypatch.context() as patch:
            then = time.time() - seconds_ago
            patch.setattr(cookies_module, "time", SimpleNamespace(time=lambda: then))
            return signed_cookie(token, max_age, **options)

    return sign


def new_session(app: TestApp, client: redis.Redis) -> Token:
    (cookie,) = set_cookies(app.get("/write"))
    app.reset()
    token = token_in(f"session={cookie.value}")
    assert token is not None
    assert list(stored_sessions(client)) == [token.locator]
    return token


def get(app: TestApp, path: str, cookie: str) -> Any:
    app.reset()
    return app.get(path, extra_environ={"HTTP_COOKIE": cookie})


def token_of(cookie: SetCookie, **options: Any) -> Token | None:
    return token_in(f"session={cookie.value}", **options)


# -- sliding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days_ago", "sent_again"), [(0, False), (14.9, False), (15.1, True), (29.9, True)]
)
def test_persistent_cookie_slides_past_half_of_its_life(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any, days_ago: float, sent_again: bool
) -> None:
    app = make_app(redis_url, VIEWS, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    response = get(app, "/read", signed_ago(token, days_ago * DAY, MONTH))
    assert response.text == "written"
    sent = set_cookies(response)
    assert len(sent) == sent_again  # once, though there are two callbacks that could send it
    if sent_again:
        assert sent[0].attributes["max-age"] == str(MONTH)
        assert token_of(sent[0]) == token
        # The cookie that was sent is a fresh one, which does not slide again at once.
        assert set_cookies(get(app, "/read", f"session={sent[0].value}")) == []


NAVIGATION = {"HTTP_SEC_FETCH_MODE": "navigate", "HTTP_SEC_FETCH_DEST": "document"}
FETCH = {"HTTP_SEC_FETCH_MODE": "cors", "HTTP_SEC_FETCH_DEST": "empty"}
IMAGE = {"HTTP_SEC_FETCH_MODE": "no-cors", "HTTP_SEC_FETCH_DEST": "image"}


@pytest.mark.parametrize("purpose", [FETCH, IMAGE], ids=["fetch", "image"])
def test_cookie_slides_when_a_page_is_opened_and_not_with_what_the_page_requests(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any, purpose: dict[str, str]
) -> None:
    # Its response may arrive after that of a login, whose cookie it would replace.
    app = make_app(redis_url, VIEWS, cookie_max_age=str(MONTH))
    session_id = new_session(app, redis_client)
    for days_ago, by_request, by_page in [(14, 0, 0), (16, 0, 1), (22, 0, 1), (23, 1, 1)]:
        cookie = signed_ago(session_id, days_ago * DAY, MONTH)
        for headers, expected in [(purpose, by_request), (NAVIGATION, by_page)]:
            response = app.get("/read", extra_environ={"HTTP_COOKIE": cookie, **headers})
            assert response.text == "written"
            assert len(set_cookies(response)) == expected, (days_ago, headers)


def test_cookie_that_ends_with_the_browser_does_not_slide(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any
) -> None:
    app = make_app(redis_url, VIEWS)
    token = new_session(app, redis_client)
    assert set_cookies(get(app, "/read", signed_ago(token, 365 * DAY, None))) == []


def test_cookie_does_not_slide_when_the_session_was_not_looked_at(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any
) -> None:
    app = make_app(redis_url, VIEWS, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    assert set_cookies(get(app, "/plain", signed_ago(token, 20 * DAY, MONTH))) == []


def test_cookie_of_an_unknown_session_does_not_slide(redis_url: str, signed_ago: Any) -> None:
    app = make_app(redis_url, VIEWS, cookie_max_age=str(MONTH))
    assert set_cookies(get(app, "/read", signed_ago("unknown", 20 * DAY, MONTH))) == []


def test_cookie_does_not_slide_when_the_response_may_not_carry_one(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any
) -> None:
    app = make_app(
        redis_url,
        VIEWS,
        cookie_max_age=str(MONTH),
        func_check_response_allow_cookies=lambda response: response.text != "written",
    )
    token = new_session(app, redis_client)
    cookie = signed_ago(token, 20 * DAY, MONTH)
    assert set_cookies(get(app, "/read", cookie)) == []
    assert len(set_cookies(get(app, "/write", cookie))) == 1


def test_cookie_does_not_slide_over_a_logout_that_came_in_between(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any
) -> None:
    other = make_app(redis_url, VIEWS)

    def read_slowly(request: Any) -> str:
        value = str(request.session.get("value"))
        get(other, "/logout", request.environ["HTTP_COOKIE"])
        return value

    app = make_app(redis_url, {**VIEWS, "slow": read_slowly}, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    response = get(app, "/slow", signed_ago(token, 20 * DAY, MONTH))
    assert response.text == "written"
    assert set_cookies(response) == []


def test_cookie_does_not_slide_over_the_newer_one_of_a_regenerated_session(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any
) -> None:
    def login(request: Any) -> None:
        request.session["user"] = "kim"
        request.session.regenerate_id()

    other = make_app(redis_url, {"login": login})

    def read_slowly(request: Any) -> None:
        request.session.get("value")
        request.session.please_recookie()
        assert len(set_cookies(get(other, "/login", request.environ["HTTP_COOKIE"]))) == 1

    app = make_app(redis_url, {**VIEWS, "slow": read_slowly}, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    assert set_cookies(get(app, "/slow", signed_ago(token, 20 * DAY, MONTH))) == []


# -- on request ----------------------------------------------------------------------


def test_please_recookie_sends_the_cookie_again(redis_url: str, redis_client: redis.Redis) -> None:
    def recookie(request: Any) -> None:
        request.session.get("value")
        request.session.please_recookie()

    app = make_app(redis_url, {**VIEWS, "recookie": recookie})
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/recookie", signed_cookie(token)))
    assert token_of(cookie) == token


@pytest.mark.parametrize(
    "ask",
    [
        lambda session: session.please_recookie(),
        lambda session: session.adjust_cookie_max_age(60),
        lambda session: session.adjust_cookie_expires(datetime.timedelta(seconds=60)),
    ],
    ids=["please_recookie", "adjust_cookie_max_age", "adjust_cookie_expires"],
)
def test_what_the_application_asks_for_is_sent_with_any_request(
    redis_url: str, redis_client: redis.Redis, ask: Any
) -> None:
    app = make_app(redis_url, {**VIEWS, "ask": lambda request: ask(request.session)})
    session_id = new_session(app, redis_client)
    response = app.get("/ask", extra_environ={"HTTP_COOKIE": signed_cookie(session_id), **FETCH})
    assert len(set_cookies(response)) == 1


def test_please_recookie_works_when_nothing_else_looks_at_the_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def recookie(request: Any) -> None:
        request.session.please_recookie()

    app = make_app(redis_url, {**VIEWS, "recookie": recookie})
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/recookie", signed_cookie(token)))
    assert token_of(cookie) == token


@pytest.mark.parametrize(
    "ask",
    [
        lambda session: session.please_recookie(),
        lambda session: session.adjust_cookie_max_age(60),
        lambda session: session.adjust_cookie_expires(datetime.timedelta(seconds=60)),
    ],
    ids=["please_recookie", "adjust_cookie_max_age", "adjust_cookie_expires"],
)
@pytest.mark.parametrize("cookie", ["", "unknown", "forged"])
def test_without_a_session_nothing_is_sent_on_request(
    redis_url: str, redis_client: redis.Redis, ask: Any, cookie: str
) -> None:
    def view(request: Any) -> None:
        request.session.get("value")
        ask(request.session)

    app = make_app(redis_url, {"view": view})
    sent = {"": "", "unknown": signed_cookie("unknown"), "forged": "session=forged"}[cookie]
    assert set_cookies(get(app, "/view", sent)) == []
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize("max_age", [3600, datetime.timedelta(hours=1)])
def test_chosen_max_age_applies_and_survives_the_slide(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any, max_age: Any
) -> None:
    def remember(request: Any) -> None:
        request.session["remembered"] = True
        request.session.adjust_cookie_max_age(max_age)

    app = make_app(redis_url, {**VIEWS, "remember": remember}, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/remember", signed_cookie(token, MONTH)))
    assert cookie.attributes["max-age"] == "3600"
    assert set_cookies(get(app, "/read", f"session={cookie.value}")) == []
    # What the application chose stands in the cookie itself.
    (slid,) = set_cookies(get(app, "/read", signed_ago(token, 1801, 3600)))
    assert slid.attributes["max-age"] == "3600"


def test_chosen_max_age_applies_to_a_new_session(redis_url: str) -> None:
    def remember(request: Any) -> None:
        request.session["remembered"] = True
        request.session.adjust_cookie_max_age(3600)

    (cookie,) = set_cookies(make_app(redis_url, {"remember": remember}).get("/remember"))
    assert cookie.attributes["max-age"] == "3600"


def test_max_age_none_makes_the_cookie_end_with_the_browser_for_good(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def forget(request: Any) -> None:
        request.session.get("value")
        request.session.adjust_cookie_max_age(None)

    def recookie(request: Any) -> None:
        request.session.get("value")
        request.session.please_recookie()

    views = {**VIEWS, "forget": forget, "recookie": recookie}
    app = make_app(redis_url, views, cookie_max_age=str(MONTH))
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/forget", signed_cookie(token, MONTH)))
    assert "max-age" not in cookie.attributes
    assert "expires" not in cookie.attributes
    assert set_cookies(get(app, "/read", f"session={cookie.value}")) == []
    # Sent again for another reason, it keeps the life that was chosen.
    (again,) = set_cookies(get(app, "/recookie", f"session={cookie.value}"))
    assert "max-age" not in again.attributes


@pytest.mark.parametrize("kind", ["timedelta", "naive", "aware"])
def test_adjust_cookie_expires_applies_and_survives_the_slide(
    redis_url: str, redis_client: redis.Redis, signed_ago: Any, kind: str
) -> None:
    hour = datetime.timedelta(hours=1)

    def remember(request: Any) -> None:
        aware = datetime.datetime.now(datetime.timezone.utc) + hour
        end = {"timedelta": hour, "aware": aware, "naive": aware.replace(tzinfo=None)}[kind]
        request.session.get("value")
        request.session.adjust_cookie_expires(end)

    app = make_app(redis_url, {**VIEWS, "remember": remember})
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/remember", signed_cookie(token)))
    max_age = int(cookie.attributes["max-age"])
    assert 3590 <= max_age <= 3600
    (slid,) = set_cookies(get(app, "/read", signed_ago(token, 1900, max_age)))
    assert slid.attributes["max-age"] == str(max_age)


def test_max_age_takes_precedence_over_expires(redis_url: str) -> None:
    def remember(request: Any) -> None:
        request.session["remembered"] = True
        request.session.adjust_cookie_expires(datetime.timedelta(days=1))
        request.session.adjust_cookie_max_age(60)

    (cookie,) = set_cookies(make_app(redis_url, {"remember": remember}).get("/remember"))
    assert cookie.attributes["max-age"] == "60"


def test_chosen_max_age_survives_a_regenerated_id(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def login(request: Any) -> None:
        request.session["user"] = "kim"
        request.session.regenerate_id()

    app = make_app(redis_url, {**VIEWS, "login": login})
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/login", signed_cookie(token, 3600)))
    assert token_of(cookie) != token
    assert cookie.attributes["max-age"] == "3600"


def test_invalidate_wins_over_please_recookie(redis_url: str, redis_client: redis.Redis) -> None:
    def view(request: Any) -> None:
        request.session.get("value")
        request.session.please_recookie()
        request.session.invalidate()

    app = make_app(redis_url, {**VIEWS, "view": view})
    token = new_session(app, redis_client)
    (cookie,) = set_cookies(get(app, "/view", signed_cookie(token)))
    assert cookie.deletes


# -- rotation of the secret ------------------------------------------------------------

OLD = "the old secret of the tests with more than 32 bytes"
NEW = "the new secret of the tests with more than 32 bytes"


def test_cookie_signed_with_an_old_secret_is_accepted_and_sent_again(
    redis_url: str, redis_client: redis.Redis
) -> None:
    before = make_app(redis_url, VIEWS, secret=OLD)
    (old,) = set_cookies(before.get("/write"))

    during = make_app(redis_url, VIEWS, secret=f"{NEW}\n{OLD}")
    response = get(during, "/read", f"session={old.value}")
    assert response.text == "written"
    (new,) = set_cookies(response)
    assert token_of(new, secret=NEW) == token_of(old, secret=OLD)
    assert set_cookies(get(during, "/read", f"session={new.value}")) == []

    after = make_app(redis_url, VIEWS, secret=NEW)
    assert get(after, "/read", f"session={old.value}").text == "None"


def test_cookie_of_an_old_secret_is_sent_again_when_a_page_is_opened(redis_url: str) -> None:
    (old,) = set_cookies(make_app(redis_url, VIEWS, secret=OLD).get("/write"))
    during = make_app(redis_url, VIEWS, secret=f"{NEW}\n{OLD}")
    for purpose, expected in [(FETCH, 0), (IMAGE, 0), (NAVIGATION, 1)]:
        during.reset()
        environ = {"HTTP_COOKIE": f"session={old.value}", **purpose}
        response = during.get("/read", extra_environ=environ)
        assert response.text == "written"
        assert len(set_cookies(response)) == expected


def test_old_secret_does_not_sign_a_dead_session_again(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS, secret=f"{NEW}\n{OLD}")
    assert set_cookies(get(app, "/read", signed_cookie("dead", secret=OLD))) == []
