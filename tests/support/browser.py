"""Users of a real Pyramid application, driven with closures, and a look behind their backs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import ISessionFactory
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import RedisSessionFactory
from pyramid_redis_lua_sessions.engine.tokens import Token
from tests.support.stored import TOKEN, digest_in, grow_older

SECRET = "a secret of the tests, more than 32 bytes long"

View = Callable[[Any], Any]


class Browser:
    """One user of an application whose only view is whatever a test wants to run in it.

    :ivar app: the WebTest application with this user's cookies.
    :ivar response: the last response.
    """

    def __init__(self, wsgi: Any) -> None:
        self.wsgi = wsgi
        self.app = TestApp(wsgi)
        self.response: Any = None
        factory = wsgi.registry.queryUtility(ISessionFactory)
        if isinstance(factory, RedisSessionFactory):
            close_with(wsgi, factory)

    def visit(self, view: View, **options: Any) -> Any:
        """Make one request, in which ``view(request)`` runs; return what it returned.

        A response that the view returns is sent. An exception for which the application has
        no view is raised here.

        :param options: those of :meth:`webtest.TestApp.get`.
        """
        returned = []

        def run(request: Any) -> Any:
            returned.append(view(request))
            return returned[-1]

        environ = {**options.pop("extra_environ", {}), "tests.view": run}
        self.response = self.app.get("/", extra_environ=environ, **options)
        return returned[-1] if returned else None

    def use(self, function: View, **options: Any) -> Any:
        """As :meth:`visit`, but the function gets only the session."""
        return self.visit(lambda request: function(request.session), **options)

    def another(self) -> Browser:
        """Return another user, without cookies, of the same application."""
        return Browser(self.wsgi)

    def copy(self) -> Browser:
        """Return the same user with the same cookies, as one more window."""
        twin = self.another()
        for cookie in self.app.cookiejar:
            twin.app.cookiejar.set_cookie(cookie)
        return twin

    @property
    def factory(self) -> RedisSessionFactory:
        """The application's session factory."""
        factory: RedisSessionFactory = self.wsgi.registry.getUtility(ISessionFactory)
        return factory

    @property
    def token(self) -> Token | None:
        """The token in this user's cookie; asking sends nothing to Redis."""
        name = self.factory.settings.cookie_name
        value = self.app.cookies.get(name)
        tickets, _ = self.factory.cookies.read("" if value is None else f"{name}={value}")
        return tickets[0].token if tickets else None

    @property
    def session_id(self) -> str | None:
        """The session id in this user's cookie: the locator."""
        token = self.token
        return None if token is None else token.locator

    @property
    def bound(self) -> Any:
        """The protection of this user's session."""
        token = self.token
        assert token is not None
        return self.factory.sealer.bind(token.locator, token.digest)

    @property
    def key(self) -> str:
        """The Redis key of this user's session."""
        return f"{self.factory.settings.prefix}{self.session_id}"


def make_browser(
    url: str | None,
    *,
    configure: Callable[[Configurator], None] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Browser:
    """Make an application through the real ``config.include``, and a user of it.

    :param url: of Redis; ``None`` leaves it out.
    :param configure: called with the configurator, after the include.
    :param settings: further settings, with their full names.
    :param options: settings of the sessions without their prefix; ``None`` leaves one out.
    """
    given = {"secret": SECRET, "url": url, **options}
    named = {f"redis.sessions.{name}": val for name, val in given.items() if val is not None}
    config = Configurator(settings={**named, **(settings or {})})
    config.include("pyramid_redis_lua_sessions")
    add_view(config)
    if configure is not None:
        configure(config)
    return Browser(config.make_wsgi_app())


def add_view(config: Configurator) -> None:
    """Give an application the view that :class:`Browser` needs."""

    def view(request: Any) -> Any:
        returned = request.environ["tests.view"](request)
        return returned if isinstance(returned, Response) else Response("done")

    config.add_route("any", "/")
    config.add_view(view, route_name="any")


def close_with(owner: Any, factory: RedisSessionFactory) -> None:
    """Close a factory's connections when an object ends, by reference or by garbage collection.

    An application is a cycle of references: without this, its sockets may be collected unclosed.
    """
    if factory.settings.redis_client_callable is None:
        weakref.finalize(owner, factory.store_for(None).client.close)


def stored_values(client: Any, factory: RedisSessionFactory, session_id: str) -> dict[Any, Any]:
    """Return the keys and values of a session, read from Redis without a session.

    Flash messages are left out.
    """
    raw = client.hgetall(f"{factory.settings.prefix}{session_id}")
    opened = factory.sealer.bind(session_id, digest_in(raw)).open_all(raw)
    assert opened is not None, "a seal is broken"
    found: dict[Any, Any] = {}
    for field, data in opened.items():
        if field[:1] == b".":
            found[field[1:].decode("utf-8", "surrogatepass")] = factory.codec.decode(data)
        elif field[:1] == b"#":
            found[int(field[1:])] = factory.codec.decode(data)
    return found


def data_fields(client: Any, key: str) -> dict[bytes, bytes]:
    """Return the fields of a stored session that hold values and messages, as stored."""
    raw = client.hgetall(key)
    return {field: value for field, value in raw.items() if field[:1] in b".#~"}


def let_time_pass(client: Any, key: str, seconds: float) -> None:
    """Make a stored session older, as if so much time had passed since the last request.

    Lifetimes are computed from what is stored and from the server's clock, so that moving the
    stored moments into the past is the same as waiting. A session whose TTL is over vanishes.
    """
    step = round(seconds * 1000)
    for name in (b"expires", b"deadline"):
        value = client.hget(key, name)
        if value is not None:
            client.hset(key, name, b"%d" % (int(value) - step))
    if client.hexists(key, TOKEN):
        grow_older(client, key, step)
    ttl = client.pttl(key)
    if ttl >= 0:
        client.pexpire(key, max(0, ttl - step))


def take_along(browser: Browser, url: str, **options: Any) -> Browser:
    """The same user, when the application runs with other settings."""
    moved = make_browser(url, **options)
    for cookie in browser.app.cookiejar:
        moved.app.cookiejar.set_cookie(cookie)
    return moved


class Reports:
    """A ``func_invalid_logger`` that keeps what it was told."""

    def __init__(self) -> None:
        self.problems: list[Any] = []

    def __call__(self, request: Any, problem: Any) -> None:
        self.problems.append(problem)

    @property
    def kinds(self) -> list[str]:
        """Names of the problems' classes, in order."""
        return [type(problem).__name__ for problem in self.problems]
