"""A pytest plugin: the tests' applications log in to Redis as the user of docs/redis-user.rst.

``pytest -p tests.support.least_privilege tests/functional``. The tests themselves look into
Redis as its default user, as ever.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer

USER = "sessions"
PASSWORD = "a-password-of-the-tests"

PAGE = Path(__file__).resolve().parents[2] / "docs" / "redis-user.rst"


def rule() -> list[str]:
    """The arguments of ACL SETUSER that the page shows, with a password of the tests."""
    found = re.findall(r"^    ACL SETUSER ((?:.+\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(found) == 1, "the page shows one rule"
    words: list[str] = found[0].split()
    assert words[0] == USER
    return [f">{PASSWORD}" if word.startswith(">") else word for word in words]


def add_user(server: RedisServer, patterns: list[str] | None = None) -> None:
    """Add the user to a server.

    :param patterns: key patterns instead of the page's.
    """
    words = rule()
    if patterns is not None:
        words = [word for word in words if not word.startswith("~")] + patterns
    with server.client() as client:
        try:  # as the page says for servers that know the command
            client.execute_command("ACL", "SETUSER", *words, "+hpexpireat")
        except redis.ResponseError:
            client.execute_command("ACL", "SETUSER", *words)


def with_user(url: str) -> str:
    """Put the user into a URL that has none."""
    return url.replace("://", f"://{USER}:{PASSWORD}@", 1)


def pytest_configure(config: pytest.Config) -> None:
    start = RedisServer.start

    def start_with_user(server: RedisServer) -> RedisServer:
        start(server)
        if "requirepass" not in server.config:
            add_user(server)
        return server

    def authenticated(kind: Any, name: str) -> None:
        plain = getattr(kind, name)

        def url(self: Any) -> str:
            found: str = plain.fget(self)
            return found if "@" in found else with_user(found)

        setattr(kind, name, property(url))

    RedisServer.start = start_with_user  # type: ignore[method-assign]
    authenticated(RedisServer, "url")
    authenticated(RedisServer, "unix_url")
    authenticated(CountingProxy, "url")
