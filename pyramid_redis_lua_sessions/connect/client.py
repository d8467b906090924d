"""From settings to a redis-py client: one server, Sentinel or Redis Cluster.

Everything travels through redis-py's own classes. What is derived from them,
here and in the modules beneath, bounds how long a call may take, and mends what
would cost a call in a failover.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import redis
from redis.exceptions import RedisError

from ..settings import Settings, SettingsError
from .addresses import OPTIONS, Address, parse_url
from .cluster import longest_call, make_cluster_client
from .pools import LONGEST_BACKOFF, NO_SETINFO, PACKER, PROTOCOL, Pool, make_retry
from .sentinels import SENTINEL_TIMEOUT, make_primary_client

__all__ = ["client_at", "client_options", "longest_repeat", "make_client"]


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the options that ``redis_client_callable`` is called with.

    The names are those of ``redis.Redis``, and the set is the one that both
    predecessors document.
    """
    options: dict[str, Any] = {
        "host": settings.redis_host,
        "port": settings.redis_port,
        "db": settings.redis_db,
        "password": settings.redis_password,
        "socket_timeout": settings.redis_socket_timeout,
        "connection_pool": settings.redis_connection_pool,
        "unix_socket_path": settings.redis_unix_socket_path,
    }
    if settings.redis_encoding is not None:
        options["encoding"] = settings.redis_encoding
    if settings.redis_encoding_errors is not None:
        options["encoding_errors"] = settings.redis_encoding_errors
    return options


def make_client(settings: Settings, retries: int | None = None) -> Any:
    """Make the client of one factory: ``Redis`` or ``RedisCluster``. It connects on first use.

    Its pool is bounded, and a request waits for a connection rather than
    failing at once. A call is repeated after a lost connection: every script
    has the effect of one call when it is sent twice.

    :param retries: how often it is, in place of the setting.
    :raises SettingsError: the URL is malformed.
    """
    if settings.redis_connection_pool is not None:
        return redis.Redis(connection_pool=settings.redis_connection_pool)
    if settings.redis_max_connections < 1:
        raise SettingsError("redis.sessions.redis_max_connections = 0 should be 1 or more")
    options: dict[str, Any] = {
        "socket_timeout": settings.redis_socket_timeout,
        "socket_connect_timeout": settings.redis_socket_connect_timeout,
        "max_connections": settings.redis_max_connections,
        "timeout": settings.redis_socket_timeout,
    }
    for name in ("encoding", "encoding_errors"):
        value = getattr(settings, f"redis_{name}")
        if value is not None:
            try:
                options[name] = OPTIONS[name](value)
            except ValueError as exc:
                message = f"redis.sessions.redis_{name} = {value} should be {exc}"
                raise SettingsError(message) from None
    if settings.redis_url is not None:
        address = parse_url(settings.redis_url, "redis.sessions.url")
    else:
        hosts = [(settings.redis_host, settings.redis_port)]
        credentials = {"db": settings.redis_db, "password": settings.redis_password}
        address = Address("redis", False, hosts, credentials, settings.redis_unix_socket_path)
    return client_at(address, options, settings.redis_retries if retries is None else retries)


def longest_repeat(settings: Settings) -> float:
    """How long after a call was sent the client may send it again, seconds.

    The connection for it is tried as often as the call. A server that answers each
    line of its greeting at the last moment can take longer; that is left out.

    :returns: infinity where only the application knows, or without timeouts.
    """
    if settings.redis_client_callable is not None or settings.redis_connection_pool is not None:
        return math.inf
    given: Mapping[str, Any] = {}
    asking = 0.0
    is_cluster = False
    if settings.redis_url is not None:
        address = parse_url(settings.redis_url, "redis.sessions.url")
        given = address.options
        is_cluster = address.kind == "cluster"
        if address.kind == "sentinel":
            asking = SENTINEL_TIMEOUT * len(address.hosts)
    reply = given.get("socket_timeout", settings.redis_socket_timeout)
    connect = given.get("socket_connect_timeout", settings.redis_socket_connect_timeout)
    if None in (reply, connect):
        return math.inf
    retries = settings.redis_retries
    connecting = (retries + 1) * (asking + connect + LONGEST_BACKOFF)
    if not retries:
        return 0.0
    if is_cluster:
        # It waits for a connection anew before each try, until this has passed.
        return float(longest_call(reply, connect, retries) + connecting)
    return float(retries * (reply + connecting))


def client_at(address: Address, defaults: Mapping[str, Any], retries: int) -> Any:
    """Make the client of an address.

    :param defaults: options, where the address has none of its own.
    :param retries: how often a call is repeated after a lost connection.
    :raises SettingsError: redis-py does not take the options.
    """
    options = {**NO_SETINFO, "protocol": PROTOCOL, **defaults, **address.options}
    try:
        if address.kind == "cluster":
            return make_cluster_client(address, options, retries)
        # redis-py's own default of many retries holds a page for a minute.
        options["retry"] = make_retry(retries)
        if address.kind == "sentinel":
            return make_primary_client(address, options)
        return _single(address, options)
    except (TypeError, ValueError, RedisError, OSError) as exc:
        # The message may quote a value.
        raise SettingsError(
            f"redis-py refuses the options of its connection ({type(exc).__name__})"
        ) from None


def _single(address: Address, options: dict[str, Any]) -> redis.Redis:
    if address.path is not None:
        options.update(path=address.path, connection_class=redis.UnixDomainSocketConnection)
    else:
        ((options["host"], options["port"]),) = address.hosts
        options["connection_class"] = redis.SSLConnection if address.secure else redis.Connection
    pool = cast("Any", Pool)(command_packer=PACKER, **options)
    pool.connection_class(**pool.connection_kwargs)  # does not connect: are the options good?
    return redis.Redis.from_pool(pool)
