"""How stored values are protected.

Sealed (the default): 16 bytes of keyed BLAKE2b (RFC 7693) over the prefix, the
locator, the digest of the verifier, the field's name and the encoded value stand
before the value. Or
encrypted: AES-GCM (NIST SP 800-38D) with a key of the session's own, bound to
the same. Nothing is decoded that is not authentic, so nobody with write access
to Redis can invent, alter or transplant a value.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..settings import Settings, SettingsError
from .fields import FLASH_KIND, ORDER_SIZE, SEALED_KINDS, SEALED_META, UNORDERED
from .pieces import has_pieces, joined
from .tokens import Token

__all__ = [
    "Bound",
    "Encryption",
    "NoSeal",
    "Seal",
    "Sealer",
    "csrf_token",
    "derive_key",
    "make_sealer",
]

_SEAL_SIZE = 16

#: Sessions whose keys a process remembers; they take about a kilobyte each.
REMEMBERED = 1024

_NONCE_SIZE = 12


class Bound(Protocol):
    """Protection bound to one session under one token.

    :ivar outdated: fields met that another than the first secret protects.
    """

    outdated: list[bytes]

    def seal(self, field: bytes, data: bytes) -> bytes:
        """Return what to store for encoded data."""

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        """Return the encoded data, or ``None`` if it is not authentic."""

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        """Return the encoded data of all fields that hold data, or ``None`` if
        one is not authentic. Values may be in pieces."""


class Sealer(Protocol):
    """Makes and verifies seals for all sessions of one factory."""

    def bind(self, locator: str, digest: bytes) -> Bound:
        """Return the seal of one session under one token.

        :param digest: of the token's verifier. Were the locator all that is bound,
            who can write to Redis could put an older digest back, and a cookie
            from before a login would open the login.
        """


def make_sealer(settings: Settings) -> Sealer:
    """Make the protection that the settings ask for.

    :raises SettingsError: it needs a package that is not installed.
    """
    if not settings.seal:
        return NoSeal()
    seal = Seal(settings.secret or settings.seal_secret, settings.prefix)
    if settings.encryption_key:
        return Encryption(settings.encryption_key, settings.prefix, seal)
    return seal


def derive_key(secret: bytes, purpose: bytes) -> bytes:
    """Derive a 32 byte key from a secret of any length (keyed by its purpose).

    :param purpose: at most 16 bytes; keys for two purposes are independent.
    """
    return hashlib.blake2b(secret, digest_size=32, person=purpose).digest()


def csrf_token(settings: Settings, token: Token, purpose: bytes = b"csrf token") -> str:
    """Derive the CSRF token of a session from its token: a MAC under the first secret.

    :param purpose: at most 16 bytes; tokens for two purposes are independent.
    :returns: 256 bits, 43 characters.
    """
    # Where neither is set (seal = false), the verifier alone is the secret.
    secret = next(iter(settings.secret or settings.seal_secret), b"")
    mac = hashlib.blake2b(key=derive_key(secret, purpose), digest_size=32)
    mac.update(_framed(settings.prefix) + _framed(token.locator) + _framed(token.verifier))
    return base64.urlsafe_b64encode(mac.digest()).rstrip(b"=").decode("ascii")


class Seal:
    """Seals with keyed BLAKE2b; the first secret seals, all verify."""

    __slots__ = ("_bases", "_hashers")

    def __init__(self, secrets: Iterable[bytes], prefix: str) -> None:
        header = _framed(prefix)
        #: ``(locator, digest) -> hashers``, which nobody updates: each use copies them.
        self._hashers = functools.lru_cache(REMEMBERED)(self._bound_to)
        self._bases = []
        for secret in secrets:
            key = derive_key(secret, b"session seal")
            base = hashlib.blake2b(key=key, digest_size=_SEAL_SIZE)
            base.update(header)
            self._bases.append(base)

    def bind(self, locator: str, digest: bytes) -> BoundSeal:
        return BoundSeal(self._hashers(locator, digest))

    def _bound_to(self, locator: str, digest: bytes) -> list[Any]:
        header = _framed(locator) + digest
        hashers = []
        for base in self._bases:
            hasher = base.copy()
            hasher.update(header)
            hashers.append(hasher)
        return hashers


class BoundSeal:
    """The seal of one session.

    What is hashed is the field's name, the data and the name's length: it
    stands last, where no name and no data can imitate it.
    """

    __slots__ = ("_hashers", "outdated")

    def __init__(self, hashers: list[Any]) -> None:
        self._hashers = hashers
        self.outdated: list[bytes] = []

    def seal(self, field: bytes, data: bytes) -> bytes:
        hasher = self._hashers[0].copy()
        length = len(field)
        hasher.update(field + data + (_LENGTHS[length] if length < 64 else _tail(length)))
        protected: bytes = hasher.digest() + data
        return _to_be_ordered(field, protected) if field[:1] == FLASH_KIND else protected

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        stored = _without_order(field, stored)
        data = stored[_SEAL_SIZE:]
        message = field + data + _tail(len(field))
        for number, base in enumerate(self._hashers):
            hasher = base.copy()
            hasher.update(message)
            if hmac.compare_digest(hasher.digest(), stored[:_SEAL_SIZE]):
                if number:
                    self.outdated.append(field)
                return data
        return None

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        # Every read pays for this: all seals are compared at once, under the
        # first secret, and one by one only if that fails.
        copy, size, lengths = self._hashers[0].copy, _SEAL_SIZE, _LENGTHS
        message = FLASH_KIND[0]
        opened, found, expected = {}, [], []
        for field, stored in fields.items():
            if field and (field[0] in SEALED_KINDS or field in SEALED_META):
                if field[0] == message:
                    stored = stored[ORDER_SIZE:]
                data = stored[size:]
                length = len(field)
                hasher = copy()
                hasher.update(field + data + (lengths[length] if length < 64 else _tail(length)))
                expected.append(hasher.digest())
                found.append(stored[:size])
                opened[field] = data
        if hmac.compare_digest(b"".join(expected), b"".join(found)):
            return opened
        if has_pieces(fields):
            return self.open_all(joined(fields))
        for field in opened:
            if self.open(field, fields[field]) is None:
                return None
        return opened


def _tail(length: int) -> bytes:
    return length.to_bytes(4, "big")


_LENGTHS = tuple(_tail(length) for length in range(64))


class Encryption:
    """Encrypts with AES-GCM; the first key encrypts, all decrypt.

    Every token has a key of its own, derived from locator and digest, so that
    random nonces never repeat under one key.

    :param fallback: opens what was stored before encryption was turned on.
    :raises SettingsError: the package ``cryptography`` is not installed.
    """

    def __init__(self, keys: Iterable[bytes], prefix: str, fallback: Seal) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as exc:
            raise SettingsError(
                "redis.sessions.encryption_key needs the package cryptography "
                "(pip install pyramid_redis_lua_sessions[encryption])"
            ) from exc
        self._cipher = AESGCM
        # ValueError: too short to be ours
        self._refusals = (InvalidTag, ValueError)
        self._header = _framed(prefix)
        self._keys = [derive_key(key, b"session cipher") for key in keys]
        #: ``(locator, digest) -> ciphers``.
        self._ciphers = functools.lru_cache(REMEMBERED)(self._bound_to)
        self._fallback = fallback

    def bind(self, locator: str, digest: bytes) -> BoundEncryption:
        fallback = functools.partial(self._fallback.bind, locator, digest)
        return BoundEncryption(self._ciphers(locator, digest), fallback, self._refusals)

    def _bound_to(self, locator: str, digest: bytes) -> list[Any]:
        name = self._header + _framed(locator) + digest
        keys = [hashlib.blake2b(name, key=key, digest_size=32).digest() for key in self._keys]
        return [self._cipher(key) for key in keys]


class BoundEncryption:
    """The encryption of one session: a 12 byte nonce, the ciphertext, a 16 byte tag."""

    __slots__ = ("_ciphers", "_fallback", "_refusals", "outdated")

    def __init__(
        self,
        ciphers: list[Any],
        fallback: Callable[[], BoundSeal],
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self._ciphers = ciphers
        self._fallback = fallback
        self._refusals = refusals
        self.outdated: list[bytes] = []

    def seal(self, field: bytes, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        encrypted: bytes = self._ciphers[0].encrypt(nonce, data, field)
        return _to_be_ordered(field, nonce + encrypted)

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        text = _without_order(field, stored)
        for number, cipher in enumerate(self._ciphers):
            try:
                data: bytes = cipher.decrypt(text[:_NONCE_SIZE], text[_NONCE_SIZE:], field)
            except self._refusals:
                continue
            if number:
                self.outdated.append(field)
            return data
        sealed = self._fallback().open(field, stored)
        if sealed is not None:
            self.outdated.append(field)
        return sealed

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        opened = {}
        for field, stored in fields.items():
            if field and (field[:1] in SEALED_KINDS or field in SEALED_META):
                data = self.open(field, stored)
                if data is None:
                    self.outdated.clear()
                    return self.open_all(joined(fields)) if has_pieces(fields) else None
                opened[field] = data
        return opened


class NoSeal:
    """Stores bare bytes (``seal = false``)."""

    outdated: list[bytes] = []  # nothing here is ever outdated

    def bind(self, locator: str, digest: bytes) -> NoSeal:
        return self

    def seal(self, field: bytes, data: bytes) -> bytes:
        return _to_be_ordered(field, data)

    def open(self, field: bytes, stored: bytes) -> bytes | None:
        return _without_order(field, stored)

    def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
        return {
            field: _without_order(field, stored)
            for field, stored in joined(fields).items()
            if field and (field[:1] in SEALED_KINDS or field in SEALED_META)
        }


def _to_be_ordered(field: bytes, protected: bytes) -> bytes:
    # Of the order of messages Redis decides, so no seal covers it.
    return UNORDERED + protected if field[:1] == FLASH_KIND else protected


def _without_order(field: bytes, stored: bytes) -> bytes:
    return stored[ORDER_SIZE:] if field[:1] == FLASH_KIND else stored


def _framed(text: str) -> bytes:
    """Put the length before a text, so that two in a row cannot be confused."""
    data = text.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(data), data)
