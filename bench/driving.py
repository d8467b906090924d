"""Sends requests to a WSGI application: no HTTP server, no test library in between."""

from __future__ import annotations

import io
import time
from typing import Any

from .contenders import Contender, make_app
from .scenarios import FIRST_WRITE, Scenario

__all__ = ["Browsers", "Lane", "make_lanes"]

#: What a contender without sessions is sent: of the length of a real cookie.
NO_SESSIONS_COOKIE = "session=" + "x" * 130


class Browsers:
    """A pool of browsers, each with a session of its own, that take turns.

    Sessions are visited in turn and not one of them again and again, because
    ``pyramid_session_redis`` writes a session on a read only if a second has passed since the
    last write: a loop over one session would leave out its usual work.
    """

    def __init__(self, cookies: list[str]) -> None:
        self._cookies = cookies
        self._turn = -1

    def next_cookie(self) -> str:
        self._turn = (self._turn + 1) % len(self._cookies)
        return self._cookies[self._turn]

    def add(self, cookies: list[str]) -> None:
        self._cookies += cookies

    def __len__(self) -> int:
        return len(self._cookies)

    def keep(self, cookie: str) -> None:
        """Replace the cookie of the browser whose turn it is."""
        self._cookies[self._turn] = cookie


class Lane:
    """One contender in one scenario."""

    def __init__(self, contender: Contender, app: Any, scenario: Scenario, browsers: int) -> None:
        self.contender = contender
        self.scenario = scenario
        self._app = app
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._browsers: Browsers | None = None
        if scenario.cookie:
            self._browsers = Browsers([self.new_cookie() for _ in range(browsers)])

    def grow(self, browsers: int) -> None:
        """Let at least so many sessions take turns."""
        if self._browsers is not None:
            missing = browsers - len(self._browsers)
            self._browsers.add([self.new_cookie() for _ in range(missing)])

    def run(self, requests: int) -> list[float]:
        """Send requests, and return the seconds that the application took for each."""
        seconds = []
        app, browsers, clock = self._app, self._browsers, time.perf_counter
        for _ in range(requests):
            cookie = None if browsers is None else browsers.next_cookie()
            environ = _environ(self.scenario.path, cookie)
            start = clock()
            for _chunk in app(environ, self._start_response):
                pass
            seconds.append(clock() - start)
            self._check()
            new_cookie = self._set_cookie()
            if browsers is not None and new_cookie is not None:
                browsers.keep(new_cookie)
        return seconds

    def _start_response(self, status: str, headers: Any, exc_info: Any = None) -> None:
        self._status = status
        self._headers = headers

    def _check(self) -> None:
        if not self._status.startswith("200"):
            raise RuntimeError(
                f"{self.contender.name}, {self.scenario.name}: status {self._status}"
            )

    def _set_cookie(self) -> str | None:
        for name, value in self._headers:
            if name.lower() == "set-cookie":
                return value.partition(";")[0]
        return None

    def new_cookie(self) -> str:
        """Store a session, and return its cookie."""
        if not self.contender.has_sessions:
            return NO_SESSIONS_COOKIE
        for _chunk in self._app(_environ(FIRST_WRITE.path, None), self._start_response):
            pass
        self._check()
        cookie = self._set_cookie()
        if cookie is None:
            raise RuntimeError(f"{self.contender.name}: the first write sets no cookie")
        return cookie


def make_lanes(
    contender: Contender,
    url: str,
    contents: dict[str, Any],
    scenarios: tuple[Scenario, ...],
    browsers: int,
) -> list[Lane]:
    """Make an application, or several with settings of their own, and the lanes of a contender.

    There is one for every scenario that it covers.
    """
    apps: dict[Any, Any] = {}
    lanes = []
    for scenario in scenarios:
        if contender.covers(scenario):
            if scenario.options not in apps:
                apps[scenario.options] = make_app(contender, url, contents, dict(scenario.options))
            lanes.append(Lane(contender, apps[scenario.options], scenario, browsers))
    return lanes


def _environ(path: str, cookie: str | None) -> dict[str, Any]:
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "text/html,application/xhtml+xml,*/*;q=0.8",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if cookie is not None:
        environ["HTTP_COOKIE"] = cookie
    return environ
