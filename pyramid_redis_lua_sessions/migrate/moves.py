"""One old session: taken over, in the steps that the package describes."""

from __future__ import annotations

import base64
import enum
import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from ..cookies import LONGEST_VALUE, MOST_VALUES, cookie_values
from ..engine.contents import Contents
from ..engine.fields import exact_key
from ..engine.pieces import cut
from ..engine.protocol import Absent, Lifetime, encoded, milliseconds
from ..engine.scripts import Status
from ..engine.seals import Sealer, derive_key
from ..engine.serializers import Codec
from ..engine.store import MARKER_MS, Store
from ..engine.tokens import Ticket, Token
from ..errors import (
    InvalidSession,
    InvalidSession_DeserializationError,
    RawDeserializationError,
    StoreUnavailable,
    UnserializableValue,
    fingerprint,
)
from ..settings import Settings
from .foreign import Foreign, create_under, read_foreign
from .predecessors import PREDECESSORS, CannotMigrate, Old, make_deserializer

__all__ = ["OLD_KEY_FIELD", "Migration", "Outcome"]

#: Field of a new session that holds the old key, until that is deleted.
OLD_KEY_FIELD = b"old"

#: How long after its read a move may still create the new session, ms.
PATIENCE_MS = MARKER_MS // 2

#: An end that lies further beyond the idle timeout than clocks may differ was set on
#: purpose, ms.
ON_PURPOSE_MS = 3_600_000

#: How often a move starts over.
MOST_ATTEMPTS = 3

FLASH_PREFIX = "_f_"


class Outcome(enum.Enum):
    """What became of an old session."""

    MOVED = "moved"
    #: It had been moved before; what was left to do is done.
    FINISHED = "finished"
    EXPIRED = "expired"
    #: There is none (any more).
    ABSENT = "absent"


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


class Migration:
    """Takes over the sessions of the predecessors that the settings name."""

    def __init__(self, settings: Settings, codec: Codec, sealer: Sealer) -> None:
        self._settings = settings
        self._codec = codec
        self._sealer = sealer
        self._predecessors = [PREDECESSORS[name](settings) for name in settings.migrate_from]
        self._deserialize = make_deserializer(settings)
        #: Those that may have signed old cookies: the settings' own, or none of a
        #: ``cookie_signer``.
        self.secrets = settings.secret or (b"",)

    def token(self, old_id: str, secret: bytes) -> Token:
        """Return the token under which an old session lives from now on: MACs of the old id.

        :param secret: that signed its cookie. So all processes that accept the cookie
            agree on the token, whatever other secrets they have in a rotation.
        """
        data = encoded(old_id)

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
                reason, name = f"cannot be migrated: {exc.reason}", fingerprint(old_id)
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
        old_key = encoded(old_id)
        for _ in range(MOST_ATTEMPTS):
            found = read_foreign(store, old_id, token.locator)
            if found is None:
                _forget_old_key(store, token)
                return Outcome.ABSENT
            carried = self.convert(found)
            if carried.ends_ms <= found.now_ms:
                return Outcome.EXPIRED
            bound = self._sealer.bind(token.locator, token.digest)
            whole = {field: bound.seal(field, data) for field, data in carried.values.items()}
            fields = cut(whole, {})
            not_after_ms = int(min(found.now_ms + PATIENCE_MS, carried.ends_ms))
            made, alive = create_under(
                store,
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
            store.command("DEL", old_key)
            if not isinstance(alive, Absent):
                _forget_old_key(store, token)
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
                        contents.flash(read=False).add(message, key[len(FLASH_PREFIX) :])
                else:
                    contents.assign(exact_key(key), value)
            return contents.changes(detect=False).values
        except UnserializableValue as exc:
            raise CannotMigrate(str(exc), f"a {exc.kind} cannot be serialized") from None
        except TypeError as exc:  # it names the type of a key
            raise CannotMigrate(str(exc)) from None


def _forget_old_key(store: Store, token: Token) -> None:
    store.command("HDEL", store.key(token.locator), OLD_KEY_FIELD)


def _remaining_ms(carried: Carried, found: Foreign) -> int:
    """Life that is left until the session is looked at, ms; 0 = as any other."""
    if carried.ends_ms == math.inf:
        return 0
    return math.ceil(carried.ends_ms - found.now_ms)
