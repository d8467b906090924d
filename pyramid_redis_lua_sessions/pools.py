"""Connections to one server, and how often a call over them is repeated."""

from __future__ import annotations

from queue import Empty, Full, LifoQueue
from typing import Any, cast

import hiredis
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import MaxConnectionsError, RedisError
from redis.retry import Retry

__all__ = ["LONGEST_BACKOFF", "PACKER", "Pool", "Turns", "make_retry"]

_metrics: Any = None
try:
    from redis.observability.providers import get_observability_instance as _metrics
except ImportError:
    pass  # an older redis-py, which has no metrics

#: Seconds between two tries at most.
LONGEST_BACKOFF = 0.5


def make_retry(retries: int) -> Retry:
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=LONGEST_BACKOFF), retries)


class ScriptPacker(HiredisRespSerializer):
    """Packs commands for connections; those of scripts without a look at each argument."""

    def pack(self, *args: Any) -> list[bytes]:
        if args[0] == "EVALSHA":  # one word, and none of its arguments is a memoryview
            return [hiredis.pack_command(args)]
        return cast("list[bytes]", cast("Any", super()).pack(*args))


#: What connections to one server take as ``command_packer``.
PACKER = ScriptPacker()


class Turns(LifoQueue[Any]):
    """The connections of a pool. Who waits for one in vain learns why.

    Nobody waits to give one back, so what does not wait is done without the
    ceremony of a queue with two ends.
    """

    def get_nowait(self) -> Any:
        with self.mutex:
            if self.queue:
                return self.queue.pop()
        raise MaxConnectionsError("no connection is free")

    def put_nowait(self, item: Any) -> None:
        with self.mutex:
            if 0 < self.maxsize <= len(self.queue):
                raise Full
            self.queue.append(item)
            self.not_empty.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return super().get(block, timeout)
        except Empty:
            # Not Empty, for which redis-py raises the error of a lost connection.
            raise MaxConnectionsError("no connection became free in time") from None


class Pool(redis.BlockingConnectionPool):
    """Connections to one server; who finds all in use waits.

    When a server is lost, redis-py disconnects the connections of its pool that
    are free, one by one, whatever becomes of them meanwhile: a thread that has
    just taken one would meet a TypeError. Here none is taken before all are done.

    A connection that is free and ready is handed out the short way. redis-py's
    own way notes every step for its metrics, also where nobody collects them;
    it is taken where somebody does, and for a connection that has to be made,
    or mended, or waited for.
    """

    def get_connection(self, *args: Any, **options: Any) -> Any:
        pool = cast("Any", self)
        if _short_way(pool):
            pool._checkpid()
            try:
                connection = pool.pool.get_nowait()
            except MaxConnectionsError:
                pass
            else:
                if _is_ready(connection):
                    return connection
                pool.pool.put_nowait(connection)
        return cast("Any", super()).get_connection(*args, **options)

    def release(self, connection: Any) -> None:
        pool = cast("Any", self)
        ready = pool.owns_connection(connection) and not connection.should_reconnect()
        if ready and _short_way(pool):
            pool._checkpid()
            pool.pool.put_nowait(connection)
        else:
            cast("Any", super()).release(connection)

    def disconnect_free_connections(self, *args: Any, **options: Any) -> None:
        self._checkpid()  # else this process may own neither the queue nor its lock
        with self._lock, self.pool.mutex:
            cast("Any", super()).disconnect_free_connections(*args, **options)

    def disconnect(self, inuse_connections: bool = True) -> None:
        self._checkpid()
        with self._lock, self.pool.mutex:
            super().disconnect(inuse_connections)


def _short_way(pool: Any) -> bool:
    if getattr(pool, "_in_maintenance", False):
        return False
    return _metrics is None or _metrics().get_provider_manager() is None


def _is_ready(connection: Any) -> bool:
    """Whether a connection can be used as it is: it is connected, and nothing is unread."""
    if getattr(connection, "_sock", None) is None:
        return False
    try:
        return not connection.can_read()
    except (RedisError, OSError):
        return False
