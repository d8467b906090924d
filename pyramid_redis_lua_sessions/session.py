"""The session: a complete mapping and ``ISession`` over a :class:`.SessionState`.

Its public names are all that an application sees; :mod:`.state` loads and saves.
"""

from __future__ import annotations

import datetime
import enum
import math
import secrets
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, cast

from pyramid.interfaces import ISession
from zope.interface import implementer

from .engine.contents import Contents
from .engine.fields import CSRF_KEY, LABEL_FIELD, OWNER_FIELD, exact_key, index_field
from .engine.plan import STORED, UNREAD
from .engine.protocol import DEFAULT_MS, milliseconds
from .engine.state import Resend, SessionState
from .errors import fingerprint
from .settings.parsers import MAX_SECONDS, seconds

__all__ = ["DEFAULT", "RedisSession"]


_NOT_GIVEN: Any = object()


class Default(enum.Enum):
    """The type of :data:`DEFAULT`."""

    DEFAULT = "as configured"


#: For ``session.adjust_session_timeout()``: what the settings say.
DEFAULT = Default.DEFAULT


def _whole(name: str, values: bool) -> Callable[..., Any]:
    """Make a method that acts on all keys as the method of ``dict`` does.

    :param values: whether it gives out values, or only keys.
    """
    method = getattr(dict, name)

    def wrapped(self: RedisSession, *args: Any) -> Any:
        return method(self._loaded().everything(values), *args)

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

    # What is no part of the interface is in the state: a template that shows
    # ``session.phase`` means the key.
    __slots__ = ("__weakref__", "_state")

    def __init__(self, state: SessionState) -> None:
        self._state = state

    def __repr__(self) -> str:
        state = self._state
        name = "" if state.session_id is None else f" {fingerprint(state.session_id)}"
        return f"<RedisSession {state.phase.value}{name}>"

    __hash__ = None  # type: ignore[assignment]  # a mutable mapping, as dict

    # -- the mapping -------------------------------------------------------------

    def _looked(self) -> SessionState:
        state = self._state
        if state.phase is UNREAD:
            state.look()
        return state

    def _asking(self) -> SessionState:
        """For what the rest of the request has to carry out.

        :raises RuntimeError: there is no rest: the body of the response streams.
        """
        state = self._state
        if state.over:
            raise RuntimeError(
                "the request of this session is over: nothing is saved any more [docs: caveats]"
            )
        return state

    def _writing(self) -> SessionState:
        state = self._asking()
        if state.phase is UNREAD:
            state.look()
        return state

    def _loaded(self) -> Contents:
        return self._looked().contents

    def __getitem__(self, key: Any) -> Any:
        """As :meth:`dict.__getitem__`."""
        state = self._state
        if state.phase is UNREAD:
            state.look()
        try:
            return state.contents.get(key)
        except KeyError:
            token = state.csrf_token() if key == CSRF_KEY else None
            if token is None:
                raise
            return token

    def __contains__(self, key: Any) -> bool:
        """As :meth:`dict.__contains__`."""
        there = self._loaded().has(key)
        return there or (key == CSRF_KEY and self._state.csrf_token() is not None)

    def __setitem__(self, key: Any, value: Any) -> None:
        """As :meth:`dict.__setitem__`.

        :raises TypeError: the key is neither ``str`` nor ``int``.
        """
        if type(key) is not str:
            key = exact_key(key)
        self._writing().contents.assign(key, value)

    def set(self, key: Any, value: Any, *, ttl: Any) -> None:
        """Assign a value that ends: after that it is absent, as if it had been deleted.

        The end is part of what is sealed, and counts by Redis' clock. It stays with the value,
        also when that is changed in place, until something else is assigned. A request that is
        under way at the end still has what it had at its first look.

        :param ttl: how long it lives, counted from this call: seconds, or a ``timedelta``.
        :raises TypeError: the key is neither ``str`` nor ``int``.
        :raises ValueError: ``ttl`` is no number of seconds above 0.
        :raises StoreUnavailable: Redis, whose time is asked for, cannot be reached.
        """
        life_ms = milliseconds(_duration(ttl))
        if life_ms <= 0:
            raise ValueError("expected a number of seconds above 0 [docs: values-that-end]")
        key = exact_key(key)
        state = self._writing()
        now_ms = state.now_ms()
        state.contents.assign_until(key, value, now_ms + life_ms, now_ms)

    def __delitem__(self, key: Any) -> None:
        """As :meth:`dict.__delitem__`."""
        try:
            self._writing().contents.delete(key)
        except KeyError:
            if key not in self:  # the derived token is, and cannot be removed
                raise

    def pop(self, key: Any, default: Any = _NOT_GIVEN) -> Any:
        """As :meth:`dict.pop`; a value that does not decode is absent, and removed too."""
        try:
            value = self[key]
        except KeyError:
            if self._loaded().is_bad(key):
                del self[key]
            if default is _NOT_GIVEN:
                raise
            return default
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        """As :meth:`dict.popitem`; which item, is not specified."""
        data = self._loaded().everything(values=False)
        if not data:
            raise KeyError("popitem(): the session is empty")
        key = next(reversed(data))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all keys, and all flash messages."""
        self._writing().contents.clear()

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
        return self._loaded().everything(values=True) == other

    @property
    def managed_dict(self) -> dict[Any, Any]:
        """All keys and values, as a ``dict`` whose changes are saved too. Values that end keep
        their ends, whatever is assigned there."""
        return self._writing().contents.expose()

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
            self._writing().contents.flash(read=False).add(msg, queue)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove and return the messages of a queue, oldest first."""
        return self._writing().contents.pop_flash(queue)

    def peek_flash(self, queue: str = "") -> list[Any]:
        """Return the messages of a queue, oldest first, and leave them."""
        return self._loaded().flash().peek(queue)

    # -- CSRF --------------------------------------------------------------------

    def new_csrf_token(self) -> str:
        """Make, store and return a new CSRF token: 256 random bits, 43 characters.

        From then on it is the session's, until :meth:`regenerate_id`.
        """
        token = secrets.token_urlsafe(32)
        self[CSRF_KEY] = token
        return token

    def get_csrf_token(self) -> str:
        """Return the CSRF token.

        That of a stored session is derived from its token: nothing is stored, and
        requests that overlap get the same. One that was stored, by
        :meth:`new_csrf_token` or by another library, goes before. A session
        without an id gets a new one, which is stored with it.
        """
        token = self.get(CSRF_KEY)
        return self.new_csrf_token() if token is None else cast("str", token)

    # -- what the session says of itself -------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The id under which the session is stored, for its whole life; ``None`` as long
        as it has none. It opens nothing."""
        return self._looked().session_id

    @property
    def session_id_safecheck(self) -> str | None:
        """The id, created if need be; ``None`` for an empty session."""
        if self or self._loaded().flash():
            return self.ensure_id()
        return None

    @property
    def new(self) -> bool:
        """Whether the session was not stored before this request."""
        return self._looked().new

    @property
    def ended(self) -> bool:
        """Whether the session ended while this request was under way: logged out,
        revoked, or given a new token by another request.

        What this request changes is not kept then, unless it logs in anew
        (``owner``, :meth:`regenerate_id`) or calls :meth:`invalidate` before.
        """
        return self._looked().ended()

    @property
    def fingerprint(self) -> str | None:
        """What names the session in logs, events and
        :func:`~pyramid_redis_lua_sessions.sessions_of`, and opens nothing; ``None``
        as long as it has no id."""
        session_id = self.session_id
        return None if session_id is None else fingerprint(session_id)

    @property
    def created(self) -> int:
        """Time of creation, whole seconds since the epoch."""
        start = self._looked().created_ms()
        return int(time.time()) if start is None else start // 1000

    @property
    def token_made(self) -> int:
        """Time at which the present token was made, whole seconds since the epoch, by
        Redis' clock: that of creation, or of the last :meth:`regenerate_id`."""
        made = self._looked().token_ms()
        return int(time.time()) if made is None else made // 1000

    @property
    def last_seen(self) -> int | None:
        """Time at which the session was used before this request, whole seconds since the
        epoch, by Redis' clock: the last refresh of its idle timeout.

        ``None`` where that is unknown: with ``last_seen = false``, but for a request that
        touches nothing (:attr:`touch`); of a session without an idle timeout, or one that
        something else ends sooner; and at the first request after its creation where
        ``first_timeout`` is set.
        """
        state = self._looked()
        return state.seen_ms // 1000 or None

    @property
    def timeout(self) -> float | None:
        """The idle timeout that applies, seconds; ``None``: never."""
        return _whole_number(self._looked().timeout())

    @property
    def expires(self) -> int | None:
        """When the session ends if nobody comes back, seconds since the epoch, by
        this machine's clock; ``None``: never, or not stored yet."""
        state = self._looked()
        if state.phase is not STORED or state.remaining_ms < 0:
            return None
        return math.ceil(time.time() + state.remaining_ms / 1000)

    @property
    def touch(self) -> bool:
        """Whether the first look at the session refreshes its idle timeout.

        Set to ``False`` before that, it makes this request one that keeps nobody alive: a
        poll, say. Nothing is written then, unless the application changes the session.

        :raises RuntimeError: when it is changed too late.
        """
        return self._state.touches

    @touch.setter
    def touch(self, touch: bool) -> None:
        state = self._state
        if state.phase is not UNREAD and bool(touch) != state.touches:
            raise RuntimeError(
                "session.touch was set when the session had been looked at [docs: timeouts]"
            )
        state.touches = bool(touch)

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
        state = self._state
        return state.invalidated and state.phase is not STORED and not self

    @property
    def redis(self) -> Any:
        """The redis client."""
        return self._state.client()

    # -- what the application asks for -----------------------------------------------

    def changed(self) -> None:
        """Have all values looked at compared at the save point.

        Only needed with ``detect_changes = false``.
        """
        self._writing().contents.compare_all = True

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
        self._looked()

    def invalidate(self) -> None:
        """End the session, at the end of the request.

        The session is empty at once; what is put in afterwards goes into a
        new one under a new id.
        """
        self._asking().invalidate()

    def regenerate_id(
        self, *, renew_csrf_token: bool = True, restart_lifetime: bool = False
    ) -> None:
        """Give the session a new token, at the end of the request.

        The data and :attr:`session_id` stay; the cookie from before opens nothing
        any more, from the same round trip on.

        To be called whenever privileges change, above all at login (OWASP
        Session Management Cheat Sheet, "Renew the Session ID After Any
        Privilege Level Change").

        :param renew_csrf_token: let forms that are open be refused from then on.
        :param restart_lifetime: count ``absolute_timeout`` from now, as for a
            fresh login. By default the session keeps its original start.
        """
        token = None if renew_csrf_token else self.get(CSRF_KEY)
        self._asking().regenerate(restart_lifetime)
        if renew_csrf_token:
            self._loaded().drop(CSRF_KEY)
        elif token is not None and CSRF_KEY not in self:
            self[CSRF_KEY] = token  # the new one derives another

    def confirm(self, name: str = "password") -> None:
        """Note that the user has just proved once more who they are; gives a new token.

        To be called when the password, or what ``name`` stands for, was checked
        (OWASP ASVS 5.0, 7.5.1). It counts by Redis' clock, until the session ends or gets
        another owner, and its time is sealed.

        :param name: of what was checked.
        :raises TypeError: the name is no ``str``.
        :raises StoreUnavailable: Redis, whose time is asked for, cannot be reached.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"what was confirmed has a str for a name, not {type(name).__name__} [docs: login]"
            )
        self.regenerate_id(restart_lifetime=self._state.asked.restarts)
        self._state.confirm(str.__str__(name))

    def confirmed_within(self, seconds: float, name: str = "password") -> bool:
        """Whether :meth:`confirm` was called with this name in the last so many seconds, by
        Redis' clock.

        :raises ValueError: not a number of seconds.
        """
        life_ms = milliseconds(_duration(seconds))
        state = self._looked()
        confirmed_ms = state.confirmed().get(name)
        if confirmed_ms is None:
            return False
        return -CLOCK_STEP_MS <= state.now_ms() - confirmed_ms <= life_ms

    @property
    def owner(self) -> str | int | None:
        """Whose session it is: the user's id, as the application knows it.

        Setting another owner is a login: it calls :meth:`regenerate_id`, and records
        the session in the owner's index (see
        :func:`~pyramid_redis_lua_sessions.sessions_of`). Setting ``None``
        calls that, too.

        :raises TypeError: the owner is neither ``str`` nor ``int``.
        """
        return cast("str | int | None", self._loaded().meta(OWNER_FIELD))

    @owner.setter
    def owner(self, owner: str | int | None) -> None:
        if owner is not None:
            owner = exact_key(owner)
        if self._asking().change_hands(owner):
            self.regenerate_id()

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
                raise TypeError(
                    f"a session's label is a str, not {type(label).__name__} "
                    "[docs: log-out-everywhere]"
                )
            label = str.__str__(label)
        self._writing().contents.assign_meta(LABEL_FIELD, label)

    @property
    def device_bound(self) -> bool:
        """Whether the session is bound to the device that it is on: see :doc:`devices`."""
        state = self._looked()
        return state.shared.settings.device_binding and state.contents.is_bound()

    @property
    def device_locked(self) -> bool:
        """Whether the session lives, and is bound to a device that this request is not from.

        It is empty then. A user who logs in gets another one, and :meth:`invalidate` ends it.
        """
        return self._looked().locked is not None

    def bind_device(self) -> None:
        """Offer the browser, in this response, to bind the session to its device.

        For applications that set no :attr:`owner`: to be called at a login, beside
        :meth:`regenerate_id`. A session that is bound already gets a new token, and is bound
        anew. Without ``device_binding`` it does nothing.
        """
        if self._asking().bind_device():
            self.regenerate_id()

    def index(self, name: str, value: str | int | None) -> None:
        """Have the session found by more than its owner: ``sessions_of(request, name=value)``.

        It stays in the index until it ends, or is given another value.

        :param name: small letters, digits and ``_``, a letter first.
        :param value: ``None`` takes it out.
        :raises ValueError: no index can have that name.
        :raises TypeError: the value is neither ``str`` nor ``int``.
        """
        field = index_field(name)
        if value is not None:
            value = exact_key(value)
        self._writing().contents.assign_meta(field, value)

    def ensure_id(self) -> str | None:
        """Return the session's id; create the session now if it has none.

        :returns: ``None`` only for a request that was in flight when its
            session ended: it has no session.
        """
        return self._state.ensure_id()

    def adjust_session_timeout(self, timeout_seconds: float | Default | None) -> None:
        """Give this session an idle timeout of its own, for as long as it lives.

        :param timeout_seconds: seconds; 0 or ``None``: never;
            :data:`~pyramid_redis_lua_sessions.DEFAULT`: the configured timeout again,
            also a later one.
        :raises ValueError: not a number of seconds.
        """
        own_ms = DEFAULT_MS
        if timeout_seconds is not DEFAULT:
            own_ms = milliseconds(_duration(timeout_seconds))
        self._writing().adjust(timeout_ms=own_ms)

    adjust_timeout_for_session = adjust_session_timeout

    def adjust_session_expires(self, expires_epoch: float | None) -> None:
        """Set the moment at which this session ends, whatever the activity.

        :param expires_epoch: seconds since the epoch; ``None``: no such moment.
        :raises ValueError: not a moment before the year 10,000; a ``timedelta``
            is none.
        """
        if isinstance(expires_epoch, datetime.timedelta):
            # As a number of seconds it would be a moment of 1970, and end the session.
            raise ValueError(
                "expected a number of seconds since the epoch, not a timedelta [docs: remember-me]"
            )
        deadline = _duration(expires_epoch, LAST_MOMENT)
        self._writing().adjust(deadline_ms=milliseconds(deadline))

    adjust_expires_for_session = adjust_session_expires

    def please_recookie(self) -> None:
        """Have the response send the cookie again."""
        self._resend()

    def adjust_cookie_max_age(self, max_age: Any) -> None:
        """Send the cookie again, with another life.

        :param max_age: seconds, a ``timedelta``; 0 or ``None``: until the
            browser ends.
        :raises ValueError: not a number of seconds.
        """
        self._resend(max_age=int(_duration(max_age)))

    def adjust_cookie_expires(self, expires: Any) -> None:
        """Send the cookie again, with another end; Max-Age takes precedence.

        :param expires: ``datetime``, ``timedelta`` or ``None``.
        :raises ValueError: something else, or an end out of range.
        """
        if isinstance(expires, datetime.timedelta):
            _duration(expires)
        elif expires is not None and not isinstance(expires, datetime.datetime):
            raise ValueError("expected a datetime, a timedelta or None [docs: remember-me]")
        self._resend(expires=expires)

    def _resend(self, **chosen: Any) -> None:
        state = self._asking()
        state.resend = (state.resend or Resend())._replace(**chosen)


def _as_dict(other: Any) -> Any:
    return other.copy() if isinstance(other, RedisSession) else other


#: How far Redis' clock may step back after a confirmation, ms, and that still counts.
CLOCK_STEP_MS = 10_000

#: The end of the year 9999, seconds since the epoch.
LAST_MOMENT = 253_402_300_799


def _duration(value: Any, most: int = MAX_SECONDS) -> float:
    """Parse seconds that an application gives at run time; ``None`` is 0."""
    try:
        return seconds(value, most) or 0.0
    except ValueError as exc:
        raise ValueError(f"expected {exc} [docs: remember-me]") from None


def _whole_number(number: float | None) -> float | None:
    """Seconds as ``int`` where they are whole, as the predecessors return them."""
    if number is None:
        return None
    return int(number) if number == int(number) else number
