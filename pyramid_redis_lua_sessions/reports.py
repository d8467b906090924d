"""What the application is told of its sessions: in its log, by its function, by events."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .engine.plan import Cause, Happened
from .errors import InvalidSession, InvalidSession_BadCookie, InvalidSession_NotInBackend
from .events import (
    SessionConflicted,
    SessionCreated,
    SessionInvalidated,
    SessionRegenerated,
    SessionRejected,
    send,
)

if TYPE_CHECKING:
    from .turn import Turn

__all__ = ["announce", "report", "tell_postponed"]

log = logging.getLogger(__package__)

#: Key of a request's environ: what its attempts have reported.
REPORTED = "redis_lua_sessions.reported"

#: What the application is told of.
EVENTS = {
    Happened.CREATED: SessionCreated,
    Happened.REGENERATED: SessionRegenerated,
    Happened.INVALIDATED: SessionInvalidated,
    Happened.CONFLICTED: SessionConflicted,
}


def report(turn: Turn, problem: InvalidSession) -> None:
    """Log a problem, and hand it to ``func_invalid_logger``; once a request."""
    turn.problems.append(problem)
    environ = turn.request.environ
    if "retry.attempts" in environ:
        reported = environ.setdefault(REPORTED, set())
        what = (id(turn.factory), type(problem), *problem.args)
        if what in reported:
            return  # an attempt before this one has found it
        reported.add(what)
    routine = isinstance(problem, (InvalidSession_BadCookie, InvalidSession_NotInBackend))
    level = logging.INFO if routine else logging.WARNING
    log.log(level, "%s [docs: events]", problem)
    invalid_logger = turn.settings.func_invalid_logger
    if invalid_logger is not None:
        _tell(turn, lambda: invalid_logger(turn.request, problem))
    _notify(turn, SessionRejected, problem)


def announce(turn: Turn, what: Happened, fingerprint: str | None, cause: Cause) -> None:
    """Send an event to the application."""
    _notify(turn, EVENTS[what], fingerprint, cause.value)


def _notify(turn: Turn, kind: Any, *args: Any) -> None:
    registry, watchers = turn.request.registry, turn.factory.watchers
    if registry.has_listeners or watchers:
        _tell(turn, lambda: send(registry, watchers, kind(turn.request, *args)))


def _tell(turn: Turn, tell: Callable[[], object]) -> None:
    if turn.postponed is None:
        tell()
    else:
        turn.postponed.append(tell)


def tell_postponed(turn: Turn) -> None:
    """Tell what waited for the end of the transaction."""
    postponed, turn.postponed = turn.postponed, None
    for tell in postponed or ():
        tell()
