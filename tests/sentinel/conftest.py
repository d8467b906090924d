"""A primary, two replicas, and three sentinels."""

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.topology import Sentinels


@pytest.fixture(scope="module")
def sentinels(redis_binary: str) -> Iterator[Sentinels]:
    """Servers and sentinels of this module's tests. They leave them healthy."""
    with Sentinels(redis_binary, password="hush") as sentinels:
        yield sentinels


@pytest.fixture
def clean(sentinels: Sentinels) -> None:
    """Remove the data."""
    with sentinels.client() as client:
        client.flushall()


@pytest.fixture
def own_sentinels(redis_binary: str) -> Iterator[Sentinels]:
    """Those of one test, which need not leave them healthy: sentinels take their time for that."""
    with Sentinels(redis_binary) as sentinels:
        yield sentinels


@pytest.fixture
def confirm(own_sentinels: Sentinels) -> Iterator[Callable[[str], bool]]:
    """``(key) -> bool``: whether both replicas have what the primary has acknowledged.

    Whichever of them takes over, it is there. It was written to the primary before the mark was,
    and a replica applies writes in their order. Once the primary is gone nothing is confirmed.
    """
    pool = redis.ConnectionPool.from_url(own_sentinels.primary.url, socket_timeout=1, retry=None)
    gone = threading.Event()

    def confirm(key: str) -> bool:
        if gone.is_set():
            return False
        try:
            with redis.Redis(connection_pool=pool, single_connection_client=True) as single:
                single.set("mark", "1")
                return int(single.wait(2, 100)) >= 2
        except redis.RedisError:
            gone.set()
            return False

    yield confirm
    pool.disconnect()
