"""CSRF tokens: the session's own methods, and both of Pyramid's policies over a session."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from tests.support.application import is_compact
from tests.support.browser import Browser, data_fields, make_browser, take_along

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


def test_overlapping_pages_show_one_token_and_nothing_is_stored(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update(a=1))
    windows = [browser.copy() for _ in range(50)]
    all_have_loaded = threading.Barrier(len(windows))

    def page(request: Any) -> str:
        request.session["a"]
        all_have_loaded.wait(30)
        token: str = get_csrf_token(request)
        return token

    with ThreadPoolExecutor(len(windows)) as threads:
        tokens = list(threads.map(lambda window: window.visit(page), windows))
    assert [post(browser, token) for token in tokens] == [200] * 50
    assert data_fields(redis_client, browser.key).keys() == {b".a"}


def test_token_that_is_derived_is_found_under_its_key(browser: Browser) -> None:
    """The predecessors stored it there, and Pyramid's ``SessionCSRFStoragePolicy`` does."""
    browser.use(lambda session: session.update(a=1))
    token = browser.visit(get_csrf_token)

    def view(session: Any) -> None:
        assert session["_csrft_"] == session.get("_csrft_") == token
        assert "_csrft_" in session
        assert session.has_key("_csrft_")
        assert session.setdefault("_csrft_", "mine") == token
        # But it is none of the session's content.
        assert list(session) == ["a"]
        assert (len(session), dict(session)) == (1, {"a": 1})
        # And it cannot be removed, only replaced.
        assert session.pop("_csrft_") == token
        del session["_csrft_"]
        assert session.get_csrf_token() == token
        assert dict(session.managed_dict) == {"a": 1}

    browser.use(view)
    assert browser.visit(get_csrf_token) == token


def test_session_without_an_id_has_a_token_only_when_it_was_asked_for(browser: Browser) -> None:
    def view(session: Any) -> None:
        assert "_csrft_" not in session
        with pytest.raises(KeyError):
            session["_csrft_"]
        with pytest.raises(KeyError):
            del session["_csrft_"]
        assert session.pop("_csrft_", None) is None

    browser.use(view)
    assert browser.session_id is None

    def page(request: Any) -> str:
        token: str = get_csrf_token(request)
        assert request.session["_csrft_"] == get_csrf_token(request) == token
        return token

    assert post(browser, browser.visit(page)) == 200


def test_token_that_a_predecessor_stored_stays_valid(browser: Browser) -> None:
    browser.use(lambda session: session.update(_csrft_="stored by another library"))
    assert browser.visit(get_csrf_token) == "stored by another library"
    assert post(browser, "stored by another library") == 200
    browser.use(lambda session: session.regenerate_id())
    assert post(browser, "stored by another library") == 400


def test_token_that_was_made_and_removed_gives_way_to_the_derived_one(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    derived = browser.visit(get_csrf_token)
    for remove in (
        lambda session: session.__delitem__("_csrft_"),
        lambda session: session.pop("_csrft_"),
        lambda session: session.clear(),
    ):
        made = browser.visit(new_csrf_token)
        assert post(browser, made) == 200
        browser.use(remove)
        assert [post(browser, token) for token in (made, derived)] == [400, 200]


def test_token_of_a_login_is_new_at_once(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    before = browser.visit(get_csrf_token)

    def log_in(request: Any) -> str:
        request.session.owner = "ann"
        token: str = get_csrf_token(request)
        return token

    token = browser.visit(log_in)
    assert [post(browser, token) for token in (before, token)] == [400, 200]


def test_derived_token_is_kept_when_it_is_asked_to_be(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    token = browser.visit(get_csrf_token)
    for _ in range(2):
        browser.use(lambda session: session.regenerate_id(renew_csrf_token=False))
        assert post(browser, token) == 200
    browser.use(lambda session: session.regenerate_id())
    assert post(browser, token) == 400


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


class Signer:
    """A ``cookie_signer``: with it there need be no secret."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode().hex().encode()

    def loads(self, value: bytes) -> Any:
        return json.loads(bytes.fromhex(value.decode()))


@pytest.mark.parametrize(
    "options",
    [
        {"seal": "false", "serialize": "json"},
        {"secret": None, "cookie_signer": Signer(), "seal": "false", "serialize": "json"},
        {"secret": None, "cookie_signer": Signer(), "seal_secret": "s" * 32},
    ],
    ids=["unsealed", "unsealed and signed", "signed"],
)
def test_token_is_derived_without_a_secret_too(redis_url: str, options: dict[str, Any]) -> None:
    browser = make_browser(redis_url, **options)
    browser.use(lambda session: session.update(a=1))
    token, again = browser.visit(get_csrf_token), browser.visit(get_csrf_token)
    assert token == again
    assert browser.session_id not in token
    other = browser.another()
    other.use(lambda session: session.update(a=1))
    assert other.visit(get_csrf_token) != token


def test_token_follows_the_first_secret(redis_url: str) -> None:
    """As docs/secrets.rst says of a rotation; a stored one stays."""
    old, new = "old" * 11, "new" * 11
    browser = make_browser(redis_url, secret=old)
    browser.use(lambda session: session.update(a=1))
    token = browser.visit(get_csrf_token)
    browser = take_along(browser, redis_url, secret=f"{old}\n{new}")
    assert browser.visit(get_csrf_token) == token
    browser = take_along(browser, redis_url, secret=f"{new}\n{old}")
    newer = browser.visit(get_csrf_token)
    assert newer != token
    browser.use(dict)  # the cookie is back under the new secret: the values follow
    browser = take_along(browser, redis_url, secret=new)
    assert browser.visit(get_csrf_token) == newer


def test_token_is_long_random_text(redis_url: str) -> None:
    browser = make_browser(redis_url)
    tokens = {browser.use(lambda session: session.new_csrf_token()) for _ in range(50)}
    browser.use(lambda session: session.pop("_csrft_"))
    tokens.add(browser.use(lambda session: session.get_csrf_token()))
    assert len(tokens) == 51
    assert {len(token) for token in tokens} == {43}
    assert all(token.replace("-", "").replace("_", "").isalnum() for token in tokens)


def test_token_keeps_the_session_in_a_compact_hash(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Redis keeps a hash compact as long as no value is longer than 64 bytes."""
    browser = make_browser(redis_url)
    browser.use(lambda session: session.get_csrf_token())
    assert len(data_fields(redis_client, browser.key)[b"._csrft_"]) <= 64
    assert is_compact(redis_client, browser.key)


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
