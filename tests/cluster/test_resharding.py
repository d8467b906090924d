"""Slots that move between nodes while users are at work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import export_sessions, revoke, update_sessions
from pyramid_redis_lua_sessions.watch import watch
from tests.support.browser import make_browser
from tests.support.least_privilege import PAGE, rule, with_user
from tests.support.load import Load
from tests.support.topology import Cluster, Node, redis_cli
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cluster(redis_binary: str) -> Iterator[Cluster]:
    """A cluster in which no node fails, and none passes for failed where the machine is busy."""
    with Cluster(redis_binary) as cluster:
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", 15_000)
        yield cluster


def knows(node: Node, other: Node) -> bool:
    """Whether a node has heard of another one."""
    return other.ask("CLUSTER", "MYID") in node.ask("CLUSTER", "NODES")


def let_leave(cluster: Cluster, key: str) -> tuple[Node, Node, int]:
    """Begin to move the slot of a key to another node; return both nodes, and the slot."""
    source = cluster.primary_of(key)
    target = next(node for node in cluster.primaries() if node.address != source.address)
    slot = int(source.ask("CLUSTER", "KEYSLOT", key))
    ids = {address: name for address, (name, _) in cluster.slots().items()}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.address])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.address])
    return source, target, slot


def test_nobody_notices_when_slots_move(
    cluster: Cluster, cluster_client: redis.RedisCluster, confirm: Callable[[str], bool]
) -> None:
    with Load(cluster.url, confirm) as load:
        load.wait_for_more()
        # A node that has just come back may pass for a primary, without slots.
        (source, _), (target, ranges), *_ = [
            known for known in cluster.slots().values() if known[1]
        ]
        before = sum(last - first + 1 for first, last in ranges)
        options = ["--cluster-from", source, "--cluster-to", target, "--cluster-slots", "1500"]
        address = cluster.running[0].address
        cluster.manage(redis_cli(), "reshard", address, *options, "--cluster-yes")
        load.wait_for_more()
    _, ranges = next(known for known in cluster.slots().values() if known[0] == target)
    assert sum(last - first + 1 for first, last in ranges) == before + 1500
    load.check()
    assert load.errors == 0


def test_slot_that_is_on_its_way_to_a_node_without_slots(
    cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    """The client has never heard of the node to which it is sent, and the node of no script."""
    page = PAGE.read_text("utf-8")
    (more,) = re.findall(r"Redis Cluster needs ``(.*?)``", page)
    for node in cluster.running:
        node.ask("ACL", "SETUSER", *rule(), *more.split())
    # As the user of the documentation: a redirected call takes a command of its own.
    browser = make_browser(with_user(cluster.url))
    browser.use(lambda session: session.__setitem__("stays", 1))
    source = cluster.primary_of(browser.key)
    source_id = cluster.slots()[source.address][0]
    new = cluster.add()
    new.ask("ACL", "SETUSER", *rule(), *more.split())
    cluster.manage(redis_cli(), "add-node", new.address, cluster.running[0].address)
    cluster.wait_until_healthy()
    others = [node for node in cluster.running if node is not new]
    wait_until(lambda: all(knows(one, new) and knows(new, one) for one in others), 60)
    slot = int(new.ask("CLUSTER", "KEYSLOT", browser.key))
    new_id = new.ask("CLUSTER", "MYID").decode()
    new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new_id)
    source.ask("MIGRATE", "127.0.0.1", new.port, browser.key, 0, 5000)

    def change(session: Any) -> dict[Any, Any]:
        seen = dict(session)
        session["changed"] = 1
        return seen

    redirected = []

    def asked(request: Any) -> dict[Any, Any]:
        calls = watch(request)
        found = change(request.session)
        redirected.append(calls[0].redirections)
        return found

    assert browser.visit(asked) == {"stays": 1}
    assert redirected == [2]  # once more for the script, which the node lacks
    assert browser.use(dict) == {"stays": 1, "changed": 1}
    assert source.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 0

    for node in (new, source, *cluster.primaries()):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", new_id)
    assert browser.use(dict) == {"stays": 1, "changed": 1}
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(dict) == {"stays": 1, "changed": 1}


def test_sessions_of_a_user_are_changed_while_a_slot_moves(
    cluster: Cluster, cluster_url: str, cluster_client: redis.RedisCluster
) -> None:
    browser = make_browser(cluster_url)
    users = [browser.another() for _ in range(20)]
    for user in users:
        user.use(lambda session: setattr(session, "owner", "ada"))
    registry = browser.wsgi.registry
    assert update_sessions(registry, "ada", {"n": 0}) == len(users)  # the client knows all slots
    key = users[0].key
    source, target, slot = let_leave(cluster, key)
    source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    assert update_sessions(registry, "ada", {"n": 1}) == len(users)  # ASK
    target_id = target.ask("CLUSTER", "MYID")
    for node in (target, source, *cluster.primaries()):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    assert update_sessions(registry, "ada", {"m": 2}) == len(users)  # MOVED
    assert [user.use(dict) for user in users] == [{"n": 1, "m": 2}] * len(users)
    assert len(export_sessions(registry, "ada")) == len(users)
    assert revoke(registry, "ada") == len(users)


@pytest.mark.parametrize("what", ["invalidate", "clear"])
def test_session_ends_while_its_slot_is_leaving(
    cluster: Cluster, cluster_url: str, cluster_client: redis.RedisCluster, what: str
) -> None:
    """A key that vanishes in the middle of a script cannot be written again on that node."""
    browser = make_browser(cluster_url, invalidate_empty_session=True)
    browser.use(lambda session: session.update(a=1))
    key = browser.key
    source, target, slot = let_leave(cluster, key)
    try:
        browser.use(lambda session: getattr(session, what)())
        assert source.ask("HEXISTS", key, "moved")
        assert not source.ask("HEXISTS", key, "@")
    finally:
        for node in (source, target):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
