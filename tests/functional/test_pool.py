"""Connections that one thread disconnects while another one takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from pyramid_redis_lua_sessions.cluster import NodePool
from pyramid_redis_lua_sessions.pools import Pool
from pyramid_redis_lua_sessions.sentinels import PrimaryPool
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import make_browser

#: Seconds for a thread that must not get through to try.
MOMENT = 0.1


class SlowToEnd(redis.Connection):
    """A connection whose end takes its time, so that others may come in between."""

    ending = threading.Event()
    taken = threading.Event()

    def disconnect(self, *args: Any, **options: Any) -> None:
        self.ending.set()
        self.taken.wait(MOMENT)
        cast("Any", super()).disconnect(*args, **options)
        self.ending.clear()


@pytest.mark.parametrize("pool_class", [Pool, NodePool])
@pytest.mark.parametrize(
    "end",
    [
        lambda pool: pool.disconnect_free_connections(),
        lambda pool: pool.disconnect(inuse_connections=False),
    ],
    ids=["disconnect_free_connections", "disconnect"],
)
def test_connection_is_not_taken_while_it_is_disconnected(
    redis_server: RedisServer, pool_class: Any, end: Callable[[Any], None]
) -> None:
    """redis-py lets it go by, and who took it meets a TypeError: its socket is gone."""
    pool = pool_class(
        host="127.0.0.1", port=redis_server.port, max_connections=1, connection_class=SlowToEnd
    )
    pool.release(pool.get_connection())
    SlowToEnd.ending.clear()
    SlowToEnd.taken.clear()
    other = threading.Thread(target=end, args=(pool,))
    other.start()
    assert SlowToEnd.ending.wait(10)
    taken = pool.pool.get()
    was_ending = SlowToEnd.ending.is_set()
    SlowToEnd.taken.set()
    other.join()
    pool.release(taken)
    pool.disconnect()
    assert not was_ending


def test_primary_pool_is_one_of_these() -> None:
    assert issubclass(PrimaryPool, Pool)


@pytest.mark.parametrize(
    ("query", "more"), [("", 0), ("?db=1", 1), ("?db=1&client_name=x&protocol=3", 2)]
)
def test_connection_is_made_with_as_few_replies_as_documented(
    proxy: CountingProxy, query: str, more: int
) -> None:
    """How long a call can take where each comes late stands on it."""
    browser = make_browser(f"{proxy.url.rpartition('/')[0]}{query}")
    browser.use(lambda session: session.__setitem__("name", "value"))
    pool = browser.factory.store_for(None).client.connection_pool
    pool.disconnect()
    before = proxy.round_trips
    browser.use(dict)
    assert 1 < proxy.round_trips - before <= 4 + more + 1
