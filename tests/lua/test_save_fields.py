"""save_fields: does what save_if_changed does where only fields are set and deleted."""

from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored
from tests.support.scripts import OURS, THEIRS, Scripts, about

MINUTE = 60_000


def stored(scripts: Scripts, since: int) -> dict[bytes, bytes]:
    """What is stored, with an end as the life that was left."""
    held = scripts.hash()
    assert held.pop(b"saves")
    if b"expires" in held:
        held[b"expires"] = b"%d" % round((int(held[b"expires"]) - since) / MINUTE)
    return held


@pytest.mark.parametrize("use_ttl", [True, False])
@pytest.mark.parametrize("timeout", [0, 2 * MINUTE])
@pytest.mark.parametrize(
    "session",
    [
        {},
        {"timeout": 0},
        {"use_ttl": False},
        {"timeout": 5 * MINUTE, "adjusted": True},
        {"first": MINUTE},
    ],
)
def test_both_do_the_same(
    scripts: Scripts, session: dict[str, Any], timeout: int, use_ttl: bool
) -> None:
    found = []
    created = scripts.now() - MINUTE
    for save in (scripts.save, scripts.save_fields):
        scripts.client.delete("s")
        scripts.create(fields={b".a": b"1", b".b": b"2"}, created=created, **session)
        scripts.client.hset("s", "@", as_stored(OURS, created, 1))
        since = scripts.now()
        reply = save(
            sets={b".a": b"x", b"#1": b"y"},
            deletes=[b".b", b".missing"],
            timeout=timeout,
            absolute=9 * MINUTE,
            use_ttl=use_ttl,
        )
        assert since <= reply[2] <= scripts.now()
        found.append((reply[0], round(reply[1] / MINUTE), stored(scripts, since)))
        assert scripts.pttl() == (about(reply[1]) if use_ttl else -1)
    assert found[0] == found[1]
    assert scripts.values() == {b".a": b"x", b"#1": b"y"}


def test_what_does_not_live_is_not_created_nor_revived(scripts: Scripts) -> None:
    assert scripts.save_fields(sets={b".a": b"1"}) == [Status.GONE]
    assert scripts.pttl() == -2
    scripts.create(use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.save_fields(sets={b".a": b"1"}) == [Status.GONE, 1]
    assert scripts.pttl() == -2
    scripts.create()
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    status, age = scripts.save_fields(sets={b".a": b"1"}, deletes=[b"moved"])
    assert status is Status.MOVED
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


def test_a_new_token_does_not_stand_over_what_it_saved(scripts: Scripts) -> None:
    scripts.create(fields={b".n": b"0"})
    scripts.save_fields(sets={b".n": b"1"})
    assert scripts.save(sets={b".n": b"0"}, new_digest=THEIRS) == [Status.CONFLICT]
    assert scripts.values() == {b".n": b"1"}


@pytest.mark.parametrize("count", [1, 3_999, 4_000, 4_001, 8_001])
def test_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    old = {b".old%d" % number: b"" for number in range(count)}
    new = {b".new%d" % number: b"%d" % number for number in range(count)}
    scripts.create(fields={**old, b".keep": b"1"})
    assert scripts.save_fields(sets=new, deletes=old)[0] is Status.SAVED
    assert scripts.values() == {**new, b".keep": b"1"}
