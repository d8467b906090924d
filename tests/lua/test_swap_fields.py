"""swap_fields: replaces what is still the same, in a session that still lives."""

from typing import Any

import pytest

from pyramid_redis_lua_sessions.scripts import SCRIPTS, Status
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
    held = scripts.hash()
    assert held.pop(b"saves")
    assert held == {
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
    assert scripts.swap("s", *swaps, save_id="one") == [Status.SAVED, 3]
    before = scripts.hash()
    assert scripts.swap("s", *swaps, save_id="one") == [Status.SAVED, -1]
    assert scripts.hash() == before


def test_repeated_swap_does_not_undo_what_came_in_between(scripts: Scripts) -> None:
    # A coupon that an attempt had taken is put back, and another request takes it.
    scripts.create()
    swap = (b".coupon", None, b"1")
    scripts.swap("s", swap, save_id="one")
    scripts.save(deletes=[b".coupon"])
    assert scripts.swap("s", swap, save_id="one") == [Status.SAVED, -1]
    assert b".coupon" not in scripts.hash()
    # Nor if the first call found nothing to swap.
    scripts.save(sets={b".coupon": b"2"})
    assert scripts.swap("s", swap, save_id="two") == [Status.SAVED, 0]
    scripts.save(deletes=[b".coupon"])
    assert scripts.swap("s", swap, save_id="two") == [Status.SAVED, -1]
    assert b".coupon" not in scripts.hash()


MANY = {b".%d" % number: b"" for number in range(21)}


@pytest.mark.parametrize("undoable", [1, 2])
@pytest.mark.parametrize(
    ("later", "swapped"),
    [
        pytest.param([{"sets": {b".a": b"2"}}], 0, id="the same"),
        pytest.param([{"sets": {b".b": b"1"}}], 1, id="another key"),
        pytest.param([{"sets": {b".b": b"2"}}], 1, id="another key, in vain"),
        pytest.param([{"deletes": [b".gone"]}], 1, id="the same deletion"),
        pytest.param([{"sets": {b".a": b"3"}}, {"sets": {b".a": b"2"}}], 0, id="there and back"),
        pytest.param([{"sets": MANY}], 0, id="more than are noted"),
    ],
)
def test_a_field_that_a_later_save_wrote_is_not_taken_back(
    scripts: Scripts, undoable: int, later: list[dict[str, Any]], swapped: int
) -> None:
    scripts.create(fields={b".a": b"1", b".b": b"2", b".gone": b"1"})
    scripts.save(sets={b".a": b"2"}, deletes=[b".gone"], undoable=2, save_id="one")
    for call in later:
        scripts.save(**call, undoable=undoable)
    assert scripts.swap("s", (b".a", b"2", b"1"), undone="one") == [Status.SAVED, swapped]


def test_a_deletion_that_a_later_save_repeated_is_not_taken_back(scripts: Scripts) -> None:
    scripts.create(fields={b".gone": b"1"})
    scripts.save(deletes=[b".gone"], undoable=2, save_id="one")
    scripts.save(deletes=[b".gone"], undoable=1)
    assert scripts.swap("s", (b".gone", None, b"1"), undone="one") == [Status.SAVED, 0]


def test_an_earlier_save_of_the_same_does_not_hinder(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    scripts.save(sets={b".a": b"1"}, undoable=1)
    scripts.save(sets={b".a": b"2"}, undoable=2, save_id="one")
    assert scripts.swap("s", (b".a", b"2", b"1"), undone="one") == [Status.SAVED, 1]


def test_swap_of_very_many_fields(scripts: Scripts) -> None:
    fields = {b".%d" % number: b"%d" % number for number in range(10_000)}
    scripts.create(fields=fields)
    assert scripts.swap("s", *((f, v, None) for f, v in fields.items())) == [Status.SAVED, 10_000]
    assert set(scripts.hash()) == {b"created", b"saves"}


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


def test_a_save_that_was_taken_back_writes_nothing_when_it_comes_late(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    assert scripts.swap("s", (b".a", b"2", b"1"), undone="late") == [Status.SAVED, 0]
    assert scripts.save(save_id="late", sets={b".a": b"2"}, new_timeout=5)[0] is Status.SAVED
    assert scripts.hash()[b".a"] == b"1"
    assert b"timeout" not in scripts.hash()


def test_field_that_is_only_to_be_there_is_swapped_whatever_it_holds(scripts: Scripts) -> None:
    scripts.create(fields={b".a": b"1"})
    reply = scripts.client.eval(
        SCRIPTS["swap_fields"].source, 1, "s", "id", 10, "", b".a", "+", "", b".b", "+", "=1"
    )
    assert reply == [Status.SAVED, 1]
    assert set(scripts.hash()) == {b"created", b"saves"}


@pytest.mark.parametrize("how", ["save", "adjust"])
@pytest.mark.parametrize("name", ["timeout", "deadline"])
def test_lifetime_that_a_later_call_gave_is_left_alone(
    scripts: Scripts, how: str, name: str
) -> None:
    """Also where it is the same."""
    value = scripts.now() + 50_000
    lifetime = {f"new_{name}": value}
    scripts.create(fields={b".a": b"1"})
    scripts.save(save_id="undone", sets={b".a": b"2"}, undoable=2, **lifetime)
    if how == "save":
        scripts.save(save_id="later", sets={b".b": b"3"}, undoable=1, **lifetime)
    else:
        scripts.adjust(save_id="later", **lifetime)
    given = b"%d" % value
    scripts.swap("s", (b".a", b"2", b"1"), (name.encode(), given, None), undone="undone")
    assert scripts.hash()[b".a"] == b"1"
    assert scripts.hash()[name.encode()] == given
