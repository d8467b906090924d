"""What ``docs/scaling.rst`` works out stands on the figures that were measured last."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.contenders import OURS
from bench.pages import BUSY, FIGURES, FULL, REQUESTS, SESSIONS, WRITES

PAGE = FIGURES.parent / "scaling.rst"

#: The set-up that the page arrives at.
PRIMARIES = 6
MAXMEMORY = 2e9


@pytest.fixture(scope="module")
def section() -> str:
    text = PAGE.read_text("utf-8").partition("An example, worked out\n")[2]
    assert "six primaries" in text
    assert "2 GB" in text
    return text


@pytest.fixture(scope="module")
def found() -> Any:
    return json.loads((FIGURES / "benchmarks.json").read_text("utf-8"))


def ours(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    wanted = {"contender": OURS, **wanted}
    (row,) = [row for row in rows if all(row.get(name) == wanted[name] for name in wanted)]
    return row


def test_memory_that_is_worked_out_is_what_was_measured(section: str, found: Any) -> None:
    shapes = found["memory"]["found"]["shapes"]
    size = ours(shapes, shape="typical, written 6 times in a row", limit=512)["bytes"]
    assert "520 bytes x 10,000,000 / 0.6" in section
    assert size == pytest.approx(520, rel=0.1)
    assert SESSIONS * size / FULL <= PRIMARIES * MAXMEMORY


def test_cores_that_are_worked_out_are_what_was_measured(section: str, found: Any) -> None:
    requests = found["capacity"]["found"]["requests"]
    read, write = (
        ours(requests, scenario=name)["redis_cpu_us"] for name in ("read", "write one key")
    )
    mean = (1 - WRITES) * read + WRITES * write
    assert "20 us x 100,000 / 0.5" in section
    assert mean == pytest.approx(20, rel=0.2)
    assert mean * REQUESTS / 1e6 / BUSY <= PRIMARIES


def test_traffic_that_is_worked_out_is_what_was_measured(section: str, found: Any) -> None:
    traffic = found["requests"]["found"]["traffic"]
    rows = [ours(traffic, scenario=name) for name in ("read", "write one key")]
    read, write = (row["bytes_sent"] + row["bytes_received"] for row in rows)
    assert "(0.8 x 583 + 0.2 x 782)" in section
    assert (read, write) == pytest.approx((583, 782), rel=0.1)
    reads = [one for one in found["propagation"]["found"] if one["contender"] == OURS]
    assert "76 bytes x 100,000" in section
    assert ours(reads, scenario="read")["replication"] == pytest.approx(76, rel=0.1)
