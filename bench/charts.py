"""Draws the charts of the documentation. Needs matplotlib (the extra ``docs``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .contenders import OURS, PREDECESSOR
from .report import BYTES_TARGET, MEMORY_TARGETS, TIMED_TARGETS

__all__ = ["draw"]

OURS_COLOUR, THEIRS_COLOUR, FLOOR_COLOUR, TARGET_COLOUR = "#2563eb", "#9ca3af", "#d97706", "#b91c1c"
#: As narrow as a phone, inches: on one, its labels keep about the size that the page's text has.
WIDTH = 5.0
#: A legend that hides nothing.
ABOVE: dict[str, Any] = {
    "loc": "lower left",
    "bbox_to_anchor": (0, 1),
    "ncols": 2,
    "frameon": False,
    "columnspacing": 1,
}
#: Numbers on a logarithmic axis, without small exponents.
PLAIN = "{x:,.10g}"


def draw(found: dict[str, Any], directory: Path) -> None:
    """Draw what was measured, as SVG files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "bench",  # the same figures give the same file
            "svg.fonttype": "none",  # text as text: small, and readable for machines
            "font.size": 10,
            "axes.axisbelow": True,
        }
    )
    charts = {
        "requests": _requests,
        "delay": _requests,
        "sizes": _sizes,
        "keys": _keys,
        "live": _live,
        "memory": _memory,
        "propagation": _propagation,
    }
    for part, chart in charts.items():
        if part in found:
            chart(found[part]["found"], directory / f"{part}.svg")


@contextmanager
def _figure(path: Path, height: float, rows: int = 1) -> Iterator[Any]:
    """Draw a figure of that height, in inches; several charts stand one below the other."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, 1, figsize=(WIDTH, height), layout="constrained")
    yield axes
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    # matplotlib leaves blanks at the ends of lines, which the repository's files do not have.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def _requests(found: dict[str, Any], path: Path) -> None:
    """Ratios to the predecessor, with quartiles and targets."""
    part = path.stem
    scenarios = list(dict.fromkeys(one["scenario"] for one in found["ratios"]))
    with _figure(path, 0.55 * len(scenarios) + 1.6) as axes:
        for offset, (of, colour) in enumerate((("time", OURS_COLOUR), ("Redis CPU", FLOOR_COLOUR))):
            for row, scenario in enumerate(scenarios):
                for one in found["ratios"]:
                    if (one["scenario"], one["of"], one["against"]) == (scenario, of, PREDECESSOR):
                        place = row + (offset - 0.5) * 0.36
                        spread = [[one["median"] - one["low"]], [one["high"] - one["median"]]]
                        axes.barh(place, one["median"], 0.34, color=colour, xerr=spread, capsize=2)
                for where, name, what, against, most, _ in TIMED_TARGETS:
                    if (where, name, what, against) == (part, scenario, of, PREDECESSOR):
                        place = row + (offset - 0.5) * 0.36
                        axes.plot([most, most], [place - 0.17, place + 0.17], color=TARGET_COLOUR)
        axes.set_yticks(range(len(scenarios)), scenarios)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel(f"divided by {PREDECESSOR}:\nless than 1 is cheaper; red: the target")
        axes.grid(axis="x", alpha=0.3)
        handles = [_patch(OURS_COLOUR, "time of a session"), _patch(FLOOR_COLOUR, "Redis CPU")]
        axes.legend(handles=handles, **ABOVE)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _sizes(found: list[dict[str, Any]], path: Path) -> None:
    """Bytes on the wire, and time, against the size of the session."""
    with _figure(path, 7, rows=2) as (top, bottom):
        sizes = [one["session_bytes"] / 1000 for one in found]
        for contender, colour in ((OURS, OURS_COLOUR), (PREDECESSOR, THEIRS_COLOUR)):
            for scenario, style in (("read", "--"), ("write one key", "-")):
                sent = [
                    next(
                        traffic["bytes_sent"]
                        for traffic in one["traffic"]
                        if (traffic["scenario"], traffic["contender"]) == (scenario, contender)
                    )
                    for one in found
                ]
                label = f"{contender}, {scenario}"
                top.plot(sizes, sent, style, color=colour, marker="o", label=label)
        top.set(yscale="log", ylabel="bytes sent to Redis")
        top.yaxis.set_major_formatter(PLAIN)
        top.axhline(
            BYTES_TARGET * 1e5, color=TARGET_COLOUR, linewidth=0.8, label="target at 100 KB"
        )
        _ratio_lines(bottom, found, sizes)
        for axes in (top, bottom):
            _against(axes, "session, KB")


def _keys(found: list[dict[str, Any]], path: Path) -> None:
    _growth(found, path, "session_keys", "keys in the session")


def _live(found: list[dict[str, Any]], path: Path) -> None:
    _growth(found, path, "sessions", "live sessions in Redis")


def _growth(found: list[dict[str, Any]], path: Path, unit: str, label: str) -> None:
    with _figure(path, 6.5, rows=2) as (top, bottom):
        counts = [one[unit] for one in found]
        _ratio_lines(top, found, counts)
        for contender, colour in ((OURS, OURS_COLOUR), (PREDECESSOR, THEIRS_COLOUR)):
            for scenario, style in (("read", "--"), ("write one key", "-")):
                spent = [
                    next(
                        absolute["Redis CPU"]["median"]
                        for absolute in one["absolute"]
                        if (absolute["scenario"], absolute["contender"]) == (scenario, contender)
                    )
                    for one in found
                ]
                label_of_line = f"{contender}, {scenario}"
                bottom.plot(counts, spent, style, color=colour, marker="o", label=label_of_line)
        bottom.set_ylabel("Redis CPU per request, us")
        bottom.set_ylim(bottom=0)
        for axes in (top, bottom):
            _against(axes, label)


def _against(axes: Any, label: str) -> None:
    """Finish a chart that has a logarithmic axis of that name."""
    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_formatter(PLAIN)
    axes.legend(**ABOVE)
    axes.grid(alpha=0.3)


def _ratio_lines(axes: Any, found: list[dict[str, Any]], across: list[float]) -> None:
    for scenario, style in (("read", "--"), ("write one key", "-")):
        ratios = [
            next(
                ratio
                for ratio in one["ratios"]
                if (ratio["scenario"], ratio["of"], ratio["against"])
                == (scenario, "time", PREDECESSOR)
            )
            for one in found
        ]
        medians = [ratio["median"] for ratio in ratios]
        axes.plot(across, medians, style, color=OURS_COLOUR, marker="o", label=scenario)
        axes.fill_between(
            across,
            [ratio["low"] for ratio in ratios],
            [ratio["high"] for ratio in ratios],
            color=OURS_COLOUR,
            alpha=0.15,
        )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"time, divided by {PREDECESSOR}")


def _memory(found: dict[str, Any], path: Path) -> None:
    """Bytes per session, by shape and configuration."""
    cases = list(dict.fromkeys((one["shape"], one["limit"]) for one in found["shapes"]))
    with _figure(path, 0.5 * len(cases) + 1.2) as axes:
        for offset, (contender, colour) in enumerate(
            ((OURS, OURS_COLOUR), (PREDECESSOR, THEIRS_COLOUR))
        ):
            stored = {
                (one["shape"], one["limit"]): one["bytes"]
                for one in found["shapes"]
                if one["contender"] == contender
            }
            places = [row + (offset - 0.5) * 0.36 for row in range(len(cases))]
            axes.barh(places, [stored[case] for case in cases], 0.34, color=colour, label=contender)
            for shape, limit, most in MEMORY_TARGETS:
                if contender == PREDECESSOR and (shape, limit) in stored:
                    row, at_most = cases.index((shape, limit)), most * stored[shape, limit]
                    axes.plot([at_most] * 2, [row - 0.36, row], color=TARGET_COLOUR)
        axes.set_yticks(range(len(cases)), [f"{shape}\n(limit {limit})" for shape, limit in cases])
        axes.invert_yaxis()
        axes.set_xlabel("bytes per session; red: the target;\nlimit: hash-max-listpack-value")
        axes.legend(**ABOVE)
        axes.grid(axis="x", alpha=0.3)


def _propagation(found: list[dict[str, Any]], path: Path) -> None:
    """What a request passes on to replicas and to disk."""
    scenarios = list(dict.fromkeys(one["scenario"] for one in found))
    with _figure(path, 3.4) as axes:
        for offset, (contender, colour) in enumerate(
            ((OURS, OURS_COLOUR), (PREDECESSOR, THEIRS_COLOUR))
        ):
            sent = {
                one["scenario"]: one["replication"]
                for one in found
                if one["contender"] == contender
            }
            places = [row + (offset - 0.5) * 0.36 for row in range(len(scenarios))]
            values = [sent[scenario] for scenario in scenarios]
            bars = axes.barh(places, values, 0.34, color=colour, label=contender)
            axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.set_yticks(range(len(scenarios)), scenarios)
        axes.invert_yaxis()
        axes.set_xlabel("bytes per request to a replica,\nand to the append-only file")
        axes.legend(**ABOVE)
        axes.grid(axis="x", alpha=0.3)
