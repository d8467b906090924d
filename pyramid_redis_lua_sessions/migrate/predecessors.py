"""The cookies and sessions of ``pyramid_session_redis`` and ``pyramid_redis_sessions``."""

from __future__ import annotations

import base64
import hmac
import json
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from ..settings import Settings, SettingsError

__all__ = ["PREDECESSORS", "CannotMigrate", "Old", "make_deserializer"]

#: Times and timeouts of old sessions that are believed, seconds: as milliseconds they have
#: 16 digits, and Lua computes with them. Milliseconds that were taken for seconds are among
#: them.
MOST_SECONDS = 9e12


class CannotMigrate(Exception):
    """A stored session cannot be carried over whole. The message says why; it
    quotes no value.

    :ivar reason: why, in one of a few phrases, which name no key.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class Old(NamedTuple):
    """An old session.

    :ivar created: when, seconds since the epoch.
    :ivar timeout: its idle timeout, seconds; ``None``: never.
    :ivar expires: its end, seconds since the epoch; ``None``: none is stored.
    """

    data: Mapping[Any, Any]
    created: float
    timeout: float | None
    expires: float | None


class Predecessor(Protocol):
    def read_cookie(self, value: bytes) -> tuple[str, bytes]:
        """Return the session id, and the secret that signed it (of a ``cookie_signer``: none).

        :raises ValueError: malformed, or not signed with a secret.
        """

    def read_payload(self, payload: dict[Any, Any]) -> Old | None:
        """Return the session; ``None`` if another library stored this.

        :raises CannotMigrate: its parts have wrong types.
        """


class PyramidSessionRedis:
    """``pyramid_session_redis``, 1.2 (the first with this payload) to 1.8.1.

    The cookie is WebOb's ``SignedSerializer``: base64url, without padding, of
    HMAC-SHA-512 and the id. The payload is ``{m, c, v[, t][, x]}``.
    """

    def __init__(self, settings: Settings) -> None:
        self._signer = settings.cookie_signer
        self._keys = [
            (b"pyramid_session_redis." + spelling, secret)
            for secret in settings.secret
            for spelling in _spellings(secret)
        ]

    def read_cookie(self, value: bytes) -> tuple[str, bytes]:
        if self._signer is not None:
            session_id = self._signer.loads(value)
            if not isinstance(session_id, str):
                raise ValueError("not a session id")
            return session_id, b""
        signed = base64.b64decode(value + b"=" * (-len(value) % 4), b"-_", validate=True)
        signature, data = signed[:64], signed[64:]
        for key, secret in self._keys:
            if hmac.compare_digest(hmac.digest(key, data, "sha512"), signature):
                return data.decode("utf-8"), secret
        raise ValueError("bad signature")

    def read_payload(self, payload: dict[Any, Any]) -> Old | None:
        if "m" not in payload or "c" not in payload:
            return None
        version = payload.get("v")
        if not isinstance(version, int) or version < 1:
            return None  # it discards these too
        return Old(
            _dictionary(payload["m"]),
            _number(payload["c"]),
            _timeout(payload.get("t")),
            _number(payload["x"]) if payload.get("x") else None,
        )


class PyramidRedisSessions:
    """``pyramid_redis_sessions`` 1.0.1.

    The cookie is ``signed_serialize`` of Pyramid before 2.0: 40 hexadecimal
    digits of HMAC-SHA-1, and base64 of a pickle, of which only a string is
    taken: it is never run. The payload is ``{managed_dict, created, timeout}``.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = [
            (spelling, secret) for secret in settings.secret for spelling in _spellings(secret)
        ]

    def read_cookie(self, value: bytes) -> tuple[str, bytes]:
        signature, pickled = value[:40], base64.b64decode(value[40:], validate=True)
        for key, secret in self._keys:
            expected = hmac.digest(key, pickled, "sha1").hex().encode("ascii")
            if hmac.compare_digest(expected, signature):
                return pickled_string(pickled), secret
        raise ValueError("bad signature")

    def read_payload(self, payload: dict[Any, Any]) -> Old | None:
        if "managed_dict" not in payload or "created" not in payload:
            return None
        return Old(
            _dictionary(payload["managed_dict"]),
            _number(payload["created"]),
            _timeout(payload.get("timeout")),
            None,
        )


PREDECESSORS: dict[str, Callable[[Settings], Predecessor]] = {
    "pyramid_session_redis": PyramidSessionRedis,
    "pyramid_redis_sessions": PyramidRedisSessions,
}


def pickled_string(pickled: bytes) -> str:
    """Return the string in a pickle that holds nothing else, without unpickling.

    :raises ValueError: it is not such a pickle.
    """
    found: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _STRING_OPCODES and not found:
            found.append(cast("str", argument))
        elif opcode.name == "STOP" and found:
            return found[0]
        elif opcode.name not in _HARMLESS_OPCODES:
            break
    raise ValueError("not the pickle of a string")


#: With protocol 2 of Python 2 a ``str`` is a SHORT_BINSTRING.
_STRING_OPCODES = frozenset(
    ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING")
)
_HARMLESS_OPCODES = frozenset(("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT"))


def _spellings(secret: bytes) -> list[bytes]:
    """Return a secret as the predecessors encoded it: latin-1 if possible, else UTF-8."""
    try:
        latin = secret.decode("utf-8").encode("latin-1")
    except UnicodeError:
        return [secret]
    return [secret] if latin == secret else [latin, secret]


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise CannotMigrate("its data is not a dict")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CannotMigrate("one of its times is not a number")
    if not abs(value) <= MOST_SECONDS:  # NaN is not either
        raise CannotMigrate("one of its times is out of range")
    return value


def _timeout(value: Any) -> float | None:
    """Return an idle timeout; both libraries take 0 for none."""
    if not value:
        return None
    if _number(value) < 0:
        raise CannotMigrate("its timeout is negative")
    return _number(value)


def make_deserializer(settings: Settings) -> Callable[[bytes], Any]:
    """Return the function that reads old payloads.

    :raises SettingsError: it needs a package that is not installed.
    """
    chosen = settings.migrate_deserialize
    if chosen is None and callable(settings.deserialize):
        chosen = settings.deserialize
    if callable(chosen):
        function: Callable[[bytes], Any] = chosen
        return function
    if chosen == "json":
        return json.loads
    if chosen == "msgpack":
        try:
            import msgspec.msgpack
        except ImportError as exc:
            raise SettingsError(
                "redis.sessions.migrate_deserialize = 'msgpack' needs the package msgspec "
                "(pip install pyramid_redis_lua_sessions[msgpack])"
            ) from exc
        return msgspec.msgpack.decode
    return pickle.loads
