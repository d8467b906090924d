"""The sessions of one user: list them, and log out everywhere."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from pyramid.interfaces import ISessionFactory

from . import errors
from .contents import exact_key
from .events import SessionInvalidated
from .factory import RedisSessionFactory
from .serializers import LABEL_FIELD
from .session import RedisSession
from .store import Description, Store

__all__ = ["SessionInfo", "revoke", "sessions_of"]

#: Passes over the index that end whatever lives; the later ones leave logins alone that
#: came after the revoke.
THOROUGH_PASSES = 3

#: Passes before a revoke gives up.
MOST_PASSES = 100


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    """One live session of an owner.

    :ivar fingerprint: the short one-way name of its id.
    :ivar created: start of its life, in UTC.
    :ivar last_seen: last refresh of its idle timeout, in UTC: with
        ``timeout_trigger`` requests in between are not seen. ``None`` where
        the session has no idle timeout, or its life is cut short otherwise.
    :ivar label: what the application set as ``session.label``.
    :ivar current: it is the session of the request that asks.
    """

    fingerprint: str
    created: datetime.datetime
    last_seen: datetime.datetime | None
    label: str | None
    current: bool


def sessions_of(request_or_registry: Any, owner: str | int) -> list[SessionInfo]:
    """List the live sessions of an owner, oldest first.

    :param request_or_registry: with a request, its own session is marked
        ``current``.
    :param owner: as assigned to ``session.owner``.
    :raises StoreError: Redis failed.
    """
    factory, store, current = _context(request_or_registry)
    encoded = factory.codec.encode(exact_key(owner))
    found = store.survey(encoded, store.members(encoded)).owned
    infos = [_info(factory, name, known, name == current) for name, known in found]
    # The index is in the order of the logins; a session keeps its start through new ids.
    return sorted(infos, key=lambda info: info.created)


def revoke(
    request_or_registry: Any,
    owner: str | int,
    except_current: bool = True,
    fingerprint: str | None = None,
) -> int:
    """End the sessions of an owner, at once: also for requests in flight.

    Reads the index again until a pass finds nothing alive, so that a login or
    a new id under way at the same time is not missed. Logins that keep coming
    after it began are left alone in the end.

    :param except_current: spare the session of the request.
    :param fingerprint: end only the session with this fingerprint.
    :returns: how many sessions were ended.
    :raises StoreError: Redis failed; some sessions may have been ended.
    """
    factory, store, current = _context(request_or_registry)
    encoded = factory.codec.encode(exact_key(owner))
    spared = current if except_current else None
    ended, began = 0, None
    quiet: set[str] | None = None  # what the last pass looked at, if it found nothing alive
    stopped: set[str] = set()
    for number in range(MOST_PASSES):
        members = store.members(encoded)
        # A new id is in the index before the old one ends. So a pass that finds nothing
        # alive has missed one only if something was added since it read the index.
        if quiet is not None and quiet.issuperset(members):
            return ended
        found = store.survey(encoded, members)
        owned = [
            (name, known)
            for name, known in found.owned
            if name != spared and fingerprint in (None, errors.fingerprint(name))
        ]
        if began is None and owned:
            began = owned[0][1].now_ms
        if number >= THOROUGH_PASSES:
            owned = [(name, known) for name, known in owned if _start(known) <= (began or 0)]
        alive = [name for name, _ in owned]
        # What has ended is ended again, once: no request can then take its own
        # ending back.
        again = [name for name in [*found.ended, *found.gone] if name not in stopped]
        stopped.update(again)
        lived = store.end_all([*alive, *again])
        for name in lived:
            ended += 1
            _announce(request_or_registry, name)
        late = number > THOROUGH_PASSES and quiet is not None
        if not (alive or lived) and (late or not members):
            return ended
        quiet = None if alive or lived else set(members)
        store.forget(encoded, alive)
    raise errors.SessionError("an owner's sessions get new ids faster than they can be ended")


def _announce(request_or_registry: Any, session_id: str) -> None:
    registry = getattr(request_or_registry, "registry", request_or_registry)
    request = None if registry is request_or_registry else request_or_registry
    if registry.has_listeners:
        registry.notify(SessionInvalidated(request, errors.fingerprint(session_id)))


def _context(request_or_registry: Any) -> tuple[RedisSessionFactory, Store, str | None]:
    """Return the factory, its store, and the id of the request's own session."""
    registry = getattr(request_or_registry, "registry", request_or_registry)
    factory = registry.queryUtility(ISessionFactory)
    if not isinstance(factory, RedisSessionFactory):
        raise errors.SessionError("the application's sessions are not those of this package")
    if registry is request_or_registry:
        return factory, factory.store_for(None), None
    session = request_or_registry.session
    current = session.session_id if isinstance(session, RedisSession) else None
    return factory, factory.store_for(request_or_registry), current


def _info(
    factory: RedisSessionFactory, session_id: str, known: Description, current: bool
) -> SessionInfo:
    start, seen = _start(known), None
    if known.idle_ms > 0 and 0 <= known.remaining_ms <= known.idle_ms:
        # A default timeout that was raised since would put it before the start.
        seen = _moment(max(start, known.now_ms - (known.idle_ms - known.remaining_ms)))
    label = _label(factory, session_id, known.label)
    return SessionInfo(errors.fingerprint(session_id), _moment(start), seen, label, current)


def _start(known: Description) -> int:
    """When the life of a session began, ms since the epoch."""
    # No seal protects it: whoever can write to Redis may have put anything there.
    digits = known.created.partition(b" ")[0]
    return int(digits) if len(digits) < 20 and digits.isdigit() else 0


def _label(factory: RedisSessionFactory, session_id: str, stored: bytes) -> str | None:
    data = factory.sealer.bind(session_id).open(LABEL_FIELD, stored) if stored else None
    if data is None:
        return None
    try:
        label = factory.codec.decode(data)
    except Exception:
        return None  # the serializer was changed since
    return label if isinstance(label, str) else None


#: The last day that ``datetime`` knows, UTC, ms since the epoch.
LAST_MS = 253_402_214_400_000


def _moment(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(min(milliseconds, LAST_MS) / 1000, datetime.timezone.utc)
