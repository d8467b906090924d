"""load_and_touch: statuses, the length of a life, and when nothing is written."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.scripts import OURS, THEIRS, Scripts, about
from tests.support.stored import grow_older
from tests.support.waiting import wait_until

SECOND = 1_000
MINUTE = 60_000


@pytest.fixture(params=[False, True], ids=["alone", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def pass_time(scripts: Scripts, ms: int) -> None:
    """Let a session be ``ms`` older: move everything that its life is measured by."""
    client, fields = scripts.client, scripts.hash()
    grow_older(client, "s", ms)
    for name in (b"expires", b"deadline"):
        if name in fields:
            client.hset("s", name, int(fields[name]) - ms)
    if scripts.pttl() >= 0:
        client.pexpire("s", scripts.pttl() - ms)


# -- statuses ----------------------------------------------------------------------


def test_load_returns_every_field_as_stored(scripts: Scripts) -> None:
    created = scripts.create(fields={b".a": b"1", b"#1": b"2", b"~q\x1fx": b"3"})[2]
    status, remaining, fields = scripts.load()
    assert (status, remaining) == (Status.LOADED, MINUTE)
    assert fields == {
        b"@": as_stored(OURS, created, created),
        b".a": b"1",
        b"#1": b"2",
        b"~q\x1fx": b"3",
    }


def test_load_of_nothing_is_gone_and_creates_nothing(scripts: Scripts) -> None:
    changes = scripts.changes()
    assert scripts.load() == [Status.GONE]
    assert scripts.pttl() == -2
    assert scripts.changes() == changes


@pytest.mark.parametrize("digest", [OURS, THEIRS])
def test_load_of_a_marker_tells_its_age_and_leaves_it(scripts: Scripts, digest: bytes) -> None:
    scripts.create(fields={b".a": b"1"}, use_ttl=False)
    scripts.end()
    moved = scripts.hash()[b"moved"]
    scripts.client.hset("s", "moved", moved[:22] + b"%d" % (int(moved[22:]) - 7 * SECOND))
    changes = scripts.changes()
    for use_ttl in (True, False):
        status, age = scripts.load(digest=digest, use_ttl=use_ttl, absolute=1, trigger=1)
        assert status is Status.MOVED
        assert 7 * SECOND <= age <= 7 * SECOND + 20_000
    assert scripts.changes() == changes
    assert scripts.pttl() == about(MINUTE)


# -- the length of a life ----------------------------------------------------------


def test_load_refreshes_the_idle_timeout(scripts: Scripts) -> None:
    scripts.create()
    pass_time(scripts, 40 * SECOND)
    assert scripts.load()[1] == MINUTE
    assert scripts.pttl() == about(MINUTE)


def test_session_expires_when_it_is_idle_and_lives_on_when_it_is_not(scripts: Scripts) -> None:
    scripts.create(timeout=1000)
    begun = scripts.now()
    while scripts.now() < begun + 1200:  # longer than the timeout, never idle
        assert scripts.load(timeout=1000)[0] is Status.LOADED
    scripts.load(timeout=50)
    wait_until(lambda: scripts.pttl() == -2)
    assert scripts.load() == [Status.GONE]


def test_timeout_0_removes_the_ttl(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.load(timeout=0)[1] == -1
    assert scripts.pttl() == -1


def test_timeout_turned_on_gives_a_ttl_to_sessions_without_one(scripts: Scripts) -> None:
    scripts.create(timeout=0)
    assert scripts.load(timeout=MINUTE)[1] == MINUTE
    assert scripts.pttl() == about(MINUTE)


@pytest.mark.parametrize("trigger", ["", 30 * SECOND])
def test_timeout_turned_on_with_a_trigger_gives_a_ttl(scripts: Scripts, trigger: int | str) -> None:
    scripts.create(timeout=0)
    assert scripts.load(timeout=MINUTE, trigger=trigger)[1] == MINUTE
    assert scripts.pttl() == about(MINUTE)


@pytest.mark.parametrize("use_ttl", [True, False])
@pytest.mark.parametrize("trigger", ["", 30 * SECOND])
def test_an_absolute_timeout_turned_off_ends_no_session_that_never_ends(
    scripts: Scripts, trigger: int | str, use_ttl: bool
) -> None:
    scripts.create(timeout=0, adjusted=True, absolute=MINUTE, use_ttl=use_ttl)
    assert scripts.load(trigger=trigger, use_ttl=use_ttl)[1] == -1
    assert scripts.client.ttl("s") == -1
    assert b"expires" not in scripts.hash()


def test_a_ttl_stays_where_memory_is_too_short_for_the_field_in_its_place(
    scripts: Scripts,
) -> None:
    scripts.create(timeout=MINUTE)
    before: Any = scripts.client.config_get("maxmemory")
    scripts.client.config_set("maxmemory", 1)
    try:
        assert scripts.load(use_ttl=False)[0] is Status.LOADED
    finally:
        scripts.client.config_set("maxmemory", before["maxmemory"])
    assert scripts.pttl() == about(MINUTE)
    assert scripts.load(use_ttl=False)[1] == MINUTE
    assert scripts.client.ttl("s") == -1


@pytest.mark.parametrize("trigger", ["", 5 * MINUTE])
def test_a_lowered_default_applies_at_once(scripts: Scripts, trigger: int | str) -> None:
    scripts.create(timeout=60 * MINUTE)
    assert scripts.load(timeout=10 * MINUTE, trigger=trigger)[1] == 10 * MINUTE
    assert scripts.pttl() == about(10 * MINUTE)


def test_a_raised_default_applies_at_the_next_touch(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE)
    assert scripts.load(timeout=60 * MINUTE)[1] == 60 * MINUTE
    assert scripts.pttl() == about(60 * MINUTE)


def test_own_timeout_overrules_the_default(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE, adjusted=True)
    for default in (MINUTE, 60 * MINUTE, 0):
        assert scripts.load(timeout=default)[1] == 10 * MINUTE
        assert scripts.pttl() == about(10 * MINUTE)


def test_own_timeout_never_overrules_the_default(scripts: Scripts) -> None:
    scripts.create(timeout=0, adjusted=True)
    assert scripts.load(timeout=MINUTE)[1] == -1
    assert scripts.pttl() == -1


def test_absolute_timeout_is_the_end_whatever_the_activity(scripts: Scripts) -> None:
    scripts.create(absolute=2 * MINUTE)
    pass_time(scripts, 50 * SECOND)
    assert scripts.load(absolute=2 * MINUTE)[1] == MINUTE
    pass_time(scripts, 50 * SECOND)
    assert scripts.load(absolute=2 * MINUTE)[1] == about(20 * SECOND)
    assert scripts.pttl() == about(20 * SECOND)


def test_absolute_timeout_ends_a_session_that_has_no_idle_timeout(scripts: Scripts) -> None:
    scripts.create(timeout=0)
    assert scripts.load(timeout=0, absolute=2 * MINUTE)[1] == about(2 * MINUTE)
    assert scripts.pttl() == about(2 * MINUTE)


@pytest.mark.parametrize("use_ttl", [True, False])
@pytest.mark.parametrize("trigger", ["", 10 * SECOND])
def test_an_absolute_timeout_lowered_under_the_age_ends_live_sessions(
    scripts: Scripts, trigger: int | str, use_ttl: bool
) -> None:
    scripts.create(use_ttl=use_ttl)
    pass_time(scripts, 30 * SECOND)
    args = {"trigger": trigger, "use_ttl": use_ttl}
    assert scripts.load(absolute=20 * SECOND, **args) == [Status.GONE, 1]
    assert scripts.pttl() == -2
    assert scripts.load(absolute=20 * SECOND, **args) == [Status.GONE]


def test_an_absolute_timeout_lowered_shortens_live_sessions_within_the_trigger_window(
    scripts: Scripts,
) -> None:
    scripts.create()
    pass_time(scripts, 10 * SECOND)
    assert scripts.load(absolute=40 * SECOND, trigger=SECOND)[1] == about(30 * SECOND)
    assert scripts.pttl() == about(30 * SECOND)


def test_an_absolute_timeout_removed_gives_the_idle_timeout_back(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE, absolute=MINUTE)
    assert scripts.load(timeout=10 * MINUTE)[1] == 10 * MINUTE


def test_deadline_is_the_end_whatever_the_activity(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + 40 * SECOND)
    assert scripts.load()[1] == about(40 * SECOND)
    pass_time(scripts, 15 * SECOND)
    assert scripts.load()[1] == about(25 * SECOND)
    assert scripts.pttl() == about(25 * SECOND)


def test_session_past_its_deadline_is_removed_though_redis_still_has_it(scripts: Scripts) -> None:
    scripts.create(deadline=scripts.now() + 40 * SECOND)
    scripts.client.hset("s", "deadline", scripts.now() - 1)
    assert scripts.load() == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_first_timeout_ends_with_the_first_load(scripts: Scripts) -> None:
    scripts.create(first=10 * SECOND)
    fields = scripts.load()[2]
    assert scripts.pttl() == about(MINUTE)
    assert b"first" not in scripts.hash()
    assert b"first" in fields  # what the call found
    assert b"first" not in scripts.load()[2]


@pytest.mark.parametrize("use_ttl", [True, False])
def test_the_first_load_touches_also_within_the_trigger_window(
    scripts: Scripts, use_ttl: bool
) -> None:
    scripts.create(first=30 * SECOND, use_ttl=use_ttl)
    assert scripts.load(trigger=10 * SECOND, use_ttl=use_ttl)[1] == MINUTE
    assert b"first" not in scripts.hash()


def test_the_first_load_removes_the_ttl_of_a_session_that_never_ends(scripts: Scripts) -> None:
    scripts.create(timeout=0, first=30 * SECOND)
    assert scripts.load(timeout=0)[1] == -1
    assert scripts.pttl() == -1


def test_first_timeout_turned_off_leaves_no_trace_in_live_sessions(scripts: Scripts) -> None:
    scripts.create(first=10 * SECOND)
    scripts.load()
    changes = scripts.changes()
    scripts.load(trigger=SECOND)
    assert scripts.changes() == changes


def test_an_absurdly_long_timeout_is_a_hundred_years(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.load(timeout=2**62)[1] == 3_200_000_000_000


# -- the trigger -------------------------------------------------------------------


@pytest.mark.parametrize("use_ttl", [True, False])
def test_time_line_of_the_predecessors_documentation(scripts: Scripts, use_ttl: bool) -> None:
    """timeout = 1200, timeout_trigger = 600: the table of their README, row by row."""
    timeout, trigger = 1200 * SECOND, 600 * SECOND
    scripts.create(timeout=timeout, use_ttl=use_ttl)
    clock = ends = 0
    seen = []
    for at in (1, 300, 599, 600, 601, 1199, 1200, 1799, 1801):
        pass_time(scripts, (at - clock) * SECOND)
        clock = at
        changes = scripts.changes()
        reply = scripts.load(timeout=timeout, trigger=trigger, use_ttl=use_ttl)
        touched = scripts.changes() != changes
        if touched:
            ends = at + 1200
        seen.append((at, touched))
        assert reply[1] == about(((ends or 1200) - at) * SECOND)
    assert seen == [
        (1, False),
        (300, False),
        (599, False),
        (600, True),
        (601, False),
        (1199, False),
        (1200, True),
        (1799, False),
        (1801, True),
    ]


@pytest.mark.parametrize("use_ttl", [True, False])
def test_trigger_in_real_time(scripts: Scripts, use_ttl: bool) -> None:
    args = {"timeout": 60_000, "trigger": 59_900, "use_ttl": use_ttl}
    begun = scripts.now()
    scripts.create(timeout=60_000, use_ttl=use_ttl)
    changes = scripts.changes()

    def touched() -> bool:
        scripts.load(**args)
        return scripts.changes() != changes

    wait_until(touched)
    assert scripts.now() >= begun + 100


def test_a_read_within_the_trigger_window_leaves_the_ttl_alone(
    scripts: Scripts, redis_client: redis.Redis
) -> None:
    scripts.create()
    pass_time(scripts, 20 * SECOND)
    redis_client.config_resetstat()
    changes = scripts.changes()
    assert scripts.load(trigger=30 * SECOND)[1] == about(40 * SECOND)
    assert scripts.pttl() == about(40 * SECOND)
    assert scripts.changes() == changes
    assert (
        set(redis_client.info("commandstats"))
        & {
            "cmdstat_pexpire",
            "cmdstat_expire",
            "cmdstat_hset",
            "cmdstat_hdel",
            "cmdstat_persist",
        }
        == set()
    )


def test_without_trigger_every_read_touches(scripts: Scripts) -> None:
    scripts.create()
    changes = scripts.changes()
    scripts.load()
    assert scripts.changes() == changes + 1


def test_at_the_trigger_the_session_is_touched(scripts: Scripts) -> None:
    # remaining == trigger can only be caught with a trigger as long as the timeout.
    scripts.create()
    changes = scripts.changes()
    scripts.load(trigger=MINUTE)
    assert scripts.changes() == changes + 1


@pytest.mark.parametrize("use_ttl", [True, False])
@pytest.mark.parametrize("own", [6 * MINUTE, 60 * MINUTE])
def test_trigger_is_a_share_of_the_own_timeout(scripts: Scripts, own: int, use_ttl: bool) -> None:
    args = {"timeout": 20 * MINUTE, "trigger": 15 * MINUTE, "use_ttl": use_ttl}
    scripts.create(timeout=own, adjusted=True, use_ttl=use_ttl)
    pass_time(scripts, own // 4 - 2 * SECOND)
    changes = scripts.changes()
    assert scripts.load(**args)[1] == about(own * 3 // 4 + 2 * SECOND)
    assert scripts.changes() == changes
    pass_time(scripts, 2 * SECOND)
    assert scripts.load(**args)[1] == own


def test_trigger_has_no_share_where_the_default_is_never(scripts: Scripts) -> None:
    scripts.create(timeout=MINUTE, adjusted=True)
    pass_time(scripts, 10 * SECOND)
    assert scripts.load(timeout=0, trigger=SECOND)[1] == MINUTE


@pytest.mark.parametrize(("default", "trigger", "share"), [(20, 10, 30), (20, 5, 15), (0, 10, 60)])
def test_trigger_is_the_same_share_of_the_own_timeout(
    scripts: Scripts, default: int, trigger: int, share: int
) -> None:
    """Where the default is no timeout there is no share, and every read touches."""
    args = {"timeout": default * MINUTE, "trigger": trigger * MINUTE}
    for left, touches in ((share + 1, False), (share - 1, True)):
        scripts.client.delete("s")
        scripts.create(timeout=60 * MINUTE, adjusted=True)
        pass_time(scripts, max(0, 60 - left) * MINUTE)
        changes = scripts.changes()
        scripts.load(**args)
        assert (scripts.changes() != changes) is (touches or share == 60)


@pytest.mark.parametrize(
    "fixed",
    [
        pytest.param({"deadline": 40 * SECOND}, id="deadline"),
        pytest.param({"absolute": 40 * SECOND}, id="absolute timeout"),
    ],
)
@pytest.mark.parametrize("timeout", [MINUTE, 0])
@pytest.mark.parametrize("trigger", ["", 50 * SECOND, SECOND])
@pytest.mark.parametrize("use_ttl", [True, False])
def test_a_fixed_end_is_not_set_again(
    scripts: Scripts, fixed: dict[str, int], timeout: int, trigger: int | str, use_ttl: bool
) -> None:
    deadline = scripts.now() + fixed["deadline"] if "deadline" in fixed else ""
    absolute = fixed.get("absolute", 0)
    scripts.create(timeout=timeout, deadline=deadline, absolute=absolute, use_ttl=use_ttl)
    args = {"timeout": timeout, "absolute": absolute, "trigger": trigger, "use_ttl": use_ttl}
    scripts.load(**args)
    changes = scripts.changes()
    for _ in range(20):
        assert scripts.load(**args)[1] == about(40 * SECOND)
    assert scripts.changes() == changes


@pytest.mark.parametrize("trigger", ["", SECOND])
@pytest.mark.parametrize("use_ttl", [True, False])
def test_a_session_that_never_ends_is_only_read(
    scripts: Scripts, trigger: int | str, use_ttl: bool
) -> None:
    scripts.create(timeout=0, use_ttl=use_ttl)
    changes = scripts.changes()
    assert scripts.load(timeout=0, trigger=trigger, use_ttl=use_ttl)[1] == -1
    assert scripts.changes() == changes


# -- LRU mode and switching --------------------------------------------------------


def test_lru_mode_refreshes_the_field_and_sets_no_ttl(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    pass_time(scripts, 40 * SECOND)
    assert scripts.load(use_ttl=False)[1] == MINUTE
    assert int(scripts.hash()[b"expires"]) - scripts.now() == about(MINUTE)
    assert scripts.pttl() == -1


@pytest.mark.parametrize("use_ttl", [True, False])
def test_expired_field_is_honoured_in_either_mode(scripts: Scripts, use_ttl: bool) -> None:
    scripts.create(use_ttl=False)
    pass_time(scripts, MINUTE)
    assert scripts.load(use_ttl=use_ttl) == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_lru_mode_expires_by_the_clock_of_redis(scripts: Scripts) -> None:
    scripts.create(use_ttl=False, timeout=100)
    wait_until(lambda: scripts.now() > int(scripts.hash()[b"expires"]))
    assert scripts.load(use_ttl=False) == [Status.GONE, 1]


@pytest.mark.parametrize("trigger", ["", 30 * SECOND])
def test_lru_mode_switched_on_moves_the_end_into_the_field(
    scripts: Scripts, trigger: int | str
) -> None:
    scripts.create()
    assert scripts.load(use_ttl=False, trigger=trigger)[1] == MINUTE
    assert scripts.pttl() == -1
    assert int(scripts.hash()[b"expires"]) - scripts.now() == about(MINUTE)
    changes = scripts.changes()
    scripts.load(use_ttl=False, trigger=30 * SECOND)
    assert scripts.changes() == changes


@pytest.mark.parametrize("trigger", ["", 30 * SECOND])
def test_lru_mode_switched_off_moves_the_end_into_the_ttl(
    scripts: Scripts, trigger: int | str
) -> None:
    scripts.create(use_ttl=False)
    assert scripts.load(trigger=trigger)[1] == MINUTE
    assert scripts.pttl() == about(MINUTE)
    assert b"expires" not in scripts.hash()
    changes = scripts.changes()
    scripts.load(trigger=30 * SECOND)
    assert scripts.changes() == changes


def test_lru_mode_and_timeout_switched_off_leave_neither_field_nor_ttl(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    assert scripts.load(timeout=0, use_ttl=False)[1] == -1
    assert set(scripts.hash()) == {b"@"}
    assert scripts.pttl() == -1


def test_lru_mode_switched_off_together_with_the_timeout(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    assert scripts.load(timeout=0, use_ttl=True)[1] == -1
    assert set(scripts.hash()) == {b"@"}
    assert scripts.pttl() == -1


def test_lru_mode_switched_on_together_with_the_timeout_off(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.load(timeout=0, use_ttl=False)[1] == -1
    assert set(scripts.hash()) == {b"@"}
    assert scripts.pttl() == -1


def test_timeout_switched_on_in_lru_mode(scripts: Scripts) -> None:
    scripts.create(timeout=0, use_ttl=False)
    assert scripts.load(use_ttl=False, trigger=SECOND)[1] == MINUTE
    assert int(scripts.hash()[b"expires"]) - scripts.now() == about(MINUTE)
    assert scripts.pttl() == -1


# -- a server that refuses writes --------------------------------------------------


@pytest.mark.parametrize(
    "session",
    [
        pytest.param({}, id="plain"),
        pytest.param({"first": 30 * SECOND}, id="first load"),
        pytest.param({"use_ttl": False}, id="ttl switched on"),
    ],
)
def test_read_goes_on_where_redis_lacks_replicas_for_a_write(
    new_redis_server: Callable[..., RedisServer], session: dict[str, int]
) -> None:
    with new_redis_server().client() as client:
        scripts = Scripts(client)
        scripts.create(fields={b".a": b"1"}, **session)
        client.config_set("min-replicas-to-write", 1)
        status, _, fields = scripts.load()
        assert status is Status.LOADED
        assert fields[b".a"] == b"1"


def test_a_replica_passes_readonly_up(new_redis_server: Callable[..., RedisServer]) -> None:
    primary, replica = new_redis_server(), new_redis_server()
    with primary.client() as first, replica.client() as second:
        Scripts(first).create(fields={b".a": b"1"})
        second.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: second.exists("s"))
        with pytest.raises(redis.ResponseError) as caught:
            Scripts(second).load()
        # Redis 6.2 wraps the error of a script, so that the client does not know its type.
        assert isinstance(caught.value, redis.exceptions.ReadOnlyError) or (
            "READONLY" in str(caught.value)
        )
        assert Scripts(second).load(trigger=SECOND)[0] is Status.LOADED


def test_a_skipped_touch_sends_nothing_to_a_replica(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    # The server pings a replica every ten seconds by default, which would move the offset too.
    primary = new_redis_server(config={"repl-ping-replica-period": 3600})
    replica = new_redis_server()
    with primary.client() as first, replica.client() as second:
        scripts = Scripts(first)
        second.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: second.info("replication")["master_link_status"] == "up")
        scripts.create()

        def offset() -> int:
            return int(first.info("replication")["master_repl_offset"])

        before = offset()
        for _ in range(10):
            scripts.load(trigger=10 * SECOND)
        assert offset() == before
        scripts.load()
        assert offset() > before
