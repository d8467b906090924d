"""The token: every script that is given a digest acts for that token's holder alone."""

from collections.abc import Callable
from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from pyramid_redis_lua_sessions.engine.tokens import as_stored
from tests.support.scripts import OURS, THEIRS, Scripts, digest, marks, names_digest

MINUTE = 60_000


@pytest.fixture(params=[False, True], ids=["alone", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


CALLS: dict[str, Callable[..., list[Any]]] = {
    "load": lambda scripts, **who: scripts.load(**who),
    "load, trigger": lambda scripts, **who: scripts.load(trigger=MINUTE, **who),
    "load, absolute": lambda scripts, **who: scripts.load(absolute=9**15, **who),
    "load, lru": lambda scripts, **who: scripts.load(use_ttl=False, **who),
    "save": lambda scripts, **who: scripts.save(sets={b".a": b"2"}, deletes=[b".b"], **who),
    "save fields": lambda scripts, **who: scripts.save_fields(
        sets={b".a": b"2"}, deletes=[b".b"], timeout=5 * MINUTE, **who
    ),
    "save, lifetime": lambda scripts, **who: scripts.save(
        new_timeout=0, new_deadline=2**42, timeout=5 * MINUTE, use_ttl=False, **who
    ),
    "save, already past": lambda scripts, **who: scripts.save(new_deadline=1, absolute=1, **who),
    "save, emptying": lambda scripts, **who: scripts.save(
        deletes=[b".a", b".b"], end_if_empty=MINUTE, **who
    ),
    "save, checks": lambda scripts, **who: scripts.save(
        sets={b".a": b"2"}, checks={b".a": digest(b"1")}, names=names_digest([b".a", b".b"]), **who
    ),
    "save, staged": lambda scripts, **who: scripts.save(
        sets={b".a": b"2"}, stage_id="stage", reads="*", writes=marks(b".a"), **who
    ),
    "new token": lambda scripts, **who: scripts.renew(
        sets={b".a": b"2"}, new_digest=b"n" * 16, restart=True, **who
    ),
    "adjust": lambda scripts, **who: scripts.adjust(new_timeout=0, new_deadline=2**42, **who),
    "adjust, refresh": lambda scripts, **who: scripts.adjust(timeout=5 * MINUTE, **who),
    "stage": lambda scripts, **who: scripts.stage(reads="*", writes="*", **who),
    "stage, checks": lambda scripts, **who: scripts.stage(
        writes=marks(b".a"), checks={b".a": "+"}, **who
    ),
    "end": lambda scripts, **who: scripts.end(**who),
    "end, marking": lambda scripts, **who: scripts.end(mark=True, **who),
}
SUCCEEDED = {Status.LOADED, Status.SAVED, Status.ADJUSTED, Status.ENDED, Status.EMPTIED}

every_call = pytest.mark.parametrize("call", CALLS)


def session(scripts: Scripts, token: bytes, owned: bool = False) -> None:
    fields = {b".a": b"1", b".b": b"2", **({b"owner": b"o"} if owned else {})}
    scripts.create(fields=fields, created=scripts.now() - MINUTE, timeout=2 * MINUTE)
    scripts.client.hset("s", "@", token)


@every_call
def test_holder_of_the_token_is_served(scripts: Scripts, call: str) -> None:
    session(scripts, as_stored(OURS, scripts.now() - MINUTE, scripts.now()))
    assert CALLS[call](scripts)[0] in SUCCEEDED or call == "save, already past"
    scripts.client.delete("s")
    session(scripts, as_stored(THEIRS, scripts.now() - MINUTE, scripts.now()))
    assert CALLS[call](scripts, digest=THEIRS)[0] in SUCCEEDED or call == "save, already past"


@every_call
@pytest.mark.parametrize("owned", [False, True])
def test_another_token_is_told_since_when_and_whether_the_session_is_an_owners(
    scripts: Scripts, call: str, owned: bool
) -> None:
    session(scripts, as_stored(THEIRS, 1, scripts.now() - MINUTE), owned)
    before, ttl, changes = scripts.hash(), scripts.pttl(), scripts.changes()
    for other in (OURS, THEIRS[::-1], THEIRS[:15] + b"\0", b"\0" * 16, b".*" * 8):
        status, age, flag = CALLS[call](scripts, digest=other)
        assert status is Status.MOVED
        assert MINUTE <= age <= MINUTE + 20_000
        assert flag == (2 if owned else 1)
    assert (scripts.hash(), scripts.changes()) == (before, changes)
    assert ttl - 20_000 <= scripts.pttl() <= ttl


@every_call
@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"1",
        OURS[:15],
        b"\0" + OURS + b"1",
        b"\0" + OURS + b"12345",
        b"x" * 16 + OURS,
        as_stored(OURS[1:], 1_764_000_000_000, 1_764_000_000_000),
    ],
)
def test_broken_token_opens_nothing(scripts: Scripts, call: str, token: bytes) -> None:
    session(scripts, token)
    before, changes = scripts.hash(), scripts.changes()
    reply = CALLS[call](scripts)
    if reply != [Status.GONE, 2]:  # nor is it a session of ours, for a load
        assert (reply[0], reply[2]) == (Status.MOVED, 1)
        assert isinstance(reply[1], int)
    assert (scripts.hash(), scripts.changes()) == (before, changes)


@every_call
def test_ended_session_is_gone_for_any_token(scripts: Scripts, call: str) -> None:
    session(scripts, as_stored(OURS, 1, 1))
    scripts.end(nonce="other")
    before, changes = scripts.hash(), scripts.changes()
    for who in (OURS, THEIRS):
        status, age = CALLS[call](scripts, digest=who)
        assert status is Status.MOVED
        assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)
