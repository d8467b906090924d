"""Exceptions that reach a thread from outside, at any point of what it does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

import pyramid_redis_lua_sessions
from tests.support.browser import Browser

#: Code of which each call is a point at which the exception may come.
DIRECTORIES = tuple(module.__path__[0] for module in (redis, pyramid_redis_lua_sessions))


class DeadlineExceeded(BaseException):
    """As ``gevent.Timeout`` and the like derive from."""


def fail_at(step: int, function: Callable[[], Any]) -> bool:
    """Call a function, and let it end in a :exc:`DeadlineExceeded` at its n-th step.

    :param step: counted from 1: calls of functions of redis-py and of this package. (That is
        where Python lets signals in. A line would not do: the last one of a ``with`` is that of
        its ``__exit__``, which no signal comes before.)
    :returns: whether it came so far.
    """
    steps = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal steps
        if not frame.f_code.co_filename.startswith(DIRECTORIES):
            return None
        steps += 1
        if steps == step:
            raise DeadlineExceeded
        return None

    sys.settrace(trace)
    try:
        function()
    except DeadlineExceeded:
        pass
    finally:
        sys.settrace(None)
    return steps >= step


def fail_within(seconds: float, function: Callable[[], Any]) -> bool:
    """Call a function, and let a signal end it after a while, at most.

    :returns: whether it was ended.
    """

    def handle(number: int, frame: Any) -> None:
        raise DeadlineExceeded

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            function()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except DeadlineExceeded:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
    return False


#: What a request does that a deadline ends. The one that begins anew comes with a cookie that
#: opens nothing any more.
PAGES: dict[str, Callable[[Any], Any]] = {
    "reads": dict,
    "begins anew": lambda session: session.__setitem__("user", "c"),
    "logs out": lambda session: (session.invalidate(), session.__setitem__("more", 1)),
    "writes": lambda session: session.__setitem__("more", 1),
    "logs in": lambda session: (session.regenerate_id(), session.__setitem__("user", "c")),
}


def check_every_step(browser: Browser, page: str, stride: int = 1) -> None:
    """Let a request fail at each of its steps in turn; others must not notice.

    :param browser: of an application with two connections.
    :param stride: of so many steps take one.
    """
    others = [browser.another(), browser.another()]
    for number, user in enumerate(others):
        user.use(lambda session, number=number: session.__setitem__("name", number))
    cookies = browser.another()
    cookies.use(lambda session: session.__setitem__("name", "c"))
    if page == "begins anew":
        cookies.copy().use(lambda session: session.invalidate())
    step, came_so_far = 1, True
    while came_so_far:
        victim = cookies.copy()
        came_so_far = fail_at(step, lambda victim=victim: victim.use(PAGES[page]))
        for number, user in enumerate(others):
            assert user.use(dict) == {"name": number}, f"after step {step}"
        step += stride
    assert step > 50
    with ThreadPoolExecutor(len(others)) as threads:  # both connections can be had
        assert list(threads.map(lambda user: user.use(dict), others)) == [{"name": 0}, {"name": 1}]
