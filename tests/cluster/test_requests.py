"""Every script, and every kind of request, on a Redis Cluster.

``REDIS_TOPOLOGY=cluster`` runs the functional tests on one, too.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions import (
    StoreError,
    export_sessions,
    revoke,
    sessions_of,
    update_sessions,
)
from pyramid_redis_lua_sessions.connect.waits import waits_long
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.watch import watch
from tests.support.browser import Browser, make_browser, stored_values
from tests.support.topology import Cluster


def write(session: Any) -> None:
    session["name"] = "value"


def contents(session: Any) -> dict[Any, Any]:
    return dict(session)


@pytest.fixture
def browser(cluster_url: str, cluster_client: redis.RedisCluster) -> Browser:
    return make_browser(cluster_url)


def test_scripts_are_on_every_primary_when_the_application_has_started(
    cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    make_browser(cluster.url)
    wanted = [script.sha1 for script in SCRIPTS.values()]
    for node in cluster.primaries():
        assert node.ask("SCRIPT", "EXISTS", *wanted) in ([1] * len(wanted), [True] * len(wanted))


def test_lost_scripts_heal_within_the_call(browser: Browser, cluster: Cluster) -> None:
    browser.use(write)
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    assert browser.use(contents) == {"name": "value"}
    browser.use(lambda session: session.__setitem__("more", 1))
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(contents) == {"name": "value", "more": 1}


def test_lost_script_stays_on_its_node_once_it_was_called(
    browser: Browser, cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    """Since 7.4 a server evicts scripts that came by EVAL, beyond 500 of them."""
    browser.use(write)
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    assert browser.use(contents) == {"name": "value"}
    place: Any = cluster_client.get_node_from_key(browser.key)
    (node,) = (node for node in cluster.primaries() if node.port == place.port)
    with node.client() as client:
        for number in range(501):
            client.eval(f"return {number}", 0)
    assert node.ask("SCRIPT", "EXISTS", SCRIPTS["load_and_touch"].sha1) in ([1], [True])


def test_client_of_redis_py_that_the_application_brings(
    cluster: Cluster, cluster_client: redis.RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Without anything of ours."""
    browser = make_browser(
        "redis://localhost:1/0", redis_client_callable=lambda request, **options: cluster_client
    )
    said = waits_long(cluster_client)
    assert said.startswith("where Redis hangs, a page hangs for ")
    assert [record.message for record in caplog.records] == [f"{said} [docs: outages]"]
    browser.use(write)
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    old = browser.copy()
    browser.use(lambda session: setattr(session, "owner", "ada"))
    assert browser.use(lambda session: (session.owner, dict(session))) == (
        "ada",
        {"name": "value"},
    )
    assert old.use(dict) == {}
    browser.use(lambda session: session.invalidate())
    assert browser.use(dict) == {}


def test_client_of_a_cluster_with_which_no_page_hangs_for_long_is_no_warning(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    short: Any = {"socket_timeout": 2, "retry": Retry(NoBackoff(), 1)}
    with redis.RedisCluster("127.0.0.1", cluster.nodes[0].port, **short) as client:
        assert waits_long(client) == ""
        make_browser("redis://localhost:1/0", client_callable=lambda request, **options: client)
        client.set_retry(Retry(NoBackoff(), 9))
        assert "hangs for 20 s and more" in waits_long(client)
    make_browser(cluster.url)
    assert caplog.records == []


@pytest.mark.parametrize("path", ["", "/5"])
def test_url_of_one_server_that_is_a_node_is_named(cluster: Cluster, path: str) -> None:
    browser = make_browser(f"redis://{cluster.nodes[0].address}{path}")

    def fill() -> None:
        for _ in range(100):  # until one belongs to another node
            browser.another().use(write)

    with pytest.raises(StoreError, match=r"use redis\+cluster://|no such database"):
        fill()


def test_first_write_then_read_then_write(browser: Browser) -> None:
    assert browser.use(contents) == {}
    assert browser.session_id is None
    browser.use(write)
    assert browser.use(contents) == {"name": "value"}
    browser.use(lambda session: session.update(name="other", more=1))
    assert browser.use(contents) == {"name": "other", "more": 1}
    browser.use(lambda session: session.pop("name"))
    assert browser.use(contents) == {"more": 1}


def test_many_sessions_are_spread_over_all_primaries(browser: Browser, cluster: Cluster) -> None:
    users = [browser.another() for _ in range(40)]
    for number, user in enumerate(users):
        user.use(lambda session, number=number: session.__setitem__("number", number))
    assert len({cluster.primary_of(user.key).port for user in users}) == 3
    found = [user.use(contents) for user in users]
    assert found == [{"number": number} for number in range(40)]


def test_timeout_is_adjusted(browser: Browser, cluster_client: redis.RedisCluster) -> None:
    browser.use(write)
    browser.use(lambda session: session.adjust_timeout_for_session(5000))
    assert 4_990_000 < cluster_client.pttl(browser.key) <= 5_000_000
    assert browser.use(lambda session: session.timeout) == 5000


def test_login_stays_on_its_node_under_another_token(
    browser: Browser, cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    nodes = set()
    for _ in range(12):  # whichever nodes session and index fall on
        user = browser.another()
        user.use(write)
        before = user.copy()
        user.use(lambda session: setattr(session, "owner", 7))
        nodes.add(cluster.primary_of(user.key).port)
        assert user.use(lambda session: (contents(session), session.owner)) == (
            {"name": "value"},
            7,
        )
        assert user.key == before.key
        assert user.token != before.token
        assert before.use(contents) == {}
    assert len(nodes) > 1


def test_logout_ends_the_session(browser: Browser, cluster_client: redis.RedisCluster) -> None:
    browser.use(write)
    before = browser.copy()
    browser.use(lambda session: session.invalidate())
    assert browser.session_id is None
    assert before.use(contents) == {}
    assert not cluster_client.hexists(before.key, "@")


def test_flash_messages_of_several_requests(browser: Browser) -> None:
    browser.use(lambda session: session.flash("one"))
    browser.use(lambda session: session.flash("two"))
    assert browser.use(lambda session: session.peek_flash()) == ["one", "two"]
    assert browser.use(lambda session: session.pop_flash()) == ["one", "two"]
    assert browser.use(lambda session: session.pop_flash()) == []


def test_session_that_became_empty_ends(
    cluster_url: str, cluster_client: redis.RedisCluster
) -> None:
    browser = make_browser(cluster_url, invalidate_empty_session=True)
    browser.use(write)
    key = browser.key
    browser.use(lambda session: session.clear())
    assert not cluster_client.hexists(key, "@")


def test_conflict_is_noticed_in_retry_mode(
    cluster_url: str, cluster_client: redis.RedisCluster
) -> None:
    browser = make_browser(cluster_url, on_conflict="retry")
    browser.use(lambda session: session.__setitem__("count", 1))
    other = browser.copy()

    def count(session: Any) -> None:
        session["count"] += 1

    def overtaken(session: Any) -> None:
        value = session["count"]
        other.use(count)
        session["count"] = value + 1

    browser.use(overtaken, status=409)
    assert browser.use(contents) == {"count": 2}
    browser.use(count)
    values = stored_values(cluster_client, browser.factory, str(browser.session_id))
    assert values == {"count": 3}


def test_revoked_session_gets_no_new_token(
    browser: Browser, cluster_client: redis.RedisCluster
) -> None:
    def log_in(session: Any) -> None:
        session.owner = "ada"

    def regenerate(request: Any) -> Any:
        calls = watch(request)
        request.session["name"] = "value"
        request.session.regenerate_id()
        revoke(request.registry, "ada")
        return calls

    browser.use(log_in)
    other = browser.another()
    other.use(log_in)
    calls = browser.visit(regenerate)
    assert [(call.name, call.status) for call in calls][-1:] == [("renew_token", "MOVED")]
    for user in (browser, other):
        assert user.use(lambda session: session.owner) is None
    other.use(log_in)
    other.use(lambda session: session.regenerate_id())
    assert other.use(lambda session: session.owner) == "ada"
    alive = [key for key in cluster_client.keys("session:*") if b"owner:" not in key]
    alive = [key for key in alive if cluster_client.hexists(key, "@")]
    assert alive == [other.key.encode()]


def test_calls_of_a_watched_request_are_recorded(browser: Browser, cluster: Cluster) -> None:
    browser.use(write)
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")

    def log_in(request: Any) -> Any:
        calls = watch(request)
        request.session.regenerate_id()
        return calls

    loaded, saved = browser.visit(log_in)
    assert (loaded.name, loaded.status, loaded.round_trips) == ("load_and_touch", "LOADED", 2)
    assert (saved.name, saved.status) == ("renew_token", "SAVED")
    script = len(SCRIPTS["load_and_touch"].source)
    assert loaded.bytes_sent > script > loaded.bytes_received > 100


# -- all sessions of a user ----------------------------------------------------------

MANY = 40


def owned(browser: Browser) -> list[Browser]:
    """Users who are one, on so many devices that each node has some of their sessions."""
    users = [browser.another() for _ in range(MANY)]
    for user in users:
        user.use(lambda session: setattr(session, "owner", "ada"))
    return users


def test_sessions_of_a_user_are_changed_in_a_pipeline_for_each_node(browser: Browser) -> None:
    users = owned(browser)

    def change(request: Any) -> Any:
        calls = watch(request)
        assert update_sessions(request, "ada", {"roles": ["reader"]}) == MANY
        changed = [call for call in calls if "save_if_changed" in call.names]
        calls.clear()
        assert len(sessions_of(request, "ada")) == len(export_sessions(request, "ada")) == MANY
        read = [call for call in calls if "peek_session" in call.names]
        assert revoke(request, "ada") == MANY
        ended = [call for call in calls if "end_session" in call.names]
        return changed, read, ended

    users[0].use(dict)
    for steps in browser.visit(change):
        assert [call.round_trips for call in steps] == [1] * 3
        assert sum(len(call.names) for call in steps) == MANY
        # Of all nodes, also where it is one that was asked.
        assert len({call.connections.limit for call in steps}) == 1
    assert {user.use(lambda session: session.owner) for user in users} == {None}


def test_client_of_the_application_sends_a_pipeline_to_each_node(
    cluster_url: str, cluster: Cluster, cluster_client: redis.RedisCluster
) -> None:
    users = owned(make_browser(cluster_url))
    with cluster.client(decode_responses=True) as client:
        browser = make_browser(None, redis_client_callable=lambda request, **options: client)
        assert update_sessions(browser.wsgi.registry, "ada", {"n": 1}) == MANY
    assert [user.use(dict) for user in users] == [{"n": 1}] * MANY


def test_node_that_lacks_the_scripts_gets_them(browser: Browser, cluster: Cluster) -> None:
    users = owned(browser)
    for node in cluster.primaries():
        node.ask("SCRIPT", "FLUSH")
    assert update_sessions(browser.wsgi.registry, "ada", {"n": 1}) == MANY
    assert [user.use(dict) for user in users] == [{"n": 1}] * MANY


def test_something_else_at_the_key_of_a_session_stops_nobody(
    browser: Browser, cluster_client: redis.RedisCluster
) -> None:
    users = owned(browser)
    cluster_client.delete(users[7].key)
    cluster_client.set(users[7].key, "x")
    assert update_sessions(browser.wsgi.registry, "ada", {"n": 1}) == MANY - 1


def test_error_of_one_node_is_told(browser: Browser, cluster: Cluster) -> None:
    users = owned(browser)
    node = cluster.primary_of(users[0].key)
    index = browser.factory.store_for(None).index_key(browser.factory.codec.encode("ada"))
    if node.address == cluster.primary_of(index.decode()).address:
        node = next(one for one in cluster.primaries() if one.address != node.address)
    node.ask("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="OOM"):
            update_sessions(browser.wsgi.registry, "ada", {"n": 1})
    finally:
        node.ask("CONFIG", "SET", "maxmemory", "0")
    assert update_sessions(browser.wsgi.registry, "ada", {"n": 1}) == MANY
