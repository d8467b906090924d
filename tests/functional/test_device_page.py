"""The page of a user's devices: what it shows, what it ends, and what is noted for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPOk, HTTPSeeOther

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import return_path
from pyramid_redis_lua_sessions.device_page import NewDevice, devices_of, views
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import stored_sessions
from tests.support.browser import SECRET, Browser, make_browser
from tests.support.overlap import Overlap, put

from .test_revoke import own

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
POT = Path(pyramid_redis_lua_sessions.__file__).parent / "locale/pyramid_redis_lua_sessions.pot"
MODES = ["merge", "retry"]

Start = Callable[..., Browser]


@pytest.fixture
def start(redis_url: str) -> Start:
    """Makes an application with the page."""

    def make(
        configure: Callable[[Configurator], object] = id, url: str = redis_url, **options: Any
    ) -> Browser:
        def with_page(config: Configurator) -> None:
            config.include("pyramid_redis_lua_sessions.device_page")
            configure(config)

        return make_browser(url, configure=with_page, **options)

    return make


def at(address: str = "192.0.2.1", agent: str = FIREFOX) -> dict[str, Any]:
    return {"extra_environ": {"REMOTE_ADDR": address}, "headers": {"User-Agent": agent}}


def log_in(browser: Browser, owner: Any = "ada", label: Any = None, **place: Any) -> Browser:
    def view(session: Any) -> None:
        session.owner = owner
        session.label = label

    other = browser.another()
    other.use(view, **at(**place))
    return other


def owners(*users: Browser) -> list[Any]:
    return [user.use(lambda session: session.owner, **at()) for user in users]


def names(*users: Browser) -> list[str]:
    return [user.use(lambda session: session.fingerprint, **at()) for user in users]


def submit(user: Browser, name: str, value: str = "1", status: int = 303, page: Any = None) -> Any:
    form = (page or user.app.get("/devices")).form
    data = {"csrf_token": form["csrf_token"].value, name: value}
    return user.app.post("/devices", data, status=status)


def as_json(user: Browser) -> Any:
    return user.app.get("/devices", headers={"Accept": "application/json"}).json


# -- what it shows ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_page_lists_the_users_sessions_and_marks_this_one(start: Start, mode: str) -> None:
    browser = start(on_conflict=mode)
    users = [log_in(browser, label="my <laptop>"), log_in(browser, agent=SAFARI, address="::1")]
    log_in(browser, "bob", label="not mine")
    answer = users[0].app.get("/devices", **at())
    assert answer.headers["Cache-Control"].startswith("max-age=0, must-revalidate")
    assert "no-store" in answer.headers["Cache-Control"]
    page = answer.text
    titles = re.findall("<h2>(.*?)</h2>", page)
    assert titles == ["my &lt;laptop&gt;", "Mobile Safari, iOS"]
    assert page.count("<strong>this device</strong>") == 1
    assert "not mine" not in page
    assert "192.0.2.1, Firefox, Linux" in page
    assert "::1, Mobile Safari, iOS" in page
    # Each but this one can be ended, without a script.
    assert re.findall('name="end" value="(.*?)"', page) == names(users[1])
    assert "<script" not in page
    assert "style=" not in page


def test_page_escapes_also_where_the_applications_templates_do_not(start: Start) -> None:
    browser = start(settings={"jinja2.autoescape": "false"})
    user = log_in(browser, label="<script>", address="<script>")
    page = user.app.get("/devices?_LOCALE_=%22%3E%3Cscript%3E", **at("<script>")).text
    assert page.count("&lt;script&gt;") == 4
    assert "<script" not in page


def test_json_lists_the_same(start: Start) -> None:
    browser = start()
    users = [log_in(browser, label="laptop"), log_in(browser, agent=SAFARI, address="::1")]
    found = as_json(users[1])
    first, second = found["devices"]
    assert (first["current"], second["current"]) == (True, False)
    assert [first["name"], second["name"]] == names(users[1], users[0])
    assert first["login"] == {"address": "::1", "browser": "Mobile Safari, iOS"}
    assert second["label"] == "laptop"
    assert second["device_bound"] is False
    headers = {"Accept": "application/json", "X-CSRF-Token": found["csrf_token"]}
    answer = users[1].app.post("/devices", {"end": second["name"]}, headers=headers)
    assert answer.json == {"ended": 1}
    assert owners(*users) == [None, "ada"]


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_visitor_sees_nothing(start: Start, accept: str) -> None:
    browser = start()
    browser.app.get("/devices", headers={"Accept": accept}, status=403)
    token = browser.use(lambda session: session.get_csrf_token())
    data = {"csrf_token": token, "others": "1"}
    browser.app.post("/devices", data, headers={"Accept": accept}, status=403)


def test_page_is_under_the_prefix_of_its_include(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.include("pyramid_redis_lua_sessions.device_page", route_prefix="/account")

    user = log_in(make_browser(redis_url, configure=configure))
    assert 'action="/account/devices"' in user.app.get("/account/devices").text


# -- what it ends ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_forms_end_one_all_others_and_all(start: Start, mode: str) -> None:
    browser = start(on_conflict=mode)
    users = [log_in(browser) for _ in range(5)]
    stranger = log_in(browser, "bob")
    answer = submit(users[0], "end", names(users[1])[0])
    assert owners(*users) == ["ada", None, "ada", "ada", "ada"]
    assert "One device was logged out." in answer.follow().text
    answer = submit(users[0], "others")
    assert owners(*users) == ["ada", None, None, None, None]
    assert "3 devices were logged out." in answer.follow().text
    users[1] = log_in(browser)
    answer = submit(users[0], "everywhere")
    assert answer.location == "http://localhost/"
    assert owners(*users) == [None] * 5
    assert "session" not in users[0].app.cookies
    assert owners(stranger) == ["bob"]


def test_forms_send_the_token_under_the_name_that_the_application_has_for_it(start: Start) -> None:
    browser = start(lambda config: config.set_default_csrf_options(token="my_token"))
    users = [log_in(browser) for _ in range(2)]
    users[0].app.get("/devices").form.submit("others", status=303)
    assert owners(*users) == ["ada", None]


@pytest.mark.parametrize("end", ["", "x", "0" * 12, "the stranger's", "its own"])
def test_nothing_ends_that_is_none_of_the_users_others(start: Start, end: str) -> None:
    browser = start()
    user, stranger = log_in(browser), log_in(browser, "bob")
    (own, other) = names(user, stranger)
    submit(user, "end", {"the stranger's": other, "its own": own}.get(end, end))
    assert owners(user, stranger) == ["ada", "bob"]


def test_form_that_says_nothing_or_has_no_token_is_refused(start: Start) -> None:
    browser = start()
    users = [log_in(browser) for _ in range(2)]
    page = users[0].app.get("/devices")
    submit(users[0], "nothing", status=400, page=page)
    users[0].app.post(
        "/devices",
        {"csrf_token": page.form["csrf_token"].value},
        upload_files=[("end", "name.txt", b"x")],
        status=400,
    )
    for data in ({"others": "1"}, {"others": "1", "csrf_token": "wrong"}):
        for accept in ("text/html", "application/json"):
            users[0].app.post("/devices", data, headers={"Accept": accept}, status=400)
    assert owners(*users) == ["ada", "ada"]


def test_page_is_behind_a_fresh_login_if_asked(start: Start) -> None:
    def configure(config: Configurator) -> None:
        config.add_route("confirm", "/confirm")
        config.add_view(lambda request: HTTPOk(), route_name="confirm")

    browser = start(configure, device_page_fresh="300", confirm_route="confirm")
    users = [log_in(browser) for _ in range(2)]
    answer = users[0].app.get("/devices", status=303)
    assert answer.location == "http://localhost/confirm?next=%2Fdevices"
    token = users[0].use(lambda session: session.get_csrf_token())
    users[0].app.post("/devices", {"others": "1", "csrf_token": token}, status=303)
    assert owners(*users) == ["ada", "ada"]
    users[0].use(lambda session: session.confirm())
    submit(users[0], "others")
    assert owners(*users) == ["ada", None]


@pytest.mark.parametrize("mode", MODES)
def test_user_confirms_and_comes_back_to_the_page(start: Start, mode: str) -> None:
    def confirm(request: Any) -> Any:
        if request.method == "POST":
            request.session.confirm()
            return HTTPSeeOther(return_path(request))
        return HTTPOk()

    def configure(config: Configurator) -> None:
        config.add_route("confirm", "/confirm")
        config.add_view(confirm, route_name="confirm")

    browser = start(configure, device_page_fresh="300", confirm_route="confirm", on_conflict=mode)
    users = [log_in(browser) for _ in range(2)]
    token = users[0].use(lambda session: session.get_csrf_token())
    for accept in ("text/html", "application/json"):
        headers = {"Accept": accept, "X-CSRF-Token": token}
        users[0].app.get("/devices", headers=headers, status=303)
        # The form was open since before: nothing is ended, and the page comes after the password.
        headers["Referer"] = "http://localhost/devices"
        away = users[0].app.post("/devices", {"others": "1"}, headers=headers, status=303)
        assert away.location == "http://localhost/confirm?next=%2Fdevices"
    # Not even by who has no token: that is looked at first.
    users[0].app.post("/devices", {"others": "1"}, status=400)
    assert owners(*users) == ["ada", "ada"]
    page = users[0].app.post(away.follow().request.path_qs).follow()
    assert as_json(users[0])["devices"][0]["current"] is True
    assert page.form.submit("others").follow().status_int == 200
    assert owners(*users) == ["ada", None]


def test_bad_setting_is_named(redis_url: str) -> None:
    config = Configurator(settings={"redis.sessions.device_page_fresh": "soon"})
    with pytest.raises(ConfigurationError, match=r"redis.sessions.device_page_fresh = 'soon'"):
        config.include("pyramid_redis_lua_sessions.device_page")


# -- what is noted -----------------------------------------------------------------------


def places(user: Browser) -> list[tuple[Any, Any]]:
    return [(one.login, one.last) for one in devices_of(user.wsgi.registry, "ada")]


def test_place_of_the_login_stays_and_that_of_the_last_use_moves(start: Start) -> None:
    user = log_in(start(), address="192.0.2.1")
    user.use(dict, **at("192.0.2.2", SAFARI))
    ((login, last),) = places(user)
    assert login == ("192.0.2.1", "Firefox, Linux")
    assert last == ("192.0.2.2", "Mobile Safari, iOS")
    # A login begins anew, and so does another owner.
    user.use(lambda session: setattr(session, "owner", "bob"), **at("192.0.2.3"))
    user.use(lambda session: setattr(session, "owner", "ada"), **at("192.0.2.4"))
    ((login, last),) = places(user)
    assert login == last == ("192.0.2.4", "Firefox, Linux")


def test_request_from_the_same_place_writes_nothing(start: Start, proxy: CountingProxy) -> None:
    browser = start(url=proxy.url)
    proxy.reset()
    user = log_in(browser)
    assert proxy.round_trips == 1
    proxy.reset()
    user.use(dict, **at())
    assert proxy.round_trips == 1
    proxy.reset()
    user.use(put("n", 1), **at("192.0.2.9"))
    assert proxy.round_trips == 2
    proxy.reset()
    user.visit(lambda request: None, **at("192.0.2.10"))
    assert proxy.round_trips == 0


def test_request_that_only_reads_does_not_conflict_for_being_noted(
    redis_url: str,
) -> None:
    def configure(config: Configurator) -> None:
        config.include("pyramid_redis_lua_sessions.device_page")

    with Overlap(redis_url, on_conflict="retry", configure=configure) as overlap:
        cookie = overlap.run(None, own("ada"), put("cart", [1])).cookie
        reader = overlap.begin(cookie)
        assert reader.do(lambda session: session["cart"]) == [1]
        reader.do_request(lambda request: request.environ.update(REMOTE_ADDR="192.0.2.7"))
        overlap.run(cookie, put("cart", [2]))
        assert reader.finish().status == 200
        (device,) = devices_of(overlap.registry, "ada")
        assert device.last is not None
        assert device.last.address == "192.0.2.7"
        assert overlap.read(cookie) == {"cart": [2]}


@pytest.mark.parametrize("mode", MODES)
def test_place_that_cannot_be_noted_is_no_error(
    start: Start, new_redis_server: Callable[..., RedisServer], mode: str
) -> None:
    server = new_redis_server()
    user = log_in(start(url=server.url, on_conflict=mode, on_redis_error="ephemeral"))

    def view(request: Any) -> Any:
        owner = request.session.owner
        server.kill()
        return owner

    assert user.visit(view, **at("192.0.2.2")) == "ada"


def test_visitor_without_a_login_is_not_noted(start: Start, redis_client: Any) -> None:
    user = start().another()
    user.use(put("n", 1), **at())
    user.use(dict, **at("192.0.2.2"))
    assert b"places" not in redis_client.hgetall(user.key)


def test_poll_that_keeps_nobody_alive_notes_nothing(start: Start, redis_client: Any) -> None:
    user = log_in(start())
    before = redis_client.hgetall(user.key)

    def poll(request: Any) -> None:
        request.session.touch = False
        dict(request.session)

    user.visit(poll, **at("192.0.2.2"))
    assert redis_client.hgetall(user.key) == before


@pytest.mark.parametrize(
    "agent", ["", "x" * 100_000, "\x1f" * 20, "<script>", "Mozilla/5.0 " + "(" * 400, "\xff\x00"]
)
def test_any_user_agent_is_noted(start: Start, agent: str) -> None:
    user = log_in(start(), agent=agent) if agent.isprintable() else log_in(start())
    if not agent.isprintable():
        user.use(dict, extra_environ={"HTTP_USER_AGENT": agent, "REMOTE_ADDR": "::2"})
    ((_, last),) = places(user)
    assert len(last.browser) <= 64
    assert "<script" not in user.app.get("/devices", **at(agent="x")).text


def test_places_are_sealed_with_the_session(start: Start, redis_client: Any) -> None:
    browser = start()
    users = [log_in(browser), log_in(browser, address="192.0.2.2")]
    redis_client.hset(users[0].key, "places", redis_client.hget(users[1].key, "places"))
    assert (None, None) in places(browser)
    assert owners(users[0]) == [None]


def test_places_that_were_not_noted_are_left_out(redis_url: str, start: Start) -> None:
    # It logged in before the page was there.
    user = make_browser(redis_url).another()
    user.use(lambda session: setattr(session, "owner", "ada"))
    browser = start()
    assert places(browser) == [(None, None)]
    assert "Logged in from" not in log_in(browser, label="x").app.get("/devices").text.split("x")[0]


# -- a new device ------------------------------------------------------------------------


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def listening(start: Start, told: list[Any]) -> Browser:
    return start(lambda config: config.add_subscriber(told.append, NewDevice))


def test_first_login_of_a_browser_is_told_of_and_no_later_one(
    listening: Browser, told: list[Any]
) -> None:
    user = log_in(listening)
    (event,) = told
    assert (event.fingerprint, event.reason) == (*names(user), "login")
    for _ in range(2):
        user.use(lambda session: session.invalidate())
        user.use(lambda session: setattr(session, "owner", "ada"))
    assert len(told) == 1
    log_in(listening)
    assert len(told) == 2


def test_browser_remembers_several_users(listening: Browser, told: list[Any]) -> None:
    user = listening.another()
    for owner in (*range(10), *range(10)):
        user.use(lambda session, owner=owner: setattr(session, "owner", owner))
    assert len(told) == 10
    user.use(lambda session: setattr(session, "owner", 10))
    user.use(lambda session: setattr(session, "owner", 0))  # the one that was longest ago
    assert len(told) == 12


def test_cookie_of_a_browser_names_nobody_and_cannot_be_made(
    listening: Browser, told: list[Any]
) -> None:
    user = log_in(listening, "ada@example.org")
    header = next(
        line for line in user.response.headers.getall("Set-Cookie") if "session_known=" in line
    )
    assert "HttpOnly" in header
    assert "SameSite=Lax" in header
    assert "ada" not in header
    for forged in ("x", "", user.app.cookies["session_known"][:-3] + "abc"):
        user.use(lambda session: session.invalidate())
        user.app.set_cookie("session_known", forged)
        user.use(lambda session: setattr(session, "owner", "ada@example.org"))
    assert len(told) == 4


def test_browser_is_known_when_the_secret_was_rotated(
    start: Start, told: list[Any], listening: Browser
) -> None:
    user = log_in(listening)
    rotated = start(
        lambda config: config.add_subscriber(told.append, NewDevice),
        secret=["another secret, of at least 32 bytes", SECRET],
    )
    (known,) = [cookie for cookie in user.app.cookiejar if cookie.name == "session_known"]
    rotated.app.cookiejar.set_cookie(known)
    rotated.use(lambda session: setattr(session, "owner", "ada"))
    assert len(told) == 1


def test_owner_that_is_set_once_more_is_no_login(listening: Browser, told: list[Any]) -> None:
    user = log_in(listening)
    for cookie in [*user.app.cookiejar]:
        if cookie.name == "session_known":
            user.app.cookiejar.clear(cookie.domain, cookie.path, cookie.name)
    user.use(lambda session: setattr(session, "owner", "ada"))
    assert len(told) == 1


def test_login_that_is_not_saved_is_no_login(
    start: Start, told: list[Any], redis_client: Any
) -> None:
    browser = start(
        lambda config: config.add_subscriber(told.append, NewDevice),
        owner_sessions=1,
        owner_sessions_policy="refuse",
    )
    log_in(browser)
    other = browser.another()
    other.use(lambda session: setattr(session, "owner", "ada"), status=403)
    assert len(told) == len(stored_sessions(redis_client)) == 1
    assert "session_known" not in other.app.cookies


# -- language, look ----------------------------------------------------------------------


def test_template_of_texts_is_complete() -> None:
    with POT.open("rb") as file:
        catalog = read_po(file)
    found = {message.id for message in catalog if message.id}
    assert found == {*map(str, views.TEXTS.values()), (str(views.ONE_ENDED), str(views.MANY_ENDED))}


def test_page_speaks_the_users_language(start: Start, tmp_path: Path) -> None:
    with POT.open("rb") as file:
        catalog = read_po(file, locale="de")
    for message in catalog:
        if message.id and not message.pluralizable:
            message.string = f"ü {message.id}"
        elif message.id:
            message.string = ("Ein Gerät.", "${n} Geräte.")
    place = tmp_path / "locale" / "de" / "LC_MESSAGES"
    place.mkdir(parents=True)
    with (place / "pyramid_redis_lua_sessions.mo").open("wb") as file:
        write_mo(file, catalog)

    def configure(config: Configurator) -> None:
        config.add_translation_dirs(str(tmp_path / "locale"))
        config.set_locale_negotiator(lambda request: "de")

    browser = start(configure)
    users = [log_in(browser) for _ in range(3)]
    page = users[0].app.get("/devices").text
    assert '<html lang="de">' in page
    for text in ("title", "intro", "this", "since", "end", "others", "everywhere"):
        assert f"ü {views.TEXTS[text]}" in page
    assert "2 Geräte." in submit(users[0], "others").follow().text


def test_template_can_be_overridden(start: Start, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja2"
    template.write_text("Mine: {{ devices | length }}, {{ texts.title }}, {{ csrf_token }}")

    def configure(config: Configurator) -> None:
        config.override_asset(
            "pyramid_redis_lua_sessions:device_page/templates/devices.jinja2", str(template)
        )

    user = log_in(start(configure))
    assert user.app.get("/devices").text.startswith("Mine: 1, Your devices, ")


def test_devices_of_a_registry_and_json_text(start: Start) -> None:
    user = log_in(start())
    (device,) = devices_of(user.wsgi.registry, "ada")
    assert json.loads(json.dumps(device.as_json()))["current"] is False
