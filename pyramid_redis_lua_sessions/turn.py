"""A session's way through one request: from cookie to cookie, in the order in which it happens."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import reports
from .cookies import vary_on_cookie
from .delivery import offer_binding, send_cookie
from .engine import executor
from .engine.observer import Step
from .engine.plan import UNREAD, Cause, Happened, Reason
from .engine.staging import release
from .engine.state import SessionState
from .engine.store import Store
from .engine.tokens import Ticket, Token
from .engine.trace import Trace
from .errors import (
    InvalidSession,
    InvalidSession_BadCookie,
    SessionError,
    StoreError,
)
from .session import RedisSession

if TYPE_CHECKING:
    from .factory import RedisSessionFactory

try:
    from pyramid_retry import is_error_retryable, is_last_attempt
except ImportError:  # optional

    def is_error_retryable(request: Any, exc: Any) -> bool:
        return False

    def is_last_attempt(request: Any) -> bool:
        return True


__all__ = ["RESPONSE", "START", "TURNS", "WATCHED", "Turn"]

log = logging.getLogger(__package__)

#: Attribute of a request that lists its turns.
TURNS = "_redis_lua_sessions"

#: Attribute of a request whose view has answered: the response, ``None`` where it raised.
RESPONSE = "_redis_lua_sessions_response"

#: Attribute of a request that says when it began, by the monotonic clock.
START = "_redis_lua_sessions_start"

#: Key of a request's environ: what an attempt leaves to the next one, by factory.
CARRIED = "redis_lua_sessions.tokens"

#: Key of a request's environ: the list of steps that :mod:`.watch` keeps.
WATCHED = "redis_lua_sessions.watched"

#: Every request has it at first, so nobody may write to it: limits by owner.
_UNASKED: dict[bytes, int] = {}


class Turn:
    """The way of one session through one request."""

    __slots__ = (
        "_answered",
        "_most",
        "_outer_error",
        "_read",
        "_start",
        "_store",
        "_tickets",
        "_unhandled",
        "carried",
        "claims",
        "cookie_sent",
        "factory",
        "joined",
        "postponed",
        "problems",
        "request",
        "response",
        "save_failed",
        "session",
        "settings",
        "state",
    )

    def __init__(self, factory: RedisSessionFactory, request: Any) -> None:
        self.factory = factory
        self.settings = factory.settings
        self.request = request
        #: The response, as soon as there is one.
        self.response: Any = None
        self.save_failed = False
        #: What was reported.
        self.problems: list[InvalidSession] = []
        #: What the application is told when the transaction has ended; ``None`` = at once.
        self.postponed: list[Callable[[], object]] | None = None
        #: What has a transaction save the session, or say that it does not.
        self.joined: Any = None
        environ = request.environ
        #: The token that an attempt of this request before this one had put in place.
        self.carried: Token | None = None
        #: Let no other request come in between: that would be the last conflict.
        self.claims = False
        if "retry.attempts" in environ:
            self._follow_up(environ)
        # Looked up like this, what is not there costs no exception: every request pays for it.
        self._start: float = request.__dict__.get(START) or time.monotonic()
        self._store: Store | None = None
        self._read = False
        self._tickets: Sequence[Ticket] = ()
        self._answered = False
        self._most = _UNASKED
        #: The request ends in an exception that nobody handled.
        self._unhandled = False
        #: The token that the response carries; '' = it deletes the cookie.
        self.cookie_sent: Token | str | None = None
        #: An exception that was being handled already when the session was made.
        self._outer_error = sys.exc_info()[1]
        self.state = SessionState(factory, self)
        if WATCHED in environ:
            self.state.trace = Trace()
        self.session = RedisSession(self.state)

    def _follow_up(self, environ: dict[str, Any]) -> None:
        """Note what an attempt means for the session that ``pyramid_retry`` makes or repeats."""
        self.carried = environ.get(CARRIED, {}).get(id(self.factory))
        self.claims = (
            self.settings.on_conflict == "retry"
            and environ["retry.attempts"] > 1
            and bool(environ.get("tm.active"))
            and bool(is_last_attempt(self.request))
        )

    # -- what the session asks for ---------------------------------------------------

    def identify(self) -> Sequence[Ticket]:
        """Return what the request's cookies say that verify."""
        if not self._read:
            self._read = True
            if self.carried is not None:
                self._tickets = [Ticket(self.carried, int(time.time()), None, False)]
                return self._tickets
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

    def store(self) -> Store:
        """Return the store, over the client that serves this request."""
        if self._store is None:
            self._store = self.factory.store_for(self.request)
        return self._store

    def watch(self, tell: Callable[[Step], object]) -> None:
        """Have somebody told of each step from now on."""
        self.state.trace = Trace()
        if self._store is not None:
            self._store = self._store.watched(tell)

    def elapsed_ms(self) -> int:
        """Return how long the request has been running."""
        return int((time.monotonic() - self._start) * 1000)

    def opens_page(self) -> bool:
        """Tell whether the browser says that its user opens a page (Fetch Metadata)."""
        environ = self.request.environ
        navigates: bool = environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        return navigates and bool(environ["REQUEST_METHOD"] == "GET")

    def looked_at(self) -> bool:
        """Tell whether the response may depend on the cookie."""
        return self._read or self.state.phase is not UNREAD

    def most_sessions(self, owner: bytes) -> int:
        """Return how many sessions an owner may have.

        :raises ValueError: the application's function returns something else.
        """
        most = self.settings.owner_sessions
        if not callable(most):
            return most
        if owner not in self._most:
            # In a transaction that commits it is needed twice, and may be asked once: before.
            answer = most(self.request, self.factory.codec.decode(owner))
            if type(answer) is not int or answer < 1:
                raise ValueError(
                    "owner_sessions must return a whole number, 1 or more [docs: limits]"
                )
            self._most = {**self._most, owner: answer}
        return self._most[owner]

    def lock(self, token: Token, binding: bytes) -> str:
        """Tell why a session that is bound to a device is locked for this request."""
        devices = self.factory.devices
        if devices is None:
            return ""
        environ = self.request.environ
        reason: str = devices.lock(environ, token.locator, binding, self.elapsed_ms)
        return reason

    def report(self, problem: InvalidSession) -> None:
        """Log a problem, and hand it to ``func_invalid_logger``; once a request."""
        reports.report(self, problem)

    def announce(self, what: Happened, fingerprint: str | None, cause: Cause) -> None:
        """Send an event to the application."""
        reports.announce(self, what, fingerprint, cause)

    # -- the view has answered: the tween saves, or the transaction ---------------------

    def save(self) -> None:
        """Save what is pending.

        After a failure nothing is pending any more: the error was raised
        once, to where the application can see it.
        """
        self._at_save_point(executor.save)

    def stage(self) -> bool | None:
        """Announce what :meth:`apply` is to save.

        :returns: whether the response may carry a cookie; ``None``: nothing was pending.
        """
        return self._at_save_point(executor.stage)

    def _at_save_point(self, act: Callable[[SessionState, bool], None]) -> bool | None:
        state = self.state
        if not state.has_work():
            return None
        try:
            cookie_can_go = self._cookie_can_go()
            act(state, cookie_can_go)
        except BaseException as exc:
            self.save_failed = True
            state.discard_changes(f"the save failed ({type(exc).__name__})")
            raise
        return cookie_can_go

    def apply(self, cookie_can_go: bool) -> None:
        """The transaction commits: save what was announced. No exception is raised.

        The databases commit after it. So subscribers and ``func_invalid_logger`` are called by
        the response callback, where an error is one like any other. What else of the application
        fails, as an id generator, is logged; without its text, which may quote values.

        :param cookie_can_go: as :meth:`stage` returned it.
        """
        self.postponed = self.postponed or []
        try:
            self._save_quietly(cookie_can_go)
        except Exception as exc:
            where = "".join(traceback.format_tb(exc.__traceback__))
            log.error(
                "a session could not be saved: %s [docs: messages]\n%s", type(exc).__name__, where
            )
            self._give_up(exc)

    def roll_back(self) -> None:
        """Forget the changes of a transaction that was aborted.

        What subscribers raise must not take the place of what aborts it: they are told by the
        response callback, as by :meth:`apply`.
        """
        state = self.state
        self.postponed = self.postponed or []
        state.discard_changes("the transaction was aborted")
        self._release()
        if state.token_made and state.new:
            self._abandon()

    # -- the response is made -----------------------------------------------------------

    def on_response(self, request: Any, response: Any) -> None:
        """Response callback: save what changed late, and settle the cookie."""
        if request.response_callbacks:
            # Callbacks that the application added later may change the session.
            request.add_response_callback(self._answer)
        else:
            self._answer(request, response)

    def _answer(self, request: Any, response: Any) -> None:
        if self.factory.unproven:
            self.factory.expect_tween(request.registry)
        self.response = response
        self._answered = True
        if "exception" in request.__dict__ and self.is_repeated():
            self._leave_no_trace()
            return
        self._settle()
        if self.state.offers:
            offer_binding(self)
        if self.looked_at():
            vary_on_cookie(response)
        self.state.rest()

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
        elif state.aside is not None:
            if self._failed():
                state.drop_aside("the request failed")
            else:
                state.take_up()
        if self.postponed is not None:
            reports.tell_postponed(self)
        if state.resend is not None:
            self.identify()
        ticket = self._ticket()
        due = ticket is not None and (
            state.resend is not None
            or (state.touches and self.factory.cookies.due(ticket, self.request.environ))
        )
        if not (due or state.has_work() or state.token_made or state.cookie_is_stale):
            self._reseal(ticket)
            return
        if self._failed() and not self.settings.save_on_exception:
            state.discard_changes("the request failed, and save_on_exception is false")
        cookie_can_go = self._cookie_can_go()
        if self.save_failed or self._failed():
            self._save_quietly(cookie_can_go)
        else:
            if not cookie_can_go:
                executor.abandon(state, Reason.UNDELIVERABLE)
            self.save()
        self._reseal(ticket)
        executor.tidy(state)  # a newer login may have ended this one's session: then no cookie goes
        if self.response is not None:
            send_cookie(self, ticket, cookie_can_go, due)

    def _ticket(self) -> Ticket | None:
        """Return the cookie of the session that lives, or else the first that verifies."""
        tickets = self._tickets
        if len(tickets) > 1:
            self.state.look()
            for ticket in tickets:
                if ticket.token == self.state.token:
                    return ticket
        return tickets[0] if tickets else None

    def _save_quietly(self, cookie_can_go: bool) -> None:
        """Save for a response that renders an exception: it must not be lost for another one."""
        state = self.state
        if self.save_failed and state.unreachable:
            state.endings.clear()  # neither load nor end came through: the page has waited enough
        try:
            if not cookie_can_go:
                executor.abandon(state, Reason.UNDELIVERABLE)
            executor.save(state, cookie_can_go)
        except SessionError as exc:
            log.error("a session could not be saved: %s", exc)
            self._give_up(exc)

    def _give_up(self, exc: Exception) -> None:
        self.state.discard_changes(f"the save failed ({type(exc).__name__})")
        self.state.endings.clear()

    def _reseal(self, ticket: Ticket | None) -> None:
        """Complete a rotation of secrets; the next request tries again if it fails.

        The cookie comes first: as long as the browser has an older one, the seals show it.
        """
        if (ticket is not None and ticket.outdated) or not self.state.touches:
            return
        try:
            if self.state.outdated():
                executor.reseal(self.state)
        except StoreError as exc:
            log.warning("values could not be sealed under the first secret: %s", exc)

    # -- the request is over ------------------------------------------------------------

    def on_finished(self, request: Any) -> None:
        """Finished callback: the last chance, also after an unhandled exception."""
        # An exception that nobody handled may be on its way up: no response
        # will go out then, not even one that was there already.
        error = sys.exc_info()[1]
        if error is self._outer_error and self._answered:
            error = None
        if request.finished_callbacks:
            # Callbacks that the application added later may use the session.
            request.add_finished_callback(lambda request: self._finish(request, error))
        else:
            self._finish(request, error)

    def _finish(self, request: Any, error: BaseException | None) -> None:
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
                if self.response is not None and self.looked_at():
                    vary_on_cookie(self.response)
        except SessionError as exc:
            if error is None:
                raise
            # The application's own error must not be hidden behind this one.
            log.error("a session could not be saved after an unhandled exception: %s", exc)
        finally:
            if self.state.staged is not None or self.state.admitted:
                self._release()
            # No cycle of references is left for the garbage collector: the session
            # lets go of this turn, and this turn of the request.
            self.state.leave()
            self.request = None
            self._outer_error = None

    def _is_unsettled(self) -> bool:
        """Whether anything happened after the response callback."""
        state = self.state
        if state.has_work() or (state.cookie_is_stale and self.cookie_sent is None):
            return True
        return state.token_made and state.token != self.cookie_sent

    def _release(self) -> None:
        try:
            release(self.state)
        except StoreError as exc:
            log.warning("a staged save could not be given up, and others wait for it: %s", exc)

    # -- an attempt that is thrown away --------------------------------------------------

    def is_repeated(self, error: BaseException | None = None) -> bool:
        """Tell whether ``pyramid_retry`` throws this attempt away, as it decides it itself.

        :param error: what nobody handled; without one, what was rendered counts.
        """
        if error is None:
            error = self.request.__dict__.get("exception")
        return error is not None and bool(is_error_retryable(self.request, error))

    def _leave_no_trace(self) -> None:
        """This attempt is thrown away and repeated."""
        state = self.state
        state.discard_changes("the attempt is repeated")
        state.endings.clear()
        if state.token_made and not state.new:
            # The browser's token opens nothing any more.
            self.request.environ.setdefault(CARRIED, {})[id(self.factory)] = state.token
        else:
            self._abandon()
        if self.postponed is not None:
            reports.tell_postponed(self)

    def _abandon(self) -> None:
        """End the session that this request created: no browser will know of it."""
        try:
            executor.abandon(self.state)
        except StoreError as exc:
            log.warning("a session that no browser knows could not be ended: %s", exc)

    # -- what the response may carry -----------------------------------------------------

    def _failed(self) -> bool:
        """Whether the request ended in an exception.

        An exception that was rendered with a status under 400 is none:
        ``raise HTTPFound`` is how Pyramid redirects.
        """
        if self.response is None:
            return self._unhandled
        rendered = self.request.__dict__.get("exception")  # as Pyramid leaves it there
        return rendered is not None and self.response.status_int >= 400

    def allowed(self) -> bool:
        """Tell whether the application lets the response carry cookies."""
        check = self.settings.func_check_response_allow_cookies
        return self.response is not None and (check is None or bool(check(self.response)))

    def _cookie_can_go(self) -> bool:
        if self._failed() and not self.settings.cookie_on_exception:
            return False
        return self.allowed()
