"""Who watches the sessions may fail: nobody else does for it."""

from __future__ import annotations

import logging

import pytest

from pyramid_redis_lua_sessions.engine import observer
from pyramid_redis_lua_sessions.engine.observer import guarded


def test_watcher_that_fails_is_logged_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "_failure_logged", -observer.FAILURES_LOGGED)

    def fails(what: str) -> None:
        raise OSError(f"no space is left for {what}")

    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            guarded(fails, "a-value-that-nobody-may-see")
    (record,) = caplog.records  # one of a thousand
    assert "(OSError)" in record.getMessage()
    assert "nobody-may-see" not in caplog.text


def test_what_ends_a_greenlet_ends_it_in_a_watcher_too() -> None:
    class Ends(BaseException):
        pass

    def ends(what: str) -> None:
        raise Ends

    with pytest.raises(Ends):
        guarded(ends, "")
