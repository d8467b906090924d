"""``redis-lua-sessions stats``: how many sessions there are, how large and how old."""

from __future__ import annotations

import argparse
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..engine.fields import OWNER_FIELD
from ..engine.tokens import TOKEN_FIELD
from .console import Console, UsageError, duration, plural, size
from .found import all_hashes
from .target import Target, connected

__all__ = ["add_to", "percentile"]

#: Longest bar of a distribution, characters.
WIDTH = 40

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Measure(NamedTuple):
    """Something that every session has.

    :ivar bounds: between the classes of its distribution.
    :ivar words: says a value.
    :ivar unit: of the values as JSON has them, and what they are divided by.
    """

    name: str
    bounds: Sequence[int]
    words: Callable[[float], str]
    unit: tuple[str, int]


TIMES = (MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY)
MEASURES = (
    Measure("size", [2**power for power in range(8, 18)], size, ("bytes", 1)),
    Measure("age", TIMES, duration, ("seconds", 1000)),
    Measure("ends in", TIMES, duration, ("seconds", 1000)),
)

#: Fields by which a session is told from other hashes, that bound its life, and its owner.
READ = (TOKEN_FIELD, b"expires", b"deadline", b"first", b"moved", OWNER_FIELD)

PERCENTILES = (0, 50, 90, 99, 100)


class Statistics:
    """What a pass over all sessions found.

    :ivar values: of each measure, one a session; for those that never end, no
        remaining life.
    :ivar waiting: sessions whose cookie has not come back yet.
    :ivar never: those that never end.
    :ivar owned: those that have an owner.
    :ivar expired: those at their end that Redis has not removed.
    :ivar markers: of sessions that ended within the last minute.
    :ivar others: hashes under the prefix that are none of ours.
    """

    def __init__(self) -> None:
        self.values = {measure.name: array("q") for measure in MEASURES}
        self.waiting = self.never = self.owned = 0
        self.expired = self.markers = self.others = 0

    def gather(self, target: Target, advance: Callable[[int, str], None]) -> None:
        for steps, found in all_hashes(target, *READ, counted=False):
            for session in found:
                if session.ended:
                    self.markers += 1
                elif not session.stored_session:
                    self.others += 1
                elif not session.alive:
                    self.expired += 1
                else:
                    self.waiting += session.waiting
                    self.owned += OWNER_FIELD in session.stored.fields
                    self.values["size"].append(session.stored.size)
                    self.values["age"].append(session.age_ms)
                    if session.remaining_ms is None:
                        self.never += 1
                    else:
                        self.values["ends in"].append(session.remaining_ms)
            advance(steps, plural(self.number, "session"))

    @property
    def number(self) -> int:
        return len(self.values["size"])

    @property
    def size(self) -> int:
        return sum(self.values["size"])


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "stats",
        parents=[target],
        help="tell how many sessions there are, how large and how old",
        description="Count the sessions, and show the distribution of their size, age and "
        "remaining life. Scans all keys of the database, without blocking it or touching a "
        "session.",
    )
    command.add_argument(
        "--prometheus",
        action="store_true",
        help="print metrics in Prometheus' text format, for a file that node_exporter reads",
    )
    command.set_defaults(command=stats)


def stats(console: Console, args: argparse.Namespace) -> int:
    if args.prometheus and args.json:
        raise UsageError("give either --json or --prometheus")
    found = Statistics()
    with connected(args) as target, console.progress() as advance:
        found.gather(target, advance)
        # Sessions that migrate carried over wait for their users without it, too.
        reason = " (first_timeout)" if target.settings.first_timeout else ""
        prefix = target.settings.prefix
    for values in found.values.values():
        values[:] = array("q", sorted(values))
    if args.json:
        console.json(document(found))
        return 0
    if args.prometheus:
        for line in exposition(document(found), prefix):
            console.out(line)
        return 0
    console.out(f"{plural(found.number, 'session')}, {size(found.size)} in all")
    for count, what in (
        (found.owned, "with an owner"),
        (found.never, "never end"),
        (found.waiting, f"whose cookie has not come back yet{reason}"),
        (found.expired, "more are at their end, and still stored"),
        (found.markers, "ended within the last minute"),
        (found.others, "other hashes under the prefix"),
    ):
        if count:
            console.out(f"{count:>9,}  {what}")
    if not found.number:
        return 0
    console.out()
    headings = ["", "least", "median", "90 %", "99 %", "most"]
    rows = []
    for measure in MEASURES:
        values = found.values[measure.name]
        if values:
            known = [measure.words(percentile(values, rank)) for rank in PERCENTILES]
            rows.append([measure.name, *known])
    console.table(headings, rows, numbers=headings)
    for measure in MEASURES:
        if found.values[measure.name]:
            console.out()
            show_distribution(console, measure, found)
    return 0


def distribution(measure: Measure, values: Sequence[int]) -> list[int]:
    """Count the values below the first bound, between the first two, ..., from the last on."""
    counts = [0] * (len(measure.bounds) + 1)
    for value in values:
        counts[bisect_right(measure.bounds, value)] += 1
    return counts


def show_distribution(console: Console, measure: Measure, found: Statistics) -> None:
    counts = distribution(measure, found.values[measure.name])
    names = [f"under {measure.words(bound)}" for bound in measure.bounds]
    names.append(f"from {measure.words(measure.bounds[-1])}")
    if measure.name == "ends in" and found.never:
        names.append("never")
        counts.append(found.never)
    used = [number for number, count in enumerate(counts) if count]
    rows = []
    for number in range(used[0], used[-1] + 1):
        bar = "#" * -(-WIDTH * counts[number] // max(counts))
        rows.append([names[number], f"{counts[number]:,}", bar])
    console.table([measure.name, "sessions", ""], rows, numbers=[measure.name, "sessions"])


def document(found: Statistics) -> dict[str, Any]:
    result: dict[str, Any] = {
        "sessions": found.number,
        "bytes": found.size,
        "with_owner": found.owned,
        "never_end": found.never,
        "cookie_not_back_yet": found.waiting,
        "at_their_end": found.expired,
        "ended_markers": found.markers,
        "other_hashes": found.others,
    }
    for measure in MEASURES:
        values = found.values[measure.name]
        unit, divisor = measure.unit
        result[f"{measure.name.replace(' ', '_')}_{unit}"] = {
            **{
                f"p{rank}": percentile(values, rank) / divisor if values else None
                for rank in PERCENTILES
            },
            "distribution": [
                {"from": low / divisor, "below": high and high / divisor, "sessions": count}
                for low, high, count in zip(
                    [0, *measure.bounds],
                    [*measure.bounds, None],
                    distribution(measure, values),
                    strict=True,
                )
            ],
        }
    return result


#: Key of the document to the name of a metric, and what that is.
GAUGES = {
    "sessions": ("redis_sessions_stored", "Sessions that are stored"),
    "bytes": ("redis_sessions_stored_bytes", "Memory that the sessions take in Redis"),
    "with_owner": ("redis_sessions_stored_with_owner", "Sessions that have an owner"),
    "never_end": ("redis_sessions_stored_never_end", "Sessions that never end"),
    "cookie_not_back_yet": (
        "redis_sessions_stored_cookie_not_back_yet",
        "Sessions whose cookie has not come back yet",
    ),
    "at_their_end": ("redis_sessions_stored_at_their_end", "Sessions that ended, and take memory"),
    "ended_markers": (
        "redis_sessions_stored_ended_markers",
        "Sessions that were ended within the last minute",
    ),
    "other_hashes": (
        "redis_sessions_stored_other_hashes",
        "Hashes under the prefix that are no sessions",
    ),
    "size_bytes": ("redis_sessions_stored_size_bytes", "Memory of a session, by quantile"),
    "age_seconds": ("redis_sessions_stored_age_seconds", "Age of a session, by quantile"),
    "ends_in_seconds": (
        "redis_sessions_stored_ends_in_seconds",
        "Life that a session has left, by quantile",
    ),
}


def exposition(found: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Write a document in Prometheus' text format, line by line.

    https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
    """
    escaped = prefix.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    for key, (name, words) in GAUGES.items():
        yield f"# HELP {name} {words}"
        yield f"# TYPE {name} gauge"
        if not isinstance(found[key], dict):
            yield f'{name}{{prefix="{escaped}"}} {found[key]}'
            continue
        for rank in PERCENTILES:
            value = found[key][f"p{rank}"]
            if value is not None:
                yield f'{name}{{prefix="{escaped}",quantile="{rank / 100:g}"}} {value}'


def percentile(ordered: Sequence[float], rank: int) -> float:
    """Return the smallest value that so many percent of all do not exceed (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * rank // 100) - 1)]
