"""stage_save: what a transaction will save is kept from others until it commits, or lapses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import (
    OURS,
    THEIRS,
    Scripts,
    about,
    digest,
    marks,
    names_digest,
)
from tests.support.waiting import wait_until

MINUTE = 60_000
A, B = marks(b".a"), marks(b".b")
FIELDS = {b".a": b"1", b".b": b"2"}


def staged(scripts: Scripts) -> list[tuple[str, int, str, str]]:
    """Each staged save: its id, how long it holds, what it reads, and what it writes."""
    found = []
    for entry in scripts.hash().get(b"staged", b"").decode().split(";")[:-1]:
        stage_id, ends, reads, writes = entry.split(":")
        found.append((stage_id, int(ends) - scripts.now(), reads, writes))
    return found


# -- one stage ---------------------------------------------------------------------


def test_stage_notes_what_is_read_and_written_and_nothing_else(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, timeout=10 * MINUTE)
    before = scripts.hash()
    assert scripts.stage(stage_id="a-_Z9", hold=30_000, reads=A + B, writes=B) == [Status.SAVED]
    assert staged(scripts) == [("a-_Z9", about(30_000), A + B, B)]
    stored = scripts.hash()
    del stored[b"staged"]
    assert stored == before
    assert scripts.pttl() == about(10 * MINUTE)


def test_staging_again_replaces_it(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(hold=30_000, reads="*", writes="*")
    assert scripts.stage(reads=A, writes=B) == [Status.SAVED]
    assert staged(scripts) == [("stage", about(MINUTE), A, B)]


def test_stage_twice_is_one(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    call = {"reads": A, "writes": A, "checks": {b".a": digest(b"1")}, "names": names_digest(FIELDS)}
    for _ in range(2):
        assert scripts.stage(**call) == [Status.SAVED]
        assert staged(scripts) == [("stage", about(MINUTE), A, A)]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param({"checks": {b".a": digest(b"0")}}, id="changed"),
        pytest.param({"checks": {b".a": ""}}, id="there now"),
        pytest.param({"checks": {b".x": "+"}}, id="gone"),
        pytest.param({"checks": {b".a": "+", b".b": digest(b"")}}, id="the last"),
        pytest.param({"names": names_digest([b".a"])}, id="names"),
    ],
)
def test_stage_with_a_check_that_fails_is_a_conflict(scripts: Scripts, call: Any) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="other", reads=A)
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.stage(writes=B, **call) == [Status.CONFLICT]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_stage_never_creates_a_session(scripts: Scripts) -> None:
    for hold in (MINUTE, 0):
        assert scripts.stage(hold=hold, writes="*") == [Status.GONE]
    assert scripts.pttl() == -2


def test_stage_on_a_marker_changes_nothing(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    for hold in (MINUTE, 0):
        status, since = scripts.stage(hold=hold, writes="*")
        assert status is Status.MOVED
        assert 0 <= since < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_another_token_is_told_at_once_also_where_something_is_staged(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(reads="*", writes="*")
    before, changes = scripts.hash(), scripts.changes()
    for call in (scripts.stage, scripts.save):
        reply = call(digest=THEIRS, stage_id="other", reads="*", writes="*")
        assert (reply[0], reply[2]) == (Status.MOVED, 1)
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_staged_session_is_read_refreshed_and_ended_by_anybody(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(reads="*", writes="*")
    assert scripts.load()[0] is Status.LOADED
    assert scripts.adjust(new_timeout=MINUTE)[0] is Status.ADJUSTED
    assert scripts.describe()[0] is Status.LOADED
    assert len(staged(scripts)) == 1
    assert scripts.end() == [Status.ENDED]
    assert set(scripts.hash()) - {b"saves"} == {b"moved"}


# -- two stages --------------------------------------------------------------------

WHAT = {"nothing": "", "a": A, "b": B, "a and b": A + B, "all": "*"}


def meet(ours: str, theirs: str) -> bool:
    if "*" in (ours, theirs):
        return "" not in (ours, theirs)
    return any(mark in theirs for mark in (A, B) if mark in ours)


def clash(ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
    """Whether one writes what the other reads or writes."""
    (reads, writes), (their_reads, their_writes) = ours, theirs
    return meet(writes, their_writes) or meet(writes, their_reads) or meet(reads, their_writes)


@pytest.mark.parametrize("script", ["stage_save", "save_if_changed"])
@pytest.mark.parametrize("theirs", [*itertools.product(WHAT, repeat=2)], ids=" / ".join)
def test_what_intersects_with_what_is_staged_is_busy_and_nothing_else(
    scripts: Scripts, script: str, theirs: tuple[str, str]
) -> None:
    their_reads, their_writes = (WHAT[name] for name in theirs)
    for reads, writes in itertools.product(WHAT.values(), repeat=2):
        scripts.client.delete("s")
        scripts.create(fields=FIELDS)
        scripts.stage(stage_id="theirs", reads=their_reads, writes=their_writes)
        before, changes = scripts.hash(), scripts.changes()
        if script == "stage_save":
            reply = scripts.stage(reads=reads, writes=writes)
        else:
            reply = scripts.save(
                sets={b".a": b"x"}, deletes=[b".b"], new_timeout=MINUTE, reads=reads, writes=writes
            )
        busy = clash((reads, writes), (their_reads, their_writes))
        assert (reply[0] is Status.BUSY) is busy, (reads, writes)
        if busy:
            assert len(reply) == 1
            assert (scripts.hash(), scripts.changes()) == (before, changes)
        else:
            assert reply[0] is Status.SAVED
            assert ("theirs", about(MINUTE), their_reads, their_writes) in staged(scripts)


def test_each_of_several_stages_is_minded(scripts: Scripts) -> None:
    fields = [b".%d" % number for number in range(60)]
    scripts.create(fields=dict.fromkeys(fields, b"0"))
    for number, field in enumerate(fields):
        call = {"stage_id": f"stage{number}", "reads": marks(field), "writes": marks(field)}
        assert scripts.stage(**call) == [Status.SAVED]
    assert len(staged(scripts)) == 60
    for field in fields:
        assert scripts.stage(stage_id="other", writes=marks(field)) == [Status.BUSY]
        assert scripts.save(sets={field: b"1"}, writes=marks(field)) == [Status.BUSY]
    reply = scripts.stage(stage_id="other", reads=marks(b".x"), writes=marks(b".x"))
    assert reply == [Status.SAVED]
    assert scripts.values() == dict.fromkeys(fields, b"0")


def test_of_many_that_stage_the_same_a_single_one_holds(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    replies = [scripts.stage(stage_id=f"s{n}", reads=A, writes=A)[0] for n in range(60)]
    assert replies == [Status.SAVED, *[Status.BUSY] * 59]
    assert [entry[0] for entry in staged(scripts)] == ["s0"]


def test_merge_mode_waits_for_nobody(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(reads="*", writes="*")
    assert scripts.save(sets={b".a": b"x"})[0] is Status.SAVED
    assert len(staged(scripts)) == 1


# -- its end -----------------------------------------------------------------------


def test_save_ends_its_own_stage_and_no_other(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="one", reads=A, writes=A)
    scripts.stage(stage_id="two", reads=B, writes=B)
    call = {"sets": {b".a": b"x"}, "reads": A, "writes": A, "stage_id": "one", "save_id": "save"}
    assert scripts.save(**call)[0] is Status.SAVED
    assert scripts.values() == {**FIELDS, b".a": b"x"}
    assert staged(scripts) == [("two", about(MINUTE), B, B)]
    assert scripts.save(stage_id="two", deletes=[b".b"], writes=B)[0] is Status.SAVED
    assert b"staged" not in scripts.hash()


def test_save_whose_reply_was_lost_is_not_busy_when_others_stage_meanwhile(
    scripts: Scripts,
) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="one", reads=A, writes=A)
    call = {
        "sets": {b".a": b"x"},
        "checks": {b".a": digest(b"1")},
        "reads": A,
        "writes": A,
        "stage_id": "one",
        "save_id": "save",
    }
    scripts.save(**call)
    scripts.stage(stage_id="two", reads=A, writes=A)
    before = scripts.hash()
    assert scripts.save(**call)[0] is Status.SAVED
    assert scripts.hash() == before


@pytest.mark.parametrize("saved", [b"1", b"changed"])
def test_save_whose_stage_lapsed_is_checked_as_any(scripts: Scripts, saved: bytes) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(hold=1, reads=A, writes=A)
    wait_until(lambda: staged(scripts)[0][1] < 0)
    scripts.save(sets={b".a": saved}, reads=A, writes=A)
    call = {"sets": {b".a": b"x"}, "checks": {b".a": digest(b"1")}, "reads": A, "writes": A}
    reply = scripts.save(stage_id="stage", **call)
    assert reply[0] is (Status.SAVED if saved == b"1" else Status.CONFLICT)


def test_save_that_ends_in_conflict_keeps_its_stage(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(reads=A, writes=A)
    before, changes = scripts.hash(), scripts.changes()
    reply = scripts.save(stage_id="stage", checks={b".a": ""}, reads=A, writes=A)
    assert reply == [Status.CONFLICT]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_stage_lapses(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="dead", hold=100, reads=A, writes=A)
    scripts.stage(stage_id="alive", reads=B, writes=B)
    call = {"stage_id": "other", "reads": A, "writes": A}
    wait_until(lambda: scripts.stage(**call) == [Status.SAVED])
    assert {entry[0] for entry in staged(scripts)} == {"other", "alive"}


@pytest.mark.parametrize("script", ["stage_save", "save_if_changed"])
@pytest.mark.parametrize("left", [-(10**12), -1, 0])
def test_stage_that_lapsed_holds_nobody_and_is_removed(
    scripts: Scripts, script: str, left: int
) -> None:
    scripts.create(fields=FIELDS)
    ends = max(0, scripts.now() + left)
    scripts.client.hset("s", "staged", f"dead:{ends}:*:*;mine:{ends + MINUTE}:{A}:{A};")
    if script == "stage_save":
        assert scripts.stage(stage_id="mine", reads="*", writes="*") == [Status.SAVED]
        assert [entry[0] for entry in staged(scripts)] == ["mine"]
    else:
        assert scripts.save(stage_id="mine", reads="*", writes="*")[0] is Status.SAVED
        assert b"staged" not in scripts.hash()


def test_what_is_staged_for_longer_than_a_minute_is_none_of_ours(scripts: Scripts) -> None:
    # The clock was set back, or somebody else wrote it: it must not hold up a session for ever.
    scripts.create(fields=FIELDS)
    for ends in (scripts.now() + 2 * MINUTE, 10**15, "9" * 400):
        scripts.client.hset("s", "staged", f"x:{ends}:*:*;")
        assert scripts.save(reads=A, writes=A)[0] is Status.SAVED
        assert scripts.stage(reads=A, writes=A) == [Status.SAVED]
        assert [entry[0] for entry in staged(scripts)] == ["stage"]


# -- giving up ---------------------------------------------------------------------


def test_stage_that_is_given_up_holds_nobody(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    before = scripts.hash()
    scripts.stage(reads="*", writes="*")
    for _ in range(2):
        assert scripts.stage(hold=0) == [Status.SAVED]
        assert scripts.hash() == before
    assert scripts.stage(stage_id="other", reads="*", writes="*") == [Status.SAVED]


def test_only_the_stage_that_is_given_up_goes(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="one", reads=A, writes=A)
    scripts.stage(stage_id="two", reads=B, writes=B)
    for name in ("on", "one1", "x", ".*", ""):
        scripts.stage(stage_id=name, hold=0)
    assert len(staged(scripts)) == 2
    scripts.stage(stage_id="one", hold=0)
    assert [entry[0] for entry in staged(scripts)] == ["two"]


def test_giving_up_minds_neither_checks_nor_what_others_staged_nor_the_token(
    scripts: Scripts,
) -> None:
    scripts.create(fields=FIELDS)
    scripts.stage(stage_id="one", reads=A, writes=A)
    scripts.stage(stage_id="two", reads=B, writes=B)
    saves = scripts.hash().get(b"saves", b"")
    scripts.renew(sets=FIELDS, loaded_saves=saves)  # in merge mode
    call = {"hold": 0, "reads": "*", "writes": "*", "digest": OURS, "checks": {b".x": "+"}}
    assert scripts.stage(stage_id="one", **call) == [Status.SAVED]
    assert [entry[0] for entry in staged(scripts)] == ["two"]


def test_giving_up_what_is_not_staged_writes_nothing(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    changes = scripts.changes()
    assert scripts.stage(hold=0) == [Status.SAVED]
    assert scripts.changes() == changes


# -- what somebody else wrote ------------------------------------------------------

MALFORMED = [
    *("", " ", ";", ":", ":::;", "x", "x:", "*", "*:*:*:*;", "a:1", "a:99:*:*", "a:nan:*:*;"),
    *("a:-5:*:*;", "a::*:*;", "a:1e300:*:*;", "a b:1:*:*;", "%d%s:%:*:*;", "a:1:zz:*;", "a:1:*;"),
    *("a:9999999999999999:**:*a*;", "\0:1:*:*;", ";;;;", "a" * 1_000_000, "a:1:*:*;" * 10_000),
]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda scripts: scripts.stage(reads=A, writes=A), id="stage"),
        pytest.param(lambda scripts: scripts.stage(reads="*", writes="*"), id="stage all"),
        pytest.param(lambda scripts: scripts.stage(hold=0), id="give up"),
        pytest.param(lambda scripts: scripts.save(reads=A, writes=A), id="save"),
        pytest.param(
            lambda scripts: scripts.save(stage_id="stage", reads="*", writes="*"), id="staged save"
        ),
    ],
)
def test_malformed_stage_holds_nobody_and_is_removed(
    scripts: Scripts, call: Callable[[Scripts], list[Any]]
) -> None:
    for garbage in MALFORMED:
        scripts.client.delete("s")
        scripts.create(fields=FIELDS)
        scripts.client.hset("s", "staged", garbage)
        assert call(scripts)[0] is Status.SAVED, garbage[:80]
        assert scripts.stage(reads=B) == [Status.SAVED]
        assert [entry[0] for entry in staged(scripts)] == ["stage"], garbage[:80]


def test_stages_among_what_is_malformed_are_minded(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    ends = scripts.now() + MINUTE // 2
    scripts.client.hset("s", "staged", f";x::;one:{ends}:{A}:{A};\xff:;two:{ends}:{B}:{B};:")
    for writes in (A, B):
        assert scripts.stage(writes=writes) == [Status.BUSY]
    assert scripts.stage(reads=A) == [Status.BUSY]
    assert scripts.stage(reads=marks(b".x")) == [Status.SAVED]
    assert {entry[0] for entry in staged(scripts)} == {"stage", "one", "two"}
