"""What a measured request does with its session.

A scenario names a view; each contender has its own way to log in, the rest is one code for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyramid_redis_lua_sessions.engine.fields import CSRF_KEY

__all__ = [
    "FIRST_TOKEN",
    "FIRST_WRITE",
    "LOGIN",
    "READ",
    "READ_IN_WINDOW",
    "SCENARIOS",
    "WRITE",
    "Scenario",
    "View",
]

#: ``(session, contents, login)``: what the view does; ``login`` is the contender's.
View = Callable[[Any, dict[str, Any], Callable[[Any, int], None]], None]

#: All of as many digits: so what a request sends does not depend on how many came before.
_numbers = itertools.count(1_000_000)


@dataclass(frozen=True)
class Scenario:
    """One kind of request.

    :ivar name: as the report prints it.
    :ivar view: what it does with the session.
    :ivar cookie: whether it carries the cookie of a session that lives.
    :ivar options: settings of the sessions without their prefix, where they are not the
        defaults. Both libraries know them by the same names.
    """

    name: str
    view: View
    cookie: bool
    options: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        return "/" + self.name.replace(" ", "-")


def _no_cookie(session: Any, contents: Any, login: Any) -> None:
    if session.get("user_id") is not None:
        raise AssertionError("there was no cookie, but there is a session")


def _read(session: Any, contents: Any, login: Any) -> None:
    # A missing key is a KeyError, which ends the benchmark: so a session that was lost on the
    # way cannot pass for a fast one.
    session["user_id"], session[CSRF_KEY]


def _first_write(session: Any, contents: dict[str, Any], login: Any) -> None:
    for key, value in contents.items():
        session[key] = value


def _first_token(session: Any, contents: Any, login: Any) -> None:
    session.get_csrf_token()


def _write(session: Any, contents: Any, login: Any) -> None:
    session["seen"] = next(_numbers)


def _login(session: Any, contents: Any, login: Callable[[Any, int], None]) -> None:
    session["name"]
    login(session, next(_numbers))


READ = Scenario("read", _read, cookie=True)
#: The session's last refresh lies so little back that nothing needs to be written.
READ_IN_WINDOW = Scenario(
    "read in trigger window", _read, cookie=True, options=(("timeout_trigger", "900"),)
)
FIRST_WRITE = Scenario("first write", _first_write, cookie=False)

FIRST_TOKEN = Scenario("first token", _first_token, cookie=False)
WRITE = Scenario("write one key", _write, cookie=True)
LOGIN = Scenario("login", _login, cookie=True)

SCENARIOS = (
    Scenario("no cookie", _no_cookie, cookie=False),
    READ,
    READ_IN_WINDOW,
    FIRST_WRITE,
    FIRST_TOKEN,
    WRITE,
    LOGIN,
)
