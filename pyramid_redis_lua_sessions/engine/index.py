"""An index of sessions, as of those of an owner: who is in it, and who still should be.

A session is put in by the store, in the call that makes it the owner's. So none is an owner's
without standing in the index; but not all that stand in it live, and are the owner's. What an
owner is to this index, another value is to another.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import StoreError, TooManySessions
from .fields import OWNER_FIELD
from .protocol import Absent, Description, Entry, encoded, texts
from .scripts import Status
from .seals import Sealer
from .store import BATCH, Store, batches
from .tokens import Token, digest_stored, moments

__all__ = ["MOST_ENDED", "Index", "Owned", "scan"]

log = logging.getLogger(__package__)

#: Entries of an owner's index from which on a login looks which are alive.
UNTIDY = 8

#: Sessions that are too many which one login ends at most; the next ones end the rest.
MOST_ENDED = 100

#: How often a session is looked at that gets a new token whenever it is to end.
MOST_ROUNDS = 4

#: Somebody has written there, or another application uses the prefix.
INDEX_LOST = (
    "something else stood in place of an owner's index: sessions of the owner may go unseen "
    "until they get a new token"
)


#: Locators of sessions, and what a survey found there.
Owned = list[tuple[str, Description]]


class Survey(NamedTuple):
    """What became of the sessions in an owner's index.

    :ivar owned: those that live and are the owner's; ``others``: that live and are not.
    :ivar gone: those of which nothing is left; ``ended``: no more than a marker.
    """

    owned: Owned
    others: Owned
    gone: list[str]
    ended: list[str]


class Tidied(NamedTuple):
    """What a login did to the sessions of its owner.

    :ivar ended: those that it ended.
    :ivar stays: its own is among the newest.
    """

    ended: list[str]
    stays: bool


class Index:
    """The index of one owner, or of another value.

    :param sealer: verifies whose a session is.
    :param owner: the owner, encoded; ``field``: what holds it.
    """

    def __init__(
        self, store: Store, sealer: Sealer, owner: bytes, field: bytes = OWNER_FIELD
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._owner = owner
        self._field = field

    @functools.cached_property
    def _key(self) -> bytes:
        return self._store.index_key(self._owner, self._field)

    def members(self) -> Iterator[list[str]]:
        """Iterate over the locators in an owner's index, in batches; not all of them live.

        What stands in it from the first to the last call is found, and each once. A small
        index is one batch, oldest first.
        """
        seen = set[str]()
        for found in scan(self._store, self._key):
            if found is None:
                log.error(INDEX_LOST)
                return
            fresh = [name for name in texts(name for name, _ in found) if name not in seen]
            seen.update(fresh)
            yield fresh

    def survey(self, locators: Sequence[str], *fields: bytes) -> Survey:
        """Find out which sessions live and really are the owner's.

        :param fields: to tell of, beside that of the index and that of an owner.
        """
        found = Survey([], [], [], [])
        wanted = dict.fromkeys((self._field, OWNER_FIELD, *fields))
        described = self._store.describe(locators, *wanted)
        for locator, known in zip(locators, described, strict=True):
            if isinstance(known, Absent):
                left = found.gone if known.status is Status.GONE else found.ended
                left.append(locator)
                continue
            bound = self._sealer.bind(locator, digest_stored(known.token))
            held = known.told[self._field]
            if held and bound.open(self._field, held) == self._owner:
                found.owned.append((locator, known))
            else:
                found.others.append((locator, known))
        return found

    def each(
        self, owned: Owned, act: Callable[[list[Token]], Mapping[str, Any]]
    ) -> tuple[dict[str, Any], Owned]:
        """Do something to sessions that a survey found to be the owner's.

        One that has another owner by now has another token, and is left alone. One that has
        another token for another reason is looked at again.

        :param act: ``(tokens) -> results``, by locator; of one whose token was replaced, that.
        :returns: the results; and those that got a new token all the time.
        """
        done = dict[str, Any]()
        for _ in range(MOST_ROUNDS):
            tokens = [Token(name, "", digest_stored(known.token)) for name, known in owned]
            results = act(tokens) if tokens else {}
            renewed = [n for n, r in results.items() if isinstance(r, Absent) and r.replaced]
            done |= {name: result for name, result in results.items() if name not in renewed}
            owned = self.survey(renewed).owned if renewed else []
            if not owned:
                break
        return done, owned

    def end(self, owned: Owned) -> list[str]:
        """End sessions that a survey found to be the owner's, as :meth:`each`.

        One that gets a new token all the time ends at last whatever its token.

        :returns: the locators of those that lived.
        """
        owners = {name: self._owner_in(name, known) for name, known in owned}
        end_each = functools.partial(self._store.end_each, owner_of=owners.get)
        results, renewed = self.each(
            owned, lambda tokens: end_each({one.locator: one.digest for one in tokens})
        )
        if renewed:
            results |= end_each({name: b"" for name, _ in renewed})
        return [name for name, result in results.items() if result is Status.ENDED]

    def _owner_in(self, locator: str, known: Description) -> bytes | None:
        """Return whose a session of this index is, encoded, for those who watch it."""
        if self._field == OWNER_FIELD:
            return self._owner
        bound = self._sealer.bind(locator, digest_stored(known.token))
        return bound.open(OWNER_FIELD, known.told[OWNER_FIELD]) or None

    def forget(self, locators: Sequence[str]) -> None:
        """Remove locators from the index."""
        for some in batches(locators):
            self._store.command("ZREM", self._key, *map(encoded, some))

    def admit(self, entry: Entry, locator: str) -> None:
        """Let a session in, if there is room.

        Where there seems to be none, what has ended makes room.

        :raises TooManySessions: there is none.
        """
        store = self._store
        reply = store.call(*store.indexing(entry, locator, admits=True))
        if reply[0] != Status.FULL:
            return
        leaving, ended = 0, list[bytes]()
        for found in scan(store, self._key):
            scores = {text: score for name, score in found or () for text in texts([name])}
            survey = self.survey([*scores])
            settled = [name for name, score in scores.items() if score < reply[1]]
            # A younger one of which nothing is to be seen may be that of a login under way.
            others = {name for name, _ in survey.others}
            over = others.union(survey.gone).intersection(settled) | {*survey.ended}
            ended += [data for name in over for data in (encoded(name), b"%.17g" % scores[name])]
            leaving += sum(name in entry.leaving for name, _ in survey.owned)
        if leaving or ended:
            entry = entry._replace(most=entry.most + leaving)
            reply = store.call(*store.indexing(entry, locator, *ended, admits=True))
        if reply[0] == Status.FULL:
            raise TooManySessions

    def tidy(self, entry: Entry, own: str, indexed: Any) -> Tidied:
        """End the older sessions that are too many, and forget those that have ended.

        The newest in the index stay, whatever overlaps: each login ends what is too many,
        also what is still on its way, and itself; but none that is younger.
        Most logins find nothing to do, and pay no round trip for it. Where many more are too
        many, as a limit was lowered, each login ends some, the oldest first: what it looks at
        are as many as an owner may have, and ``MOST_ENDED`` more.

        :param own: locator of the session that was added.
        :param indexed: what adding it found.
        """
        _, surplus, settled_us, found_settled = indexed
        if entry.policy in ("", "refuse"):
            surplus = 0  # it is none of an owner; or the limit was lowered, say, and nothing ends
        settled = texts(found_settled)
        ended, stays = list[str](), True
        if not surplus and len(settled) <= UNTIDY:
            return Tidied(ended, stays)
        try:
            names, entries = settled, dict[str, float]()
            if surplus:
                entries = self._oldest_and_newest(surplus, entry.most)
                names = list(entries)
                settled = [name for name, score in entries.items() if score < settled_us]
            missing = surplus and own not in names  # a newer login has ended and forgotten it?
            found = self.survey([*names, own] if missing else names)
            owned, gone = {name for name, _ in found.owned}, {*found.gone}
            older = names[: names.index(own) + 1] if own in names else []
            # One that is neither settled nor the owner's may be that of a login under way; unless
            # it got its token later: that login would have put one in place of an older one.
            others = {n for n, known in found.others if not _is_younger(known, entries.get(n, 0))}
            under_way = others.union(gone).intersection(older).difference(settled)
            living = owned | under_way
            newest = {*[name for name in names if name in living][-entry.most :]}
            if entry.policy == "end_others" and len(living.intersection(older)) > entry.most:
                newest = living & {own}
            # The younger ones tidy up themselves, as soon as they are sure to stand.
            too_many = [name for name in older if name in living and name not in newest]
            stays = own in (owned if missing else newest) or not surplus
            ended = self.end([one for one in found.owned if one[0] in too_many])
            ended += self._store.end_all([n for n in too_many if n not in owned], mark=True)
            self.forget([*too_many, *gone.intersection(settled)])
        except StoreError as exc:
            log.warning("an owner's sessions could not be tidied at login: %s", exc)
        return Tidied(ended, stays)

    def _oldest_and_newest(self, surplus: int, most: int) -> dict[str, float]:
        """Return members of an index with their scores, oldest first: those that may be too
        many, and those that are newer.

        :param surplus: how many are too many; of more than ``MOST_ENDED`` the oldest.
        :param most: how many may stay.
        """
        ranges = [(b"0", b"-1")]
        if surplus > MOST_ENDED:
            ranges = [(b"0", b"%d" % (MOST_ENDED - 1)), (b"%d" % -most, b"-1")]
        entries = dict[str, float]()
        for first, last in ranges:
            found = self._store.command("ZRANGE", self._key, first, last, "WITHSCORES")
            if found is None:
                log.error(INDEX_LOST)
                break
            for name, score in scored(found):
                for text in texts([name]):
                    entries.setdefault(text, score)
        return entries


def _is_younger(known: Description, score: float) -> bool:
    """Tell whether a session got its token after it was added to an index.

    :param score: its place there, in microseconds.
    """
    _, placed_ms = moments(known.token)
    return placed_ms is not None and (placed_ms + 1) * 1000 > score


def scan(store: Store, key: bytes) -> Iterator[list[tuple[bytes, float]] | None]:
    """Iterate over members and scores of an index; ``None``: something else stands there."""
    cursor: Any = b"0"
    while True:
        reply = store.command("ZSCAN", key, cursor, "COUNT", b"%d" % BATCH)
        if reply is None:
            yield None
            return
        cursor, found = reply
        yield scored(found)
        if not int(cursor):
            return
        cursor = b"%d" % int(cursor)


def scored(found: Sequence[Any]) -> list[tuple[bytes, float]]:
    """Return members with their scores, however the client and the protocol give them."""
    if found and isinstance(found[0], (bytes, str)):
        found = list(zip(found[::2], found[1::2], strict=True))
    return [(name, float(score)) for name, score in found]
