"""Sessions that hold what is told from the time: their loads tell it, and Redis forgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import TOKEN_FIELD, as_stored
from tests.support.application import life_of_field
from tests.support.scripts import OURS, THEIRS, Scripts, about

MINUTE = 60_000
A = {b".a": b"1234567890123456 and more"}


@pytest.fixture(params=[False, True], ids=["alone", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_token_of_a_clocked_session_has_a_mark(scripts: Scripts) -> None:
    created = scripts.create(clocked=True)[2]
    assert scripts.hash()[TOKEN_FIELD] == as_stored(OURS, created, created, clocked=True)


@pytest.mark.parametrize("asks", [False, True])
def test_load_tells_the_time_where_the_session_or_the_caller_asks(
    scripts: Scripts, asks: bool
) -> None:
    scripts.create(fields=A, clocked=not asks)
    scripts.client.pexpire("s", MINUTE // 2)
    before = scripts.now()
    status, remaining, now, idle, fields = scripts.load(asks=asks)
    assert status is Status.CLOCKED
    assert before <= now <= scripts.now()
    assert remaining == MINUTE
    assert MINUTE // 2 <= idle <= MINUTE // 2 + 20_000
    assert fields == scripts.hash()
    assert scripts.pttl() == about(MINUTE)


def test_load_of_any_other_session_tells_none(scripts: Scripts) -> None:
    scripts.create(fields=A)
    assert scripts.load()[0] is Status.LOADED


@pytest.mark.parametrize("use_ttl", [True, False])
def test_idle_time_is_told_in_lru_mode_too(scripts: Scripts, use_ttl: bool) -> None:
    scripts.create(fields=A, use_ttl=use_ttl)
    assert 0 <= scripts.load(use_ttl=use_ttl, asks=True)[3] <= 20_000


@pytest.mark.parametrize("kind", ["absolute", "deadline", "first", "never"])
def test_idle_time_is_unknown_where_something_else_ends_the_session(
    scripts: Scripts, kind: str
) -> None:
    options: dict[str, Any] = {
        "absolute": {"absolute": 30_000},
        "deadline": {"deadline": scripts.now() + 30_000},
        "first": {"first": 30_000},
        "never": {"timeout": 0},
    }[kind]
    scripts.create(fields=A, **options)
    load = {k: v for k, v in options.items() if k in ("absolute", "timeout")}
    assert scripts.load(asks=True, **load)[3] == -1


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("clocked", [False, True])
def test_new_token_has_the_mark_where_it_is_asked_for(
    scripts: Scripts, restart: bool, clocked: bool
) -> None:
    start = scripts.create(fields=A, clocked=not clocked)[2]
    now = scripts.renew(sets=A, restart=restart, clocked=clocked)[2]
    expected = as_stored(THEIRS, now if restart else start, now, clocked)
    assert scripts.hash()[TOKEN_FIELD] == expected


def test_absolute_timeout_counts_from_the_start(scripts: Scripts) -> None:
    scripts.create(fields=A, clocked=True)
    assert scripts.load(absolute=30_000)[1] == about(30_000)
    assert scripts.save(sets=A, absolute=30_000)[1] == about(30_000)
    assert scripts.describe(absolute=30_000)[1] == about(30_000)


# -- end_values ----------------------------------------------------------------------------


def test_value_ends_by_itself_where_the_server_can(scripts: Scripts) -> None:
    scripts.create(fields=A)
    end = scripts.now() + MINUTE
    status, now, count = scripts.end_values(ends={b".a": (A[b".a"][:16], end)})
    assert status is Status.CLOCKED
    assert end - MINUTE <= now <= scripts.now()
    left = life_of_field(scripts.client, "s", ".a")
    assert (count, left) == ((1, about(MINUTE)) if left is not None else (0, None))


def test_value_that_was_set_since_lives_on(scripts: Scripts) -> None:
    scripts.create(fields=A)
    end = scripts.now() + MINUTE
    assert scripts.end_values(ends={b".a": (b"another value...", end)})[2] == 0
    assert scripts.end_values(ends={b".b": (b"1234567890123456", end)})[2] == 0
    assert life_of_field(scripts.client, "s", ".a") in (-1, None)


def test_save_over_a_value_that_ends_lets_it_live_on(scripts: Scripts) -> None:
    scripts.create(fields=A)
    scripts.end_values(ends={b".a": (A[b".a"][:16], scripts.now() + MINUTE)})
    scripts.save_fields(sets={b".a": b"2"})
    assert life_of_field(scripts.client, "s", ".a") in (-1, None)


@pytest.mark.parametrize(
    "prepare", [lambda s: None, lambda s: s.create(fields=A), lambda s: s.end()]
)
def test_time_alone_can_be_asked_for_and_nothing_is_written(
    scripts: Scripts, prepare: Callable[[Scripts], object]
) -> None:
    prepare(scripts)
    changes, held = scripts.changes(), scripts.hash()
    status, now, count = scripts.end_values()
    assert (status, count) == (Status.CLOCKED, 0)
    assert 0 <= scripts.now() - now < 20_000
    assert (scripts.changes(), scripts.hash()) == (changes, held)
