"""How session keys and values are encoded.

A key is stored as the field ``.key`` (``str``) or ``#1`` (``int``); a flash
message as ``~queue``, unit separator, sortable unique id. A value is encoded
as one byte that tells its type, and its bytes.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

from .settings import Settings, SettingsError

__all__ = [
    "ATOMS",
    "DATA_KINDS",
    "LABEL_FIELD",
    "OWNER_FIELD",
    "SEALED_META",
    "Codec",
    "field_of",
    "key_of",
    "make_codec",
]

#: Types of which a value cannot change in place, encoded without a serializer.
#: Compared by ``type() is``: a subclass (IntEnum, Markup) goes to the serializer.
ATOMS = frozenset((str, int, float, bool, type(None), bytes))

#: IEEE 754 binary64: all bits of a float, also those of a NaN, in few bytes.
_DOUBLE = struct.Struct(">d")

KEY_KINDS = b".#"
FLASH_KIND = b"~"
DATA_KINDS = KEY_KINDS + FLASH_KIND

OWNER_FIELD = b"owner"
LABEL_FIELD = b"label"
#: Fields that are no session values, but protected like them.
SEALED_META = frozenset((OWNER_FIELD, LABEL_FIELD))
UNIT_SEPARATOR = b"\x1f"


# -- keys ------------------------------------------------------------------------


def field_of(key: Any) -> bytes:
    """Return the field under which a session key is stored.

    :raises TypeError: the key is neither ``str`` nor ``int``.
    """
    if type(key) is str:
        return b"." + key.encode("utf-8", "surrogatepass")
    if type(key) is int:
        return b"#%d" % key
    raise TypeError(f"session keys are str or int, not {type(key).__name__}")


def key_of(field: bytes) -> str | int:
    """Return the session key that a field of the kinds ``.`` and ``#`` stands for.

    :raises ValueError: no key is stored so.
    """
    if field[:1] == b".":
        return field[1:].decode("utf-8", "surrogatepass")
    number = int(field[1:])
    if field != b"#%d" % number:
        raise ValueError("not the field of a session key")
    return number


# -- encoding --------------------------------------------------------------------


class Codec:
    """Values to bytes and back.

    :param serialize: ``(value) -> bytes`` for what is not an atom.
    :param deserialize: its inverse.
    :param tag: one byte that marks what this serializer wrote.
    :param atoms: encode ``str``, ``int``, ``float``, ``bool``, ``None`` and
        ``bytes`` here, without the serializer.
    """

    __slots__ = ("_atoms", "_deserialize", "_serialize", "_tag")

    def __init__(
        self,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        tag: bytes,
        atoms: bool = True,
    ) -> None:
        self._serialize = serialize
        self._deserialize = deserialize
        self._tag = tag
        self._atoms = atoms

    def encode(self, value: Any) -> bytes:
        """Encode one value. Whatever the serializer raises passes through."""
        if self._atoms:
            kind = type(value)
            if kind is str:
                return b"s" + cast("str", value).encode("utf-8", "surrogatepass")
            if kind is int:
                return b"i%x" % (value,)
            if value is None:
                return b"n"
            if kind is bool:
                return b"t" if value else b"f"
            if kind is float:
                return b"d" + _DOUBLE.pack(value)
            if kind is bytes:
                return b"b" + cast("bytes", value)
        data: bytes | str = self._serialize(value)
        if isinstance(data, str):
            data = data.encode("utf-8")
        return self._tag + data

    def decode(self, data: bytes) -> Any:
        """Decode one value.

        :raises Exception: the bytes are not an encoded value; the type is
            that of the serializer, ``struct.error``, or ``ValueError``.
        """
        if not self._atoms:
            return self._deserialize(data)
        tag = data[:1]
        if tag == b"s":
            return data[1:].decode("utf-8", "surrogatepass")
        if tag == self._tag:
            return self._deserialize(data[1:])
        if tag == b"i":
            return int(data[1:], 16)
        if tag == b"n":
            return None
        if tag == b"t":
            return True
        if tag == b"f":
            return False
        if tag == b"d":
            return _DOUBLE.unpack(data[1:])[0]
        if tag == b"b":
            return data[1:]
        raise ValueError("not encoded by this serializer")


def _pickle_dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


def _json_dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def make_codec(settings: Settings) -> Codec:
    """Make the codec that the settings ask for.

    :raises SettingsError: the serializer needs a package that is not installed.
    """
    name = settings.serialize
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    if callable(name):
        serialize, deserialize, tag = name, settings.deserialize, b"x"
    elif name == "pickle":
        serialize, deserialize, tag = _pickle_dumps, pickle.loads, b"p"
    elif name == "json":
        serialize, deserialize, tag = _json_dumps, json.loads, b"j"
    else:
        try:
            import msgspec.msgpack
        except ImportError as exc:
            raise SettingsError(
                "redis.sessions.serialize = 'msgpack' needs the package msgspec "
                "(pip install pyramid_redis_lua_sessions[msgpack])"
            ) from exc
        serialize, deserialize, tag = msgspec.msgpack.encode, msgspec.msgpack.decode, b"m"
    if settings.seal:
        return Codec(serialize, deserialize, tag)
    return Codec(serialize, deserialize, b"", atoms=False)
