"""swap_fields: replaces what is still the same, in a session that still lives."""

import pytest

from pyramid_redis_lua_sessions.scripts import Status
from tests.support.scripts import Scripts, about

MINUTE = 60_000


def test_swap_replaces_only_what_is_still_the_same(scripts: Scripts) -> None:
    scripts.create(fields={b".same": b"1", b".other": b"2", b".gone": b"3", b".empty": b""})
    created = scripts.hash()[b"created"]
    reply = scripts.swap(
        "s",
        (b".same", b"1", b"=x"),
        (b".other", b"1", b"x"),
        (b".gone", b"3", None),
        (b".empty", b"", b""),
        (b".new", None, b"y"),
        (b".empty", None, b"x"),
        (b".missing", b"1", b"x"),
    )
    assert reply == [Status.SAVED, 4]
    assert scripts.hash() == {
        b"created": created,
        b".same": b"=x",
        b".other": b"2",
        b".empty": b"",
        b".new": b"y",
    }


@pytest.mark.parametrize("timeout", [MINUTE, 0])
def test_swap_leaves_the_lifetime_alone(scripts: Scripts, timeout: int) -> None:
    scripts.create(timeout=timeout)
    scripts.swap("s", (b".a", None, b"1"))
    assert scripts.pttl() == (about(MINUTE) if timeout else -1)


def test_swap_twice_is_one_swap(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2"})
    swaps = ((b".a", b"1", b"x"), (b".b", b"2", None), (b".c", None, b"y"))
    scripts.swap("s", *swaps)
    before = scripts.hash()
    assert scripts.swap("s", *swaps)[0] is Status.SAVED
    assert scripts.hash() == before


def test_swap_of_very_many_fields(scripts: Scripts) -> None:
    fields = {b".%d" % number: b"%d" % number for number in range(10_000)}
    scripts.create(fields=fields)
    assert scripts.swap("s", *((f, v, None) for f, v in fields.items())) == [Status.SAVED, 10_000]
    assert set(scripts.hash()) == {b"created"}


def test_swap_never_creates_a_session(scripts: Scripts) -> None:
    assert scripts.swap("s", (b".a", None, b"1")) == [Status.GONE]
    assert scripts.pttl() == -2


@pytest.mark.parametrize("keep_fields", [False, True])
def test_swap_on_a_marker_changes_nothing(scripts: Scripts, keep_fields: bool) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.end(keep_fields=keep_fields)
    before, changes = scripts.hash(), scripts.changes()
    status, age = scripts.swap("s", (b".a", b"1", b"2"), (b".b", None, b"1"))
    assert status is Status.MOVED
    assert 0 <= age < MINUTE
    assert (scripts.hash(), scripts.changes()) == (before, changes)
