"""What is not a session, or is one with damaged fields: a clear answer, and never a harm."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import OURS, THEIRS, Scripts, marks

MINUTE = 60_000


@pytest.fixture(params=[False, True], ids=["alone", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


CALLS: dict[str, Callable[[Scripts], list[Any]]] = {
    "load": lambda scripts: scripts.load(absolute=MINUTE, trigger=MINUTE // 2),
    "load, lru": lambda scripts: scripts.load(absolute=MINUTE, use_ttl=False),
    "save": lambda scripts: scripts.save(sets={b".a": b"1"}, deletes=[b"f"], new_timeout=0),
    "save fields": lambda scripts: scripts.save_fields(sets={b".a": b"1"}, deletes=[b"f"]),
    "save, emptying": lambda scripts: scripts.save(deletes=[b"f"], end_if_empty=MINUTE),
    "adjust": lambda scripts: scripts.adjust(new_timeout=0, new_deadline=2**42),
    "end": lambda scripts: scripts.end(),
    "end, any token": lambda scripts: scripts.end(digest=b""),
    "end, marking": lambda scripts: scripts.end(mark=True),
    "stage": lambda scripts: scripts.stage(
        reads=marks(b".a"), writes=marks(b".b"), checks={b".x": ""}
    ),
    "stage, giving up": lambda scripts: scripts.stage(hold=0),
    "new token": lambda scripts: renew(scripts),
    "describe": lambda scripts: scripts.describe(absolute=MINUTE),
}


def renew(scripts: Scripts) -> list[Any]:
    saves: Any = b""
    if scripts.client.type("s") == b"hash":
        saves = scripts.client.hget("s", "saves") or b""
    return scripts.renew(
        sets={b".a": b"1"}, loaded_saves=saves, restart=True, stage_id="stage", retry=True
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "stream"])
def test_value_of_another_type_is_a_wrongtype_error_and_stays(
    scripts: Scripts, redis_client: redis.Redis, kind: str, call: str
) -> None:
    {
        "string": lambda: redis_client.set("s", "created"),
        "list": lambda: redis_client.rpush("s", "created"),
        "set": lambda: redis_client.sadd("s", "created"),
        "zset": lambda: redis_client.zadd("s", {"created": 1}),
        "stream": lambda: redis_client.xadd("s", {"created": "1"}),
    }[kind]()
    before, changes = redis_client.dump("s"), scripts.changes()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        CALLS[call](scripts)
    assert (redis_client.dump("s"), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("kind", ["string", "list"])
def test_create_takes_no_id_under_which_another_type_is_stored(
    scripts: Scripts, redis_client: redis.Redis, kind: str
) -> None:
    if kind == "string":
        redis_client.set("s", "x")
    else:
        redis_client.rpush("s", "x")
    before, changes = redis_client.dump("s"), scripts.changes()
    assert scripts.create(fields={b".a": b"1"}) == [Status.TAKEN]
    assert (redis_client.dump("s"), scripts.changes()) == (before, changes)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"f": "1"}, id="foreign"),
        pytest.param({".a": "1", "timeout": "1", "expires": "1", "deadline": "1"}, id="half"),
    ],
)
def test_hash_without_created_is_no_session_and_stays(
    scripts: Scripts, redis_client: redis.Redis, fields: dict[str, str], call: str
) -> None:
    redis_client.hset("s", mapping=fields)
    before, changes = scripts.hash(), scripts.changes()
    reply = CALLS[call](scripts)
    assert reply == ([Status.GONE, 2] if call.startswith("load") else [Status.GONE])
    assert (scripts.hash(), scripts.changes()) == (before, changes)


def test_create_takes_no_id_under_which_a_foreign_hash_is_stored(scripts: Scripts) -> None:
    scripts.client.hset("s", "f", "1")
    assert scripts.create() == [Status.TAKEN]
    assert scripts.hash() == {b"f": b"1"}


@pytest.mark.parametrize("token", ["", "yes", "\x00", "x" * 16, "x" * 21, "x" * 24, "x" * 30])
def test_hash_with_a_foreign_token_is_no_session_for_a_load(scripts: Scripts, token: str) -> None:
    scripts.client.hset("s", mapping={"@": token, "f": "1"})
    changes = scripts.changes()
    assert scripts.load() == [Status.GONE, 2]
    assert scripts.load(absolute=1, use_ttl=False) == [Status.GONE, 2]
    assert scripts.create() == [Status.TAKEN]
    assert scripts.changes() == changes


#: What an intruder may have stored in any field.
GARBAGE = [
    *(b"", b" ", b"x", b"nan", b"-nan", b"inf", b"-inf", b"1e300", b"-1e300", b"-5", b"0", b"0x10"),
    *(b"\xff", b"\0", b"\xff" * 7, b"\x05" * 57, b"9" * 400, b":::;", b"%", b"x" * 10_000),
    *(OURS, OURS + b"\xff" * 6, OURS + b"\0" * 12, OURS + b"-5", THEIRS + b"1", b"other_" + OURS),
    *(b"other_" + OURS + b"nan", b"other_" + OURS + b"0", b"a:1:*:*;"),
    *(b"a:" + b"9" * 400 + b":*:*;", b"a:9999999999999:*:*;", b"a:9:*", b"*", b"a:nan:*:*;"),
]
RINGS = ["saves1", "saves7", "saves12"]
FIELDS = ["timeout", "expires", "deadline", "first", "saves", "@", "staged"]
LIVED = (Status.CLOCKED, Status.LOADED, Status.SAVED, Status.ADJUSTED, Status.ENDED)


@pytest.mark.parametrize("call", [*CALLS, "create"])
@pytest.mark.parametrize("field", [*FIELDS, "moved", "owner", "label", *RINGS])
def test_garbage_in_a_field_of_the_scripts_gives_an_answer_and_never_an_error(
    scripts: Scripts, field: str, call: str
) -> None:
    for garbage in GARBAGE:
        scripts.client.flushall()
        scripts.create(fields={b".a": b"1"})
        if field in RINGS:
            scripts.client.hset("s", "saves", b"\x03" + b"1234567" * 8)
        scripts.client.hset("s", field, garbage)
        if call == "create":
            assert scripts.create()[0] in (Status.CREATED, Status.TAKEN)
            continue
        reply = CALLS[call](scripts)
        refused = [Status.GONE]
        if field == "@":
            refused.append(Status.MOVED)
        if field == "staged":
            refused.append(Status.BUSY)
        assert reply[0] in (*LIVED, *refused), garbage
        if reply[0] is Status.GONE and reply != [Status.GONE, 2] and call != "describe":
            assert scripts.pttl() == -2 or call == "end, marking", garbage  # not half removed
        elif call.startswith("load") and reply[0] is Status.LOADED:
            assert reply[2][b".a"] == b"1"
            assert -1 <= reply[1] <= 3_200_000_000_000, garbage


@pytest.mark.parametrize("call", ["save", "save fields", "new token", "adjust"])
@pytest.mark.parametrize("field", ["saves", *RINGS])
def test_save_is_remembered_whatever_stood_in_the_memory_of_saves(
    scripts: Scripts, field: str, call: str
) -> None:
    for garbage in GARBAGE:
        scripts.client.flushall()
        scripts.create(fields={b".a": b"1"})
        scripts.client.hset("s", field, garbage)
        assert CALLS[call](scripts)[0] in LIVED
        digest = THEIRS if call == "new token" else OURS
        save = {"sets": {b".n": b"1"}, "save_id": "again", "digest": digest}
        assert scripts.save(**save)[0] is Status.SAVED, garbage
        scripts.save(sets={b".n": b"2"}, digest=digest)
        assert scripts.save(**save)[0] is Status.SAVED, garbage
        assert scripts.hash()[b".n"] == b"2", garbage


@pytest.mark.parametrize("call", [*CALLS, "create"])
def test_garbage_in_a_marker_gives_an_answer_and_never_a_session(
    scripts: Scripts, call: str
) -> None:
    for garbage in GARBAGE:
        scripts.client.flushall()
        scripts.client.hset("s", mapping={"moved": garbage, ".a": "1"})
        if call == "create":
            assert scripts.create()[0] in (Status.TAKEN, Status.MOVED), garbage
        else:
            assert CALLS[call](scripts)[0] is Status.MOVED, garbage
        assert set(scripts.hash()) == {b"moved", b".a"}


@pytest.mark.parametrize(
    "field", ["deadline", "expires"], ids=["garbled deadline", "garbled end in LRU mode"]
)
@pytest.mark.parametrize("garbage", ["", "x", "-5", "0", "-inf"])
def test_a_garbled_end_is_an_end(scripts: Scripts, field: str, garbage: str) -> None:
    # Who could write to Redis must not gain a longer life from damage.
    scripts.create(deadline=scripts.now() + MINUTE, use_ttl=False)
    scripts.client.hset("s", field, garbage)
    assert scripts.load() == [Status.GONE, 1]
    assert scripts.pttl() == -2


def test_unknown_fields_are_returned_and_kept(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.client.hset("s", mapping={"other": "x", "": "empty"})
    assert scripts.load()[2].items() >= {b"other": b"x", b"": b"empty"}.items()
    assert scripts.save(deletes=[b".a"], end_if_empty=MINUTE)[0] is Status.SAVED
    assert scripts.hash().items() >= {b"other": b"x", b"": b"empty"}.items()


def test_a_very_large_value_is_returned_whole(scripts: Scripts) -> None:
    value = bytes(range(256)) * 40_000  # about 10 MB
    scripts.create(fields={b".a": value})
    assert scripts.load()[2][b".a"] == value
