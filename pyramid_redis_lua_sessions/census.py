"""All sessions at once, for operators and for bulk migration: found by SCAN, never touched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from redis.cluster import RedisCluster
from redis.exceptions import AskError, RedisError, TryAgainError

from .connect.lines import Command, line_to
from .engine.failures import FAILURES, failure, is_wrong_type, showable
from .engine.index import scan
from .engine.pieces import is_piece, joined
from .engine.protocol import Absent, encoded, texts
from .engine.store import BATCH, MARKER_MS, Store, batches

__all__ = ["SIMULATED", "Census", "Stored", "primaries"]


#: Begins the prefix, under that of the sessions, of those that ``simulate`` makes.
SIMULATED = "simulate:"


class Stored(NamedTuple):
    """A hash under the prefix, as it stands: a session, the marker of one, or something else.

    :ivar fields: those that were asked for and are there; values whole.
    :ivar length: number of all its fields, without pieces of values; 0 where they were not counted.
    :ivar ttl_ms: its TTL, ms; -1 = none.
    :ivar size: bytes that it takes in memory, with its name.
    :ivar now_ms: Redis' clock, ms since the epoch.
    :ivar raw: the fields with the pieces of values, as they are stored.
    """

    fields: Mapping[bytes, bytes]
    length: int
    ttl_ms: int
    size: int
    now_ms: int
    raw: Mapping[bytes, bytes]


class Census(Store):
    """The store of sessions, seen as a whole."""

    def scan_foreign(self, match: str = "*") -> Iterator[tuple[int, list[bytes]]]:
        """Iterate over all keys that hold strings.

        :param match: glob-style pattern.
        :returns: about how much of the work that was, 0 to 1000 in all; keys.
        """
        return self._scan(encoded(match), "string")

    def scan_sessions(self) -> Iterator[tuple[int, list[str]]]:
        """Iterate over the hashes under the prefix, each once: see :class:`Stored`.

        Those of a simulation are left out: they are no sessions of users.

        :returns: as :meth:`scan_foreign`, with session ids.
        """
        seen: set[int] = set()  # SCAN may return a key twice; a set of ids would be large
        for steps, keys in self._scan(_literal(self._prefix) + b"*", "hash"):
            fresh = [key for key in dict.fromkeys(keys) if hash(key) not in seen]
            seen.update(map(hash, fresh))
            ids = texts(key[len(self._prefix) :] for key in fresh)
            yield steps, [name for name in ids if not name.startswith(SIMULATED)]

    def scan_indexes(self) -> Iterator[tuple[int, list[bytes]]]:
        """Iterate over the keys of the indexes, as :meth:`scan_foreign`."""
        for steps, keys in self._scan(_literal(self._prefix) + b"*", "zset"):
            named = [key[len(self._prefix) :].startswith((b"owner:", b"index:")) for key in keys]
            yield steps, [key for key, is_index in zip(keys, named, strict=True) if is_index]

    def sweep(self, index_key: bytes) -> tuple[int, int]:
        """Remove what is gone from an index.

        A younger entry than a minute may belong to a login that is under way.

        :returns: how many ids were removed; how many are left.
        """
        before = self.command("ZCARD", index_key) or 0
        limit_us = (self.now_ms(index_key) - MARKER_MS) * 1000
        removed = 0
        for found in scan(self, index_key):
            names = texts(name for name, score in found or () if score < limit_us)
            looked = zip(names, self.describe(names), strict=True)
            gone = [n for n, known in looked if isinstance(known, Absent) and known.status == 0]
            if gone:
                removed += self.command("ZREM", index_key, *map(encoded, gone)) or 0
        return removed, before - removed

    def now_ms(self, key: bytes) -> int:
        """Return the clock of a key's node, ms since the epoch."""
        try:
            ((client, _),) = self._by_node([key])
            now = client.execute_command("TIME")
        except FAILURES as exc:
            raise failure("time", exc, self.client) from showable(exc)
        return cast("int", now[0] * 1000 + now[1] // 1000)

    def look(
        self, session_ids: Iterable[str], *fields: bytes, counted: bool = True
    ) -> dict[str, Stored]:
        """Read hashes as they stand, without touching them.

        :param fields: those to read; none: all.
        :param counted: also count the fields; else ``length`` is 0.
        :returns: those that are there.
        """
        found = {}
        names = {self.key(session_id): session_id for session_id in session_ids}
        try:
            for client, keys in self._by_node(names):
                line = line_to(client)
                for some in batches(keys):
                    reading: list[Command] = [("TIME",)]
                    for key in some:
                        reading += _looking(key, fields, counted)
                    now, *replies = line.many(reading)
                    if isinstance(now, RedisError):
                        raise now
                    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
                    each = len(replies) // len(some)
                    for number, key in enumerate(some):
                        read = replies[each * number : each * number + each]
                        stored = self._stored(key, fields, counted, read, now_ms)
                        if stored is not None:
                            found[names[key]] = stored
        except FAILURES as exc:
            raise failure("look", exc, self.client) from showable(exc)
        return found

    def _stored(
        self, key: bytes, fields: Sequence[bytes], counted: bool, read: list[Any], now_ms: int
    ) -> Stored | None:
        """Return what was read of a hash; ``None``: none is there.

        :param read: the replies to what :func:`_looking` asks.
        """
        failed = [reply for reply in read if isinstance(reply, RedisError)]
        if any(isinstance(error, (AskError, TryAgainError)) for error in failed):
            # Its slot is on the move: the client of the cluster follows it.
            line = line_to(self.client)
            read = [line.one(command) for command in _looking(key, fields, counted)]
        elif failed:
            if is_wrong_type(failed[0]):
                return None
            raise failed[0]
        values, ttl_ms, size, *names = read
        if not size:
            return None
        if fields:
            values = {
                f: value for f, value in zip(fields, values, strict=True) if value is not None
            }
        elif not isinstance(values, dict):  # redis-py has made one, in some protocols
            pairs = iter(values)
            values = dict(zip(pairs, pairs, strict=True))
        length = sum(not is_piece(name) for name in names[0]) if names else 0
        return Stored(joined(values), length, ttl_ms, size, now_ms, values)

    def _by_node(self, keys: Iterable[bytes]) -> list[tuple[Any, list[bytes]]]:
        """Return the client of each node that has some of the keys, and those."""
        if not isinstance(self.client, RedisCluster):
            return [(self.client, list(keys))]
        cluster = cast("Any", self.client)
        held: dict[Any, list[bytes]] = {}
        for key in keys:
            held.setdefault(cluster.get_node_from_key(key), []).append(key)
        return [(cluster.get_redis_connection(node), some) for node, some in held.items()]

    def _scan(self, match: bytes, kind: str) -> Iterator[tuple[int, list[bytes]]]:
        """Iterate over all keys of a type, as :meth:`scan_foreign`."""
        args = ("MATCH", match, "COUNT", b"%d" % BATCH, "TYPE", kind)
        done = 0
        try:
            clients = primaries(self.client)
            sizes = [client.execute_command("DBSIZE") for client in clients]
            total = max(1, sum(sizes))
            for number, client in enumerate(clients):
                cursor = seen = 0
                while True:
                    cursor, keys = client.execute_command(
                        "SCAN", b"%d" % cursor, *args, NEVER_DECODE=True
                    )
                    seen = min(seen + BATCH, sizes[number]) if cursor else sizes[number]
                    now_done = 1000 * (sum(sizes[:number]) + seen) // total
                    yield now_done - done, keys
                    done = now_done
                    if not cursor:
                        break
        except FAILURES as exc:
            raise failure("scan", exc, self.client) from showable(exc)


def primaries(client: Any) -> list[Any]:
    """Return a client of each primary; of one server, of that.

    :param client: ``Redis`` or ``RedisCluster``.
    """
    if not isinstance(client, RedisCluster):
        return [client]
    cluster = cast("Any", client)
    return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]


def _literal(name: bytes) -> bytes:
    """Return the glob-style pattern that matches exactly a name."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", name)


def _looking(key: bytes, fields: Sequence[bytes], counted: bool) -> list[Command]:
    """Return the commands with which :meth:`Census.look` reads a hash."""
    read: Command = ("HMGET", key, *fields) if fields else ("HGETALL", key)
    reading = [read, ("PTTL", key), ("MEMORY", "USAGE", key)]
    return [*reading, ("HKEYS", key)] if counted else reading
