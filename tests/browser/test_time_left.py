"""The page of docs/timeouts.rst that warns before the timeout, in Chromium."""

from __future__ import annotations

from typing import Any

import redis
from pyramid.config import Configurator
from pyramid.response import Response

from tests.browser.driver import IN_CHROMIUM
from tests.functional.test_documentation import DOCS, samples
from tests.support.application import make_app
from tests.support.serving import served
from tests.support.waiting import wait_until

pytestmark = IN_CHROMIUM


def page(request: Any) -> Response:
    session = request.session
    if "user" not in session:
        return Response("<title>ended</title>", content_type="text/html")
    (sample,) = samples(DOCS / "timeouts.rst", r"html\+jinja")
    text = sample.text.replace("{{ get_csrf_token() }}", session.get_csrf_token())
    assert "15_000" in text
    return Response(text.replace("15_000", "50"), content_type="text/html")


def login(request: Any) -> str:
    request.session["user"] = "kim"
    return "logged in"


def configure(config: Configurator) -> None:
    config.set_default_csrf_options(require_csrf=True)
    config.include("pyramid_redis_lua_sessions.time_left")


def test_page_warns_lets_the_user_stay_and_tells_of_the_end(
    chromium: Any, redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, {"page": page, "login": login}, configure=configure).app
    with served(app) as port:
        chromium.get(f"http://localhost:{port}/login")
        chromium.get(f"http://localhost:{port}/page")
        (key,) = redis_client.scan_iter("session:*")
        warning = chromium.find_element("id", "warning")
        assert not warning.is_displayed()
        redis_client.pexpire(key, 30_000)
        wait_until(warning.is_displayed)
        chromium.find_element("id", "stay").click()
        wait_until(lambda: not warning.is_displayed())
        assert redis_client.ttl(key) > 60
        redis_client.delete(key)
        wait_until(lambda: chromium.title == "ended")
