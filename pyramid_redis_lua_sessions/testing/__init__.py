"""For tests of applications: a session without Redis, real Redis servers, and a counting proxy.

Nothing here is imported by the engine. :class:`DummySession` is for unit tests of a view, with
Pyramid's ``DummyRequest``. Functional tests take a real server::

    with RedisServer() as server, CountingProxy(server.port) as proxy:
        client = redis.Redis.from_url(proxy.url)
        client.ping()  # connects: the client library's handshake goes first
        proxy.reset()
        client.get("key")
        assert proxy.round_trips == 1
        assert proxy.command_names == ["GET"]

A :class:`RedisServer` is always a private one, on a free port of the loopback interface; a
server that already runs on the machine is never used.
"""

from __future__ import annotations

from .dummy import DummySession
from .proxy import Command, CountingProxy
from .servers import (
    RedisServer,
    RedisServerError,
    embedded_redis_server,
    find_redis_server,
    find_redis_servers,
)

__all__ = [
    "Command",
    "CountingProxy",
    "DummySession",
    "RedisServer",
    "RedisServerError",
    "embedded_redis_server",
    "find_redis_server",
    "find_redis_servers",
]
