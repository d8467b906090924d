"""From settings to a redis-py client."""

from __future__ import annotations

from typing import Any, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from .settings import Settings, SettingsError

__all__ = ["client_options", "make_client"]


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


def make_client(settings: Settings) -> redis.Redis:
    """Make the client of one factory. It connects on first use.

    Its pool is bounded, and a request waits for a connection rather than
    failing at once. A call is repeated once after a lost connection: every
    script has the effect of one call when it is sent twice.

    :raises SettingsError: the URL is malformed.
    """
    if settings.redis_connection_pool is not None:
        return redis.Redis(connection_pool=settings.redis_connection_pool)
    options: dict[str, Any] = {
        "socket_timeout": settings.redis_socket_timeout,
        "socket_connect_timeout": settings.redis_socket_connect_timeout,
        # redis-py's own default of many retries holds a page for a minute.
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 1),
        "max_connections": settings.redis_max_connections,
        "timeout": settings.redis_socket_timeout,
    }
    for name in ("encoding", "encoding_errors"):
        value = getattr(settings, f"redis_{name}")
        if value is not None:
            options[name] = value
    if settings.redis_url is not None:
        try:
            pool = redis.BlockingConnectionPool.from_url(settings.redis_url, **options)
        except (ValueError, TypeError):
            # redis-py's own message may quote a part of the password.
            raise SettingsError(
                "redis.sessions.url is no Redis URL: expected redis://user:password@host:port/db, "
                "rediss://... or unix:///path?db=0, with special characters percent-encoded"
            ) from None
        return redis.Redis(connection_pool=pool)
    options["db"] = settings.redis_db
    options["password"] = settings.redis_password
    if settings.redis_unix_socket_path is not None:
        options["path"] = settings.redis_unix_socket_path
        options["connection_class"] = redis.UnixDomainSocketConnection
    else:
        options["host"] = settings.redis_host
        options["port"] = settings.redis_port
    return redis.Redis(connection_pool=cast("Any", redis.BlockingConnectionPool)(**options))
