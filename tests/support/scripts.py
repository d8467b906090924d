"""Calls the package's Lua scripts by name, with named arguments, on a Redis client."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import redis

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS, Status
from pyramid_redis_lua_sessions.engine.store import LONGEST_MS

Fields = Mapping[bytes, bytes]

NOTHING: Mapping[bytes, Any] = MappingProxyType({})

#: Digest of the verifier that every call has unless it is given another one.
OURS = b"digest of a user"
#: That of somebody else: an intruder, or who had the session before its token was replaced.
THEIRS = b"digest of others"


def digest(value: bytes) -> str:
    """The check of a field that must still hold ``value``."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def names_digest(fields: Iterable[bytes]) -> str:
    """The digest of a set of field names: their number, and the sum of 48 bits of their SHA1."""
    names = [name for name in fields if name[:1] in (b".", b"#", b"~")]
    total = sum(int(digest(name)[:12], 16) for name in names) % 2**48
    return f"{len(names)}:{total}"


def marks(*fields: bytes) -> str:
    """The fields that a save reads or writes, as staged saves are compared by."""
    return "".join(digest(field)[:8] for field in fields)


def pairs(values: Mapping[Any, Any]) -> list[Any]:
    """``{a: b}`` as ``[a, b]``."""
    return [item for pair in values.items() for item in pair]


class Scripts:
    """One script a method. A reply is a list whose first element is a :class:`Status`.

    Calls have names, which stand for ids: see :func:`call_id`.

    :param client: a client of a real server.
    :param beside: loads read the fields by an HGETALL of their own, in the same packet.
    """

    def __init__(self, client: redis.Redis, beside: bool = False) -> None:
        self.client = client
        self._beside = beside
        self._ids = itertools.count()

    def call(self, name: str, key: str, *args: Any) -> list[Any]:
        return _reply(self.client.eval(SCRIPTS[name].source, 1, key, *args))

    def load(
        self,
        key: str = "s",
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        trigger: int | str = "",
        absolute: int = 0,
        use_ttl: bool = True,
        asks: bool = False,
    ) -> list[Any]:
        """The fields of a LOADED or CLOCKED reply are a dict."""
        more: list[Any] = [trigger, absolute, _flag(use_ttl) + "+" * asks]
        if 0 < timeout <= LONGEST_MS and use_ttl and not (absolute or asks):
            more = [trigger] if trigger != "" else []  # as the store sends it
        if not self._beside:
            reply = self.call("load_and_touch", key, digest, timeout, "", *more)
            if reply[0] in (Status.LOADED, Status.CLOCKED):
                reply[-1] = _dict(reply[-1])
            return reply
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(key)
            pipeline.eval(SCRIPTS["load_and_touch"].source, 1, key, digest, timeout, "1", *more)
            fields, reply = pipeline.execute()
        reply = [Status.LOADED, timeout] if reply == Status.LOADED else _reply(reply)
        if reply[0] in (Status.LOADED, Status.CLOCKED):
            assert len(reply) == {Status.LOADED: 2, Status.CLOCKED: 4}[reply[0]]
            reply.append(fields)
        return reply

    def peek(
        self,
        key: str = "s",
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        absolute: int = 0,
    ) -> list[Any]:
        """As :meth:`load`, but nothing is touched."""
        reply = self.call("peek_session", key, digest, timeout, absolute)
        if reply[0] is Status.CLOCKED:
            reply[4] = _dict(reply[4])
        return reply

    def create(
        self,
        key: str = "s",
        fields: Fields = NOTHING,
        *,
        digest: bytes = OURS,
        created: int | str = "",
        timeout: int = 60_000,
        adjusted: bool = False,
        deadline: int | str = "",
        absolute: int = 0,
        first: int = 0,
        use_ttl: bool = True,
        clocked: bool = False,
    ) -> list[Any]:
        return self.call(
            "create_unique",
            key,
            digest,
            created,
            timeout,
            "1" if adjusted else "",
            deadline,
            absolute,
            first,
            _flag(use_ttl),
            "+" if clocked else "",
            *pairs(fields),
        )

    def save(
        self,
        key: str = "s",
        sets: Fields = NOTHING,
        deletes: Iterable[bytes] = (),
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        absolute: int = 0,
        use_ttl: bool = True,
        save_id: str | bytes = b"",
        remember: int = 10,
        new_timeout: int | str = "",
        new_deadline: int | str = "",
        clocked: bool = False,
        end_if_empty: int = 0,
        stage_id: str = "",
        reads: str = "",
        writes: str = "",
        names: str = "",
        message: bytes = b"",
        checks: Mapping[bytes, str] = NOTHING,
    ) -> list[Any]:
        """Without a ``save_id`` every call has one of its own.

        :param reads: :func:`marks`, or ``*``; ``writes`` the same.
        """
        deletes = list(deletes)
        return self.call(
            "save_if_changed",
            key,
            digest,
            timeout,
            absolute,
            _flag(use_ttl),
            self._id(save_id),
            remember,
            new_timeout,
            new_deadline,
            "+" if clocked else "",
            end_if_empty,
            stage_id,
            reads,
            writes,
            names,
            len(checks),
            len(deletes),
            message,
            *pairs(checks),
            *deletes,
            *pairs(sets),
        )

    def renew(
        self,
        key: str = "s",
        sets: Fields = NOTHING,
        deletes: Iterable[bytes] = (),
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        absolute: int = 0,
        use_ttl: bool = True,
        save_id: str | bytes = b"",
        remember: int = 10,
        new_timeout: int | str = "",
        new_deadline: int | str = "",
        new_digest: bytes = THEIRS,
        loaded_saves: bytes = b"",
        restart: bool = False,
        clocked: bool = False,
        stage_id: str = "",
        retry: bool = False,
        message: bytes = b"",
    ) -> list[Any]:
        """Without a ``save_id`` every call has one of its own."""
        deletes = list(deletes)
        return self.call(
            "renew_token",
            key,
            digest,
            timeout,
            absolute,
            _flag(use_ttl),
            self._id(save_id),
            remember,
            new_timeout,
            new_deadline,
            new_digest,
            loaded_saves,
            _flag(restart),
            "+" if clocked else "",
            stage_id,
            "*" if retry else "",
            message,
            len(deletes),
            *deletes,
            *pairs(sets),
        )

    def save_fields(
        self,
        key: str = "s",
        sets: Fields = NOTHING,
        deletes: Iterable[bytes] = (),
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        save_id: str | bytes = b"",
        remember: int = 10,
    ) -> list[Any]:
        """As :meth:`save`, where nothing but fields is to be set and deleted."""
        deletes = list(deletes)
        call = digest + self._id(save_id) + bytes([remember]) + len(deletes).to_bytes(4, "big")
        reply = self.call("save_fields", key, call, timeout, *deletes, *pairs(sets))
        return [*reply, timeout] if reply == [Status.SAVED] else reply

    def adjust(
        self,
        key: str = "s",
        *,
        digest: bytes = OURS,
        timeout: int = 60_000,
        absolute: int = 0,
        use_ttl: bool = True,
        save_id: str | bytes = b"",
        remember: int = 10,
        new_timeout: int | str = "",
        new_deadline: int | str = "",
        message: bytes = b"",
    ) -> list[Any]:
        """Without a ``save_id`` every call has one of its own."""
        return self.call(
            "adjust_timeout",
            key,
            digest,
            timeout,
            absolute,
            _flag(use_ttl),
            self._id(save_id),
            remember,
            new_timeout,
            new_deadline,
            message,
        )

    def stage(
        self,
        key: str = "s",
        *,
        digest: bytes = OURS,
        stage_id: str = "stage",
        hold: int = 60_000,
        reads: str = "",
        writes: str = "",
        names: str = "",
        checks: Mapping[bytes, str] = NOTHING,
    ) -> list[Any]:
        """``reads`` and ``writes`` are as in :meth:`save`; with ``hold=0`` it is given up."""
        args = (digest, stage_id, hold, reads, writes, names, *pairs(checks))
        return self.call("stage_save", key, *args)

    def end(
        self,
        key: str = "s",
        *,
        digest: bytes = OURS,
        nonce: str | bytes = "end",
        marker: int = 60_000,
        mark: bool = False,
        names: str = "",
        message: bytes = b"",
        checks: Mapping[bytes, str] = NOTHING,
    ) -> list[Any]:
        """With ``digest=b""`` it ends whatever the token."""
        args = (digest, self._id(nonce), marker, _flag(mark), names, message, *pairs(checks))
        return self.call("end_session", key, *args)

    def index(
        self,
        locator: str | bytes,
        key: str = "i",
        *,
        most: int = 100,
        absolute: int = 0,
        refuse: bool = False,
        since: int = 0,
        ended: Mapping[str, float] = NOTHING,
    ) -> list[Any]:
        """:param ended: locator to score."""
        args = (locator, most, absolute, _flag(refuse), since, *pairs(ended))
        return self.call("index_session", key, *args)

    def end_values(
        self, key: str = "s", ends: Mapping[bytes, tuple[bytes, int]] = NOTHING
    ) -> list[Any]:
        """``ends``: field to the first 16 bytes of its value, and its end, ms."""
        args = [item for field, (begin, end) in ends.items() for item in (field, begin, end)]
        return self.call("end_values", key, *args)

    def describe(
        self,
        key: str = "s",
        *fields: bytes,
        timeout: int = 60_000,
        absolute: int = 0,
    ) -> list[Any]:
        """:param fields: to tell of; by default owner, label and device."""
        fields = fields or (b"owner", b"label", b"device")
        return self.call("describe_session", key, timeout, absolute, *fields)

    def _id(self, name: str | bytes) -> bytes:
        return call_id(name or f"#{next(self._ids)}")

    # -- what Redis holds ----------------------------------------------------------

    def now(self) -> int:
        """The server's clock, ms since the epoch."""
        seconds, microseconds = self.client.time()  # type: ignore[misc]
        return int(seconds * 1000 + microseconds // 1000)

    def hash(self, key: str = "s") -> dict[bytes, bytes]:
        found: Any = self.client.hgetall(key)
        return dict(found)

    def values(self, key: str = "s") -> dict[bytes, bytes]:
        """The session's values, without what the scripts keep about it."""
        return {n: value for n, value in self.hash(key).items() if n[:1] in (b".", b"~", b"#")}

    def pttl(self, key: str = "s") -> int:
        """-1 = no TTL, -2 = no such key."""
        left: Any = self.client.pttl(key)
        return int(left)

    def changes(self) -> int:
        """How many changes the server has ever made: Redis sends to its replicas and to the
        append-only file what moves this counter, and nothing else."""
        info: Any = self.client.info("persistence")
        return int(info["rdb_changes_since_last_save"])


def _reply(reply: Any) -> list[Any]:
    """A status may stand alone."""
    return [Status(reply)] if isinstance(reply, int) else [Status(reply[0]), *reply[1:]]


def call_id(name: str | bytes) -> bytes:
    """A call's id, of six bytes; that of a named one is in a lane of its own."""
    if isinstance(name, bytes):
        assert len(name) == 6
        return name
    lane = _LANES.setdefault(name, len(_LANES))
    return lane.to_bytes(3, "big") + name.encode().rjust(3, b"_")[-3:]


#: Name of a call to the lane that it has for itself.
_LANES: dict[str, int] = {}


def _flag(on: bool) -> str:
    return "1" if on else "0"


def _dict(items: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(items[::2], items[1::2], strict=True))


#: How much of a life of a minute or more may pass between a call and the look at its effect,
#: on the slowest machine, ms.
SLACK_MS = 20_000


def about(expected: int) -> Any:
    """Equal to every number of ms that ``expected`` may have shrunk to since."""
    return _About(expected)


class _About:
    def __init__(self, expected: int) -> None:
        self._expected = expected

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int):
            return NotImplemented
        return self._expected - SLACK_MS <= other <= self._expected

    def __repr__(self) -> str:
        return f"about {self._expected} ms"
