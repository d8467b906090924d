"""A request that something outside ends, at any moment: nobody meets what it has left unread."""

from __future__ import annotations

import random
import time

import pytest

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import make_browser
from tests.support.deadline import PAGES, check_every_step, fail_within

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
    start = time.monotonic()
    for number, user in enumerate(users):
        user.use(lambda session, number=number: session.__setitem__("name", number))
    typical = (time.monotonic() - start) / len(users)
    ended, wrong = 0, []
    chance = random.Random(17)
    for number in range(2000):
        name = number % len(users)
        seen = []

        def view(session, name=name, seen=seen):
            seen.append(session.get("name"))
            session["visits"] = session.get("visits", 0) + 1

        ended += fail_within(
            chance.uniform(1e-5, 2 * typical), lambda user=users[name], view=view: user.use(view)
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
