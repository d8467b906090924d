"""What the how-to pages of docs/ say is so: their samples do what the text beside them says."""

from __future__ import annotations

import configparser
import contextlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyramid.scripting
import pytest
import redis
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.interfaces import ISessionFactory
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from webtest import TestApp

from pyramid_redis_lua_sessions import RedisSessionFactory, StoreUnavailable, sessions_of
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.functional.test_documentation import samples
from tests.support.browser import SECRET, Browser, let_time_pass, make_browser
from tests.support.overlap import Overlap, session_with

DOCS = Path(__file__).resolve().parents[2] / "docs"
MONTH = 30 * 24 * 3600


def page(name: str) -> Any:
    """The Python samples of a page, run as one module."""
    module = types.ModuleType(__name__)  # where a Configurator finds its caller
    for sample in samples(DOCS / f"{name}.rst", "python"):
        exec(compile(sample.text, name, "exec"), module.__dict__)
    return module


# -- login ---------------------------------------------------------------------------------


class User:
    """Somebody with a browser at the application of the login page."""

    def __init__(self, application: Any) -> None:
        self.app = TestApp(application)

    @property
    def home(self) -> dict[str, Any]:
        found: dict[str, Any] = self.app.get("/").json
        return found

    def post(self, path: str, status: int = 303, **fields: str) -> Any:
        return self.app.post(path, {**fields, "csrf_token": self.home["csrf_token"]}, status=status)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the samples take from the reader's."""
    monkeypatch.setenv("SESSION_SECRET", SECRET)


@pytest.fixture
def login_page() -> Any:
    return page("login")


@pytest.fixture
def user(login_page: Any, redis_url: str) -> User:
    settings = {"redis.sessions.url": redis_url, "redis.sessions.secret": SECRET}
    return User(login_page.main({}, **settings))


def test_login_page_logs_in_and_out(user: User) -> None:
    user.post("/log_in", status=403, name="ann", password="milk")
    before, token = user.app.cookies["session"], user.home["csrf_token"]
    user.post("/log_in", name="ann", password="tea")
    assert user.home["user"] == 7
    assert user.home["csrf_token"] != token
    logged_in = user.app.cookies["session"]
    assert logged_in != before

    user.post("/log_out")
    home = user.home
    assert (home["user"], home["messages"]) == (None, ["Good bye."])
    for old in (before, logged_in):
        user.app.set_cookie("session", old)
        assert user.home["user"] is None


def test_login_page_login_is_one_round_trip_at_the_end(
    login_page: Any, proxy: CountingProxy
) -> None:
    settings = {"redis.sessions.url": proxy.url, "redis.sessions.secret": SECRET}
    user = User(login_page.main({}, **settings))
    token = user.home["csrf_token"]
    proxy.reset()
    user.app.post("/log_in", {"name": "ann", "password": "tea", "csrf_token": token}, status=303)
    assert proxy.round_trips == 2  # with that of the load


def test_login_page_new_privilege_renews_the_token(login_page: Any, redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.set_security_policy(login_page.SecurityPolicy())
        config.add_route("home", "/home")

    browser = make_browser(redis_url, configure=configure)
    browser.visit(lambda request: login_page.remember(request, 7))
    before = browser.token

    environ = {"tests.view": login_page.confirm_password}
    browser.app.post("/", {"password": "tea"}, extra_environ=environ, status=303)
    assert browser.token not in (before, None)
    assert browser.visit(lambda request: request.authenticated_userid) == 7
    assert len(browser.visit(lambda request: sessions_of(request, 7))) == 1


def test_login_page_asks_for_the_password_again_and_comes_back(
    login_page: Any, redis_url: str
) -> None:
    settings: dict[str, Any] = {
        "redis.sessions.url": redis_url,
        "redis.sessions.secret": SECRET,
    }
    sample = configparser.ConfigParser()
    sample.read_string(samples(DOCS / "login.rst", "ini")[0].text)
    settings["redis.sessions.confirm_route"] = sample["app:main"]["redis.sessions.confirm_route"]
    settings["pyramid.includes"] = [login_page.add_account]
    user = User(login_page.main({}, **settings))
    user.app.get("/account", status=403)
    user.post("/log_in", name="ann", password="tea")

    asked = user.app.get("/account?tab=mail", status=303)
    form = asked.follow().json
    assert form["next"] == "/account?tab=mail"
    form["password"] = "milk"
    form = user.app.post("/confirm_password", form, status=200).json
    form["password"] = "tea"
    back = user.app.post("/confirm_password", form, status=303)
    assert back.location.endswith("/account?tab=mail")
    assert back.follow().json == {"name": "ann"}

    assert user.app.get("/account").json == {"name": "ann"}
    user.post("/log_out")
    user.app.get("/account", status=403)


@pytest.fixture
def beside_tm(login_page: Any, proxy: CountingProxy, tmp_path: Path) -> Callable[..., User]:
    """Makes a user of the login page's application, with pyramid_tm and public pages."""
    (tmp_path / "site.txt").write_text("static")

    def public(config: Configurator) -> None:
        page("cacheable-views").includeme(config)
        config.add_static_view("static", str(tmp_path))

    def make(**settings: str) -> User:
        settings |= {"redis.sessions.url": proxy.url, "redis.sessions.secret": SECRET}
        includes = {"pyramid.includes": ["pyramid_tm", public]}
        user = User(login_page.main({}, **settings, **includes))
        user.post("/log_in", name="ann", password="tea")
        proxy.reset()
        return user

    return make


@pytest.mark.parametrize("path", ["/static/site.txt", "/news"])
def test_login_page_keeps_pyramid_tm_from_looking_at_the_session(
    beside_tm: Callable[..., User], proxy: CountingProxy, path: str
) -> None:
    (sample,) = samples(DOCS / "login.rst", "text")
    parser = configparser.ConfigParser()
    parser.read_string(sample.text)
    user = beside_tm(**dict(parser["app:main"]))
    answer = user.app.get(path)
    assert proxy.round_trips == 0
    assert "Cookie" not in answer.headers.get("Vary", "")
    assert user.home["user"] == 7


def test_login_page_without_that_asks_for_the_session_of_every_request(
    beside_tm: Callable[..., User], proxy: CountingProxy
) -> None:
    user = beside_tm()
    assert "Cookie" in user.app.get("/static/site.txt").headers["Vary"]
    assert proxy.round_trips == 1
    with pytest.raises(RuntimeError, match="something used the session before"):
        user.app.get("/news")


@pytest.mark.parametrize("annotate", [True, False])
def test_login_page_error_of_redis_reaches_exception_views_as_the_page_says(
    login_page: Any, new_redis_server: Callable[..., RedisServer], annotate: bool
) -> None:
    def with_error_view(config: Configurator) -> None:
        config.add_exception_view(lambda exc, request: Response(status=503), StoreUnavailable)

    server = new_redis_server()
    settings = {"redis.sessions.url": server.url, "redis.sessions.secret": SECRET}
    includes = {"pyramid.includes": ["pyramid_tm", with_error_view]}
    user = User(login_page.main({}, **settings, **includes, **{"tm.annotate_user": annotate}))
    user.post("/log_in", name="ann", password="tea")
    server.kill()
    if annotate:
        with pytest.raises(StoreUnavailable):
            user.app.get("/")
    else:
        user.app.get("/", status=503)


# -- remember me ---------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [True, False])
def test_remember_me_page_makes_a_login_last(
    remembered: bool, redis_url: str, redis_client: redis.Redis
) -> None:
    log_in = page("remember-me").log_in
    browser = make_browser(redis_url)

    def view(request: Any) -> None:
        log_in(request, "ann")

    fields = {"remember_me": "on"} if remembered else {}
    response = browser.app.post("/", fields, extra_environ={"tests.view": view})
    cookie = response.headers["Set-Cookie"]
    assert (f"Max-Age={MONTH}" in cookie) is remembered
    life = MONTH if remembered else 1200
    assert life - 60 < redis_client.ttl(browser.key) <= life

    let_time_pass(redis_client, browser.key, life - 120)
    assert browser.use(lambda session: session.owner) == "ann"
    assert life - 60 < redis_client.ttl(browser.key) <= life  # it starts again at each visit
    browser.use(lambda session: session.regenerate_id())
    assert life - 60 < redis_client.ttl(browser.key) <= life  # and survives a new id
    let_time_pass(redis_client, browser.key, life + 60)
    assert browser.use(lambda session: session.owner) is None


def test_remember_me_page_absolute_timeout_ends_a_remembered_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, absolute_timeout=43200)
    browser.use(lambda session: (session.update(x=1), session.adjust_session_timeout(MONTH)))
    assert redis_client.ttl(browser.key) <= 43200


def test_remember_me_page_limits_hold(redis_url: str, redis_client: redis.Redis) -> None:
    module = page("remember-me")
    browser = make_browser(redis_url)

    def ends(function: Callable[[Any], None]) -> float:
        browser.visit(lambda request: (request.session.update(x=1), function(request)))
        return int(redis_client.hget(browser.key, "deadline") or 0) / 1000

    assert abs(ends(module.twelve_hours_at_most) - time.time() - 12 * 3600) < 60
    local = time.localtime(ends(module.until_midnight))
    assert (local.tm_hour, local.tm_min, local.tm_sec) == (0, 0, 0)


def test_remember_me_page_lifetime_is_shown(redis_url: str) -> None:
    module = page("remember-me")
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(x=1))
    shown = browser.visit(module.lifetime)
    assert shown["idle timeout"] == 1200
    assert abs(shown["ends at"] - time.time() - 1200) < 60


# -- several sessions ----------------------------------------------------------------------


def text_settings(name: str) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read_string(samples(DOCS / f"{name}.rst", "text")[0].text)
    return dict(parser.items("app:main"))


@pytest.mark.parametrize("how", ["in code", "from settings"])
def test_several_sessions_page_makes_a_second_session(
    how: str, redis_url: str, redis_client: redis.Redis
) -> None:
    module = page("several-sessions")
    settings = text_settings("several-sessions")
    urls = {f"{name}.sessions.url": redis_url for name in ("redis", "admin")}
    config = Configurator(settings={**settings, **urls})
    config.include("pyramid_redis_lua_sessions")
    if how == "in code":
        module.add_admin_session(config, redis_url, SECRET)
    else:
        module.add_session(config, "admin_session", "admin.sessions.")

    def view(request: Any) -> Response:
        request.session["who"] = "user"
        request.admin_session["who"] = "admin"
        return Response()

    config.add_route("both", "/admin/both")
    config.add_view(view, route_name="both")
    response = TestApp(config.make_wsgi_app()).get("/admin/both")
    cookies = response.headers.getall("Set-Cookie")
    assert {cookie.partition("=")[0] for cookie in cookies} == {"session", "admin"}
    (admin,) = (cookie for cookie in cookies if cookie.startswith("admin="))
    assert "Path=/admin" in admin
    ttl = {key.partition(b":")[0]: redis_client.ttl(key) for key in redis_client.scan_iter()}
    assert set(ttl) == {b"admin", b"session"}
    assert ttl[b"admin"] <= 300 < ttl[b"session"]


def test_several_sessions_page_cookie_is_not_good_for_the_other_session(redis_url: str) -> None:
    one, other = (make_browser(redis_url, cookie_name=name) for name in ("session", "admin"))
    one.use(lambda session: session.update(x=1))
    other.app.set_cookie("admin", one.app.cookies["session"])
    assert other.use(dict) == {}


def test_several_sessions_page_applications_share_a_session(redis_url: str) -> None:
    shop, forum = (make_browser(redis_url, serialize="json") for _ in range(2))
    shop.use(lambda session: session.update({"shop.cart": ["tea"]}))
    forum.app.cookiejar = shop.app.cookiejar
    assert forum.use(dict) == {"shop.cart": ["tea"]}


# -- cacheable views -----------------------------------------------------------------------


@pytest.fixture
def reader(proxy: CountingProxy) -> Browser:
    """Somebody who has a session, at the application of the page."""
    browser = make_browser(proxy.url, configure=page("cacheable-views").includeme)
    browser.use(lambda session: session.update(x=1))
    return browser


def test_cacheable_page_view_sends_nothing_and_says_nothing_of_cookies(
    reader: Browser, proxy: CountingProxy
) -> None:
    proxy.reset()
    response = reader.app.get("/news")
    assert response.json == {"news": ["Tea is in stock."]}
    assert not {"Vary", "Set-Cookie"} & set(response.headers)
    assert response.headers["Cache-Control"] == "max-age=300"
    assert proxy.commands == []


def test_cacheable_page_session_alone_costs_nothing(reader: Browser, proxy: CountingProxy) -> None:
    proxy.reset()
    reader.visit(lambda request: request.session)
    assert "Vary" not in reader.response.headers
    assert proxy.commands == []


LOOKS: dict[str, Callable[[Any], Any]] = {
    "a key": lambda session: session.get("y"),
    "in": lambda session: "y" in session,
    "len": len,
    "bool": bool,
    "pop_flash": lambda session: session.pop_flash(),
    "peek_flash": lambda session: session.peek_flash(),
    "CSRF token": lambda session: session.get_csrf_token(),
}


@pytest.mark.parametrize("name", LOOKS)
def test_cacheable_page_lists_what_looks_at_the_session(name: str, reader: Browser) -> None:
    reader.use(LOOKS[name])
    assert reader.response.headers["Vary"] == "Cookie"


def test_cacheable_page_view_that_uses_the_session_fails(redis_url: str) -> None:
    module = page("cacheable-views")
    module.news = lambda request: {"news": request.session.get("x")}
    browser = make_browser(redis_url, configure=module.includeme)
    with pytest.raises(RuntimeError, match="uses_session=False, and used"):
        browser.app.get("/news")


def test_cacheable_page_guard_drops_the_session_of_a_cached_response(
    redis_url: str, redis_client: redis.Redis
) -> None:
    sample = configparser.ConfigParser()
    sample.read_string(samples(DOCS / "cacheable-views.rst", "ini")[0].text)
    guard = make_browser(redis_url, secret=None, settings=dict(sample.items("app:main")))

    def cached(request: Any) -> Response:
        request.session["x"] = request.session.get("x", 0) + 1
        return Response(cache_control="public, max-age=300")

    guard.visit(cached)
    assert "Set-Cookie" not in guard.response.headers
    assert redis_client.keys("session:*") == []
    guard.use(lambda session: session.update(x=1))
    guard.visit(cached)
    assert guard.use(lambda session: session["x"]) == 2


# -- polls and timeouts ----------------------------------------------------------------------


def test_timeouts_page_poll_and_question_keep_nobody_alive(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def configure(config: Configurator) -> None:
        module = types.ModuleType(__name__)
        module.__dict__["config"] = config
        for sample in samples(DOCS / "timeouts.rst", "python"):
            exec(compile(sample.text, "timeouts", "exec"), module.__dict__)

    browser = make_browser(redis_url, configure=configure, timeout="1000")
    browser.use(lambda session: session.update(messages=["a", "b"]))
    let_time_pass(redis_client, browser.key, 600)
    assert browser.app.get("/unread").json == {"unread": 2}
    answer = browser.app.get("/session-time-left").json
    assert answer["alive"]
    assert answer["seconds"] <= 400
    assert browser.app.post("/session-time-left").json["seconds"] > 900


def test_timeouts_page_token_is_renewed_now_and_then(
    redis_url: str, redis_client: redis.Redis
) -> None:
    module = types.ModuleType(__name__)
    text = next(s.text for s in samples(DOCS / "timeouts.rst", "python") if "renew" in s.text)
    exec(compile(text, "timeouts", "exec"), module.__dict__)
    browser = make_browser(redis_url, timeout="86400", last_seen="true")
    browser.use(lambda session: session.update(a=1))
    for hours, renews in ((0.5, False), (0.6, True), (0.1, False)):
        before = browser.token
        let_time_pass(redis_client, browser.key, hours * 3600)
        found = browser.visit(module.renew_now_and_then)
        assert (browser.token != before) is renews
        assert found["since"] <= found["last_seen"] <= time.time() - hours * 3600 + 1


def test_values_that_end_page_code_is_right_once(redis_url: str) -> None:
    module = page("values-that-end")
    browser = make_browser(redis_url)
    sent = browser.visit(module.send_code)["sent"]
    for said in ({"code": "x"}, {"code": "é"}, {"code": ""}, {}):
        assert browser.visit(module.check_code, params=said) == {"right": False}
        assert browser.visit(module.check_code, params={"code": sent}) == {"right": False}
        sent = browser.visit(module.send_code)["sent"]
    assert browser.visit(module.check_code, params={"code": sent}) == {"right": True}
    assert browser.visit(module.check_code, params={"code": sent}) == {"right": False}


def test_values_that_end_page_code_is_good_for_one_of_those_who_try_at_once(
    redis_url: str,
) -> None:
    module = page("values-that-end")
    with Overlap(redis_url, on_conflict="retry") as overlap:
        cookie = session_with(overlap, lambda session: session.set("code", "123", ttl=600))
        tries = [overlap.begin(cookie) for _ in range(5)]
        for one in tries:
            one.do_request(module.check_code)
        assert sorted(one.finish().status for one in tries) == [200, *[409] * 4]


# -- a library that brings a session factory -------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a library that sets a session factory when it is included."""
    module = types.ModuleType("a_library_with_sessions")

    def includeme(config: Any) -> None:
        config.set_session_factory(SignedCookieSessionFactory("the library's"))

    module.includeme = includeme  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize("how", ["in code", "pyramid.includes", "ours in code alone"])
def test_two_session_factories_are_a_conflict(redis_url: str, library: str, how: str) -> None:
    names = [library, "pyramid_redis_lua_sessions"]
    in_settings = {"in code": 0, "ours in code alone": 1, "pyramid.includes": 2}[how]
    settings = {
        "redis.sessions.url": redis_url,
        "redis.sessions.secret": SECRET,
        "pyramid.includes": " ".join(names[:in_settings]),
    }
    config = Configurator(settings=settings)
    for name in names[in_settings:]:
        config.include(name)
    with pytest.raises(ConfigurationConflictError, match="ISessionFactory"):
        config.commit()


@pytest.mark.parametrize("includes", ["", "a_library_with_sessions"])
def test_commit_of_the_settings_page_lets_the_last_factory_count(
    redis_url: str, library: str, includes: str
) -> None:
    settings = {
        "redis.sessions.url": redis_url,
        "redis.sessions.secret": SECRET,
        "pyramid.includes": includes,
    }
    sample = page("settings")
    app = sample.main({}, **settings)
    assert isinstance(app.registry.getUtility(ISessionFactory), RedisSessionFactory)


# -- limits --------------------------------------------------------------------------------


def test_limits_page_refuses_a_login_that_is_one_too_many(redis_url: str) -> None:
    (sample,) = samples(DOCS / "limits.rst", "ini")
    parser = configparser.ConfigParser()
    parser.read_string(sample.text)
    settings: dict[str, Any] = {**parser["app:main"], "staff": {"ann"}}
    limits = page("limits")
    browser = make_browser(redis_url, settings=settings, configure=limits.includeme)
    for _ in range(3):
        browser.another().use(lambda session: setattr(session, "owner", "ann"))
    browser.use(lambda session: setattr(session, "owner", "ann"), status=303)
    assert browser.response.location.endswith("/log_out_elsewhere_first")

    settings["redis.sessions.owner_sessions"] = limits.most_sessions
    browser = make_browser(redis_url, settings=settings)
    browser.use(lambda session: setattr(session, "owner", "ann"))
    browser.another().use(lambda session: setattr(session, "owner", "bob"))
    browser.another().use(lambda session: setattr(session, "owner", "bob"), status=403)


# -- indexes -------------------------------------------------------------------------------


def test_indexes_page_finds_and_ends_the_sessions_of_a_customer(redis_url: str) -> None:
    indexes = page("indexes")
    browser = make_browser(redis_url)
    users = [browser.another() for _ in range(3)]
    for number, user in enumerate(users):
        customer = "acme" if number else "other"
        user.visit(lambda request: indexes.logged_in(request, 7, customer))  # noqa: B023
    assert len(users[1].visit(lambda request: indexes.devices_of_customer(request, "acme"))) == 2
    assert users[1].visit(lambda request: indexes.log_out_customer(request, "acme")) == 2
    assert [user.use(lambda session: session.owner) for user in users] == [7, None, None]


# -- update-sessions -----------------------------------------------------------------------


def test_update_sessions_page_changes_and_exports(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updating = page("update-sessions")
    browser = make_browser(redis_url)
    users = [browser.another() for _ in range(2)]
    for user in users:
        user.use(lambda session: setattr(session, "owner", "ann"))
    assert browser.visit(lambda request: updating.roles_changed(request, "ann", ["admin"])) == 2
    documents = users[0].visit(updating.my_data)
    assert [one["values"] for one in documents] == [[{"key": "roles", "value": ["admin"]}]] * 2

    monkeypatch.setitem(updating.__dict__, "bootstrap", lambda name: _environment(browser))
    assert updating.task("ann") == 2
    assert [user.use(dict) for user in users] == [{"roles": ["reader"]}] * 2


@contextlib.contextmanager
def _environment(browser: Browser) -> Iterator[dict[str, Any]]:
    """As ``pyramid.paster.bootstrap`` makes it of an ini file."""
    with pyramid.scripting.prepare(registry=browser.wsgi.registry) as environment:
        yield environment


# -- device page ---------------------------------------------------------------------------


def test_device_page_shows_devices_and_tells_of_new_ones(redis_url: str, tmp_path: Path) -> None:
    device_page = page("device-page")
    mails: list[str] = []
    device_page.write_mail = mails.append
    template = tmp_path / "devices.jinja2"
    template.write_text("{{ devices | length }} of mine")

    def configure(config: Configurator) -> None:
        device_page.includeme(config)
        device_page.listen(config)
        config.override_asset(device_page.TEMPLATE, str(template))

    user = make_browser(redis_url, configure=configure)
    place = {"REMOTE_ADDR": "192.0.2.1", "HTTP_USER_AGENT": "Mozilla/5.0 Firefox/130.0"}
    user.use(lambda session: setattr(session, "owner", 7), extra_environ=place)
    assert mails == ["New login from 192.0.2.1, Firefox."]
    assert user.app.get("/account/devices").text == "1 of mine"
