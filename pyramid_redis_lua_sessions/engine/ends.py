"""Values that end: how that is told from the value itself, which is authentic.

The end stands before the encoded value, and so within its seal. Who can write to Redis can
delete such a value, as any other, but not make it last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

__all__ = ["NO_ENDS", "Clock", "ends_in", "split", "until"]

#: Begins what has an end; no encoded value does. 8 bytes follow, ms since the epoch.
_MARK = b"\xc1until:"
_SIZE = len(_MARK) + 8


#: No value ends.
NO_ENDS: Mapping[bytes, int] = {}


@dataclasses.dataclass
class Clock:
    """What the ends of values are compared with.

    :ivar now_ms: Redis' clock as the session was loaded, ms since the epoch.
    :ivar ends: field to end, ms since the epoch, of the values that were decoded or set.
    """

    now_ms: int
    ends: dict[bytes, int] = dataclasses.field(default_factory=dict)


def until(end_ms: int) -> bytes:
    """Return what is put before an encoded value that ends."""
    return _MARK + end_ms.to_bytes(8, "big")


def split(data: bytes) -> tuple[int, bytes] | None:
    """Return the end of a value and the value, encoded; ``None`` for one that has no end."""
    if not data.startswith(_MARK) or len(data) < _SIZE:
        return None
    return int.from_bytes(data[len(_MARK) : _SIZE], "big"), data[_SIZE:]


def ends_in(values: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """Return the ends of those among some encoded values that have one."""
    found = ((field, split(data)) for field, data in values.items())
    return {field: parts[0] for field, parts in found if parts is not None}
