"""describe_session: tells what is known of a session, and leaves it as it is."""

from __future__ import annotations

from typing import Any

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about
from tests.support.waiting import wait_until

MINUTE = 60_000
HOUR = 60 * MINUTE


def describe(scripts: Scripts, *, timeout: int = MINUTE, absolute: int = 0) -> list[Any]:
    return scripts.call("describe_session", "s", timeout, absolute)


def test_live_session_is_described(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o", b"label": b"l", b".a": b"1"}, nonce="mark")
    created = scripts.hash()[b"created"]
    before = scripts.now()
    status, remaining, idle, now, fields = describe(scripts)
    assert status is Status.LOADED
    assert remaining == about(MINUTE)
    assert idle == MINUTE
    assert before <= now <= scripts.now()
    assert fields == [created, b"o", b"l"]


def test_absent_owner_and_label_are_empty(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert describe(scripts)[4][1:] == [b"", b""]


def test_nothing_is_changed_by_a_description(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o"}, first=HOUR, timeout=HOUR)
    scripts.client.pexpire("s", MINUTE)
    held, changes = scripts.hash(), scripts.changes()
    for _ in range(2):
        assert describe(scripts)[0] is Status.LOADED
    assert scripts.changes() == changes
    assert scripts.hash() == held
    assert scripts.pttl() == about(MINUTE)


@pytest.mark.parametrize("keep_fields", [False, True])
def test_ended_session_is_not_described(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields={b"owner": b"o"})
    scripts.end(keep_fields=keep_fields)
    status, age_ms = describe(scripts)
    assert status is Status.MOVED
    assert 0 <= age_ms < 20_000


def test_unknown_session_is_gone(scripts: Scripts) -> None:
    assert describe(scripts) == [Status.GONE]
    assert not scripts.client.exists("s")


def test_expired_session_is_gone(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o"}, timeout=50)
    assert wait_until(lambda: describe(scripts)[0] is Status.GONE)


def test_hash_without_created_is_gone(scripts: Scripts) -> None:
    scripts.client.hset("s", mapping={"owner": "o", ".a": "1"})
    assert describe(scripts) == [Status.GONE]


@pytest.mark.parametrize("created", [b"", b"x", b"-5 n", b" 1 n", b"nan n", b"\xff"])
def test_session_without_a_time_of_creation_is_gone_as_for_a_load(
    scripts: Scripts, created: bytes
) -> None:
    scripts.client.hset("s", mapping={b"created": created, b"owner": b"o"})
    assert scripts.load()[0] is Status.GONE
    assert describe(scripts) == [Status.GONE]


# -- lifetimes ---------------------------------------------------------------------


def test_session_that_never_ends(scripts: Scripts) -> None:
    scripts.create(timeout=0)
    assert describe(scripts, timeout=0)[1:3] == [-1, 0]


def test_timeout_of_its_own_is_the_one_that_applies(scripts: Scripts) -> None:
    scripts.create(timeout=HOUR, adjusted=True)
    assert describe(scripts, timeout=MINUTE)[1:3] == [about(HOUR), HOUR]


def test_session_past_its_absolute_timeout_is_gone(scripts: Scripts) -> None:
    scripts.create(created=scripts.now() - HOUR)
    assert describe(scripts, absolute=HOUR) == [Status.GONE]
    assert describe(scripts, absolute=2 * HOUR)[0] is Status.LOADED


def test_session_past_its_deadline_is_gone(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + MINUTE)
    assert describe(scripts)[0] is Status.LOADED
    scripts.client.hset("s", "deadline", scripts.now() - 1)
    assert describe(scripts) == [Status.GONE]


def test_end_that_the_session_states_itself_counts(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    assert describe(scripts)[1] == about(MINUTE)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert describe(scripts) == [Status.GONE]


# -- since when it was idle can be told only where nothing else ends it sooner -----


def test_idle_timeout_is_told_where_it_ends_the_session(scripts: Scripts) -> None:
    now = scripts.now()
    scripts.create(created=now - MINUTE, deadline=now + 2 * HOUR, timeout=HOUR)
    assert describe(scripts, timeout=HOUR, absolute=2 * HOUR)[1:3] == [about(HOUR), HOUR]


def test_idle_timeout_is_not_told_where_the_absolute_timeout_ends_the_session(
    scripts: Scripts,
) -> None:
    scripts.create(created=scripts.now() - HOUR, timeout=HOUR, absolute=90 * MINUTE)
    assert describe(scripts, timeout=HOUR, absolute=90 * MINUTE)[1:3] == [about(30 * MINUTE), 0]


def test_idle_timeout_is_not_told_where_a_deadline_ends_the_session(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + MINUTE, timeout=HOUR)
    assert describe(scripts, timeout=HOUR)[1:3] == [about(MINUTE), 0]


def test_idle_timeout_is_not_told_before_the_cookie_has_come_back(scripts: Scripts) -> None:
    scripts.create(first=MINUTE, timeout=HOUR)
    assert describe(scripts, timeout=HOUR)[1:3] == [about(MINUTE), 0]
    scripts.load(timeout=HOUR)
    assert describe(scripts, timeout=HOUR)[1:3] == [about(HOUR), HOUR]


@pytest.mark.parametrize("field", ["timeout", "deadline", "expires", "moved", "first"])
@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1e999", b"nan", b"9" * 400, b"\x00\xff"])
def test_odd_metadata_are_no_error(scripts: Scripts, field: str, value: bytes) -> None:
    scripts.create(fields={b"owner": b"o"})
    scripts.client.hset("s", field, value)
    assert describe(scripts, absolute=HOUR)[0] in (Status.LOADED, Status.GONE)
