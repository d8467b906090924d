"""save_if_changed: statuses, the effect of every argument, checks, and what never happens."""

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import (
    OURS,
    Scripts,
    about,
    call_id,
    digest,
    marks,
    names_digest,
)
from tests.support.waiting import wait_until

SECOND = 1_000
MINUTE = 60_000


# -- statuses ----------------------------------------------------------------------


def test_save_sets_and_deletes_only_what_it_names(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2", b".c": b"3"})
    before, begun = scripts.hash(), scripts.now()
    status, remaining, now = scripts.save(
        sets={b".a": b"x", b"#1": b"y"}, deletes=[b".b", b".missing"]
    )
    assert (status, remaining) == (Status.SAVED, MINUTE)
    assert begun <= now <= scripts.now()
    held = scripts.hash()
    assert held.pop(b"saves")
    del before[b".b"]
    assert held == {**before, b".a": b"x", b"#1": b"y"}


def test_save_never_creates_a_session(scripts: Scripts) -> None:
    changes = scripts.changes()
    reply = scripts.save(sets={b".a": b"1"}, new_timeout=5, new_deadline=2**42)
    assert reply == [Status.GONE]
    assert scripts.pttl() == -2
    assert scripts.changes() == changes


def test_save_after_an_expiry_changes_nothing(scripts: Scripts) -> None:
    scripts.create(timeout=50)
    wait_until(lambda: scripts.pttl() == -2)
    assert scripts.save(sets={b".a": b"1"}) == [Status.GONE]
    assert scripts.pttl() == -2


@pytest.mark.parametrize("use_ttl", [True, False])
def test_save_past_the_end_in_the_field_removes_the_session(
    scripts: Scripts, use_ttl: bool
) -> None:
    scripts.create(use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.save(sets={b".a": b"1"}, use_ttl=use_ttl) == [Status.GONE, 1]
    assert scripts.save(sets={b".a": b"1"}, use_ttl=use_ttl) == [Status.GONE]
    assert scripts.pttl() == -2


def test_a_new_timeout_or_deadline_does_not_revive_an_expired_session(scripts: Scripts) -> None:
    for change in ({"new_timeout": 0}, {"new_deadline": scripts.now() + MINUTE}):
        scripts.create(use_ttl=False)
        scripts.client.hset("s", "expires", scripts.now() - 1)
        assert scripts.save(sets={b".a": b"1"}, **change) == [Status.GONE, 1]
        assert scripts.pttl() == -2


def test_save_on_a_marker_changes_nothing(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    for end_if_empty in (0, MINUTE):
        status, age = scripts.save(
            sets={b".a": b"2"},
            deletes=[b".b", b"moved"],
            new_timeout=5,
            end_if_empty=end_if_empty,
        )
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


# -- lifetimes ---------------------------------------------------------------------


def test_save_refreshes_the_ttl(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE)
    assert scripts.save(timeout=20 * MINUTE)[1] == 20 * MINUTE
    assert scripts.pttl() == about(20 * MINUTE)


@pytest.mark.parametrize("use_ttl", [True, False])
def test_save_with_timeout_0_removes_ttl_and_end(scripts: Scripts, use_ttl: bool) -> None:
    scripts.create(use_ttl=use_ttl)
    for now in (True, False):
        assert scripts.save(timeout=0, use_ttl=now)[1] == -1
        assert scripts.pttl() == -1
        assert b"expires" not in scripts.hash()


def test_save_switches_to_lru_mode_and_back(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.save(use_ttl=False)[1] == MINUTE
    assert scripts.pttl() == -1
    assert int(scripts.hash()[b"expires"]) - scripts.now() == about(MINUTE)
    assert scripts.save(use_ttl=True)[1] == MINUTE
    assert scripts.pttl() == about(MINUTE)
    assert b"expires" not in scripts.hash()


def test_save_keeps_the_own_timeout(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE, adjusted=True)
    assert scripts.save(timeout=MINUTE)[1] == 10 * MINUTE
    assert scripts.hash()[b"timeout"] == b"600000"


def test_save_sets_a_new_timeout_in_the_same_call(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.save(new_timeout=10 * MINUTE)[1] == 10 * MINUTE
    assert scripts.hash()[b"timeout"] == b"600000"
    assert scripts.pttl() == about(10 * MINUTE)


def test_save_sets_the_timeout_never(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.save(new_timeout=0)[1] == -1
    assert scripts.hash()[b"timeout"] == b"0"
    assert scripts.pttl() == -1


def test_save_sets_and_removes_a_deadline(scripts: Scripts) -> None:
    scripts.create()
    deadline = scripts.now() + 40 * SECOND
    assert scripts.save(new_deadline=deadline)[1] == about(40 * SECOND)
    assert scripts.hash()[b"deadline"] == b"%d" % deadline
    assert scripts.pttl() == about(40 * SECOND)
    assert scripts.save()[1] == about(40 * SECOND)
    assert scripts.save(new_deadline=0)[1] == MINUTE
    assert b"deadline" not in scripts.hash()
    assert scripts.pttl() == about(MINUTE)


def test_save_with_a_deadline_in_the_past_ends_the_session(scripts: Scripts) -> None:
    scripts.create()
    reply = scripts.save(sets={b".a": b"1"}, new_deadline=scripts.now() - 1)
    assert reply[:2] == [Status.SAVED, 0]
    assert scripts.pttl() == -2


def test_save_honours_an_absolute_timeout(scripts: Scripts) -> None:
    scripts.create(created=scripts.now() - 10 * MINUTE)
    assert scripts.save(absolute=10 * MINUTE + 40 * SECOND)[1] == about(40 * SECOND)
    assert scripts.save(sets={b".a": b"1"}, absolute=10 * MINUTE) == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_save_honours_the_first_timeout_until_the_first_load(scripts: Scripts) -> None:
    scripts.create(first=20 * SECOND)
    assert scripts.save()[1] == 20 * SECOND
    assert scripts.hash()[b"first"] == b"20000"
    scripts.load()
    assert scripts.save()[1] == MINUTE


def test_an_absurdly_long_timeout_is_a_hundred_years(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.save(new_timeout=2**62)[1] == 3_200_000_000_000


# -- an empty session --------------------------------------------------------------


def test_emptied_session_ends_and_leaves_a_marker(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"}, first=MINUTE, timeout=MINUTE, adjusted=True)
    reply = scripts.save(deletes=[b".a"], end_if_empty=30 * SECOND, save_id="x")
    assert reply == [Status.EMPTIED]
    assert scripts.hash() == {b"moved": call_id("x") + OURS + b"0"}
    assert scripts.pttl() == about(30 * SECOND)
    # So old that no load takes itself for a request in flight.
    status, age = scripts.load()
    assert status is Status.MOVED
    assert age >= scripts.now() - SECOND


def test_emptied_session_lives_on_when_it_may(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert scripts.save(deletes=[b".a"])[0] is Status.SAVED
    assert set(scripts.hash()) == {b"@", b"saves"}


@pytest.mark.parametrize("left", [b".b", b"#1", b"~q\x1fid", b"owner", b"label"])
def test_session_is_not_emptied_while_another_request_added_a_value(
    scripts: Scripts, left: bytes
) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={left: b"2"})
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE)[0] is Status.SAVED
    assert set(scripts.hash()) == {b"@", b"saves", left}


def test_session_is_not_emptied_when_the_save_sets_a_value(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    reply = scripts.save(deletes=[b".a"], sets={b".b": b"2"}, end_if_empty=MINUTE)
    assert reply[0] is Status.SAVED
    assert scripts.values() == {b".b": b"2"}


@pytest.mark.parametrize("saves", [1, 8, 9, 17, 96, 97, 105, 300])
def test_session_with_every_field_of_the_scripts_counts_as_empty(
    scripts: Scripts, saves: int
) -> None:
    scripts.create(
        fields={b".a": b"1"},
        created=scripts.now() - MINUTE,
        adjusted=True,
        deadline=scripts.now() + MINUTE,
        first=MINUTE,
        use_ttl=False,
    )
    scripts.stage(reads=marks(b".other"), writes=marks(b".other"))
    for _ in range(saves):
        scripts.save(use_ttl=False, remember=60)
    held = {b"@", b"timeout", b"deadline", b"expires", b"first", b"staged"}
    rings = {b"saves%d" % number for number in range(1, min(12, (saves - 1) // 8) + 1)}
    assert set(scripts.hash()) == held | {b"saves", b".a"} | rings
    reply = scripts.save(deletes=[b".a"], end_if_empty=MINUTE, use_ttl=False, stage_id="stage")
    assert reply == [Status.EMPTIED]
    assert set(scripts.hash()) - {b"saves"} == {b"moved"}


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("claimed", [False, True])
def test_session_is_not_ended_while_it_is_empty_and_another_has_staged(
    scripts: Scripts, retry: bool, claimed: bool
) -> None:
    scripts.create(fields={b".a": b"1"})
    mark = "*" if claimed else marks(b".b")
    scripts.stage(stage_id="other", reads=mark, writes=mark)
    emptying = {"deletes": [b".a"], "end_if_empty": MINUTE, "stage_id": "own"}
    if retry:
        emptying["writes"] = marks(b".a")
    reply = scripts.save(**emptying)
    if retry and claimed:
        assert reply == [Status.BUSY]
        return
    assert reply[0] is Status.SAVED
    assert set(scripts.hash()) == {b"@", b"saves", b"staged"}
    saved = scripts.save(sets={b".b": b"2"}, writes=marks(b".b"), stage_id="other")
    assert saved[0] is Status.SAVED
    assert scripts.values() == {b".b": b"2"}
    assert b"staged" not in scripts.hash()


def test_session_is_emptied_where_what_was_staged_has_lapsed(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.client.hset("s", "staged", f"dead:{scripts.now() - 1}:*:*;")
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE) == [Status.EMPTIED]


def test_emptied_twice_is_emptied_once(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="x")
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="x") == [Status.EMPTIED]
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="y")[0] is Status.MOVED
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("how", ["value", "names"])
def test_what_was_read_of_a_session_that_emptied_itself_is_a_conflict(
    scripts: Scripts, how: str
) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="x")
    before, changes = scripts.hash(), scripts.changes()
    call = {"checks": {b".a": "+"}} if how == "value" else {"names": names_digest([b".a"])}
    assert scripts.save(sets={b".b": b"1"}, **call) == [Status.CONFLICT]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


# -- a repeated call ---------------------------------------------------------------


@pytest.mark.parametrize("retry", [False, True])
def test_save_twice_is_one_save(scripts: Scripts, retry: bool) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2"})
    deadline = scripts.now() + 40 * SECOND
    checks = {b".a": digest(b"1"), b".b": "+", b".c": ""} if retry else {}
    call = {
        "sets": {b".a": b"x", b".c": b"y"},
        "deletes": [b".b"],
        "new_timeout": 10 * MINUTE,
        "new_deadline": deadline,
        "checks": checks,
        "names": names_digest([b".a", b".b"]) if retry else "",
        "save_id": "one",
    }
    assert scripts.save(**call)[:2] == [Status.SAVED, about(40 * SECOND)]
    once = scripts.hash()
    assert scripts.save(**call)[:2] == [Status.SAVED, about(40 * SECOND)]
    assert scripts.hash() == once
    assert scripts.values() == {b".a": b"x", b".c": b"y"}
    assert scripts.pttl() == about(40 * SECOND)


@pytest.mark.parametrize("retry", [False, True])
def test_repeated_save_does_not_undo_what_came_in_between(scripts: Scripts, retry: bool) -> None:
    scripts.create(fields={b".a": b"1", b".gone": b"1"})
    call = {
        "sets": {b".a": b"2", b".late": b"1"},
        "deletes": [b".gone"],
        "new_timeout": 2 * MINUTE,
        "new_deadline": 0,
        "checks": {b".a": digest(b"1")} if retry else {},
        "save_id": "one",
    }
    assert scripts.save(**call)[:2] == [Status.SAVED, 2 * MINUTE]
    deadline = scripts.now() + 4 * MINUTE
    scripts.save(
        sets={b".a": b"3", b".gone": b"2"},
        deletes=[b".late"],
        new_timeout=3 * MINUTE,
        new_deadline=deadline,
    )
    before = scripts.hash()
    assert scripts.save(**call)[:2] == [Status.SAVED, 3 * MINUTE]
    assert scripts.hash() == before
    assert scripts.values() == {b".a": b"3", b".gone": b"2"}


def test_equal_bytes_are_a_conflict_when_another_call_wrote_them(scripts: Scripts) -> None:
    # Two requests that both count 5 to 6: the second must count again.
    scripts.create(fields={b".n": b"5"})
    call = {"sets": {b".n": b"6"}, "checks": {b".n": digest(b"5")}}
    assert scripts.save(save_id="one", **call)[0] is Status.SAVED
    assert scripts.save(save_id="two", **call) == [Status.CONFLICT]


def test_a_save_repeated_after_a_new_token_was_saved(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={b".a": b"2"}, save_id="one")
    saves = scripts.hash()[b"saves"]
    scripts.renew(sets={b".a": b"2"}, loaded_saves=saves)
    before = scripts.hash()
    assert scripts.save(sets={b".a": b"2"}, save_id="one")[0] is Status.SAVED
    assert scripts.save(sets={b".a": b"2"}, save_id="two")[0] is Status.MOVED
    assert scripts.hash() == before


# -- checks ------------------------------------------------------------------------

HELD = {b".a": b"1", b".b": b"", b"#1": b"2"}


@pytest.mark.parametrize(
    ("checks", "holds"),
    [
        pytest.param({b".x": ""}, True, id="absent, and is"),
        pytest.param({b".a": ""}, False, id="absent, but there"),
        pytest.param({b".b": ""}, False, id="absent, but there with an empty value"),
        pytest.param({b".a": "+"}, True, id="present, and is"),
        pytest.param({b".b": "+"}, True, id="present, with an empty value"),
        pytest.param({b".x": "+"}, False, id="present, but is not"),
        pytest.param({b".a": digest(b"1")}, True, id="the same"),
        pytest.param({b".b": digest(b"")}, True, id="the same empty value"),
        pytest.param({b".a": digest(b"2")}, False, id="changed"),
        pytest.param({b".x": digest(b"")}, False, id="was empty, is gone"),
        pytest.param({b".a": digest(b"1"), b".b": "+", b".x": ""}, True, id="all hold"),
        pytest.param({b".a": digest(b"1"), b".b": "+", b"#1": ""}, False, id="the last fails"),
        pytest.param({b".a": "", b".b": "+", b"#1": digest(b"2")}, False, id="the first fails"),
        pytest.param({b".%d" % n: "" for n in range(10_000)}, True, id="very many"),
    ],
)
def test_checks_of_values(scripts: Scripts, checks: dict[bytes, str], holds: bool) -> None:
    scripts.create(fields=HELD)
    before, changes = scripts.hash(), scripts.changes()
    reply = scripts.save(
        sets={b".new": b"1"},
        deletes=[b".a"],
        new_timeout=5 * MINUTE,
        checks=checks,
        end_if_empty=MINUTE,
    )
    if holds:
        assert reply[:2] == [Status.SAVED, 5 * MINUTE]
        assert scripts.values() == {b".b": b"", b"#1": b"2", b".new": b"1"}
    else:
        assert reply == [Status.CONFLICT]
        assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize(
    ("names", "holds"),
    [
        pytest.param(list(HELD), True, id="the same"),
        pytest.param(list(HELD)[::-1], True, id="in another order"),
        pytest.param([*HELD, b".x"], False, id="one is gone"),
        pytest.param(list(HELD)[1:], False, id="one was added"),
        pytest.param([b".a", b".b", b"#2"], False, id="one for another"),
        pytest.param([], False, id="was empty"),
    ],
)
def test_check_of_the_names(scripts: Scripts, names: list[bytes], holds: bool) -> None:
    scripts.create(fields=HELD, first=MINUTE)
    scripts.save(save_id="before")
    before, changes = scripts.hash(), scripts.changes()
    reply = scripts.save(sets={b".new": b"1"}, names=names_digest(names))
    if holds:
        assert reply[0] is Status.SAVED
        assert b".new" in scripts.hash()
    else:
        assert reply == [Status.CONFLICT]
        assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_check_of_the_names_of_an_empty_session(scripts: Scripts) -> None:
    scripts.create()
    assert scripts.save(names="0:0")[0] is Status.SAVED
    scripts.save(sets={b".a": b"1"})
    assert scripts.save(names="0:0") == [Status.CONFLICT]


def test_check_of_the_names_counts_flash_messages_but_nothing_of_the_scripts(
    scripts: Scripts,
) -> None:
    fields = {b".a": b"1", b"~q\x1f1": b"m", b"~\x1f2": b"m"}
    scripts.create(fields=fields, adjusted=True, deadline=scripts.now() + MINUTE)
    assert scripts.save(names=names_digest(fields))[0] is Status.SAVED
    scripts.save(sets={b"~q\x1f3": b"m"})
    assert scripts.save(names=names_digest(fields)) == [Status.CONFLICT]


def test_check_of_very_many_names(scripts: Scripts) -> None:
    fields = {b".%d" % number: b"" for number in range(10_000)}
    scripts.create(fields=fields)
    assert scripts.save(names=names_digest(fields))[0] is Status.SAVED


# -- many fields -------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3_999, 4_000, 4_001, 8_001, 20_000])
def test_save_takes_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    old = {b".old%d" % number: b"" for number in range(count)}
    new = {b".new%d" % number: b"%d" % number for number in range(count)}
    scripts.create(fields={**old, b".keep": b"1"})
    checks = dict.fromkeys(old, "+")
    assert scripts.save(sets=new, deletes=old, checks=checks)[0] is Status.SAVED
    assert scripts.values() == {**new, b".keep": b"1"}


def test_values_that_look_like_arguments_stay_values(scripts: Scripts) -> None:
    sets = {b".a": b"", b".\x00\n": b"\xff\x00"}
    scripts.create()
    scripts.save(sets=sets, checks={b"": "", b"+": ""}, deletes=[b"", b"+", b"1"])
    assert scripts.values() == sets
