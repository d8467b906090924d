"""``python -m bench.redis_cpu``: what a request costs Redis, beside pyramid_session_redis.

Two figures a case: the CPU time of the Redis process, whole trips with reading and answering
(``INFO cpu``), and that of the commands alone, as Redis counts it (``INFO commandstats``). Each
library sends one batch per case and round, one right after the other and in alternating order.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import redis

from pyramid_redis_lua_sessions.testing import RedisServer, find_redis_server

from . import contents
from .contenders import OURS, PREDECESSOR, Ours, Predecessor
from .driving import Lane, make_lanes
from .measuring import A_LITTLE_MORE_THAN_A_SECOND, redis_cpu
from .pages import as_rst
from .report import Table, as_text
from .scenarios import READ, READ_IN_WINDOW, WRITE, Scenario

__all__ = ["CASES", "Case", "Figures", "main", "measure", "ratio", "table"]

#: What our requests send. What scripts call is counted a second time, under its own name.
SENT = {"eval", "evalsha", "hgetall"}


class Case(NamedTuple):
    """What is compared.

    :ivar target: of what pyramid_session_redis' requests cost Redis, the share to come to.
    :ivar sessions: that take turns; each is visited once in a batch, or all the time if it is 1.
    """

    name: str
    scenario: Scenario
    contents: dict[str, Any]
    target: float
    sessions: int = 200


CASES = (
    Case("read", READ, contents.typical(), 0.85),
    Case("read in trigger window", READ_IN_WINDOW, contents.typical(), 0.85),
    Case("read, 100 KB", READ, contents.of_size(100_000), 0.8, 40),
    Case("write one key", WRITE, contents.typical(), 1.4),
    Case("write one key, busy session", WRITE, contents.typical(), 1.4, 1),
)


class Figures(NamedTuple):
    """Microseconds of Redis a request; one figure a round."""

    cpu: list[float]
    commands: list[float]


def commands_took(client: redis.Redis, ours: bool) -> int:
    """Return how long all commands took so far that a library sent, microseconds."""
    found: Any = client.info("commandstats")
    commands = {name.removeprefix("cmdstat_"): stats["usec"] for name, stats in found.items()}
    del commands["info"]
    return sum(us for name, us in commands.items() if not ours or name in SENT)


def measure(
    server: RedisServer, rounds: int, batch: int, pause: float = A_LITTLE_MORE_THAN_A_SECOND
) -> dict[str, dict[str, Figures]]:
    """Return what requests took: case to contender to figures.

    :param batch: requests in one, where a case does not have fewer sessions.
    :param pause: seconds between rounds: pyramid_session_redis does less for a session that was
        written within the last second.
    """
    lanes: list[tuple[Case, Lane]] = []
    for case in CASES:
        for contender in (Predecessor(), Ours()):
            sessions = min(case.sessions, batch)
            made = make_lanes(contender, server.url, case.contents, (case.scenario,), sessions)
            lanes += [(case, lane) for lane in made]
    found = {case.name: {PREDECESSOR: Figures([], []), OURS: Figures([], [])} for case in CASES}
    with server.client() as client:
        for number in range(-1, rounds):  # the first one warms up
            time.sleep(pause)
            looking = statistics.median(_looking(client) for _ in range(20))
            for case in CASES:
                turns = [lane for its, lane in lanes if its is case]
                requests = batch if case.sessions == 1 else min(case.sessions, batch)
                for lane in turns if number % 2 == 0 else reversed(turns):
                    ours = lane.contender.name == OURS
                    commands = commands_took(client, ours)
                    cpu = redis_cpu(client)
                    lane.run(requests)
                    cpu = redis_cpu(client) - cpu - looking
                    commands = commands_took(client, ours) - commands
                    if number >= 0:
                        figures = found[case.name][lane.contender.name]
                        figures.cpu.append(cpu * 1e6 / requests)
                        figures.commands.append(commands / requests)
    return found


def _looking(client: redis.Redis) -> float:
    """Return what a look at the CPU time takes itself."""
    before = redis_cpu(client)
    return redis_cpu(client) - before


def ratio(ours: list[float], other: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def table(found: dict[str, dict[str, Figures]]) -> Table:
    rows = []
    for case in CASES:
        other, ours = found[case.name][PREDECESSOR], found[case.name][OURS]
        rows.append([case.name, f"{ratio(ours.cpu, other.cpu):.2f}", f"{case.target:.2f}"])
        rows[-1] += [f"{statistics.median(one.cpu):.1f}" for one in (ours, other)]
        rows[-1].append(f"{ratio(ours.commands, other.commands):.2f}")
    head = ["request", "ratio", "target", f"{OURS}, us", f"{PREDECESSOR}, us", "commands alone"]
    return Table("redis-cpu", "CPU time of Redis", head, rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.redis_cpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=200, help="requests in one")
    parser.add_argument("--server", help="path of the redis-server binary; default: as the tests")
    parser.add_argument("--page", type=Path, help="write the table to this file")
    options = parser.parse_args(argv)
    with RedisServer(options.server or find_redis_server()) as server:
        found = measure(server, options.rounds, options.batch)
    print(as_text([table(found)]))
    if options.page is not None:
        options.page.write_text(as_rst(table(found)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
