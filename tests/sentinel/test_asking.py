"""The sentinels are asked who the primary is, once a second, while nobody waits for it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, make_browser
from tests.support.topology import Sentinels
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def user(sentinels: Sentinels, clean: None) -> Browser:
    """A user of an application that is connected."""
    user = make_browser(sentinels.url)
    user.use(lambda session: session.__setitem__("name", "value"))
    return user


@pytest.fixture
def hanging(sentinels: Sentinels) -> Iterator[None]:
    """Sentinels that do not answer. Not for long: after two seconds they trust nobody."""
    for sentinel in sentinels.sentinels:
        sentinel.pause()
    yield
    for sentinel in sentinels.sentinels:
        sentinel.resume()


def pool_of(user: Browser) -> Any:
    return user.factory.store_for(None).client.connection_pool


def is_asking(pool: Any) -> bool:
    return bool(pool._asking[0] == os.getpid())


def let_a_second_pass(pool: Any) -> None:
    pool._asked = -math.inf


def test_sentinels_are_asked_at_most_once_a_second(user: Browser) -> None:
    pool = pool_of(user)
    let_a_second_pass(pool)
    user.use(dict)
    assert pool._asked > -math.inf
    wait_until(lambda: not is_asking(pool))
    pool._asked = math.inf
    user.use(dict)
    assert pool._asked == math.inf


def test_page_is_served_while_sentinels_hang(user: Browser, hanging: None) -> None:
    pool = pool_of(user)
    let_a_second_pass(pool)
    assert user.use(dict) == {"name": "value"}
    assert is_asking(pool)


LEAVES_WHILE_IT_ASKS = """
import math, sys
from tests.support.browser import make_browser

user = make_browser(sys.argv[1])
user.use(lambda session: session.__setitem__("name", "value"))
pool = user.factory.store_for(None).client.connection_pool
print("connected", flush=True)
input()  # the sentinels hang


class Late:
    def __del__(self):
        pool._asked = -math.inf
        pool._ask()  # in an interpreter that ends


sys.late = Late()
pool._asked = -math.inf
user.use(dict)
print(pool._asking[0])
"""


def test_interpreter_that_ends_does_not_wait(sentinels: Sentinels, clean: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES_WHILE_IT_ASKS, sentinels.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    for sentinel in sentinels.sentinels:
        sentinel.pause()
    try:
        out, _ = process.communicate("\n", timeout=20)
    finally:
        process.kill()
        for sentinel in sentinels.sentinels:
            sentinel.resume()
    assert process.returncode == 0
    assert int(out) == process.pid


def test_nothing_stays_open_after_sentinels_were_asked(sentinels: Sentinels, clean: None) -> None:
    user = make_browser(f"{sentinels.url}&sentinel_client_name=asking")

    def connections() -> int:
        lists = [sentinel.ask("CLIENT", "LIST") for sentinel in sentinels.sentinels]
        return sum(bytes(one).count(b" name=asking ") for one in lists)

    user.use(lambda session: session.__setitem__("name", "value"))
    before = connections()
    assert before
    pool = pool_of(user)
    for _ in range(3):
        let_a_second_pass(pool)
        user.use(dict)
        wait_until(lambda: not is_asking(pool))
    wait_until(lambda: connections() == before)


def test_process_that_is_forked_off_asks_on_its_own(user: Browser, hanging: None) -> None:
    """Also where it was forked off while the other one asked: its thread is missing then."""
    pool = pool_of(user)
    let_a_second_pass(pool)
    user.use(dict)
    assert is_asking(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it has threads: so it is meant
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pool.reset()
            pool.proxy.master_address = ("127.0.0.1", 1)  # as if it had connected
            let_a_second_pass(pool)
            pool._ask()
            status = 0 if is_asking(pool) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
