"""The benchmark runs to its end, and what it counts is right; what it times is no test's matter."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
ROUNDS = 3
SCENARIOS = {"no cookie", "read", "first write", "first token", "write one key", "login"}


@pytest.fixture(scope="module")
def run(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a tiny run prints, and its JSON."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    options = ["--rounds", str(ROUNDS), "--batch", "2", "--server", redis_binary]
    options += ["--json", str(path)]
    # A process of its own: importing pyramid_session_redis changes the standard library.
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def round_trips(found: dict[str, Any], contender: str) -> dict[str, int]:
    return {
        one["scenario"]: one["round_trips"]
        for one in found["traffic"]
        if one["contender"] == contender
    }


def test_every_contender_is_timed_in_every_scenario(run: tuple[str, dict[str, Any]]) -> None:
    _, found = run
    timed = {(one["scenario"], one["contender"]) for one in found["timings"]}
    sessions = {"no session", "psr 1.8.1", "lua"}
    assert timed == {(s, c) for s in SCENARIOS for c in sessions} | {("read", "bare GETEX")}
    for one in found["timings"]:
        for kind in ("wall", "app_cpu", "redis_cpu"):
            assert len(one[kind]) == ROUNDS
        assert all(0 < seconds < math.inf for seconds in one["wall"] + one["app_cpu"])
        assert all(0 <= seconds < math.inf for seconds in one["redis_cpu"])


def test_round_trips_are_those_that_the_design_states(run: tuple[str, dict[str, Any]]) -> None:
    _, found = run
    assert round_trips(found, "lua") == {
        "no cookie": 0,
        "read": 1,
        "first write": 1,
        "first token": 1,
        "write one key": 2,
        "login": 2,
    }
    assert round_trips(found, "psr 1.8.1") == {
        "no cookie": 0,
        "read": 2,
        "first write": 4,
        "first token": 4,
        "write one key": 2,
        "login": 6,
    }
    assert set(round_trips(found, "no session").values()) == {0}
    assert round_trips(found, "bare GETEX") == {"read": 1}


def test_a_read_of_the_predecessor_does_its_usual_work(run: tuple[str, dict[str, Any]]) -> None:
    """Read twice within one second, a session is not written back: that would be no comparison."""
    _, found = run
    commands = {(one["scenario"], one["contender"]): one["commands"] for one in found["traffic"]}
    assert commands["read", "psr 1.8.1"] == ["GET", "SETEX"]


def test_a_write_to_a_large_session_sends_only_what_changed(
    run: tuple[str, dict[str, Any]],
) -> None:
    _, found = run
    sent = {
        (one["scenario"], one["contender"]): one["bytes_sent"]
        for one in found["traffic_of_large_session"]
    }
    assert sent["write one key", "psr 1.8.1"] > 90_000
    assert sent["write one key", "lua"] < 1_000


def test_the_report_shows_ratios_beside_the_targets(run: tuple[str, dict[str, Any]]) -> None:
    printed, found = run
    assert found["ratios"]
    for one in found["ratios"]:
        spread = one["ratio"]
        assert spread["low"] <= spread["median"] <= spread["high"]
        assert all(math.isfinite(value) for value in spread.values())
    targets = {
        (one["scenario"], one["of"], one["against"]): one["target"] for one in found["ratios"]
    }
    assert targets["read", "time", "psr 1.8.1"] == 0.6
    assert targets["read", "whole request", "bare GETEX"] == 1.5
    assert targets["first write", "time", "psr 1.8.1"] == 0.4
    assert targets["write one key", "time", "psr 1.8.1"] == 1.1
    assert "<= 1.1 (aim 1.0)" in printed
