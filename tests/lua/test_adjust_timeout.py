"""adjust_timeout: statuses, and the lifetimes that it sets."""

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import THEIRS, Scripts, about

SECOND = 1_000
MINUTE = 60_000


def test_adjust_sets_the_own_timeout_and_leaves_the_data(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    before = scripts.hash()
    assert scripts.adjust(new_timeout=10 * MINUTE) == [Status.ADJUSTED, 10 * MINUTE]
    held = scripts.hash()
    assert held.pop(b"saves")
    assert held == {**before, b"timeout": b"600000", b"@": before[b"@"] + b"-"}
    assert scripts.pttl() == about(10 * MINUTE)


def test_adjust_to_never_removes_the_ttl(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.adjust(new_timeout=0) == [Status.ADJUSTED, -1]
    assert scripts.hash()[b"timeout"] == b"0"
    assert scripts.pttl() == -1


def test_adjust_from_never_sets_a_ttl(scripts: Scripts) -> None:
    scripts.create(timeout=0, adjusted=True)
    assert scripts.adjust(new_timeout=MINUTE) == [Status.ADJUSTED, MINUTE]
    assert scripts.pttl() == about(MINUTE)


def test_adjust_sets_and_removes_a_deadline(scripts: Scripts) -> None:
    scripts.create()
    deadline = scripts.now() + 40 * SECOND
    assert scripts.adjust(new_deadline=deadline)[1] == about(40 * SECOND)
    assert scripts.hash()[b"deadline"] == b"%d" % deadline
    assert scripts.pttl() == about(40 * SECOND)
    assert scripts.adjust(new_deadline=0)[1] == MINUTE
    assert b"deadline" not in scripts.hash()
    assert scripts.pttl() == about(MINUTE)


def test_adjust_with_a_deadline_in_the_past_ends_the_session(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.adjust(new_deadline=scripts.now() - 1) == [Status.ADJUSTED, 0]
    assert scripts.pttl() == -2


def test_adjust_sets_timeout_and_deadline_together(scripts: Scripts) -> None:
    scripts.create()
    deadline = scripts.now() + 20 * MINUTE
    assert scripts.adjust(new_timeout=10 * MINUTE, new_deadline=deadline)[1] == 10 * MINUTE
    assert {b"timeout", b"deadline"} <= set(scripts.hash())
    assert scripts.adjust(new_timeout=30 * MINUTE)[1] == about(20 * MINUTE)


def test_adjust_with_nothing_to_change_only_refreshes(scripts: Scripts) -> None:
    scripts.create(timeout=MINUTE)
    before = scripts.hash()
    assert scripts.adjust(timeout=10 * MINUTE) == [Status.ADJUSTED, 10 * MINUTE]
    assert scripts.hash() == before
    assert scripts.pttl() == about(10 * MINUTE)


def test_adjust_honours_what_the_session_has_of_its_own(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE, adjusted=True)
    assert scripts.adjust(timeout=MINUTE)[1] == 10 * MINUTE
    scripts.adjust(new_deadline=scripts.now() + 2 * MINUTE)
    assert scripts.adjust(timeout=MINUTE)[1] == about(2 * MINUTE)


def test_adjust_honours_the_first_timeout_until_the_first_load(scripts: Scripts) -> None:
    scripts.create(first=20 * SECOND)
    assert scripts.adjust(new_timeout=10 * MINUTE)[1] == 20 * SECOND
    scripts.load()
    assert scripts.adjust()[1] == 10 * MINUTE


def test_adjust_honours_an_absolute_timeout(scripts: Scripts) -> None:
    scripts.create(created=scripts.now() - 10 * MINUTE)
    assert scripts.adjust(absolute=10 * MINUTE + 40 * SECOND)[1] == about(40 * SECOND)
    assert scripts.adjust(absolute=10 * MINUTE) == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_adjust_in_lru_mode_sets_the_field_and_no_ttl(scripts: Scripts) -> None:
    scripts.create(use_ttl=False)
    assert scripts.adjust(new_timeout=10 * MINUTE, use_ttl=False)[1] == 10 * MINUTE
    assert int(scripts.hash()[b"expires"]) - scripts.now() == about(10 * MINUTE)
    assert scripts.pttl() == -1
    assert scripts.adjust(new_timeout=0, use_ttl=False)[1] == -1
    assert b"expires" not in scripts.hash()


def test_adjust_switches_to_lru_mode_and_back(scripts: Scripts) -> None:
    scripts.create()
    scripts.adjust(use_ttl=False)
    assert b"expires" in scripts.hash()
    assert scripts.pttl() == -1
    scripts.adjust(use_ttl=True)
    assert b"expires" not in scripts.hash()
    assert scripts.pttl() == about(MINUTE)


def test_adjust_of_nothing_creates_nothing(scripts: Scripts) -> None:
    changes = scripts.changes()
    assert scripts.adjust(new_timeout=MINUTE, new_deadline=2**42) == [Status.GONE]
    assert scripts.pttl() == -2
    assert scripts.changes() == changes


@pytest.mark.parametrize("use_ttl", [True, False])
def test_adjust_does_not_revive_a_session_past_its_end(scripts: Scripts, use_ttl: bool) -> None:
    for change in ({}, {"new_timeout": 0}, {"new_deadline": scripts.now() + MINUTE}):
        scripts.create(use_ttl=False)
        scripts.client.hset("s", "expires", scripts.now() - 1)
        assert scripts.adjust(use_ttl=use_ttl, **change) == [Status.GONE, 1]
        assert scripts.pttl() == -2


def test_adjust_on_a_marker_changes_nothing(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    for change in ({}, {"new_timeout": 0}, {"new_deadline": scripts.now() - 1}):
        status, age = scripts.adjust(**change)
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
        assert len(scripts.adjust(digest=THEIRS, **change)) == 2
    assert (scripts.hash(), scripts.changes()) == (before, changes)
    assert scripts.pttl() == about(MINUTE)


@pytest.mark.parametrize("use_ttl", [True, False])
def test_adjust_twice_is_one_adjustment(scripts: Scripts, use_ttl: bool) -> None:
    scripts.create(use_ttl=use_ttl)
    call = {
        "new_timeout": 10 * MINUTE,
        "new_deadline": scripts.now() + 40 * SECOND,
        "use_ttl": use_ttl,
        "save_id": "one",
    }
    for _ in range(2):
        assert scripts.adjust(**call) == [Status.ADJUSTED, about(40 * SECOND)]
        assert scripts.hash()[b"timeout"] == b"600000"
        assert scripts.hash()[b"deadline"] == b"%d" % call["new_deadline"]


def test_repeated_adjustment_does_not_undo_what_came_in_between(scripts: Scripts) -> None:
    scripts.create()
    call = {"new_timeout": 10 * MINUTE, "new_deadline": scripts.now() + MINUTE, "save_id": "one"}
    scripts.adjust(**call)
    scripts.adjust(new_timeout=20 * MINUTE)
    scripts.save(new_deadline=0)
    before = scripts.hash()
    assert scripts.adjust(**call) == [Status.ADJUSTED, 20 * MINUTE]
    assert scripts.hash() == before


@pytest.mark.parametrize("first", ["save", "adjust"])
def test_saves_and_adjustments_are_remembered_together(scripts: Scripts, first: str) -> None:
    scripts.create()
    calls = {
        "save": lambda: scripts.save(sets={b".a": b"1"}, save_id="save"),
        "adjust": lambda: scripts.adjust(new_timeout=MINUTE, save_id="adjust"),
    }
    calls.pop(first)()
    calls.popitem()[1]()
    scripts.save(sets={b".a": b"2"}, new_timeout=2 * MINUTE)
    scripts.save(sets={b".a": b"1"}, save_id="save")
    scripts.adjust(new_timeout=MINUTE, save_id="adjust")
    assert scripts.hash()[b".a"] == b"2"
    assert scripts.hash()[b"timeout"] == b"120000"


def test_an_absurdly_long_timeout_is_a_hundred_years(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.adjust(new_timeout=2**62)[1] == 3_200_000_000_000


def test_adjustments_and_saves_in_a_storm_are_remembered_together(scripts: Scripts) -> None:
    scripts.create()
    for number in range(24):
        scripts.adjust(new_timeout=MINUTE + number, save_id=f"a{number}", remember=60)
        scripts.save(sets={b".a": b"%d" % number}, save_id=f"s{number}", remember=60)
    before = scripts.hash()
    for number in range(24):
        scripts.adjust(new_timeout=5, save_id=f"a{number}", remember=60)
        scripts.save(sets={b".a": b"again"}, save_id=f"s{number}", remember=60)
    assert scripts.hash() == before


def test_adjust_with_nothing_to_change_is_not_remembered(scripts: Scripts) -> None:
    # It can be repeated without harm, and is what keeps a session alive.
    scripts.create()
    scripts.adjust(save_id="one")
    assert b"saves" not in scripts.hash()


@pytest.mark.parametrize("script", ["adjust", "save"])
def test_own_timeout_gives_way_to_the_default_again(scripts: Scripts, script: str) -> None:
    scripts.create(fields={b".a": b"1"}, timeout=5 * MINUTE, adjusted=True)
    assert scripts.hash()[b"timeout"] == b"%d" % (5 * MINUTE)
    assert getattr(scripts, script)(new_timeout=-1)[1] == MINUTE
    assert b"timeout" not in scripts.hash()
    assert scripts.pttl() == about(MINUTE)
