"""Whose connection it is: the session that a request's cookie opens, found without touching it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..engine.protocol import Description
from ..engine.tokens import digest_stored
from ..errors import fingerprint
from ..factory import RedisSessionFactory

__all__ = ["Known", "session_of"]


class Known(NamedTuple):
    """What is known of a request's session.

    :ivar locator: of the one that lives and that its cookie opens; else ``None``.
    :ivar replaced: one lives, but its cookie is from before its last login.
    """

    locator: str | None
    replaced: bool = False


def session_of(factory: RedisSessionFactory, request: Any, name: str | None = None) -> Known:
    """Find the session of a request.

    :param name: a fingerprint: only a session with that one counts.
    :raises StoreError: Redis failed.
    """
    tickets, _ = factory.cookies.read(request.environ.get("HTTP_COOKIE") or "")
    tokens = [ticket.token for ticket in tickets]
    if name is not None:
        tokens = [token for token in tokens if fingerprint(token.locator) == name]
    if not tokens:
        return Known(None)
    described = factory.store_for(request).describe([token.locator for token in tokens])
    replaced = False
    for token, known in zip(tokens, described, strict=True):
        if isinstance(known, Description):
            if digest_stored(known.token) == token.digest:
                return Known(token.locator)
            replaced = True
    return Known(None, replaced)
