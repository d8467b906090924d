"""Greenlets of gevent and eventlet, without a server: each program runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}

RUN = {
    "gevent": """
from gevent.pool import Pool
def run_all(function, numbers):
    return Pool(200).map(function, numbers)
""",
    "eventlet": """
def run_all(function, numbers):
    return list(eventlet.GreenPool(200).imap(function, numbers))
""",
}

USERS = """
import os
from tests.support.browser import make_browser

browser = make_browser(os.environ["REDIS_URL"])
users = [browser.another() for _ in range(200)]

def visit(number):
    def view(session):
        session.setdefault("name", number)
        session["visits"] = session.get("visits", 0) + 1
        return session["name"], session["visits"]
    return users[number].use(view)
"""

CHECK = """
for visits in (%d, %d):
    assert run_all(visit, range(200)) == [(number, visits) for number in range(200)]
pool = browser.factory.store_for(None).client.connection_pool
made = len(pool._get_free_connections())
assert 1 <= made <= 50, made
print("done")
"""

#: A deadline of gevent at random moments, which no user may notice in another's session.
DEADLINES = """
import random
import gevent

def hurried(number):
    with gevent.Timeout(random.uniform(1e-4, 0.2), False):
        assert visit(number)[0] == number, "the session of another user"

for user in range(200):
    visit(user)
for _ in range(10):
    run_all(hurried, range(200))
assert [name for name, _ in run_all(visit, range(200))] == list(range(200))
print("done")
"""


def run(*parts: str, url: str) -> str:
    program = "\n".join(parts)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("library", PATCH)
def test_200_greenlets_share_50_connections(library: str, redis_url: str) -> None:
    assert run(PATCH[library], RUN[library], USERS, CHECK % (1, 2), url=redis_url) == "done\n"


@pytest.mark.parametrize("forks", [True, False])
def test_greenlets_are_served_where_the_patch_comes_last(forks: bool, redis_url: str) -> None:
    """The application is loaded, and was even used, before sockets and locks are replaced.

    (eventlet takes ``select.poll`` away then, which redis-py has seen.)
    """
    used = "for number in range(200): visit(number)"
    fork = "if os.fork(): os._exit(os.waitstatus_to_exitcode(os.wait()[1]))" if forks else ""
    parts = (USERS, used, fork, PATCH["gevent"], RUN["gevent"], CHECK % (2, 3))
    assert run(*parts, url=redis_url) == "done\n"


def test_no_request_meets_a_wrong_session_when_a_timeout_ends_some(redis_url: str) -> None:
    assert run(PATCH["gevent"], RUN["gevent"], USERS, DEADLINES, url=redis_url) == "done\n"
