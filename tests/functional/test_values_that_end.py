"""``session.set(key, value, ttl=...)``: values with a life of their own, by Redis' clock."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import StoreUnavailable
from pyramid_redis_lua_sessions.engine import ends
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import life_of_field
from tests.support.browser import Browser, Reports, make_browser, take_along
from tests.support.stored import TOKEN
from tests.support.waiting import wait_until

KINDS: dict[str, dict[str, Any]] = {
    "merge": {},
    "retry": {"on_conflict": "retry"},
    "encrypted": {"encryption_key": "k" * 32},
    "unsealed": {"seal": "false", "serialize": "json"},
    "json": {"serialize": "json"},
    "lru": {"set_redis_ttl": "false"},
    "absolute": {"absolute_timeout": "3600", "timeout_trigger": "600"},
}


@pytest.fixture(params=KINDS)
def browser(request: pytest.FixtureRequest, redis_url: str) -> Browser:
    return make_browser(redis_url, **KINDS[request.param])


def put(browser: Browser, ttl: float = 600, key: Any = "code", value: Any = "1234") -> None:
    browser.use(lambda session: session.set(key, value, ttl=ttl))


def end_all(monkeypatch: pytest.MonkeyPatch, browser: Browser) -> None:
    """Have what was put end: as if Redis' clock had gone on by a day."""
    later = 24 * 3600 * 1000
    split = ends.split

    def earlier(data: bytes) -> Any:
        found = split(data)
        return found and (found[0] - later, found[1])

    for module in ("contents", "ends"):
        monkeypatch.setattr(f"pyramid_redis_lua_sessions.engine.{module}.split", earlier)


# -- before its end ---------------------------------------------


def test_value_is_there_until_its_end(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    put(browser)
    seen = browser.use(
        lambda s: ("code" in s, s["code"], s.get("code"), dict(s), len(s), list(s), s.copy())
    )
    both = {"a": 1, "code": "1234"}
    assert seen[:3] == (True, "1234", "1234")
    assert seen[3] == seen[6] == both
    assert seen[4] == 2
    assert set(seen[5]) == set(both)


@pytest.mark.parametrize(
    "lifetime",
    [
        lambda session: session.adjust_session_timeout(600),
        lambda session: session.adjust_session_expires(2_000_000_000),
    ],
)
def test_value_is_found_where_its_request_gives_the_session_a_lifetime_too(
    browser: Browser, lifetime: Callable[[Any], object]
) -> None:
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session.set("code", "1234", ttl=600)
        lifetime(session)

    browser.use(view)
    assert browser.use(dict) == {"a": 1, "code": "1234"}
    browser.use(lambda session: session.adjust_session_timeout(None))
    assert browser.use(dict) == {"a": 1, "code": "1234"}


def test_value_is_there_in_the_request_that_puts_it(browser: Browser) -> None:
    def view(session: Any) -> None:
        session.set("code", "1234", ttl=0.001)
        time.sleep(0.01)
        assert session["code"] == "1234"

    browser.use(view)


@pytest.mark.parametrize("value", [None, "", b"", 0, 1.5, True, [1, {"a": "b"}], {"x": None}])
def test_values_of_all_kinds_can_end(redis_url: str, value: Any) -> None:
    browser = make_browser(redis_url)
    put(browser, value=value)
    assert browser.use(lambda session: session["code"]) == value


def test_value_that_changes_in_place_keeps_its_end(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(browser, value=[1])
    browser.use(lambda session: session["code"].append(2))
    assert browser.use(lambda session: session["code"]) == [1, 2]
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


def test_functions_that_take_any_bytes_for_their_own_get_no_value_with_its_end(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = make_browser(
        redis_url,
        seal="false",
        serialize=lambda text: text.encode("latin-1"),
        deserialize=lambda data: data.decode("latin-1"),
    )
    put(browser)
    assert browser.use(dict) == {"code": "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


def test_value_that_is_assigned_anew_does_not_end(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(browser)
    browser.use(lambda session: session.update(code="5678"))
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {"code": "5678"}


def test_last_assignment_of_a_request_counts(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def view(session: Any) -> None:
        session.set("a", 1, ttl=600)
        session["a"] = 2
        session["b"] = 1
        session.set("b", 2, ttl=600)

    browser.use(view)
    assert browser.use(dict) == {"a": 2, "b": 2}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {"a": 2}


def test_managed_dict_leaves_all_ends(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    put(browser)
    put(browser, key="other")
    browser.use(lambda session: session.managed_dict.update(a=1, other="5678"))
    assert browser.use(dict) == {"a": 1, "code": "1234", "other": "5678"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {"a": 1}  # also what was changed: a dict knows of no ends


# -- after its end ----------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_session_of_which_nothing_else_is_left_is_empty(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    browser = make_browser(redis_url, invalidate_empty_session="true", on_conflict=mode)
    browser.use(lambda session: session.update(a=1))
    put(browser)
    end_all(monkeypatch, browser)
    browser.use(lambda session: session.pop("a"))
    assert not redis_client.hexists(browser.key, TOKEN)


ABSENT: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "in": (lambda s: "code" in s, False),
    "get": (lambda s: s.get("code", "none"), "none"),
    "iteration": (list, ["a"]),
    "items": (lambda s: list(s.items()), [("a", 1)]),
    "values": (lambda s: list(s.values()), [1]),
    "len": (len, 1),
    "copy": (lambda s: s.copy(), {"a": 1}),
    "equality": (lambda s: s == {"a": 1}, True),
    "managed_dict": (lambda s: dict(s.managed_dict), {"a": 1}),
    "pop with a default": (lambda s: s.pop("code", "none"), "none"),
    "setdefault": (lambda s: s.setdefault("code", "new"), "new"),
    "popitem": (lambda s: (s.popitem(), len(s)), (("a", 1), 0)),
    "bool": (lambda s: (s.pop("a"), bool(s)), (1, False)),
}


@pytest.mark.parametrize("how", ABSENT)
def test_value_past_its_end_is_absent(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    put(browser)
    browser.use(lambda session: session.update(a=1))
    end_all(monkeypatch, browser)
    look, expected = ABSENT[how]
    assert browser.use(look) == expected


def test_value_past_its_end_cannot_be_deleted(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(browser)
    end_all(monkeypatch, browser)

    def view(session: Any) -> None:
        for remove in (session.pop, session.__delitem__, session.__getitem__):
            with pytest.raises(KeyError):
                remove("code")

    browser.use(view)


def test_value_ends_by_the_clock(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    put(browser, ttl=0.3)
    wait_until(lambda: browser.use(dict) == {"a": 1})


def test_end_is_nothing_to_report(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = Reports()
    browser = make_browser(redis_url, func_invalid_logger=reports)
    put(browser)
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}
    assert reports.problems == []


# -- new tokens -------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_new_token_keeps_values_and_their_ends(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    put(browser)
    browser.use(lambda session: session.regenerate_id(restart_lifetime=restart))
    assert browser.use(dict) == {"code": "1234"}
    browser.use(lambda session: setattr(session, "owner", 7))
    assert browser.use(dict) == {"code": "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


def test_new_token_leaves_behind_what_is_past_its_end(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, redis_client: redis.Redis
) -> None:
    put(browser)
    browser.use(lambda session: session.update(a=1))
    with monkeypatch.context() as patch:
        end_all(patch, browser)
        browser.use(lambda session: session.regenerate_id())
        assert browser.use(dict) == {"a": 1}
    assert not redis_client.hexists(browser.key, ".code")
    assert browser.use(dict) == {"a": 1}


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_new_token_keeps_what_another_request_put_meanwhile(redis_url: str, mode: str) -> None:
    browser = make_browser(redis_url, on_conflict=mode)
    browser.use(lambda session: session.update(a=1))
    other = browser.copy()

    def view(session: Any) -> None:
        assert session["a"] == 1
        put(other)
        session.regenerate_id()

    browser.use(view)
    assert browser.use(dict) == {"a": 1, "code": "1234"}


def test_old_secret_is_replaced_and_the_end_stays(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = "the old secret, with more than 32 bytes", "the new secret, with more than 32 bytes"
    browser = make_browser(redis_url, secret=old)
    put(browser)
    browser = take_along(browser, redis_url, secret=f"{new}\n{old}")
    for _ in range(3):
        assert browser.use(dict) == {"code": "1234"}
    assert life_of_field(redis_client, browser.key, ".code") != -1
    browser = take_along(browser, redis_url, secret=new)
    assert browser.use(dict) == {"code": "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


# -- somebody who can write to Redis ----------------------------


def test_nobody_can_move_the_end(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    put(browser)
    stored = redis_client.hget(browser.key, ".code")
    assert stored is not None
    begin = stored.index(b"until:") + len(b"until:")
    end = int.from_bytes(stored[begin : begin + 8], "big")
    later = stored[:begin] + (end + 1000).to_bytes(8, "big") + stored[begin + 8 :]
    redis_client.hset(browser.key, ".code", later)
    assert browser.use(dict) == {}
    assert browser.use(lambda session: session.new)


def test_who_takes_away_the_mark_of_the_session_deletes_the_value(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    put(browser)
    browser.use(lambda session: session.update(a=1))
    token = redis_client.hget(browser.key, TOKEN)
    assert token is not None
    redis_client.hset(browser.key, TOKEN, token[:-1] + b"x")  # any byte is the mark
    assert browser.use(dict) == {"a": 1, "code": "1234"}
    redis_client.hset(browser.key, TOKEN, token[:-1])
    assert browser.use(dict) == {"a": 1}


def test_value_past_its_end_that_was_put_back_is_absent(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    put(browser, ttl=0.2)
    stored = redis_client.hget(browser.key, ".code")
    assert stored is not None
    wait_until(lambda: browser.use(dict) == {"a": 1})
    redis_client.hset(browser.key, ".code", stored)
    assert browser.use(dict) == {"a": 1}


# -- round trips ------------------------------------------------


def test_only_the_first_value_that_ends_costs_a_round_trip_more(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))

    def trips(view: Callable[[Any], Any]) -> int:
        proxy.reset()
        browser.use(view)
        return proxy.round_trips

    assert trips(lambda session: session.set("code", "1234", ttl=600)) == 3
    assert trips(lambda session: session["code"]) == 1
    assert trips(dict) == 1
    assert trips(lambda session: session.set("more", "5678", ttl=600)) == 2
    assert trips(lambda session: session.regenerate_id()) == 2
    assert trips(lambda session: session["code"]) == 1
    assert trips(lambda session: session.set("more", "90", ttl=600)) == 2


def test_redis_frees_the_memory_where_it_can(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    put(browser)
    for change in (lambda s: s.update(a=1), lambda s: s.regenerate_id()):
        browser.use(change)
        left = life_of_field(redis_client, browser.key, ".code")
        assert left is None or 0 < left <= 600_000
    browser.use(lambda session: session.update(code="5678"))
    assert life_of_field(redis_client, browser.key, ".code") in (-1, None)


# -- arguments, and what goes wrong -----------------------------


@pytest.mark.parametrize("ttl", [0, -1, None, "", "x", float("nan"), float("inf"), 10**20, []])
def test_ttl_that_is_no_time_is_refused(redis_url: str, ttl: Any) -> None:
    def view(session: Any) -> None:
        with pytest.raises(ValueError, match="expected"):
            session.set("code", "1234", ttl=ttl)

    browser = make_browser(redis_url)
    browser.use(view)
    assert browser.use(dict) == {}


def test_ttl_can_be_a_timedelta(redis_url: str) -> None:
    browser = make_browser(redis_url)
    put(browser, ttl=datetime.timedelta(minutes=5))  # type: ignore[arg-type]
    assert browser.use(dict) == {"code": "1234"}


@pytest.mark.parametrize("key", [1.5, True, b"code", None])
def test_key_must_be_one_of_a_session(redis_url: str, key: Any) -> None:
    def view(session: Any) -> None:
        with pytest.raises(TypeError):
            session.set(key, "1234", ttl=600)

    make_browser(redis_url).use(view)


def test_int_keys_can_end(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = make_browser(redis_url)
    put(browser, key=7)
    assert browser.use(dict) == {7: "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_login_that_meets_an_ending_keeps_the_end(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    browser = make_browser(redis_url, on_conflict=mode)
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session.set("code", "1234", ttl=600)
        session.owner = 7
        redis_client.delete(browser.key)

    browser.use(view)
    assert browser.use(dict) == {"code": "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


def test_redis_that_cannot_be_asked_for_the_time_is_an_error(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    browser = make_browser(server.url)

    def view(session: Any) -> None:
        session["a"] = 1
        server.kill()
        with pytest.raises(StoreUnavailable):
            session.set("code", "1234", ttl=600)
        session.invalidate()

    browser.use(view)


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_value_is_part_of_the_transaction(
    redis_url: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = make_browser(
        redis_url, configure=lambda config: config.include("pyramid_tm"), on_conflict=mode
    )

    def view(session: Any) -> None:
        put_and_fail.append(session.set("more", "5678", ttl=600))
        raise ZeroDivisionError

    put_and_fail: list[None] = []
    put(browser)
    with pytest.raises(ZeroDivisionError):
        browser.use(view)
    assert put_and_fail == [None]
    assert browser.use(dict) == {"code": "1234"}
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {}


def test_mark_that_was_taken_away_does_not_let_a_value_outlive_its_end(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = make_browser(redis_url)
    put(browser)
    browser.use(lambda session: session.update(a=1))
    token = redis_client.hget(browser.key, TOKEN)
    assert token is not None
    redis_client.hset(browser.key, TOKEN, token[:-1])
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(dict) == {"a": 1}
    put(browser, key="more")
    assert browser.use(dict)["more"] == "1234"
    end_all(monkeypatch, browser)
    assert browser.use(dict) == {"a": 1}
