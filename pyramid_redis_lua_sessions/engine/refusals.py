"""Why a cookie opens no session, and what the request has instead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import (
    InvalidSession_DeserializationError,
    InvalidSession_DeviceLocked,
    InvalidSession_NotInBackend,
    InvalidSession_PayloadTimeout,
    InvalidSession_StoreUnavailable,
    RawDeserializationError,
    StoreUnavailable,
    fingerprint,
)
from .plan import ADRIFT, FRESH
from .protocol import Absent
from .scripts import Status
from .tokens import Ticket, Token

if TYPE_CHECKING:
    from .state import SessionState

__all__ = ["SEAL_BROKEN", "go_without", "just_ended", "refuse"]

#: How long after its session ended a browser may not know of that when its user opens a page, ms.
PAGE_GRACE_MS = 1_000

#: Stands for a session with a value that is not authentic.
SEAL_BROKEN = Absent(Status.GONE, foreign=True)


def go_without(state: SessionState, token: Token | None, failure: StoreUnavailable) -> None:
    """Redis cannot be reached: give the request an empty session, if so configured."""
    state.unreachable = True
    if state.shared.settings.on_redis_error != "ephemeral":
        raise failure
    state.stand(ADRIFT)
    state.failure = failure
    name = None if token is None else fingerprint(token.locator)
    state.report(InvalidSession_StoreUnavailable, "Redis cannot be reached", name)


def refuse(state: SessionState, absent: list[tuple[Ticket, Absent]]) -> None:
    """None of the tokens opens a session; of several, one in flight decides."""
    state.in_flight = any(just_ended(state, found) for _, found in absent)
    state.owned = any(found.owned for _, found in absent)
    # Only a login replaces a session that lives, and is locked.
    locked = next((ticket.token for ticket, found in absent if found.locked), None)
    state.stand(ADRIFT if state.in_flight or locked else FRESH)
    state.locked = locked
    absolute = state.shared.settings.absolute_timeout
    for ticket, found in absent:
        name = fingerprint(ticket.token.locator)
        if found is SEAL_BROKEN:
            _refuse_corrupt(state, name, "seal broken")
        elif found.locked:
            state.report(InvalidSession_DeviceLocked, found.locked, name)
        elif found.foreign:
            _refuse_corrupt(state, name, "not a session")
        elif found.replaced:
            state.report(InvalidSession_NotInBackend, "token has been replaced", name)
        elif found.status is Status.MOVED:
            state.report(InvalidSession_NotInBackend, "session has ended", name)
        elif absolute is not None and time.time() - ticket.issued >= absolute:
            # Nothing is left in Redis that could say why; the session is as old as its
            # cookie, or older.
            state.report(InvalidSession_PayloadTimeout, "absolute timeout has passed", name)
        elif found.expired:
            state.report(InvalidSession_PayloadTimeout, "session has expired", name)
        else:
            state.report(InvalidSession_NotInBackend, "no such session", name)


def just_ended(state: SessionState, found: Absent) -> bool:
    """Whether this request was in flight when the session ended, or got a new token."""
    if found.status is not Status.MOVED:
        return False
    grace_ms = known_ms = state.shared.settings.grace * 1000
    if not found.replaced and state.host.opens_page():
        # Of a session that was ended elsewhere no cookie tells the browser. Its user must be able
        # to log in again, for which a page needs a session: its form has a CSRF token.
        known_ms = min(grace_ms, PAGE_GRACE_MS)
    # A clock may step back a little; a marker of the far future is none of ours.
    return -grace_ms <= found.age_ms - state.host.elapsed_ms() <= known_ms


def _refuse_corrupt(state: SessionState, name: str, reason: str) -> None:
    state.report(InvalidSession_DeserializationError, reason, name)
    if not state.shared.settings.deserialized_fails_new:
        raise RawDeserializationError(reason, name)
