"""create_unique: statuses, the effect of every argument, and what it refuses to touch."""

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored
from tests.support.scripts import OURS, THEIRS, Scripts, about

MINUTE = 60_000
MAX_MS = 3_200_000_000_000


def test_create_stores_data_creation_time_and_ttl(scripts: Scripts) -> None:
    before = scripts.now()
    status, remaining, created, token = scripts.create(fields={b".a": b"1", b"~q\x1fid": b"2"})
    assert token == created
    assert status is Status.CREATED
    assert remaining == MINUTE
    assert before <= created <= scripts.now()
    assert scripts.hash() == {
        b"@": as_stored(OURS, created, created),
        b".a": b"1",
        b"~q\x1fid": b"2",
    }
    assert scripts.pttl() == about(MINUTE)


def test_create_without_data_makes_an_empty_session(scripts: Scripts) -> None:
    assert scripts.create()[0] is Status.CREATED
    assert set(scripts.hash()) == {b"@"}
    assert scripts.load()[0] is Status.LOADED


def test_create_refuses_when_a_session_is_there(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    before, changes = scripts.hash(), scripts.changes()
    for other in (THEIRS, b"\0" * 16, b".*" * 8, b"%w+ " * 4):
        assert scripts.create(fields={b".a": b"2"}, digest=other) == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_refuses_when_a_marker_is_there(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    for other in (THEIRS, b"\0" * 16, b"end___" + OURS[:10]):
        assert scripts.create(digest=other) == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("how", ["ended", "whatever its token", "before it was created"])
def test_create_again_after_the_end_tells_that_its_session_has_ended(
    scripts: Scripts, how: str
) -> None:
    # The client lost the reply, and before it repeats the call somebody ends the session.
    if how == "before it was created":
        scripts.end(mark=True)
    else:
        scripts.create(fields={b".a": b"1"})
        scripts.end(digest=OURS if how == "ended" else b"")
    moved = scripts.hash()[b"moved"]
    scripts.client.hset("s", "moved", moved[:22] + b"%d" % (int(moved[22:]) - MINUTE))
    before, changes = scripts.hash(), scripts.changes()
    status, age = scripts.create()
    assert status is Status.MOVED
    assert MINUTE <= age <= MINUTE + 20_000
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_again_after_it_was_emptied_tells_that_its_session_has_ended(
    scripts: Scripts,
) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE)
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.create()[0] is Status.MOVED
    assert scripts.create(digest=THEIRS) == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_again_after_its_token_was_replaced_is_refused(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.renew(sets={b".a": b"1"})
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.create(fields={b".a": b"1"}) == [Status.TAKEN]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_refuses_an_id_that_was_marked_whatever_its_token(scripts: Scripts) -> None:
    scripts.end(digest=b"", mark=True)
    for digest in (OURS, THEIRS):
        assert scripts.create(digest=digest) == [Status.TAKEN]


@pytest.mark.parametrize(
    "moved",
    [b"", b"x", b"1", OURS, b"end___" + OURS[:15], b"end__" + OURS + b"1", b"end____" + OURS],
)
def test_create_refuses_a_marker_that_is_none_of_ours(scripts: Scripts, moved: bytes) -> None:
    scripts.client.hset("s", "moved", moved)
    assert scripts.create() == [Status.TAKEN]


def test_create_twice_is_one_creation(scripts: Scripts) -> None:
    first = scripts.create(fields={b".a": b"1"})
    before, changes = scripts.hash(), scripts.changes()
    second = scripts.create(fields={b".a": b"1"})
    assert second == [Status.CREATED, about(MINUTE), *first[2:], 1]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_twice_does_not_undo_a_write_in_between(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={b".a": b"2"})
    assert scripts.create(fields={b".a": b"1"})[0] is Status.CREATED
    assert scripts.hash()[b".a"] == b"2"


def test_create_twice_without_ttl_says_the_same_life(scripts: Scripts) -> None:
    first = scripts.create(use_ttl=False)
    second = scripts.create(use_ttl=False)
    assert second == [Status.CREATED, about(MINUTE), *first[2:], 1]


def test_create_twice_that_never_ends_says_so_twice(scripts: Scripts) -> None:
    first = scripts.create(timeout=0)
    assert first[1] == -1
    assert scripts.create(timeout=0) == [*first, 1]


def test_created_ms_sets_the_start_of_life(scripts: Scripts) -> None:
    start = scripts.now() - 10 * MINUTE
    before = scripts.now()
    first = scripts.create(created=start)
    assert first[:3] == [Status.CREATED, MINUTE, start]
    assert before <= first[3] <= scripts.now()
    assert scripts.hash() == {b"@": as_stored(OURS, start, first[3])}
    assert scripts.create(created=start) == [Status.CREATED, about(MINUTE), *first[2:], 1]


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
    assert set(scripts.hash()) == {b"@"}


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
    assert set(scripts.hash()) == {b"@"}
    assert scripts.pttl() == -1


def test_an_absurdly_long_timeout_is_a_hundred_years(scripts: Scripts) -> None:
    # Beyond the range of PEXPIRE, Redis would answer with an error.
    assert scripts.create(timeout=2**62)[1] == MAX_MS
    assert scripts.pttl() == about(MAX_MS)


@pytest.mark.parametrize("count", [3_999, 4_000, 4_001, 8_001, 20_000])
def test_create_takes_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    fields = {b".%d" % number: b"v%d" % number for number in range(count)}
    assert scripts.create(fields=fields)[0] is Status.CREATED
    assert scripts.values() == fields
    assert len(scripts.hash()) == count + 1


def test_binary_fields_and_values_are_stored_as_they_are(scripts: Scripts) -> None:
    fields = {b".\x00\xff\r\n": b"\x00\r\n\xfe", b".empty": b""}
    scripts.create(fields=fields)
    assert scripts.load()[2].items() >= fields.items()
