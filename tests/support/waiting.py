"""Waits for conditions, not for seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10.0) -> T:
    """Return the first true value of ``condition``; it is asked every few milliseconds.

    :raises AssertionError: none came within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"nothing true within {timeout:g} seconds")
        time.sleep(0.005)
