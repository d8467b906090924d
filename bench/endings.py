"""How long it takes from a logout until an open connection learns of it.

    python -m bench.endings [--connections 500] [--check]

Each of so many users has a session and a stream of ``/session-endings`` open, over HTTP on the
loopback interface. They log out one after the other; then, logged in again as one owner, all at
once by ``revoke()``. The time runs from before the logout is sent until the event is read. The
server is waitress, in a process of its own, with a thread for each stream.
"""

from __future__ import annotations

import argparse
import http.client
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from waitress.server import create_server

from pyramid_redis_lua_sessions import revoke
from pyramid_redis_lua_sessions.cli.stats import percentile
from pyramid_redis_lua_sessions.testing import RedisServer

LOOPBACK = "127.0.0.1"

#: The names of the rounds, and what is asked of them: 99 percent within so many ms.
ROUNDS = ("one logout after the other", "all revoked at once")
TARGET_MS = 50.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.endings")
    parser.add_argument("--connections", type=int, default=500, metavar="N")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit status 1 if 99 %% of the logouts take more than {TARGET_MS:g} ms",
    )
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    missed = False
    if options.serve:
        serve(options.serve, options.connections)
        return 0
    with RedisServer() as redis_server, served(redis_server.url, options.connections) as port:
        for number, name in enumerate(ROUNDS):
            users = [User(port) for _ in range(options.connections)]
            took = revoked(port, users) if number else logged_out(users)
            found = sorted(1000 * seconds for seconds in took)
            ranks = ", ".join(
                f"{words} {percentile(found, rank):.1f} ms"
                for words, rank in (("median", 50), ("95 %", 95), ("99 %", 99), ("most", 100))
            )
            print(f"{len(found)} connections, {name}: {ranks}", flush=True)
            missed = missed or (not number and percentile(found, 99) > TARGET_MS)
    if missed:
        print(f"99 % of the logouts take more than {TARGET_MS:g} ms", file=sys.stderr)
    return int(missed and options.check)


class User:
    """A browser with a session and an open stream."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cookie = ""
        answer = self.get("/login")
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        name = answer.read().decode()
        self.stream = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
        path = f"/session-endings?session={name}"
        self.stream.request("GET", path, headers={"Cookie": self.cookie})
        self.socket = self.stream.sock  # which http.client lets go of
        response = self.stream.getresponse()
        # What comes next is the event.
        assert response.readline() == b"retry: 2000\n"
        assert response.readline() == b"\n"
        self.response = response
        self.connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=60)
        connection.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        return connection.getresponse()


def logged_out(users: list[User]) -> Iterator[float]:
    time.sleep(1)  # so that all are listened for
    for user in users:
        began = time.perf_counter()
        user.connection.request("GET", "/logout", headers={"Cookie": user.cookie})
        assert user.response.readline() == b"event: ended\n"
        yield time.perf_counter() - began
        user.connection.getresponse().read()
        user.stream.close()


def revoked(port: int, users: list[User]) -> list[float]:
    time.sleep(1)
    took: list[float] = []
    with selectors.DefaultSelector() as selector:
        for user in users:
            selector.register(user.socket, selectors.EVENT_READ, user)
        began = time.perf_counter()
        users[0].connection.request("GET", "/revoke")
        while len(took) < len(users):
            for ready, _ in selector.select(60):
                took.append(time.perf_counter() - began)
                selector.unregister(ready.fileobj)
    for user in users:
        assert user.response.readline() == b"event: ended\n"
        user.stream.close()
    return took


# -- the server ----------------------------------------------------------------------


@contextmanager
def served(url: str, connections: int) -> Iterator[int]:
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "bench.endings"]
    command += ["--serve", url, "--connections", str(connections)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def serve(url: str, connections: int) -> None:
    settings = {
        "redis.sessions.secret": "the secret of a benchmark, more than 32 bytes",
        "redis.sessions.url": url,
        "redis.sessions.publish_endings": True,
        "redis.sessions.owner_sessions": 10 * connections,
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        config.include("pyramid_redis_lua_sessions.endings")
        for view in (login, logout, revoke_all):
            config.add_route(view.__name__, f"/{view.__name__.partition('_')[0]}")
            config.add_view(view, route_name=view.__name__)
    options = {"connection_limit": 4 * connections + 100, "threads": connections + 20}
    server = create_server(config.make_wsgi_app(), host=LOOPBACK, port=0, **options)
    print(server.effective_port, flush=True)
    server.run()


def login(request: Any) -> Response:
    request.session.owner = "one of the benchmark"
    request.session.ensure_id()
    return Response(request.session.fingerprint)


def logout(request: Any) -> Response:
    request.session.invalidate()
    return Response("done")


def revoke_all(request: Any) -> Response:
    return Response(str(revoke(request.registry, "one of the benchmark")))


if __name__ == "__main__":
    sys.exit(main())
