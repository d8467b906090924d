"""From settings to a redis-py client."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from pyramid_redis_lua_sessions.connect.client import client_options, longest_repeat, make_client
from pyramid_redis_lua_sessions.engine.failures import failure
from pyramid_redis_lua_sessions.settings import Settings, SettingsError
from pyramid_redis_lua_sessions.testing import RedisServer

SECRET = "0123456789abcdef0123456789abcdef"


def settings(**options: Any) -> Settings:
    return Settings.from_options({"secret": SECRET, **options})


def connection(**options: Any) -> dict[str, Any]:
    """What the client's connections are made with."""
    return dict(make_client(settings(**options)).connection_pool.connection_kwargs)


def test_defaults_reach_the_connection() -> None:
    found = connection()
    assert (found["host"], found["port"], found["db"]) == ("localhost", 6379, 0)
    assert (found["socket_timeout"], found["socket_connect_timeout"]) == (2.0, 2.0)
    assert found["password"] is None


@pytest.mark.parametrize("prefix", ["redis_", ""])
def test_every_setting_reaches_the_connection(prefix: str) -> None:
    options = {
        "host": "redis.example.com",
        "port": "6380",
        "db": "3",
        "password": "pw",
        "socket_timeout": "0.5",
        "encoding": "latin-1",
        "encoding_errors": "replace",
    }
    found = connection(**{prefix + name: value for name, value in options.items()})
    expected = {**options, "port": 6380, "db": 3, "socket_timeout": 0.5}
    assert {name: found[name] for name in expected} == expected


def test_url_takes_precedence_over_host_port_db_and_password() -> None:
    found = connection(
        url="redis://:one@redis.example.com:7000/5", host="other", port=1, db=2, password="two"
    )
    assert (found["host"], found["port"], found["db"]) == ("redis.example.com", 7000, 5)
    assert found["password"] == "one"
    assert found["socket_timeout"] == 2.0


def test_url_may_set_its_own_timeout() -> None:
    assert connection(url="redis://h?socket_timeout=7")["socket_timeout"] == 7


def test_url_may_ask_for_tls_or_a_unix_socket() -> None:
    pool = make_client(settings(url="rediss://h")).connection_pool
    assert pool.connection_class is redis.SSLConnection
    pool = make_client(settings(url="unix:///run/redis.sock?db=2")).connection_pool
    assert pool.connection_class is redis.UnixDomainSocketConnection
    assert pool.connection_kwargs["path"] == "/run/redis.sock"
    assert pool.connection_kwargs["db"] == 2


def test_unix_socket_path_takes_precedence_over_the_host() -> None:
    pool = make_client(settings(unix_socket_path="/run/redis.sock", db=4)).connection_pool
    assert pool.connection_class is redis.UnixDomainSocketConnection
    assert pool.connection_kwargs["path"] == "/run/redis.sock"
    assert pool.connection_kwargs["db"] == 4


def test_the_pool_is_bounded_and_waits() -> None:
    pool = make_client(settings(redis_max_connections=7)).connection_pool
    assert pool.max_connections == 7
    assert pool.timeout == 2.0


def test_own_pool_is_used_as_it_is() -> None:
    pool = redis.ConnectionPool(db=9)
    assert make_client(settings(connection_pool=pool)).connection_pool is pool


def test_two_clients_share_no_pool() -> None:
    one, two = make_client(settings(db=1)), make_client(settings(db=5))
    assert one.connection_pool is not two.connection_pool
    assert two.connection_pool.connection_kwargs["db"] == 5


def test_client_answers_without_a_connection() -> None:
    # Port 1 is closed: making the client must not try it.
    make_client(settings(host="127.0.0.1", port=1))


@pytest.mark.parametrize("how", ["url", "host", "unix_url", "unix_socket_path"])
def test_client_reaches_a_real_server(redis_server: RedisServer, how: str) -> None:
    options: dict[str, Any] = {
        "url": {"url": redis_server.url},
        "host": {"host": "127.0.0.1", "port": str(redis_server.port)},
        "unix_url": {"url": redis_server.unix_url},
        "unix_socket_path": {"unix_socket_path": redis_server.unix_socket},
    }[how]
    with make_client(settings(**options)) as client:
        assert client.ping()


def test_socket_timeout_none_waits_for_ever() -> None:
    assert connection(socket_timeout="None")["socket_timeout"] is None


@pytest.mark.parametrize(
    "url", ["redis.example.com", "http://h", "redis://h:port", "redis://h?socket_timeout=x", "//"]
)
def test_malformed_url_is_a_settings_error(url: str) -> None:
    with pytest.raises(SettingsError, match=re.escape("redis.sessions.url")):
        make_client(settings(url=url))


def test_error_of_a_url_never_shows_its_password() -> None:
    for url in ("http://user:hunter2@h", "redis://user:hunter2@h:port", "hunter2"):
        with pytest.raises(SettingsError) as caught:
            make_client(settings(url=url))
        shown: BaseException | None = caught.value
        texts = []
        while shown is not None:
            texts.append(f"{shown} {shown!r}")
            shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
        assert "hunter2" not in " ".join(texts)


def test_callable_is_given_the_options_that_the_predecessors_document() -> None:
    assert set(client_options(settings())) == {
        "host",
        "port",
        "db",
        "password",
        "socket_timeout",
        "connection_pool",
        "unix_socket_path",
    }
    options = client_options(settings(encoding="utf-8", encoding_errors="strict", db="2"))
    assert (options["encoding"], options["encoding_errors"]) == ("utf-8", "strict")
    assert options["db"] == 2


def test_options_of_the_callable_make_a_client() -> None:
    with redis.Redis(**client_options(settings(host="h", encoding="utf-8"))) as client:
        assert client.connection_pool.connection_kwargs["host"] == "h"


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({}, 7),
        ({"redis_retries": 0}, 0),
        ({"redis_retries": 3}, 36),
        ({"redis_socket_timeout": 10, "redis_socket_connect_timeout": 5}, 21),
        ({"redis_url": "redis://localhost?socket_timeout=30"}, 35),
        ({"redis_url": "redis+cluster://localhost?socket_connect_timeout=1"}, 7),
        ({"redis_url": "redis+sentinel://a,b,c/service"}, 10),
        ({"redis_socket_timeout": None}, math.inf),
        ({"redis_client_callable": lambda request, **options: None}, math.inf),
        ({"redis_connection_pool": redis.ConnectionPool()}, math.inf),
    ],
)
def test_longest_time_until_a_call_is_repeated(options: dict[str, Any], longest: float) -> None:
    assert longest_repeat(settings(**options)) == longest


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis://h?protocol=9", "wrong option protocol: expected 2 or 3"),
        ("redis://h?encoding=bogus", "wrong option encoding: "),
        ("redis://h?encoding_errors=bogus&decode_responses=1", "wrong option encoding_errors: "),
        ("redis://h?socket_read_size=0", "wrong option socket_read_size: "),
        ("redis://h?max_connections=0", "wrong option max_connections: "),
        ("redis://h?client_name=a%20b", "wrong option client_name: "),
        ("redis://h?ssl_ca_certs=/x", "unknown option ssl_ca_certs; it does not go with"),
        ("rediss://h?ssl_cert_reqs=bogus", "wrong option ssl_cert_reqs: expected none, optional"),
        ("rediss+cluster://h?ssl_cert_reqs=bogus", "wrong option ssl_cert_reqs: "),
        ("redis+sentinel://h/s?ssl_ca_certs=/x", "unknown option ssl_ca_certs; it does not go"),
        (
            "redis+sentinel://h/s?sentinel_ssl=1&ssl_ca_certs=/x",
            "unknown option ssl_ca_certs; it does not go with",
        ),
        ("redis+sentinel://h/s?sentinel_protocol=9", "wrong option sentinel_protocol: "),
        (
            "redis+sentinel://h/s?sentinel_ssl_ca_certs=/x",
            "wrong option sentinel_ssl_ca_certs: it needs sentinel_ssl=true",
        ),
        ("rediss+sentinel://h/s?sentinel_ssl_cert_reqs=bogus", "option sentinel_ssl_cert_reqs: "),
    ],
)
def test_option_that_is_wrong_is_named(url: str, part: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_client(settings(url=url))
    assert part in str(caught.value)


def test_options_of_tls_reach_the_connections_that_have_it() -> None:
    client = make_client(settings(url="rediss+sentinel://h/s?sentinel_ssl=no&ssl_cert_reqs=none"))
    assert client.connection_pool.connection_kwargs["ssl_cert_reqs"] == "none"
    url = "redis+sentinel://h/s?sentinel_ssl=yes&sentinel_ssl_cert_reqs=none"
    pool = make_client(settings(url=url)).connection_pool
    assert "ssl_cert_reqs" not in pool.connection_kwargs
    (sentinel,) = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_class is redis.SSLConnection
    assert sentinel.connection_pool.connection_kwargs["ssl_cert_reqs"] == "none"


@pytest.mark.parametrize("name", ["encoding", "encoding_errors"])
def test_encoding_that_python_does_not_know_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError, match=f"redis.sessions.redis_{name} = bogus should be an "):
        make_client(settings(**{f"redis_{name}": "bogus"}))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        # redis-py cuts "ERR" off.
        ("DB index is out of range", "ERR: no such database"),
        (
            "SELECT is not allowed in cluster mode",
            "ERR: a node of a Redis Cluster; use redis+cluster://",
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT"),
        # As Redis 6.2 wraps the error of a script.
        (
            "Error running script (call to f_1): @user_script:7: @user_script: 7: -NOPERM this "
            "user has no permissions to run the 'pexpire' command or its subcommand",
            "NOPERM",
        ),
    ],
)
def test_error_of_redis_is_named_by_its_code(message: str, code: str) -> None:
    found = str(failure("load", ResponseError(message)))
    assert found == f"Redis answered load with an error ({code}) [docs: messages]"


def test_database_that_redis_does_not_have_is_no_code(redis_server: RedisServer) -> None:
    with make_client(settings(url=f"{redis_server.url}?db=99")) as client:
        with pytest.raises(ResponseError) as caught:
            client.ping()
        assert "(ERR: no such database)" in str(failure("ping", caught.value))
