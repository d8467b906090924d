"""The sessions under the servers that Pyramid applications run on, each with real processes.

A burst of requests right at the start, another one later, and one after workers were killed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.servers.application import CLIENT_NAME, CONNECTIONS
from tests.support.serving import LOOPBACK, running
from tests.support.waiting import wait_until

BIN = Path(sys.executable).parent

APPLICATION = "tests.servers.application:application"


def gunicorn(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [
        *(sys.executable, "-m", "gunicorn", "--bind", f"{LOOPBACK}:{port}", "--workers", "2"),
        *(*options, "--graceful-timeout", "1", "--no-control-socket", APPLICATION),
    ]


def waitress(port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "waitress", f"--listen={LOOPBACK}:{port}", "--threads=8"),
        APPLICATION,
    ]


def uwsgi(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [
        *(str(BIN / "uwsgi"), "--http-socket", f"{LOOPBACK}:{port}", "--master", "--need-app"),
        *("--processes", "2", "--threads", "4", "--listen", "100", "--die-on-term"),
        *("--module", APPLICATION, "--virtualenv", sys.prefix, *options),
    ]


SERVERS: dict[str, Callable[[int], list[str]]] = {
    "gunicorn sync": gunicorn(),
    "gunicorn sync --preload": gunicorn("--preload"),
    "gunicorn gthread": gunicorn("-k", "gthread", "--threads", "8"),
    "gunicorn gthread --preload": gunicorn("-k", "gthread", "--threads", "8", "--preload"),
    "gunicorn gevent": gunicorn("-k", "gevent"),
    "gunicorn gevent --preload": gunicorn("-k", "gevent", "--preload"),
    "waitress": waitress,
    "uwsgi": uwsgi(),
    "uwsgi --lazy-apps": uwsgi("--lazy-apps"),
}

#: Those whose workers a main process starts again.
KILLABLE = [name for name in SERVERS if name != "waitress"]


class Answer(NamedTuple):
    name: str
    visits: int
    worker: int
    cookie: str


class Site:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def visit(self, name: str, cookie: str = "") -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
        with contextlib.closing(connection):
            headers = {"Cookie": cookie} if cookie else {}
            connection.request("GET", f"/?name={name}", headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, body
            cookie = (response.getheader("Set-Cookie") or cookie).partition(";")[0]
            seen, visits, worker = body.split()
            return Answer(seen, int(visits), int(worker), cookie)

    def burst(self, cookies: list[str]) -> list[Answer]:
        """Let users visit at once: all are served, and each meets the own session."""
        together = threading.Barrier(len(cookies))

        def run(number: int) -> Answer:
            together.wait()
            return self.visit(str(number), cookies[number])

        with ThreadPoolExecutor(len(cookies)) as threads:
            answers = list(threads.map(run, range(len(cookies))))
        assert [answer.name for answer in answers] == [str(n) for n in range(len(cookies))]
        return answers


def connections(client: redis.Redis) -> int:
    listed = client.client_list()
    return sum(one["name"] == CLIENT_NAME for one in listed)


@pytest.mark.parametrize("name", SERVERS)
def test_every_request_is_served(
    name: str, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    with running(SERVERS[name], tmp_path / "log", REDIS_URL=redis_url) as port:
        site = Site(port)
        answers = site.burst([""] * 40)  # the first requests there are
        assert {answer.visits for answer in answers} == {1}
        for visits in (2, 3):
            answers = site.burst([answer.cookie for answer in answers])
            assert {answer.visits for answer in answers} == {visits}
        if name in KILLABLE:
            killed = {answer.worker for answer in answers}
            for worker in killed:
                os.kill(worker, signal.SIGKILL)

            def works() -> bool:
                try:
                    return site.visit("x").worker not in killed
                except (OSError, http.client.HTTPException):
                    return False

            wait_until(works, 30)
            answers = site.burst([answer.cookie for answer in answers])
            assert {answer.visits for answer in answers} == {4}


def test_200_greenlets_share_50_connections(
    redis_server: RedisServer, redis_client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    command = gunicorn("-k", "gevent", "--workers", "1", "--backlog", "300")
    with running(command, tmp_path / "log", REDIS_URL=redis_url) as port:
        site = Site(port)
        answers = site.burst([""] * 200)
        answers = site.burst([answer.cookie for answer in answers])
        assert {answer.visits for answer in answers} == {2}
        assert len({answer.worker for answer in answers}) == 1
        assert 0 < connections(redis_client) <= CONNECTIONS
