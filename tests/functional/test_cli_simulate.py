"""``redis-lua-sessions simulate``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import make_browser
from tests.support.command import run, write_ini
from tests.support.stored import A_SESSION, TOKEN
from tests.support.waiting import wait_until


def test_simulate_puts_load_on_redis_and_leaves_nothing(
    redis_server: RedisServer, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    redis_client.hset("session:of a user", TOKEN, A_SESSION)
    redis_client.config_resetstat()
    ini = write_ini(tmp_path, redis_server.url)
    args = ["--workers", 2, "--seconds", 1, "--sessions", 10, "--writes", 30, "--json"]
    assert run("simulate", ini, *args) == 0
    found = json.loads(capsys.readouterr().out)
    reads, writes = found["read"]["requests"], found["write"]["requests"]
    assert found["new"]["requests"] == 20
    assert 0.15 < writes / (reads + writes) < 0.45
    assert found["requests_per_second"] == pytest.approx((reads + writes) / found["seconds"])
    for kind in ("new", "read", "write"):
        ranks = [found[kind][f"p{rank}_ms"] for rank in (50, 95, 99, 100)]
        assert 0 < ranks[0] <= ranks[1] <= ranks[2] <= ranks[3]
    assert 0 < found["redis_busy"] < 2
    # A request that reads is one call, one that writes is two.
    assert calls(redis_client) == pytest.approx(20 + reads + 2 * writes, abs=10)
    assert redis_client.keys("*") == [b"session:of a user"]


def test_simulate_measures_sessions_that_live_until_its_end(
    redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    """Whatever the application's absolute timeout: it deletes all that it has made."""
    ini = write_ini(tmp_path, redis_url, absolute_timeout=1)
    args = ["--workers", 1, "--seconds", 1.5, "--sessions", 3, "--writes", 50]
    assert run("simulate", ini, *args) == 0
    capsys.readouterr()
    assert redis_client.keys("*") == []


def test_sessions_of_a_simulation_are_not_taken_for_those_of_users(
    redis_url: str, redis_client: Any, tmp_path: Path, capsys: Any
) -> None:
    make_browser(redis_url).use(lambda session: session.update(a=1))
    simulated = make_browser(redis_url, prefix="session:simulate:")
    simulated.use(lambda session: session.update(a=1))
    ini = write_ini(tmp_path, redis_url)
    assert run("stats", ini, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sessions"] == 1
    assert run("list", ini, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert run("check", ini, "--no-write") == 0
    assert "not authentic" not in capsys.readouterr().out
    assert run("revoke", ini, "--all", "--yes") == 0
    assert "ended 1 session\n" in capsys.readouterr().out
    assert redis_client.hexists(simulated.key, "@")


def test_simulate_prints_a_table(redis_url: str, capsys: Any) -> None:
    args = ["--workers", 1, "--seconds", 0.2, "--sessions", 2, "--writes", 0]
    assert run("simulate", "--url", redis_url, *args) == 0
    out = capsys.readouterr().out
    assert re.match(r"1 worker, 2 sessions, 0\.\d s: [\d,]+ requests a second\n", out)
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines[2:5]] == ["request", "new", "read"]
    assert re.search(r"^Redis was busy for \d+%", out, re.MULTILINE)


def test_simulate_when_redis_refuses(
    redis_server: RedisServer, redis_client: Any, capsys: Any
) -> None:
    redis_client.config_set("min-replicas-to-write", 1)
    try:
        assert run("simulate", "--url", redis_server.url, "--workers", 2, "--seconds", 1) == 1
    finally:
        redis_client.config_set("min-replicas-to-write", 0)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "NOREPLICAS" in printed.err


def test_simulate_when_redis_cannot_be_reached(capsys: Any) -> None:
    assert run("simulate", "--url", "redis://127.0.0.1:1/0") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def calls(client: Any) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def test_simulate_that_is_interrupted_leaves_nothing(
    redis_server: RedisServer, redis_client: Any
) -> None:
    redis_client.config_resetstat()
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "simulate", "--url"]
    with subprocess.Popen(
        [*command, redis_server.url, *"--workers 1 --seconds 60 --sessions 5 --writes 0".split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # More than fits into the pipe through which a worker tells what it measured.
        wait_until(lambda: calls(redis_client) > 9_000, timeout=60)
        assert len(redis_client.keys("session:simulate:*")) == 5
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "redis-lua-sessions: interrupted"
    assert "Traceback" not in err
    assert redis_client.keys("*") == []


@contextmanager
def simulating(url: str, seconds: int) -> Iterator[subprocess.Popen[str]]:
    """Run the command with one worker, in a process group of its own; none of it is left."""
    command = [sys.executable, "-m", "pyramid_redis_lua_sessions", "simulate", "--url", url]
    options = f"--workers 1 --seconds {seconds} --sessions 5".split()
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "status"), [("SIGTERM", 1), ("SIGHUP", 1), ("SIGKILL", -signal.SIGKILL)]
)
def test_workers_stop_and_leave_nothing_when_the_command_is_ended(
    how: str, status: int, redis_server: RedisServer, redis_client: Any
) -> None:
    redis_client.config_resetstat()
    with simulating(redis_server.url, seconds=3600) as process:
        wait_until(lambda: calls(redis_client) > 50, timeout=60)
        # A terminal that is closed tells all its processes.
        tell = os.killpg if how == "SIGHUP" else os.kill
        tell(process.pid, signal.Signals[how])
        # Until the worker has ended, too: it has the other ends of these pipes.
        _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err == ("redis-lua-sessions: interrupted\n" if status == 1 else "")
    assert redis_client.keys("*") == []


def test_workers_stop_in_time_when_the_command_does_not_tell_them(
    redis_server: RedisServer, redis_client: Any
) -> None:
    redis_client.config_resetstat()
    with simulating(redis_server.url, seconds=1) as process:
        wait_until(lambda: calls(redis_client) > 50, timeout=60)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: redis_client.keys("*") == [], timeout=30)


def test_interrupt_while_the_workers_start_is_an_error_of_one_line(
    redis_server: RedisServer,
) -> None:
    with simulating(redis_server.url, seconds=60) as process:
        wait_until(lambda: any(map(is_starting, children_of(process.pid))), timeout=60)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "redis-lua-sessions: interrupted\n"


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_starting(pid: str) -> bool:
    """Whether a process is a worker, and importing what it needs."""
    process = Path(f"/proc/{pid}")
    try:
        if b"spawn_main" not in (process / "cmdline").read_bytes():
            return False
        return b"/hiredis/" in (process / "maps").read_bytes()
    except OSError:  # it has ended
        return False


@pytest.mark.parametrize(
    "args",
    [
        ["--seconds", 0],
        ["--seconds", 1e9],
        ["--workers", 0],
        ["--sessions", 0],
        ["--bytes", -1],
        ["--bytes", 10**11],
        ["--writes", 101],
    ],
)
def test_simulate_with_wrong_arguments(args: list[Any], redis_url: str, capsys: Any) -> None:
    assert run("simulate", "--url", redis_url, *args) == 2
    assert args[0] in capsys.readouterr().err
