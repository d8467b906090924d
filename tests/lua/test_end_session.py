"""end_session: statuses, the marker, the last fields, and checks."""

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about, digest, names_digest
from tests.support.waiting import wait_until

MINUTE = 60_000
FIELDS = {b".a": b"1", b".b": b"", b"#5": b"2"}


def test_end_leaves_a_marker_alone_in_its_hash(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, nonce="made")
    before = scripts.now()
    assert scripts.end(nonce="xy", marker=5 * MINUTE) == [Status.ENDED, {}]
    assert set(scripts.hash()) == {b"moved"}
    at, nonce, made_by = scripts.hash()[b"moved"].split(b" ")
    assert before <= int(at) <= scripts.now()
    assert (nonce, made_by) == (b"xy", b"made")
    assert scripts.pttl() == about(5 * MINUTE)


def test_end_with_keep_fields_returns_the_last_fields(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"old"}, adjusted=True)
    scripts.save(sets=FIELDS)
    status, fields = scripts.end(keep_fields=True)
    assert status is Status.ENDED
    assert fields.items() >= FIELDS.items()
    assert fields[b"timeout"] == b"60000"
    assert b"created" not in scripts.hash()
    assert scripts.load()[0] is Status.MOVED


@pytest.mark.parametrize("keep_fields", [False, True])
@pytest.mark.parametrize("session", [{}, {"timeout": 0}, {"use_ttl": False}])
def test_marker_always_has_a_ttl(
    scripts: Scripts, keep_fields: bool, session: dict[str, int]
) -> None:
    scripts.create(fields=FIELDS, **session)
    scripts.end(marker=60, keep_fields=keep_fields)
    assert 0 < scripts.pttl() <= 60 or scripts.pttl() == -2
    wait_until(lambda: scripts.pttl() == -2)
    assert scripts.load() == [Status.GONE]


def test_end_of_nothing_leaves_no_marker(scripts: Scripts) -> None:
    changes = scripts.changes()
    for keep_fields in (False, True):
        assert scripts.end(keep_fields=keep_fields) == [Status.GONE]
    assert scripts.pttl() == -2
    assert scripts.changes() == changes


@pytest.mark.parametrize("keep_fields", [False, True])
def test_end_of_nothing_leaves_a_marker_when_it_is_to(scripts: Scripts, keep_fields: bool) -> None:
    before = scripts.now()
    assert scripts.end(mark=True, nonce="xy", keep_fields=keep_fields) == [Status.GONE]
    at, nonce = scripts.hash()[b"moved"].split(b" ")
    assert before <= int(at) <= scripts.now()
    assert nonce == b"xy"
    assert scripts.pttl() == about(MINUTE)
    assert scripts.load()[0] is Status.MOVED
    assert scripts.save(sets={b".a": b"1"})[0] is Status.MOVED


def test_marking_again_is_not_the_end_of_a_session(scripts: Scripts) -> None:
    scripts.end(mark=True, nonce="xy")
    changes = scripts.changes()
    assert scripts.end(mark=True, nonce="xy") == [Status.GONE]
    assert scripts.changes() == changes
    assert scripts.end(mark=True, nonce="other")[0] is Status.MOVED
    assert scripts.revive(nonce="xy") == [Status.GONE]


def test_end_is_the_same_where_there_is_a_session_to_be_marked(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    for _ in range(2):
        status, fields = scripts.end(mark=True, keep_fields=True)
        assert status is Status.ENDED
        assert fields.items() >= FIELDS.items()


def test_session_that_was_stored_without_a_nonce_ends_like_any(scripts: Scripts) -> None:
    scripts.client.hset("s", "created", scripts.now())
    for _ in range(2):
        assert scripts.end() == [Status.ENDED, {}]


def test_session_past_its_end_is_marked_and_not_taken_for_alive(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, nonce="one", use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.end(mark=True) == [Status.GONE, 1]
    assert set(scripts.hash()) == {b"moved"}
    assert scripts.pttl() == about(MINUTE)
    assert scripts.end(mark=True) == [Status.GONE]
    assert scripts.create(nonce="one") == [Status.TAKEN]


def test_foreign_value_is_not_marked(scripts: Scripts) -> None:
    scripts.client.hset("s", "other", "1")
    assert scripts.end(mark=True) == [Status.GONE]
    assert scripts.hash() == {b"other": b"1"}
    assert scripts.pttl() == -1


@pytest.mark.parametrize("keep_fields", [False, True])
def test_end_of_a_session_past_its_end_removes_it(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields=FIELDS, use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.end(keep_fields=keep_fields) == [Status.GONE, 1]
    assert scripts.pttl() == -2


@pytest.mark.parametrize("keep_fields", [False, True])
def test_end_by_another_call_is_moved_and_keeps_the_first_marker(
    scripts: Scripts, keep_fields: bool
) -> None:
    scripts.create(fields=FIELDS)
    scripts.end(nonce="one", keep_fields=keep_fields)
    before = scripts.hash()
    # What the first call kept to be revived by must not bring back what ended twice.
    assert (before.pop(b"was", None) is not None) is keep_fields
    for nonce in ("two", "on", "one1", ".*"):
        status, age = scripts.end(nonce=nonce, keep_fields=True)
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
    assert scripts.hash() == before
    assert scripts.revive(nonce="one") == [Status.GONE]


def test_end_of_an_emptied_session_is_moved(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE)
    assert scripts.end()[0] is Status.MOVED


@pytest.mark.parametrize("keep_fields", [False, True])
def test_end_twice_is_one_ending_with_the_same_answer(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields=FIELDS)
    call = {
        "keep_fields": keep_fields,
        "names": names_digest(FIELDS),
        "checks": {b".a": digest(b"1"), b".x": ""},
    }
    first = scripts.end(**call)
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.end(**call) == first
    assert first[0] is Status.ENDED
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_end_returns_more_fields_than_lua_can_unpack(scripts: Scripts) -> None:
    fields = {b".%d" % number: b"%d" % number for number in range(20_000)}
    scripts.create(fields=fields)
    for _ in range(2):
        assert scripts.end(keep_fields=True)[1].items() >= fields.items()


@pytest.mark.parametrize("keep_fields", [False, True])
@pytest.mark.parametrize(
    ("checks", "holds"),
    [
        pytest.param({b".x": ""}, True, id="absent, and is"),
        pytest.param({b".b": ""}, False, id="absent, but there"),
        pytest.param({b".b": "+"}, True, id="present, and is"),
        pytest.param({b".x": "+"}, False, id="present, but is not"),
        pytest.param({b".a": digest(b"1")}, True, id="the same"),
        pytest.param({b".a": digest(b"2")}, False, id="changed"),
        pytest.param({b".x": digest(b"")}, False, id="gone"),
        pytest.param({b".b": "+", b".a": digest(b"1"), b".x": "+"}, False, id="the last fails"),
        pytest.param({b".a": "", b".b": "+"}, False, id="the first fails"),
    ],
)
def test_end_with_checks_of_values(
    scripts: Scripts, checks: dict[bytes, str], holds: bool, keep_fields: bool
) -> None:
    scripts.create(fields=FIELDS)
    before, changes = scripts.hash(), scripts.changes()
    status = scripts.end(checks=checks, keep_fields=keep_fields)[0]
    if holds:
        assert status is Status.ENDED
        assert scripts.load()[0] is Status.MOVED
    else:
        assert status is Status.CONFLICT
        assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_end_with_a_check_of_the_names(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, adjusted=True)
    changes = scripts.changes()
    for names in ([], [b".a"], [*FIELDS, b".x"], [b".a", b".b", b"#6"]):
        assert scripts.end(names=names_digest(names)) == [Status.CONFLICT]
    assert scripts.changes() == changes
    assert scripts.end(names=names_digest(FIELDS))[0] is Status.ENDED


def test_what_another_call_created_stays(scripts: Scripts) -> None:
    scripts.create(nonce="hers", fields={b".a": b"1"})
    before, changes = scripts.hash(), scripts.changes()
    for created_by in ("his", "her", "hers1"):
        assert scripts.end(created_by=created_by, mark=True) == [Status.GONE]
    assert (scripts.hash(), scripts.changes()) == (before, changes)
    assert scripts.end(created_by="hers", mark=True)[0] is Status.ENDED


@pytest.mark.parametrize("keep_fields", [False, True])
def test_the_end_of_what_another_call_created_stays(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(nonce="hers", fields={b".a": b"1"})
    scripts.end(nonce="one", keep_fields=keep_fields)
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.end(nonce="other", created_by="his", mark=True) == [Status.GONE]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_what_is_created_late_finds_its_end(scripts: Scripts) -> None:
    assert scripts.end(created_by="his", mark=True) == [Status.GONE]
    assert scripts.create(nonce="his")[0] is Status.TAKEN
