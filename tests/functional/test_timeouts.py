"""Lifetimes: idle, of a session's own, absolute and first; all by the clock of Redis.

Where a test would have to wait, it moves what is stored into the past (``let_time_pass``):
lifetimes are computed from that and from the server's clock, so it is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import DEFAULT
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, Reports, let_time_pass, make_browser, take_along
from tests.support.stored import grow_older, start_of
from tests.support.waiting import wait_until

SLACK = 20_000  # ms; a test may be interrupted for some time


def read(browser: Browser) -> Any:
    """Make a request that reads; return what it found, ``None`` for a lost session."""
    return browser.use(lambda session: session.get("a"))


def started(redis_url: str, **options: Any) -> Browser:
    """Make an application and a user whose session has just been created."""
    browser = make_browser(redis_url, **options)
    browser.use(lambda session: session.update(a=1))
    return browser


def remaining(client: redis.Redis, browser: Browser) -> float:
    """Return the remaining life in seconds, as Redis has it."""
    return client.pttl(browser.key) / 1000


def about(seconds: float) -> Any:
    return pytest.approx(seconds - SLACK / 2000, abs=SLACK / 2000 + 0.01)


# -- idle timeout -----------------------------------------------------------------------


def test_session_ends_after_its_idle_timeout(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="0.3")
    key = browser.key
    assert 0 < redis_client.pttl(key) <= 300
    wait_until(lambda: not redis_client.exists(key))
    assert read(browser) is None


def test_idle_timeout_starts_anew_with_every_read_and_write(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100")
    for request in (read, lambda b: b.use(lambda session: session.update(a=1))):
        let_time_pass(redis_client, browser.key, 70)
        assert remaining(redis_client, browser) == about(30)
        request(browser)
        assert remaining(redis_client, browser) == about(100)
    let_time_pass(redis_client, browser.key, 101)
    assert read(browser) is None


def test_default_timeout_is_twenty_minutes(redis_url: str, redis_client: redis.Redis) -> None:
    assert remaining(redis_client, started(redis_url)) == about(1200)


@pytest.mark.parametrize("never", ["0", "None", ""])
def test_session_never_ends_when_the_timeout_is(
    redis_url: str, redis_client: redis.Redis, never: str
) -> None:
    browser = started(redis_url, timeout=never)
    assert redis_client.pttl(browser.key) == -1
    assert read(browser) == 1
    browser.use(lambda session: session.update(b=1))
    browser.use(lambda session: session.regenerate_id())
    assert redis_client.pttl(browser.key) == -1
    assert browser.use(lambda session: (session.timeout, session.expires)) == (None, None)


def test_view_that_ignores_the_session_refreshes_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100")
    let_time_pass(redis_client, browser.key, 70)
    browser.visit(lambda request: request.session)
    assert remaining(redis_client, browser) == about(30)


def test_fractions_of_a_second_count(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="1000.25")
    assert browser.use(lambda session: session.timeout) == 1000.25
    brief = started(redis_url, timeout="0.001")
    wait_until(lambda: not redis_client.exists(brief.key), timeout=2)


# -- a timeout of the session's own ---------------------------------------------------------


@pytest.mark.parametrize("method", ["adjust_session_timeout", "adjust_timeout_for_session"])
def test_session_keeps_a_timeout_of_its_own(
    redis_url: str, redis_client: redis.Redis, method: str
) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: getattr(session, method)(500))
    assert remaining(redis_client, browser) == about(500)
    let_time_pass(redis_client, browser.key, 400)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(500)
    browser.use(lambda session: session.update(b=1))
    assert remaining(redis_client, browser) == about(500)
    assert browser.use(lambda session: session.timeout) == 500
    assert remaining(redis_client, browser) == about(500)


@pytest.mark.parametrize("seconds", [30, 0.5])
def test_own_timeout_shorter_than_the_default_applies_at_once(
    redis_url: str, redis_client: redis.Redis, seconds: float
) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_timeout(seconds))
    assert remaining(redis_client, browser) <= seconds


@pytest.mark.parametrize("never", [0, None])
def test_own_timeout_can_be_never(
    redis_url: str, redis_client: redis.Redis, never: int | None
) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_timeout(never))
    for _ in range(2):
        assert redis_client.pttl(browser.key) == -1
        assert browser.use(lambda session: (session.timeout, session["a"])) == (None, 1)
    browser.use(lambda session: session.update(b=1))
    assert redis_client.pttl(browser.key) == -1
    browser.use(lambda session: session.adjust_session_timeout(50))
    assert remaining(redis_client, browser) == about(50)


def test_own_timeout_of_a_session_that_is_new(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, timeout="100")
    browser.use(lambda session: (session.adjust_session_timeout(500), session.update(a=1)))
    assert remaining(redis_client, browser) == about(500)
    assert browser.use(lambda session: session.timeout) == 500


def test_own_timeout_alone_stores_no_session(redis_url: str, redis_client: redis.Redis) -> None:
    make_browser(redis_url).use(lambda session: session.adjust_session_timeout(500))
    assert redis_client.dbsize() == 0


def test_own_timeout_moves_to_a_new_id(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_timeout(500))
    browser.use(lambda session: session.regenerate_id())
    assert remaining(redis_client, browser) == about(500)
    assert browser.use(lambda session: session.timeout) == 500


def test_own_timeout_and_a_value_are_saved_together(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: (session.adjust_session_timeout(500), session.update(a=2)))
    assert remaining(redis_client, browser) == about(500)
    assert read(browser) == 2


def test_last_of_several_timeouts_counts(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url)
    browser.use(lambda session: [session.adjust_session_timeout(s) for s in (500, 0, 50)])
    assert remaining(redis_client, browser) == about(50)


# -- timeout_trigger ------------------------------------------------------------------------

# The predecessors' documentation: timeout = 1800, timeout_trigger = 900.
TIME_LINES = {
    # visit at: (session A is still there, life that is left afterwards)
    "two visits": {0: (True, 1800), 2000: (False, None)},
    "second visit before the trigger": {0: (True, 1800), 899: (True, 901), 2000: (False, None)},
    "second visit at the trigger": {0: (True, 1800), 901: (True, 1800), 2000: (True, 1800)},
    "every five minutes": {
        **{at: (True, 1800 - at) for at in (0, 300, 600, 880)},
        **{at: (True, 1800 - (at - 905)) for at in (905, 1200, 1500, 1790)},
        1810: (True, 1800),
    },
}


@pytest.mark.parametrize("name", TIME_LINES)
def test_timeout_trigger_follows_the_predecessors_time_line_of(
    name: str, redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, timeout="1800", timeout_trigger="900")
    now = 0
    for at, (alive, left) in TIME_LINES[name].items():
        if at == 0:
            browser.use(lambda session: session.update(a=1))
        else:
            let_time_pass(redis_client, browser.key, at - now)
            assert (read(browser) == 1) is alive
        if left is not None:
            assert remaining(redis_client, browser) == about(left)
        now = at


def test_scenario_of_the_predecessors_with_a_trigger_of_600(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Their table: nothing is written until 600 s are left; then 1200 s again."""
    browser = started(redis_url, timeout="1200", timeout_trigger="600")
    for step in (1, 100, 200, 270):  # 571 s have passed
        let_time_pass(redis_client, browser.key, step)
        before = redis_client.pexpiretime(browser.key) if has_pexpiretime(redis_client) else None
        assert read(browser) == 1
        if before is not None:
            assert redis_client.pexpiretime(browser.key) == before
    assert remaining(redis_client, browser) == about(629)
    let_time_pass(redis_client, browser.key, 30)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1200)


def has_pexpiretime(client: redis.Redis) -> bool:
    """Whether the server has the command PEXPIRETIME (since 7.0)."""
    return int(client.info("server")["redis_version"].split(".")[0]) >= 7


def test_write_refreshes_within_the_trigger_window(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1800", timeout_trigger="900")
    let_time_pass(redis_client, browser.key, 300)
    browser.use(lambda session: session.update(b=1))
    assert remaining(redis_client, browser) == about(1800)


def test_trigger_goes_with_a_timeout_of_the_sessions_own(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """COMPAT B9: a session with a longer timeout must not end with the shorter one."""
    browser = started(redis_url, timeout="1200", timeout_trigger="900")
    browser.use(lambda session: session.adjust_session_timeout(3600))
    let_time_pass(redis_client, browser.key, 600)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(3000)  # 900 of 1200 are 2700 of 3600
    let_time_pass(redis_client, browser.key, 400)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(3600)


@pytest.mark.parametrize("options", [{}, {"set_redis_ttl": "false"}, {"absolute_timeout": "9000"}])
def test_remembered_user_who_comes_back_in_time_stays_with_a_trigger(
    redis_url: str, redis_client: redis.Redis, options: dict[str, str]
) -> None:
    """The remaining life of 20, and of 10, seconds is above the trigger of the others."""
    browser = started(redis_url, timeout="12", timeout_trigger="9", cookie_max_age="100", **options)
    browser.use(lambda session: session.adjust_session_timeout(30))
    for _ in range(6):
        let_time_pass(redis_client, browser.key, 10)
        assert read(browser) == 1


def test_own_timeout_below_the_trigger_is_always_refreshed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1200", timeout_trigger="900")
    browser.use(lambda session: session.adjust_session_timeout(100))
    let_time_pass(redis_client, browser.key, 50)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(100)


# -- adjust_session_expires --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adjust_session_expires", "adjust_expires_for_session"])
@pytest.mark.parametrize("trigger", [None, "50"])
def test_session_ends_at_the_moment_it_was_given_whatever_the_activity(
    redis_url: str, redis_client: redis.Redis, method: str, trigger: str | None
) -> None:
    browser = started(redis_url, timeout="100", timeout_trigger=trigger)
    end = time.time() + 150
    browser.use(lambda session: getattr(session, method)(end))
    assert remaining(redis_client, browser) == about(100)
    let_time_pass(redis_client, browser.key, 60)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(90)
    let_time_pass(redis_client, browser.key, 60)
    assert read(browser) == 1
    browser.use(lambda session: session.update(b=1))
    assert remaining(redis_client, browser) == about(30)
    let_time_pass(redis_client, browser.key, 31)
    assert read(browser) is None


def test_given_end_goes_with_a_timeout_of_never(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="0")
    browser.use(lambda session: session.adjust_session_expires(time.time() + 150))
    assert remaining(redis_client, browser) == about(150)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(150)


def test_given_end_can_be_taken_back(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_expires(time.time() + 50))
    assert remaining(redis_client, browser) == about(50)
    browser.use(lambda session: session.adjust_session_expires(None))
    assert remaining(redis_client, browser) == about(100)


def test_given_end_moves_to_a_new_id(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_expires(time.time() + 50))
    browser.use(lambda session: session.regenerate_id())
    assert remaining(redis_client, browser) == about(50)
    browser.use(lambda session: session.update(b=1))
    assert remaining(redis_client, browser) == about(50)


def test_end_in_the_past_ends_the_session_now(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url)
    key = browser.key
    browser.use(lambda session: session.adjust_session_expires(time.time() - 5))
    assert not redis_client.exists(key)
    assert read(browser) is None


def test_end_in_the_past_stores_no_new_session(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: (session.update(a=1), session.adjust_session_expires(5)))
    assert redis_client.dbsize() == 0
    assert browser.session_id is None


def test_given_end_of_a_session_that_is_new(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    end = time.time() + 50
    browser.use(lambda session: (session.update(a=1), session.adjust_session_expires(end)))
    assert remaining(redis_client, browser) == about(50)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(50)


# -- absolute_timeout --------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["100", "0"])
def test_session_ends_at_its_absolute_timeout_whatever_the_activity(
    redis_url: str, redis_client: redis.Redis, timeout: str
) -> None:
    browser = started(redis_url, timeout=timeout, absolute_timeout="250")
    for _ in range(4):
        let_time_pass(redis_client, browser.key, 60)
        assert read(browser) == 1
        browser.use(lambda session: session.update(b=1))
    assert 0 < remaining(redis_client, browser) <= 10
    let_time_pass(redis_client, browser.key, 11)
    assert read(browser) is None


def test_absolute_timeout_counts_from_the_login_through_new_ids(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1000", absolute_timeout="500")
    let_time_pass(redis_client, browser.key, 300)
    browser.use(lambda session: session.regenerate_id())
    assert remaining(redis_client, browser) == about(200)


def test_absolute_timeout_limits_a_timeout_of_the_sessions_own(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100", absolute_timeout="500")
    browser.use(lambda session: session.adjust_session_timeout(5000))
    assert remaining(redis_client, browser) == about(500)
    browser.use(lambda session: session.adjust_session_timeout(0))
    assert remaining(redis_client, browser) == about(500)


def test_session_past_its_absolute_timeout_is_reported(
    redis_url: str, redis_client: redis.Redis
) -> None:
    reports = Reports()
    browser = started(redis_url, absolute_timeout="500", func_invalid_logger=reports)
    grow_older(redis_client, browser.key, 501_000)
    assert read(browser) is None
    assert reports.kinds == ["InvalidSession_PayloadTimeout"]


# -- first_timeout -------------------------------------------------------------------------------


def test_new_session_lives_shortly_until_its_cookie_came_back(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1000", first_timeout="60")
    assert remaining(redis_client, browser) == about(60)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1000)
    browser.use(lambda session: session.update(b=1))
    assert remaining(redis_client, browser) == about(1000)


def test_session_whose_cookie_never_came_back_ends_early(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1000", first_timeout="60")
    let_time_pass(redis_client, browser.key, 61)
    assert read(browser) is None


def test_first_load_refreshes_also_within_the_trigger_window(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1000", timeout_trigger="10", first_timeout="60")
    assert remaining(redis_client, browser) == about(60)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1000)


@pytest.mark.parametrize("timeout", ["0", "30"])
def test_first_timeout_goes_with_any_timeout(
    redis_url: str, redis_client: redis.Redis, timeout: str
) -> None:
    browser = started(redis_url, timeout=timeout, first_timeout="60")
    assert remaining(redis_client, browser) == about(30 if timeout == "30" else 60)
    assert read(browser) == 1
    if timeout == "0":
        assert redis_client.pttl(browser.key) == -1
    else:
        assert remaining(redis_client, browser) == about(30)


def test_new_id_of_a_session_whose_cookie_came_back_lives_on_as_before(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Who logs in and reads the first page for some minutes must not be logged out: that the
    client keeps cookies is known."""
    browser = started(redis_url, timeout="1000", first_timeout="60")
    assert read(browser) == 1
    browser.use(lambda session: (session.regenerate_id(), session.update(user="alice")))
    assert remaining(redis_client, browser) == about(1000)


# -- configured anew over live sessions ------------------------------------------------------------


def reconfigured(browser: Browser, redis_url: str, **options: Any) -> Browser:
    """The application is started again with other settings; the user stays."""
    again = make_browser(redis_url, **options)
    for cookie in browser.app.cookiejar:
        again.app.cookiejar.set_cookie(cookie)
    return again


@pytest.mark.parametrize("trigger", [None, "10"])
@pytest.mark.parametrize(("before", "after"), [("1000", "100"), ("0", "100")])
def test_lowered_timeout_applies_to_a_live_session_at_its_next_request(
    redis_url: str, redis_client: redis.Redis, before: str, after: str, trigger: str | None
) -> None:
    """COMPAT B21."""
    browser = started(redis_url, timeout=before)
    browser = reconfigured(browser, redis_url, timeout=after, timeout_trigger=trigger)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(100)


@pytest.mark.parametrize("trigger", [None, "150"])
def test_raised_timeout_applies_to_a_live_session_at_its_next_request(
    redis_url: str, redis_client: redis.Redis, trigger: str | None
) -> None:
    browser = started(redis_url, timeout="100")
    browser = reconfigured(browser, redis_url, timeout="1000", timeout_trigger=trigger)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1000)


def test_timeout_that_is_switched_off_applies_to_a_live_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = reconfigured(started(redis_url, timeout="100"), redis_url, timeout="0")
    assert read(browser) == 1
    assert redis_client.pttl(browser.key) == -1


def test_changed_default_leaves_a_timeout_of_the_sessions_own(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100")
    browser.use(lambda session: session.adjust_session_timeout(500))
    browser = reconfigured(browser, redis_url, timeout="50")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(500)


def test_trigger_switched_on_and_off_over_a_live_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """COMPAT B6: switching it on must not be an error."""
    browser = started(redis_url, timeout="1000")
    let_time_pass(redis_client, browser.key, 300)
    browser = reconfigured(browser, redis_url, timeout="1000", timeout_trigger="500")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(700)
    browser = reconfigured(browser, redis_url, timeout="1000")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1000)


def test_absolute_timeout_switched_on_and_off_over_a_live_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="1000")
    let_time_pass(redis_client, browser.key, 300)
    browser = reconfigured(browser, redis_url, timeout="1000", absolute_timeout="500")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(200)
    browser = reconfigured(browser, redis_url, timeout="1000")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1000)
    let_time_pass(redis_client, browser.key, 300)
    browser = reconfigured(browser, redis_url, timeout="1000", absolute_timeout="500")
    assert read(browser) is None


def test_first_timeout_switched_on_and_off_over_a_live_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = reconfigured(started(redis_url, timeout="1000"), redis_url, first_timeout="60")
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(1200)
    fresh = started(redis_url, timeout="1000", first_timeout="60")
    fresh = reconfigured(fresh, redis_url, timeout="1000")
    fresh.use(lambda session: session.update(b=1))
    assert remaining(redis_client, fresh) == about(1000)


# -- whose clock --------------------------------------------------------------------------------

WRONG: dict[str, Callable[[float], float]] = {
    "a year behind": lambda now: now - 365 * 86400,
    "a year ahead": lambda now: now + 365 * 86400,
    "stopped at the epoch": lambda now: 0.0,
}


@pytest.mark.parametrize("name", WRONG)
def test_lifetimes_are_right_when_the_application_servers_clock_is(
    name: str, redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, offset = time.time, WRONG[name]
    monkeypatch.setattr(time, "time", lambda: offset(clock()))
    browser = started(redis_url, timeout="100", absolute_timeout="250", timeout_trigger="50")
    created = start_of(redis_client, browser.key)
    assert created / 1000 == pytest.approx(clock(), abs=SLACK / 1000)
    assert remaining(redis_client, browser) == about(100)
    let_time_pass(redis_client, browser.key, 25)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(75)  # within the trigger window
    let_time_pass(redis_client, browser.key, 40)
    assert read(browser) == 1
    assert remaining(redis_client, browser) == about(100)
    browser.use(lambda session: session.adjust_session_timeout(80))
    assert remaining(redis_client, browser) == about(80)
    browser.use(lambda session: session.regenerate_id())
    assert remaining(redis_client, browser) == about(80)
    let_time_pass(redis_client, browser.key, 60)
    assert read(browser) == 1
    let_time_pass(redis_client, browser.key, 81)
    assert read(browser) is None


def test_servers_with_different_clocks_agree_about_a_session(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    browser = started(redis_url, timeout="100", set_redis_ttl="false", absolute_timeout="300")
    for hours in (-5, 5, 0, 5000, -5000):
        monkeypatch.setattr(time, "time", lambda hours=hours: clock() + hours * 3600)
        assert read(browser) == 1
        browser.use(lambda session: session.update(b=1))
        assert browser.use(lambda session: session.created) == pytest.approx(clock(), abs=20)


# -- back to the default, and when it was seen -------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_default_timeout_applies_again(
    redis_url: str, redis_client: redis.Redis, mode: str
) -> None:
    browser = started(redis_url, timeout="100", on_conflict=mode)
    browser.use(lambda session: session.adjust_session_timeout(500))

    def view(session: Any) -> Any:
        session.adjust_session_timeout(DEFAULT)
        return session.timeout

    assert browser.use(view) == 100
    assert remaining(redis_client, browser) == about(100)
    assert not redis_client.hexists(browser.key, "timeout")
    assert browser.use(lambda session: session.timeout) == 100
    later = take_along(browser, redis_url, timeout="50", on_conflict=mode)
    assert read(later) == 1
    assert remaining(redis_client, later) == about(50)


def test_session_that_begins_with_the_default_has_none_of_its_own(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, timeout="100")
    browser.use(lambda session: (session.adjust_session_timeout(DEFAULT), session.update(a=1)))
    assert not redis_client.hexists(browser.key, "timeout")
    assert remaining(redis_client, browser) == about(100)


def test_last_of_two_adjustments_counts(redis_url: str, redis_client: redis.Redis) -> None:
    browser = started(redis_url, timeout="100")
    for last, expected in ((500, 500), (DEFAULT, 100)):
        for timeout in (DEFAULT, 300, last):
            browser.use(lambda session, timeout=timeout: session.adjust_session_timeout(timeout))
        assert remaining(redis_client, browser) == about(expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"timeout_trigger": "90"}, {"set_redis_ttl": "false"}, {"absolute_timeout": "86400"}],
)
def test_last_seen_is_when_it_was_used_before(
    redis_url: str, redis_client: redis.Redis, options: dict[str, str]
) -> None:
    browser = started(redis_url, timeout="100", last_seen="true", **options)
    let_time_pass(redis_client, browser.key, 60)
    seen = browser.use(lambda session: session.last_seen)
    assert 60 <= time.time() - seen <= 60 + SLACK / 1000
    assert time.time() - browser.use(lambda session: session.last_seen) <= SLACK / 1000 + 1


def test_last_seen_costs_no_round_trip(proxy: CountingProxy) -> None:
    browser = started(proxy.url, last_seen="true")
    proxy.reset()
    assert browser.use(lambda session: session.last_seen) is not None
    assert proxy.round_trips == 1


@pytest.mark.parametrize(
    "options", [{"last_seen": "false"}, {"timeout": "0"}, {"first_timeout": "50"}]
)
def test_last_seen_is_none_where_it_is_unknown(redis_url: str, options: dict[str, str]) -> None:
    browser = started(redis_url, **{"last_seen": "true", **options})
    assert browser.use(lambda session: session.last_seen) is None
    assert browser.another().use(lambda session: session.last_seen) is None


def test_last_seen_is_known_to_a_request_that_touches_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = started(redis_url, timeout="100")
    let_time_pass(redis_client, browser.key, 60)

    def poll(session: Any) -> Any:
        session.touch = False
        return session.last_seen

    for _ in range(2):
        assert 60 <= time.time() - browser.use(poll) <= 60 + SLACK / 1000


def test_last_seen_is_never_before_the_start(redis_url: str) -> None:
    browser = started(redis_url, timeout="100")
    later = take_along(browser, redis_url, timeout="86400", last_seen="true")
    created, seen = later.use(lambda session: (session.created, session.last_seen))
    assert seen >= created
