"""Sessions in Redis: only this module, and those beneath it, send commands.

One method per script. Every call is one round trip, and one that the client
repeats after a lost reply has the effect of one call.
"""

from __future__ import annotations

import copy
import enum
import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from redis.cluster import RedisCluster

from .calls import FAILURES, Argument, Call, Caller, failure, is_wrong_type, raise_failed, showable
from .client import longest_repeat
from .errors import StoreError, StoreUnavailable
from .scripts import SCRIPTS, Status
from .seals import Sealer
from .serializers import FLASH_KIND, OWNER_FIELD
from .settings import Settings
from .settings.parsers import LONGEST_GRACE

__all__ = [
    "MARKER_MS",
    "NO_CHECKS",
    "NO_LIFETIME",
    "Absent",
    "Checks",
    "Created",
    "Description",
    "Ending",
    "Foreign",
    "Lifetime",
    "Loaded",
    "Replaced",
    "Saved",
    "Store",
    "Undoable",
    "draw_nonce",
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

#: Entries of an owner's index from which on a login looks which are alive.
UNTIDY = 8

#: How often an id is drawn again before the generator is called broken.
MOST_DRAWS = 32

#: Somebody has written there, or another application uses the prefix.
INDEX_LOST = (
    "something else stood in place of an owner's index: sessions of the owner may go unseen "
    "until they get a new id"
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
    """A session that does not live.

    :ivar status: ``GONE``; or ``MOVED``: it ended, and left a marker.
    :ivar age_ms: for ``MOVED``: how long ago, ms.
    :ivar expired: it was found, past its end.
    :ivar foreign: something else is stored under its id.
    """

    status: Status
    age_ms: int = 0
    expired: bool = False
    foreign: bool = False


class Created(NamedTuple):
    """A session that was created.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar created_ms: start of its life, ms since the epoch, by Redis' clock.
    :ivar token_ms: the moment at which its id was made; the same clock.
    :ivar index: what was found in its owner's index, for :meth:`Store.tidy`.
    """

    session_id: str
    remaining_ms: int
    created_ms: int
    token_ms: int
    index: Any = None


class Saved(NamedTuple):
    """Changes that were applied.

    :ivar remaining_ms: as in :class:`Loaded`.
    :ivar replaced: what they replaced: field to value, ``None`` = was absent;
        ``None`` where nobody asked, or the call was repeated.
    """

    remaining_ms: int
    replaced: dict[bytes, bytes | None] | None = None


class Undoable(enum.Enum):
    """Whether saves are taken back (``swap``) where a transaction or an attempt fails."""

    #: Nobody's.
    NONE = b"0"
    #: Others' may be.
    OTHERS = b"1"
    #: This one may be, too.
    THIS = b"2"


class Ending(NamedTuple):
    """What became of a session that was to end.

    :ivar status: ``ENDED``; or ``CONFLICT``, ``GONE``, ``MOVED``: not by this call.
    :ivar fields: its last fields, where they were asked for.
    :ivar nonce: of the call.
    :ivar age_ms: for ``MOVED``: how long ago another call ended it, ms.
    """

    status: Status
    fields: dict[bytes, bytes]
    nonce: Argument
    age_ms: int


class Replaced(NamedTuple):
    """What :meth:`Store.replace` did.

    :ivar created: the new session, as :meth:`Store.create`.
    """

    created: Created | Absent
    ending: Ending


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
    :ivar created: field ``created``; ``owner``, ``label``: as stored, or empty.
    """

    remaining_ms: int
    idle_ms: int
    now_ms: int
    created: bytes
    owner: bytes
    label: bytes


class Survey(NamedTuple):
    """What became of the sessions in an owner's index.

    :ivar owned: those that live and are the owner's.
    :ivar ended: those that ended just now; an ending may still be taken back.
    :ivar gone: those of which nothing is left.
    """

    owned: list[tuple[str, Description]]
    ended: list[str]
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
        self._use_ttl = b"1" if settings.set_redis_ttl else b"0"
        self._remember_s = b"%d" % math.ceil(min(longest_repeat(settings) + 1, LONGEST_MEMORY))
        self._id_generator = settings.id_generator or default_id
        self._load_args = (
            b"%d" % self._timeout_ms,
            b"%d" % milliseconds(settings.timeout_trigger) if settings.timeout_trigger else b"",
            b"%d" % self._absolute_ms,
            self._use_ttl,
        )
        self._life_args = (b"%d" % self._timeout_ms, b"%d" % self._absolute_ms, self._use_ttl)

    def using(self, client: Any) -> Store:
        """Return the same store over another client."""
        other = copy.copy(self)
        other.client = client
        return other

    # -- one method per script ---------------------------------------------------

    def load(self, session_id: str) -> Loaded | Absent:
        """Read a session and refresh its idle timeout.

        :raises StoreUnavailable: Redis cannot be reached or refuses.
        """
        reply = self._call(_LOAD, self._key(session_id), self._load_args)
        if reply[0] != Status.LOADED:
            return _absent(reply)
        pairs = iter(reply[2])
        return Loaded(reply[1], dict(zip(pairs, pairs, strict=True)))

    def create(
        self,
        seal: Callable[[str], Mapping[bytes, bytes]],
        lifetime: Lifetime,
        created_ms: int | None = None,
        owner: bytes | None = None,
        returning: bool = False,
    ) -> Created | Absent:
        """Create a session under a new id.

        :param seal: ``(session_id) -> fields``: the data, sealed for an id.
        :param created_ms: start of its life, where that lies in the past.
        :param owner: its owner, encoded, to whose index it is added first, in
            the same pipeline.
        :param returning: the client has sent a cookie back before, so
            ``first_timeout`` does not apply.
        :returns: ``GONE`` where its life would already be over; ``MOVED`` where it
            was created, and ended before the client repeated the call.
        :raises StoreError: the id generator returns nothing but taken ids.
        """
        for _ in range(MOST_DRAWS):
            session_id, args = self._creation(seal, lifetime, created_ms, returning)
            call: Call = (_CREATE, self._key(session_id), args)
            if owner is None:
                indexed, reply = None, self._call(*call)
            else:
                try:
                    indexed, reply = self._together([self._indexing(owner, session_id), call])
                    raise_failed(indexed, reply)
                except StoreUnavailable as exc:
                    self._take_back_unheard(exc, session_id, args)
                    raise
            if reply[0] != Status.TAKEN:
                return _created(session_id, reply, indexed)
        raise StoreError(ALL_TAKEN)

    def save(
        self,
        session_id: str,
        values: Mapping[bytes, bytes],
        deletes: Iterable[bytes],
        lifetime: Lifetime,
        checks: Checks = NO_CHECKS,
        end_if_empty: bool = False,
        save_id: str | None = None,
        undoable: Undoable = Undoable.NONE,
    ) -> Saved | Absent | Status:
        """Apply changes to a session that still lives.

        :param values: fields to set, sealed; ``deletes``: fields to delete.
        :param save_id: of :func:`draw_nonce`, if it is needed to take the
            save back.
        :returns: what was replaced; or what became of the session: ``Absent``,
            ``Status.CONFLICT``, ``Status.EMPTIED``.
        """
        gone = list(deletes)
        args: list[Argument] = [
            *self._life_args,
            _optional(lifetime.timeout_ms),
            _optional(lifetime.deadline_ms),
            save_id or draw_nonce(),
            self._remember_s,
            undoable.value,
            b"%d" % (MARKER_MS if end_if_empty else 0),
            checks.names,
            b"%d" % len(checks.fields),
            b"%d" % len(gone),
        ]
        for check in checks.fields.items():
            args += check
        args += gone
        for value in values.items():
            args += value
        reply = self._call(_SAVE, self._key(session_id), args)
        status = reply[0]
        if status == Status.SAVED:
            if len(reply) < 3:
                return Saved(reply[1])
            fields = [*gone, *values, b"timeout", b"deadline"]
            return Saved(reply[1], dict(zip(fields, reply[2], strict=True)))
        if status in (Status.CONFLICT, Status.EMPTIED):
            return Status(status)
        return _absent(reply)

    def adjust(
        self, session_id: str, lifetime: Lifetime = NO_LIFETIME, save_id: str | None = None
    ) -> Saved | Absent:
        """Change only the lifetime of a session, or just refresh it.

        :param save_id: as in :meth:`save`.
        """
        args: list[Argument] = [
            *self._life_args,
            _optional(lifetime.timeout_ms),
            _optional(lifetime.deadline_ms),
        ]
        if lifetime is not NO_LIFETIME:
            args += (save_id or draw_nonce(), self._remember_s)
        reply = self._call(_ADJUST, self._key(session_id), args)
        return Saved(reply[1]) if reply[0] == Status.ADJUSTED else _absent(reply)

    def end(self, session_id: str, keep_fields: bool = False, mark: bool = False) -> Ending:
        """End a session, and leave the marker.

        :param keep_fields: so that :meth:`revive` can take it back.
        :param mark: leave the marker also where there is no session yet.
        """
        args = self._ending(keep_fields, NO_CHECKS, mark)
        return _ended(self._call(_END, self._key(session_id), args), args)

    def replace(
        self,
        old_id: str,
        seal: Callable[[str], Mapping[bytes, bytes]],
        lifetime: Lifetime,
        created_ms: int | None = None,
        keep_fields: bool = True,
        checks: Checks = NO_CHECKS,
        owner: bytes | None = None,
        carried: bool = False,
        returning: bool = True,
    ) -> Replaced:
        """Create a session under a new id, and end the old one, in one pipeline.

        On Redis Cluster, whose nodes give no order between two keys, these are
        two round trips: the new session exists before the old one ends.

        :param checks: if they fail, the old session does not end, and the new one does.
        :param owner: as in :meth:`create`; ``returning`` too.
        :param carried: the old session was the owner's as well, and if it was
            revoked, the new one is too: it is ended again, and is ``MOVED``.
        """
        ending = self._ending(keep_fields, checks)
        for _ in range(MOST_DRAWS):
            session_id, args = self._creation(seal, lifetime, created_ms, returning)
            calls: list[Call] = [
                (_CREATE, self._key(session_id), args),
                (_END, self._key(old_id), ending),
            ]
            if owner is not None:
                calls.insert(0, self._indexing(owner, session_id, old_id if carried else ""))
            try:
                *indexed, made, ended = self._together(calls)
            except StoreUnavailable:
                # What was lost may be the replies: no browser will learn of the new id.
                undo = [self._unheard(session_id, args)]
                if keep_fields:
                    undo.insert(0, (_REVIVE, self._key(old_id), [ending[0]]))
                self._try(self._pipeline, undo)
                raise
            if indexed and _is_moved(indexed[0]):
                return self._revoked(session_id, args, indexed[0], made, ended, ending)
            failed = any(isinstance(reply, StoreError) for reply in (*indexed, made))
            if (
                (failed or made[0] == Status.TAKEN)
                and keep_fields
                and not isinstance(ended, StoreError)
            ):
                # No session must be without data under either id.
                self.revive(old_id, _ended(ended, ending))
                ending = self._ending(keep_fields, checks)  # the one taken back ends nothing more
            self._take_back_unheard(made, session_id, args)
            raise_failed(*indexed, made)
            if made[0] != Status.TAKEN:
                break
        else:
            raise StoreError(ALL_TAKEN)
        created = _created(session_id, made, *indexed)
        if isinstance(ended, StoreError):
            if keep_fields:
                # On Redis Cluster, what was lost may be its reply.
                self._try(self.revive, old_id, Ending(Status.ENDED, {}, ending[0], 0))
            if isinstance(created, Created):
                self._try(self.end, created.session_id)
            raise ended
        outcome = _ended(ended, ending)
        if outcome.status is Status.CONFLICT and isinstance(created, Created):
            self.end(created.session_id)
        return Replaced(created, outcome)

    def _take_back_unheard(self, outcome: Any, session_id: str, creation: list[Argument]) -> None:
        """End a session that may have been created unheard: no browser learns of its id."""
        # An answer of Redis is never a cause: see showable().
        if isinstance(outcome, StoreUnavailable) and outcome.__cause__ is not None:
            self._try(self._call, *self._unheard(session_id, creation))

    def _unheard(self, session_id: str, creation: list[Argument]) -> Call:
        """The call that ends only what a creation has made, should it come late, too."""
        ending = self._ending(False, NO_CHECKS, True, created_by=creation[0])
        return (_END, self._key(session_id), ending)

    def _revoked(
        self,
        session_id: str,
        creation: list[Argument],
        indexed: Any,
        made: Any,
        ended: Any,
        ending: list[Argument],
    ) -> Replaced:
        """The old session was revoked: nothing of it lives on under the new id."""
        if isinstance(made, StoreError) or made[0] == Status.CREATED:
            # Nobody knows the id yet. If its reply was lost, it may still come.
            self._try(self._call, *self._unheard(session_id, creation))
        if isinstance(ended, StoreError):
            ended = indexed
        return Replaced(_absent(indexed), _ended(ended, ending))

    def revive(self, session_id: str, ending: Ending) -> bool:
        """Take back an :meth:`end` that kept the fields.

        :returns: whether the session lives again.
        """
        reply = self._call(_REVIVE, self._key(session_id), (ending.nonce,))
        return bool(reply[0] == Status.LOADED)

    def swap(
        self,
        session_id: str,
        swaps: Iterable[tuple[bytes, bytes | None, bytes | None]],
        undone: str = "",
    ) -> int:
        """Replace fields of a live session, each only if it is still the same.

        :param swaps: (field, new, expected); ``None`` = absent. A flash message is
            the same as long as it is there.
        :param undone: id of the save that is taken back. Fields that a later save
            has written are left alone, also where it wrote the same.
        :returns: how many were.
        """
        args: list[Argument] = [draw_nonce(), self._remember_s, undone]
        for field, new, expected in swaps:
            digest = "" if expected is None else sha1(expected)
            if digest and field[:1] == FLASH_KIND:
                digest = "+"
            args += (field, digest, b"" if new is None else b"=" + new)
        reply = self._call(_SWAP, self._key(session_id), args)
        return cast("int", reply[1]) if reply[0] == Status.SAVED else 0

    # -- the index of an owner's sessions -------------------------------------------

    def members(self, owner: bytes) -> list[str]:
        """Return the ids in an owner's index, oldest first; not all of them live.

        :param owner: the owner, encoded.
        """
        found = self._command("ZRANGE", self._index_key(owner), b"0", b"-1")
        if found is None:
            log.error(INDEX_LOST)
            return []
        return [name for name in texts(found) if name]  # an empty one is a revoke's tombstone

    def revoke_index(self, owner: bytes, spared: str | None = None) -> list[str]:
        """Refuse new ids to the sessions that are in an owner's index now.

        :param owner: the owner, encoded.
        :param spared: to this session they are not refused.
        :returns: the ids in the index, the spared one too if it is there.
        """
        reply = self._call(_REVOKE, self._index_key(owner), [encoded(spared or "")])
        if reply[2]:
            log.error(INDEX_LOST)
        return texts(reply[1])

    def index(self, owner: bytes, session_id: str) -> None:
        """Put a live session into its owner's index, where it is missing."""
        self._call(*self._indexing(owner, session_id))

    def describe(self, session_ids: Sequence[str]) -> list[Description | Absent]:
        """Tell what is known of sessions without touching them."""
        args = [b"%d" % self._timeout_ms, b"%d" % self._absolute_ms]
        replies = self._together([(_DESCRIBE, self._key(name), args) for name in session_ids])
        raise_failed(*replies)
        return [
            Description(reply[1], reply[2], reply[3], *reply[4])
            if reply[0] == Status.LOADED
            else _absent(reply)
            for reply in replies
        ]

    def survey(self, owner: bytes, session_ids: Sequence[str]) -> Survey:
        """Find out which sessions live and really are an owner's.

        :param owner: the owner, encoded.
        """
        found = Survey([], [], [])
        for session_id, known in zip(session_ids, self.describe(session_ids), strict=True):
            if isinstance(known, Absent):
                moved = known.status is Status.MOVED
                (found.ended if moved else found.gone).append(session_id)
                continue
            bound = self._sealer.bind(session_id)
            if known.owner and bound.open(OWNER_FIELD, known.owner) == owner:
                found.owned.append((session_id, known))
        return found

    def end_all(self, session_ids: Sequence[str], mark: bool = False) -> list[str]:
        """End sessions, and leave their markers.

        :param mark: as in :meth:`end`.
        :returns: those that lived.
        """
        replies = self._together(
            [(_END, self._key(name), self._ending(False, NO_CHECKS, mark)) for name in session_ids]
        )
        raise_failed(*replies)
        ended = zip(session_ids, replies, strict=True)
        return [session_id for session_id, reply in ended if reply[0] == Status.ENDED]

    def forget(self, owner: bytes, session_ids: Sequence[str]) -> None:
        """Remove ids from an owner's index."""
        if session_ids:  # nothing is in what is no index
            self._call(_FORGET, self._index_key(owner), [*map(encoded, session_ids)])

    def _index_key(self, owner: bytes) -> bytes:
        name = hashlib.blake2b(owner, digest_size=16, person=b"owner index").hexdigest()
        return b"%bowner:%b" % (self._prefix, name.encode("ascii"))

    def _indexing(self, owner: bytes, session_id: str, old_id: str = "") -> Call:
        names = (encoded(session_id), encoded(old_id))
        limits = (b"%d" % self._most_sessions, b"%d" % self._absolute_ms)
        return (_INDEX, self._index_key(owner), [*names, *limits])

    def tidy(self, owner: bytes, created: Created, login: bool) -> Tidied:
        """End the older sessions that are too many, and forget those that have ended.

        The newest in the index stay, whatever overlaps: each login ends what is too many,
        also what is not created yet, and itself; but none that is younger.
        Most logins find nothing to do, and pay no round trip for it.

        :param owner: the owner, encoded; ``created``: the session that was added.
        :param login: the session is one more; else it carries on another, and
            none is too many for it.
        """
        surplus, settled = created.index[1], texts(created.index[2])
        if not login:
            surplus = 0
        ended, stays = list[str](), True
        if not surplus and len(settled) <= UNTIDY:
            return Tidied(ended, stays)
        own = created.session_id
        try:
            names = self.members(owner) if surplus else settled
            missing = surplus and own not in names  # a newer login has ended and forgotten it?
            found = self.survey(owner, [*names, own] if missing else names)
            owned, gone = {name for name, _ in found.owned}, {*found.gone}
            older = names[: names.index(own) + 1] if own in names else []
            # One that is neither settled nor there may be that of a login under way.
            living = owned | gone.intersection(older).difference(settled)
            newest = {*[name for name in names if name in living][-self._most_sessions :]}
            # The younger ones tidy up themselves, as soon as they are sure to stand.
            too_many = [name for name in older if name in living and name not in newest]
            stays = own in (owned if missing else newest) or not surplus
            ended = self.end_all(too_many, mark=True)
            self.forget(owner, [*too_many, *gone.intersection(settled)])
        except StoreError as exc:
            log.warning("an owner's sessions could not be tidied at login: %s", exc)
        return Tidied(ended, stays)

    # -- scripts -----------------------------------------------------------------

    def load_scripts(self) -> None:
        """SCRIPT LOAD every script, on a cluster on every primary."""
        try:
            for script in SCRIPTS.values():
                self.client.script_load(script.source)
        except FAILURES as exc:
            raise failure("script_load", exc, self.client) from showable(exc)

    # -- sessions of another library, for migrate -----------------------------------

    def read_foreign(self, key: str, session_id: str) -> Foreign | None:
        """Read a string; ``None`` where there is none.

        :param session_id: on Redis Cluster, the clock is that of its node.
        """
        name = encoded(key)
        try:
            if isinstance(self.client, RedisCluster):
                cluster = cast("Any", self.client)
                node = cluster.get_node_from_key(self._key(session_id))
                now = cluster.execute_command("TIME", target_nodes=node)
                value = cluster.execute_command("GET", name, NEVER_DECODE=True)
                remaining_ms = cluster.execute_command("PTTL", name)
            else:
                with self.client.pipeline(transaction=False) as pipeline:
                    pipeline.execute_command("TIME")
                    pipeline.execute_command("GET", name, NEVER_DECODE=True)
                    pipeline.execute_command("PTTL", name)
                    now, value, remaining_ms = pipeline.execute()
        except FAILURES as exc:
            if is_wrong_type(exc):
                return None
            raise failure("get", exc, self.client) from showable(exc)
        if value is None:
            return None
        return Foreign(value, remaining_ms, now[0] * 1000 + now[1] // 1000)

    def create_under(
        self,
        session_id: str,
        fields: Mapping[bytes, bytes],
        lifetime: Lifetime,
        created_ms: int,
        not_after_ms: int,
        first_ms: int,
    ) -> tuple[Status, int | Absent]:
        """Create a session under a given id, then give it its life.

        :param not_after_ms: create nothing from that moment on, ms since the epoch;
            later than ``created_ms``.
        :param first_ms: life until the first load, ms; 0 = as any other.
        :returns: ``CREATED``, ``TAKEN`` or ``GONE`` (too late); and what is
            there now, as :meth:`adjust`.
        """
        # An absolute timeout ends the call's own patience; it is not stored.
        absolute_ms = not_after_ms - created_ms
        if self._absolute_ms:
            absolute_ms = min(absolute_ms, self._absolute_ms)
        args = self._creation_args(lifetime, created_ms, absolute_ms, first_ms)
        for value in fields.items():
            args += value
        key = self._key(session_id)
        calls: list[Call] = [
            (_CREATE, key, args),
            (_ADJUST, key, [*self._life_args, b"", b""]),
        ]
        made, adjusted = self._together(calls)
        raise_failed(made, adjusted)
        alive = adjusted[0] == Status.ADJUSTED
        return Status(made[0]), adjusted[1] if alive else _absent(adjusted)

    def delete_foreign(self, key: str) -> None:
        """Delete what another library stored."""
        self._command("DEL", encoded(key))

    def _goes_on(self, call: Call, reply: Any) -> bool:
        revoked = call[0] is _INDEX and _is_moved(reply)
        return super()._goes_on(call, reply) and not revoked

    # -- arguments ---------------------------------------------------------------

    def _key(self, session_id: str) -> bytes:
        return self._prefix + encoded(session_id)

    def _creation(
        self,
        seal: Callable[[str], Mapping[bytes, bytes]],
        lifetime: Lifetime,
        created_ms: int | None,
        returning: bool = False,
    ) -> tuple[str, list[Argument]]:
        """Draw an id, and make the arguments that create it.

        :param returning: the client has sent a cookie back before, so
            ``first_timeout`` does not apply.
        """
        session_id = self._id_generator()
        if not isinstance(session_id, str) or not session_id:
            raise StoreError("id_generator must return a non-empty str")
        first_ms = 0 if returning else self._first_ms
        args = self._creation_args(lifetime, created_ms, self._absolute_ms, first_ms)
        for value in seal(session_id).items():
            args += value
        return session_id, args

    def _creation_args(
        self, lifetime: Lifetime, created_ms: int | None, absolute_ms: int, first_ms: int
    ) -> list[Argument]:
        own = lifetime.timeout_ms
        return [
            draw_nonce(),
            _optional(created_ms),
            b"%d" % (self._timeout_ms if own is None else own),
            b"" if own is None else b"1",
            b"%d" % lifetime.deadline_ms if lifetime.deadline_ms else b"",
            b"%d" % absolute_ms,
            b"%d" % first_ms,
            self._use_ttl,
        ]

    def _ending(
        self, keep_fields: bool, checks: Checks, mark: bool = False, created_by: Argument = ""
    ) -> list[Argument]:
        flags = (b"1" if keep_fields else b"0", b"1" if mark else b"0")
        args: list[Argument] = [draw_nonce(), b"%d" % MARKER_MS, *flags, created_by, checks.names]
        for check in checks.fields.items():
            args += check
        return args


_LOAD = SCRIPTS["load_and_touch"]
_CREATE = SCRIPTS["create_unique"]
_SAVE = SCRIPTS["save_if_changed"]
_ADJUST = SCRIPTS["adjust_timeout"]
_END = SCRIPTS["end_session"]
_INDEX = SCRIPTS["index_session"]
_REVOKE = SCRIPTS["revoke_index"]
_FORGET = SCRIPTS["forget_sessions"]
_DESCRIBE = SCRIPTS["describe_session"]
_REVIVE = SCRIPTS["revive_session"]
_SWAP = SCRIPTS["swap_fields"]


def default_id() -> str:
    """Return a session id of 256 random bits, 43 characters.

    OWASP asks for at least 64 bits of entropy (Session Management Cheat Sheet).
    """
    return secrets.token_urlsafe(32)


def encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def milliseconds(seconds: float | None) -> int:
    """Whole milliseconds; 0 for none."""
    return 0 if seconds is None else round(seconds * 1000)


def draw_nonce() -> str:
    """Return what tells the calls for one session within a minute apart: 8 characters.

    It is stored with every session, so each byte counts.
    """
    return secrets.token_urlsafe(6)


def _optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def texts(names: Iterable[bytes]) -> list[str]:
    """Decode session ids; what does not decode is none of ours."""
    texts = []
    for name in names:
        try:
            texts.append(name.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            continue
    return texts


def _is_moved(reply: Any) -> bool:
    return not isinstance(reply, StoreError) and bool(reply[0] == Status.MOVED)


def _created(session_id: str, reply: Any, index: Any = None) -> Created | Absent:
    if reply[0] != Status.CREATED:
        return _absent(reply)
    return Created(session_id, reply[1], reply[2], reply[3], index)


def _ended(reply: Any, args: list[Argument]) -> Ending:
    status = Status(reply[0])
    pairs = iter(reply[1] if status is Status.ENDED else ())
    fields = dict(zip(pairs, pairs, strict=True))
    return Ending(status, fields, args[0], reply[1] if status is Status.MOVED else 0)


def sha1(stored: bytes) -> str:
    """Digest of a stored value, as ``redis.sha1hex`` in a script gives it."""
    return hashlib.sha1(stored, usedforsecurity=False).hexdigest()


def _absent(reply: Any) -> Absent:
    detail = reply[1] if len(reply) > 1 else 0
    if reply[0] == Status.MOVED:
        return Absent(Status.MOVED, age_ms=detail)
    return Absent(Status.GONE, expired=detail == 1, foreign=detail == 2)
