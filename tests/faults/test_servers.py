"""Servers that restart, hang, die, forget or refuse, at any moment of a request."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.errors import StoreUnavailable
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import Browser, make_browser
from tests.support.faults import FaultProxy
from tests.support.waiting import wait_until

from .kinds import KINDS, Kind, state_of, unavailable

NewServer = Callable[..., RedisServer]

#: Kinds of requests that change nothing, or nothing that a user would miss.
READS = {"read", "first read", "recookie", "sessions_of", "rotation of secrets"}

#: Seconds until a client gives up on a server that hangs.
SHORT = 0.3


def write(session: Any) -> None:
    session["name"] = "value"


def at_every_call(
    kind: Kind,
    what: Callable[[], object],
    proxy: FaultProxy,
    client: redis.Redis,
) -> Iterator[tuple[Browser, bool]]:
    """Do something before the request's first call, in the next round before its second, ...

    :returns: the user, and whether the request failed.
    """
    browser = make_browser(proxy.url, configure=unavailable, **kind.settings)
    nth, struck = 0, True
    while struck:
        nth += 1
        client.flushdb()
        user = browser.another()
        kind.prepare(user)
        proxy.strike(what, nth)
        user.visit(kind.act, status="*")
        struck = proxy.has_struck
        proxy.heal()
        yield user, user.response.status_int != 200
        user.use(write)
        assert user.use(lambda session: session["name"]) == "value"
    assert nth > 1


# -- at any moment ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_script_cache_is_flushed(kind: Kind, proxy: FaultProxy, client: redis.Redis) -> None:
    for user, failed in at_every_call(kind, client.script_flush, proxy, client):
        assert not failed
        assert state_of(user, client) == kind.after


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_connections_are_killed(kind: Kind, proxy: FaultProxy, client: redis.Redis) -> None:
    def kill() -> None:
        client.client_kill_filter(_type="normal", skipme=True)

    for user, failed in at_every_call(kind, kill, proxy, client):
        assert not failed
        assert state_of(user, client) == kind.after


@pytest.mark.parametrize("name", KINDS)
def test_all_data_are_flushed(name: str, proxy: FaultProxy, client: redis.Redis) -> None:
    """As an eviction at that moment: gone, and never half there."""
    kind = KINDS[name]
    for user, failed in at_every_call(kind, client.flushall, proxy, client):
        seen = state_of(user, client)
        if not failed and seen == kind.after:
            continue  # it was only about to look again, or creates the session itself
        # What it wrote itself may be a session of its own, but no more.
        after, before = kind.after.values, kind.before.values
        written = {key for key, value in after.items() if before.get(key) != value}
        assert set(seen.values) <= written
        assert seen.live <= 1


@pytest.mark.parametrize("name", ["read", "write", "login", "logout", "flash"])
def test_server_restarts_with_its_data(
    name: str, server: RedisServer, proxy: FaultProxy, client: redis.Redis
) -> None:
    kind = KINDS[name]
    for user, failed in at_every_call(kind, lambda: server.restart(keep_data=True), proxy, client):
        assert not failed
        assert state_of(user, client) == kind.after


# -- between requests --------------------------------------------------------------------


def test_server_restarts_without_its_data(server: RedisServer, client: redis.Redis) -> None:
    user = make_browser(server.url)
    user.use(write)
    server.restart()
    assert user.use(dict) == {}
    user.use(write)
    assert user.use(dict) == {"name": "value"}


def test_killed_server_comes_back(new_redis_server: NewServer) -> None:
    """With every write on disk nothing that was acknowledged is lost."""
    server = new_redis_server(config={"appendonly": "yes", "appendfsync": "always"})
    user = make_browser(server.url)
    user.use(write)
    server.kill()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        user.use(dict)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        user.use(write)
    server.start()
    assert user.use(dict) == {"name": "value"}


@pytest.mark.parametrize("name", ["read", "first write", "write", "login", "logout", "recookie"])
def test_server_hangs(name: str, server: RedisServer, client: redis.Redis) -> None:
    """What it was sent meanwhile it does in the end, whether or not anybody still listens."""
    kind = KINDS[name]
    user = make_browser(
        server.url,
        configure=unavailable,
        socket_timeout=SHORT,
        redis_socket_connect_timeout=SHORT,
        redis_retries=0,
        **kind.settings,
    )
    kind.prepare(user)
    twin = user.copy()
    server.pause()
    try:
        user.visit(kind.act, status="*")
        assert user.response.status_int == 503
    except StoreUnavailable:  # from a response callback
        pass
    finally:
        server.resume()
    client.ping()  # what came before this it has done
    seen = state_of(twin, client)
    assert seen.live <= max(kind.before.live, kind.after.live) + 1
    assert seen.values in [kind.before.values, kind.after.values, *([{}] if kind.ends else [])]
    user.use(lambda session: session.regenerate_id() or write(session))
    assert user.use(lambda session: session["name"]) == "value"


# -- refusals ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A server that answers, but refuses writes.

    :ivar on: the configuration that makes it refuse; ``off``: that it is willing with.
    """

    on: dict[str, str]
    off: dict[str, str]
    prepare: Callable[[RedisServer, redis.Redis], None] = lambda server, client: None


def break_snapshots(server: RedisServer, client: redis.Redis) -> None:
    """Make the next snapshot fail, as on a full disk."""
    shutil.rmtree(Path(str(server._directory)) / "data", ignore_errors=True)
    client.bgsave()

    def has_failed() -> bool:
        info: Any = client.info("persistence")
        return not info["rdb_bgsave_in_progress"] and info["rdb_last_bgsave_status"] == "err"

    wait_until(has_failed)


REFUSALS = {
    "OOM": Refusal({"maxmemory": "1"}, {"maxmemory": "0"}),
    "NOREPLICAS": Refusal({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
    "MISCONF": Refusal({"save": "3600 1"}, {"save": ""}, break_snapshots),
}


@pytest.fixture(scope="module", params=REFUSALS)
def refusing(request: pytest.FixtureRequest, redis_binary: str) -> Iterator[tuple[str, Any, Any]]:
    """The code of a refusal; the server; ``refuse(bool)``."""
    refusal = REFUSALS[request.param]
    with RedisServer(redis_binary) as server, server.client() as client:
        refusal.prepare(server, client)

        def refuse(now: bool) -> None:
            for name, value in (refusal.on if now else refusal.off).items():
                client.config_set(name, value)

        yield request.param, server, refuse


@pytest.mark.parametrize("name", KINDS)
def test_server_refuses_writes(name: str, refusing: tuple[str, RedisServer, Any]) -> None:
    """Reads go on, though the session is not touched. What cannot be saved is not saved at all."""
    code, server, refuse = refusing
    kind = KINDS[name]
    user = make_browser(server.url, configure=unavailable, **kind.settings)
    with server.client() as client:
        client.flushall()
        kind.prepare(user)
        refuse(True)
        try:
            user.visit(kind.act, status="*")
        finally:
            refuse(False)
        served = user.response.status_int == 200
        assert served or user.response.status_int == 503
        if name in READS:
            assert served
        elif code != "OOM":
            assert not served
        if served:
            assert state_of(user, client) == kind.after
        else:
            seen = state_of(user, client)
            if name.startswith("logout"):
                # Its cookie is deleted all the same, and it may have ended.
                assert seen.values == {}
                assert seen.live in (0, 1)
            else:
                assert seen == kind.before
        user.use(lambda session: session.regenerate_id() or write(session))
        assert user.use(lambda session: session["name"]) == "value"


def test_refusal_is_a_clear_error(refusing: tuple[str, RedisServer, Any]) -> None:
    code, server, refuse = refusing
    user = make_browser(server.url)
    refuse(True)
    try:
        with pytest.raises(StoreUnavailable, match=f"refuses create_unique at present .{code}."):
            user.use(write)
        assert user.session_id is None
    finally:
        refuse(False)


def test_session_is_evicted_whole(new_redis_server: NewServer) -> None:
    """Users either have all of their session or none."""
    server = new_redis_server(config={"maxmemory-policy": "volatile-lru"})
    browser = make_browser(server.url)
    users = [browser.another() for _ in range(60)]
    values = {f"key {number}": "x" * 1000 for number in range(20)}
    with server.client() as client:
        used: Any = client.info("memory")
        client.config_set("maxmemory", used["used_memory"] + 700_000)
        for user in users:
            user.use(lambda session: session.update(values))
    left = [user.use(dict) for user in users]
    assert left.count(values) > 0
    assert left.count({}) > 0
    assert left.count(values) + left.count({}) == len(users)


# -- connections -----------------------------------------------------------------------------


def test_request_waits_for_a_connection(server: RedisServer, client: redis.Redis) -> None:
    user = make_browser(server.url, redis_max_connections=1)
    user.use(write)
    pool = user.factory.store_for(None).client.connection_pool
    taken = pool.get_connection()
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(user.use(dict)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    pool.release(taken)
    thread.join(10)
    assert seen == [{"name": "value"}]


def test_request_that_gets_no_connection_in_time_fails(
    server: RedisServer, client: redis.Redis
) -> None:
    user = make_browser(server.url, redis_max_connections=1, socket_timeout=SHORT)
    user.use(write)
    pool = user.factory.store_for(None).client.connection_pool
    taken = pool.get_connection()
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="MaxConnectionsError"):
        user.use(dict)
    # It is not repeated: that would only double the wait.
    assert SHORT <= time.monotonic() - start < 2 * SHORT
    pool.release(taken)
    assert user.use(dict) == {"name": "value"}


def test_processes_that_are_forked_off_share_no_connection(
    server: RedisServer, client: redis.Redis
) -> None:
    """As a server does that loads the application before it forks its workers."""
    browser = make_browser(server.url)
    users = [browser.another() for _ in range(5)]
    for number, user in enumerate(users):
        user.use(lambda session, number=number: session.__setitem__("number", number))

    def work(number: int) -> bool:
        user = users[number]
        for step in range(100):
            user.use(lambda session, step=step: session.__setitem__("step", step))
            if user.use(dict) != {"number": number, "step": step}:
                return False
        return True

    children = []
    for number in range(1, 5):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if work(number) else 1
            finally:
                os._exit(status)
        children.append(pid)
    assert work(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
