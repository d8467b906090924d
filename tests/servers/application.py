"""The application that the servers of these tests serve; ``REDIS_URL`` names its Redis."""

from __future__ import annotations

import os
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response

#: So that the connections of these tests can be counted.
CLIENT_NAME = "tests-of-servers"

CONNECTIONS = 50


def visit(request: Any) -> Response:
    """Count the visits of a user who has given a name."""
    session = request.session
    session.setdefault("name", request.params["name"])
    session["visits"] = session.get("visits", 0) + 1
    return Response(f"{session['name']} {session['visits']} {os.getpid()}")


def make() -> Any:
    settings = {
        "redis.sessions.secret": "a secret of the tests, more than 32 bytes long",
        "redis.sessions.url": f"{os.environ['REDIS_URL']}?client_name={CLIENT_NAME}",
        "redis.sessions.redis_max_connections": CONNECTIONS,
        "redis.sessions.redis_socket_timeout": 20,
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        config.add_route("visit", "/")
        config.add_view(visit, route_name="visit")
    return config.make_wsgi_app()


if "REDIS_URL" in os.environ:
    application = make()
