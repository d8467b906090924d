"""How values are encoded: as one byte that tells the type, and the value's bytes."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

from translationstring import TranslationString

from ..settings import Settings, SettingsError
from .ends import split

try:
    import markupsafe
except ImportError:  # it comes with the template engines
    Markup: Any = None
else:
    Markup = markupsafe.Markup

__all__ = [
    "ATOMS",
    "ChangedType",
    "Codec",
    "make_codec",
]

#: Types of which a value cannot change in place, encoded without a serializer.
#: Compared by ``type() is``: a subclass (IntEnum, Markup) goes to the serializer.
ATOMS = frozenset((str, int, float, bool, type(None), bytes))

#: IEEE 754 binary64: all bits of a float, also those of a NaN, in few bytes.
_DOUBLE = struct.Struct(">d")

# What an encoded atom begins with.
_STR, _INT, _NONE, _TRUE, _FALSE, _FLOAT, _BYTES = b"sintfdb"

#: Begins the value of a field that holds several flash messages, all ``str``, and what
#: stands between them.
_JOINED, _SEPARATOR = b"*", "\0"


class Codec:
    """Values to bytes and back.

    :param serialize: ``(value) -> bytes`` for what is not an atom.
    :param deserialize: its inverse.
    :param tag: one byte that marks what this serializer wrote.
    :param atoms: encode ``str``, ``int``, ``float``, ``bool``, ``None`` and
        ``bytes`` here, without the serializer.
    :param mark: for a serializer that does not keep every type: makes of a value
        that comes back changed one that does not. ``None``: it keeps them.
    """

    __slots__ = ("_atoms", "_deserialize", "_kind", "_mark", "_serialize", "_tag")

    def __init__(
        self,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
        tag: bytes,
        atoms: bool = True,
        mark: Callable[[Any], Any] | None = None,
    ) -> None:
        self._serialize = serialize
        self._deserialize = deserialize
        self._tag = tag
        self._kind = tag[0] if tag else None
        self._atoms = atoms
        self._mark = mark

    @property
    def may_change(self) -> bool:
        """Whether :meth:`encode` compares, so that :meth:`sketch` is cheaper."""
        return self._mark is not None

    def encode(self, value: Any) -> bytes:
        """Encode one value. Whatever the serializer raises passes through.

        :raises ChangedType: it would come back as something else.
        """
        data = self.sketch(value)
        if self._mark is None or type(value) in ATOMS or not _changed(value, self.decode(data)):
            return data
        data = self.sketch(self._mark(value))
        changed = _changed(value, self.decode(data))
        if changed:
            raise ChangedType(changed)
        return data

    def joins(self, message: Any) -> bool:
        """Tell whether a flash message may share a field with others."""
        return type(message) is str and self._atoms and _SEPARATOR not in message

    def join(self, messages: list[str]) -> bytes:
        """Encode several flash messages of which each may share a field."""
        return _JOINED + _SEPARATOR.join(messages).encode("utf-8", "surrogatepass")

    def decode_messages(self, data: bytes) -> list[Any]:
        """Decode the flash messages of one field.

        :raises Exception: as :meth:`decode`.
        """
        if self._atoms and data[:1] == _JOINED:
            return list[Any](data[1:].decode("utf-8", "surrogatepass").split(_SEPARATOR))
        return [self.decode(data)]

    def sketch(self, value: Any) -> bytes:
        """Encode one value, to compare it with what is stored: it may come back as another."""
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
            that of the serializer, ``struct.error``, ``ValueError``, or ``IndexError``.
        """
        if not self._atoms:
            if split(data) is not None:  # an application's function may take any bytes for its own
                raise ValueError("a value that ends")
            return self._deserialize(data)
        tag = data[0]
        if tag == _STR:
            return data[1:].decode("utf-8", "surrogatepass")
        if tag == self._kind:
            return self._deserialize(data[1:])
        if tag == _INT:
            return int(data[1:], 16)
        if tag == _NONE:
            return None
        if tag == _TRUE:
            return True
        if tag == _FALSE:
            return False
        if tag == _FLOAT:
            return _DOUBLE.unpack(data[1:])[0]
        if tag == _BYTES:
            return data[1:]
        raise ValueError("not encoded by this serializer")


def _pickle_dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


# -- types that are not kept -------------------------------------------------------


class ChangedType(TypeError):
    """A serializer would give back another type. The message names the one that was given."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} would come back as another type")


def _changed(value: Any, back: Any) -> str:
    """Compare what was serialized with what comes back.

    :returns: the name of the first type in it that does not come back equal, or ``""``.
    """
    kind = type(back)
    if kind is dict and isinstance(value, dict) and len(value) == len(back):
        for key, inner in value.items():
            found = _changed(inner, back[key]) if key in back else type(key).__name__
            if found:
                return found
        return ""
    if kind is list and isinstance(value, list) and len(value) == len(back):
        return next(filter(None, map(_changed, value, back)), "")
    if isinstance(value, _MARKED) and type(back) is not type(value):
        return type(value).__name__
    if isinstance(value, TranslationString):
        return _changed(list(value.__getstate__()), list(back.__getstate__()))
    same = value == back or (value != value and back != back)  # not a number
    return "" if same else type(value).__name__


# Strings with a meaning of their own, which Pyramid's applications flash.
_MARKED = (TranslationString,) if Markup is None else (TranslationString, Markup)

_HTML = "__html__"
_TRANSLATION = "__translation__"


def _mark(value: Any) -> Any:
    """Put ``{"__html__": text}`` for each ``Markup``, and the like for a ``TranslationString``."""
    if isinstance(value, TranslationString):
        return {_TRANSLATION: [_mark(part) for part in value.__getstate__()]}
    if isinstance(value, _MARKED):
        return {_HTML: str.__str__(value)}
    if isinstance(value, dict):
        return {key: _mark(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mark(inner) for inner in value]
    return value


def _unmark(value: dict[Any, Any]) -> Any:
    """Turn one ``dict`` back that :func:`_mark` made."""
    if len(value) == 1:
        if Markup is not None and isinstance(value.get(_HTML), str):
            return Markup(value[_HTML])
        if isinstance(value.get(_TRANSLATION), list):
            return TranslationString(*value[_TRANSLATION])
    return value


def _json_dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _json_loads(data: bytes) -> Any:
    marked = _HTML.encode() in data or _TRANSLATION.encode() in data
    return json.loads(data, object_hook=_unmark if marked else None)


_HTML_CODE = 1
_TRANSLATION_CODE = 2


def _msgpack(msgpack: Any) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Make the two functions of ``msgspec.msgpack``, with extension types for marked strings."""

    def enc_hook(value: Any) -> Any:
        if isinstance(value, TranslationString):
            return msgpack.Ext(_TRANSLATION_CODE, encode(value.__getstate__()))
        if isinstance(value, _MARKED):
            return msgpack.Ext(_HTML_CODE, encode(str.__str__(value)))
        raise TypeError("unsupported")

    def ext_hook(code: int, data: memoryview) -> Any:
        if code == _TRANSLATION_CODE:
            return TranslationString(*decode(data))
        if code == _HTML_CODE and Markup is not None:
            return Markup(decode(data))
        raise ValueError("unknown extension type")

    encode = msgpack.Encoder(enc_hook=enc_hook).encode
    decode = msgpack.Decoder(ext_hook=ext_hook).decode
    return encode, decode


def _as_it_is(value: Any) -> Any:
    return value


def make_codec(settings: Settings) -> Codec:
    """Make the codec that the settings ask for.

    :raises SettingsError: the serializer needs a package that is not installed.
    """
    name = settings.serialize
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    mark: Callable[[Any], Any] | None = None
    if callable(name):
        serialize, deserialize, tag = name, settings.deserialize, b"x"
    elif name == "pickle":
        serialize, deserialize, tag = _pickle_dumps, pickle.loads, b"p"
    elif name == "json":
        serialize, deserialize, tag, mark = _json_dumps, _json_loads, b"j", _mark
    else:
        try:
            import msgspec.msgpack
        except ImportError as exc:
            raise SettingsError(
                "redis.sessions.serialize = 'msgpack' needs the package msgspec "
                "(pip install pyramid_redis_lua_sessions[msgpack])"
            ) from exc
        serialize, deserialize, tag = *_msgpack(msgspec.msgpack), b"m"
        mark = _as_it_is
    if settings.seal:
        return Codec(serialize, deserialize, tag, mark=mark)
    return Codec(serialize, deserialize, b"", atoms=False, mark=mark)
