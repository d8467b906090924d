"""``python -m bench``: measure, and print the report."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import redis

from pyramid_redis_lua_sessions.testing import RedisServer

from . import report
from .contents import of_size, size_of, typical
from .measuring import measure_timings, measure_traffic
from .placement import PLACEMENTS, placed
from .scenarios import SCENARIOS

#: Enough that a session is visited again only after more than a second.
BATCHES_OF_BROWSERS = 20
LARGE = 100_000


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if not redis.utils.HIREDIS_AVAILABLE:
        print("hiredis is not installed: all would be slower, but not alike", file=sys.stderr)
        return 1
    contents = typical() if options.size is None else of_size(options.size)
    scenarios = tuple(s for s in SCENARIOS if options.only in (None, s.name))
    with RedisServer(options.server) as server:
        with placed(server, options.cpus) as placement:
            timings = measure_timings(
                server,
                contents,
                scenarios,
                rounds=options.rounds,
                batch=options.batch,
                browsers=BATCHES_OF_BROWSERS * options.batch,
                progress=_progress(options.rounds),
            )
        traffic = measure_traffic(server, contents, scenarios)
        large = measure_traffic(server, of_size(LARGE), scenarios)
        run = {
            "redis": ".".join(map(str, server.version)),
            **report.machine(),
            "CPUs of application and Redis": placement,
            "session": f"{size_of(contents)} bytes in {len(contents)} keys",
            "rounds": f"{options.rounds} of {options.batch} requests",
            "load of the machine at the end": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs",
            "same session again after": f"{timings.revisit_seconds:.1f} s",
        }
    figures = report.compare(timings, traffic, large)
    print(report.text(run, timings, traffic, figures))
    if options.json is not None:
        found = report.as_json(run, timings, traffic, large, figures)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure sessions side by side with pyramid_session_redis 1.8.1.",
    )
    parser.add_argument("--rounds", type=_positive, default=400, help="default: 400")
    parser.add_argument(
        "--batch", type=_positive, default=20, help="requests per round and contender; default: 20"
    )
    parser.add_argument("--size", type=_positive, help="bytes of a session; default: a typical one")
    parser.add_argument(
        "--only", choices=[s.name for s in SCENARIOS], help="one scenario; default: all"
    )
    parser.add_argument(
        "--cpus",
        choices=PLACEMENTS,
        default="apart",
        help="on which CPUs application and Redis run, see bench/placement.py; default: apart",
    )
    parser.add_argument("--server", help="path of the redis-server binary; default: as the tests")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _progress(rounds: int) -> Callable[[int], None]:
    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\rround {done} of {rounds}", end="" if done < rounds else "\n", file=sys.stderr)

    return show


if __name__ == "__main__":
    sys.exit(main())
