"""describe_session: tells what is known of a session, and leaves it as it is."""

from __future__ import annotations

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import moments
from tests.support.scripts import THEIRS, Scripts, about
from tests.support.waiting import wait_until

MINUTE = 60_000
HOUR = 60 * MINUTE


def test_live_session_is_described(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o", b"label": b"l", b"device": b"d", b".a": b"1"})
    held = scripts.hash()
    before = scripts.now()
    status, remaining, idle, now, fields = scripts.describe()
    assert status is Status.LOADED
    assert remaining == about(MINUTE)
    assert idle == MINUTE
    assert before <= now <= scripts.now()
    assert fields == [held[b"@"], b"o", b"l", b"d"]


def test_what_is_absent_is_empty(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert scripts.describe()[4] == [scripts.hash()[b"@"], b"", b"", b""]


def test_new_token_is_described(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    now = scripts.renew(sets={b".a": b"1"})[2]
    token = scripts.describe()[4][0]
    assert token[:16] == THEIRS
    assert moments(token)[1] == now


def test_nothing_is_changed_by_a_description(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o"}, first=HOUR, timeout=HOUR)
    scripts.client.pexpire("s", MINUTE)
    held, changes = scripts.hash(), scripts.changes()
    for _ in range(2):
        assert scripts.describe()[0] is Status.LOADED
    assert scripts.changes() == changes
    assert scripts.hash() == held
    assert scripts.pttl() == about(MINUTE)


def test_ended_session_is_not_described(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o"})
    scripts.end()
    status, age_ms = scripts.describe()
    assert status is Status.MOVED
    assert 0 <= age_ms < 20_000


def test_unknown_session_is_gone(scripts: Scripts) -> None:
    assert scripts.describe() == [Status.GONE]
    assert not scripts.client.exists("s")


def test_expired_session_is_gone(scripts: Scripts) -> None:
    scripts.create(fields={b"owner": b"o"}, timeout=50)
    assert wait_until(lambda: scripts.describe()[0] is Status.GONE)


def test_hash_without_a_token_is_gone(scripts: Scripts) -> None:
    scripts.client.hset("s", mapping={"owner": "o", ".a": "1"})
    assert scripts.describe() == [Status.GONE]


@pytest.mark.parametrize("token", [b"", b"x", THEIRS, THEIRS + b"12345", THEIRS + b"1" * 11])
def test_session_without_a_time_of_creation_is_gone_as_for_a_load(
    scripts: Scripts, token: bytes
) -> None:
    scripts.client.hset("s", mapping={b"@": token, b"owner": b"o"})
    assert scripts.load()[0] is Status.GONE
    assert scripts.describe() == [Status.GONE]


# -- lifetimes ---------------------------------------------------------------------


def test_session_that_never_ends(scripts: Scripts) -> None:
    scripts.create(timeout=0)
    assert scripts.describe(timeout=0)[1:3] == [-1, 0]


def test_timeout_of_its_own_is_the_one_that_applies(scripts: Scripts) -> None:
    scripts.create(timeout=HOUR, adjusted=True)
    assert scripts.describe(timeout=MINUTE)[1:3] == [about(HOUR), HOUR]


def test_session_past_its_absolute_timeout_is_gone(scripts: Scripts) -> None:
    scripts.create(created=scripts.now() - HOUR)
    assert scripts.describe(absolute=HOUR) == [Status.GONE]
    assert scripts.describe(absolute=2 * HOUR)[0] is Status.LOADED


def test_session_past_its_deadline_is_gone(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + MINUTE)
    assert scripts.describe()[0] is Status.LOADED
    scripts.client.hset("s", "deadline", scripts.now() - 1)
    assert scripts.describe() == [Status.GONE]


def test_end_that_the_session_states_itself_counts(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    assert scripts.describe()[1] == about(MINUTE)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.describe() == [Status.GONE]


# -- since when it was idle can be told only where nothing else ends it sooner -----


def test_idle_timeout_is_told_where_it_ends_the_session(scripts: Scripts) -> None:
    now = scripts.now()
    scripts.create(created=now - MINUTE, deadline=now + 2 * HOUR, timeout=HOUR)
    assert scripts.describe(timeout=HOUR, absolute=2 * HOUR)[1:3] == [about(HOUR), HOUR]


def test_idle_timeout_is_not_told_where_the_absolute_timeout_ends_the_session(
    scripts: Scripts,
) -> None:
    scripts.create(created=scripts.now() - HOUR, timeout=HOUR, absolute=90 * MINUTE)
    assert scripts.describe(timeout=HOUR, absolute=90 * MINUTE)[1:3] == [about(30 * MINUTE), 0]


def test_idle_timeout_is_not_told_where_a_deadline_ends_the_session(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + MINUTE, timeout=HOUR)
    assert scripts.describe(timeout=HOUR)[1:3] == [about(MINUTE), 0]


def test_idle_timeout_is_not_told_before_the_cookie_has_come_back(scripts: Scripts) -> None:
    scripts.create(first=MINUTE, timeout=HOUR)
    assert scripts.describe(timeout=HOUR)[1:3] == [about(MINUTE), 0]
    scripts.load(timeout=HOUR)
    assert scripts.describe(timeout=HOUR)[1:3] == [about(HOUR), HOUR]


@pytest.mark.parametrize(
    "field", ["timeout", "deadline", "expires", "moved", "first", "@", "saves", "staged"]
)
@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1e999", b"nan", b"9" * 400, b"\x00\xff"])
def test_odd_metadata_are_no_error(scripts: Scripts, field: str, value: bytes) -> None:
    scripts.create(fields={b"owner": b"o"})
    scripts.client.hset("s", field, value)
    assert scripts.describe(absolute=HOUR)[0] in (Status.LOADED, Status.GONE)
