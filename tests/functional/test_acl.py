"""Least privilege: docs/redis-user.rst has the ACL rule that suffices; no more is in reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import StoreError, revoke, sessions_of
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import make_browser
from tests.support.least_privilege import PASSWORD, USER, add_user, rule, with_user

HERE = Path(__file__).resolve().parent


@pytest.fixture
def server(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[RedisServer]:
    """The shared server, with the user of the page and nothing in its script cache."""
    redis_client.script_flush()
    add_user(redis_server)
    yield redis_server
    redis_client.execute_command("ACL", "DELUSER", USER)


@pytest.fixture
def user(server: RedisServer) -> Iterator[redis.Redis]:
    """A client that is logged in as that user."""
    with server.client(username=USER, password=PASSWORD) as client:
        yield client


# -- it suffices -------------------------------------------------------------------


def test_nothing_that_is_refused_is_even_tried(
    server: RedisServer, redis_client: redis.Redis
) -> None:
    """Or the denials that matter would drown in ACL LOG."""
    redis_client.acl_log_reset()
    browser = make_browser(with_user(server.url))
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}
    assert redis_client.acl_log() == []


#: What is not about an application's sessions, or about another user of Redis.
NOT_OF_THIS_USER = (
    "acl bench cli cli_check cli_sessions cli_simulate cli_stats client_callable "
    "cookiecutter_page demo documentation endings health logging_secrecy migrate migrate_bulk "
    "migrate_crashes migrate_documentation migrate_switch monitoring operations_page packaging "
    "security_page testing_server"
).split()

#: Tests whose application has another prefix or user, or asks Redis for what a session does not
#: need.
OUTSIDE = (
    "prefix two_applications redis_is_the_client tweens_above_see_the_response two_factories "
    "what_is_hostile every_session_of_a_request several_sessions_page ini_file_of_a_predecessor "
    "index_cannot_be_tidied own_commands_of_the_application predecessors_documentation "
    "swept_in_batches redis_says_unasked interrupted_too connection_that_it_has "
    "another_thread_ends redis_has_ended count_registrations command_shows without_the_include "
    "without_its_index used_once_are_swept"
).split()


def modules() -> list[str]:
    names = {path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")}
    return sorted(names - set(NOT_OF_THIS_USER))


@pytest.mark.torture
def test_one_variant_of_each_functional_test_passes_as_that_user(redis_binary: str) -> None:
    files = [str(HERE / f"test_{name}.py") for name in modules()]
    options = ["-q", "-p", "tests.support.least_privilege", "-p", "no:cacheprovider"]
    options += "-n auto --maxprocesses 4 --dist loadfile".split()
    # Which this process may be run by, too.
    outside = {name: os.environ[name] for name in os.environ if "PYTEST_XDIST" not in name}
    options += ["-m", "not torture"]
    options += ["-k", " and ".join(f"not {name}" for name in OUTSIDE)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=HERE.parents[1],
        env={"VARIANTS": "1", **outside, "REDIS_SERVER": redis_binary},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert " passed" in done.stdout


OPTIONS: list[dict[str, Any]] = [
    {},
    {
        "timeout_trigger": 600,
        "absolute_timeout": 86400,
        "first_timeout": 600,
        "owner_sessions": 1,
    },
    {"set_redis_ttl": False, "absolute_timeout": 86400},
    {"on_conflict": "retry", "invalidate_empty_session": True},
    {"secret": ["a new secret of these tests, over 32 bytes", "x" * 32]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("preload", [True, False])
def test_everything_that_a_session_does_is_allowed(
    server: RedisServer, redis_client: redis.Redis, options: dict[str, Any], preload: bool
) -> None:
    url = with_user(server.url)
    first = make_browser(url, **options, preload_scripts=preload)
    if "secret" in options:
        first = make_browser(url, **{**options, "secret": "x" * 32})
    first.use(lambda session: session.update(a=1, b=[1]))
    browser = make_browser(url, **options)
    for cookie in first.app.cookiejar:
        browser.app.cookiejar.set_cookie(cookie)
    assert browser.use(dict) == {"a": 1, "b": [1]}
    for use in (
        lambda session: session.flash("message"),
        lambda session: session.pop_flash(),
        lambda session: session["b"].append(len(session)),
        lambda session: session.pop("a"),
        lambda session: session.adjust_session_timeout(500),
        lambda session: session.adjust_session_expires(3_000_000_000),
        lambda session: session.adjust_session_timeout(0),
        lambda session: session.adjust_session_expires(None),
        lambda session: session.please_recookie(),
        lambda session: session.regenerate_id(),
        lambda session: setattr(session, "owner", "ada"),
        lambda session: session.clear(),
    ):
        browser.use(use)
        assert browser.response.status_int == 200
    for _ in range(12):
        browser.another().use(lambda session: setattr(session, "owner", "ada"))
    for key in redis_client.keys("session:owner:*"):
        for member in redis_client.zrange(key, 0, -1):
            redis_client.zincrby(key, -(10**12), member)
    browser.another().use(lambda session: setattr(session, "owner", "ada"))
    assert len(sessions_of(browser.wsgi.registry, "ada")) >= 1
    assert revoke(browser.wsgi.registry, "ada") >= 1
    browser.use(lambda session: session.invalidate())
    denied: Any = redis_client.execute_command("ACL", "LOG")
    assert [entry for entry in denied if b"sessions" in entry] == []


def test_lost_scripts_come_back(server: RedisServer, redis_client: redis.Redis) -> None:
    browser = make_browser(with_user(server.url))
    browser.use(lambda session: session.update(a=1))
    redis_client.script_flush()
    assert browser.use(dict) == {"a": 1}


def test_nothing_in_the_rule_is_superfluous(server: RedisServer, redis_client: redis.Redis) -> None:
    words = rule()
    allowed = {word.removeprefix("+") for word in words if word.startswith("+")}
    in_scripts = {
        line.split("'")[1].lower()
        for script in SCRIPTS.values()
        for line in script.source.replace("touch(", "call(").split("call(")[1:]
        if line.startswith("'")
    }
    # docs/endings.rst and docs/values-that-end.rst say what those need.
    in_scripts -= {"publish", "spublish", "hpexpireat"}
    assert {"hset", "zadd", "time"} <= in_scripts
    # Beside the scripts' own: how they are called, and three commands on an index.
    assert allowed == in_scripts | {"evalsha", "eval", "script|load", "zrange", "zrem", "zscan"}
    assert "-@all" in words


def test_login_whose_index_redis_refuses_leaves_nobody_logged_in(
    server: RedisServer, redis_client: redis.Redis
) -> None:
    browser = make_browser(with_user(server.url))
    browser.use(lambda session: session.update(a=1))
    redis_client.execute_command("ACL", "SETUSER", USER, "-zadd")
    with pytest.raises(StoreError):
        browser.use(lambda session: setattr(session, "owner", "ada"))
    assert not redis_client.hexists(browser.key, "owner")


# -- it is no more -----------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "session:x"),
        ("SET", "session:x", "1"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHDB",),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("SCRIPT", "FLUSH"),
        ("ACL", "LIST"),
        ("INFO",),
        ("MONITOR",),
        ("REPLICAOF", "NO", "ONE"),
        ("RENAME", "session:x", "session:y"),
        ("DUMP", "session:x"),
        ("RESTORE", "session:x", "0", "x"),
        ("COPY", "session:x", "session:y"),
        ("SELECT", "1"),
        ("PUBLISH", "channel", "x"),
        ("SUBSCRIBE", "channel"),
    ],
    ids=" ".join,
)
def test_other_command_is_refused(user: redis.Redis, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        user.execute_command(*command)


@pytest.mark.parametrize("key", ["neighbour", "sessions:x", "session", "Session:x", "xsession:x"])
def test_neighbouring_key_is_out_of_reach(
    user: redis.Redis, redis_client: redis.Redis, key: str
) -> None:
    redis_client.hset(key, mapping={"@": "1 n", ".a": "1"})
    for command in (
        ("HGETALL", key),
        ("HSET", key, "a", "1"),
        ("DEL", key),
        ("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, key),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.execute_command(*command)
    for script in SCRIPTS.values():
        user.script_load(script.source)
        with pytest.raises(redis.exceptions.NoPermissionError):
            user.evalsha(script.sha1, 1, key, *["1"] * 12)
    assert redis_client.hgetall(key) == {b"@": b"1 n", b".a": b"1"}


@pytest.mark.parametrize(
    "call",
    [
        "redis.call('HGETALL', 'neighbour')",
        "redis.call('HSET', 'neighbour', 'a', '1')",
        "redis.call('GET', 'session:x')",
        "redis.call('FLUSHALL')",
        "redis.call('KEYS', '*')",
    ],
)
def test_neither_a_script_goes_further(
    user: redis.Redis, redis_client: redis.Redis, call: str
) -> None:
    redis_client.hset("neighbour", "secret", "value")
    # A key that is not declared, and a command that is not allowed.
    with pytest.raises(redis.ResponseError, match=r"can't access|can't run|permission|NOPERM"):
        user.eval(f"return {call}", 0)
    assert redis_client.hgetall("neighbour") == {b"secret": b"value"}


def test_application_with_another_prefix_is_refused_with_a_clear_error(
    server: RedisServer,
) -> None:
    browser = make_browser(with_user(server.url), prefix="other:")
    with pytest.raises(StoreError, match="create_unique"):
        browser.use(lambda session: session.update(a=1))


# -- Redis 7: reading and writing apart --------------------------------------------


def works(server: RedisServer, *patterns: str) -> bool:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "resetkeys", *patterns)
    browser = make_browser(with_user(server.url))
    try:
        browser.use(lambda session: session.update(a=1))
    except StoreError:
        return False
    return bool(browser.use(dict) == {"a": 1})


def test_each_key_is_read_and_written(server: RedisServer) -> None:
    assert works(server, "~session:*")
    if server.version >= (7, 0):
        assert works(server, "%RW~session:*")
        assert works(server, "%R~session:*", "%W~session:*")
        assert not works(server, "%R~session:*")
        assert not works(server, "%W~session:*")
    assert not works(server, "~other:*")
