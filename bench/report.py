"""Compares what was measured, beside what the engine is meant to reach, and prints it."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Iterable
from typing import Any

import redis

from .contenders import BARE, NONE, OURS, PREDECESSOR
from .measuring import Series, Spread, Timings, Traffic, Where

__all__ = ["Figure", "as_json", "compare", "machine", "text"]

MICRO = 1e6

#: What is compared, to the attribute of :class:`Series`.
KINDS = {"time": "wall", "app CPU": "app_cpu", "Redis CPU": "redis_cpu"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One ratio, with what it should be at most.

    :ivar scenario: its name; ``of``: what is compared; ``against``: with whose.
    :ivar target: the most that is allowed; ``None`` where there is no target.
    :ivar aim: what would be better still.
    """

    scenario: str
    of: str
    against: str
    ratio: Spread
    target: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.ratio.median > self.target:
            return "MISSED"
        return "met" if self.aim is None or self.ratio.median <= self.aim else "met, not the aim"


#: (scenario, what) to (target, aim), against the predecessor.
TARGETS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("read", "time"): (0.6, None),
    ("read", "Redis CPU"): (0.6, None),
    ("first write", "time"): (0.4, None),
    ("write one key", "time"): (1.1, 1.0),
}
FLOOR_TARGET = (1.5, 1.35)
BYTES_TARGET = 0.01


def compare(
    timings: Timings, traffic: dict[Where, Traffic], large_traffic: dict[Where, Traffic]
) -> list[Figure]:
    """Return all ratios of this engine to the others.

    What is compared with the predecessor is a session's own cost: the request, less the same
    request without a session in the same round.
    """
    series = timings.series
    figures = []
    for scenario in dict.fromkeys(name for name, _ in series):
        ours, theirs, none = (
            series.get((scenario, contender)) for contender in (OURS, PREDECESSOR, NONE)
        )
        if ours is None or theirs is None or none is None:
            continue
        for of, kind in KINDS.items():
            ratio = _ratio(_own(ours, none, kind), _own(theirs, none, kind))
            if ratio is not None and (kind != "redis_cpu" or _talks(traffic, scenario)):
                target, aim = TARGETS.get((scenario, of), (None, None))
                figures.append(Figure(scenario, of, PREDECESSOR, ratio, target, aim))
        bare = series.get((scenario, BARE))
        if bare is not None:
            whole = _ratio(ours.wall, bare.wall)
            if whole is not None:
                figures.append(Figure(scenario, "whole request", BARE, whole, *FLOOR_TARGET))
            for of, kind in KINDS.items():
                ratio = _ratio(_own(ours, none, kind), _own(bare, none, kind))
                if ratio is not None:
                    figures.append(Figure(scenario, of, BARE, ratio))
    figures += _bytes(large_traffic)
    return figures


def _bytes(traffic: dict[Where, Traffic]) -> Iterable[Figure]:
    ours = traffic.get(("write one key", OURS))
    theirs = traffic.get(("write one key", PREDECESSOR))
    if ours is not None and theirs is not None:
        ratio = Spread.of([ours.bytes_sent / theirs.bytes_sent])
        yield Figure("write one key", "bytes sent, 100 KB", PREDECESSOR, ratio, BYTES_TARGET)


def _talks(traffic: dict[Where, Traffic], scenario: str) -> bool:
    one = traffic.get((scenario, OURS))
    return one is not None and one.round_trips > 0


def _own(one: Series, none: Series, kind: str) -> list[float]:
    pairs = zip(getattr(one, kind), getattr(none, kind), strict=True)
    return [whole - floor for whole, floor in pairs]


def _ratio(ours: list[float], theirs: list[float]) -> Spread | None:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True) if b > 0]
    return Spread.of(ratios) if ratios else None


# -- printing --------------------------------------------------------------------------


def text(
    run: dict[str, Any], timings: Timings, traffic: dict[Where, Traffic], figures: list[Figure]
) -> str:
    """Return the report for people."""
    lines = [f"{name}: {value}" for name, value in run.items()]
    lines += [
        "",
        "Medians per request; own time and CPU: less the same request without a session",
        "",
    ]
    lines += _table(
        [
            "scenario",
            "contender",
            "time us",
            "own us",
            "app CPU us",
            "Redis CPU us",
            "round trips",
            "bytes out",
            "bytes in",
            "commands",
        ],
        _absolute(timings, traffic),
        left=(0, 1, 9),
    )
    lines += [
        "",
        f"Ratios of {OURS} to the others: medians of the rounds' ratios, with quartiles;",
        "time and CPU are a session's own (see above)",
        "",
    ]
    lines += _table(
        ["scenario", "what", "against", "ratio", "quartiles", "target", ""],
        (
            [
                figure.scenario,
                figure.of,
                figure.against,
                _number(figure.ratio.median),
                f"{_number(figure.ratio.low)} - {_number(figure.ratio.high)}",
                _target(figure),
                figure.verdict,
            ]
            for figure in figures
        ),
        left=(0, 1, 2, 5, 6),
    )
    return "\n".join(lines)


def _absolute(timings: Timings, traffic: dict[Where, Traffic]) -> Iterable[list[str]]:
    for (scenario, contender), one in sorted_by_scenario(timings.series):
        none = timings.series.get((scenario, NONE), one)
        exchanged = traffic.get((scenario, contender), Traffic(0, [], 0, 0))
        yield [
            scenario,
            contender,
            f"{Spread.of(one.wall).median * MICRO:.0f}",
            *(f"{Spread.of(_own(one, none, kind)).median * MICRO:.0f}" for kind in KINDS.values()),
            str(exchanged.round_trips),
            str(exchanged.bytes_sent),
            str(exchanged.bytes_received),
            " ".join(exchanged.commands),
        ]


def sorted_by_scenario(series: dict[Where, Series]) -> list[tuple[Where, Series]]:
    """Return the series with those of one scenario together."""
    order = list(dict.fromkeys(scenario for scenario, _ in series))
    return sorted(series.items(), key=lambda item: order.index(item[0][0]))


def _number(value: float) -> str:
    return f"{value:.4f}" if math.fabs(value) < 0.1 else f"{value:.2f}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"<= {figure.target}" + ("" if figure.aim is None else f" (aim {figure.aim})")


def _table(head: list[str], rows: Iterable[list[str]], left: tuple[int, ...]) -> list[str]:
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


# -- for machines ------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "redis-py": redis.__version__,
        "parser": "hiredis" if redis.utils.HIREDIS_AVAILABLE else "Python",
    }


def as_json(
    run: dict[str, Any],
    timings: Timings,
    traffic: dict[Where, Traffic],
    large_traffic: dict[Where, Traffic],
    figures: list[Figure],
) -> dict[str, Any]:
    """Return all that was measured, as JSON takes it. Times are seconds per request."""
    return {
        "run": run,
        "timings": [
            {"scenario": scenario, "contender": contender, **dataclasses.asdict(one)}
            for (scenario, contender), one in timings.series.items()
        ],
        "traffic": _traffic(traffic),
        "traffic_of_large_session": _traffic(large_traffic),
        "ratios": [{**dataclasses.asdict(figure), "verdict": figure.verdict} for figure in figures],
    }


def _traffic(traffic: dict[Where, Traffic]) -> list[dict[str, Any]]:
    return [
        {"scenario": scenario, "contender": contender, **dataclasses.asdict(one)}
        for (scenario, contender), one in traffic.items()
    ]
