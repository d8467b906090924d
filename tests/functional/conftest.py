"""What several of the functional tests need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

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
