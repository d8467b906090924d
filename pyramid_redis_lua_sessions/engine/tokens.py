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
    "CLOCKED",
    "DIGEST_SIZE",
    "TOKEN_FIELD",
    "Ticket",
    "Token",
    "as_clocked",
    "as_stored",
    "default_id",
    "digest_of",
    "digest_stored",
    "draw_verifier",
    "is_marked",
    "moments",
]

#: Bytes of a digest, and of a moment.
DIGEST_SIZE = 16
MOMENT_SIZE = 6

#: The field that makes a hash a session. Every session has it, so its name is short: the digest
#: of the verifier, the start of the session's life (ms since the epoch, big-endian), and when
#: the token was put in place, if that is another moment.
TOKEN_FIELD = b"@"

#: Ends that field where the session holds what is told from the time: its loads tell it. Another
#: mark there says that it has, or had, lifetimes of its own.
CLOCKED = b"+"


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
    """Return a session id of 128 random bits, 22 characters.

    With the default prefix it makes a key of 30 bytes, which takes half the memory in Redis
    that one of 32 does.
    """
    return secrets.token_urlsafe(16)


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


def as_stored(digest: bytes, start_ms: int, placed_ms: int, clocked: bool = False) -> bytes:
    """Return the field of a session's token.

    :param start_ms: start of the session's life, ms since the epoch.
    :param placed_ms: when the token was put in place.
    :param clocked: its loads tell the time.
    """
    moments = [start_ms] if placed_ms == start_ms else [start_ms, placed_ms]
    held = b"".join(moment.to_bytes(MOMENT_SIZE, "big") for moment in moments)
    return digest + held + CLOCKED * clocked


def is_marked(field: bytes) -> bool:
    """Tell whether the field of a token has a mark: its session is not like any other."""
    return len(field) % 2 == 1


def as_clocked(field: bytes) -> bytes:
    """Return the field of a token with the mark of a session whose loads tell the time."""
    return field[: len(field) - len(field) % 2] + CLOCKED


def digest_stored(field: bytes) -> bytes:
    """Return the digest in the field of a token; shorter where somebody spoilt it."""
    return field[:DIGEST_SIZE]


def moments(field: bytes | None) -> tuple[int | None, int | None]:
    """Return start of life, and when the token was put in place; ``None``: somebody spoilt it."""
    held = (field or b"")[DIGEST_SIZE:]
    held = held[: len(held) - len(held) % 2]  # without the mark
    if len(held) not in (MOMENT_SIZE, 2 * MOMENT_SIZE):
        return None, None
    start, placed = held[:MOMENT_SIZE], held[-MOMENT_SIZE:]
    return int.from_bytes(start, "big"), int.from_bytes(placed, "big")
