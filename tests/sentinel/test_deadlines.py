"""As ``tests/faults/test_deadlines.py``, on a primary behind sentinels."""

from __future__ import annotations

import pytest

from tests.support.browser import make_browser
from tests.support.deadline import PAGES, check_every_step
from tests.support.topology import Sentinels

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("page", PAGES)
def test_others_do_not_notice_when_a_request_fails_at_any_step(
    page: str, sentinels: Sentinels, clean: None
) -> None:
    check_every_step(make_browser(sentinels.url, redis_max_connections=2), page)
