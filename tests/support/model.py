"""The rules of overlapping requests, as a plain Python model without Redis.

Written from the documented rules, not from the engine: one class for what is stored, one for
a request. A request sees what it loaded, and what it did itself; its changes reach the store
when it finishes, in one step.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
from typing import Any, NamedTuple

CSRF = "_csrft_"


class Phase(enum.Enum):
    UNREAD = "unread"
    FRESH = "fresh"
    STORED = "stored"
    ADRIFT = "adrift"


class Flash:
    """One flash message; two are never the same."""

    def __init__(self, message: Any) -> None:
        self.message = message


#: What a session holds: key to value, and Flash to None, in the order of their saves.
Data = dict[Any, Any]


def values_of(data: Data) -> dict[Any, Any]:
    return {key: value for key, value in data.items() if not isinstance(key, Flash)}


def messages_of(data: Data) -> list[Any]:
    return [key.message for key in data if isinstance(key, Flash)]


class Cookie(NamedTuple):
    """A session's name, and the number of its token."""

    name: int
    token: int


class World:
    """What is stored.

    :param retry: ``on_conflict = retry``, else ``merge``.
    :param end_if_empty: ``invalidate_empty_session``.
    """

    def __init__(self, retry: bool = False, end_if_empty: bool = False) -> None:
        self.retry = retry
        self.end_if_empty = end_if_empty
        #: Name of a session that lives, to what it holds. The names are the model's own.
        self.live: dict[int, Data] = {}
        #: Name of a session, to the number of its token: a new one is the next number.
        self.tokens: dict[int, int] = {}
        #: Names of sessions that have ended not long ago.
        self.markers: set[int] = set()
        #: Names of sessions that emptied themselves, and that nobody has ended since.
        self.emptied: set[int] = set()
        self._names = itertools.count(1)

    def create(self, data: Data) -> Cookie:
        name = next(self._names)
        self.live[name] = data
        self.tokens[name] = 0
        return Cookie(name, 0)

    def renew(self, name: int) -> Cookie:
        """Give a session a new token."""
        self.tokens[name] += 1
        return Cookie(name, self.tokens[name])

    def opened(self, cookie: Cookie | None) -> Data | None:
        """What a cookie opens."""
        if cookie is None or cookie.token != self.tokens[cookie.name]:
            return None
        return self.live.get(cookie.name)

    def in_flight(self, cookie: Cookie | None) -> bool:
        """Whether a cookie opens nothing since not long ago: the session ended, or got another."""
        if cookie is None:
            return False
        replaced = cookie.name in self.live and cookie.token != self.tokens[cookie.name]
        return replaced or cookie.name in self.markers

    def end(self, cookie: Cookie) -> None:
        """End the session that a cookie opens."""
        if cookie.name in self.emptied:
            self.emptied.discard(cookie.name)
            self.markers.add(cookie.name)
        if self.opened(cookie) is not None:
            del self.live[cookie.name]
            self.markers.add(cookie.name)

    def forget(self, name: int) -> None:
        """Expiry or eviction: of a session, or of the marker that one has ended."""
        self.live.pop(name, None)
        self.markers.discard(name)
        self.emptied.discard(name)


@dataclasses.dataclass
class Outcome:
    """What becomes of a request.

    :ivar cookie: that the response sets.
    :ivar deletes: the response deletes the cookie.
    :ivar conflict: the save was refused, and nothing of it applied.
    :ivar dropped: changes were lost because their session was over, and that is reported.
    """

    cookie: Cookie | None = None
    deletes: bool = False
    conflict: bool = False
    dropped: bool = False


class ModelRequest:
    """One request, with the cookie of a session or none."""

    def __init__(self, world: World, cookie: Cookie | None) -> None:
        self.world = world
        self.cookie = cookie
        #: Whether the session had ended shortly before this request loaded it.
        self.in_flight = False
        self.invalidated = False
        self.ending: Cookie | None = None
        #: What it knew of the session that it ends, if it saw it alive.
        self.ending_seen: ModelRequest | None = None
        self._stand(Phase.UNREAD)

    def _stand(self, phase: Phase) -> None:
        self.phase = phase
        self.base: Data = {}  # as loaded
        self.held: Data = {}  # as the request sees it
        self.assigned: set[Any] = set()
        self.mutated: set[Any] = set()
        self.deleted: set[Any] = set()
        self.regenerates = False
        self.reads: dict[Any, Any] = {}  # what a save in retry mode relies on
        self.names_read = False

    def load(self) -> None:
        if self.phase is not Phase.UNREAD:
            return
        stored = self.world.opened(self.cookie)
        if stored is not None:
            self._stand(Phase.STORED)
            self.base = {key: _copy(value) for key, value in stored.items()}
            self.held = {key: _copy(value) for key, value in self.base.items()}
        else:
            self.in_flight = self.world.in_flight(self.cookie)
            self._stand(Phase.ADRIFT if self.in_flight else Phase.FRESH)

    # -- what a view does ------------------------------------------------------------

    def get(self, key: str) -> Any:
        self.load()
        self._note(key, presence=False)
        return self.held.get(key)

    def has(self, key: str) -> bool:
        self.load()
        self._note(key, presence=True)
        return key in self.held

    def keys(self) -> set[Any]:
        self.load()
        self.names_read = True
        return set(values_of(self.held))

    def set(self, key: str, value: Any) -> None:
        self.load()
        self.held[key] = value
        self.assigned.add(key)
        self.deleted.discard(key)

    def append(self, key: str, item: Any) -> None:
        """Change a list in place, without an assignment."""
        self._note(key, presence=False)
        self.held[key].append(item)
        self.mutated.add(key)

    def delete(self, key: str) -> None:
        self.has(key)
        self.held.pop(key, None)
        self.assigned.discard(key)
        self.mutated.discard(key)
        if key in self.base:
            self.deleted.add(key)

    def flash(self, message: Any, allow_duplicate: bool = True) -> None:
        self.load()
        if not allow_duplicate:
            self.names_read = True
            if message in messages_of(self.held):
                return
        flash = Flash(message)
        self.held[flash] = None
        self.assigned.add(flash)

    def pop_flash(self) -> list[Any]:
        self.load()
        self.names_read = True
        messages = messages_of(self.held)
        for flash in [key for key in self.held if isinstance(key, Flash)]:
            del self.held[flash]
            self.assigned.discard(flash)
            if flash in self.base:
                self.deleted.add(flash)
        return messages

    def invalidate(self) -> None:
        if self.phase in (Phase.UNREAD, Phase.STORED):
            self.ending = self.cookie
        if self.phase is Phase.STORED:
            self.ending_seen = copy.copy(self)
        self.invalidated = True
        self._stand(Phase.FRESH)

    def derives_token(self) -> bool:
        """Whether the CSRF token is that of the id, as none is stored."""
        return self.phase is Phase.STORED and not self.regenerates and CSRF not in self.held

    def regenerate(self) -> None:
        self.load()
        self.regenerates = self.phase is not Phase.FRESH
        self.delete(CSRF)
        self.deleted.add(CSRF)

    def _note(self, key: str, presence: bool) -> None:
        if key in self.assigned or key in self.deleted:
            return  # its own doing
        if key not in self.base:
            self.reads[key] = ("absent",)
        elif presence:
            self.reads.setdefault(key, ("present",))
        else:
            self.reads[key] = ("value", self.base[key])

    # -- the save ------------------------------------------------------------------

    def finish(self) -> Outcome:
        world, outcome = self.world, Outcome()
        changed = self.assigned | self.mutated
        own = {key: value for key, value in self.held.items() if key in changed}
        if self.phase is Phase.ADRIFT:
            self._finish_adrift(own, outcome)
        elif self.phase is Phase.STORED and self.regenerates:
            self._finish_regeneration(own, outcome)
        elif self.phase is Phase.STORED and (own or self.deleted):
            self._finish_save(own, outcome)
        elif self.phase is Phase.FRESH and own:
            seen, stored = self.ending_seen, world.opened(self.ending)
            if seen is not None and stored is not None and seen._outdated(stored):
                outcome.conflict = True  # the new session may stand on what was read of the old
            else:
                outcome.cookie = world.create(own)
        if self.invalidated and self.cookie is not None and outcome.cookie is None:
            # A logout deletes the cookie, unless another request has ended the session meanwhile,
            # or renewed its token: the browser may have got the cookie of a newer login since.
            meanwhile = self.ending_seen is not None and world.opened(self.ending) is None
            ended = self.ending is not None and (
                world.in_flight(self.ending) or self.ending.name in world.emptied
            )
            outcome.deletes = not (self.in_flight or meanwhile or ended)
        if self.ending is not None:
            world.end(self.ending)
        return outcome

    def _finish_adrift(self, own: Data, outcome: Outcome) -> None:
        if self.regenerates and not set(own) <= {CSRF}:
            outcome.cookie = self.world.create(own)
        else:
            # Nothing, or only a token, is no login.
            outcome.dropped = bool(own) or self.regenerates

    def _finish_save(self, own: Data, outcome: Outcome) -> None:
        assert self.cookie is not None
        stored = self.world.opened(self.cookie)
        if stored is None:
            read = self.world.retry and bool(self.reads or self.names_read)
            outcome.conflict = read and self.cookie.name in self.world.emptied
            outcome.dropped = not outcome.conflict
        elif self._outdated(stored):
            outcome.conflict = True
        else:
            self._apply(stored, own)
            emptied = not own and set(self.base) <= self.deleted and not stored
            if self.world.end_if_empty and emptied:
                # What comes next with this cookie is none of a request in flight.
                self.world.forget(self.cookie.name)
                self.world.emptied.add(self.cookie.name)

    def _finish_regeneration(self, own: Data, outcome: Outcome) -> None:
        assert self.cookie is not None
        stored = self.world.opened(self.cookie)
        if stored is None:
            self._finish_adrift(own, outcome)
            self.world.end(self.cookie)
        elif self._outdated(stored):
            outcome.conflict = True
        else:
            self._apply(stored, own)
            outcome.cookie = self.world.renew(self.cookie.name)

    def _apply(self, stored: Data, own: Data) -> None:
        for key in self.deleted:
            stored.pop(key, None)
        stored.update(own)

    def _outdated(self, stored: Data) -> bool:
        if not self.world.retry:
            return False
        if self.names_read and set(stored) != set(self.base):
            return True
        for key, (kind, *value) in self.reads.items():
            if (key in stored) is (kind == "absent"):
                return True
            if kind == "value" and stored[key] != value[0]:
                return True
        return False


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
