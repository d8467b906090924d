"""Fixtures shared by all tests: a real private Redis server, a client, a counting proxy.

``REDIS_TOPOLOGY=cluster`` or ``sentinel`` gives the functional tests a Redis Cluster, or a
primary behind sentinels, instead of one server. Those that are about the server, or about what
travels to it, are left out then.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import (
    CountingProxy,
    RedisServer,
    find_redis_server,
)

# So that their assertions show what they compared.
pytest.register_assert_rewrite(
    *(f"tests.support.{name}" for name in ("app", "load", "overlap", "predecessors", "topology"))
)
from tests.support.topology import Cluster, Sentinels  # noqa: E402

TOPOLOGIES = {"cluster": Cluster, "sentinel": Sentinels}
TOPOLOGY = os.environ.get("REDIS_TOPOLOGY", "")

#: Fixtures of the tests that need one server of their own, or see it through a proxy.
ONE_SERVER = {"redis_server", "proxy", "new_redis_server"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out what cannot run on the topology that was asked for."""
    if not TOPOLOGY:
        return
    chosen = [
        item
        for item in items
        if "functional" in item.path.parts
        and "redis_url" in item.fixturenames
        and not ONE_SERVER & set(item.fixturenames)
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Path of the server binary. Without one the tests fail: they never skip."""
    return find_redis_server()


@pytest.fixture(scope="session")
def redis_server(redis_binary: str) -> Iterator[RedisServer]:
    """The server that the tests share. Who pauses, kills or reconfigures one takes its own,
    from ``new_redis_server``."""
    with RedisServer(redis_binary, unix_socket=True) as server:
        yield server


if TOPOLOGY:

    @pytest.fixture(scope="session")
    def shared_redis(redis_binary: str) -> Iterator[Any]:
        """The servers that the tests share."""
        with TOPOLOGIES[TOPOLOGY](redis_binary) as topology:
            yield topology

else:

    @pytest.fixture(scope="session")
    def shared_redis(redis_server: RedisServer) -> Any:
        """The server that the tests share."""
        return redis_server


@pytest.fixture
def redis_client(shared_redis: Any) -> Iterator[redis.Redis]:
    """A client of the shared server, whose data were just removed (its scripts were not)."""
    with shared_redis.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(shared_redis: Any, redis_client: redis.Redis) -> str:
    """URL of the shared server, whose data were just removed."""
    return str(shared_redis.url)


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
