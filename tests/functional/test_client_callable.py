"""``redis_client_callable``: an application that makes the redis client itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pyramid.interfaces import IRequest
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.multidb.client import MultiDBClient
from redis.multidb.config import DatabaseConfig, MultiDbConfig
from redis.retry import Retry

from pyramid_redis_lua_sessions import RedisSessionFactory
from pyramid_redis_lua_sessions.connect.waits import waits_long
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import SECRET, Browser, make_browser, stored_values

# What both predecessors hand over, whatever is configured.
OPTIONS = {
    "host",
    "port",
    "db",
    "password",
    "socket_timeout",
    "connection_pool",
    "unix_socket_path",
}


class Maker:
    """A client callable that keeps what it was called with."""

    def __init__(self, server: RedisServer, **options: Any) -> None:
        self.client = server.client(**options)
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, request: Any, **options: Any) -> redis.Redis:
        self.calls.append((request, options))
        return self.client


@pytest.fixture
def maker(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[Maker]:
    made = Maker(redis_server)
    yield made
    made.client.close()


def work(browser: Browser) -> None:
    """Go through everything that a session does."""
    browser.use(lambda session: session.update({"a": [1, "é", b"\xff"], 1: None}))
    browser.use(lambda session: session["a"].append(2))
    browser.use(lambda session: session.flash("m"))
    browser.use(lambda session: session.adjust_session_timeout(50))
    old = browser.copy()
    browser.use(lambda session: (session.regenerate_id(), session.update(user="ü")))
    assert browser.use(dict) == {"a": [1, "é", b"\xff", 2], 1: None, "user": "ü"}
    assert browser.use(lambda session: session.pop_flash()) == ["m"]
    assert old.use(dict) == {}
    browser.use(lambda session: session.invalidate())
    assert browser.use(dict) == {}


@pytest.mark.parametrize("name", ["redis_client_callable", "client_callable"])
def test_client_is_made_by_the_callable(name: str, maker: Maker, redis_client: redis.Redis) -> None:
    browser = make_browser("redis://localhost:1/0", **{name: maker})
    work(browser)
    assert len(maker.calls) > 5


def test_callable_gets_the_request_and_the_options(maker: Maker) -> None:
    browser = make_browser(
        "redis://localhost:1/0",
        client_callable=maker,
        host="example.org",
        port="7000",
        db="3",
        password="pw",
        socket_timeout="0.5",
        unix_socket_path="/run/redis.sock",
        encoding="latin-1",
        encoding_errors="replace",
    )
    maker.calls.clear()
    requests: list[Any] = []
    browser.visit(lambda request: (requests.append(request), request.session.update(a=1)))
    ((request, options),) = maker.calls
    assert request is requests[0]
    assert IRequest.providedBy(request)
    assert options == {
        "host": "example.org",
        "port": 7000,
        "db": 3,
        "password": "pw",
        "socket_timeout": 0.5,
        "connection_pool": None,
        "unix_socket_path": "/run/redis.sock",
        "encoding": "latin-1",
        "encoding_errors": "replace",
    }


def test_options_that_are_not_given_have_the_names_of_the_predecessors(maker: Maker) -> None:
    make_browser("redis://localhost:1/0", client_callable=maker)
    ((_, options),) = maker.calls
    assert set(options) == OPTIONS
    # The options are those of ``redis.Redis``, so the simplest callable hands them on.
    redis.Redis(**options).close()


def test_request_is_none_at_application_start(maker: Maker) -> None:
    make_browser("redis://localhost:1/0", client_callable=maker)
    assert [request for request, _ in maker.calls] == [None]
    shas = [script.sha1 for script in SCRIPTS.values()]
    assert maker.client.script_exists(*shas) == [True] * len(shas)


def test_callable_that_cannot_serve_none_is_a_logged_note(
    redis_server: RedisServer, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def per_request(request: Any, **options: Any) -> Any:
        return request.registry.settings["client of the application"]

    with redis_server.client() as client:
        with caplog.at_level(logging.INFO, "pyramid_redis_lua_sessions"):
            browser = make_browser(
                "redis://localhost:1/0",
                client_callable=per_request,
                settings={"client of the application": client},
            )
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "without a request" in caplog.text
        client.script_flush()
        work(browser)


class Double:
    """A stand-in of an application's tests, which has what the author knew of."""

    def __init__(self, client: Any) -> None:
        self.execute_command = client.execute_command
        self.pipeline = client.pipeline


def test_client_that_loads_no_scripts_is_a_logged_note(
    maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    maker.client.script_flush()
    double = Double(maker.client)
    with caplog.at_level(logging.INFO, "pyramid_redis_lua_sessions"):
        browser = make_browser(
            "redis://localhost:1/0", client_callable=lambda request, **options: double
        )
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "AttributeError" in caplog.text
    work(browser)


def test_callable_is_not_called_at_start_when_nothing_is_preloaded(maker: Maker) -> None:
    browser = make_browser("redis://localhost:1/0", client_callable=maker, preload_scripts="false")
    assert maker.calls == []
    work(browser)


def test_callable_is_called_once_a_request_and_only_if_it_is_needed(maker: Maker) -> None:
    browser = make_browser("redis://localhost:1/0", client_callable=maker)
    browser.use(lambda session: session.update(a=1))
    maker.calls.clear()
    browser.use(repr)
    assert maker.calls == []
    browser.use(lambda session: (session.update(a=session["a"] + 1), session.regenerate_id()))
    assert len(maker.calls) == 1


def test_callable_may_return_another_client_for_each_request(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    """As for tenants: each request's session is in the database of its host."""
    clients = {f"tenant{n}": redis_server.client(db=n) for n in (1, 2)}

    def by_host(request: Any, **options: Any) -> Any:
        return clients[request.host]

    browser = make_browser("redis://localhost:1/0", client_callable=by_host)
    try:
        for host in clients:
            window = browser.another()
            window.use(lambda s, h=host: s.update(host=h), extra_environ={"HTTP_HOST": host})
        for host, client in clients.items():
            (key,) = client.keys("*")
            session_id = key.decode().removeprefix("session:")
            assert stored_values(client, browser.factory, session_id) == {"host": host}
    finally:
        for client in clients.values():
            client.close()


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 3}, {"protocol": 2}])
@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_client_of_any_kind_works(
    redis_server: RedisServer,
    redis_client: redis.Redis,
    options: dict[str, Any],
    on_conflict: str,
) -> None:
    """COMPAT B16: the predecessors fail with ``decode_responses``."""
    maker = Maker(redis_server, **options)
    try:
        browser = make_browser("redis://localhost:1/0", client_callable=maker)
        work(browser)
        maker.client.script_flush()
        work(browser)
        assert browser.use(lambda session: session.redis) is maker.client
    finally:
        maker.client.close()


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_client_with_a_cache_of_its_own_works(
    redis_server: RedisServer, redis_client: redis.Redis, on_conflict: str
) -> None:
    """It caches replies of reading commands, of which a script is none."""
    if redis_server.version < (7, 4):  # redis-py asks for that
        with pytest.raises(redis.RedisError), cached(redis_server) as client:
            client.ping()
        return
    with cached(redis_server) as client:
        browser = make_browser(
            "redis://localhost:1/0",
            client_callable=lambda request, **options: client,
            on_conflict=on_conflict,
        )
        work(browser)
        client.script_flush()
        work(browser)


def cached(server: RedisServer) -> redis.Redis:
    return server.client(protocol=3, cache_config=CacheConfig())


@pytest.mark.filterwarnings("ignore:MultiDBClient is an experimental")
@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_client_of_several_databases_works(
    redis_server: RedisServer, redis_client: redis.Redis, on_conflict: str
) -> None:
    """Its pipelines take no ``transaction=False``."""
    config = MultiDbConfig([DatabaseConfig(from_url=redis_server.url)], auto_fallback_interval=-1)
    client = MultiDBClient(config)
    try:
        browser = make_browser(
            "redis://localhost:1/0",
            client_callable=lambda request, **options: client,
            on_conflict=on_conflict,
        )
        work(browser)
        browser.use(lambda session: (session.update(a=1), setattr(session, "owner", "ada")))
        redis_client.script_flush()
        browser.use(lambda session: setattr(session, "owner", "bob"))
        assert browser.use(lambda session: session.owner) == "bob"
        work(browser)
    finally:
        client.close()


LONG_CLIENTS: dict[str, dict[str, Any]] = {
    "stock": {"socket_timeout": 5, "retry": Retry(NoBackoff(), 10)},
    "without an end": {"socket_timeout": None},
    "without an end to retries": {"socket_timeout": 1, "retry": Retry(NoBackoff(), -1)},
}


@pytest.mark.parametrize("how", ["callable", "pool"])
@pytest.mark.parametrize("name", [*LONG_CLIENTS, "short"])
def test_client_with_which_a_page_can_hang_for_long_is_a_warning(
    name: str,
    how: str,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = {"socket_timeout": 2, "retry": Retry(NoBackoff(), 1)}
    with redis_server.client(**LONG_CLIENTS.get(name, short)) as client:
        options: dict[str, Any] = {"redis_connection_pool": client.connection_pool}
        if how == "callable":
            options = {"client_callable": lambda request, **options: client}
        with caplog.at_level(logging.INFO, "pyramid_redis_lua_sessions"):
            make_browser("redis://localhost:1/0", **options)
    if name == "short":
        assert caplog.records == []
    else:
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        words = "for 55 s and more" if name == "stock" else "for ever"
        assert f"a page hangs {words}" in record.message


@pytest.mark.filterwarnings("ignore:MultiDBClient is an experimental")
@pytest.mark.parametrize(
    ("again", "words"),
    [(0, ""), (1, "hangs for 12 s and more"), (-1, "hangs for ever")],
)
def test_client_of_several_databases_with_which_a_page_can_hang_is_a_warning(
    redis_server: RedisServer, again: int, words: str
) -> None:
    """It repeats calls itself; the clients of its databases do not, as it makes them."""
    databases = [
        DatabaseConfig(from_url=redis_server.url, client_kwargs={"socket_timeout": seconds})
        for seconds in (6, 1)
    ]
    config = MultiDbConfig(
        databases, command_retry=Retry(NoBackoff(), again), auto_fallback_interval=-1
    )
    client = MultiDBClient(config)
    try:
        said = waits_long(client)
        assert words in said
        assert bool(words) == bool(said)
    finally:
        client.close()


def test_client_may_come_over_a_unix_socket(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    with redis.Redis.from_url(redis_server.unix_url) as client:
        work(make_browser("redis://localhost:1/0", client_callable=lambda request, **kw: client))


def test_callable_by_dotted_name(redis_url: str) -> None:
    name = f"{__name__}.from_settings"
    browser = make_browser(redis_url, client_callable=name, settings={"the url": redis_url})
    work(browser)
    browser.wsgi.registry.client_of_the_tests.close()


def from_settings(request: Any, **options: Any) -> Any:
    """A callable as an ini file names it: it keeps its client in the registry."""
    registry = request.registry
    if not hasattr(registry, "client_of_the_tests"):
        registry.client_of_the_tests = redis.Redis.from_url(registry.settings["the url"])
    return registry.client_of_the_tests


def test_connection_pool_that_is_given_is_used(redis_server: RedisServer, proxy: Any) -> None:
    pool = redis.ConnectionPool.from_url(proxy.url)
    browser = make_browser("redis://localhost:1/0", redis_connection_pool=pool)
    work(browser)
    assert proxy.round_trips > 5
    pool.disconnect()


@pytest.mark.parametrize("how", ["url", "unix url", "socket path", "host and port"])
def test_client_is_made_as_the_settings_say(
    how: str, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    options: dict[str, Any] = {
        "url": {"redis_url": redis_server.url},
        "unix url": {"redis_url": redis_server.unix_url},
        "socket path": {"unix_socket_path": redis_server.unix_socket},
        "host and port": {"host": "127.0.0.1", "port": str(redis_server.port), "db": "0"},
    }[how]
    browser = make_browser(None, **options)
    browser.use(lambda session: session.update(a=1))
    assert redis_client.exists(browser.key)
    work(browser)


def test_url_takes_precedence_over_host_and_port(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, host="localhost", port="1", db="9")
    browser.use(lambda session: session.update(a=1))
    assert redis_client.exists(browser.key)


def test_password_is_sent(new_redis_server: Callable[..., RedisServer]) -> None:
    server = new_redis_server(config={"requirepass": "a-password"})
    options = {"host": "127.0.0.1", "port": str(server.port), "password": "a-password"}
    work(make_browser(None, **options))


def test_callable_goes_with_a_factory_made_in_code(
    redis_server: RedisServer, proxy: CountingProxy
) -> None:
    client = redis.Redis.from_url(proxy.url)
    factory = RedisSessionFactory(SECRET, redis_client_callable=lambda request, **kw: client)

    def configure(config: Any) -> None:
        config.set_session_factory(factory)

    browser = make_browser(
        redis_server.url,
        configure=lambda config: (config.commit(), configure(config)),
        preload_scripts="false",
    )
    proxy.reset()
    work(browser)
    assert proxy.round_trips > 5
    client.close()
