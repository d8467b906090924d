"""What a process remembers to have verified: it never opens what verifying would refuse."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_redis_lua_sessions.engine.fields import ORDER_SIZE
from pyramid_redis_lua_sessions.engine.memory import LARGEST, MOST, Memory
from pyramid_redis_lua_sessions.engine.seals import (
    REMEMBERED,
    Bound,
    Encryption,
    NoSeal,
    Seal,
    Sealer,
)
from pyramid_redis_lua_sessions.engine.tokens import Token

# A busy machine is no failure.
no_deadline = settings(deadline=None)

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER = b"fedcba9876543210fedcba9876543210"
TOKEN = Token.of("locator", "verifier")
A, B, FLASH = b".a", b".b", b"~queue"
VALUES = {A: b"s1", B: b"s2", FLASH: b"smessage"}


def sealed(*found: bytes) -> Sealer:
    return Seal(found or (SECRET,), "session:")


def encrypted(*found: bytes) -> Sealer:
    return Encryption(found or (SECRET,), "session:", Seal([SECRET], "session:"))


both = pytest.mark.parametrize("sealer", [sealed(), encrypted()], ids=["sealed", "encrypted"])


class Counting:
    """A sealer that notes which fields are verified."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self.verified: list[set[bytes]] = []

    def bind(self, locator: str, digest: bytes) -> Any:
        bound, verified = self._sealer.bind(locator, digest), self.verified

        class Noting:
            outdated = bound.outdated

            def open_all(self, fields: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
                verified.append({*fields} & {*VALUES})
                return bound.open_all(fields)

        return Noting()


def stored(
    sealer: Sealer, token: Token = TOKEN, values: Mapping[bytes, bytes] = VALUES
) -> dict[bytes, bytes]:
    """A session as it is loaded."""
    bound: Bound = sealer.bind(token.locator, token.digest)
    protected = {field: bound.seal(field, value) for field, value in values.items()}
    return {**protected, b"saves": b"1", b"@": token.digest}


def opened(memory: Memory, fields: Mapping[bytes, bytes], token: Token = TOKEN) -> Any:
    return memory.open_all(token, fields)[0]


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)


@both
def test_equal_bytes_are_verified_once(sealer: Sealer) -> None:
    counting = Counting(sealer)
    memory, fields = Memory(counting), stored(sealer)
    for _ in range(3):
        assert opened(memory, dict(fields)) == VALUES
    assert counting.verified == [{*VALUES}]


@both
def test_what_protects_the_session_is_given_where_it_was_needed(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    assert memory.open_all(TOKEN, fields)[1] is not None
    assert memory.open_all(TOKEN, fields)[1] is None


@both
def test_every_changed_bit_is_noticed_after_the_genuine_session_was_remembered(
    sealer: Sealer,
) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    assert opened(memory, fields) == VALUES
    for position in range(8 * len(fields[A])):
        assert opened(memory, {**fields, A: flipped(fields[A], position)}) is None
    assert opened(memory, fields) == VALUES


@both
@pytest.mark.parametrize("forged", [b"", b"s1", b"x" * 40])
def test_bytes_that_nobody_sealed_are_refused_each_time(sealer: Sealer, forged: bytes) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    assert opened(memory, fields) == VALUES
    for _ in range(2):
        assert opened(memory, {**fields, A: forged}) is None
        assert opened(memory, {**fields, b".new": forged}) is None


@both
def test_value_of_another_field_is_refused(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    assert opened(memory, fields) == VALUES
    assert opened(memory, {**fields, A: fields[B], B: fields[A]}) is None
    assert opened(memory, {**fields, b".c": fields[A]}) is None


@both
def test_only_what_changed_is_verified(sealer: Sealer) -> None:
    counting = Counting(sealer)
    memory, fields = Memory(counting), stored(sealer)
    opened(memory, fields)
    later = {**fields, **stored(sealer, values={A: b"slater"}), b"saves": b"2"}
    assert opened(memory, later) == {**VALUES, A: b"slater"}
    assert counting.verified == [{*VALUES}, {A}]


@both
def test_field_that_was_added_is_verified_and_opened(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, fields)
    more = {**fields, **stored(sealer, values={b".c": b"s3"})}
    assert opened(memory, more) == {**VALUES, b".c": b"s3"}


@both
def test_field_that_was_removed_does_not_come_back(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, fields)
    less = {field: data for field, data in fields.items() if field != A}
    for _ in range(2):
        assert opened(memory, less) == {B: b"s2", FLASH: b"smessage"}
    assert opened(memory, fields) == VALUES  # it is sealed for this session still


@both
def test_order_of_a_message_is_no_value(sealer: Sealer) -> None:
    # Redis decides it when the message is stored; no seal covers it.
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, fields)
    assert opened(memory, {**fields, FLASH: b"%09d" % 7 + fields[FLASH][ORDER_SIZE:]}) == VALUES


@both
@pytest.mark.parametrize(
    "other", [Token.of("locator", "another"), Token.of("elsewhere", "another")]
)
def test_values_of_another_token_are_refused(sealer: Sealer, other: Token) -> None:
    # Of another session; or of this one, before a login, put back by who can write to Redis.
    memory, fields = Memory(sealer), stored(sealer)
    assert opened(memory, fields) == VALUES
    assert opened(memory, fields, other) is None
    own = stored(sealer, other)
    assert opened(memory, own, other) == VALUES
    assert opened(memory, fields, other) is None
    assert opened(memory, {**own, A: fields[A]}, other) is None


@both
def test_what_a_request_does_with_what_it_got_changes_nothing(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    for _ in range(3):
        given_fields = dict(fields)
        plain = opened(memory, given_fields)
        assert plain == VALUES
        plain[A] = b"sforged"
        given_fields[A] = b"forged"
        given_fields.clear()


@both
def test_what_a_save_notes_in_what_was_loaded_is_not_taken_for_verified(sealer: Sealer) -> None:
    # A request keeps what it loaded up to date with what it saves.
    memory, fields = Memory(sealer), stored(sealer)
    assert opened(memory, fields) == VALUES
    fields[A] = stored(sealer, values={A: b"slater"})[A]
    assert opened(memory, dict(fields)) == {**VALUES, A: b"slater"}


@both
@no_deadline
@given(st.lists(st.sampled_from(["genuine", "later", "fewer", "forged", "moved"]), max_size=12))
def test_a_memory_answers_as_one_that_remembers_nothing(sealer: Sealer, turns: list[str]) -> None:
    genuine = stored(sealer)
    sessions = {
        "genuine": genuine,
        "later": {**genuine, **stored(sealer, values={A: b"slater"})},
        "fewer": {A: genuine[A], b"@": TOKEN.digest},
        "forged": {**genuine, A: flipped(genuine[A], 3)},
        "moved": {**genuine, B: genuine[A]},
    }
    memory = Memory(sealer)
    for turn in turns:
        assert opened(memory, sessions[turn]) == opened(Memory(sealer), sessions[turn])


# -- rotation ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sealed, encrypted])
def test_what_an_older_secret_protects_is_found_each_time(make: Any) -> None:
    counting = Counting(make(OTHER, SECRET))
    memory, fields = Memory(counting), stored(make(SECRET))
    for _ in range(3):
        plain, bound = memory.open_all(TOKEN, fields)
        assert plain == VALUES
        assert bound is not None
        assert {*bound.outdated} == {*VALUES}
    assert len(counting.verified) == 3


def test_what_was_sealed_before_encryption_is_found_each_time() -> None:
    memory, fields = Memory(encrypted()), stored(sealed())
    for _ in range(2):
        plain, bound = memory.open_all(TOKEN, fields)
        assert plain == VALUES
        assert bound is not None
        assert bound.outdated


def test_one_outdated_field_among_others_is_found_each_time() -> None:
    new, old = sealed(OTHER, SECRET), sealed(SECRET)
    memory = Memory(new)
    fields = {**stored(new), **stored(old, values={A: b"s1"})}
    opened(memory, stored(new))
    for _ in range(2):
        plain, bound = memory.open_all(TOKEN, fields)
        assert plain == VALUES
        assert bound is not None
        assert bound.outdated == [A]


# -- how much ----------------------------------------------------------------------------


def test_bare_values_are_not_remembered() -> None:
    counting = NoSeal()
    memory, fields = Memory(counting), stored(counting)
    assert opened(memory, fields) == VALUES
    assert opened(memory, {**fields, A: b"sother"}) == {**VALUES, A: b"sother"}
    assert held(memory) == []


def held(memory: Memory) -> list[Any]:
    """All sessions that are remembered, of both generations."""
    return [*memory._younger.values(), *memory._older.values()]


def size_of(known: Any) -> int:
    return sum(map(len, [*known[0].values(), *known[1].values()]))


def test_larger_session_is_verified_each_time() -> None:
    counting = Counting(sealed())
    memory = Memory(counting)
    fields = stored(sealed(), values={A: b"s" + b"x" * (LARGEST // 2)})
    for _ in range(2):
        assert opened(memory, fields) == {A: b"s" + b"x" * (LARGEST // 2)}
    assert counting.verified == [{A}, {A}]
    assert held(memory) == []


def test_session_that_grew_is_forgotten_and_still_verified() -> None:
    memory, fields = Memory(sealed()), stored(sealed())
    opened(memory, fields)
    large = {**fields, **stored(sealed(), values={b".large": b"s" + b"x" * LARGEST})}
    assert opened(memory, large) == {**VALUES, b".large": b"s" + b"x" * LARGEST}
    assert held(memory) == []
    assert opened(memory, {**large, A: flipped(large[A], 0)}) is None


def tokens() -> Any:
    return (Token.of(f"session {number}", f"verifier {number}") for number in itertools.count())


def test_what_is_remembered_does_not_grow_without_end() -> None:
    memory = Memory(sealed())
    value = {A: b"s" + b"x" * 20_000}
    size = 0
    for token, _ in zip(tokens(), range(3 * MOST // 20_000), strict=False):
        assert opened(memory, stored(sealed(), token, value), token) == value
        size = max(size, sum(map(size_of, held(memory))))
    assert MOST // 2 < size <= MOST + LARGEST


def test_small_sessions_are_counted_with_what_they_take_beside_their_bytes() -> None:
    memory = Memory(sealed())
    for token, _ in zip(tokens(), range(20_000), strict=False):
        opened(memory, stored(sealed(), token, {A: b"s"}), token)
    assert len(held(memory)) < MOST // 400


def test_names_are_counted_as_well_as_values() -> None:
    memory = Memory(sealed())
    size = 0
    for token, _ in zip(tokens(), range(3 * MOST // 20_000), strict=False):
        values = {kind + b"n" * 10_000: b"s" for kind in (b".", b"~")}
        assert opened(memory, stored(sealed(), token, values), token) == values
        size = max(size, sum(sum(map(len, known[0])) for known in held(memory)))
    assert MOST // 4 < size <= MOST + LARGEST


@pytest.mark.parametrize("kind", [b".", b"~"])
def test_a_session_with_a_large_name_is_not_remembered(kind: bytes) -> None:
    memory = Memory(sealed())
    values = {kind + b"n" * LARGEST: b"s"}
    assert opened(memory, stored(sealed(), values=values)) == values
    assert not held(memory)


def test_one_session_that_changes_all_the_time_does_not_grow_what_is_remembered() -> None:
    memory = Memory(sealed())
    for number in range(5_000):
        value = {A: b"s%d" % number}
        assert opened(memory, stored(sealed(), values=value)) == value
    assert len(held(memory)) <= 2  # one of each generation


def test_there_are_two_generations() -> None:
    counting = Counting(sealed())
    memory, value = Memory(counting), {A: b"s" + b"x" * 10_000}
    first, *others = itertools.islice(tokens(), 1 + 2 * MOST // 20_000)
    fields = stored(sealed(), first, value)
    opened(memory, fields, first)
    turns = []
    for token in others:
        opened(memory, stored(sealed(), token, value), token)
        turns.append(
            "younger"
            if first.digest in memory._younger
            else "older"
            if first.digest in memory._older
            else "forgotten"
        )
    assert [turn for turn, _ in itertools.groupby(turns)] == ["younger", "older", "forgotten"]


def test_older_generation_is_used() -> None:
    counting = Counting(sealed())
    memory, value = Memory(counting), {A: b"s" + b"x" * 10_000}
    first, *others = itertools.islice(tokens(), 1 + 2 * MOST // 20_000)
    fields = stored(sealed(), first, value)
    opened(memory, fields, first)
    for token in others:
        opened(memory, stored(sealed(), token, value), token)
        if first.digest in memory._older:
            break
    verified = len(counting.verified)
    assert opened(memory, fields, first) == value
    assert len(counting.verified) == verified
    assert opened(memory, {**fields, A: flipped(fields[A], 9)}, first) is None


# -- what was saved here -------------------------------------------------------------


LATER = {A: b"slater", b".new": b"i5"}


def saved_here(memory: Memory, sealer: Sealer, token: Token = TOKEN) -> dict[bytes, bytes]:
    """Seal, and tell the memory of it, as a save does."""
    bound: Bound = sealer.bind(token.locator, token.digest)
    fields = {field: bound.seal(field, value) for field, value in LATER.items()}
    memory.learn(token.digest, fields, LATER)
    return fields


@both
def test_what_was_saved_here_is_not_verified(sealer: Sealer) -> None:
    counting = Counting(sealer)
    memory, fields = Memory(counting), stored(sealer)
    opened(memory, dict(fields))
    now = {**fields, **saved_here(memory, sealer), b"saves": b"2"}
    assert opened(memory, dict(now)) == {**VALUES, **LATER}
    assert now[b"saves"] == b"2"
    assert counting.verified == [{*VALUES}]


@both
def test_every_changed_bit_is_noticed_after_a_save_was_remembered(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, dict(fields))
    now = {**fields, **saved_here(memory, sealer)}
    for position in range(8 * len(now[A])):
        assert opened(memory, {**now, A: flipped(now[A], position)}) is None
    assert opened(memory, {**now, A: now[b".new"]}) is None
    assert opened(memory, {**now, b".new": now[A]}) is None
    assert opened(memory, {**now, A: fields[A]}) == {**VALUES, **LATER, A: VALUES[A]}


@both
def test_a_save_is_remembered_of_its_own_session_and_token_only(sealer: Sealer) -> None:
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, dict(fields))
    planted = saved_here(memory, sealer)
    for token in (Token.of("another", "of another"), Token.of("locator", "of a login")):
        theirs = stored(sealer, token)
        assert opened(memory, {**theirs, **planted}, token) is None
        assert opened(memory, dict(theirs), token) == VALUES
        assert opened(memory, {**theirs, **planted}, token) is None


@both
def test_a_save_of_a_session_that_is_not_known_is_not_remembered(sealer: Sealer) -> None:
    memory = Memory(sealer)
    saved_here(memory, sealer)
    assert not held(memory)


def test_many_saves_of_one_session_do_not_grow_what_is_remembered() -> None:
    sealer = sealed()
    memory, fields = Memory(sealer), stored(sealer)
    opened(memory, dict(fields))
    for _ in range(3_000):
        saved_here(memory, sealer)
    assert len(held(memory)) <= 2
    assert opened(memory, {**fields, **saved_here(memory, sealer)}) == {**VALUES, **LATER}


@both
def test_no_more_keys_are_remembered_than_may_be(sealer: Any) -> None:
    for token, _ in zip(tokens(), range(2 * REMEMBERED), strict=False):
        sealer.bind(token.locator, token.digest)
    found = sealer._hashers if isinstance(sealer, Seal) else sealer._ciphers
    assert found.cache_info().currsize == REMEMBERED


@both
def test_keys_that_are_remembered_are_those_of_locator_and_digest(sealer: Sealer) -> None:
    for _ in range(2):
        fields = stored(sealer)
        for locator, digest in (("locato", TOKEN.digest), ("locator", TOKEN.digest[::-1])):
            assert sealer.bind(locator, digest).open_all(fields) is None
        assert sealer.bind(TOKEN.locator, TOKEN.digest).open_all(fields) == VALUES
