"""Sessions that are bound to a device: what Chromium really does.

Its keys are in software here, as on most Linux desktops there is no hardware for them; see
docs/devices.rst for the features that this takes.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response

from demo.tls import Certificate, make_certificate
from pyramid_redis_lua_sessions import SessionRejected, StoreUnavailable
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.browser.driver import IN_CHROMIUM, started, trust
from tests.support.application import make_app
from tests.support.demo_process import DemoProcess
from tests.support.device import BASE
from tests.support.serving import served, served_over_tls
from tests.support.waiting import wait_until

pytestmark = [
    IN_CHROMIUM,
    pytest.mark.skipif(
        shutil.which("certutil") is None,
        reason="certutil is not installed (Debian: libnss3-tools)",
    ),
]

FEATURES = ",".join(
    (
        # Chromium signs six times in nine minutes for a site; these tests need more.
        "DeviceBoundSessions:RefreshQuota/false",
        "EnableBoundSessionCredentialsSoftwareKeysForManualTesting",
    )
)

HOSTS = ("example.com", "login.example.com", "app.example.com")

#: Life of a device cookie, seconds.
LIFE = 2

PAGE = "<!doctype html><title>page</title><link rel=icon href=data:,><body>"


def page(text: str) -> Response:
    return Response(PAGE + text, content_type="text/html")


def login(request: Any) -> Any:
    request.session.owner = request.params.get("owner", "kim")
    return HTTPSeeOther("read")


def read(request: Any) -> Response:
    session = request.session
    return page(f"{session.owner} {'bound' if session.device_bound else 'unbound'}")


def whose(request: Any) -> Response:
    request.registry.site.owners.append(request.session.owner)
    return Response(status=400)


def logout(request: Any) -> Response:
    request.session.invalidate()
    return page("logged out")


def ask(
    url: str, authority: Path | None, path: str, method: str = "GET", **headers: str
) -> tuple[int, str]:
    """Make a request without a browser; ``_`` in the name of a header stands for ``-``.

    :returns: status and body.
    """
    context = ssl.create_default_context(cafile=str(authority))
    address = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPSConnection(address, context=context)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Sent(NamedTuple):
    """A request that came in, and what was answered."""

    path: str
    status: int
    proof: str
    identifier: str
    cookie: str


class Site:
    """An application over TLS in the browser.

    :ivar sent: what came in to bind and to refresh.
    :ivar under: where its pages are; ``base``: and where the browser binds and refreshes.
    """

    under, base = "", BASE

    def __init__(self, driver: Any, certificate: Certificate) -> None:
        self.driver = driver
        self.certificate = certificate
        self.host, self.port = "localhost", 0
        self.sent: list[Sent] = []
        self.rejected: list[str] = []
        #: Whose session the requests to ``whose`` had.
        self.owners: list[Any] = []
        #: What a proxy answers instead, to bind and to refresh.
        self.instead = 0

    def note(self, event: Any) -> None:
        environ, response = event.request.environ, event.response
        if event.request.path.startswith(self.base):
            if self.instead:
                response.headers.clear()
                response.status_int, response.content_length = self.instead, 0
            self.sent.append(
                Sent(
                    event.request.path.removeprefix(f"{self.base}/"),
                    response.status_int,
                    environ.get("HTTP_SECURE_SESSION_RESPONSE", ""),
                    environ.get("HTTP_SEC_SECURE_SESSION_ID", ""),
                    environ.get("HTTP_COOKIE", ""),
                )
            )

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def open(self, path: str) -> str:
        self.driver.get(f"{self.url}/{self.under}{path}")
        return self.text()

    def text(self) -> str:
        return str(self.driver.find_element("tag name", "body").text)

    def fetch(self, path: str) -> str:
        script = "const done = arguments[1]; fetch(arguments[0]).then(r => r.text()).then(done)"
        found = self.driver.execute_async_script(script, f"/{self.under}{path}")
        return str(found).removeprefix(PAGE)

    def log_in(self) -> None:
        """Log in, and wait until the browser knows that it has registered."""
        self.sent.clear()
        self.open("login")
        wait_until(lambda: [s for s in self.sent if s.path == "register"])
        assert [s.status for s in self.sent if s.path == "register"] == [200]
        # Ahead, beside a request: the browser has taken the binding.
        wait_until(lambda: self.open("read") and self.refreshes())

    def refreshes(self, status: int = 200) -> list[Sent]:
        return [s for s in self.sent if (s.path, s.status) == ("refresh", status)]

    def cookies(self) -> dict[str, str]:
        return {one["name"]: one["value"] for one in self.driver.get_cookies()}

    def wait_for_expiry(self) -> None:
        """Wait until the browser has dropped the device cookie; nothing is requested meanwhile."""
        wait_until(lambda: "session-device" not in self.cookies())

    def raw(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Make a request as somebody else, from elsewhere."""
        return ask(self.url, self.certificate.authority, path, method, **headers)

    def read_with(self, **cookies: str) -> str:
        header = "; ".join(f"{name.replace('_', '-')}={value}" for name, value in cookies.items())
        return self.raw(f"/{self.under}read", Cookie=header)[1].removeprefix(PAGE)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), ("localhost", *HOSTS))


@pytest.fixture(scope="module")
def binding_chromium(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("home")
    trust(home, certificate.authority)
    rules = ", ".join(f"MAP {host} 127.0.0.1" for host in HOSTS)
    arguments = (f"--enable-features={FEATURES}", f"--host-resolver-rules={rules}")
    with started(*arguments, home=home) as driver:
        yield driver


@pytest.fixture
def make_site(binding_chromium: Any, certificate: Certificate) -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as stack:

        def make(redis_url: str, under: str = "", **options: str) -> Site:
            site = Site(binding_chromium, certificate)
            site.under, site.base = under, options.get("device_binding_path", BASE)
            views = {"login": login, "read": read, "logout": logout, "whose": whose}

            def registering(request: Any) -> dict[str, list[str]]:
                return {"registering_origins": [f"https://login.example.com:{site.port}"]}

            def configure(config: Any) -> None:
                config.registry.site = site
                config.add_route("registering", "/.well-known/device-bound-sessions")
                config.add_view(registering, route_name="registering", renderer="json")
                config.add_subscriber(site.note, NewResponse)
                config.add_subscriber(lambda e: site.rejected.append(e.reason), SessionRejected)
                config.add_view(lambda r: page("away"), context=StoreUnavailable)

            app = make_app(
                redis_url,
                {f"{under}{name}": view for name, view in views.items()},
                configure=configure,
                device_binding="on",
                device_binding_lifetime=str(LIFE),
                grace="1",
                redis_socket_timeout="0.3",
                redis_retries="0",
                **options,
            )
            site.port = stack.enter_context(served_over_tls(app.app, certificate))
            return site

        yield make
        binding_chromium.get("about:blank")
        binding_chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})


@pytest.fixture
def site(make_site: Callable[..., Site], redis_url: str) -> Site:
    return make_site(redis_url)


def test_page_works_on_by_navigation_and_by_fetch(site: Site) -> None:
    site.log_in()
    for go in (site.open, site.fetch, site.open, site.fetch):
        site.wait_for_expiry()
        count = len(site.refreshes())
        assert go("read") == "kim bound"
        assert len(site.refreshes()) > count
    # Each refresh brought the challenge of the next: one request each.
    assert site.refreshes(403) == []
    assert site.rejected == []


@pytest.mark.parametrize(
    "script",
    [
        "new WebSocket(`wss://${location.host}/whose`)",
        "new EventSource('/whose')",
        "navigator.sendBeacon('/whose')",
    ],
)
def test_other_requests_wait_for_the_refresh_too(site: Site, script: str) -> None:
    site.log_in()
    site.wait_for_expiry()
    count = len(site.refreshes())
    site.driver.execute_script(script)
    wait_until(lambda: site.owners)
    assert site.owners[0] == "kim"
    assert len(site.refreshes()) > count


def test_copied_cookies_and_recorded_proofs_open_nothing(site: Site) -> None:
    site.log_in()
    wait_until(lambda: site.open("read") == "kim bound")
    cookies = site.cookies()
    session, device = cookies["session"], cookies["session-device"]
    wait_until(lambda: site.read_with(session=session) == "None unbound")
    assert site.rejected[-1] == "locked: no device cookie"
    wait_until(lambda: site.read_with(session=session, session_device=device) == "None unbound")
    assert site.rejected[-1] == "locked: the device cookie has expired"
    site.wait_for_expiry()
    assert site.open("read") == "kim bound"
    recorded = [sent for sent in site.sent if sent.proof]
    assert len(recorded) >= 3
    for sent in recorded:
        for path in ("register", "refresh"):
            status, text = site.raw(
                f"{BASE}/{path}",
                "POST",
                Cookie=sent.cookie,
                Secure_Session_Response=sent.proof,
                Sec_Secure_Session_Id=recorded[-1].identifier,
            )
            assert (status, text) == (403, "")
    site.wait_for_expiry()
    assert site.open("read") == "kim bound"


def test_who_follows_a_link_from_another_site_is_there(site: Site, redis_url: str) -> None:
    site.log_in()
    link = f'<a href="{site.url}/read">over there</a>'
    elsewhere = make_app(redis_url, {"page": lambda request: page(link)})
    with served(elsewhere.app) as port:
        site.driver.get(f"http://127.0.0.1:{port}/page")
        wait_until(lambda: site.read_with(session="x") is not None)
        # Cookies of the other site are seen here: the device cookie's life is over after this.
        site.driver.execute_async_script(f"setTimeout(arguments[0], {LIFE * 1000 + 200})")
        site.sent.clear()
        site.driver.find_element("tag name", "a").click()
        wait_until(lambda: site.driver.current_url.endswith("/read"))
        assert site.text() == "kim bound"
    # It came without the session's cookie.
    assert "session=" not in site.refreshes()[0].cookie


@pytest.mark.parametrize("host", ["example.com", "login.example.com"])
def test_session_of_all_hosts_of_a_domain(
    host: str, make_site: Callable[..., Site], redis_url: str
) -> None:
    site = make_site(redis_url, cookie_domain="example.com")
    site.host = host
    site.log_in()
    site.host = "app.example.com"
    site.open("read")
    for _ in range(2):
        site.wait_for_expiry()
        assert site.open("read") == "kim bound"
    assert site.rejected == []


def test_logout_in_a_second_tab_ends_the_binding(site: Site) -> None:
    site.log_in()
    first = site.driver.current_window_handle
    site.driver.switch_to.new_window("tab")
    try:
        assert site.open("logout") == "logged out"
        assert "session" not in site.cookies()
        # A refresh that was under way may have brought one more, which lives for seconds.
        wait_until(lambda: "session-device" not in site.cookies())
        site.driver.switch_to.window(first)
        assert site.fetch("read") == "None unbound"
        count = len(site.sent)
        assert site.open("read") == "None unbound"
        assert len(site.sent) == count  # it has forgotten the binding
    finally:
        close_others(site.driver, first)
    site.log_in()
    wait_until(lambda: site.open("read") == "kim bound")


def test_two_tabs_refresh_at_once(site: Site) -> None:
    site.log_in()
    first = site.driver.current_window_handle
    site.driver.switch_to.new_window("tab")
    try:
        site.open("read")
        start = """
        const at = arguments[0];
        const read = () => fetch("/read").then((response) => response.text());
        window.answers = Promise.all([0, 1, 2, 3].map(() => new Promise(
          (done) => setTimeout(() => read().then(done), at - Date.now())
        )));
        """
        at = site.driver.execute_script("return Date.now()") + LIFE * 1000 + 1500
        for handle in site.driver.window_handles:
            site.driver.switch_to.window(handle)
            site.driver.execute_script(start, at)
        for handle in site.driver.window_handles:
            site.driver.switch_to.window(handle)
            script = "const done = arguments[0]; window.answers.then(done)"
            answers = site.driver.execute_async_script(script)
            assert [one.removeprefix(PAGE) for one in answers] == ["kim bound"] * 4
    finally:
        close_others(site.driver, first)
    assert site.rejected == []


@pytest.mark.parametrize("path", ["/app", "/app/"])
def test_session_of_a_part_of_the_site(
    path: str, make_site: Callable[..., Site], redis_url: str
) -> None:
    site = make_site(redis_url, "app/", cookie_path=path, device_binding_path="/app/device")
    site.log_in()
    for go in (site.open, site.fetch):
        site.wait_for_expiry()
        # No cookie is sent elsewhere, so none is asked for.
        count = len(site.sent)
        script = "const done = arguments[0]; fetch('/elsewhere').then(r => done(r.status))"
        assert site.driver.execute_async_script(script) == 404
        assert len(site.sent) == count
        assert go("read") == "kim bound"
        assert len(site.sent) > count
    session = site.cookies()["session"]
    wait_until(lambda: site.read_with(session=session) == "None unbound")


@pytest.mark.parametrize(("status", "goes_on"), [(404, False), (429, False), (503, True)])
def test_answer_of_a_proxy_ends_the_binding_or_not(site: Site, status: int, goes_on: bool) -> None:
    site.log_in()
    site.wait_for_expiry()
    site.instead = status
    wait_until(lambda: site.open("read") == "None unbound")
    assert site.refreshes(status)
    site.instead = 0
    assert site.open("read") == ("kim bound" if goes_on else "None unbound")


def test_another_user_logs_in(site: Site) -> None:
    site.log_in()
    site.sent.clear()
    assert site.open("login?owner=lee").startswith("lee ")
    wait_until(lambda: [s for s in site.sent if s.path == "register"])
    for _ in range(2):
        site.wait_for_expiry()
        assert site.open("read") == "lee bound"
    assert site.rejected == []


def test_login_after_a_restart_of_the_browser(site: Site) -> None:
    """It has dropped the session's cookie, and kept the binding; both sessions live."""
    site.log_in()
    site.driver.delete_cookie("session")
    site.wait_for_expiry()
    assert site.open("read") == "None unbound"
    site.log_in()
    wait_until(lambda: site.open("read") == "kim bound")
    for _ in range(3):
        site.wait_for_expiry()
        assert site.open("read") == "kim bound"
    assert site.rejected == []


def test_two_logins_at_once(site: Site) -> None:
    site.open("read")
    script = """
    const done = arguments[0];
    Promise.all([1, 2].map(() => fetch("/login", {cache: "no-store"}))).then(() => done());
    """
    site.driver.execute_async_script(script)
    wait_until(lambda: len([s for s in site.sent if s.path == "register"]) == 2)
    assert len({s.proof for s in site.sent if s.path == "register"}) == 2
    # Each has a device cookie of its own, under one name.
    wait_until(lambda: site.open("read") == "kim bound")
    site.rejected.clear()
    for _ in range(4):
        site.wait_for_expiry()
        assert site.open("read") == "kim bound"
    assert site.rejected == []


@pytest.mark.parametrize(
    ("stop", "start"),
    [
        pytest.param(RedisServer.pause, RedisServer.resume, id="hangs"),
        pytest.param(RedisServer.kill, RedisServer.start, id="ends"),
    ],
)
def test_redis_that_stops_during_a_refresh_and_comes_back(
    make_site: Callable[..., Site],
    new_redis_server: Callable[..., RedisServer],
    stop: Callable[[RedisServer], object],
    start: Callable[[RedisServer], object],
) -> None:
    server = new_redis_server(config={"appendonly": "yes", "appendfsync": "always"})
    site = make_site(server.url)
    site.log_in()
    site.wait_for_expiry()
    stop(server)
    try:
        assert site.open("read") == "away"
        assert site.refreshes(503)
    finally:
        start(server)
    # The next request tries again.
    assert site.open("read") == "kim bound"
    site.wait_for_expiry()
    assert site.open("read") == "kim bound"


def test_demo_binds_and_locks(redis_binary: str, tmp_path: Path) -> None:
    with DemoProcess(redis_binary, devices=True) as demo:
        assert demo.authority is not None
        trust(tmp_path, demo.authority)
        with started(f"--enable-features={FEATURES}", home=tmp_path) as driver:

            def shown(css: str) -> list[str]:
                return [one.text for one in driver.find_elements("css selector", css)]

            driver.get(demo.url)
            driver.find_element("css selector", "#name").send_keys("Ann\n")
            wait_until(lambda: (driver.get(demo.url), shown(".tag.bound"))[1], 20)
            assert shown("#locked") == []
            cookies = {one["name"]: one["value"] for one in driver.get_cookies()}

            def thief_sees() -> str:
                cookie = f"__Host-session={cookies['__Host-session']}"
                return ask(demo.url, demo.authority, "/", Cookie=cookie)[1]

            # Once the requests that were under way at the login are over.
            wait_until(lambda: "bound to another device, and locked" in thief_sees(), 20)
            driver.get(demo.url)
            assert shown(".tag.bound") == ["bound to its device"]


def close_others(driver: Any, kept: str) -> None:
    for handle in driver.window_handles:
        if handle != kept:
            driver.switch_to.window(handle)
            driver.close()
    driver.switch_to.window(kept)
