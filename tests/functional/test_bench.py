"""The benchmark runs to its end, and what it counts is right; what it times is no test's matter."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROUNDS = 3
SCENARIOS = {
    "no cookie",
    "read",
    "read in trigger window",
    "first write",
    "first token",
    "write one key",
    "login",
}
OURS, PREDECESSOR, NONE, BARE = "lua", "psr 1.8.1", "no session", "bare GETEX"
SMALLEST = "smallest script"


def python(*args: object) -> str:
    """Run Python in a process of its own: importing pyramid_session_redis changes the standard
    library."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pages(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a tiny run of everything has written what the documentation includes."""
    directory: Path = tmp_path_factory.mktemp("bench") / "figures"
    options = ["--effort", "tiny", "--server", redis_binary, "--pages", directory]
    (directory.parent / "printed").write_text(python("-m", "bench", *options))
    return directory


@pytest.fixture(scope="module")
def found(pages: Path) -> Any:
    """The same, as JSON."""
    return json.loads((pages / "benchmarks.json").read_text(encoding="utf-8"))


def traffic(found: Any, contender: str, what: str) -> dict[str, Any]:
    return {
        one["scenario"]: one[what]
        for one in found["requests"]["found"]["traffic"]
        if one["contender"] == contender
    }


def test_every_contender_is_timed_in_every_scenario(found: Any) -> None:
    timed = found["requests"]["found"]["absolute"]
    assert {(one["scenario"], one["contender"]) for one in timed} == {
        *(
            (scenario, contender)
            for scenario in SCENARIOS
            for contender in (NONE, PREDECESSOR, OURS)
        ),
        ("read", BARE),
        ("read", SMALLEST),
    }
    for one in timed:
        assert 0 < one["whole request"]["median"] < math.inf


def test_round_trips_are_those_that_the_design_states(found: Any) -> None:
    assert traffic(found, OURS, "round_trips") == {
        "no cookie": 0,
        "read": 1,
        "read in trigger window": 1,
        "first write": 1,
        "first token": 1,
        "write one key": 2,
        "login": 2,
    }
    assert traffic(found, PREDECESSOR, "round_trips") == {
        "no cookie": 0,
        "read": 2,
        "read in trigger window": 2,
        "first write": 4,
        "first token": 4,
        "write one key": 2,
        "login": 6,
    }
    assert set(traffic(found, NONE, "round_trips").values()) == {0}
    assert traffic(found, BARE, "round_trips") == {"read": 1}
    assert traffic(found, SMALLEST, "round_trips") == {"read": 1}


def test_the_smallest_script_reads_the_same_session(found: Any) -> None:
    """Else the ratio to it would say nothing of what our script does beyond it."""
    ours, smallest = (traffic(found, name, "bytes_received")["read"] for name in (OURS, SMALLEST))
    assert 0 < ours - smallest < 30  # the status and the life that is left
    assert traffic(found, SMALLEST, "commands") == {"read": ["EVALSHA"]}
    compared = {
        one["of"]
        for one in found["requests"]["found"]["ratios"]
        if (one["scenario"], one["against"]) == ("read", SMALLEST)
    }
    assert "Redis CPU" in compared


def test_a_read_of_the_predecessor_does_its_usual_work(found: Any) -> None:
    """Read twice within one second, a session is not written back: that would be no comparison."""
    assert traffic(found, PREDECESSOR, "commands")["read"] == ["GET", "SETEX"]


def test_a_write_to_a_large_session_sends_only_what_changed(found: Any) -> None:
    sent = {
        one["contender"]: one["bytes_sent"]
        for one in found["large"]["found"]
        if one["scenario"] == "write one key"
    }
    assert sent[PREDECESSOR] > 90_000
    assert sent[OURS] < 1_000


def test_a_slow_network_makes_each_round_trip_slower(found: Any) -> None:
    part = found["delay"]["found"]
    seconds = {
        (one["scenario"], one["contender"]): one["whole request"]["low"] / 1e6
        for one in part["absolute"]
    }
    delay = part["delay_ms"] / 1000
    for contender, round_trips in ((BARE, 1), (OURS, 1), (PREDECESSOR, 2)):
        assert seconds["read", contender] >= delay * round_trips
    assert seconds["first write", PREDECESSOR] >= delay * 4
    assert seconds["read", NONE] < delay


def test_memory_depends_on_the_session_and_on_the_configuration(found: Any) -> None:
    major = int(found["run"]["Redis"].partition(".")[0])
    # The target is 1.25, and Redis 6.2 takes a little more. Redis 8 stores a string, as that of the
    # other library, in less than versions before it.
    most = 1.4 if major == 8 else 1.26
    stored = {
        (one["shape"], one["limit"], one["contender"]): (one["bytes"], one["encoding"])
        for one in found["memory"]["found"]["shapes"]
    }
    for contender in (OURS, PREDECESSOR):
        small, medium, large = (
            stored[shape, 64, contender][0]
            for shape in ("CSRF token only", "typical", "values over 64 bytes")
        )
        # What is stored, and no more than some hundred bytes around each key and value.
        assert 100 < small < medium < large < 4000
    for shape in ("typical", "values over 64 bytes"):
        assert stored[shape, 64, OURS][1] in ("listpack", "ziplist")
        assert stored[shape, 64, OURS][0] <= most * stored[shape, 64, PREDECESSOR][0]
    often, theirs = (
        stored["typical, written 6 times in a row", 64, name] for name in (OURS, PREDECESSOR)
    )
    assert often[1] in ("listpack", "ziplist")
    assert often[0] <= 1.6 * theirs[0]


def test_a_read_in_the_trigger_window_writes_nothing(found: Any) -> None:
    written = {
        (one["scenario"], one["contender"]): (one["replication"], one["aof"])
        for one in found["propagation"]["found"]
    }
    assert written["read in trigger window", OURS] == (0, 0)
    assert all(0 < bytes_written < 200 for bytes_written in written["read", OURS])
    assert all(
        bytes_written > 0 for bytes_written in written["read in trigger window", PREDECESSOR]
    )


def test_seals_of_long_values_cost_more(found: Any) -> None:
    cost = {one["bytes"]: one["seal_us"]["median"] for one in found["seal"]["found"]}
    assert 0 < cost[64] < cost[100_000]


def test_redis_is_kept_busy_with_the_commands_of_real_requests(found: Any) -> None:
    part = found["capacity"]["found"]
    if "missing" in part:
        assert part["requests"] == []  # the embedded server brings no redis-benchmark
        return
    commands = {(one["scenario"], one["contender"]): one["commands"] for one in part["requests"]}
    assert commands["write one key", OURS] == ["HGETALL", "EVALSHA", "EVALSHA"]
    assert commands["read in trigger window", PREDECESSOR] == ["GET", "EXPIRE"]
    for one in part["requests"]:
        assert one["per_core"] == pytest.approx(1e6 / one["redis_cpu_us"])


def test_the_report_shows_ratios_beside_the_targets(pages: Path) -> None:
    printed = (pages.parent / "printed").read_text()
    for text in (
        "read: time, against psr 1.8.1",
        "read: whole request, against bare GETEX",
        "1.1 (aim 1)",
        "sealing a value of 64 bytes",
        "Memory per session, bytes",
        "Load average of the machine",
    ):
        assert text in printed


def test_every_figure_that_the_documentation_includes_is_written(pages: Path) -> None:
    """And the other way round: what is written is included somewhere."""
    included = set()
    for page in (CHECKOUT / "docs").glob("*.rst"):
        text = page.read_text(encoding="utf-8")
        included |= {word for word in text.split() if word.startswith("figures/")}
    written = {f"figures/{path.name}" for path in pages.iterdir() if path.suffix != ".json"}
    assert included - {"figures/benchmarks.json"} == written
    committed = {f"figures/{path.name}" for path in (CHECKOUT / "docs" / "figures").iterdir()}
    assert written <= committed


#: By so many bytes a count may differ between runs: a remaining life may have a digit less.
A_FEW_BYTES = 2


@pytest.fixture(scope="module")
def committed() -> Any:
    """What the documentation shows."""
    path = CHECKOUT / "docs" / "figures" / "benchmarks.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["requests", "large"])
def test_the_committed_traffic_is_that_of_the_code(part: str, found: Any, committed: Any) -> None:
    """Where this fails, the page is out of date: ``make bench-full`` on an idle machine."""

    def counted(all_found: Any) -> dict[tuple[str, str], Any]:
        part_found = all_found[part]["found"]
        rows = part_found["traffic"] if part == "requests" else part_found
        return {(one["scenario"], one["contender"]): one for one in rows}

    now, then = counted(found), counted(committed)
    assert set(now) == set(then)
    assert {where: one["commands"] for where, one in now.items()} == {
        where: one["commands"] for where, one in then.items()
    }
    for what in ("round_trips", "bytes_sent", "bytes_received"):
        assert {where: one[what] for where, one in now.items()} == {
            where: pytest.approx(one[what], abs=A_FEW_BYTES) for where, one in then.items()
        }, what


#: Redis takes memory in steps: what is a few bytes below one in a run can be above it in another.
A_STEP = 0.16


def test_the_committed_memory_is_that_of_the_code(found: Any, committed: Any) -> None:
    """As above; another version of Redis stores the same otherwise."""
    theirs, ours = (one["run"]["Redis"].rsplit(".", 1)[0] for one in (committed, found))
    if theirs != ours:
        pytest.skip(f"the figures are of Redis {theirs}, this is Redis {ours}")

    def measured(all_found: Any) -> dict[tuple[str, int, str], tuple[float, str]]:
        return {
            (one["shape"], one["limit"], one["contender"]): (one["bytes"], one["encoding"])
            for one in all_found["memory"]["found"]["shapes"]
        }

    assert measured(found) == {
        where: (pytest.approx(size, rel=A_STEP), encoding)
        for where, (size, encoding) in measured(committed).items()
    }


def test_the_committed_tables_are_those_of_the_committed_figures(tmp_path: Path) -> None:
    committed = CHECKOUT / "docs" / "figures"
    program = (
        "import json, pathlib, sys; from bench.pages import includes\n"
        "found = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "print(json.dumps(dict(includes(found))))"
    )
    texts = json.loads(python("-c", program, committed / "benchmarks.json"))
    assert texts == {path.stem: path.read_text() for path in committed.glob("*.inc")}


#: CSS pixels that a page's contents are wide, on a phone of 390.
PHONE = 358


def test_the_committed_charts_are_readable_on_a_phone_and_link_to_the_whole_picture() -> None:
    docs = CHECKOUT / "docs"
    pages = "".join(page.read_text(encoding="utf-8") for page in docs.glob("*.rst"))
    charts = sorted((docs / "figures").glob("*.svg"))
    assert charts
    for chart in charts:
        assert re.search(
            rf"image:: figures/{chart.name}\n   :alt: .+\n   :target: _images/{chart.name}\n", pages
        )
        text = chart.read_text(encoding="utf-8")
        width = re.search(r'viewBox="0 0 ([\d.]+) ', text)
        sizes = re.findall(r"font(?:-size)?: ([\d.]+)px", text)
        assert width
        assert sizes
        assert min(map(float, sizes)) * PHONE / float(width[1]) > 9


def test_a_part_measured_again_replaces_that_part_only(
    pages: Path, found: Any, tmp_path: Path, redis_binary: str
) -> None:
    copy = tmp_path / "figures"
    shutil.copytree(pages, copy)
    again = ["-m", "bench", "--effort", "tiny", "--part", "seal", "--server", redis_binary]
    python(*again, "--pages", copy)
    renewed = json.loads((copy / "benchmarks.json").read_text(encoding="utf-8"))
    assert renewed["seal"] != found["seal"]
    assert {**renewed, "seal": None} == {**found, "seal": None}

    # Figures of two versions do not belong on one page.
    renewed["run"]["Redis"] = "1.0"
    (copy / "benchmarks.json").write_text(json.dumps(renewed))
    with pytest.raises(AssertionError, match="measured elsewhere"):
        python(*again, "--pages", copy)


def test_the_committed_round_trips_of_peers_are_those_of_the_libraries(redis_binary: str) -> None:
    trips = json.loads(python("-m", "bench.peers", "--trips", "--server", redis_binary))
    table = (CHECKOUT / "docs" / "peers.inc").read_text(encoding="utf-8")
    head, *rows = (row.strip().splitlines() for row in table.split("* - ")[1:])
    names = list(trips["pyramid_redis_lua_sessions"])
    assert [cell.strip(" -") for cell in head[2:]] == names
    shown = {row[0]: [re.findall(r"\((\d)\)", cell)[0] for cell in row[2:]] for row in rows}
    assert shown == {name: [*map(str, counts.values())] for name, counts in trips.items()}
    assert trips["pyramid_redis_lua_sessions"] == {"read": 1, "write one key": 2, "first write": 1}


LOADED = """
import os, sys
from bench.__main__ import main
os.getloadavg = lambda: (float(sys.argv[1]),) * 3
os.cpu_count = lambda: 2
sys.stderr = sys.stdout
main(["--effort", "tiny", "--part", "seal", "--server", sys.argv[2]])
"""


def test_a_machine_that_is_not_idle_is_warned_of(redis_binary: str) -> None:
    warning = "warning: the machine is not idle, its load average is 1.2 on 2 CPUs"
    assert python("-c", LOADED, "1.2", redis_binary).startswith(warning)
    assert "warning" not in python("-c", LOADED, "0.9", redis_binary)


PARSE = """
import sys
from bench.__main__ import _parser
for line in sys.argv[1:]:
    _parser().parse_args(line.split())
"""


def test_commands_that_the_documentation_names_exist() -> None:
    start = "$ python -m bench "
    commands = [
        line.strip().removeprefix(start)
        for page in (CHECKOUT / "docs").glob("*.rst")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(start)
    ]
    assert len(commands) >= 4
    python("-c", PARSE, *commands)
    with pytest.raises(AssertionError, match="unrecognized"):
        python("-c", PARSE, "--misspelt")


# -- the arithmetic ----------------------------------------------------------------------

COMPARE = """
import json
from dataclasses import asdict
from bench.measuring import Series, Timings
from bench.report import ratios, spreads

def series(wall, redis_cpu):
    return Series([w * 1e-6 for w in wall], [w * 1e-6 for w in wall], [c * 1e-6 for c in redis_cpu])

timings = Timings({
    ("read", "no session"): series([10, 20, 10], [1, 1, 1]),
    ("read", "bare GETEX"): series([60, 70, 60], [21, 21, 21]),
    ("read", "psr 1.8.1"): series([210, 220, 410], [51, 51, 51]),
    ("read", "lua"): series([110, 70, 110], [26, 36, 21]),
    ("no cookie", "no session"): series([10, 10, 10], [1, 1, 1]),
    ("no cookie", "psr 1.8.1"): series([30, 30, 30], [1, 1, 1]),
    ("no cookie", "lua"): series([20, 20, 20], [1, 1, 1]),
}, 2.0)
print(json.dumps([[asdict(r) for r in ratios(timings)], spreads(timings)]))
"""


def test_ratios_are_medians_of_the_rounds_with_the_floor_subtracted() -> None:
    found, absolute = json.loads(python("-c", COMPARE))
    ratio = {
        (one["scenario"], one["of"], one["against"]): pytest.approx(
            (one["low"], one["median"], one["high"])
        )
        for one in found
    }
    # 100/200, 50/200, 100/400 of a session's own cost: of those the quartiles.
    assert ratio["read", "time", PREDECESSOR] == (0.25, 0.25, 0.375)
    assert ratio["read", "Redis CPU", PREDECESSOR] == (0.45, 0.5, 0.6)
    assert ratio["read", "whole request", BARE] == (1.4166667, 1.8333333, 1.8333333)
    assert ratio["no cookie", "time", PREDECESSOR] == (0.5, 0.5, 0.5)
    # Nothing was sent to Redis: no ratio of nothing to nothing.
    assert ("no cookie", "Redis CPU", PREDECESSOR) not in ratio
    ours = next(one for one in absolute if (one["scenario"], one["contender"]) == ("read", OURS))
    assert ours["whole request"]["median"] == pytest.approx(110)
    assert ours["time"]["median"] == pytest.approx(100)
    assert ours["Redis CPU"]["median"] == pytest.approx(25)


TARGETS = """
import json
from bench.measuring import Spread
from bench.report import Target

def verdict(most, aim, *spread):
    return Target("what", most, aim, Spread(*spread)).verdict

print(json.dumps([
    verdict(1.1, 1.0, 0.9, 0.8, 1.2),
    verdict(1.1, 1.0, 1.05, 0.8, 1.2),
    verdict(1.1, 1.0, 1.15, 1.0, 1.2),
    verdict(1.1, 1.0, 1.3, 1.2, 1.4),
    verdict(0.6, None, 0.6, 0.5, 0.7),
]))
"""


def test_a_target_is_met_by_the_median() -> None:
    assert json.loads(python("-c", TARGETS)) == [
        "met",
        "met, not the aim",
        "missed, within the spread",
        "missed",
        "met",
    ]


# -- instructions ------------------------------------------------------------------------

MARKS = """
import json, os, sys
from bench import instructions
from bench.driving import Lane

seen, run = [], Lane.run
os.getppid = lambda: seen.append("mark")

def noting(self, requests):
    seen.append([self.contender.name, self.scenario.name, requests])
    return run(self, requests)

Lane.run = noting
print(json.dumps([instructions.serve(sys.argv[1], 2), seen]))
"""


def test_only_the_requests_that_are_counted_lie_between_two_marks(
    redis_url: str,
) -> None:
    order, seen = json.loads(python("-c", MARKS, redis_url))
    scenarios = ["read", "read in trigger window", "write one key", "first write", "login"]
    for contender in (NONE, OURS, PREDECESSOR):
        assert [scenario for name, scenario in order if name == contender] == scenarios
    assert [BARE, "read"] in order
    assert seen == [
        step
        for contender, scenario in order
        for step in ([contender, scenario, 30], "mark", [contender, scenario, 2], "mark")
    ]


def test_cost_for_redis_is_measured_in_every_case(redis_binary: str) -> None:
    options = ("--rounds", 1, "--batch", 2, "--server", redis_binary)
    printed = python("-m", "bench.redis_cpu", *options)
    rows = [re.split(r"\s{2,}", line) for line in printed.splitlines()[4:]]
    cases = {name: figures for name, *figures in rows}
    assert set(cases) == {
        "read",
        "read in trigger window",
        "read, 100 KB",
        "write one key",
        "write one key, busy session",
    }
    for figures in cases.values():
        assert len(figures) == 5
        assert all(math.isfinite(float(figure)) for figure in figures)
