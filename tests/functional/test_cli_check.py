"""``redis-lua-sessions check``."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions.cli import check as check_module
from pyramid_redis_lua_sessions.cli import server_checks
from pyramid_redis_lua_sessions.cli.findings import PAGES, SUBJECTS
from pyramid_redis_lua_sessions.cli.server_checks import needed_commands, policy_means
from pyramid_redis_lua_sessions.cli.session_checks import compact_size
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import SECRET, make_browser
from tests.support.command import run, write_ini
from tests.support.least_privilege import PASSWORD, USER, add_user, rule, with_user
from tests.support.waiting import wait_until

from .test_cli import start_cluster_node

NewServer = Callable[..., RedisServer]
Check = Callable[..., dict[str, Any]]

GOOD = {
    "cookie_secure": "true",
    "timeout": 1200,
    "absolute_timeout": 43200,
    "first_timeout": 300,
}


@pytest.fixture
def check(tmp_path: Path, capsys: Any) -> Check:
    """``(url, *args, status=0, **settings)``: what is found; of each subject the first."""

    def check(url: str, *args: Any, status: int = 0, **options: Any) -> dict[str, Any]:
        ini = write_ini(tmp_path, url, **{**GOOD, **options})
        assert run("check", ini, "--json", *args) == status
        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        assert PASSWORD not in printed.out + printed.err
        found = json.loads(printed.out)
        assert (found["status"] == "failed") == (status == 1 and "--strict" not in args)
        return {finding["subject"]: finding for finding in reversed(found["findings"])}

    return check


def mends(finding: dict[str, Any]) -> str:
    """The one line that a finding has against itself, for ``redis-cli``."""
    (change,) = finding["changes"]
    assert change["where"] == "redis-cli"
    return str(change["line"])


def levels(found: dict[str, Any]) -> dict[str, str]:
    return {subject: finding["level"] for subject, finding in found.items()}


# -- a server that is well ---------------------------------------------------------


def test_check_of_a_server_that_is_well(
    redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    browser = make_browser(redis_server.url)
    browser.use(lambda session: session.update(a=1))
    found = check(redis_server.url)
    notes = ["access", "memory", "permissions", "persistence", "replication", "device binding"]
    if redis_server.version < (7, 0):
        notes.remove("permissions")
    assert levels(found) == {
        **dict.fromkeys(
            ["server", "connection", "permissions", "scripts", "round trip", "clock"], "ok"
        ),
        **dict.fromkeys(
            ["session tried", "secrets", "cookie", "lifetimes", "session memory"], "ok"
        ),
        **dict.fromkeys(notes, "note"),
    }
    info = redis_client.info("server")
    assert found["server"]["version"] == info.get("valkey_version", info["redis_version"])
    assert 0 < found["round trip"]["median_ms"] <= found["round trip"]["p99_ms"] < 1000
    assert abs(found["clock"]["skew_ms"]) < 500
    assert found["session memory"]["mean_bytes"] == redis_client.memory_usage(browser.key)


def test_check_prints_a_line_a_finding(redis_url: str, tmp_path: Path, capsys: Any) -> None:
    assert run("check", write_ini(tmp_path, redis_url)) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert "ok    server" in lines[1]
    assert {line.split()[0] for line in lines[1:]} == {"ok", "note"}
    assert run("check", "--url", redis_url) == 0
    assert "settings" in capsys.readouterr().out


def test_session_that_was_tried_leaves_only_its_marker(
    redis_url: str, redis_client: Any, check: Check
) -> None:
    check(redis_url)
    (key,) = redis_client.keys("*")
    assert set(redis_client.hkeys(key)) - {b"saves"} == {b"moved"}
    assert 0 < redis_client.pttl(key) <= 60_000


def test_check_without_writing_writes_nothing(
    redis_url: str, redis_client: Any, check: Check
) -> None:
    redis_client.save()
    found = check(redis_url, "--no-write")
    assert "session tried" not in found
    assert redis_client.info("persistence")["rdb_changes_since_last_save"] == 0


def test_check_when_redis_cannot_be_reached(tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://:{PASSWORD}@127.0.0.1:{probe.getsockname()[1]}/0"
    for target in (["--url", url], [write_ini(tmp_path, url, redis_retries=0)]):
        assert run("check", *target) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert PASSWORD not in printed.err


def test_check_tells_which_scripts_are_missing(
    redis_url: str, redis_client: Any, check: Check
) -> None:
    redis_client.script_flush()
    source = SCRIPTS["load_and_touch"].source
    redis_client.script_load(source)
    found = check(redis_url, "--no-write")["scripts"]
    assert found["level"] == "note"
    assert "load_and_touch" not in found["missing"]
    assert {"create_unique", "end_session"} <= set(found["missing"])


def test_check_tells_how_far_the_clocks_are_apart(
    redis_url: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        perf_counter = staticmethod(time.perf_counter)

        @staticmethod
        def time() -> float:
            return time.time() - 10

    monkeypatch.setattr(server_checks, "time", Late)
    found = check(redis_url)["clock"]
    assert found["level"] == "warning"
    assert found["skew_ms"] == pytest.approx(10_000, abs=500)
    assert "ahead of" in found["words"]


# -- memory ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "with_ttl", "level", "words"),
    [
        ("noeviction", True, "ok", "never evicts"),
        ("volatile-ttl", True, "note", "nearest to their end"),
        ("volatile-lru", True, "note", "not used for longest"),
        ("allkeys-lru", True, "note", "not used for longest"),
        ("allkeys-lru", False, "note", "not used for longest"),
        ("volatile-lfu", True, "note", "least often"),
        ("allkeys-random", True, "warning", "random"),
        ("volatile-random", True, "warning", "random"),
        ("allkeys-lrm", True, "note", "not used for longest"),
        ("volatile-newest", True, "note", "not known"),
        ("noeviction", False, "failed", "allkeys-lru"),
        ("volatile-lru", False, "failed", "allkeys-lru"),
    ],
)
def test_what_an_eviction_policy_means(
    policy: str, with_ttl: bool, level: str, words: str, redis_client: Any
) -> None:
    if policy not in ("allkeys-lrm", "volatile-newest"):  # of Redis 8.6; of none
        redis_client.config_set("maxmemory-policy", policy)  # Redis knows it
        redis_client.config_set("maxmemory-policy", "noeviction")
    found = policy_means(policy, with_ttl, index_has_ttl=False, refreshed=True)
    assert found[0] == level
    assert words in found[1]
    evicts_index = "index" in policy_means(policy, with_ttl, True, True)[1]
    assert evicts_index == (level in ("note", "warning"))


@pytest.mark.parametrize("policy", ["allkeys-lrm", "volatile-lrm"])
def test_policy_by_last_modification_ends_active_sessions_that_no_visit_changes(
    policy: str,
) -> None:
    level, words = policy_means(policy, True, index_has_ttl=False, refreshed=False)
    assert level == "warning"
    assert "most active" in words
    assert policy.replace("lrm", "lru") in words


def test_check_tells_what_the_eviction_policy_does(
    new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config={"maxmemory": "64mb", "maxmemory-policy": "volatile-random"})
    found = check(server.url)["memory"]
    assert (found["level"], found["maxmemory_policy"]) == ("warning", "volatile-random")
    check(server.url, "--strict", status=1)
    found = check(server.url, set_redis_ttl="false", status=1)["memory"]
    assert found["level"] == "failed"
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        assert check(server.url)["memory"]["level"] == "ok"
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        found = check(server.url, "--no-write")["memory"]
        assert found["level"] == "warning"
        (change,) = found["changes"]
        client.config_set(*change["line"].split())
        assert check(server.url, "--no-write")["memory"]["level"] == "ok"
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "64mb")
        for number in range(20):
            client.set(f"large {number}", "x" * 100_000)
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 500_000)
        client.set("one more", "x")
        assert client.info("stats")["evicted_keys"] > 0
        client.config_set("maxmemory", "64mb")
        found = check(server.url)["memory"]
        assert (found["level"], found["evicted_keys"] > 0) == ("warning", True)


#: A long label is not cut into pieces, and neither are the values beside it.
LARGE = {"cart": {n: n for n in range(70)}, "csrf": "x" * 43, "user": 7, "label": "l" * 70}


def with_compact_form(server: RedisServer, limit: int) -> None:
    with server.client() as client:
        known = client.config_get("hash-max-*-value")
        (name,) = [name for name in known if "listpack" in name] or known
        client.config_set(name, limit)


def fill_one(values: dict[str, Any], session: Any) -> None:
    session.update(values)
    session.label = session.pop("label", None)


@pytest.mark.parametrize("only_large", [False, True])
def test_memory_that_a_larger_compact_form_saves_is_what_it_then_saves(
    only_large: bool, redis_server: RedisServer, new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server()

    def fill() -> int:
        with server.client() as client:
            client.flushall()
            browser = make_browser(server.url)
            for number in range(40):
                values = LARGE if number % 2 or only_large else {"csrf": "x" * 43}
                browser.another().use(partial(fill_one, values))
            return sum(client.memory_usage(key) for key in client.keys("session:*"))

    before = fill()
    found = check(server.url)["session memory"]
    assert found["level"] == "note"
    assert (found["large"], found["advised"]) == (40 if only_large else 20, 512)
    with_compact_form(server, found["advised"])
    after = fill()
    # Before 7.0, Redis does not count what its allocator rounds up.
    rounded = 0.02 if server.version >= (7, 0) else 0.08
    if only_large:  # then a key is taken to cost what it does in Redis 7
        rounded += 0.04
    assert (before - after) / before == pytest.approx(found["saved_share"], abs=rounded)
    found = check(server.url)["session memory"]
    assert (found["level"], found["hash_max_listpack_value"]) == ("ok", 512)


@pytest.mark.parametrize("length", [1, 30, 63, 100, 400, 5000])
@pytest.mark.parametrize("number", [1, 8])
def test_compact_size_is_what_redis_measures(
    redis_server: RedisServer, redis_client: Any, length: int, number: int
) -> None:
    fields = {b"field %d" % n: b"v" * length for n in range(number)}
    with_compact_form(redis_server, 10_000)
    try:
        redis_client.hset("small", mapping={"a": "b"})
        redis_client.hset("large", mapping=fields)
        measured = redis_client.memory_usage("large") - redis_client.memory_usage("small")
    finally:
        with_compact_form(redis_server, 64)
    jemalloc = "jemalloc" in redis_client.info("memory")["mem_allocator"]
    computed = compact_size(fields, jemalloc) - compact_size({b"a": b"b"}, jemalloc)
    # Before 7.0, Redis does not count what its allocator rounds up.
    rounded = 0.05 if redis_server.version >= (7, 0) else 0.2
    assert 0.95 * measured - 16 <= computed <= (1 + rounded) * measured + 16


def long_client(request: Any, **options: Any) -> redis.Redis:
    """A client as redis-py 8 makes it."""
    retry = Retry(NoBackoff(), 10)
    return redis.Redis.from_url(os.environ["TESTS_REDIS_URL"], socket_timeout=5, retry=retry)


def test_check_warns_of_a_client_with_which_a_page_can_hang_for_long(
    redis_url: str, redis_client: Any, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTS_REDIS_URL", redis_url)
    found = check(redis_url, redis_client_callable=f"{__name__}.long_client")["client"]
    assert found["level"] == "warning"
    assert "hangs for 55 s and more" in found["words"]


# -- persistence and replication ---------------------------------------------------


@pytest.mark.parametrize(
    ("config", "level", "words"),
    [
        ({"save": ""}, "note", "every user is logged out"),
        ({"save": "3600 1"}, "note", "live again"),
        ({"appendonly": "yes"}, "ok", "the last second"),
        ({"appendonly": "yes", "appendfsync": "always"}, "ok", "loses nothing"),
        ({"appendonly": "yes", "appendfsync": "no"}, "ok", "half a minute"),
    ],
)
def test_what_persistence_means(
    config: dict[str, str], level: str, words: str, new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config=config)
    found = check(server.url)["persistence"]
    with server.client() as client:
        client.config_set("save", "")  # so that it stops at once
    assert (found["level"], words in found["words"]) == (level, True), found


def test_check_fails_where_snapshots_fail(
    redis_server: RedisServer, new_redis_server: NewServer, tmp_path: Path, check: Check
) -> None:
    protected = {"enable-protected-configs": "yes"} if redis_server.version >= (7, 0) else {}
    server = new_redis_server(config=protected)
    gone = tmp_path / "gone"
    gone.mkdir()
    with server.client() as client:
        client.config_set("save", "3600 1")
        client.config_set("dir", str(gone))
        gone.rmdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        found = check(server.url, status=1)
        client.config_set("save", "")  # so that it stops at once
    for subject in ("persistence", "session tried"):
        assert (found[subject]["level"], "MISCONF" in found[subject]["words"]) == ("failed", True)


def test_check_tells_how_far_replicas_are_behind(new_redis_server: NewServer, check: Check) -> None:
    primary = new_redis_server(config={"repl-diskless-sync-delay": 0})
    replica = new_redis_server()
    with primary.client() as client, replica.client() as other:
        other.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        found = check(primary.url)["replication"]
        assert (found["level"], found["replicas"]) == ("ok", 1)
        assert "min-replicas-to-write" in found["words"]
        found = check(replica.url, "--no-write", status=1)["replication"]
        assert found["level"] == "failed"
        (change,) = found["changes"]
        assert change["line"] == f"redis.sessions.url = redis://127.0.0.1:{primary.port}/0"
        add_user(replica)
        found = check(with_user(replica.url), "--no-write", status=1)["replication"]
        assert "changes" not in found  # its user may not ask for the primary
        other.execute_command("ACL", "SETUSER", USER, "+info")
        (change,) = check(with_user(replica.url), "--no-write", status=1)["replication"]["changes"]
        where = f"redis://{USER}:env:REDIS_PASSWORD@127.0.0.1:{primary.port}/0"
        assert change["line"] == f"redis.sessions.url = {where}"
        assert check(replica.url, status=1)["session tried"]["level"] == "failed"
        replica.pause()
        try:
            client.set("x", "y" * 2_000_000)
            found = check(primary.url)["replication"]
            assert (found["level"], found["bytes_behind"] > 2_000_000) == ("warning", True)
        finally:
            replica.resume()


# -- who may do what ---------------------------------------------------------------


def test_needed_commands_are_those_of_the_rule_in_the_documentation() -> None:
    allowed = {word[1:] for word in rule() if word.startswith("+")}
    assert set(needed_commands("session:x")) == allowed


def test_check_as_the_user_of_the_documentation(
    new_redis_server: NewServer, check: Check, tmp_path: Path, capsys: Any
) -> None:
    server = new_redis_server()
    add_user(server)
    found = check(with_user(server.url))
    assert found["permissions"]["level"] == "ok"
    assert found["session tried"]["level"] == "ok"
    assert found["server"]["level"] == "ok"
    assert {found[s]["level"] for s in ("memory", "persistence", "stored sessions")} == {"note"}
    # As somebody who may look, for the same application.
    ini = write_ini(tmp_path, with_user(server.url))
    assert run("check", ini, "--url", server.url, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "maxmemory_policy" in str(found)


@pytest.mark.parametrize("missing", ["zrem", "hkeys", "eval", "script|load", "pexpire", "del"])
@pytest.mark.parametrize("may_ask", [True, False])
def test_check_fails_where_the_user_may_not_do_what_is_needed(
    missing: str, may_ask: bool, redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    add_user(redis_server)
    if may_ask:
        redis_client.execute_command("ACL", "SETUSER", USER, "+acl")
    if "|" in missing:
        redis_client.execute_command("ACL", "SETUSER", USER, "-script")
    else:
        redis_client.execute_command("ACL", "SETUSER", USER, f"-{missing}")
    try:
        found = check(with_user(redis_server.url), status=1)["permissions"]
    finally:
        redis_client.execute_command("ACL", "DELUSER", USER)
    assert (found["level"], found["missing"]) == ("failed", [missing])
    assert not redis_client.keys("session:check:*") or missing == "del"


@pytest.mark.parametrize("may_ask", [True, False])
def test_check_fails_where_the_user_may_not_move_sessions_in(
    may_ask: bool, redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    add_user(redis_server)
    if may_ask:
        redis_client.execute_command("ACL", "SETUSER", USER, "+acl")
    url, moving = with_user(redis_server.url), {"migrate_from": "pyramid_session_redis"}
    try:
        assert check(url)["permissions"]["level"] == "ok"
        found = check(url, status=1, **moving)["permissions"]
        assert [words.split()[0] for words in found["missing"]] == ["get", "pttl", "del"]
        assert mends(found) == f"ACL SETUSER {USER} ~* +get +pttl +del"
        redis_client.execute_command("ACL", "SETUSER", USER, "+get")
        # The old keys have the prefix if one is set.
        found = check(url, prefix="session:shop:", **moving)["permissions"]
        assert found["level"] == "ok"
        redis_client.execute_command(*mends(check(url, status=1, **moving)["permissions"]).split())
        assert check(url, **moving)["permissions"]["missing"] == []
    finally:
        redis_client.execute_command("ACL", "DELUSER", USER)


@pytest.mark.parametrize("may_ask", [True, False])
def test_check_fails_where_the_user_may_not_use_a_cluster(
    may_ask: bool, new_redis_server: NewServer, check: Check
) -> None:
    server = start_cluster_node(new_redis_server)
    add_user(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "+acl" if may_ask else "-acl")
        found = check(with_user(server.url), status=1)["permissions"]
        assert found["missing"] == ["cluster|slots", "command", "asking"]
        client.execute_command(*mends(found).split())
        found = check(with_user(server.url), status=1)["permissions"]  # it has no slots
        assert found["missing"] == []


@pytest.mark.parametrize("may_ask", [True, False])
def test_check_names_the_database_where_that_is_what_the_user_may_not(
    may_ask: bool, redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    add_user(redis_server)
    try:
        if may_ask:
            redis_client.execute_command("ACL", "SETUSER", USER, "+acl")
        try:
            redis_client.execute_command("ACL", "SETUSER", USER, "resetdbs")
        except redis.ResponseError:
            return  # only Valkey 9.1 has such rules
        found = check(with_user(redis_server.url), status=1)["permissions"]
        redis_client.execute_command(*mends(found).split())
        assert check(with_user(redis_server.url))["permissions"]["level"] == "ok"
    finally:
        redis_client.execute_command("ACL", "DELUSER", USER)
    assert found["level"] == "failed"
    assert found["words"] == f"user {USER} may not use this database"


def test_check_fails_where_the_prefix_is_not_the_users(
    redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    add_user(redis_server)
    try:
        found = check(with_user(redis_server.url), prefix="other:", status=1)
    finally:
        redis_client.execute_command("ACL", "DELUSER", USER)
    assert found["permissions"]["level"] == "failed"
    assert found["session tried"]["level"] == "failed"
    assert "hset" in found["permissions"]["missing"]
    assert "script|load" not in found["permissions"]["missing"]


@pytest.mark.parametrize(
    ("config", "level"),
    [
        ({"bind": "127.0.0.1"}, "note"),
        # An address that no machine has, so that the test opens nothing.
        ({"bind": "127.0.0.1 -192.0.2.1", "protected-mode": "no"}, "failed"),
        ({"bind": "127.0.0.1 -192.0.2.1", "protected-mode": "yes"}, "warning"),
        (
            {"bind": "127.0.0.1 -192.0.2.1", "protected-mode": "no", "requirepass": PASSWORD},
            "ok",
        ),
    ],
)
def test_check_tells_whether_strangers_get_in(
    config: dict[str, str], level: str, new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config=config)
    if server.version < (7, 0) and level == "warning":
        level = "failed"  # its protected mode does not count with a bind
    found = check(server.url, status=int(level == "failed"))["access"]
    assert found["level"] == level, found


def test_check_tells_that_strangers_get_in_though_they_may_do_little(
    new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config={"bind": "127.0.0.1 -192.0.2.1", "protected-mode": "no"})
    add_user(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "allkeys", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "-@all", "+ping")
        try:
            found = check(with_user(server.url), status=1)["access"]
        finally:
            with server.client(username=USER, password=PASSWORD) as owner:
                owner.execute_command("ACL", "SETUSER", "default", "+@all")
    assert found["level"] == "failed"


# -- settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "subject", "level", "words"),
    [
        ({"secret": "short"}, "secrets", "warning", "shorter than 32"),
        ({"secret": "seekrit"}, "secrets", "failed", "sample"),
        ({"secret": "Your-Very-Long-Secret-Key"}, "secrets", "failed", "sample"),
        ({"migrate_from": "pyramid_session_redis"}, "migration", "note", "migrate_until"),
        ({"seal": "false", "serialize": "json"}, "secrets", "warning", "not sealed"),
        ({"seal": "false", "allow_unsealed_pickle": "true"}, "secrets", "failed", "run code"),
        ({"cookie_secure": "false"}, "cookie", "warning", "plain http"),
        ({"cookie_secure": "auto"}, "cookie", "note", "https"),
        ({"cookie_httponly": "false"}, "cookie", "warning", "scripts"),
        ({"cookie_samesite": ""}, "cookie", "warning", "samesite"),
        ({"cookie_samesite": "None"}, "cookie", "warning", "other sites"),
        ({"timeout": "0", "absolute_timeout": "0"}, "lifetimes", "warning", "no session ends"),
        ({"absolute_timeout": "0"}, "lifetimes", "note", "absolute_timeout"),
    ],
)
def test_check_of_insecure_settings(
    options: dict[str, str],
    subject: str,
    level: str,
    words: str,
    redis_url: str,
    check: Check,
) -> None:
    found = check(redis_url, "--no-write", status=int(level == "failed"), **options)[subject]
    assert found["level"] == level
    assert words in found["words"]
    assert "seekrit" not in str(found)


@pytest.mark.parametrize(
    "options",
    [
        {"secret": "short"},
        {"migrate_from": "pyramid_session_redis"},
        {"seal": "false", "serialize": "json"},
        {"seal": "false", "allow_unsealed_pickle": "true"},
        {"cookie_secure": "false", "cookie_httponly": "false"},
        {"cookie_secure": "auto"},
        {"cookie_samesite": "None"},
        {"cookie_samesite": ""},
        {"timeout": "0", "absolute_timeout": "0", "first_timeout": "0"},
    ],
    ids=lambda options: " ".join(options),
)
def test_lines_that_check_prints_mend_what_it_found(
    options: dict[str, str], redis_url: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSION_SECRET", "a new secret, made at random, of 32 bytes")
    found = check(
        redis_url, "--no-write", status=int("allow_unsealed_pickle" in options), **options
    )
    changes = [change for finding in found.values() for change in finding.get("changes", ())]
    lines = [one["line"] for one in changes if one["where"] == "the ini file"]
    assert lines
    mended = dict(line.removeprefix("redis.sessions.").split(" = ") for line in lines)
    found = check(redis_url, "--no-write", **{**options, **mended})
    assert not any(
        change["where"] == "the ini file"
        for finding in found.values()
        for change in finding.get("changes", ())
    )
    for subject in ("secrets", "cookie", "lifetimes"):
        assert found[subject]["level"] == "ok"


def test_lines_for_redis_that_check_prints_are_lines_that_it_takes(
    new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-random"})
    found = check(server.url)
    changes = [change for finding in found.values() for change in finding.get("changes", ())]
    in_conf = [one["line"].split() for one in changes if one["where"] == "redis.conf"]
    assert ["maxmemory-policy", "noeviction"] in in_conf
    assert ["appendonly", "yes"] in in_conf
    with server.client() as client:
        for name, value in in_conf:
            client.config_set(name, value)
        users = [one["line"] for one in changes if one["where"] == "redis-cli"]
        # Only Redis 7 tells that the default user may do more than is needed.
        assert len(users) == (not str(client.info("server")["redis_version"]).startswith("6."))
        for line in users:
            client.execute_command(*line.replace(">PASSWORD", f">{PASSWORD}").split())
    if users:
        found = check(with_user(server.url))
        assert found["permissions"]["level"] == "ok"
    found = check(server.url)
    assert (found["memory"]["level"], found["persistence"]["level"]) == ("ok", "ok")


@pytest.mark.parametrize(
    ("database", "options"),
    [
        (3, {}),
        (0, {"publish_endings": "true"}),
        (0, {"migrate_from": "pyramid_session_redis"}),
    ],
    ids=str,
)
def test_user_that_check_advises_may_do_what_the_settings_need(
    database: int, options: dict[str, str], new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server()
    if server.version < (7, 0):
        pytest.skip("only Redis 7 tells that the default user may do more than is needed")
    url = server.url.replace("/0", f"/{database}")
    line = mends(check(url, **options)["permissions"])
    with server.client() as client:
        client.execute_command(*line.replace(">PASSWORD", f">{PASSWORD}").split())
        forms = [("SELECT", 3)] * bool(database)
        if options.get("publish_endings"):
            page = (Path(__file__).resolve().parents[2] / "docs" / "endings.rst").read_text("utf-8")
            named = re.findall(r"^    ACL SETUSER sessions (.+)", page, re.MULTILINE)
            words = [word[1:] for word in " ".join(named).split() if word.startswith("+")]
            assert len(words) == 7
            channel = "session:x"
            forms += [(word, channel, "")[: 3 if "publish" in word else 2] for word in words]
        for form in forms:
            assert client.execute_command("ACL DRYRUN", USER, *form) in (b"OK", "OK")
    found = check(with_user(url), **options)
    assert (found["permissions"]["level"], found["permissions"]["missing"]) == ("ok", [])
    assert found["session tried"]["level"] == "ok"


def test_every_subject_of_check_has_a_page() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    for subject, page in PAGES.items():
        assert (docs / f"{page}.rst").is_file(), subject


# -- stored sessions ---------------------------------------------------------------

NEW = "the newest secret of these tests, over 32 bytes"


def test_check_counts_what_is_left_under_an_older_secret(redis_url: str, check: Check) -> None:
    before = make_browser(redis_url)
    users = [before.another() for _ in range(5)]
    for user in users:
        user.use(lambda session: session.update(a=1, b=2))
    users[0].use(lambda session: session.clear())
    several = f"\n {NEW}\n {SECRET}"
    # All are counted, however few are looked at for their size.
    found = check(redis_url, "--sample", "1", secret=several)["rotation"]
    assert (found["level"], found["looked_at"]) == ("note", 5)
    assert (found["outdated_sessions"], found["outdated_values"]) == (4, 8)
    assert found["sessions_without_values"] == 1

    after = make_browser(redis_url, secret=[NEW, SECRET])
    for number, user in enumerate(users):
        back = after.another()
        for cookie in user.app.cookiejar:
            back.app.cookiejar.set_cookie(cookie)
        # The first answer brings the new cookie; when that comes back, values are sealed anew.
        for left in (min(4, 5 - number), 4 - number):
            back.use(dict)
            found = check(redis_url, secret=several)["rotation"]
            assert found["outdated_sessions"] == left
    assert found["level"] == "ok"
    assert "can be removed 40 min (twice the idle timeout) after" in found["words"]
    # And so it is.
    assert "stored sessions" not in check(redis_url, secret=NEW)
    assert check(redis_url)["stored sessions"]["broken"] == 4


@pytest.mark.parametrize("lost", ["cookie that may not be sent", "answer"])
def test_check_counts_a_user_whose_cookie_is_older_still(
    lost: str, redis_url: str, check: Check
) -> None:
    before = make_browser(redis_url)
    before.use(lambda session: session.update(a=1))
    after = make_browser(
        redis_url,
        secret=[NEW, SECRET],
        func_check_response_allow_cookies=lambda response: lost == "answer",
    )
    cookie = before.app.cookies["session"]
    for _ in range(3):
        after.app.reset()
        assert after.use(dict, headers={"Cookie": f"session={cookie}"}) == {"a": 1}
    found = check(redis_url, secret=f"\n {NEW}\n {SECRET}")["rotation"]
    assert (found["level"], found["outdated_sessions"]) == ("note", 1)


@pytest.mark.parametrize(
    ("options", "level", "words"),
    [
        ({"migrate_from": "pyramid_session_redis"}, "note", "keep all secrets"),
        ({"encryption_key": NEW}, "note", "do not tell under which secret"),
        ({"timeout": "0"}, "ok", "12 h (absolute_timeout) after"),
        ({"timeout": "0", "absolute_timeout": "0"}, "ok", "when all users have come back"),
    ],
)
def test_check_promises_no_more_than_values_can_tell(
    options: dict[str, str], level: str, words: str, redis_url: str, check: Check
) -> None:
    several = [NEW, SECRET]
    make_browser(redis_url, secret=several, **options).use(lambda session: session.update(a=1))
    found = check(redis_url, secret=f"\n {NEW}\n {SECRET}", **options)["rotation"]
    assert (found["level"], found["outdated_sessions"]) == (level, 0)
    assert words in found["words"]
    assert ("can be removed" in found["words"]) == ("migrate_from" not in options)


def test_check_counts_what_is_not_encrypted_yet(redis_url: str, check: Check) -> None:
    make_browser(redis_url).use(lambda session: session.update(a=1))
    encrypted = {"encryption_key": NEW}
    make_browser(redis_url, **encrypted).use(lambda session: session.update(a=1))
    found = check(redis_url, **encrypted)["rotation"]
    assert (found["outdated_sessions"], found["looked_at"]) == (1, 2)


def test_check_tells_of_sessions_that_are_not_authentic(
    redis_url: str, redis_client: Any, check: Check
) -> None:
    browser = make_browser(redis_url)
    users = [browser.another() for _ in range(3)]
    for user in users:
        user.use(lambda session: session.update(a=1))
    redis_client.hset(users[0].key, ".a", redis_client.hget(users[1].key, ".a"))
    redis_client.hset(users[1].key, OLD_KEY_FIELD.decode(), "the old key")
    found = check(redis_url)
    assert (found["stored sessions"]["level"], found["stored sessions"]["broken"]) == ("warning", 1)
    assert found["migration"]["cut_off"] == 1
    assert "rotation" not in found


# -- for programs ------------------------------------------------------------------


def test_names_of_the_checks_are_documented_and_no_others_appear(
    redis_server: RedisServer, redis_client: Any, check: Check
) -> None:
    make_browser(redis_server.url).use(lambda session: session.update(a=1))
    found = check(redis_server.url)
    page = (Path(__file__).resolve().parents[2] / "docs" / "command.rst").read_text("utf-8")
    for subject in SUBJECTS:
        assert f"``{subject.replace(' ', '_')}``" in page, subject
    for subject, finding in found.items():
        assert subject in SUBJECTS
        assert finding["check"] == subject.replace(" ", "_")
    source = Path(str(check_module.__file__)).parent
    given = re.findall(
        r'Finding\(\s*[\w. ]+, "([a-z ]+)"|Finding\(\s*[^,]+?,\s+"([a-z ]+)",',
        "".join(path.read_text("utf-8") for path in source.glob("*check*.py")),
    )
    assert {one or other for one, other in given} <= set(SUBJECTS)


def test_redis_that_is_not_there_is_a_finding_too(
    new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server()
    server.kill()
    found = check(server.url, status=1)
    assert levels(found) == {"connection": "failed"}
    assert found["connection"]["nodes"] == [f"127.0.0.1:{server.port}"]


def test_redis_that_refuses_the_password_is_a_finding_too(
    new_redis_server: NewServer, check: Check
) -> None:
    server = new_redis_server(config={"requirepass": PASSWORD})
    url = f"redis://:wrong{PASSWORD}@127.0.0.1:{server.port}/0"
    assert levels(check(url, status=1)) == {"connection": "failed"}


def test_check_shows_what_a_profile_set_line_by_line(
    redis_url: str, tmp_path: Path, capsys: Any
) -> None:
    ini = write_ini(tmp_path, redis_url, profile="asvs-l2", timeout=7200)
    assert run("check", ini, "--json") == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    lines = {
        finding["words"]: finding["level"] for finding in found if finding["check"] == "profile"
    }
    assert lines == {
        "asvs-l2: cookie_name = __Host-session (3.3.1, 3.3.3)": "ok",
        "asvs-l2: cookie_secure = True (3.3.1)": "ok",
        "asvs-l2: cookie_httponly = True (3.3.4)": "ok",
        "asvs-l2: cookie_samesite = Lax (3.3.2)": "ok",
        "asvs-l2: timeout = 7200 (7.1.1, 7.3.1), set by hand: it asks for at most 3600": "warning",
        "asvs-l2: absolute_timeout = 43200 (7.1.1, 7.3.2)": "ok",
        "asvs-l2: owner_sessions = 10 (7.1.2)": "ok",
        "asvs-l2: owner_sessions_policy = end_oldest (7.1.2)": "ok",
        "asvs-l2: seal = True (7.2.1)": "ok",
    }


def test_check_shows_no_profile_where_there_is_none(check: Check, redis_url: str) -> None:
    assert "profile" not in check(redis_url)
