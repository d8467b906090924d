"""What a request knows of its session, and what it asks of it.

The session's face (:mod:`.session`) reads and records here. Looking loads;
nothing else acts on Redis before the save point, where :mod:`.executor` carries
out what :mod:`.plan` decides. :meth:`SessionState.ensure_id` alone creates at once.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol, cast

from ..errors import (
    InvalidSession,
    InvalidSession_ChangesDropped,
    InvalidSession_DeserializationError,
    InvalidSession_NotInBackend,
    InvalidSession_PayloadTimeout,
    InvalidSession_StoreUnavailable,
    RawDeserializationError,
    SessionConflict,
    StoreUnavailable,
    fingerprint,
)
from ..settings import Settings
from . import executor
from .contents import Changes, Contents
from .fields import OWNER_FIELD
from .memory import Memory
from .owner_index import OwnerIndex
from .plan import ADRIFT, FRESH, STORED, UNREAD, Cause, Happened, Phase, Reason
from .protocol import NO_CHECKS, NO_LIFETIME, Absent, Checks, Created, Lifetime, Loaded, Saved, sha1
from .scripts import Status
from .seals import Bound, Sealer, csrf_token
from .serializers import Codec
from .store import Store
from .tokens import DIGEST_SIZE, Ticket, Token, as_stored

__all__ = [
    "CSRF_KEY",
    "UNSET",
    "Dropped",
    "Ending",
    "Host",
    "Overview",
    "SessionState",
    "Trace",
    "number",
]

log = logging.getLogger(__package__)

#: Where Pyramid's ``SessionCSRFStoragePolicy`` keeps the token, too.
CSRF_KEY = "_csrft_"

#: Stands for a session with a value that is not authentic.
_SEAL_BROKEN = Absent(Status.GONE, foreign=True)

#: Not given.
UNSET: Any = object()


class Host(Protocol):
    """What a session needs of the request it is made for."""

    settings: Settings
    codec: Codec
    sealer: Sealer
    memory: Memory
    #: The token that an attempt of this request before this one had put in place.
    carried: Token | None
    #: It is the last attempt of a request whose transaction must not conflict once more.
    claims: bool

    def identify(self) -> list[Ticket]:
        """Return what the request's cookies say that verify."""

    def store(self) -> Store: ...

    def elapsed_ms(self) -> int:
        """Return how long the request has been running."""

    def report(self, problem: InvalidSession) -> None:
        """Log a refused session or lost change, and tell ``func_invalid_logger``."""

    def announce(self, what: Happened, fingerprint: str | None, cause: Cause) -> None:
        """Send an event to the application."""


class Ending(NamedTuple):
    """A session that is to end.

    :ivar seen: this request saw it alive.
    :ivar checks: what it read of it.
    """

    token: Token
    seen: bool = False
    checks: Checks = NO_CHECKS


class Aside(NamedTuple):
    """What a view had changed that failed."""

    phase: Phase
    contents: Contents
    lifetime: Lifetime
    renews: bool
    restarts: bool
    login: bool


class Overview(NamedTuple):
    """What a request knows of its session, for those who show it.

    :ivar fingerprint: of its id; ``None`` as long as it has none.
    :ivar created_here: this request put its token in place.
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


@dataclasses.dataclass
class Trace:
    """What a request did, for those who show it.

    :ivar name: fingerprint of the session that was loaded, ``None`` if none was.
    :ivar fields: what was loaded; ``sizes``: of the values among it, bytes in Redis.
    :ivar written: the fields that the request has set since then.
    :ivar ended: fingerprints of the sessions that it ended.
    """

    name: str | None = None
    fields: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    sizes: dict[bytes, int] = dataclasses.field(default_factory=dict)
    written: set[bytes] = dataclasses.field(default_factory=set)
    ended: list[str] = dataclasses.field(default_factory=list)


class SessionState:
    """One session in one request.

    :param host: the request's turn, as far as a session needs it.
    """

    __slots__ = (
        "_aside",
        "_bound",
        "_host",
        "contents",
        "cookie_expires",
        "cookie_is_stale",
        "cookie_max_age",
        "dropped",
        "ends",
        "entered",
        "failure",
        "in_flight",
        "invalidated",
        "lifetime",
        "login",
        "lost",
        "new",
        "over",
        "owned",
        "past",
        "phase",
        "recookie",
        "remaining_ms",
        "renews",
        "restarts",
        "stage_id",
        "staged",
        "token",
        "token_made",
        "touches",
        "trace",
        "tried",
        "unreachable",
        "wrote",
    )

    #: What protects it under its token, as soon as that is needed.
    _bound: Bound | None
    #: What it holds; not set before the first look.
    contents: Contents
    #: What it held when it ended in this request, for those who show it; else not set.
    past: Contents

    def __init__(self, host: Host) -> None:
        self._host = host
        self.phase = UNREAD
        #: That it is stored under.
        self.token: Token | None = None
        #: It was not stored before this request.
        self.new = True
        #: It was an owner's before this request.
        self.owned = False
        self.remaining_ms = -1
        #: The first look refreshes the idle timeout.
        self.touches = True
        # What the application asked for since the last save.
        self.lifetime = NO_LIFETIME
        self.renews = self.restarts = self.login = False
        #: Fingerprint of the session that turned out not to live when that was to be saved.
        self.lost = ""
        #: What a view had changed that failed.
        self._aside: Aside | None = None
        #: What the save point will end; and what it has tried to, as a reply may be lost.
        self.ends: list[Ending] = []
        self.tried: frozenset[Token] | set[Token] = frozenset()
        #: This request put the token in place: by creating the session, or a new one.
        self.token_made = False
        #: The fields that were written with it.
        self.wrote: Collection[bytes] = ()
        #: The owner that was set, and saved, and the index of the owner's sessions as it was then.
        self.entered: tuple[bytes, Any] | None = None
        #: :meth:`invalidate` was called.
        self.invalidated = False
        #: This request ended the session that the browser's cookie names.
        self.cookie_is_stale = False
        #: The session had ended while this request was under way.
        self.in_flight = False
        #: It could not be loaded: what can wait does not make the request wait again.
        self.unreachable = False
        #: Why it could not be loaded (``on_redis_error = ephemeral``).
        self.failure: StoreUnavailable | None = None
        #: Names what is staged until a transaction commits; the session it is staged of.
        self.stage_id = ""
        self.staged: Token | None = None
        #: The request is over: what is changed now would be lost.
        self.over = False
        #: Set by those who show what the request did.
        self.trace: Trace | None = None
        #: What was lost, and why: for those who show it.
        self.dropped: list[Dropped] = []
        #: The application asked for the cookie to be sent.
        self.recookie = False
        self.cookie_max_age: Any = UNSET
        self.cookie_expires: Any = UNSET

    def stand(self, phase: Phase) -> None:
        """Hold nothing, and stand so.

        As in :meth:`_load`, what is called comes first: a deadline from outside may end a request
        at each call, and must not find it half changed.
        """
        contents = self._make_contents({}, {})
        self._ask_nothing()
        self.contents = contents
        self.phase = phase
        self.token = None
        self.new = True
        self.remaining_ms = -1
        self.token_made = False
        self.failure = None
        self._aside = None

    def _ask_nothing(self) -> None:
        self.lifetime = NO_LIFETIME
        self.renews = self.restarts = self.login = False
        self.lost = ""

    def _make_contents(self, raw: dict[bytes, bytes], plain: dict[bytes, bytes]) -> Contents:
        host = self._host
        return Contents(raw, plain, host.codec, host.settings.on_conflict == "retry")

    # -- loading -----------------------------------------------------------------

    def look(self) -> None:
        """Load, unless it was looked at before."""
        if self.phase is UNREAD:
            self._load()

    def _load(self) -> None:
        host = self._host
        self.unreachable = False
        absent: list[tuple[Ticket, Absent]] = []
        try:
            tickets = host.identify()
        except StoreUnavailable as exc:  # in the middle of a migration
            self._go_without(None, exc)
            return
        if self.phase is not UNREAD:
            return  # func_invalid_logger has used the session meanwhile
        for ticket in tickets:
            token = ticket.token
            try:
                if not self.touches:
                    loaded = host.store().peek(token)
                else:
                    if host.claims:
                        self.release()  # of a token before it, which opens nothing
                        executor.claim(self, token)
                    loaded = host.store().load(token)
            except StoreUnavailable as exc:
                self._go_without(token, exc)
                return
            if isinstance(loaded, Loaded):
                plain, bound = host.memory.open_all(token, loaded.fields)
                if plain is not None:
                    break
                loaded = _SEAL_BROKEN
            absent.append((ticket, loaded))
        else:
            self._refuse_absent(absent)
            return
        if self.trace is not None:
            sizes = {field: len(loaded.fields[field]) for field in plain}
            name, fields = fingerprint(token.locator), dict(loaded.fields)
            self.trace = Trace(name, fields, sizes, ended=self.trace.ended)
        self.contents = self._make_contents(loaded.fields, plain)
        self._bound = bound
        self.token = token
        self.token_made = token == host.carried
        self.new = False
        self.owned = OWNER_FIELD in loaded.fields
        self.remaining_ms = loaded.remaining_ms
        self.phase = STORED

    def _go_without(self, token: Token | None, failure: StoreUnavailable) -> None:
        """Redis cannot be reached: give the request an empty session, if so configured."""
        self.unreachable = True
        if self._host.settings.on_redis_error != "ephemeral":
            raise failure
        self.stand(ADRIFT)
        self.failure = failure
        name = None if token is None else fingerprint(token.locator)
        self.report(InvalidSession_StoreUnavailable, "Redis cannot be reached", name)

    def _refuse_absent(self, absent: list[tuple[Ticket, Absent]]) -> None:
        """None of the tokens opens a session; of several, one in flight decides."""
        self.in_flight = any(self.just_ended(found) for _, found in absent)
        self.owned = any(found.owned for _, found in absent)
        self.stand(ADRIFT if self.in_flight else FRESH)
        absolute = self._host.settings.absolute_timeout
        for ticket, found in absent:
            name = fingerprint(ticket.token.locator)
            if found is _SEAL_BROKEN:
                self._refuse_corrupt(name, "seal broken")
            elif found.foreign:
                self._refuse_corrupt(name, "not a session")
            elif found.replaced:
                self.report(InvalidSession_NotInBackend, "token has been replaced", name)
            elif found.status is Status.MOVED:
                self.report(InvalidSession_NotInBackend, "session has ended", name)
            elif absolute is not None and time.time() - ticket.issued >= absolute:
                # Nothing is left in Redis that could say why; the session is as old as its
                # cookie, or older.
                self.report(InvalidSession_PayloadTimeout, "absolute timeout has passed", name)
            elif found.expired:
                self.report(InvalidSession_PayloadTimeout, "session has expired", name)
            else:
                self.report(InvalidSession_NotInBackend, "no such session", name)

    def just_ended(self, found: Absent) -> bool:
        """Whether this request was in flight when the session ended, or got a new token."""
        if found.status is not Status.MOVED:
            return False
        grace_ms = self._host.settings.grace * 1000
        # A clock may step back a little; a marker of the far future is none of ours.
        return -grace_ms <= found.age_ms - self._host.elapsed_ms() <= grace_ms

    def _refuse_corrupt(self, name: str, reason: str) -> None:
        self.report(InvalidSession_DeserializationError, reason, name)
        if not self._host.settings.deserialized_fails_new:
            raise RawDeserializationError(reason, name)

    def look_in_earnest(self) -> None:
        """Look, for what must not be done to an empty session that only stands for another.

        :raises StoreUnavailable: it could not be loaded (``on_redis_error = ephemeral``).
        """
        self.look()
        if self.failure is not None:
            raise self.failure

    # -- what is known of it -----------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self._host.settings

    @property
    def sealer(self) -> Sealer:
        return self._host.sealer

    @property
    def bound(self) -> Bound:
        """What protects it under its token."""
        if self._bound is None:
            token = self.stored_token()
            self._bound = self._host.sealer.bind(token.locator, token.digest)
        return self._bound

    @property
    def session_id(self) -> str | None:
        """The locator under which it is stored."""
        return None if self.token is None else self.token.locator

    def stored_token(self) -> Token:
        return cast("Token", self.token)

    def created_ms(self) -> int | None:
        """Return its creation time, ms since the epoch; ``None`` where nothing is stored."""
        return number(self.contents.raw.get(b"created"))

    def token_ms(self) -> int | None:
        """Return when its token was put in place, ms since the epoch, as :meth:`created_ms`."""
        return number(self.contents.raw.get(b"token", b"")[DIGEST_SIZE:])

    def csrf_token(self) -> str | None:
        """Derive the CSRF token of the token; ``None`` where that is yet to be made.

        Requests that overlap derive the same.
        """
        if self.phase is not STORED or self.renews or self.token is None:
            return None
        return csrf_token(self._host.settings, self.token)

    def ended(self) -> bool:
        """Tell whether it was found to have ended while this request was under way."""
        if self.phase is not ADRIFT or self.failure is not None or self.login:
            return False
        return not (self.renews and executor.logs_in(self, self.contents.touched(False)))

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
        if self.phase is UNREAD:
            return None
        contents = self.contents
        return Overview(
            self.phase,
            None if self.token is None else fingerprint(self.token.locator),
            self.token_made,
            self.invalidated,
            self.created_ms(),
            self.timeout(),
            self.remaining_ms,
            contents.stored(contents.held()),
            contents.types(),
            self.past.types() if hasattr(self, "past") else {},
        )

    def client(self) -> Any:
        """Return the redis client."""
        return self._host.store().client

    def store(self) -> Store:
        return self._host.store()

    def report(self, kind: type[InvalidSession], reason: str, name: str | None = None) -> None:
        """Report a refused session, or lost changes.

        :param name: fingerprint of a session that is not this one.
        """
        if name is None and self.token is not None:
            name = fingerprint(self.token.locator)
        self._host.report(kind(reason, name))

    def announce(self, what: Happened, cause: Cause, name: str | None = None) -> None:
        """Send an event.

        :param name: fingerprint of a session that is not this one.
        """
        self._host.announce(what, name or fingerprint(self.stored_token().locator), cause)

    def conflict(self, cause: Cause = Cause.OUTDATED) -> SessionConflict:
        """Send the event, and return what is to be raised."""
        name = None if self.token is None else fingerprint(self.token.locator)
        self._host.announce(Happened.CONFLICTED, name, cause)
        return SessionConflict()

    # -- what the application asks for ---------------------------------------------------

    def invalidate(self) -> None:
        """End the session, at the save point."""
        if self.phase is UNREAD and len(self._host.identify()) > 1:
            self._load()  # which of them lives?
        if self.phase is UNREAD or self.failure is not None:
            self.ends += [Ending(ticket.token) for ticket in self._host.identify()]
        elif self.token is not None:
            self.ends.append(Ending(self.token, True, self.contents.checks()))
            self.past = self.contents
        self.invalidated = True
        # A request in flight must not delete the cookie of a newer login.
        self.cookie_is_stale = not self.in_flight
        self.stand(FRESH)

    def regenerate(self, restart_lifetime: bool) -> None:
        """Put a new token in place, at the save point."""
        self.look_in_earnest()
        if self.phase is not FRESH:
            self.renews = True
            self.restarts = restart_lifetime
            # Also where it is the same owner: the password was asked for again.
            self.login = self.login or self.contents.sets(OWNER_FIELD)

    def change_hands(self, owner: str | int | None) -> bool:
        """Set the owner.

        :returns: whether that takes a new token.
        """
        self.look_in_earnest()
        # A login looks at it too, but not so as to conflict with another login.
        before = self.contents.meta(OWNER_FIELD, read=False)
        changes_hands = before != owner or type(before) is not type(owner)
        self.contents.assign_meta(OWNER_FIELD, owner)
        if changes_hands or self.renews:
            self.login = owner is not None
        return changes_hands and not self.renews and self.phase is not FRESH

    def ensure_id(self) -> str | None:
        """Return the locator; create the session now if it has none."""
        self.look()
        if self.phase is FRESH:
            executor.create(self, self.changes())
        return self.session_id

    # -- changes that do not count, or not yet ---------------------------------------------

    def discard_changes(self, reason: str) -> None:
        """Forget what was changed since the last save. Endings stay recorded."""
        if self.phase is UNREAD:
            return
        if self.lose(reason):
            self.contents = self.contents.unchanged()
        self.drop_aside(reason)
        self._stand_as_found()

    def lose(self, reason: str) -> bool:
        """Note what is lost.

        :returns: whether that may be anything.
        """
        contents = self.past if self.lost else self.contents
        return self._note_lost(reason, contents, self.lifetime, self.renews)

    def _note_lost(self, reason: str, contents: Contents, lifetime: Lifetime, renews: bool) -> bool:
        others = ["the lifetime"] * (lifetime != NO_LIFETIME) + ["the new token"] * renews
        if not (contents.pending() or others):
            return False
        detect = self._host.settings.detect_changes
        self.dropped.append(Dropped(reason, lambda: contents.touched(detect), others))
        return True

    def lose_made(self, reason: str) -> None:
        """Note that what this request had stored is lost."""
        if self.token_made:
            wrote = frozenset(self.wrote)
            self.dropped.append(Dropped(reason, lambda: wrote, ["the new token"]))

    def _stand_as_found(self) -> None:
        self._ask_nothing()
        if self.phase is FRESH and self.in_flight:
            # It was invalidated, so as to begin anew; a newer login's cookie must stay.
            self.phase = ADRIFT

    def set_aside(self) -> bool:
        """A view failed: stand as stored, until it is known whether its changes count.

        :returns: whether there were any.
        """
        if not self.is_changed():
            return False
        asked = (self.lifetime, self.renews, self.restarts, self.login)
        self._aside = Aside(self.phase, self.contents, *asked)
        self.contents = self.contents.unchanged()
        self._stand_as_found()
        return True

    def take_up(self) -> None:
        """The changes that were set aside count; of two to the same, the later does."""
        if self._aside is None:
            return
        aside, self._aside = self._aside, None
        if self.phase is ADRIFT:
            self.phase = aside.phase
        self.contents.lay_over(aside.contents)
        self.lifetime = Lifetime(
            *(
                before if later is None else later
                for before, later in zip(aside.lifetime, self.lifetime, strict=True)
            )
        )
        self.renews = self.renews or aside.renews
        self.restarts = self.restarts or aside.restarts
        self.login = self.login or aside.login

    def drop_aside(self, reason: str) -> None:
        """The changes that were set aside do not count."""
        if self._aside is not None:
            _, contents, lifetime, renews, *_ = self._aside
            self._note_lost(reason, contents, lifetime, renews)
        self._aside = None

    # -- the save point --------------------------------------------------------------------

    def changes(self) -> Changes:
        """Find and encode what would be saved.

        :raises UnserializableValue: a value cannot be encoded.
        """
        if self.phase is UNREAD:
            return Changes({}, [])
        return self.contents.changes(self._host.settings.detect_changes)

    def has_work(self) -> bool:
        """Cheaply rule out that there is anything to save."""
        return bool(self.ends) or self.is_changed()

    def is_changed(self) -> bool:
        """Cheaply rule out that anything was changed."""
        return self.phase is not UNREAD and bool(
            self.contents.pending()
            or self.lost
            or self.renews
            or self.login
            or self.lifetime is not NO_LIFETIME
        )

    def needs_cookie(self) -> bool:
        """Whether a save would put a new token in place."""
        return self.phase is FRESH or self.renews or self.login

    def save(self, cookie_can_go: bool) -> None:
        """Send what is pending to Redis.

        :param cookie_can_go: whether a new token could reach the browser. If
            not, none is put in place, and the changes are dropped.
        :raises UnserializableValue: nothing was sent; the session is as it was.
        :raises SessionConflict: ``on_conflict = retry``; nothing was saved.
        :raises StoreError: Redis failed.
        """
        executor.settle(self, cookie_can_go)
        executor.end_sessions(self)

    def stage(self, cookie_can_go: bool) -> None:
        """Announce what a transaction will save when it commits: see :meth:`save`."""
        executor.stage(self, cookie_can_go)

    def release(self) -> None:
        """Give up what was announced, and not saved."""
        if self.staged is not None:
            executor.release(self)

    # -- what the executor found ---------------------------------------------------------

    def adopt(self, created: Created, sealing: executor.Sealing) -> None:
        """Stand as the session that was just created."""
        self.phase = STORED
        self.token = created.token
        self._bound = sealing.bound
        self.remaining_ms = created.remaining_ms
        self.token_made, self.wrote = True, sealing.data.keys()
        raw = {
            b"created": b"%d" % created.created_ms,
            b"token": as_stored(created.token.digest, created.token_ms),
            **sealing.sealed,
        }
        self.contents.rebase(raw, dict(sealing.data), sealing.data)
        self._settle_lifetime()

    def saved(self, saved: Saved, changes: Changes, sealed: dict[bytes, bytes]) -> None:
        """The changes were applied."""
        self.remaining_ms = saved.remaining_ms
        self._trace_written(changes)
        self.contents.settle(changes, sealed)
        # What others save is told by this field, and it is not known any more.
        self.contents.raw.pop(b"saves", None)
        self._settle_lifetime()

    def renewed(self, saved: Saved, sealing: executor.Sealing, changes: Changes) -> None:
        """The changes were applied, under a new token."""
        token = sealing.token
        self.token, self._bound, self.token_made = token, sealing.bound, True
        self._trace_written(changes)
        self.wrote = {*changes.values, *(f for f in changes.deletes if f in self.contents.raw)}
        self.remaining_ms = saved.remaining_ms
        stays = {f: v for f, v in self.contents.raw.items() if f in PLAIN_FIELDS}
        stays[b"token"] = as_stored(token.digest, saved.now_ms)
        if self.restarts:
            stays[b"created"] = b"%d" % saved.now_ms
        self.contents.rebase({**stays, **sealing.sealed}, sealing.data, changes.values)
        self._settle_lifetime()

    def _trace_written(self, changes: Changes) -> None:
        if self.trace is not None:
            self.trace.written.update(changes.values)

    def _settle_lifetime(self) -> None:
        raw = self.contents.raw
        timeout, deadline = self.lifetime
        if timeout is not None:
            raw[b"timeout"] = b"%d" % timeout
        if deadline is not None:
            raw[b"deadline"] = b"%d" % deadline
        self._ask_nothing()

    def drift(self, changes: Changes) -> None:
        """The session turned out to have ended, or to have got another token.

        What this request wrote itself stays, until it is known whether that goes anywhere.
        """
        self.in_flight = True
        self.lost = fingerprint(self.stored_token().locator)
        self.past = self.contents
        self.phase = ADRIFT
        self.token = None
        self.new = True
        self.token_made = False
        self.remaining_ms = -1
        self.contents = self.contents.own(changes)

    # -- after the save point ------------------------------------------------------------

    def alive(self) -> bool:
        """Ask Redis whether the session still lives; refreshes it."""
        if self.phase is not STORED or self.token is None:
            return False
        return not isinstance(self._host.store().adjust(self.token), Absent)

    def abandon(self, reason: Reason = Reason.NONE) -> None:
        """End the session whose token this request put in place: no browser will hold it.

        :param reason: reported as the reason for which changes are lost.
        """
        if self.token_made:
            executor.abandon(self)
            if reason is not Reason.NONE:
                self.report(InvalidSession_ChangesDropped, reason.value)
                self.lose_made(reason.value)
            self.stand(ADRIFT)

    def tidy(self) -> None:
        """End the owner's sessions that are too many, now that this one is sure to stand."""
        if self.entered is not None:
            (owner, indexed), self.entered = self.entered, None
            if self.token is not None:
                index = OwnerIndex(self.store(), self.sealer, owner)
                tidied = index.tidy(self.token.locator, indexed)
                for ended in tidied.ended:
                    self.announce(Happened.INVALIDATED, Cause.OWNER_SESSIONS, fingerprint(ended))
                if not tidied.stays:
                    # In a browser that sent both, its cookie must not replace the newer one's.
                    self.report(InvalidSession_ChangesDropped, Reason.ENDED.value)
                    self.lose_made(Reason.ENDED.value)
                    self.in_flight = True
                    self.stand(ADRIFT)

    def outdated(self) -> bool:
        """Tell whether values were met that another than the first secret protects."""
        bound = self._bound if self.phase is STORED else None
        return bound is not None and bool(bound.outdated)

    def reseal(self) -> None:
        """Protect these with the first secret, where they are still the same."""
        contents, bound = self.contents, self.bound
        held = contents.stored(bound.outdated)
        bound.outdated.clear()
        values = contents.placed({field: bound.seal(field, data) for field, _, data in held})
        swaps = [(field, values[field], raw) for field, raw, _ in held]
        unchanged = Checks({field: sha1(raw) for field, _, raw in swaps})
        result = self.store().save(self.stored_token(), values, [], checks=unchanged)
        if isinstance(result, Saved):
            contents.resealed(swaps)

    def rest(self) -> None:
        """The response is settled: watch only what is looked at again."""
        if self.phase is not UNREAD:
            self.contents.rest()

    def stand_under(self, host: Host) -> None:
        """Belong to another host from now on; nothing was looked at yet."""
        self._host = host

    def leave(self, afterlife: Host) -> None:
        """The request is over: report what could not be decoded, and let go of it."""
        if self.phase is not UNREAD and self.contents.undecodable:
            self.report(InvalidSession_DeserializationError, "a value does not decode")
        self._host = afterlife
        self.over = True


#: Fields of a stored session that no seal protects.
PLAIN_FIELDS = frozenset((b"created", b"timeout", b"deadline", b"expires"))


def number(stored: bytes | None) -> int | None:
    """Parse a field that no seal protects; ``None`` where it is no number."""
    # 16 digits: milliseconds far beyond any clock.
    return int(stored) if stored and len(stored) <= 16 and stored.isdigit() else None
