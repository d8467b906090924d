"""Fixtures of the script tests."""

import pytest
import redis

from tests.support.scripts import Scripts


@pytest.fixture
def beside() -> bool:
    """Whether loads read the fields by an HGETALL of their own, in the same packet."""
    return False


@pytest.fixture
def scripts(redis_client: redis.Redis, beside: bool) -> Scripts:
    """The scripts on the shared server, whose data were just removed."""
    return Scripts(redis_client, beside)
