"""index_session: records a session in the index of its owner, and tells what to tidy up."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000
HOUR = 60 * MINUTE


def add(
    scripts: Scripts, name: str, *, old: str = "", most: int = 100, absolute: int = 0
) -> list[Any]:
    return scripts.call("index_session", "i", name, old, most, absolute)


def members(scripts: Scripts) -> list[bytes]:
    found: Any = scripts.client.zrange("i", 0, -1)
    return list(found)


def entries(scripts: Scripts) -> list[tuple[bytes, float]]:
    found: Any = scripts.client.zrange("i", 0, -1, withscores=True)
    return list(found)


def age(scripts: Scripts, name: str, milliseconds: int) -> None:
    """Make an entry older, as if so much time had passed."""
    scripts.client.zincrby("i", -1000 * milliseconds, name)


def test_session_is_added_with_the_time_of_the_servers_clock(scripts: Scripts) -> None:
    before = scripts.now()
    assert add(scripts, "a") == [Status.CREATED, 0, []]
    score = scripts.client.zscore("i", "a")
    assert score is not None
    assert before <= score / 1000 <= scripts.now() + 1
    assert scripts.client.type("i") == b"zset"


def test_sessions_are_kept_in_the_order_in_which_they_were_added(scripts: Scripts) -> None:
    for name in ("c", "a", "b"):
        add(scripts, name)
    assert members(scripts) == [b"c", b"a", b"b"]


def test_binary_id_is_kept_as_it_is(scripts: Scripts) -> None:
    name = bytes(range(1, 256))
    scripts.call("index_session", "i", name, "", 100, 0)
    assert members(scripts) == [name]


def test_repeated_call_adds_nothing_and_answers_the_same(scripts: Scripts) -> None:
    for name in ("a", "b", "c"):
        add(scripts, name)
        age(scripts, name, HOUR)
    first = add(scripts, "d", most=2)
    assert add(scripts, "d", most=2) == first
    assert len(members(scripts)) == 4


# -- a full index ------------------------------------------------------------------


def test_nothing_is_too_many_up_to_the_limit(scripts: Scripts) -> None:
    for name in ("a", "b", "c"):
        assert add(scripts, name, most=3)[1] == 0


@pytest.mark.parametrize("over", [1, 3])
def test_surplus_is_told_and_left_when_there_are_too_many(scripts: Scripts, over: int) -> None:
    names = [f"s{number}" for number in range(6)]
    for number, name in enumerate(names):
        add(scripts, name)
        age(scripts, name, 10 * MINUTE - number)
    for _ in range(2):
        # The caller removes them once they have ended: a repeated call tells of them again.
        assert add(scripts, "new", most=7 - over)[:2] == [Status.CREATED, over]
    assert members(scripts) == [name.encode() for name in [*names, "new"]]


def test_new_session_is_above_whatever_stands_in_the_index(scripts: Scripts) -> None:
    # Clocks that were set back, or somebody else, may have left entries of the future.
    scripts.client.zadd("i", {"x": 1e300, "y": float("inf"), "z": 9e15, "past": 1})
    assert add(scripts, "new", most=1)[1] == 4
    assert members(scripts) == [b"past", b"z", b"x", b"y", b"new"]
    add(scripts, "newer")
    assert members(scripts)[-2:] == [b"new", b"newer"]
    assert all(score <= (scripts.now() + 1) * 1000 for _, score in entries(scripts))


def test_new_session_is_above_those_of_a_clock_that_was_a_little_ahead(scripts: Scripts) -> None:
    add(scripts, "a")
    age(scripts, "a", -MINUTE // 2)
    before = entries(scripts)
    add(scripts, "b")
    assert members(scripts) == [b"a", b"b"]
    assert entries(scripts)[:1] == before


def test_session_keeps_its_place_when_the_call_is_repeated(scripts: Scripts) -> None:
    # Another login may have ended it, or may not, by the place that it had.
    add(scripts, "a")
    add(scripts, "b")
    before = entries(scripts)
    add(scripts, "a")
    assert entries(scripts) == before


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
def test_foreign_value_is_replaced(scripts: Scripts, kind: str) -> None:
    scripts.client.execute_command(
        *{
            "string": ("SET", "i", "x"),
            "hash": ("HSET", "i", "a", "b"),
            "list": ("RPUSH", "i", "a"),
        }[kind]
    )
    assert add(scripts, "a", absolute=HOUR) == [Status.CREATED, 0, []]
    assert members(scripts) == [b"a"]
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_refused_write_is_an_error(scripts: Scripts) -> None:
    maxmemory: Any = scripts.client.config_get("maxmemory")
    scripts.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            add(scripts, "a")
    finally:
        scripts.client.config_set("maxmemory", maxmemory["maxmemory"])
    assert members(scripts) == []


# -- what may have ended -----------------------------------------------------------


def test_entries_of_over_a_minute_are_named_as_settled(scripts: Scripts) -> None:
    for name, old in (("old", HOUR), ("just", MINUTE + 1000), ("young", MINUTE - 20_000)):
        add(scripts, name)
        age(scripts, name, old)
    assert add(scripts, "new") == [Status.CREATED, 0, [b"old", b"just"]]


def test_settled_entries_are_named_a_hundred_at_a_time(scripts: Scripts) -> None:
    scripts.client.zadd("i", {f"s{number:04}": number for number in range(1500)})
    _, surplus, settled = add(scripts, "new", most=5000)
    assert surplus == 0
    assert settled == [b"s%04d" % number for number in range(100)]


def test_index_of_thousands_is_no_error(scripts: Scripts) -> None:
    # More than unpack could take: the lists go back as they are.
    scripts.client.zadd("i", {f"s{number:05}": number for number in range(20_000)})
    _, surplus, settled = add(scripts, "new", most=1)
    assert surplus == len(settled) == 20_000


# -- the index' own end ------------------------------------------------------------


def test_index_has_no_ttl_when_nothing_bounds_its_sessions(scripts: Scripts) -> None:
    add(scripts, "a")
    assert scripts.pttl("i") == -1


def test_index_ends_with_the_last_session_that_absolute_timeout_allows(scripts: Scripts) -> None:
    # And a minute more, for clocks that differ.
    add(scripts, "a", absolute=10 * MINUTE)
    assert scripts.pttl("i") == about(11 * MINUTE)
    scripts.client.pexpire("i", MINUTE)
    add(scripts, "b", absolute=10 * MINUTE)
    assert scripts.pttl("i") == about(11 * MINUTE)


def test_index_end_is_not_brought_forward_when_absolute_timeout_is_lowered(
    scripts: Scripts,
) -> None:
    add(scripts, "a", absolute=HOUR)
    add(scripts, "b", absolute=MINUTE)
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_index_gets_an_end_when_absolute_timeout_is_switched_on(scripts: Scripts) -> None:
    add(scripts, "a")
    add(scripts, "b", absolute=HOUR)
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_index_loses_its_end_when_absolute_timeout_is_switched_off(scripts: Scripts) -> None:
    add(scripts, "a", absolute=HOUR)
    add(scripts, "b")
    assert scripts.pttl("i") == -1


def test_index_that_has_expired_starts_anew(scripts: Scripts) -> None:
    add(scripts, "a", absolute=HOUR)
    scripts.client.delete("i")
    assert add(scripts, "b", absolute=HOUR) == [Status.CREATED, 0, []]
    assert members(scripts) == [b"b"]


# -- after a revoke ----------------------------------------------------------------


def revoke(scripts: Scripts, spared: str = "") -> None:
    scripts.call("revoke_index", "i", spared)


def test_new_id_is_added_when_nobody_has_revoked_the_old_one(scripts: Scripts) -> None:
    add(scripts, "a")
    assert add(scripts, "b", old="a") == [Status.CREATED, 0, []]
    # Nor does it say anything that the index does not know the old one.
    assert add(scripts, "d", old="c") == [Status.CREATED, 0, []]
    assert members(scripts) == [b"a", b"b", b"d"]


@pytest.mark.parametrize("old", ["a", "missing"])
def test_new_id_of_a_revoked_session_is_not_added(scripts: Scripts, old: str) -> None:
    add(scripts, "a")
    revoke(scripts)
    changes = scripts.changes()
    status, age_ms = add(scripts, "b", old=old)
    assert status is Status.MOVED
    assert 0 <= age_ms < 20_000
    assert scripts.changes() == changes
    assert members(scripts) == [b"a", b""]


def test_new_id_that_was_added_before_is_refused_when_the_call_is_repeated(
    scripts: Scripts,
) -> None:
    add(scripts, "a")
    add(scripts, "b", old="a")
    revoke(scripts)
    assert add(scripts, "b", old="a")[0] is Status.MOVED
    assert add(scripts, "c", old="b")[0] is Status.MOVED


def test_login_after_a_revoke_stands_and_gets_new_ids(scripts: Scripts) -> None:
    add(scripts, "a")
    revoke(scripts)
    assert add(scripts, "b") == [Status.CREATED, 0, []]
    assert add(scripts, "c", old="b") == [Status.CREATED, 0, []]
    assert add(scripts, "d", old="c") == [Status.CREATED, 0, []]
    assert members(scripts) == [b"a", b"", b"b", b"c", b"d"]


def test_spared_session_gets_new_ids(scripts: Scripts) -> None:
    for name in ("a", "b"):
        add(scripts, name)
    revoke(scripts, "a")
    assert add(scripts, "c", old="a")[0] is Status.CREATED
    assert add(scripts, "d", old="c")[0] is Status.CREATED
    assert add(scripts, "e", old="b")[0] is Status.MOVED


def test_login_is_above_the_tombstone_also_when_the_clock_was_set_back(scripts: Scripts) -> None:
    add(scripts, "a")
    revoke(scripts)
    for name in ("a", ""):
        age(scripts, name, -HOUR)
    assert add(scripts, "b")[0] is Status.CREATED
    assert add(scripts, "c", old="b")[0] is Status.CREATED
    assert add(scripts, "d", old="a")[0] is Status.MOVED
    assert members(scripts) == [b"a", b"", b"b", b"c"]


def test_tombstone_is_ahead_by_less_than_a_minute_when_the_clock_was_set_back_a_little(
    scripts: Scripts,
) -> None:
    add(scripts, "a")
    revoke(scripts)
    for name in ("a", ""):
        age(scripts, name, -MINUTE // 2)
    assert add(scripts, "b")[0] is Status.CREATED
    assert add(scripts, "c", old="b")[0] is Status.CREATED
    assert add(scripts, "d", old="a") == [Status.MOVED, 0]
    assert members(scripts) == [b"a", b"", b"b", b"c"]


def test_login_before_the_clock_was_set_back_gets_new_ids_after_it(scripts: Scripts) -> None:
    add(scripts, "a")
    revoke(scripts)
    add(scripts, "b")
    for name in ("a", "", "b"):
        age(scripts, name, -HOUR)
    assert add(scripts, "c", old="a")[0] is Status.MOVED
    assert add(scripts, "c", old="b")[0] is Status.CREATED
    assert members(scripts) == [b"a", b"", b"b", b"c"]


@pytest.mark.parametrize("ahead", [float("inf"), 4e15])
@pytest.mark.parametrize("first", ["login", "regenerate"])
def test_tombstone_that_somebody_wrote_far_ahead_counts_for_a_minute_too(
    first: str, ahead: float, scripts: Scripts
) -> None:
    add(scripts, "a")
    scripts.client.zadd("i", {"": ahead})
    if first == "regenerate":
        assert add(scripts, "b", old="a") == [Status.MOVED, 0]
    for old, new in (("", "c"), ("c", "d"), ("d", "e")):
        assert add(scripts, new, old=old) == [Status.CREATED, 0, []]
    assert all(score <= (scripts.now() + 1) * 1000 for _, score in entries(scripts))
    for name, _ in entries(scripts):
        age(scripts, name.decode(), MINUTE + 1000)
    assert add(scripts, "f", old="a")[0] is Status.CREATED
    assert b"" not in members(scripts)


def test_tombstone_counts_for_a_minute_and_is_then_removed(scripts: Scripts) -> None:
    add(scripts, "a")
    revoke(scripts)
    for name in ("a", ""):
        age(scripts, name, MINUTE - 20_000)
    status, age_ms = add(scripts, "b", old="a")
    assert status is Status.MOVED
    assert MINUTE - 20_000 <= age_ms <= MINUTE
    for name in ("a", ""):
        age(scripts, name, 20_000)
    assert add(scripts, "b", old="a") == [Status.CREATED, 0, [b"a"]]
    assert members(scripts) == [b"a", b"b"]


def test_tombstone_is_neither_too_many_nor_settled(scripts: Scripts) -> None:
    for number, name in enumerate(("a", "b", "c")):
        add(scripts, name)
        age(scripts, name, HOUR - number)
    revoke(scripts)
    old = [b"a", b"b", b"c"]
    assert add(scripts, "d", most=4) == [Status.CREATED, 0, old]
    assert add(scripts, "e", most=1) == [Status.CREATED, 4, old]
    assert add(scripts, "f", most=4) == [Status.CREATED, 2, old]


def test_index_of_a_tombstone_lives_as_long_as_the_sessions_that_follow(scripts: Scripts) -> None:
    revoke(scripts)
    assert scripts.pttl("i") == about(MINUTE)
    add(scripts, "a", absolute=HOUR)
    assert scripts.pttl("i") == about(HOUR + MINUTE)
    add(scripts, "b")
    assert scripts.pttl("i") == -1
