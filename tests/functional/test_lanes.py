"""What Redis remembers of saves: only those of which a copy may still be on its way.

Who saves has a lane for itself as long as it takes; its next user tells that the save is over.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import StoreError
from pyramid_redis_lua_sessions.engine import calls
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, make_browser


def lanes(client: redis.Redis, browser: Browser) -> list[bytes]:
    """The lanes of the saves that are remembered, the newest first."""
    saves: Any = client.hget(browser.key, "saves") or b"\0"
    return [saves[place : place + 3] for place in range(1, len(saves), 7)]


def lose_reply_of_save(proxy: CountingProxy, browser: Browser) -> None:
    """Save once more, and lose the first reply to that."""

    def lose(session: Any) -> None:
        session["n"] = 2
        proxy.lose_replies(1)

    browser.use(lose)


def write(browser: Browser, value: int) -> None:
    browser.use(lambda session: session.__setitem__("n", value))


@pytest.fixture(autouse=True)
def no_lanes() -> None:
    calls.LANES.clear()


def test_saves_one_after_another_leave_one_mark(proxy: CountingProxy, redis_client: Any) -> None:
    browser = make_browser(proxy.url)
    for value in range(12):
        write(browser, value)
        browser.use(lambda session: session.regenerate_id())
    assert len(lanes(redis_client, browser)) == 1


def test_saves_at_a_time_have_lanes_of_their_own(proxy: CountingProxy, redis_client: Any) -> None:
    browser = make_browser(proxy.url)
    write(browser, 0)
    together = Barrier(6)

    def visit(number: int) -> None:
        def act(session: Any) -> None:
            session[f"k{number}"] = 1
            together.wait(20)

        browser.copy().use(act)

    for _ in range(3):
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(visit, range(6)))
    held = lanes(redis_client, browser)
    assert len(held) == len({*held}) <= 6 == len({*calls.LANES})


def test_save_that_was_repeated_stays_remembered(proxy: CountingProxy, redis_client: Any) -> None:
    browser = make_browser(proxy.url)
    write(browser, 0)
    write(browser, 1)
    (lane,) = lanes(redis_client, browser)
    lose_reply_of_save(proxy, browser)
    assert lanes(redis_client, browser) == [lane]
    assert calls.LANES == []
    write(browser, 3)
    newest, *older = lanes(redis_client, browser)
    assert newest != lane
    assert older == [lane]
    assert browser.use(dict) == {"n": 3}


def test_save_that_was_given_up_stays_remembered(proxy: CountingProxy, redis_client: Any) -> None:
    browser = make_browser(proxy.url, redis_retries="0")
    write(browser, 0)
    write(browser, 1)
    (lane,) = lanes(redis_client, browser)
    with pytest.raises(StoreError):
        lose_reply_of_save(proxy, browser)
    write(browser, 3)
    assert lanes(redis_client, browser)[1:] == [lane]


def test_own_client_may_repeat_unseen(proxy: CountingProxy, redis_client: Any) -> None:
    own = redis.Redis.from_url(proxy.url)
    browser = make_browser(proxy.url, redis_client_callable=lambda request, **options: own)
    for value in range(4):
        write(browser, value)
    assert len(lanes(redis_client, browser)) == 3
    own.close()


def test_process_that_was_forked_off_has_lanes_of_its_own(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    write(browser, 0)
    write(browser, 1)
    assert len(calls.LANES) == 1
    child = os.fork()
    if child == 0:
        os._exit(len(calls.LANES))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(calls.LANES) == 1


def test_no_two_calls_that_may_be_remembered_at_a_time_have_the_same_name() -> None:
    names = [calls.take_lane()]
    for _ in range(255):
        calls.LANES.append(names[-1])
        names.append(calls.take_lane())
    assert len({name[:3] for name in names}) == 1
    assert len({name[3] for name in names}) == 256


def test_a_process_that_goes_on_twice_names_its_calls_apart() -> None:
    last = calls.take_lane()
    names = set()
    for _ in range(8):
        calls.LANES.append(last)
        names.add(calls.take_lane())
    assert len(names) > 1
