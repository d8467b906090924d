"""What several of the functional tests need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction

from tests.support.ledger import Ledger
from tests.support.overlap import Overlap, Start


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Makes an application whose requests overlap as the test says."""
    made: list[Overlap] = []

    def make(**options: Any) -> Overlap:
        made.append(Overlap(options.pop("redis_url", redis_url), **options))
        return made[-1]

    yield make
    for overlap in made:
        overlap.__exit__()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A database."""
    return Ledger(tmp_path)


@pytest.fixture
def tm() -> Iterator[transaction.TransactionManager]:
    """As in the ``conftest.py`` of Pyramid's cookiecutter and tutorials."""
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    manager.doom()
    yield manager
    manager.abort()
