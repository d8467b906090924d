"""``python -m bench.peers``: what sessions of other frameworks cost, beside these.

Each library in its ordinary configuration, in the framework it is for, with the same session,
over redis-py and hiredis. Counted are instructions, as in :mod:`.instructions`, of which those of
the same request without a session, in the same framework, are subtracted; and round trips. What
the libraries guarantee differs: see the page.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer, find_redis_server

from . import contents
from .contenders import SECRET, NoSession, Ours, Predecessor, make_app
from .driving import Lane
from .instructions import WARM_UP, count, counting_parser, run_marked
from .measuring import A_LITTLE_MORE_THAN_A_SECOND
from .pages import as_rst
from .report import Table
from .scenarios import FIRST_WRITE, READ, WRITE, Scenario

__all__ = ["PEERS", "main", "table"]

MEASURED = (READ, WRITE, FIRST_WRITE)
SECONDS = 1200

#: Below the name of a framework, its request without a session.
FLOOR = "no session, "

#: ``(url, with sessions) -> WSGI application``
Make = Callable[[str, bool], Any]


class Peer:
    """A library in its framework, as :class:`~.driving.Lane` takes a contender.

    :ivar name: with its version; ``framework``: what it is for.
    """

    def __init__(self, name: str, framework: str, make: Make, has_sessions: bool = True) -> None:
        self.name = name
        self.framework = framework
        self.make = make
        self.has_sessions = has_sessions

    def lanes(self, url: str, browsers: int) -> list[Lane]:
        app = self.make(url, self.has_sessions)
        return [Lane(self, app, scenario, browsers) for scenario in MEASURED]  # type: ignore[arg-type]


def act(scenario: Scenario, session: Any) -> None:
    """Do in the view what the scenario says."""
    scenario.view(session, contents.typical(), _no_login)


def _no_login(session: Any, user_id: int) -> None:
    raise AssertionError("nobody logs in here")


# -- the applications ------------------------------------------------------------------


def of_contender(kind: Callable[[], Any]) -> Make:
    def make(url: str, has_sessions: bool) -> Any:
        return make_app(kind() if has_sessions else NoSession(), url, contents.typical())

    return make


def flask(url: str, has_sessions: bool) -> Any:
    import redis
    from flask import Flask, session
    from flask_session import Session

    app = Flask("peer")
    if has_sessions:
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(url))
        Session(app)
    for scenario in MEASURED:

        def view(scenario: Scenario = scenario) -> bytes:
            if has_sessions:
                act(scenario, session)
            return b"ok"

        app.add_url_rule(scenario.path, scenario.name, view)
    return app


def django(url: str, has_sessions: bool) -> Any:
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import path

    def view_of(scenario: Scenario) -> Any:
        def view(request: Any) -> Any:
            if hasattr(request, "session"):
                act(scenario, request.session)
            return HttpResponse(b"ok")

        return view

    middleware = ["django.contrib.sessions.middleware.SessionMiddleware"]
    values = {
        "SECRET_KEY": SECRET,
        "ALLOWED_HOSTS": ["*"],
        "CACHES": {
            "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
        },
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        "MIDDLEWARE": middleware if has_sessions else [],
        "ROOT_URLCONF": tuple(path(s.path[1:], view_of(s)) for s in MEASURED),
    }
    if settings.configured:  # the same process has measured the other one
        for name, value in values.items():
            setattr(settings, name, value)
    else:
        import django as package

        settings.configure(**values)
        package.setup()
    handler = WSGIHandler()

    def app(environ: Any, start_response: Any) -> Any:
        response = handler(environ, start_response)
        response.close()  # as servers do, which ends the request
        return response

    return app


def starlette(url: str, has_sessions: bool) -> Any:
    import redis.asyncio
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import Response
    from starlette.routing import Route
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    def route(scenario: Scenario) -> Any:
        async def view(request: Any) -> Any:
            if has_sessions:
                act(scenario, request.session)
            return Response(b"ok")

        return Route(scenario.path, view)

    middleware = []
    if has_sessions:
        store = RedisStore(connection=redis.asyncio.Redis.from_url(url))
        middleware = [
            Middleware(SessionMiddleware, store=store, lifetime=SECONDS),
            Middleware(SessionAutoloadMiddleware),
        ]
    app = Starlette(routes=[route(scenario) for scenario in MEASURED], middleware=middleware)
    return on_a_loop(app)


def on_a_loop(app: Any) -> Any:
    """Give an ASGI application the face of a WSGI one, on an event loop that stays."""
    loop = asyncio.new_event_loop()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        body = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(n.decode(), value.decode()) for n, value in message["headers"]]
                start_response(f"{message['status']} ", headers)
            else:
                body.append(message.get("body", b""))

        names = [name for name in environ if name.startswith("HTTP_")]
        headers = [(n[5:].lower().replace("_", "-").encode(), environ[n].encode()) for n in names]
        scope = {
            **{"type": "http", "method": "GET", "path": environ["PATH_INFO"], "root_path": ""},
            **{"query_string": b"", "headers": headers, "scheme": "http", "http_version": "1.1"},
        }
        loop.run_until_complete(app(scope, receive, send))
        return body

    return wsgi


def pyramid_msgpack(url: str, has_sessions: bool) -> Any:
    """Sessions after the pattern of Warehouse, PyPI's application: a signed id in the cookie, one
    value of MessagePack with a life in Redis, loaded with the request, stored if it was changed."""
    import itsdangerous
    import msgpack
    import redis
    from pyramid.config import Configurator
    from pyramid.response import Response

    client = redis.Redis.from_url(url)
    signer = itsdangerous.TimestampSigner(SECRET, salt="session")

    class Session(dict[str, Any]):
        def __init__(self, values: Any, session_id: str | None) -> None:
            super().__init__(values)
            self.session_id = session_id
            self.is_changed = False

        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            self.is_changed = True

    def load(request: Any) -> Session:
        cookie = request.cookies.get("session_id")
        if cookie:
            try:
                session_id = signer.unsign(cookie, max_age=12 * 3600).decode()
            except itsdangerous.BadSignature:
                return Session({}, None)
            stored = client.get(f"data/{session_id}")
            if stored is not None:
                return Session(msgpack.unpackb(stored, raw=False), session_id)
        return Session({}, None)

    def factory(request: Any) -> Session:
        session = load(request)
        request.add_response_callback(save)
        return session

    def save(request: Any, response: Any) -> None:
        session = request.session
        if not session.is_changed:
            return
        session.session_id = session.session_id or secrets.token_urlsafe(32)
        data = msgpack.packb(dict(session), use_bin_type=True)
        client.set(f"data/{session.session_id}", data, ex=12 * 3600)
        value = signer.sign(session.session_id).decode()
        response.set_cookie("session_id", value, max_age=12 * 3600, httponly=True, samesite="lax")

    def view_of(scenario: Scenario) -> Any:
        def view(request: Any) -> Any:
            act(scenario, request.session)
            return Response(b"ok")

        return view

    config = Configurator(settings={}, session_factory=factory)
    for scenario in MEASURED:
        config.add_route(scenario.name, scenario.path)
        config.add_view(view_of(scenario), route_name=scenario.name)
    return config.make_wsgi_app()


PEERS = (
    Peer(FLOOR + "Pyramid", "Pyramid", of_contender(NoSession), has_sessions=False),
    Peer("pyramid_redis_lua_sessions", "Pyramid", of_contender(Ours)),
    Peer(
        f"pyramid_session_redis {version('pyramid_session_redis')}",
        "Pyramid",
        of_contender(Predecessor),
    ),
    Peer("MessagePack, after Warehouse's pattern", "Pyramid", pyramid_msgpack),
    Peer(FLOOR + "Flask", "Flask", flask, has_sessions=False),
    Peer(f"Flask-Session {version('Flask-Session')}", "Flask", flask),
    Peer(FLOOR + "Django", "Django", django, has_sessions=False),
    Peer(f"Django {version('Django')}, cache sessions", "Django", django),
    Peer(FLOOR + "Starlette", "Starlette", starlette, has_sessions=False),
    Peer(f"starsessions {version('starsessions')}", "Starlette", starlette),
)


# -- measuring -------------------------------------------------------------------------


def serve(url: str, requests: int) -> list[tuple[str, str]]:
    """Send the requests of all peers, as :func:`.instructions.run_marked`."""
    lanes = ((peer.name, lane) for peer in PEERS for lane in peer.lanes(url, WARM_UP))
    return run_marked(lanes, requests)


def count_round_trips(server: str) -> dict[str, dict[str, int]]:
    """Return how often one request waits for Redis: name to scenario to count."""
    found: dict[str, dict[str, int]] = {}
    with RedisServer(server) as redis_server, CountingProxy(redis_server.port) as proxy:
        for peer in PEERS:
            if peer.has_sessions:
                lanes = peer.lanes(proxy.url, 2)
                for lane in lanes:
                    lane.run(2)  # connects
                time.sleep(A_LITTLE_MORE_THAN_A_SECOND)
                for lane in lanes:
                    proxy.reset()
                    lane.run(1)
                    found.setdefault(peer.name, {})[lane.scenario.name] = proxy.round_trips
    return found


def table(instructions: dict[str, dict[str, int]], trips: dict[str, dict[str, int]]) -> Table:
    """Show thousands of instructions above the framework's own request, and round trips in
    parentheses."""
    names = [scenario.name for scenario in MEASURED]
    rows = []
    for peer in PEERS:
        if peer.has_sessions:
            counts, floor = instructions[peer.name], instructions[FLOOR + peer.framework]
            rows.append([peer.name, peer.framework])
            for name in names:
                own = (counts[name] - floor[name]) / 1000
                rows[-1].append(f"{own:,.0f} ({trips[peer.name][name]})")
    title = "Thousands of instructions, and round trips"
    return Table("peers", title, ["library", "framework", *names], rows)


def main(argv: list[str] | None = None) -> int:
    parser = counting_parser("bench.peers", __doc__, 100)
    parser.add_argument("--page", type=Path, help="write the table to this file")
    parser.add_argument("--trips", action="store_true", help="count round trips alone, as JSON")
    options = parser.parse_args(argv)
    if options.serve:
        print(json.dumps(serve(options.serve, options.requests)))
        return 0
    server = options.server or find_redis_server()
    trips = count_round_trips(server)
    if options.trips:
        print(json.dumps(trips))
        return 0
    text = as_rst(table(count(__spec__.name, server, options.requests), trips))
    print(text)
    if options.page is not None:
        options.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
