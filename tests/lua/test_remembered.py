"""How saves and adjustments are remembered, so that a repeated one is recognised.

``saves`` is a byte, then the id of each call and its second modulo 256, the newest first.
"""

from collections.abc import Callable

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.application import is_compact
from tests.support.scripts import OURS, Scripts, call_id, digest

MINUTE = 60_000
RING = [b"saves%d" % number for number in range(1, 13)]


def entries(stored: bytes) -> list[bytes]:
    assert len(stored) % 7 == 0
    return [stored[place : place + 6] for place in range(0, len(stored), 7)]


def held(*ages: int, rings: int = 0, now: int) -> bytes:
    """A list of calls named by how long ago they were, in seconds."""
    calls = b"".join(call_id(f"s{age}") + bytes([(now - age) % 256]) for age in ages)
    return bytes([rings]) + calls


def within_a_second(scripts: Scripts, call: Callable[[int], None]) -> None:
    """Make a call, given the server's second, again and again until it is not over meanwhile."""
    while True:
        scripts.client.flushall()
        scripts.create(fields={b".n": b"0"})
        now = scripts.now() // 1000
        call(now)
        if scripts.now() // 1000 == now:
            return


@pytest.mark.parametrize("remember", [1, 30, 120, 200, 245])
def test_a_save_is_remembered_for_the_time_given_and_no_longer(
    scripts: Scripts, remember: int
) -> None:
    # Some of these lie before the second at which the count modulo 256 began anew.
    ages = [0, 1, 30, 31, 120, 121, 200, 201, 244, 245]

    def save(now: int) -> None:
        scripts.client.hset("s", "saves", held(*ages[1:8], now=now))
        assert scripts.save(save_id="s0", remember=remember)[0] is Status.SAVED

    within_a_second(scripts, save)
    expected = [call_id(f"s{age}") for age in ages[:8] if age <= remember]
    assert entries(scripts.hash()[b"saves"][1:]) == expected


def test_the_oldest_that_count_modulo_256_can_tell_are_forgotten_in_time(scripts: Scripts) -> None:
    def save(now: int) -> None:
        scripts.client.hset("s", "saves", held(5, 244, 245, now=now))
        scripts.save(save_id="s0", remember=244)

    within_a_second(scripts, save)
    assert entries(scripts.hash()[b"saves"][1:]) == [call_id(n) for n in ("s0", "s5", "s244")]


@pytest.mark.parametrize("back", [1, 10])
def test_saves_from_before_the_clock_stepped_back_a_little_are_remembered(
    scripts: Scripts, back: int
) -> None:
    def save(now: int) -> None:
        scripts.client.hset("s", "saves", held(-back, now=now))
        scripts.save(save_id="s0", remember=1)

    within_a_second(scripts, save)
    assert entries(scripts.hash()[b"saves"][1:]) == [call_id("s0"), call_id(f"s{-back}")]


def test_saves_from_long_before_the_clock_was_set_back_are_forgotten(scripts: Scripts) -> None:
    def save(now: int) -> None:
        scripts.client.hset("s", "saves", held(-12, -11, now=now))
        scripts.save(save_id="s0", remember=60)

    within_a_second(scripts, save)
    assert entries(scripts.hash()[b"saves"][1:]) == [call_id("s0")]


def test_whatever_second_it_is_a_save_is_recognised(scripts: Scripts) -> None:
    # A byte of a moment is no part of a pattern, nor the end of a string.
    for moment in range(256):
        scripts.client.delete("s")
        scripts.create(fields={b".n": b"0"})
        scripts.client.hset("s", "saves", b"\0" + call_id("one") + bytes([moment]))
        scripts.save(sets={b".n": b"1"}, save_id="one")
        assert scripts.values() == {b".n": b"0"}


@pytest.mark.parametrize("save_id", [b"%w%w%w", b"......", b"[^\0]*$", b"\0" * 6, b"\xff" * 6])
def test_an_id_is_no_pattern(scripts: Scripts, save_id: bytes) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.save(save_id="abcdef")
    assert scripts.save(checks={b".n": digest(b"-")}, save_id=save_id) == [Status.CONFLICT]
    assert scripts.save(sets={b".n": b"1"}, save_id=save_id)[0] is Status.SAVED
    scripts.save(sets={b".n": b"2"}, save_id=save_id)
    assert scripts.values() == {b".n": b"1"}


@pytest.mark.parametrize("save_id", [b"%w%w%w", b"......", b"[^\0]*$", b"[[[[[[", b"%%%%%%"])
def test_an_id_is_no_pattern_in_the_ring_either(scripts: Scripts, save_id: bytes) -> None:
    scripts.create(fields={b".n": b"0"})
    for number in range(20):
        scripts.save(save_id=f"i{number}")
    assert scripts.save(sets={b".n": b"1"}, save_id=save_id)[0] is Status.SAVED
    for number in range(20):
        scripts.save(save_id=f"j{number}")
    scripts.save(sets={b".n": b"2"}, save_id=save_id)
    assert scripts.values() == {b".n": b"1"}


@pytest.mark.parametrize("remember", [0, 1, 10, 245])
def test_no_list_is_ever_longer_than_a_listpack_takes(scripts: Scripts, remember: int) -> None:
    """A value over 64 bytes would unpack the listpack of the whole session."""
    scripts.create(fields={b".n": b"0"})
    for number in range(300):
        scripts.save(sets={b".n": b"%d" % number}, remember=remember)
        stored = scripts.hash()
        assert len(stored[b"saves"]) <= 57
        assert all(len(stored.get(name, b"")) <= 56 for name in RING)
        assert len(entries(stored[b"saves"][1:])) >= 1


def test_a_typical_session_stays_a_listpack_after_two_hundred_quick_saves(
    scripts: Scripts,
) -> None:
    fields = {b".key%d" % number: b"v" * 60 for number in range(20)}
    scripts.create(
        fields={**fields, b"owner": b"o" * 60, b"label": b"l" * 60},
        adjusted=True,
        deadline=scripts.now() + MINUTE,
        first=MINUTE,
        use_ttl=False,
    )
    for number in range(200):
        scripts.save(sets={b".key%d" % (number % 20): b"w" * 60}, remember=60, use_ttl=False)
    assert len(scripts.hash()) == 20 + 2 + 5 + 1 + 12
    assert is_compact(scripts.client, "s")


@pytest.mark.parametrize("count", [8, 9, 95, 96, 97, 104, 105, 210, 2_100])
def test_ninety_six_saves_are_recognised_however_many_there_were(
    scripts: Scripts, count: int
) -> None:
    """Past 2,088 the byte that counts the lists has begun anew."""
    scripts.create(fields={b".n": b"0"})
    for number in range(count):
        scripts.save(sets={b".n": b"%d" % number}, save_id=f"i{number}", remember=245)
    before, changes = scripts.hash(), scripts.changes()
    for number in range(max(0, count - 96), count):
        reply = scripts.save(
            sets={b".n": b"again"}, new_timeout=5, save_id=f"i{number}", remember=245
        )
        assert reply[0] is Status.SAVED
        reply = scripts.adjust(new_timeout=5, save_id=f"i{number}", remember=245)
        assert reply[0] is Status.ADJUSTED
    assert scripts.hash() == before
    assert scripts.changes() > changes  # its TTL is refreshed, and nothing else


@pytest.mark.parametrize("rings", [0, 1, 11, 12, 13, 24, 250, 251])
def test_full_lists_move_to_the_ring_one_after_another(scripts: Scripts, rings: int) -> None:
    scripts.create()
    now = scripts.now() // 1000
    full = held(1, 2, 3, 4, 5, 6, 7, 8, rings=rings, now=now)
    scripts.client.hset("s", "saves", full)
    before = {b"saves%d" % ((rings - 1) % 12 + 1): held(9, now=now)[1:]} if rings else {}
    if before:
        scripts.client.hset("s", mapping=before)
    scripts.save(save_id="new", remember=60)
    stored = scripts.hash()
    place = b"saves%d" % (rings % 12 + 1)
    assert {name for name in RING if name in stored} == {place, *before}
    assert stored[place] == full[1:]
    assert entries(stored[b"saves"][1:]) == [call_id("new")]
    following = stored[b"saves"][0]
    assert following % 12 == (rings + 1) % 12
    assert (following >= 12) is (rings + 1 >= 12)


@pytest.mark.parametrize("how", ["save", "adjust"])
def test_ring_is_removed_by_the_next_call_once_all_of_it_is_forgotten(
    scripts: Scripts, how: str
) -> None:
    scripts.create(fields={b".n": b"0"})
    for _ in range(120):
        scripts.save(remember=60)
    stored = scripts.hash()
    assert {*RING} <= set(stored)
    old = held(100, 101, 102, rings=stored[b"saves"][0], now=scripts.now() // 1000)
    scripts.client.hset("s", "saves", old)
    if how == "save":
        scripts.save(save_id="new", remember=60)
    else:
        scripts.adjust(new_timeout=MINUTE, save_id="new", remember=60)
    stored = scripts.hash()
    assert not {*RING} & set(stored)
    assert stored[b"saves"][0] == 0
    assert entries(stored[b"saves"][1:]) == [call_id("new")]


def test_ring_stays_while_one_call_in_the_newest_list_is_remembered(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    for number in range(10):
        scripts.save(save_id=f"i{number}", remember=60)
    scripts.client.hset("s", "saves", held(50, 100, rings=1, now=scripts.now() // 1000))
    scripts.save(remember=60)
    scripts.save(sets={b".n": b"1"}, save_id="i0", remember=60)
    assert scripts.values() == {b".n": b"0"}


@pytest.mark.parametrize("age", [59, 61])
def test_ring_goes_with_its_newest_call_also_where_calls_go_on_in_one_lane(
    scripts: Scripts, age: int
) -> None:
    scripts.create()
    now = scripts.now() // 1000
    scripts.client.hset("s", "saves", held(1, rings=13, now=now))
    scripts.client.hset("s", "saves1", held(age, 100, now=now)[1:])
    scripts.client.hset("s", "saves2", held(age + 1, now=now)[1:])
    scripts.save(save_id=call_id("s1")[:3] + b"new", remember=60)
    assert bool({*RING} & set(scripts.hash())) is (age < 60)
    assert scripts.hash()[b"saves"][0] == (13 if age < 60 else 0)


@pytest.mark.parametrize("spoilt", [None, b"", b"short"])
def test_a_ring_whose_newest_list_was_spoilt_goes(scripts: Scripts, spoilt: bytes | None) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.client.hset("s", "saves", held(1, rings=2, now=scripts.now() // 1000))
    if spoilt is not None:
        scripts.client.hset("s", "saves2", spoilt)
    scripts.save(sets={b".n": b"1"})
    assert scripts.values() == {b".n": b"1"}
    assert scripts.hash()[b"saves"][0] == 0


@pytest.mark.parametrize("how", ["save", "save_fields", "adjust"])
def test_a_call_replaces_that_of_its_lane_and_no_other(scripts: Scripts, how: str) -> None:
    scripts.create(fields={b".n": b"0"})
    for lane in range(8):
        scripts.save(save_id=b"%03d" % lane + b"one")
    for lane in (3, 7, 0):
        new = b"%03d" % lane + b"two"
        if how == "adjust":
            scripts.adjust(new_timeout=MINUTE, save_id=new)
        else:
            {"save": scripts.save, "save_fields": scripts.save_fields}[how](save_id=new)
    found = entries(scripts.hash()[b"saves"][1:])
    expected = [b"000two", b"007two", b"003two"]
    expected += [b"%03done" % lane for lane in (6, 5, 4, 2, 1)]
    assert found == expected
    for number in range(8):
        scripts.save(sets={b".n": b"1"}, save_id=found[number])
    assert scripts.values() == {b".n": b"0"}
    scripts.save(sets={b".n": b"1"}, save_id=b"003one")
    assert scripts.values() == {b".n": b"1"}


def test_a_lane_is_that_of_a_whole_id(scripts: Scripts) -> None:
    scripts.create()
    scripts.save(save_id=b"abcdef")
    scripts.save(save_id=b"cdefab")
    scripts.save(save_id=b"acdefb")
    assert entries(scripts.hash()[b"saves"][1:]) == [b"acdefb", b"cdefab", b"abcdef"]


def test_a_repeated_call_is_not_remembered_twice(scripts: Scripts) -> None:
    scripts.create()
    for _ in range(20):
        scripts.save(save_id="one")
    assert entries(scripts.hash()[b"saves"][1:]) == [call_id("one")]


def test_memory_lasts_over_a_new_token(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    for number in range(20):
        scripts.save(sets={b".n": b"%d" % number}, save_id=f"i{number}")
    saves = scripts.hash()[b"saves"]
    scripts.renew(sets={b".n": b"x"}, loaded_saves=saves)
    for number in range(20):
        reply = scripts.save(sets={b".n": b"again"}, save_id=f"i{number}", digest=OURS)
        assert reply[0] is Status.SAVED
    assert scripts.values() == {b".n": b"x"}
