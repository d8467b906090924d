"""How keys and flash messages are named in the hash of a session.

A key is stored as the field ``.key`` (``str``) or ``#1`` (``int``); a flash
message, or several texts of one save, as ``~queue``, unit separator, unique id.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

__all__ = [
    "CONFIRMED_FIELD",
    "CSRF_FIELD",
    "CSRF_KEY",
    "DATA_KINDS",
    "DEVICE_FIELD",
    "FLASH_KIND",
    "INDEX_KIND",
    "KEY_KINDS",
    "LABEL_FIELD",
    "OWNER_FIELD",
    "PLACES_FIELD",
    "SEALED_KINDS",
    "SEALED_META",
    "UNIT_SEPARATOR",
    "UNORDERED",
    "equal_key",
    "exact_key",
    "field_of",
    "index_field",
    "key_of",
    "order_of",
]

KEY_KINDS = b".#"
FLASH_KIND = b"~"
DATA_KINDS = KEY_KINDS + FLASH_KIND
#: By what else than its owner a session is found.
INDEX_KIND = b"="
#: What seals protect, beside ``SEALED_META``.
SEALED_KINDS = DATA_KINDS + INDEX_KIND

#: Where Pyramid's ``SessionCSRFStoragePolicy`` keeps the token, too.
CSRF_KEY = "_csrft_"
CSRF_FIELD = b".%b" % CSRF_KEY.encode("ascii")

OWNER_FIELD = b"owner"
LABEL_FIELD = b"label"
DEVICE_FIELD = b"device"
CONFIRMED_FIELD = b"confirmed"
PLACES_FIELD = b"places"
#: Fields that are no session values, but protected like them.
SEALED_META = frozenset((OWNER_FIELD, LABEL_FIELD, DEVICE_FIELD, CONFIRMED_FIELD, PLACES_FIELD))
UNIT_SEPARATOR = b"\x1f"

_INDEX_NAME = re.compile("[a-z][a-z0-9_]{0,63}")

#: Arguments of ``sessions_of`` and the like, which indexes are named beside.
_NO_INDEXES = frozenset(("request_or_registry", "owner", "fingerprint", "except_current", "values"))

#: A stored flash message begins with its place in the order: 7 bytes, the moment of the
#: save in microseconds by the clock of Redis, and 2 bytes, which of that save's it is.
ORDER_SIZE = 9
#: What the scripts put that in place of.
UNORDERED = b"\xff" * ORDER_SIZE


def order_of(field: bytes, stored: bytes) -> bytes:
    """Return what stands before the protected part: the order of a message, or nothing."""
    return stored[:ORDER_SIZE] if field[:1] == FLASH_KIND else b""


def field_of(key: Any) -> bytes:
    """Return the field under which a session key is stored.

    :raises TypeError: the key is neither ``str`` nor ``int``.
    """
    if type(key) is str:
        return b"." + key.encode("utf-8", "surrogatepass")
    if type(key) is int:
        return b"#%d" % key
    raise TypeError(f"session keys are str or int, not {type(key).__name__} [docs: caveats]")


def index_field(name: str) -> bytes:
    """Return the field that holds by what a session is found in an index of this name.

    :raises ValueError: no index can have it.
    """
    if name in _NO_INDEXES or not _INDEX_NAME.fullmatch(name):
        raise ValueError(
            f"an index is named with small letters, digits and _, not {name!r} [docs: indexes]"
        )
    return INDEX_KIND + name.encode("ascii")


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


def exact_key(key: Any) -> str | int:
    """Return the exact ``str`` or ``int`` for a key that is assigned.

    :raises TypeError: session keys are ``str`` or ``int``; ``bool`` is none.
    """
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return int.__index__(key)
    raise TypeError(f"session keys are str or int, not {type(key).__name__} [docs: caveats]")


def equal_key(key: Any) -> str | int:
    """Return the session key that equals a key that is looked up.

    As a ``dict`` does, it finds 1 under ``True`` and under ``1.0``.

    :raises KeyError: no session key can equal it.
    :raises TypeError: the key is unhashable.
    """
    hash(key)
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, numbers.Real):
        try:
            number: int = math.trunc(key)  # type: ignore[assignment]
        except (ValueError, OverflowError):
            raise KeyError(key) from None
        if number == key:
            return number
    raise KeyError(key)
