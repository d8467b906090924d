"""What a session value looks like in Redis: its encoding, and its seal.

A key is stored as the field ``.key`` (``str``) or ``#1`` (``int``); a flash
message as ``~queue``, unit separator, sortable unique id. A value is encoded
as one byte that tells its type, and its bytes; and then sealed: 16 bytes of
BLAKE2b (RFC 7693), keyed, over the prefix, the session id, the field's name and
the encoded value, stand before it. Nothing is decoded whose seal does not
verify, so nobody with write access to Redis can invent, alter or transplant a
value.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from .settings import Settings, SettingsError

__all__ = ["Codec", "NoSeal", "Seal", "Sealer", "derive_key", "field_of", "key_of", "make_codec"]

#: Types of which a value cannot change in place, encoded without a serializer.
#: Compared by ``type() is``: a subclass (IntEnum, Markup) goes to the serializer.
ATOMS = frozenset((str, int, float, bool, type(None), bytes))

KEY_KINDS = b".#"
FLASH_KIND = b"~"
DATA_KINDS = KEY_KINDS + FLASH_KIND
UNIT_SEPARATOR = b"\x1f"

_SEAL_SIZE = 16


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
                return b"d" + cast("float", value).hex().encode("ascii")
            if kind is bytes:
                return b"b" + cast("bytes", value)
        data: bytes | str = self._serialize(value)
        if isinstance(data, str):
            data = data.encode("utf-8")
        return self._tag + data

    def decode(self, data: bytes) -> Any:
        """Decode one value.

        :raises Exception: the bytes are not an encoded value; the type is
            that of the serializer, or ``ValueError``.
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
            return float.fromhex(data[1:].decode("ascii"))
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


# -- seal ------------------------------------------------------------------------


class Bound(Protocol):
    """A seal bound to one session id."""

    def seal(self, field: bytes, data: bytes) -> bytes:
        """Return what to store for encoded data."""

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        """Return the encoded data, or ``None`` if it is not authentic."""

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        """Return the encoded data of all fields that hold data, or ``None`` if
        one is not authentic."""


class Sealer(Protocol):
    """Makes and verifies seals for all sessions of one factory."""

    def bind(self, session_id: str) -> Bound:
        """Return the seal of one session."""


def derive_key(secret: bytes, purpose: bytes) -> bytes:
    """Derive a 32 byte key from a secret of any length (keyed by its purpose).

    :param purpose: at most 16 bytes; keys for two purposes are independent.
    """
    return hashlib.blake2b(secret, digest_size=32, person=purpose).digest()


class Seal:
    """Seals with keyed BLAKE2b; the first secret seals, all verify."""

    __slots__ = ("_bases",)

    def __init__(self, secrets: Iterable[bytes], prefix: str) -> None:
        data = prefix.encode("utf-8", "surrogatepass")
        self._bases = []
        for secret in secrets:
            key = derive_key(secret, b"session seal")
            base = hashlib.blake2b(key=key, digest_size=_SEAL_SIZE)
            base.update(b"%d:%s" % (len(data), data))
            self._bases.append(base)

    def bind(self, session_id: str) -> BoundSeal:
        data = session_id.encode("utf-8", "surrogatepass")
        header = b"%d:%s" % (len(data), data)
        hashers = []
        for base in self._bases:
            hasher = base.copy()
            hasher.update(header)
            hashers.append(hasher)
        return BoundSeal(hashers)


class BoundSeal:
    """The seal of one session.

    What is hashed is the field's name, the data and the name's length: it
    stands last, where no name and no data can imitate it.
    """

    __slots__ = ("_hashers", "outdated")

    def __init__(self, hashers: list[Any]) -> None:
        self._hashers = hashers
        #: Whether a value was met that an older secret had sealed.
        self.outdated = False

    def seal(self, field: bytes, data: bytes) -> bytes:
        hasher = self._hashers[0].copy()
        hasher.update(field + data + len(field).to_bytes(4, "big"))
        digest: bytes = hasher.digest()
        return digest + data

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        data = stored[_SEAL_SIZE:]
        message = field + data + len(field).to_bytes(4, "big")
        for number, base in enumerate(self._hashers):
            hasher = base.copy()
            hasher.update(message)
            if hmac.compare_digest(hasher.digest(), stored[:_SEAL_SIZE]):
                if number:
                    self.outdated = True
                return data
        return None

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        # Every read pays for this loop: the first secret is tried inline.
        copy, equal, size = self._hashers[0].copy, hmac.compare_digest, _SEAL_SIZE
        opened = {}
        for field, stored in fields.items():
            if field and field[:1] in DATA_KINDS:
                data = stored[size:]
                hasher = copy()
                hasher.update(field + data + len(field).to_bytes(4, "big"))
                sealed_first = equal(hasher.digest(), stored[:size])
                if not sealed_first and self.open(field, stored) is None:
                    return None
                opened[field] = data
        return opened


class NoSeal:
    """Stores bare bytes (``seal = false``)."""

    __slots__ = ()

    def bind(self, session_id: str) -> NoSeal:
        return self

    def seal(self, field: bytes, data: bytes) -> bytes:
        return data

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        return stored

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        return {f: stored for f, stored in fields.items() if f and f[:1] in DATA_KINDS}
