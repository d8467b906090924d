"""``python -m bench.instructions``: how many instructions a whole request costs.

Counted under valgrind's callgrind, which sees no other process and no clock: the same count
within a percent or so, however busy the machine is. What Redis does is not among them, nor what
the kernel does.

One process serves all requests. Before and after those that are counted it calls a function of
the C library that nothing else calls, and callgrind writes out what it has counted until then.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyramid_redis_lua_sessions.testing import RedisServer, find_redis_server

from . import contents
from .contenders import (
    BARE,
    NONE,
    OURS,
    PREDECESSOR,
    BareCall,
    Contender,
    NoSession,
    Ours,
    Predecessor,
    StockCall,
)
from .driving import Lane, make_lanes
from .pages import as_rst
from .report import Table, as_text
from .scenarios import FIRST_WRITE, LOGIN, READ, READ_IN_WINDOW, WRITE

__all__ = [
    "BUDGETS",
    "WARM_UP",
    "Budget",
    "count",
    "counting_parser",
    "is_valgrind_missing",
    "main",
    "passed",
    "ratio",
    "read_counts",
    "run_marked",
    "tables",
]

#: The function of the C library at which counting starts and ends.
MARK = "getppid"

#: Requests before those that are counted: caches are warm then, and connections made.
WARM_UP = 30

SCENARIOS = (READ, READ_IN_WINDOW, WRITE, FIRST_WRITE, LOGIN)
CONTENDERS: tuple[type[Contender], ...] = (NoSession, StockCall, BareCall, Ours, Predecessor)


class Budget(NamedTuple):
    """What a request may cost, as a share of another.

    :ivar own: of both, what lies above the same request without a session; else whole requests.
    :ivar most: that is asserted where ``--check`` is given, with five per cent on top.
    :ivar target: where it is to come to.
    """

    name: str
    scenario: str
    beside: str
    own: bool
    most: float
    target: float


BUDGETS = (
    Budget("read", "read", BARE, False, 1.17, 1.15),
    Budget("read", "read", PREDECESSOR, True, 0.25, 0.20),
    Budget("write one key", "write one key", PREDECESSOR, True, 0.48, 0.40),
    Budget("first write", "first write", PREDECESSOR, True, 0.53, 0.40),
    Budget("login", "login", PREDECESSOR, True, 0.48, 0.55),
)
TOLERANCE = 1.05


def serve(url: str, requests: int) -> list[tuple[str, str]]:
    """Send the requests of all contenders, as :func:`run_marked`."""
    typical = contents.typical()
    return run_marked(
        (
            (contender.name, lane)
            for contender in (make() for make in CONTENDERS)
            for lane in make_lanes(contender, url, typical, SCENARIOS, WARM_UP)
        ),
        requests,
    )


def run_marked(lanes: Iterable[tuple[str, Lane]], requests: int) -> list[tuple[str, str]]:
    """Send requests, with a mark before and after each kind; return their order.

    :param lanes: with the name of whom it is of.
    """
    order = []
    for name, lane in lanes:
        lane.run(WARM_UP)
        # A collection would look at all that others have made, and fall into one kind by chance.
        gc.collect()
        gc.freeze()
        os.getppid()
        lane.run(requests)
        os.getppid()
        order.append((name, lane.scenario.name))
    return order


def count(program: str, server: str, requests: int) -> dict[str, dict[str, int]]:
    """Return the instructions of one request: name to scenario to count.

    :param program: a module that, run with ``--serve URL --requests N``, sends them as
        :func:`run_marked`, and prints their order as JSON.
    """
    with tempfile.TemporaryDirectory() as directory, RedisServer(server) as redis_server:
        out = Path(directory) / "counts"
        command = [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"),
            *(f"--dump-before={MARK}", sys.executable, "-m", program),
            *("--serve", redis_server.url, "--requests", str(requests)),
        ]
        environ = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True)
        return read_counts(out, json.loads(done.stdout), requests)


def read_counts(
    out: Path, order: Sequence[Sequence[str]], requests: int
) -> dict[str, dict[str, int]]:
    """Read what callgrind wrote, a file with a number at each mark.

    :param order: in which the requests were sent, as :func:`serve` returns it.
    :param requests: so many were counted of each kind.
    """
    if Path(f"{out}.{2 * len(order) + 1}").exists():
        raise RuntimeError(f"something else calls {MARK}")
    found: dict[str, dict[str, int]] = {}
    for number, (contender, scenario) in enumerate(order, 1):
        # Each mark ends a part; the odd ones are start and warming up.
        total = _total(Path(f"{out}.{2 * number}"))
        found.setdefault(contender, {})[scenario] = total // requests
    return found


def _total(part: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", part.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeError("callgrind wrote no total")
    return int(found[1])


def ratio(found: dict[str, dict[str, int]], budget: Budget) -> float:
    ours, other = found[OURS][budget.scenario], found[budget.beside][budget.scenario]
    floor = found[NONE][budget.scenario] if budget.own else 0
    return (ours - floor) / (other - floor)


def tables(found: dict[str, dict[str, int]]) -> list[Table]:
    names = [scenario.name for scenario in SCENARIOS]
    rows = []
    for contender, counts in found.items():
        cells = (f"{counts[name] / 1000:.0f}" if name in counts else "" for name in names)
        rows.append([contender, *cells])
    ratios = [
        [budget.name, "its own part" if budget.own else "the whole request", budget.beside]
        + [f"{figure:.2f}" for figure in (ratio(found, budget), budget.target, budget.most)]
        for budget in BUDGETS
    ]
    head = ["request", "of", "beside", "ratio", "target", "budget in CI"]
    return [
        Table("instructions", "Instructions of a whole request, thousands", ["", *names], rows),
        Table("instruction-ratios", "Ratios of instructions", head, ratios, left=(0, 1, 2)),
    ]


def passed(found: dict[str, dict[str, int]]) -> list[str]:
    """Name the budgets that are passed by more than the tolerance."""
    return [b.name for b in BUDGETS if ratio(found, b) > b.most * TOLERANCE]


def counting_parser(program: str, about: str | None, requests: int) -> argparse.ArgumentParser:
    """Make the parser of a program that :func:`count` runs.

    :param requests: how many are counted of each kind, unless told otherwise.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--requests", type=int, default=requests, help="counted of each kind")
    parser.add_argument("--server", help="path of the redis-server binary; default: as the tests")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser


def is_valgrind_missing() -> bool:
    """Tell, and say so, whether nothing can be counted here."""
    if shutil.which("valgrind") is not None:
        return False
    print("valgrind is needed: apt-get install valgrind", file=sys.stderr)
    return True


def main(argv: list[str] | None = None) -> int:
    parser = counting_parser("bench.instructions", __doc__, 100)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--page", type=Path, help="write the tables to this file")
    parser.add_argument("--check", action="store_true", help="fail where a budget is passed")
    options = parser.parse_args(argv)
    if options.serve:
        print(json.dumps(serve(options.serve, options.requests)))
        return 0
    if is_valgrind_missing():
        return 2
    found = count(__spec__.name, options.server or find_redis_server(), options.requests)
    print(as_text(tables(found)))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.page is not None:
        options.page.write_text("\n".join(map(as_rst, tables(found))), encoding="utf-8")
    over = passed(found) if options.check else []
    for name in over:
        print(f"the budget is passed: {name}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
