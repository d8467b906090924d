"""How a session gets in among those of its owner, where these may be no more than so many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .fields import OWNER_FIELD
from .owner_index import OwnerIndex
from .plan import STORED
from .protocol import Entry
from .tokens import Token

if TYPE_CHECKING:
    from .state import SessionState

__all__ = ["admit", "admit_early", "drawing", "entry_of", "leave"]


def entry_of(state: SessionState, fields: Mapping[bytes, bytes]) -> Entry | None:
    """Return how a session gets into the index of its owner.

    :param fields: what it will hold, encoded.
    """
    owner = fields.get(OWNER_FIELD)
    if owner is None:
        return None
    if state.phase is STORED and not state.asked.login:
        return Entry(owner)
    held = [plain for _, _, plain in state.contents.stored((OWNER_FIELD,))]
    policy = state.host.settings.owner_sessions_policy
    refuses = policy == "refuse" and held != [owner]
    leaving = {ending.token.locator for ending in state.ends}
    return Entry(owner, state.host.most_sessions(owner), policy, refuses, leaving)


def admit(state: SessionState, entry: Entry | None) -> None:
    """Let the session in, where some are refused.

    :raises TooManySessions: there is no room.
    """
    if entry is not None and entry.refuses and entry.owner not in state.admitted:
        store = state.host.store()
        token = state.token or store.draw()
        OwnerIndex(store, state.host.sealer, entry.owner).admit(entry, token.locator)
        state.admitted = {entry.owner: token}


def admit_early(state: SessionState) -> None:
    """As :func:`admit`, before the databases of a transaction vote."""
    if state.host.settings.owner_sessions_policy == "refuse" and state.needs_cookie():
        admit(state, entry_of(state, state.contents.merged(state.changes())))


def drawing(state: SessionState, entry: Entry | None) -> Callable[[], Token] | None:
    """Return what draws tokens for a new session, where some are refused: one that is let in."""
    if entry is None or not entry.refuses:
        return None
    taken = False

    def draw() -> Token:
        nonlocal taken
        if taken:
            state.admitted = {}  # what else stands under that locator may be in the index, too
        taken = True
        admit(state, entry)
        return state.admitted[entry.owner]

    return draw


def leave(state: SessionState) -> None:
    """Give up what was let in, and not saved."""
    admitted, state.admitted = state.admitted, {}
    for owner, token in admitted.items():
        if state.token is None:  # else other requests have it, too
            OwnerIndex(state.host.store(), state.host.sealer, owner).forget([token.locator])
