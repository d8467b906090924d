"""Shows what the session engine asked of Redis, for this very request and those before it.

A session is saved after its page was rendered. So these parts of a page are
filled in last of all, when the request is over.
"""

from __future__ import annotations

import itertools
import secrets
import statistics
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pyramid.renderers import render
from pyramid.response import Response
from pyramid.view import view_config

from pyramid_redis_lua_sessions.device_page import ROUTE
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.watch import Call, watch

#: The log does not use the session, so as not to change what it shows.
COOKIE = "demo_log"
MOST_VISITORS = 100
MOST_ENTRIES = 60
MOST_SHOWN = 6

#: Routes whose requests are logged.
SHOWN = {
    *("home", "cart", "flash", "timeout", "race", "race_one"),
    *("login", "logout", "label", "elsewhere", "payment", "confirm", ROUTE),
}

#: Where a page wants the late parts.
SESSION_PART = "<!-- session -->"
LOG_PART = "<!-- log -->"

#: Ends the name of requests that are sent many times at once.
ALIKE = "/…"

#: The few commands that the engine sends without a script.
COMMANDS = {
    "zrange": "read the list of one user's sessions",
    "zrem": "take sessions off the list of one user",
}

#: What each step does, as the script itself says in its first line.
PURPOSES = {
    name: script.source.splitlines()[1].removeprefix(f"{name}: ").removesuffix(".")
    for name, script in SCRIPTS.items()
} | COMMANDS


class Entry(NamedTuple):
    """One request; or several that are alike and came one after the other.

    The figures are the medians, so that they compare with those of any other request.

    :ivar requests: the calls of each.
    """

    what: str
    requests: tuple[tuple[Call, ...], ...]

    @property
    def count(self) -> int:
        return len(self.requests)

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(call for calls in self.requests for call in calls)

    @property
    def scripts(self) -> str:
        """What was called how often."""
        counted = Counter(name for call in self.calls for name in call.names)
        return ", ".join(
            f"{number} \N{MULTIPLICATION SIGN} {name}" for name, number in counted.items()
        )

    @property
    def round_trips(self) -> int:
        return self._median(lambda call: call.round_trips)

    @property
    def microseconds(self) -> int:
        return self._median(lambda call: call.microseconds)

    @property
    def bytes_sent(self) -> int:
        return self._median(lambda call: call.bytes_sent)

    @property
    def bytes_received(self) -> int:
        return self._median(lambda call: call.bytes_received)

    def _median(self, figure: Callable[[Call], int]) -> int:
        return round(statistics.median(sum(map(figure, calls)) for calls in self.requests))


class Step(NamedTuple):
    """One thing that a call asked for, once or several times in a row."""

    name: str
    status: str
    count: int
    purpose: str


def steps(call: Call) -> list[Step]:
    pairs = itertools.groupby(zip(call.names, call.statuses, strict=True))
    return [
        Step(name, status, sum(1 for _ in alike), PURPOSES.get(name, ""))
        for (name, status), alike in pairs
    ]


class EngineLog:
    """The latest requests of the latest visitors, in this process's memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visitors: OrderedDict[str, deque[Entry]] = OrderedDict()

    def knows(self, visitor: str | None) -> bool:
        return visitor in self._visitors

    def add(self, visitor: str, entry: Entry) -> None:
        with self._lock:
            entries = self._visitors.setdefault(visitor, deque(maxlen=MOST_ENTRIES))
            entries.appendleft(entry)
            self._visitors.move_to_end(visitor)
            if len(self._visitors) > MOST_VISITORS:
                self._visitors.popitem(last=False)

    def latest(self, visitor: str | None) -> list[Entry]:
        """Return a visitor's requests, newest first; like ones together."""
        with self._lock:
            entries = list(self._visitors.get(visitor or "", ()))
        return [*together(entries)][:MOST_SHOWN]


def together(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Join what was sent many times at once."""
    for what, alike in itertools.groupby(entries, lambda entry: entry.what):
        if what.endswith(ALIKE):
            yield Entry(what, tuple(calls for entry in alike for calls in entry.requests))
        else:
            yield from alike


def log_tween_factory(handler: Callable[[Any], Any], registry: Any) -> Callable[[Any], Any]:
    registry.engine_log = log = EngineLog()

    def log_tween(request: Any) -> Any:
        calls = watch(request)
        visitor = request.cookies.get(COOKIE)
        is_new = not log.knows(visitor)
        request.visitor = visitor = secrets.token_hex(16) if is_new else visitor
        response = handler(request)
        what = name_of(request)
        if what is None:
            return response
        if is_new:
            response.set_cookie(COOKIE, visitor, httponly=True, samesite="Lax")

        def finish(request: Any) -> None:
            log.add(visitor, Entry(what, (tuple(calls),)))
            if SESSION_PART in response.text:
                fill_in(request, response)

        request.add_finished_callback(finish)
        return response

    return log_tween


def name_of(request: Any) -> str | None:
    """Name a request for the log; ``None``: it is not for it."""
    route = getattr(request, "matched_route", None)
    if route is None or route.name not in SHOWN:
        return None
    if route.name == "race" and request.method == "GET":
        return None  # or else a look at the result would stand before the race
    if request.matchdict.get("engine") == "predecessor":
        return None
    if route.name == "race_one":
        return f"{request.method} {request.path.rpartition('/')[0]}{ALIKE}"
    return f"{request.method} {request.path}"


def fill_in(request: Any, response: Any) -> None:
    """Put in what is known only now that the session is saved."""
    session = request.session
    facts = {
        "fingerprint": None if session.session_id is None else fingerprint(session.session_id),
        "created": time.strftime("%H:%M:%S", time.localtime(session.created)),
        "timeout": session.timeout,
        "left": None if session.expires is None else max(0, int(session.expires - time.time())),
        "keys": len(session),
    }
    parts = {
        SESSION_PART: render("demo:templates/session.jinja2", facts, request),
        LOG_PART: render_log(request),
    }
    text = response.text
    for place, part in parts.items():
        text = text.replace(place, part)
    response.text = text


def render_log(request: Any, later: bool = False) -> str:
    """:param later: it is not for the page of the latest request."""
    entries = request.registry.engine_log.latest(request.visitor)
    values = {"entries": entries, "steps": steps, "later": later}
    return str(render("demo:templates/log.jinja2", values, request))


@view_config(route_name="log", request_method="GET")
def show_log(request: Any) -> Response:
    """Return the log alone. This request does not look at the session, so it costs it nothing."""
    return Response(render_log(request, later=True), cache_control="no-store")
