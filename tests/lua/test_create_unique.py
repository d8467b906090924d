"""create_unique: statuses, the effect of every argument, and what it refuses to touch."""

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000
MAX_MS = 3_200_000_000_000


def test_create_stores_data_creation_time_and_ttl(scripts: Scripts) -> None:
    before = scripts.now()
    status, remaining, created, token = scripts.create(
        fields={b".a": b"1", b"#1": b"2"}, nonce="xy"
    )
    assert token == created
    assert status is Status.CREATED
    assert remaining == MINUTE
    assert before <= created <= scripts.now()
    assert scripts.hash() == {b"created": b"%d xy" % created, b".a": b"1", b"#1": b"2"}
    assert scripts.pttl() == about(MINUTE)


def test_messages_get_the_time_and_their_place(scripts: Scripts) -> None:
    fields = {b"~q\x1fb": b"?????????sealed", b".a": b"1", b"~\x1fa": b"?????????"}
    before = scripts.now()
    scripts.create(fields=fields)
    stored = scripts.hash()
    first, second = stored[b"~q\x1fb"], stored[b"~\x1fa"]
    assert before <= int.from_bytes(first[:7], "big") // 1000 <= scripts.now()
    assert first[:7] == second[:7]
    assert (first[7:], second[7:]) == (b"\x00\x00sealed", b"\x00\x02")
    scripts.create(fields=fields)  # the client lost the reply
    assert scripts.hash() == stored


def test_create_without_data_makes_an_empty_session(scripts: Scripts) -> None:
    assert scripts.create()[0] is Status.CREATED
    assert set(scripts.hash()) == {b"created"}
    assert scripts.load()[0] is Status.LOADED


def test_create_refuses_when_a_session_is_there(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, nonce="one")
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.create(fields={b".a": b"2"}, nonce="two") == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("keep_fields", [False, True])
def test_create_refuses_when_a_marker_is_there(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields={b".a": b"1"}, nonce="one")
    scripts.end(keep_fields=keep_fields)
    before, changes = scripts.hash(), scripts.changes()
    for nonce in ("end", "two", "on", "end one"):
        assert scripts.create(nonce=nonce) == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("keep_fields", [False, True])
def test_create_again_after_the_end_tells_that_its_session_has_ended(
    scripts: Scripts, keep_fields: bool
) -> None:
    # The client lost the reply, and before it repeats the call somebody ends the session.
    scripts.create(fields={b".a": b"1"}, nonce="one")
    scripts.end(keep_fields=keep_fields)
    at, *nonces = scripts.hash()[b"moved"].split(b" ")
    scripts.client.hset("s", "moved", b" ".join([b"%d" % (int(at) - MINUTE), *nonces]))
    before, changes = scripts.hash(), scripts.changes()
    status, age = scripts.create(nonce="one")
    assert status is Status.MOVED
    assert MINUTE <= age <= MINUTE + 20_000
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_again_after_the_end_was_taken_back_is_one_creation(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, nonce="one")
    scripts.end(keep_fields=True)
    scripts.revive()
    assert scripts.create(nonce="one")[0] is Status.CREATED


def test_create_refuses_an_id_that_was_marked_before(scripts: Scripts) -> None:
    scripts.end(mark=True)
    for nonce in ("one", "end", ""):
        assert scripts.create(nonce=nonce) == [Status.TAKEN]


@pytest.mark.parametrize("moved", ["", "x", "1", "1 2", "one one one", "1  one", "nan end one"])
def test_create_refuses_a_marker_that_is_none_of_ours(scripts: Scripts, moved: str) -> None:
    scripts.client.hset("s", "moved", moved)
    assert scripts.create(nonce="one") == [Status.TAKEN]


def test_create_twice_with_one_nonce_is_one_creation(scripts: Scripts) -> None:
    first = scripts.create(fields={b".a": b"1"}, nonce="one")
    before, changes = scripts.hash(), scripts.changes()
    second = scripts.create(fields={b".a": b"1"}, nonce="one")
    assert second == [Status.CREATED, about(MINUTE), *first[2:]]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_twice_does_not_undo_a_write_in_between(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, nonce="one")
    scripts.save(sets={b".a": b"2"})
    assert scripts.create(fields={b".a": b"1"}, nonce="one")[0] is Status.CREATED
    assert scripts.hash()[b".a"] == b"2"


def test_create_twice_without_ttl_says_the_same_life(scripts: Scripts) -> None:
    first = scripts.create(use_ttl=False)
    second = scripts.create(use_ttl=False)
    assert second == [Status.CREATED, about(MINUTE), *first[2:]]


def test_create_twice_that_never_ends_says_so_twice(scripts: Scripts) -> None:
    first = scripts.create(timeout=0)
    assert first[1] == -1
    assert scripts.create(timeout=0) == first


def test_nonce_of_another_session_is_no_repetition_when_one_contains_the_other(
    scripts: Scripts,
) -> None:
    scripts.create(nonce="abc")
    for nonce in ("ab", "bc", "abcd", ".*", "%w+", ""):
        assert scripts.create(nonce=nonce) == [Status.TAKEN]


def test_created_ms_sets_the_start_of_life(scripts: Scripts) -> None:
    start = scripts.now() - 10 * MINUTE
    before = scripts.now()
    first = scripts.create(created=start, nonce="n")
    assert first[:3] == [Status.CREATED, MINUTE, start]
    assert before <= first[3] <= scripts.now()
    assert scripts.hash() == {b"created": b"%d n" % start, b"token": b"%d" % first[3]}
    assert scripts.create(created=start, nonce="n") == [Status.CREATED, about(MINUTE), *first[2:]]


def test_absolute_timeout_counts_from_created_ms(scripts: Scripts) -> None:
    start = scripts.now() - 10 * MINUTE
    reply = scripts.create(created=start, timeout=60 * MINUTE, absolute=20 * MINUTE)
    assert reply[1] == about(10 * MINUTE)
    assert scripts.pttl() == about(10 * MINUTE)


def test_nothing_is_created_when_the_absolute_timeout_has_passed(scripts: Scripts) -> None:
    start = scripts.now() - 10 * MINUTE
    for _ in range(2):
        assert scripts.create(created=start, absolute=10 * MINUTE) == [Status.GONE]
    assert scripts.pttl() == -2


def test_timeout_0_gives_no_ttl(scripts: Scripts) -> None:
    assert scripts.create(timeout=0)[1] == -1
    assert scripts.pttl() == -1
    assert set(scripts.hash()) == {b"created"}


def test_adjusted_timeout_is_stored_with_the_session(scripts: Scripts) -> None:
    scripts.create(timeout=5 * MINUTE, adjusted=True)
    assert scripts.hash()[b"timeout"] == b"300000"
    assert scripts.pttl() == about(5 * MINUTE)


def test_adjusted_timeout_0_is_stored_as_never(scripts: Scripts) -> None:
    assert scripts.create(timeout=0, adjusted=True)[1] == -1
    assert scripts.hash()[b"timeout"] == b"0"
    assert scripts.load(timeout=MINUTE)[1] == -1


def test_default_timeout_is_not_stored(scripts: Scripts) -> None:
    scripts.create(timeout=5 * MINUTE)
    assert b"timeout" not in scripts.hash()


def test_deadline_is_stored_and_ends_the_life(scripts: Scripts) -> None:
    deadline = scripts.now() + 2 * MINUTE
    assert scripts.create(timeout=60 * MINUTE, deadline=deadline)[1] == about(2 * MINUTE)
    assert scripts.hash()[b"deadline"] == b"%d" % deadline
    assert scripts.pttl() == about(2 * MINUTE)


def test_deadline_alone_ends_a_session_that_has_no_timeout(scripts: Scripts) -> None:
    scripts.create(timeout=0, deadline=scripts.now() + 2 * MINUTE)
    assert scripts.pttl() == about(2 * MINUTE)


def test_nothing_is_created_when_the_deadline_has_passed(scripts: Scripts) -> None:
    assert scripts.create(deadline=scripts.now() - 1) == [Status.GONE]
    assert scripts.pttl() == -2


def test_first_timeout_shortens_the_life_until_the_first_load(scripts: Scripts) -> None:
    assert scripts.create(timeout=60 * MINUTE, first=2 * MINUTE)[1] == 2 * MINUTE
    assert scripts.pttl() == about(2 * MINUTE)
    assert scripts.hash()[b"first"] == b"120000"


def test_first_timeout_ends_a_session_that_would_never_end(scripts: Scripts) -> None:
    assert scripts.create(timeout=0, first=2 * MINUTE)[1] == 2 * MINUTE
    assert scripts.pttl() == about(2 * MINUTE)


def test_first_timeout_does_not_lengthen_a_life(scripts: Scripts) -> None:
    assert scripts.create(timeout=MINUTE, first=2 * MINUTE)[1] == MINUTE


def test_lru_mode_stores_the_end_and_sets_no_ttl(scripts: Scripts) -> None:
    before = scripts.now()
    assert scripts.create(use_ttl=False)[1] == MINUTE
    assert scripts.pttl() == -1
    assert before + MINUTE <= int(scripts.hash()[b"expires"]) <= scripts.now() + MINUTE


def test_lru_mode_without_timeout_stores_no_end(scripts: Scripts) -> None:
    assert scripts.create(use_ttl=False, timeout=0)[1] == -1
    assert set(scripts.hash()) == {b"created"}
    assert scripts.pttl() == -1


def test_an_absurdly_long_timeout_is_a_hundred_years(scripts: Scripts) -> None:
    # Beyond the range of PEXPIRE, Redis would answer with an error.
    assert scripts.create(timeout=2**62)[1] == MAX_MS
    assert scripts.pttl() == about(MAX_MS)


@pytest.mark.parametrize("count", [3_999, 4_000, 4_001, 8_001, 20_000])
def test_create_takes_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    fields = {b".%d" % number: b"v%d" % number for number in range(count)}
    assert scripts.create(fields=fields)[0] is Status.CREATED
    stored = scripts.hash()
    del stored[b"created"]
    assert stored == fields


def test_binary_fields_and_values_are_stored_as_they_are(scripts: Scripts) -> None:
    fields = {b".\x00\xff\r\n": b"\x00\r\n\xfe", b".empty": b""}
    scripts.create(fields=fields)
    assert scripts.load()[2].items() >= fields.items()
