"""The session cookie: its attributes, when it is sent, and what is accepted as one."""

import contextlib
import datetime
import hmac
import http.client
import http.cookies
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import redis
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import RedisSessionFactory
from tests.support.application import (
    SECRET,
    make_app,
    set_cookies,
    signed_cookie,
    stored_sessions,
)
from tests.support.browser import Reports, make_browser
from tests.support.serving import served


def write(request: Any) -> str:
    request.session["value"] = request.params.get("value", "written")
    return str(request.session.get("value"))


def read(request: Any) -> str:
    return str(request.session.get("value"))


def logout(request: Any) -> None:
    request.session.invalidate()


VIEWS = {"write": write, "read": read, "logout": logout}


def cookie_header(app: TestApp, value: str = "mine", name: str = "session") -> str:
    """Make a session on an application, and return its cookie as a browser sends it."""
    response = app.get("/write", {"value": value})
    app.reset()
    (cookie,) = set_cookies(response, name)
    return f"{name}={cookie.value}"


def get(app: TestApp, path: str, cookie: str) -> Any:
    """Send exactly this Cookie header, decoded as WSGI wants it."""
    app.reset()
    return app.get(path, extra_environ={"HTTP_COOKIE": cookie})


class Served(NamedTuple):
    text: str
    headers: http.client.HTTPMessage


def serve(
    app: Any, headers: Iterable[tuple[str, str]], path: str = "/write", **options: Any
) -> Served:
    """Send one request to an application behind waitress."""
    with (
        served(app, **options) as port,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):
        connection.putrequest("GET", path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Served(response.read().decode(), response.headers)


# -- attributes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"path": "/", "httponly": "", "samesite": "Lax"}),
        ({"cookie_httponly": "false"}, {"path": "/", "samesite": "Lax"}),
        ({"cookie_samesite": ""}, {"path": "/", "httponly": ""}),
        ({"cookie_samesite": "strict"}, {"path": "/", "httponly": "", "samesite": "Strict"}),
        (
            {"cookie_samesite": "None", "cookie_secure": "true"},
            {"path": "/", "httponly": "", "samesite": "None", "secure": ""},
        ),
        (
            {"cookie_path": "/shop", "cookie_domain": "example.com"},
            {"path": "/shop", "domain": "example.com", "httponly": "", "samesite": "Lax"},
        ),
        (
            {"cookie_comment": "session"},
            {"path": "/", "comment": "session", "httponly": "", "samesite": "Lax"},
        ),
        (
            {"cookie_samesite": "None", "cookie_secure": "true", "cookie_partitioned": "true"},
            {"path": "/", "httponly": "", "samesite": "None", "secure": "", "partitioned": ""},
        ),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) or "default",
)
def test_cookie_carries_the_attributes_that_are_configured(
    redis_url: str, options: dict[str, str], expected: dict[str, str]
) -> None:
    response = make_app(redis_url, VIEWS, **options).get("/write")
    (cookie,) = set_cookies(response)
    assert cookie.attributes == expected
    assert cookie.value


def test_persistent_cookie_carries_max_age_and_expires(redis_url: str) -> None:
    response = make_app(redis_url, VIEWS, cookie_max_age="3600").get("/write")
    (cookie,) = set_cookies(response)
    assert cookie.attributes["max-age"] == "3600"
    assert "expires" in cookie.attributes


@pytest.mark.parametrize(
    "expires",
    [
        datetime.timedelta(hours=1),
        datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1),
    ],
    ids=["timedelta", "datetime"],
)
def test_cookie_expires_gives_the_cookie_an_end(redis_url: str, expires: Any) -> None:
    response = make_app(redis_url, VIEWS, cookie_expires=expires).get("/write")
    (cookie,) = set_cookies(response)
    assert 3000 < int(cookie.attributes["max-age"]) <= 3600


@pytest.mark.parametrize(
    ("scheme", "option", "secure"),
    [
        ("http", "auto", False),
        ("https", "auto", True),
        ("http", "true", True),
        ("https", "false", False),
    ],
)
def test_secure_follows_the_scheme_unless_it_is_set(
    redis_url: str, scheme: str, option: str, secure: bool
) -> None:
    app = make_app(redis_url, VIEWS, cookie_secure=option)
    response = app.get("/write", extra_environ={"wsgi.url_scheme": scheme})
    (cookie,) = set_cookies(response)
    assert ("secure" in cookie.attributes) is secure


WITHOUT_SECURE = "the session cookie is sent without Secure"


@pytest.mark.parametrize(
    ("headers", "option", "scheme", "warned"),
    [
        ({"X-Forwarded-Proto": "https"}, "auto", "http", 1),
        ({"X-Forwarded-Proto": "https, http"}, "auto", "http", 1),
        ({"Forwarded": 'for=192.0.2.1;Proto="https";by=_x'}, "auto", "http", 1),
        ({"X-Forwarded-Proto": "http"}, "auto", "http", 0),
        ({"Forwarded": "for=192.0.2.1;proto=http"}, "auto", "http", 0),
        ({}, "auto", "http", 0),
        ({"X-Forwarded-Proto": "https"}, "auto", "https", 0),  # the server was told
        ({"X-Forwarded-Proto": "https"}, "true", "http", 0),
        ({"X-Forwarded-Proto": "https"}, "false", "http", 0),  # as they wish
    ],
)
def test_proxy_that_the_server_does_not_believe_is_warned_of_once(
    redis_url: str,
    headers: dict[str, str],
    option: str,
    scheme: str,
    warned: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(redis_url, VIEWS, cookie_secure=option)
    for _ in range(3):
        app.reset()
        response = app.get("/write", headers=headers, extra_environ={"wsgi.url_scheme": scheme})
        (cookie,) = set_cookies(response)
        assert ("secure" in cookie.attributes) is (option == "true" or scheme == "https")
    assert len([line for line in caplog.messages if line.startswith(WITHOUT_SECURE)]) == warned


@pytest.mark.parametrize("told", [True, False])
def test_waitress_behind_a_proxy_sends_a_secure_cookie_when_it_is_told_of_it(
    redis_url: str, told: bool
) -> None:
    options = {"trusted_proxy": "127.0.0.1", "trusted_proxy_headers": "x-forwarded-proto"}
    app = make_app(redis_url, VIEWS)
    response = serve(app.app, [("X-Forwarded-Proto", "https")], **(options if told else {}))
    assert ("; secure; " in str(response.headers["Set-Cookie"])) is told


def test_cookie_name_is_the_configured_one(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS, cookie_name="shop")
    assert set_cookies(app.get("/write", {"value": "1"})) == []
    assert app.get("/read").text == "1"


def test_cookies_of_the_application_stay_beside_ours(redis_url: str) -> None:
    def view(request: Any) -> Response:
        request.session["value"] = 1
        response = Response("ok")
        response.set_cookie("theirs", "kept")
        return response

    response = make_app(redis_url, {"view": view}).get("/view")
    assert [cookie.value for cookie in set_cookies(response, "theirs")] == ["kept"]
    assert len(set_cookies(response)) == 1


# -- set -----------------------------------------------------------------------------


def test_cookie_is_set_once_and_not_again_by_later_requests(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    assert len(set_cookies(app.get("/write"))) == 1
    assert set_cookies(app.get("/read")) == []
    assert set_cookies(app.get("/write", {"value": "2"})) == []
    assert app.get("/read").text == "2"


def test_cookie_is_set_on_the_response_of_an_exception_view(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "kept"
        raise HTTPNotFound

    app = make_app(redis_url, {**VIEWS, "fail": fail})
    assert len(set_cookies(app.get("/fail", status=404))) == 1
    assert app.get("/read").text == "kept"


def test_cookie_is_not_set_on_an_error_when_cookie_on_exception_is_off(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def fail(request: Any) -> None:
        request.session["value"] = "lost"
        raise HTTPNotFound

    app = make_app(redis_url, {"fail": fail}, cookie_on_exception="false")
    assert set_cookies(app.get("/fail", status=404)) == []
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize("cookie_on_exception", ["true", "false"])
def test_raised_redirect_is_no_exception(redis_url: str, cookie_on_exception: str) -> None:
    def go(request: Any) -> None:
        request.session["value"] = "kept"
        raise HTTPFound("/read")

    app = make_app(redis_url, {**VIEWS, "go": go}, cookie_on_exception=cookie_on_exception)
    response = app.get("/go", status=302)
    assert len(set_cookies(response)) == 1
    assert response.follow().text == "kept"


def test_returned_error_response_is_no_exception(redis_url: str) -> None:
    def missing(request: Any) -> Response:
        request.session["value"] = "kept"
        return Response("none", status=404)

    app = make_app(redis_url, {**VIEWS, "missing": missing}, cookie_on_exception="false")
    assert len(set_cookies(app.get("/missing", status=404))) == 1
    assert app.get("/read").text == "kept"


def test_check_of_the_response_decides_about_the_cookie(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def cached(request: Any) -> Response:
        request.session["value"] = "new"
        return Response("ok", cache_control="public")

    app = make_app(
        redis_url,
        {**VIEWS, "cached": cached},
        func_check_response_allow_cookies="pyramid_redis_lua_sessions.check_response_allow_cookies",
    )
    assert set_cookies(app.get("/cached")) == []
    assert redis_client.dbsize() == 0
    assert len(set_cookies(app.get("/write"))) == 1
    # An existing session needs no new cookie, so its changes are kept.
    assert set_cookies(app.get("/cached")) == []
    assert app.get("/read").text == "new"


def test_check_of_the_response_decides_about_the_deletion_too(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def cached_logout(request: Any) -> Response:
        request.session.invalidate()
        return Response("ok", cache_control="public")

    app = make_app(
        redis_url,
        {**VIEWS, "cached_logout": cached_logout},
        func_check_response_allow_cookies="pyramid_redis_lua_sessions.check_response_allow_cookies",
    )
    app.get("/write")
    assert set_cookies(app.get("/cached_logout")) == []
    assert stored_sessions(redis_client) == {}
    assert app.get("/read").text == "None"


# -- deleted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cookie_name": "__Host-session", "cookie_secure": "true"},
        {"cookie_name": "__Secure-session", "cookie_secure": "true", "cookie_path": "/"},
        {"cookie_domain": "example.com", "cookie_path": "/shop", "cookie_samesite": "Strict"},
        {"cookie_max_age": "60", "cookie_httponly": "false"},
        {
            "cookie_name": "__Host-Http-session",
            "cookie_secure": "true",
            "cookie_partitioned": "true",
            "cookie_samesite": "None",
        },
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()) or "default",
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_deletion_has_the_attributes_with_which_the_cookie_was_set(
    redis_url: str, options: dict[str, str], scheme: str
) -> None:
    app = make_app(redis_url, VIEWS, **options)
    name = options.get("cookie_name", "session")
    environ = {"wsgi.url_scheme": scheme}
    (cookie,) = set_cookies(app.get("/write", extra_environ=environ), name)
    app.reset()
    environ["HTTP_COOKIE"] = f"{name}={cookie.value}"
    (deletion,) = set_cookies(app.get("/logout", extra_environ=environ), name)
    assert deletion.deletes
    ends = ("max-age", "expires")
    assert {k: v for k, v in deletion.attributes.items() if k not in ends} == {
        k: v for k, v in cookie.attributes.items() if k not in ends
    }


def test_only_the_response_of_the_logout_deletes_the_cookie(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    cookie = cookie_header(app)
    (deletion,) = set_cookies(get(app, "/logout", cookie))
    assert deletion.deletes
    # A second tab comes with the old cookie; the browser may hold a newer one by now.
    response = get(app, "/read", cookie)
    assert response.text == "None"
    assert set_cookies(response) == []


def test_read_after_invalidate_still_deletes_the_cookie(redis_url: str) -> None:
    def logout_and_read(request: Any) -> str:
        request.session.invalidate()
        assert "value" not in request.session
        assert request.session.new
        assert request.session.pop_flash() == []
        return str(dict(request.session))

    app = make_app(redis_url, {**VIEWS, "out": logout_and_read})
    cookie = cookie_header(app)
    response = get(app, "/out", cookie)
    assert response.text == "{}"
    (deletion,) = set_cookies(response)
    assert deletion.deletes


def test_write_after_invalidate_sets_a_new_cookie_instead(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def renew(request: Any) -> None:
        request.session.invalidate()
        request.session["value"] = "second"

    app = make_app(redis_url, {**VIEWS, "renew": renew})
    cookie = cookie_header(app, "first")
    (old_id,) = stored_sessions(redis_client)
    response = get(app, "/renew", cookie)
    (new,) = set_cookies(response)
    assert not new.deletes
    assert old_id not in stored_sessions(redis_client)
    assert get(app, "/read", f"session={new.value}").text == "second"


def test_logout_without_a_cookie_sends_nothing(redis_url: str, redis_client: redis.Redis) -> None:
    assert set_cookies(make_app(redis_url, VIEWS).get("/logout")) == []
    assert redis_client.dbsize() == 0


def test_logout_deletes_the_cookie_of_a_session_that_had_expired(redis_url: str) -> None:
    response = get(make_app(redis_url, VIEWS), "/logout", signed_cookie("expired"))
    (deletion,) = set_cookies(response)
    assert deletion.deletes


def test_invalidate_on_a_failed_request_deletes_the_cookie(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session.invalidate()
        raise HTTPNotFound

    app = make_app(redis_url, {**VIEWS, "fail": fail}, cookie_on_exception="false")
    cookie = cookie_header(app)
    app.reset()
    response = app.get("/fail", extra_environ={"HTTP_COOKIE": cookie}, status=404)
    (deletion,) = set_cookies(response)
    assert deletion.deletes


# -- Clear-Site-Data -----------------------------------------------------------------


def test_logout_clears_the_data_of_the_site_that_are_configured(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS, clear_site_data="cookies, storage")
    cookie = cookie_header(app)
    for path in ("/read", "/write"):
        assert "Clear-Site-Data" not in get(app, path, cookie).headers
    response = get(app, "/logout", cookie)
    assert set_cookies(response)[0].deletes
    assert response.headers.getall("Clear-Site-Data") == ['"cookies", "storage"']
    # The next response of the same browser, and one to who never had a session.
    assert "Clear-Site-Data" not in get(app, "/read", cookie).headers
    assert "Clear-Site-Data" not in get(app, "/logout", "").headers


def test_logout_clears_nothing_unless_it_is_configured(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    assert "Clear-Site-Data" not in get(app, "/logout", cookie_header(app)).headers


@pytest.mark.parametrize(
    ("configured", "sent"), [("cookies, storage, cache", ['"storage", "cache"']), ("*", [])]
)
def test_logout_with_a_message_keeps_the_cookie_of_its_new_session(
    redis_url: str, configured: str, sent: list[str]
) -> None:
    def logout_and_say_so(request: Any) -> None:
        request.session.invalidate()
        request.session.flash("You are logged out.")

    app = make_app(redis_url, {**VIEWS, "out": logout_and_say_so}, clear_site_data=configured)
    response = get(app, "/out", cookie_header(app))
    assert len(set_cookies(response)) == 1
    assert response.headers.getall("Clear-Site-Data") == sent


def test_header_of_the_application_stands_before_clear_site_data(redis_url: str) -> None:
    def logout_all(request: Any) -> Response:
        request.session.invalidate()
        return Response(headers={"Clear-Site-Data": '"*"'})

    app = make_app(redis_url, {**VIEWS, "out": logout_all}, clear_site_data="storage")
    response = get(app, "/out", cookie_header(app))
    assert response.headers.getall("Clear-Site-Data") == ['"*"']


def test_login_clears_no_data_of_the_site(redis_url: str) -> None:
    def login(request: Any) -> None:
        request.session.owner = 7

    app = make_app(redis_url, {**VIEWS, "login": login}, clear_site_data="*")
    response = get(app, "/login", cookie_header(app))
    assert len(set_cookies(response)) == 1
    assert "Clear-Site-Data" not in response.headers


# -- left alone ----------------------------------------------------------------------


def test_stale_cookie_is_left_alone(redis_url: str, redis_client: redis.Redis) -> None:
    app = make_app(redis_url, VIEWS)
    cookie = cookie_header(app)
    redis_client.flushall()
    response = get(app, "/read", cookie)
    assert response.text == "None"
    assert set_cookies(response) == []


def test_unknown_id_is_never_adopted(redis_url: str, redis_client: redis.Redis) -> None:
    app = make_app(redis_url, VIEWS)
    response = get(app, "/write", signed_cookie("chosen-by-an-attacker"))
    assert len(set_cookies(response)) == 1
    (session_id,) = stored_sessions(redis_client)
    assert session_id != "chosen-by-an-attacker"


# -- what is accepted as a cookie ----------------------------------------------------


def flipped(cookie: str, position: int) -> str:
    name, _, value = cookie.partition("=")
    other = "A" if value[position] != "A" else "B"
    return f"{name}={value[:position]}{other}{value[position + 1 :]}"


BAD = {
    "empty": lambda good: "session=",
    "no equals sign": lambda good: "session",
    "only separators": lambda good: ";;; ; = ;=;",
    "a word": lambda good: "session=1",
    "not base64": lambda good: "session=!!!$$$%%%",
    "one character": lambda good: "session=A",
    "truncated": lambda good: good[:-20],
    "signature alone": lambda good: good[: len("session=") + 43],
    "signature changed": lambda good: flipped(good, 3),
    "content changed": lambda good: flipped(good, 60),
    "something appended": lambda good: good + "AAAA",
    "doubled": lambda good: good + good.partition("=")[2],
    "long": lambda good: "session=" + "A" * 100_000,
    "genuine, then long": lambda good: good + "A" * 100_000,
    "quote that never ends": lambda good: 'session="' + good.partition("=")[2],
    "invalid UTF-8": lambda good: "session=\xff\xfe\xc3\x28",
    "octal escapes": lambda good: 'session="\\377\\376\\303("',
    "bad octal escape": lambda good: 'session="\\999\\1"',
    "null and control characters": lambda good: "session=\x00\x01\x1f\x7f",
    "a hundred": lambda good: "; ".join(f"session=forged{n}" for n in range(100)),
    "another name that contains ours": lambda good: "x" + good,
    "another case": lambda good: "Session=" + good.partition("=")[2],
    "percent signs": lambda good: "session=%ff%00",
    "id alone": lambda good: "session=chosen",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_cookie_that_is_not_ours_gives_an_empty_session(
    redis_url: str, redis_client: redis.Redis, bad: Callable[[str], str]
) -> None:
    app = make_app(redis_url, VIEWS)
    good = cookie_header(app)
    response = get(app, "/read", bad(good))
    assert response.text == "None"
    assert set_cookies(response) == []
    assert len(stored_sessions(redis_client)) == 1
    response = get(app, "/write", bad(good))
    assert len(set_cookies(response)) == 1
    assert len(stored_sessions(redis_client)) == 2


def test_every_changed_character_of_a_cookie_is_noticed(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    good = cookie_header(app)
    length = len(good.partition("=")[2])
    # The last character may carry bits that base64 does not use.
    accepted = [n for n in range(length - 1) if get(app, "/read", flipped(good, n)).text != "None"]
    assert accepted == []


SURROUNDINGS = {
    "alone": "{good}",
    "quoted": '{name}="{value}"',
    "after a forged one": "session=forged; {good}",
    "before a forged one": "{good}; session=forged",
    "after a stale one": "{stale}; {good}",
    "before a stale one of another path": "{good}; {forged}",
    "after six forged ones": "session=x; " * 6 + "{good}",
    "as the eighth": "session=x; " * 7 + "{good}",
    "before a hundred": "{good}" + "; session=x" * 100,
    "after a long one": "session=" + "A" * 50_000 + "; {good}",
    "after an empty one": "session=; {good}",
    "after invalid UTF-8 of the same name": "session=\xff\xfe; {good}",
    "after invalid UTF-8 of another name": "other=\xff\xfe; {good}",
    "before invalid UTF-8": "{good}; other=\xff",
    "after a name that is invalid": "n\xe4me=1; {good}",
    "between others": "a=1; {good}; b=2",
    "without blanks": "a=1;{good};b=2",
    "after a broken quote": 'a="b; {good}',
    "after a bad escape of the same name": 'session="\\999"; {good}',
    "after a bad escape of another name": 'a="\\999\\400"; {good}',
    "after a bare word": "word; {good}",
    # Several Cookie lines, as waitress, gunicorn and proxies of HTTP/2 hand them over.
    "joined by a comma after another": "a=1,{good}",
    "joined by a comma and a blank": "a=1, {good}",
    "joined by a comma before another": "{good},b=2; c=3",
    "joined by commas between two of its name": "session=x,{good},{forged}",
}


@pytest.mark.parametrize("header", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_genuine_cookie_is_found(redis_url: str, header: str) -> None:
    app = make_app(redis_url, VIEWS)
    good = cookie_header(app)
    name, _, value = good.partition("=")
    # A cookie of another path, from a time when the secret was another one.
    stale = signed_cookie("stale", secret="the secret that was used before this one")
    forged = flipped(good, 5)
    sent = header.format(good=good, name=name, value=value, stale=stale, forged=forged)
    assert get(app, "/read", sent).text == "mine"


@pytest.mark.parametrize("order", ["stale first", "genuine first"])
def test_genuine_session_beside_an_ended_one_of_another_path_stays_logged_in(
    redis_url: str, redis_client: redis.Redis, order: str
) -> None:
    # Both are signed by us; only Redis knows which one lives. RFC 6265 5.4 has the browser send
    # the cookie of the longer path first, whichever that is.
    app = make_app(redis_url, VIEWS)
    stale = cookie_header(app, "theirs")
    redis_client.flushall()
    good = cookie_header(app, "mine")
    header = f"{stale}; {good}" if order == "stale first" else f"{good}; {stale}"
    response = get(app, "/read", header)
    assert set_cookies(response) == []
    assert response.text == "mine"


def test_cookie_in_the_second_of_two_lines_is_found(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    good = cookie_header(app)
    assert serve(app.app, [("Cookie", "a=1"), ("Cookie", good)], "/read").text == "mine"


def test_invalid_cookie_is_reported_and_no_cookie_is_not(redis_url: str) -> None:
    reports = Reports()
    app = make_app(redis_url, VIEWS, func_invalid_logger=reports)
    app.get("/read")
    get(app, "/read", "other=1")
    assert reports.problems == []
    get(app, "/read", "session=forged")
    assert reports.kinds == ["InvalidSession_BadCookie"]


def test_view_that_ignores_the_session_is_not_disturbed_by_a_bad_cookie(redis_url: str) -> None:
    app = make_app(redis_url, {"plain": lambda request: "plain"})
    assert get(app, "/plain", "session=\xff\xfe").text == "plain"


def test_two_factories_of_one_application_do_not_accept_each_others_cookies(
    redis_url: str,
) -> None:
    other = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="other")

    def read_other(request: Any) -> str:
        return str(request.other.get("value"))

    def configure(config: Any) -> None:
        config.add_request_method(other, "other", reify=True)

    app = make_app(redis_url, {**VIEWS, "read_other": read_other}, configure=configure)
    value = cookie_header(app).partition("=")[2]
    assert get(app, "/read", f"session={value}").text == "mine"
    assert get(app, "/read_other", f"other={value}").text == "None"


def test_two_sessions_of_one_request_have_a_cookie_each(
    redis_url: str, redis_client: redis.Redis
) -> None:
    other = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="other")

    def both(request: Any) -> None:
        request.session["value"] = "first"
        request.other["value"] = "second"

    def read_both(request: Any) -> str:
        return f"{request.session['value']} {request.other['value']}"

    def configure(config: Any) -> None:
        config.add_request_method(other, "other", reify=True)

    app = make_app(redis_url, {"both": both, "read_both": read_both}, configure=configure)
    response = app.get("/both")
    assert len(set_cookies(response)) == 1
    assert len(set_cookies(response, "other")) == 1
    assert len(stored_sessions(redis_client)) == 2
    assert app.get("/read_both").text == "first second"


def test_cookie_signer_takes_the_place_of_the_secret(redis_url: str) -> None:
    class Reverse:
        """A signer that proves nothing, but marks what it made."""

        def dumps(self, payload: str) -> bytes:
            return b"R" + payload[::-1].encode().hex().encode()

        def loads(self, value: bytes) -> str:
            if not value.startswith(b"R"):
                raise ValueError("not mine")
            return bytes.fromhex(value[1:].decode()).decode()[::-1]

    app = make_app(redis_url, VIEWS, secret=None, cookie_signer=Reverse(), seal_secret="seal " * 10)
    app.get("/write", {"value": "signed"})
    assert app.get("/read").text == "signed"
    assert get(app, "/read", "session=forged").text == "None"
    assert get(app, "/read", "session=Rzz").text == "None"


class ReadableSigner:
    """Appends a signature, as ``itsdangerous.Signer`` does: what it signs stays readable."""

    def dumps(self, payload: str) -> bytes:
        return f"{payload}.{self.signature(payload)}".encode()

    def loads(self, value: bytes) -> str:
        payload, _, signature = value.decode().rpartition(".")
        if not hmac.compare_digest(signature, self.signature(payload)):
            raise ValueError("not mine")
        return payload

    def signature(self, payload: str) -> str:
        return hmac.new(SECRET.encode(), payload.encode(), "sha256").hexdigest()


@pytest.mark.parametrize("max_age", ["", "3600"])
@pytest.mark.parametrize("session_id", [None, 'an id; of, "the\\ application" \xe9\u20ac=%20'])
def test_readable_payload_of_a_cookie_signer_is_a_cookie_value(
    redis_url: str, max_age: str, session_id: str | None
) -> None:
    app = make_app(
        redis_url,
        VIEWS,
        secret=None,
        cookie_signer=ReadableSigner(),
        seal_secret="seal " * 10,
        cookie_max_age=max_age,
        id_generator=session_id and (lambda: session_id),
    )
    header = app.get("/write", {"value": "signed"}).headers["Set-Cookie"]
    # RFC 6265 4.1.1: cookie-octet.
    assert re.match(r"session=[!#-+\--:<-\[\]-~]+(; Max-Age=3600)?; Path=/", header)
    assert app.get("/read").text == "signed"
    assert get(app, "/read", header.partition(";")[0] + "0").text == "None"


def test_value_that_is_sent_is_a_plain_cookie_value(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    header = cookie_header(app)
    jar = http.cookies.SimpleCookie(header)
    assert jar["session"].value == header.partition("=")[2]
    # RFC 6265 4.1.1, cookie-octet; and no need to quote.
    assert header.partition("=")[2].replace("-", "").replace("_", "").isalnum()
    assert len(header) < 200


# -- Vary ----------------------------------------------------------------------------


def varies(response: Any) -> list[str]:
    fields = ",".join(response.headers.getall("Vary"))
    return [field.strip().lower() for field in fields.split(",") if field.strip()]


LOOKS: dict[str, Callable[[Any], object]] = {
    "get": lambda session: session.get("value"),
    "in": lambda session: "value" in session,
    "len": len,
    "iterate": list,
    "set": lambda session: session.update(value=1),
    "flash": lambda session: session.flash("message"),
    "pop_flash": lambda session: session.pop_flash(),
    "csrf": lambda session: session.get_csrf_token(),
    "new": lambda session: session.new,
    "invalidate": lambda session: session.invalidate(),
    "session_id": lambda session: session.session_id,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
@pytest.mark.parametrize("with_cookie", [True, False])
def test_response_varies_on_cookie_when_content_was_looked_at(
    redis_url: str, look: Callable[[Any], object], with_cookie: bool
) -> None:
    def view(request: Any) -> None:
        look(request.session)

    app = make_app(redis_url, {**VIEWS, "view": view})
    cookie = cookie_header(app) if with_cookie else ""
    assert varies(get(app, "/view", cookie)).count("cookie") == 1


def test_response_does_not_vary_when_nothing_was_looked_at(redis_url: str) -> None:
    def view(request: Any) -> str:
        return repr(request.session)

    app = make_app(redis_url, {**VIEWS, "view": view, "plain": lambda request: "plain"})
    cookie = cookie_header(app)
    assert varies(get(app, "/view", cookie)) == []
    assert varies(get(app, "/plain", cookie)) == []


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], ["cookie"]),
        (["Accept-Encoding"], ["accept-encoding", "cookie"]),
        (["Accept-Encoding, Origin"], ["accept-encoding", "origin", "cookie"]),
        (["Accept", "Origin"], ["accept", "origin", "cookie"]),
        (["Cookie"], ["cookie"]),
        (["origin, cookie"], ["origin", "cookie"]),
        (["*"], ["*"]),
        (["X-Cookie-Consent"], ["x-cookie-consent", "cookie"]),
        (["Cookie2"], ["cookie2", "cookie"]),
        # WebOb's response.vary = () leaves an empty one. A sender must not make an empty element of
        # it (RFC 9110, 5.6.1.1).
        ([""], ["cookie"]),
        (["Accept,, Origin,"], ["accept", "origin", "cookie"]),
    ],
)
def test_vary_is_merged_with_what_the_response_says(
    redis_url: str, existing: list[str], expected: list[str]
) -> None:
    def view(request: Any) -> Response:
        request.session.get("value")
        response = Response("ok")
        response.headers.extend([("Vary", value) for value in existing])
        return response

    response = make_app(redis_url, {"view": view}).get("/view")
    assert varies(response) == expected
    assert all(name.strip() for name in response.headers["Vary"].split(","))


@pytest.mark.parametrize("existing", [None, ["Accept-Encoding"], ["Accept", "Accept-Language"]])
def test_what_a_subscriber_adds_to_vary_keeps_the_cookie(
    redis_url: str, existing: list[str] | None
) -> None:
    def view(request: Any) -> Response:
        request.session.get("value")
        response = Response("ok")
        response.headers.extend([("Vary", value) for value in existing or ()])
        return response

    def add_origin(event: Any) -> None:
        # As WebOb's documentation, and its users, do it: WebOb knows one line of a name.
        event.response.vary = (event.response.vary or ()) + ("Origin",)

    def configure(config: Any) -> None:
        config.add_subscriber(add_origin, NewResponse)

    response = make_app(redis_url, {"view": view}, configure=configure).get("/view")
    expected = [*(value.lower() for value in existing or ()), "cookie", "origin"]
    assert varies(response) == expected
    assert len(response.headers.getall("Vary")) == 1


def test_error_page_for_which_content_was_looked_at_varies(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session.get("value")
        raise HTTPNotFound

    assert varies(make_app(redis_url, {"fail": fail}).get("/fail", status=404)) == ["cookie"]


def test_look_in_a_later_response_callback_makes_the_response_vary(redis_url: str) -> None:
    def view(request: Any) -> None:
        session = request.session
        request.add_response_callback(lambda request, response: session.get("value"))

    assert varies(make_app(redis_url, {"view": view}).get("/view")) == ["cookie"]


def test_profile_gives_the_cookie_its_name_and_attributes(redis_url: str) -> None:
    browser = make_browser(redis_url, profile="asvs-l2")
    browser.use(lambda session: session.update(a=1), extra_environ={"wsgi.url_scheme": "https"})
    header = browser.response.headers["Set-Cookie"]
    assert header.startswith("__Host-session=")
    for attribute in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
        assert attribute.lower() in header.lower().split("; ")
    assert "domain" not in header.lower()
