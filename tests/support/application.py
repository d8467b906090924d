"""Build a small Pyramid application through the real ``includeme``, and look at what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import redis
from pyramid.config import Configurator
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions.cookies import CookiePolicy
from pyramid_redis_lua_sessions.engine.tokens import Token, draw_verifier
from pyramid_redis_lua_sessions.settings import Settings

SECRET = "a-secret-of-the-tests-with-more-than-32-bytes"

View = Callable[[Any], Any]


def make_app(
    redis_url: str,
    views: Mapping[str, View],
    *,
    settings: Mapping[str, Any] | None = None,
    configure: Callable[[Configurator], None] | None = None,
    **options: Any,
) -> TestApp:
    """Make an application whose views answer under ``/<name>``.

    :param views: a view may return a response, a text, or ``None``.
    :param settings: settings with their full names.
    :param configure: called with the configurator, last.
    :param options: settings of the sessions, without their prefix.
    """
    options = {"secret": SECRET, "url": redis_url, **options}
    full = {f"redis.sessions.{name}": value for name, value in options.items()}
    config = Configurator(settings={**full, **(settings or {})})
    config.include("pyramid_redis_lua_sessions")
    for name, view in views.items():
        config.add_route(name, "/" + name)
        config.add_view(_answering(view), route_name=name)
    if configure is not None:
        configure(config)
    return TestApp(config.make_wsgi_app())


def _answering(view: View) -> View:
    def answering(request: Any) -> Any:
        answer = view(request)
        if answer is None:
            answer = "done"
        return Response(text=answer) if isinstance(answer, str) else answer

    return answering


class SetCookie(NamedTuple):
    """A parsed ``Set-Cookie`` header; names of attributes are in lower case."""

    name: str
    value: str
    attributes: dict[str, str]

    @property
    def deletes(self) -> bool:
        return self.value == "" and self.attributes.get("max-age") == "0"


def set_cookies(response: Any, name: str = "session") -> list[SetCookie]:
    """Return what a response does to the cookies of one name."""
    found = []
    for header in response.headers.getall("Set-Cookie"):
        first, *rest = header.split("; ")
        cookie_name, _, value = first.partition("=")
        if cookie_name == name:
            pairs = (attribute.partition("=") for attribute in rest)
            attributes = {key.lower(): val for key, _, val in pairs}
            found.append(SetCookie(cookie_name, value.strip('"'), attributes))
    return found


def cookie_policy(**options: Any) -> CookiePolicy:
    """Return the engine's own cookie policy, as :func:`make_app` configures it."""
    return CookiePolicy(Settings.from_options({"secret": SECRET, **options}))


def signed_cookie(
    token: Token | str, max_age: int | None = None, name: str = "session", **options: Any
) -> str:
    """Return a ``Cookie`` header with a token, signed now.

    :param token: or a session id: then with a verifier that opens nothing.
    """
    if isinstance(token, str):
        token = Token.of(token, draw_verifier())
    policy = cookie_policy(cookie_name=name, **options)
    return policy.header_to_set(token, "http", max_age, None).partition(";")[0]


def token_in(header: str, **options: Any) -> Token | None:
    """Return the token in a ``Cookie`` header, if one of ours is there."""
    tickets, _ = cookie_policy(**options).read(header)
    return tickets[0].token if tickets else None


def session_id_in(header: str, **options: Any) -> str | None:
    """Return the session id in a ``Cookie`` header, if one of ours is there."""
    token = token_in(header, **options)
    return None if token is None else token.locator


def stored_sessions(client: Any, prefix: str = "session:") -> dict[str, dict[bytes, bytes]]:
    """Return the sessions that live in Redis: id to fields.

    Without ``saves``, by which a repeated save is recognised: an undone save leaves its id there.
    """
    found = {}
    for key in client.keys("*"):
        if client.type(key) == b"hash" and client.hexists(key, "@"):
            fields = client.hgetall(key)
            fields.pop(b"saves", None)
            found[key.decode()[len(prefix) :]] = fields
    return found


def is_compact(client: redis.Redis, key: str | bytes) -> bool:
    """Whether a hash is one piece of memory: a listpack, which Redis 6.2 calls a ziplist."""
    return client.object("encoding", key) in (b"listpack", b"ziplist")


def life_of_field(client: redis.Redis, key: str, field: str) -> int | None:
    """Return how long a field lives on, ms; -1 = as long as its key; ``None`` on a server on
    which no field has a life of its own (HPTTL came with Redis 7.4)."""
    script = "local r = redis.pcall('HPTTL', KEYS[1], 'FIELDS', 1, ARGV[1]) return not r.err and r"
    found: Any = client.eval(script, 1, key, field)
    return int(found[0]) if found else None


def data_fields(fields: Mapping[bytes, bytes]) -> set[bytes]:
    """Return the names of the fields that hold session values or messages."""
    return {field for field in fields if field[:1] in b".#~"}
