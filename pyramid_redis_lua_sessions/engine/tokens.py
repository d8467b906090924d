"""What a cookie carries: the locator, which names a session, and the verifier, which opens it.

The locator never changes in the life of a session, and opens nothing: it may be
stored, and logged as a fingerprint. The verifier is the credential. Redis holds
only its digest, so who reads Redis can log in as nobody.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

__all__ = [
    "DIGEST_SIZE",
    "Ticket",
    "Token",
    "as_stored",
    "default_id",
    "digest_of",
    "digest_stored",
    "draw_verifier",
]

#: Bytes of a digest.
DIGEST_SIZE = 16


class Token(NamedTuple):
    """The credential of one session.

    :ivar locator: the id under which it is stored, without the prefix.
    :ivar verifier: 128 random bits, base64url.
    :ivar digest: of the verifier: 16 bytes, as stored.
    """

    locator: str
    verifier: str
    digest: bytes

    def __repr__(self) -> str:
        return "<Token>"  # a traceback that shows values must not show this one

    @classmethod
    def of(cls, locator: str, verifier: str) -> Token:
        return cls(locator, verifier, digest_of(verifier))


class Ticket(NamedTuple):
    """What a cookie that verifies says.

    :ivar token: that it carries; whether that opens a session, Redis knows.
    :ivar issued: when, in seconds since the epoch, by an application server.
    :ivar max_age: the cookie's own life in seconds; 0: the application chose
        that it ends with the browser; ``None``: it does so as configured.
    :ivar outdated: signed with a secret that is no longer the first.
    """

    token: Token
    issued: int
    max_age: int | None
    outdated: bool


def default_id() -> str:
    """Return a session id of 256 random bits, 43 characters."""
    return secrets.token_urlsafe(32)


def draw_verifier() -> str:
    """Return a new verifier: 128 random bits, 22 characters.

    OWASP asks for at least 64 bits of entropy (Session Management Cheat Sheet).
    """
    return secrets.token_urlsafe(16)


def digest_of(verifier: str) -> bytes:
    """Return the digest of a verifier: 16 bytes of BLAKE2b (RFC 7693).

    It has no key: a verifier of 128 random bits cannot be guessed from it.
    """
    data = verifier.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE, person=b"session token").digest()


def as_stored(digest: bytes, placed_ms: int) -> bytes:
    """Return the field ``token`` of a session.

    :param placed_ms: when the token was put in place, ms since the epoch.
    """
    return digest + b"%d" % placed_ms


def digest_stored(field: bytes) -> bytes:
    """Return the digest that the field ``token`` holds; shorter where somebody spoilt it."""
    return field[:DIGEST_SIZE]
