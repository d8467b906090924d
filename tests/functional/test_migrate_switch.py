"""An application with live users is switched over from its old library, by its include line."""

from collections.abc import Iterator

import pytest

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.predecessors import LIBRARIES, Server, User


@pytest.fixture
def ours() -> Iterator[list[Server]]:
    """The servers of the new library that a test started."""
    started: list[Server] = []
    yield started
    for server in started:
        server.stop()


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name != "ours"])
def test_every_user_is_still_logged_in_with_all_data(
    name: str, ours: list[Server], redis_server: RedisServer, redis_client: object
) -> None:
    with Server(name) as before:
        users = [before.user(redis_server.port, prefix="shop:") for _ in range(25)]
        tokens = []
        for number, user in enumerate(users):
            tokens.append(
                user.do(
                    f"session['user'] = 'user {number}'\n"
                    f"session['cart'] = {{'item': {number}, 'more': [1, {{2}}]}}\n"
                    f"session.flash('welcome {number}')\n"
                    f"session[{number}] = 'an int key'\n"
                    "result = session.get_csrf_token()"
                )
            )
        assert users[0].do("result = session['user']") == "user 0"

    # The old process has ended. The new one gets the same settings and the same cookies.
    ours.append(Server("ours"))
    library = LIBRARIES[name][0]
    for number, old in enumerate(users):
        user = ours[0].user(
            redis_server.port, old.cookie, prefix="shop:", migrate_from=library, timeout=1200
        )
        assert seen_by(user) == {
            "user": f"user {number}",
            "cart": {"item": number, "more": [1, {2}]},
            number: "an int key",
            "_csrft_": tokens[number],
        }
        assert user.cookie != old.cookie
        assert user.do("result = session.pop_flash()") == [f"welcome {number}"]
        user.do("session['user'] += ', here again'")
        assert seen_by(user)["user"] == f"user {number}, here again"
        user.do("session.invalidate()")
        assert user.cookie == ""
        again = ours[0].user(redis_server.port, old.cookie, migrate_from=library, prefix="shop:")
        assert seen_by(again) == {}


def seen_by(user: User) -> dict[object, object]:
    seen: dict[object, object] = user.do("result = dict(session.items())")
    return seen
