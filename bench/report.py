"""Compares what was measured, beside what the engine is meant to reach, and makes tables of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from .contenders import BARE, NONE, OURS, PREDECESSOR, SMALLEST
from .measuring import Series, Spread, Timings
from .memory import DEFAULT, RECOMMENDED

__all__ = [
    "Ratio",
    "Table",
    "Target",
    "as_text",
    "ratios",
    "spreads",
    "tables",
    "targets",
    "text",
]

MICRO = 1e6

#: What is compared, to the attribute of :class:`Series`.
KINDS = {"time": "wall", "app CPU": "app_cpu", "Redis CPU": "redis_cpu"}
WHOLE = "whole request"
#: From a Redis CPU of less, per request, no ratio is made: the request sends nothing.
IDLE_SECONDS = 3e-6


# -- ratios ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """This engine's figure divided by another contender's: median and quartiles of the rounds.

    :ivar scenario: its name; ``of``: what is compared; ``against``: with whose.
    """

    scenario: str
    of: str
    against: str
    median: float
    low: float
    high: float


def ratios(timings: Timings) -> list[Ratio]:
    """Return all ratios of this engine to the others.

    What is compared is a session's own cost: the request, less the same request without a
    session in the same round; but for ``WHOLE``.
    """
    series = timings.series
    found = []
    for scenario in dict.fromkeys(name for name, _ in series):
        ours, none = series.get((scenario, OURS)), series.get((scenario, NONE))
        if ours is None or none is None:
            continue
        for against in (PREDECESSOR, BARE, SMALLEST):
            theirs = series.get((scenario, against))
            if theirs is None:
                continue
            pairs = {
                of: (own(ours, none, kind), own(theirs, none, kind)) for of, kind in KINDS.items()
            }
            if Spread.of(pairs["Redis CPU"][1]).median < IDLE_SECONDS:
                del pairs["Redis CPU"]
            pairs[WHOLE] = (ours.wall, theirs.wall)
            for of, (one, other) in pairs.items():
                spread = _ratio(one, other)
                if spread is not None:
                    found.append(Ratio(scenario, of, against, **asdict(spread)))
    return found


def own(one: Series, none: Series, kind: str) -> list[float]:
    """Return what a session costs, round by round."""
    pairs = zip(getattr(one, kind), getattr(none, kind), strict=True)
    return [whole - floor for whole, floor in pairs]


def _ratio(ours: list[float], theirs: list[float]) -> Spread | None:
    found = [a / b for a, b in zip(ours, theirs, strict=True) if b > 0]
    return Spread.of(found) if found else None


def spreads(timings: Timings) -> list[dict[str, Any]]:
    """Return what every lane took, microseconds per request: ``whole``, and its own."""
    found = []
    for (scenario, contender), one in timings.series.items():
        none = timings.series.get((scenario, NONE), one)
        kinds = {of: own(one, none, kind) for of, kind in KINDS.items()}
        found.append(
            {
                "scenario": scenario,
                "contender": contender,
                **{
                    of: asdict(Spread.of([second * MICRO for second in seconds]))
                    for of, seconds in {WHOLE: one.wall, **kinds}.items()
                },
            }
        )
    return found


# -- targets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What the engine is meant to reach, beside what it reached.

    :ivar least: the most that is allowed; ``aim``: what would be better still.
    :ivar spread: what was measured.
    """

    what: str
    most: float
    aim: float | None
    spread: Spread
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.spread.median > self.most:
            return "missed" if self.spread.low > self.most else "missed, within the spread"
        if self.aim is not None and self.spread.median > self.aim:
            return "met, not the aim"
        return "met"


#: (part, scenario, what, against whom, at most, aim)
TIMED_TARGETS = (
    ("requests", "read", "time", PREDECESSOR, 0.6, None),
    ("requests", "read", "Redis CPU", PREDECESSOR, 0.6, None),
    ("requests", "first write", "time", PREDECESSOR, 0.4, None),
    ("requests", "write one key", "time", PREDECESSOR, 1.1, 1.0),
    ("requests", "read", WHOLE, BARE, 1.5, 1.35),
    ("delay", "read", "time", PREDECESSOR, 0.55, None),
)
#: (shape, hash-max-listpack-value, at most), in terms of the predecessor's memory
MEMORY_TARGETS = (
    ("CSRF token only", DEFAULT, 0.85),
    ("typical", DEFAULT, 1.25),
    ("typical, written 6 times in a row", DEFAULT, 1.6),
    ("values over 64 bytes", DEFAULT, 1.25),
    ("values over 64 bytes", RECOMMENDED, 1.25),
)
BYTES_TARGET = 0.01
SEAL_BYTES, SEAL_TARGET = 64, 1.0


def targets(found: dict[str, Any]) -> list[Target]:
    """Return all targets whose figures were measured."""
    reached = []
    for part, scenario, of, against, most, aim in TIMED_TARGETS:
        for one in _found(found, part, {}).get("ratios", []):
            if (one["scenario"], one["of"], one["against"]) == (scenario, of, against):
                over = f", +{found[part]['found']['delay_ms']:g} ms" if part == "delay" else ""
                what = f"{scenario}{over}: {of}, against {against}"
                spread = Spread(one["median"], one["low"], one["high"])
                reached.append(Target(what, most, aim, spread))
    sent = {one["contender"]: one["bytes_sent"] for one in _of("write one key", found, "large")}
    if sent:
        spread = Spread.of([sent[OURS] / sent[PREDECESSOR]])
        what = f"write one key of 100 KB: bytes sent, against {PREDECESSOR}"
        reached.append(Target(what, BYTES_TARGET, None, spread))
    for shape, limit, most in MEMORY_TARGETS:
        stored = {
            one["contender"]: one["bytes"]
            for one in _found(found, "memory", {"shapes": []})["shapes"]
            if (one["shape"], one["limit"]) == (shape, limit)
        }
        if stored:
            spread = Spread.of([stored[OURS] / stored[PREDECESSOR]])
            what = f"memory, {shape}, hash-max-listpack-value {limit}, against {PREDECESSOR}"
            reached.append(Target(what, most, None, spread))
    for one in _found(found, "seal", []):
        if one["bytes"] == SEAL_BYTES:
            spread = Spread(**one["seal_us"])
            what = f"sealing a value of {SEAL_BYTES} bytes"
            reached.append(Target(what, SEAL_TARGET, None, spread, " us"))
    return reached


def _found(found: dict[str, Any], part: str, default: Any) -> Any:
    return found[part]["found"] if part in found else default


def _of(scenario: str, found: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return [one for one in _found(found, part, []) if one["scenario"] == scenario]


# -- tables ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table, for people and for pages.

    :ivar note: what has to be said to it.
    :ivar left: columns of text; all others hold numbers.
    """

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]
    left: tuple[int, ...] = (0,)
    note: str = ""


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Make tables of all that was measured."""
    if targets(found):
        yield _targets_table(found)
    for part in found:
        if part != "run":
            low, high = sorted(found[part]["load_average"])
            for table in _tables_of(found, part):
                load = f"Load average of the machine: {low:.1f} to {high:.1f}."
                yield replace(table, note=" ".join(filter(None, (table.note, load))))


def _tables_of(all_found: dict[str, Any], part: str) -> Iterator[Table]:
    found = {part: all_found[part]}
    for part, title in (
        ("requests", "A typical session"),
        ("delay", "The same, over a slow network"),
    ):
        if part in found:
            yield from _request_tables(part, title, found[part]["found"])
    for part, title, unit in (
        ("sizes", "Size of the session, bytes", "session_bytes"),
        ("keys", "Keys in the session", "session_keys"),
        ("live", "Live sessions in Redis", "sessions"),
    ):
        if part in found:
            yield _growth_table(part, title, unit, found[part]["found"])
    if "memory" in found:
        yield _memory_table(found["memory"]["found"])
    if "listpack" in found:
        yield _listpack_table(found["listpack"]["found"])
    if "seal" in found:
        yield Table(
            "seal",
            "What a seal costs, CPU time",
            ["bytes of the value", "seal us", "verify us"],
            [
                [f"{one['bytes']:,}", _spread(one["seal_us"]), _spread(one["open_us"])]
                for one in found["seal"]["found"]
            ],
            left=(),
        )
    if "capacity" in found:
        yield _capacity_table(found["capacity"]["found"])
    if "propagation" in found:
        yield _propagation_table(found["propagation"]["found"])


def _targets_table(found: dict[str, Any]) -> Table:
    return Table(
        "targets",
        "Targets",
        ["what", "at most", "reached", ""],
        [
            [
                target.what,
                f"{target.most:g}{target.unit}"
                + ("" if target.aim is None else f" (aim {target.aim:g})"),
                _spread(asdict(target.spread)) + target.unit,
                target.verdict,
            ]
            for target in targets(found)
        ],
        left=(0, 3),
    )


def _request_tables(part: str, title: str, found: dict[str, Any]) -> Iterator[Table]:
    of_whom = [(one["scenario"], one["against"]) for one in found["ratios"]]
    rows = []
    for scenario, against in dict.fromkeys(of_whom):
        cells = {
            one["of"]: _spread(one)
            for one in found["ratios"]
            if (one["scenario"], one["against"]) == (scenario, against)
        }
        rows.append([scenario, against, *(cells.get(of, "") for of in (*KINDS, WHOLE))])
    yield Table(
        f"{part}-ratios",
        f"{title}: this engine divided by the others",
        ["request", "against", "time", "app CPU", "Redis CPU", WHOLE],
        rows,
        left=(0, 1),
    )
    traffic = {(one["scenario"], one["contender"]): one for one in found.get("traffic", [])}
    rows = []
    for one in sorted(found["absolute"], key=lambda one: _order(found, one["scenario"])):
        sent = traffic.get((one["scenario"], one["contender"]))
        row = [one["scenario"], one["contender"], _whole(one[WHOLE])]
        row += [_whole(one[of]) if one["contender"] != NONE else "" for of in KINDS]
        if traffic:
            assert sent is not None
            row += [str(sent[name]) for name in ("round_trips", "bytes_sent", "bytes_received")]
            row.append(" ".join(sent["commands"]))
        rows.append(row)
    head = ["request", "contender", "whole us", "own us", "app CPU us", "Redis CPU us"]
    if traffic:
        head += ["round trips", "bytes out", "bytes in", "commands"]
    yield Table(f"{part}-absolute", f"{title}: medians per request", head, rows, left=(0, 1, 9))


def _order(found: dict[str, Any], scenario: str) -> int:
    return [one["scenario"] for one in found["absolute"]].index(scenario)


def _growth_table(part: str, title: str, unit: str, found: list[dict[str, Any]]) -> Table:
    rows = []
    for one in found:
        traffic = {(sent["scenario"], sent["contender"]): sent for sent in one.get("traffic", [])}
        for scenario in ("read", "write one key"):
            cells = {
                ratio["of"]: _spread(ratio)
                for ratio in one["ratios"]
                if (ratio["scenario"], ratio["against"]) == (scenario, PREDECESSOR)
            }
            row = [f"{one[unit]:,}", scenario, *(cells.get(of, "") for of in KINDS)]
            for contender in (OURS, PREDECESSOR):
                absolute = next(
                    found["Redis CPU"]
                    for found in one["absolute"]
                    if (found["scenario"], found["contender"]) == (scenario, contender)
                )
                row.append(_whole(absolute))
            for contender in (OURS, PREDECESSOR) if traffic else ():
                sent = traffic[scenario, contender]
                row.append(f"{sent['bytes_sent']:,} / {sent['bytes_received']:,}")
            rows.append(row)
    head = [unit.replace("_", " "), "request", *KINDS]
    head += [f"Redis CPU us, {contender}" for contender in (OURS, PREDECESSOR)]
    if rows and len(rows[0]) > len(head):
        head += [f"bytes out / in, {contender}" for contender in (OURS, PREDECESSOR)]
    return Table(part, f"{title}: ratios to {PREDECESSOR}", head, rows, left=(1,))


def _memory_table(found: dict[str, Any]) -> Table:
    rows = []
    for ours in found["shapes"]:
        if ours["contender"] == OURS:
            (theirs,) = (
                one["bytes"]
                for one in found["shapes"]
                if (one["shape"], one["limit"], one["contender"])
                == (ours["shape"], ours["limit"], PREDECESSOR)
            )
            row = [ours["shape"], str(ours["limit"]), f"{ours['bytes']:.0f}", f"{theirs:.0f}"]
            rows.append([*row, f"{ours['bytes'] / theirs:.2f}", ours["encoding"]])
    return Table(
        "memory",
        "Memory per session, bytes",
        ["session", "hash-max-listpack-value", OURS, PREDECESSOR, "ratio", "encoding"],
        rows,
        left=(0, 5),
    )


def _listpack_table(found: list[dict[str, Any]]) -> Table:
    limits = list(dict.fromkeys(one["limit"] for one in found))
    rows = []
    for shape in dict.fromkeys(one["shape"] for one in found):
        cells = {one["limit"]: one for one in found if one["shape"] == shape}
        rows.append([shape, *(f"{cells[limit]['bytes']:,.0f}" for limit in limits)])
    return Table(
        "listpack",
        "Memory per session, bytes, by hash-max-listpack-value",
        ["session", *map(str, limits)],
        rows,
    )


def _capacity_table(found: dict[str, Any]) -> Table:
    rows = [
        [
            one["scenario"],
            one["contender"],
            " ".join(one["commands"]),
            f"{one['redis_cpu_us']:.1f}",
            f"{one['per_core']:,.0f}",
        ]
        for one in found["requests"]
    ]
    head = ["request", "contender", "commands", "Redis CPU us", "requests per second of a core"]
    note = found.get("missing", "")
    return Table("capacity", "What one core of Redis bears", head, rows, (0, 1, 2), note)


def _propagation_table(found: list[dict[str, Any]]) -> Table:
    rows = [
        [one["scenario"], one["contender"], f"{one['replication']:.0f}", f"{one['aof']:.0f}"]
        for one in found
    ]
    head = ["request", "contender", "replication", "append-only file"]
    return Table("propagation", "Bytes per request to a replica and to disk", head, rows, (0, 1))


def _spread(spread: dict[str, Any]) -> str:
    median, low, high = (_number(spread[name]) for name in ("median", "low", "high"))
    return median if low == high == median else f"{median} ({low} - {high})"


def _whole(spread: dict[str, Any]) -> str:
    return f"{spread['median']:.0f}"


def _number(value: float) -> str:
    return f"{value:.4f}" if 0 < math.fabs(value) < 0.1 else f"{value:.2f}"


# -- printing --------------------------------------------------------------------------


def text(found: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{name}: {value}" for name, value in found["run"].items()]
    lines += [
        "",
        "Ratios are medians over the rounds, with quartiles. Time and CPU are a session's own:",
        "the same request without a session is subtracted.",
    ]
    return "\n".join([*lines, "", as_text(tables(found))])


def as_text(tables: Iterable[Table]) -> str:
    """Return tables for people."""
    lines = []
    for table in tables:
        lines += [table.title, "", *_aligned(table.head, table.rows, table.left)]
        lines += [table.note, ""] if table.note else [""]
    return "\n".join(lines[:-1])


def _aligned(head: list[str], rows: Iterable[list[str]], left: tuple[int, ...]) -> list[str]:
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
