"""How values are cut into pieces that Redis keeps in little memory.

As long as nothing in a hash is longer than 64 bytes (``hash-max-listpack-value``, as Redis has it
by itself), Redis keeps it in one block of memory, a listpack; else for good in a table, which takes
twice as much. So in a small session a longer value is cut, after it was sealed: its field holds an
id of 4 random bytes and its first 60, and the rest is in fields whose names are a byte of 127,
number, id. A seal is one over the whole value.

Each time a value is stored it has a new id. So no piece is ever that of another value, and one
whose value was replaced, by whomever, can be deleted at any time.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping

from .fields import DATA_KINDS, order_of

__all__ = ["cut", "has_pieces", "is_piece", "joined", "left_over"]

#: The name of no other field begins with as much.
PIECE_KIND = b"\x7f"

#: Bytes of a piece, and of an id.
SIZE = 64
_ID_SIZE = 4

#: Bytes of a session, names and values as stored, from which on a table takes hardly more.
ROOM = 2000


def is_piece(field: bytes) -> bool:
    return field[:1] == PIECE_KIND


def has_pieces(fields: Collection[bytes]) -> bool:
    return max(fields, default=b"") >= PIECE_KIND and any(map(is_piece, fields))


def cut(
    stored: dict[bytes, bytes], held: Mapping[bytes, bytes], deletes: Collection[bytes] = ()
) -> dict[bytes, bytes]:
    """Return the fields to set, so that some values are set.

    :param stored: the values by field, sealed or encrypted.
    :param held: the session's fields, as stored before; ``deletes``: those that will be deleted.
    """
    for value in stored.values():  # every save pays for this
        if len(value) >= SIZE:
            gone = {*deletes}  # there may be many, as somebody else wrote there
            return _cut(stored, {f: v for f, v in held.items() if f not in gone})
    return stored


def _cut(stored: dict[bytes, bytes], held: dict[bytes, bytes]) -> dict[bytes, bytes]:
    after = {**held, **stored}
    whole = (v for f, v in after.items() if f not in stored or f[:1] not in DATA_KINDS)
    if (
        sum(map(len, (*after, *after.values()))) > ROOM
        or max(map(len, after)) > SIZE
        or max(map(len, whole), default=0) > SIZE
    ):
        return stored
    found: dict[bytes, bytes] = {}
    for field, value in stored.items():
        if len(value) < SIZE or field[:1] not in DATA_KINDS:
            found[field] = value
            continue
        order = order_of(field, value)
        name, end = os.urandom(_ID_SIZE), SIZE - _ID_SIZE
        found[field] = order + name + value[len(order) : end]
        for piece, start in zip(_names(name), range(end, len(value), SIZE), strict=False):
            found[piece] = value[start : start + SIZE]
    return found


def _names(name: bytes) -> Iterator[bytes]:
    """Iterate over the fields of the pieces of a value."""
    return (PIECE_KIND + bytes((number,)) + name for number in range(256))


def _pieces_of(field: bytes, value: bytes, fields: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the fields of a value's pieces; none where it is whole."""
    found: list[bytes] = []
    if len(value) == SIZE and field[:1] in DATA_KINDS:
        start = len(order_of(field, value))
        for piece in _names(value[start : start + _ID_SIZE]):
            if piece not in fields:
                break
            found.append(piece)
    return found


def left_over(held: Mapping[bytes, bytes], replaced: Collection[bytes]) -> list[bytes]:
    """Return the pieces of values that are replaced or deleted, and those of none."""
    if not has_pieces(held):
        return []
    pieces = {*filter(is_piece, held)}
    for field, value in held.items():
        if field not in replaced:
            pieces.difference_update(_pieces_of(field, value, held))
    return sorted(pieces)


def joined(fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return the fields of a session with each value whole."""
    if not has_pieces(fields):
        return fields
    # Each belongs to one value: else what somebody wrote there would be joined to gigabytes.
    held = {field: value for field, value in fields.items() if is_piece(field)}
    found = {}
    for field, value in fields.items():
        if is_piece(field):
            continue
        pieces = _pieces_of(field, value, held)
        if pieces:
            order = order_of(field, value)
            first = value[len(order) + _ID_SIZE :]
            value = b"".join((order, first, *map(held.pop, pieces)))
        found[field] = value
    return found
