"""The session factory, and what it does at each step of a request's life."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from pyramid.interfaces import ISessionFactory, ITweens
from pyramid.threadlocal import get_current_request
from zope.interface import implementer

from .client import client_options, make_client
from .cookies import Action, CookiePolicy, Ticket, cookie_action
from .errors import (
    InvalidSession,
    InvalidSession_BadCookie,
    InvalidSession_NotInBackend,
    SessionError,
    StoreError,
)
from .events import SessionEvent, SessionRejected
from .seals import make_sealer
from .serializers import make_codec
from .session import RedisSession
from .settings import POSITIONAL, Settings
from .state import UNDELIVERABLE, UNSET, Phase, SessionState
from .store import Store

try:
    from pyramid_retry import is_error_retryable, is_last_attempt
except ImportError:  # optional

    def is_error_retryable(request: Any, exc: Any) -> bool:
        return False

    def is_last_attempt(request: Any) -> bool:
        return True


__all__ = ["RedisSessionFactory", "Turn", "session_tween_factory"]

log = logging.getLogger(__package__)

#: Attribute of a request that lists its turns.
TURNS = "_redis_lua_sessions"

#: Attribute of a request whose view has answered: the response, ``None`` where it raised.
RESPONSE = "_redis_lua_sessions_response"

#: Key of a request's environ under which :mod:`.watch` leaves what wraps its stores.
WATCHER = "redis_lua_sessions.watcher"


@implementer(ISessionFactory)
class RedisSessionFactory:
    """Makes the sessions of an application.

    Arguments are the settings without the prefix ``redis.sessions.``, by
    keyword, or by position in the order of ``pyramid_session_redis`` 1.8.1
    (``secret`` first).

    :raises pyramid.exceptions.ConfigurationError: an argument is unknown or
        malformed, or two of them clash.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if len(args) > len(POSITIONAL):
            raise TypeError(f"at most {len(POSITIONAL)} positional arguments")
        for name, value in zip(POSITIONAL, args, strict=False):
            if name in options:
                raise TypeError(f"argument {name} was given twice")
            options[name] = value
        self._set_up(Settings.from_options(options))

    @classmethod
    def from_settings(cls, settings: Settings) -> RedisSessionFactory:
        """Make a factory from settings that are parsed already."""
        factory = cls.__new__(cls)
        factory._set_up(settings)
        return factory

    def _set_up(self, settings: Settings) -> None:
        self.settings = settings
        # Where pyramid_session_multi looks for it, as Pyramid's own factories have it.
        self._cookie_name = settings.cookie_name
        self._noted_proxy = False
        self.cookies = CookiePolicy(settings)
        self.codec = make_codec(settings)
        self.sealer = make_sealer(settings)
        self._client_callable = settings.redis_client_callable
        self._client_options = client_options(settings)
        if self._client_callable is None:
            make_client(settings)  # does not connect: are the settings good?
        self._store = Store(None, settings, self.sealer)
        #: The stores, by process id and kind of sockets.
        self._stores: dict[tuple[int, type[socket.socket]], Store] = {}
        self.migration: Any = None
        if settings.migrate_from:
            from .migrate import Migration

            self.migration = Migration(settings, self.codec, self.sealer)
        self.afterlife = Afterlife(self)
        #: No request has been answered yet.
        self.unproven = True

    def __call__(self, request: Any) -> RedisSession:
        """Return the session of a request. Costs nothing until it is looked at."""
        turn = Turn(self, request)
        if hasattr(request, RESPONSE) and get_current_request() is not request:
            # The view has answered, and so has Pyramid: the body of the response streams.
            turn.state.leave(self.afterlife)
            return turn.session
        turns = getattr(request, TURNS, None)
        if turns is None:
            setattr(request, TURNS, [turn])
        else:
            turns.append(turn)
        request.add_response_callback(turn.on_response)
        request.add_finished_callback(turn.on_finished)
        return turn.session

    def store_for(self, request: Any) -> Store:
        """Return the store, over the client that serves this request.

        Each process has a client of its own, and has another one after ``gevent`` or ``eventlet``
        has replaced its sockets and locks. A server may do both once the application is loaded.

        :param request: ``None`` at application start.
        """
        if self._client_callable is not None:
            store = self._store.using(self._client_callable(request, **self._client_options))
        else:
            place = (os.getpid(), socket.socket)
            found = self._stores.get(place)
            if found is None:
                # Of two threads that come here the first one wins.
                made = self._store.using(make_client(self.settings))
                found = self._stores.setdefault(place, made)
            store = found
        watcher = None if request is None else request.environ.get(WATCHER)
        return store if watcher is None else cast("Store", watcher(store))

    def note_proxy(self, environ: Mapping[str, Any]) -> None:
        """Warn, once, if a request over http says that it came over https before."""
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").partition(",")[0].strip()
        forwarded = environ.get("HTTP_FORWARDED", "").replace('"', "").lower()  # RFC 7239
        if (scheme == "https" or "proto=https" in forwarded) and not self._noted_proxy:
            self._noted_proxy = True
            log.warning(
                "the session cookie is sent without Secure: a proxy says that the request came "
                "over https, and the WSGI server was not told to believe it; or set "
                "redis.sessions.cookie_secure = true"
            )

    def preload(self) -> None:
        """Load the scripts into Redis; what prevents that is logged, and is no error."""
        try:
            self.store_for(None).load_scripts()
        except SessionError as exc:
            log.warning("the session scripts could not be loaded at start: %s", exc)
        except Exception as exc:
            if self._client_callable is None:
                raise
            log.info(
                "redis_client_callable gives no client without a request, or one that loads no "
                "scripts (%s); they are loaded when they are first called",
                type(exc).__name__,
            )

    def expect_tween(self, registry: Any) -> None:
        """Warn of an application that has the factory and not the tween."""
        self.unproven = False
        tweens = registry.queryUtility(ITweens)
        chain = [] if tweens is None else tweens.explicit or tweens.implicit()
        if all(factory is not session_tween_factory for _, factory in chain):
            log.warning(
                "the sessions' tween is not part of the application: errors of a save reach no "
                "exception view, and changes of a transaction that fails are saved; use "
                "config.include('%s')",
                __package__,
            )


class Afterlife:
    """What is left to a session when its request is over: what it has loaded."""

    def __init__(self, factory: RedisSessionFactory) -> None:
        self.settings = factory.settings
        self.codec = factory.codec
        self.sealer = factory.sealer

    def identify(self) -> list[Ticket]:
        raise RuntimeError("the session was first looked at when its request was over")

    def store(self) -> Store:
        raise RuntimeError("the request of this session is over")

    def report(self, problem: InvalidSession) -> None:
        log.warning("%s", problem)

    def announce(self, kind: type[SessionEvent], *args: str) -> None:
        raise RuntimeError("the request of this session is over")


class Turn:
    """The way of one session through one request."""

    __slots__ = (
        "_answered",
        "_cookie_sent",
        "_finishing",
        "_last",
        "_last_error",
        "_outer_error",
        "_read",
        "_store",
        "_tickets",
        "_unhandled",
        "careful",
        "codec",
        "factory",
        "joined",
        "problems",
        "request",
        "response",
        "save_failed",
        "sealer",
        "session",
        "settings",
        "state",
    )

    def __init__(self, factory: RedisSessionFactory, request: Any) -> None:
        self.factory = factory
        self.settings = factory.settings
        self.codec = factory.codec
        self.sealer = factory.sealer
        self.request = request
        #: The response, as soon as there is one.
        self.response: Any = None
        self.save_failed = False
        #: What was reported.
        self.problems: list[InvalidSession] = []
        #: What has a transaction save the session, or say that it does not.
        self.joined: Any = None
        #: Saves are taken back where something fails after them.
        self.careful = factory.settings.on_conflict == "retry"
        self._store: Store | None = None
        self._read = False
        self._tickets: list[Ticket] = []
        self._last = False
        self._answered = False
        self._finishing = False
        self._last_error: BaseException | None = None
        #: The request ends in an exception that nobody handled.
        self._unhandled = False
        #: The id whose cookie the response carries; '' = it deletes the cookie.
        self._cookie_sent: str | None = None
        #: An exception that was being handled already when the session was made.
        self._outer_error = sys.exc_info()[1]
        self.state = SessionState(self)
        self.session = RedisSession(self.state)

    # -- what the session asks for ---------------------------------------------------

    def identify(self) -> list[Ticket]:
        """Return what the request's cookies say that verify."""
        if not self._read:
            self._read = True
            header = self.request.environ.get("HTTP_COOKIE")
            if header:
                self._tickets, there = self.factory.cookies.read(header)
                if there and not self._tickets:
                    self._tickets = self._move_in(header)
                    if not self._tickets:
                        self.report(InvalidSession_BadCookie("no cookie of the session verifies"))
        return self._tickets

    def _move_in(self, header: str) -> list[Ticket]:
        """Take over sessions of another library, if the settings ask for it."""
        migration = self.factory.migration
        if migration is None:
            return []
        try:
            tickets: list[Ticket] = migration.accept(header, self)
        except BaseException:
            # A later look must try again, not take the user for a new one.
            self._read = False
            raise
        return tickets

    def _ticket(self) -> Ticket | None:
        """Return the cookie of the session that lives, or else the first that verifies."""
        tickets = self._tickets
        if len(tickets) > 1:
            self.state.look()
            live = self.state.session_id
            for ticket in tickets:
                if ticket.session_id == live:
                    return ticket
        return tickets[0] if tickets else None

    def store(self) -> Store:
        """Return the store, over the client that serves this request."""
        if self._store is None:
            self._store = self.factory.store_for(self.request)
        return self._store

    def watch(self, watcher: Callable[[Store], Store]) -> None:
        """Use another store from now on, if there is one already."""
        if self._store is not None:
            self._store = watcher(self._store)

    @property
    def used_store(self) -> Store | None:
        """The store that this turn used, if it used one."""
        return self._store

    def report(self, problem: InvalidSession) -> None:
        """Log a problem, and hand it to ``func_invalid_logger``."""
        self.problems.append(problem)
        routine = isinstance(problem, (InvalidSession_BadCookie, InvalidSession_NotInBackend))
        log.log(logging.INFO if routine else logging.WARNING, "%s", problem)
        if self.settings.func_invalid_logger is not None:
            self.settings.func_invalid_logger(self.request, problem)
        self._notify(SessionRejected, problem)

    def announce(self, kind: type[SessionEvent], *args: str) -> None:
        """Send an event to the application."""
        self._notify(kind, *args)

    def _notify(self, kind: Any, *args: Any) -> None:
        registry = self.request.registry
        if registry.has_listeners:
            registry.notify(kind(self.request, *args))

    # -- the steps -------------------------------------------------------------------

    def save(self) -> None:
        """Save what is pending.

        After a failure nothing is pending any more: the error was raised
        once, to where the application can see it.
        """
        state = self.state
        if not state.has_work():
            return
        if state.undo is None and not is_last_attempt(self.request):
            state.undo = []
        state.careful = self.careful or self.request.environ.get("retry.attempts", 1) > 1
        try:
            state.save(self._may_set())
        except BaseException as exc:
            self.save_failed = True
            state.discard_changes(f"the save failed ({type(exc).__name__})")
            raise

    def on_response(self, request: Any, response: Any) -> None:
        """Response callback: save what changed late, and settle the cookie."""
        if not self._last and request.response_callbacks:
            # Callbacks that the application added later may change the session.
            self._last = True
            request.add_response_callback(self.on_response)
            return
        if self.factory.unproven:
            self.factory.expect_tween(request.registry)
        self.response = response
        self._answered = True
        if self.is_repeated():
            self._leave_no_trace()
            return
        self._settle()
        self._vary()
        self.state.rest()

    def on_finished(self, request: Any) -> None:
        """Finished callback: the last chance, also after an unhandled exception."""
        # An exception that nobody handled may be on its way up: no response
        # will go out then, not even one that was there already.
        error = sys.exc_info()[1]
        if error is self._outer_error and self._answered:
            error = None
        if not self._finishing and request.finished_callbacks:
            # Callbacks that the application added later may use the session.
            self._finishing, self._last_error = True, error
            request.add_finished_callback(self.on_finished)
            return
        if self._finishing:
            error = self._last_error
        self._unhandled = error is not None
        if self._unhandled:
            self.response = None
        elif not self._answered:
            # The session was first used in a NewResponse subscriber.
            self.response = getattr(request, RESPONSE, None)
        try:
            if self.is_repeated(error):
                self._leave_no_trace()
            elif not self._answered or error is not None or self._is_unsettled():
                self._settle()
                if self.response is not None:
                    self._vary()
        except SessionError as exc:
            if error is None:
                raise
            # The application's own error must not be hidden behind this one.
            log.error("a session could not be saved after an unhandled exception: %s", exc)
        finally:
            # No cycle of references is left for the garbage collector: the session
            # lets go of this turn, and this turn of the request.
            self.state.leave(self.factory.afterlife)
            self.request = None
            self._outer_error = self._last_error = None

    def is_repeated(self, error: BaseException | None = None) -> bool:
        """Tell whether ``pyramid_retry`` throws this attempt away, as it decides it itself.

        :param error: what nobody handled; without one, what was rendered counts.
        """
        if error is None:
            error = getattr(self.request, "exception", None)
        return error is not None and bool(is_error_retryable(self.request, error))

    def _is_unsettled(self) -> bool:
        """Whether anything happened after the response callback."""
        state = self.state
        if state.has_work() or (state.cookie_is_stale and self._cookie_sent is None):
            return True
        return state.created_here and state.session_id != self._cookie_sent

    def roll_back(self) -> None:
        """Forget the changes of a transaction that was aborted."""
        self.state.discard_changes("the transaction was aborted")

    def _settle(self) -> None:
        """Save what is pending, and send the cookie if one is due."""
        state = self.state
        if self.joined is not None:
            self.joined.let_go()
            if self._unhandled or not self.request.environ.get("tm.active"):
                # The transaction failed before it came to the session.
                self.roll_back()
            else:
                # It is not this request's: pyramid_tm removes its mark before it ends one.
                state.take_up()
        elif self._failed():
            state.drop_aside("the request failed")
        else:
            state.take_up()
        if state.recookie:
            self.identify()
        ticket = self._ticket()
        due = ticket is not None and (
            state.recookie or self.factory.cookies.due(ticket, self.request.environ)
        )
        idle = not (due or state.has_work() or state.created_here or state.cookie_is_stale)
        if idle and not state.loose_ends:
            self._reseal(ticket)
            return
        if self._failed() and not self.settings.save_on_exception:
            state.discard_changes("the request failed, and save_on_exception is false")
        may_set = self._may_set()
        if self.save_failed or self._failed():
            self._save_quietly(may_set)
        else:
            if state.created_here and not may_set:
                state.take_back(UNDELIVERABLE)
            self.save()
        self._reseal(ticket)
        state.tie_up()  # a newer login may have ended this one's session: then no cookie goes
        if self.response is not None:
            self._send_cookie(ticket, may_set, due)

    def _reseal(self, ticket: Ticket | None) -> None:
        """Complete a rotation of secrets; the next request tries again if it fails.

        The cookie comes first: as long as the browser has an older one, the seals show it.
        """
        if ticket is not None and ticket.outdated:
            return
        try:
            if self.state.outdated():
                self.state.reseal()
        except StoreError as exc:
            log.warning("values could not be sealed under the first secret: %s", exc)

    def _save_quietly(self, may_set: bool) -> None:
        """Save for a response that renders an exception: it must not be lost for another one."""
        state = self.state
        if self.save_failed and state.unreachable:
            state.ends.clear()  # neither load nor end came through: the page has waited enough
        try:
            if state.created_here and not may_set:
                state.take_back(UNDELIVERABLE)
            state.save(may_set)
        except SessionError as exc:
            log.error("a session could not be saved: %s", exc)
            state.discard_changes(f"the save failed ({type(exc).__name__})")
            state.ends.clear()

    def _send_cookie(self, ticket: Ticket | None, may_set: bool, due: bool) -> None:
        state = self.state
        action = cookie_action(
            may_set=may_set,
            may_delete=self._allowed(),
            new_id=state.created_here,
            invalidated=state.cookie_is_stale and ticket is not None,
            resend=due and not state.invalidated and not state.unreachable,
        )
        if action is Action.NOTHING:
            return
        try:
            if action is not Action.DELETE:
                state.look()  # may be the first
            name = "" if action is Action.DELETE else state.session_id
            if name == self._cookie_sent:
                return
            if action is Action.DELETE:
                header = self.factory.cookies.header_to_delete(self._scheme())
            elif state.created_here or state.alive():  # no old id goes over a new one
                header = self._header_to_set(ticket)
            else:
                return
        except StoreError as exc:
            log.warning("the cookie is not sent again: %s", exc)
            return
        self._cookie_sent = name
        self.response.headerlist.append(("Set-Cookie", header))
        if state.cookie_is_stale and ticket is not None:
            self._clear_site_data()

    def _clear_site_data(self) -> None:
        """Have the browser remove what is configured, at the end of the session that it knew."""
        items = self.settings.clear_site_data
        if self.state.created_here:  # its cookie must stay
            items = tuple(item for item in items if item not in ("cookies", "*"))
        if items:
            value = ", ".join(f'"{item}"' for item in items)
            self.response.headers.setdefault("Clear-Site-Data", value)

    def _header_to_set(self, ticket: Ticket | None) -> str:
        state, settings = self.state, self.settings
        expires = settings.cookie_expires
        if state.cookie_max_age is not UNSET:
            max_age = state.cookie_max_age
        elif state.cookie_expires is not UNSET:
            max_age = None
        elif ticket is not None and not state.new and ticket.max_age is not None:
            max_age = ticket.max_age  # the life that the application once chose
        else:
            max_age = settings.cookie_max_age
        if state.cookie_expires is not UNSET:
            expires = state.cookie_expires
        return self.factory.cookies.header_to_set(
            state.session_id or "", self._scheme(), max_age, expires
        )

    def _scheme(self) -> str:
        # Pyramid's DummyRequest has none.
        scheme: str = getattr(self.request, "scheme", "http")
        if scheme == "http" and self.settings.cookie_secure is None:
            self.factory.note_proxy(self.request.environ)
        return scheme

    def _leave_no_trace(self) -> None:
        """This attempt is thrown away and repeated."""
        self.state.discard_changes("the attempt is repeated")
        self.state.put_back()
        self.state.ends.clear()
        self.state.take_back()

    def _failed(self) -> bool:
        """Whether the request ended in an exception.

        An exception that was rendered with a status under 400 is none:
        ``raise HTTPFound`` is how Pyramid redirects.
        """
        if self.response is None:
            return self._unhandled
        error = getattr(self.request, "exception", None)
        return error is not None and self.response.status_int >= 400

    def _allowed(self) -> bool:
        check = self.settings.func_check_response_allow_cookies
        return self.response is not None and (check is None or bool(check(self.response)))

    def _may_set(self) -> bool:
        if self._failed() and not self.settings.cookie_on_exception:
            return False
        return self._allowed()

    def _vary(self) -> None:
        """A response for which the session was looked at varies on Cookie (RFC 9110 12.5.5)."""
        if self.state.phase is Phase.UNREAD and not self._read:
            return
        headers = self.response.headers
        names = [name.strip() for line in headers.getall("Vary") for name in line.split(",")]
        if not {"cookie", "*"}.intersection(map(str.lower, names)):
            # One line: of several, WebOb's response.vary knows one, and replaces all.
            headers["Vary"] = ", ".join([*filter(None, names), "Cookie"])


def session_tween_factory(handler: Any, registry: Any) -> Any:
    """Tween right under the exception views: the regular save point.

    An error of the save is raised here, so the application's exception views
    render it like one of a view.
    """

    def session_tween(request: Any) -> Any:
        request.add_response_callback(_keep_response)
        try:
            response = handler(request)
        except BaseException as exc:
            _after_exception(request, exc)
            raise
        save_point(request, response)
        return response

    return session_tween


def _keep_response(request: Any, response: Any) -> None:
    """Keep what goes out: an exception view, or a tween above, may have replaced the view's."""
    setattr(request, RESPONSE, response)


def save_point(request: Any, response: Any) -> None:
    """Save the sessions of a request, or have its transaction save them."""
    turns = getattr(request, TURNS, None)
    if turns:
        _save_all(turns, _transactions(request), response)


def _save_all(turns: list[Turn], managed: Any, response: Any) -> None:
    for turn in turns:
        turn.response = response
        if managed is None or not managed.join(turn):
            turn.save()


def _after_exception(request: Any, exc: BaseException) -> None:
    turns = getattr(request, TURNS, None)
    if not turns:
        return
    managed = _transactions(request)
    if getattr(exc, "status_int", 500) < 400:
        # A redirect that was raised instead of returned.
        if managed is not None and not managed.can_commit_after_exception(request):
            # What is saved in any case is saved here, where errors reach exception views.
            managed = None
        _save_all(turns, managed, exc)
    elif managed is not None:
        # The transaction says whether the view's changes count, unless the
        # exception is rendered with a status under 400.
        for turn in turns:
            if turn.state.set_aside():
                managed.join_after_exception(turn)


def _transactions(request: Any) -> Any:
    """Return what joins a turn to the request's transaction, if it has one."""
    if not request.environ.get("tm.active"):
        return None
    from . import transaction

    return transaction
