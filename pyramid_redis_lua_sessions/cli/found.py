"""What a stored session says of itself, and how to find it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..census import Stored
from ..engine.ends import split
from ..engine.fields import (
    CONFIRMED_FIELD,
    DEVICE_FIELD,
    FLASH_KIND,
    LABEL_FIELD,
    OWNER_FIELD,
    PLACES_FIELD,
    UNIT_SEPARATOR,
    key_of,
)
from ..engine.protocol import milliseconds
from ..engine.seals import Bound, NoSeal, Sealer
from ..engine.tokens import TOKEN_FIELD, digest_stored, moments
from ..errors import fingerprint
from ..migrate import OLD_KEY_FIELD
from ..settings import Settings
from .console import Console, RedisFailure, UsageError, printable
from .target import Target

__all__ = [
    "META",
    "Found",
    "all_hashes",
    "decode",
    "find",
    "forget_predecessors",
    "name_of",
    "naming",
    "reveal",
]

#: Every field that holds no value of the session.
META = (
    *(TOKEN_FIELD, b"timeout", b"expires", b"deadline", b"first", b"staged", b"moved"),
    *(b"saves", *(b"saves%d" % number for number in range(1, 13))),
    *(OLD_KEY_FIELD, OWNER_FIELD, LABEL_FIELD, CONFIRMED_FIELD, DEVICE_FIELD, PLACES_FIELD),
)

FINGERPRINT = re.compile("[0-9a-f]{12}")


class Found:
    """A hash under the prefix, read without touching it.

    :ivar stored_session: it is a session, be it at its end.
    :ivar alive: it is one, and has not reached its end.
    :ivar endable: it is one, or a request that had loaded it could still save to it.
    :ivar started_ms: start of its life, ms since the epoch.
    :ivar age_ms: how long it has lived.
    :ivar remaining_ms: life that is left; ``None`` = never ends.
    :ivar deadline_ms: its end whatever the activity, ms since the epoch;
        ``None`` = the application set none.
    :ivar timeout_ms: its idle timeout; 0 = none.
    :ivar seen_ms: how long ago its idle timeout was refreshed; ``None`` = it
        cannot be told.
    :ivar waiting: its cookie has not come back yet (``first_timeout``).
    :ivar ended: it is the marker of a session.
    """

    def __init__(self, session_id: str, stored: Stored, settings: Settings) -> None:
        self.session_id = session_id
        self.stored = stored
        fields, now = stored.fields, stored.now_ms
        created, _ = moments(fields.get(TOKEN_FIELD))
        self.started_ms = created or 0
        self.age_ms = max(0, now - self.started_ms)
        self.stored_session = created is not None
        self.endable = self.stored_session or (bool(settings.prefix) and TOKEN_FIELD in fields)
        self.waiting = b"first" in fields
        self.ended = created is None and _start(fields.get(b"moved", b"")[22:]) is not None
        self._settings = settings
        remaining = None if stored.ttl_ms < 0 else stored.ttl_ms
        if b"expires" in fields:
            remaining = (_number(fields[b"expires"]) or 0) - now
        self.deadline_ms = _number(fields.get(b"deadline"))
        fixed: list[int] = []  # ends that no activity moves
        if settings.absolute_timeout is not None:
            fixed.append(self.started_ms + milliseconds(settings.absolute_timeout) - now)
        if b"deadline" in fields:
            fixed.append((self.deadline_ms or 0) - now)
        self._set_to_end, self._fixed = remaining, fixed
        ends = fixed if remaining is None else [*fixed, remaining]
        self.remaining_ms = min(ends) if ends else None
        over = self.remaining_ms is not None and self.remaining_ms <= 0
        self.alive = self.stored_session and not over

    @property
    def timeout_ms(self) -> int:
        own = _number(self.stored.fields.get(b"timeout"))
        return milliseconds(self._settings.timeout) if own is None else max(0, own)

    @property
    def seen_ms(self) -> int | None:
        remaining, timeout_ms = self._set_to_end, self.timeout_ms
        if not timeout_ms or remaining is None or self.waiting:
            return None
        # Clock reads of one call may lie some milliseconds apart.
        if any(remaining >= end - 5 for end in self._fixed):
            return None
        seen = timeout_ms - remaining
        return min(seen, self.age_ms) if seen >= 0 else None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.session_id)

    def bound(self, sealer: Sealer) -> Bound:
        """Return what protects its values."""
        return sealer.bind(self.session_id, digest_stored(self.stored.fields.get(TOKEN_FIELD, b"")))


# No seal protects these: whoever can write to Redis may have put anything there. What
# the scripts take for a number is one here, so that no session lives that is not shown.

#: What stands for every number that is too large to be a time, ms.
FAR = 10**17


def _start(value: bytes | None) -> int | None:
    """Return the time with which a field begins, as ``string.match(value, '^%d+')`` finds it."""
    digits = re.match(rb"0*([0-9]+)", value or b"")
    if digits is None:
        return None
    return int(digits[1]) if len(digits[1]) < 18 else FAR


def _number(value: bytes | None) -> int | None:
    """Return the number that a field is, as Lua's ``tonumber`` reads it."""
    if value is None:
        return None
    text = value.decode("ascii", "replace").strip().lower()
    if "_" in text:  # Python alone reads that
        return None
    try:
        number = float.fromhex(text) if "x" in text else float(text)
    except ValueError:
        return None
    except OverflowError:
        return FAR
    # What is not a number is a time that no clock reaches.
    return FAR if math.isnan(number) else round(max(-FAR, min(number, FAR)))


# -- finding ---------------------------------------------------------------------------


def all_hashes(
    target: Target, *fields: bytes, batch: int = 500, counted: bool = True
) -> Iterator[tuple[int, list[Found]]]:
    """Iterate over everything under the prefix that is a hash.

    :param fields: those to read; none: all.
    :param batch: how many are read together.
    :param counted: also count the fields.
    :returns: about how much of the work that was, 0 to 1000 in all; hashes.
    """
    store = target.store
    for steps, names in store.scan_sessions():
        for start in range(0, len(names), batch):
            looked = store.look(names[start : start + batch], *fields, counted=counted).items()
            yield 0, [Found(name, stored, target.settings) for name, stored in looked]
        yield steps, []


def find(console: Console, target: Target, name: str) -> Found:
    """Find one live session.

    :param name: its id, its fingerprint, or the value of its cookie; ``-``:
        read that from standard input, so that no other user of the machine
        sees it in the list of processes.
    :raises RedisFailure: there is none, or two have that fingerprint.
    :raises UsageError: standard input has no name.
    """
    name = typed_in() if name == "-" else name.strip()
    cookie = f"{target.settings.cookie_name}={name.removeprefix(f'{target.settings.cookie_name}=')}"
    tickets, _ = target.cookies.read(cookie)
    wanted = tickets[0].token.locator if tickets else name
    found = [
        Found(session_id, stored, target.settings)
        for session_id, stored in target.store.look([wanted]).items()
    ]
    if not found and FINGERPRINT.fullmatch(name):
        with console.progress() as advance:
            for steps, names in target.store.scan_sessions():
                same = [session_id for session_id in names if fingerprint(session_id) == name]
                looked = target.store.look(same).items() if same else ()
                found += [Found(other, stored, target.settings) for other, stored in looked]
                advance(steps, "looking for the session")
    alive = [session for session in found if session.alive]
    if len(alive) > 1:
        raise RedisFailure(f"{len(alive)} sessions have this fingerprint: give the id")
    if not alive:
        raise RedisFailure("no live session has this fingerprint, id or cookie")
    return alive[0]


def typed_in() -> str:
    """Return the first line of standard input.

    :raises UsageError: there is none, or it is no text.
    """
    if sys.stdin is None:
        raise UsageError("--session -: standard input is closed")
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise UsageError("--session -: this is no fingerprint, id or cookie") from None


def forget_predecessors(target: Target, session_ids: Iterable[str]) -> int:
    """Delete what sessions were migrated from, where that was cut off.

    Before they end: else their old cookies would bring them back. The field that
    names the old key has no seal; but the session's id was derived from it, and
    values are sealed for that id, so nobody can make us delete another key.

    :returns: how many old keys were left, as that cannot be verified.
    """
    left = 0
    looked = target.store.look(session_ids, OLD_KEY_FIELD).items()
    cut_off = [session_id for session_id, stored in looked if stored.fields]
    for session_id, stored in target.store.look(cut_off).items():
        old = stored.fields.get(OLD_KEY_FIELD, b"")
        try:
            old_id = old.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            old_id = ""
        bound = Found(session_id, stored, target.settings).bound(target.sealer)
        migration = target.migration
        may_be = [migration.token(old_id, secret).locator for secret in migration.secrets]
        if bound.open_all(stored.fields) and session_id in may_be:
            target.store.command("DEL", old)
        else:
            left += 1
    return left


# -- in words --------------------------------------------------------------------------


def naming(field: bytes) -> dict[str, str | int]:
    """Say what a field holds, for JSON: a key, or a flash message in a queue."""
    if field[:1] == FLASH_KIND:
        return {"flash": field[1:].rpartition(UNIT_SEPARATOR)[0].decode("utf-8", "replace")}
    try:
        return {"key": key_of(field)}
    except ValueError:
        return {"foreign": repr(field)}


def name_of(field: bytes) -> str:
    """Say what a field holds: a key as Python writes it, or a flash message."""
    ((kind, name),) = naming(field).items()
    if kind == "flash":
        return f"flash message in {name!r}" if name else "flash message"
    return printable(repr(name)) if kind == "key" else f"{name} (none of ours)"


def decode(target: Target, session: Found, field: bytes) -> Any:
    """Decode a value.

    :raises KeyError: there is none.
    :raises ValueError: it is not authentic, or cannot be decoded; the message
        says why, and quotes nothing.
    """
    safe = target.settings.serialize in ("json", "msgpack")
    if isinstance(target.sealer, NoSeal) and not safe:
        raise ValueError("not decoded, as no seal protects it")
    data = session.bound(target.sealer).open(field, session.stored.fields[field])
    if data is None:
        raise ValueError("not authentic")
    end_ms, data = split(data) or (FAR, data)
    if end_ms <= session.stored.now_ms:
        raise ValueError("past its end")
    try:
        if field[:1] != FLASH_KIND:
            return target.codec.decode(data)
        messages = target.codec.decode_messages(data)
        return messages if len(messages) > 1 else messages[0]
    except Exception as exc:  # whatever the serializer raises
        raise ValueError(f"does not decode: {type(exc).__name__}") from None


def reveal(target: Target, session: Found, field: bytes) -> str:
    """Say what a value is, as Python writes it."""
    try:
        return printable(repr(decode(target, session, field)))
    except Exception as exc:  # the value's own __repr__ may raise, too
        return f"({exc})" if isinstance(exc, ValueError) else f"({type(exc).__name__})"
