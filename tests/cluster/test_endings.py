"""Endings on a Redis Cluster: over the node that has the session, wherever it moves."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.endings import Ending, owner_digest, subscriber, watch_ending
from tests.support.browser import Browser, make_browser
from tests.support.endings import is_heard, wait_until_nobody_listens, watched
from tests.support.topology import Cluster
from tests.support.waiting import wait_until

OWNER = "ada"
USERS = 12

TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    yield
    wait_until_nobody_listens()


@pytest.fixture
def users(cluster_url: str, cluster_client: redis.RedisCluster) -> list[Browser]:
    return make_users(cluster_url)


def make_users(url: str) -> list[Browser]:
    """Users whose sessions are on all nodes."""
    first = make_browser(
        url,
        configure=lambda config: config.include("pyramid_redis_lua_sessions.endings"),
        publish_endings=True,
        **TIMEOUTS,
    )
    users = [first, *(first.another() for _ in range(USERS - 1))]
    for user in users:
        user.use(lambda session: setattr(session, "owner", OWNER))
    return users


def log_out(user: Browser) -> None:
    user.copy().use(lambda session: session.invalidate())


def test_endings_on_all_nodes_are_told_by_their_messages(users: list[Browser]) -> None:
    all_told = [watched(user) for user in users]
    for user in users:
        wait_until(lambda user=user: is_heard(user))
        log_out(user)
    digest = owner_digest(users[0].wsgi.registry, OWNER)
    for user, told in zip(users, all_told, strict=True):
        ending = told.get(timeout=20)
        assert (ending.owner, ending.reason) == (digest, "ended")
        assert user.session_id not in repr(ending)


def test_channels_are_sharded_where_the_server_has_such(
    users: list[Browser], cluster: Cluster
) -> None:
    user = users[0]
    node = cluster.primary_of(user.key)
    told = watched(user)
    wait_until(lambda: is_heard(user))
    try:
        channels: Any = node.ask("PUBSUB", "SHARDCHANNELS")
    except redis.ResponseError:  # before 7.0
        channels = node.ask("PUBSUB", "CHANNELS")
    assert user.key.encode() in channels
    log_out(user)
    told.get(timeout=20)


def test_session_that_moves_to_another_node_is_heard_there(
    users: list[Browser], cluster: Cluster
) -> None:
    user = users[0]
    told = watched(user)
    wait_until(lambda: is_heard(user))
    source = cluster.primary_of(user.key)
    target = next(node for node in cluster.primaries() if node.address != source.address)
    slot = int(source.ask("CLUSTER", "KEYSLOT", user.key))
    cluster.move_slots(source.address, target.address, range(slot, slot + 1))
    log_out(user)
    assert told.get(timeout=20).reason == "ended"


@pytest.mark.parametrize("how", ["kill", "pause", "hand over"])
def test_session_whose_node_is_replaced_meanwhile_is_heard_of_afterwards(
    users: list[Browser],
    cluster: Cluster,
    confirm: Callable[[str], bool],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscriber, "QUIET", 1.0)
    monkeypatch.setattr(subscriber, "LOST", 2.0)
    nodes = [cluster.primary_of(user.key) for user in users]
    lost = max(nodes, key=nodes.count)
    others = [node for node in cluster.running if node is not lost]
    stays, leaves, *rest = [user for user, node in zip(users, nodes, strict=True) if node is lost]
    users = [stays, leaves, *rest]
    all_told = [watched(user) for user in users]
    for user in users:
        wait_until(lambda user=user: is_heard(user))
        wait_until(lambda user=user: confirm(user.key))
    if how == "hand over":
        replica_of(cluster, lost).ask("CLUSTER", "FAILOVER")
    else:
        getattr(lost, how)()
    wait_until(lambda: all(cluster.has_replaced(lost, seen_by=node) for node in others), 15)
    log_out(leaves)
    assert all_told[1].get(timeout=20).reason == "ended"
    if how == "kill":
        lost.start()
    elif how == "pause":
        lost.resume()
    cluster.wait_until_healthy()
    # That a node is lost ends nothing.
    assert [told.empty() for told in (all_told[0], *all_told[2:])] == [True] * (len(users) - 1)
    for user, told in zip(users, all_told, strict=True):
        if user is not leaves:
            log_out(user)
            assert told.get(timeout=20).reason == "ended"


def test_shard_that_is_lost_deafens_no_other_one(redis_binary: str) -> None:
    with Cluster(redis_binary, {"cluster-require-full-coverage": "no"}) as cluster:
        users = make_users(cluster.url)
        nodes = [cluster.primary_of(user.key) for user in users]
        # The one that a client asks first, once it knows them.
        client: Any = users[0].factory.separate_store().client
        asked = client.get_default_node().name
        client.close()
        lost = next(node for node in nodes if node.address == asked)
        heard = list[tuple[Browser, queue.Queue[Ending]]]()
        watches = []
        for user, node in zip(users, nodes, strict=True):
            told: queue.Queue[Ending] = queue.Queue()
            watches.append(user.visit(lambda request, told=told: watch_ending(request, told.put)))
            if node is not lost:
                heard.append((user, told))
        for user in users:
            wait_until(lambda user=user: is_heard(user))
        replica_of(cluster, lost).kill()
        lost.kill()
        assert heard
        for user, told in heard:
            log_out(user)
            assert told.get(timeout=20).reason == "ended"
        for watch in watches:
            watch.cancel()


def replica_of(cluster: Cluster, primary: Any) -> Any:
    """The node that would take over."""
    own = str(primary.ask("CLUSTER", "MYID"), "ascii")
    # It may not have told its primary yet.
    (line,) = wait_until(lambda: lines(primary.ask("CLUSTER", "REPLICAS", own)))
    address = line.split()[1].partition("@")[0]
    return next(node for node in cluster.running if node.address == address)


def lines(reply: Any) -> list[str]:
    return [str(line, "ascii") if isinstance(line, bytes) else str(line) for line in reply]
