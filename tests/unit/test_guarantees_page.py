"""The tests that docs/guarantees.rst names exist, and no guarantee is without one that can fail."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.torture.test_mutations import GUARANTEES

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "guarantees.rst").read_text("utf-8")
ROWS = re.findall(r"^   \* - \*\*(G\d)\*\* (.*)\n((?:     .*\n)+)", TEXT, re.MULTILINE)
NAMED = sorted(set(re.findall(r"``(tests/\S+\.py::\w+)``", TEXT)))


def test_every_guarantee_of_the_first_page_has_tests() -> None:
    readme = (ROOT / "README.rst").read_text("utf-8")
    promised = re.findall(r"^(G\d)  ", readme, re.MULTILINE)
    assert promised == [f"G{n}" for n in range(1, 9)]
    assert sorted({number for number, _, _ in ROWS}) == promised
    assert [number for number, _, _ in ROWS] == sorted(number for number, _, _ in ROWS)
    for number, what, tests in ROWS:
        assert "``tests/" in tests, (number, what)
    table = TEXT.partition("\nThreats and their tests\n")[0]
    assert len(ROWS) == table.count("\n   * - ") - 1


@pytest.mark.parametrize("name", NAMED)
def test_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_guarantee_is_broken_on_purpose_and_a_test_of_it_fails() -> None:
    assert sorted(GUARANTEES) == sorted({number for number, _, _ in ROWS})
    for number, mutation in GUARANTEES.items():
        named = "".join(tests for row, _, tests in ROWS if row == number)
        assert f"``{mutation.tests}``" in named, number


def test_every_path_on_the_page_exists() -> None:
    for path in re.findall(r"\btests/\S+?\.py\b", TEXT):
        assert (ROOT / path).is_file(), path
