"""The page on OpenID Connect back-channel logout: its samples, with real keys and tokens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from pyramid.config import Configurator

from pyramid_redis_lua_sessions import StoreUnavailable, sessions_of
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import Browser, make_browser

from .test_howto_pages import page

ISSUER, CLIENT = "https://provider.example", "this application"
LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def jwks_uri() -> Iterator[str]:
    """Where the provider publishes its key."""
    public = RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    body = json.dumps({"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}).encode()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Policy:
    """By which nobody is logged in, and only what a test itself does is permitted."""

    def identity(self, request: Any) -> None:
        return None

    authenticated_userid = identity

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return request.path == "/"


Start = Callable[..., Browser]


@pytest.fixture
def start(jwks_uri: str, redis_url: str) -> Start:
    """Makes the page's application."""
    settings = {"oidc.jwks_uri": jwks_uri, "oidc.issuer": ISSUER, "oidc.client_id": CLIENT}

    def make(url: str = redis_url, **options: Any) -> Browser:
        module = page("back-channel-logout")

        def configure(config: Configurator) -> None:
            module.includeme(config)
            config.set_security_policy(Policy())
            config.set_default_permission("see")  # the provider has none

        browser = make_browser(url, settings=settings, configure=configure, **options)
        browser.page = module  # type: ignore[attr-defined]
        return browser

    return make


def log_in(browser: Browser, user: str, **id_token: Any) -> Browser:
    claims = {"iss": ISSUER, "sub": user, **id_token}
    other = browser.another()
    other.visit(lambda request: browser.page.logged_in(request, user, claims))  # type: ignore[attr-defined]
    return other


def logout_token(key: Any = KEY, algorithm: str = "RS256", kid: str = "1", **claims: Any) -> str:
    """A token as the provider makes it; a claim that is ``None`` is left out."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": CLIENT, "iat": now, "exp": now + 120, "jti": "x"}
    whole |= {"events": {LOGOUT: {}}, **claims}
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={"kid": kid})


def post(browser: Browser, token: str, status: int) -> Any:
    answer = browser.another().app.post(
        "/back_channel_logout", {"logout_token": token}, status=status
    )
    assert answer.headers["Cache-Control"] == "no-store"
    return answer


def owners(*browsers: Browser) -> list[Any]:
    return [browser.use(lambda session: session.owner) for browser in browsers]


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_sessions_of_one_session_at_the_provider_end(start: Start, mode: str) -> None:
    browser = start(on_conflict=mode)
    phone = log_in(browser, "ada", sid="1")
    laptop, other = log_in(browser, "ada", sid="2"), log_in(browser, "bob", sid="3")
    token = logout_token(sid="1", sub="ada")
    for _ in range(2):  # as a provider that has not heard of its success
        answer = post(browser, token, 204)
        assert "Set-Cookie" not in answer.headers
        assert owners(phone, laptop, other) == [None, "ada", "bob"]


def test_all_sessions_of_the_user_end_where_only_he_is_named(start: Start) -> None:
    browser = start()
    users = [log_in(browser, "ada", sid="1"), log_in(browser, "ada"), log_in(browser, "bob")]
    post(browser, logout_token(sub="ada"), 204)
    assert owners(*users) == [None, None, "bob"]


def test_session_of_another_provider_stays(start: Start) -> None:
    browser = start()
    user = log_in(browser, "ada", sid="1", iss="https://other.example")
    post(browser, logout_token(sid="1", sub="ada"), 204)
    assert owners(user) == ["ada"]


BAD = {
    "another key": {"key": OTHER_KEY},
    "an unknown key": {"kid": "2"},
    "a shared secret": {"key": "s" * 32, "algorithm": "HS256"},
    "no signature": {"key": None, "algorithm": "none"},
    "another issuer": {"iss": "https://other.example"},
    "another client": {"aud": "another application"},
    "too old": {"exp": 1},
    "of the future": {"iat": 99999999999},
    "no end": {"exp": None},
    "no id": {"jti": None},
    "no events": {"events": None},
    "another event": {"events": {"http://other.example/event": {}}},
    "events that are none": {"events": [LOGOUT]},
    "an event that is none": {"events": {LOGOUT: True}},
    "an ID token": {"nonce": "n"},
    "nobody": {"sid": None},
    "a sid that is no text": {"sid": 1},
    "a list of sids": {"sid": ["1"]},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_token_ends_nothing(start: Start, change: dict[str, Any]) -> None:
    browser = start()
    user = log_in(browser, "ada", sid="1")
    post(browser, logout_token(**{"sid": "1", **change}), 400)
    assert owners(user) == ["ada"]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "." * 2000])
def test_what_is_no_token_ends_nothing(start: Start, token: str) -> None:
    browser = start()
    post(browser, token, 400)


def test_redis_that_fails_is_no_success(
    start: Start, new_redis_server: Callable[..., RedisServer]
) -> None:
    server = new_redis_server()
    browser = start(server.url)
    log_in(browser, "ada", sid="1")
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 1
    server.kill()
    with pytest.raises(StoreUnavailable):
        post(browser, logout_token(sid="1"), 500)
