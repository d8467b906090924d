"""The application under torture, on this engine or on the predecessor, served by waitress.

``python -m tests.torture.application ENGINE REDIS_URL [NAME=VALUE ...]`` prints the port it
listens on, and ends when its standard input does. ``NAME=VALUE`` are settings.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from pyramid.config import Configurator
from waitress.server import create_server

#: Engines by the name under which an application includes them.
OURS = "pyramid_redis_lua_sessions"
PREDECESSOR = "pyramid_session_redis"

#: Longest that a view works between reading and writing, seconds.
WORK = 0.004

#: Requests that one process serves at a time.
THREADS = 16


def make_application(engine: str, redis_url: str, settings: Mapping[str, Any]) -> Any:
    """Make the WSGI application.

    :param engine: ``OURS`` or ``PREDECESSOR``.
    :param settings: further settings, with their full names.
    """
    sessions = {
        "redis.sessions.secret": "a-secret-of-the-torture-test-with-over-32-bytes",
        "redis.sessions.redis_url": redis_url,
    }
    with Configurator(settings={**sessions, **settings}) as config:
        config.include(engine)
        if "retry.attempts" in settings:
            config.include("pyramid_retry")
        for view in (write, count, read, log_in, log_out):
            name = view.__name__
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name, renderer="json")
        return config.make_wsgi_app()


def _work() -> None:
    time.sleep(random.uniform(0, WORK))


def write(request: Any) -> Any:
    """Look at the session, work, and write one key."""
    session = request.session
    user = session.get("user")
    _work()
    session[request.params["key"]] = int(request.params["value"])
    return {"user": user}


def count(request: Any) -> Any:
    """Read the count, work, and write one more."""
    session = request.session
    number = session.get("n", 0)
    _work()
    session["n"] = number + 1
    return {}


def read(request: Any) -> Any:
    """Show what is in the session, after some work."""
    values = {str(key): request.session[key] for key in list(request.session.keys())}
    _work()
    return values


def log_in(request: Any) -> Any:
    """Log in under a new id, as each engine does it best."""
    session = request.session
    session.get("user")
    _work()
    if hasattr(session, "regenerate_id"):
        session.regenerate_id()
    else:
        session.invalidate()
    session["user"] = request.params["user"]
    return {}


def log_out(request: Any) -> Any:
    request.session.invalidate()
    return {}


def serve(application: Any) -> None:
    server = create_server(
        application, host="127.0.0.1", port=0, threads=THREADS, connection_limit=1000
    )
    print(server.effective_port, flush=True)
    server.run()


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(0)  # at once, with requests in flight


def main(argv: list[str]) -> None:
    # Refused cookies and dropped changes are what the storm is about: thousands of lines.
    logging.disable(logging.CRITICAL)
    engine, redis_url, *pairs = argv
    settings = dict(pair.split("=", 1) for pair in pairs)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    serve(make_application(engine, redis_url, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
