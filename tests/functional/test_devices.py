"""Sessions that are bound to a device, with a device of the tests' own; see tests/browser, too."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPForbidden, HTTPSeeOther
from pyramid.response import Response
from webob import Request

from pyramid_redis_lua_sessions import (
    DeviceRefreshed,
    DeviceRegistered,
    InvalidSession_DeviceLocked,
    InvalidSession_DeviceProof,
    SessionRejected,
    session_factory_from_settings,
    sessions_of,
)
from pyramid_redis_lua_sessions.debugtoolbar import SessionPanel
from pyramid_redis_lua_sessions.devices import binding as binding_module
from pyramid_redis_lua_sessions.engine import staging
from pyramid_redis_lua_sessions.engine.tokens import TOKEN_FIELD
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.functional.test_documentation import samples
from tests.support.application import SECRET, set_cookies
from tests.support.browser import SECRET as BROWSER_SECRET
from tests.support.browser import Browser, Reports, let_time_pass, make_browser
from tests.support.command import run, write_ini
from tests.support.device import BASE, HTTPS, Device, jwk_of, new_key, sign

DEVICE_COOKIE = "session-device"

DOCS = Path(__file__).resolve().parents[2] / "docs"


class Site:
    """An application that binds sessions, and one user of it.

    :ivar events: what it was told, in order.
    """

    def __init__(self, redis_url: str, algorithm: str = "ES256", **options: Any) -> None:
        self.events: list[Any] = []
        configure = options.pop("configure", lambda config: None)

        def configured(config: Any) -> None:
            kinds = (DeviceRegistered, DeviceRefreshed, SessionRejected)
            for kind in kinds:
                config.add_subscriber(self.events.append, kind)
            configure(config)

        # Without grace nothing is in flight: what is locked, is so at once.
        options = {"device_binding": "on", "grace": "0", **options}
        self.browser = make_browser(redis_url, configure=configured, **options)
        self.device = Device(self.browser.app, algorithm)

    def use(self, function: Callable[[Any], Any], browser: Browser | None = None) -> Any:
        return (browser or self.browser).use(function, extra_environ=HTTPS)

    def visit(self, view: Callable[[Any], Any], browser: Browser | None = None) -> Any:
        return (browser or self.browser).visit(view, extra_environ=HTTPS)

    def log_in(self, owner: str = "kim") -> None:
        self.use(lambda session: setattr(session, "owner", owner))
        assert self.device.note_offer(self.browser.response)

    def bind(self, owner: str = "kim") -> Any:
        self.log_in(owner)
        response = self.device.register()
        assert response.status_int == 200
        return response

    def thief(self, *, with_device_cookie: bool = False) -> Browser:
        """Somebody who has copied the session cookie, or both cookies."""
        twin = self.browser.copy()
        if not with_device_cookie:
            forget(twin, DEVICE_COOKIE)
        return twin

    def owner_for(self, browser: Browser | None = None) -> Any:
        return self.use(lambda session: session.owner, browser)


def page_of_the_documentation() -> Any:
    page = types.ModuleType("page")
    for sample in samples(DOCS / "devices.rst", "python"):
        exec(compile(sample.text, "devices.rst", "exec"), page.__dict__)
    return page


def forget(browser: Browser, name: str) -> None:
    jar = browser.app.cookiejar
    for cookie in list(jar):
        if cookie.name == name:
            jar.clear(cookie.domain, cookie.path, cookie.name)


@pytest.fixture
def site(redis_url: str) -> Site:
    return Site(redis_url)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of the application server, seconds from now."""

    def set_clock(seconds: float) -> None:
        clock = SimpleNamespace(time=lambda: time.time() + seconds)
        monkeypatch.setattr(binding_module, "time", clock)

    return set_clock


# -- a login offers to bind ------------------------------------------------------------


def test_login_offers_to_bind_the_session_also_in_a_redirect(site: Site) -> None:
    def view(request: Any) -> Any:
        request.session.owner = "kim"
        return HTTPSeeOther("/")

    site.visit(view)
    assert site.browser.response.status_int == 303
    assert site.device.note_offer(site.browser.response)


@pytest.mark.parametrize(
    "function",
    [
        lambda session: session.get("a"),
        lambda session: session.update(a=1),
        lambda session: session.regenerate_id(),
        lambda session: setattr(session, "owner", None),
    ],
)
def test_nothing_else_offers_it(site: Site, function: Callable[[Any], Any]) -> None:
    site.use(lambda session: session.update(b=1))
    site.use(function)
    assert not site.device.note_offer(site.browser.response)


def test_nothing_is_offered_over_http_and_the_log_says_so_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for owner in ("kim", "lee"):
        site.browser.use(lambda session, owner=owner: setattr(session, "owner", owner))
        assert not site.device.note_offer(site.browser.response)
    assert caplog.text.count("no session is bound to a device: a login came over http") == 1


def test_nothing_is_offered_after_a_failed_login(site: Site) -> None:
    site.log_in()

    def fail(request: Any) -> Any:
        request.session.owner = "lee"
        raise ValueError("the login failed")

    with pytest.raises(ValueError, match="login failed"):
        site.visit(fail)
    assert site.owner_for() == "kim"
    assert not site.device.note_offer(site.browser.response)


def test_login_that_is_taken_back_offers_nothing(redis_url: str) -> None:
    def fail(request: Any) -> None:
        request.session.owner = "kim"
        raise HTTPForbidden

    for options, offered in (({}, True), ({"save_on_exception": "false"}, False)):
        site = Site(redis_url, **options)
        site.use(lambda session: session.update(a=1))
        browser = site.browser
        environ = {**HTTPS, "tests.view": fail}
        response = browser.app.get("/", extra_environ=environ, status=403)
        assert site.device.note_offer(response) is offered
        assert site.owner_for() == ("kim" if offered else None)


def test_password_that_is_asked_for_again_offers_it_to_an_unbound_session_only(site: Site) -> None:
    site.log_in()
    site.log_in()
    assert site.device.register().status_int == 200
    site.use(lambda session: setattr(session, "owner", "kim"))
    assert not site.device.note_offer(site.browser.response)
    assert site.use(lambda session: session.device_bound)


def test_application_without_owners_binds_by_itself(site: Site) -> None:
    def log_in(session: Any) -> None:
        session["user"] = "kim"
        session.regenerate_id()
        session.bind_device()

    site.use(log_in)
    assert site.device.note_offer(site.browser.response)
    assert site.device.register().status_int == 200
    token = site.browser.token
    site.use(lambda session: session.bind_device())  # anew
    assert site.device.note_offer(site.browser.response)
    assert site.browser.token != token
    assert not site.use(lambda session: session.device_bound)


def test_without_the_setting_nothing_happens(redis_url: str) -> None:
    site = Site(redis_url, device_binding="off")

    def log_in(session: Any) -> None:
        session.owner = "kim"
        session.bind_device()

    site.use(log_in)
    assert not site.device.note_offer(site.browser.response)
    assert site.browser.app.post(f"{BASE}/register", status=404)


# -- registration ----------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_registration_binds_and_refresh_goes_on(
    redis_url: str, algorithm: str, encrypted: bool
) -> None:
    options = {"encryption_key": "k" * 40} if encrypted else {}
    site = Site(redis_url, algorithm, **options)
    response = site.bind()
    document = response.json
    assert document["refresh_url"] == f"{BASE}/refresh"
    assert document["scope"] == {
        "origin": "https://localhost",
        "include_site": False,
        "scope_specification": [],
    }
    (credential,) = document["credentials"]
    assert credential["name"] == DEVICE_COOKIE
    (cookie,) = set_cookies(response, DEVICE_COOKIE)
    named = {a.partition("=")[0].lower() for a in credential["attributes"].split("; ")}
    assert named == cookie.attributes.keys() - {"max-age", "expires"}
    assert cookie.attributes["max-age"] == "300"
    assert {"secure", "httponly"} <= named
    assert site.use(lambda session: (session.owner, session.device_bound)) == ("kim", True)
    for _ in range(3):
        response = site.device.refresh()
        assert response.status_int == 200
        assert response.body == b""
        assert set_cookies(response, DEVICE_COOKIE)
        assert site.owner_for() == "kim"
    assert [type(event) for event in site.events] == [DeviceRegistered] + 3 * [DeviceRefreshed]
    fingerprint = site.use(lambda session: session.fingerprint)
    assert {event.fingerprint for event in site.events} == {fingerprint}


def test_short_key_leaves_the_session_compact_in_redis(
    site: Site, redis_client: redis.Redis
) -> None:
    site.bind()
    kind = redis_client.object("encoding", site.browser.key)
    assert kind in (b"listpack", b"ziplist")  # Redis 6.2 calls it so


def test_login_can_be_registered_once(site: Site) -> None:
    site.bind()
    assert site.device.register().status_int == 403
    other = Device(site.browser.app)
    other.offered = site.device.offered
    assert other.register().status_int == 403
    assert site.device.refresh().status_int == 200


def test_of_many_that_register_one_is_bound(site: Site) -> None:
    site.log_in()
    devices = [Device(site.browser.another().app) for _ in range(50)]
    for device in devices:
        device.offered = site.device.offered
    statuses: list[int] = []
    run_all([lambda one=device: statuses.append(one.register().status_int) for device in devices])
    assert sorted(statuses) == [200] + 49 * [403]


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_offer_is_not_taken_up_late(
    site: Site, set_clock: Callable[[float], None], seconds: float
) -> None:
    site.log_in()
    set_clock(seconds)
    assert site.device.register().status_int == 403


def test_offer_dies_with_the_token_and_with_the_session(site: Site) -> None:
    site.log_in()
    site.use(lambda session: session.regenerate_id())
    assert site.device.register().status_int == 403
    site.log_in("lee")
    site.use(lambda session: session.invalidate())
    assert site.device.register().status_int == 403
    assert site.events == []


@pytest.mark.parametrize(
    "make",
    [
        lambda key, challenge: "",
        lambda key, challenge: "a.b.c",
        lambda key, challenge: sign(key, challenge),
        lambda key, challenge: sign(key, challenge, with_key=True, typ="JWT"),
        lambda key, challenge: sign(key, challenge, with_key=True, jwk=jwk_of(new_key())),
        lambda key, challenge: sign(key, challenge, with_key=True, jwk=jwk_of(new_key("RS256"))),
        lambda key, challenge: sign(key, challenge + "A", with_key=True),
        lambda key, challenge: sign(key, None, with_key=True),
        lambda key, challenge: sign(key, challenge, with_key=True, x="A" * 5000),
        lambda key, challenge: sign(key, challenge, with_key=True)[:-4] + "AAAA",
    ],
)
def test_other_proof_registers_nothing(site: Site, make: Callable[[Any, str], str]) -> None:
    site.log_in()
    assert site.device.register(make(site.device.key, site.device.offered)).status_int == 403
    assert not site.use(lambda session: session.device_bound)
    assert site.device.register().status_int == 200


# -- the lock ----------------------------------------------------------------------------


def test_copied_session_cookie_is_locked_at_once(site: Site, redis_client: redis.Redis) -> None:
    site.use(lambda session: session.update(cart=1))
    site.bind()
    before = redis_client.hgetall(site.browser.key)
    thief = site.thief()

    def look(session: Any) -> Any:
        session["stolen"] = 1
        return session.owner, session.get("cart"), session.session_id, session.ended

    assert site.use(look, thief) == (None, None, None, False)
    assert thief.response.headers.getall("Set-Cookie") == []
    assert site.use(lambda session: (session.device_locked, session.device_bound), thief) == (
        True,
        False,
    )
    after = redis_client.hgetall(site.browser.key)
    assert after == before
    locked = [e.problem for e in site.events if isinstance(e, SessionRejected)]
    assert isinstance(locked[0], InvalidSession_DeviceLocked)
    assert locked[0].reason == "locked: no device cookie"
    assert locked[0].fingerprint == site.use(lambda session: session.fingerprint)
    assert site.owner_for() == "kim"


def test_both_copied_cookies_are_locked_after_the_lifetime(
    site: Site, set_clock: Callable[[float], None]
) -> None:
    site.bind()
    thief = site.thief(with_device_cookie=True)
    assert site.owner_for(thief) == "kim"
    for seconds in (302, -302):
        set_clock(seconds)
        assert site.owner_for(thief) is None
        assert site.events[-1].reason == "locked: the device cookie has expired"
    set_clock(302)
    assert site.device.refresh().status_int == 200
    assert site.owner_for() == "kim"
    assert site.owner_for(thief) is None


@pytest.mark.parametrize(
    "value",
    ["", "1-2.3", "x", "9" * 600, "%s", "\xe9.\xe9", "1-300.", ".", "²-300." + "A" * 22],
)
def test_other_device_cookie_unlocks_nothing(site: Site, value: str) -> None:
    site.bind()
    if value == "%s":
        other = Site.__new__(Site)
        other.__dict__.update(site.__dict__)
        other.browser = site.browser.another()
        other.device = Device(other.browser.app)
        other.bind("lee")
        value = other.browser.app.cookies[DEVICE_COOKIE]
    thief = site.thief()
    session_cookie = f"session={thief.app.cookies['session']}"
    thief.app.reset()
    header = f"{session_cookie}; {DEVICE_COOKIE}={value}".encode().decode("latin-1")
    environ = {**HTTPS, "HTTP_COOKIE": header}
    assert thief.use(lambda session: session.owner, extra_environ=environ) is None
    assert site.events[-1].reason == "locked: the device cookie is foreign"


def test_requests_in_flight_pass_when_the_session_is_bound(redis_url: str) -> None:
    site = Site(redis_url, grace="60")
    site.bind()
    assert site.owner_for(site.thief()) == "kim"


def test_requests_in_flight_pass_when_the_cookie_expires(
    redis_url: str, set_clock: Callable[[float], None]
) -> None:
    site = Site(redis_url, grace="60")
    site.bind()
    set_clock(330)
    assert site.owner_for() == "kim"
    set_clock(370)
    assert site.owner_for() is None


def test_who_is_locked_logs_in_with_a_form_and_stays_so(redis_url: str) -> None:
    def configure(config: Any) -> None:
        def log_in(request: Any) -> Response:
            request.session.owner = "kim"
            return Response("logged in")

        config.add_route("login", "/login")
        config.add_view(log_in, route_name="login", request_method="POST", require_csrf=True)

    site = Site(redis_url, configure=configure)
    site.bind()
    own = site.use(lambda session: session.get_csrf_token())
    locked = site.thief()
    session_id = locked.session_id
    token = site.use(lambda session: session.get_csrf_token(), locked)
    assert token != own
    assert token == site.use(lambda session: session.get_csrf_token(), locked)
    environ = {**HTTPS, "HTTP_REFERER": "https://localhost/"}
    locked.app.post("/login", {"csrf_token": own}, extra_environ=environ, status=400)
    response = locked.app.post("/login", {"csrf_token": token}, extra_environ=environ)
    assert Device(locked.app).note_offer(response)
    assert locked.session_id != session_id
    assert site.owner_for(locked) == "kim"
    assert site.owner_for() == "kim"


def test_only_a_login_replaces_a_locked_session(site: Site) -> None:
    site.bind()
    locked = site.thief()
    token = locked.token

    def confirm(session: Any) -> None:
        session["confirmed"] = 1
        session.regenerate_id()

    site.use(confirm, locked)
    assert locked.token == token
    assert site.events[-1].reason == "session is locked; changes dropped"
    site.use(lambda session: setattr(session, "owner", "kim"), locked)
    assert locked.token != token


def test_session_stays_locked_when_its_changes_were_dropped(site: Site) -> None:
    site.bind()
    seen = []

    def view(request: Any) -> None:
        session = request.session
        session["a"] = 1
        request.add_response_callback(
            lambda *_: seen.append((session.device_locked, session.ended))
        )

    site.visit(view, site.thief())
    assert seen == [(True, False)]


def test_login_of_several_requests_begins_anew_where_it_is_locked(redis_url: str) -> None:
    page = page_of_the_documentation()
    site = Site(redis_url, owner_sessions="1", owner_sessions_policy="refuse")
    site.bind()
    locked = site.thief()
    site.visit(page.begin_login, locked)
    state = site.use(lambda session: session["state"], locked)
    assert state

    def finish(session: Any) -> None:
        assert session["state"] == state
        session.owner = "kim"

    site.use(finish, locked)
    assert Device(locked.app).note_offer(locked.response)
    assert site.owner_for(locked) == "kim"
    assert site.owner_for() is None
    # Nobody else is logged out by it.
    site.visit(page.begin_login, locked)
    assert site.owner_for(locked) == "kim"


def test_who_is_locked_logs_out(site: Site, redis_client: redis.Redis) -> None:
    site.bind()
    locked = site.thief()
    key = site.browser.key
    site.use(lambda session: (session.get("a"), session.invalidate()), locked)
    assert locked.session_id is None
    assert not redis_client.hexists(key, TOKEN_FIELD)


def test_setting_turned_off_unlocks(redis_url: str) -> None:
    site = Site(redis_url)
    site.bind()
    off = make_browser(redis_url, device_binding="off")
    off.app.cookiejar = site.thief().app.cookiejar
    assert off.use(lambda session: (session.owner, session.device_bound), extra_environ=HTTPS) == (
        "kim",
        False,
    )


def test_what_the_browser_skipped_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.bind()
    thief = site.thief()
    environ = {
        **HTTPS,
        "HTTP_SECURE_SESSION_SKIPPED": f'quota_exceeded;session_identifier="{"x" * 9}"',
    }
    with caplog.at_level(logging.INFO):
        assert thief.use(lambda session: session.owner, extra_environ=environ) is None
    assert "quota_exceeded" in caplog.text
    assert "xxx" not in caplog.text


# -- refresh -----------------------------------------------------------------------------


def test_each_challenge_is_used_once(site: Site) -> None:
    site.bind()
    for _ in range(3):
        assert site.device.refresh().status_int == 200
    challenge = site.device.challenge
    for path, proof in list(site.device.proofs):
        assert getattr(site.device, path)(proof).status_int == 403
    assert site.device.challenge == challenge
    assert site.device.refresh().status_int == 200


def test_of_many_refreshes_with_one_proof_one_wins(site: Site) -> None:
    site.bind()
    proof = sign(site.device.key, site.device.challenge)
    answers: list[Any] = []

    def refresh() -> None:
        device = Device(site.browser.another().app)
        device.identifier = site.device.identifier
        response = device.refresh(proof)
        answers.append(
            (response.status_int, device.challenge, len(set_cookies(response, DEVICE_COOKIE)))
        )

    run_all([refresh] * 50)
    assert sorted(status for status, _, _ in answers) == [200] + 49 * [403]
    assert sum(cookies for _, _, cookies in answers) == 1
    # All were given the same next one: what is open is bounded.
    assert len({challenge for _, challenge, _ in answers}) == 1
    site.device.challenge = answers[0][1]
    assert site.device.refresh().status_int == 200


def test_challenge_dies_with_its_time(site: Site, set_clock: Callable[[float], None]) -> None:
    site.bind()
    old = site.device.challenge
    set_clock(601)
    assert site.device.refresh().status_int == 403
    assert site.device.challenge != old
    assert site.device.refresh().status_int == 200


def test_clock_that_was_far_ahead_locks_nobody_out_once_it_is_right(
    site: Site, set_clock: Callable[[float], None]
) -> None:
    set_clock(86_400)
    site.bind()
    assert site.device.refresh().status_int == 200
    set_clock(0)
    assert site.device.refresh().status_int == 403
    assert site.device.refresh().status_int == 200
    assert site.owner_for() == "kim"


@pytest.mark.parametrize("ttl", ["true", "false"])
def test_refresh_is_no_visit(redis_url: str, redis_client: redis.Redis, ttl: str) -> None:
    """A page that polls with ``touch_session=False`` has the browser refresh."""
    site = Site(redis_url, timeout="1000", set_redis_ttl=ttl)
    site.bind()
    for _ in range(2):
        let_time_pass(redis_client, site.browser.key, 450)
        assert site.device.refresh().status_int == 200
    assert site.owner_for() == "kim"
    for _ in range(2):
        let_time_pass(redis_client, site.browser.key, 450)
        assert site.device.refresh().status_int == 200
    let_time_pass(redis_client, site.browser.key, 101)
    assert is_over(site.device.refresh())
    assert site.owner_for() is None


def test_challenge_and_cookie_outlive_a_rotation_of_secrets(redis_url: str) -> None:
    site = Site(redis_url)
    site.bind()
    rotated = Site(redis_url, secret=f"{'n' * 40}\n{BROWSER_SECRET}")
    rotated.browser.app.cookiejar = site.browser.app.cookiejar
    rotated.device.__dict__.update({**site.device.__dict__, "app": rotated.browser.app})
    assert rotated.owner_for() == "kim"
    for _ in range(2):
        assert rotated.device.refresh().status_int == 200
        assert rotated.owner_for() == "kim"


def test_without_a_challenge_in_hand_it_takes_two_requests(site: Site) -> None:
    site.bind()
    site.device.challenge = ""
    assert site.device.refresh("").status_int == 403
    assert site.device.refresh().status_int == 200


def test_refresh_needs_no_session_cookie_as_a_link_from_elsewhere_brings_none(site: Site) -> None:
    site.bind()
    site.device.app = site.browser.another().app
    response = site.device.refresh()
    assert response.status_int == 200
    assert set_cookies(response, DEVICE_COOKIE)[0].attributes["samesite"] == "None"


@pytest.mark.parametrize(
    ("make", "reported"),
    [
        (lambda device: sign(new_key(), device.challenge), True),
        (lambda device: sign(new_key("RS256"), device.challenge), True),
        (lambda device: sign(device.key, device.challenge, typ="JWT"), True),
        (lambda device: "nonsense", True),
        (lambda device: sign(device.key, device.challenge + "A"), False),
        (lambda device: sign(device.key, "\u20ac\ud800"), False),
    ],
)
def test_other_proof_is_asked_for_again_and_unlocks_nothing(
    site: Site, make: Callable[[Device], str], reported: bool
) -> None:
    site.bind()
    challenge = site.device.challenge
    response = site.device.refresh(make(site.device))
    assert response.status_int == 403
    assert set_cookies(response, DEVICE_COOKIE) == []
    assert site.device.challenge == challenge
    problems = [e.problem for e in site.events if isinstance(e, SessionRejected)]
    assert [type(problem) for problem in problems] == [InvalidSession_DeviceProof] * reported
    assert site.device.refresh().status_int == 200


def lose_reply_of_save(site: Site, proxy: CountingProxy) -> None:
    """Lose the reply to the next save that comes after a read."""

    def step(step: Any) -> None:
        if step.name == "describe_session":
            site.browser.factory.watchers = ()
            proxy.lose_replies(1)

    site.browser.factory.watchers = (SimpleNamespace(step=step, event=lambda event: None),)


def test_refresh_whose_reply_is_lost_wins_when_the_client_repeats_it(proxy: CountingProxy) -> None:
    site = Site(proxy.url, redis_retries="1")
    site.bind()
    lose_reply_of_save(site, proxy)
    assert site.device.refresh().status_int == 200
    assert site.device.refresh().status_int == 200


def test_refresh_whose_reply_is_lost_can_be_made_again(proxy: CountingProxy) -> None:
    site = Site(proxy.url, redis_retries="0")
    site.bind()
    lose_reply_of_save(site, proxy)
    assert site.device.refresh().status_int == 503
    # The challenge was used up; the browser signs the same, is told the next one, and signs that.
    assert site.device.refresh().status_int == 403
    assert site.device.refresh().status_int == 200
    assert site.owner_for() == "kim"


def test_registration_whose_reply_is_lost_binds_when_the_client_repeats_it(
    proxy: CountingProxy,
) -> None:
    site = Site(proxy.url, redis_retries="1")
    site.log_in()
    proxy.lose_replies(1)
    assert site.device.register().status_int == 200
    assert site.owner_for() == "kim"
    assert site.device.refresh().status_int == 200


def test_registration_of_which_nobody_heard_locks_until_the_next_login(
    proxy: CountingProxy,
) -> None:
    site = Site(proxy.url, redis_retries="0")
    site.log_in()
    proxy.lose_replies(1)
    assert site.device.register().status_int == 503
    assert site.owner_for() is None
    site.bind()
    assert site.owner_for() == "kim"


def test_invalid_logger_is_told_of_a_foreign_proof(redis_url: str) -> None:
    reports = Reports()
    site = Site(redis_url, func_invalid_logger=reports)
    site.bind()
    site.device.refresh(sign(new_key(), site.device.challenge))
    site.owner_for(site.thief())
    assert reports.kinds == ["InvalidSession_DeviceProof", "InvalidSession_DeviceLocked"]


def test_transaction_that_commits_makes_the_browser_wait_not_fail(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(redis_url, on_conflict="retry")
    site.log_in()
    store, token = site.browser.factory.store_for(None), site.browser.token
    assert token is not None
    pauses = []

    def commit(seconds: float) -> None:
        pauses.append(seconds)
        store.unstage(token, "other")

    monkeypatch.setattr(staging, "time", SimpleNamespace(monotonic=time.monotonic, sleep=commit))
    for call in (site.device.register, site.device.refresh):
        store.stage(token, "other", everything=True)
        assert call().status_int == 200
    assert len(pauses) == 2


def test_transaction_that_takes_long_ends_no_binding(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda seconds: None)
    monkeypatch.setattr(staging, "time", clock)
    site = Site(redis_url, on_conflict="retry")
    site.bind()
    store, token = site.browser.factory.store_for(None), site.browser.token
    assert token is not None
    store.stage(token, "other", everything=True)
    assert site.device.refresh().status_int == 503
    store.unstage(token, "other")
    assert site.device.refresh().status_int == 200


def test_each_step_of_the_protocol_is_two_round_trips_at_most(site: Site) -> None:
    steps: list[Any] = []
    watcher = SimpleNamespace(step=steps.append, event=lambda event: None)
    site.log_in()
    site.browser.factory.watchers = (watcher,)
    for call, names in (
        (site.device.register, ["save_if_changed"]),
        (site.device.refresh, ["describe_session", "save_if_changed"]),
        (lambda: site.device.refresh(""), ["describe_session"]),
        (lambda: site.device.refresh("x"), ["describe_session"]),
        (site.owner_for, ["load_and_touch"]),
        (lambda: site.owner_for(site.thief()), ["load_and_touch"]),
        (lambda: site.device.register("x"), []),
    ):
        steps.clear()
        call()
        assert [step.name for step in steps] == names


# -- the end of a binding ------------------------------------------------------------------


def is_over(response: Any) -> bool:
    if response.status_int != 200 or not response.body:
        return False
    return response.json["continue"] is False and "Set-Cookie" not in response.headers


def test_logout_ends_the_binding(site: Site) -> None:
    site.bind()
    site.use(lambda session: session.invalidate())
    (cookie,) = set_cookies(site.browser.response, DEVICE_COOKIE)
    assert cookie.deletes
    response = site.device.refresh()
    assert is_over(response)
    assert response.json["session_identifier"] == site.device.identifier


def test_session_of_which_only_the_key_is_left_is_empty(
    redis_url: str, redis_client: redis.Redis
) -> None:
    site = Site(redis_url, invalidate_empty_session="true")

    def log_in(session: Any) -> None:
        session["user"] = "kim"
        session.bind_device()

    site.use(log_in)
    assert site.device.note_offer(site.browser.response)
    assert site.device.register().status_int == 200
    site.use(lambda session: session.clear())
    assert not redis_client.hexists(site.browser.key, TOKEN_FIELD)
    assert is_over(site.device.refresh())


def log_in_twice_at_once(site: Site) -> tuple[Device, Device]:
    """Two tabs of one browser log in side by side, from nothing; the answer to the second counts.

    :returns: the device as it is offered to bind the one session, and the other.
    """
    first, second = Device(site.browser.app), Device(site.browser.app)
    site.use(lambda session: setattr(session, "owner", "kim"))
    assert first.note_offer(site.browser.response)
    forget(site.browser, "session")
    site.use(lambda session: setattr(session, "owner", "kim"))
    assert second.note_offer(site.browser.response)
    return first, second


def test_binding_of_a_session_that_the_browser_has_no_more_is_not_made(site: Site) -> None:
    first, second = log_in_twice_at_once(site)
    assert second.register().status_int == 200
    assert first.register().status_int == 403
    assert site.owner_for() == "kim"


def test_binding_of_a_session_that_the_browser_has_no_more_is_over(site: Site) -> None:
    """Its device cookie would take the place of the other's, and lock that."""
    site.use(lambda session: setattr(session, "owner", "kim"))
    first = Device(site.browser.app)
    assert first.note_offer(site.browser.response)
    assert first.register().status_int == 200
    forget(site.browser, "session")
    site.bind()
    assert is_over(first.refresh())
    assert site.owner_for() == "kim"
    assert site.device.refresh().status_int == 200


def test_revoke_and_expiry_end_the_binding(site: Site, redis_client: redis.Redis) -> None:
    from pyramid_redis_lua_sessions import revoke

    site.bind()
    revoke(site.browser.wsgi.registry, "kim")
    assert is_over(site.device.refresh())
    site.bind("lee")
    redis_client.delete(site.browser.key)
    assert is_over(site.device.refresh())


def test_new_token_keeps_the_binding(site: Site) -> None:
    site.bind()
    site.use(lambda session: session.regenerate_id())
    assert site.use(lambda session: session.device_bound)
    assert site.owner_for(site.thief()) is None
    assert site.device.refresh().status_int == 200


@pytest.mark.parametrize("owner", ["lee", None])
def test_other_owner_ends_the_binding(site: Site, owner: str | None) -> None:
    site.bind()
    site.use(lambda session: setattr(session, "owner", owner))
    assert site.device.note_offer(site.browser.response) is (owner is not None)
    assert not site.use(lambda session: session.device_bound)
    assert is_over(site.device.refresh())
    if owner is not None:
        assert site.device.register().status_int == 200
        assert site.device.refresh().status_int == 200


def test_binding_before_the_login_is_over_and_the_new_one_stays(site: Site) -> None:
    site.bind()
    before = site.device
    site.device = Device(site.browser.app)
    site.bind("lee")
    assert is_over(before.refresh())
    assert site.device.refresh().status_int == 200
    assert site.owner_for() == "lee"


def test_device_that_registers_while_another_user_logs_in_is_not_taken_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.log_in()
    store = type(site.browser.factory.store_for(None))
    renew, calls = store.renew, []

    def slow(self: Any, *args: Any) -> Any:
        if not calls:
            calls.append(1)
            assert site.device.register().status_int == 200
        return renew(self, *args)

    monkeypatch.setattr(store, "renew", slow)
    site.use(lambda session: setattr(session, "owner", "lee"))
    assert calls
    assert site.use(lambda session: (session.owner, session.device_bound)) == ("lee", False)


@pytest.mark.parametrize("identifier", ["", "x", "a.b", "A" * 43 + "." + "A" * 22, "\xe9" * 30])
def test_unknown_identifier_ends_nothing(site: Site, identifier: str) -> None:
    site.bind()
    right, site.device.identifier = site.device.identifier, identifier
    response = site.device.refresh(sign(site.device.key, site.device.challenge))
    assert response.status_int == 400 or is_over(response)
    site.device.identifier = right
    assert site.device.refresh().status_int == 200


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_header_breaks_the_browsers_addresses(site: Site, data: Any) -> None:
    if not site.device.identifier:
        site.bind()
    device = site.device
    genuine = [sign(device.key, device.challenge), sign(device.key, "", with_key=True), "a.b.c"]
    texts = st.text(st.characters(max_codepoint=255), max_size=80)
    headers = {
        "HTTP_SECURE_SESSION_RESPONSE": st.sampled_from(genuine[1:]) | texts,
        "HTTP_SEC_SECURE_SESSION_ID": st.just(device.identifier) | texts,
        "HTTP_COOKIE": texts,
        "HTTP_SECURE_SESSION_SKIPPED": texts,
        "HTTP_ORIGIN": texts,
    }
    environ = {**HTTPS, **data.draw(st.fixed_dictionaries({}, optional=headers))}
    path = data.draw(st.sampled_from(["register", "refresh"]))
    body = data.draw(st.binary(max_size=50))
    request = Request.blank(f"{BASE}/{path}", environ=environ, POST=body)
    response = request.get_response(site.browser.wsgi)
    assert response.status_int in (400, 403) or is_over(response)
    assert "Set-Cookie" not in response.headers


# -- what an application sees of it ----------------------------------------------------------


def test_view_asks_for_a_bound_session(redis_url: str) -> None:
    def configure(config: Any) -> None:
        config.add_route("pay", "/pay")
        config.add_view(lambda r: Response("paid"), route_name="pay", device_bound=True)
        config.add_view(lambda r: Response("password?"), route_name="pay", device_bound=False)

    site = Site(redis_url, configure=configure)
    site.log_in()
    assert site.browser.app.get("/pay", extra_environ=HTTPS).text == "password?"
    site.device.register()
    assert site.browser.app.get("/pay", extra_environ=HTTPS).text == "paid"
    off = make_browser(redis_url, configure=configure)
    assert off.app.get("/pay").text == "password?"


def test_page_asks_an_unbound_session_for_the_password(redis_url: str) -> None:
    page = page_of_the_documentation()

    def configure(config: Any) -> None:
        config.add_route("confirm_password", "/confirm_password")
        page.add_pay(config)

    site = Site(redis_url, configure=configure, confirm_route="confirm_password")
    site.use(lambda session: page.logged_in(SimpleNamespace(session=session), 7))
    assert site.device.note_offer(site.browser.response)
    response = site.browser.app.get("/pay", extra_environ=HTTPS)
    assert "/confirm_password" in response.location
    site.device.register()
    assert site.browser.app.get("/pay", extra_environ=HTTPS).json == {"paid": True}


def test_list_of_sessions_tells_which_are_bound(
    site: Site, redis_url: str, redis_client: redis.Redis
) -> None:
    site.bind()
    other = site.browser.another()
    site.use(lambda session: setattr(session, "owner", "kim"), other)
    registry = site.browser.wsgi.registry
    assert [info.device_bound for info in sessions_of(registry, "kim")] == [True, False]
    off = make_browser(redis_url).wsgi.registry
    assert [info.device_bound for info in sessions_of(off, "kim")] == [False, False]
    redis_client.hset(other.key, "device", redis_client.hget(site.browser.key, "device"))
    assert [info.device_bound for info in sessions_of(registry, "kim")] == [True, False]


def test_defaults_of_the_application_do_not_reach_the_browsers_addresses(redis_url: str) -> None:
    class Policy:
        def permits(self, request: Any, context: Any, permission: str) -> bool:
            return bool(request.path == "/")

    def configure(config: Any) -> None:
        config.set_default_csrf_options(require_csrf=True)
        config.set_security_policy(Policy())
        config.set_default_permission("view")

    site = Site(redis_url, configure=configure)
    site.bind()
    assert site.device.refresh().status_int == 200
    assert site.browser.app.get(f"{BASE}/refresh", status=404)


# -- what operators see of it ------------------------------------------------------------------


def test_metrics_count_registrations_refreshes_and_locks(redis_url: str) -> None:
    prefix = "counted:"
    site = Site(redis_url, observe="prometheus", prefix=prefix)
    site.bind()
    site.device.refresh()
    site.device.refresh()
    site.owner_for(site.thief())

    def counted(name: str, reason: str) -> float | None:
        labels = {"prefix": prefix, "reason": reason}
        return REGISTRY.get_sample_value(f"redis_sessions_{name}_total", labels)

    assert counted("device_registrations", "registration") == 1
    assert counted("device_refreshes", "proof") == 2
    assert counted("rejected", "locked: no device cookie") == 1


@pytest.mark.parametrize("reveal", [[], ["--reveal"]])
def test_command_shows_that_a_session_is_bound_and_not_its_key(
    site: Site, redis_url: str, tmp_path: Path, capsys: Any, reveal: list[str]
) -> None:
    site.bind()
    name = site.use(lambda session: session.fingerprint)
    ini = write_ini(tmp_path, redis_url, device_binding="on")
    assert run("show", ini, "--session", name, *reveal) == 0
    out = capsys.readouterr().out
    assert "bound: without its device cookie it is locked" in out
    assert run("show", ini, "--session", name, "--json", *reveal) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["device_bound"] is True
    assert "device" not in str(document["values"])
    assert run("list", ini, "--json", *reveal) == 0
    assert [one["device_bound"] for one in json.loads(capsys.readouterr().out)] == [True]
    assert run("show", write_ini(tmp_path, redis_url), "--session", name, *reveal) == 0
    assert "device_binding is off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "level", "words"),
    [
        ({}, "note", "off: whoever has copied a cookie"),
        ({"device_binding": "on"}, "ok", "with a proof every 5 min"),
        (
            {"device_binding": "on", "device_binding_lifetime": "60"},
            "warning",
            "device_binding_lifetime of 1 min: browsers sign too seldom",
        ),
        ({"device_binding": "on", "cookie_domain": "a.org"}, "note", "for all hosts of a.org"),
    ],
)
def test_check_explains_it(
    redis_url: str, tmp_path: Path, capsys: Any, options: dict[str, str], level: str, words: str
) -> None:
    assert run("check", write_ini(tmp_path, redis_url, **options), "--json", "--no-write") == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = [one for one in findings if one["check"] == "device_binding"]
    assert found["level"] == level
    assert words in found["words"]


def test_panel_tells_whether_the_session_is_bound_or_locked(site: Site) -> None:
    def shown(browser: Browser, function: Callable[[Any], Any]) -> tuple[str, Any]:
        def view(request: Any) -> None:
            panel = SessionPanel(request)
            panels.append(panel)
            function(request.session)

        panels: list[Any] = []
        site.visit(view, browser)
        (found,) = panels[0].data["sessions"]
        return found["state"], dict(found["facts"]).get("Bound to its device")

    site.use(lambda session: session.update(a=1))
    log_in = shown(site.browser, lambda session: setattr(session, "owner", "kim"))
    assert log_in[1] == "no, and offered"
    site.bind("lee")
    assert shown(site.browser, lambda session: session.owner)[1] == "yes"
    locked = shown(site.thief(), lambda session: session.owner)
    assert locked == ("bound to another device, and locked: changes are not kept", None)


def test_redis_that_is_away_ends_no_binding(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    site = Site(server.url, redis_retries="0", redis_socket_connect_timeout="0.5")
    site.bind()
    offered = sign(site.device.key, site.device.offered, with_key=True)
    port = server.port
    server.stop()
    for response in (site.device.register(offered), site.device.refresh()):
        assert response.status_int == 503
        assert response.body == b""
    assert port


def test_factory_without_the_include_offers_nothing_and_says_so(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"secret": SECRET, "url": redis_url, "device_binding": "on", "prefix": "other:"}
    factory = session_factory_from_settings(
        {f"redis.sessions.{name}": value for name, value in options.items()}
    )
    site = Site(redis_url, configure=lambda config: config.set_session_factory(factory))
    for _ in range(2):
        site.use(lambda session: setattr(session, "owner", "kim"))
        assert not site.device.note_offer(site.browser.response)
    assert caplog.text.count("its route is not part of the application") == 1


def test_path_and_cookie_are_as_configured(redis_url: str) -> None:
    site = Site(
        redis_url,
        cookie_path="/app",
        device_binding_path="/app/device/",
        cookie_name="sid",
        configure=lambda config: config.add_route("app", "/app"),
    )
    environ = {**HTTPS, "REQUEST_METHOD": "GET"}
    site.browser.use(lambda session: setattr(session, "owner", "kim"), extra_environ=environ)
    offer = site.browser.response.headers["Secure-Session-Registration"]
    assert 'path="/app/device/register"' in offer
    challenge = offer.partition('challenge="')[2].rstrip('"')
    response = site.browser.app.post(
        "/app/device/register",
        headers={"Secure-Session-Response": sign(site.device.key, challenge, with_key=True)},
        extra_environ=HTTPS,
    )
    (cookie,) = set_cookies(response, "sid-device")
    assert cookie.attributes["path"] == "/app"
    assert response.json["scope"]["scope_specification"] == [
        {"type": "exclude", "domain": "*", "path": "/"},
        {"type": "include", "domain": "*", "path": "/app"},
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seal": "false", "serialize": "json"}, "redis.sessions.seal"),
        ({"cookie_secure": "false"}, "redis.sessions.cookie_secure"),
        (
            {"cookie_partitioned": "true", "cookie_secure": "true"},
            "redis.sessions.cookie_partitioned",
        ),
        ({"cookie_path": "/app"}, "redis.sessions.device_binding_path"),
        ({"device_binding_path": "x"}, "redis.sessions.device_binding_path"),
        ({"device_binding_lifetime": "0"}, "redis.sessions.device_binding_lifetime"),
        # No cookie can hold its end.
        ({"device_binding_lifetime": "300000000000"}, "redis.sessions.device_binding_lifetime"),
        ({"device_binding_lifetime": "1.5"}, "redis.sessions.device_binding_lifetime"),
        ({"device_binding": "perhaps"}, "redis.sessions.device_binding"),
    ],
)
def test_what_cannot_work_is_refused(redis_url: str, options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named.replace(".", r"\.")):
        make_browser(redis_url, **{"device_binding": "on", **options})


@pytest.mark.parametrize("package", ["jwt", "cryptography.hazmat.primitives.asymmetric.ec"])
def test_missing_extra_is_named_and_nothing_else_needs_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("binding", "proofs", "views"):
        monkeypatch.delitem(sys.modules, f"{binding_module.__package__}.{module}", raising=False)
    with pytest.raises(ConfigurationError, match=r"pyramid_redis_lua_sessions\[device\]"):
        make_browser(redis_url, device_binding="on")
    make_browser(redis_url).use(lambda session: session.update(a=1))


def test_lifetime_with_which_browsers_run_out_of_signatures_is_warned_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_browser(redis_url, device_binding="on", device_binding_lifetime="120")
    assert "redis.sessions.device_binding_lifetime = 120" in caplog.text


def run_all(calls: list[Callable[[], Any]]) -> None:
    """Make calls in threads that begin together."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> None:
        start.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
