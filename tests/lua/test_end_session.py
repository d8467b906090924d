"""end_session: statuses, the marker, whose session it ends, and checks."""

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import OURS, THEIRS, Scripts, about, call_id, digest, names_digest
from tests.support.stored import grow_older
from tests.support.waiting import wait_until

MINUTE = 60_000
FIELDS = {b".a": b"1", b".b": b"", b"#5": b"2"}

#: With the digest of a token, or whatever the token.
ANY_DIGEST = pytest.mark.parametrize("digest_", [OURS, b""], ids=["token", "any token"])


@ANY_DIGEST
def test_end_leaves_a_marker_alone_in_its_hash(scripts: Scripts, digest_: bytes) -> None:
    scripts.create(fields={**FIELDS, b"owner": b"o"}, adjusted=True)
    scripts.stage()
    for _ in range(20):  # so that there is a ring
        scripts.save(sets=FIELDS)
    before = scripts.now()
    assert scripts.end(digest=digest_, nonce="nonce", marker=5 * MINUTE) == [Status.ENDED]
    assert set(scripts.hash()) - {b"saves"} == {b"moved"}
    moved = scripts.hash()[b"moved"]
    assert moved[:22] == call_id("nonce") + OURS
    assert before <= int(moved[22:]) <= scripts.now()
    assert scripts.pttl() == about(5 * MINUTE)


def test_marker_holds_the_last_digest(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    scripts.renew(sets=FIELDS)
    scripts.end(digest=THEIRS)
    assert scripts.hash()[b"moved"][6:22] == THEIRS


@pytest.mark.parametrize("session", [{}, {"timeout": 0}, {"use_ttl": False}])
def test_marker_always_has_a_ttl(scripts: Scripts, session: dict[str, int]) -> None:
    scripts.create(fields=FIELDS, **session)
    scripts.end(marker=60)
    assert 0 < scripts.pttl() <= 60 or scripts.pttl() == -2
    wait_until(lambda: scripts.pttl() == -2)
    assert scripts.load() == [Status.GONE]


@ANY_DIGEST
def test_end_of_nothing_leaves_no_marker(scripts: Scripts, digest_: bytes) -> None:
    changes = scripts.changes()
    assert scripts.end(digest=digest_) == [Status.GONE]
    assert scripts.pttl() == -2
    assert scripts.changes() == changes


@ANY_DIGEST
def test_end_of_nothing_leaves_a_marker_when_it_is_to(scripts: Scripts, digest_: bytes) -> None:
    before = scripts.now()
    assert scripts.end(digest=digest_, mark=True) == [Status.GONE]
    moved = scripts.hash()[b"moved"]
    assert moved[6:22] == (digest_ or b"\0" * 16)
    assert before <= int(moved[22:]) <= scripts.now()
    assert scripts.pttl() == about(MINUTE)
    assert scripts.load()[0] is Status.MOVED
    assert scripts.save(sets={b".a": b"1"})[0] is Status.MOVED


@ANY_DIGEST
def test_marking_again_is_not_the_end_of_a_session(scripts: Scripts, digest_: bytes) -> None:
    scripts.end(digest=digest_, mark=True, nonce="one")
    changes = scripts.changes()
    for nonce in ("one", "two"):
        status, age = scripts.end(digest=digest_, mark=True, nonce=nonce)
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
    assert scripts.changes() == changes


def test_end_is_the_same_where_there_is_a_session_to_be_marked(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS)
    for _ in range(2):
        assert scripts.end(mark=True) == [Status.ENDED]
    assert scripts.hash()[b"moved"][6:22] == OURS


@pytest.mark.parametrize("token", [b"", b"x", OURS[:15]])
def test_session_with_a_broken_token_ends_like_any_where_the_token_does_not_matter(
    scripts: Scripts, token: bytes
) -> None:
    scripts.client.hset("s", "@", token)
    assert scripts.end()[0] is Status.MOVED
    for _ in range(2):
        assert scripts.end(digest=b"") == [Status.ENDED]
    # What stands in the place of the digest can open nothing, and is no longer or shorter.
    assert scripts.hash()[b"moved"][6:22] == b"\0" * 16


def test_session_past_its_end_is_marked_and_not_taken_for_alive(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.end(mark=True) == [Status.GONE, 1]
    assert set(scripts.hash()) - {b"saves"} == {b"moved"}
    assert scripts.pttl() == about(MINUTE)
    assert scripts.end(mark=True)[0] is Status.MOVED
    assert scripts.create()[0] is Status.MOVED
    assert scripts.create(digest=THEIRS) == [Status.TAKEN]


def test_foreign_value_is_not_marked(scripts: Scripts) -> None:
    scripts.client.hset("s", "other", "1")
    assert scripts.end(mark=True) == [Status.GONE]
    assert scripts.hash() == {b"other": b"1"}
    assert scripts.pttl() == -1


@ANY_DIGEST
def test_end_of_a_session_past_its_end_removes_it(scripts: Scripts, digest_: bytes) -> None:
    scripts.create(fields=FIELDS, use_ttl=False)
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.end(digest=digest_) == [Status.GONE, 1]
    assert scripts.pttl() == -2


@ANY_DIGEST
def test_end_by_another_call_is_moved_and_keeps_the_first_marker(
    scripts: Scripts, digest_: bytes
) -> None:
    scripts.create(fields=FIELDS)
    scripts.end(nonce="one")
    before, changes = scripts.hash(), scripts.changes()
    for nonce in ("two", "on", "one1", ".*", b"\0" * 6):
        status, age = scripts.end(digest=digest_, nonce=nonce)
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
        assert len(scripts.end(digest=digest_, nonce=nonce, mark=True)) == 2
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@ANY_DIGEST
@pytest.mark.parametrize("mark", [False, True])
def test_end_twice_is_one_ending_with_the_same_answer(
    scripts: Scripts, digest_: bytes, mark: bool
) -> None:
    scripts.create(fields=FIELDS)
    call = {
        "digest": digest_,
        "mark": mark,
        "names": names_digest(FIELDS),
        "checks": {b".a": digest(b"1"), b".x": ""},
    }
    assert scripts.end(**call) == [Status.ENDED]
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.end(**call) == [Status.ENDED]
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("count", [1, 3_999, 4_000, 4_001, 20_000])
def test_end_removes_more_fields_than_lua_can_unpack(scripts: Scripts, count: int) -> None:
    scripts.create(fields={b".%d" % number: b"%d" % number for number in range(count)})
    for _ in range(2):
        assert scripts.end() == [Status.ENDED]
        assert set(scripts.hash()) - {b"saves"} == {b"moved"}


# -- a session that emptied itself -------------------------------------------------


def emptied(scripts: Scripts) -> bytes:
    scripts.create(fields={b".a": b"1"})
    scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="save")
    return scripts.hash()[b"moved"]


@ANY_DIGEST
def test_after_the_end_of_an_emptied_session_who_comes_is_in_flight(
    scripts: Scripts, digest_: bytes
) -> None:
    emptied(scripts)
    assert scripts.load()[1] > 1000 * MINUTE
    scripts.client.pexpire("s", 1000)
    assert scripts.end(digest=digest_) == [Status.MOVED, 0]
    assert scripts.pttl() == about(MINUTE)
    for reply in (scripts.load(), scripts.adjust(), scripts.save()):
        assert reply[0] is Status.MOVED
        assert 0 <= reply[1] < MINUTE


def test_end_of_an_emptied_session_twice_is_one_ending_with_the_same_answer(
    scripts: Scripts,
) -> None:
    moved = emptied(scripts)
    assert scripts.end() == [Status.MOVED, 0]
    before, changes = scripts.hash(), scripts.changes()
    assert before[b"moved"][:22] == moved[:22]
    status, age = scripts.end()
    assert status is Status.MOVED
    assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_save_that_emptied_a_session_is_recognised_after_its_end(scripts: Scripts) -> None:
    emptied(scripts)
    scripts.end()
    reply = scripts.save(deletes=[b".a"], end_if_empty=MINUTE, save_id="save")
    assert reply == [Status.EMPTIED]


# -- whose session -----------------------------------------------------------------


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("mark", [False, True])
def test_session_of_another_token_stays(scripts: Scripts, mark: bool, owned: bool) -> None:
    scripts.create(fields={b".a": b"1", **({b"owner": b"o"} if owned else {})})
    grow_older(scripts.client, "s", 2 * MINUTE)
    before, changes = scripts.hash(), scripts.changes()
    for other in (THEIRS, b"\0" * 16, OURS[::-1]):
        status, age, flag = scripts.end(digest=other, mark=mark)
        assert (status, flag) == (Status.MOVED, 2 if owned else 1)
        assert 2 * MINUTE <= age <= 2 * MINUTE + 20_000
    assert (scripts.hash(), scripts.changes()) == (before, changes)
    assert scripts.end(mark=mark) == [Status.ENDED]


def test_the_end_of_another_tokens_session_stays(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end(nonce="one")
    before, changes = scripts.hash(), scripts.changes()
    assert scripts.end(nonce="other", digest=THEIRS, mark=True)[0] is Status.MOVED
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_what_is_created_late_finds_its_end(scripts: Scripts) -> None:
    assert scripts.end(mark=True) == [Status.GONE]
    assert scripts.create(fields=FIELDS)[0] is Status.MOVED
    assert set(scripts.hash()) - {b"saves"} == {b"moved"}


# -- checks ------------------------------------------------------------------------


@ANY_DIGEST
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
    scripts: Scripts, checks: dict[bytes, str], holds: bool, digest_: bytes
) -> None:
    scripts.create(fields=FIELDS)
    before, changes = scripts.hash(), scripts.changes()
    reply = scripts.end(checks=checks, digest=digest_)
    if holds:
        assert reply == [Status.ENDED]
        assert scripts.load()[0] is Status.MOVED
    else:
        assert reply == [Status.CONFLICT]
        assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_end_with_a_check_of_the_names(scripts: Scripts) -> None:
    scripts.create(fields=FIELDS, adjusted=True)
    changes = scripts.changes()
    for names in ([], [b".a"], [*FIELDS, b".x"], [b".a", b".b", b"#6"]):
        assert scripts.end(names=names_digest(names)) == [Status.CONFLICT]
    assert scripts.changes() == changes
    assert scripts.end(names=names_digest(FIELDS)) == [Status.ENDED]
