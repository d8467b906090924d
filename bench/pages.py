"""Writes the figures into the documentation: JSON, tables, charts, and arithmetic.

    python -m bench.pages

makes the tables and the charts again, of the figures that are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .charts import draw
from .contenders import OURS
from .report import Table, tables

__all__ = ["FIGURES", "write"]

#: Where the documentation includes them from.
FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"

NAME = "benchmarks.json"

#: What the arithmetic of ``docs/scaling.rst`` extends to.
SESSIONS = 10_000_000
REQUESTS = 100_000
#: Of the requests, how many write one key. The rest reads.
WRITES = 0.2
#: How much of a node's memory sessions may take: the rest is for fragmentation, buffers and forks.
FULL = 0.6
#: How much of a core's time Redis may be busy.
BUSY = 0.5
GB = 10**9


#: Of a run, what may differ between parts that stand on one page.
OF_ONE_RUN = {"measured", "command", "took"}


def write(found: dict[str, Any], directory: Path) -> None:
    """Write all figures of a run; those of parts that it left out stay as they are there.

    :raises ValueError: these were measured elsewhere, or with other versions.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / NAME).is_file():
        before = json.loads((directory / NAME).read_text(encoding="utf-8"))
        if set(before) - set(found):
            same = (
                {name: value for name, value in run.items() if name not in OF_ONE_RUN}
                for run in (before["run"], found["run"])
            )
            if next(same) != next(same):
                raise ValueError("the other figures were measured elsewhere: measure all parts")
            found = {**before, **found}
            found["run"] = before["run"]
    (directory / NAME).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, text in includes(found):
        (directory / f"{name}.inc").write_text(text, encoding="utf-8")
    draw(found, directory)


def includes(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the texts that the pages include, by name."""
    rows = [[name, f"``{value}``"] for name, value in found["run"].items()]
    yield "run", as_rst(Table("run", "The run", [], rows))
    for table in tables(found):
        yield table.name, as_rst(table)
    if all(part in found for part in ("memory", "listpack", "capacity", "propagation", "requests")):
        for name, table in _scaling(found).items():
            yield name, as_rst(table)


def as_rst(table: Table) -> str:
    """Return a table in reStructuredText."""
    lines = [f".. list-table:: {table.title}"]
    lines += ["   :header-rows: 1", ""] if table.head else ["   :stub-columns: 1", ""]
    for row in filter(None, (table.head, *table.rows)):
        for number, cell in enumerate(row):
            lines.append(f"   {'  ' if number else '* '}- {cell}".rstrip())
    lines += ["", table.note] if table.note else []
    return "\n".join(lines) + "\n"


# -- docs/scaling.rst --------------------------------------------------------------------


def _scaling(found: dict[str, Any]) -> dict[str, Table]:
    return {
        "scaling-memory": _memory(found["memory"]["found"]["shapes"]),
        "scaling-cores": _cores(found["capacity"]["found"]["requests"]),
        "scaling-network": _network(found["requests"]["found"]["traffic"]),
        "scaling-trigger": _trigger(found["propagation"]["found"]),
    }


def _memory(shapes: list[dict[str, Any]]) -> Table:
    rows = []
    for one in shapes:
        if one["contender"] == OURS:
            total = one["bytes"] * SESSIONS / GB
            rows.append(
                [
                    one["shape"],
                    str(one["limit"]),
                    f"{one['bytes']:,.0f} x {SESSIONS:,} = {total:.1f} GB",
                    f"{total:.1f} / {FULL:g} = {total / FULL:.1f} GB",
                ]
            )
    head = ["session", "hash-max-listpack-value", "data", "memory of all primaries together"]
    return Table("scaling-memory", f"Memory of {SESSIONS:,} live sessions", head, rows, (0,))


def _cores(requests: list[dict[str, Any]]) -> Table:
    cost = {one["scenario"]: one["redis_cpu_us"] for one in requests if one["contender"] == OURS}
    rows = []
    if cost:
        mixes = (
            ("reads only", {"read": 1.0}),
            ("reads only, in the trigger window", {"read in trigger window": 1.0}),
            (
                f"{1 - WRITES:.0%} reads, {WRITES:.0%} writes of one key",
                {"read": 1 - WRITES, "write one key": WRITES},
            ),
        )
        for name, mix in mixes:
            mean = sum(share * cost[scenario] for scenario, share in mix.items())
            busy = mean * REQUESTS / 1e6
            terms = " + ".join(
                f"{share:g} x {cost[scenario]:.1f}" for scenario, share in mix.items()
            )
            rows.append(
                [
                    name,
                    f"{terms} = {mean:.1f} us" if len(mix) > 1 else f"{mean:.1f} us",
                    f"{mean:.1f} us x {REQUESTS:,} = {busy:.1f}",
                    f"{busy:.1f} / {BUSY:g} = {busy / BUSY:.1f}",
                ]
            )
    head = ["requests", "Redis CPU of one", "busy cores", f"primaries, each busy {BUSY:.0%}"]
    title = f"Cores of Redis for {REQUESTS:,} requests per second"
    return Table("scaling-cores", title, head, rows, (0,))


def _network(traffic: list[dict[str, Any]]) -> Table:
    rows = []
    for one in traffic:
        if one["contender"] == OURS and one["round_trips"]:
            total = one["bytes_sent"] + one["bytes_received"]
            rows.append(
                [
                    one["scenario"],
                    str(one["round_trips"]),
                    f"{one['bytes_sent']} + {one['bytes_received']} = {total}",
                    f"{total} x {REQUESTS:,} x 8 = {total * REQUESTS * 8 / GB:.2f} Gbit/s",
                ]
            )
    head = ["request", "round trips", "bytes out + in", f"at {REQUESTS:,} requests per second"]
    return Table("scaling-network", "Network between application and Redis", head, rows, (0,))


def _trigger(propagation: list[dict[str, Any]]) -> Table:
    rows = []
    for one in propagation:
        if one["contender"] == OURS and one["scenario"].startswith("read"):
            rows.append(
                [
                    one["scenario"],
                    f"{one['replication']:.0f} x {REQUESTS:,} "
                    f"= {one['replication'] * REQUESTS / 1e6:.1f} MB/s",
                    f"{one['aof']:.0f} x {REQUESTS:,} x 3,600 "
                    f"= {one['aof'] * REQUESTS * 3600 / GB:.1f} GB/h",
                ]
            )
    head = ["request", "to each replica", "to the append-only file"]
    title = f"What {REQUESTS:,} reads per second write"
    return Table("scaling-trigger", title, head, rows, (0,))


if __name__ == "__main__":
    write(json.loads((FIGURES / NAME).read_text(encoding="utf-8")), FIGURES)
