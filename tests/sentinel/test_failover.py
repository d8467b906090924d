"""Primaries that are replaced while users are at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.app import make_browser
from tests.support.load import Load
from tests.support.topology import SERVICE, Sentinels
from tests.support.waiting import wait_until

TIMEOUT = 0.5
TIMEOUTS = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}

#: What the documentation promises for one call, where three sentinels and Redis hang: a reply,
#: then two attempts to connect, each past three sentinels. A request makes two calls at most.
CALL = TIMEOUT + 2 * (3 * 0.5 + TIMEOUT)
BOUND = 2 * CALL + 1


@pytest.mark.parametrize("how", ["fail_over", "kill", "pause"])
def test_nothing_that_was_replicated_is_lost_when_the_primary_goes(
    own_sentinels: Sentinels, confirm: Callable[[str], bool], how: str
) -> None:
    """What both replicas have confirmed is exactly what Redis itself does not lose."""
    sentinels = own_sentinels
    with Load(sentinels.url, confirm, **TIMEOUTS) as load:
        load.wait_for_more()
        old = sentinels.primary
        if how == "fail_over":
            sentinels.fail_over()
        else:
            getattr(old, how)()
        wait_until(lambda: sentinels.primary is not old, 20)
        # Without a restart, and while the old primary is still away.
        load.wait_for_more()
        if how == "kill":
            old.start()
        elif how == "pause":
            old.resume()
        load.wait_for_more()
    load.check()
    assert load.slowest < BOUND


def demote(sentinels: Sentinels) -> None:
    """Make another node the primary, without the ``CLIENT KILL`` of a sentinel's failover.

    So connections to the old one stay open, as they do where something between has held them.
    """
    old = sentinels.primary
    new = next(node for node in sentinels.nodes if node is not old)
    with old.client(single_connection_client=True) as client:
        client.set("mark", "1")
        assert client.wait(2, 5000) == 2
    for sentinel in sentinels.sentinels:
        sentinel.ask("SENTINEL", "REMOVE", SERVICE)
    new.ask("REPLICAOF", "NO", "ONE")
    for node in sentinels.nodes:
        if node is not new:
            node.ask("REPLICAOF", "127.0.0.1", new.port)
    for sentinel in sentinels.sentinels:
        sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 2)
        sentinel.ask("SENTINEL", "SET", SERVICE, "DOWN-AFTER-MILLISECONDS", 1000)
        sentinel.ask("SENTINEL", "SET", SERVICE, "FAILOVER-TIMEOUT", 3000)
    sentinels.wait_until_healthy()
    assert sentinels.primary is new


def write(session: Any) -> None:
    session["changed"] = 1


@pytest.mark.parametrize("scripts", ["known", "unknown"])
@pytest.mark.parametrize(
    "act",
    [
        lambda session: dict(session),
        write,
        lambda session: session.adjust_timeout_for_session(900),
        lambda session: session.regenerate_id(),
        lambda session: session.invalidate(),
        lambda session: session.flash("message"),
    ],
    ids=["read", "write", "adjust", "login", "logout", "flash"],
)
def test_call_that_meets_a_demoted_primary_succeeds(
    sentinels: Sentinels, clean: None, act: Callable[[Any], Any], scripts: str
) -> None:
    """In one call: READONLY, which Redis 6.2 wraps; reconnect; the same again."""
    browser = make_browser(sentinels.url)
    browser.use(lambda session: session.__setitem__("name", "value"))
    before = browser.copy()
    old = sentinels.primary
    demote(sentinels)
    if scripts == "unknown":
        for node in sentinels.nodes:
            node.ask("SCRIPT", "FLUSH")

    browser.use(act)

    ended = browser.session_id != before.session_id
    assert before.use(dict).get("name") == (None if ended else "value")
    if browser.session_id:
        assert browser.use(dict)["name"] == "value"
    assert sentinels.primary is not old


def test_first_write_that_meets_a_demoted_primary_succeeds(
    sentinels: Sentinels, clean: None
) -> None:
    browser = make_browser(sentinels.url)
    browser.use(write)
    demote(sentinels)
    another = browser.another()
    another.use(write)
    assert another.use(dict) == {"changed": 1}


def test_call_that_meets_a_demoted_primary_behind_a_moved_address_succeeds(
    sentinels: Sentinels, clean: None
) -> None:
    """Without Sentinel in the client: a name, or an address, that now leads elsewhere."""
    from pyramid_redis_lua_sessions.testing import CountingProxy

    old = sentinels.primary
    with CountingProxy(old.port) as proxy:
        browser = make_browser(proxy.url)
        browser.use(write)
        demote(sentinels)
        proxy._upstream = ("127.0.0.1", sentinels.primary.port)
        browser.use(lambda session: session.__setitem__("more", 1))
        assert browser.use(dict) == {"changed": 1, "more": 1}
        browser.use(lambda session: session.regenerate_id())
        assert browser.use(dict) == {"changed": 1, "more": 1}
