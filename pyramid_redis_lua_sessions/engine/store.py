"""Sessions in Redis: only this module, and those beneath it, send commands.

One method for each thing that a script is asked, and one round trip: more only for a save that
puts the session into an index before it, and for many sessions. A call that the client repeats
after a lost reply has the effect of one call.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from redis.exceptions import RedisError

from ..connect.client import longest_repeat
from ..connect.lines import Beside, line_to
from ..errors import StoreError, fingerprint
from ..settings import Settings
from ..settings.parsers import LONGEST_GRACE
from .calls import LANES, Call, Caller, take_lane
from .ends import NO_ENDS
from .failures import FAILURES, failure, raise_failed, showable, was_answered
from .fields import OWNER_FIELD
from .observer import Observer, Step
from .protocol import (
    DEFAULT_MS,
    NO_CHECKS,
    NO_LIFETIME,
    Absent,
    Checks,
    Created,
    Description,
    Entry,
    Lifetime,
    Loaded,
    Renewal,
    Save,
    Saved,
    absent_of,
    adjusted_of,
    as_dict,
    encoded,
    ended_of,
    flag,
    milliseconds,
    optional,
    pairs,
    sha1,
)
from .scripts import SCRIPTS, Status
from .tokens import CLOCKED, TOKEN_FIELD, Token, default_id, draw_verifier

__all__ = ["BATCH", "MARKER_MS", "Store", "batches"]

#: Life of the marker that an ended session leaves.
MARKER_MS = int(LONGEST_GRACE * 1000)

#: Life of a session at most, ms: a century, well within what ``PEXPIRE`` takes.
LONGEST_MS = 3_200_000_000_000

#: How long a save is remembered at most, seconds.
LONGEST_MEMORY = 60

#: How long a staged save holds at most, ms: as long as a transaction takes to commit.
STAGE_MS = 10_000

#: Calls in one pipeline, and members of an index that are read, or removed, at once.
BATCH = 500

#: How often an id is drawn again before the generator is called broken.
MOST_DRAWS = 32

ALL_TAKEN = f"id_generator returned {MOST_DRAWS} session ids that are taken"


Seal = Callable[[Token], Mapping[bytes, bytes]]


class Store(Caller):
    """The sessions of one factory.

    :param client: a redis-py client, ``Redis`` or ``RedisCluster``; one made
        with ``decode_responses`` will do.
    """

    def __init__(self, client: Any, settings: Settings) -> None:
        super().__init__(client)
        self._prefix = settings.prefix.encode("utf-8", "surrogatepass")
        self._timeout_ms = milliseconds(settings.timeout)
        self.absolute_ms = milliseconds(settings.absolute_timeout)
        self._first_ms = milliseconds(settings.first_timeout)
        self._use_ttl = flag(settings.set_redis_ttl)
        remember_s = math.ceil(min(longest_repeat(settings) + 1, LONGEST_MEMORY))
        self._remember_s, self._remembering = b"%d" % remember_s, bytes([remember_s])
        self._retry_mode = settings.on_conflict == "retry"
        self._publishes = settings.publish_endings
        self._id_generator = settings.id_generator or default_id
        self._life_args = (b"%d" % self._timeout_ms, b"%d" % self.absolute_ms, self._use_ttl)
        #: An idle timeout ends sessions, and nothing else, and Redis does so by itself.
        self._is_plain = (
            0 < self._timeout_ms <= LONGEST_MS and self.absolute_ms == 0 and settings.set_redis_ttl
        )
        trigger_ms = milliseconds(settings.timeout_trigger)
        more = [b"%d" % trigger_ms if trigger_ms else b""]
        if settings.last_seen or not self._is_plain:
            more += (self._life_args[1], self._use_ttl + b"+" * settings.last_seen)
        elif not trigger_ms:
            more = []
        self._load_args = (self._life_args[0], b"", *more)
        beside = (self._life_args[0], b"1", *more)
        self._loading = Beside(b"HGETALL", (b"EVALSHA", _LOAD.sha1.encode("ascii"), b"1"), beside)

    def using(self, client: Any) -> Store:
        """Return the same store over another client."""
        other = copy.copy(self)
        other.client = client
        other.line = line_to(client)
        return other

    def watched(self, tell: Callable[[Step], object]) -> Store:
        """Return the same store, which tells of each step.

        :param tell: called with each; who had asked for it before is told as well.
        """
        watched = self
        if watched.observer is None:
            watched = copy.copy(self)
            prefix = self._prefix.decode("utf-8", "surrogatepass")
            watched.line = watched.observer = Observer(self.line, prefix)
        watched.observer.listeners.append(tell)
        return watched

    # -- one method per script ---------------------------------------------------

    def load(self, token: Token) -> Loaded | Absent:
        """Read a session and refresh its idle timeout.

        :raises StoreUnavailable: Redis cannot be reached or refuses.
        """
        key = self._prefix + token.locator.encode("utf-8", "surrogatepass")
        if self.observer is None:
            reply = self._read(key, token.digest)
        else:
            reply = self._read_noting(self.observer, key, token.digest)
        if reply[0] != _LOADED:
            return _loaded_of(reply)
        return Loaded(reply[1], reply[2])

    def peek(self, token: Token) -> Loaded | Absent:
        """Read a session as :meth:`load` does, and write nothing."""
        return _loaded_of(self.call(*self._peeking(token)))

    def _peeking(self, token: Token) -> Call:
        return (_PEEK, self.key(token.locator), [token.digest, *self._life_args[:2]])

    def now(self, locator: str | None) -> int:
        """Ask Redis for its time, ms since the epoch.

        :param locator: of the session that it is about: on Redis Cluster, its node is asked.
        """
        now_ms: int = self.call(_END_VALUES, self.key(locator or ""), [])[1]
        return now_ms

    def _read_noting(self, observer: Observer, key: bytes, digest: bytes) -> Any:
        return observer.note((_LOAD.name,), lambda: [self._read(key, digest)])[0]

    def _read(self, key: bytes, digest: bytes) -> Any:
        """Call the script, beside an HGETALL where that travels with it; the fields are a dict.

        Every request pays for this.
        """
        if not self.line.packs:
            return _with_dict(self._run(_LOAD, key, (digest, *self._load_args)))
        try:
            found, reply = self.line.both(self._loading, key, digest)
            if isinstance(reply, RedisError):
                raise reply
        except FAILURES as exc:
            return _with_dict(self._mend(exc, _LOAD, key, (digest, *self._load_args)))
        if reply == _LOADED:
            reply = [_LOADED, self._timeout_ms]
        elif reply[0] != _LOADED and reply[0] != _CLOCKED:
            return reply
        if not isinstance(found, RedisError):
            fields = as_dict(found)
            if fields.get(TOKEN_FIELD, b"").startswith(digest):
                reply.append(fields)
                return reply
        # It was created, or got this token, in between.
        return _with_dict(self._run(_LOAD, key, (digest, *self._load_args)))

    def create(
        self,
        seal: Seal,
        lifetime: Lifetime,
        entries: Sequence[Entry] = (),
        returning: bool = False,
        ending: Token | None = None,
        ending_owner: bytes | None = None,
        draw: Callable[[], Token] | None = None,
        ends: Mapping[bytes, int] = NO_ENDS,
        clocked: bool = False,
    ) -> tuple[Created | Absent, Status | Absent | None]:
        """Create a session under a new token.

        :param seal: ``(token) -> fields``: the data, sealed for a token.
        :param entries: indexes to which it is added first, in the same pipeline.
        :param returning: the client has sent a cookie back before, so
            ``first_timeout`` does not apply.
        :param ending: of a session that is to end, in the same pipeline;
            ``ending_owner``: its owner, as in :meth:`end`.
        :param draw: draws a token, in place of :meth:`draw`.
        :param ends: field to end, ms since the epoch, of values that end.
        :param clocked: loads are to tell the time.
        :returns: the session; or ``GONE`` where its life would already be over, ``MOVED``
            where it was created, and ended before the client repeated the call. And
            what became of the one that was to end, as :meth:`end`.
        :raises StoreError: the id generator returns nothing but taken ids.
        """
        first_ms = 0 if returning else self._first_ms
        ended: Any = None
        for _ in range(MOST_DRAWS):
            token = (draw or self.draw)()
            fields, absolute_ms = seal(token), self.absolute_ms
            call = self.creation(token, fields, lifetime, None, absolute_ms, first_ms, clocked)
            calls = self._with_indexes_and_ends(call, token, entries, fields, ends)
            if ending is not None:
                message = self.message(ending.locator, ending_owner)
                calls.insert(0, self._ending(ending.locator, ending.digest, message=message))
            try:
                replies = self.together(calls) if len(calls) > 1 else [self.call(*calls[0])]
                if ends:
                    replies.pop()
                raise_failed(*replies)
            except BaseException as exc:  # also what ends a greenlet, or a signal handler raises
                lost = not was_answered(exc)
                if lost and (len(calls) > 1 or not isinstance(exc, StoreError)):
                    self.end_unheard(token)
                raise
            if ending is not None:
                ended, ending = ended_of(replies.pop(0)), None
            *indexed, reply = replies
            if reply[0] == _CREATED:
                return Created(token, reply[1], reply[2], reply[3], indexed), ended
            if reply[0] != Status.TAKEN:
                return absent_of(reply), ended
        raise StoreError(ALL_TAKEN)

    def save(
        self, token: Token, save: Save, entries: Sequence[Entry] = ()
    ) -> Saved | Absent | Status:
        """Apply changes to a session that still lives under its token.

        :param entries: indexes to which it is added first, by calls of their own.
        :returns: or what became of the session: ``Absent``, ``Status.CONFLICT``,
            ``Status.EMPTIED``, ``Status.BUSY``.
        """
        call_id = take_lane()
        call = self.saving(call_id, token, save)
        if not (entries or save.ends):
            return self._saved_of(self._call_in_lane(call_id, call))
        calls = self._with_indexes_and_ends(call, token, entries, save.values, save.ends)
        replies = self.one_by_one(calls) if entries else self.together(calls)
        return self._saved_of(*_of_index_and_save(replies, save.ends))

    def renew(
        self, token: Token, renewal: Renewal, entries: Sequence[Entry] = ()
    ) -> Saved | Absent | Status:
        """Put a new token in place, with all values sealed for it, where nothing was saved since
        they were loaded.

        :param entries: indexes to which it is added first, in the same pipeline.
        :returns: as :meth:`save`, and never ``EMPTIED``; ``Status.ENDED``: it was applied, and
            the session has ended before the client repeated the call.
        """
        new, deletes, life = renewal.token, renewal.deletes, renewal.lifetime
        call_id = take_lane()
        args = [token.digest, *self._life_args, call_id, self._remember_s]
        args += (
            optional(life.timeout_ms),
            optional(life.deadline_ms),
            new.digest,
            renewal.loaded_saves,
            flag(renewal.restart),
            CLOCKED if renewal.clocked else b"",
            encoded(renewal.stage_id),
            b"*" if self._retry_mode else b"",
            self.message(token.locator),
            b"%d" % len(deletes),
            *deletes,
        )
        for value in renewal.values.items():
            args += value
        call = (_RENEW, self.key(token.locator), args)
        if not (entries or renewal.ends):
            return self._saved_of(self._call_in_lane(call_id, call))
        replies = self.together(
            self._with_indexes_and_ends(call, new, entries, renewal.values, renewal.ends)
        )
        if any(isinstance(failed, StoreError) for failed in replies[: len(entries)]):
            # No session is an owner's without being in the index.
            self.end_unheard(new)
        return self._saved_of(*_of_index_and_save(replies, renewal.ends))

    def _call_in_lane(self, call_id: bytes, call: Call) -> Any:
        """Make a call; its lane is free again where no copy of the call can come late."""
        losses = self.line.losses
        reply = self.call(*call)
        if losses is not None and losses == self.line.losses:
            LANES.append(call_id)  # it was sent once, and answered
        return reply

    def _saved_of(self, reply: Any, indexed: Sequence[Any] = ()) -> Saved | Absent | Status:
        if reply == _SAVED:
            return Saved(self._timeout_ms, 0, indexed)
        if reply[0] == _SAVED:
            return Saved(reply[1], reply[2] if len(reply) > 2 else 0, indexed)
        if reply[0] in (Status.CONFLICT, Status.EMPTIED, Status.BUSY, Status.ENDED):
            return Status(reply[0])
        return absent_of(reply)

    def saving(self, call_id: bytes, token: Token, save: Save) -> Call:
        """Return the call that saves, as :meth:`save`.

        :param call_id: 6 bytes, by which it is recognised when it is repeated.
        """
        values, deletes, lifetime, checks, end_if_empty, _ends, token_field, marked, touches, _ = (
            save
        )
        is_plain = self._is_plain and not marked and touches and lifetime is NO_LIFETIME
        if is_plain and not (self._retry_mode or end_if_empty or checks is not NO_CHECKS):
            script = _SAVE_FIELDS
            call = (token.digest, call_id, self._remembering, len(deletes).to_bytes(4, "big"))
            args = [b"".join(call), self._life_args[0]]
        else:
            script = _SAVE
            use_ttl = self._use_ttl if touches else b""
            args = [token.digest, *self._life_args[:2], use_ttl, call_id, self._remember_s]
            args += (
                optional(lifetime.timeout_ms),
                optional(lifetime.deadline_ms),
                CLOCKED if token_field else b"",
                b"%d" % (MARKER_MS if end_if_empty else 0),
                encoded(save.stage_id),
                *self._reads_and_writes(checks, values, deletes),
                encoded(checks.names),
                b"%d" % len(checks.fields),
                b"%d" % len(deletes),
                self.message(token.locator),
                *pairs(checks),
            )
        args += deletes
        for value in values.items():
            args += value
        if token_field and script is _SAVE_FIELDS:
            args += (TOKEN_FIELD, token_field)
        return (script, self.key(token.locator), args)

    def save_each(self, tokens: Iterable[Token], seal: Seal) -> dict[str, Saved | Absent | Status]:
        """Save values to several sessions, and refresh none.

        :param seal: ``(token) -> fields``: the values, sealed for a token.
        :returns: as :meth:`save`, by locator.
        """
        calls = {
            one.locator: self.saving(os.urandom(6), one, Save(seal(one), touches=False))
            for one in tokens
        }
        replies = self._in_batches([*calls.values()])
        return dict(zip(calls, map(self._saved_of, replies), strict=True))

    def peek_each(self, tokens: Iterable[Token]) -> dict[str, Loaded | Absent]:
        """Read several sessions as :meth:`peek` does, by locator."""
        calls = {one.locator: self._peeking(one) for one in tokens}
        replies = self._in_batches([*calls.values()])
        return dict(zip(calls, map(_loaded_of, replies), strict=True))

    def adjust(self, token: Token, lifetime: Lifetime = NO_LIFETIME) -> Saved | Absent:
        """Change only the lifetime of a session, or just refresh it."""
        return adjusted_of(self.call(*self.adjusting(token, lifetime)))

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
        reads, writes = (
            (b"*", b"*") if everything else self._reads_and_writes(checks, values, deletes)
        )
        return self._stage(token, stage_id, STAGE_MS, reads, writes, checks)

    def unstage(self, token: Token, stage_id: str) -> None:
        """Give up what was staged."""
        self._stage(token, stage_id, 0, b"", b"", NO_CHECKS)

    def _stage(
        self, token: Token, stage_id: str, hold_ms: int, reads: bytes, writes: bytes, checks: Checks
    ) -> Status | Absent:
        args = [token.digest, encoded(stage_id), b"%d" % hold_ms, reads, writes]
        args += (encoded(checks.names), *pairs(checks))
        reply = self.call(_STAGE, self.key(token.locator), args)
        if reply[0] in (Status.SAVED, Status.CONFLICT, Status.BUSY):
            return Status(reply[0])
        return absent_of(reply)

    def end(
        self, token: Token, checks: Checks = NO_CHECKS, owner: bytes | None = None
    ) -> Status | Absent:
        """End a session, if its token is this, and leave the marker.

        :param owner: its owner, encoded, where that is known: for those who watch it.
        :returns: ``ENDED``, ``CONFLICT``, or that it was absent.
        """
        message = self.message(token.locator, owner)
        call = self._ending(token.locator, token.digest, checks, message=message)
        return ended_of(self.call(*call))

    def end_unheard(self, token: Token) -> None:
        """End what a call whose reply was lost may have made, also if it comes late."""
        self._try(self.call, *self._ending(token.locator, token.digest, mark=True))

    def take_back(self, before: Token, token: Token) -> None:
        """Undo a renewal that was not answered: it may have come through, or may come late.

        :param before: the token that it replaces; ``token``: the new one.
        """
        self._try(self._take_back, before, token)

    def _take_back(self, before: Token, token: Token) -> None:
        # This save changes the field `saves`: to a renewal that comes late it is a conflict.
        if isinstance(self.save(before, Save({})), Absent):
            self.end(token)

    def end_each(
        self, tokens: Mapping[str, bytes], owner_of: Callable[[str], bytes | None]
    ) -> dict[str, Status | Absent]:
        """End sessions, each if its token is this: locator to digest; empty: whatever it is.

        :param owner_of: ``(locator) -> owner``, as in :meth:`end`.
        :returns: as :meth:`end`, by locator.
        """
        endings = [
            self._ending(*token, message=self.message(token[0], owner_of(token[0])))
            for token in tokens.items()
        ]
        return dict(zip(tokens, map(ended_of, self._in_batches(endings)), strict=True))

    def end_all(
        self,
        locators: Sequence[str],
        mark: bool = False,
        owner_of: Callable[[str], bytes | None] = lambda locator: None,
    ) -> list[str]:
        """End sessions, whatever their tokens, and leave their markers.

        :param mark: leave them also where there is no session yet.
        :param owner_of: as in :meth:`end_each`.
        :returns: the locators of those that lived.
        """
        endings = [
            self._ending(name, b"", mark=mark, message=self.message(name, owner_of(name)))
            for name in locators
        ]
        replies = self._in_batches(endings)
        ended = zip(locators, replies, strict=True)
        return [locator for locator, reply in ended if reply[0] == Status.ENDED]

    def describe(self, locators: Sequence[str], *fields: bytes) -> list[Description | Absent]:
        """Tell what is known of sessions without touching them.

        :param fields: to tell of.
        """
        args = [b"%d" % self._timeout_ms, b"%d" % self.absolute_ms, *fields]
        replies = self._in_batches([(_DESCRIBE, self.key(name), args) for name in locators])
        found: list[Description | Absent] = []
        for reply in replies:
            if reply[0] != Status.LOADED:
                found.append(absent_of(reply))
                continue
            _, remaining_ms, idle_ms, now_ms, (token, *told) = reply
            held = dict(zip(fields, told, strict=True))
            found.append(Description(remaining_ms, idle_ms, now_ms, token, held))
        return found

    def _in_batches(self, calls: list[Call]) -> list[Any]:
        """Make calls of which none stands on another, in several pipelines where they are many.

        :raises StoreError: one failed.
        """
        replies: list[Any] = []
        for some in batches(calls):
            replies += self.apart(some)
            raise_failed(*replies[-len(some) :])
        return replies

    # -- scripts -----------------------------------------------------------------

    def load_scripts(self) -> None:
        """SCRIPT LOAD every script, on a cluster on every primary."""
        try:
            for script in SCRIPTS.values():
                self.client.script_load(script.source)
        except FAILURES as exc:
            raise failure("script_load", exc, self.client) from showable(exc)

    # -- arguments ---------------------------------------------------------------

    def draw(self) -> Token:
        """Draw a new token.

        :raises StoreError: the id generator returns something else than an id.
        """
        locator = self._id_generator()
        if not isinstance(locator, str) or not locator:
            raise StoreError("id_generator must return a non-empty str")
        return Token.of(locator, draw_verifier())

    def key(self, locator: str) -> bytes:
        return self._prefix + encoded(locator)

    def index_key(self, value: bytes, field: bytes = OWNER_FIELD) -> bytes:
        """Return the key of the index of the sessions of which a field holds this, encoded."""
        if field == OWNER_FIELD:
            name = f"owner:{owner_digest(value)}"
        else:
            name = f"index:{_digest(b'%b:%b' % (field, value), b'session index')}"
        return self._prefix + name.encode("ascii")

    def message(self, locator: str, owner: bytes | None = None) -> bytes:
        """Return what is published when a session ends; empty where nothing is.

        It is the fingerprint, and the digest of the owner where that is known.
        """
        if not self._publishes:
            return b""
        words = [fingerprint(locator), *([] if owner is None else [owner_digest(owner)])]
        return " ".join(words).encode("ascii")

    def indexing(self, entry: Entry, locator: str, *more: bytes, admits: bool = False) -> Call:
        """Return the call that adds a session to an index.

        :param admits: only if there is room; ``more``: what has ended, and its scores.
        """
        args = [encoded(locator), b"%d" % entry.most, b"%d" % self.absolute_ms, flag(admits)]
        args.append(b"%d" % (entry.since_ms * 1000))
        return (_INDEX, self.index_key(entry.value, entry.field), [*args, *more])

    def creation(
        self,
        token: Token,
        fields: Mapping[bytes, bytes],
        lifetime: Lifetime,
        created_ms: int | None,
        absolute_ms: int,
        first_ms: int,
        clocked: bool = False,
    ) -> Call:
        own = None if lifetime.timeout_ms == DEFAULT_MS else lifetime.timeout_ms
        args: list[bytes] = [
            token.digest,
            optional(created_ms),
            b"%d" % (self._timeout_ms if own is None else own),
            b"" if own is None else b"1",
            optional(lifetime.deadline_ms or None),
            b"%d" % absolute_ms,
            b"%d" % first_ms,
            self._use_ttl,
            CLOCKED if clocked else b"",
        ]
        for value in fields.items():
            args += value
        return (_CREATE, self.key(token.locator), args)

    def _with_indexes_and_ends(
        self,
        call: Call,
        token: Token,
        entries: Sequence[Entry],
        values: Mapping[bytes, bytes],
        ends: Mapping[bytes, int],
    ) -> list[Call]:
        """Return a call that stores values; before it, those that add the session to indexes, and
        after it the one that has Redis forget values at their end, where any has one."""
        calls = [*(self.indexing(entry, token.locator) for entry in entries), call]
        if ends:
            args: list[bytes] = []
            for field, end_ms in ends.items():
                args += (field, values[field][:16], b"%d" % end_ms)
            calls.append((_END_VALUES, self.key(token.locator), args))
        return calls

    def adjusting(self, token: Token, lifetime: Lifetime = NO_LIFETIME) -> Call:
        args = [
            token.digest,
            *self._life_args,
            os.urandom(6),
            self._remember_s,
            optional(lifetime.timeout_ms),
            optional(lifetime.deadline_ms),
            self.message(token.locator),
        ]
        return (_ADJUST, self.key(token.locator), args)

    def _ending(
        self,
        locator: str,
        digest: bytes,
        checks: Checks = NO_CHECKS,
        mark: bool = False,
        message: bytes = b"",
    ) -> Call:
        args = [digest, os.urandom(6), b"%d" % MARKER_MS, flag(mark), encoded(checks.names)]
        args += (message, *pairs(checks))
        return (_END, self.key(locator), args)

    def _reads_and_writes(
        self, checks: Checks, values: Iterable[bytes], deletes: Iterable[bytes]
    ) -> tuple[bytes, bytes]:
        """Return what a save reads and writes, as staged saves are compared by."""
        if not self._retry_mode:
            return b"", b""
        reads = "*" if checks.names else "".join(sha1(field)[:8] for field in checks.fields)
        writes = "".join(sha1(field)[:8] for field in (*values, *deletes))
        return reads.encode("ascii"), writes.encode("ascii")


# Python 3.11 takes long to look up a member of an enum.
_LOADED, _SAVED, _CREATED = int(Status.LOADED), int(Status.SAVED), int(Status.CREATED)
_CLOCKED = int(Status.CLOCKED)

_LOAD = SCRIPTS["load_and_touch"]
_PEEK = SCRIPTS["peek_session"]
_END_VALUES = SCRIPTS["end_values"]
_CREATE = SCRIPTS["create_unique"]
_SAVE = SCRIPTS["save_if_changed"]
_SAVE_FIELDS = SCRIPTS["save_fields"]
_RENEW = SCRIPTS["renew_token"]
_ADJUST = SCRIPTS["adjust_timeout"]
_STAGE = SCRIPTS["stage_save"]
_END = SCRIPTS["end_session"]
_INDEX = SCRIPTS["index_session"]
_DESCRIBE = SCRIPTS["describe_session"]


Item = TypeVar("Item")


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Iterate over ``BATCH`` at a time."""
    for start in range(0, len(items), BATCH):
        yield list(items[start : start + BATCH])


def _loaded_of(reply: Any) -> Loaded | Absent:
    """Read a reply of ``peek_session``, or one of ``load_and_touch`` that is not ``LOADED``."""
    if reply[0] != _CLOCKED:
        return absent_of(reply)
    return Loaded(reply[1], as_dict(reply[4]), *reply[2:4])


def owner_digest(owner: bytes) -> str:
    """Return what names an owner in Redis.

    :param owner: the owner, encoded.
    """
    return _digest(owner, b"owner index")


def _digest(text: bytes, person: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16, person=person).hexdigest()


def _of_index_and_save(replies: list[Any], ends: Mapping[bytes, int]) -> tuple[Any, list[Any]]:
    """Return the reply of a save, and those of the indexes before it.

    :param ends: of values that end, of which Redis was told after it.
    :raises StoreError: one failed.
    """
    if ends:
        replies.pop()  # that Redis forgets a value by itself is not what is asked for
    raise_failed(*replies)
    *indexed, reply = replies
    return reply, indexed


def _with_dict(reply: Any) -> Any:
    """Return a reply of ``load_and_touch``, the fields in it as a dict."""
    return (_LOADED, reply[1], as_dict(reply[2])) if reply[0] == _LOADED else reply
