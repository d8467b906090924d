"""Endings while the primary is replaced that has the sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from pyramid_redis_lua_sessions import StoreUnavailable
from pyramid_redis_lua_sessions.endings import subscriber
from tests.support.browser import Browser, make_browser
from tests.support.endings import is_heard, wait_until_nobody_listens, watched
from tests.support.topology import Sentinels
from tests.support.waiting import wait_until

TIMEOUTS = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    yield
    wait_until_nobody_listens()


@pytest.mark.parametrize("how", ["fail_over", "kill", "pause"])
def test_session_that_is_watched_meanwhile_is_heard_of_afterwards(
    own_sentinels: Sentinels,
    confirm: Callable[[str], bool],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscriber, "QUIET", 1.0)
    monkeypatch.setattr(subscriber, "LOST", 2.0)
    sentinels = own_sentinels
    user = make_browser(
        sentinels.url,
        configure=lambda config: config.include("pyramid_redis_lua_sessions.endings"),
        publish_endings=True,
        **TIMEOUTS,
    )
    stays, leaves, misses = user, user.another(), user.another()
    users = (stays, leaves, misses)
    all_told = []
    for each in users:
        each.use(lambda session: session.update(a=1))
        all_told.append(watched(each))
    for each in users:
        wait_until(lambda each=each: is_heard(each))
    wait_until(lambda: confirm(user.key))
    old = sentinels.replace_primary(how)
    # Whoever listens may not have noticed yet.
    wait_until(lambda: ends(misses, sentinels), 20)
    assert all_told[2].get(timeout=40).reason == "ended"
    wait_until(lambda: ends(leaves, sentinels), 20)
    assert all_told[1].get(timeout=40).reason == "ended"
    # That a server is lost ends nothing.
    assert all_told[0].empty()
    assert stays.use(dict) == {"a": 1}
    if how == "pause":
        old.resume()
    wait_until(lambda: ends(stays, sentinels), 20)
    assert all_told[0].get(timeout=40).reason == "ended"


def ends(user: Browser, sentinels: Sentinels) -> bool:
    """Log out; the new primary may not be there for it yet, and what the old one takes is lost."""
    try:
        user.copy().use(lambda session: session.invalidate())
        return not sentinels.primary.ask("HEXISTS", user.key, "@")
    except (StoreUnavailable, redis.RedisError):
        return False
