"""The two addresses that a browser talks to by itself: it registers a key, and it refreshes.

Neither looks at ``request.session``, nor needs the session's cookie: what leads to the session is
the challenge of a login, or the identifier; what counts is the device's signature. A cookie of
another session says that the browser has that one instead. To register is one script, to refresh
two: one reads, one saves.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from ..engine.fields import DEVICE_FIELD
from ..engine.protocol import Absent, Checks, Save, Saved, sha1
from ..engine.scripts import Status
from ..engine.seals import Bound
from ..engine.staging import patiently
from ..engine.tokens import Token, digest_stored
from ..errors import (
    InvalidSession,
    InvalidSession_DeviceProof,
    StoreError,
    StoreUnavailable,
    fingerprint,
)
from ..events import DeviceRefreshed, DeviceRegistered, SessionEvent, SessionRejected, send
from .binding import ROUTE, Binding, Devices, locator_in, now_ms
from .proofs import BadProof, Proof

if TYPE_CHECKING:
    from ..factory import RedisSessionFactory

__all__ = ["add_views"]

log = logging.getLogger(__name__.partition(".")[0])


def add_views(config: Any, factory: RedisSessionFactory) -> None:
    """Add route and views; only a browser asks for them, and no form of the application."""
    views = Views(factory)
    base = factory.settings.device_binding_path.rstrip("/")
    config.add_route(ROUTE, f"{base}/{{step:register|refresh}}")
    for step, view in (("register", views.register), ("refresh", views.refresh)):
        config.add_view(
            view,
            route_name=ROUTE,
            match_param=f"step={step}",
            request_method="POST",
            require_csrf=False,
            permission=NO_PERMISSION_REQUIRED,
        )
    factory.devices.served = True


class Found(NamedTuple):
    """A bound session.

    :ivar token: without its verifier: the device's key is what counts here.
    :ivar bound: what protects its values; ``stored``: its binding, so protected.
    """

    token: Token
    bound: Bound
    stored: bytes
    binding: Binding


class Views:
    """The views of one factory."""

    def __init__(self, factory: RedisSessionFactory) -> None:
        self._factory = factory
        self._devices: Devices = factory.devices

    def register(self, request: Any) -> Response:
        """Bind the session of a login to the key that the browser has made for it."""
        try:
            proof = Proof(request.environ.get("HTTP_SECURE_SESSION_RESPONSE", ""))
            token = self._devices.offered(proof.challenge)
            if token is None:
                log.info("a device was not bound: its challenge is not one of a login just now")
            elif self._has_another(request, token.locator):
                log.info("a device was not bound: its browser has another session by now")
            else:
                return self._bind(request, token, proof.key())
        except BadProof as exc:
            log.info("a device was not bound: %s", exc)
        except StoreError:
            return answer(503)
        return answer(403)

    def _bind(self, request: Any, token: Token, key: bytes) -> Response:
        now = now_ms()
        binding = Binding(now, now, key)
        bound = self._factory.sealer.bind(token.locator, token.digest)
        # The first one counts of those that this login was offered to.
        if not self._save(request, token, bound, binding, ""):
            log.info("a device was not bound: its session is bound already, or has ended")
            return answer(403)
        identifier = binding.identifier(token.locator)
        response = answer(200, self._devices.instructions(request, identifier))
        self._give_cookie(response, token, binding)
        self._send(request, DeviceRegistered(request, fingerprint(token.locator), "registration"))
        return response

    def refresh(self, request: Any) -> Response:
        """Give the browser a new device cookie, for the challenge that it signed."""
        identifier = request.environ.get("HTTP_SEC_SECURE_SESSION_ID", "").strip('"')
        locator = locator_in(identifier)
        if locator is None:
            return answer(400)
        try:
            found = None
            if not self._has_another(request, locator):
                found = self._find(request, locator, identifier)
            return ended(identifier) if found is None else self._refresh(request, found)
        except StoreError:
            # That does not end the binding: the browser tries again with its next request.
            return answer(503)

    def _refresh(self, request: Any, found: Found) -> Response:
        token, bound, stored, binding = found
        stale = self._devices.is_stale(binding)
        answered = self._is_signed(request, found) and not stale
        if not (answered or stale):
            return self._challenge(token, binding)
        # Used once, or too old: from here on there is another one.
        renewed = self._devices.renewed(binding)
        if not self._save(request, token, bound, renewed, sha1(stored)):
            # Another request was first, and has the cookie: this one gets what came of that.
            identifier = binding.identifier(token.locator)
            again = self._find(request, token.locator, identifier)
            if again is None:
                return ended(identifier)
            answered, renewed = False, again.binding
        if not answered:
            return self._challenge(token, renewed)
        response = answer(200)
        self._give_cookie(response, token, renewed)
        self._send(request, DeviceRefreshed(request, fingerprint(token.locator), "proof"))
        return response

    def _is_signed(self, request: Any, found: Found) -> bool:
        """Tell whether the session's device signed the session's challenge."""
        text = request.environ.get("HTTP_SECURE_SESSION_RESPONSE")
        if text is None:
            return False  # the browser has no challenge in hand
        locator = found.token.locator
        name = fingerprint(locator)
        try:
            proof = Proof(text)
        except BadProof:
            self._report(request, InvalidSession_DeviceProof("device proof is malformed", name))
            return False
        try:
            proof.verify(found.binding.key)
        except BadProof:
            self._report(
                request, InvalidSession_DeviceProof("device proof is of another key", name)
            )
            return False
        return self._devices.is_current(proof.challenge, locator, found.binding)

    def _has_another(self, request: Any, locator: str) -> bool:
        """Tell whether the browser's cookie is of another session, as after two logins at once.

        The device cookies of both have one name: that of the one would lock the other. Where
        another site has started the request, no cookie of the session tells.
        """
        tickets, _ = self._factory.cookies.read(request.environ.get("HTTP_COOKIE", ""))
        return bool(tickets) and all(one.token.locator != locator for one in tickets)

    # -- sessions ------------------------------------------------------------------------

    def _find(self, request: Any, locator: str, identifier: str) -> Found | None:
        """Read the binding that a browser means; ``None``: it is over."""
        (known,) = self._factory.store_for(request).describe([locator], DEVICE_FIELD)
        if isinstance(known, Absent):
            return None
        digest = digest_stored(known.token)
        bound = self._factory.sealer.bind(locator, digest)
        stored = known.told[DEVICE_FIELD]
        data = bound.open(DEVICE_FIELD, stored)
        if data is None:
            return None
        binding = Binding.decode(data)
        if binding.identifier(locator) != identifier:
            return None  # of the login before
        return Found(Token(locator, "", digest), bound, stored, binding)

    def _save(
        self, request: Any, token: Token, bound: Bound, binding: Binding, before: str
    ) -> bool:
        """Save a binding, if the one before it is still so.

        :param before: SHA1 of that as it is stored; empty where there is to be none.
        """
        store = self._factory.store_for(request)
        values = {DEVICE_FIELD: bound.seal(DEVICE_FIELD, binding.encode())}
        # A browser refreshes for requests that touch nothing, too: such as do are visits.
        save = Save(values, checks=Checks({DEVICE_FIELD: before}), touches=False)
        saved = patiently(lambda: store.save(token, save))
        if saved is Status.BUSY:
            raise StoreUnavailable("the session is staged")  # by a transaction that takes long
        return isinstance(saved, Saved)

    # -- answers -------------------------------------------------------------------------

    def _give_cookie(self, response: Response, token: Token, binding: Binding) -> None:
        """Give the browser a device cookie, and the challenge of the next refresh."""
        cookie = self._devices.cookie_to_set(token.locator, binding.key)
        response.headerlist.append(("Set-Cookie", cookie))
        self._put_challenge(response, token, binding)

    def _challenge(self, token: Token, binding: Binding) -> Response:
        """Ask the browser to sign a challenge; it does so at once."""
        response = answer(403)
        self._put_challenge(response, token, binding)
        return response

    def _put_challenge(self, response: Response, token: Token, binding: Binding) -> None:
        challenge = self._devices.challenge(token.locator, binding)
        value = f'"{challenge}";id="{binding.identifier(token.locator)}"'
        response.headers["Secure-Session-Challenge"] = value

    def _report(self, request: Any, problem: InvalidSession) -> None:
        log.warning("%s", problem)
        invalid_logger = self._factory.settings.func_invalid_logger
        if invalid_logger is not None:
            invalid_logger(request, problem)
        self._send(request, SessionRejected(request, problem))

    def _send(self, request: Any, event: SessionEvent) -> None:
        send(request.registry, self._factory.watchers, event)


def answer(status: int, document: dict[str, Any] | None = None) -> Response:
    """Return an answer that nothing keeps."""
    response = Response(status=status)
    response.headers["Cache-Control"] = "no-store"
    if document is not None:
        response.json_body = document
        response.content_type = "application/json"
    return response


def ended(identifier: str) -> Response:
    """Have the browser forget a binding."""
    return answer(200, {"session_identifier": identifier, "continue": False})
