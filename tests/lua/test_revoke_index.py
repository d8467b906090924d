"""revoke_index: draws the line between what a revoke ends and what comes after it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000
HOUR = 60 * MINUTE


def revoke(scripts: Scripts, spared: str = "") -> list[bytes]:
    status, members, replaced = scripts.call("revoke_index", "i", spared)
    assert (status, replaced) == (Status.SAVED, 0)
    return list(members)


def add(scripts: Scripts, *names: str, absolute: int = 0) -> None:
    for name in names:
        assert scripts.call("index_session", "i", name, "", 100, absolute)[0] is Status.CREATED


def scores(scripts: Scripts) -> dict[bytes, float]:
    found: Any = scripts.client.zrange("i", 0, -1, withscores=True)
    return dict(found)


def test_every_id_is_returned_and_stays(scripts: Scripts) -> None:
    add(scripts, "c", "a", "b")
    before = scores(scripts)
    assert revoke(scripts) == [b"c", b"a", b"b"]
    after = scores(scripts)
    tombstone = after.pop(b"")
    assert after == before
    assert max(before.values()) <= tombstone <= (scripts.now() + 1) * 1000


def test_repeated_call_returns_the_same_or_more(scripts: Scripts) -> None:
    add(scripts, "a", "b")
    assert revoke(scripts, "b") == [b"a", b"b"]
    add(scripts, "c")
    assert sorted(revoke(scripts, "b")) == [b"a", b"b", b"c"]
    after = scores(scripts)
    assert max(after[b"a"], after[b"c"]) <= after[b""] < after[b"b"]


def test_ids_are_returned_as_they_are(scripts: Scripts) -> None:
    names = [bytes(range(1, 256)), b"-inf", b" "]
    for name in names:
        scripts.call("index_session", "i", name, "", 100, 0)
    assert sorted(revoke(scripts)) == sorted(names)


def test_index_of_thousands_is_no_error(scripts: Scripts) -> None:
    scripts.client.zadd("i", {f"s{number:05}": 9e15 + number for number in range(20_000)})
    assert len(revoke(scripts)) == 20_000


# -- the spared session ------------------------------------------------------------


def test_only_the_spared_session_is_above_the_tombstone(scripts: Scripts) -> None:
    add(scripts, "a", "b", "c")
    revoke(scripts, "b")
    after = scores(scripts)
    assert after[b"b"] == after[b""] + 1
    assert max(after[b"a"], after[b"c"]) <= after[b""]


def test_session_that_is_not_in_the_index_is_not_put_there(scripts: Scripts) -> None:
    # It may be that of another owner, say of an administrator.
    add(scripts, "a")
    assert revoke(scripts, "stranger") == [b"a"]
    assert set(scores(scripts)) == {b"a", b""}


def test_session_that_another_revoke_means_cannot_be_spared(scripts: Scripts) -> None:
    # The other one may not have ended it yet, and has not seen what would carry it on.
    add(scripts, "a")
    revoke(scripts)
    assert revoke(scripts, "a") == [b"a"]
    after = scores(scripts)
    assert after[b"a"] <= after[b""]


def test_session_is_spared_by_one_revoke_after_another(scripts: Scripts) -> None:
    add(scripts, "a")
    for _ in range(3):
        revoke(scripts, "a")
        after = scores(scripts)
        assert after[b"a"] == after[b""] + 1


def test_session_is_spared_when_the_earlier_revoke_is_long_past(scripts: Scripts) -> None:
    add(scripts, "a")
    revoke(scripts)
    for name in ("a", ""):
        scripts.client.zincrby("i", -1000 * (MINUTE + 1000), name)
    revoke(scripts, "a")
    after = scores(scripts)
    assert after[b"a"] == after[b""] + 1


# -- the clock ---------------------------------------------------------------------


def test_entries_of_the_future_are_not_above_the_tombstone(scripts: Scripts) -> None:
    future = (scripts.now() + HOUR) * 1000
    scripts.client.zadd("i", {"a": future, "b": float("inf"), "": future, "c": 1})
    assert sorted(revoke(scripts)) == [b"a", b"b", b"c"]
    after = scores(scripts)
    assert max(after.values()) == after[b""] <= (scripts.now() + 1) * 1000


# -- the index' own end ------------------------------------------------------------


def test_index_of_nothing_but_the_tombstone_ends_after_a_minute(scripts: Scripts) -> None:
    assert revoke(scripts) == []
    assert scripts.pttl("i") == about(MINUTE)


@pytest.mark.parametrize(("before", "after"), [(0, -1), (1000, about(MINUTE)), (HOUR, about(HOUR))])
def test_index_lives_for_a_minute_at_least(scripts: Scripts, before: int, after: Any) -> None:
    add(scripts, "a")
    if before:
        scripts.client.pexpire("i", before)
    revoke(scripts)
    assert scripts.pttl("i") == after


def test_foreign_value_is_replaced_and_told_of(scripts: Scripts) -> None:
    scripts.client.set("i", "x")
    assert scripts.call("revoke_index", "i", "") == [Status.SAVED, [], 1]
    assert set(scores(scripts)) == {b""}
    assert scripts.pttl("i") == about(MINUTE)


def test_refused_write_is_an_error(scripts: Scripts) -> None:
    add(scripts, "a")
    maxmemory: Any = scripts.client.config_get("maxmemory")
    scripts.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            revoke(scripts)
    finally:
        scripts.client.config_set("maxmemory", maxmemory["maxmemory"])
    assert set(scores(scripts)) == {b"a"}
