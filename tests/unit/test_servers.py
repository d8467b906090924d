"""``make test-servers``: the tests on every server that is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyramid_redis_lua_sessions.testing import find_redis_servers
from tests.support.servers import Run, name_and_version, table

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.support.servers", "-q", "-p", "no:cacheprovider"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_all_servers_that_are_found_are_in_the_table() -> None:
    done = run("tests/unit/test_errors.py")
    assert done.returncode == 0, done.stdout + done.stderr
    _, *rows = done.stdout.rpartition("\n\n")[2].splitlines()
    found = [tuple(row.split()[:2]) for row in rows]
    assert found == [name_and_version(binary) for binary in find_redis_servers()]
    for row in rows:
        _, _, passed, failed, skipped, _ = row.split()
        assert int(passed) > 0
        assert (failed, skipped) == ("0", "0")


def test_status_tells_of_a_failure() -> None:
    assert run("tests/unit/no_such_file.py").returncode == 1


def test_table() -> None:
    runs = [
        Run("Redis", "6.2.9", 1200, 0, 3, 61.4, 0),
        Run("Valkey", "8.1.10", 1199, 1, 3, 59.5, 1),
    ]
    assert table(runs).splitlines() == [
        "server  version  passed  failed  skipped  seconds",
        "Redis   6.2.9      1200       0        3       61",
        "Valkey  8.1.10     1199       1        3       60",
    ]
