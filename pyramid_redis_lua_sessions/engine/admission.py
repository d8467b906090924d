"""How a session gets in among those of its owner, where these may be no more than so many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .fields import INDEX_KIND, OWNER_FIELD
from .index import Index
from .plan import STORED
from .protocol import Entry
from .tokens import Token

if TYPE_CHECKING:
    from .state import SessionState

__all__ = ["admit", "admit_early", "drawing", "entries_of", "indexes_of", "leave"]

_INDEX = INDEX_KIND[0]


def entries_of(state: SessionState, fields: Mapping[bytes, bytes]) -> list[Entry]:
    """Return how a session gets into the indexes by which it is to be found.

    :param fields: what it will hold, encoded.
    """
    entries = indexes_of(fields)
    owner = fields.get(OWNER_FIELD)
    if owner is not None:
        entries.insert(0, _owned(state, owner))
    return entries


def indexes_of(fields: Mapping[bytes, bytes]) -> list[Entry]:
    """Return the same, without the index of its owner."""
    # Every save pays for this.
    return [Entry(field, fields[field]) for field in fields if field[0] == _INDEX]


def _owned(state: SessionState, owner: bytes) -> Entry:
    if state.phase is STORED and not state.asked.login:
        return Entry(OWNER_FIELD, owner)
    most, policy = state.host.most_sessions(owner), state.shared.settings.owner_sessions_policy
    comes = state.contents.encoded(OWNER_FIELD) != owner
    # A login puts a token in place of one that is younger than each login before it.
    since_ms = (state.token_ms() or 0) + 1 if comes else 0
    if policy != "refuse":
        return Entry(OWNER_FIELD, owner, most, policy, since_ms=since_ms)
    leaving = {ending.token.locator for ending in state.endings}
    return Entry(OWNER_FIELD, owner, most, policy, comes, leaving, since_ms)


def admit(state: SessionState, entries: Iterable[Entry]) -> None:
    """Let the session in, where some are refused.

    :raises TooManySessions: there is no room.
    """
    for entry in entries:
        if entry.refuses and entry.value not in state.admitted:
            store = state.host.store()
            token = state.token or store.draw()
            Index(store, state.shared.sealer, entry.value).admit(entry, token.locator)
            state.admitted = {entry.value: token}


def admit_early(state: SessionState) -> None:
    """As :func:`admit`, before the databases of a transaction vote.

    And the application's function for the limit is asked: an error of it must abort them, and
    it may ask them itself.
    """
    settings = state.shared.settings
    asks = settings.owner_sessions_policy == "refuse" or callable(settings.owner_sessions)
    if asks and state.needs_cookie():
        admit(state, entries_of(state, state.contents.merged(state.changes())))


def drawing(state: SessionState, entries: Sequence[Entry]) -> Callable[[], Token] | None:
    """Return what draws tokens for a new session, where some are refused: one that is let in."""
    if not entries or not entries[0].refuses:  # the owner's is the first
        return None
    taken = False

    def draw() -> Token:
        nonlocal taken
        if taken:
            state.admitted = {}  # what else stands under that locator may be in the index, too
        taken = True
        admit(state, entries)
        return state.admitted[entries[0].value]

    return draw


def leave(state: SessionState) -> None:
    """Give up what was let in, and not saved."""
    admitted, state.admitted = state.admitted, {}
    for owner, token in admitted.items():
        if state.token is None:  # else other requests have it, too
            Index(state.host.store(), state.shared.sealer, owner).forget([token.locator])
