"""Pyramid events that tell what becomes of sessions.

They are sent through the application's registry, to subscribers added with
``config.add_subscriber``; metrics and traces get them, too. None carries a session id or a
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .engine.observer import Watcher, guarded
from .errors import InvalidSession

__all__ = [
    "DeviceRefreshed",
    "DeviceRegistered",
    "SessionConflicted",
    "SessionCreated",
    "SessionEvent",
    "SessionInvalidated",
    "SessionRegenerated",
    "SessionRejected",
    "send",
]


class SessionEvent:
    """Base of all.

    :ivar request: the request in which it happened; ``None`` for a revoke that
        was given a registry.
    :ivar fingerprint: the short one-way name of the session's id, or ``None``
        where there is no authentic id.
    :ivar reason: a short, stable phrase that says why.
    """

    def __init__(self, request: Any, fingerprint: str | None, reason: str) -> None:
        self.request = request
        self.fingerprint = fingerprint
        self.reason = reason


class SessionCreated(SessionEvent):
    """A session was stored for the first time.

    :ivar reason: ``login``: it has an owner; ``first write``; ``ensure_id``: it holds nothing yet.
    """


class SessionRegenerated(SessionEvent):
    """A session got a new token.

    :ivar reason: ``login``: an owner was set; ``regenerate_id``:
        :meth:`~RedisSession.regenerate_id`, or the owner was taken away.
    """


class SessionInvalidated(SessionEvent):
    """A session was ended: by the application, or for the sake of a rule.

    :ivar reason: ``invalidate``; ``revoke``; ``emptied``: it lost its last value
        (``invalidate_empty_session``); ``owner_sessions``: a newer login of its owner was one
        too many; ``undelivered``: no browser will hold the cookie that the request made for it,
        as the attempt is repeated, its transaction failed, or no cookie may be sent.
    """


class SessionConflicted(SessionEvent):
    """A request could not save, and raised :class:`SessionConflict` (``on_conflict = retry``).

    :ivar reason: ``outdated``: what it had read was changed meanwhile; ``busy``: another
        request's save was under way for too long.
    """


class SessionRejected(SessionEvent):
    """A session was refused, or changes to one could not be kept.

    :ivar problem: what ``func_invalid_logger`` is called with.
    :ivar reason: a short, stable phrase that says why.
    """

    def __init__(self, request: Any, problem: InvalidSession) -> None:
        super().__init__(request, problem.fingerprint, problem.reason)
        self.problem = problem


class DeviceRegistered(SessionEvent):
    """A session was bound to the device of a browser.

    :ivar reason: ``registration``.
    """


class DeviceRefreshed(SessionEvent):
    """A browser proved that a session is still on the device to which it is bound.

    :ivar reason: ``proof``.
    """


def send(registry: Any, watchers: Sequence[Watcher], event: SessionEvent) -> None:
    """Send an event to those who watch the sessions, and to the application's subscribers."""
    for watcher in watchers:
        guarded(watcher.event, event)
    if registry.has_listeners:
        registry.notify(event)
