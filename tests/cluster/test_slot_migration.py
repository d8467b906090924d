"""Slots that a server moves by itself, all keys of a slot at once (Valkey 9), under load."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import find_redis_server
from tests.support.load import Load
from tests.support.servers import name_and_version
from tests.support.topology import Cluster, Node
from tests.support.waiting import wait_until

#: Migrations while users are at work.
TIMES = 12

#: Slots that are moved at once.
SLOTS = 1000

TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}

SERVER, VERSION = name_and_version(find_redis_server())
if SERVER != "Valkey" or int(VERSION.partition(".")[0]) < 9:
    pytest.skip(
        f"{SERVER} {VERSION} does not migrate slots by itself; Valkey 9 does",
        allow_module_level=True,
    )


@pytest.fixture
def cluster(redis_binary: str) -> Iterator[Cluster]:
    """A cluster of one test: what it leaves belongs to nobody else's."""
    with Cluster(redis_binary) as cluster:
        yield cluster


def begin(cluster: Cluster, source: Node, target: Node) -> None:
    """Let the first slots of a primary move to another one."""
    known = cluster.slots()
    _, ranges = known[source.address]
    first, last = max(ranges, key=lambda found: found[1] - found[0])
    target_id, _ = known[target.address]
    last = min(last, first + SLOTS - 1)
    source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target_id)


def state(source: Node) -> str:
    """What has become of the last migration of a primary."""
    latest, *_ = source.ask("CLUSTER", "GETSLOTMIGRATIONS")
    pairs: Any = (
        latest.items() if isinstance(latest, dict) else zip(*2 * [iter(latest)], strict=True)
    )
    found = {_text(name): _text(value) for name, value in pairs}
    return found["state"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_nobody_notices_when_slots_migrate_atomically(
    cluster: Cluster, cluster_client: redis.RedisCluster, confirm: Callable[[str], bool]
) -> None:
    with Load(cluster.url, confirm) as load:
        load.wait_for_more()
        primaries = cluster.primaries()
        ways = itertools.cycle(itertools.permutations(primaries, 2))
        for source, target in itertools.islice(ways, TIMES):
            begin(cluster, source, target)
            wait_until(lambda source=source: state(source) == "success", 30)
            load.wait_for_more(5)
    load.check()
    assert load.errors == 0


def test_nothing_that_was_replicated_is_lost_when_a_primary_goes_while_its_slots_migrate(
    cluster: Cluster, cluster_client: redis.RedisCluster, confirm: Callable[[str], bool]
) -> None:
    with Load(cluster.url, confirm, **TIMEOUTS) as load:
        load.wait_for_more()
        source, target, *_ = cluster.primaries()
        others = [node for node in cluster.running if node is not source]
        # The target hangs, so that the migration is under way when the source is lost.
        target.pause()
        begin(cluster, source, target)
        assert state(source) not in ("success", "failed")
        source.kill()
        target.resume()
        wait_until(lambda: all(cluster.has_replaced(source, seen_by=node) for node in others), 30)
        load.wait_for_more()
        source.start()
        cluster.wait_until_healthy()
        load.wait_for_more()
    load.check()
    assert load.errors > 0, "the users have not noticed that anything happened"
