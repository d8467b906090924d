"""What is handed to the packer of commands: bytes and text, and no numbers.

In a rare state of the interpreter hiredis may end the process over anything else. No test has an
input that does that: they look at what is handed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import pytest
import redis

from pyramid_redis_lua_sessions import revoke, sessions_of
from pyramid_redis_lua_sessions.census import Census
from pyramid_redis_lua_sessions.connect import lines
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import Browser, make_browser

REQUESTS: list[Callable[[Any], Any]] = [
    lambda r: r.session.update({"text": "é", "number": 7, 1: [1.5, None]}),
    lambda r: dict(r.session),
    lambda r: r.session["text"],
    lambda r: (setattr(r.session, "touch", False), r.session["text"]),
    lambda r: r.session[1].append(2),
    lambda r: r.session.pop("number"),
    lambda r: (r.session.flash("one"), r.session.flash("two", "queue")),
    lambda r: r.session.pop_flash(),
    lambda r: r.session.adjust_session_timeout(600),
    lambda r: r.session.set("code", "1234", ttl=600),
    lambda r: r.session.confirm(),
    lambda r: r.session.adjust_session_expires(int(time.time()) + 900),
    lambda r: r.session.get_csrf_token(),
    lambda r: r.session.please_recookie(),
    lambda r: (r.session.regenerate_id(), r.session.update(user=1)),
    lambda r: setattr(r.session, "owner", 42),
    lambda r: setattr(r.session, "label", "phone"),
    lambda r: sessions_of(r, 42),
    lambda r: revoke(r, 42),
    lambda r: revoke(r.registry, 42),
    lambda r: r.session.ensure_id(),
    lambda r: r.session.clear(),
    lambda r: (r.session.invalidate(), r.session.update(a=1)),
    lambda r: r.session.invalidate(),
]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every command that is packed from now on."""
    commands: list[tuple[Any, ...]] = []
    pack, packed = hiredis.pack_command, lines.Prepared.packed

    def note(command: tuple[Any, ...]) -> Any:
        commands.append(command)
        return pack(command)

    def note_prepared(self: lines.Prepared, arguments: Sequence[bytes]) -> bytes:
        commands.append(self.command(arguments))
        return packed(self, arguments)

    packed_both = lines.Beside.packed

    def note_both(self: lines.Beside, key: bytes, argument: bytes) -> bytes:
        commands.extend(self.commands(key, argument))
        return packed_both(self, key, argument)

    monkeypatch.setattr(hiredis, "pack_command", note)
    monkeypatch.setattr(lines, "pack", note)
    monkeypatch.setattr(lines.Prepared, "packed", note_prepared)
    monkeypatch.setattr(lines.Beside, "packed", note_both)
    return commands


def others(commands: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Commands with arguments that are neither bytes nor text."""
    return [line for line in commands if not all(isinstance(arg, (bytes, str)) for arg in line)]


def encoded(argument: bytes | str) -> bytes:
    return argument.encode() if isinstance(argument, str) else argument


def visit(user: Browser) -> None:
    for view in REQUESTS:
        user.visit(lambda request, view=view: view(request) and None)
        user.visit(lambda request: dict(request.session) and None)


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absolute_timeout": 3600, "timeout_trigger": 1000, "first_timeout": 60},
        {"invalidate_empty_session": True, "owner_sessions": 1},
        {"timeout": None, "set_redis_ttl": False},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_every_argument_of_a_request_is_bytes_or_text(
    options: dict[str, Any],
    on_conflict: str,
    redis_url: str,
    redis_client: redis.Redis,
    packed: list[tuple[Any, ...]],
) -> None:
    browser = make_browser(redis_url, on_conflict=on_conflict, **options)
    visit(browser)
    redis_client.script_flush()  # so that EVAL comes, too
    del packed[:]
    visit(browser.another())
    assert {encoded(line[0]) for line in packed} >= {b"EVALSHA", b"EVAL"}
    assert others(packed) == []


def test_every_script_is_among_them(redis_url: str, packed: list[tuple[Any, ...]]) -> None:
    visit(make_browser(redis_url))
    transactions = {"configure": lambda config: config.include("pyramid_tm")}
    visit(make_browser(redis_url, on_conflict="retry", owner_sessions=1, **transactions))
    called = {encoded(line[1]) for line in packed if line[0] in ("EVALSHA", b"EVALSHA")}
    names = {name for name, script in SCRIPTS.items() if script.sha1.encode() in called}
    assert names == {*SCRIPTS}
    assert others(packed) == []


def test_prepared_command_is_packed_as_any_other() -> None:
    arguments = [b"", b"key", b"\r\n$3\r\n", b"x" * 70_000, b"\xff\x00"]
    for before in [(b"A",), (b"EVALSHA", b"", b"1")]:
        prepared = lines.Prepared(before)
        for count in range(len(arguments) + 1):
            command = prepared.command(arguments[:count])
            assert command[1:] == (*before[1:], *arguments[:count])
            assert prepared.packed(arguments[:count]) == hiredis.pack_command(command)


def test_every_argument_of_the_handshake_is_bytes_or_text(
    redis_server: RedisServer, packed: list[tuple[Any, ...]]
) -> None:
    """redis-py has numbers of its own there."""
    url = f"redis://127.0.0.1:{redis_server.port}?db=1&protocol=3&client_name=x"
    make_browser(url).use(lambda session: session.update(a=1))
    assert {b"HELLO", b"SELECT"} <= {line[0] for line in packed}
    assert others(packed) == []


def test_every_argument_of_the_command_is_bytes_or_text(
    redis_server: RedisServer, packed: list[tuple[Any, ...]]
) -> None:
    browser = make_browser(f"redis://127.0.0.1:{redis_server.port}")
    visit(browser)
    factory = browser.factory
    del packed[:]
    census = Census(factory.store_for(None).client, factory.settings)
    for _, names in census.scan_sessions():
        census.look(names, b"@")
        census.describe(names)
    for _, keys in census.scan_indexes():
        for key in keys:
            census.sweep(key)
    assert {line[0] for line in packed} >= {b"SCAN", b"DBSIZE"}
    assert others(packed) == []
