"""Pyramid events that tell what becomes of sessions.

They are sent through the application's registry, to subscribers added with
``config.add_subscriber``. None carries a session id or a value.
"""

from __future__ import annotations

from typing import Any

from .errors import InvalidSession

__all__ = [
    "SessionCreated",
    "SessionEvent",
    "SessionInvalidated",
    "SessionRegenerated",
    "SessionRejected",
]


class SessionEvent:
    """Base of all.

    :ivar request: the request in which it happened; ``None`` for a revoke that
        was given a registry.
    :ivar fingerprint: the short one-way name of the session's id, or ``None``
        where there is no authentic id.
    """

    def __init__(self, request: Any, fingerprint: str | None) -> None:
        self.request = request
        self.fingerprint = fingerprint


class SessionCreated(SessionEvent):
    """A session was stored for the first time."""


class SessionRegenerated(SessionEvent):
    """A session got a new token: a login, or :meth:`~RedisSession.regenerate_id`."""


class SessionInvalidated(SessionEvent):
    """A session was ended by the application."""


class SessionRejected(SessionEvent):
    """A session was refused, or changes to one could not be kept.

    :ivar problem: what ``func_invalid_logger`` is called with.
    :ivar reason: a short, stable phrase that says why.
    """

    def __init__(self, request: Any, problem: InvalidSession) -> None:
        super().__init__(request, problem.fingerprint)
        self.problem = problem
        self.reason = problem.reason
