"""The logger's name and levels, and the recipe of docs/logs.rst."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import Browser, make_browser

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "logs.rst").read_text("utf-8")
NAME = "pyramid_redis_lua_sessions"


def forged(user: Browser, client: redis.Redis) -> None:
    user.app.set_cookie("session", "forged")
    user.use(dict)


def stale(user: Browser, client: redis.Redis) -> None:
    user.use(lambda session: session.update(a=1))
    client.delete(user.key)
    user.use(dict)


def corrupt(user: Browser, client: redis.Redis) -> None:
    user.use(lambda session: session.update(a=1))
    client.hset(user.key, ".a", "x")
    user.use(dict)


def overtaken(user: Browser, client: redis.Redis) -> None:
    user.use(lambda session: session.update(a=1))

    def late(session: Any) -> None:
        session["a"] = 2
        user.copy().use(lambda other: other.invalidate())

    user.use(late)


@pytest.mark.parametrize(
    ("cause", "level", "words"),
    [
        (forged, "INFO", "no cookie of the session verifies"),
        (stale, "INFO", "no such session (session "),
        (corrupt, "WARNING", "seal broken (session "),
        (overtaken, "WARNING", "session has ended; changes dropped (session "),
    ],
)
def test_level_is_the_one_that_is_documented(
    cause: Callable[[Browser, redis.Redis], None],
    level: str,
    words: str,
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, NAME)
    cause(make_browser(redis_url), redis_client)
    (record,) = [r for r in caplog.records if r.name.partition(".")[0] == NAME]
    assert (record.name, record.levelname) == (NAME, level)
    assert record.getMessage().startswith(words)
    assert f"``{level}``" in PAGE


def test_save_that_fails_beside_another_error_is_an_error(
    new_redis_server: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis_server()
    user = make_browser(server.url, redis_retries=0)
    user.use(lambda session: session.update(a=1))

    def fails(session: Any) -> None:
        session["a"] = 2
        server.kill()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        user.use(fails)
    assert (NAME, logging.ERROR) in [(r.name, r.levelno) for r in caplog.records]


def test_every_logger_is_beneath_that_one() -> None:
    loggers = re.compile(r"logging\.getLogger\((.*)\)")
    for path in (ROOT / NAME).rglob("*.py"):
        for name in loggers.findall(path.read_text("utf-8")):
            assert name in ("__package__", '__name__.partition(".")[0]'), path


def test_recipe_puts_the_fingerprint_into_the_applications_lines(redis_url: str) -> None:
    (recipe,) = re.findall(r"\n(    import logging\n.*?)\n\S", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(re.sub("(?m)^    ", "", recipe), names)
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keeping()
    handler.setFormatter(logging.Formatter("%(session)s %(message)s"))
    handler.addFilter(names["WithSession"]())
    logger = logging.getLogger("an application of the tests")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        user = make_browser(redis_url)
        policy = names["SecurityPolicy"]()

        def view(request: Any) -> None:
            policy.identity(request)
            logger.info("bought")

        user.visit(lambda request: logger.info("untouched"))
        user.use(lambda session: setattr(session, "owner", "ada"))
        user.visit(view)
        name = user.use(lambda session: session.fingerprint)
        user.visit(lambda request: logger.info("not looked at"))
    finally:
        logger.removeHandler(handler)
    assert lines == ["- untouched", f"{name} bought", "- not looked at"]
    assert str(user.session_id) not in "".join(lines)
