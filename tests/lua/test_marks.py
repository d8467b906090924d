"""A byte at the end of the field `@` says that a session has lifetimes of its own.

A load or a save that finds none does not look for these.
"""

from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.scripts import Status
from tests.support.scripts import THEIRS, Scripts, about

MINUTE = 60_000


@pytest.fixture(params=[False, True], ids=["alone", "beside"])
def beside(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def mark(scripts: Scripts) -> bytes:
    token = scripts.hash()[b"@"]
    return token[len(token) - len(token) % 2 :]


def ahead(scripts: Scripts) -> int:
    return scripts.now() + MINUTE


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, b""),
        ({"adjusted": True}, b"-"),
        ({"deadline": True}, b"-"),
        ({"first": MINUTE}, b"-"),
        ({"use_ttl": False}, b"-"),
        ({"clocked": True}, b"+"),
        ({"clocked": True, "adjusted": True, "first": MINUTE}, b"+"),
    ],
)
def test_a_session_is_created_with_the_mark_that_it_needs(
    scripts: Scripts, own: dict[str, Any], expected: bytes
) -> None:
    if "deadline" in own:
        own = {"deadline": ahead(scripts)}
    scripts.create(**own)
    assert mark(scripts) == expected


@pytest.mark.parametrize("how", ["save", "adjust"])
@pytest.mark.parametrize("what", ["timeout", "deadline"])
@pytest.mark.parametrize("clocked", [False, True])
def test_lifetimes_that_it_is_given_later_mark_it(
    scripts: Scripts, how: str, what: str, clocked: bool
) -> None:
    scripts.create(clocked=clocked)
    call = {"save": scripts.save, "adjust": scripts.adjust}[how]
    if what == "timeout":
        call(new_timeout=MINUTE)
    else:
        call(new_deadline=ahead(scripts))
    assert mark(scripts) == (b"+" if clocked else b"-")
    status, remaining, *_ = scripts.load(timeout=9 * MINUTE)
    assert status is (Status.CLOCKED if clocked else Status.LOADED)
    assert remaining == about(MINUTE)
    assert scripts.pttl() == about(MINUTE)


def test_a_new_token_has_the_mark_of_the_one_before(scripts: Scripts) -> None:
    scripts.create(adjusted=True, timeout=MINUTE)
    scripts.renew(timeout=9 * MINUTE)
    assert mark(scripts) == b"-"
    scripts.load(digest=THEIRS, timeout=9 * MINUTE)
    assert scripts.pttl() == about(MINUTE)


def test_a_new_token_before_the_first_load_keeps_the_first_timeout(scripts: Scripts) -> None:
    scripts.create(first=MINUTE, timeout=9 * MINUTE)
    scripts.renew(timeout=9 * MINUTE)
    assert scripts.pttl() == about(MINUTE)
    assert mark(scripts) == b"-"
    scripts.load(digest=THEIRS, timeout=9 * MINUTE)
    assert scripts.pttl() == about(9 * MINUTE)
    assert set(scripts.hash()) == {b"@", b"saves"}


@pytest.mark.parametrize(
    ("own", "stays"),
    [
        ({"first": MINUTE}, b""),
        ({"use_ttl": False}, b""),
        ({"first": MINUTE, "use_ttl": False}, b""),
        ({"first": MINUTE, "adjusted": True}, b"-"),
        ({"first": MINUTE, "deadline": True}, b"-"),
        ({"first": MINUTE, "clocked": True}, b"+"),
    ],
)
def test_a_load_removes_the_mark_with_the_last_that_it_stood_for(
    scripts: Scripts, own: dict[str, Any], stays: bytes
) -> None:
    if "deadline" in own:
        own = {**own, "deadline": ahead(scripts)}
    scripts.create(**own)
    before = scripts.hash()[b"@"]
    reply = scripts.load()
    assert reply[0] is (Status.CLOCKED if stays == b"+" else Status.LOADED)
    assert reply[1] == about(MINUTE)
    assert mark(scripts) == stays
    assert scripts.hash()[b"@"][:22] == before[:22]
    assert not {b"first", b"expires"} & set(scripts.hash())


def test_a_timeout_that_is_the_default_again_leaves_no_mark_after_a_load(scripts: Scripts) -> None:
    scripts.create(adjusted=True)
    scripts.adjust(new_timeout=-1)
    scripts.load()
    assert mark(scripts) == b""


def test_in_lru_mode_a_load_marks_what_has_a_ttl(scripts: Scripts) -> None:
    scripts.create()
    scripts.load(use_ttl=False)
    assert mark(scripts) == b"-"
    assert scripts.pttl() == -1
    scripts.client.hset("s", "expires", scripts.now() - 1)
    assert scripts.load() == [Status.GONE, 1]
