"""Primaries that are replaced while users are at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import make_browser
from tests.support.load import Load
from tests.support.topology import SERVICE, Sentinels
from tests.support.waiting import wait_until

TIMEOUT = 0.5
TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}

#: What the documentation promises for one call, where three sentinels and Redis hang: a reply,
#: then two attempts to connect, each past three sentinels. A request makes two calls at most.
CALL = TIMEOUT + 2 * (3 * 0.5 + TIMEOUT)
BOUND = 2 * CALL + 1


@pytest.mark.parametrize("how", ["fail_over", "kill", "pause"])
def test_nothing_that_was_replicated_is_lost_when_the_primary_goes(
    own_sentinels: Sentinels, confirm: Callable[[str], bool], how: str
) -> None:
    """What both replicas have confirmed is exactly what Redis itself does not lose."""
    sentinels = own_sentinels
    with Load(sentinels.url, confirm, **TIMEOUTS) as load:
        load.wait_for_more()
        old = sentinels.replace_primary(how)
        # Without a restart, and while the old primary is still away.
        load.wait_for_more()
        if how == "kill":
            old.start()
        elif how == "pause":
            old.resume()
        load.wait_for_more()
    load.check()
    assert load.slowest < BOUND


def test_planned_failover_is_followed_while_the_old_primary_takes_writes(
    own_sentinels: Sentinels,
) -> None:
    """Nobody ends the connections to it, and what is written there is lost."""
    sentinels = own_sentinels
    leader, *others = sentinels.sentinels
    user = make_browser(sentinels.url)
    pool = user.factory.store_for(None).client.connection_pool
    user.use(write)
    in_use, *free = [pool.get_connection() for _ in range(4)]
    for connection in free:
        pool.release(connection)
    old = sentinels.primary
    # Else the sentinels would make a replica of it, and end its connections, after 8 seconds.
    old.ask("ACL", "SETUSER", "default", "-replicaof", "-slaveof")
    sentinels.fail_over()
    wait_until(lambda: all(sentinel.master()["port"] != old.port for sentinel in others), 20)
    new = next(node for node in sentinels.nodes if node.port == others[0].master()["port"])

    # Who leads the failover names the old one for a second more, and is the first to be asked.
    newcomer = make_browser(sentinels.url)
    newcomer.use(write)
    assert leader.master()["port"] == old.port
    assert new.ask("EXISTS", newcomer.key)

    def arrives() -> bool:
        visitor = user.another()
        visitor.use(write)
        return bool(new.ask("EXISTS", visitor.key))

    wait_until(arrives)
    wait_until(lambda: pool._asking[0] == 0)
    assert not any(connection.port == old.port and connection._sock for connection in free)
    assert old.ask("SET", "mark", "1")
    assert in_use._sock
    pool.release(in_use)
    assert not in_use._sock
    assert arrives()


def test_planned_failover_loses_nothing_where_the_old_primary_was_paused(
    own_sentinels: Sentinels,
) -> None:
    """As the documentation advises: calls are held up, run into their timeout, and are repeated."""
    sentinels = own_sentinels
    user = make_browser(sentinels.url)
    user.use(write)
    visitors = [user]
    old = sentinels.primary
    with old.client(single_connection_client=True) as client:
        client.set("mark", "1")
        assert client.wait(2, 5000) == 2
    old.ask("CLIENT", "PAUSE", 5000, "WRITE")
    sentinels.fail_over()

    def has_moved() -> bool:
        visitor = user.another()
        visitor.use(write)
        visitors.append(visitor)
        return sentinels.primary is not old

    wait_until(has_moved)
    keys = [visitor.key for visitor in visitors]
    assert sentinels.primary.ask("EXISTS", *keys) == len(keys)


def demote(sentinels: Sentinels) -> None:
    """Make another node the primary, without the ``CLIENT KILL`` of a sentinel's failover.

    So connections to the old one stay open, as they do where something between has held them.
    """
    old = sentinels.primary
    new = next(node for node in sentinels.nodes if node is not old)
    with old.client(single_connection_client=True) as client:
        client.set("mark", "1")
        assert client.wait(2, 5000) == 2
    for sentinel in sentinels.sentinels:
        sentinel.ask("SENTINEL", "REMOVE", SERVICE)
    new.ask("REPLICAOF", "NO", "ONE")
    for node in sentinels.nodes:
        if node is not new:
            node.ask("REPLICAOF", "127.0.0.1", new.port)
    for sentinel in sentinels.sentinels:
        sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 2)
        sentinel.ask("SENTINEL", "SET", SERVICE, "DOWN-AFTER-MILLISECONDS", 1000)
        sentinel.ask("SENTINEL", "SET", SERVICE, "FAILOVER-TIMEOUT", 3000)
    sentinels.wait_until_healthy()
    assert sentinels.primary is new


def write(session: Any) -> None:
    session["changed"] = 1


ACTS: dict[str, Callable[[Any], Any]] = {
    "read": dict,
    "write": write,
    "adjust": lambda session: session.adjust_timeout_for_session(900),
    "login": lambda session: session.regenerate_id(),
    "logout": lambda session: session.invalidate(),
    "flash": lambda session: session.flash("message"),
}


@pytest.mark.parametrize("scripts", ["known", "unknown"])
def test_call_that_meets_a_demoted_primary_succeeds(
    sentinels: Sentinels, clean: None, scripts: str
) -> None:
    """In one call: READONLY, which Redis 6.2 wraps; reconnect; the same again."""
    users = {name: make_browser(sentinels.url) for name in ACTS}  # a connection each
    for user in users.values():
        user.use(lambda session: session.__setitem__("name", "value"))
    stranger = make_browser(sentinels.url)
    demote(sentinels)
    if scripts == "unknown":
        for node in sentinels.nodes:
            node.ask("SCRIPT", "FLUSH")

    for name, act in ACTS.items():
        user, before = users[name], users[name].copy()
        user.use(act)
        ended = name in ("login", "logout")
        assert before.use(dict).get("name") == (None if ended else "value"), name
        assert user.use(dict).get("name") == (None if name == "logout" else "value"), name
    stranger.use(write)
    assert stranger.use(dict) == {"changed": 1}
    assert users["write"].use(dict) == {"name": "value", "changed": 1}
    assert users["flash"].use(lambda session: session.pop_flash()) == ["message"]
    assert users["adjust"].use(lambda session: session.timeout) == 900


def test_call_that_meets_a_demoted_primary_behind_a_moved_address_succeeds(
    sentinels: Sentinels, clean: None
) -> None:
    """Without Sentinel in the client: a name, or an address, that now leads elsewhere."""
    old = sentinels.primary
    with CountingProxy(old.port) as proxy:
        browser = make_browser(proxy.url)
        browser.use(write)
        demote(sentinels)
        proxy._upstream = ("127.0.0.1", sentinels.primary.port)
        browser.use(lambda session: session.__setitem__("more", 1))
        assert browser.use(dict) == {"changed": 1, "more": 1}
        browser.use(lambda session: session.regenerate_id())
        assert browser.use(dict) == {"changed": 1, "more": 1}
