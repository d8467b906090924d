"""renew_token: a login, or regenerate_id(), in place."""

from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored, moments
from tests.support.scripts import OURS, THEIRS, Scripts, about, call_id, marks
from tests.support.stored import grow_older, start_of

SECOND = 1_000
MINUTE = 60_000
NEW = THEIRS
NEWER = b"digest of a next"


def renew(scripts: Scripts, **call: Any) -> list[Any]:
    """A login as the store makes it: all values, sealed anew."""
    return scripts.renew(**{"sets": {b".a": b"sealed anew"}, **call})


def age(scripts: Scripts, ms: int) -> None:
    """Let the start of a session's life, and its token, be so much older."""
    grow_older(scripts.client, "s", ms)


def test_new_token_takes_the_place_of_the_old_one(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2", b"label": b"l"}, adjusted=True)
    age(scripts, MINUTE)
    before, begun = scripts.hash(), scripts.now()
    status, remaining, now = renew(scripts, deletes=[b".b"])
    assert (status, remaining) == (Status.SAVED, MINUTE)
    assert begun <= now <= scripts.now()
    stored = scripts.hash()
    assert stored.pop(b"saves")
    del before[b".b"]
    start_ms, _ = moments(before[b"@"])
    assert start_ms is not None
    token = as_stored(NEW, start_ms, now) + b"-"
    assert stored == {**before, b".a": b"sealed anew", b"@": token}
    assert scripts.load(digest=NEW)[0] is Status.LOADED
    assert scripts.pttl() == about(MINUTE)


@pytest.mark.parametrize("owned", [False, True])
def test_old_token_is_in_flight_since_the_new_one_stands(scripts: Scripts, owned: bool) -> None:
    scripts.create(fields={b".a": b"1"})
    age(scripts, 100 * MINUTE)
    renew(scripts, sets={b".a": b"1", **({b"owner": b"o"} if owned else {})})
    for reply in (scripts.load(), scripts.save(), scripts.adjust(), scripts.end(), scripts.stage()):
        assert reply[0] is Status.MOVED
        assert 0 <= reply[1] < MINUTE
        assert reply[2] == (2 if owned else 1)


# -- what slips in between ---------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 9, 30])
def test_new_token_stands_where_nothing_was_saved_since_the_load(
    scripts: Scripts, before: int
) -> None:
    scripts.create(fields={b".a": b"1"}, first=MINUTE)
    for number in range(before):
        scripts.save(sets={b".a": b"%d" % number})
    saves = scripts.load()[2].get(b"saves", b"")
    # None of these has changed anything that is sealed.
    scripts.load()
    scripts.adjust(timeout=5 * MINUTE)
    scripts.describe()
    assert renew(scripts, loaded_saves=saves)[0] is Status.SAVED
    assert scripts.values() == {b".a": b"sealed anew"}


@pytest.mark.parametrize("before", [0, 1, 8, 9, 30])
@pytest.mark.parametrize("how", ["save", "deletion", "lifetime", "forgotten"])
def test_nothing_is_applied_where_something_was_saved_meanwhile(
    scripts: Scripts, before: int, how: str
) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2"})
    for number in range(before):
        scripts.save(sets={b".a": b"%d" % number})
    saves = scripts.load()[2].get(b"saves", b"")
    if how == "save":
        scripts.save(sets={b".c": b"3"})
    elif how == "deletion":
        scripts.save(deletes=[b".b"])
    elif how == "lifetime":
        scripts.adjust(new_timeout=5 * MINUTE)
    else:  # the memory of saves is full, or the time is over
        scripts.save(remember=0)
        scripts.save(remember=0)
    stored, changes = scripts.hash(), scripts.changes()
    reply = renew(scripts, loaded_saves=saves, deletes=[b".b"], new_timeout=5, restart=True)
    assert reply == [Status.CONFLICT]
    assert (scripts.hash(), scripts.changes()) == (stored, changes)
    # Loaded and sealed again, it stands.
    assert renew(scripts, loaded_saves=stored[b"saves"])[0] is Status.SAVED


@pytest.mark.parametrize("loaded", [b"x", b"\0", b"\0one___", b"\1" * 57])
def test_nothing_is_applied_where_the_memory_of_saves_was_lost(
    scripts: Scripts, loaded: bytes
) -> None:
    scripts.create(fields={b".a": b"1"})
    before = scripts.hash()
    assert renew(scripts, loaded_saves=loaded) == [Status.CONFLICT]
    assert scripts.hash() == before


def test_second_login_under_the_old_token_finds_the_first(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    renew(scripts, sets={b".a": b"1", b"owner": b"o"})
    before, changes = scripts.hash(), scripts.changes()
    reply = renew(scripts, new_digest=NEWER, loaded_saves=before[b"saves"])
    assert (reply[0], reply[2]) == (Status.MOVED, 2)
    assert 0 <= reply[1] < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_of_many_logins_with_one_load_a_single_one_stands(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    digests = [b"%016d" % number for number in range(60)]
    replies = [renew(scripts, new_digest=other)[0] for other in digests]
    assert replies == [Status.SAVED, *[Status.MOVED] * 59]
    assert scripts.hash()[b"@"][:16] == digests[0]


# -- repeated ----------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_new_token_twice_is_one(scripts: Scripts, restart: bool) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2"})
    age(scripts, MINUTE)
    deadline = scripts.now() + 40 * SECOND
    call = {
        "deletes": [b".b"],
        "restart": restart,
        "save_id": "one",
        "new_timeout": 5 * MINUTE,
        "new_deadline": deadline,
    }
    assert renew(scripts, **call)[:2] == [Status.SAVED, about(40 * SECOND)]
    age(scripts, MINUTE)  # the client waited before it repeated the call
    before = scripts.hash()
    assert renew(scripts, **call)[:2] == [Status.SAVED, about(40 * SECOND)]
    assert scripts.hash() == before


def test_repeated_new_token_does_not_undo_what_came_in_between(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    age(scripts, MINUTE)
    call = {"restart": True, "save_id": "one", "new_timeout": 5 * MINUTE}
    renew(scripts, **call)
    scripts.save(sets={b".a": b"2"}, digest=NEW, new_timeout=3 * MINUTE)
    age(scripts, MINUTE)
    before = scripts.hash()
    assert renew(scripts, **call)[:2] == [Status.SAVED, 3 * MINUTE]
    assert scripts.hash() == before


def test_new_token_repeated_after_the_next_one_leaves_that_in_place(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    renew(scripts, save_id="one")
    saves = scripts.hash()[b"saves"]
    assert renew(scripts, digest=NEW, new_digest=NEWER, loaded_saves=saves)[0] is Status.SAVED
    before = scripts.hash()
    assert renew(scripts, save_id="one")[0] is Status.SAVED
    assert scripts.hash() == before
    assert before[b"@"][:16] == NEWER


@pytest.mark.parametrize("saves", [0, 1, 20])
def test_new_token_repeated_after_the_end_is_told_that_its_session_has_ended(
    scripts: Scripts, saves: int
) -> None:
    scripts.create(fields={b".a": b"1"})
    renew(scripts, save_id="one")
    for _ in range(saves):
        scripts.save(digest=NEW)
    scripts.end(digest=b"")
    before, changes = scripts.hash(), scripts.changes()
    assert renew(scripts, save_id="one") == [Status.ENDED]
    status, since = renew(scripts, save_id="two", new_digest=NEWER)
    assert status is Status.MOVED
    assert 0 <= since < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


# -- the life of the session -------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_life_begins_anew_only_where_it_is_asked_to(scripts: Scripts, restart: bool) -> None:
    scripts.create(timeout=10 * MINUTE)
    age(scripts, 2 * MINUTE)
    created = start_of(scripts.client, "s")
    args = {"timeout": 10 * MINUTE, "absolute": 5 * MINUTE}
    _, remaining, now = renew(scripts, restart=restart, **args)
    left = 5 * MINUTE if restart else 3 * MINUTE
    assert remaining == about(left)
    assert scripts.pttl() == about(left)
    assert moments(scripts.hash()[b"@"]) == (now if restart else created, now)
    assert scripts.load(digest=NEW, **args)[1] == about(left)


def test_new_life_does_not_begin_again_when_the_call_is_repeated(scripts: Scripts) -> None:
    scripts.create(timeout=10 * MINUTE)
    call = {"restart": True, "save_id": "one", "timeout": 10 * MINUTE, "absolute": 5 * MINUTE}
    assert renew(scripts, **call)[1] == about(5 * MINUTE)
    age(scripts, 2 * MINUTE)
    assert renew(scripts, **call)[1] == about(3 * MINUTE)
    assert scripts.pttl() == about(3 * MINUTE)


def test_new_life_is_not_longer_than_what_the_session_has_of_its_own(scripts: Scripts) -> None:
    deadline = scripts.now() + 40 * SECOND
    scripts.create(timeout=2 * MINUTE, adjusted=True, deadline=deadline)
    assert renew(scripts, restart=True, timeout=10 * MINUTE)[1] == about(40 * SECOND)
    assert scripts.hash()[b"timeout"] == b"120000"
    assert scripts.hash()[b"deadline"] == b"%d" % deadline


@pytest.mark.parametrize("field", ["expires", "deadline"])
@pytest.mark.parametrize("restart", [False, True])
def test_new_token_does_not_revive_a_session_past_its_end(
    scripts: Scripts, field: str, restart: bool
) -> None:
    scripts.create(fields={b".a": b"1"}, use_ttl=False)
    scripts.client.hset("s", field, scripts.now() - 1)
    assert renew(scripts, restart=restart, new_timeout=0, use_ttl=False) == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_new_token_does_not_revive_a_session_past_its_absolute_timeout(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    age(scripts, MINUTE)
    assert renew(scripts, absolute=MINUTE) == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_new_token_with_a_deadline_in_the_past_ends_the_session(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert renew(scripts, new_deadline=scripts.now() - 1)[:2] == [Status.SAVED, 0]
    assert scripts.pttl() == -2


# -- where no session lives --------------------------------------------------------


def test_new_token_on_a_marker_changes_nothing(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end()
    before, changes = scripts.hash(), scripts.changes()
    status, since = renew(scripts, deletes=[b".b", b"moved"], new_timeout=5)
    assert status is Status.MOVED
    assert 0 <= since < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("restart", [False, True])
def test_new_token_never_creates_a_session(scripts: Scripts, restart: bool) -> None:
    assert renew(scripts, restart=restart) == [Status.GONE]
    assert scripts.pttl() == -2
    scripts.client.hset("s", "f", "foreign")
    assert renew(scripts, restart=restart) == [Status.GONE]
    assert scripts.hash() == {b"f": b"foreign"}


def test_after_a_login_in_a_session_that_emptied_itself_who_comes_is_in_flight(
    scripts: Scripts,
) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="save")
    assert scripts.load()[1] > 1000 * MINUTE
    begun = scripts.now()
    assert renew(scripts) == [Status.MOVED, 0]
    (name, moved), *others = scripts.hash().items()
    assert (name, others) == (b"moved", [])
    assert moved[:22] == call_id("save") + OURS
    assert begun <= int(moved[22:]) <= scripts.now()
    assert scripts.pttl() == about(MINUTE)
    for reply in (scripts.load(), scripts.adjust(), scripts.save(sets={b".a": b"1"})):
        assert reply[0] is Status.MOVED
        assert 0 <= reply[1] < MINUTE


def test_login_in_a_session_that_emptied_itself_twice_is_one(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    emptying = {"deletes": [b".a"], "end_if_empty": MINUTE, "save_id": "save"}
    scripts.save(**emptying)
    renew(scripts, save_id="one")
    before, changes = scripts.hash(), scripts.changes()
    status, since = renew(scripts, save_id="one")
    assert status is Status.MOVED
    assert 0 <= since < MINUTE
    assert scripts.save(**emptying) == [Status.EMPTIED]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


# -- what others have staged -------------------------------------------------------


def test_new_token_waits_for_what_others_have_staged(scripts: Scripts) -> None:
    # It seals every value anew, so it reads and writes all of them.
    scripts.create(fields={b".a": b"1"})
    scripts.stage(stage_id="other", writes=marks(b".b"))
    before, changes = scripts.hash(), scripts.changes()
    assert renew(scripts, retry=True) == [Status.BUSY]
    assert (scripts.hash(), scripts.changes()) == (before, changes)
    scripts.stage(stage_id="other", hold=0)
    assert renew(scripts, retry=True)[0] is Status.SAVED


def test_new_token_ends_its_own_stage(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.stage(reads="*", writes="*")
    assert renew(scripts, retry=True, stage_id="stage")[0] is Status.SAVED
    assert b"staged" not in scripts.hash()
