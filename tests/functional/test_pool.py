"""How connections are made, handed out, and given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import pytest
import redis

from pyramid_redis_lua_sessions.connect import pools
from pyramid_redis_lua_sessions.connect.cluster import NodePool, _Deadline
from pyramid_redis_lua_sessions.connect.lines import line_to, pack
from pyramid_redis_lua_sessions.connect.pools import Pool, make_retry
from pyramid_redis_lua_sessions.connect.sentinels import PrimaryPool
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import make_browser
from tests.support.waiting import wait_until

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


@pytest.mark.parametrize("pool_class", [Pool, partial(NodePool, _Deadline())])
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
    taken = pool.get_connection()
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
    assert 1 <= proxy.round_trips - before <= 4 + more + 1


@pytest.fixture
def pool(redis_server: RedisServer) -> Iterator[Any]:
    """Two connections."""
    pool = cast("Any", Pool)(
        host="127.0.0.1", port=redis_server.port, max_connections=2, timeout=30
    )
    yield pool
    pool.disconnect()


def test_last_one_in_is_the_first_one_out(pool: Any) -> None:
    one, other = pool.get_connection(), pool.get_connection()
    pool.release(one)
    pool.release(other)
    assert [pool.get_connection(), pool.get_connection()] == [other, one]


def test_who_waits_is_woken(pool: Any) -> None:
    taken = [pool.get_connection(), pool.get_connection()]
    with ThreadPoolExecutor(50) as threads:

        def use() -> None:
            pool.release(pool.get_connection())

        waiting = [threads.submit(use) for _ in range(50)]
        wait_until(lambda: len(pool._waiting) == 50)
        for connection in taken:
            pool.release(connection)
        for one in waiting:
            one.result(timeout=20)
    assert len(pool._get_free_connections()) == 2


def test_who_waits_in_vain_learns_why(pool: Any) -> None:
    pool.timeout = 0.01
    taken = [pool.get_connection(), pool.get_connection()]
    with pytest.raises(redis.exceptions.MaxConnectionsError):
        pool.get_connection()
    pool.release(taken.pop())
    pool.get_connection()


def test_connection_that_never_comes_back_leaves_its_place(pool: Any) -> None:
    for _ in range(5):
        pool.get_connection()


def fail_with(pool: Any, error: type[BaseException]) -> Any:
    """Take a connection, and give it back as a call does that fails."""
    connection = pool.get_connection()
    try:
        raise error
    finally:
        pool.release(connection)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, redis.TimeoutError])
def test_connection_is_closed_when_a_call_did_not_end_cleanly(pool: Any, error: Any) -> None:
    with pytest.raises(error):
        fail_with(pool, error)
    (connection,) = pool._get_free_connections()
    assert not connection.is_connected


@pytest.mark.parametrize("error", [redis.ResponseError, redis.exceptions.NoScriptError])
def test_connection_is_kept_when_the_call_was_answered(pool: Any, error: Any) -> None:
    with pytest.raises(error):
        fail_with(pool, error)
    (connection,) = pool._get_free_connections()
    assert connection.is_connected


def test_connection_is_kept_when_the_caller_handles_an_error_of_its_own(pool: Any) -> None:
    """As in an exception view."""
    try:
        raise ValueError
    except ValueError:
        connection = pool.get_connection()
        pool.release(connection)
    assert connection.is_connected


def test_connection_is_given_back_once_and_to_its_pool(pool: Any) -> None:
    other = cast("Any", Pool)(**pool.connection_kwargs)
    connection = pool.get_connection()
    other.release(connection)
    assert not other._get_free_connections()
    pool.release(connection)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(pool.get_connection).result() is connection
        pool.release(connection)  # it is the other thread that has it
    assert not pool._get_free_connections()


def make_pool(server: RedisServer, retries: int = 1, **options: Any) -> Any:
    """One connection, of which calls take it to be fresh."""
    options = {"max_connections": 1, "timeout": 30, "retry": make_retry(retries), **options}
    pool = cast("Any", Pool)(host="127.0.0.1", port=server.port, **options)
    pool.exchange(pack(("PING",)), 1)
    return pool


def test_what_redis_says_unasked_is_no_reply(redis_server: RedisServer) -> None:
    pool = make_pool(redis_server, protocol=3)
    client = redis.Redis.from_pool(pool)
    line = line_to(client)
    with redis.Redis(port=redis_server.port) as other:
        for _ in range(3):
            other.set("watched", "before")
            client.execute_command("CLIENT", "TRACKING", "ON")
            client.get("watched")
            other.set("watched", "after")
            for name in (b"alice", b"bob", b"carol"):
                assert line.one(("ECHO", name)) == name
            client.get("watched")
            other.set("watched", "again")
            assert line.many([("ECHO", b"1"), ("ECHO", b"2")]) == [b"1", b"2"]
            assert client.echo("redis-py") == b"redis-py"
    client.close()


class Interrupted(BaseException):
    """As a signal's handler raises."""


def test_no_reply_is_left_to_others_where_the_end_is_interrupted_too(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(redis_server)
    line = line_to(redis.Redis.from_pool(pool))

    used = []

    def talk(connection: Any, data: bytes, count: int) -> Any:
        used.append(connection)
        connection._sock.sendall(data)  # the reply is left unread
        raise Interrupted

    def disconnect(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(pools, "_talk", talk)
        patch.setattr(redis.Connection, "disconnect", disconnect)
        with pytest.raises(Interrupted):
            line.one(("ECHO", b"of another"))
    assert line.one(("ECHO", b"mine")) == b"mine"
    pool.disconnect()
    used[0].disconnect()


def test_call_is_repeated_over_the_connection_that_it_has(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for another one would let it come later than a save is remembered."""
    pool = make_pool(redis_server)
    talk = pools._talk
    calls: list[Any] = []

    def lose(connection: Any, data: bytes, count: int) -> Any:
        replies = talk(connection, data, count)
        calls.append(connection)
        assert not pool._free
        if len(calls) == 1:
            raise redis.TimeoutError
        return replies

    monkeypatch.setattr(pools, "_talk", lose)
    assert pool.exchange(pack(("ECHO", b"1")), 1) == [b"1"]
    assert len(calls) == 2
    assert calls[0] is calls[1]
    pool.disconnect()


def test_connection_that_another_thread_ends_is_a_lost_one(redis_server: RedisServer) -> None:
    pool = make_pool(redis_server)
    connection = pool.get_connection()
    pool.disconnect()
    with pytest.raises(redis.ConnectionError):
        pools._talk(connection, pack(("PING",)), 1)


def test_connection_that_redis_has_ended_costs_no_call_without_retries(
    redis_server: RedisServer,
) -> None:
    pool = make_pool(redis_server, retries=0)
    with redis.Redis(port=redis_server.port) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    assert pool.exchange(pack(("ECHO", b"1")), 1) == [b"1"]
    pool.disconnect()
