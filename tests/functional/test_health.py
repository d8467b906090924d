"""Readiness: a callable and a view, in time and without secrets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.security import Denied

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.health import TIMEOUT, check_health
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import SECRET, Browser, make_browser
from tests.support.faults import FaultProxy
from tests.support.least_privilege import PASSWORD, USER, add_user, with_user
from tests.support.waiting import wait_until

DOCS = Path(__file__).resolve().parents[2] / "docs"


def with_health(config: Any) -> None:
    config.include("pyramid_redis_lua_sessions.health")


def made(url: str, **options: Any) -> Browser:
    return make_browser(url, configure=with_health, **options)


@pytest.fixture
def server(new_redis_server: Callable[..., RedisServer]) -> RedisServer:
    return new_redis_server()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        yield proxy


def ask(user: Browser, status: int = 200) -> dict[str, Any]:
    response = user.app.get("/session-health", status=status)
    assert response.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in response.headers
    found: dict[str, Any] = response.json
    assert set(found) == {"ready", "problem", "milliseconds"}
    assert found["ready"] == (status == 200) == (found["problem"] == "")
    return found


@pytest.mark.parametrize("options", [{}, {"set_redis_ttl": False}, {"timeout": 0}], ids=str)
def test_ready_and_nothing_is_left(
    redis_url: str, redis_client: redis.Redis, options: dict[str, Any]
) -> None:
    user = made(redis_url, **options)
    user.use(lambda session: session.update(a=1))
    before = (sorted(redis_client.keys()), redis_client.hgetall(user.key))
    for _ in range(3):
        assert ask(user)["milliseconds"] > 0
    # The session of who asks is neither loaded nor refreshed.
    assert (sorted(redis_client.keys()), redis_client.hgetall(user.key)) == before
    assert check_health(user.wsgi.registry).ready


def test_scripts_are_loaded_where_they_are_missing(server: RedisServer) -> None:
    user = made(server.url)
    with server.client() as client:
        client.script_flush()
        ask(user)
        assert all(client.script_exists(*(script.sha1 for script in SCRIPTS.values())))


def test_user_of_the_documentation_may_ask(redis_server: RedisServer, redis_url: str) -> None:
    add_user(redis_server)
    ask(made(with_user(redis_server.url)))


def test_redis_that_is_not_there_is_named(server: RedisServer) -> None:
    user = made(server.url)
    server.kill()
    problem = ask(user, 503)["problem"]
    assert f"127.0.0.1:{server.port}" in problem


def test_redis_that_hangs_is_not_waited_for(server: RedisServer, proxy: FaultProxy) -> None:
    # After these seconds there would be another answer.
    user = made(proxy.url, redis_socket_timeout=5, redis_retries=0)
    ask(user)
    proxy.strike("stall", times=1000)
    threads = threading.active_count()
    found = [check_health(user.wsgi.registry, timeout=0.05) for _ in range(5)]
    assert {health.problem for health in found} == {"Redis did not answer within 0.05 s"}
    assert threading.active_count() <= threads + 1  # all wait for one answer
    proxy.heal()
    user.factory.store_for(None).client.connection_pool.disconnect()
    wait_until(lambda: check_health(user.wsgi.registry).ready)


def test_replica_is_not_ready(server: RedisServer) -> None:
    user = made(server.url)
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert "READONLY" in ask(user, 503)["problem"]


def test_full_redis_is_not_ready(server: RedisServer) -> None:
    user = made(server.url)
    with server.client() as client:
        client.config_set("maxmemory", 1)
    assert "OOM" in ask(user, 503)["problem"]


def test_user_who_may_not_write_is_not_ready(redis_server: RedisServer, redis_url: str) -> None:
    add_user(redis_server)
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", USER, "-hset")
    user = made(with_user(redis_server.url))
    problem = ask(user, 503)["problem"]
    assert "NOPERM" in problem or "ERR" in problem
    for secret in (PASSWORD, SECRET, "session:"):
        assert secret not in problem


def test_client_callable_that_fails_is_a_problem_without_its_text() -> None:
    def no_client(request: Any, **options: Any) -> Any:
        raise LookupError(PASSWORD)

    user = make_browser(None, redis_client_callable=no_client, configure=with_health)
    assert ask(user, 503)["problem"] == "LookupError"


def test_probe_needs_no_permission(redis_url: str) -> None:
    def configure(config: Any) -> None:
        config.set_default_permission("view")
        config.set_security_policy(NobodyMay())
        with_health(config)

    user = make_browser(redis_url, configure=configure)
    assert user.app.get("/", status=403)
    ask(user)


class NobodyMay:
    """A security policy."""

    def permits(self, request: Any, context: Any, permission: str) -> Denied:
        return Denied("no")


def test_probe_for_which_no_thread_can_be_started_is_answered(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = made(redis_url)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert ask(user, 503)["problem"] == "no thread can be started"
    ask(user)


def test_application_without_these_sessions_has_none_to_ask(redis_url: str) -> None:
    from pyramid.config import Configurator
    from pyramid.session import SignedCookieSessionFactory

    from pyramid_redis_lua_sessions import SessionError

    config = Configurator(session_factory=SignedCookieSessionFactory("x"))
    with pytest.raises(SessionError, match="not those of this package"):
        check_health(config.make_wsgi_app().registry)


def test_default_leaves_a_probe_of_kubernetes_its_second() -> None:
    assert TIMEOUT < 1
    assert f"{TIMEOUT:g}" in (DOCS / "monitoring.rst").read_text("utf-8")
