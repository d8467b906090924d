"""Nodes that die or hang while users are at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.errors import StoreUnavailable
from tests.support.browser import make_browser
from tests.support.load import Load
from tests.support.topology import Cluster
from tests.support.waiting import wait_until

TIMEOUT = 0.5

#: What the documentation promises: (1 + retries) x the longer timeout, and the last step. A
#: request makes two calls at most when the first one fails; a busy machine may need a second.
CALL = 2 * TIMEOUT + 2 * TIMEOUT
BOUND = 2 * CALL + 1

TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_nothing_that_was_replicated_is_lost_when_a_primary_goes(
    cluster: Cluster,
    cluster_client: redis.RedisCluster,
    confirm: Callable[[str], bool],
    how: str,
) -> None:
    """What the replica has confirmed is exactly what Redis itself does not lose."""
    with Load(cluster.url, confirm, **TIMEOUTS) as load:
        load.wait_for_more()
        lost = cluster.primaries()[0]
        others = [node for node in cluster.running if node is not lost]
        getattr(lost, how)()

        # Whoever comes back too early is the primary still, and empty after a kill.
        wait_until(lambda: all(cluster.has_replaced(lost, seen_by=node) for node in others), 15)
        # Without a restart, and while the old primary is still away.
        load.wait_for_more()
        if how == "kill":
            lost.start()
        else:
            lost.resume()
        cluster.wait_until_healthy()
        load.wait_for_more()
    load.check()
    assert load.errors > 0, "the users have not noticed that anything happened"
    assert load.slowest < BOUND


def test_no_request_hangs_when_all_nodes_do(
    cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    """redis-py asks one node after the other for the slots, in one thread after the other."""
    first = make_browser(cluster.url, **TIMEOUTS)
    users = [first.another() for _ in range(12)]
    for user in users:
        user.use(lambda session: session.__setitem__("name", "value"))
    took: list[float] = []
    outcomes: list[Any] = []

    def request(user: Any) -> None:
        start = time.monotonic()
        try:
            user.use(dict, status="*")
            outcomes.append(user.response.status_int)
        except StoreUnavailable:
            outcomes.append(503)
        took.append(time.monotonic() - start)

    for node in cluster.nodes:
        node.pause()
    try:
        threads = [threading.Thread(target=request, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        for node in cluster.nodes:
            node.resume()
    assert len(took) == len(users)
    assert min(outcomes) >= 500
    assert max(took) < CALL + 1
    cluster.wait_until_healthy()
    assert all(user.use(dict) == {"name": "value"} for user in users)


def test_application_starts_and_recovers_when_the_cluster_was_down(
    cluster: Cluster, cluster_client: redis.RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    for node in cluster.nodes:
        node.pause()
    try:
        browser = make_browser(cluster.url, **TIMEOUTS)
        assert "could not be loaded at start" in caplog.text
    finally:
        for node in cluster.nodes:
            node.resume()
    cluster.wait_until_healthy()
    browser.use(lambda session: session.__setitem__("name", "value"))
    assert browser.use(dict) == {"name": "value"}
