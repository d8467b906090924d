"""revive_session: takes back an ending, only for the call that ended the session."""

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000
FIELDS = {b".a": b"1", b"~q\x1fid": b"2"}


@pytest.mark.parametrize(
    "session", [{}, {"timeout": 0}, {"use_ttl": False}, {"timeout": 5 * MINUTE, "adjusted": True}]
)
def test_revived_session_is_as_it_was(scripts: Scripts, session: dict[str, int]) -> None:
    scripts.create(fields=FIELDS, **session)
    before, ttl = scripts.hash(), scripts.pttl()
    scripts.end(nonce="x", keep_fields=True, marker=10 * MINUTE)
    assert scripts.revive(nonce="x") == [Status.LOADED]
    held = scripts.hash()
    assert held.pop(b"saves")
    assert held == before
    assert scripts.pttl() == (-1 if ttl == -1 else about(ttl))


def test_revive_twice_is_one_revival(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.end(nonce="x", keep_fields=True)
    scripts.revive(nonce="x")
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.revive(nonce="x") == [Status.LOADED]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("keep_fields", [False, True])
@pytest.mark.parametrize("came_before", [False, True])
def test_an_ending_that_was_taken_back_ends_nothing_when_it_comes_late(
    scripts: Scripts, came_before: bool, keep_fields: bool
) -> None:
    scripts.create(fields=FIELDS)
    if came_before:  # it is a repetition that is late
        scripts.end(nonce="x", keep_fields=True)
    assert scripts.revive(nonce="x") == [Status.LOADED]
    scripts.save(save_id="later", sets={b".a": b"2"})
    assert scripts.end(nonce="x", keep_fields=keep_fields) == [Status.GONE]
    assert scripts.load()[0] is Status.LOADED
    assert scripts.end(nonce="y", keep_fields=keep_fields)[0] is Status.ENDED


def test_an_ending_that_was_taken_back_is_known_however_many_saves_there_are(
    scripts: Scripts,
) -> None:
    scripts.create(fields=FIELDS)
    for number in range(20):
        fields = {b".f%d" % n: b"%d" % number for n in range(20)}
        scripts.save(save_id=f"save{number}", sets=fields, undoable=1)
    assert len(scripts.hash()[b"saves"]) > 1000
    assert scripts.revive(nonce="x") == [Status.LOADED]
    assert scripts.end(nonce="x") == [Status.GONE]
    # Those that are remembered are whole: the last one is.
    assert scripts.save(save_id="save19", sets={b".f1": b"again"})[0] is Status.SAVED
    assert scripts.hash()[b".f1"] == b"19"


def test_endings_taken_back_do_not_pile_up(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    for number in range(300):
        assert scripts.revive(nonce=f"nonce{number:03}") == [Status.LOADED]
    assert len(scripts.hash()[b"saves"]) < 1100


@pytest.mark.parametrize("keep_fields", [False, True])
def test_an_ending_by_another_call_stands(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields=FIELDS)
    scripts.end(nonce="one", keep_fields=keep_fields)
    before, changes = scripts.hash(), scripts.changes()
    for nonce in ("two", "", "on", "one1", ".*"):
        assert scripts.revive(nonce=nonce) == [Status.GONE]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_an_ending_that_kept_no_fields_stands(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.end(nonce="x")
    assert scripts.revive(nonce="x") == [Status.GONE]
    assert scripts.load()[0] is Status.MOVED


def test_revive_of_nothing_creates_nothing(scripts: Scripts) -> None:
    assert scripts.revive() == [Status.GONE]
    assert scripts.pttl() == -2
