"""save_fields: does what save_if_changed does where only fields are set and deleted."""

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored
from tests.support.scripts import OURS, THEIRS, Scripts, about

MINUTE = 60_000


def test_both_do_the_same(scripts: Scripts) -> None:
    found = []
    created = scripts.now() - MINUTE
    for save in (scripts.save, scripts.save_fields):
        scripts.client.delete("s")
        scripts.create(fields={b".a": b"1", b".b": b"2"}, created=created)
        scripts.client.hset("s", "@", as_stored(OURS, created, 1))
        reply = save(
            sets={b".a": b"x", b"#1": b"y"}, deletes=[b".b", b".missing"], timeout=2 * MINUTE
        )
        stored = scripts.hash()
        assert stored.pop(b"saves")
        found.append((reply[:2], stored))
        assert scripts.pttl() == about(2 * MINUTE)
    assert found[0] == found[1]
    assert found[0][0] == [Status.SAVED, 2 * MINUTE]
    assert scripts.values() == {b".a": b"x", b"#1": b"y"}


@pytest.mark.parametrize(
    "own", [{"adjusted": True}, {"deadline": True}, {"first": MINUTE}, {"clocked": True}]
)
def test_lifetimes_of_its_own_stay_as_they_are(scripts: Scripts, own: dict[str, int]) -> None:
    if "deadline" in own:
        own = {"deadline": scripts.now() + MINUTE}
    scripts.create(timeout=MINUTE, **own)
    before = scripts.hash()
    status, remaining = scripts.save_fields(sets={b".a": b"1"}, timeout=9 * MINUTE)
    assert status is Status.SAVED
    assert remaining == about(MINUTE)
    assert scripts.pttl() == about(remaining)
    assert scripts.hash().items() >= {**before, b".a": b"1"}.items()


def test_what_does_not_live_is_not_created_nor_revived(scripts: Scripts) -> None:
    assert scripts.save_fields(sets={b".a": b"1"}) == [Status.GONE]
    assert scripts.pttl() == -2
    scripts.client.hset("s", "other", "x")
    assert scripts.save_fields(sets={b".a": b"1"}) == [Status.GONE]
    assert scripts.hash() == {b"other": b"x"}
    scripts.client.delete("s")
    scripts.create()
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    status, age = scripts.save_fields(sets={b".a": b"1"}, deletes=[b"moved"])
    assert status is Status.MOVED
    assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("owned", [False, True])
def test_under_another_token_nothing_is_written(scripts: Scripts, owned: bool) -> None:
    scripts.create(fields={b"owner": b"ada"} if owned else {}, digest=THEIRS)
    before, changes = scripts.hash(), scripts.changes()
    status, age, whose = scripts.save_fields(sets={b".a": b"1"}, timeout=9 * MINUTE)
    assert (status, whose) == (Status.MOVED, 1 + owned)
    assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_each_recognises_what_the_other_has_saved(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    for number in range(24):
        scripts.save(sets={b".n": b"%d" % number}, save_id=f"i{number}")
        scripts.save_fields(sets={b".n": b"%d" % number}, save_id=f"j{number}")
    before = scripts.hash()
    for number in range(24):
        assert scripts.save_fields(deletes=[b".n"], save_id=f"i{number}")[0] is Status.SAVED
        assert scripts.save(deletes=[b".n"], save_id=f"j{number}")[0] is Status.SAVED
    assert scripts.hash() == before


def test_a_repeated_save_is_recognised_when_the_session_has_ended_or_got_a_token(
    scripts: Scripts,
) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.save_fields(sets={b".n": b"1"}, save_id="one")
    scripts.renew(loaded_saves=scripts.hash()[b"saves"])
    assert scripts.save_fields(sets={b".n": b"2"}, save_id="one")[0] is Status.SAVED
    assert scripts.values() == {b".n": b"1"}
    scripts.end(digest=THEIRS)
    before = scripts.hash()
    assert scripts.save_fields(sets={b".n": b"2"}, save_id="one")[0] is Status.SAVED
    assert scripts.save_fields(sets={b".n": b"2"}, save_id="two")[0] is Status.MOVED
    assert scripts.hash() == before


def test_a_new_token_does_not_stand_over_what_it_saved(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.save_fields(sets={b".n": b"1"})
    assert scripts.renew(sets={b".n": b"0"}) == [Status.CONFLICT]
    assert scripts.values() == {b".n": b"1"}


@pytest.mark.parametrize("count", [1, 3_999, 4_000, 4_001, 8_001])
def test_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    old = {b".old%d" % number: b"" for number in range(count)}
    new = {b".new%d" % number: b"%d" % number for number in range(count)}
    scripts.create(fields={**old, b".keep": b"1"})
    assert scripts.save_fields(sets=new, deletes=old)[0] is Status.SAVED
    assert scripts.values() == {**new, b".keep": b"1"}
