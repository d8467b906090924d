"""The console script on a Redis Cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import sessions_of
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD, Migration
from tests.support.browser import SECRET, Browser, make_browser
from tests.support.command import run, write_ini
from tests.support.least_privilege import PASSWORD, USER, with_user
from tests.support.topology import Cluster


@pytest.fixture
def ini(cluster_url: str, cluster_client: redis.RedisCluster, tmp_path: Path) -> str:
    return write_ini(tmp_path, cluster_url)


@pytest.fixture
def users(cluster: Cluster, cluster_client: redis.RedisCluster) -> list[Browser]:
    """Users whose sessions are on all primaries."""
    browser = make_browser(cluster.url)
    users = [browser.another() for _ in range(30)]
    for number, user in enumerate(users):
        user.use(lambda session, n=number: session.update(number=n))
        user.use(lambda session, n=number: setattr(session, "owner", f"owner {n % 3}"))
    assert len({cluster.primary_of(user.key).port for user in users}) == 3
    return users


def names(users: list[Browser]) -> set[str]:
    return {fingerprint(str(user.session_id)) for user in users}


def alive(users: list[Browser]) -> list[int]:
    return [number for number, user in enumerate(users) if user.use(dict)]


def test_list_and_stats_see_all_primaries(
    users: list[Browser], cluster: Cluster, ini: str, capsys: Any
) -> None:
    for target in ([ini], ["--url", f"redis://127.0.0.1:{cluster.primaries()[1].port}"]):
        assert run("list", *target, "--json") == 0
        assert {one["session"] for one in json.loads(capsys.readouterr().out)} == names(users)
        assert run("stats", *target, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["sessions"], found["with_owner"]) == (30, 30)
    assert run("list", ini, "--json", "--owner", "owner 1") == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["session"] for one in found} == names(users[1::3])


def test_show_and_revoke_find_a_session_wherever_it_is(
    users: list[Browser], ini: str, capsys: Any
) -> None:
    for user in users[:3]:
        (name,) = names([user])
        assert run("show", ini, "--session", name, "--reveal") == 0
        assert "'number'" in capsys.readouterr().out
        assert run("revoke", ini, "--session", str(user.session_id), "--yes") == 0
    assert alive(users) == list(range(3, 30))


def test_revoke_ends_what_a_session_was_migrated_from_on_another_node(
    users: list[Browser], cluster: Cluster, cluster_client: Any, ini: str
) -> None:
    factory = users[0].factory
    migration = Migration(factory.settings, factory.codec, factory.sealer)

    def is_elsewhere(key: str) -> bool:
        new_key = factory.settings.prefix + migration.token(key, SECRET.encode()).locator
        return cluster.primary_of(new_key).port != cluster.primary_of(key).port

    old_key = next(filter(is_elsewhere, (f"old key {number}" for number in range(100))))
    name = migration.token(old_key, SECRET.encode()).locator
    moved = make_browser(cluster.url, id_generator=lambda: name)
    moved.use(lambda session: session.update(a=1))
    cluster_client.set(old_key, "an old session")
    cluster_client.hset(moved.key, OLD_KEY_FIELD.decode(), old_key)
    assert run("revoke", ini, "--session", name, "--yes") == 0
    assert not cluster_client.exists(old_key)
    assert alive([moved]) == []


def test_revoke_ends_an_owners_and_all(users: list[Browser], ini: str, capsys: Any) -> None:
    assert run("revoke", ini, "--owner", "owner 2", "--yes") == 0
    assert capsys.readouterr().out == "ended 10 sessions\n"
    assert alive(users) == [n for n in range(30) if n % 3 != 2]
    assert run("revoke", ini, "--all", "--yes") == 0
    assert capsys.readouterr().out == "ended 20 sessions\n"
    assert alive(users) == []


def test_sweep_cleans_the_indexes_of_all_primaries(
    users: list[Browser], cluster_client: Any, ini: str, capsys: Any
) -> None:
    for number in range(3):
        # As if they had expired, after a minute or more.
        for user in users[number::3][:4]:
            cluster_client.delete(user.key)
    for key in cluster_client.keys("session:owner:*"):
        for member in cluster_client.zrange(key, 0, -1):
            cluster_client.zincrby(key, -(10**11), member)
    assert run("sweep", ini) == 0
    assert "3 indexes: 12 expired sessions removed" in capsys.readouterr().out
    registry = users[0].wsgi.registry
    assert [len(sessions_of(registry, f"owner {n}")) for n in range(3)] == [6, 6, 6]


def test_check_looks_at_every_primary(
    users: list[Browser], cluster: Cluster, ini: str, capsys: Any
) -> None:
    ports = {f"127.0.0.1:{node.port}" for node in cluster.primaries()}
    assert run("check", ini, "--json") == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    seen = {}
    for finding in found:
        seen.setdefault(finding["subject"], set()).update(finding.get("nodes", ()))
    for subject in ("server", "memory", "replication", "round trip", "scripts"):
        assert seen[subject] == ports
    (tried,) = [finding for finding in found if finding["subject"] == "session tried"]
    assert tried["level"] == "ok"
    (memory,) = [finding for finding in found if finding["subject"] == "session memory"]
    assert memory["looked_at"] == 30
    assert run("check", ini) == 0
    assert ", ".join(sorted(ports)[:1]) in capsys.readouterr().out


def test_check_of_a_node_by_itself_warns(cluster: Cluster, tmp_path: Path, capsys: Any) -> None:
    run("check", write_ini(tmp_path, f"redis://{cluster.nodes[0].address}"), "--json")
    found = json.loads(capsys.readouterr().out)["findings"]
    (server,) = [finding for finding in found if finding["subject"] == "server"]
    assert server["level"] == "warning"
    assert "use redis+cluster://" in server["words"]


def test_simulate_uses_all_primaries(
    cluster: Cluster, cluster_client: Any, ini: str, capsys: Any
) -> None:
    assert run("simulate", ini, "--workers", 1, "--seconds", 0.3, "--sessions", 20, "--json") == 0
    assert json.loads(capsys.readouterr().out)["read"]["requests"] > 0
    assert cluster_client.keys("*") == []


def test_sessions_are_found_while_their_slots_move(
    users: list[Browser], cluster: Cluster, ini: str, capsys: Any
) -> None:
    """A slot is in the middle of its move: the source sends the client on (ASK)."""
    user = users[0]
    source = cluster.primary_of(user.key)
    target = next(node for node in cluster.primaries() if node.port != source.port)
    slot = int(source.ask("CLUSTER", "KEYSLOT", user.key))
    source_id, target_id = (node.ask("CLUSTER", "MYID").decode() for node in (source, target))
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    try:
        source.ask("MIGRATE", "127.0.0.1", target.port, user.key, 0, 5000)
        assert run("show", ini, "--session", str(user.session_id)) == 0
        assert fingerprint(str(user.session_id)) in capsys.readouterr().out
    finally:
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


def test_user_that_check_advises_may_use_the_cluster(
    cluster: Cluster, ini: str, tmp_path: Path, capsys: Any
) -> None:
    if cluster.primaries()[0].version < (7, 0):
        pytest.skip("only Redis 7 tells that the default user may do more than is needed")
    assert run("check", ini, "--json") == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    lines = {
        change["line"]
        for finding in found
        if finding["subject"] == "permissions"
        for change in finding["changes"]
    }
    (line,) = lines
    words = line.replace(">PASSWORD", f">{PASSWORD}").split()
    try:
        for node in cluster.nodes:
            node.ask(*words)
        theirs = write_ini(tmp_path, with_user(cluster.url))
        assert run("check", theirs, "--json") == 0
        found = json.loads(capsys.readouterr().out)["findings"]
        assert {f["level"] for f in found if f["subject"] in ("permissions", "session tried")} == {
            "ok"
        }
    finally:
        for node in cluster.nodes:
            node.ask("ACL", "DELUSER", USER)
