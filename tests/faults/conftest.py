"""A server of a module's own, and the proxy that breaks what goes to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.faults import FaultProxy


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisServer]:
    """A server of this module's tests. They leave it running, and willing."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def proxy(server: RedisServer, client: redis.Redis) -> Iterator[FaultProxy]:
    """What stands between the application and Redis, and breaks."""
    with FaultProxy(server.port) as proxy:
        yield proxy
