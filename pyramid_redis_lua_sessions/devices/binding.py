"""What follows from a session's key: the device cookie, the challenges, and when it is locked."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from hmac import compare_digest
from typing import Any, NamedTuple

from webob.cookies import make_cookie

from ..cookies import MOST_VALUES, REMEMBERED, cookie_values
from ..engine.protocol import encoded
from ..engine.seals import derive_key
from ..engine.tokens import Token
from ..settings import Settings
from .proofs import ALGORITHMS

__all__ = ["ROUTE", "Binding", "Devices", "locator_in", "now_ms"]

log = logging.getLogger(__name__.partition(".")[0])

#: Name of the route. It is one, as each request of the application asks each whether it matches.
ROUTE = "redis_lua_sessions.device"

#: How long a login's challenge may be signed, ms: browsers register at once, with slow hardware.
REGISTRATION_MS = 60_000

#: What :meth:`Binding.identifier` returns; of a locator as long as a cookie can hold.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,2048}\.[A-Za-z0-9_-]{22}")

#: A device cookie: when it was issued, seconds since the epoch, its life, and a MAC of both.
_COOKIE = re.compile(r"(([0-9]{1,12})-([0-9]{1,12}))\.([A-Za-z0-9_-]{22})")

#: Why a browser did not refresh, in ``Secure-Session-Skipped``.
_SKIPPED = re.compile("unreachable|server_error|quota_exceeded")

#: Bytes of a moment, in ms since the epoch.
_MOMENT = 6


class Binding(NamedTuple):
    """What a bound session holds, sealed like its values.

    With a key of 33 bytes it is so short that Redis keeps the session compact.

    :ivar bound_ms: when it was bound, ms since the epoch, by an application server.
    :ivar challenge_ms: when its challenge was issued, the same; it tells one from the next.
    :ivar key: the public key, as :meth:`.proofs.Proof.key` returns it.
    """

    bound_ms: int
    challenge_ms: int
    key: bytes

    def encode(self) -> bytes:
        moments = (self.bound_ms, self.challenge_ms)
        return b"".join(moment.to_bytes(_MOMENT, "big") for moment in moments) + self.key

    @classmethod
    def decode(cls, data: bytes) -> Binding:
        bound, issued, key = data[:_MOMENT], data[_MOMENT : 2 * _MOMENT], data[2 * _MOMENT :]
        return cls(int.from_bytes(bound, "big"), int.from_bytes(issued, "big"), key)

    def identifier(self, locator: str) -> str:
        """Return what names the binding of a session towards the browser.

        A request that another site has started comes without the session's cookie (SameSite), and
        so does the refresh that precedes it: this is what leads to the session.
        """
        digest = hashlib.blake2b(self.key, digest_size=16, person=b"device key").digest()
        return f"{_text(encoded(locator))}.{_text(digest)}"


class Devices:
    """The device bindings of one factory.

    :ivar cookie_name: of the device cookie.
    :ivar served: the application has the route.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.cookie_name = f"{settings.cookie_name}-device"
        self._beginning = f"{self.cookie_name}="
        self.served = False
        self._challenge_ms = 2000 * settings.device_binding_lifetime
        self._secrets = settings.secret or settings.seal_secret
        #: Cookies that verified: for which locator and binding, and the time in which they hold.
        self._known: dict[str, tuple[str, bytes, float, float]] = {}
        self._warned = False

    # -- the lock ------------------------------------------------------------------

    def lock(
        self,
        environ: Mapping[str, Any],
        locator: str,
        stored: bytes,
        elapsed_ms: Callable[[], int],
    ) -> str:
        """Tell why a bound session is locked for a request.

        Requests that were under way when the session was bound pass, and so do those that were
        when the cookie expired: for ``grace``.

        :param stored: the session's binding, encoded.
        :param elapsed_ms: tells how long the request has been running.
        :returns: the reason; empty where the request's device cookie lives.
        """
        header, now = environ.get("HTTP_COOKIE", ""), time.time()
        # Every read of a bound session pays for it: as a rule there is one cookie, which verified
        # before. It is found by its hash, which takes no longer for one that is nearly right.
        known = self._known.get(header.rpartition(self._beginning)[2].partition(";")[0])
        if known is not None:
            of, binding, first, last = known
            if of == locator and binding == stored and first <= now <= last:
                return ""
        key, reason, tried = stored[2 * _MOMENT :], "", 0
        for value in cookie_values(header, self.cookie_name):
            tried += 1
            span = self._span(value, locator, key)
            if span is not None:
                first, last = span
                if first <= now <= last:
                    self._know(value, (locator, stored, first, last))
                    return ""
                reason = "locked: the device cookie has expired"
            if tried == MOST_VALUES:
                break
        bound = Binding.decode(stored).bound_ms
        if abs(now * 1000 - elapsed_ms() - bound) < self._settings.grace * 1000:
            return ""
        skipped = _SKIPPED.match(environ.get("HTTP_SECURE_SESSION_SKIPPED", ""))
        if skipped is not None:
            log.info("the browser did not refresh a bound session: %s", skipped[0])
        if reason:
            return reason
        return "locked: the device cookie is foreign" if tried else "locked: no device cookie"

    def _know(self, value: str, known: tuple[str, bytes, float, float]) -> None:
        # Threads need no lock: all that they can do to each other is to forget something.
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[value] = known

    # -- the device cookie -----------------------------------------------------------

    def cookie_to_set(self, locator: str, key: bytes) -> str:
        """Return the ``Set-Cookie`` value of a new device cookie."""
        # Whole seconds, rounded up: the browser, which counts from when it gets it, ends it first.
        life = self._settings.device_binding_lifetime
        span = f"{math.ceil(time.time())}-{life}"
        return self._cookie(f"{span}.{self._sign(self._secrets[0], locator, key, span)}", life)

    def cookie_to_delete(self) -> str:
        """Return the ``Set-Cookie`` value that deletes the device cookie."""
        return self._cookie(None, None)

    def attributes(self) -> str:
        """Return the attributes of the device cookie, as the browser is to look for it."""
        return self._cookie("-", None).partition("; ")[2]

    def _cookie(self, value: str | None, max_age: int | None) -> str:
        s = self._settings
        header: str = make_cookie(
            self.cookie_name,
            value,
            max_age=max_age,
            path=s.cookie_path,
            domain=s.cookie_domain,
            secure=True,  # browsers bind sessions over https only
            httponly=True,
            # It opens nothing by itself. Of a request that another site has started, browsers
            # take no other one.
            samesite="None",
        )
        return header

    def _span(self, value: str, locator: str, key: bytes) -> tuple[float, float] | None:
        """Return from when to when a device cookie holds, seconds since the epoch.

        The browser goes by the life with which it was issued, whatever is configured since.

        :returns: ``None`` where it is none of this session's.
        """
        found = _COOKIE.fullmatch(value)
        if found is None:
            return None
        span, issued, life, signature = found.groups()
        if not any(
            compare_digest(self._sign(secret, locator, key, span), signature)
            for secret in self._secrets
        ):
            return None
        # It may be another server's clock that was ahead.
        most = int(life) + self._settings.grace
        return int(issued) - most, int(issued) + most

    def _sign(self, secret: bytes, locator: str, key: bytes, span: str) -> str:
        return self._mac(secret, b"device cookie", locator, key, span.encode("ascii"))

    # -- challenges ------------------------------------------------------------------

    def challenge(self, locator: str, binding: Binding) -> str:
        """Return the challenge of a bound session: nobody else can compute it in advance."""
        return self._challenge(self._secrets[0], locator, binding)

    def is_current(self, challenge: str, locator: str, binding: Binding) -> bool:
        """Tell whether this is the challenge of a bound session, under whichever secret."""
        return challenge.isascii() and any(
            compare_digest(self._challenge(secret, locator, binding), challenge)
            for secret in self._secrets
        )

    def _challenge(self, secret: bytes, locator: str, binding: Binding) -> str:
        about = (binding.key, b"%d" % binding.challenge_ms)
        return self._mac(secret, b"device challenge", locator, *about)

    def is_stale(self, binding: Binding) -> bool:
        """Tell whether the challenge is too old to be signed."""
        return abs(now_ms() - binding.challenge_ms) > self._challenge_ms

    def renewed(self, binding: Binding) -> Binding:
        """Return the same with another challenge."""
        now = now_ms()
        # The clock may have stepped back. Where it had been far ahead, what followed that moment
        # would be stale, too.
        later = now if self.is_stale(binding) else max(now, binding.challenge_ms + 1)
        return binding._replace(challenge_ms=later)

    def offer(self, token: Token) -> str:
        """Return the challenge of a login: bound to its token, so it dies with that.

        It leads to the session: a login that another site has started (single sign-on) has the
        browser register without the session's cookie.
        """
        text = f"{now_ms()}.{_text(token.digest)}.{_text(encoded(token.locator))}"
        return f"{text}.{self._mac(self._secrets[0], b'device offer', text)}"

    def offered(self, challenge: str) -> Token | None:
        """Return the token, without verifier, to whom this was offered, not long ago."""
        text, _, signature = challenge.rpartition(".")
        if not challenge.isascii() or not any(
            compare_digest(self._mac(secret, b"device offer", text), signature)
            for secret in self._secrets
        ):
            return None
        issued, digest, locator = text.split(".")
        if abs(now_ms() - int(issued)) > REGISTRATION_MS:
            return None
        return Token(_bytes(locator).decode("utf-8", "surrogatepass"), "", _bytes(digest))

    def _mac(self, secret: bytes, purpose: bytes, about: str, *parts: bytes) -> str:
        """Return a MAC of 128 bits, 22 characters."""
        mac = hashlib.blake2b(key=derive_key(secret, purpose), digest_size=16)
        for part in (encoded(self._settings.prefix), encoded(about), *parts):
            mac.update(b"%d:%b" % (len(part), part))
        return _text(mac.digest())

    # -- what goes to the browser ------------------------------------------------------

    def registration(self, request: Any, token: Token) -> str | None:
        """Return the header that offers a browser to bind a session.

        :returns: ``None`` where that cannot be: browsers do it over https only.
        """
        if not self.served:
            self._warn(
                "no session is bound to a device: its route is not part of the application; "
                "use config.include('pyramid_redis_lua_sessions') [docs: devices]"
            )
            return None
        if request.scheme != "https":
            self._warn(
                "no session is bound to a device: a login came over http, or a proxy says that it "
                "did not, and the WSGI server was not told to believe it [docs: devices]"
            )
            return None
        path = request.route_path(ROUTE, step="register")
        return f'({" ".join(ALGORITHMS)});path="{path}";challenge="{self.offer(token)}"'

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(text)

    def instructions(self, request: Any, identifier: str) -> dict[str, Any]:
        """Return what the browser is told once it has registered."""
        s = self._settings
        origin, site = request.host_url, s.cookie_domain is not None
        if s.cookie_domain is not None:
            _, colon, port = request.host.partition(":")
            origin = f"https://{s.cookie_domain.removeprefix('.')}{colon}{port}"
        rules = []
        if s.cookie_path != "/":
            # Elsewhere the cookie is not sent: nothing is to be refreshed for it. Of the rules that
            # match, the last one counts.
            rules = [
                {"type": "exclude", "domain": "*", "path": "/"},
                {"type": "include", "domain": "*", "path": s.cookie_path},
            ]
        return {
            "session_identifier": identifier,
            "refresh_url": request.route_path(ROUTE, step="refresh"),
            "scope": {"origin": origin, "include_site": site, "scope_specification": rules},
            "credentials": [
                {"type": "cookie", "name": self.cookie_name, "attributes": self.attributes()}
            ],
            # Who follows a link from another site arrives logged in, too.
            "allowed_refresh_initiators": ["*"],
        }


def now_ms() -> int:
    return int(time.time() * 1000)


def locator_in(identifier: str) -> str | None:
    """Return the locator of the session that an identifier names; ``None``: it is none of ours."""
    if not _IDENTIFIER.fullmatch(identifier):
        return None
    try:
        locator = _bytes(identifier.partition(".")[0])
        return locator.decode("utf-8", "surrogatepass")
    except ValueError:
        return None


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
