"""Who watches may die, a collector of metrics or who listens for endings: no request notices."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError

from pyramid_redis_lua_sessions import factory
from pyramid_redis_lua_sessions.connect.client import make_client
from pyramid_redis_lua_sessions.endings import Ending, subscriber, watch_ending
from pyramid_redis_lua_sessions.endings.subscriber import subscriber_of
from pyramid_redis_lua_sessions.settings import Settings
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import SECRET, Browser, make_browser
from tests.support.waiting import wait_until

from .kinds import KINDS, Kind, start, state_of, unavailable

NAME = "session endings"


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    yield
    wait_until(lambda: NAME not in [thread.name for thread in threading.enumerate()])


def listening(config: Any) -> None:
    unavailable(config)
    config.include("pyramid_redis_lua_sessions.endings")


def made(url: str, **options: Any) -> Browser:
    return make_browser(url, configure=listening, publish_endings=True, **options)


def watched(user: Browser) -> tuple[Any, queue.Queue[Ending]]:
    told: queue.Queue[Ending] = queue.Queue()
    watch = user.visit(lambda request: watch_ending(request, told.put))
    assert watch is not None
    return watch, told


def is_heard(user: Browser, client: redis.Redis) -> bool:
    """Whether Redis has somebody who listens."""
    connections: Any = client.client_list()
    return any(int(c["sub"]) + int(c.get("ssub", 0)) for c in connections)


@pytest.fixture
def user(server: RedisServer, client: redis.Redis) -> Browser:
    user = made(server.url)
    start(user)
    return user


# -- requests, while nobody hears ------------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port at which connections are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Failing:
    """A collector that is dead."""

    def step(self, step: Any) -> None:
        raise OSError("no space left on device")

    event = step


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_request_has_its_effect_while_collector_and_subscriber_are_dead(
    kind: Kind,
    server: RedisServer,
    client: redis.Redis,
    black_hole: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = make_browser(server.url, configure=listening, publish_endings=True, **kind.settings)
    user.factory.watchers = (Failing(),)
    settings = Settings.from_options(
        {"secret": SECRET, "url": f"redis://127.0.0.1:{black_hole}", "socket_timeout": 0.2}
    )
    nowhere = user.factory.store_for(None).using(make_client(settings, retries=0))
    monkeypatch.setattr(user.factory, "separate_store", lambda: nowhere)
    cookie = kind.prepare(user)
    stranger = user.another()
    start(stranger)
    watch, _ = watched(stranger)
    stranger.use(lambda session: session.invalidate())
    user.visit(kind.act, **({"headers": {"Cookie": cookie}} if cookie else {}))
    assert state_of(user, client) == kind.after
    watch.cancel()


def test_request_costs_as_many_round_trips_as_without(
    server: RedisServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses() -> Any:
        raise ConnectionError

    with CountingProxy(server.port) as proxy:
        user = made(proxy.url)
        start(user)
        monkeypatch.setattr(user.factory, "separate_store", refuses)
        watch, _ = watched(user)
        for act, trips in ((dict, 1), (lambda s: s.update(more=1), 2), (lambda s: s.owner, 1)):
            proxy.reset()
            user.use(act)
            assert proxy.round_trips == trips
        watch.cancel()


def test_callback_that_never_returns_holds_nobody_up(user: Browser) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def tell(ending: Ending) -> None:
        hangs.set()
        goes_on.wait(30)

    user.visit(lambda request: watch_ending(request, tell))
    user.copy().use(lambda session: session.invalidate())
    assert hangs.wait(20)
    others = [user.another() for _ in range(3)]
    for other in others:
        start(other)
        watched(other)[0].cancel()
        other.use(lambda session: session.invalidate())
    goes_on.set()


# -- what is missed is found -------------------------------------------------------------


@pytest.mark.parametrize("what", ["ended", "expired"])
def test_ending_that_was_missed_is_found_after_the_reconnection(
    user: Browser, client: redis.Redis, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, told = watched(user)
    wait_until(lambda: is_heard(user, client))
    away, store = threading.Event(), user.factory.separate_store

    def separate_store() -> Any:
        away.set()
        if is_away:
            raise ConnectionError
        return store()

    is_away = True
    monkeypatch.setattr(user.factory, "separate_store", separate_store)
    client.client_kill_filter(_type="pubsub")
    assert away.wait(20)
    if what == "ended":
        user.copy().use(lambda session: session.invalidate())
    else:
        client.delete(user.key)
    assert told.empty()
    is_away = False
    assert told.get(timeout=20).reason == what


def test_connection_that_is_killed_again_and_again_is_made_again(
    user: Browser, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    _, told = watched(user)
    for _ in range(5):
        wait_until(lambda: is_heard(user, client))
        client.client_kill_filter(_type="pubsub")
        wait_until(lambda: not is_heard(user, client) or told.empty())
    wait_until(lambda: is_heard(user, client))
    user.copy().use(lambda session: session.invalidate())
    assert told.get(timeout=20).reason == "ended"
    assert SECRET not in caplog.text
    assert user.session_id is None or user.session_id not in caplog.text


@pytest.mark.parametrize("patience", ["2", "None"])
def test_redis_that_hangs_is_left_and_found_again(
    server: RedisServer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    patience: str,
) -> None:
    user = made(server.url, redis_socket_timeout=patience)
    start(user)
    monkeypatch.setattr(factory, "LONGEST_SILENCE", 0.2)
    monkeypatch.setattr(subscriber, "ASK_AGAIN", 0.05)
    monkeypatch.setattr(subscriber, "QUIET", 0.1)
    monkeypatch.setattr(subscriber, "LOST", 0.2)
    lost, store = threading.Event(), user.factory.separate_store

    def separate_store() -> Any:
        lost.set()
        return store()

    _, told = watched(user)
    wait_until(lambda: is_heard(user, client))
    monkeypatch.setattr(user.factory, "separate_store", separate_store)
    server.pause()
    try:
        assert lost.wait(20)
    finally:
        server.resume()
    user.copy().use(lambda session: session.invalidate())
    assert told.get(timeout=20).reason == "ended"


def test_silence_alone_loses_no_connection(
    user: Browser, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "QUIET", 0.02)
    monkeypatch.setattr(subscriber, "LOST", 5.0)
    watch, _ = watched(user)
    wait_until(lambda: is_heard(user, client))
    pings: Any = client.info("commandstats")
    before = pings.get("cmdstat_ping", {"calls": 0})["calls"]

    def pinged() -> bool:
        found: Any = client.info("commandstats")
        return bool(found.get("cmdstat_ping", {"calls": 0})["calls"] >= before + 3)

    wait_until(pinged)
    assert is_heard(user, client)
    watch.cancel()


def test_redis_that_comes_back_empty_has_ended_all_sessions(
    new_redis_server: Any,
) -> None:
    server = new_redis_server()
    user = made(server.url)
    start(user)
    _, told = watched(user)
    with server.client() as client:
        wait_until(lambda: is_heard(user, client))
    server.kill()
    server.restart()
    assert told.get(timeout=20).reason == "expired"


def test_who_gives_up_while_redis_is_away_leaves_no_thread(
    new_redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis_server()
    user = made(server.url)
    start(user)
    watch, _ = watched(user)
    server.kill()
    wait_until(lambda: "not heard at present" in caplog.text)
    watch.cancel()
    known = subscriber_of(user.factory)
    wait_until(known.is_deserted)
