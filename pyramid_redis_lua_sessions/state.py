"""Where a session stands, and how it is loaded and saved: what the session has, and hides.

Nothing here acts on Redis before :meth:`SessionState.save`, but for the first
look at content, which loads.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from .contents import Changes, Contents, slipped_in
from .cookies import Ticket
from .errors import (
    InvalidSession,
    InvalidSession_ChangesDropped,
    InvalidSession_DeserializationError,
    InvalidSession_NotInBackend,
    InvalidSession_PayloadTimeout,
    InvalidSession_StoreUnavailable,
    RawDeserializationError,
    SessionConflict,
    StoreError,
    StoreUnavailable,
    fingerprint,
)
from .events import SessionCreated, SessionEvent, SessionInvalidated, SessionRegenerated
from .scripts import Status
from .seals import Bound, Sealer, csrf_token
from .serializers import OWNER_FIELD, Codec, field_of, order_of
from .settings import Settings
from .store import (
    NO_CHECKS,
    NO_LIFETIME,
    Absent,
    Checks,
    Created,
    Ending,
    Lifetime,
    Loaded,
    Saved,
    Store,
    Undoable,
    draw_nonce,
)

__all__ = [
    "CSRF_KEY",
    "UNDELIVERABLE",
    "UNSET",
    "Dropped",
    "Host",
    "Invalidated",
    "Overview",
    "Phase",
    "SessionState",
    "number",
]

log = logging.getLogger(__package__)

#: Where Pyramid's ``SessionCSRFStoragePolicy`` keeps the token, too.
CSRF_KEY = "_csrft_"


class Phase(enum.Enum):
    """Where a session stands, as far as this request knows."""

    #: Nothing was looked at yet.
    UNREAD = "unread"
    #: No session is stored; one is created at the save point if it holds anything.
    FRESH = "fresh"
    #: It lives in Redis.
    STORED = "stored"
    #: It ended while this request was in flight: changes go nowhere.
    ADRIFT = "adrift"


class Host(Protocol):
    """What a session needs of the request it is made for."""

    settings: Settings
    codec: Codec
    sealer: Sealer

    def identify(self) -> list[Ticket]:
        """Return what the request's cookies say that verify."""

    def store(self) -> Store: ...

    def report(self, problem: InvalidSession) -> None:
        """Log a refused session or lost change, and tell ``func_invalid_logger``."""

    def announce(self, kind: type[SessionEvent], *args: str) -> None:
        """Send an event to the application."""


#: Why changes are dropped.
ENDED = "session has ended; changes dropped"
EXPIRED = "session has expired; changes dropped"
UNREACHABLE = "Redis cannot be reached; changes dropped"
UNDELIVERABLE = "the cookie cannot be sent; changes dropped"

#: What was saved already is lost, too.
TAKEN_BACK = "the transaction or the attempt failed after the save"

#: Stands for a session with a value that is not authentic.
_SEAL_BROKEN = Absent(Status.GONE, foreign=True)

#: Not given.
UNSET: Any = object()


class Invalidated(NamedTuple):
    """A session that is to end.

    :ivar seen: this request saw it alive.
    :ivar checks: what it read of it.
    """

    session_id: str
    seen: bool = False
    checks: Checks = NO_CHECKS


class Overview(NamedTuple):
    """What a request knows of its session, for those who show it.

    :ivar fingerprint: of its id; ``None`` as long as it has none.
    :ivar created_here: this request gave it its id.
    :ivar created_ms: ms since the epoch; ``None`` where nothing is stored.
    :ivar timeout: idle timeout, seconds; ``None``: never.
    :ivar remaining_ms: life that was left after the last call; -1 = it never ends.
    :ivar stored: what is stored, values and owner: (field, as stored, encoded).
    :ivar types: field to name of the type, for each value that was decoded or assigned.
    :ivar types_before: the same, of a session that ended in this request, until then.
    """

    phase: Phase
    fingerprint: str | None
    created_here: bool
    invalidated: bool
    created_ms: int | None
    timeout: float | None
    remaining_ms: int
    stored: list[tuple[bytes, bytes, bytes]]
    types: dict[bytes, str]
    types_before: dict[bytes, str]


class Dropped(NamedTuple):
    """Changes that were lost.

    :ivar fields: tells which of the session's fields it was about.
    :ivar others: what else was asked for, in words.
    """

    reason: str
    fields: Callable[[], Collection[bytes]]
    others: Sequence[str] = ()


class SessionState:
    """One session in one request: its phase, what it holds, and what is to happen to it.

    :param host: the request's turn, as far as a session needs it.
    """

    __slots__ = (
        "_aside",
        "_bound",
        "_ended",
        "_failure",
        "_host",
        "_in_flight",
        "_moved",
        "_past",
        "_regenerate",
        "_restart_lifetime",
        "_sealing",
        "_tried",
        "_was_adrift",
        "careful",
        "contents",
        "cookie_expires",
        "cookie_is_stale",
        "cookie_max_age",
        "created_here",
        "dropped",
        "ends",
        "invalidated",
        "lifetime",
        "loose_ends",
        "new",
        "over",
        "phase",
        "recookie",
        "remaining_ms",
        "session_id",
        "undo",
        "unreachable",
    )

    _bound: Bound
    #: What made the id, where this request did; else not set.
    _sealing: _Sealing
    #: What it holds; not set before the first look.
    contents: Contents
    #: What it held when it ended in this request, for those who show it; else not set.
    _past: Contents

    def __init__(self, host: Host) -> None:
        self._host = host
        self.phase = Phase.UNREAD
        self.session_id: str | None = None
        #: It was not stored before this request.
        self.new = True
        #: What the application has adjusted since the last save.
        self.lifetime = NO_LIFETIME
        self._regenerate = False
        self._restart_lifetime = False
        self.remaining_ms = -1
        #: What a view had changed that failed: contents, lifetime, whether to
        #: regenerate, whether it had logged in anew.
        self._aside: tuple[Contents, Lifetime, bool, bool] | None = None
        #: The application logged in anew on a session that had ended meanwhile.
        self._was_adrift = False
        #: What was ended, and can still be taken back.
        self._ended: list[Invalidated] = []
        #: What is left to do as soon as nothing can fail any more.
        self.loose_ends: list[Callable[[], object]] = []
        #: Others' saves may be taken back.
        self.careful = False
        #: It could not be loaded: what can wait does not make the request wait again.
        self.unreachable = False
        #: Ids that this request has tried to end; the reply may have been lost.
        self._tried: set[str] = set()
        #: Why it could not be loaded (``on_redis_error = ephemeral``).
        self._failure: StoreUnavailable | None = None
        #: The session had ended while this request was under way.
        self._in_flight = False
        #: The id that was regenerated, and how it ended.
        self._moved: tuple[str, Ending] | None = None
        #: What the save point will end.
        self.ends: list[Invalidated] = []
        #: The id was created or regenerated by this request.
        self.created_here = False
        #: :meth:`invalidate` was called.
        self.invalidated = False
        #: This request ended the session that the browser's cookie names.
        self.cookie_is_stale = False
        #: The request is over: what is changed now would be lost.
        self.over = False
        #: What was lost, and why: for those who show it.
        self.dropped: list[Dropped] = []
        #: The application asked for the cookie to be sent.
        self.recookie = False
        self.cookie_max_age: Any = UNSET
        self.cookie_expires: Any = UNSET
        #: How to undo what was saved, where a transaction or attempt may still fail.
        self.undo: list[Callable[[], object]] | None = None

    def _stand(self, phase: Phase) -> None:
        """Hold nothing, and stand so."""
        self.phase = phase
        self.session_id = None
        self.new = True
        self.lifetime = NO_LIFETIME
        self._regenerate = False
        self._aside = None
        self._was_adrift = False
        self._failure = None
        self.remaining_ms = -1
        self.created_here = False
        self._moved = None
        self.loose_ends.clear()
        self.contents = self._make_contents({}, {})

    def _make_contents(self, raw: dict[bytes, bytes], plain: dict[bytes, bytes]) -> Contents:
        host = self._host
        tracks_reads = host.settings.on_conflict == "retry"
        return Contents(raw, plain, host.codec, tracks_reads)

    # -- loading -----------------------------------------------------------------

    def _load(self) -> None:
        host = self._host
        self.unreachable = False
        absent: list[tuple[Ticket, Absent]] = []
        try:
            tickets = host.identify()
        except StoreUnavailable as exc:  # in the middle of a migration
            self._go_without(None, exc)
            return
        if self.phase is not Phase.UNREAD:
            return  # func_invalid_logger has used the session meanwhile
        for ticket in tickets:
            session_id = ticket.session_id
            try:
                loaded = host.store().load(session_id)
            except StoreUnavailable as exc:
                self._go_without(session_id, exc)
                return
            if isinstance(loaded, Loaded):
                bound = host.sealer.bind(session_id)
                plain = bound.open_all(loaded.fields)
                if plain is not None:
                    break
                loaded = _SEAL_BROKEN
            absent.append((ticket, loaded))
        else:
            self._refuse_absent(absent)
            return
        self.contents = self._make_contents(loaded.fields, plain)
        self._bound = bound
        self.session_id = session_id
        self.new = False
        self.remaining_ms = loaded.remaining_ms
        self.phase = Phase.STORED

    def _go_without(self, session_id: str | None, failure: StoreUnavailable) -> None:
        """Redis cannot be reached: give the request an empty session, if so configured."""
        self.unreachable = True
        if self._host.settings.on_redis_error != "ephemeral":
            raise failure
        self._stand(Phase.ADRIFT)
        self._failure = failure
        name = None if session_id is None else fingerprint(session_id)
        self._host.report(InvalidSession_StoreUnavailable("Redis cannot be reached", name))

    def _refuse_absent(self, absent: list[tuple[Ticket, Absent]]) -> None:
        """None of the ids lives; of several, one in flight decides."""
        host = self._host
        self._in_flight = any(self._just_ended(found.status, found.age_ms) for _, found in absent)
        self._stand(Phase.ADRIFT if self._in_flight else Phase.FRESH)
        absolute = host.settings.absolute_timeout
        for ticket, found in absent:
            name = fingerprint(ticket.session_id)
            if found is _SEAL_BROKEN:
                self._refuse_corrupt(ticket.session_id, "seal broken")
            elif found.foreign:
                self._refuse_corrupt(ticket.session_id, "not a session")
            elif found.status is Status.MOVED:
                host.report(InvalidSession_NotInBackend("session has ended", name))
            elif absolute is not None and time.time() - ticket.issued >= absolute:
                # Nothing is left in Redis that could say why; the session is as old as its
                # cookie, or older.
                host.report(InvalidSession_PayloadTimeout("absolute timeout has passed", name))
            elif found.expired:
                host.report(InvalidSession_PayloadTimeout("session has expired", name))
            else:
                host.report(InvalidSession_NotInBackend("no such session", name))

    def _just_ended(self, status: Status, age_ms: int) -> bool:
        """Whether a request that meets this marker was in flight when the session ended."""
        grace_ms = self._host.settings.grace * 1000
        # A clock may step back a little; a marker of the far future is none of ours.
        return status is Status.MOVED and -grace_ms <= age_ms <= grace_ms

    def _refuse_corrupt(self, session_id: str, reason: str) -> None:
        if self.phase is Phase.UNREAD:
            self._stand(Phase.FRESH)
        host, name = self._host, fingerprint(session_id)
        host.report(InvalidSession_DeserializationError(reason, name))
        if not host.settings.deserialized_fails_new:
            raise RawDeserializationError(reason, name)

    def _report(self, kind: type[InvalidSession], reason: str) -> None:
        name = None if self.session_id is None else fingerprint(self.session_id)
        self._host.report(kind(reason, name))

    def look(self) -> None:
        """Load, unless it was looked at before."""
        if self.phase is Phase.UNREAD:
            self._load()

    def look_in_earnest(self) -> None:
        """Look, for what must not be done to an empty session that only stands for another.

        :raises StoreUnavailable: it could not be loaded (``on_redis_error = ephemeral``).
        """
        self.look()
        if self.phase is Phase.ADRIFT and self._failure is not None:
            raise self._failure

    def created_ms(self) -> int | None:
        """Creation time, ms since the epoch; ``None`` where nothing is stored."""
        return number(self.contents.raw.get(b"created", b"").partition(b" ")[0])

    def token_ms(self) -> int | None:
        """When its present id was made, ms since the epoch; ``None`` where nothing is stored."""
        return number(self.contents.raw.get(b"token")) or self.created_ms()

    def csrf_token(self) -> str | None:
        """Derive the CSRF token of the id; ``None`` where that is yet to be made.

        Requests that overlap derive the same.
        """
        if self.phase is not Phase.STORED or self._regenerate:
            return None
        return csrf_token(self._host.settings, cast("str", self.session_id))

    def ended(self) -> bool:
        """Tell whether it was found to have ended while this request was under way."""
        return self.phase is Phase.ADRIFT and self._failure is None

    def timeout(self) -> float | None:
        """Return the idle timeout that applies, seconds; ``None``: never."""
        own = self.lifetime.timeout_ms
        if own is None:
            own = number(self.contents.raw.get(b"timeout"))
        if own is None:
            return self._host.settings.timeout
        return own / 1000 if own else None

    def overview(self) -> Overview | None:
        """Tell what is known so far; this loads, decodes and changes nothing.

        :returns: ``None`` if nothing was looked at yet.
        """
        if self.phase is Phase.UNREAD:
            return None
        contents = self.contents
        return Overview(
            self.phase,
            None if self.session_id is None else fingerprint(self.session_id),
            self.created_here,
            self.invalidated,
            self.created_ms(),
            self.timeout(),
            self.remaining_ms,
            contents.stored(contents.held()),
            contents.types(),
            self._past.types() if hasattr(self, "_past") else {},
        )

    def client(self) -> Any:
        """Return the redis client."""
        return self._store().client

    # -- what the application asks for -----------------------------------------------

    def invalidate(self) -> None:
        """End the session at the save point, and stand as one that holds nothing."""
        if self.phase is Phase.UNREAD and len(self._host.identify()) > 1:
            self._load()  # which of them lives?
        if self.phase is Phase.UNREAD or self._failure is not None:
            self.ends += [Invalidated(ticket.session_id) for ticket in self._host.identify()]
        elif self.session_id is not None:
            self.ends.append(Invalidated(self.session_id, True, self.contents.checks()))
            self._past = self.contents
        self.invalidated = True
        # A request in flight must not delete the cookie of a newer login.
        self.cookie_is_stale = not self._in_flight
        was_adrift = self._was_adrift or self.phase is Phase.ADRIFT
        self._stand(Phase.FRESH)
        self._was_adrift = was_adrift

    def regenerate(self, restart_lifetime: bool) -> None:
        """Give the session a new id at the save point.

        :param restart_lifetime: count ``absolute_timeout`` from then.
        """
        self.look_in_earnest()
        if self.phase is Phase.ADRIFT:
            self.phase, self._was_adrift = Phase.FRESH, True
        elif self.phase is Phase.STORED:
            self._regenerate = True
            self._restart_lifetime = restart_lifetime

    def change_hands(self, owner: str | int | None) -> bool:
        """Set the owner.

        :returns: whether it is another one, so that the id is to be regenerated.
        """
        self.look_in_earnest()
        # A login looks at it too, but not so as to conflict with another login.
        before = self.contents.meta(OWNER_FIELD, read=False)
        self.contents.assign_meta(OWNER_FIELD, owner)
        if before == owner and type(before) is type(owner):
            return False
        return not self._regenerate and self.phase is not Phase.FRESH

    def ensure_id(self) -> str | None:
        """Return the id; create the session now if it has none."""
        self.look()
        if self.phase is Phase.FRESH:
            self._create_alone(self._changes())
        return self.session_id

    # -- the save point ------------------------------------------------------------

    def discard_changes(self, reason: str) -> None:
        """Forget what was changed since the last save. Endings stay recorded."""
        if self.phase is Phase.UNREAD:
            return
        if self._lose(reason, self.contents, self.lifetime, self._regenerate):
            self.contents = self.contents.unchanged()
        self.drop_aside(reason)
        self.loose_ends.clear()
        self._stand_as_found()

    def _lose(self, reason: str, contents: Contents, lifetime: Lifetime, renewal: bool) -> bool:
        """Note what is lost.

        :returns: whether that may be anything.
        """
        others = ["the lifetime"] * (lifetime != NO_LIFETIME) + ["the new id"] * renewal
        if not (contents.pending() or others):
            return False
        detect = self._host.settings.detect_changes
        self.dropped.append(Dropped(reason, lambda: contents.touched(detect), others))
        return True

    def _stand_as_found(self) -> None:
        self.lifetime = NO_LIFETIME
        self._regenerate = False
        if self._was_adrift and self.phase is Phase.FRESH:
            self.phase = Phase.ADRIFT
        self._was_adrift = False

    def set_aside(self) -> bool:
        """A view failed: stand as stored, until it is known whether its changes count.

        :returns: whether there were any.
        """
        if self.phase is Phase.UNREAD:
            return False
        contents, lifetime = self.contents, self.lifetime
        asked = self._regenerate or self._was_adrift
        if not (contents.pending() or asked or lifetime is not NO_LIFETIME):
            return False
        self._aside = (contents, lifetime, self._regenerate, self._was_adrift)
        self.contents = contents.unchanged()
        self._stand_as_found()
        return True

    def take_up(self) -> None:
        """The changes that were set aside count; of two to the same, the later does."""
        if self._aside is None:
            return
        earlier, lifetime, regenerate, was_adrift = self._aside
        self._aside = None
        if was_adrift and self.phase is Phase.ADRIFT:
            self.phase, self._was_adrift = Phase.FRESH, True
        self.contents.lay_over(earlier)
        self.lifetime = Lifetime(
            *(
                before if later is None else later
                for before, later in zip(lifetime, self.lifetime, strict=True)
            )
        )
        self._regenerate = self._regenerate or regenerate

    def drop_aside(self, reason: str) -> None:
        """The changes that were set aside do not count."""
        if self._aside is not None:
            contents, lifetime, renewal, _ = self._aside
            self._lose(reason, contents, lifetime, renewal)
        self._aside = None

    def needs_cookie(self) -> bool:
        """Whether a save would make a new id."""
        return self.phase is Phase.FRESH or self._regenerate

    def rest(self) -> None:
        """The response is settled: watch only what is looked at again."""
        if self.phase is not Phase.UNREAD:
            self.contents.rest()

    def prepare(self) -> None:
        """Encode what would be saved.

        :raises UnserializableValue: a value cannot be; nothing was sent.
        """
        if self.phase is not Phase.UNREAD:
            self._changes()

    def save(self, cookie_can_go: bool) -> None:
        """Send what is pending to Redis; the only place that does.

        :param cookie_can_go: whether a new id could reach the browser. If
            not, no id is created or regenerated, and the changes are dropped.
        :raises UnserializableValue: nothing was sent; the session is as it was.
        :raises SessionConflict: ``on_conflict = retry``; nothing was saved.
        :raises StoreError: Redis failed.
        """
        if self.phase is not Phase.UNREAD:
            self._save_pending(cookie_can_go)
        self.end_old()

    def has_work(self) -> bool:
        """Cheaply rule out that there is anything to save."""
        if self.phase is Phase.UNREAD:
            return bool(self.ends)
        return (
            self.contents.pending()
            or self._regenerate
            or self.lifetime is not NO_LIFETIME
            or bool(self.ends)
        )

    def _save_pending(self, cookie_can_go: bool) -> None:
        if self.phase is Phase.ADRIFT:
            if self._changes() or self.lifetime != NO_LIFETIME:
                self._drop(ENDED if self._failure is None else UNREACHABLE)
            return
        changes = self._changes()
        stored = self.phase is Phase.STORED
        if stored and not self._regenerate:
            if changes or self.lifetime != NO_LIFETIME:
                self._save(changes)
        elif stored or changes.values:
            if not cookie_can_go:
                self._drop(UNDELIVERABLE)
            elif stored:
                self._move(changes)
            else:
                self._create(changes)

    def tie_up(self) -> None:
        """Nothing can fail any more: do what waited for that."""
        while self.loose_ends:
            try:
                self.loose_ends.pop(0)()
            except StoreError as exc:
                log.warning("after a request that is served: %s", exc)

    def _end_if_empty(self) -> None:
        """End a session that an attempt emptied which might still have failed."""
        if self.phase is Phase.STORED and self.session_id is not None:
            result = self._store().save(self.session_id, {}, [], NO_LIFETIME, end_if_empty=True)
            if result is Status.EMPTIED:
                self._emptied()

    def outdated(self) -> bool:
        """Tell whether values were met that another than the first secret protects."""
        return self.phase is Phase.STORED and bool(self._bound.outdated)

    def reseal(self) -> None:
        """Protect these with the first secret, where they are still the same."""
        contents, bound = self.contents, self._bound
        held = contents.stored(bound.outdated)
        bound.outdated.clear()
        swaps = []
        for field, raw, data in held:
            place = order_of(field, raw)  # a message keeps its own
            swaps.append((field, place + bound.seal(field, data)[len(place) :], raw))
        if self._store().swap(cast("str", self.session_id), swaps) == len(swaps):
            contents.resealed(swaps)

    def end_old(self) -> None:
        """End the sessions that were invalidated."""
        while self.ends:
            session_id, seen, _ = self.ends[0]
            again = session_id in self._tried
            self._tried.add(session_id)
            ending = self._store().end(session_id, keep_fields=self.undo is not None)
            self._has_ended(ending)
            if again:
                continue  # it may well have been this request that ended it
            ended_meanwhile = seen and ending.status is not Status.ENDED
            if ended_meanwhile or self._just_ended(ending.status, ending.age_ms):
                # A newer login may have a cookie by now: it must stay.
                self._in_flight, self.cookie_is_stale = True, False

    def _has_ended(self, ending: Ending) -> None:
        """The first of those that are to end has ended, or had already."""
        ended = self.ends.pop(0)
        if ending.status is Status.ENDED:
            self._can_revive(ended.session_id, ending)
            if self.undo is not None:
                self._ended.append(ended)
            self._host.announce(SessionInvalidated, fingerprint(ended.session_id))

    def take_back(self, reason: str = "") -> None:
        """Remove the id that this request made: no cookie will tell the browser of it.

        The id that it replaced lives again.

        :param reason: reported as the reason for which changes are lost.
        """
        if self.created_here and self.session_id is not None:
            self._store().end(self.session_id)
            if self._moved is not None:
                self._store().revive(*self._moved)
            if reason:
                self._report(InvalidSession_ChangesDropped, reason)
                self.dropped.append(Dropped(reason, self._sealing.own.copy, ["the new id"]))
            self._stand(Phase.ADRIFT)

    def put_back(self) -> None:
        """Undo what was saved, where it is still ours: it is to leave no trace.

        What the application invalidated lives again, and is still to end.
        """
        undo, self.undo = self.undo or [], None
        if not undo:
            return
        saved = {field for step in undo if isinstance(step, _PuttingBack) for field in step.now}
        if self.created_here:
            saved |= self._sealing.own
        if saved:
            self.dropped.append(Dropped(TAKEN_BACK, saved.copy))
        orphan = self.session_id if self.created_here else None
        try:
            for step in reversed(undo):
                step()
            if orphan is not None:
                self._store().end(orphan)
        finally:
            ended, self._ended = self._ended, []
            self._tried.difference_update(item.session_id for item in ended)
            self.ends += ended
            if self.ends:
                self._stand(Phase.FRESH)
            else:
                self._stand(Phase.UNREAD)
                self.invalidated = self.cookie_is_stale = False

    def alive(self) -> bool:
        """Ask Redis whether the session still lives; refreshes it."""
        if self.phase is not Phase.STORED or self.session_id is None:
            return False
        return not isinstance(self._store().adjust(self.session_id), Absent)

    def leave(self, afterlife: Host) -> None:
        """The request is over: report what could not be decoded, and let go of it."""
        if self.phase is not Phase.UNREAD and self.contents.undecodable:
            self._report(InvalidSession_DeserializationError, "a value does not decode")
        self._host = afterlife
        self.over = True

    def _store(self) -> Store:
        return self._host.store()

    def _changes(self) -> Changes:
        return self.contents.changes(self._host.settings.detect_changes)

    def _save(self, changes: Changes) -> None:
        """Save to the session as it is stored."""
        store, session_id, contents = self._store(), cast("str", self.session_id), self.contents
        lifetime, checks = self.lifetime, contents.checks()
        seal = self._bound.seal
        sealed = {field: seal(field, data) for field, data in changes.values.items()}
        undo, save_id = self.undo, draw_nonce()
        putting_back = None
        if undo is not None:
            # Before the call: if its reply is lost for good, it may have been saved.
            putting_back = _PuttingBack(
                store, session_id, save_id, contents.raw, changes, sealed, lifetime
            )
            undo.append(putting_back)
        result: Saved | Absent | Status
        if not changes and checks == NO_CHECKS:
            result = store.adjust(session_id, lifetime, save_id)
        else:
            empties = self._host.settings.invalidate_empty_session and contents.would_empty(changes)
            if empties and undo is not None:
                # An emptied session could not be put back.
                self.loose_ends.append(self._end_if_empty)
            careful = Undoable.OTHERS if self.careful else Undoable.NONE
            result = store.save(
                session_id,
                sealed,
                changes.deletes,
                lifetime,
                checks,
                end_if_empty=empties and undo is None,
                save_id=save_id,
                undoable=careful if undo is None else Undoable.THIS,
            )
        if isinstance(result, Saved):
            if putting_back is not None:
                putting_back.before.update(result.replaced or {})
            self.remaining_ms = result.remaining_ms
            contents.settle(changes, sealed)
            self._settle_lifetime()
            return
        if undo is not None:
            undo.pop()
        if isinstance(result, Absent):
            self._in_flight = True
            self._drop(ENDED)
        elif result is Status.CONFLICT:
            raise SessionConflict
        else:
            self._emptied()

    def _emptied(self) -> None:
        """The save has ended the session, as nothing was left in it.

        The cookie stays: this response may arrive after that of a login.
        """
        self._host.announce(SessionInvalidated, fingerprint(cast("str", self.session_id)))
        self._stand(Phase.FRESH)

    def _create(self, changes: Changes) -> None:
        """Create the session, and end the one that was invalidated before it."""
        if not self.ends:
            self._create_alone(changes)
            return
        old_id, _, checks = self.ends[0]
        self._tried.add(old_id)
        seal = _Sealing(self._host.sealer, changes.values)
        created, ending = self._store().replace(
            old_id,
            seal,
            self.lifetime,
            keep_fields=self.undo is not None,
            checks=checks,
            owner=changes.values.get(OWNER_FIELD),
            returning=False,
        )
        if ending.status is Status.CONFLICT:
            # What is put into the new session may stand on what was read of the old one.
            self._tried.discard(old_id)
            raise SessionConflict
        self._has_ended(ending)
        self._stand_as_created(created, seal)

    def _create_alone(self, changes: Changes) -> None:
        """Create the session; what was invalidated before it is left to end."""
        seal = _Sealing(self._host.sealer, changes.values)
        owner = changes.values.get(OWNER_FIELD)
        self._stand_as_created(self._store().create(seal, self.lifetime, owner=owner), seal)

    def _stand_as_created(self, created: Created | Absent, seal: _Sealing) -> None:
        owner = seal.data.get(OWNER_FIELD)
        self._adopt(created, seal)
        self._tidy_later(created, owner)
        if isinstance(created, Created):
            self._host.announce(SessionCreated, fingerprint(created.session_id))

    def _move(self, changes: Changes) -> None:
        """Regenerate: create the new id with all data, end the old one."""
        old_id, contents = cast("str", self.session_id), self.contents
        loaded, bound = contents.raw, self._bound
        merged = contents.merged(changes)
        own = set(changes.values) | set(changes.deletes)
        timeout, deadline = self.lifetime
        lifetime = Lifetime(
            number(loaded.get(b"timeout")) if timeout is None else timeout,
            number(loaded.get(b"deadline")) if deadline is None else deadline,
        )
        seal = _Sealing(self._host.sealer, merged)
        seal.own = own & (merged.keys() | loaded.keys())
        checks = contents.checks()
        start = None if self._restart_lifetime else self.created_ms()
        created, ending = self._store().replace(
            old_id,
            seal,
            lifetime,
            start,
            checks=checks,
            owner=merged.get(OWNER_FIELD),
            carried=OWNER_FIELD not in own,
            returning=not self.created_here,
        )
        if ending.status is Status.CONFLICT:
            raise SessionConflict
        delivered = not self.created_here  # does a browser know the old id?
        if delivered:
            self._can_revive(old_id, ending)
        self._adopt(created, seal)
        if isinstance(created, Absent):
            if created.status is Status.MOVED and ending.status is Status.ENDED:  # revoked
                self._host.announce(SessionInvalidated, fingerprint(old_id))
            return
        if ending.status is not Status.ENDED:
            self._or_undo(self._keep_own, [field for field in merged if field not in own])
            self._tidy_later(created, changes.values.get(OWNER_FIELD))
            return
        self._moved = (old_id, ending) if delivered else None
        self._host.announce(
            SessionRegenerated, fingerprint(created.session_id), fingerprint(old_id)
        )
        late, gone = slipped_in(loaded, ending.fields, own)
        opened = {field: bound.open(field, stored) for field, stored in late.items()}
        values = {field: data for field, data in opened.items() if data is not None}
        own_lifetime = Lifetime(
            *(
                None
                if ending.fields.get(field) == loaded.get(field) or mine is not None
                else number(ending.fields[field])
                if field in ending.fields
                else 0  # a deadline that was removed
                for field, mine in ((b"timeout", timeout), (b"deadline", deadline))
            )
        )
        self._or_undo(self._carry, Changes(values, gone), own_lifetime)
        self._tidy_later(created, merged.get(OWNER_FIELD), login=OWNER_FIELD in own)

    def _or_undo(self, step: Callable[..., None], *args: Any) -> None:
        """Complete a new id, or if that fails do without it: no cookie tells of it."""
        try:
            step(*args)
        except StoreError:
            try:
                self.take_back()
            except StoreError as exc:
                log.error("a new id could not be taken back: %s", exc)
                self._stand(Phase.ADRIFT)
            raise

    def _keep_own(self, lost: list[bytes]) -> None:
        """Another request ended the session first: its data has ended with it.

        What this request wrote itself is a session of its own, as at a login
        that was sent twice. But nothing, or only a new CSRF token, is no login,
        nor is what leaves the owner as it was: its cookie must not replace that of one.
        """
        self._carry(Changes({}, lost), NO_LIFETIME)
        if self.phase is not Phase.STORED:
            return
        self.contents.lose(lost)
        if OWNER_FIELD in lost or self.contents.held() <= {field_of(CSRF_KEY)}:
            self.take_back(ENDED)
        else:
            self._host.announce(SessionCreated, fingerprint(cast("str", self.session_id)))

    def _carry(self, late: Changes, lifetime: Lifetime) -> None:
        """Save under the new id what the end of the old one brought to light."""
        if late or lifetime != NO_LIFETIME:
            sealed = {field: self._bound.seal(field, data) for field, data in late.values.items()}
            result = self._store().save(
                cast("str", self.session_id), sealed, late.deletes, lifetime
            )
            if isinstance(result, Absent):
                self._drop(ENDED)  # revoked already
                return
            self.contents.settle(late, sealed)

    def _adopt(self, created: Created | Absent, sealing: _Sealing) -> None:
        """Stand as the session that was just created."""
        if isinstance(created, Absent):
            moved = created.status is Status.MOVED
            self._in_flight = self._in_flight or moved
            self._drop(ENDED if moved else EXPIRED)
            return
        session_id = created.session_id
        if self.undo is not None:
            store = self._store()
            self.undo.append(lambda: store.end(session_id))
        self.phase = Phase.STORED
        self.session_id = session_id
        self._sealing, self._bound = sealing, sealing.bound
        self.remaining_ms = created.remaining_ms
        self.created_here = True
        self._regenerate = False
        moments = {b"created": created.created_ms, b"token": created.token_ms}
        raw = {name: b"%d" % moment for name, moment in moments.items()} | sealing.sealed
        self.contents.rebase(raw, dict(sealing.data))
        self._settle_lifetime()

    def _tidy_later(
        self, created: Created | Absent, owner: bytes | None, login: bool = True
    ) -> None:
        """End the owner's sessions that are too many, once this one is sure to stand."""
        if owner is None or self.phase is not Phase.STORED or not isinstance(created, Created):
            return

        def tidy(owner: bytes = owner, created: Created = created) -> None:
            tidied = self._store().tidy(owner, created, login)
            for ended in tidied.ended:
                self._host.announce(SessionInvalidated, fingerprint(ended))
            if not tidied.stays:
                # In a browser that sent both, its cookie must not replace the newer one's.
                self._in_flight = True
                self._drop(ENDED)

        self.loose_ends.append(tidy)

    def _settle_lifetime(self) -> None:
        raw = self.contents.raw
        timeout, deadline = self.lifetime
        if timeout is not None:
            raw[b"timeout"] = b"%d" % timeout
        if deadline is not None:
            raw[b"deadline"] = b"%d" % deadline
        self.lifetime = NO_LIFETIME

    def _drop(self, reason: str) -> None:
        """Lose the changes, audibly."""
        self._report(InvalidSession_ChangesDropped, reason)
        if self.created_here:
            self.dropped.append(Dropped(reason, self._sealing.own.copy, ["the new id"]))
        self._lose(reason, self.contents, self.lifetime, self._regenerate)
        orphan = self.session_id if self.created_here else None
        self._past = self.contents
        self._stand(Phase.ADRIFT)
        if orphan is not None:
            self._store().end(orphan)

    def _can_revive(self, session_id: str, ending: Ending) -> None:
        """Remember how to undo an ending."""
        if self.undo is not None and ending.status is Status.ENDED:
            store = self._store()
            self.undo.append(lambda: store.revive(session_id, ending))


class _PuttingBack:
    """Takes a save back, field by field, where it is still there.

    :ivar before: what each field held before; ``None`` or missing = was absent.
    """

    def __init__(
        self,
        store: Store,
        session_id: str,
        save_id: str,
        loaded: Mapping[bytes, bytes],
        changes: Changes,
        sealed: Mapping[bytes, bytes],
        lifetime: Lifetime,
    ) -> None:
        self.before: dict[bytes, bytes | None] = {**loaded}
        self._store, self._session_id, self._save_id = store, session_id, save_id
        self._adjusted = lifetime != NO_LIFETIME
        self.now: dict[bytes, bytes | None] = {**sealed, **dict.fromkeys(changes.deletes)}
        timeout, deadline = lifetime
        if timeout is not None:
            self.now[b"timeout"] = b"%d" % timeout
        if deadline is not None:
            self.now[b"deadline"] = b"%d" % deadline if deadline else None

    def __call__(self) -> None:
        swaps = [(field, self.before.get(field), now) for field, now in self.now.items()]
        self._store.swap(self._session_id, swaps, undone=self._save_id)
        if self._adjusted:
            self._store.adjust(self._session_id)  # the key's life follows what was put back


class _Sealing:
    """Seals data for the id that a session gets, and remembers how it did.

    Sealing again would not give the same bytes where values are encrypted.

    :ivar own: the fields that the request wrote; at a regeneration not all are.
    """

    __slots__ = ("_sealer", "bound", "data", "own", "sealed")

    bound: Bound

    def __init__(self, sealer: Sealer, data: dict[bytes, bytes]) -> None:
        self._sealer = sealer
        self.data = data
        self.own = set(data)
        self.sealed: dict[bytes, bytes] = {}

    def __call__(self, session_id: str) -> dict[bytes, bytes]:
        self.bound = self._sealer.bind(session_id)
        seal = self.bound.seal
        self.sealed = {field: seal(field, value) for field, value in self.data.items()}
        return self.sealed


def number(stored: bytes | None) -> int | None:
    """Parse a field that no seal protects; ``None`` where it is no number."""
    # 16 digits: milliseconds far beyond any clock.
    return int(stored) if stored and len(stored) <= 16 and stored.isdigit() else None
