"""index_session: records a session in the index of its owner, and tells what to tidy up."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import Scripts, about
from tests.support.waiting import wait_until

MINUTE = 60_000
HOUR = 60 * MINUTE


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
    status, surplus, settled_us, settled = scripts.index("a")
    assert (status, surplus, settled) == (Status.SAVED, 0, [])
    assert settled_us // 1000 == about(scripts.now() - MINUTE)
    score = scripts.client.zscore("i", "a")
    assert score is not None
    assert before <= score / 1000 <= scripts.now() + 1
    assert scripts.client.type("i") == b"zset"


def test_sessions_are_kept_in_the_order_in_which_they_were_added(scripts: Scripts) -> None:
    for name in ("c", "a", "b"):
        scripts.index(name)
    assert members(scripts) == [b"c", b"a", b"b"]


def test_binary_id_is_kept_as_it_is(scripts: Scripts) -> None:
    name = bytes(range(1, 256))
    scripts.index(name)
    assert members(scripts) == [name]


def test_repeated_call_adds_nothing_and_answers_the_same(scripts: Scripts) -> None:
    for name in ("a", "b", "c"):
        scripts.index(name)
        age(scripts, name, HOUR)
    first = scripts.index("d", most=2)
    again = scripts.index("d", most=2)
    assert [first[:2], first[3]] == [again[:2], again[3]]
    assert len(members(scripts)) == 4


# -- a full index ------------------------------------------------------------------


def test_nothing_is_too_many_up_to_the_limit(scripts: Scripts) -> None:
    for name in ("a", "b", "c"):
        assert scripts.index(name, most=3)[1] == 0


@pytest.mark.parametrize("over", [1, 3])
def test_surplus_is_told_and_left_when_there_are_too_many(scripts: Scripts, over: int) -> None:
    names = [f"s{number}" for number in range(6)]
    for number, name in enumerate(names):
        scripts.index(name)
        age(scripts, name, 10 * MINUTE - number)
    for _ in range(2):
        # The caller removes them once they have ended: a repeated call tells of them again.
        assert scripts.index("new", most=7 - over)[:2] == [Status.SAVED, over]
    assert members(scripts) == [name.encode() for name in [*names, "new"]]


def test_new_session_is_above_whatever_stands_in_the_index(scripts: Scripts) -> None:
    # Clocks that were set back, or somebody else, may have left entries of the future.
    scripts.client.zadd("i", {"x": 1e300, "y": float("inf"), "z": 9e15, "past": 1})
    assert scripts.index("new", most=1)[1] == 4
    assert members(scripts) == [b"past", b"z", b"x", b"y", b"new"]
    scripts.index("newer")
    assert members(scripts)[-2:] == [b"new", b"newer"]
    assert all(score <= (scripts.now() + 1) * 1000 for _, score in entries(scripts))


def test_entries_far_ahead_are_brought_to_the_present_in_their_order(scripts: Scripts) -> None:
    far = (scripts.now() + HOUR) * 1000
    scripts.client.zadd("i", {"c": far, "a": far + 1, "b1": far + 5, "b2": far + 5})
    scripts.index("new")
    scores = dict(entries(scripts))
    assert members(scripts) == [b"c", b"a", b"b1", b"b2", b"new"]
    assert scores[b"c"] < scores[b"a"] < scores[b"b1"] == scores[b"b2"] < scores[b"new"]
    assert scores[b"new"] <= (scripts.now() + 1) * 1000


def test_new_session_is_above_those_of_a_clock_that_was_a_little_ahead(scripts: Scripts) -> None:
    scripts.index("a")
    age(scripts, "a", -MINUTE // 2)
    before = entries(scripts)
    scripts.index("b")
    assert members(scripts) == [b"a", b"b"]
    assert entries(scripts)[:1] == before


def test_session_keeps_its_place_when_the_call_is_repeated(scripts: Scripts) -> None:
    # Another login may have ended it, or may not, by the place that it had.
    scripts.index("a")
    scripts.index("b")
    before = entries(scripts)
    scripts.index("a")
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
    assert scripts.index("a", absolute=HOUR)[:2] == [Status.SAVED, 0]
    assert members(scripts) == [b"a"]
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_refused_write_is_an_error(scripts: Scripts) -> None:
    maxmemory: Any = scripts.client.config_get("maxmemory")
    scripts.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            scripts.index("a")
    finally:
        scripts.client.config_set("maxmemory", maxmemory["maxmemory"])
    assert members(scripts) == []


# -- what may have ended -----------------------------------------------------------


def test_entries_of_over_a_minute_are_named_as_settled(scripts: Scripts) -> None:
    for name, old in (("old", HOUR), ("just", MINUTE + 1000), ("young", MINUTE - 20_000)):
        scripts.index(name)
        age(scripts, name, old)
    assert scripts.index("new")[3] == [b"old", b"just"]


@pytest.mark.parametrize("most", [1, 50_000])
def test_settled_entries_are_named_a_hundred_at_a_time(scripts: Scripts, most: int) -> None:
    scripts.client.zadd("i", {f"s{number:05}": number for number in range(20_000)})
    _, surplus, _, settled = scripts.index("new", most=most)
    assert surplus == (20_000 if most == 1 else 0)
    assert settled == [b"s%05d" % number for number in range(100)]


# -- the index' own end ------------------------------------------------------------


def test_index_has_no_ttl_when_nothing_bounds_its_sessions(scripts: Scripts) -> None:
    scripts.index("a")
    assert scripts.pttl("i") == -1


def test_index_ends_with_the_last_session_that_absolute_timeout_allows(scripts: Scripts) -> None:
    # And a minute more, for clocks that differ.
    scripts.index("a", absolute=10 * MINUTE)
    assert scripts.pttl("i") == about(11 * MINUTE)
    scripts.client.pexpire("i", MINUTE)
    scripts.index("b", absolute=10 * MINUTE)
    assert scripts.pttl("i") == about(11 * MINUTE)


def test_index_end_is_not_brought_forward_when_absolute_timeout_is_lowered(
    scripts: Scripts,
) -> None:
    scripts.index("a", absolute=HOUR)
    scripts.index("b", absolute=MINUTE)
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_index_gets_an_end_when_absolute_timeout_is_switched_on(scripts: Scripts) -> None:
    scripts.index("a")
    scripts.index("b", absolute=HOUR)
    assert scripts.pttl("i") == about(HOUR + MINUTE)


def test_index_loses_its_end_when_absolute_timeout_is_switched_off(scripts: Scripts) -> None:
    scripts.index("a", absolute=HOUR)
    scripts.index("b")
    assert scripts.pttl("i") == -1


def test_index_that_has_expired_starts_anew(scripts: Scripts) -> None:
    scripts.index("a", absolute=HOUR)
    scripts.client.delete("i")
    assert scripts.index("b", absolute=HOUR)[:2] == [Status.SAVED, 0]
    assert members(scripts) == [b"b"]


# -- room --------------------------------------------------------------------------


def test_session_is_let_in_up_to_the_limit_and_refused_beyond(scripts: Scripts) -> None:
    for name in ("a", "b"):
        assert scripts.index(name, most=2, refuse=True)[:2] == [Status.SAVED, 0]
    status, settled_us = scripts.index("c", most=2, refuse=True)
    assert status is Status.FULL
    assert settled_us // 1000 == about(scripts.now() - MINUTE)
    assert members(scripts) == [b"a", b"b"]


def test_session_that_is_let_in_is_let_in_again_when_the_call_is_repeated(
    scripts: Scripts,
) -> None:
    scripts.index("a", most=2, refuse=True)
    scripts.index("b", most=2, refuse=True)
    before = entries(scripts)
    assert scripts.index("a", most=2, refuse=True)[0] is Status.SAVED
    assert entries(scripts) == before


@pytest.mark.parametrize("refuse", [True, False])
def test_session_that_was_there_long_ago_counts_as_one_that_comes(
    scripts: Scripts, refuse: bool
) -> None:
    for name in ("a", "b", "c"):
        scripts.index(name)
        age(scripts, name, HOUR)
    before = scripts.now()
    # There is room for it, as it does not count twice; the others find it young.
    assert scripts.index("a", most=3, refuse=refuse, since=1)[0] is Status.SAVED
    assert members(scripts) == [b"b", b"c", b"a"]
    assert dict(entries(scripts))[b"a"] >= before * 1000
    assert scripts.index("b", most=2, refuse=True, since=1)[0] is Status.FULL
    assert members(scripts) == [b"b", b"c", b"a"]


@pytest.mark.parametrize("refuse", [True, False])
def test_place_of_an_earlier_login_is_given_up(scripts: Scripts, refuse: bool) -> None:
    for name in ("a", "b"):
        scripts.index(name)
    since = scripts.now() * 1000 + 1000  # its token is younger than what stands there
    wait_until(lambda: scripts.now() * 1000 > since)
    assert scripts.index("a", refuse=refuse, since=since)[0] is Status.SAVED
    assert members(scripts) == [b"b", b"a"]
    held = entries(scripts)
    assert scripts.index("b")[0] is scripts.index("a", since=since)[0] is Status.SAVED
    assert entries(scripts) == held


@pytest.mark.parametrize("refuse", [True, False])
def test_what_has_ended_makes_room(scripts: Scripts, refuse: bool) -> None:
    for name in ("a", "b", "c"):
        scripts.index(name)
    scores = {name.decode(): score for name, score in entries(scripts)}
    ended = {name: scores[name] for name in ("a", "c")}
    reply = scripts.index("new", most=2, refuse=refuse, ended={**ended, "unknown": 1})
    assert reply[:2] == [Status.SAVED, 0]
    assert members(scripts) == [b"b", b"new"]


def test_what_has_come_back_meanwhile_stays(scripts: Scripts) -> None:
    scripts.index("a")
    age(scripts, "a", HOUR)
    seen = dict(entries(scripts))[b"a"]
    scripts.index("a", refuse=True, since=1)
    assert scripts.index("b", most=1, refuse=True, ended={"a": seen})[0] is Status.FULL
    assert members(scripts) == [b"a"]


@pytest.mark.parametrize("score", ["inf", "-inf", "1e+300", "0.5"])
def test_what_has_ended_is_removed_by_whatever_score_somebody_gave_it(
    scripts: Scripts, score: str
) -> None:
    scripts.client.zadd("i", {"a": float(score)})
    if score in ("inf", "1e+300"):
        scripts.index("first")  # brings it to the present
        scripts.client.zrem("i", "first")
    seen = dict(entries(scripts))[b"a"]
    assert scripts.index("b", most=1, refuse=True, ended={"a": seen})[0] is Status.SAVED
    assert members(scripts) == [b"b"]
