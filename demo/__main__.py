"""Serve the demo on an embedded Redis until Ctrl-C or SIGTERM."""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import Any

import waitress.server
from webob import Request

from pyramid_redis_lua_sessions.testing import RedisServer, RedisServerError

from .app import make_app

HOST = "127.0.0.1"
USUAL_PORT = 6543

#: More than a browser has connections to one server; and each open page of somebody who is
#: logged in holds one.
THREADS = 64


def main() -> int:
    wanted = os.environ.get("PORT", "")
    if wanted and not (wanted.isdecimal() and int(wanted) < 65536):
        print(f"demo: PORT={wanted!r} is not a port", file=sys.stderr)
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        with RedisServer() as redis_server:
            app = make_app(redis_server.url)
            warm_up(app)
            server = make_server(app, wanted)
            print(f"Demo:  http://{HOST}:{server.effective_port}/  (Ctrl-C ends it)", flush=True)
            server.run()  # returns when it is interrupted
    except KeyboardInterrupt:
        pass  # during the start
    except (OSError, RedisServerError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    print("Demo:  stopped, and its Redis with it")
    return 0


def warm_up(app: Any) -> None:
    """Have the first visitor's page cost what any other costs: templates are compiled, and Redis
    is connected to."""
    Request.blank("/").get_response(app)


def make_server(app: Any, wanted: str) -> Any:
    """Listen on the wanted port; without a wish on the usual one, or else on any."""
    create = functools.partial(waitress.server.create_server, app, host=HOST, threads=THREADS)
    if wanted:
        return create(port=int(wanted))
    try:
        return create(port=USUAL_PORT)
    except OSError:
        return create(port=0)


def stop(signum: int, frame: Any) -> None:
    # A second Ctrl-C must not break off the clean end that the first one began.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
