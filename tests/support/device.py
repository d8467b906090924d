"""A device with a key of its own, which does what a browser does with a bound session."""

from __future__ import annotations

import json
import re
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

BASE = "/.well-known/device-session"

#: So that an application takes a request of WebTest for one over https.
HTTPS = {"wsgi.url_scheme": "https", "HTTP_HOST": "localhost:443"}


def new_key(algorithm: str = "ES256", bits: int = 2048) -> Any:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, bits)


def jwk_of(key: Any) -> dict[str, Any]:
    kind: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    found: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return found


def sign(key: Any, challenge: Any, *, with_key: bool = False, **header: Any) -> str:
    """Sign a challenge, as a browser does.

    :param with_key: put the public key into the header, as a registration does.
    :param header: further parameters of the header, or others.
    """
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    headers = {"typ": "dbsc+jwt", **({"jwk": jwk_of(key)} if with_key else {}), **header}
    payload = json.dumps({"jti": challenge}).encode()
    return PyJWS().encode(payload, key, algorithm, headers=headers)


class Device:
    """One browser with a key, beside a WebTest application that has its cookies.

    :ivar offered: the challenge of the last login.
    :ivar identifier: of the binding; ``challenge``: that is to be signed next.
    :ivar proofs: all that were sent, with the address they went to.
    """

    def __init__(self, app: Any, algorithm: str = "ES256") -> None:
        self.app = app
        self.key = new_key(algorithm)
        self.offered = self.identifier = self.challenge = ""
        self.proofs: list[tuple[str, str]] = []

    def note_offer(self, response: Any) -> bool:
        """Tell whether a response offers to bind the session."""
        offer = response.headers.get("Secure-Session-Registration")
        if offer is None:
            return False
        pattern = r'\(ES256 RS256\);path="([^"]+)";challenge="([^"]+)"'
        found = re.fullmatch(pattern, offer)
        assert found, offer
        assert found[1] == f"{BASE}/register"
        self.offered = found[2]
        return True

    def register(self, proof: str | None = None, **options: Any) -> Any:
        """Send the public key; ``proof``: instead of the right one."""
        if proof is None:
            proof = sign(self.key, self.offered, with_key=True)
        response = self._post("register", proof, **options)
        if response.status_int == 200:
            self.identifier = response.json["session_identifier"]
        return response

    def refresh(self, proof: str | None = None, **options: Any) -> Any:
        """Ask for a new device cookie; ``proof``: instead of the right one; '' = none."""
        if proof is None:
            proof = sign(self.key, self.challenge)
        headers = {"Sec-Secure-Session-Id": f'"{self.identifier}"', **options.pop("headers", {})}
        return self._post("refresh", proof, headers=headers, **options)

    def _post(self, path: str, proof: str, headers: Any = None, **options: Any) -> Any:
        headers = {"Origin": "https://localhost", "Sec-Fetch-Mode": "no-cors", **(headers or {})}
        if proof:
            headers["Secure-Session-Response"] = proof
            self.proofs.append((path, proof))
        response = self.app.post(
            f"{BASE}/{path}", headers=headers, extra_environ=HTTPS, expect_errors=True, **options
        )
        assert response.headers["Cache-Control"] == "no-store"
        challenge = response.headers.get("Secure-Session-Challenge")
        if challenge is not None:
            found = re.fullmatch(r'"([^"]+)";id="([^"]+)"', challenge)
            assert found, challenge
            self.challenge = found[1]
        return response
