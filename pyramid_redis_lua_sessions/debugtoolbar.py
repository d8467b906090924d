"""A panel of ``pyramid_debugtoolbar``: the session, and what it asked of Redis.

It shows what the request itself came to know. Nothing is loaded, refreshed or
decoded for it, and no value is shown: only keys, types and sizes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyramid.exceptions import ConfigurationError
from pyramid_debugtoolbar.panels import DebugPanel
from pyramid_debugtoolbar.toolbar import IPanelMap, IToolbarWSGIApp

from .engine.fields import FLASH_KIND, KEY_KINDS, UNIT_SEPARATOR, key_of
from .engine.plan import Phase
from .engine.state import SessionState, number
from .engine.tokens import TOKEN_FIELD, moments
from .engine.trace import Trace
from .errors import InvalidSession_ChangesDropped, fingerprint
from .turn import TURNS, Turn
from .watch import Call, watch

__all__ = ["SessionPanel", "includeme"]

#: Rows of the table of keys.
MOST_KEYS = 200

#: Characters of a key.
MOST_CHARACTERS = 120


class Key(NamedTuple):
    """A row of the table of keys.

    :ivar size: bytes in Redis, seal included; of a deleted key 0, of one that ended
        with its session what it was.
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
            raise ConfigurationError(
                "include pyramid_debugtoolbar before its session panel [docs: debugtoolbar]"
            )
        registry = toolbar.registry
    panels = registry.getUtility(IPanelMap)
    panels[(SessionPanel.name, False)] = SessionPanel
    if not registry.settings.get("debugtoolbar.panels"):
        panels.pop(("session", False), None)


# -- what is shown -----------------------------------------------------------------


def _described(turn: Turn) -> dict[str, Any]:
    found: dict[str, Any] = {"cookie": turn.settings.cookie_name, "prefix": turn.settings.prefix}
    found["refused"], found["dropped"] = _refused(turn), _dropped(turn)
    seen = turn.state
    past = seen.trace
    if seen.phase is Phase.UNREAD:
        return {**found, "state": "not looked at", "facts": []}
    keys = _keys(seen, past)
    return {
        **found,
        "state": _state(seen, past),
        "facts": [*_facts(seen, past, turn.settings.timeout), *_device(turn)],
        "keys": keys[:MOST_KEYS],
        "more": max(0, len(keys) - MOST_KEYS),
    }


def _state(seen: SessionState, past: Trace) -> str:
    if seen.locked is not None:
        return "bound to another device, and locked: changes are not kept"
    if seen.phase is Phase.ADRIFT:
        return "ended elsewhere, or out of reach: changes are not kept"
    if seen.phase is Phase.FRESH:
        return "invalidated" if seen.invalidated else "empty, not stored"
    if seen.invalidated:
        return "invalidated, and a new one created"
    if not seen.token_made:
        return "loaded"
    return "new" if past.name is None else "loaded, and its token renewed"


def _device(turn: Turn) -> list[tuple[str, str]]:
    """Say whether the session is bound to its device, where that is configured."""
    if not turn.settings.device_binding or turn.state.phase is not Phase.STORED:
        return []
    words = "no, and offered" if turn.state.offers else "no"
    return [("Bound to its device", "yes" if turn.state.contents.is_bound() else words)]


def _refused(turn: Turn) -> list[str]:
    """Say why a cookie gave no session, or a value was not there."""
    return [str(p) for p in turn.problems if not isinstance(p, InvalidSession_ChangesDropped)]


def _dropped(turn: Turn) -> list[tuple[str, list[str]]]:
    """List why changes were lost, and which keys they were of."""
    found = []
    for dropped in turn.state.trace.dropped:
        names = [*sorted(map(_name, dropped.fields())), *dropped.others]
        if names:
            reason = dropped.reason.removesuffix("; changes dropped")
            more = len(names) - MOST_KEYS
            found.append((reason, [*names[:MOST_KEYS], *([f"{more} more"] if more > 0 else [])]))
    return found


def _is_over(seen: SessionState) -> bool:
    """Whether the session that was loaded has ended."""
    return seen.invalidated or seen.phase is Phase.ADRIFT


def _facts(seen: SessionState, past: Trace, default_timeout: float | None) -> list[tuple[str, str]]:
    old = past.ended if seen.invalidated or seen.token_made else []
    if not old and past.name is not None and _is_over(seen):
        old = [past.name]  # it had ended before, or could not be ended
    if seen.phase is Phase.STORED:
        facts = [
            ("Fingerprint of the id", fingerprint(seen.stored_token().locator)),
            ("Created", _moment(seen.created_ms())),
            ("Idle timeout", _timeout(seen.timeout())),
            ("Remaining life", _timeout(_seconds(seen.remaining_ms))),
        ]
        if old:
            facts.insert(1, ("Fingerprint of the old id", ", ".join(old)))
        return facts
    if not _is_over(seen):
        return []
    facts = [("Fingerprint of the id", ", ".join(old))] if old else []
    if past.name is not None:
        facts += _past_facts(past, default_timeout)
    return facts


def _past_facts(past: Trace, default_timeout: float | None) -> list[tuple[str, str]]:
    own = number(past.fields.get(b"timeout"))
    timeout = default_timeout if own is None else own / 1000
    created = moments(past.fields.get(TOKEN_FIELD))[0]
    return [("Created", _moment(created)), ("Idle timeout", _timeout(timeout or None))]


def _keys(seen: SessionState, past: Trace) -> list[Key]:
    """List keys and flash messages, those that the request touched first."""
    rows = []
    before: Iterable[bytes] = past.sizes
    if _is_over(seen):
        types_before = {} if past.past is None else past.past.types()
        for field, size in past.sizes.items():
            state = "read, ended" if field in types_before else "ended"
            rows.append(Key(_name(field), state, size, types_before.get(field, "")))
        before = ()
    contents = seen.contents
    types = contents.types()
    now = {field: len(raw) for field, raw, _ in contents.stored(contents.held())}
    for field in {*now, *before}:
        if field not in now:
            state = "deleted"
        elif field not in before:
            state = "added"
        elif field in past.written:
            state = "changed"
        else:
            state = "read" if field in types else ""
        kind = types.get(field, "") if field in now else ""
        rows.append(Key(_name(field), state, now.get(field, 0), kind))
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


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _timeout(seconds: float | None) -> str:
    return "never ends" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def _moment(milliseconds: int | None) -> str:
    """UTC; the field is not sealed, so it may hold any number, or none."""
    if milliseconds is None:
        return ""
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return "out of range"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _summary(calls: list[Call]) -> str:
    trips = sum(call.round_trips for call in calls)
    took = sum(call.microseconds for call in calls) / 1000
    return f"{trips} round trip{'' if trips == 1 else 's'}, {took:.1f} ms"
