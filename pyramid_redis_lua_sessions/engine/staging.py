"""Retry mode under a transaction: saves that are announced before they are made, and wait."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from .admission import leave
from .contents import Changes
from .plan import Cause
from .protocol import NO_CHECKS, Absent, Checks
from .scripts import Status
from .tokens import Token

if TYPE_CHECKING:
    from .state import SessionState

__all__ = ["claim", "hold", "in_turn", "patiently", "release"]

#: How long a save waits for one that is staged and clashes with it, seconds.
PATIENCE = 0.1

#: How long the last attempt of a request waits for its turn, seconds: as long as what a
#: process that died had staged may hold.
LAST_PATIENCE = 10.0

#: Seconds between two looks.
PAUSE = 0.002

Answer = TypeVar("Answer")


def claim(state: SessionState, token: Token) -> None:
    """Keep others from the session until this request is done: its last attempt.

    :raises SessionConflict: others hold it for too long.
    """
    hold(state, token, NO_CHECKS, Changes({}, []), True, LAST_PATIENCE)


def hold(
    state: SessionState,
    token: Token,
    checks: Checks,
    changes: Changes,
    everything: bool,
    patience: float = PATIENCE,
) -> None:
    """Announce a save of the session, so that what clashes with it waits.

    :param everything: it will set all fields.
    :raises SessionConflict: others have announced what clashes with it, for too long; or
        what was read is no longer so.
    """
    state.stage_id = state.stage_id or secrets.token_urlsafe(6)
    result = in_turn(
        state,
        lambda: state.host.store().stage(
            token, state.stage_id, checks, changes.values, changes.deletes, everything
        ),
        patience,
    )
    if isinstance(result, Absent):
        state.stage_id = ""  # whoever looks at it next finds out
    elif result is Status.SAVED:
        state.staged = token
    else:
        raise state.conflict()


def release(state: SessionState) -> None:
    """Give up what was let in, or staged, and not saved."""
    if state.admitted:
        leave(state)
    token, state.staged = state.staged, None
    if token is not None and state.stage_id:
        stage_id, state.stage_id = state.stage_id, ""
        state.host.store().unstage(token, stage_id)


def in_turn(state: SessionState, call: Callable[[], Answer], patience: float = PATIENCE) -> Answer:
    """Make a call until nobody has staged what clashes with it.

    :raises SessionConflict: that takes too long.
    """
    answer = patiently(call, patience)
    if answer is Status.BUSY:
        raise state.conflict(Cause.BUSY)
    return answer


def patiently(call: Callable[[], Answer], patience: float = PATIENCE) -> Answer:
    """As :func:`in_turn`, for who has no session at hand.

    :returns: also ``BUSY``, where it takes too long.
    """
    until = time.monotonic() + patience
    while True:
        answer = call()
        if answer is not Status.BUSY or time.monotonic() >= until:
            return answer
        time.sleep(PAUSE)
