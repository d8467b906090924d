"""Two session factories in one application: nothing of the one is known to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.session import SignedCookieSessionFactory

from pyramid_redis_lua_sessions import RedisSessionFactory
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import SECRET, Browser, close_with, data_fields, make_browser

OTHER_SECRET = "another secret of the tests, more than 32 bytes long"


def two(url: str, second: RedisSessionFactory, **options: Any) -> Browser:
    """Make an application with ``request.session`` and ``request.second``."""

    def configure(config: Configurator) -> None:
        config.add_request_method(second, "second", reify=True)

    browser = make_browser(url, configure=configure, **options)
    close_with(browser.wsgi, second)
    return browser


def ids(browser: Browser) -> tuple[Any, Any]:
    """Return the ids of both sessions."""
    found: tuple[Any, Any] = browser.visit(
        lambda request: (request.session.session_id, request.second.session_id)
    )
    return found


def fill(request: Any) -> None:
    request.session["in"] = "first"
    request.second["in"] = "second"
    request.second.flash("to the second")


def contents(request: Any) -> Any:
    return dict(request.session), dict(request.second), request.second.peek_flash()


FILLED = ({"in": "first"}, {"in": "second"}, ["to the second"])


def database(url: str, number: int) -> str:
    return url.removesuffix("/0") + f"/{number}"


def test_both_sessions_of_a_request_are_saved_and_read(redis_url: str) -> None:
    browser = two(redis_url, RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="second"))
    browser.visit(fill)
    assert sorted(browser.app.cookies) == ["second", "session"]
    assert browser.visit(contents) == FILLED
    one, other = ids(browser)
    assert one != other


def test_each_factory_uses_its_own_database(redis_url: str, redis_server: RedisServer) -> None:
    """COMPAT B17: both used the client that was made first."""
    second = RedisSessionFactory(SECRET, redis_url=database(redis_url, 5), cookie_name="second")
    browser = two(redis_url, second)
    browser.visit(fill)
    with redis_server.client(db=0) as zero, redis_server.client(db=5) as five:
        assert set(data_fields(zero, browser.key)) == {b".in"}
        assert len(zero.keys("*")) == 1
        (key,) = five.keys("*")
        assert len(data_fields(five, key)) == 2
    assert browser.visit(contents) == FILLED


def test_each_factory_uses_its_own_server(
    redis_url: str, new_redis_server: Callable[..., RedisServer]
) -> None:
    server = new_redis_server()
    second = RedisSessionFactory(SECRET, redis_url=server.url, cookie_name="second")
    browser = two(redis_url, second)
    browser.visit(fill)
    with server.client() as client:
        assert len(client.keys("*")) == 1
    assert browser.visit(contents) == FILLED
    # The one server's end is no harm to the other's sessions.
    server.kill()
    assert browser.use(dict) == {"in": "first"}


def test_each_factory_uses_its_own_prefix(redis_url: str, redis_client: redis.Redis) -> None:
    second = RedisSessionFactory(
        SECRET, redis_url=redis_url, cookie_name="second", prefix="elsewhere:"
    )
    browser = two(redis_url, second)
    browser.visit(fill)
    keys = sorted(redis_client.keys("*"))
    assert [key.partition(b":")[0] for key in keys] == [b"elsewhere", b"session"]


def test_each_factory_has_its_own_settings(redis_url: str, redis_client: redis.Redis) -> None:
    second = RedisSessionFactory(
        SECRET, 50, "second", redis_url=redis_url, serialize="json", prefix="b:"
    )
    browser = two(redis_url, second, timeout="5000")
    browser.visit(fill)
    (key,) = redis_client.keys("b:*")
    assert 40_000 < redis_client.pttl(key) <= 50_000
    assert redis_client.pttl(browser.key) > 4_000_000


@pytest.mark.parametrize("same_secret", [True, False])
@pytest.mark.parametrize("same_prefix", [True, False])
def test_cookie_of_the_one_is_refused_by_the_other(
    redis_url: str, redis_client: redis.Redis, same_secret: bool, same_prefix: bool
) -> None:
    second = RedisSessionFactory(
        SECRET if same_secret else OTHER_SECRET,
        redis_url=redis_url,
        cookie_name="second",
        prefix="session:" if same_prefix else "second:",
    )
    browser = two(redis_url, second)
    browser.visit(fill)
    first_cookie, second_cookie = browser.app.cookies["session"], browser.app.cookies["second"]
    before = {key: data_fields(redis_client, key.decode()) for key in redis_client.keys("*")}
    swapped = browser.another()
    swapped.app.set_cookie("session", second_cookie.strip('"'))
    swapped.app.set_cookie("second", first_cookie.strip('"'))
    assert swapped.visit(contents) == ({}, {}, [])
    swapped.visit(lambda request: (request.session.invalidate(), request.second.invalidate()))
    swapped.visit(fill)
    for key, fields in before.items():
        assert data_fields(redis_client, key.decode()) == fields
    assert browser.visit(contents) == FILLED


def test_session_stored_by_the_one_is_not_authentic_to_the_other(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """The key in Redis is under the seal, so a hash that is copied there is worthless."""
    second = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="second", prefix="b:")
    browser = two(redis_url, second)
    browser.visit(fill)
    _, second_id = ids(browser)
    stolen = redis_client.hgetall(browser.key)
    redis_client.delete(f"b:{second_id}")
    redis_client.hset(f"b:{second_id}", mapping=stolen)
    assert browser.visit(lambda request: dict(request.second)) == {}
    assert browser.use(dict) == {"in": "first"}


def test_ending_the_one_leaves_the_other(redis_url: str) -> None:
    second = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="second")
    browser = two(redis_url, second)
    browser.visit(fill)
    browser.use(lambda session: session.invalidate())
    assert list(browser.app.cookies) == ["second"]
    assert browser.visit(contents) == ({}, {"in": "second"}, ["to the second"])


def test_new_id_of_the_one_leaves_the_other(redis_url: str) -> None:
    second = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="second")
    browser = two(redis_url, second)
    browser.visit(fill)
    before, known = dict(browser.app.cookies), ids(browser)
    browser.visit(lambda request: request.second.regenerate_id())
    assert browser.app.cookies["session"] == before["session"]
    assert browser.app.cookies["second"] != before["second"]
    assert ids(browser) == known
    assert browser.visit(contents) == FILLED


def test_session_that_is_not_touched_costs_nothing_beside_one_that_is(
    proxy: CountingProxy,
) -> None:
    second = RedisSessionFactory(SECRET, redis_url=proxy.url, cookie_name="second")
    browser = two(proxy.url, second)
    browser.visit(fill)
    proxy.reset()
    browser.visit(lambda request: (request.second, request.session.get("in")))
    assert proxy.round_trips == 1
    proxy.reset()
    browser.visit(contents)
    assert proxy.round_trips == 2


def test_failure_of_the_one_is_not_the_others(
    redis_url: str, new_redis_server: Callable[..., RedisServer]
) -> None:
    server = new_redis_server()
    second = RedisSessionFactory(SECRET, redis_url=server.url, cookie_name="second")
    browser = two(redis_url, second)
    browser.visit(fill)
    server.kill()

    def view(request: Any) -> str:
        request.session["in"] = "changed"
        return repr(request.second)

    assert "unread" in browser.visit(view)
    assert browser.use(dict) == {"in": "changed"}


def test_factory_names_its_cookie_as_pyramids_own_do() -> None:
    # pyramid_session_multi refuses a factory without that attribute, and two of one name.
    factory = RedisSessionFactory(SECRET, cookie_name="second")
    own = SignedCookieSessionFactory(SECRET, cookie_name="second")
    assert factory._cookie_name == own._cookie_name == "second"
