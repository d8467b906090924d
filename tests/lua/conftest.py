"""Fixtures of the script tests."""

import pytest
import redis

from tests.support.scripts import Scripts


@pytest.fixture
def scripts(redis_client: redis.Redis) -> Scripts:
    """The scripts on the shared server, whose data were just removed."""
    return Scripts(redis_client)
