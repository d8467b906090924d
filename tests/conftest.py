"""Fixtures shared by all tests: a real private Redis server, a client, a counting proxy."""

import os
from collections.abc import Callable, Iterator

import pytest
import redis

from pyramid_redis_lua_sessions.testing import (
    CountingProxy,
    RedisServer,
    find_redis_server,
    find_redis_servers,
)


def _binaries() -> list[str | None]:
    """Which binaries to test with; ``None`` is looked up, or fails, in the fixture."""
    if os.environ.get("TEST_ALL_SERVERS"):
        return [*find_redis_servers()] or [None]
    return [None]


@pytest.fixture(scope="session", params=_binaries(), ids=lambda binary: binary or "redis")
def redis_binary(request: pytest.FixtureRequest) -> str:
    """Path of the server binary. Without one the tests fail: they never skip."""
    return request.param or find_redis_server()


@pytest.fixture(scope="session")
def redis_server(redis_binary: str) -> Iterator[RedisServer]:
    """The server that the tests share. Who pauses, kills or reconfigures one takes its own,
    from ``new_redis_server``."""
    with RedisServer(redis_binary, unix_socket=True) as server:
        yield server


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the shared server, whose data were just removed (its scripts were not)."""
    with redis_server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: RedisServer, redis_client: redis.Redis) -> str:
    """URL of the shared server, whose data were just removed."""
    return redis_server.url


@pytest.fixture
def proxy(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[CountingProxy]:
    """A counting proxy to the shared server, whose data were just removed."""
    with CountingProxy(redis_server.port) as counting:
        yield counting


@pytest.fixture
def new_redis_server(redis_binary: str) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server of the test's own: ``new_redis_server(config={...})``."""
    servers: list[RedisServer] = []

    def start(**options: object) -> RedisServer:
        server = RedisServer(redis_binary, **options)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()
