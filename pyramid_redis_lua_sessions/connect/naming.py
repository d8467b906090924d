"""Which Redis a client was to reach, and why it did not: for messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ConnectionError, TimeoutError

from .cluster import LazyCluster
from .sentinels import PrimaryPool

__all__ = ["reason_of", "where_is"]


def where_is(client: Any, exc: Exception) -> str:
    """Name the Redis that a client was to reach; empty where it does not tell."""
    node: Any = getattr(exc, "connection", None)  # redis-py's cluster client notes it
    if getattr(node, "host", None):
        return f"{node.host}:{node.port}"
    if isinstance(client, LazyCluster):
        return _hosts(client.hosts)
    pool = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", {})
    if isinstance(pool, PrimaryPool):
        where = _hosts([pool.master_address]) if pool.master_address else ""
        if not where:
            sentinels = [one.connection_pool for one in pool.sentinel_manager.sentinels]
            hosts = [
                (one.connection_kwargs["host"], one.connection_kwargs["port"]) for one in sentinels
            ]
            where = f"{pool.service_name} of the sentinels {_hosts(hosts)}"
    elif "path" in options:
        where = str(options["path"])
    else:
        where = _hosts([(options["host"], options.get("port"))]) if "host" in options else ""
    return f"{where}, db {options['db']}" if where and options.get("db") else where


def _hosts(hosts: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in hosts)


def reason_of(exc: Exception) -> str:
    """Say what happened: what the system said, if it said something, or redis-py."""
    kind = type(exc).__name__
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{kind}: errno {cause.errno}, {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    # Of other kinds the text may be Redis' own.
    return f"{kind}: {exc}" if type(exc) in (ConnectionError, TimeoutError) else kind
