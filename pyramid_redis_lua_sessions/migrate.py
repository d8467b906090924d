"""Moving in: sessions of ``pyramid_session_redis`` and ``pyramid_redis_sessions``.

Their session is one string, a pickle as a rule, at a key that is the session id
in their cookie. It moves in steps, each of which can be repeated:

1. Read it. Convert it. Nothing has changed yet if it cannot be converted.
2. Create the new session, under a token derived from the old id with the secret that
   signed its cookie: of several requests that do so at once, one creates, the others
   find it taken, whichever other secrets they have. The new session remembers the
   old key.
3. Delete the old key, which now cannot lose anything.
4. Let the new session forget the old key.

Whoever stops in between leaves a state from which the next request with the old
cookie, or the next bulk run, goes on. A new cookie is sent only after step 3.
So whoever can end the new session knows that the old key is gone, and a logout
is final; its marker, which is at the derived id, keeps a request in flight from
creating the session again. That marker lives for a minute, so a move that has
taken longer than ``PATIENCE_MS`` since its read creates nothing, and starts over.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import hashlib
import hmac
import json
import logging
import math
import pickle
import pickletools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from .census import Census
from .cookies import LONGEST_VALUE, MOST_VALUES, cookie_values
from .engine.contents import Contents, exact_key
from .engine.scripts import Status
from .engine.seals import Sealer, derive_key
from .engine.serializers import Codec
from .engine.store import MARKER_MS, Absent, Foreign, Lifetime, Store, milliseconds
from .engine.tokens import Ticket, Token
from .errors import (
    InvalidSession,
    InvalidSession_DeserializationError,
    RawDeserializationError,
    StoreUnavailable,
    UnserializableValue,
    fingerprint,
)
from .settings import Settings, SettingsError

__all__ = ["OLD_KEY_FIELD", "CannotMigrate", "Migration", "Outcome", "Summary", "migrate_all"]

log = logging.getLogger(__package__)

#: Field of a new session that holds the old key, until that is deleted.
OLD_KEY_FIELD = b"old"

#: How long after its read a move may still create the new session, ms.
PATIENCE_MS = MARKER_MS // 2

#: Times and timeouts of old sessions that are believed, seconds: as milliseconds they have
#: 16 digits, and Lua computes with them. Milliseconds that were taken for seconds are among
#: them.
MOST_SECONDS = 9e12

#: An end that lies further beyond the idle timeout than clocks may differ was set on
#: purpose, ms.
ON_PURPOSE_MS = 3_600_000

#: How often a move starts over.
MOST_ATTEMPTS = 3

FLASH_PREFIX = "_f_"


class CannotMigrate(Exception):
    """A stored session cannot be carried over whole. The message says why; it
    quotes no value."""


class Outcome(enum.Enum):
    """What became of an old session."""

    MOVED = "moved"
    #: It had been moved before; what was left to do is done.
    FINISHED = "finished"
    EXPIRED = "expired"
    #: There is none (any more).
    ABSENT = "absent"


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


class Carried(NamedTuple):
    """An old session as it will be stored.

    :ivar values: field to encoded value, not sealed yet.
    :ivar ends_ms: end of its life as it was read, ms since the epoch.
    """

    values: dict[bytes, bytes]
    created_ms: int
    lifetime: Lifetime
    ends_ms: float


class Host(Protocol):
    """What a move needs of the request it is made in."""

    def store(self) -> Store: ...

    def report(self, problem: InvalidSession) -> None: ...


# -- the predecessors ----------------------------------------------------------------


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


def _deserializer(settings: Settings) -> Callable[[bytes], Any]:
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


# -- one session -----------------------------------------------------------------------


class Migration:
    """Takes over the sessions of the predecessors that the settings name."""

    def __init__(self, settings: Settings, codec: Codec, sealer: Sealer) -> None:
        self._settings = settings
        self._codec = codec
        self._sealer = sealer
        self._predecessors = [PREDECESSORS[name](settings) for name in settings.migrate_from]
        self._deserialize = _deserializer(settings)
        #: Those that may have signed old cookies: the settings' own, or none of a
        #: ``cookie_signer``.
        self.secrets = settings.secret or (b"",)

    def token(self, old_id: str, secret: bytes) -> Token:
        """Return the token under which an old session lives from now on: MACs of the old id.

        :param secret: that signed its cookie. So all processes that accept the cookie
            agree on the token, whatever other secrets they have in a rotation.
        """
        data = old_id.encode("utf-8", "surrogatepass")

        def mac(purpose: bytes, size: int) -> str:
            key = derive_key(secret, purpose)
            digest = hashlib.blake2b(data, key=key, digest_size=size).digest()
            return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

        return Token.of(mac(b"migrated id", 32), mac(b"migrated token", 16))

    def over(self) -> bool:
        """Tell whether ``migrate_until`` has passed."""
        until = self._settings.migrate_until
        return until is not None and time.time() >= until

    def accept(self, header: str, host: Host) -> list[Ticket]:
        """Take over the sessions of the old cookies in a header.

        :param header: the raw ``Cookie`` header, decoded as latin-1.
        :returns: what a new cookie for each would say. It is due at once, and
            whether its session lives, Redis knows.
        :raises RawDeserializationError: one cannot be carried over, and
            ``deserialized_fails_new = false``.
        :raises StoreError: Redis failed; the old session is as it was, or moved.
        """
        if self.over():
            return []
        tickets = []
        for old_id, secret in self._old_ids(header):
            token = self.token(old_id, secret)
            try:
                self.move(host.store(), old_id, token)
            except CannotMigrate as exc:
                reason, name = f"cannot be migrated: {exc}", fingerprint(old_id)
                host.report(InvalidSession_DeserializationError(reason, name))
                if not self._settings.deserialized_fails_new:
                    raise RawDeserializationError(reason, name) from None
            tickets.append(Ticket(token, int(time.time()), None, outdated=True))
        return tickets

    def _old_ids(self, header: str) -> Iterator[tuple[str, bytes]]:
        for number, value in enumerate(cookie_values(header, self._settings.cookie_name)):
            if number == MOST_VALUES:
                break
            if len(value) > LONGEST_VALUE:
                continue
            for predecessor in self._predecessors:
                try:
                    yield predecessor.read_cookie(value.encode("latin-1"))
                except ValueError:  # binascii.Error and UnicodeError are ones
                    continue
                break

    def move(self, store: Store, old_id: str, token: Token) -> Outcome:
        """Move one session, or finish a move that was interrupted.

        :param token: of :meth:`token`.
        :raises CannotMigrate: it cannot be carried over whole; it is as it was.
        :raises StoreError: Redis failed; the move can be repeated.
        """
        old_key = old_id.encode("utf-8", "surrogatepass")
        for _ in range(MOST_ATTEMPTS):
            found = store.read_foreign(old_id, token.locator)
            if found is None:
                store.forget_field(token.locator, OLD_KEY_FIELD)
                return Outcome.ABSENT
            carried = self.convert(found)
            if carried.ends_ms <= found.now_ms:
                return Outcome.EXPIRED
            bound = self._sealer.bind(token.locator, token.digest)
            fields = {field: bound.seal(field, data) for field, data in carried.values.items()}
            not_after_ms = int(min(found.now_ms + PATIENCE_MS, carried.ends_ms))
            made, alive = store.create_under(
                token,
                {OLD_KEY_FIELD: old_key, **fields},
                carried.lifetime,
                min(carried.created_ms, not_after_ms - 1),
                not_after_ms,
                first_ms=_remaining_ms(carried, found),
            )
            if isinstance(alive, Absent) and alive.status is not Status.MOVED:
                if alive.foreign:
                    raise CannotMigrate("something else is stored under its new id")
                continue  # too late, or gone again: look what is there now
            store.delete_foreign(old_id)
            if not isinstance(alive, Absent):
                store.forget_field(token.locator, OLD_KEY_FIELD)
            return Outcome.MOVED if made is Status.CREATED else Outcome.FINISHED
        raise StoreUnavailable("Redis is too slow to migrate a session")

    def convert(self, found: Foreign) -> Carried:
        """Make of an old session what will be stored.

        :raises CannotMigrate: it cannot be carried over whole.
        """
        old = self._read(found.value)
        if old is None:
            raise CannotMigrate("it is not a session of the libraries in migrate_from")
        values = self._encode(old.data)
        ends_ms = math.inf
        if found.remaining_ms >= 0:
            ends_ms = found.now_ms + found.remaining_ms
        timeout, deadline_ms = old.timeout, None
        if old.expires is not None:
            ends_ms = min(ends_ms, old.expires * 1000)
            if timeout is not None and found.remaining_ms < 0:
                # With timeout_trigger it came before the timeout, until it was near.
                ahead_ms = old.expires * 1000 - found.now_ms
                if ahead_ms > timeout * 1000 + ON_PURPOSE_MS:
                    timeout = None
            if timeout is None:
                # Without an idle timeout nothing moves this end.
                deadline_ms = round(old.expires * 1000)
        own: int | None = None
        if timeout != self._settings.timeout:
            own = 0 if timeout is None else max(1, milliseconds(timeout))
        # A second ahead is as they round; more is a clock that was wrong.
        created_ms = min(round(old.created * 1000), found.now_ms + 1000)
        absolute = self._settings.absolute_timeout
        if absolute is not None:
            ends_ms = min(ends_ms, created_ms + absolute * 1000)
        return Carried(
            values,
            max(0, created_ms),
            Lifetime(own, deadline_ms),
            ends_ms,
        )

    def _read(self, value: bytes) -> Old | None:
        try:
            payload = self._deserialize(value)
        except Exception as exc:
            # Its own message may quote a value.
            raise CannotMigrate(f"it does not decode ({type(exc).__name__})") from None
        if isinstance(payload, dict):
            for predecessor in self._predecessors:
                old = predecessor.read_payload(payload)
                if old is not None:
                    return old
        return None

    def _encode(self, data: Mapping[Any, Any]) -> dict[bytes, bytes]:
        contents = Contents({}, {}, self._codec, tracks_reads=False)
        try:
            for key, value in data.items():
                is_queue = isinstance(key, str) and key.startswith(FLASH_PREFIX)
                if is_queue and isinstance(value, (list, tuple)):
                    for message in value:
                        contents.add_flash(message, key[len(FLASH_PREFIX) :])
                else:
                    contents.assign(exact_key(key), value)
            return contents.changes(detect=False).values
        except (TypeError, UnserializableValue) as exc:
            raise CannotMigrate(str(exc)) from None


def _remaining_ms(carried: Carried, found: Foreign) -> int:
    """Life that is left until the session is looked at, ms; 0 = as any other."""
    if carried.ends_ms == math.inf:
        return 0
    return math.ceil(carried.ends_ms - found.now_ms)


# -- all sessions --------------------------------------------------------------------


@dataclasses.dataclass
class Summary:
    """What a bulk run found and did.

    :ivar moved: sessions that were carried over (or, dry, would be).
    :ivar finished: moves that had been interrupted, and were completed.
    :ivar expired: sessions whose end had come; left to Redis.
    :ivar vanished: sessions that others moved or ended meanwhile.
    :ivar refused: sessions that cannot be carried over; left as they were.
    :ivar others: strings that are no session of the predecessors.
    """

    moved: int = 0
    finished: int = 0
    expired: int = 0
    vanished: int = 0
    refused: int = 0
    others: int = 0

    #: What each count is called: after a run, and after a dry run.
    MEANINGS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "moved": ("sessions converted", "sessions to convert"),
        "finished": ("interrupted conversions completed", ""),
        "refused": (
            "sessions that cannot be converted; left as they were",
            "sessions that cannot be converted",
        ),
        "expired": ("sessions at their end; left to expire",) * 2,
        "vanished": ("sessions that users came back to, or that ended, meanwhile",) * 2,
        "others": ("other keys of the type string; not looked at",) * 2,
    }


def old_name(settings: Settings) -> re.Pattern[str]:
    """Return a pattern of the keys that the predecessors' own generators make."""
    return re.compile(rf"(?:{re.escape(settings.prefix)})?[A-Za-z0-9_-]{{64}}")


def migrate_all(
    migration: Migration,
    store: Census,
    secret: bytes,
    *,
    names: re.Pattern[str] | None,
    match: str = "*",
    dry_run: bool = False,
    refused: Callable[[str, str], object] = lambda name, reason: None,
    progress: Callable[[int, Summary], object] = lambda steps, summary: None,
    summary: Summary | None = None,
) -> Summary:
    """Move all sessions. It can be stopped at any moment, and run again.

    :param secret: that signed the old cookies.
    :param names: names of the keys to look at; ``None``: all that match. Other
        strings are not even read: they may not be trusted to be unpickled.
    :param match: glob-style pattern, for Redis.
    :param dry_run: convert, but store nothing.
    :param refused: called with fingerprint and reason for every session that
        cannot be carried over.
    :param progress: called with how much of the work was done since it was
        called last, 0 to 1000 in all, and the summary so far.
    :param summary: to count in, so that the caller has it when this is stopped.
    :raises StoreError: Redis failed; what was moved so far is safe.
    """
    summary = Summary() if summary is None else summary
    for steps, keys in store.scan_foreign(match):
        for key in keys:
            try:
                old_id = key.decode("utf-8")
            except UnicodeDecodeError:
                summary.others += 1
                continue
            if names is not None and not names.fullmatch(old_id):
                summary.others += 1
                continue
            try:
                token = migration.token(old_id, secret)
                move = _try if dry_run else Migration.move
                outcome = move(migration, store, old_id, token)
            except CannotMigrate as exc:
                summary.refused += 1
                refused(fingerprint(old_id), str(exc))
                continue
            if outcome is Outcome.MOVED:
                summary.moved += 1
            elif outcome is Outcome.FINISHED:
                summary.finished += 1
            elif outcome is Outcome.EXPIRED:
                summary.expired += 1
            else:
                summary.vanished += 1
        progress(steps, summary)
    return summary


def _try(migration: Migration, store: Store, old_id: str, token: Token) -> Outcome:
    """Find out what a move would come to."""
    found = store.read_foreign(old_id, token.locator)
    if found is None:
        return Outcome.ABSENT
    carried = migration.convert(found)
    return Outcome.EXPIRED if carried.ends_ms <= found.now_ms else Outcome.MOVED
