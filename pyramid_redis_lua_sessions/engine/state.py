"""What a request knows of its session, and what it asks of it.

The session's face (:mod:`.session`) reads and records here. Looking loads, and claims
the session where a transaction is tried for the last time; else nothing acts on Redis before
the save point, where :mod:`.executor` carries out what :mod:`.plan` decides.
:meth:`SessionState.ensure_id` alone creates at once.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence, Set
from typing import Any, NamedTuple, Protocol, cast

from ..errors import (
    InvalidSession,
    InvalidSession_ChangesDropped,
    InvalidSession_DeserializationError,
    SessionConflict,
    StoreUnavailable,
    fingerprint,
)
from ..settings import Settings
from . import executor, refusals, staging
from .contents import Changes, Contents
from .ends import Clock
from .fields import CONFIRMED_FIELD, CSRF_FIELD, DEVICE_FIELD, OWNER_FIELD
from .memory import Memory
from .plan import ADRIFT, FRESH, STORED, UNREAD, Cause, Happened, Phase, Reason
from .protocol import (
    DEFAULT_MS,
    NO_CHECKS,
    NO_LIFETIME,
    Absent,
    Checks,
    Created,
    Entry,
    Lifetime,
    Loaded,
    Saved,
)
from .scripts import Status
from .seals import Bound, Sealer, csrf_token
from .serializers import Codec
from .store import Store
from .tokens import TOKEN_FIELD, Ticket, Token, as_stored, moments
from .trace import UNTRACED, Trace

__all__ = [
    "UNSET",
    "Ending",
    "Host",
    "NoHost",
    "Resend",
    "SessionState",
    "confirmed_in",
    "number",
]

log = logging.getLogger(__package__)

#: Not given.
UNSET: Any = object()

#: Fields of which no login consists.
_NO_LOGIN = {CSRF_FIELD, CONFIRMED_FIELD}

#: Every request has it at first, so nobody may write to it.
_NOBODY: dict[bytes, Token] = {}


class Shared(Protocol):
    """What the sessions of all requests share: those of one factory."""

    settings: Settings
    codec: Codec
    sealer: Sealer
    memory: Memory


class Host(Protocol):
    """What a session needs of the request it is made for."""

    #: The token that an attempt of this request before this one had put in place.
    carried: Token | None
    #: It is the last attempt of a request whose transaction must not conflict once more.
    claims: bool

    def identify(self) -> Sequence[Ticket]:
        """Return what the request's cookies say that verify."""

    def store(self) -> Store: ...

    def elapsed_ms(self) -> int:
        """Return how long the request has been running."""

    def opens_page(self) -> bool:
        """Tell whether the request is for a page that the user asked for, as far as is known."""

    def lock(self, token: Token, binding: bytes) -> str:
        """Tell why a session that is bound to a device is locked for the request; '' = it is not.

        :param binding: field ``device``, encoded.
        """

    def most_sessions(self, owner: bytes) -> int:
        """Return how many sessions an owner may have.

        :param owner: encoded.
        """

    def report(self, problem: InvalidSession) -> None:
        """Log a refused session or lost change, and tell ``func_invalid_logger``."""

    def announce(self, what: Happened, fingerprint: str | None, cause: Cause) -> None:
        """Send an event to the application."""


class NoHost:
    """What a session has in place of a request that does not serve it: what needs one fails.

    :param why: said by the ``RuntimeError``.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, _: str) -> Any:
        raise RuntimeError(self._why)


_OVER = cast("Host", NoHost("the request of this session is over"))


class Ending(NamedTuple):
    """A session that is to end.

    :ivar seen: this request saw it alive.
    :ivar checks: what it read of it.
    :ivar owner: its owner, encoded, where there is one and it is known.
    :ivar tried: Redis was told already, and its reply was lost.
    """

    token: Token
    seen: bool = False
    checks: Checks = NO_CHECKS
    owner: bytes | None = None
    tried: bool = False


class Asked(NamedTuple):
    """What the application asks for, beside changes of the contents.

    :ivar lifetime: the lifetimes that it has adjusted.
    :ivar renews: a new token; ``restarts``: and the lifetime begins anew.
    :ivar login: an owner was set; see :meth:`SessionState.is_login`.
    """

    lifetime: Lifetime = NO_LIFETIME
    renews: bool = False
    restarts: bool = False
    login: bool = False

    def over(self, earlier: Asked) -> Asked:
        """Return what both ask for; of two lifetimes, the later counts."""
        if self is ASKED_NOTHING or earlier is ASKED_NOTHING:
            return earlier if self is ASKED_NOTHING else self
        lifetimes = zip(earlier.lifetime, self.lifetime, strict=True)
        lifetime = Lifetime(*(before if later is None else later for before, later in lifetimes))
        flags = zip(earlier[1:], self[1:], strict=True)
        return Asked(lifetime, *(before or later for before, later in flags))

    def in_words(self) -> list[str]:
        return ["the lifetime"] * (self.lifetime != NO_LIFETIME) + ["the new token"] * self.renews


ASKED_NOTHING = Asked()


class Resend(NamedTuple):
    """How the cookie is to be sent again.

    :ivar max_age: the life that the application chose, seconds; ``expires``: or the end. What
        it did not choose is ``UNSET``.
    """

    max_age: Any = UNSET
    expires: Any = UNSET


class Aside(NamedTuple):
    """What a view had changed that failed."""

    phase: Phase
    contents: Contents
    asked: Asked


class SessionState:
    """One session in one request.

    :param shared: its factory, as far as a session needs it.
    :param host: the request's turn, as far as a session needs it.
    """

    __slots__ = (
        "_bound",
        "admitted",
        "aside",
        "asked",
        "clock_offset",
        "contents",
        "endings",
        "entered",
        "failure",
        "host",
        "in_flight",
        "invalidated",
        "locked",
        "lost",
        "new",
        "offers",
        "over",
        "owned",
        "phase",
        "remaining_ms",
        "resend",
        "seen_ms",
        "shared",
        "stage_id",
        "staged",
        "token",
        "token_made",
        "touches",
        "trace",
        "unreachable",
    )

    #: What protects it under its token, as soon as that is needed.
    _bound: Bound | None
    #: What it holds; not set before the first look.
    contents: Contents

    def __init__(self, shared: Shared, host: Host) -> None:
        self.shared = shared
        self.host = host
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
        #: Redis' clock less that of this process, ms; ``None`` as long as nobody asked.
        self.clock_offset: float | None = None
        #: When it was touched before, ms since the epoch; 0 = unknown.
        self.seen_ms = 0
        #: What the application asked for since the last save.
        self.asked = ASKED_NOTHING
        #: Fingerprint of the session that turned out not to live when that was to be saved.
        self.lost = ""
        #: What a view had changed that failed.
        self.aside: Aside | None = None
        #: What the save point will end.
        self.endings: list[Ending] = []
        #: This request put the token in place: by creating the session, or a new one.
        self.token_made = False
        #: The indexes that the session was added to, and what each answered.
        self.entered: Sequence[tuple[Entry, Any]] = ()
        #: The owner that has room for this session, where some are refused, and the token that
        #: it will have, or had.
        self.admitted = _NOBODY
        #: :meth:`invalidate` was called.
        self.invalidated = False
        #: The session had ended while this request was under way: a newer login may have a
        #: cookie by now, which must stay.
        self.in_flight = False
        #: Token of one that lives, and is bound to a device that this request is not from.
        self.locked: Token | None = None
        #: The response is to offer the browser to bind it to its device.
        self.offers = False
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
        self.trace: Trace = UNTRACED
        #: The application asked for the cookie to be sent.
        self.resend: Resend | None = None

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
        self.token_made = self.offers = False
        self.failure = self.locked = None
        self.aside = None

    def _ask_nothing(self) -> None:
        self.asked = ASKED_NOTHING
        self.lost = ""

    def _make_contents(self, raw: dict[bytes, bytes], plain: dict[bytes, bytes]) -> Contents:
        shared = self.shared
        return Contents(raw, plain, shared.codec, shared.settings.on_conflict == "retry")

    # -- loading -----------------------------------------------------------------

    def look(self) -> None:
        """Load, unless it was looked at before."""
        if self.phase is UNREAD:
            self._load()

    def _load(self) -> None:
        host = self.host
        self.unreachable = False
        absent: list[tuple[Ticket, Absent]] = []
        try:
            tickets = host.identify()
        except StoreUnavailable as exc:  # in the middle of a migration
            refusals.go_without(self, None, exc)
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
                        staging.release(self)  # of a token before it, which opens nothing
                        staging.claim(self, token)
                    loaded = host.store().load(token)
            except StoreUnavailable as exc:
                refusals.go_without(self, token, exc)
                return
            if isinstance(loaded, Loaded):
                plain, bound = self.shared.memory.open_all(token, loaded.fields)
                if plain is None:
                    loaded = refusals.SEAL_BROKEN
                elif DEVICE_FIELD in plain and (why := host.lock(token, plain[DEVICE_FIELD])):
                    loaded = Absent(Status.GONE, owned=OWNER_FIELD in plain, locked=why)
                else:
                    break
            absent.append((ticket, loaded))
        else:
            refusals.refuse(self, absent)
            return
        self.trace.loads(token, loaded.fields, plain)
        self.contents = self._make_contents(loaded.fields, plain)
        self._bound = bound
        self.token = token
        self.token_made = token == host.carried
        self.new = False
        self.owned = OWNER_FIELD in loaded.fields
        self.remaining_ms = loaded.remaining_ms
        if loaded.now_ms:
            self.note_time(loaded)
            if loaded.idle_ms >= 0:
                # A default timeout that was raised since would put it before the start.
                self.seen_ms = max(self.created_ms() or 0, loaded.now_ms - loaded.idle_ms)
        self.phase = STORED

    def look_in_earnest(self) -> None:
        """Look, for what must not be done to an empty session that only stands for another.

        :raises StoreUnavailable: it could not be loaded (``on_redis_error = ephemeral``).
        """
        self.look()
        if self.failure is not None:
            raise self.failure

    # -- what is known of it -----------------------------------------------------------

    @property
    def bound(self) -> Bound:
        """What protects it under its token."""
        if self._bound is None:
            token = self.stored_token()
            self._bound = self.shared.sealer.bind(token.locator, token.digest)
        return self._bound

    @property
    def cookie_is_stale(self) -> bool:
        """Whether this request ended the session that the browser's cookie names."""
        return self.invalidated and not self.in_flight

    @property
    def session_id(self) -> str | None:
        """The locator under which it is stored."""
        return None if self.token is None else self.token.locator

    def stored_token(self) -> Token:
        return cast("Token", self.token)

    def note_time(self, loaded: Loaded) -> None:
        """Note what a load tells of the time."""
        if loaded.now_ms:
            clock = self.contents.clock = self.contents.clock or Clock(0)
            clock.now_ms = loaded.now_ms
            self.clock_offset = loaded.now_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        """Return Redis' time, ms since the epoch: by what the load told, or else by a call.

        :raises StoreUnavailable: Redis cannot be reached.
        """
        if self.clock_offset is None:
            now_ms = self.host.store().now(self.session_id)
            self.clock_offset = now_ms - time.monotonic() * 1000
        return int(self.clock_offset + time.monotonic() * 1000)

    def created_ms(self) -> int | None:
        """Return its creation time, ms since the epoch; ``None`` where nothing is stored."""
        return moments(self.contents.raw.get(TOKEN_FIELD))[0]

    def token_ms(self) -> int | None:
        """Return when its token was put in place, ms since the epoch, as :meth:`created_ms`."""
        return moments(self.contents.raw.get(TOKEN_FIELD))[1]

    def csrf_token(self) -> str | None:
        """Derive the CSRF token of the token; ``None`` where that is yet to be made.

        Requests that overlap derive the same.
        """
        if self.locked is not None:
            # So that the form of a login works; that of the session itself is not given away.
            return csrf_token(self.shared.settings, self.locked, b"locked csrf")
        if self.phase is not STORED or self.asked.renews or self.token is None:
            return None
        return csrf_token(self.shared.settings, self.token)

    def ended(self) -> bool:
        """Tell whether it was found to have ended while this request was under way."""
        if self.phase is not ADRIFT or self.failure or self.locked:
            return False
        return not self.is_login(self.contents.touched(False))

    def is_login(self, fields: Set[bytes]) -> bool:
        """Tell whether what the request asks for is a login.

        It is one where an owner was set; or, in an application without owners, where values were
        put in together with a new token. With owners, that is a privilege which is confirmed.

        :param fields: that are to be set.
        """
        asked = self.asked
        return asked.login or (asked.renews and not self.owned and not fields <= _NO_LOGIN)

    def timeout(self) -> float | None:
        """Return the idle timeout that applies, seconds; ``None``: never."""
        own = self.asked.lifetime.timeout_ms
        if own is None:
            own = number(self.contents.raw.get(b"timeout"))
        if own is None or own == DEFAULT_MS:
            return self.shared.settings.timeout
        return own / 1000 if own else None

    def client(self) -> Any:
        """Return the redis client."""
        return self.host.store().client

    def report(self, kind: type[InvalidSession], reason: str, name: str | None = None) -> None:
        """Report a refused session, or lost changes.

        :param name: fingerprint of a session that is not this one.
        """
        if name is None and self.token is not None:
            name = fingerprint(self.token.locator)
        self.host.report(kind(reason, name))

    def announce(self, what: Happened, cause: Cause, name: str | None = None) -> None:
        """Send an event.

        :param name: fingerprint of a session that is not this one.
        """
        self.host.announce(what, name or fingerprint(self.stored_token().locator), cause)

    def conflict(self, cause: Cause = Cause.OUTDATED) -> SessionConflict:
        """Send the event, and return what is to be raised."""
        name = None if self.token is None else fingerprint(self.token.locator)
        self.host.announce(Happened.CONFLICTED, name, cause)
        return SessionConflict()

    # -- what the application asks for ---------------------------------------------------

    def invalidate(self) -> None:
        """End the session, at the save point."""
        if self.phase is UNREAD and len(self.host.identify()) > 1:
            self._load()  # which of them lives?
        if self.phase is UNREAD or self.failure is not None or self.locked:
            self.endings += [Ending(ticket.token) for ticket in self.host.identify()]
        elif self.token is not None:
            owner = self.contents.encoded(OWNER_FIELD)
            self.endings.append(Ending(self.token, True, self.contents.checks(), owner))
            self.trace.leaves(self.contents)
        self.invalidated = True
        self.stand(FRESH)

    def regenerate(self, restart_lifetime: bool) -> None:
        """Put a new token in place, at the save point."""
        self.look_in_earnest()
        if self.phase is not FRESH:
            # Also where it is the same owner: the password was asked for again.
            login = self.asked.login or self.contents.sets(OWNER_FIELD)
            self.asked = Asked(self.asked.lifetime, True, restart_lifetime, login)

    def adjust(self, **lifetimes: int) -> None:
        """Give the session lifetimes of its own: see :class:`.Lifetime`."""
        lifetime = self.asked.lifetime._replace(**lifetimes)
        self.asked = self.asked._replace(lifetime=lifetime)

    def change_hands(self, owner: str | int | None) -> bool:
        """Set the owner.

        :returns: whether that takes a new token.
        """
        self.look_in_earnest()
        # A login looks at it too, but not so as to conflict with another login.
        before = self.contents.meta(OWNER_FIELD, read=False)
        changes_hands = before != owner or type(before) is not type(owner)
        if changes_hands and self.contents.meta(CONFIRMED_FIELD, read=False) is not None:
            self.contents.assign_meta(CONFIRMED_FIELD, None)
        self.contents.assign_meta(OWNER_FIELD, owner)
        self.offers = self.shared.settings.device_binding and owner is not None
        if changes_hands and (self.offers or self.contents.is_bound()):
            self.contents.unbind()
        renews = self.asked.renews
        if changes_hands or renews:
            self.asked = self.asked._replace(login=owner is not None)
        return changes_hands and not renews and self.phase is not FRESH

    def bind_device(self) -> bool:
        """Offer the browser to bind the session to its device, in this response.

        :returns: whether that takes a new token: it was bound.
        """
        self.look_in_earnest()
        self.offers = self.shared.settings.device_binding
        if not (self.offers and self.contents.is_bound()):
            return False
        self.contents.unbind()
        return not self.asked.renews

    def confirm(self, name: str) -> None:
        """Note that something was confirmed just now."""
        confirmed = {**self.confirmed(), name: self.now_ms()}
        self.contents.assign_meta(CONFIRMED_FIELD, json.dumps(confirmed))

    def confirmed(self) -> dict[str, int]:
        """Return what was confirmed: name to time, ms since the epoch."""
        return confirmed_in(self.contents.meta(CONFIRMED_FIELD))

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
        self.note_lost(reason)
        if self.may_have_changed():
            self.contents = self.contents.unchanged()
        self.offers = False
        self.drop_aside(reason)
        self._stand_as_found()

    def note_lost(self, reason: str) -> None:
        """Note what is lost of what was changed, for those who show it."""
        contents = self.trace.past if self.lost else self.contents
        self._note_lost(reason, contents or self.contents, self.asked)

    def _note_lost(self, reason: str, contents: Contents, asked: Asked) -> None:
        self.trace.loses(reason, contents, self.shared.settings.detect_changes, asked.in_words())

    def report_lost(self, reason: Reason) -> None:
        """Report that what this request had stored is lost."""
        self.report(InvalidSession_ChangesDropped, reason.value, self.lost or None)
        if self.token_made:
            self.trace.loses_placed(reason.value)

    def _stand_as_found(self) -> None:
        self._ask_nothing()
        if self.phase is FRESH and self.in_flight:
            # It was invalidated, so as to begin anew; a newer login's cookie must stay.
            self.phase = ADRIFT

    def set_aside(self) -> bool:
        """A view failed: stand as stored, until it is known whether its changes count.

        :returns: whether there were any.
        """
        if not self.may_have_changed():
            return False
        self.aside = Aside(self.phase, self.contents, self.asked)
        self.contents = self.contents.unchanged()
        self._stand_as_found()
        return True

    def take_up(self) -> None:
        """The changes that were set aside count; of two to the same, the later does."""
        if self.aside is None:
            return
        aside, self.aside = self.aside, None
        if self.phase is ADRIFT:
            self.phase = aside.phase
        earlier = aside.asked
        if earlier.login and self.contents.assigns(OWNER_FIELD):
            earlier = earlier._replace(login=False)
        self.contents.lay_over(aside.contents)
        self.asked = self.asked.over(earlier)

    def drop_aside(self, reason: str) -> None:
        """The changes that were set aside do not count."""
        if self.aside is not None:
            self._note_lost(reason, self.aside.contents, self.aside.asked)
            self.offers = False
        self.aside = None

    # -- the save point --------------------------------------------------------------------

    def changes(self) -> Changes:
        """Find and encode what would be saved.

        :raises UnserializableValue: a value cannot be encoded.
        """
        if self.phase is UNREAD:
            return Changes({}, [])
        return self.contents.changes(self.shared.settings.detect_changes)

    def has_work(self) -> bool:
        """Cheaply rule out that there is anything to save."""
        return bool(self.endings) or self.may_have_changed()

    def may_have_changed(self) -> bool:
        """Cheaply rule out that anything was changed."""
        # What is lost may be no more than deletions, of which nothing is left to see.
        return self.phase is not UNREAD and bool(
            self.contents.pending() or self.lost or self.asked is not ASKED_NOTHING
        )

    def needs_cookie(self) -> bool:
        """Whether a save would put a new token in place."""
        return self.phase is FRESH or self.asked.renews or self.asked.login

    def unstaged(self) -> None:
        """Nothing is staged any more."""
        self.stage_id, self.staged = "", None

    # -- what the executor found ---------------------------------------------------------

    def adopt(self, created: Created, sealing: executor.Sealing, clocked: bool) -> None:
        """Stand as the session that was just created."""
        self.admitted = _NOBODY
        self.phase = STORED
        self.token = created.token
        self._bound = sealing.bound
        self.remaining_ms = created.remaining_ms
        self.token_made = True
        self.trace.places(sealing.data)
        token = as_stored(created.token.digest, created.created_ms, created.token_ms, clocked)
        raw = {TOKEN_FIELD: token, **sealing.sealed}
        self.contents.rebase(raw, dict(sealing.data), sealing.data)
        self._settle_lifetime()

    def saved(self, saved: Saved, changes: Changes, sealed: dict[bytes, bytes]) -> None:
        """The changes were applied."""
        self.remaining_ms = saved.remaining_ms
        self.trace.writes(changes.values)
        self.contents.settle(changes, sealed)
        if sealed:
            self.shared.memory.learn(self.stored_token().digest, sealed, changes.values)
        # What others save is told by this field, and it is not known any more.
        self.contents.raw.pop(b"saves", None)
        self._settle_lifetime()

    def renewed(
        self, saved: Saved, sealing: executor.Sealing, changes: Changes, clocked: bool
    ) -> None:
        """The changes were applied, under a new token."""
        token = sealing.token
        self.token, self._bound, self.token_made = token, sealing.bound, True
        self.trace.writes(changes.values)
        self.trace.places({*changes.values, *self.contents.raw.keys() & changes.deletes})
        self.remaining_ms = saved.remaining_ms
        stays = {f: v for f, v in self.contents.raw.items() if f in PLAIN_FIELDS}
        start_ms = None if self.asked.restarts else self.created_ms()
        now_ms = saved.now_ms
        stays[TOKEN_FIELD] = as_stored(token.digest, start_ms or now_ms, now_ms, clocked)
        self.contents.rebase({**stays, **sealing.sealed}, sealing.data, changes.values)
        self._settle_lifetime()

    def _settle_lifetime(self) -> None:
        raw = self.contents.raw
        timeout, deadline = self.asked.lifetime
        if timeout == DEFAULT_MS:
            raw.pop(b"timeout", None)
        elif timeout is not None:
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
        self.trace.leaves(self.contents)
        self.admitted = _NOBODY
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
        return not isinstance(self.host.store().adjust(self.token), Absent)

    def outdated(self) -> bool:
        """Tell whether values were met that another than the first secret protects."""
        bound = self._bound if self.phase is STORED else None
        return bound is not None and bool(bound.outdated)

    def rest(self) -> None:
        """The response is settled: watch only what is looked at again."""
        if self.phase is not UNREAD:
            self.contents.rest()

    def leave(self) -> None:
        """The request is over: report what could not be decoded, and let go of it."""
        if self.phase is not UNREAD and self.contents.undecodable:
            self.report(InvalidSession_DeserializationError, "a value does not decode")
        self.host = _OVER
        self.over = True


def confirmed_in(text: Any) -> dict[str, int]:
    """Return what was confirmed, by what is stored of it."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):  # not sealed, and somebody wrote there
        found = {}
    names = found.items() if isinstance(found, dict) else ()
    return {name: moment for name, moment in names if type(moment) is int}


#: Fields of a stored session that no seal protects.
PLAIN_FIELDS = frozenset((b"timeout", b"deadline", b"expires"))


def number(stored: bytes | None) -> int | None:
    """Parse a field that no seal protects; ``None`` where it is no number."""
    # 16 digits: milliseconds far beyond any clock.
    return int(stored) if stored and len(stored) <= 16 and stored.isdigit() else None
