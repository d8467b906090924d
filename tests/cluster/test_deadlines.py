"""As ``tests/faults/test_deadlines.py``, on a Redis Cluster."""

from __future__ import annotations

import pytest
import redis

from tests.support.browser import make_browser
from tests.support.deadline import PAGES, check_every_step

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("page", PAGES)
def test_others_do_not_notice_when_a_request_fails_at_any_step(
    page: str, cluster_url: str, cluster_client: redis.RedisCluster
) -> None:
    check_every_step(make_browser(cluster_url, redis_max_connections=2), page)
