"""The sessions of one user: list them, and log out everywhere."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from . import errors
from .engine.fields import DEVICE_FIELD, LABEL_FIELD, exact_key, index_field
from .engine.index import Index
from .engine.plan import Cause
from .engine.protocol import Description
from .engine.seals import Bound
from .engine.store import Store
from .engine.tokens import digest_stored, moments
from .events import SessionInvalidated, send
from .factory import RedisSessionFactory, factory_of
from .session import RedisSession

__all__ = [
    "SessionInfo",
    "context",
    "index_of",
    "info_of",
    "moment",
    "revoke",
    "sessions_of",
    "with_current",
]


@dataclasses.dataclass(frozen=True, slots=True)
class SessionInfo:
    """One live session of an owner.

    :ivar fingerprint: the short one-way name of its id.
    :ivar created: start of its life, in UTC.
    :ivar last_seen: last refresh of its idle timeout, in UTC: with
        ``timeout_trigger`` requests in between are not seen. ``None`` where
        the session has no idle timeout, or its life is cut short otherwise.
    :ivar label: what the application set as ``session.label``.
    :ivar current: it is the session of the request that asks.
    :ivar device_bound: it is bound to a device (``device_binding``).
    """

    fingerprint: str
    created: datetime.datetime
    last_seen: datetime.datetime | None
    label: str | None
    current: bool
    device_bound: bool


def sessions_of(
    request_or_registry: Any, owner: str | int | None = None, **index: str | int
) -> list[SessionInfo]:
    """List the live sessions of an owner, or of another index, oldest first.

    Where the owner's index was lost (evicted, or overwritten) only the session of the
    request is found, and those that got a new token since.

    :param request_or_registry: with a request, its own session is marked
        ``current``.
    :param owner: as assigned to ``session.owner``.
    :param index: in place of an owner: name and value, as given to ``session.index()``.
    :raises StoreError: Redis failed.
    :raises TypeError: not exactly one of them is given.
    """
    factory, store, current = context(request_or_registry)
    found = index_of(factory, store, owner, index)
    infos = [
        info_of(factory, name, known, name == current)
        for members in with_current(current, found.members())
        for name, known in found.survey(members, LABEL_FIELD, DEVICE_FIELD).owned
    ]
    return sorted(infos, key=lambda info: info.created)


def revoke(
    request_or_registry: Any,
    owner: str | int | None = None,
    except_current: bool = True,
    fingerprint: str | None = None,
    **index: str | int,
) -> int:
    """End the sessions of an owner, or of another index, at once: also for requests in flight.

    A login that is under way at the same time counts as before, and its session
    ends, or as after, and it stands. What is not listed (see :func:`sessions_of`)
    does not end; nor does a session that is another owner's by now.

    :param owner: or ``index``: as of :func:`sessions_of`.
    :param except_current: spare the session of the request.
    :param fingerprint: end only the session with this fingerprint.
    :returns: how many sessions were ended.
    :raises StoreError: Redis failed; some sessions may have been ended.
    :raises TypeError: not exactly one of owner and index is given.
    """
    factory, store, current = context(request_or_registry)
    found = index_of(factory, store, owner, index)
    spared = current if except_current else None
    count = 0
    for members in with_current(current, found.members()):
        wanted = [name for name in members if name != spared]
        if fingerprint is not None:
            wanted = [name for name in wanted if errors.fingerprint(name) == fingerprint]
        ended = found.end(found.survey(wanted).owned)
        for name in ended:
            _announce(request_or_registry, factory, name)
        # Only what this call ended itself: all else in the index may be that of a login under way.
        found.forget(ended)
        count += len(ended)
    return count


def index_of(
    factory: RedisSessionFactory, store: Store, owner: Any, index: Mapping[str, Any]
) -> Index:
    if (owner is None) != (len(index) == 1) or len(index) > 1:
        raise TypeError("give an owner, or name one index and its value [docs: indexes]")
    if owner is not None:
        return Index(store, factory.sealer, factory.codec.encode(exact_key(owner)))
    ((name, value),) = index.items()
    field = index_field(name)
    return Index(store, factory.sealer, factory.codec.encode(exact_key(value)), field)


def with_current(current: str | None, batches: Iterable[list[str]]) -> Iterator[list[str]]:
    """The request's own session may be missing in an index that was lost."""
    missing = current is not None
    before: list[str] = []
    for members in batches:
        if before:
            yield before
        before = members
        missing = missing and current not in members
    yield [*before, cast("str", current)] if missing else before


def _announce(request_or_registry: Any, factory: RedisSessionFactory, session_id: str) -> None:
    registry = getattr(request_or_registry, "registry", request_or_registry)
    request = None if registry is request_or_registry else request_or_registry
    name = errors.fingerprint(session_id)
    send(registry, factory.watchers, SessionInvalidated(request, name, Cause.REVOKE.value))


def context(request_or_registry: Any) -> tuple[RedisSessionFactory, Store, str | None]:
    """Return the factory, its store, and the id of the request's own session."""
    registry = getattr(request_or_registry, "registry", request_or_registry)
    factory = factory_of(registry)
    if registry is request_or_registry:
        return factory, factory.store_for(None), None
    session, current = request_or_registry.session, None
    if isinstance(session, RedisSession):
        session._state.look_in_earnest()
        current = session.session_id
    return factory, factory.store_for(request_or_registry), current


def info_of(
    factory: RedisSessionFactory, session_id: str, known: Description, current: bool
) -> SessionInfo:
    # No seal protects it: whoever can write to Redis may have put anything there.
    start = moments(known.token)[0] or 0
    seen = None
    if known.idle_ms > 0 and 0 <= known.remaining_ms <= known.idle_ms:
        # A default timeout that was raised since would put it before the start.
        seen = moment(max(start, known.now_ms - (known.idle_ms - known.remaining_ms)))
    bound = factory.sealer.bind(session_id, digest_stored(known.token))
    device = known.told[DEVICE_FIELD]
    return SessionInfo(
        errors.fingerprint(session_id),
        moment(start),
        seen,
        _label(factory, bound, known),
        current,
        factory.settings.device_binding and bound.open(DEVICE_FIELD, device) is not None,
    )


def _label(factory: RedisSessionFactory, bound: Bound, known: Description) -> str | None:
    held = known.told[LABEL_FIELD]
    data = bound.open(LABEL_FIELD, held)
    if not held or data is None:
        return None
    try:
        label = factory.codec.decode(data)
    except Exception:
        return None  # the serializer was changed since
    return label if isinstance(label, str) else None


#: The last day that ``datetime`` knows, UTC, ms since the epoch.
LAST_MS = 253_402_214_400_000


def moment(milliseconds: int) -> datetime.datetime:
    known = max(0, min(milliseconds, LAST_MS))
    return datetime.datetime.fromtimestamp(known / 1000, datetime.timezone.utc)
