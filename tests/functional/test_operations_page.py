"""docs/operations.rst and docs/command.rst: what they show is what the command prints."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyramid_redis_lua_sessions.cli import SessionsCommand, main
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import SECRET, Browser, let_time_pass, make_browser
from tests.support.command import write_ini

from .test_owner import make_index_older

DOCS = Path(__file__).resolve().parents[2] / "docs"
NEW = "the newest secret of these tests, over 32 bytes"

OPTIONS = {
    "timeout": 1800,
    "absolute_timeout": 43200,
    "first_timeout": 300,
}


def prepare(server: RedisServer) -> str:
    """Fill a server with the sessions of the page's shop; return Ann's newest session."""
    before = make_browser(server.url, **OPTIONS)
    after = make_browser(server.url, **OPTIONS, secret=[NEW, SECRET])
    with server.client() as client:
        for number in range(400):
            user = (before if number < 30 else after).another()
            user.use(lambda session: session.get_csrf_token())
            if number % 10 == 9:
                continue
            user.use(lambda session, n=number: session.update(cart=cart(n)) if n % 4 else None)
            log_in(user, number)
            let_time_pass(client, user.key, 4 * number)
            user.use(dict)
            let_time_pass(client, user.key, number % 25 * 60)
        for hours, label in ((5, "laptop"), (2, "phone")):
            ann = after.another()
            ann.use(lambda session: session.update(cart=cart(3), language="de"))
            ann.use(lambda session, label=label: log_in_as(session, "ann@example.com", label))
            ann.use(dict)
            for _ in range(hours * 3):
                let_time_pass(client, ann.key, 1200)
                ann.use(dict)
            let_time_pass(client, ann.key, 100 * hours)
        make_index_older(client, 3600)
        for key in client.keys("session:owner:*")[:20]:
            members = client.zrange(key, 0, -1)
            if len(members) == 1:  # not Ann
                client.delete(b"session:" + members[0])
    return fingerprint(str(ann.session_id))


def configuration(directory: Path, server: RedisServer) -> str:
    """Write the shop's production.ini."""
    secret = f"\n  {NEW}\n  {SECRET}"
    return write_ini(directory, server.url, **OPTIONS, cookie_secure="true", secret=secret)


def cart(number: int) -> list[dict[str, Any]]:
    return [{"article": 1000 + n, "number": 1} for n in range(number % 9)]


def log_in(user: Browser, number: int) -> None:
    if number % 3 == 0:
        user.use(lambda session: log_in_as(session, f"user{number}@example.com", "browser"))


def log_in_as(session: Any, owner: str, label: str) -> None:
    session.owner = owner
    session.label = label


class Sample:
    """A command of a page, and what it prints there."""

    def __init__(self, block: str) -> None:
        first, *rest = textwrap.dedent(block).strip("\n").splitlines()
        self.args = shlex.split(first.removeprefix("$ redis-lua-sessions "))
        self.printed = [line for line in rest if line.strip()]

    def __repr__(self) -> str:
        return self.args[0]


def samples() -> list[Sample]:
    text = (DOCS / "operations.rst").read_text("utf-8")
    blocks = re.findall(r"^\.\. code-block:: console\n\n((?: {4}.*\n|\n)+)", text, re.MULTILINE)
    commands = [part for block in blocks for part in re.split(r"(?m)^    (?=\$ )", block) if part]
    return [
        Sample(part)
        for part in commands
        if part.startswith("$ redis-lua-sessions") and "migrate" not in part
    ]


@pytest.fixture(scope="module")
def shop(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands on the page, and what it is here."""
    with RedisServer(redis_binary) as server:
        name = prepare(server)
        ini = configuration(tmp_path_factory.mktemp("shop"), server)
        # Sizes, and so their distribution, differ between versions of Redis.
        with server.client() as client:
            known: Any = client.info("server")
        version = f"{known.get('server_name', 'Redis')} {known['redis_version']}"
        yield {"production.ini": ini, "NAME": name, "server": version.rpartition(".")[0]}


def shape(line: str) -> str:
    """What is the same in every run: no figures, ids, bars."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "NAME", line)
    line = re.sub(r"\b[0-9a-f]{40}\b|127\.0\.0\.1:\d+", "X", line)
    line = re.sub(r"[0-9][0-9.,:-]*(?: ?(?:ms|s|min|h|days?|B|kB|MB|UTC))*(?!\w)", "0", line)
    return " ".join(re.sub("#+", "#", line).split())


def run_here(sample: Sample, shop: dict[str, str]) -> int:
    args = [shop.get(arg, arg) for arg in sample.args]
    args = [shop["NAME"] if re.fullmatch("[0-9a-f]{12}", arg) else arg for arg in args]
    if args[0] == "simulate":
        args += ["--seconds", "0.5"]
    return main(["redis-lua-sessions", *args])


def assert_shows(shown: list[str], printed: list[str]) -> None:
    """The page shows what was printed, whole but for what ``...`` stands for."""
    expected = "\n".join(map(shape, shown))
    pattern = "".join(
        r"(?:.+\n)+" if line == "..." else re.escape(line) + r"\n" for line in expected.split("\n")
    )
    found = "".join(f"{shape(line)}\n" for line in printed)
    assert re.fullmatch(pattern, found), f"{expected}\n--- and not\n{found}"


def test_operations_page_shows_what_the_commands_print(shop: dict[str, str], capsys: Any) -> None:
    found = samples()
    assert len(found) > 8
    for sample in found:
        assert run_here(sample, shop) == 0, sample.args
        lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
        if shop["server"] == "Redis 7.0" and sample.printed:
            assert_shows(sample.printed, lines)


def test_operations_page_has_the_right_number_of_scripts() -> None:
    text = (DOCS / "operations.rst").read_text("utf-8")
    assert re.findall(r"all (\d+) are loaded", text) == [str(len(SCRIPTS))]


def test_operators_user_may_do_what_the_commands_need(
    redis_server: RedisServer, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    (words,) = re.findall(
        r"^    ACL SETUSER operator ((?:.+\n)+)",
        (DOCS / "operations.rst").read_text("utf-8"),
        re.MULTILINE,
    )
    redis_client.execute_command("ACL", "SETUSER", "operator", *words.split())
    url = redis_server.url.replace("://", "://operator:PASSWORD@")
    try:
        user = make_browser(redis_server.url)
        user.use(lambda session: log_in_as(session, "ann@example.com", "phone"))
        ini = write_ini(tmp_path, redis_server.url)
        target, name = [ini, "--url", url], fingerprint(str(user.session_id))
        for args in (
            ["check", *target],
            ["check", *target, "--no-write"],
            ["load-scripts", "--url", url],
            ["stats", *target],
            ["list", *target, "--owner", "ann@example.com"],
            ["show", *target, "--session", name, "--reveal"],
            ["revoke", *target, "--session", name, "--yes"],
            ["revoke", *target, "--owner", "ann@example.com", "--yes"],
            ["revoke", *target, "--all", "--yes"],
            ["sweep", *target],
            ["simulate", *target, "--seconds", "0.1", "--workers", "1"],
        ):
            assert main(["redis-lua-sessions", *args]) == 0, args
            assert "may not ask" not in capsys.readouterr().out
    finally:
        redis_client.execute_command("ACL", "DELUSER", "operator")


# -- the reference -----------------------------------------------------------------


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [
        action
        for action in SessionsCommand([]).make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(action.choices)


def test_command_page_names_every_command_and_option() -> None:
    text = (DOCS / "command.rst").read_text("utf-8")
    sections = dict(
        re.findall(r"^``?([a-z-]+)``?\n[-~]+\n(.*?)(?=^\S+\n[-~]+\n|\Z)", text, re.M | re.S)
    )
    common = {"--help", "--json", "--url", "--prefix"}
    assert set(sections) == set(subcommands())
    for name, parser in subcommands().items():
        options = {option for action in parser._actions for option in action.option_strings}
        named = set(re.findall(r"--[a-z-]+", sections[name]))
        wanted = {option for option in options if option.startswith("--")} - common
        assert named - common == wanted, name
