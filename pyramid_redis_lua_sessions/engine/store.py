"""Sessions in Redis: only this module, and those beneath it, send commands.

One short method per script. Every call is one round trip, and one that the
client repeats after a lost reply has the effect of one call.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from ..connect.client import longest_repeat
from ..connect.lines import Beside, Command, line_to
from ..errors import StoreError
from ..settings import Settings
from ..settings.parsers import LONGEST_GRACE
from .calls import Call, Caller
from .failures import FAILURES, failure, is_wrong_type, raise_failed, showable, was_answered
from .observer import Observer, Step
from .scripts import SCRIPTS, Status
from .seals import Sealer
from .serializers import OWNER_FIELD
from .tokens import Token, digest_stored, draw_verifier

__all__ = [
    "MARKER_MS",
    "NO_CHECKS",
    "NO_LIFETIME",
    "Absent",
    "Checks",
    "Created",
    "Description",
    "Foreign",
    "Lifetime",
    "Loaded",
    "Renewal",
    "Saved",
    "Store",
    "batches",
    "encoded",
    "milliseconds",
    "sha1",
    "texts",
]

log = logging.getLogger(__package__)

#: Life of the marker that an ended session leaves.
MARKER_MS = int(LONGEST_GRACE * 1000)

#: How long a save is remembered at most, seconds.
LONGEST_MEMORY = 60

#: How long a staged save holds at most, ms: as long as a transaction takes to commit.
STAGE_MS = 10_000

#: Entries of an owner's index from which on a login looks which are alive.
UNTIDY = 8

#: Calls in one pipeline, and members of an index that are read, or removed, at once.
BATCH = 500

#: Sessions that are too many which one login ends at most; the next ones end the rest.
MOST_ENDED = 100

#: How often an id is drawn again before the generator is called broken.
MOST_DRAWS = 32

#: Somebody has written there, or another application uses the prefix.
INDEX_LOST = (
    "something else stood in place of an owner's index: sessions of the owner may go unseen "
    "until they get a new token"
)

ALL_TAKEN = f"id_generator returned {MOST_DRAWS} session ids that are taken"


class Loaded(NamedTuple):
    """A session that lives.

    :ivar remaining_ms: life that is left, ms; -1 = never ends.
    :ivar fields: every field of the hash, as stored.
    """

    remaining_ms: int
    fields: dict[bytes, bytes]


class Absent(NamedTuple):
    """A session that the caller's token does not open.

    :ivar status: ``GONE``; or ``MOVED``: it ended, or its token was replaced.
    :ivar age_ms: for ``MOVED``: how long ago, ms.
    :ivar replaced: the session lives, under another token; ``owned``: and is an owner's.
    :ivar expired: it was found, past its end.
    :ivar foreign: something else is stored under its locator.
    """

    status: Status
    age_ms: int = 0
    replaced: bool = False
    owned: bool = False
    expired: bool = False
    foreign: bool = False


class Created(NamedTuple):
    """A session that was created.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar created_ms: start of its life, ms since the epoch, by Redis' clock.
    :ivar token_ms: when its token was put in place.
    :ivar index: what was found in its owner's index, for :meth:`Store.tidy`.
    """

    token: Token
    remaining_ms: int
    created_ms: int
    token_ms: int
    index: Any = None


class Saved(NamedTuple):
    """Changes that were applied.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar now_ms: when, ms since the epoch, by Redis' clock; 0 where nobody asked.
    :ivar index: as in :class:`Created`.
    """

    remaining_ms: int
    now_ms: int = 0
    index: Any = None


class Renewal(NamedTuple):
    """A new token that a save puts in place.

    :ivar loaded_saves: field ``saves`` as it was loaded: nothing was saved since then.
    :ivar restart: the session's life begins anew.
    """

    token: Token
    loaded_saves: bytes
    restart: bool


class Foreign(NamedTuple):
    """What another library stored as a string.

    :ivar remaining_ms: life that is left, ms; -1 = no TTL.
    :ivar now_ms: time of the read, ms since the epoch, by Redis' clock.
    """

    value: bytes
    remaining_ms: int
    now_ms: int


class Description(NamedTuple):
    """What is known of a live session without loading it.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar idle_ms: idle timeout that ends it then, ms; 0 = something else ends
        it sooner, or it never ends.
    :ivar now_ms: Redis' clock, ms since the epoch.
    :ivar created: field ``created``; ``token``, ``owner``, ``label``: as stored, or empty.
    """

    remaining_ms: int
    idle_ms: int
    now_ms: int
    created: bytes
    token: bytes
    owner: bytes
    label: bytes


class Survey(NamedTuple):
    """What became of the sessions in an owner's index.

    :ivar owned: those that live and are the owner's; ``others``: that live and are not.
    :ivar gone: those of which nothing is left.
    """

    owned: list[tuple[str, Description]]
    others: list[str]
    gone: list[str]


class Tidied(NamedTuple):
    """What a login did to the sessions of its owner.

    :ivar ended: those that it ended.
    :ivar stays: its own is among the newest.
    """

    ended: list[str]
    stays: bool


class Lifetime(NamedTuple):
    """What a session has of its own, apart from the configured lifetimes.

    :ivar timeout_ms: its idle timeout, ms; 0 = never; ``None`` = the default.
    :ivar deadline_ms: its end whatever the activity, ms since the epoch;
        0 = remove it; ``None`` = none, or unchanged.
    """

    timeout_ms: int | None = None
    deadline_ms: int | None = None


class Checks(NamedTuple):
    """What a request read, for ``on_conflict = retry``.

    :ivar fields: field to ``""`` (was absent), ``"+"`` (was present) or the
        SHA1 of its stored value.
    :ivar names: digest of the set of fields, ``""`` where it was not read.
    """

    fields: Mapping[bytes, str] = {}
    names: str = ""


NO_CHECKS = Checks()
NO_LIFETIME = Lifetime()

Seal = Callable[[Token], Mapping[bytes, bytes]]


class Store(Caller):
    """The sessions of one factory.

    :param client: a redis-py client, ``Redis`` or ``RedisCluster``; one made
        with ``decode_responses`` will do.
    :param sealer: verifies whose a session in an owner's index is.
    """

    def __init__(self, client: Any, settings: Settings, sealer: Sealer) -> None:
        super().__init__(client)
        self._sealer = sealer
        self._most_sessions = settings.owner_sessions
        self._prefix = settings.prefix.encode("utf-8", "surrogatepass")
        self._timeout_ms = milliseconds(settings.timeout)
        self._absolute_ms = milliseconds(settings.absolute_timeout)
        self._first_ms = milliseconds(settings.first_timeout)
        self._use_ttl = _flag(settings.set_redis_ttl)
        self._remember_s = b"%d" % math.ceil(min(longest_repeat(settings) + 1, LONGEST_MEMORY))
        self._retry_mode = settings.on_conflict == "retry"
        self._id_generator = settings.id_generator or default_id
        self._life_args = (b"%d" % self._timeout_ms, b"%d" % self._absolute_ms, self._use_ttl)
        self._load_args = (
            b"%d" % self._timeout_ms,
            b"%d" % milliseconds(settings.timeout_trigger) if settings.timeout_trigger else b"",
            b"%d" % self._absolute_ms,
            self._use_ttl,
        )
        sha1 = _LOAD.sha1.encode("ascii")
        self._loading = Beside(b"HGETALL", (b"EVALSHA", sha1, b"1"), (*self._load_args, b"1"))

    def using(self, client: Any) -> Store:
        """Return the same store over another client."""
        other = copy.copy(self)
        other.client = client
        other._line = line_to(client)
        return other

    def watched(self, tell: Callable[[Step], object]) -> Store:
        """Return the same store, which tells of each step.

        :param tell: called with each; who had asked for it before is told as well.
        """
        watched = self
        if watched.observer is None:
            watched = copy.copy(self)
            prefix = self._prefix.decode("utf-8", "surrogatepass")
            watched._line = watched.observer = Observer(self._line, prefix)
        watched.observer.listeners.append(tell)
        return watched

    # -- one method per script ---------------------------------------------------

    def load(self, token: Token) -> Loaded | Absent:
        """Read a session and refresh its idle timeout.

        :raises StoreUnavailable: Redis cannot be reached or refuses.
        """
        key, digest = self._prefix + encoded(token.locator), token.digest
        if self.observer is None:
            reply = self._read(key, digest)
        else:
            reply = self.observer.note((_LOAD.name,), lambda: [self._read(key, digest)])[0]
        if reply[0] != _LOADED:
            return _absent(reply)
        return Loaded(reply[1], reply[2])

    def _read(self, key: bytes, digest: bytes) -> Any:
        """Call the script, beside an HGETALL where that travels with it; the fields are a dict.

        Every request pays for this.
        """
        if not self._line.packs:
            return _with_dict(self._run(_LOAD, key, (digest, *self._load_args)))
        try:
            found, reply = self._line.both(self._loading, key, digest)
            if isinstance(reply, RedisError):
                raise reply
        except FAILURES as exc:
            return _with_dict(self._mend(exc, _LOAD, key, (digest, *self._load_args)))
        if reply[0] != _LOADED:
            return reply
        if not isinstance(found, RedisError):
            fields = _as_dict(found)
            if b"created" in fields and fields.get(b"token", b"").startswith(digest):
                return (_LOADED, reply[1], fields)
        # It was created, or got this token, in between.
        return _with_dict(self._run(_LOAD, key, (digest, *self._load_args)))

    def create(
        self,
        seal: Seal,
        lifetime: Lifetime,
        owner: bytes | None = None,
        returning: bool = False,
        ending: Token | None = None,
    ) -> tuple[Created | Absent, Status | Absent | None]:
        """Create a session under a new token.

        :param seal: ``(token) -> fields``: the data, sealed for a token.
        :param owner: its owner, encoded, to whose index it is added first, in
            the same pipeline.
        :param returning: the client has sent a cookie back before, so
            ``first_timeout`` does not apply.
        :param ending: of a session that is to end, in the same pipeline.
        :returns: the session; or ``GONE`` where its life would already be over, ``MOVED``
            where it was created, and ended before the client repeated the call. And
            what became of the one that was to end, as :meth:`end`.
        :raises StoreError: the id generator returns nothing but taken ids.
        """
        first_ms = 0 if returning else self._first_ms
        ended: Any = None
        for _ in range(MOST_DRAWS):
            token = self.draw()
            fields, absolute_ms = seal(token), self._absolute_ms
            calls = [self._creation(token, fields, lifetime, None, absolute_ms, first_ms)]
            if owner is not None:
                calls.insert(0, self._indexing(owner, token.locator))
            if ending is not None:
                calls.insert(0, self._ending(ending.locator, ending.digest))
            try:
                replies = self._together(calls) if len(calls) > 1 else [self._call(*calls[0])]
                raise_failed(*replies)
            except BaseException as exc:  # also what ends a greenlet, or a signal handler raises
                lost = not was_answered(exc)
                if lost and (len(calls) > 1 or not isinstance(exc, StoreError)):
                    self.end_unheard(token)
                raise
            if ending is not None:
                ended, ending = _ended(replies.pop(0)), None
            *indexed, reply = replies
            if reply[0] == _CREATED:
                return Created(token, *reply[1:4], *indexed), ended
            if reply[0] != Status.TAKEN:
                return _absent(reply), ended
        raise StoreError(ALL_TAKEN)

    def save(
        self,
        token: Token,
        values: Mapping[bytes, bytes],
        deletes: Sequence[bytes],
        lifetime: Lifetime = NO_LIFETIME,
        checks: Checks = NO_CHECKS,
        *,
        end_if_empty: bool = False,
        renewal: Renewal | None = None,
        owner: bytes | None = None,
        stage_id: str = "",
    ) -> Saved | Absent | Status:
        """Apply changes to a session that still lives under its token.

        :param values: fields to set, sealed; ``deletes``: fields to delete.
        :param renewal: put a new token in place; then ``values`` are all data, sealed for it.
        :param owner: as in :meth:`create`.
        :param stage_id: of :meth:`stage`, which this ends.
        :returns: or what became of the session: ``Absent``, ``Status.CONFLICT``,
            ``Status.EMPTIED``, ``Status.BUSY``, ``Status.ENDED`` (the renewal was applied, and
            the session has ended before the client repeated the call).
        """
        args: list[bytes] = [token.digest, *self._life_args, os.urandom(6), self._remember_s]
        is_plain = not (self._retry_mode or end_if_empty or renewal or checks is not NO_CHECKS)
        if is_plain and lifetime is NO_LIFETIME:
            script = _SAVE_FIELDS
            args.append(b"%d" % len(deletes))
        else:
            script = _SAVE
            reads, writes = self._marks(checks, values, deletes, renewal is not None)
            args += (
                _optional(lifetime.timeout_ms),
                _optional(lifetime.deadline_ms),
                b"" if renewal is None else renewal.token.digest,
                b"" if renewal is None else renewal.loaded_saves,
                _flag(renewal is not None and renewal.restart),
                b"%d" % (MARKER_MS if end_if_empty else 0),
                encoded(stage_id),
                reads,
                writes,
                encoded(checks.names),
                b"%d" % len(checks.fields),
                b"%d" % len(deletes),
                *_pairs(checks),
            )
        args += deletes
        for value in values.items():
            args += value
        call = (script, self._key(token.locator), args)
        if owner is None:
            indexed, reply = None, self._call(*call)
        else:
            indexed, reply = self._together([self._indexing(owner, token.locator), call])
            if isinstance(indexed, StoreError) and renewal is not None:
                # No session is an owner's without being in the index.
                self.end_unheard(renewal.token)
            raise_failed(indexed, reply)
        status = reply[0]
        if status == _SAVED:
            return Saved(reply[1], reply[2], indexed)
        if status in (Status.CONFLICT, Status.EMPTIED, Status.BUSY, Status.ENDED):
            return Status(status)
        return _absent(reply)

    def adjust(self, token: Token, lifetime: Lifetime = NO_LIFETIME) -> Saved | Absent:
        """Change only the lifetime of a session, or just refresh it."""
        args = [
            token.digest,
            *self._life_args,
            os.urandom(6),
            self._remember_s,
            _optional(lifetime.timeout_ms),
            _optional(lifetime.deadline_ms),
        ]
        reply = self._call(_ADJUST, self._key(token.locator), args)
        return Saved(reply[1]) if reply[0] == Status.ADJUSTED else _absent(reply)

    def stage(
        self,
        token: Token,
        stage_id: str,
        checks: Checks = NO_CHECKS,
        values: Iterable[bytes] = (),
        deletes: Iterable[bytes] = (),
        everything: bool = False,
    ) -> Status | Absent:
        """Announce a save, for as long as a transaction takes to commit.

        :param values: fields that it will set, or all with ``everything``.
        :returns: ``SAVED``, ``CONFLICT`` or ``BUSY``.
        """
        reads, writes = self._marks(checks, values, deletes, everything)
        return self._stage(token, stage_id, STAGE_MS, reads, writes, checks)

    def unstage(self, token: Token, stage_id: str) -> None:
        """Give up what was staged."""
        self._stage(token, stage_id, 0, b"", b"", NO_CHECKS)

    def _stage(
        self, token: Token, stage_id: str, hold_ms: int, reads: bytes, writes: bytes, checks: Checks
    ) -> Status | Absent:
        args = [token.digest, encoded(stage_id), b"%d" % hold_ms, reads, writes]
        args += (encoded(checks.names), *_pairs(checks))
        reply = self._call(_STAGE, self._key(token.locator), args)
        if reply[0] in (Status.SAVED, Status.CONFLICT, Status.BUSY):
            return Status(reply[0])
        return _absent(reply)

    def end(self, token: Token, checks: Checks = NO_CHECKS) -> Status | Absent:
        """End a session, if its token is this, and leave the marker.

        :returns: ``ENDED``, ``CONFLICT``, or that it was absent.
        """
        return _ended(self._call(*self._ending(token.locator, token.digest, checks)))

    def end_unheard(self, token: Token) -> None:
        """End what a call whose reply was lost may have made, also if it comes late."""
        self._try(self._call, *self._ending(token.locator, token.digest, mark=True))

    def take_back(self, before: Token, token: Token) -> None:
        """Undo a renewal that was not answered: it may have come through, or may come late.

        :param before: the token that it replaces; ``token``: the new one.
        """
        self._try(self._take_back, before, token)

    def _take_back(self, before: Token, token: Token) -> None:
        # This save changes the field `saves`: to a renewal that comes late it is a conflict.
        if isinstance(self.save(before, {}, []), Absent):
            self.end(token)

    def end_all(self, locators: Sequence[str], mark: bool = False) -> list[str]:
        """End sessions, whatever their tokens, and leave their markers.

        :param mark: leave them also where there is no session yet.
        :returns: the locators of those that lived.
        """
        replies = self._in_batches([self._ending(name, b"", mark=mark) for name in locators])
        ended = zip(locators, replies, strict=True)
        return [locator for locator, reply in ended if reply[0] == Status.ENDED]

    # -- the index of an owner's sessions -------------------------------------------

    def members(self, owner: bytes) -> Iterator[list[str]]:
        """Iterate over the locators in an owner's index, in batches; not all of them live.

        What stands in it from the first to the last call is found, and each once. A small
        index is one batch, oldest first.

        :param owner: the owner, encoded.
        """
        seen = set[str]()
        for found in self._scan_index(self._index_key(owner)):
            if found is None:
                log.error(INDEX_LOST)
                return
            fresh = [name for name in texts(name for name, _ in found) if name not in seen]
            seen.update(fresh)
            yield fresh

    def _scan_index(self, key: bytes) -> Iterator[list[tuple[bytes, float]] | None]:
        """Iterate over members and scores of an index; ``None``: something else stands there."""
        cursor: Any = b"0"
        while True:
            reply = self._command("ZSCAN", key, cursor, "COUNT", b"%d" % BATCH)
            if reply is None:
                yield None
                return
            cursor, found = reply
            yield scored(found)
            if not int(cursor):
                return
            cursor = b"%d" % int(cursor)

    def describe(self, locators: Sequence[str]) -> list[Description | Absent]:
        """Tell what is known of sessions without touching them."""
        args = [b"%d" % self._timeout_ms, b"%d" % self._absolute_ms]
        replies = self._in_batches([(_DESCRIBE, self._key(name), args) for name in locators])
        return [
            Description(reply[1], reply[2], reply[3], *reply[4])
            if reply[0] == Status.LOADED
            else _absent(reply)
            for reply in replies
        ]

    def survey(self, owner: bytes, locators: Sequence[str]) -> Survey:
        """Find out which sessions live and really are an owner's.

        :param owner: the owner, encoded.
        """
        found = Survey([], [], [])
        for locator, known in zip(locators, self.describe(locators), strict=True):
            if isinstance(known, Absent):
                if known.status is Status.GONE:
                    found.gone.append(locator)
                continue
            bound = self._sealer.bind(locator, digest_stored(known.token))
            if known.owner and bound.open(OWNER_FIELD, known.owner) == owner:
                found.owned.append((locator, known))
            else:
                found.others.append(locator)
        return found

    def forget(self, owner: bytes, locators: Sequence[str]) -> None:
        """Remove locators from an owner's index."""
        for some in batches(locators):
            self._command("ZREM", self._index_key(owner), *map(encoded, some))

    def tidy(self, owner: bytes, own: str, indexed: Any) -> Tidied:
        """End the older sessions that are too many, and forget those that have ended.

        The newest in the index stay, whatever overlaps: each login ends what is too many,
        also what is still on its way, and itself; but none that is younger.
        Most logins find nothing to do, and pay no round trip for it. Where many more are too
        many, as a limit was lowered, each login ends some, the oldest first: what it looks at
        are as many as an owner may have, and ``MOST_ENDED`` more.

        :param owner: the owner, encoded; ``own``: locator of the session that was added.
        :param indexed: what adding it found.
        """
        _, surplus, settled_us, found_settled = indexed
        settled = texts(found_settled)
        ended, stays = list[str](), True
        if not surplus and len(settled) <= UNTIDY:
            return Tidied(ended, stays)
        try:
            names = settled
            if surplus:
                entries = self._oldest_and_newest(owner, surplus)
                names = list(entries)
                settled = [name for name, score in entries.items() if score < settled_us]
            missing = surplus and own not in names  # a newer login has ended and forgotten it?
            found = self.survey(owner, [*names, own] if missing else names)
            owned, gone = {name for name, _ in found.owned}, {*found.gone}
            older = names[: names.index(own) + 1] if own in names else []
            # One that is neither settled nor the owner's may be that of a login under way.
            under_way = {*gone, *found.others}.intersection(older).difference(settled)
            living = owned | under_way
            newest = {*[name for name in names if name in living][-self._most_sessions :]}
            # The younger ones tidy up themselves, as soon as they are sure to stand.
            too_many = [name for name in older if name in living and name not in newest]
            stays = own in (owned if missing else newest) or not surplus
            ended = self.end_all(too_many, mark=True)
            self.forget(owner, [*too_many, *gone.intersection(settled)])
        except StoreError as exc:
            log.warning("an owner's sessions could not be tidied at login: %s", exc)
        return Tidied(ended, stays)

    def _oldest_and_newest(self, owner: bytes, surplus: int) -> dict[str, float]:
        """Return members of an index with their scores, oldest first: those that may be too
        many, and those that are newer.

        :param surplus: how many are too many; of more than ``MOST_ENDED`` the oldest.
        """
        ranges = [(b"0", b"-1")]
        if surplus > MOST_ENDED:
            ranges = [(b"0", b"%d" % (MOST_ENDED - 1)), (b"%d" % -self._most_sessions, b"-1")]
        entries = dict[str, float]()
        for first, last in ranges:
            found = self._command("ZRANGE", self._index_key(owner), first, last, "WITHSCORES")
            if found is None:
                log.error(INDEX_LOST)
                break
            for name, score in scored(found):
                for text in texts([name]):
                    entries.setdefault(text, score)
        return entries

    def _in_batches(self, calls: list[Call]) -> list[Any]:
        """Make calls that stand for themselves, in several pipelines where they are many.

        :raises StoreError: one failed.
        """
        replies: list[Any] = []
        for some in batches(calls):
            replies += self._together(some)
            raise_failed(*replies[-len(some) :])
        return replies

    def _index_key(self, owner: bytes) -> bytes:
        name = hashlib.blake2b(owner, digest_size=16, person=b"owner index").hexdigest()
        return b"%bowner:%b" % (self._prefix, name.encode("ascii"))

    def _indexing(self, owner: bytes, locator: str) -> Call:
        args = [encoded(locator), b"%d" % self._most_sessions, b"%d" % self._absolute_ms]
        return (_INDEX, self._index_key(owner), args)

    # -- scripts -----------------------------------------------------------------

    def load_scripts(self) -> None:
        """SCRIPT LOAD every script, on a cluster on every primary."""
        try:
            for script in SCRIPTS.values():
                self.client.script_load(script.source)
        except FAILURES as exc:
            raise failure("script_load", exc, self.client) from showable(exc)

    # -- sessions of another library, for migrate -----------------------------------

    def read_foreign(self, key: str, locator: str) -> Foreign | None:
        """Read a string; ``None`` where there is none.

        :param locator: on Redis Cluster, the clock is that of its node.
        """
        name = encoded(key)
        reading: list[Command] = [("TIME",), ("GET", name), ("PTTL", name)]
        try:
            if isinstance(self.client, RedisCluster):
                cluster = cast("Any", self.client)
                node = cluster.get_node_from_key(self._key(locator))
                now = cluster.execute_command("TIME", target_nodes=node)
                value, remaining_ms = map(self._line.one, reading[1:])
            elif self.observer is None:
                now, value, remaining_ms = self._line.many(reading)
            else:
                line, names = self._line, ("time", "get", "pttl")
                replies = self.observer.note(names, lambda: line.many(reading), scripts=False)
                now, value, remaining_ms = replies
        except FAILURES as exc:
            raise failure("get", exc, self.client) from showable(exc)
        if isinstance(value, Exception):
            if is_wrong_type(value):
                return None
            raise failure("get", value, self.client) from showable(value)
        if value is None:
            return None
        seconds, microseconds = map(int, now)
        return Foreign(value, remaining_ms, seconds * 1000 + microseconds // 1000)

    def create_under(
        self,
        token: Token,
        fields: Mapping[bytes, bytes],
        lifetime: Lifetime,
        created_ms: int,
        not_after_ms: int,
        first_ms: int,
    ) -> tuple[Status, int | Absent]:
        """Create a session under a given token, then give it its life.

        :param not_after_ms: create nothing from that moment on, ms since the epoch;
            later than ``created_ms``.
        :param first_ms: life until the first load, ms; 0 = as any other.
        :returns: ``CREATED``, ``TAKEN`` (by another that did the same, too) or ``GONE``
            (too late); and what is there now, as :meth:`adjust`.
        """
        # An absolute timeout ends the call's own patience; it is not stored.
        absolute_ms = not_after_ms - created_ms
        if self._absolute_ms:
            absolute_ms = min(absolute_ms, self._absolute_ms)
        nothing_new = [token.digest, *self._life_args, os.urandom(6), self._remember_s, b"", b""]
        calls: list[Call] = [
            self._creation(token, fields, lifetime, created_ms, absolute_ms, first_ms),
            (_ADJUST, self._key(token.locator), nothing_new),
        ]
        made, adjusted = self._together(calls)
        raise_failed(made, adjusted)
        alive = adjusted[0] == Status.ADJUSTED
        taken = made[0] == Status.CREATED and len(made) > 4
        return Status.TAKEN if taken else Status(made[0]), adjusted[1] if alive else _absent(
            adjusted
        )

    def delete_foreign(self, key: str) -> None:
        """Delete what another library stored."""
        self._command("DEL", encoded(key))

    def forget_field(self, locator: str, field: bytes) -> None:
        """Delete a field that is no data of the session."""
        self._command("HDEL", self._key(locator), field)

    # -- arguments ---------------------------------------------------------------

    def draw(self) -> Token:
        """Draw a new token.

        :raises StoreError: the id generator returns something else than an id.
        """
        locator = self._id_generator()
        if not isinstance(locator, str) or not locator:
            raise StoreError("id_generator must return a non-empty str")
        return Token.of(locator, draw_verifier())

    def _key(self, locator: str) -> bytes:
        return self._prefix + encoded(locator)

    def _creation(
        self,
        token: Token,
        fields: Mapping[bytes, bytes],
        lifetime: Lifetime,
        created_ms: int | None,
        absolute_ms: int,
        first_ms: int,
    ) -> Call:
        own = lifetime.timeout_ms
        args: list[bytes] = [
            token.digest,
            _optional(created_ms),
            b"%d" % (self._timeout_ms if own is None else own),
            b"" if own is None else b"1",
            _optional(lifetime.deadline_ms or None),
            b"%d" % absolute_ms,
            b"%d" % first_ms,
            self._use_ttl,
        ]
        for value in fields.items():
            args += value
        return (_CREATE, self._key(token.locator), args)

    def _ending(
        self, locator: str, digest: bytes, checks: Checks = NO_CHECKS, mark: bool = False
    ) -> Call:
        args = [digest, os.urandom(6), b"%d" % MARKER_MS, _flag(mark), encoded(checks.names)]
        args += _pairs(checks)
        return (_END, self._key(locator), args)

    def _marks(
        self, checks: Checks, values: Iterable[bytes], deletes: Iterable[bytes], everything: bool
    ) -> tuple[bytes, bytes]:
        """Return what a save reads and writes, as staged saves are compared by."""
        if not self._retry_mode:
            return b"", b""
        if everything:
            return b"*", b"*"
        reads = "*" if checks.names else "".join(sha1(field)[:8] for field in checks.fields)
        writes = "".join(sha1(field)[:8] for field in (*values, *deletes))
        return reads.encode("ascii"), writes.encode("ascii")


# Python 3.11 takes long to look up a member of an enum.
_LOADED, _SAVED, _CREATED = int(Status.LOADED), int(Status.SAVED), int(Status.CREATED)

_LOAD = SCRIPTS["load_and_touch"]
_CREATE = SCRIPTS["create_unique"]
_SAVE = SCRIPTS["save_if_changed"]
_SAVE_FIELDS = SCRIPTS["save_fields"]
_ADJUST = SCRIPTS["adjust_timeout"]
_STAGE = SCRIPTS["stage_save"]
_END = SCRIPTS["end_session"]
_INDEX = SCRIPTS["index_session"]
_DESCRIBE = SCRIPTS["describe_session"]


def default_id() -> str:
    """Return a session id of 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds; 0 for none."""
    return 0 if seconds is None else round(seconds * 1000)


Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """Iterate over so many at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def scored(found: Sequence[Any]) -> list[tuple[bytes, float]]:
    """Return members with their scores, however the client and the protocol give them."""
    if found and isinstance(found[0], (bytes, str)):
        found = list(zip(found[::2], found[1::2], strict=True))
    return [(name, float(score)) for name, score in found]


def texts(names: Iterable[bytes]) -> list[str]:
    """Decode locators; what does not decode is none of ours."""
    texts = []
    for name in names:
        try:
            texts.append(name.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            continue
    return texts


def sha1(stored: bytes) -> str:
    """Digest of a stored value, as ``redis.sha1hex`` in a script gives it."""
    return hashlib.sha1(stored, usedforsecurity=False).hexdigest()


def _as_dict(found: Any) -> dict[bytes, bytes]:
    """Return fields as a dict; only with RESP3, and not from a script, they come as one."""
    if isinstance(found, dict):
        return found
    pairs = iter(found)
    return dict(zip(pairs, pairs, strict=True))


def _with_dict(reply: Any) -> Any:
    """Return a reply of ``load_and_touch``, the fields in it as a dict."""
    return (_LOADED, reply[1], _as_dict(reply[2])) if reply[0] == _LOADED else reply


def _flag(on: bool) -> bytes:
    return b"1" if on else b"0"


def _optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def _pairs(checks: Checks) -> list[bytes]:
    return [data for field, check in checks.fields.items() for data in (field, encoded(check))]


def _ended(reply: Any) -> Status | Absent:
    if reply[0] in (Status.ENDED, Status.CONFLICT):
        return Status(reply[0])
    return _absent(reply)


def _absent(reply: Any) -> Absent:
    detail = reply[1] if len(reply) > 1 else 0
    if reply[0] == Status.MOVED:
        replaced = reply[2] if len(reply) > 2 else 0
        return Absent(Status.MOVED, detail, replaced > 0, replaced > 1)
    return Absent(Status.GONE, expired=detail == 1, foreign=detail == 2)
