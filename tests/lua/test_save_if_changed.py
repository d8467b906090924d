"""save_if_changed: statuses, the effect of every argument, checks, and what never happens."""

import re

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about, digest, names_digest
from tests.support.waiting import wait_until

SECOND = 1_000
MINUTE = 60_000


def values(scripts: Scripts) -> dict[bytes, bytes]:
    """The session's values, without what the scripts keep about it."""
    return {name: value for name, value in scripts.hash().items() if name[:1] in (b".", b"~", b"#")}


# -- statuses ----------------------------------------------------------------------


def test_save_sets_and_deletes_only_what_it_names(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2", b".c": b"3"})
    created = scripts.hash()[b"created"]
    reply = scripts.save(sets={b".a": b"x", b"#1": b"y"}, deletes=[b".b", b".missing"])
    assert reply == [Status.SAVED, MINUTE]
    held = scripts.hash()
    assert held.pop(b"saves")
    assert held == {b"created": created, b".a": b"x", b"#1": b"y", b".c": b"3"}


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


@pytest.mark.parametrize("keep_fields", [False, True])
def test_save_on_a_marker_changes_nothing(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end(keep_fields=keep_fields)
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
    assert scripts.save(sets={b".a": b"1"}, new_deadline=scripts.now() - 1) == [Status.SAVED, 0]
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
    assert scripts.hash() == {b"moved": b"0 x"}
    assert scripts.pttl() == about(30 * SECOND)
    # So old that no load takes itself for a request in flight.
    status, age = scripts.load()
    assert status is Status.MOVED
    assert age >= scripts.now() - SECOND


def test_emptied_session_lives_on_when_it_may(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert scripts.save(deletes=[b".a"])[0] is Status.SAVED
    assert set(scripts.hash()) == {b"created", b"saves"}


@pytest.mark.parametrize("left", [b".b", b"#1", b"~q\x1fid"])
def test_session_is_not_emptied_while_another_request_added_a_value(
    scripts: Scripts, left: bytes
) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={left: b"2"})
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE)[0] is Status.SAVED
    assert set(values(scripts)) == {left}


def test_session_is_not_emptied_when_the_save_sets_a_value(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    reply = scripts.save(deletes=[b".a"], sets={b".b": b"2"}, end_if_empty=MINUTE)
    assert reply[0] is Status.SAVED
    assert values(scripts) == {b".b": b"2"}


def test_session_with_every_field_of_the_scripts_counts_as_empty(scripts: Scripts) -> None:
    scripts.create(
        fields={b".a": b"1"},
        created=scripts.now() - MINUTE,
        adjusted=True,
        deadline=scripts.now() + MINUTE,
        first=MINUTE,
        use_ttl=False,
    )
    scripts.save(use_ttl=False, save_id="one")
    times = {b"created", b"token", b"timeout", b"deadline", b"expires", b"first"}
    assert set(scripts.hash()) == times | {b"saves", b".a"}
    reply = scripts.save(deletes=[b".a"], end_if_empty=MINUTE, use_ttl=False, save_id="two")
    assert reply == [Status.EMPTIED]
    assert set(scripts.hash()) == {b"moved", b"saves"}


def test_messages_sort_in_the_order_of_their_saves(scripts: Scripts) -> None:
    scripts.create()
    names = [b"~\x1f%d" % n for n in range(30)]
    for part in (names[:10], names[10:11], names[11:]):
        scripts.save(sets=dict.fromkeys(part, b"\xff" * 9 + b"sealed"), save_id=f"s{len(part)}")
    stored = values(scripts)
    assert sorted(names, key=lambda name: stored[name]) == names
    assert {value[9:] for value in stored.values()} == {b"sealed"}
    scripts.save(sets={names[0]: b"\xff" * 9 + b"sealed"}, save_id="s10")  # a reply was lost
    assert values(scripts) == stored


def test_emptied_twice_is_emptied_once(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="x")
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="x") == [Status.EMPTIED]
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="y")[0] is Status.MOVED
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
    assert scripts.save(**call) == [Status.SAVED, about(40 * SECOND)]
    once = scripts.hash()
    assert scripts.save(**call) == [Status.SAVED, about(40 * SECOND)]
    assert scripts.hash() == once
    assert values(scripts) == {b".a": b"x", b".c": b"y"}
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
    assert scripts.save(**call) == [Status.SAVED, 2 * MINUTE]
    deadline = scripts.now() + 4 * MINUTE
    scripts.save(
        sets={b".a": b"3", b".gone": b"2"},
        deletes=[b".late"],
        new_timeout=3 * MINUTE,
        new_deadline=deadline,
    )
    before = scripts.hash()
    assert scripts.save(**call) == [Status.SAVED, 3 * MINUTE]
    assert scripts.hash() == before
    assert values(scripts) == {b".a": b"3", b".gone": b"2"}


def test_equal_bytes_are_a_conflict_when_another_call_wrote_them(scripts: Scripts) -> None:
    # Two requests that both count 5 to 6: the second must count again.
    scripts.create(fields={b".n": b"5"})
    call = {"sets": {b".n": b"6"}, "checks": {b".n": digest(b"5")}}
    assert scripts.save(save_id="one", **call)[0] is Status.SAVED
    assert scripts.save(save_id="two", **call) == [Status.CONFLICT]


def remembered(scripts: Scripts) -> list[bytes]:
    saves = re.split(rb"[\x80-\xff]", scripts.hash()[b"saves"])
    assert saves.pop() == b""  # a moment ends each
    return [save.partition(b":")[0] for save in saves]


def test_a_save_is_remembered_for_the_time_given_and_no_longer(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    now = scripts.now() // 1000
    saves = b"".join(b"s%d%c" % (age, 128 + (now - age) % 128) for age in (1, 25, 35, 120))
    scripts.client.hset("s", "saves", saves)
    assert scripts.save(save_id="new", remember=30)[0] is Status.SAVED
    assert remembered(scripts) == [b"new", b"s1", b"s25"]


def test_saves_of_a_storm_are_all_remembered_up_to_a_hundred(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    for number in range(120):
        scripts.save(sets={b".n": b"%d" % number}, save_id=f"id{number}", remember=60)
    assert remembered(scripts) == [b"id%d" % number for number in range(119, 19, -1)]
    scripts.save(sets={b".n": b"again"}, save_id="id20")
    assert values(scripts) == {b".n": b"119"}


def test_a_session_saved_now_and_then_stays_small(scripts: Scripts) -> None:
    """Every byte of a hash counts, and a value over 64 bytes unpacks its listpack."""
    scripts.create(fields={b".n": b"0"})
    for number in range(6):
        scripts.save(sets={b".n": b"%d" % number}, save_id=f"idof8by{number}")
    assert len(scripts.hash()[b"saves"]) <= 64


def test_a_save_id_within_another_is_another(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.save(save_id="abc")
    for save_id in ("ab", "bc", "b", "%w+", ".*"):
        reply = scripts.save(checks={b".n": digest(b"-")}, save_id=save_id)
        assert reply == [Status.CONFLICT]


@pytest.mark.parametrize("undoable", [0, 1])
def test_save_returns_what_it_replaced_only_where_it_is_asked(
    scripts: Scripts, undoable: int
) -> None:
    scripts.create(fields={b".a": b"1"})
    assert scripts.save(sets={b".a": b"2"}, undoable=undoable) == [Status.SAVED, MINUTE]


def test_save_returns_what_it_replaced(scripts: Scripts) -> None:
    deadline = scripts.now() + MINUTE
    scripts.create(fields={b".a": b"1", b".b": b"2"}, adjusted=True, deadline=deadline)
    call = {
        "sets": {b".a": b"x", b".new": b"y"},
        "deletes": [b".b", b".missing"],
        "new_timeout": 2 * MINUTE,
        "new_deadline": 0,
        "undoable": 2,
        "save_id": "one",
    }
    replaced = [b"2", None, b"1", None, b"60000", b"%d" % deadline]
    assert scripts.save(**call) == [Status.SAVED, 2 * MINUTE, replaced]
    # What it was before is forgotten: the second call must not say that it was this.
    assert scripts.save(**call) == [Status.SAVED, 2 * MINUTE]


def test_save_returns_what_it_replaced_of_very_many_fields(scripts: Scripts) -> None:
    fields = {b".%d" % number: b"%d" % number for number in range(10_000)}
    scripts.create(fields=fields)
    reply = scripts.save(sets=dict.fromkeys(fields, b"x"), undoable=2)
    assert reply[2] == [*fields.values(), None, None]


@pytest.mark.parametrize("how", ["regenerated", "ended", "emptied"])
def test_a_save_repeated_after_the_session_was(scripts: Scripts, how: str) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={b".a": b"2"}, save_id="one")
    if how == "emptied":
        scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="three")
    else:
        scripts.end(keep_fields=how == "regenerated")
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
        assert reply == [Status.SAVED, 5 * MINUTE]
        assert values(scripts) == {b".b": b"", b"#1": b"2", b".new": b"1"}
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
    assert values(scripts) == {**new, b".keep": b"1"}


def test_values_that_look_like_arguments_stay_values(scripts: Scripts) -> None:
    sets = {b".a": b"", b"created": b"x", b".\x00\n": b"\xff\x00"}
    del sets[b"created"]
    scripts.create()
    scripts.save(sets=sets, checks={b"": "", b"+": ""}, deletes=[b"", b"+", b"1"])
    assert values(scripts) == sets
