"""Storms of parallel requests of one session, against several processes of a real application.

``python -m tests.torture.storm`` runs every storm against this engine and against
``pyramid_session_redis``, and prints what each of them loses. The tests run the same storms
against this engine, and allow it to lose nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.torture.application import OURS, PREDECESSOR

ROOT = Path(__file__).parents[2]

#: Processes that serve the application.
PROCESSES = 4
#: Requests under way at any moment.
CLIENTS = 50
#: Longest that anything may take, seconds.
STUCK = 60.0


class Reply(NamedTuple):
    """A response.

    :ivar cookie: the ``Cookie`` header that it gives the browser; ``""`` deletes the cookie;
        ``None`` leaves it alone.
    """

    status: int
    values: dict[str, Any]
    cookie: str | None


class Fleet:
    """Processes that serve one application over one Redis; a context manager.

    :param settings: further settings of the application, with their full names.
    """

    def __init__(
        self, engine: str, redis_url: str, processes: int = PROCESSES, **settings: Any
    ) -> None:
        pairs = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
        self._command = [
            sys.executable, "-m", "tests.torture.application", engine, redis_url, *pairs,
        ]  # fmt: skip
        self._number = processes
        self._processes: list[subprocess.Popen[str]] = []
        self._connections = threading.local()
        self._all_connections: list[http.client.HTTPConnection] = []
        self._turns = itertools.count()
        # The threads stay, and with them their connections: a server takes only so many.
        self._threads = ThreadPoolExecutor(2 * CLIENTS)
        self.ports: list[int] = []

    def __enter__(self) -> Fleet:
        self._processes = [
            subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(self._number)
        ]
        for process in self._processes:
            assert process.stdout is not None
            self.ports.append(int(process.stdout.readline()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown()
        for connection in self._all_connections:
            connection.close()
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
        for process in self._processes:
            process.wait(STUCK)

    def get(self, path: str, cookie: str | None = None) -> Reply:
        """Send a request; each goes to the next process."""
        port = self.ports[next(self._turns) % len(self.ports)]
        connections = self._connections.__dict__
        connection = connections.get(str(port))
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STUCK)
            connections[str(port)] = connection
            self._all_connections.append(connection)
        connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
        response = connection.getresponse()
        body = response.read()
        values = json.loads(body) if response.status == 200 else {}
        return Reply(response.status, values, _cookie_in(response.headers.get_all("Set-Cookie")))

    def in_parallel(self, number: int, work: Callable[[int], Any]) -> list[Any]:
        """Call ``work(0)`` to ``work(number - 1)``, each in a thread, all starting at once."""
        start = threading.Barrier(number)

        def run(which: int) -> Any:
            start.wait(STUCK)
            return work(which)

        return list(self._threads.map(run, range(number)))


def _cookie_in(headers: list[str] | None) -> str | None:
    for header in reversed(headers or []):
        pair, _, attributes = header.partition(";")
        if pair.startswith("session="):
            return "" if "max-age=0" in attributes.lower() else pair
    return None


@dataclasses.dataclass
class Result:
    """What came of a storm: ``bad`` of ``total``."""

    bad: int
    total: int

    def __str__(self) -> str:
        return f"{self.bad} of {self.total}"


# -- the storms ------------------------------------------------------------------------------


def lost_updates(fleet: Fleet, writes: int = 10, clients: int = CLIENTS) -> Result:
    """Everybody writes keys of their own, in parallel; count acknowledged writes that are gone."""
    cookie = fleet.get("/log_in?user=ada").cookie

    def client(number: int) -> list[str]:
        acknowledged = []
        for turn in range(writes):
            key = f"key-{number}-{turn}"
            if fleet.get(f"/write?key={key}&value={turn}", cookie).status == 200:
                acknowledged.append(key)
        return acknowledged

    acknowledged = [key for keys in fleet.in_parallel(clients, client) for key in keys]
    found = fleet.get("/read", cookie).values
    lost = [key for key in acknowledged if found.get(key) != int(key.rpartition("-")[2])]
    return Result(len(lost), len(acknowledged))


def lost_counts(fleet: Fleet, counts: int = 4, clients: int = CLIENTS) -> Result:
    """Everybody counts on one counter; compare it with the number of successful requests."""
    cookie = fleet.get("/log_in?user=ada").cookie

    def client(number: int) -> int:
        return sum(fleet.get("/count", cookie).status == 200 for _ in range(counts))

    successful = sum(fleet.in_parallel(clients, client))
    return Result(successful - fleet.get("/read", cookie).values.get("n", 0), successful)


def zombies(fleet: Fleet, rounds: int = 10, clients: int = CLIENTS) -> Result:
    """Log out under load, then use the old cookie; count the rounds in which it still works."""
    return Result(sum(_comes_back(fleet, clients) for _ in range(rounds)), rounds)


def _comes_back(fleet: Fleet, clients: int) -> bool:
    cookie = fleet.get("/log_in?user=ada").cookie
    ended = threading.Event()

    def client(number: int) -> bool:
        if number == 0:
            for _ in range(3):
                fleet.get("/read", cookie)
            assert fleet.get("/log_out", cookie).status == 200
            ended.set()
        before, after, seen = 0, 0, False
        while after < 3:
            is_over = ended.is_set()  # asked before the request is sent
            path = f"/write?key=k{number}&value=1" if before % 2 else "/read"
            reply = fleet.get(path, cookie)
            seen |= is_over and reply.values.get("user") is not None
            before, after = before + 1, after + is_over
        return seen

    seen = any(fleet.in_parallel(clients, client))
    return seen or fleet.get("/read", cookie).values.get("user") is not None


def surprise_logouts(fleet: Fleet, rounds: int = 10, clients: int = CLIENTS) -> Result:
    """Log in while requests of the same browser are in flight, and count the rounds after which
    the browser is not logged in. The browser keeps the cookie that arrives last."""
    return Result(sum(not _ends_logged_in(fleet, clients) for _ in range(rounds)), rounds)


def _ends_logged_in(fleet: Fleet, clients: int) -> bool:
    jar = [fleet.get("/write?key=cart&value=1").cookie]
    lock = threading.Lock()

    def browse(path: str) -> None:
        reply = fleet.get(path, jar[0] or None)
        with lock:
            if reply.cookie is not None:
                jar[0] = reply.cookie

    def client(number: int) -> None:
        for turn in range(3):
            if number == 0 and turn == 1:
                browse("/log_in?user=ada")
            else:
                browse(f"/write?key=k{number}&value=1" if turn % 2 else "/read")

    fleet.in_parallel(clients, client)
    return fleet.get("/read", jar[0] or None).values.get("user") == "ada"


# -- side by side ----------------------------------------------------------------------------


def _rows(engine: str, scale: int, redis_url: str) -> Iterator[tuple[str, Result]]:
    with Fleet(engine, redis_url) as fleet:
        yield "acknowledged writes to different keys lost", lost_updates(fleet, 10 * scale)
        yield "logouts after which the session came back", zombies(fleet, 10 * scale)
        yield "logins after which the browser is logged out", surprise_logouts(fleet, 10 * scale)
        if engine == PREDECESSOR:
            yield "counts lost", lost_counts(fleet, 4 * scale)
    if engine == OURS:
        settings = {"redis__sessions__on_conflict": "retry", "retry__attempts": 100}
        with Fleet(engine, redis_url, **settings) as fleet:
            yield "counts lost", lost_counts(fleet, 4 * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=[OURS, PREDECESSOR], help="only this one")
    parser.add_argument("--scale", type=int, default=1, help="times as many requests")
    arguments = parser.parse_args()
    engines = [arguments.engine] if arguments.engine else [PREDECESSOR, OURS]
    print(f"{CLIENTS} clients, {PROCESSES} processes, one session")
    for engine in engines:
        print(engine)
        with RedisServer() as server:
            for name, result in _rows(engine, arguments.scale, server.url):
                print(f"  {name + ':':<46} {result}", flush=True)


if __name__ == "__main__":
    main()
