"""Browsers in which a user has logged in before: a signed cookie of their own remembers it.

So it holds when the sessions have ended, and nothing is stored for it. The cookie proves nothing
but that: it logs nobody in.
"""

from __future__ import annotations

import hashlib
from typing import Any

from webob.cookies import CookieProfile, SignedSerializer

from ..engine.fields import OWNER_FIELD
from ..engine.plan import STORED
from ..engine.seals import derive_key
from ..events import SessionEvent, send
from ..factory import RedisSessionFactory, factory_of
from ..session import RedisSession

__all__ = ["NewDevice", "note_login"]

#: Life of the cookie, seconds: a year. Browsers keep none for longer than 400 days.
MAX_AGE = 365 * 24 * 3600

#: Users that a browser remembers, the last ones.
MOST = 10


class NewDevice(SessionEvent):
    """A user has logged in with a browser in which he had not done so before.

    Also where the browser has removed its cookies, or a year has passed. For a message to the
    user: ``sessions_of`` and the page know from where.

    :ivar reason: ``login``.
    """


def note_login(request: Any, session: RedisSession) -> None:
    """Tell of a login with a new browser, and have the browser remember it, once it is saved."""

    def remember(request: Any, response: Any) -> None:
        state = session._state
        if state.phase is not STORED or not state.token_made:
            return  # it was refused, or dropped
        owner = state.contents.stored((OWNER_FIELD,))
        if not owner:
            return
        factory = factory_of(request.registry)
        secrets = factory.settings.secret or factory.settings.seal_secret
        if not secrets:
            return  # nothing to sign it with (``seal = false``)
        known = [_name(secret, owner[0][2]) for secret in secrets]
        profiles = [_profile(factory, secret, request).bind(request) for secret in secrets]
        names = next(filter(None, (_names(profile) for profile in profiles)), [])
        if not set(known).intersection(names):
            event = NewDevice(request, session.fingerprint, "login")
            send(request.registry, factory.watchers, event)
        kept = [other for other in names if other not in known][: MOST - 1]
        response.headerlist.extend(profiles[0].get_headers([known[0], *kept]))

    request.add_response_callback(remember)


def _names(profile: Any) -> list[str]:
    found = profile.get_value()
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _name(secret: bytes, owner: bytes) -> str:
    key = derive_key(secret, b"known owner")
    return hashlib.blake2b(owner, key=key, digest_size=8).hexdigest()


def _profile(factory: RedisSessionFactory, secret: bytes, request: Any) -> CookieProfile:
    settings = factory.settings
    secure = settings.cookie_secure
    return CookieProfile(
        f"{settings.cookie_name}_known",
        secure=request.scheme == "https" if secure is None else secure,
        max_age=MAX_AGE,
        httponly=True,
        samesite=settings.cookie_samesite or "Lax",
        path=settings.cookie_path,
        domains=[settings.cookie_domain] if settings.cookie_domain else [None],
        serializer=SignedSerializer(derive_key(secret, b"known devices"), "known devices"),
    )
