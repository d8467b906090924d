"""A Redis Cluster of three primaries and three replicas."""

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.topology import Cluster


@pytest.fixture(scope="module")
def cluster(redis_binary: str) -> Iterator[Cluster]:
    """A cluster of this module's tests. They leave it healthy."""
    with Cluster(redis_binary) as cluster:
        yield cluster


@pytest.fixture
def cluster_url(cluster: Cluster) -> str:
    return cluster.url


@pytest.fixture
def cluster_client(cluster: Cluster) -> Iterator[redis.RedisCluster]:
    """redis-py's own client of the cluster, whose data were just removed."""
    with cluster.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def confirm(
    cluster: Cluster, cluster_client: redis.RedisCluster
) -> Iterator[Callable[[str], bool]]:
    """``(key) -> bool``: whether a replica has what its primary has acknowledged for the key.

    It was written to the primary before the mark was, and a replica applies writes in their
    order; so who has acknowledged the mark has that too.
    """
    asking = cluster.client(socket_timeout=0.5, socket_connect_timeout=0.5)

    def confirm(key: str) -> bool:
        node = asking.get_node_from_key(key)
        try:
            with asking.get_redis_connection(node).client() as single:
                single.set(f"{{{key}}}mark", "1", px=60_000)
                return int(single.wait(1, 200)) >= 1
        except redis.RedisError:
            asking.nodes_manager.initialize(last_failed_node_name=node.name)
            return False

    yield confirm
    asking.close()
