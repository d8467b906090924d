"""Values of more than 64 bytes, which a small session holds in pieces.

So Redis keeps it in one block of memory, with its settings as they are.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import accounts
from pyramid_redis_lua_sessions.engine.pieces import ROOM, SIZE, cut, joined, left_over
from pyramid_redis_lua_sessions.engine.tokens import Token
from pyramid_redis_lua_sessions.engine.trace import Trace
from pyramid_redis_lua_sessions.errors import fingerprint
from tests.support.application import is_compact
from tests.support.browser import Browser, make_browser
from tests.support.command import run, write_ini
from tests.support.stored import TOKEN

LONG = "a long value, " * 20
OTHER = "another one, just as long, " * 12

#: The protections, by their settings.
PROTECTIONS: list[dict[str, str]] = [
    {},
    {"encryption_key": "k" * 32},
    {"seal": "false", "serialize": "json"},
]


def pieces(client: redis.Redis, browser: Browser) -> list[bytes]:
    found: Any = client.hkeys(browser.key)
    return sorted(field for field in found if field[:1] == b"\x7f")


def garbage(client: redis.Redis, browser: Browser) -> list[bytes]:
    """Pieces to which no value belongs."""
    held: Any = client.hgetall(browser.key)
    return left_over(held, ())


def put(value: Any) -> Callable[[Any], object]:
    return lambda session: session.__setitem__("v", value)


@pytest.fixture(params=PROTECTIONS, ids=["sealed", "encrypted", "bare"])
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


# -- cutting and joining -------------------------------------------------------------


@pytest.mark.parametrize("field", [b".v", b"#1", b"~\x1fid"])
def test_what_is_cut_is_joined_to_the_same(field: bytes) -> None:
    for size in (0, 1, 63, 64, 65, 119, 120, 121, 124, 125, 500, 1900):
        value = bytes(number % 251 for number in range(size))
        stored = cut({field: value, b".other": b"x"}, {})
        assert joined(stored) == {field: value, b".other": b"x"}
        assert max(map(len, stored.values())) <= SIZE
        assert (len(stored) > 2) is (size >= SIZE)
        assert left_over(stored, ()) == []
        gone = left_over(stored, [field])
        assert {*gone} == {*stored} - {field, b".other"}


def test_a_message_keeps_its_place_in_the_order_in_front() -> None:
    value = b"\xff" * 9 + b"m" * 200
    stored = cut({b"~\x1fid": value}, {})
    assert stored[b"~\x1fid"].startswith(b"\xff" * 9)
    placed = {**stored, b"~\x1fid": b"in order!" + stored[b"~\x1fid"][9:]}
    assert joined(placed) == {b"~\x1fid": b"in order!" + b"m" * 200}


def test_each_piece_is_of_one_value() -> None:
    stored = cut({b".v": b"v" * 300}, {})
    more = {b".%d" % number: stored[b".v"] for number in range(9)}
    assert sum(map(len, joined({**stored, **more}).values())) < 300 + 10 * SIZE


def test_fields_to_delete_are_not_gone_through_for_each_field() -> None:
    class Deletes(list[bytes]):
        def __contains__(self, field: object) -> bool:
            raise AssertionError("each of so many, for each of so many")

    held = {b"\x7f\0%4d" % number: b"" for number in range(300)}
    assert len(cut({b".v": b"v" * 300}, held, Deletes(held))) > 1


def test_a_whole_value_of_that_size_stays_whole() -> None:
    fields = {b".v": b"v" * SIZE, b".w": b"w" * 300}
    assert joined(fields) == fields


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ({b".v": b"v" * ROOM}, {}),
        ({b".v": b"v" * 100}, {b".w": b"w" * ROOM}),
        ({b".v": b"v" * 100}, {b"owner": b"o" * 65}),
        ({b".v": b"v" * 100, b"label": b"l" * 65}, {}),
        ({b".v": b"v" * 100, b"." + b"k" * 64: b""}, {}),
        ({b".v": b"v" * 100}, {b"." + b"k" * 64: b""}),
    ],
)
def test_nothing_is_cut_in_what_is_a_table_all_the_same(
    values: dict[bytes, bytes], held: dict[bytes, bytes]
) -> None:
    assert cut(values, held) == values


def test_what_is_replaced_takes_no_room() -> None:
    held: dict[bytes, bytes] = {}
    for _ in range(5):
        deletes = left_over(held, [b".v"])
        stored = cut({b".v": b"v" * (ROOM - 200)}, held, deletes)
        held = {f: v for f, v in held.items() if f not in deletes} | stored
        assert len(stored) > 1
    assert left_over(held, ()) == []


# -- in sessions ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [33, 40, 47, 48, 49, 65, 120, 500, 1000, 1500])
def test_session_stays_compact_with_a_value_of_any_size(
    redis_url: str, redis_client: redis.Redis, settings: dict[str, str], size: int
) -> None:
    browser = make_browser(redis_url, **settings)
    value = "v" * size
    browser.use(put(value))
    browser.use(lambda session: session.__setitem__("other", 1))
    assert is_compact(redis_client, browser.key)
    assert browser.use(dict) == {"v": value, "other": 1}
    browser.use(put(value + "!"))
    assert is_compact(redis_client, browser.key)
    assert browser.use(dict) == {"v": value + "!", "other": 1}
    assert garbage(redis_client, browser) == []
    browser.use(lambda session: session.pop("v"))
    assert pieces(redis_client, browser) == []


def test_all_kinds_of_values_take_pieces(
    redis_url: str, redis_client: redis.Redis, settings: dict[str, str]
) -> None:
    browser = make_browser(redis_url, **settings)

    def fill(session: Any) -> None:
        session[1] = OTHER
        session["nested"] = {"list": [LONG]}
        session.flash(LONG)
        session.flash(OTHER)

    browser.use(fill)
    assert is_compact(redis_client, browser.key)
    browser.use(lambda session: session["nested"]["list"].append(1))
    assert browser.use(dict) == {1: OTHER, "nested": {"list": [LONG, 1]}}
    assert browser.use(lambda session: session.pop_flash()) == [LONG, OTHER]
    assert browser.use(lambda session: session.peek_flash()) == []
    assert garbage(redis_client, browser) == []
    browser.use(lambda session: session.clear())
    assert pieces(redis_client, browser) == []


HOLDERS: dict[str, tuple[Callable[[Any, str], object], Callable[[Any], object]]] = {
    "value": (lambda s, text: s.__setitem__("k", text), lambda s: s["k"]),
    "value that ends": (lambda s, text: s.set("k", text, ttl=600), lambda s: s["k"]),
    "message": (lambda s, text: s.flash(text), lambda s: s.peek_flash()[0]),
    "owner": (lambda s, text: setattr(s, "owner", text), lambda s: s.owner),
    "label": (lambda s, text: setattr(s, "label", text), lambda s: s.label),
    "confirmed": (
        lambda s, text: s.confirm(text),
        lambda s: next(name for name in NAMES if s.confirmed_within(600, name)),
    ),
}

#: Of one byte and more, up to three pieces.
NAMES = ["n" * size for size in range(1, 150)]


@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_is_held_beside_a_long_value_may_have_any_size(
    redis_url: str, settings: dict[str, str], holder: str
) -> None:
    hold, held = HOLDERS[holder]
    browser = make_browser(redis_url, **settings)
    for text in NAMES:
        user = browser.another()
        user.use(put(LONG))
        user.use(lambda session, text=text: hold(session, text))
        found = user.use(lambda session: (held(session), session["v"]))
        assert found == (text, LONG), len(text)
        user.use(lambda session: session.regenerate_id())
        assert user.use(lambda session: (held(session), session["v"])) == (text, LONG), len(text)


def test_session_is_empty_of_which_only_pieces_are_left(
    redis_url: str, redis_client: redis.Redis, settings: dict[str, str]
) -> None:
    browser = make_browser(redis_url, invalidate_empty_session="true", **settings)
    browser.use(put(LONG))
    other = browser.copy()

    def view(session: Any) -> None:
        del session["v"]
        other.use(put(OTHER))

    browser.use(view)
    assert not redis_client.hexists(browser.key, TOKEN)


def test_new_token_takes_the_pieces_along(
    redis_url: str, redis_client: redis.Redis, settings: dict[str, str]
) -> None:
    browser = make_browser(redis_url, **settings)
    browser.use(lambda session: session.update(v=LONG, w=OTHER))
    before = pieces(redis_client, browser)
    browser.use(lambda session: (session.regenerate_id(), session.pop("w")))
    assert browser.use(dict) == {"v": LONG}
    assert not {*before} & {*pieces(redis_client, browser)}
    assert garbage(redis_client, browser) == []
    assert is_compact(redis_client, browser.key)


def test_several_saves_of_one_request(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    browser.use(put("short"))

    def act(request: Any) -> None:
        session = request.session
        for value in (LONG, OTHER, LONG):
            session["v"] = value
            session.do_persist()

    browser.visit(act)
    assert browser.use(dict) == {"v": LONG}
    assert garbage(redis_client, browser) == []


@pytest.mark.parametrize("size", [50, 100])
def test_a_single_piece_goes_with_its_value(
    redis_url: str, redis_client: redis.Redis, size: int
) -> None:
    browser = make_browser(redis_url)
    for number in range(3):
        browser.use(put(f"{number}" * size))
        assert len(pieces(redis_client, browser)) == 1

    def act(request: Any) -> None:
        for number in range(3):
            request.session["v"] = f"{number}" * size
            request.session.do_persist()
            assert len(pieces(redis_client, browser)) == 1

    browser.visit(act)


def test_session_that_is_emptied_of_long_values_ends(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, invalidate_empty_session="true")
    browser.use(lambda session: session.update(v=LONG, w=OTHER))
    key = browser.key
    browser.use(lambda session: session.clear())
    assert {b"moved"} <= {*redis_client.hkeys(key)} <= {b"moved", b"saves"}  # type: ignore[misc]


def test_value_that_ends_takes_its_pieces_along(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: (session.set("v", LONG, ttl=100), session.update(a=1)))
    assert browser.use(dict) == {"v": LONG, "a": 1}
    redis_client.hdel(browser.key, ".v")  # as Redis itself does, where it can
    assert browser.use(dict) == {"a": 1}
    browser.use(lambda session: session.update(a=2))
    assert pieces(redis_client, browser) == []


@pytest.mark.parametrize("turned", ["on", "off"])
def test_encryption_that_is_turned_on_or_off(redis_url: str, turned: str) -> None:
    before, after = {}, {"encryption_key": "k" * 32}
    if turned == "off":
        before, after = after, before
    browser = make_browser(redis_url, **before)
    browser.use(put(LONG))
    later = make_browser(redis_url, **after)
    later.app.cookiejar = browser.app.cookiejar
    for _ in range(2):
        assert later.use(dict) == ({"v": LONG} if turned == "on" else {})


def test_rotation_of_secrets_reseals_pieces(redis_url: str, redis_client: redis.Redis) -> None:
    old, new = "o" * 40, "n" * 40
    browser = make_browser(redis_url, secret=old)
    browser.use(put(LONG))
    before = pieces(redis_client, browser)
    rotated = make_browser(redis_url, secret=f"{new}\n{old}")
    rotated.app.cookiejar = browser.app.cookiejar
    for _ in range(3):
        assert rotated.use(dict) == {"v": LONG}
    last = make_browser(redis_url, secret=new)
    last.app.cookiejar = browser.app.cookiejar
    assert last.use(dict) == {"v": LONG}
    assert not {*before} & {*pieces(redis_client, browser)}
    assert garbage(redis_client, browser) == []


# -- requests that overlap -----------------------------------------------------------


VALUES = [LONG, OTHER, "short", None]


@pytest.mark.parametrize(("mine", "theirs"), [*itertools.product(VALUES, VALUES)])
def test_of_two_requests_the_later_wins_whole_and_what_is_left_goes_with_the_next_save(
    redis_url: str, redis_client: redis.Redis, mine: str | None, theirs: str | None
) -> None:
    browser = make_browser(redis_url)
    browser.use(put("v" * 300))

    def write(session: Any, value: str | None) -> None:
        if value is None:
            del session["v"]
        else:
            session["v"] = value

    def outer(session: Any) -> None:
        session["kept"] = 1
        write(session, mine)
        browser.copy().use(lambda other: write(other, theirs))

    browser.use(outer)
    expected = {"kept": 1} if mine is None else {"kept": 1, "v": mine}
    assert browser.use(dict) == expected
    browser.use(lambda session: session.__setitem__("next", 1))
    assert garbage(redis_client, browser) == []
    assert browser.use(dict) == {**expected, "next": 1}


def test_garbage_is_not_removed_from_under_a_value_that_is_written_again(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(put(LONG))

    def clash(session: Any) -> None:
        session["v"] = "short"
        browser.copy().use(put(OTHER))

    browser.use(clash)
    assert garbage(redis_client, browser)

    def tidy(session: Any) -> None:
        session["other"] = 1  # saves, and removes what it has seen to be left
        browser.copy().use(put(OTHER))

    browser.use(tidy)
    assert browser.use(dict) == {"v": OTHER, "other": 1}


@pytest.mark.parametrize("writes", [True, False])
def test_retry_mode_notices_a_long_value_that_changed_at_its_end(
    redis_url: str, writes: bool
) -> None:
    browser = make_browser(redis_url, on_conflict="retry")
    browser.use(put(LONG))

    def act(session: Any) -> None:
        session["copy"] = session["v"]
        if writes:
            browser.copy().use(put(LONG + "!"))

    if writes:
        browser.use(act, status=409)
        assert browser.use(dict) == {"v": LONG + "!"}
    else:
        browser.use(act)
        assert browser.use(dict) == {"v": LONG, "copy": LONG}


# -- who can write to Redis ----------------------------------------------------------


def spoil(client: redis.Redis, key: str, how: str) -> None:
    held: Any = client.hgetall(key)
    names = sorted(field for field in held if field[:1] == b"\x7f")
    first, second = names[:2]
    if how == "altered":
        client.hset(key, first, held[first][:-1] + bytes([held[first][-1] ^ 1]))
    elif how == "removed":
        client.hdel(key, names[-1])
    elif how == "exchanged":
        client.hset(key, mapping={first: held[second], second: held[first]})
    elif how == "added":
        client.hset(key, b"\x7f" + bytes([len(names)]) + first[2:], b"more")
    elif how == "all removed":
        client.hdel(key, *names)
    elif how == "whole":  # as if it had never been cut
        client.hset(key, b".v", joined(held)[b".v"] + b"!")


@pytest.mark.parametrize("warm", [True, False], ids=["remembered", "unknown"])
@pytest.mark.parametrize(
    "how", ["altered", "removed", "exchanged", "added", "all removed", "whole"]
)
@pytest.mark.parametrize("protection", PROTECTIONS[:2], ids=["sealed", "encrypted"])
def test_whoever_tampers_with_a_piece_gets_a_new_session(
    redis_url: str, redis_client: redis.Redis, protection: dict[str, str], how: str, warm: bool
) -> None:
    browser = make_browser(redis_url, **protection)
    browser.use(put(LONG))
    if warm:
        browser.use(dict)
        reader = browser
    else:
        reader = make_browser(redis_url, **protection)
        reader.app.cookiejar = browser.app.cookiejar
    spoil(redis_client, browser.key, how)
    assert reader.use(lambda session: (dict(session), session.new)) == ({}, True)


def test_a_value_takes_the_pieces_of_no_other(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(v=LONG, w=OTHER))
    held: Any = redis_client.hgetall(browser.key)
    redis_client.hset(browser.key, mapping={".v": held[b".w"], ".w": held[b".v"]})
    assert browser.use(dict) == {}


def test_any_number_of_foreign_pieces_is_survived(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(put(LONG))
    head: Any = redis_client.hget(browser.key, ".v")
    foreign = {b"\x7f" + bytes(name): b"x" for name in ([], [1], [1, 2, 3], range(200))}
    foreign |= {b"\x7f" + number.to_bytes(5, "big"): b"" for number in range(9000)}
    redis_client.hset(browser.key, mapping=foreign)  # type: ignore[arg-type]
    assert browser.use(dict) == {"v": LONG}
    browser.use(put(OTHER))
    assert browser.use(dict) == {"v": OTHER}
    assert garbage(redis_client, browser) == []
    more = {b"\x7f" + bytes([number]) + head[:4]: b"x" * 64 for number in range(256)}
    redis_client.hset(browser.key, mapping={b".v": head, **more})  # type: ignore[arg-type]
    assert browser.use(dict) == {}


@pytest.mark.parametrize("protection", PROTECTIONS[:2], ids=["sealed", "encrypted"])
@pytest.mark.parametrize("field", [b"", b"\x7f", b"\x7f\0", b"\x80", b"\xff" * 9])
def test_a_broken_value_beside_a_foreign_field_is_noticed(
    redis_url: str, redis_client: redis.Redis, protection: dict[str, str], field: bytes
) -> None:
    browser = make_browser(redis_url, **protection)
    browser.use(put(LONG))
    redis_client.hset(browser.key, mapping={field: b"0"})  # type: ignore[misc]
    assert browser.use(dict) == {"v": LONG}
    redis_client.hset(browser.key, mapping={b".v": b"0"})  # type: ignore[misc]
    assert browser.use(dict) == {}


# -- who else reads ------------------------------------------------------------------


def test_export_and_saves_to_all_sessions_of_a_user(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)

    def log_in(request: Any) -> None:
        request.session.owner = "ada"
        request.session["v"] = LONG

    browser.visit(log_in)
    (found,) = browser.visit(lambda request: accounts.export_sessions(request, "ada"))
    assert {"key": "v", "value": LONG} in found["values"]
    browser.another().visit(lambda request: accounts.update_sessions(request, "ada", {"v": OTHER}))
    assert browser.use(lambda session: session["v"]) == OTHER
    browser.use(put(LONG))
    assert browser.use(lambda session: session["v"]) == LONG
    assert garbage(redis_client, browser) == []


def test_command_shows_values_whole(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path, capsys: Any
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(v=LONG, short=1))
    assert browser.session_id is not None
    ini = write_ini(tmp_path, redis_url)
    name = fingerprint(browser.session_id)
    assert run("show", ini, "--session", name, "--reveal", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["key"], one["protection"], one["value"]) for one in shown["values"]] == [
        ("short", "sealed", "1"),
        ("v", "sealed", repr(LONG)),
    ]
    assert run("list", ini, "--json") == 0
    assert '"keys": 2' in capsys.readouterr().out


def test_what_is_traced_is_the_size_of_the_whole() -> None:
    stored = cut({b".v": b"v" * 200, b".w": b"w"}, {})
    trace = Trace()
    trace.loads(Token.of("locator", "verifier"), stored, [b".v", b".w"])
    assert trace.sizes == {b".v": 200, b".w": 1}
