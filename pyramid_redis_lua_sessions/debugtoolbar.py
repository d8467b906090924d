"""A panel of ``pyramid_debugtoolbar``: the session, and what it asked of Redis.

It shows what the request itself came to know. Nothing is loaded, refreshed or
decoded for it, and no value is shown: only keys, types and sizes.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError
from pyramid_debugtoolbar.panels import DebugPanel
from pyramid_debugtoolbar.toolbar import IPanelMap, IToolbarWSGIApp

from .errors import fingerprint
from .factory import TURNS, Turn
from .serializers import FLASH_KIND, KEY_KINDS, UNIT_SEPARATOR, key_of
from .session import Overview
from .state import Phase
from .watch import Call, WatchedStore, watch

__all__ = ["SessionPanel", "includeme"]

#: Rows of the table of keys.
MOST_KEYS = 200

#: Characters of a key.
MOST_CHARACTERS = 120


class Key(NamedTuple):
    """A row of the table of keys.

    :ivar size: bytes in Redis, seal included; of a deleted key 0.
    :ivar kind: name of the value's type, ``""`` if it was not decoded.
    """

    name: str
    state: str
    size: int
    kind: str


class SessionPanel(DebugPanel):
    """The sessions of one request."""

    name = "redis_session"
    has_content = True
    template = "pyramid_redis_lua_sessions:debugtoolbar.dbtmako"
    title = "Redis session"
    nav_title = title

    def __init__(self, request: Any) -> None:
        self.data: dict[str, Any] = {"sessions": [], "calls": []}
        self._calls = watch(request)
        self._calls_before = len(self._calls)  # of an attempt that is repeated now
        self._deferred = 0
        request.add_finished_callback(self._finish)

    def _finish(self, request: Any) -> None:
        """Keep what there is to show, when nothing comes after; not the request itself."""
        if request.finished_callbacks and self._deferred < 10:
            # The session's own callback, which comes last too, may still save.
            self._deferred += 1
            request.add_finished_callback(self._finish)
            return
        calls = self._calls[self._calls_before :]
        self._calls = []
        turns = getattr(request, TURNS, ())
        self.data = {"sessions": [_described(turn) for turn in turns], "calls": calls}
        if calls:
            self.nav_subtitle = _summary(calls)


def includeme(config: Any) -> None:
    """Add the panel, by the setting ``debugtoolbar.includes`` or by ``config.include``.

    The toolbar's own panel for sessions makes way, unless the setting
    ``debugtoolbar.panels`` names it: it reads the whole session at each request.

    :raises pyramid.exceptions.ConfigurationError: ``pyramid_debugtoolbar`` was
        not included before.
    """
    registry = config.registry
    if registry.queryUtility(IPanelMap) is None:  # not the toolbar's own configuration
        toolbar = registry.queryUtility(IToolbarWSGIApp)
        if toolbar is None:
            raise ConfigurationError("include pyramid_debugtoolbar before its session panel")
        registry = toolbar.registry
    panels = registry.getUtility(IPanelMap)
    panels[(SessionPanel.name, False)] = SessionPanel
    if not registry.settings.get("debugtoolbar.panels"):
        panels.pop(("session", False), None)


# -- what is shown -----------------------------------------------------------------


def _described(turn: Turn) -> dict[str, Any]:
    found: dict[str, Any] = {"cookie": turn.settings.cookie_name, "prefix": turn.settings.prefix}
    seen = turn.session.overview()
    if seen is None:
        return {**found, "state": "not looked at", "facts": []}
    before_id, before = _loaded(turn)
    if seen.invalidated:
        before = {}
    keys = _keys(seen, before)
    return {
        **found,
        "state": _state(seen, before_id),
        "facts": _facts(seen),
        "keys": keys[:MOST_KEYS],
        "more": max(0, len(keys) - MOST_KEYS),
    }


def _loaded(turn: Turn) -> tuple[str | None, dict[bytes, bytes]]:
    """Return the fingerprint and the encoded values of what was loaded."""
    store = turn.used_store
    if not isinstance(store, WatchedStore) or store.loaded is None:
        return None, {}
    session_id, fields = store.loaded
    return fingerprint(session_id), turn.sealer.bind(session_id).open_all(fields) or {}


def _state(seen: Overview, before_id: str | None) -> str:
    if seen.phase is Phase.ADRIFT:
        return "ended elsewhere, or out of reach: changes are not kept"
    if seen.phase is Phase.FRESH:
        return "invalidated" if seen.invalidated else "empty, not stored"
    if seen.invalidated:
        return "invalidated, and a new one created"
    if not seen.created_here:
        return "loaded"
    return "new" if before_id is None else "loaded, and its id regenerated"


def _facts(seen: Overview) -> list[tuple[str, str]]:
    if seen.phase is not Phase.STORED:
        return []
    never = "never ends"
    left = never if seen.remaining_ms < 0 else _duration(seen.remaining_ms / 1000)
    return [
        ("Fingerprint of the id", seen.fingerprint or ""),
        ("Created", "" if seen.created_ms is None else _moment(seen.created_ms)),
        ("Idle timeout", never if seen.timeout is None else _duration(seen.timeout)),
        ("Remaining life", left),
    ]


def _keys(seen: Overview, before: Mapping[bytes, bytes]) -> list[Key]:
    """List keys and flash messages, those that the request touched first."""
    now = {field: (len(raw), encoded) for field, raw, encoded in seen.stored}
    rows = []
    for field in {*now, *before}:
        size, encoded = now.get(field, (0, None))
        if encoded is None:
            state = "deleted"
        elif field not in before:
            state = "added"
        elif encoded != before[field]:
            state = "changed"
        else:
            state = "read" if field in seen.types else ""
        kind = "" if encoded is None else seen.types.get(field, "")
        rows.append(Key(_name(field), state, size, kind))
    return sorted(rows, key=lambda row: (not row.state, row.name))


def _name(field: bytes) -> str:
    """Show a field; ``repr`` makes visible what would not print."""
    try:
        if field[:1] == FLASH_KIND:
            queue = field[1:].rpartition(UNIT_SEPARATOR)[0].decode("utf-8", "surrogatepass")
            return _short(f"flash message in queue {queue!r}")
        if field[:1] in KEY_KINDS:
            return _short(repr(key_of(field)))
    except ValueError:
        pass  # not written by this version
    return _short(field.decode("ascii", "backslashreplace"))


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _moment(milliseconds: int) -> str:
    """UTC; the field is not sealed, so it may hold any number."""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return "out of range"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _summary(calls: list[Call]) -> str:
    trips = sum(call.round_trips for call in calls)
    took = sum(call.microseconds for call in calls) / 1000
    return f"{trips} round trip{'' if trips == 1 else 's'}, {took:.1f} ms"
