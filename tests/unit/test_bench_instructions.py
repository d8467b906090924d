"""The counts of instructions: read from the right parts, and compared right."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contenders import BARE, NONE, OURS, PREDECESSOR
from bench.instructions import BUDGETS, TOLERANCE, Budget, passed, ratio, read_counts, tables

WHOLE = Budget("a whole read", "read", BARE, False, 1.15, 1.15)
OWN = Budget("a read", "read", PREDECESSOR, True, 0.2, 0.2)


def counts(ours: int) -> dict[str, dict[str, int]]:
    """Counts of every scenario that has a budget; only those of this engine are to be given."""
    scenarios = {budget.scenario for budget in BUDGETS}
    return {
        NONE: dict.fromkeys(scenarios, 1000),
        BARE: {"read": 2000},
        OURS: dict.fromkeys(scenarios, ours),
        PREDECESSOR: dict.fromkeys(scenarios, 11_000),
    }


def test_ratio_of_whole_requests() -> None:
    assert ratio(counts(2300), WHOLE) == pytest.approx(1.15)


def test_ratio_of_own_parts_lies_above_the_request_without_a_session() -> None:
    assert ratio(counts(3000), OWN) == pytest.approx(0.2)
    assert ratio(counts(1000), OWN) == 0


def test_budget_is_passed_only_beyond_the_tolerance() -> None:
    name = BUDGETS[0].name
    limit = BUDGETS[0].most * TOLERANCE * 2000
    assert BUDGETS[0].beside == BARE
    assert name not in passed(counts(int(limit) - 1))
    assert name in passed(counts(int(limit) + 2))


def test_every_budget_is_checked_by_itself() -> None:
    assert passed(counts(1000)) == []
    assert passed(counts(100_000)) == [budget.name for budget in BUDGETS]
    for budget in BUDGETS[1:]:
        found = counts(1000)
        found[OURS][budget.scenario] = 1000 + int(10_000 * budget.most * TOLERANCE) + 10
        over = passed(found)
        assert budget.name in over
        assert {one.scenario for one in BUDGETS if one.name in over} == {budget.scenario}


def test_tables_show_counts_in_thousands_and_ratios_beside_their_budgets() -> None:
    instructions, ratios = tables(counts(3000))
    # No budget is of the trigger window.
    assert [OURS, "3", "", "3", "3", "3"] in instructions.rows
    assert ["read", "its own part", PREDECESSOR, "0.20", "0.20", "0.25"] in ratios.rows


def write_parts(out: Path, *totals: int) -> None:
    for number, total in enumerate(totals, 1):
        Path(f"{out}.{number}").write_text(f"version: 1\nsummary: {total}\ntotals: {total}\n")


ORDER = [["one", "read"], ["one", "login"], ["other", "read"]]


def test_what_lies_between_two_marks_of_a_kind_is_counted(tmp_path: Path) -> None:
    out = tmp_path / "counts"
    # Before each, what starting and warming up takes.
    write_parts(out, 9_000_000, 1000, 9_000_000, 2000, 9_000_000, 3099)
    out.write_text("totals: 9000000\n")  # after the last mark
    assert read_counts(out, ORDER, 100) == {"one": {"read": 10, "login": 20}, "other": {"read": 30}}


def test_a_mark_that_is_none_of_ours_is_noticed(tmp_path: Path) -> None:
    # All parts after it would be taken for others.
    out = tmp_path / "counts"
    write_parts(out, 1, 2, 3, 4, 5, 6, 7)
    with pytest.raises(RuntimeError, match="something else calls getppid"):
        read_counts(out, ORDER, 1)


def test_part_without_a_total_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "counts"
    write_parts(out, 1, 2, 3, 4, 5, 6)
    Path(f"{out}.2").write_text("version: 1\n")
    with pytest.raises(RuntimeError, match="no total"):
        read_counts(out, ORDER, 1)
