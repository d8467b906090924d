"""Storms of parallel requests against several processes: nothing may be lost.

``TORTURE_SCALE`` multiplies their size; ``make torture`` sets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.torture.application import OURS
from tests.torture.storm import (
    CLIENTS,
    Fleet,
    lost_counts,
    lost_updates,
    surprise_logouts,
    zombies,
)

pytestmark = pytest.mark.torture

SCALE = int(os.environ.get("TORTURE_SCALE", "1"))


@pytest.fixture(params=["merge", "retry"], scope="module")
def fleet(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Fleet]:
    options = {"redis__sessions__on_conflict": request.param, "retry__attempts": 100}
    with Fleet(OURS, redis_server.url, **options) as fleet:
        yield fleet


def test_every_acknowledged_write_is_there_when_all_write_keys_of_their_own(fleet: Fleet) -> None:
    result = lost_updates(fleet, writes=10 * SCALE)
    assert result.total == CLIENTS * 10 * SCALE
    assert result.bad == 0


def test_no_session_is_readable_when_its_logout_was_acknowledged(fleet: Fleet) -> None:
    assert zombies(fleet, rounds=10 * SCALE).bad == 0


def test_the_browser_ends_logged_in_when_it_logs_in_among_other_requests(fleet: Fleet) -> None:
    assert surprise_logouts(fleet, rounds=10 * SCALE).bad == 0


@pytest.mark.parametrize("fleet", ["retry"], indirect=True)
def test_the_counter_equals_the_successful_requests_when_all_count(fleet: Fleet) -> None:
    result = lost_counts(fleet, counts=4 * SCALE)
    assert result.total > 0
    assert result.bad == 0
