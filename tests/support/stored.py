"""The field by which a hash is a session, as tests read and change it past the engine."""

from __future__ import annotations

from typing import Any

from pyramid_redis_lua_sessions.engine.tokens import (
    DIGEST_SIZE,
    TOKEN_FIELD,
    as_stored,
    moments,
)

__all__ = ["A_SESSION", "TOKEN", "digest_in", "grow_older", "set_start", "start_of"]

TOKEN = TOKEN_FIELD.decode("ascii")

#: What makes any hash a session of nobody.
A_SESSION = as_stored(b"of nobody at all", 1_700_000_000_000, 1_700_000_000_000)


def digest_in(fields: dict[bytes, bytes]) -> bytes:
    return fields.get(TOKEN_FIELD, b"")[:DIGEST_SIZE]


def start_of(client: Any, key: str) -> int:
    """When the life of a session began, ms since the epoch."""
    start_ms, _ = moments(client.hget(key, TOKEN))
    assert start_ms is not None
    return start_ms


def set_start(client: Any, key: str, start_ms: int) -> None:
    """Let the life of a session have begun at another time."""
    field = client.hget(key, TOKEN)
    _, placed_ms = moments(field)
    assert placed_ms is not None
    client.hset(key, TOKEN, as_stored(field[:DIGEST_SIZE], start_ms, placed_ms) + _mark(field))


def grow_older(client: Any, key: str, ms: int) -> None:
    """Let a session's life have begun, and its token stand, for so much longer."""
    field = client.hget(key, TOKEN)
    start_ms, placed_ms = moments(field)
    assert start_ms is not None
    assert placed_ms is not None
    older = start_ms - ms, placed_ms - ms
    client.hset(key, TOKEN, as_stored(field[:DIGEST_SIZE], *older) + _mark(field))


def _mark(field: bytes) -> bytes:
    return field[len(field) - len(field) % 2 :]
