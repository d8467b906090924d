"""From where a session is used: its address, and the family of its browser.

Noted at the login, and where it is used from elsewhere since; sealed, in the session itself. A
request from the same place writes nothing, nor does one that does not look at the session, or
is not to touch it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from ..engine.contents import Contents
from ..engine.fields import OWNER_FIELD, PLACES_FIELD
from ..engine.plan import STORED, UNREAD
from ..engine.state import ASKED_NOTHING, SessionState
from ..errors import StoreError, UnserializableValue
from ..session import RedisSession
from .known import note_login

__all__ = ["Place", "noting_tween_factory", "places_in"]

log = logging.getLogger(__package__)

#: Where one ends and the next begins.
SEPARATOR = "\x1f"

#: Characters of a User-Agent that are looked at, and of what is stored.
LONGEST_AGENT = 512
LONGEST = 64


class Place(NamedTuple):
    """From where a session was used.

    :ivar address: of the client, as the WSGI server gives it (``REMOTE_ADDR``).
    :ivar browser: family of the browser and of the system, ``Firefox, Linux``; empty: unknown.
    """

    address: str
    browser: str


def noting_tween_factory(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    """Note from where the sessions of users are used."""

    def noting_tween(request: Any) -> Any:
        response = handler(request)
        session = request.__dict__.get("session")
        if isinstance(session, RedisSession):
            _note(request, session)
        return response

    return noting_tween


def _note(request: Any, session: RedisSession) -> None:
    state = session._state
    if state.phase is UNREAD or state.over or not state.touches:
        return
    contents = state.contents
    if contents.meta(OWNER_FIELD, read=False) is None:
        return
    logs_in = contents.sets(OWNER_FIELD)
    held = _parts(contents)
    agent = (request.user_agent or "")[:LONGEST_AGENT]
    mark = hashlib.blake2b(agent.encode("utf-8", "replace"), digest_size=6).hexdigest()
    address = (request.remote_addr or "")[:LONGEST]
    if logs_in or held is None or (address, mark) != (held[2], held[4]):
        now = Place(address, _browser(agent))
        login = now if logs_in or held is None else Place(held[0], held[1])
        text = SEPARATOR.join((*login, *now, mark))
        if logs_in or state.phase is not STORED or _saves(state):
            contents.assign_meta(PLACES_FIELD, text)
        else:
            _save_alone(state, text)
    if logs_in:
        note_login(request, session)


def _saves(state: SessionState) -> bool:
    """Tell whether the request saves something anyway."""
    try:
        return state.asked is not ASKED_NOTHING or bool(state.changes())
    except UnserializableValue:
        return True  # it will be told so


def _save_alone(state: SessionState, text: str) -> None:
    """Save what is noted, for a request that only reads: it must not conflict (``retry``)."""
    sealed = {PLACES_FIELD: state.bound.seal(PLACES_FIELD, state.shared.codec.encode(text))}
    try:
        state.host.store().save_each([state.stored_token()], lambda token: sealed)
    except StoreError as exc:
        log.warning("the place of a session could not be noted: %s", exc)


def _browser(agent: str) -> str:
    """Return the family of a browser, and of its system."""
    from ua_parser import parse  # it takes its time, and only this leaf needs it

    found = parse(agent)
    known = [part.family for part in (found.user_agent, found.os) if part is not None]
    clean = ", ".join(known).replace(SEPARATOR, " ")
    return clean[:LONGEST]


def _parts(contents: Contents) -> list[str] | None:
    """Return what was noted; ``None``: nothing that can be read."""
    text = contents.meta(PLACES_FIELD, read=False)
    parts = text.split(SEPARATOR) if isinstance(text, str) else []
    return parts if len(parts) == 5 else None


def places_in(text: Any) -> tuple[Place | None, Place | None]:
    """Return from where a session was logged in, and last used."""
    parts = text.split(SEPARATOR) if isinstance(text, str) else []
    if len(parts) != 5:
        return None, None
    return Place(parts[0], parts[1]), Place(parts[2], parts[3])
