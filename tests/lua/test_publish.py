"""The scripts that end a session tell those who watch it, and fail for no listener's sake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS, Status
from tests.support.scripts import THEIRS, Scripts, digest
from tests.support.waiting import wait_until

NEWS = b"64e34bd99610 an-owner"

Hear = Callable[[], list[bytes]]


@pytest.fixture
def hear(redis_client: redis.Redis) -> Iterator[Hear]:
    """What came in on the session's channel, whatever this Redis can do."""
    pubsub = redis_client.pubsub()
    try:
        pubsub.ssubscribe("s")
        pubsub.get_message(timeout=10)
    except redis.ResponseError:  # before 7.0
        pubsub = redis_client.pubsub()
        pubsub.subscribe("s")
        pubsub.get_message(timeout=10)

    def hear() -> list[bytes]:
        heard = []
        pubsub.ping("done")
        while True:
            message: Any = wait_until(lambda: pubsub.get_message(timeout=0.05))
            if message["type"] == "pong":
                return heard
            assert message["channel"] == b"s"
            heard.append(message["data"])

    yield hear
    pubsub.close()


def emptied(scripts: Scripts) -> None:
    assert scripts.save(deletes=[b".a"], end_if_empty=60_000, message=NEWS) == [Status.EMPTIED]


def deadline_of_a_save(scripts: Scripts) -> None:
    reply = scripts.save(sets={b".a": b"2"}, new_deadline=1, message=NEWS)
    assert reply[:2] == [Status.SAVED, 0]


def deadline_of_a_new_token(scripts: Scripts) -> None:
    reply = scripts.renew(sets={b".a": b"2"}, new_deadline=1, message=NEWS)
    assert reply[:2] == [Status.SAVED, 0]


ENDS: dict[str, Callable[[Scripts], Any]] = {
    "end": lambda scripts: scripts.end(message=NEWS),
    "end whatever the token": lambda scripts: scripts.end(digest=b"", message=NEWS),
    "end and mark": lambda scripts: scripts.end(digest=b"", mark=True, message=NEWS),
    "emptied": emptied,
    "deadline": lambda scripts: scripts.adjust(new_deadline=1, message=NEWS),
    "deadline of a save": deadline_of_a_save,
    "deadline of a new token": deadline_of_a_new_token,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_end_is_published_once(scripts: Scripts, hear: Hear, end: Any) -> None:
    scripts.create(fields={b".a": b"1"})
    end(scripts)
    assert not scripts.client.hexists("s", "@")
    assert hear() == [NEWS]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_nothing_is_published_where_nobody_wants_to_know(
    scripts: Scripts, hear: Hear, end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "NEWS", b"")
    scripts.create(fields={b".a": b"1"})
    end(scripts)
    assert hear() == []


STAYS: dict[str, Callable[[Scripts], Any]] = {
    "another token": lambda scripts: scripts.end(digest=THEIRS, message=NEWS),
    "conflict": lambda scripts: scripts.end(checks={b".a": digest(b"2")}, message=NEWS),
    "save": lambda scripts: scripts.save(sets={b".b": b"1"}, message=NEWS),
    "new token": lambda scripts: scripts.renew(sets={b".a": b"2"}, message=NEWS),
    "not emptied": lambda s: s.save(sets={b".b": b""}, end_if_empty=60_000, message=NEWS),
    "adjust": lambda scripts: scripts.adjust(new_timeout=1000, message=NEWS),
    "repeated": lambda s: [s.end(nonce="one"), s.end(nonce="one", message=NEWS)],
    "ended before": lambda s: [s.end(nonce="one"), s.end(nonce="two", message=NEWS)],
    "no session": lambda s: s.end("other", digest=b"", mark=True, message=NEWS),
}


@pytest.mark.parametrize("call", STAYS.values(), ids=STAYS)
def test_nothing_is_published_that_did_not_happen(scripts: Scripts, hear: Hear, call: Any) -> None:
    scripts.create(fields={b".a": b"1"})
    call(scripts)
    assert hear() == []


def test_session_that_expired_was_ended_by_nobody(scripts: Scripts, hear: Hear) -> None:
    scripts.create(fields={b".a": b"1"}, use_ttl=False)
    scripts.client.hset("s", "expires", "1")
    assert scripts.end(mark=True, message=NEWS) == [Status.GONE, 1]
    assert hear() == []


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_user_who_may_not_publish_ends_it_all_the_same(
    shared_redis: Any, redis_client: redis.Redis, scripts: Scripts, hear: Hear, end: Any
) -> None:
    scripts.create(fields={b".a": b"1"})
    redis_client.execute_command(
        "ACL", "SETUSER", "mute", "on", "nopass", "~*", "resetchannels", "+@all", "-publish"
    )
    try:
        with shared_redis.client(username="mute", password="x") as client:
            end(Scripts(client))
    finally:
        redis_client.execute_command("ACL", "DELUSER", "mute")
    assert not redis_client.hexists("s", "@")
    assert hear() == []


def test_channel_of_a_cluster_is_in_the_slot_of_its_key() -> None:
    """It has the name of the key itself, which a script may always use."""
    part = SCRIPTS["end_session"].source
    assert "redis.pcall('SPUBLISH', session_key, message)" in part
    assert "redis.pcall('PUBLISH', session_key, message)" in part
