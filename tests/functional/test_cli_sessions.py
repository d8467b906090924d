"""``redis-lua-sessions list``, ``show`` and ``revoke``."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import sessions_of
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD, Migration
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import SECRET, Browser, let_time_pass, make_browser
from tests.support.command import on_a_terminal, run, write_ini
from tests.support.stored import A_SESSION, set_start, start_of
from tests.support.waiting import wait_until

from .test_owner import make_index_older

VALUE = "a value that nobody asked to see"
OWNER = "ada@example.com"
LABEL = "phone\x1b[2J"


def log_in(browser: Browser, owner: str | int = OWNER) -> None:
    def view(session: Any) -> None:
        session["name"] = VALUE
        session.owner = owner
        session.label = LABEL

    browser.use(view)


def name_of(browser: Browser) -> str:
    assert browser.session_id is not None
    return fingerprint(browser.session_id)


def cookie_of(browser: Browser) -> str:
    return str(browser.app.cookies["session"])


def is_alive(browser: Browser) -> bool:
    return bool(browser.use(dict))


@pytest.fixture
def ini(tmp_path: Path, redis_url: str) -> str:
    return write_ini(tmp_path, redis_url)


@pytest.fixture
def browser(redis_url: str) -> Browser:
    return make_browser(redis_url)


def some_sessions(browser: Browser, number: int = 3) -> list[Browser]:
    users = [browser.another() for _ in range(number)]
    for user in users:
        log_in(user)
    return users


def assert_shows_no_secret(text: str, *browsers: Browser) -> None:
    for browser in browsers:
        assert browser.session_id not in text
        assert cookie_of(browser) not in text
    for hidden in (VALUE, OWNER, "phone", SECRET):
        assert hidden not in text
    assert "\x1b" not in text


# -- list ------------------------------------------------------------------------------


def test_list_names_every_session_by_its_fingerprint_oldest_first(
    browser: Browser, redis_url: str, redis_client: Any, ini: str, capsys: Any
) -> None:
    users = some_sessions(browser)
    let_time_pass(redis_client, users[2].key, 600)
    let_time_pass(redis_client, users[1].key, 60)
    redis_client.hset("session:somebody else's", "field", "value")
    # When they were seen can be told only if the timeout is known.
    for target, ago in (([ini], "10 min ago"), (["--url", redis_url], r"\?")):
        assert run("list", *target) == 0
        printed = capsys.readouterr()
        heading, *lines = printed.out.splitlines()
        assert heading.split() == [
            "session",
            "created",
            "last",
            "seen",
            "ends",
            "in",
            "keys",
            "size",
        ]
        assert [line.split()[0] for line in lines] == [name_of(users[n]) for n in (2, 1, 0)]
        assert re.search(rf"UTC  {ago} +10 min +1 +\d+ B$", lines[0])
        assert_shows_no_secret(printed.out + printed.err, *users)


def test_list_as_json(browser: Browser, redis_client: Any, ini: str, capsys: Any) -> None:
    (user,) = some_sessions(browser, 1)
    let_time_pass(redis_client, user.key, 60)
    assert run("list", ini, "--json") == 0
    out = capsys.readouterr().out
    (found,) = json.loads(out)
    created = start_of(redis_client, user.key) / 1000
    assert found["session"] == name_of(user)
    assert found["created"] == created
    assert found["last_seen_seconds_ago"] == pytest.approx(60, abs=5)
    assert found["ends_in_seconds"] == pytest.approx(1140, abs=5)
    assert found["keys"] == 1
    assert found["bytes"] == redis_client.memory_usage(user.key)
    assert_shows_no_secret(out, user)
    assert run("list", ini, "--json", "--reveal") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["owner"], found["label"]) == (OWNER, LABEL)


def test_list_of_one_owner(browser: Browser, ini: str, capsys: Any) -> None:
    users = some_sessions(browser, 2)
    others = [browser.another() for _ in range(2)]
    log_in(others[0], 7)
    log_in(others[1], "7")
    assert run("list", ini, "--owner", OWNER, "--reveal") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {name_of(user) for user in users}
    # What a terminal would obey is escaped.
    assert all(line.endswith(f"{OWNER!r}  'phone\\x1b[2J'") for line in lines)
    assert run("list", ini, "--owner", "7") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {name_of(other) for other in others}


def test_list_does_not_touch_the_sessions(
    browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    (user,) = some_sessions(browser, 1)
    let_time_pass(redis_client, user.key, 60)
    before = redis_client.pttl(user.key)
    assert run("list", ini) == 0
    assert run("show", ini, "--session", name_of(user), "--reveal") == 0
    assert redis_client.pttl(user.key) <= before


def test_list_says_so_where_it_leaves_sessions_out(browser: Browser, ini: str, capsys: Any) -> None:
    some_sessions(browser, 4)
    assert run("list", ini, "--limit", "3") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 3
    assert "--limit 0" in printed.err
    for limit in ("0", "4"):
        assert run("list", ini, "--limit", limit) == 0
        printed = capsys.readouterr()
        assert (len(printed.out.splitlines()), printed.err) == (1 + 4, "")
    assert run("list", ini, "--limit", "-1") == 2


def test_list_leaves_out_what_is_at_its_end(
    tmp_path: Path, redis_url: str, redis_client: Any, capsys: Any
) -> None:
    options = {"set_redis_ttl": False, "absolute_timeout": 5000, "timeout": 3000}
    browser = make_browser(redis_url, **options)
    users = some_sessions(browser, 4)
    users[1].use(lambda session: session.invalidate())
    let_time_pass(redis_client, users[2].key, 3001)  # idle, and still stored
    let_time_pass(redis_client, users[3].key, 2900)
    users[3].use(dict)
    let_time_pass(redis_client, users[3].key, 1900)
    assert run("list", write_ini(tmp_path, redis_url, **options), "--json") == 0
    found = {entry["session"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(found) == {name_of(users[0]), name_of(users[3])}
    # The absolute timeout comes first.
    assert found[name_of(users[3])]["ends_in_seconds"] == pytest.approx(200, abs=5)


def test_list_under_a_prefix_that_looks_like_a_pattern(
    tmp_path: Path, redis_url: str, capsys: Any
) -> None:
    odd = make_browser(redis_url, prefix="a[b]*?\\:")
    even = make_browser(redis_url, prefix="abx:")
    log_in(odd)
    log_in(even)
    assert run("list", write_ini(tmp_path, redis_url, prefix="a[b]*?\\:")) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert line.split()[0] == name_of(odd)
    assert run("list", "--url", redis_url, "--prefix", "abx:") == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert line.split()[0] == name_of(even)


# -- show ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fingerprint", "id", "cookie", "cookie header"])
def test_show_finds_a_session_by_whatever_names_it(
    kind: str, browser: Browser, ini: str, capsys: Any
) -> None:
    users = some_sessions(browser)
    user = users[1]
    name = {
        "fingerprint": name_of(user),
        "id": user.session_id,
        "cookie": cookie_of(user),
        "cookie header": f"session={cookie_of(user)}",
    }[kind]
    # Not from the command line where others of the machine can read it.
    for given, stdin in ((name, ""), ("-", f"{name}\n")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            assert run("show", ini, "--session", given) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[0].split() == ["session", name_of(user)]
        assert_shows_no_secret(printed.out + printed.err, *users)


def test_show_finds_an_id_that_begins_with_a_hyphen(redis_url: str, ini: str, capsys: Any) -> None:
    browser = make_browser(redis_url, id_generator=lambda: "-yes")
    log_in(browser)
    assert run("show", ini, "--session", "-yes", "--reveal") == 0
    assert name_of(browser) in capsys.readouterr().out


def test_show_tells_the_keys_and_with_reveal_the_values(
    browser: Browser, redis_url: str, ini: str, capsys: Any
) -> None:
    def view(session: Any) -> None:
        session.update({"list": [1, "\x1b[31m"], 7: VALUE, "odd\x07": None})
        session.flash("a message", "news")
        session.adjust_session_timeout(7200)

    log_in(browser)
    browser.use(view)
    assert run("show", ini, "--session", name_of(browser)) == 0
    out = capsys.readouterr().out
    assert_shows_no_secret(out, browser)
    facts, keys = out.split("\n\n")
    assert re.search(r"^idle timeout +2 h \(its own\)$", facts, re.MULTILINE)
    assert re.search(r"^owner +\(hidden\)$", facts, re.MULTILINE)
    table = [re.split("  +", line) for line in keys.splitlines()]
    assert table[0] == ["key", "stored", "protection"]
    shown = {row[0]: row[1:] for row in table[1:]}
    assert set(shown) == {"7", "'list'", "'name'", "'odd\\x07'", "flash message in 'news'"}
    assert {row[1] for row in shown.values()} == {"sealed"}

    assert run("show", ini, "--session", name_of(browser), "--reveal") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    values = {
        row[0]: row[3]
        for row in (re.split("  +", line) for line in out.split("\n\n")[1].splitlines())
    }
    assert values == {
        "key": "value",
        "7": repr(VALUE),
        "'list'": repr([1, "\x1b[31m"]),
        "'name'": repr(VALUE),
        "'odd\\x07'": "None",
        "flash message in 'news'": "'a message'",
    }
    assert re.search(rf"^owner +'{OWNER}'$", out, re.MULTILINE)

    assert run("show", "--url", redis_url, "--session", name_of(browser)) == 0
    assert "protection" not in capsys.readouterr().out
    assert run("show", "--url", redis_url, "--session", name_of(browser), "--reveal") == 2
    assert "configuration" in capsys.readouterr().err


def test_show_tells_what_protects_each_value(
    browser: Browser, redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    browser.use(lambda session: session.update(old=1, moved=1))
    redis_client.hset(browser.key, ".moved", redis_client.hget(browser.key, ".old"))
    new = "the newest secret of these tests, over 32 bytes"
    ini = write_ini(tmp_path, redis_url, secret=f"\n  {new}\n  {SECRET}")
    # One broken seal: still shown, but not decoded.
    assert run("show", ini, "--session", name_of(browser), "--reveal") == 0
    rows = [re.split("  +", line) for line in capsys.readouterr().out.split("\n\n")[1].splitlines()]
    assert [[row[0], *row[2:]] for row in rows[1:]] == [
        ["'moved'", "not authentic", "(not authentic)"],
        ["'old'", "under an older secret", "1"],
    ]


class Gadget:
    ran: list[int] = []

    def __reduce__(self) -> Any:
        return (Gadget.ran.append, (1,))


def test_show_unpickles_nothing_that_no_seal_protects(
    redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    options = {"seal": False, "allow_unsealed_pickle": True}
    browser = make_browser(redis_url, **options)
    browser.use(lambda session: session.update(gadget=Gadget()))
    ini = write_ini(tmp_path, redis_url, **options)
    Gadget.ran.clear()
    assert run("show", ini, "--session", name_of(browser), "--reveal") == 0
    out = capsys.readouterr().out
    assert re.search("'gadget' .* none .*no seal protects it", out)
    assert Gadget.ran == []


def test_show_when_there_is_no_such_session(
    browser: Browser, redis_url: str, ini: str, capsys: Any
) -> None:
    log_in(browser)
    names = [name_of(browser), browser.session_id, cookie_of(browser)]
    browser.use(lambda session: session.invalidate())
    for name in [*names, "0123456789ab", "", "x"]:
        for command in (["show"], ["revoke", "--yes"]):
            assert run(*command, ini, "--session", name) == 1
            printed = capsys.readouterr()
            assert printed.out == ""
            assert len(printed.err.splitlines()) == 1
            assert not name or name not in printed.err


# -- revoke ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fingerprint", "id", "cookie"])
def test_revoke_ends_one_session_at_once(
    kind: str, browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    users = some_sessions(browser)
    user = users[1]
    name = {"fingerprint": name_of(user), "id": user.session_id, "cookie": cookie_of(user)}[kind]
    assert run("revoke", ini, "--session", name, "--yes") == 0
    printed = capsys.readouterr()
    assert printed.out == f"ended session {name_of(user)}\n"
    # The marker is there: a request in flight sees that it has ended.
    assert redis_client.hkeys(user.key) == [b"moved"]
    assert [is_alive(one) for one in users] == [True, False, True]
    assert len(sessions_of(browser.wsgi.registry, OWNER)) == 2
    (index,) = redis_client.keys("session:owner:*")
    assert redis_client.zcard(index) == 2


def test_revoke_ends_the_sessions_of_an_owner(browser: Browser, ini: str, capsys: Any) -> None:
    users = some_sessions(browser, 12)
    other, number = browser.another(), browser.another()
    log_in(other, "7x")
    log_in(number, 7)
    assert run("revoke", ini, "--owner", OWNER, "--yes") == 0
    assert capsys.readouterr().out == "ended 12 sessions\n"
    assert not any(is_alive(user) for user in users)
    assert is_alive(other)
    assert is_alive(number)
    assert run("revoke", ini, "--owner", "7", "--yes") == 0
    assert capsys.readouterr().out == "ended 1 session\n"
    assert not is_alive(number)
    assert is_alive(other)
    assert run("revoke", ini, "--owner", "nobody", "--yes") == 0


def test_revoke_ends_all(
    browser: Browser, redis_url: str, redis_client: Any, ini: str, capsys: Any
) -> None:
    for target in ([ini], ["--url", redis_url]):
        users = some_sessions(browser, 60)
        redis_client.hset("session:somebody else's", "field", "value")
        stranger = make_browser(redis_url, prefix="other:")
        log_in(stranger)
        assert run("revoke", *target, "--all", "--yes") == 0
        assert capsys.readouterr().out == "ended 60 sessions\n"
        assert not any(is_alive(user) for user in users)
        assert is_alive(stranger)
        assert redis_client.hgetall("session:somebody else's") == {b"field": b"value"}


def test_revoke_all_without_a_prefix_ends_no_hash_of_others(
    redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    browser = make_browser(redis_url, prefix="")
    log_in(browser)
    redis_client.hset("an order", mapping={"@": "1700000000", "moved": "yes"})
    redis_client.hset("an event", "@", "at noon")
    assert run("revoke", write_ini(tmp_path, redis_url, prefix=""), "--all", "--yes") == 0
    assert capsys.readouterr().out == "ended 1 session\n"
    assert not is_alive(browser)
    assert redis_client.hgetall("an order") == {b"@": b"1700000000", b"moved": b"yes"}
    assert redis_client.hgetall("an event") == {b"@": b"at noon"}


#: No clock was ever, or will be, there.
ODD_STARTS = {"the epoch": 0, "the year 2100": 4_102_444_800_000, "the last": 2**48 - 1}


@pytest.mark.parametrize("kind", ODD_STARTS)
def test_session_whose_start_somebody_else_has_changed_is_seen_and_ended(
    kind: str, browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    set_start(redis_client, browser.key, ODD_STARTS[kind])
    assert is_alive(browser)
    assert run("list", ini) == 0
    assert name_of(browser) in capsys.readouterr().out
    assert run("show", ini, "--session", name_of(browser)) == 0
    assert run("stats", ini) == 0
    assert "1 session, " in capsys.readouterr().out
    assert run("revoke", ini, "--all", "--yes") == 0
    assert capsys.readouterr().out == "ended 1 session\n"
    assert not is_alive(browser)


@pytest.mark.parametrize("number", ["1e15", "nan", "inf", "0x7fffffffffff", " 9999999999999 "])
@pytest.mark.parametrize("field", ["expires", "deadline"])
def test_session_whose_end_somebody_else_has_changed_is_seen(
    field: str, number: str, browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    redis_client.hset(browser.key, field, number)
    assert run("list", ini) == 0
    assert name_of(browser) in capsys.readouterr().out
    assert is_alive(browser)


def test_revoke_all_ends_what_a_request_in_flight_could_still_save_to(
    browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    redis_client.hset(browser.key, "@", "x")
    assert run("revoke", ini, "--all", "--yes") == 0
    assert capsys.readouterr().out == "ended 1 session\n"
    assert redis_client.hkeys(browser.key) == [b"moved"]


def migrated_id(browser: Browser, old_id: str) -> str:
    """The id under which a session of a predecessor goes on."""
    factory = browser.factory
    return (
        Migration(factory.settings, factory.codec, factory.sealer)
        .token(old_id, SECRET.encode())
        .locator
    )


def test_owner_who_is_a_number_is_not_found_by_another_way_to_write_it(
    browser: Browser, ini: str, capsys: Any
) -> None:
    log_in(browser, 7)
    assert run("revoke", ini, "--owner", "007", "--yes") == 0
    assert "ended 0 sessions" in capsys.readouterr().out
    assert is_alive(browser)
    assert run("revoke", ini, "--owner", "7", "--yes") == 0
    assert not is_alive(browser)


@pytest.mark.parametrize("owner", ["9" * 20, "-" + "7" * 30, "\udcff"])
def test_owner_whom_the_serializer_cannot_express_as_text_or_as_number(
    owner: str, redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    options = {"seal": False, "serialize": "msgpack"}
    browser = make_browser(redis_url, **options)
    ini = write_ini(tmp_path, redis_url, **options)
    if owner == "\udcff":
        for command in (["list"], ["revoke", "--yes"]):
            assert run(*command, ini, "--owner", owner) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
        return
    log_in(browser, owner)
    assert run("list", ini, "--owner", owner) == 0
    assert name_of(browser) in capsys.readouterr().out
    assert run("revoke", ini, "--owner", owner, "--yes") == 0
    assert capsys.readouterr().out == "ended 1 session\n"
    assert not is_alive(browser)


def test_list_on_a_terminal_that_is_too_narrow_for_a_table_leaves_nothing_out(
    browser: Browser, ini: str
) -> None:
    log_in(browser)
    status, shown = on_a_terminal("list", ini, columns=30)
    assert status == 0
    for part in (name_of(browser), "created", "last seen", "ends in", "keys", "size", " UTC "):
        assert part in shown


def test_list_on_a_narrow_terminal_cuts_nothing_off(browser: Browser, ini: str) -> None:
    log_in(browser)
    for args in ([], ["--reveal"]):
        status, shown = on_a_terminal("list", ini, *args, columns=80)
        assert status == 0
        assert name_of(browser) in shown
        assert "…" not in shown


def test_revoke_of_all_misses_no_session_that_gets_a_new_id_meanwhile(
    browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    users = some_sessions(browser, 8)
    begun, over = threading.Barrier(len(users) + 1), threading.Event()

    def keep_busy(user: Browser) -> int:
        new_ids = 0
        begun.wait(30)
        while not over.is_set() and user.use(lambda s: s.regenerate_id() or True if s else False):
            new_ids += 1
            # As long as a fast network takes. Who changes the id faster than a command can
            # follow is not caught, and the command says so.
            over.wait(0.01)
        return new_ids

    with ThreadPoolExecutor(len(users)) as threads:
        busy = [threads.submit(keep_busy, user) for user in users]
        begun.wait(30)
        try:
            assert run("revoke", ini, "--all", "--yes") == 0
        finally:
            over.set()
        assert sum(task.result() for task in busy) > 0
    capsys.readouterr()
    assert run("list", ini, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert not any(is_alive(user) for user in users)


@pytest.mark.parametrize("which", ["session", "all", "owner"])
def test_revoke_of_a_session_whose_migration_was_cut_off_ends_the_old_one_too(
    which: str, browser: Browser, redis_url: str, redis_client: Any, ini: str, capsys: Any
) -> None:
    name = migrated_id(browser, "the old key")
    moved = make_browser(redis_url, id_generator=lambda: name)
    log_in(moved)
    redis_client.set("the old key", "an old session")
    redis_client.hset(moved.key, OLD_KEY_FIELD.decode(), "the old key")
    args = {"session": [name], "all": [], "owner": [OWNER]}[which]
    assert run("revoke", ini, "--yes", f"--{which}", *args) == 0
    assert redis_client.exists("the old key") == 0
    assert not is_alive(moved)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("which", ["session", "all", "owner"])
def test_revoke_deletes_no_key_that_somebody_else_has_named(
    which: str, browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    redis_client.set("a neighbour's key", "text")
    redis_client.hset(browser.key, OLD_KEY_FIELD.decode(), "a neighbour's key")
    args = {"session": [name_of(browser)], "all": [], "owner": [OWNER]}[which]
    assert run("revoke", ini, "--yes", f"--{which}", *args) == 0
    assert redis_client.get("a neighbour's key") == b"text"
    assert not is_alive(browser)
    assert "cannot be verified" in capsys.readouterr().err


def test_revoke_deletes_no_key_for_a_session_that_somebody_else_has_made(
    browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    redis_client.set("a neighbour's key", "text")
    forged = "session:" + migrated_id(browser, "a neighbour's key")
    redis_client.copy(browser.key, forged)
    redis_client.hset(forged, OLD_KEY_FIELD.decode(), "a neighbour's key")
    assert run("revoke", ini, "--yes", "--all") == 0
    assert redis_client.get("a neighbour's key") == b"text"
    assert "cannot be verified" in capsys.readouterr().err


def test_revoke_all_says_that_sessions_of_a_predecessor_stay(
    redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    ini = write_ini(tmp_path, redis_url, migrate_from="pyramid_session_redis")
    assert run("revoke", ini, "--all", "--yes") == 0
    assert "migrate_from" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["--all"], ["--owner", OWNER], ["--session"]])
def test_revoke_destroys_nothing_without_a_yes(
    args: list[str], browser: Browser, ini: str, capsys: Any
) -> None:
    log_in(browser)
    args = [*args, name_of(browser)] if args == ["--session"] else args
    assert run("revoke", ini, *args) == 2
    assert "--yes" in capsys.readouterr().err
    assert is_alive(browser)


def test_revoke_asks_on_a_terminal(browser: Browser, ini: str) -> None:
    log_in(browser)
    for answer in ("\n", "nonsense\n"):
        status, shown = on_a_terminal("revoke", ini, "--all", answer=answer)
        assert status == 2, shown
        assert "nothing was done" in shown
    assert is_alive(browser)
    status, shown = on_a_terminal("revoke", ini, "--all", answer="y\n")
    assert status == 0, shown
    assert not is_alive(browser)


def test_revoke_does_nothing_when_the_terminal_is_closed(browser: Browser, ini: str) -> None:
    log_in(browser)
    status, shown = on_a_terminal("revoke", ini, "--all", answer="\x04")
    assert status == 2
    assert shown.splitlines()[-1] == "redis-lua-sessions: nothing was done"
    assert "Traceback" not in shown
    assert is_alive(browser)


@pytest.mark.parametrize("args", [["show", "--session", "-"], ["revoke", "--all"]])
@pytest.mark.parametrize("stdin", [None, b"\xff\xfe\n", b""])
def test_standard_input_that_cannot_be_read(
    stdin: bytes | None, args: list[str], browser: Browser, ini: str, monkeypatch: Any, capsys: Any
) -> None:
    log_in(browser)
    given = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", given)
    assert run(args[0], ini, *args[1:]) in (1, 2)
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert is_alive(browser)


def test_output_whose_encoding_cannot_express_a_key(
    browser: Browser, ini: str, monkeypatch: Any, capsys: Any
) -> None:
    browser.use(lambda session: session.update({"\u4e2d": "\xe9"}))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run("show", ini, "--session", name_of(browser), "--reveal") == 0
    assert out.errors == "strict"
    shown = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "'\\u4e2d'" in shown
    assert "'\\xe9'" in shown


def test_revoke_says_which_and_needs_exactly_one(browser: Browser, ini: str, capsys: Any) -> None:
    assert run("revoke", ini, "--yes") == 2
    assert run("revoke", ini, "--yes", "--all", "--owner", "x") == 2
    assert run("revoke", "--url", "redis://127.0.0.1:1/0", "--owner", "x", "--yes") == 2


# -- on a terminal, and not ------------------------------------------------------------


def test_tables_are_drawn_on_a_terminal_and_plain_elsewhere(
    browser: Browser, ini: str, capsys: Any
) -> None:
    log_in(browser)
    assert run("list", ini) == 0
    assert "─" not in capsys.readouterr().out
    status, shown = on_a_terminal("list", ini)
    assert status == 0
    assert "─" in shown
    assert name_of(browser) in shown


def test_commands_when_redis_cannot_be_reached(tmp_path: Path, capsys: Any) -> None:
    ini = write_ini(tmp_path, "redis://127.0.0.1:1/0", redis_retries=0)
    for args in (["list"], ["show", "--session", "x"], ["revoke", "--all", "--yes"]):
        assert run(args[0], ini, *args[1:]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert "cannot be reached" in printed.err


def decoding_client(request: object, **options: Any) -> redis.Redis:
    return redis.Redis(port=options["port"], decode_responses=True)


def test_commands_with_a_client_that_decodes(
    browser: Browser, redis_server: RedisServer, tmp_path: Path, capsys: Any
) -> None:
    log_in(browser)
    name = name_of(browser)
    ini = write_ini(
        tmp_path, None, client_callable=f"{__name__}.decoding_client", port=redis_server.port
    )
    for command, shown in (
        (["check"], "session tried"),
        (["stats"], "1 session, "),
        (["list", "--owner", OWNER, "--reveal"], OWNER),
        (["show", "--session", name, "--reveal"], VALUE),
        (["sweep"], "1 index: "),
        (["revoke", "--session", name, "--yes"], name),
        (["revoke", "--all", "--yes"], "ended 0 sessions"),
    ):
        assert run(command[0], ini, *command[1:]) == 0, command
        assert shown in capsys.readouterr().out
    assert not is_alive(browser)


@pytest.mark.parametrize("number", [b"-5", b"9" * 17, b"9" * 30, b"\xff\x1b[2J"])
def test_commands_where_somebody_else_wrote_to_redis(
    number: bytes, browser: Browser, redis_client: Any, ini: str, capsys: Any
) -> None:
    log_in(browser)
    own = browser.key.encode()
    redis_client.zadd(b"session:owner:\xff", {b"\xff\xfe": 1})
    for key in (own, b"session:\xff", b"session:plain", b"session:\x1b[2J"):
        for field in (b"timeout", b"expires", b"deadline", b"first", b"owner", b"label", b"old"):
            redis_client.hset(key, field, number)
        for field in (b".\xff", b"#x", b"~", b"~\xff\x1fx", b".\x1b[2J", b"", b"other"):
            redis_client.hset(key, field, number)
    for key in (own, b"session:plain"):
        for token in (number, A_SESSION, A_SESSION[:16] + b"\xff" * 12):
            redis_client.hset(key, "@", token)
            for command in (
                ["list", "--reveal"],
                ["show", "--reveal", "--session", str(browser.session_id)],
                ["stats"],
                ["sweep"],
            ):
                assert run(command[0], ini, *command[1:]) in (0, 1), command
                printed = capsys.readouterr()
                assert "\x1b" not in printed.out + printed.err
    assert run("check", ini, "--no-write") == 0
    assert run("revoke", ini, "--all", "--yes") == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run("list", ini) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1  # the headings


# -- JSON ------------------------------------------------------------------------------


def test_show_reveals_messages_that_share_a_field(browser: Browser, ini: str, capsys: Any) -> None:
    texts = [f"message {n}" for n in range(20)]
    browser.use(lambda session: [session.flash(text) for text in texts])
    assert run("show", ini, "--session", name_of(browser), "--json", "--reveal") == 0
    values = [value["value"] for value in json.loads(capsys.readouterr().out)["values"]]
    assert sorted(values) == sorted([*map(repr, texts[:7]), repr(texts[7:])])


@pytest.mark.parametrize("revealed", [False, True])
def test_show_as_json(browser: Browser, ini: str, capsys: Any, revealed: bool) -> None:
    log_in(browser)
    browser.use(lambda session: session.update({5: "five", "\udc80": "x"}))
    browser.use(lambda session: session.flash("hello", "queue"))
    browser.use(lambda session: session.adjust_session_timeout(600))
    args = ["--reveal"] if revealed else []
    assert run("show", ini, "--session", name_of(browser), "--json", *args) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    values = {
        str(value.get("key", value.get("flash"))): value.get("value") for value in found["values"]
    }
    assert found["session"] == name_of(browser)
    assert (found["idle_timeout_seconds"], found["idle_timeout_is_its_own"]) == (600, True)
    assert found["ends_at_last"] is None
    assert {value["protection"] for value in found["values"]} == {"sealed"}
    assert all(value["bytes"] > 0 for value in found["values"])
    shown = {"name": repr(VALUE), "5": "'five'", "\udc80": "'x'", "queue": "'hello'"}
    assert values == (shown if revealed else dict.fromkeys(shown))
    if revealed:
        assert (found["owner"], found["label"]) == (OWNER, LABEL)
    else:
        assert_shows_no_secret(out, browser)


def test_show_as_json_says_what_is_not_known(browser: Browser, redis_url: str, capsys: Any) -> None:
    log_in(browser)
    assert run("show", "--url", redis_url, "--session", name_of(browser), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["idle_timeout_seconds"], found["idle_timeout_is_its_own"]) == (None, False)
    assert [set(value) for value in found["values"]] == [{"key", "bytes"}]


@pytest.mark.parametrize("which", ["session", "owner", "all"])
def test_revoke_as_json(browser: Browser, ini: str, capsys: Any, which: str) -> None:
    log_in(browser)
    named = {"session": [name_of(browser)], "owner": [OWNER], "all": []}[which]
    assert run("revoke", ini, f"--{which}", *named, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"ended": 1, "may_live_again": 0}
    assert not is_alive(browser)


def test_question_is_no_part_of_the_json(
    browser: Browser, ini: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(browser)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run("revoke", ini, "--all", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ended"] == 1
    assert "[y/N]" in printed.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_sweep_as_json(browser: Browser, redis_client: Any, ini: str, capsys: Any) -> None:
    log_in(browser)
    redis_client.delete(browser.key)
    make_index_older(redis_client, 120)
    assert run("sweep", ini, "--json") == 0
    expected = {"indexes": 1, "removed": 1, "indexes_emptied": 1}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("args", [[], ["--reveal"]], ids=str)
def test_date_is_on_one_line_on_a_narrow_terminal(
    browser: Browser, ini: str, args: list[str], columns: int
) -> None:
    log_in(browser)
    status, shown = on_a_terminal("list", ini, *args, columns=columns)
    assert status == 0
    assert re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} UTC", shown)


def test_show_reveals_a_value_that_ends_until_then(
    browser: Browser, redis_url: str, ini: str, capsys: Any
) -> None:
    browser.use(lambda session: (session.set("code", VALUE, ttl=600), session.confirm()))
    browser.use(lambda session: session.set("short", VALUE, ttl=0.05))
    name = name_of(browser)

    def out() -> str:
        assert run("show", ini, "--session", name, "--reveal") == 0
        return str(capsys.readouterr().out)

    wait_until(lambda: "past its end" in (text := out()) or "'short'" not in text)
    assert re.search(rf"^'code' .*{re.escape(repr(VALUE))}", out(), re.MULTILINE)
    assert "confirmed" not in out()
