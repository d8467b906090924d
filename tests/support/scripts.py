"""Calls the package's Lua scripts by name, with named arguments, on a Redis client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import redis

from pyramid_redis_lua_sessions.scripts import SCRIPTS, Status

Fields = Mapping[bytes, bytes]

NOTHING: Mapping[bytes, Any] = MappingProxyType({})


def digest(value: bytes) -> str:
    """The check of a field that must still hold ``value``."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def names_digest(fields: Iterable[bytes]) -> str:
    """The digest of a set of field names: their number, and the sum of 48 bits of their SHA1."""
    names = [name for name in fields if name[:1] in (b".", b"#", b"~")]
    total = sum(int(digest(name)[:12], 16) for name in names) % 2**48
    return f"{len(names)}:{total}"


def pairs(values: Mapping[Any, Any]) -> list[Any]:
    """``{a: b}`` as ``[a, b]``."""
    return [item for pair in values.items() for item in pair]


class Scripts:
    """One script a method. A reply is a list whose first element is a :class:`Status`.

    :param client: a client of a real server.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._saved = self._adjusted = self._swapped = 0

    def call(self, name: str, key: str, *args: Any) -> list[Any]:
        reply: Any = self.client.eval(SCRIPTS[name].source, 1, key, *args)
        return [Status(reply[0]), *reply[1:]]

    def load(
        self,
        key: str = "s",
        *,
        timeout: int = 60_000,
        trigger: int | str = "",
        absolute: int = 0,
        use_ttl: bool = True,
    ) -> list[Any]:
        """The fields of a LOADED reply are a dict."""
        reply = self.call("load_and_touch", key, timeout, trigger, absolute, _flag(use_ttl))
        if reply[0] is Status.LOADED:
            reply[2] = _dict(reply[2])
        return reply

    def create(
        self,
        key: str = "s",
        fields: Fields = NOTHING,
        *,
        nonce: str = "n",
        created: int | str = "",
        timeout: int = 60_000,
        adjusted: bool = False,
        deadline: int | str = "",
        absolute: int = 0,
        first: int = 0,
        use_ttl: bool = True,
    ) -> list[Any]:
        return self.call(
            "create_unique",
            key,
            nonce,
            created,
            timeout,
            "1" if adjusted else "",
            deadline,
            absolute,
            first,
            _flag(use_ttl),
            *pairs(fields),
        )

    def save(
        self,
        key: str = "s",
        sets: Fields = NOTHING,
        deletes: Iterable[bytes] = (),
        *,
        timeout: int = 60_000,
        absolute: int = 0,
        use_ttl: bool = True,
        new_timeout: int | str = "",
        new_deadline: int | str = "",
        save_id: str | None = None,
        remember: int = 10,
        undoable: int = 0,
        end_if_empty: int = 0,
        names: str = "",
        checks: Mapping[bytes, str] = NOTHING,
    ) -> list[Any]:
        """Without a ``save_id`` every call has one of its own."""
        deletes = list(deletes)
        self._saved += 1
        return self.call(
            "save_if_changed",
            key,
            timeout,
            absolute,
            _flag(use_ttl),
            new_timeout,
            new_deadline,
            save_id or f"save{self._saved}",
            remember,
            undoable,
            end_if_empty,
            names,
            len(checks),
            len(deletes),
            *pairs(checks),
            *deletes,
            *pairs(sets),
        )

    def adjust(
        self,
        key: str = "s",
        *,
        timeout: int = 60_000,
        absolute: int = 0,
        use_ttl: bool = True,
        new_timeout: int | str = "",
        new_deadline: int | str = "",
        save_id: str | None = None,
        remember: int = 10,
    ) -> list[Any]:
        """Without a ``save_id`` every call has one of its own."""
        self._adjusted += 1
        return self.call(
            "adjust_timeout",
            key,
            timeout,
            absolute,
            _flag(use_ttl),
            new_timeout,
            new_deadline,
            save_id or f"adjust{self._adjusted}",
            remember,
        )

    def end(
        self,
        key: str = "s",
        *,
        nonce: str = "end",
        marker: int = 60_000,
        keep_fields: bool = False,
        mark: bool = False,
        created_by: str = "",
        names: str = "",
        checks: Mapping[bytes, str] = NOTHING,
    ) -> list[Any]:
        """The fields of an ENDED reply are a dict."""
        flags = (_flag(keep_fields), _flag(mark))
        reply = self.call(
            "end_session", key, nonce, marker, *flags, created_by, names, *pairs(checks)
        )
        if reply[0] is Status.ENDED:
            reply[1] = _dict(reply[1])
        return reply

    def revive(self, key: str = "s", *, nonce: str = "end") -> list[Any]:
        return self.call("revive_session", key, nonce)

    def swap(
        self,
        key: str = "s",
        *swaps: tuple[bytes, bytes | None, bytes | None],
        save_id: str | None = None,
        remember: int = 10,
        undone: str = "",
    ) -> list[Any]:
        """A swap is (field, expected, new); ``None`` = absent."""
        self._swapped += 1
        args: list[Any] = [save_id or f"swap{self._swapped}", remember, undone]
        for field, expected, new in swaps:
            args += (field, "" if expected is None else digest(expected))
            args.append(b"" if new is None else b"=" + new)
        return self.call("swap_fields", key, *args)

    # -- what Redis holds ----------------------------------------------------------

    def now(self) -> int:
        """The server's clock, ms since the epoch."""
        seconds, microseconds = self.client.time()  # type: ignore[misc]
        return int(seconds * 1000 + microseconds // 1000)

    def hash(self, key: str = "s") -> dict[bytes, bytes]:
        found: Any = self.client.hgetall(key)
        return dict(found)

    def pttl(self, key: str = "s") -> int:
        """-1 = no TTL, -2 = no such key."""
        left: Any = self.client.pttl(key)
        return int(left)

    def changes(self) -> int:
        """How many changes the server has ever made: Redis sends to its replicas and to the
        append-only file what moves this counter, and nothing else."""
        info: Any = self.client.info("persistence")
        return int(info["rdb_changes_since_last_save"])


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
