"""What browsers send to bind and to refresh: nothing that somebody makes up breaks it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm

from pyramid_redis_lua_sessions.devices import binding, proofs
from pyramid_redis_lua_sessions.devices.binding import Binding, Devices, locator_in
from pyramid_redis_lua_sessions.devices.proofs import BadProof, Proof
from pyramid_redis_lua_sessions.engine.tokens import Token
from pyramid_redis_lua_sessions.settings import Settings
from tests.support.application import SECRET
from tests.support.device import jwk_of, new_key, sign

#: No test asserts how long something takes.
UNTIMED = settings(deadline=None, database=None)

KEYS = {algorithm: new_key(algorithm) for algorithm in ("ES256", "RS256")}
LOCATOR = "a locator"


def devices(**options: Any) -> Devices:
    options = {"secret": SECRET, "device_binding": True, **options}
    return Devices(Settings.from_options(options))


DEVICES = devices()


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: Any, payload: Any, signature: bytes = b"s" * 64) -> str:
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(map(segment, parts))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

#: JWKs as somebody makes them up: of the right names, with anything in them.
numbers = st.binary(max_size=520).map(segment) | st.text(max_size=50) | json_values
jwks = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "alg", "use"]),
    st.sampled_from(["EC", "RSA", "oct", "OKP", "P-256", "P-384", "secp256k1", "AQAB", "Aw"])
    | numbers,
    max_size=8,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "typ": st.just("dbsc+jwt") | json_values,
        "alg": st.sampled_from(["ES256", "RS256", "none", "HS256", "PS256", "ES384"]) | json_values,
        "jwk": jwks | json_values,
        "crit": json_values,
        "b64": json_values,
        "kid": json_values,
        "jku": json_values,
    },
)
payloads = st.fixed_dictionaries({}, optional={"jti": st.text() | json_values}) | json_values


def believed(text: str) -> None:
    """A proof with a made-up signature is never believed, and raises nothing else."""
    try:
        proof = Proof(text)
    except BadProof:
        return
    assert isinstance(proof.challenge, str)
    assert DEVICES.offered(proof.challenge) is None
    for check in (proof.key, *(lambda k=key: proof.verify(stored(k)) for key in KEYS)):
        with pytest.raises(BadProof):
            check()


_STORED: dict[str, bytes] = {}


def stored(algorithm: str) -> bytes:
    """A public key, as it is stored."""
    if algorithm not in _STORED:
        _STORED[algorithm] = Proof(sign(KEYS[algorithm], "c", with_key=True)).key()
    return _STORED[algorithm]


@UNTIMED
@given(st.text(max_size=300) | st.text("abcABC019._-=\"' ", max_size=300))
@example("")
@example(".")
@example("..")
@example("..." * 2000)
@example("\xff.\xff.\xff")
@example('""')
@example(unsigned({"alg": "none", "typ": "dbsc+jwt"}, {"jti": "c"}, b""))
@example(unsigned({"alg": "ES256", "typ": "dbsc+jwt"}, "[" * 1500))
@example(segment(b"[" * 2500) + ".e30.e30")
@example(segment(b'{"alg": ' + b"1" * 2500 + b"}") + ".e30.e30")
def test_no_text_is_believed(text: str) -> None:
    believed(text)


@UNTIMED
@given(headers, payloads, st.binary(max_size=300))
def test_no_made_up_jwt_is_believed(header: Any, payload: Any, signature: bytes) -> None:
    believed(unsigned(header, payload, signature))


@UNTIMED
@given(jwks, st.sampled_from(["ES256", "RS256"]))
@example({"kty": "RSA", "n": segment(b"\xff" * 256), "e": "Aw"}, "RS256")
@example({"kty": "RSA", "n": segment(b"\xfe" * 256), "e": "AQAB"}, "RS256")
@example({"kty": "EC", "crv": "P-256", "x": segment(b"\0" * 32), "y": segment(b"\0" * 32)}, "ES256")
@example({"kty": "oct", "k": segment(b"k" * 32)}, "ES256")
def test_no_made_up_key_verifies(jwk: Any, algorithm: str) -> None:
    header = {"typ": "dbsc+jwt", "alg": algorithm, "jwk": jwk}
    believed(unsigned(header, {"jti": "c"}))


@pytest.mark.parametrize("algorithm", KEYS)
@UNTIMED
@given(st.data())
def test_no_changed_proof_is_believed(algorithm: str, data: Any) -> None:
    text = sign(KEYS[algorithm], "a challenge")
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255))
    changed = text[:at] + other + text[at + 1 :]
    if changed == text:
        Proof(text).verify(stored(algorithm))
        return
    with pytest.raises(BadProof):
        Proof(changed).verify(stored(algorithm))


@pytest.mark.parametrize("algorithm", KEYS)
def test_proof_verifies_with_its_own_key_only(algorithm: str) -> None:
    proof = Proof(sign(KEYS[algorithm], "c"))
    proof.verify(stored(algorithm))
    (other,) = KEYS.keys() - {algorithm}
    for key in (
        stored(other),
        Proof(sign(new_key(algorithm), "c", with_key=True)).key(),
        b"",
        b"\2",
    ):
        with pytest.raises(BadProof):
            proof.verify(key)


@pytest.mark.parametrize("quoted", [False, True])
def test_proof_is_read_with_and_without_quotes(quoted: bool) -> None:
    text = sign(KEYS["ES256"], "c")
    assert Proof(f'"{text}"' if quoted else text).challenge == "c"


def test_private_key_that_somebody_sends_along_is_none_of_ours() -> None:
    key = KEYS["ES256"]
    secret = segment(key.private_numbers().private_value.to_bytes(32, "big"))
    proof = Proof(sign(key, "c", with_key=True, jwk={**jwk_of(key), "d": secret}))
    assert proof.key() == stored("ES256")


def refused(text: str) -> None:
    proof = Proof(text)
    with pytest.raises(BadProof):
        proof.key()


def test_rsa_key_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = sign(KEYS["RS256"], "c", with_key=True)
    for name, bits in (("SMALLEST_RSA", 2049), ("LARGEST_RSA", 2047)):
        with monkeypatch.context() as patch:
            patch.setattr(proofs, name, bits)
            refused(text)
    assert Proof(text).key()


def test_rsa_key_of_another_exponent_is_refused() -> None:
    refused(sign(rsa.generate_private_key(3, 2048), "c", with_key=True))


def test_key_of_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    jwk = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    head, payload, _ = unsigned(
        {"typ": "dbsc+jwt", "alg": "ES256", "jwk": jwk}, {"jti": "c"}
    ).split(".")
    pair = decode_dss_signature(key.sign(f"{head}.{payload}".encode(), ec.ECDSA(SHA256())))
    signature = b"".join(number.to_bytes(48, "big") for number in pair)
    refused(f"{head}.{payload}.{segment(signature)}")


def test_signature_by_shared_secret_is_refused() -> None:
    """The public key as the secret of an HMAC: a confusion that libraries have fallen for."""
    text = PyJWS().encode(b'{"jti":"c"}', b"k" * 64, "HS256", headers={"typ": "dbsc+jwt"})
    with pytest.raises(BadProof):
        Proof(text)


def test_proof_as_deep_as_the_stack_allows_is_refused_where_the_stack_is_fuller() -> None:
    def deeper(call: Callable[[], object], frames: int) -> None:
        if frames:
            deeper(call, frames - 1)
        else:
            call()

    def nested(depth: int) -> Proof | None:
        key = new_key()
        header = json.dumps({"typ": "dbsc+jwt", "alg": "ES256", "jwk": jwk_of(key)}).encode()
        deep = header[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"
        parts = (deep, b'{"jti": "c"}', b"s" * 64)
        try:
            return Proof(".".join(map(segment, parts)))
        except BadProof:
            return None

    for depth in (900, 800, 700, 600, 500):
        proof = nested(depth)
        if proof is not None:
            with pytest.raises(BadProof):
                deeper(proof.key, 300)


def test_repr_shows_nothing_of_a_proof() -> None:
    assert "jti" not in repr(Proof(sign(KEYS["ES256"], "challenge")))


# -- challenges, identifiers, cookies --------------------------------------------------


@UNTIMED
@given(st.text(max_size=200))
@example("..")
@example("1.2.3.4")
@example("\xe9.\xe9.\xe9.\xe9")
def test_no_made_up_challenge_was_offered(text: str) -> None:
    assert DEVICES.offered(text) is None


@UNTIMED
@given(st.text(st.characters(exclude_categories=())), st.data())
def test_offer_leads_to_its_token_and_no_changed_one_does(locator: str, data: Any) -> None:
    token = Token.of(locator or "x", "verifier")
    offer = DEVICES.offer(token)
    found = DEVICES.offered(offer)
    assert found == (token.locator, "", token.digest)
    at = data.draw(st.integers(0, len(offer) - 1))
    changed = offer[:at] + data.draw(st.characters(max_codepoint=127)) + offer[at + 1 :]
    assert changed == offer or DEVICES.offered(changed) is None


@UNTIMED
@given(st.text(max_size=100))
@example("A." + "A" * 22)
@example("_w." + "A" * 22)
def test_no_identifier_breaks_it(text: str) -> None:
    locator = locator_in(text)
    assert locator is None or isinstance(locator, str)


@UNTIMED
@given(
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=80),
    st.integers(0, 2**48 - 1),
    st.integers(0, 2**48 - 1),
    st.binary(min_size=1, max_size=600),
)
def test_binding_comes_back_as_it_was(locator: str, bound: int, issued: int, key: bytes) -> None:
    held = Binding(bound, issued, key)
    assert Binding.decode(held.encode()) == held
    assert locator_in(held.identifier(locator)) == locator


@UNTIMED
@given(st.integers(0, 2**48 - 1))
@example(0)
@example(2**48 - 1)
def test_renewed_challenge_is_another_one_that_can_be_signed(issued: int) -> None:
    held = Binding(0, issued, b"\2" * 33)
    renewed = DEVICES.renewed(held)
    assert renewed.challenge_ms != issued
    assert not DEVICES.is_stale(renewed)


def test_clock_that_steps_back_brings_no_challenge_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [1000.0, 1000.0, 999.0, 990.0, 1000.001]
    monkeypatch.setattr(binding, "time", SimpleNamespace(time=lambda: moments[len(seen)]))
    held, seen = Binding(0, 0, b"\2" * 33), set[int]()
    for _ in moments:
        held = DEVICES.renewed(held)
        seen.add(held.challenge_ms)
    assert len(seen) == 5


@UNTIMED
@given(st.text(st.characters(max_codepoint=255), max_size=200))
@example(f"session-device={'1' * 100}-300.{'A' * 22}")
@example("session-device=1-300." + "A" * 22)
@example("session-device=\xb2-300." + "A" * 22)
@example("session-device=")
@example("session-device; session-device=.")
def test_no_made_up_cookie_unlocks(header: str) -> None:
    stored = Binding(0, 0, b"\2" * 33).encode()
    environ = {"HTTP_COOKIE": header}
    assert DEVICES.lock(environ, LOCATOR, stored, lambda: 0).startswith("locked: ")


def test_cookie_is_of_one_session_one_key_and_one_application() -> None:
    stored = Binding(0, 0, b"\2" * 33).encode()

    def header(of: Devices, locator: str = LOCATOR, key: bytes = b"\2" * 33) -> dict[str, str]:
        return {"HTTP_COOKIE": of.cookie_to_set(locator, key).partition(";")[0]}

    def opens(environ: dict[str, str]) -> bool:
        return DEVICES.lock(environ, LOCATOR, stored, lambda: 0) == ""

    assert opens(header(DEVICES))
    assert not opens(header(DEVICES, locator="another"))
    assert not opens(header(DEVICES, key=b"\3" * 33))
    assert not opens(header(devices(prefix="other:")))
    assert not opens(header(devices(secret="s" * 40)))
    # A secret that is being rotated out still verifies.
    rotated = devices(secret=["n" * 40, SECRET])
    assert rotated.lock(header(DEVICES), LOCATOR, stored, lambda: 0) == ""


def test_cookie_that_verified_once_opens_no_other_session_and_no_other_binding() -> None:
    held = Binding(0, 0, b"\2" * 33)
    environ = {"HTTP_COOKIE": DEVICES.cookie_to_set(LOCATOR, held.key).partition(";")[0]}
    another = Binding(0, 0, b"\3" * 33)
    for _ in range(2):
        assert DEVICES.lock(environ, LOCATOR, held.encode(), lambda: 0) == ""
        assert DEVICES.lock(environ, "another", held.encode(), lambda: 0)
        assert DEVICES.lock(environ, LOCATOR, another.encode(), lambda: 0)
        # After a refresh it is the same key.
        assert DEVICES.lock(environ, LOCATOR, DEVICES.renewed(held).encode(), lambda: 0) == ""


@pytest.mark.parametrize("issued", [1000.0, 1000.1, 1000.9])
def test_cookie_lives_until_the_browser_ends_it(
    issued: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = devices(grace=0)
    stored = Binding(0, 0, b"\2" * 33).encode()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(binding, "time", clock)
    now = issued
    environ = {"HTTP_COOKIE": strict.cookie_to_set(LOCATOR, b"\2" * 33).partition(";")[0]}
    for age, opens in ((0.0, True), (299.999, True), (301.001, False)):
        now = issued + age
        assert (strict.lock(environ, LOCATOR, stored, lambda: 0) == "") is opens, age


def test_life_that_is_shortened_locks_nobody_whose_browser_goes_by_the_longer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored, now = Binding(0, 0, b"\2" * 33).encode(), 1000.0
    monkeypatch.setattr(binding, "time", SimpleNamespace(time=lambda: now))
    cookie = devices(device_binding_lifetime=3600).cookie_to_set(LOCATOR, b"\2" * 33)
    environ = {"HTTP_COOKIE": cookie.partition(";")[0]}
    for age, opens in ((0.0, True), (3599.0, True), (3601.0, False)):
        now = 1000.0 + age
        shorter = devices(device_binding_lifetime=300, grace=0)
        assert (shorter.lock(environ, LOCATOR, stored, lambda: 0) == "") is opens, age


def test_cookies_of_one_name_beyond_the_eighth_are_not_looked_at() -> None:
    stored = Binding(0, 0, b"\2" * 33).encode()
    good = DEVICES.cookie_to_set(LOCATOR, b"\2" * 33).partition(";")[0]
    bad = "session-device=1-300." + "A" * 22
    for before, opens in ((7, True), (8, False)):
        environ = {"HTTP_COOKIE": "; ".join([bad] * before + [good])}
        # One that has not verified it before.
        assert (devices().lock(environ, LOCATOR, stored, lambda: 0) == "") is opens


def test_host_with_a_port_is_the_origin_of_the_site() -> None:
    request = SimpleNamespace(
        host_url="https://a.example.com:8443",
        host="a.example.com:8443",
        route_path=lambda name, step: f"/{step}",
    )
    scope = devices(cookie_domain=".example.com").instructions(request, "id")["scope"]
    assert scope["origin"] == "https://example.com:8443"
    assert scope["include_site"] is True
