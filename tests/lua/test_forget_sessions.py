"""forget_sessions: takes sessions out of an index, and leaves no index of nothing."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000
HOUR = 60 * MINUTE


def forget(scripts: Scripts, *names: str) -> list[Any]:
    return scripts.call("forget_sessions", "i", *names)


def test_named_ids_are_removed_and_no_others(scripts: Scripts) -> None:
    scripts.client.zadd("i", {"a": 1, "b": 2, "c": 3})
    assert forget(scripts, "a", "c", "x") == [Status.SAVED, 2]
    assert scripts.client.zrange("i", 0, -1) == [b"b"]
    assert forget(scripts, "a", "c", "x") == [Status.SAVED, 0]
    assert scripts.pttl("i") == -1


def test_thousands_are_removed_in_one_call(scripts: Scripts) -> None:
    names = [f"s{number}" for number in range(10_000)]
    scripts.client.zadd("i", dict.fromkeys(names, 1))
    assert forget(scripts, *names) == [Status.SAVED, 10_000]
    assert scripts.pttl("i") == -2


@pytest.mark.parametrize(("before", "after"), [(0, MINUTE), (HOUR, MINUTE), (30_000, 30_000)])
def test_index_ends_when_only_the_tombstone_is_left(
    scripts: Scripts, before: int, after: int
) -> None:
    scripts.client.zadd("i", {"a": 1, "": 2})
    if before:
        scripts.client.pexpire("i", before)
    forget(scripts, "a")
    assert scripts.client.zrange("i", 0, -1) == [b""]
    assert scripts.pttl("i") == about(after)
    changes = scripts.changes()
    forget(scripts, "a")
    assert scripts.changes() == changes


def test_index_stays_when_a_session_is_left(scripts: Scripts) -> None:
    scripts.client.zadd("i", {"a": 1, "": 2, "b": 3})
    forget(scripts, "a")
    assert scripts.pttl("i") == -1


def test_wrong_type_is_an_error(scripts: Scripts) -> None:
    scripts.client.set("i", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        forget(scripts, "a")
