"""Overlap whole requests of a real application, one step at a time.

The view of every request is driven from the test. Each request runs in a thread of its own
through the whole application: router, tweens, exception views, callbacks. It stops inside its
view, does there what the test tells it, and goes on when the test lets it. Only one thread
runs at a time, so each interleaving is exact and repeatable::

    slow = overlap.begin(cookie)
    assert slow.do(lambda session: session["n"]) == 1   # loaded
    overlap.run(cookie, lambda session: session.invalidate())
    response = slow.finish()                             # its save comes too late
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_redis_lua_sessions.engine.tokens import Token

from .application import SECRET, SetCookie, cookie_policy, set_cookies

#: Longest time that a step may take before the test is called stuck, seconds.
STUCK = 30.0

_DRIVER = "tests.overlap"


class Answer(NamedTuple):
    """What came of a request.

    :ivar status: HTTP status.
    :ivar cookies: what the response does to the session cookie.
    """

    status: int
    cookies: list[SetCookie]
    response: Any

    @property
    def cookie(self) -> str | None:
        """The ``Cookie`` header that the response gave the browser, if any."""
        given = [cookie for cookie in self.cookies if not cookie.deletes]
        return f"session={given[-1].value}" if given else None

    @property
    def deletes(self) -> bool:
        return any(cookie.deletes for cookie in self.cookies)


def answer_of(response: Any) -> Answer:
    return Answer(response.status_int, set_cookies(response), response)


def token_of(cookie: str | None) -> Token:
    """Return the token in a ``Cookie`` header."""
    assert cookie is not None
    tickets, _ = cookie_policy().read(cookie)
    assert len(tickets) == 1
    return tickets[0].token


def id_in(cookie: str | None) -> str:
    """Return the session id in a ``Cookie`` header: the locator."""
    return token_of(cookie).locator


class Overlap:
    """An application whose requests overlap as the test says; a context manager.

    :param configure: called with the configurator, last.
    :param settings: settings with their full names.
    :param options: settings of the sessions, without their prefix.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        configure: Callable[[Configurator], None] | None = None,
        settings: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        options = {
            "secret": SECRET,
            "url": redis_url,
            "func_invalid_logger": _note_problem,
            **options,
        }
        full = {f"redis.sessions.{name}": value for name, value in options.items()}
        config = Configurator(settings={**full, **(settings or {})})
        config.include("pyramid_redis_lua_sessions")
        config.add_route("view", "/")
        config.add_view(_driven_view, route_name="view")
        if configure is not None:
            configure(config)
        self.app = config.make_wsgi_app()
        self.registry = config.registry
        self._threads = ThreadPoolExecutor(max_workers=128, thread_name_prefix="request")
        self._open: list[Driven] = []

    def __enter__(self) -> Overlap:
        return self

    def __exit__(self, *error: object) -> None:
        self.abandon()
        self._threads.shutdown()

    def abandon(self) -> None:
        """End every request that is still in its view."""
        for driven in self._open:
            driven.abandon()
        self._open.clear()

    def begin(self, cookie: str | None = None) -> Driven:
        """Start a request; it waits at the start of its view, where nothing is loaded yet."""
        self._open = [driven for driven in self._open if driven.in_view]
        driven = Driven(self._threads, self.app, cookie)
        self._open.append(driven)
        return driven

    def run(
        self, cookie: str | None = None, *steps: Callable[[Any], Any], error: Any = None
    ) -> Answer:
        """Run a whole request.

        :param steps: called with the session, one after the other.
        :param error: raised by the view at its end.
        """
        driven = self.begin(cookie)
        for step in steps:
            driven.do(step)
        return driven.finish(error)

    def read(self, cookie: str | None) -> dict[Any, Any]:
        """Return what a request with this cookie finds in its session."""
        driven = self.begin(cookie)
        found: dict[Any, Any] = driven.do(dict)
        driven.finish()
        return found

    def together(self, contenders: list[Driven]) -> list[Answer]:
        """Let the views of all these requests return at once: their saves race."""
        start = threading.Barrier(len(contenders))
        for driven in contenders:
            driven.at_return = start.wait
        for driven in contenders:
            driven.let_return()
        return [driven.answer() for driven in contenders]


class Driven:
    """One request under the test's control."""

    def __init__(self, threads: ThreadPoolExecutor, app: Any, cookie: str | None) -> None:
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: Called in the request's thread when the view returns.
        self.at_return: Callable[[], object] = int
        #: How many times the view was entered; more than once where the request is repeated.
        self.attempts = 0
        #: What the engine reported while it served this request.
        self.problems: list[Any] = []
        #: Whether the request waits in its view.
        self.in_view = False
        self._answer: Answer | None = None
        self._abandoned = False
        environ = Request.blank("/").environ
        environ[_DRIVER] = self
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        threads.submit(self._run, app, environ)
        self._listen()

    # -- the test's side -----------------------------------------------------------

    def do(self, step: Callable[[Any], Any]) -> Any:
        """Call ``step(request.session)`` inside the view; return or raise what it does."""
        return self.do_request(lambda request: step(request.session))

    def do_request(self, step: Callable[[Any], Any]) -> Any:
        """Call ``step(request)`` inside the view; return or raise what it does."""
        assert self.in_view, "the view has returned"
        self._orders.put(("do", step))
        kind, value = self._news.get(timeout=STUCK)
        if kind == "raised":
            raise value
        return value

    def let_return(self, error: Any = None) -> None:
        """Let the view return, or raise; do not wait for what comes of it."""
        assert self.in_view, "the view has returned"
        self.in_view = False
        self._orders.put(("return", error))

    def answer(self) -> Answer:
        """Wait for the response.

        :raises AssertionError: the view was entered again instead: the request is repeated.
        :raises Exception: what came out of the application unhandled.
        """
        if self._answer is None:
            self._listen()
        assert self._answer is not None, "the request is repeated"
        return self._answer

    def finish(self, error: Any = None) -> Answer:
        """Let the view return, or raise ``error``, and wait for the response."""
        self.let_return(error)
        return self.answer()

    def finish_attempt(self) -> bool:
        """Let the view return, and tell whether the request is repeated: in its view again."""
        self.let_return()
        self._listen()
        return self.in_view

    def abandon(self) -> None:
        while self.in_view:
            self._abandoned = True
            self.let_return(_Abandoned())
            try:
                self._listen()
            except _Abandoned:
                pass

    def _listen(self) -> None:
        kind, value = self._news.get(timeout=STUCK)
        if kind == "entered":
            self.in_view = True
        elif kind == "raised":
            raise value
        else:
            self._answer = value

    # -- the request's side ----------------------------------------------------------

    def _run(self, app: Any, environ: dict[str, Any]) -> None:
        try:
            response = Request(environ).get_response(app)
        except BaseException as exc:
            self._news.put(("raised", exc))
        else:
            self._news.put(("response", answer_of(response)))

    def obey(self, request: Any) -> Response:
        self.attempts += 1
        self._news.put(("entered", None))
        while True:
            order, value = self._orders.get()
            if order == "return":
                break
            try:
                news = "done", value(request)
            except BaseException as exc:
                news = "raised", exc
            self._news.put(news)
        if value is not None:
            raise value
        self.at_return()
        return Response("done")


class _Abandoned(BaseException):
    """Ends a request that the test has left in its view."""


def _driven_view(request: Any) -> Response:
    driven: Driven = request.environ[_DRIVER]
    return driven.obey(request)


def _note_problem(request: Any, problem: Any) -> None:
    driven: Driven = request.environ[_DRIVER]
    driven.problems.append(problem)


# -- applications, and steps of their requests ------------------------------------------

#: What the fixture ``start`` gives: it makes an application, as :class:`Overlap` does.
Start = Callable[..., Overlap]


def put(key: Any, value: Any) -> Callable[[Any], None]:
    """A step that assigns a value."""
    return lambda session: session.__setitem__(key, value)


def take(key: Any) -> Callable[[Any], None]:
    """A step that deletes a value."""
    return lambda session: session.__delitem__(key)


def look(key: Any) -> Callable[[Any], Any]:
    """A step that reads a value."""
    return lambda session: session.get(key)


def session_with(overlap: Overlap, *steps: Callable[[Any], Any]) -> str:
    """Make a session, and return its cookie."""
    cookie = overlap.run(None, *steps).cookie
    assert cookie is not None
    return cookie


def loaded(overlap: Overlap, cookie: str) -> Driven:
    """Begin a request, and have it load the session."""
    driven = overlap.begin(cookie)
    driven.do(lambda session: session.session_id)
    return driven
