"""What one core of Redis bears, and what it passes on to replicas and to the append-only file."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, cast

import redis

from pyramid_redis_lua_sessions.engine.tokens import DIGEST_SIZE, TOKEN_FIELD
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer

from .contenders import Contender, libraries
from .driving import Lane, make_lanes
from .filling import copy_session
from .measuring import redis_cpu
from .scenarios import FIRST_WRITE, READ, READ_IN_WINDOW, WRITE, Scenario

__all__ = ["find_benchmark", "measure_capacity", "measure_propagation"]

CONNECTIONS = 50
#: redis-benchmark puts 12 random digits in its place.
RANDOM = "__rand_int__"
#: Random numbers that hardly ever meet one that was drawn before.
MANY = 10**11

#: A read of ``pyramid_session_redis`` sends other commands once a second.
MOST_RECORDINGS = 5

PROPAGATED = (READ, READ_IN_WINDOW, WRITE, FIRST_WRITE)


def find_benchmark(server: RedisServer) -> str | None:
    """Return the path of ``redis-benchmark``: beside the server, or else on the ``PATH``."""
    beside = Path(server.binary or "").with_name("redis-benchmark")
    return str(beside) if beside.is_file() else shutil.which("redis-benchmark")


def measure_capacity(
    server: RedisServer,
    contents: dict[str, Any],
    *,
    sessions: int,
    requests: int,
    benchmark: str,
    pause: float,
) -> list[dict[str, Any]]:
    """Keep Redis busy with the commands of one kind of request, over many connections.

    The commands are those of a real request; each then meets one of many sessions, at random.

    :param sessions: how many are stored.
    :param requests: how many times each command is sent.
    :param benchmark: path of ``redis-benchmark``.
    :param pause: seconds between two requests of one session. A read of
        ``pyramid_session_redis`` costs less within the second of the last write.
    :returns: ``scenario``, ``contender``, ``commands``, ``requests_per_second`` as counted,
        ``redis_cpu_us`` per request, and ``per_core``: requests per second of Redis CPU.
    """
    found = []
    for scenario in (READ, READ_IN_WINDOW, WRITE, FIRST_WRITE):
        for contender in libraries():
            commands, model = _commands_of(server, contender, contents, scenario, pause)
            if any(command[0] == "MULTI" for command in commands):
                continue  # a transaction cannot be sent command by command
            with server.client() as client:
                if model is not None:
                    _let_in_placeholders(client, model)
                    copy_session(client, model, "copy:", sessions)
                total = 0.0
                seconds = 0.0
                for command in commands:
                    before, start = redis_cpu(client), time.monotonic()
                    _run(benchmark, server.port, command, requests, sessions)
                    seconds += time.monotonic() - start
                    total += redis_cpu(client) - before
                client.flushall()
            found.append(
                {
                    "scenario": scenario.name,
                    "contender": contender.name,
                    "commands": [command[0] for command in commands],
                    "requests_per_second": requests / seconds,
                    "redis_cpu_us": total / requests * 1e6,
                    "per_core": requests / total,
                }
            )
    return found


def _commands_of(
    server: RedisServer,
    contender: Contender,
    contents: dict[str, Any],
    scenario: Scenario,
    pause: float,
) -> tuple[list[list[str]], bytes | None]:
    """Record what a request sends, twice; put a placeholder where it differs.

    :returns: the commands; and the key of the session, if it was there before.
    """
    with CountingProxy(server.port) as proxy, server.client() as client:
        client.flushall()
        (lane,) = make_lanes(contender, proxy.url, contents, (scenario,), browsers=1)
        lane.run(1)  # connects
        first = second = _recorded(lane, proxy, pause)
        for _ in range(MOST_RECORDINGS):
            first, second = second, _recorded(lane, proxy, pause)
            if [len(args) for args in first] == [len(args) for args in second]:
                break
        model = None
        if scenario.cookie:
            (model,) = client.keys("*")
    return [_with_placeholders(*pair, model) for pair in zip(first, second, strict=True)], model


def _let_in_placeholders(client: redis.Redis, model: bytes) -> None:
    """Give a session of ours, for its token, the placeholder that stands in the commands."""
    if client.type(model) == b"hash":
        token = cast("bytes", client.hget(model, TOKEN_FIELD))
        client.hset(model, TOKEN_FIELD, b"x" * DIGEST_SIZE + token[DIGEST_SIZE:])


def _recorded(lane: Lane, proxy: CountingProxy, pause: float) -> list[tuple[bytes, ...]]:
    time.sleep(pause)
    proxy.reset()
    lane.run(1)
    return [command.args for command in proxy.commands]


def _with_placeholders(
    first: tuple[bytes, ...], second: tuple[bytes, ...], model: bytes | None
) -> list[str]:
    command = []
    for one, other in zip(first, second, strict=True):
        if one == model:
            command.append("copy:" + RANDOM)
        elif one == other and one.isascii() and b"\0" not in one:
            command.append(one.decode("ascii"))
        elif one == other or len(one) < len(RANDOM):
            command.append("x" * len(one))  # a value: only its length matters
        else:
            # What is unique to a call, as a nonce, an id, or a value sealed for that id.
            command.append(RANDOM + "x" * (len(one) - len(RANDOM)))
    return command


def _run(benchmark: str, port: int, command: list[str], requests: int, sessions: int) -> None:
    range_of_numbers = sessions if any(arg == "copy:" + RANDOM for arg in command) else MANY
    options = ["-p", port, "-n", requests, "-c", CONNECTIONS, "-r", range_of_numbers, "-q"]
    done = subprocess.run(
        [benchmark, *map(str, options), *command], capture_output=True, text=True, check=False
    )
    if done.returncode or "rror" in done.stdout + done.stderr:
        raise RuntimeError(f"redis-benchmark: {done.stdout}{done.stderr}")


# -- replicas and the append-only file ---------------------------------------------------


def measure_propagation(
    binary: str | None, contents: dict[str, Any], requests: int, pause: float
) -> list[dict[str, Any]]:
    """Count what a request of each kind adds to the replication stream and to the AOF.

    :param pause: as in :func:`measure_capacity`.
    :returns: ``scenario``, ``contender``, ``replication`` and ``aof`` bytes per request.
    """
    primary_config = {"appendonly": "yes", "appendfsync": "no", "repl-ping-replica-period": 3600}
    found = []
    with RedisServer(binary, config=primary_config) as primary:
        replica_config = {"replicaof": f"127.0.0.1 {primary.port}"}
        with RedisServer(binary, config=replica_config), primary.client() as client:
            _wait_for_replica(client)
            for contender in libraries():
                for lane in make_lanes(contender, primary.url, contents, PROPAGATED, requests):
                    time.sleep(pause)
                    before = _written(client)
                    lane.run(requests)
                    after = _written(client)
                    found.append(
                        {
                            "scenario": lane.scenario.name,
                            "contender": contender.name,
                            "replication": (after[0] - before[0]) / requests,
                            "aof": (after[1] - before[1]) / requests,
                        }
                    )
    return found


def _wait_for_replica(client: redis.Redis) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        info: Any = client.info("replication")
        if info.get("slave0", {}).get("state") == "online":
            return
        time.sleep(0.05)
    raise RuntimeError("the replica does not come up")


def _written(client: redis.Redis) -> tuple[int, int]:
    replication: Any = client.info("replication")
    persistence: Any = client.info("persistence")
    return replication["master_repl_offset"], persistence["aof_current_size"]
