"""peek_session: reads a session as load_and_touch does, and leaves its life as it is."""

from __future__ import annotations

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import THEIRS, Scripts, about
from tests.support.waiting import wait_until

MINUTE = 60_000
HOUR = 60 * MINUTE


def test_fields_and_remaining_life_are_those_of_a_load(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1", b"owner": b"o"})
    peeked, loaded = scripts.peek(), scripts.load()
    assert (peeked[0], loaded[0]) == (Status.CLOCKED, Status.LOADED)
    assert (peeked[1], peeked[4]) == (about(MINUTE), loaded[2])


def test_time_and_the_last_touch_are_told(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.client.pexpire("s", MINUTE // 2)
    before = scripts.now()
    _, _, now, idle, _ = scripts.peek()
    assert before <= now <= scripts.now()
    assert MINUTE // 2 <= idle <= MINUTE // 2 + 20_000


def test_nothing_is_written(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, first=HOUR, timeout=HOUR)
    scripts.client.pexpire("s", 2 * HOUR)  # the timeout was lowered since: a load would touch it
    held, changes = scripts.hash(), scripts.changes()
    for _ in range(2):
        assert scripts.peek()[1] == about(2 * HOUR)
    assert scripts.changes() == changes
    assert scripts.hash() == held


def test_life_without_an_end_is_minus_one(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, timeout=0)
    assert scripts.peek(timeout=0)[1] == -1


def test_life_is_that_of_the_field_in_lru_mode(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, use_ttl=False)
    assert scripts.peek()[1] == about(MINUTE)


@pytest.mark.parametrize("kind", ["absolute", "deadline", "first"])
def test_last_touch_is_unknown_where_something_else_ends_it(scripts: Scripts, kind: str) -> None:
    now = scripts.now()
    options = {"deadline": now + 30_000, "first": 30_000, "absolute": 30_000}
    scripts.create(fields={b".a": b"1"}, **{kind: options[kind]})  # type: ignore[arg-type]
    _, remaining, _, idle, _ = scripts.peek(absolute=30_000 if kind == "absolute" else 0)
    assert remaining == about(30_000)
    assert idle == -1


@pytest.mark.parametrize("timeout", [MINUTE, 0])
def test_life_is_up_to_an_absolute_timeout_that_was_lowered_since(
    scripts: Scripts, timeout: int
) -> None:
    scripts.create(fields={b".a": b"1"}, timeout=timeout)
    _, remaining, _, idle, _ = scripts.peek(timeout=timeout, absolute=30_000)
    assert (remaining, idle) == (about(30_000), -1)
    assert scripts.describe(timeout=timeout, absolute=30_000)[1:3] == [about(30_000), 0]
    assert scripts.load(timeout=timeout, absolute=30_000)[1] == about(30_000)


def test_session_past_its_end_is_gone_and_still_there(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.client.hset("s", "deadline", scripts.now() - 1)
    assert scripts.peek() == [Status.GONE, 1]
    assert scripts.client.exists("s")


def test_expired_session_is_gone(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, timeout=50)
    assert wait_until(lambda: scripts.peek() == [Status.GONE])


def test_other_token_opens_nothing(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, digest=THEIRS)
    status, age_ms, replaced = scripts.peek()
    assert (status, replaced) == (Status.MOVED, 1)
    assert 0 <= age_ms < 20_000
    scripts.client.hset("s", "owner", "o")
    assert scripts.peek()[2] == 2


def test_ended_session_has_moved(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end()
    assert scripts.peek()[0] is Status.MOVED


@pytest.mark.parametrize("fields", [{"x": b"1"}, {"@": b"x"}, {"@": b"x" * 16}, {"@": b"x" * 21}])
def test_what_is_no_session_is_foreign(scripts: Scripts, fields: dict[str, bytes]) -> None:
    scripts.client.hset("s", mapping=fields)
    assert scripts.peek() == scripts.load() == [Status.GONE, 2]
