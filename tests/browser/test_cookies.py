"""What Chromium makes of the session cookie: its names and attributes, when it is sent again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pyramid.response import Response

from pyramid_redis_lua_sessions import cookies as cookies_module
from tests.browser.driver import IN_CHROMIUM
from tests.support.application import make_app
from tests.support.serving import served
from tests.support.waiting import wait_until

pytestmark = IN_CHROMIUM

DAY = 24 * 3600

#: Requests an image, and then fetches.
PAGE = """<!doctype html>
<title>page</title>
<script>
  const image = new Image();
  image.onerror = () => fetch("/fetched").then(() => { document.title = "image fetched"; });
  image.src = "/image";
</script>
"""


def login(request: Any) -> str:
    request.session["user"] = "kim"
    return "logged in"


def read(request: Any) -> str:
    return str(request.session.get("user"))


def page(request: Any) -> Response:
    return Response(PAGE, content_type="text/html")


def logout(request: Any) -> str:
    request.session.invalidate()
    return "logged out"


def logout_with_message(request: Any) -> str:
    request.session.invalidate()
    request.session["message"] = "logged out"
    return "logged out"


VIEWS = {
    "login": login,
    "read": read,
    "page": page,
    "image": read,
    "fetched": read,
    "logout": logout,
    "logout_with_message": logout_with_message,
}


class Site:
    """An application in the browser.

    :ivar sent: for each response that had one: path and ``Set-Cookie``.
    """

    def __init__(self, driver: Any, port: int, sent: list[tuple[str, str]]) -> None:
        self.driver = driver
        self.url = f"http://localhost:{port}"  # a secure context, as https
        self.sent = sent

    def open(self, path: str) -> str:
        self.driver.get(f"{self.url}/{path}")
        return str(self.driver.find_element("tag name", "body").text)

    def cookies(self) -> dict[str, dict[str, Any]]:
        return {str(cookie["name"]): cookie for cookie in self.driver.get_cookies()}


@pytest.fixture
def visit(chromium: Any, redis_url: str) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def visit(**options: Any) -> Site:
            sent: list[tuple[str, str]] = []

            def note(event: Any) -> None:
                for header in event.response.headers.getall("Set-Cookie"):
                    sent.append((event.request.path, header))

            app = make_app(
                redis_url,
                VIEWS,
                configure=lambda config: config.add_subscriber(note, "pyramid.events.NewResponse"),
                **options,
            )
            port = stack.enter_context(served(app.app))
            chromium.delete_all_cookies()
            return Site(chromium, port, sent)

        yield visit
        chromium.get("about:blank")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("session", {}),
        ("__Host-session", {}),
        ("__Host-Http-session", {}),
        ("__Http-session", {}),
        ("__Host-Http-session", {"cookie_partitioned": "true", "cookie_samesite": "None"}),
    ],
)
def test_browser_takes_the_cookie_and_deletes_it(
    visit: Any, name: str, options: dict[str, str]
) -> None:
    site = visit(cookie_name=name, cookie_secure="true", **options)
    site.open("login")
    assert site.cookies()[name]["httpOnly"]
    assert site.open("read") == "kim"
    site.open("logout")
    assert name not in site.cookies()


def test_cookie_is_sent_again_with_a_page_and_not_with_what_a_page_requests(
    visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = visit(cookie_max_age=str(30 * DAY))
    with monkeypatch.context() as patch:
        then = time.time() - 16 * DAY
        patch.setattr(cookies_module, "time", SimpleNamespace(time=lambda: then))
        site.open("login")
    site.sent.clear()
    site.open("page")
    wait_until(lambda: site.driver.title == "image fetched", 10)
    assert site.sent == []
    site.open("read")
    assert [path for path, _ in site.sent] == ["/read"]


def test_logout_removes_what_is_configured_and_keeps_the_cookie_of_its_message(visit: Any) -> None:
    site = visit(clear_site_data="storage, cookies")
    for path, kept in (("logout", False), ("logout_with_message", True)):
        site.open("login")
        site.driver.execute_script("localStorage.setItem('key', 'value');")
        site.open(path)
        wait_until(
            lambda: site.driver.execute_script("return localStorage.getItem('key');") is None, 10
        )
        assert ("session" in site.cookies()) is kept
