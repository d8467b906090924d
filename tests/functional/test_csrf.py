"""CSRF tokens: the session's own methods, and both of Pyramid's policies over a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.csrf import (
    LegacySessionCSRFStoragePolicy,
    SessionCSRFStoragePolicy,
    get_csrf_token,
    new_csrf_token,
)
from pyramid.response import Response

from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, data_fields, make_browser

POLICIES: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "legacy": LegacySessionCSRFStoragePolicy,
    "session": SessionCSRFStoragePolicy,
}


@pytest.fixture(params=POLICIES)
def browser(request: pytest.FixtureRequest, redis_url: str) -> Browser:
    policy = POLICIES[request.param]()

    def configure(config: Configurator) -> None:
        if policy is not None:
            config.set_csrf_storage_policy(policy)
        config.add_route("form", "/form")
        config.add_view(
            lambda request: Response("sent"),
            route_name="form",
            require_csrf=True,
            request_method="POST",
        )

    return make_browser(redis_url, configure=configure)


def post(browser: Browser, token: str) -> int:
    status: int = browser.app.post("/form", {"csrf_token": token}, expect_errors=True).status_int
    return status


def test_form_is_accepted_only_with_the_token(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    assert post(browser, token) == 200
    assert post(browser, token) == 200
    assert post(browser, "wrong") == 400
    assert post(browser, "") == 400
    assert post(browser, token[:-1]) == 400


def test_token_in_the_header_is_accepted(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    assert browser.app.post("/form", headers={"X-CSRF-Token": token}).status_int == 200


def test_token_of_another_user_is_refused(browser: Browser) -> None:
    other = browser.another()
    token, others = browser.visit(get_csrf_token), other.visit(get_csrf_token)
    assert token != others
    assert post(browser, others) == 400
    assert post(other, others) == 200
    assert post(browser.another(), token) == 400


def test_token_stays_until_a_new_one_is_made(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    assert browser.visit(get_csrf_token) == token
    newer = browser.visit(new_csrf_token)
    assert newer != token
    assert browser.visit(get_csrf_token) == newer
    assert post(browser, token) == 400
    assert post(browser, newer) == 200


def test_policies_and_the_session_share_one_token(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    assert browser.use(lambda session: session.get_csrf_token()) == token
    assert browser.use(lambda session: session["_csrft_"]) == token
    newer = browser.use(lambda session: session.new_csrf_token())
    assert browser.visit(get_csrf_token) == newer
    assert post(browser, newer) == 200


def test_token_is_renewed_with_the_id(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    browser.use(lambda session: session.regenerate_id())
    assert post(browser, token) == 400
    assert post(browser, browser.visit(get_csrf_token)) == 200


def test_token_is_kept_when_it_is_asked_to_be(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    browser.use(lambda session: session.regenerate_id(renew_csrf_token=False))
    assert browser.visit(get_csrf_token) == token
    assert post(browser, token) == 200


def test_token_ends_with_its_session(browser: Browser) -> None:
    token = browser.visit(get_csrf_token)
    browser.use(lambda session: session.invalidate())
    assert post(browser, token) == 400
    assert browser.visit(get_csrf_token) != token


def test_regenerated_id_makes_no_token_where_there_was_none(redis_url: str) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(dict) == {"a": 1}


def test_token_is_long_random_text(redis_url: str) -> None:
    browser = make_browser(redis_url)
    tokens = {browser.use(lambda session: session.new_csrf_token()) for _ in range(50)}
    assert len(tokens) == 50
    assert {len(token) for token in tokens} == {43}
    assert all(token.replace("-", "").replace("_", "").isalnum() for token in tokens)


def test_token_keeps_the_session_in_a_compact_hash(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Redis keeps a hash compact as long as no value is longer than 64 bytes."""
    browser = make_browser(redis_url)
    browser.use(lambda session: session.get_csrf_token())
    assert len(data_fields(redis_client, browser.key)[b"._csrft_"]) <= 64
    assert redis_client.object("encoding", browser.key) in (b"listpack", b"ziplist")


def test_token_that_is_there_is_only_read(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.visit(get_csrf_token)
    proxy.reset()
    browser.visit(get_csrf_token)
    assert proxy.round_trips == 1


def test_form_is_protected_by_default_options_too(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.set_default_csrf_options(require_csrf=True)

    browser = make_browser(redis_url, configure=configure)
    token = browser.visit(get_csrf_token)
    environ = {"tests.view": lambda request: None}
    assert browser.app.post("/", {}, extra_environ=environ, expect_errors=True).status_int == 400
    assert browser.app.post("/", {"csrf_token": token}, extra_environ=environ).status_int == 200
