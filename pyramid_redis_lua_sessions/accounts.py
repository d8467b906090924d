"""The other sessions of a user: change values in all of them, and hand them out."""

from __future__ import annotations

import base64
import datetime
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from .engine.contents import Contents
from .engine.ends import Clock
from .engine.fields import (
    CONFIRMED_FIELD,
    CSRF_KEY,
    DEVICE_FIELD,
    INDEX_KIND,
    LABEL_FIELD,
    OWNER_FIELD,
    PLACES_FIELD,
    UNIT_SEPARATOR,
    exact_key,
)
from .engine.index import Index, Owned
from .engine.protocol import Absent, Loaded, Saved
from .engine.staging import LAST_PATIENCE, PAUSE
from .engine.state import confirmed_in
from .engine.tokens import Token, digest_stored
from .errors import SessionConflict
from .factory import RedisSessionFactory
from .owners import context, index_of, info_of, moment, with_current

__all__ = ["export_sessions", "update_sessions"]


def update_sessions(
    request_or_registry: Any,
    owner: str | int | None,
    values: Mapping[Any, Any],
    **index: str | int,
) -> int:
    """Set values in all live sessions of an owner, or of another index, at once.

    Other values of these sessions stay, and so does their idle timeout: nobody is kept alive.
    Requests in flight see it as a change by another request. The request's own session is
    changed as by ``request.session.update(values)``, with the request.

    A login that is under way at the same time may be missed: change first from where it takes
    the values.

    :param request_or_registry: a request; without one (a task, a shell), the registry.
    :param owner: or ``None``, and ``index``: as of :func:`sessions_of`.
    :param values: keys and values, as a session takes them.
    :returns: how many sessions were changed.
    :raises TypeError: not exactly one of owner and index is given; a key is neither
        ``str`` nor ``int``.
    :raises UnserializableValue: nothing was changed.
    :raises SessionConflict: a session was staged, or got new tokens, for ten seconds; others
        have been changed.
    :raises StoreError: Redis failed; some sessions may have been changed.
    """
    factory, store, current = context(request_or_registry)
    found = index_of(factory, store, owner, index)
    data = _encoded(factory, values)
    count = 0

    def seal(token: Token) -> dict[bytes, bytes]:
        bound = factory.sealer.bind(token.locator, token.digest)
        return {field: bound.seal(field, value) for field, value in data.items()}

    for members in with_current(current, found.members()):
        owned = found.survey(members).owned
        pending = [one for one in owned if one[0] != current]
        if len(pending) < len(owned):
            request_or_registry.session.update(values)
            count += 1
        results = _each(found, pending, lambda tokens: store.save_each(tokens, seal))
        count += sum(isinstance(result, Saved) for result in results.values())
    return count


def _each(
    found: Index, pending: Owned, act: Callable[[list[Token]], Mapping[str, Any]]
) -> dict[str, Any]:
    """As :meth:`.Index.each`, and wait for those that are staged, or get new tokens all the time.

    :returns: the results by locator.
    :raises SessionConflict: that took ten seconds.
    """
    results = dict[str, Any]()
    until = time.monotonic() + LAST_PATIENCE
    while pending:
        done, pending = found.each(pending, act)
        results |= done
        busy = [n for n, r in done.items() if not isinstance(r, (Saved, Loaded, Absent))]
        pending += found.survey(busy).owned if busy else []
        if pending:
            if time.monotonic() >= until:
                raise SessionConflict
            time.sleep(PAUSE)
    return results


def _encoded(factory: RedisSessionFactory, values: Mapping[Any, Any]) -> dict[bytes, bytes]:
    contents = Contents({}, {}, factory.codec, tracks_reads=False)
    for key, value in values.items():
        contents.assign(exact_key(key), value)
    return contents.changes(detect=False).values


def export_sessions(
    request_or_registry: Any, owner: str | int | None = None, **index: str | int
) -> list[dict[str, Any]]:
    """Return all that the live sessions of an owner, or of another index, hold.

    For a request of access to personal data (GDPR, Article 15). What JSON lacks is put as text:
    bytes in base64, moments in ISO 8601. No session is touched. Credentials are left out: ids,
    tokens, and the CSRF token.

    :param owner: or ``index``: as of :func:`sessions_of`.
    :returns: a list that ``json.dumps`` takes; a session's ``values`` are ``None`` where they
        are not authentic.
    :raises TypeError: not exactly one of owner and index is given.
    :raises SessionConflict: a session got new tokens for ten seconds.
    :raises StoreError: Redis failed.
    """
    factory, store, current = context(request_or_registry)
    found = index_of(factory, store, owner, index)
    exported = []
    for members in with_current(current, found.members()):
        owned = found.survey(members, LABEL_FIELD, DEVICE_FIELD).owned
        loaded = _each(found, owned, store.peek_each)
        for name, known in owned:
            one = loaded.get(name)
            if isinstance(one, Loaded):
                info = info_of(factory, name, known, name == current)
                exported.append((info.created, {**_about(info), **_held(factory, name, one)}))
    return [document for _, document in sorted(exported, key=lambda pair: pair[0])]


def _about(info: Any) -> dict[str, Any]:
    return {
        "session": info.fingerprint,
        "created": info.created.isoformat(),
        "last_seen": None if info.last_seen is None else info.last_seen.isoformat(),
        "current": info.current,
        "device_bound": info.device_bound,
    }


def _held(factory: RedisSessionFactory, locator: str, loaded: Loaded) -> dict[str, Any]:
    """Return what a session holds."""
    digest = digest_stored(loaded.fields[b"@"])
    plain = factory.sealer.bind(locator, digest).open_all(loaded.fields)
    if plain is None:
        return {"values": None}
    contents = Contents(loaded.fields, plain, factory.codec, tracks_reads=False)
    contents.clock = Clock(loaded.now_ms)
    indexes = [field for field in plain if field[:1] == INDEX_KIND]
    confirmed = confirmed_in(contents.meta(CONFIRMED_FIELD))
    # The device page's: address and browser of the login and of the last use, and a mark.
    places = str(contents.meta(PLACES_FIELD) or "").split(UNIT_SEPARATOR.decode())[:-1]
    return {
        "owner": contents.meta(OWNER_FIELD),
        "label": contents.meta(LABEL_FIELD),
        "indexes": {
            field[1:].decode("ascii", "replace"): contents.meta(field) for field in indexes
        },
        "confirmed": {name: moment(at_ms).isoformat() for name, at_ms in confirmed.items()},
        "places": places,
        "values": [
            {"key": key, "value": _plain(value)}
            for key, value in contents.everything(values=True).items()
            if key != CSRF_KEY
        ],
        "messages": [
            {"queue": queue, "message": _plain(message)}
            for queue, messages in contents.flash().everything().items()
            for message in messages
        ],
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        named = {str(key): _plain(inner) for key, inner in value.items()}
        if len(named) < len(value):  # 1 and "1"
            return [[_plain(key), _plain(inner)] for key, inner in value.items()]
        return named
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
