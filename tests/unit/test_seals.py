"""How stored values are protected: sealed, encrypted, or bare."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_redis_lua_sessions.engine.seals import (
    Bound,
    Encryption,
    NoSeal,
    Seal,
    Sealer,
    derive_key,
    make_sealer,
)
from pyramid_redis_lua_sessions.engine.serializers import make_codec
from pyramid_redis_lua_sessions.settings import Settings

# A busy machine is no failure.
no_deadline = settings(deadline=None)

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"fedcba9876543210fedcba9876543210"
#: Of a verifier.
DIGEST = b"digest of 16 byt"

Make = Callable[..., Sealer]


def sealed(*found: bytes, prefix: str = "session:") -> Seal:
    return Seal(found or (SECRET,), prefix)


def encrypted(*found: bytes, prefix: str = "session:") -> Encryption:
    return Encryption(found or (SECRET,), prefix, sealed(b"s" * 32, prefix=prefix))


both = pytest.mark.parametrize("make", [sealed, encrypted])


def stored_by(bound: Bound, field: bytes = b".key", data: bytes = b"svalue") -> bytes:
    return bound.seal(field, data)


@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, Seal), ({"encryption_key": OTHER}, Encryption), ({"seal": False}, NoSeal)],
)
def test_settings_choose_the_protection(options: dict[str, Any], kind: type) -> None:
    made = make_sealer(Settings.from_options({"secret": SECRET, "serialize": "json", **options}))
    assert type(made) is kind


@both
@no_deadline
@given(field=st.binary(max_size=100), data=st.binary(max_size=100))
def test_protected_value_opens(make: Make, field: bytes, data: bytes) -> None:
    bound = make().bind("id", DIGEST)
    assert bound.open(field, bound.seal(field, data)) == data
    assert make().bind("id", DIGEST).open(field, bound.seal(field, data)) == data


@both
def test_every_flipped_bit_is_noticed(make: Make) -> None:
    bound = make().bind("id", DIGEST)
    stored = stored_by(bound)
    for position in range(len(stored) * 8):
        forged = bytearray(stored)
        forged[position // 8] ^= 1 << position % 8
        assert bound.open(b".key", bytes(forged)) is None


@both
def test_every_truncation_and_extension_is_noticed(make: Make) -> None:
    bound = make().bind("id", DIGEST)
    stored = stored_by(bound)
    for length in range(len(stored)):
        assert bound.open(b".key", stored[:length]) is None
        assert length == 0 or bound.open(b".key", stored[length:]) is None
    assert bound.open(b".key", stored + b"\x00") is None


@both
@no_deadline
@given(stored=st.binary(max_size=64))
def test_bytes_that_nobody_protected_do_not_open(make: Make, stored: bytes) -> None:
    assert make().bind("id", DIGEST).open(b".key", stored) is None


@both
def test_value_of_another_field_session_or_prefix_does_not_open(make: Make) -> None:
    stored = stored_by(make().bind("id", DIGEST))
    assert make().bind("id", DIGEST).open(b".key", stored) == b"svalue"
    for field in (b".kez", b"#key", b".ke", b".keys", b""):
        assert make().bind("id", DIGEST).open(field, stored) is None
    for session_id in ("ie", "i", "id1", ""):
        assert make().bind(session_id, DIGEST).open(b".key", stored) is None
    for prefix in ("other:", "", "session"):
        assert make(prefix=prefix).bind("id", DIGEST).open(b".key", stored) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("p", "id", b".ab", b"c"), ("p", "id", b".a", b"bc"), id="field and data"),
        pytest.param(("p", "ida", b"", b""), ("p", "id", b"a", b""), id="id and field"),
        pytest.param(("pi", "d", b"", b""), ("p", "id", b"", b""), id="prefix and id"),
        pytest.param(("p", "1", b"", b""), ("p1", "", b"", b""), id="lengths are digits too"),
        pytest.param(("", "2:ab", b"", b""), ("", "", b"2:ab", b""), id="separators"),
        pytest.param(
            ("p", "i", b".a", b"b\0\0\0\2"), ("p", "i", b".ab\0\0\0\2", b""), id="length as data"
        ),
    ],
)
def test_parts_cannot_be_shifted_into_each_other(one: Any, other: Any) -> None:
    prefix, session_id, field, data = one
    digest = sealed(prefix=prefix).bind(session_id, DIGEST).seal(field, data)[: -len(data) or None]
    prefix, session_id, field, data = other
    assert sealed(prefix=prefix).bind(session_id, DIGEST).open(field, digest + data) is None


@both
def test_value_under_another_secret_does_not_open(make: Make) -> None:
    assert (
        make(SECRET).bind("id", DIGEST).open(b".key", stored_by(make(OTHER).bind("id", DIGEST)))
        is None
    )


@both
def test_first_secret_protects_and_all_open(make: Make) -> None:
    old = stored_by(make(SECRET).bind("id", DIGEST))
    rotated = make(OTHER, b"t" * 32, SECRET)
    bound = rotated.bind("id", DIGEST)
    new = stored_by(bound)
    assert bound.open(b".key", new) == b"svalue"
    assert bound.outdated == []
    assert bound.open(b".key", old) == b"svalue"
    assert bound.outdated == [b".key"]
    assert rotated.bind("id", DIGEST).outdated == []
    assert make(OTHER).bind("id", DIGEST).open(b".key", new) == b"svalue"
    assert make(SECRET).bind("id", DIGEST).open(b".key", new) is None


@both
def test_open_all_opens_what_holds_data_and_nothing_else(make: Make) -> None:
    bound = make().bind("id", DIGEST)
    data = {b".a": b"s1", b"#1": b"s2", b"~q\x1fx": b"s3", b".": b""}
    stored = {field: bound.seal(field, value) for field, value in data.items()}
    meta = {b"@": b"1 n", b"timeout": b"5", b"other": b"", b"": b"x"}
    assert bound.open_all({**stored, **meta}) == data
    assert bound.open_all(meta) == {}


@both
def test_open_all_refuses_everything_when_one_value_is_not_authentic(make: Make) -> None:
    bound = make().bind("id", DIGEST)
    stored = {field: bound.seal(field, b"s1") for field in (b".a", b"#1", b"~q\x1fx")}
    for field in stored:
        for broken in (b"", b"s1", stored[field][:-1], stored[field] + b"x"):
            assert bound.open_all({**stored, field: broken}) is None
    assert bound.open_all({**stored, b".a": stored[b"#1"], b"#1": stored[b".a"]}) is None


@both
def test_open_all_takes_values_of_older_secrets(make: Make) -> None:
    old = make(SECRET).bind("id", DIGEST).seal(b".a", b"s1")
    bound = make(OTHER, SECRET).bind("id", DIGEST)
    assert bound.open_all({b".a": old, b".b": bound.seal(b".b", b"s2")}) == {
        b".a": b"s1",
        b".b": b"s2",
    }
    assert bound.outdated == [b".a"]


def test_value_sealed_before_encryption_opens_and_is_outdated() -> None:
    stored = stored_by(sealed(b"s" * 32).bind("id", DIGEST))
    bound = encrypted().bind("id", DIGEST)
    assert bound.open_all({b".key": stored}) == {b".key": b"svalue"}
    assert bound.outdated == [b".key"]


def test_encrypted_value_shows_nothing_and_never_looks_the_same() -> None:
    bound = encrypted().bind("id", DIGEST)
    seen = {stored_by(bound, data=b"s confidential") for _ in range(50)}
    assert len(seen) == 50
    assert not [stored for stored in seen if b"confid" in stored]


def test_keys_of_two_purposes_differ() -> None:
    # What signs the cookie must not seal values.
    assert derive_key(SECRET, b"session seal") != derive_key(SECRET, b"session cookie")
    assert len(derive_key(b"", b"x")) == len(derive_key(b"x" * 1000, b"x")) == 32


@both
def test_long_secrets_that_begin_alike_are_different_secrets(make: Make) -> None:
    one, two = b"x" * 100 + b"1", b"x" * 100 + b"2"
    assert (
        make(two).bind("id", DIGEST).open(b".key", stored_by(make(one).bind("id", DIGEST))) is None
    )


@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
def test_sealed_csrf_token_fits_into_a_listpack_entry(serializer: str) -> None:
    # hash-max-listpack-value is 64 bytes by default: with one longer value Redis stores the
    # whole session as a hash table of many times the size.
    token = secrets.token_urlsafe(32)
    assert len(token) == 43
    codec = make_codec(Settings.from_options({"secret": SECRET, "serialize": serializer}))
    assert len(sealed().bind("x" * 43, DIGEST).seal(b"._csrft_", codec.encode(token))) <= 64


def test_without_seal_the_bytes_are_bare() -> None:
    bound = NoSeal().bind("id", DIGEST)
    assert bound.seal(b".a", b"data") == b"data"
    assert bound.open(b".a", b"data") == b"data"
    assert bound.open_all({b".a": b"1", b"@": b"2", b"": b""}) == {b".a": b"1"}
    assert bound.outdated == []
