"""Device proofs: the JWT with which a browser shows that it holds a session's private key.

Only this module knows PyJWT, and the kinds of keys.
"""

from __future__ import annotations

import json
from typing import Any

from ..settings import SettingsError

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_der_public_key,
    )
    from jwt import PyJWS, PyJWTError
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm
except ImportError as exc:
    raise SettingsError(
        "redis.sessions.device_binding needs the packages PyJWT and cryptography "
        "(pip install pyramid_redis_lua_sessions[device])"
    ) from exc

__all__ = ["ALGORITHMS", "BadProof", "Proof"]

#: The algorithms that the specification knows, as ``Secure-Session-Registration`` names them.
ALGORITHMS = ("ES256", "RS256")

#: Characters of a proof that is looked at; one with a key of ``LARGEST_RSA`` has some 2600.
LONGEST = 4096

#: Bits of an RSA key: a device that has no elliptic curves makes one of 2048.
SMALLEST_RSA, LARGEST_RSA = 2048, 4096

#: First byte of a point of an elliptic curve in compressed form (SEC 1, 2.3.3).
COMPRESSED = (2, 3)

_JWS = PyJWS(ALGORITHMS)

#: What a library may raise for what somebody made up.
_REFUSALS = (
    PyJWTError,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    RecursionError,
)


class BadProof(ValueError):
    """It is no proof, or not one of the key in question. The message quotes nothing of it."""


class Proof:
    """A proof that is well formed; who signed it is to be verified.

    :param value: of the header ``Secure-Session-Response``, as WSGI gives it. The specification
        puts the JWT in quotes, Chromium does not.
    :ivar challenge: that was signed.
    :raises BadProof: it is no proof as a browser makes one.
    """

    __slots__ = ("_header", "_text", "challenge")

    def __init__(self, value: str) -> None:
        text = value.strip(" \t").removeprefix('"').removesuffix('"')
        if len(text) > LONGEST or not text.isascii():
            raise BadProof("too long, or not ASCII")
        try:
            parts = _JWS.decode_complete(text, options={"verify_signature": False})
            header, claims = parts["header"], json.loads(parts["payload"])
        except _REFUSALS:
            raise BadProof("no JWT") from None
        if header.get("typ") != "dbsc+jwt" or header.get("alg") not in ALGORITHMS:
            raise BadProof("another type or algorithm than that of a device proof")
        challenge = claims.get("jti") if isinstance(claims, dict) else None
        if not isinstance(challenge, str):
            raise BadProof("no challenge")
        self.challenge = challenge
        self._text = text
        self._header: dict[str, Any] = header

    def key(self) -> bytes:
        """Return the public key that the proof brings along, as it is stored, once it has proved
        to be the one that the proof is signed with.

        :raises BadProof: there is none, or it is not.
        """
        try:
            key = _key_in(self._header.get("jwk"), self._header["alg"])
        except _REFUSALS:
            raise BadProof("no public key of the proof's algorithm") from None
        self._verify(key, self._header["alg"])
        if isinstance(key, EllipticCurvePublicKey):
            return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, stored: bytes) -> None:
        """Verify that a key signed the proof.

        :param stored: as :meth:`key` returned it.
        :raises BadProof: another one did.
        """
        try:
            if stored[0] in COMPRESSED:
                point = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), stored)
                self._verify(point, "ES256")
            else:
                self._verify(load_der_public_key(stored), "RS256")
        except (IndexError, *_REFUSALS):
            raise BadProof("signed with another key") from None

    def _verify(self, key: Any, algorithm: str) -> None:
        try:
            _JWS.decode_complete(self._text, key, [algorithm])
        except _REFUSALS:
            raise BadProof("signed with another key") from None


def _key_in(jwk: Any, algorithm: str) -> EllipticCurvePublicKey | RSAPublicKey:
    """Make a public key from a JWK (RFC 7517).

    :raises ValueError: or one of ``_REFUSALS``.
    """
    names = ("kty", "crv", "x", "y") if algorithm == "ES256" else ("kty", "n", "e")
    # A private key that somebody sends along is none of ours.
    public = {name: jwk[name] for name in names}
    if not all(isinstance(value, str) for value in public.values()):
        raise ValueError("parameters of a JWK are strings")
    if algorithm == "ES256":
        point = ECAlgorithm.from_jwk(public)
        if isinstance(point, EllipticCurvePublicKey) and isinstance(point.curve, SECP256R1):
            return point
    else:
        number = RSAAlgorithm.from_jwk(public)
        if (
            isinstance(number, RSAPublicKey)
            and SMALLEST_RSA <= number.key_size <= LARGEST_RSA
            # Another exponent is no browser's, and may take long to verify with.
            and number.public_numbers().e == 65537
        ):
            return number
    raise ValueError("a key of another kind or size")
