"""Sessions that are watched, as the tests of clusters and of sentinels do it."""

from __future__ import annotations

import queue
import threading

from pyramid_redis_lua_sessions.endings import Ending, watch_ending
from pyramid_redis_lua_sessions.endings.subscriber import subscriber_of
from tests.support.browser import Browser
from tests.support.waiting import wait_until

__all__ = ["is_heard", "wait_until_nobody_listens", "watched"]


def wait_until_nobody_listens() -> None:
    wait_until(lambda: "session endings" not in [t.name for t in threading.enumerate()])


def watched(user: Browser) -> queue.Queue[Ending]:
    """Watch a user's session; return what will be told of its end."""
    told: queue.Queue[Ending] = queue.Queue()
    assert user.visit(lambda request: watch_ending(request, told.put)) is not None
    return told


def is_heard(user: Browser) -> bool:
    """Whether Redis has answered that the session is listened to."""
    channel = subscriber_of(user.factory).channel(user.factory.key_of(user.session_id or ""))
    return channel is not None and channel.due > 0.0
