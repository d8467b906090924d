"""What the scripts are asked, how that is spelled, and how their answers are read.

Plain data: nothing here sends anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .ends import NO_ENDS
from .fields import DATA_KINDS
from .scripts import Status
from .tokens import Token

__all__ = [
    "DEFAULT_MS",
    "NO_CHECKS",
    "NO_LIFETIME",
    "Absent",
    "Checks",
    "Created",
    "Description",
    "Entry",
    "Lifetime",
    "Loaded",
    "Renewal",
    "Save",
    "Saved",
    "absent_of",
    "adjusted_of",
    "as_dict",
    "encoded",
    "ended_of",
    "flag",
    "milliseconds",
    "names_digest",
    "optional",
    "pairs",
    "sha1",
    "still_so",
    "texts",
]

# -- what is asked -----------------------------------------------------------------


#: An idle timeout that a session has not of its own any more.
DEFAULT_MS = -1


class Lifetime(NamedTuple):
    """What a session has of its own, apart from the configured lifetimes.

    :ivar timeout_ms: its idle timeout, ms; 0 = never; -1 = the default again; ``None`` =
        the default, or unchanged.
    :ivar deadline_ms: its end whatever the activity, ms since the epoch;
        0 = remove it; ``None`` = none, or unchanged.
    """

    timeout_ms: int | None = None
    deadline_ms: int | None = None


class Checks(NamedTuple):
    """What a request read, for ``on_conflict = retry``.

    :ivar fields: field to ``""`` (was absent), ``"+"`` (was present) or the
        SHA1 of its stored value.
    :ivar names: digest of the set of fields, ``""`` where it was not read.
    """

    fields: Mapping[bytes, str] = {}
    names: str = ""


NO_CHECKS = Checks()
NO_LIFETIME = Lifetime()


class Save(NamedTuple):
    """Changes to a session that keeps its token.

    :ivar values: fields to set, sealed; ``deletes``: fields to delete.
    :ivar end_if_empty: the session ends where no value remains.
    :ivar ends: field to end, ms since the epoch, of values that end.
    :ivar token_field: what it is to be, where loads are to tell the time from now on;
        ``marked``: it has a mark.
    :ivar touches: refresh the idle timeout.
    :ivar stage_id: of :meth:`.Store.stage`, which this ends.
    """

    values: Mapping[bytes, bytes]
    deletes: Sequence[bytes] = ()
    lifetime: Lifetime = NO_LIFETIME
    checks: Checks = NO_CHECKS
    end_if_empty: bool = False
    ends: Mapping[bytes, int] = NO_ENDS
    token_field: bytes = b""
    marked: bool = False
    touches: bool = True
    stage_id: str = ""


class Renewal(NamedTuple):
    """A new token, and all values sealed for it.

    :ivar values: fields to set, sealed; ``deletes``: fields to delete.
    :ivar loaded_saves: field ``saves`` as it was loaded: nothing was saved since then.
    :ivar restart: the session's life begins anew; ``clocked``: and its loads tell the time.
    :ivar ends: as in :class:`Save`; ``stage_id`` the same.
    """

    token: Token
    values: Mapping[bytes, bytes]
    deletes: Sequence[bytes]
    loaded_saves: bytes
    lifetime: Lifetime = NO_LIFETIME
    restart: bool = False
    clocked: bool = False
    ends: Mapping[bytes, int] = NO_ENDS
    stage_id: str = ""


class Entry(NamedTuple):
    """How a session gets into an index: that of its owner, or another one.

    :ivar field: that says by what it is found there; ``value``: by what, encoded.
    :ivar most: how many sessions the owner may have; 0 = it is one of them already.
    :ivar policy: what happens where they are more: ``owner_sessions_policy``.
    :ivar refuses: let it in only if there is room.
    :ivar leaving: locators of sessions that will end with this: they take no room.
    :ivar since_ms: what stands there from before that is of an earlier login of the session, when
        it was the owner's already, ms since the epoch.
    """

    field: bytes
    value: bytes
    most: int = 0
    policy: str = ""
    refuses: bool = False
    leaving: Collection[str] = ()
    since_ms: int = 0


# -- what is answered --------------------------------------------------------------


class Loaded(NamedTuple):
    """A session that lives.

    :ivar remaining_ms: life that is left, ms; -1 = never ends.
    :ivar fields: every field of the hash, as stored.
    :ivar now_ms: Redis' clock, ms since the epoch; 0 where nobody asked.
    :ivar idle_ms: how long ago it was touched before, ms; -1 = unknown.
    """

    remaining_ms: int
    fields: dict[bytes, bytes]
    now_ms: int = 0
    idle_ms: int = -1


class Absent(NamedTuple):
    """A session that the caller's token does not open.

    :ivar status: ``GONE``; or ``MOVED``: it ended, or its token was replaced.
    :ivar age_ms: for ``MOVED``: how long ago, ms.
    :ivar replaced: the session lives, under another token; ``owned``: and is an owner's.
    :ivar expired: it was found, past its end.
    :ivar foreign: something else is stored under its locator.
    :ivar locked: why it lives and is refused: bound to a device that this request is not from.
    """

    status: Status
    age_ms: int = 0
    replaced: bool = False
    owned: bool = False
    expired: bool = False
    foreign: bool = False
    locked: str = ""


class Created(NamedTuple):
    """A session that was created.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar created_ms: start of its life, ms since the epoch, by Redis' clock.
    :ivar token_ms: when its token was put in place.
    :ivar indexed: what each index answered to which it was added, for :meth:`.Index.tidy`.
    """

    token: Token
    remaining_ms: int
    created_ms: int
    token_ms: int
    indexed: Sequence[Any] = ()


class Saved(NamedTuple):
    """Changes that were applied.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar now_ms: when, ms since the epoch, by Redis' clock; 0 where nobody asked.
    :ivar indexed: as in :class:`Created`.
    """

    remaining_ms: int
    now_ms: int = 0
    indexed: Sequence[Any] = ()


class Description(NamedTuple):
    """What is known of a live session without loading it.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar idle_ms: idle timeout that ends it then, ms; 0 = something else ends
        it sooner, or it never ends.
    :ivar now_ms: Redis' clock, ms since the epoch.
    :ivar token: field of the token, as stored.
    :ivar told: the fields that were asked for, as stored, or empty.
    """

    remaining_ms: int
    idle_ms: int
    now_ms: int
    token: bytes
    told: dict[bytes, bytes]


def absent_of(reply: Any) -> Absent:
    detail = reply[1] if len(reply) > 1 else 0
    if reply[0] == Status.MOVED:
        replaced = reply[2] if len(reply) > 2 else 0
        return Absent(Status.MOVED, detail, replaced > 0, replaced > 1)
    return Absent(Status.GONE, expired=detail == 1, foreign=detail == 2)


def ended_of(reply: Any) -> Status | Absent:
    if reply[0] in (Status.ENDED, Status.CONFLICT):
        return Status(reply[0])
    return absent_of(reply)


def adjusted_of(reply: Any) -> Saved | Absent:
    return Saved(reply[1]) if reply[0] == Status.ADJUSTED else absent_of(reply)


def as_dict(found: Any) -> dict[bytes, bytes]:
    """Return fields as a dict; only with RESP3, and not from a script, they come as one."""
    if isinstance(found, dict):
        return found
    flat = iter(found)
    return dict(zip(flat, flat, strict=True))


# -- how it is spelled -------------------------------------------------------------


def encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds; 0 for none."""
    return 0 if seconds is None else round(seconds * 1000)


def texts(names: Iterable[bytes]) -> list[str]:
    """Decode locators; what does not decode is none of ours."""
    found = []
    for name in names:
        try:
            found.append(name.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            continue
    return found


def sha1(stored: bytes) -> str:
    """Digest of a stored value, as ``redis.sha1hex`` in a script gives it."""
    return hashlib.sha1(stored, usedforsecurity=False).hexdigest()


def flag(on: bool) -> bytes:
    return b"1" if on else b"0"


def optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def pairs(checks: Checks) -> list[bytes]:
    return [data for field, check in checks.fields.items() for data in (field, encoded(check))]


def names_digest(raw: Mapping[bytes, bytes]) -> str:
    """Digest of the set of data fields; the scripts compute the same.

    It does not depend on order: a count, and a sum of 48-bit hashes.
    """
    hashes = [int(sha1(field)[:12], 16) for field in raw if field and field[:1] in DATA_KINDS]
    return f"{len(hashes)}:{sum(hashes) % 2**48}"


def still_so(checks: Checks, raw: Mapping[bytes, bytes]) -> bool:
    """Tell whether what was read is so in a later state of the stored hash."""
    if checks.names and checks.names != names_digest(raw):
        return False
    for field, check in checks.fields.items():
        stored = raw.get(field)
        if stored is None:
            if check:
                return False
        elif check not in ("+", sha1(stored)):
            return False
    return True
