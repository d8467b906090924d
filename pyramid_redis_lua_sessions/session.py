"""The session: a complete mapping and ``ISession`` over a small explicit state.

Nothing here acts on Redis before :meth:`RedisSession.save`, but for the first
look at content, which loads, and :meth:`RedisSession.ensure_id`.
"""

from __future__ import annotations

import datetime
import enum
import math
import secrets
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple, Protocol, cast

from pyramid.interfaces import ISession
from zope.interface import implementer

from .contents import Changes, Contents, exact_key, slipped_in
from .errors import (
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
from .events import SessionCreated, SessionEvent, SessionInvalidated, SessionRegenerated
from .scripts import Status
from .seals import Bound, Sealer
from .serializers import LABEL_FIELD, OWNER_FIELD, Codec, field_of
from .settings import MAX_SECONDS, Settings, seconds
from .store import (
    NO_CHECKS,
    NO_LIFETIME,
    Absent,
    Created,
    Ending,
    Lifetime,
    Loaded,
    Store,
    milliseconds,
)

__all__ = ["CSRF_KEY", "Host", "Overview", "Phase", "RedisSession"]

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


class Overview(NamedTuple):
    """What a request knows of its session, for those who show it.

    :ivar fingerprint: of its id; ``None`` as long as it has none.
    :ivar created_here: this request gave it its id.
    :ivar created_ms: ms since the epoch; ``None`` where nothing is stored.
    :ivar timeout: idle timeout, seconds; ``None``: never.
    :ivar remaining_ms: life that was left after the last call; -1 = it never ends.
    :ivar stored: what is stored, values and owner: (field, as stored, encoded).
    :ivar types: field to name of the type, for each value that was decoded or assigned.
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


class Host(Protocol):
    """What a session needs of the request it is made for."""

    settings: Settings
    codec: Codec
    sealer: Sealer

    def identify(self) -> list[str]:
        """Return the ids from the request's cookies that verify."""

    def store(self) -> Store: ...

    def report(self, problem: InvalidSession) -> None:
        """Log a refused session or lost change, and tell ``func_invalid_logger``."""

    def announce(self, kind: type[SessionEvent], *args: str) -> None:
        """Send an event to the application."""


#: Why changes are dropped.
ENDED = "session has ended; changes dropped"
UNREACHABLE = "Redis cannot be reached; changes dropped"
UNDELIVERABLE = "the cookie cannot be sent; changes dropped"

#: Stands for a session with a value that is not authentic.
_SEAL_BROKEN = Absent(Status.GONE, foreign=True)

#: Not given.
UNSET: Any = object()


def _whole(name: str, values: bool) -> Callable[..., Any]:
    """Make a method that acts on all keys as the method of ``dict`` does.

    :param values: whether it gives out values, or only keys.
    """
    method = getattr(dict, name)

    def wrapped(self: RedisSession, *args: Any) -> Any:
        return method(self._everything(values), *args)

    wrapped.__name__ = name
    wrapped.__qualname__ = f"RedisSession.{name}"
    wrapped.__doc__ = f"As :meth:`dict.{name}`."
    return wrapped


@implementer(ISession)
class RedisSession(MutableMapping[Any, Any]):
    """One request's view of a session.

    Made by :class:`~pyramid_redis_lua_sessions.RedisSessionFactory`. It behaves
    like ``dict``; keys are ``str`` or ``int``.
    """

    __slots__ = (
        "__weakref__",
        "_aside",
        "_bound",
        "_contents",
        "_empty_later",
        "_failure",
        "_host",
        "_id",
        "_in_flight",
        "_lifetime",
        "_moved",
        "_new",
        "_phase",
        "_regenerate",
        "_remaining_ms",
        "_restart_lifetime",
        "cookie_expires",
        "cookie_is_stale",
        "cookie_max_age",
        "created_here",
        "ends",
        "invalidated",
        "recookie",
        "undo",
    )

    _bound: Bound
    _contents: Contents

    def __init__(self, host: Host) -> None:
        self._host = host
        self._phase = Phase.UNREAD
        self._id: str | None = None
        self._new = True
        self._lifetime = NO_LIFETIME
        self._regenerate = False
        self._restart_lifetime = False
        self._remaining_ms = -1
        #: What a view had changed that failed: contents, lifetime, whether to regenerate.
        self._aside: tuple[Contents, Lifetime, bool] | None = None
        #: What was deleted from a session that is to end if it is still empty later.
        self._empty_later: list[bytes] = []
        #: Why it could not be loaded (``on_redis_error = ephemeral``).
        self._failure: StoreUnavailable | None = None
        #: The session had ended while this request was under way.
        self._in_flight = False
        #: The id that was regenerated, and how it ended.
        self._moved: tuple[str, Ending] | None = None
        #: Ids that the save point will end.
        self.ends: list[str] = []
        #: The id was created or regenerated by this request.
        self.created_here = False
        #: :meth:`invalidate` was called.
        self.invalidated = False
        #: This request ended the session that the browser's cookie names.
        self.cookie_is_stale = False
        #: The application asked for the cookie to be sent.
        self.recookie = False
        self.cookie_max_age: Any = UNSET
        self.cookie_expires: Any = UNSET
        #: How to undo what was saved, where a transaction or attempt may still fail.
        self.undo: list[Callable[[], object]] | None = None

    def _stand(self, phase: Phase) -> None:
        """Hold nothing, and stand so."""
        self._phase = phase
        self._id = None
        self._new = True
        self._lifetime = NO_LIFETIME
        self._regenerate = False
        self._aside = None
        self._remaining_ms = -1
        self.created_here = False
        self._moved = None
        self._contents = self._make_contents({}, {})

    def _make_contents(self, raw: dict[bytes, bytes], plain: dict[bytes, bytes]) -> Contents:
        host = self._host
        tracks_reads = host.settings.on_conflict == "retry"
        return Contents(raw, plain, host.codec, tracks_reads)

    def __repr__(self) -> str:
        name = "" if self._id is None else f" {fingerprint(self._id)}"
        return f"<RedisSession {self._phase.value}{name}>"

    __hash__ = None  # type: ignore[assignment]  # a mutable mapping, as dict

    # -- loading -----------------------------------------------------------------

    def _load(self) -> None:
        host = self._host
        absent: list[tuple[str, Absent]] = []
        try:
            session_ids = host.identify()
        except StoreUnavailable as exc:  # in the middle of a migration
            self._go_without(None, exc)
            return
        if self._phase is not Phase.UNREAD:
            return  # func_invalid_logger has used the session meanwhile
        for session_id in session_ids:
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
            absent.append((session_id, loaded))
        else:
            self._refuse_absent(absent)
            return
        self._contents = self._make_contents(loaded.fields, plain)
        self._bound = bound
        self._id = session_id
        self._new = False
        self._remaining_ms = loaded.remaining_ms
        self._phase = Phase.STORED

    def _go_without(self, session_id: str | None, failure: StoreUnavailable) -> None:
        """Redis cannot be reached: give the request an empty session, if so configured."""
        if self._host.settings.on_redis_error != "ephemeral":
            raise failure
        self._stand(Phase.ADRIFT)
        self._failure = failure
        name = None if session_id is None else fingerprint(session_id)
        self._host.report(InvalidSession_StoreUnavailable("Redis cannot be reached", name))

    def _refuse_absent(self, absent: list[tuple[str, Absent]]) -> None:
        """None of the ids lives; of several, one in flight decides."""
        host = self._host
        self._in_flight = any(self._just_ended(found.status, found.age_ms) for _, found in absent)
        self._stand(Phase.ADRIFT if self._in_flight else Phase.FRESH)
        for session_id, found in absent:
            name = fingerprint(session_id)
            if found is _SEAL_BROKEN:
                self._refuse_corrupt(session_id, "seal broken")
            elif found.foreign:
                self._refuse_corrupt(session_id, "not a session")
            elif found.status is Status.MOVED:
                host.report(InvalidSession_NotInBackend("session has ended", name))
            elif found.expired:
                host.report(InvalidSession_PayloadTimeout("session has expired", name))
            else:
                host.report(InvalidSession_NotInBackend("no such session", name))

    def _just_ended(self, status: Status, age_ms: int) -> bool:
        """Whether a request that meets this marker was in flight when the session ended."""
        return status is Status.MOVED and age_ms <= self._host.settings.grace * 1000

    def _refuse_corrupt(self, session_id: str, reason: str) -> None:
        if self._phase is Phase.UNREAD:
            self._stand(Phase.FRESH)
        host, name = self._host, fingerprint(session_id)
        host.report(InvalidSession_DeserializationError(reason, name))
        if not host.settings.deserialized_fails_new:
            raise RawDeserializationError(reason, name)

    def _report(self, kind: type[InvalidSession], reason: str) -> None:
        name = None if self._id is None else fingerprint(self._id)
        self._host.report(kind(reason, name))

    # -- the mapping -------------------------------------------------------------

    def _loaded(self) -> Contents:
        if self._phase is Phase.UNREAD:
            self._load()
        return self._contents

    def _everything(self, values: bool) -> dict[Any, Any]:
        return self._loaded().everything(values)

    def __getitem__(self, key: Any) -> Any:
        """As :meth:`dict.__getitem__`."""
        if self._phase is Phase.UNREAD:
            self._load()
        return self._contents.get(key)

    def __contains__(self, key: Any) -> bool:
        """As :meth:`dict.__contains__`."""
        return self._loaded().has(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """As :meth:`dict.__setitem__`.

        :raises TypeError: the key is neither ``str`` nor ``int``.
        """
        if type(key) is not str:
            key = exact_key(key)
        self._loaded().assign(key, value)

    def __delitem__(self, key: Any) -> None:
        """As :meth:`dict.__delitem__`."""
        self._loaded().delete(key)

    def popitem(self) -> tuple[Any, Any]:
        """As :meth:`dict.popitem`; which item, is not specified."""
        data = self._everything(values=False)
        if not data:
            raise KeyError("popitem(): the session is empty")
        key = next(reversed(data))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all keys, and all flash messages."""
        contents = self._loaded()
        for key in list(contents.everything(values=False)):
            contents.delete(key)
        for queue in list(contents.queues()):
            contents.pop_flash(queue)

    keys = _whole("keys", values=False)
    __iter__ = _whole("__iter__", values=False)
    __len__ = _whole("__len__", values=False)
    __reversed__ = _whole("__reversed__", values=False)
    items = _whole("items", values=True)
    values = _whole("values", values=True)
    copy = _whole("copy", values=True)
    fromkeys = staticmethod(dict.fromkeys)

    def __or__(self, other: Any) -> Any:
        """As :meth:`dict.__or__`: returns a ``dict``."""
        return self.copy() | _as_dict(other)

    def __ror__(self, other: Any) -> Any:
        """As :meth:`dict.__ror__`: returns a ``dict``."""
        return _as_dict(other) | self.copy()

    def __ior__(self, other: Any) -> RedisSession:
        """As :meth:`dict.__ior__`."""
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        """As :meth:`dict.__eq__`; flash messages do not count."""
        other = _as_dict(other)
        if not isinstance(other, dict):
            return NotImplemented
        return self._everything(values=True) == other

    @property
    def managed_dict(self) -> dict[Any, Any]:
        """All keys and values, as a ``dict`` whose changes are saved too."""
        return self._loaded().expose()

    # Spellings of the predecessors, from Python 2.

    def has_key(self, key: Any) -> bool:
        """Whether a key is there: ``key in session``."""
        return key in self

    def iterkeys(self) -> Iterator[Any]:
        """Iterate over the keys: ``iter(session.keys())``."""
        return iter(self.keys())

    def itervalues(self) -> Iterator[Any]:
        """Iterate over the values: ``iter(session.values())``."""
        return iter(self.values())

    def iteritems(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over the items: ``iter(session.items())``."""
        return iter(self.items())

    # -- flash messages ----------------------------------------------------------

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Add a flash message to a queue.

        :param allow_duplicate: ``False``: only if this request sees no equal
            message in the queue.
        """
        if allow_duplicate or msg not in self.peek_flash(queue):
            self._loaded().add_flash(msg, queue)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove and return the messages of a queue, oldest first."""
        return self._loaded().pop_flash(queue)

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of a queue, oldest first, and leave them."""
        return [message for _, message in self._loaded().queues().get(queue, [])]

    # -- CSRF --------------------------------------------------------------------

    def new_csrf_token(self) -> str:
        """Make, store and return a new CSRF token: 256 random bits, 43 characters."""
        token = secrets.token_urlsafe(32)
        self[CSRF_KEY] = token
        return token

    def get_csrf_token(self) -> str:
        """Return the CSRF token; make one if there is none."""
        token = self.get(CSRF_KEY)
        return self.new_csrf_token() if token is None else cast("str", token)

    # -- what the session says of itself -------------------------------------------

    def _look(self) -> None:
        if self._phase is Phase.UNREAD:
            self._load()

    @property
    def phase(self) -> Phase:
        """Where the session stands; looking at this loads nothing."""
        return self._phase

    def overview(self) -> Overview | None:
        """Tell what is known so far; this loads, decodes and changes nothing.

        :returns: ``None`` if nothing was looked at yet.
        """
        if self._phase is Phase.UNREAD:
            return None
        contents = self._contents
        return Overview(
            self._phase,
            None if self._id is None else fingerprint(self._id),
            self.created_here,
            self.invalidated,
            self._start(),
            self.timeout,
            self._remaining_ms,
            contents.stored(contents.held()),
            contents.types(),
        )

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored; ``None`` as long as it has none."""
        self._look()
        return self._id

    @property
    def session_id_safecheck(self) -> str | None:
        """The id, created if need be; ``None`` for an empty session."""
        if self or any(self._contents.queues().values()):
            return self.ensure_id()
        return None

    @property
    def new(self) -> bool:
        """Whether the session was not stored before this request."""
        self._look()
        return self._new

    @property
    def created(self) -> int:
        """Time of creation, whole seconds since the epoch."""
        self._look()
        start = self._start()
        return int(time.time()) if start is None else start // 1000

    def _start(self) -> int | None:
        """Creation time, ms since the epoch; ``None`` where nothing is stored."""
        return _number(self._contents.raw.get(b"created", b"").partition(b" ")[0])

    @property
    def timeout(self) -> float | None:
        """The idle timeout that applies, seconds; ``None``: never."""
        self._look()
        own = self._lifetime.timeout_ms
        if own is None:
            own = _number(self._contents.raw.get(b"timeout"))
        if own is None:
            return _whole_number(self._host.settings.timeout)
        return _whole_number(own / 1000) if own else None

    @property
    def expires(self) -> int | None:
        """When the session ends if nobody comes back, seconds since the epoch, by
        this machine's clock; ``None``: never, or not stored yet."""
        self._look()
        if self._phase is not Phase.STORED or self._remaining_ms < 0:
            return None
        return math.ceil(time.time() + self._remaining_ms / 1000)

    @property
    def timestamp(self) -> int:
        """Now, whole seconds since the epoch, by this machine's clock."""
        return math.ceil(time.time())

    @property
    def version(self) -> int:
        """Version of the session's interface, as of ``pyramid_session_redis``."""
        return 1

    @property
    def _invalidated(self) -> bool:
        return self.invalidated and self._phase is not Phase.STORED and not self

    @property
    def redis(self) -> Any:
        """The redis client."""
        return self._host.store().client

    # -- what the application asks for -----------------------------------------------

    def changed(self) -> None:
        """Have all values looked at compared at the save point.

        Only needed with ``detect_changes = false``.
        """
        self._loaded().compare_all = True

    def do_persist(self, serialized_session: object = None) -> None:
        """As :meth:`changed`; the save itself takes place at the save point.

        :param serialized_session: without effect.
        """
        self.changed()

    def do_refresh(self, force_redis_ttl: object = None) -> None:
        """Refresh the idle timeout: what any look at the session does.

        :param force_redis_ttl: without effect; see
            :meth:`adjust_session_timeout`.
        """
        self._look()

    def rest(self) -> None:
        """The response is settled: watch only what is looked at again."""
        if self._phase is not Phase.UNREAD:
            self._contents.rest()

    def invalidate(self) -> None:
        """End the session, at the end of the request.

        The session is empty at once; what is put in afterwards goes into a
        new one under a new id.
        """
        if self._phase is Phase.UNREAD and len(self._host.identify()) > 1:
            self._load()  # which of them lives?
        if self._phase is Phase.UNREAD or self._failure is not None:
            self.ends += self._host.identify()
        elif self._id is not None:
            self.ends.append(self._id)
        self.invalidated = True
        # A request in flight must not delete the cookie of a newer login.
        self.cookie_is_stale = not self._in_flight
        self._stand(Phase.FRESH)

    def regenerate_id(
        self, *, renew_csrf_token: bool = True, restart_lifetime: bool = False
    ) -> None:
        """Give the session a new id, at the end of the request; the data is kept.

        To be called whenever privileges change, above all at login (OWASP
        Session Management Cheat Sheet, "Renew the Session ID After Any
        Privilege Level Change"). The old id ends in the same round trip.

        :param renew_csrf_token: replace the CSRF token, if there is one.
        :param restart_lifetime: count ``absolute_timeout`` from now, as for a
            fresh login. By default the session keeps its original start.
        """
        self._look()
        if self._failure is not None:
            raise self._failure  # nobody logs in on a session that is not there
        if self._phase is Phase.ADRIFT:
            self._phase = Phase.FRESH
        elif self._phase is Phase.STORED:
            self._regenerate = True
            self._restart_lifetime = restart_lifetime
        if renew_csrf_token and CSRF_KEY in self:
            self.new_csrf_token()

    @property
    def owner(self) -> str | int | None:
        """Whose session it is: the user's id, as the application knows it.

        Setting another owner is a login: it regenerates the id, and records
        the session in the owner's index (see
        :func:`~pyramid_redis_lua_sessions.sessions_of`). Setting ``None``
        regenerates the id too.

        :raises TypeError: the owner is neither ``str`` nor ``int``.
        """
        return cast("str | int | None", self._loaded().meta(OWNER_FIELD))

    @owner.setter
    def owner(self, owner: str | int | None) -> None:
        if owner is not None:
            owner = exact_key(owner)
        # A login looks at it too, but not so as to conflict with another login.
        before = self._loaded().meta(OWNER_FIELD, read=False)
        changes_hands = before != owner or type(before) is not type(owner)
        if changes_hands and not self._regenerate and self._phase is not Phase.FRESH:
            self.regenerate_id()
        self._contents.assign_meta(OWNER_FIELD, owner)

    @property
    def label(self) -> str | None:
        """What :func:`~pyramid_redis_lua_sessions.sessions_of` shows for this session.

        :raises TypeError: the label is no ``str``.
        """
        return cast("str | None", self._loaded().meta(LABEL_FIELD))

    @label.setter
    def label(self, label: str | None) -> None:
        if label is not None:
            if not isinstance(label, str):
                raise TypeError(f"a session's label is a str, not {type(label).__name__}")
            label = str.__str__(label)
        self._loaded().assign_meta(LABEL_FIELD, label)

    def ensure_id(self) -> str | None:
        """Return the session's id; create the session now if it has none.

        :returns: ``None`` only for a request that was in flight when its
            session ended: it has no session.
        """
        self._look()
        if self._phase is Phase.FRESH:
            values = self._changes().values
            seal = _Sealing(self._host.sealer, values)
            created = self._store().create(seal, self._lifetime, owner=values.get(OWNER_FIELD))
            self._adopt(created, seal)
            if created is not None:
                self._host.announce(SessionCreated, fingerprint(created.session_id))
        return self._id

    def adjust_session_timeout(self, timeout_seconds: float | None) -> None:
        """Give this session an idle timeout of its own, for as long as it lives.

        :param timeout_seconds: seconds; 0 or ``None``: never.
        :raises ValueError: not a number of seconds.
        """
        own = _duration(timeout_seconds)
        self._look()
        self._lifetime = self._lifetime._replace(timeout_ms=milliseconds(own))

    adjust_timeout_for_session = adjust_session_timeout

    def adjust_session_expires(self, expires_epoch: float | None) -> None:
        """Set the moment at which this session ends, whatever the activity.

        :param expires_epoch: seconds since the epoch; ``None``: no such moment.
        :raises ValueError: not a moment before the year 10,000.
        """
        deadline = _duration(expires_epoch, LAST_MOMENT)
        self._look()
        self._lifetime = self._lifetime._replace(deadline_ms=milliseconds(deadline))

    adjust_expires_for_session = adjust_session_expires

    def please_recookie(self) -> None:
        """Have the response send the cookie again."""
        self.recookie = True

    def adjust_cookie_max_age(self, max_age: Any) -> None:
        """Send the cookie again, with another life.

        :param max_age: seconds, a ``timedelta``; 0 or ``None``: until the
            browser ends.
        :raises ValueError: not a number of seconds.
        """
        self.cookie_max_age = int(_duration(max_age))
        self.recookie = True

    def adjust_cookie_expires(self, expires: Any) -> None:
        """Send the cookie again, with another end; Max-Age takes precedence.

        :param expires: ``datetime``, ``timedelta`` or ``None``.
        :raises ValueError: something else, or an end out of range.
        """
        if isinstance(expires, datetime.timedelta):
            _duration(expires)
        elif expires is not None and not isinstance(expires, datetime.datetime):
            raise ValueError("expected a datetime, a timedelta or None")
        self.cookie_expires = expires
        self.recookie = True

    # -- the save point ------------------------------------------------------------

    def discard_changes(self) -> None:
        """Forget what was changed since the last save. Endings stay recorded."""
        if self._phase is Phase.UNREAD:
            return
        self._contents.forget_changes()
        self._lifetime = NO_LIFETIME
        self._regenerate = False
        self._aside = None

    def set_aside(self) -> bool:
        """A view failed: stand as stored, until it is known whether its changes count.

        :returns: whether there were any.
        """
        if self._phase is Phase.UNREAD:
            return False
        contents = self._contents
        if not (contents.pending() or self._regenerate or self._lifetime is not NO_LIFETIME):
            return False
        self._aside = (contents, self._lifetime, self._regenerate)
        self._contents = contents.unchanged()
        self._lifetime = NO_LIFETIME
        self._regenerate = False
        return True

    def take_up(self) -> None:
        """The changes that were set aside count; of two to the same, the later does."""
        if self._aside is None:
            return
        earlier, lifetime, regenerate = self._aside
        self._aside = None
        self._contents.lay_over(earlier)
        self._lifetime = Lifetime(
            *(
                before if later is None else later
                for before, later in zip(lifetime, self._lifetime, strict=True)
            )
        )
        self._regenerate = self._regenerate or regenerate

    def drop_aside(self) -> None:
        """The changes that were set aside do not count."""
        self._aside = None

    def needs_cookie(self) -> bool:
        """Whether a save would make a new id."""
        return self._phase is Phase.FRESH or self._regenerate

    def prepare(self) -> None:
        """Encode what would be saved.

        :raises UnserializableValue: a value cannot be; nothing was sent.
        """
        if self._phase is not Phase.UNREAD:
            self._changes()

    def save(self, cookie_can_go: bool) -> None:
        """Send what is pending to Redis; the only place that does.

        :param cookie_can_go: whether a new id could reach the browser. If
            not, no id is created or regenerated, and the changes are dropped.
        :raises UnserializableValue: nothing was sent; the session is as it was.
        :raises SessionConflict: ``on_conflict = retry``; nothing was saved.
        :raises StoreError: Redis failed.
        """
        if self._phase is not Phase.UNREAD:
            self._save_pending(cookie_can_go)
        self.end_old()

    def has_work(self) -> bool:
        """Cheaply rule out that there is anything to save."""
        if self._phase is Phase.UNREAD:
            return bool(self.ends)
        return (
            self._contents.pending()
            or self._regenerate
            or self._lifetime is not NO_LIFETIME
            or bool(self.ends)
        )

    def _save_pending(self, cookie_can_go: bool) -> None:
        if self._phase is Phase.ADRIFT:
            if self._changes():
                self._drop(ENDED if self._failure is None else UNREACHABLE)
            return
        changes = self._changes()
        stored = self._phase is Phase.STORED
        if stored and not self._regenerate:
            if changes or self._lifetime != NO_LIFETIME:
                self._save(changes)
        elif stored or changes.values:
            if not cookie_can_go:
                self._drop(UNDELIVERABLE)
            elif stored:
                self._move(changes)
            else:
                self._create(changes)

    def end_if_empty(self) -> None:
        """End a session that an attempt emptied which might still have failed."""
        fields, self._empty_later = self._empty_later, []
        if fields and self._phase is Phase.STORED and self._id is not None:
            result = self._store().save(self._id, {}, fields, NO_LIFETIME, end_if_empty=True)
            if result is Status.EMPTIED:
                self._emptied()

    def outdated(self) -> bool:
        """Tell whether values were met that another than the first secret protects."""
        return self._phase is Phase.STORED and bool(self._bound.outdated)

    def reseal(self) -> None:
        """Protect these with the first secret, where they are still the same."""
        contents, bound = self._contents, self._bound
        held = contents.stored(bound.outdated)
        bound.outdated.clear()
        swaps = [(field, bound.seal(field, data), raw) for field, raw, data in held]
        if self._store().swap(cast("str", self._id), swaps) == len(swaps):
            contents.resealed(swaps)

    def end_old(self) -> None:
        """End the sessions that were invalidated."""
        while self.ends:
            ending = self._store().end(self.ends[0], keep_fields=self.undo is not None)
            session_id = self.ends.pop(0)
            self._can_revive(session_id, ending)
            self._announce_end(session_id, ending)
            if self._just_ended(ending.status, ending.age_ms):
                self._in_flight, self.cookie_is_stale = True, False

    def take_back(self, reason: str = "") -> None:
        """Remove the id that this request made: no cookie will tell the browser of it.

        The id that it replaced lives again.

        :param reason: reported as the reason for which changes are lost.
        """
        if self.created_here and self._id is not None:
            self._store().end(self._id)
            if self._moved is not None:
                self._store().revive(*self._moved)
            if reason:
                self._report(InvalidSession_ChangesDropped, reason)
            self._stand(Phase.ADRIFT)

    def put_back(self) -> None:
        """Undo what was saved, where it is still ours: it is to leave no trace."""
        undo, self.undo = self.undo or [], None
        if undo:
            try:
                for step in reversed(undo):
                    step()
            finally:
                self._stand(Phase.UNREAD)
                self.invalidated = self.cookie_is_stale = False

    def alive(self) -> bool:
        """Ask Redis whether the session still lives; refreshes it."""
        if self._phase is not Phase.STORED or self._id is None:
            return False
        return not isinstance(self._store().adjust(self._id), Absent)

    def leave(self, afterlife: Host) -> None:
        """The request is over: report what could not be decoded, and let go of it."""
        if self._phase is not Phase.UNREAD and self._contents.undecodable:
            self._report(InvalidSession_DeserializationError, "a value does not decode")
        self._host = afterlife

    def _store(self) -> Store:
        return self._host.store()

    def _changes(self) -> Changes:
        return self._contents.changes(self._host.settings.detect_changes)

    def _save(self, changes: Changes) -> None:
        """Save to the session as it is stored."""
        store, session_id, contents = self._store(), cast("str", self._id), self._contents
        lifetime, checks = self._lifetime, contents.checks()
        seal = self._bound.seal
        sealed = {field: seal(field, data) for field, data in changes.values.items()}
        result: int | Absent | Status
        if not changes and checks == NO_CHECKS:
            result = store.adjust(session_id, lifetime)
        else:
            empties = self._host.settings.invalidate_empty_session and contents.would_empty(changes)
            # An emptied session could not be put back: it ends when nothing can fail any more.
            self._empty_later = changes.deletes if empties and self.undo is not None else []
            result = store.save(
                session_id,
                sealed,
                changes.deletes,
                lifetime,
                checks,
                end_if_empty=empties and self.undo is None,
            )
        if isinstance(result, Absent):
            self._in_flight = True
            self._drop(ENDED)
        elif result is Status.CONFLICT:
            raise SessionConflict
        elif result is Status.EMPTIED:
            self._emptied()
        else:
            self._can_swap_back(changes, sealed, lifetime)
            self._remaining_ms = result
            contents.settle(changes, sealed)
            self._settle_lifetime()

    def _emptied(self) -> None:
        """The save has ended the session, as nothing was left in it."""
        self._host.announce(SessionInvalidated, fingerprint(cast("str", self._id)))
        self.cookie_is_stale = True
        self._stand(Phase.FRESH)

    def _create(self, changes: Changes) -> None:
        """Create the session, and end the one that was invalidated before it."""
        store, lifetime = self._store(), self._lifetime
        seal, owner = _Sealing(self._host.sealer, changes.values), changes.values.get(OWNER_FIELD)
        if self.ends:
            keep_fields = self.undo is not None
            created, ending = store.replace(
                self.ends[0], seal, lifetime, keep_fields=keep_fields, owner=owner
            )
            self._can_revive(self.ends[0], ending)
            self._adopt(created, seal)
            self._announce_end(self.ends.pop(0), ending)
        else:
            created = store.create(seal, lifetime, owner=owner)
            self._adopt(created, seal)
        if created is not None:
            self._host.announce(SessionCreated, fingerprint(created.session_id))

    def _announce_end(self, session_id: str, ending: Ending) -> None:
        if ending.status is Status.ENDED:
            self._host.announce(SessionInvalidated, fingerprint(session_id))

    def _move(self, changes: Changes) -> None:
        """Regenerate: create the new id with all data, end the old one."""
        store, old_id, contents = self._store(), cast("str", self._id), self._contents
        loaded, bound = contents.raw, self._bound
        merged = contents.merged(changes)
        own = set(changes.values) | set(changes.deletes)
        timeout, deadline = self._lifetime
        lifetime = Lifetime(
            _number(loaded.get(b"timeout")) if timeout is None else timeout,
            _number(loaded.get(b"deadline")) if deadline is None else deadline,
        )
        seal = _Sealing(self._host.sealer, merged)
        checks = contents.checks()
        start = None if self._restart_lifetime else self._start()
        created, ending = store.replace(
            old_id,
            seal,
            lifetime,
            start,
            checks=checks,
            owner=merged.get(OWNER_FIELD),
            returning=not self.created_here,
        )
        if ending.status is Status.CONFLICT:
            if created is not None:
                store.end(created.session_id)
            raise SessionConflict
        delivered = not self.created_here  # does a browser know the old id?
        if delivered:
            self._can_revive(old_id, ending)
        self._adopt(created, seal)
        if created is None:
            return
        if ending.status is not Status.ENDED:
            self._keep_own([field for field in merged if field not in own])
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
                else _number(ending.fields.get(field))
                for field, mine in ((b"timeout", timeout), (b"deadline", deadline))
            )
        )
        self._carry(Changes(values, gone), own_lifetime)

    def _keep_own(self, lost: list[bytes]) -> None:
        """Another request ended the session first: its data has ended with it.

        What this request wrote itself is a session of its own, as at a login
        that was sent twice. But nothing, or only a new CSRF token, is no login:
        its cookie must not replace that of one.
        """
        self._carry(Changes({}, lost), NO_LIFETIME)
        self._contents.lose(lost)
        if self._contents.held() <= {field_of(CSRF_KEY)}:
            self.take_back(ENDED)
        else:
            self._host.announce(SessionCreated, fingerprint(cast("str", self._id)))

    def _carry(self, late: Changes, lifetime: Lifetime) -> None:
        """Save under the new id what the end of the old one brought to light."""
        if late or lifetime != NO_LIFETIME:
            sealed = {field: self._bound.seal(field, data) for field, data in late.values.items()}
            self._store().save(cast("str", self._id), sealed, late.deletes, lifetime)
            self._contents.settle(late, sealed)

    def _adopt(self, created: Created | None, sealing: _Sealing) -> None:
        """Stand as the session that was just created."""
        if created is None:
            self._drop("session has expired; changes dropped")
            return
        for ended in created.ended:
            self._host.announce(SessionInvalidated, fingerprint(ended))
        session_id = created.session_id
        if self.undo is not None:
            store = self._store()
            self.undo.append(lambda: store.end(session_id))
        self._phase = Phase.STORED
        self._id = session_id
        self._bound = sealing.bound
        self._remaining_ms = created.remaining_ms
        self.created_here = True
        self._regenerate = False
        raw = {b"created": b"%d" % created.created_ms, **sealing.sealed}
        self._contents.rebase(raw, dict(sealing.data))
        self._settle_lifetime()

    def _settle_lifetime(self) -> None:
        raw = self._contents.raw
        timeout, deadline = self._lifetime
        if timeout is not None:
            raw[b"timeout"] = b"%d" % timeout
        if deadline is not None:
            raw[b"deadline"] = b"%d" % deadline
        self._lifetime = NO_LIFETIME

    def _drop(self, reason: str) -> None:
        """Lose the changes, audibly."""
        self._report(InvalidSession_ChangesDropped, reason)
        orphan = self._id if self.created_here else None
        self._stand(Phase.ADRIFT)
        if orphan is not None:
            self._store().end(orphan)

    def _can_swap_back(
        self, changes: Changes, sealed: dict[bytes, bytes], lifetime: Lifetime
    ) -> None:
        """Remember how to undo a save, field by field."""
        if self.undo is None:
            return
        store, session_id, raw = self._store(), cast("str", self._id), self._contents.raw
        swaps: list[tuple[bytes, bytes | None, bytes | None]] = []
        swaps += [(field, raw.get(field), stored) for field, stored in sealed.items()]
        swaps += [(field, raw.get(field), None) for field in changes.deletes]
        timeout, deadline = lifetime
        if lifetime != NO_LIFETIME:
            # Undone in reverse order: the key's life follows the fields put back.
            self.undo.append(lambda: store.adjust(session_id))
        if timeout is not None:
            swaps.append((b"timeout", raw.get(b"timeout"), b"%d" % timeout))
        if deadline is not None:
            now = b"%d" % deadline if deadline else None
            swaps.append((b"deadline", raw.get(b"deadline"), now))
        self.undo.append(lambda: store.swap(session_id, swaps))

    def _can_revive(self, session_id: str, ending: Ending) -> None:
        """Remember how to undo an ending."""
        if self.undo is not None and ending.status is Status.ENDED:
            store = self._store()
            self.undo.append(lambda: store.revive(session_id, ending))


class _Sealing:
    """Seals data for the id that a session gets, and remembers how it did.

    Sealing again would not give the same bytes where values are encrypted.
    """

    __slots__ = ("_sealer", "bound", "data", "sealed")

    bound: Bound

    def __init__(self, sealer: Sealer, data: dict[bytes, bytes]) -> None:
        self._sealer = sealer
        self.data = data
        self.sealed: dict[bytes, bytes] = {}

    def __call__(self, session_id: str) -> dict[bytes, bytes]:
        self.bound = self._sealer.bind(session_id)
        seal = self.bound.seal
        self.sealed = {field: seal(field, value) for field, value in self.data.items()}
        return self.sealed


def _number(stored: bytes | None) -> int | None:
    """Parse a field that no seal protects; ``None`` where it is no number."""
    # 16 digits: milliseconds far beyond any clock.
    return int(stored) if stored and len(stored) <= 16 and stored.isdigit() else None


def _as_dict(other: Any) -> Any:
    return other.copy() if isinstance(other, RedisSession) else other


#: The end of the year 9999, seconds since the epoch.
LAST_MOMENT = 253_402_300_799


def _duration(value: Any, most: int = MAX_SECONDS) -> float:
    """Parse seconds that an application gives at run time; ``None`` is 0."""
    try:
        return seconds(value, most) or 0.0
    except ValueError as exc:
        raise ValueError(f"expected {exc}") from None


def _whole_number(number: float | None) -> float | None:
    """Seconds as ``int`` where they are whole, as the predecessors return them."""
    if number is None:
        return None
    return int(number) if number == int(number) else number
