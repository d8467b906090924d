"""What a move asks of Redis beyond the store of sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from redis.cluster import RedisCluster

from ..connect.lines import Command
from ..engine.failures import FAILURES, failure, is_wrong_type, raise_failed, showable
from ..engine.protocol import Absent, Lifetime, Saved, adjusted_of, encoded
from ..engine.scripts import Status
from ..engine.store import Store
from ..engine.tokens import Token

__all__ = ["Foreign", "create_under", "read_foreign"]


class Foreign(NamedTuple):
    """What another library stored as a string.

    :ivar remaining_ms: life that is left, ms; -1 = no TTL.
    :ivar now_ms: time of the read, ms since the epoch, by Redis' clock.
    """

    value: bytes
    remaining_ms: int
    now_ms: int


def read_foreign(store: Store, key: str, locator: str) -> Foreign | None:
    """Read a string; ``None`` where there is none.

    :param locator: on Redis Cluster, the clock is that of its node.
    """
    name = encoded(key)
    reading: list[Command] = [("TIME",), ("GET", name), ("PTTL", name)]
    try:
        if isinstance(store.client, RedisCluster):
            cluster = cast("Any", store.client)
            node = cluster.get_node_from_key(store.key(locator))
            now = cluster.execute_command("TIME", target_nodes=node)
            value, remaining_ms = map(store.line.one, reading[1:])
        elif store.observer is None:
            now, value, remaining_ms = store.line.many(reading)
        else:
            line, names = store.line, ("time", "get", "pttl")
            replies = store.observer.note(names, lambda: line.many(reading), scripts=False)
            now, value, remaining_ms = replies
    except FAILURES as exc:
        raise failure("get", exc, store.client) from showable(exc)
    if isinstance(value, Exception):
        if is_wrong_type(value):
            return None
        raise failure("get", value, store.client) from showable(value)
    if value is None:
        return None
    seconds, microseconds = map(int, now)
    return Foreign(value, remaining_ms, seconds * 1000 + microseconds // 1000)


def create_under(
    store: Store,
    token: Token,
    fields: Mapping[bytes, bytes],
    lifetime: Lifetime,
    created_ms: int,
    not_after_ms: int,
    first_ms: int,
) -> tuple[Status, Saved | Absent]:
    """Create a session under a given token, then give it its life.

    :param not_after_ms: create nothing from that moment on, ms since the epoch;
        later than ``created_ms``.
    :param first_ms: life until the first load, ms; 0 = as any other.
    :returns: ``CREATED``, ``TAKEN`` (by another that did the same, too) or ``GONE``
        (too late); and what is there now, as :meth:`.Store.adjust`.
    """
    # An absolute timeout ends the call's own patience; it is not stored.
    patience_ms = not_after_ms - created_ms
    absolute_ms = min(patience_ms, store.absolute_ms or patience_ms)
    made, adjusted = store.together(
        [
            store.creation(token, fields, lifetime, created_ms, absolute_ms, first_ms),
            store.adjusting(token),
        ]
    )
    raise_failed(made, adjusted)
    taken = made[0] == Status.CREATED and len(made) > 4
    return Status.TAKEN if taken else Status(made[0]), adjusted_of(adjusted)
