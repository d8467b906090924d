"""How much memory a session takes in Redis."""

from __future__ import annotations

from typing import Any

from pyramid_redis_lua_sessions.testing import RedisServer

from .contenders import Contender, libraries
from .contents import of_size, typical, with_long_values
from .driving import make_lanes
from .scenarios import FIRST_TOKEN, FIRST_WRITE, WRITE, Scenario

__all__ = ["DEFAULT", "RECOMMENDED", "measure_listpack_values", "measure_memory"]

#: Redis' own ``hash-max-listpack-value``, and the one that we recommend, bytes.
DEFAULT, RECOMMENDED = 64, 512

#: Its older name, which Redis 6.2 knows and newer ones take, too.
SETTING = "hash-max-ziplist-value"

#: Contents, the request that stores them, and how many requests then write one key. A CSRF token
#: is the library's own.
SHAPES: dict[str, tuple[dict[str, Any], Scenario, int]] = {
    "CSRF token only": ({}, FIRST_TOKEN, 0),
    "typical": (typical(), FIRST_WRITE, 0),
    "typical, written 6 times in a row": (typical(), FIRST_WRITE, 6),
    "values over 64 bytes": (with_long_values(), FIRST_WRITE, 0),
}

#: So many are written in a row within seconds.
MOST_WRITTEN = 512

#: Before the tables are as large as what they hold, their growth would count as a session's.
WARM_UP_SESSIONS = 16


def measure_memory(server: RedisServer, sessions: int) -> list[dict[str, Any]]:
    """Measure the typical shapes of session, with each library.

    :param sessions: how many are stored; best a power of two, as Redis' tables are, so that
        these are full.
    :returns: ``shape``, ``limit`` (``hash-max-listpack-value``), ``contender``, ``bytes`` per
        session, ``encoding`` of its key.
    """
    return [
        {"shape": shape, "limit": limit, **_measure(server, contender, *stored, limit, sessions)}
        for shape, stored in SHAPES.items()
        for limit in (DEFAULT, RECOMMENDED)
        for contender in libraries()
    ]


def measure_listpack_values(
    server: RedisServer, limits: tuple[int, ...], sizes: tuple[int, ...], sessions: int
) -> list[dict[str, Any]]:
    """Measure this engine's sessions by size and by ``hash-max-listpack-value``."""
    shapes = {
        **SHAPES,
        **{f"{size / 1000:g} KB": (of_size(size), FIRST_WRITE, 0) for size in sizes},
    }
    ours = libraries()[-1]
    return [
        {"shape": shape, "limit": limit, **_measure(server, ours, *stored, limit, sessions)}
        for shape, stored in shapes.items()
        for limit in limits
    ]


def _measure(
    server: RedisServer,
    contender: Contender,
    contents: dict[str, Any],
    scenario: Scenario,
    writes: int,
    limit: int,
    sessions: int,
) -> dict[str, Any]:
    (lane,) = make_lanes(contender, server.url, contents, (scenario,), 0)
    if writes:
        sessions = min(sessions, MOST_WRITTEN)
    with server.client() as client:
        client.config_set(SETTING, limit)
        lane.run(WARM_UP_SESSIONS)
        if writes:
            # A script that Redis does not know yet would count as a session's.
            make_lanes(contender, server.url, contents, (WRITE,), 1)[0].run(1)
        client.flushall()
        before = _used(server)
        if writes:
            (writer,) = make_lanes(contender, server.url, contents, (WRITE,), sessions)
            writer.run(writes * sessions)
        else:
            lane.run(sessions)
        found = {
            "contender": contender.name,
            "bytes": (_used(server) - before) / sessions,
            "encoding": client.object("encoding", client.randomkey()).decode("ascii"),
        }
        client.flushall()
        client.config_set(SETTING, DEFAULT)
    return found


def _used(server: RedisServer) -> int:
    # The buffers of connections grow and shrink. So this one is new, and all others are closed;
    # the applications reconnect.
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
        info: Any = client.info("memory")
    used: int = info["used_memory"]
    return used
