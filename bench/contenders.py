"""Who is compared: this engine, its predecessor, and the floors under both.

Every contender is the same Pyramid application; only its sessions differ, each in its library's
default configuration, but for what a scenario sets in both.
"""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import redis
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_redis_lua_sessions.connect.client import make_client
from pyramid_redis_lua_sessions.engine.fields import field_of
from pyramid_redis_lua_sessions.engine.protocol import NO_LIFETIME, Created
from pyramid_redis_lua_sessions.engine.seals import make_sealer
from pyramid_redis_lua_sessions.engine.serializers import make_codec
from pyramid_redis_lua_sessions.engine.store import Store
from pyramid_redis_lua_sessions.engine.tokens import Token
from pyramid_redis_lua_sessions.settings import Settings

from .scenarios import READ, SCENARIOS, Scenario

__all__ = [
    "BARE",
    "NONE",
    "OURS",
    "PREDECESSOR",
    "SMALLEST",
    "STOCK",
    "Contender",
    "all_contenders",
    "libraries",
    "make_app",
]

SECRET = "a secret of the benchmark, as long as one should be"

OURS = "lua"
PREDECESSOR = "psr 1.8.1"
NONE = "no session"
BARE = "bare GETEX"
STOCK = "bare GETEX, stock client"
SMALLEST = "smallest script"


class Contender:
    """An application whose requests are measured.

    :ivar name: as the report prints it.
    :ivar has_sessions: whether its responses set the cookie of a session.
    """

    name: str
    has_sessions = True

    def covers(self, scenario: Scenario) -> bool:
        """Tell whether the scenario makes sense for this contender."""
        return True

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        """Give the application its sessions, on the Redis at ``url``.

        :param options: settings of the sessions, without their prefix.
        """

    def login(self, session: Any, user_id: int) -> None:
        """Renew the session's id and its CSRF token, keep the rest, note the user."""
        raise NotImplementedError

    def act(self, request: Any, scenario: Scenario, contents: dict[str, Any]) -> None:
        """Do in the view what the scenario says."""
        scenario.view(request.session, contents, self.login)


class Ours(Contender):
    """This engine."""

    name = OURS

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        config.add_settings(_settings(secret=SECRET, url=url, **options))
        config.include("pyramid_redis_lua_sessions")

    def login(self, session: Any, user_id: int) -> None:
        session.regenerate_id()
        session["user_id"] = user_id


class Predecessor(Contender):
    """``pyramid_session_redis`` 1.8.1."""

    name = PREDECESSOR

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        config.add_settings(_settings(secret=SECRET, redis_url=url, **options))
        config.include("pyramid_session_redis")

    def login(self, session: Any, user_id: int) -> None:
        contents = dict(session.items())
        session.invalidate()
        session.update(contents)
        session.new_csrf_token()
        session["user_id"] = user_id


class NoSession(Contender):
    """Floor: the same request without a session. What is above it is the session's own cost."""

    name = NONE
    has_sessions = False

    def act(self, request: Any, scenario: Scenario, contents: dict[str, Any]) -> None:
        pass


class BareCall(Contender):
    """Floor: the same request without a session, whose view sends one GETEX for as many bytes,
    through a client made as the engine makes its own."""

    name = BARE
    has_sessions = False
    KEYS = 64
    SECONDS = 1200

    def covers(self, scenario: Scenario) -> bool:
        return scenario is READ

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        self._settings = Settings.from_options({"secret": SECRET, "redis_url": url})
        self._client = make_client(self._settings)
        self._call = self._client.execute_command
        self._keys: Any = None

    def act(self, request: Any, scenario: Scenario, contents: dict[str, Any]) -> None:
        if self._keys is None:
            self._store(contents)
        if not self._call("GETEX", next(self._keys), "EX", self.SECONDS):
            raise AssertionError("the key is gone")

    def _store(self, contents: dict[str, Any]) -> None:
        names = [f"bare:{number}" for number in range(self.KEYS)]
        for name in names:
            self._call("SET", name, pickle.dumps(contents))
        self._keys = itertools.cycle(names)


class StockCall(BareCall):
    """Floor: as :class:`BareCall`, through a client as redis-py makes it by itself."""

    name = STOCK

    def configure(self, config: Any, url: str, options: dict[str, str]) -> None:
        self._call = redis.Redis.from_url(url).execute_command
        self._keys = None


class SmallestScript(BareCall):
    """Floor: as :class:`BareCall`, but the view calls a script that does nothing but read and
    refresh a session that this engine has stored. What its own script adds is above it."""

    name = SMALLEST
    SCRIPT = """
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""

    def act(self, request: Any, scenario: Scenario, contents: dict[str, Any]) -> None:
        if self._keys is None:
            self._store(contents)
        if not self._call("EVALSHA", self._sha, 1, next(self._keys), self.SECONDS * 1000):
            raise AssertionError("the session is gone")

    def _store(self, contents: dict[str, Any]) -> None:
        self._sha = self._call("SCRIPT LOAD", self.SCRIPT)
        sealer, codec = make_sealer(self._settings), make_codec(self._settings)
        encoded = {field_of(key): codec.encode(value) for key, value in contents.items()}

        def sealed(token: Token) -> dict[bytes, bytes]:
            seal = sealer.bind(token.locator, token.digest).seal
            return {field: seal(field, value) for field, value in encoded.items()}

        store = Store(self._client, self._settings)
        names = []
        for _ in range(self.KEYS):
            created, _ = store.create(sealed, NO_LIFETIME)
            assert isinstance(created, Created)
            names.append(f"{self._settings.prefix}{created.token.locator}")
        self._keys = itertools.cycle(names)


def _settings(**options: str) -> dict[str, str]:
    return {f"redis.sessions.{name}": value for name, value in options.items()}


def all_contenders() -> list[Contender]:
    """Make all contenders; the floors first."""
    return [NoSession(), BareCall(), SmallestScript(), Predecessor(), Ours()]


def libraries() -> list[Contender]:
    """Make the contenders that have sessions."""
    return [contender for contender in all_contenders() if contender.has_sessions]


def make_app(
    contender: Contender, url: str, contents: dict[str, Any], options: dict[str, str] | None = None
) -> Any:
    """Make a contender's WSGI application on the Redis at ``url``.

    :param options: settings of the sessions, without their prefix.
    """
    config = Configurator(settings={})
    contender.configure(config, url, options or {})
    for scenario in SCENARIOS:
        config.add_route(scenario.name, scenario.path)
        config.add_view(_view(contender, scenario, contents), route_name=scenario.name)
    return config.make_wsgi_app()


def _view(contender: Contender, scenario: Scenario, contents: dict[str, Any]) -> Any:
    def view(request: Any) -> Response:
        contender.act(request, scenario, contents)
        return Response(b"ok")

    return view
