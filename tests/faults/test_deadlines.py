"""A request that something outside ends, at any moment: nobody meets what it has left unread."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import sessions_of
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import make_browser
from tests.support.deadline import PAGES, check_every_step, fail_within
from tests.support.faults import FaultProxy
from tests.support.waiting import wait_until

# Where a deadline comes while a connection is made or collected, Python says so at its end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEALS = pytest.mark.parametrize("seal", ["true", "false"])


@SEALS
@pytest.mark.parametrize("page", PAGES)
def test_others_do_not_notice_when_a_request_fails_at_any_step(
    page: str, seal: str, redis_url: str
) -> None:
    browser = make_browser(
        redis_url, redis_max_connections=2, redis_socket_timeout=1, seal=seal, serialize="json"
    )
    check_every_step(browser, page)


@SEALS
def test_no_request_meets_a_wrong_session_when_a_signal_ends_some(
    seal: str, redis_server: RedisServer, redis_url: str
) -> None:
    """2,000 requests of 50 users, each with a deadline that comes at any moment."""
    browser = make_browser(redis_url, redis_max_connections=2, seal=seal, serialize="json")
    users = [browser.another() for _ in range(50)]
    took = []
    for number, user in enumerate(users):
        start = time.monotonic()
        user.use(lambda session, number=number: session.__setitem__("name", number))
        took.append(time.monotonic() - start)
    ended, wrong = 0, []
    chance = random.Random(17)
    for number in range(2000):
        name = number % len(users)
        seen = []

        def view(session, name=name, seen=seen):
            seen.append(session.get("name"))
            session["visits"] = session.get("visits", 0) + 1

        ended += fail_within(
            chance.uniform(1e-5, 2 * min(took)), lambda user=users[name], view=view: user.use(view)
        )
        wrong += [(number, found) for found in seen if found != name]
    assert wrong == []
    assert ended > 100
    for number, user in enumerate(users):
        assert user.use(lambda session: session["name"]) == number


def test_others_do_not_notice_where_the_client_is_the_applications_own(
    redis_server: RedisServer, redis_url: str
) -> None:
    """Stock connections of redis-py, which keep an unread reply."""
    with redis_server.client(protocol=3) as client:
        browser = make_browser(redis_url, redis_client_callable=lambda request, **options: client)
        check_every_step(browser, "reads")


# -- a token whose call is not answered ------------------------------------------------------


def log_in(session: Any) -> None:
    session.owner = "ada"


def regenerate(session: Any) -> None:
    session.regenerate_id()


def write(session: Any) -> None:
    session["name"] = "value"


@contextlib.contextmanager
def ended_from_outside(ready: Callable[[], object]) -> Iterator[None]:
    """A signal ends what this thread does, as soon as something is so."""

    def end(signum: int, frame: Any) -> None:
        raise Ended

    def watch() -> None:
        wait_until(ready)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, end)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pytest.raises(Ended):
            yield
    finally:
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


class Ended(BaseException):
    """What ends a request from outside, as a timeout of gevent's."""


def living(client: redis.Redis) -> list[str]:
    keys = client.scan_iter("session:*", _type="hash")
    return [key for key in keys if client.hexists(key, "@")]


@pytest.mark.parametrize("act", [log_in, regenerate])
@pytest.mark.parametrize("comes", ["at once", "late", "never"])
@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
def test_session_ends_with_a_new_token_that_came_through_unheard(
    act: Callable[[Any], None],
    comes: str,
    on_conflict: str,
    client: redis.Redis,
    proxy: FaultProxy,
) -> None:
    browser = make_browser(proxy.url, on_conflict=on_conflict)
    browser.use(write)
    key, token = browser.key, browser.token
    proxy.strike({"at once": "stall"}.get(comes, "late"), nth=2)
    placed = lambda: client.hget(key, "@")[:16] != token.digest  # noqa: E731
    ready = placed if comes == "at once" else lambda: proxy._late
    with ended_from_outside(ready):
        browser.use(act)
    if comes == "late":
        proxy.deliver_late()
    proxy.heal()
    if comes == "at once":
        assert living(client) == []
        assert browser.use(dict) == {}
    else:
        assert client.hget(key, "@")[:16] == token.digest
        assert browser.use(lambda session: (dict(session), session.owner)) == (
            {"name": "value"},
            None,
        )
    assert sessions_of(browser.wsgi.registry, "ada") == []


@pytest.mark.parametrize("act", [log_in, write])
@pytest.mark.parametrize("comes", ["at once", "late"])
def test_no_new_session_stays_that_was_created_unheard(
    act: Callable[[Any], None], comes: str, client: redis.Redis, proxy: FaultProxy
) -> None:
    browser = make_browser(proxy.url)
    assert browser.use(dict) == {}  # connect first
    at_once = comes == "at once"
    proxy.strike("stall" if at_once else "late")
    with ended_from_outside((lambda: living(client)) if at_once else (lambda: proxy._late)):
        browser.use(act)
    if not at_once:
        proxy.deliver_late()
    proxy.heal()
    assert living(client) == []
    assert sessions_of(browser.wsgi.registry, "ada") == []
