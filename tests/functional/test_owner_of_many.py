"""An owner with very many sessions: no step grows with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import redis
from pyramid.config import Configurator

from pyramid_redis_lua_sessions import SessionInvalidated, revoke, sessions_of
from pyramid_redis_lua_sessions.engine.fields import OWNER_FIELD
from pyramid_redis_lua_sessions.engine.index import MOST_ENDED
from pyramid_redis_lua_sessions.engine.protocol import NO_LIFETIME, Created, Entry
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.engine.store import BATCH
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, make_browser
from tests.support.command import run

MANY = 2 * BATCH + 50


def log_in(browser: Browser) -> str:
    browser.use(lambda session: setattr(session, "owner", "ada"))
    assert browser.session_id is not None
    return browser.session_id


def make_sessions(browser: Browser, count: int) -> list[str]:
    """Log the owner in so often, as a higher limit allowed it; return the ids."""
    factory = browser.factory
    owner = factory.codec.encode("ada")

    def seal(token: Any) -> dict[bytes, bytes]:
        bound = factory.sealer.bind(token.locator, token.digest)
        return {OWNER_FIELD: bound.seal(OWNER_FIELD, owner)}

    names = []
    for _ in range(count):
        created, _ = factory.store_for(None).create(seal, NO_LIFETIME, [Entry(OWNER_FIELD, owner)])
        assert isinstance(created, Created)
        names.append(created.token.locator)
    return names


def the_index(client: redis.Redis) -> bytes:
    (key,) = client.keys("session:owner:*")  # type: ignore[misc]
    return bytes(key)


def members(client: redis.Redis) -> list[str]:
    found: Any = client.zrange(the_index(client), 0, -1)
    return [name.decode() for name in found]


def make_older(client: redis.Redis) -> None:
    """As if two minutes had passed since all that stands in the index was put there."""
    with client.pipeline() as pipeline:
        for name in members(client):
            pipeline.zincrby(the_index(client), -120_000_000, name)
        pipeline.execute()


def calls(proxy: CountingProxy) -> Counter[str]:
    """How often which script, or command, was called."""
    names = {script.sha1: script.name for script in SCRIPTS.values()}
    return Counter(names.get(command.sha or "", command.name) for command in proxy.commands)


def no_call_is_large(proxy: CountingProxy) -> bool:
    """No command names much more than a batch (ZSCAN may give more), or asks for all."""
    return all(
        len(command.args) < 2 * BATCH
        and not (command.name == "ZRANGE" and command.args[2:4] == (b"0", b"-1"))
        for command in proxy.commands
    )


def test_all_sessions_of_an_owner_with_many_are_listed_in_batches(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url, owner_sessions=MANY)
    names = make_sessions(browser, MANY)
    proxy.reset()
    found = sessions_of(browser.wsgi.registry, "ada")
    assert {info.fingerprint for info in found} == set(map(fingerprint, names))
    assert len(found) == MANY
    assert [info.created for info in found] == sorted(info.created for info in found)
    counted = calls(proxy)
    assert set(counted) == {"ZSCAN", "describe_session"}
    assert counted["describe_session"] == MANY
    # One pipeline of all, after one read of all, were two.
    assert proxy.round_trips >= 6
    assert no_call_is_large(proxy)


def test_current_session_of_an_owner_with_many_is_found_once(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, owner_sessions=2 * MANY)
    make_sessions(browser, MANY)
    name = log_in(browser)

    def current(request: Any) -> list[str]:
        return [info.fingerprint for info in sessions_of(request, "ada") if info.current]

    assert browser.visit(current) == [fingerprint(name)]
    redis_client.zrem(the_index(redis_client), name)
    assert browser.visit(current) == [fingerprint(name)]


def test_all_sessions_of_an_owner_with_many_are_revoked_in_batches(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    told: list[str] = []

    def listen(config: Configurator) -> None:
        config.add_subscriber(lambda event: told.append(event.fingerprint), SessionInvalidated)

    browser = make_browser(proxy.url, configure=listen, owner_sessions=2 * MANY)
    names = make_sessions(browser, MANY)
    own = log_in(browser)
    proxy.reset()
    assert browser.visit(lambda request: revoke(request, "ada")) == MANY
    assert sorted(told) == sorted(map(fingerprint, names))
    counted = calls(proxy)
    assert counted["end_session"] == MANY
    assert counted["ZREM"] > 1
    assert no_call_is_large(proxy)
    assert members(redis_client) == [own]
    assert browser.use(lambda session: session.owner) == "ada"


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [True, False])
def test_limit_holds_with_a_client_of_the_applications_own(
    redis_url: str, redis_client: redis.Redis, protocol: int, decode: bool
) -> None:
    client = redis.Redis.from_url(redis_url, protocol=protocol, decode_responses=decode)
    with client:
        browser = make_browser(None, client_callable=lambda request, **_: client, owner_sessions=2)
        names = [log_in(browser.another()) for _ in range(4)]
        assert members(redis_client) == names[2:]
        assert len(sessions_of(browser.wsgi.registry, "ada")) == 2
        assert revoke(browser.wsgi.registry, "ada") == 2


def test_login_ends_a_bounded_number_of_sessions_that_are_too_many(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    names = make_sessions(make_browser(proxy.url, owner_sessions=MANY), 3 * MOST_ENDED)
    browser = make_browser(proxy.url, owner_sessions=10)
    proxy.reset()
    new = log_in(browser)
    counted = calls(proxy)
    assert counted["end_session"] == MOST_ENDED
    assert counted["describe_session"] == MOST_ENDED + 10
    assert no_call_is_large(proxy)
    assert max(len(command.args) for command in proxy.commands) < MOST_ENDED + 10
    # The oldest of them; the next logins end the rest.
    assert members(redis_client) == [*names[MOST_ENDED:], new]
    assert browser.use(lambda session: session.owner) == "ada"
    newer = [log_in(browser.another()) for _ in range(2)]
    assert members(redis_client) == [*names[-7:], new, *newer]
    lives = [name for name in names if b"@" in redis_client.hgetall(f"session:{name}")]
    assert lives == names[-7:]


@pytest.mark.parametrize("older", [True, False])
def test_login_gets_on_where_the_newest_have_ended(
    redis_url: str, redis_client: redis.Redis, older: bool
) -> None:
    # They do not count against the limit, nor do they keep for ever what is too many.
    ended = 2 * MOST_ENDED
    names = make_sessions(make_browser(redis_url, owner_sessions=MANY), 2 * ended)
    redis_client.delete(*(f"session:{name}" for name in names[ended:]))
    if older:
        make_older(redis_client)
    browser = make_browser(redis_url, owner_sessions=10)
    logins: list[str] = []
    for _ in range(60):
        logins.append(log_in(browser.another()))
        lives = [name for name in names if redis_client.exists(f"session:{name}")]
        if older:
            assert set(names[ended - 10 + len(logins) : ended]) <= set(lives)
    assert members(redis_client) == logins[-10:]


def test_index_with_many_is_swept_in_batches(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    browser = make_browser(proxy.url, owner_sessions=MANY)
    names = make_sessions(browser, MANY)
    redis_client.delete(*(f"session:{name}" for name in names[5:]))
    make_older(redis_client)
    proxy.reset()
    assert run("sweep", "--url", proxy.url) == 0
    assert set(members(redis_client)) == set(names[:5])
    assert calls(proxy)["ZREM"] > 1
    assert no_call_is_large(proxy)
