"""Every fault on the wire, at every call of every kind of request.

Either the request has its effect, exactly once, or it fails with ``StoreUnavailable``; and the
next request works. With one retry, which is the default, one fault is no failure at all.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.errors import StoreUnavailable
from tests.functional.test_migrate import psr, servers
from tests.support.browser import Browser, make_browser
from tests.support.faults import FAULTS, FaultProxy
from tests.support.predecessors import SECRET as OLD_SECRET

from .kinds import KINDS, NOTHING, START, VALUES, Kind, State, look, state_of, unavailable

__all__ = ["psr", "servers"]  # fixtures

#: Of the faults, those that a client only learns of when its patience ends, after so many seconds.
SLOW = ("stall", "late")
SHORT = 0.6


def with_next(state: State) -> State:
    return dataclasses.replace(state, values={**state.values, "next": 1}, live=max(1, state.live))


def write_next(session: Any) -> None:
    session["next"] = 1


class Trial:
    """One kind of request, one fault: at the first call, then at the second, and so on.

    :param client: of the server, past the proxy.
    """

    def __init__(
        self, kind: Kind, fault: str, retries: int, client: redis.Redis, prefix: str = "session:"
    ) -> None:
        self.kind = kind
        self.fault = fault
        self.retries = retries
        self.client = client
        self.prefix = prefix
        self.proxy = FaultProxy(client.connection_pool.connection_kwargs["port"]).start()
        self.browser = make_browser(
            self.proxy.url,
            configure=unavailable,
            prefix=prefix,
            redis_retries=retries,
            socket_timeout=SHORT if fault in SLOW else 10,
            **kind.settings,
        )

    def run(self) -> int:
        """:returns: how many calls were struck."""
        nth = 0
        try:
            struck = True
            while struck:
                nth += 1
                for key in self.client.keys(f"{self.prefix}*"):
                    self.client.delete(key)
                user = self.browser.another()
                cookie = self.kind.prepare(user)
                self.proxy.strike(self.fault, nth)
                struck = self.check(user, {"headers": {"Cookie": cookie}} if cookie else {})
        finally:
            self.proxy.close()
        return nth - 1

    def check(self, user: Browser, options: dict[str, Any]) -> bool:
        """Make the request, and judge what became of it.

        :param options: of requests, as long as the user has no cookie of ours.
        :returns: whether the fault has happened before it was over.
        """
        kind = self.kind
        try:
            user.visit(kind.act, status="*", **options)
            failed = user.response.status_int != 200
            assert not failed or user.response.status_int == 503
        except StoreUnavailable:  # from a response callback
            failed = True
        struck = self.proxy.has_struck
        self.proxy.heal()
        if self.retries or self.fault == "delay" or not struck:
            assert not failed

        outcomes = [kind.after]
        if failed:
            outcomes += [kind.before, NOTHING] if kind.ends else [kind.before]
        seen = state_of(user, self.client, **({} if user.app.cookies else options))
        self.assert_one_of(outcomes, seen, failed)

        if failed and kind.ends and not seen.values:
            # The old id has ended, and no cookie came for the new one: the user logs in again.
            user.use(lambda session: session.regenerate_id() or write_next(session))
        else:
            user.use(write_next, **({} if user.app.cookies else options))
        outcomes = [with_next(seen)]
        self.assert_one_of(outcomes, state_of(user, self.client), failed)

        self.proxy.deliver_late()
        if failed:
            # Only now it has its effect: once, as any slow request.
            outcomes += [with_next(kind.after), with_next(kind.before)]
            outcomes += [NOTHING] if kind.ends else []
        self.assert_one_of(outcomes, state_of(user, self.client), failed)
        return struck

    def assert_one_of(self, outcomes: list[State], seen: State, failed: bool) -> None:
        if not failed:
            assert [seen] == outcomes
            return
        assert seen.live <= max(state.live for state in outcomes) + self.kind.stray
        assert seen in [dataclasses.replace(state, live=seen.live) for state in outcomes]


def try_every_fault(kind: Kind, client: redis.Redis) -> int:
    """Try all faults side by side, as most of the time is spent waiting.

    :returns: how many calls were struck.
    """
    trials = {
        f"{fault}, {retries} retries": Trial(kind, fault, retries, client, f"{fault}{retries}:")
        for fault in FAULTS
        for retries in (0, 1)
    }
    with ThreadPoolExecutor(len(trials)) as pool:
        running = {name: pool.submit(trial.run) for name, trial in trials.items()}
    failures = {name: ran.exception() for name, ran in running.items() if ran.exception()}
    assert failures == {}
    struck = {name: ran.result() for name, ran in running.items()}
    patient = {count for name, count in struck.items() if not name.startswith(SLOW)}
    assert len(patient) == 1
    # Who has little patience may make a call once more where the machine is slow.
    assert min(struck.values()) == min(patient)
    return patient.pop()


@pytest.mark.parametrize("name", KINDS)
def test_request_has_its_effect_once_or_fails_cleanly(
    name: str, redis_url: str, redis_client: redis.Redis
) -> None:
    assert try_every_fault(KINDS[name], redis_client) > 0


def test_session_of_another_library_moves_once_or_fails_cleanly(
    psr: Any, redis_client: redis.Redis
) -> None:
    old: dict[str, tuple[str, dict[bytes, bytes]]] = {}

    def start(user: Browser) -> str:
        cookie, stored = old[user.factory.settings.prefix]
        for key, value in stored.items():
            redis_client.set(key, value, ex=1200)
        return cookie

    for fault in FAULTS:
        for retries in (0, 1):
            redis_client.flushdb()
            one = psr()
            one.do(f"session.update({VALUES!r})")
            stored = {key: redis_client.get(key) for key in redis_client.scan_iter()}
            old[f"{fault}{retries}:"] = (str(one.cookie), stored)
    settings = {"secret": OLD_SECRET, "migrate_from": "pyramid_session_redis"}
    assert try_every_fault(Kind(look, START, START, start, settings), redis_client) > 2
