"""Exceptions, and the fingerprint under which a session id may be shown.

No message, argument or ``repr`` in this module carries a session id, a
session value or a secret.
"""

from __future__ import annotations

import hashlib

try:
    from transaction.interfaces import TransientError
except ImportError:  # optional

    class TransientError(Exception):  # type: ignore[no-redef]
        """Stands in for ``transaction.interfaces.TransientError``."""


try:
    from pyramid_retry import mark_error_retryable
except ImportError:  # optional

    def mark_error_retryable(error: type[Exception]) -> None:
        """Without ``pyramid_retry`` nobody asks."""


__all__ = [
    "InvalidSession",
    "InvalidSession_BadCookie",
    "InvalidSession_ChangesDropped",
    "InvalidSession_DeserializationError",
    "InvalidSession_DeviceLocked",
    "InvalidSession_DeviceProof",
    "InvalidSession_NotInBackend",
    "InvalidSession_PayloadTimeout",
    "InvalidSession_StoreUnavailable",
    "RawDeserializationError",
    "SessionConflict",
    "SessionError",
    "StoreError",
    "StoreUnavailable",
    "TooManySessions",
    "UnserializableValue",
    "fingerprint",
]


def fingerprint(session_id: str) -> str:
    """Return the short one-way name of a session id that logs may show.

    :param session_id: a session id.
    :returns: 12 hexadecimal digits (48 bits of BLAKE2b): enough to tell live
        sessions apart, useless to find the id.
    """
    digest = hashlib.blake2b(
        session_id.encode("utf-8", "surrogatepass"), digest_size=6, person=b"fingerprint"
    )
    return digest.hexdigest()


class SessionError(Exception):
    """Base of every error that a session raises."""

    #: The page of the documentation about it, which the message names.
    page = "messages"

    def _with_page(self, message: str) -> str:
        return f"{message} [docs: {self.page}]"


class StoreError(SessionError):
    """Redis answered a session call with an error.

    Where Redis could not be reached the ``redis`` exception is the
    ``__cause__``; an answer of Redis is not, as it may quote keys and values.
    """

    def __str__(self) -> str:
        return self._with_page(super().__str__())


class StoreUnavailable(StoreError):
    """Redis could not be reached, or refused to serve the call.

    Raised after the client's own retries; the effect of a write is then
    unknown to the caller, as with any database.
    """

    page = "outages"


class UnserializableValue(SessionError):
    """A session value cannot be serialized. The stored session is untouched.

    :ivar key: the session key (or ``flash message``) that holds the value.
    :ivar kind: name of the value's type.
    :ivar error: name of the serializer's error, or what would come back changed.
    """

    def __init__(self, key: object, kind: str, error: str) -> None:
        super().__init__(key, kind, error)
        self.key = key
        self.kind = kind
        self.error = error

    def __str__(self) -> str:
        return self._with_page(
            f"the value of session key {self.key!r}, a {self.kind}, "
            f"cannot be serialized ({self.error})"
        )


class SessionConflict(SessionError, TransientError):
    """Another request changed what this one had read (``on_conflict = retry``).

    Nothing was saved. Where they are installed, it is a ``TransientError`` of
    ``transaction`` and marked retryable for ``pyramid_retry``, so the request
    runs again on fresh data.
    """

    page = "concurrency"

    def __str__(self) -> str:
        return self._with_page("the session was changed by another request; nothing was saved")


mark_error_retryable(SessionConflict)


class TooManySessions(SessionError):
    """An owner has as many sessions as he may (``owner_sessions_policy = refuse``).

    The login, and what else the request changed, was not saved; it raises at the save
    point, where exception views see it. Without one the answer is 403.
    """

    page = "limits"

    def __str__(self) -> str:
        return self._with_page("the owner has as many sessions as he may; the login was refused")


class InvalidSession(SessionError):
    """A request's session was refused, or its changes could not be kept.

    Handed to ``func_invalid_logger``; never raised by default.

    :ivar reason: a short, stable phrase that says why.
    :ivar fingerprint: :func:`fingerprint` of the session id, or ``None``
        where there is no authentic id.
    """

    def __init__(self, reason: str, fingerprint: str | None = None) -> None:
        super().__init__(reason, fingerprint)
        self.reason = reason
        self.fingerprint = fingerprint

    def __str__(self) -> str:
        if self.fingerprint is None:
            return self.reason
        return f"{self.reason} (session {self.fingerprint})"


class InvalidSession_BadCookie(InvalidSession):
    """A cookie of the session's name was sent, and none verifies."""


class InvalidSession_NotInBackend(InvalidSession):
    """The id is authentic, but no such session lives (ended, expired, evicted)."""


class InvalidSession_PayloadTimeout(InvalidSession_NotInBackend):
    """The session was found and had reached the end of its life."""


class InvalidSession_ChangesDropped(InvalidSession):
    """Changes could not be kept: the session had ended, or its cookie cannot be sent."""


class InvalidSession_DeserializationError(InvalidSession):
    """What is stored is corrupt, foreign, or not authentic."""


class InvalidSession_DeviceLocked(InvalidSession):
    """The session is bound to a device, and the request has no live cookie of that device."""


class InvalidSession_DeviceProof(InvalidSession):
    """To refresh a session, a proof came in that is malformed, or signed with another key."""


class InvalidSession_StoreUnavailable(InvalidSession):
    """Redis cannot be reached; the request has an empty session that is not stored."""


class RawDeserializationError(InvalidSession_DeserializationError):
    """As its base; raised to the application if ``deserialized_fails_new = false``."""
