"""A client of Redis Cluster that connects on first use, and gives up in time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AskError, MovedError, TimeoutError

from .addresses import Address
from .pools import NO_NOTIFICATIONS, PACKER, Pool, make_retry
from .tally import note_redirection

__all__ = ["LazyCluster", "NodePool", "longest_call", "make_cluster_client"]

# redis-py gives it no types.
_ClusterNode: Any = ClusterNode


def make_cluster_client(address: Address, options: dict[str, Any], retries: int) -> RedisCluster:
    connection_class = redis.SSLConnection if address.secure else redis.Connection
    pooling = {"max_connections", "timeout"}
    trial = {key: value for key, value in options.items() if key not in pooling}
    connection_class(**trial)  # does not connect: are the options good?
    return LazyCluster(address, options, retries)


def longest_call(reply: float, connect: float, retries: int) -> float:
    """Seconds after which a call begins nothing more."""
    return (retries + 1) * max(reply, connect)


class _Deadline(threading.local):
    """When the current call of this thread has to give up; ``None`` = never."""

    at: float | None = None

    def remaining(self) -> float:
        return math.inf if self.at is None else self.at - time.monotonic()


class LazyCluster(RedisCluster):
    """A cluster client that connects on first use, and gives up in time.

    redis-py's own connects when it is made, so that an application could not
    start without its Redis. And after a failure it asks one node after the
    other for the slots, in one thread after the other: where all nodes hang,
    that adds up.
    """

    def __init__(self, address: Address, options: Mapping[str, Any], retries: int) -> None:
        # Attributes that are not there are looked up in __getattr__: these are.
        self.__dict__.update(_address=address, _given=dict(options), _retries=retries)
        self.__dict__["_deadline"] = deadline = _Deadline()
        timeouts = (options["socket_timeout"], options["socket_connect_timeout"])
        self.__dict__["_patience"] = (
            None if None in timeouts else longest_call(*timeouts, retries=retries)
        )
        self.__dict__["_connecting"] = _TimedLock(deadline)

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The nodes that it was told of: host and port."""
        return cast("Address", self.__dict__["_address"]).hosts

    def __getattr__(self, name: str) -> Any:
        """Connect: redis-py's attributes are made by that."""
        if name.startswith("__") or "_connecting" not in self.__dict__:
            raise AttributeError(name)
        with self._connecting:
            if name not in self.__dict__ and not self._connecting.nested:
                self._connect()
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(name) from None

    def _connect(self) -> None:
        first, *others = self._address.hosts
        scheme = "rediss" if self._address.secure else "redis"
        host = f"[{first[0]}]" if ":" in first[0] else first[0]
        before = set(self.__dict__)
        try:
            # Of the ways to make one, only that with a URL takes a pool's class.
            super().__init__(
                url=f"{scheme}://{host}:{first[1]}",
                startup_nodes=[_ClusterNode(*other) for other in others],
                # It asks one node for the commands, and another one only if it may repeat that.
                retry=make_retry(max(1, self._retries)),
                # A shard that is lost must not take the others with it.
                require_full_coverage=False,
                connection_pool_class=partial(NodePool, self._deadline),
                maint_notifications_config=NO_NOTIFICATIONS,
                **self._given,
            )
            self.set_retry(make_retry(self._retries))
            # Threads that meet a failure together ask for the slots one after the other.
            cast("Any", self.nodes_manager)._initialization_lock = _TimedLock(self._deadline)
        except BaseException:
            for name in set(self.__dict__) - before:
                del self.__dict__[name]  # so that the next call connects
            raise

    def execute_command(self, *args: Any, **options: Any) -> Any:
        execute = cast("Any", super()).execute_command
        deadline = self._deadline
        if self._patience is None or deadline.at is not None:
            return execute(*args, **options)
        deadline.at = time.monotonic() + self._patience
        try:
            return execute(*args, **options)
        finally:
            deadline.at = None

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> Any:
        node = cast("Any", super()).get_node(host, port, node_name)
        if node is None and node_name:
            # The target of an ASK that owns no slot yet; redis-py fails for want of it.
            host, _, text_port = node_name.rpartition(":")
            node = _ClusterNode(host, int(text_port), "primary")
            self.nodes_manager.nodes_cache[node.name] = node
        return node

    def close(self) -> None:
        if "nodes_manager" in self.__dict__:
            super().close()


class _TimedLock:
    """A reentrant lock that is waited for no longer than the call has time."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._lock = threading.RLock()
        self._depth = 0

    @property
    def nested(self) -> bool:
        return self._depth > 1

    def __enter__(self) -> None:
        remaining = self._deadline.remaining()
        if not self._lock.acquire(timeout=-1 if remaining == math.inf else max(0.0, remaining)):
            raise TimeoutError("the cluster did not answer in time")
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()


class _Redirected:
    """A connection that notes when its node sends a call to another one."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return cast("Any", super()).read_response(*args, **options)
        except (AskError, MovedError):
            note_redirection()
            raise


class NodeConnection(_Redirected, redis.Connection):
    """A connection to a node."""


class NodeSSLConnection(_Redirected, redis.SSLConnection):
    """A connection to a node over TLS."""


NOTING: dict[Any, Any] = {
    redis.Connection: NodeConnection,
    redis.SSLConnection: NodeSSLConnection,
}


class NodePool(Pool):
    """Connections to one node.

    :param deadline: of the call that takes a connection.
    """

    def __init__(self, deadline: _Deadline, **options: Any) -> None:
        self._deadline = deadline
        kind: Any = options.get("connection_class", redis.Connection)
        super().__init__(
            command_packer=PACKER, **{**options, "connection_class": NOTING.get(kind, kind)}
        )

    def get_connection(self, *args: Any, **options: Any) -> Any:
        if self._deadline.remaining() <= 0:
            raise TimeoutError("the cluster did not answer in time")
        return super().get_connection(*args, **options)

    def patience(self) -> float:
        return min(super().patience(), self._deadline.remaining())
