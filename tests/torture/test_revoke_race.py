"""Log out everywhere in the middle of a storm: then nothing older than the revoke is alive."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.response import Response

from pyramid_redis_lua_sessions import SessionConflict, revoke, sessions_of
from tests.support.application import stored_sessions
from tests.support.browser import Browser, make_browser, stored_values

pytestmark = pytest.mark.torture

CONTENDERS = 60
ROUNDS = int(os.environ.get("REVOKE_ROUNDS", "2"))
SEED = int(os.environ.get("REVOKE_SEED", "0")) or random.randrange(1, 10**9)


def may_carry_cookies(response: Any) -> bool:
    return "no-cookie" not in response.headers


class Storm:
    """Users of one account, on many devices and in many tabs, all at once."""

    def __init__(self, url: str, **options: Any) -> None:
        self.browser = make_browser(
            url,
            grace=0,
            owner_sessions=10_000,
            func_check_response_allow_cookies=may_carry_cookies,
            **options,
        )
        self.numbers = itertools.count()
        #: For each login: when its response had arrived.
        self.answered: dict[int, float] = {}
        self.stop = threading.Event()
        self.errors: list[BaseException] = []

    # -- what a contender may do -------------------------------------------------------

    def log_in(self, browser: Browser) -> None:
        number = next(self.numbers)

        def view(request: Any) -> None:
            request.session["login"] = number
            request.session.owner = "ada"

        browser.visit(view)
        self.answered[number] = time.monotonic()

    def regenerate(self, browser: Browser) -> None:
        browser.use(lambda session: session.regenerate_id())

    def regenerate_in_vain(self, browser: Browser) -> None:
        """The response turns out to carry no cookie when the new id is stored already."""

        def view(request: Any) -> Response:
            request.session.regenerate_id()
            request.add_response_callback(
                lambda request, response: response.headers.update({"no-cookie": "1"})
            )
            return Response("done")

        browser.visit(view)

    def write(self, browser: Browser) -> None:
        browser.use(lambda session: session.update(n=session.get("n", 0) + 1))

    def read(self, browser: Browser) -> None:
        browser.use(dict)

    def contend(self, browser: Browser, chance: random.Random) -> None:
        actions: list[Callable[[Browser], None]] = [
            self.log_in,
            self.regenerate,
            self.regenerate,
            self.regenerate_in_vain,
            self.write,
            self.read,
        ]
        while not self.stop.is_set():
            # The same tab again, another one, or now and then a new device.
            user = browser if chance.random() < 0.7 else browser.copy()
            if chance.random() < 0.05:
                user = browser.another()
            action = self.log_in if user.session_id is None else chance.choice(actions)
            try:
                action(user)
            except SessionConflict:
                pass
            except BaseException as exc:
                self.errors.append(exc)
                return
            if chance.random() < 0.3:
                browser = user
            time.sleep(chance.uniform(0, 0.05))  # a user's, so that the revoke gets its turn


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_nothing_older_than_the_revoke_is_alive_after_a_storm(
    redis_url: str, redis_client: redis.Redis, mode: str
) -> None:
    print(f"REVOKE_SEED={SEED}")
    storm = Storm(redis_url, on_conflict=mode)
    registry = storm.browser.wsgi.registry
    threads = []
    for number in range(CONTENDERS):
        browser = storm.browser.another()
        storm.log_in(browser)
        chance = random.Random(SEED + number)
        threads.append(threading.Thread(target=storm.contend, args=(browser, chance)))
    for thread in threads:
        thread.start()
    ended = 0
    last = 0.0
    chance = random.Random(SEED)
    try:
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.1, 0.4))  # lets the storm blow
            last = time.monotonic()
            ended += revoke(registry, "ada")
    finally:
        storm.stop.set()
        for thread in threads:
            thread.join()
    assert storm.errors == []
    assert ended >= CONTENDERS

    older = {number for number, when in storm.answered.items() if when < last}
    assert len(older) >= CONTENDERS
    factory = storm.browser.factory
    alive = stored_sessions(redis_client)
    logins = {name: stored_values(redis_client, factory, name).get("login") for name in alive}
    assert {name: login for name, login in logins.items() if login in older} == {}

    # And what is newer is all listed, and ends with the next one.
    owned = [name for name, fields in alive.items() if b"owner" in fields]
    assert len(sessions_of(registry, "ada")) == len(owned)
    assert revoke(registry, "ada") == len(owned)
    assert [f for f in stored_sessions(redis_client).values() if b"owner" in f] == []


@pytest.mark.parametrize("restart_lifetime", [False, True])
def test_no_session_is_alive_after_a_revoke_although_all_get_new_ids_in_a_loop(
    redis_url: str, redis_client: redis.Redis, restart_lifetime: bool
) -> None:
    storm = Storm(redis_url)
    registry = storm.browser.wsgi.registry

    def regenerate(session: Any) -> None:
        # As an old owner may be carried on only by those who have it.
        if session.owner is not None:
            session.regenerate_id(restart_lifetime=restart_lifetime)

    def contend(browser: Browser) -> None:
        try:
            while not storm.stop.is_set() and browser.session_id is not None:
                browser.use(regenerate)
        except BaseException as exc:
            storm.errors.append(exc)

    for _ in range(5 * ROUNDS):
        storm.stop.clear()
        browsers = [storm.browser.another() for _ in range(3)]
        for browser in browsers:
            storm.log_in(browser)
        threads = [threading.Thread(target=contend, args=(browser,)) for browser in browsers]
        for thread in threads:
            thread.start()
        try:
            time.sleep(random.uniform(0, 0.03))  # lets the loops get going
            revoke(registry, "ada")
        finally:
            storm.stop.set()
            for thread in threads:
                thread.join()
        assert storm.errors == []
        assert stored_sessions(redis_client) == {}


def test_every_session_ends_when_several_revoke_at_once(
    redis_url: str, redis_client: redis.Redis
) -> None:
    storm = Storm(redis_url)
    browsers = [storm.browser.another() for _ in range(CONTENDERS)]
    for browser in browsers:
        storm.log_in(browser)
    start = threading.Barrier(CONTENDERS + 8)
    counts: list[int] = []

    def regenerate(browser: Browser) -> None:
        start.wait()
        storm.regenerate(browser)

    def log_out_everywhere() -> None:
        start.wait()
        counts.append(revoke(storm.browser.wsgi.registry, "ada"))

    threads = [threading.Thread(target=regenerate, args=(browser,)) for browser in browsers]
    threads += [threading.Thread(target=log_out_everywhere) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 8
    assert stored_sessions(redis_client) == {}
