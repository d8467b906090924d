"""``session.owner``: whose session it is, and the index of an owner's sessions."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_redis_lua_sessions import (
    SessionCreated,
    SessionError,
    SessionInfo,
    SessionInvalidated,
    revoke,
    sessions_of,
)
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, let_time_pass, make_browser, stored_values
from tests.support.overlap import Overlap, id_in, put
from tests.support.traffic import call_names, calls
from tests.support.waiting import wait_until

UTC = datetime.timezone.utc


def log_in(browser: Browser, owner: Any = "ada", label: str | None = None) -> str:
    """Log in as an application does; return the session's id."""

    def view(request: Any) -> None:
        request.session.owner = owner
        if label is not None:
            request.session.label = label

    browser.visit(view)
    assert browser.session_id is not None
    return browser.session_id


def listed(browser: Browser, owner: Any = "ada") -> list[SessionInfo]:
    found: list[SessionInfo] = []
    browser.another().visit(lambda request: found.extend(sessions_of(request, owner)))
    return found


def names(browser: Browser, owner: Any = "ada") -> list[str]:
    return [info.fingerprint for info in listed(browser, owner)]


def index_keys(client: redis.Redis, prefix: str = "session:") -> list[bytes]:
    found: Any = client.keys(f"{prefix}owner:*")
    return sorted(found)


def index_of(client: redis.Redis, prefix: str = "session:") -> list[str]:
    """The ids in the only index there is."""
    (key,) = index_keys(client, prefix)
    found: Any = client.zrange(key, 0, -1)
    return [member.decode() for member in found]


def make_index_older(client: redis.Redis, seconds: float) -> None:
    """As if so much time had passed since all that stands in the indexes was put there."""
    for key in index_keys(client):
        for member in client.zrange(key, 0, -1):
            client.zincrby(key, -seconds * 1_000_000, member)


# -- the owner ---------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["ada", "", "ä\udc80\x00", "x" * 5000, 0, 7, -1, 2**70])
def test_owner_is_remembered_and_found(redis_url: str, owner: str | int) -> None:
    browser = make_browser(redis_url)
    name = log_in(browser, owner)
    assert browser.use(lambda session: session.owner) == owner
    assert names(browser, owner) == [fingerprint(name)]


def test_session_has_no_owner_until_it_gets_one(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    assert browser.use(lambda session: (session.owner, session.label)) == (None, None)
    browser.use(lambda session: session.update(a=1))
    assert browser.use(lambda session: (session.owner, session.label)) == (None, None)
    assert index_keys(redis_client) == []


@pytest.mark.parametrize("owner", [True, 1.5, b"ada", ["ada"], object()])
def test_owner_that_is_neither_text_nor_number_is_refused(redis_url: str, owner: Any) -> None:
    browser = make_browser(redis_url)
    with pytest.raises(TypeError):
        log_in(browser, owner)
    with pytest.raises(TypeError):
        browser.visit(lambda request: sessions_of(request, owner))
    with pytest.raises(TypeError):
        browser.visit(lambda request: revoke(request, owner))


def test_number_and_text_are_two_owners(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser, 1)
    assert len(names(browser, 1)) == 1
    assert names(browser, "1") == []


@pytest.mark.parametrize("label", [5, b"phone", ["phone"], True])
def test_label_that_is_no_text_is_refused(redis_url: str, label: Any) -> None:
    def use(session: Any) -> None:
        with pytest.raises(TypeError, match="label"):
            session.label = label

    browser = make_browser(redis_url)
    browser.use(use)
    assert browser.session_id is None


def test_owner_and_label_are_no_session_values(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser, "ada", "phone")
    browser.use(lambda session: session.update(owner="value", label="value"))
    found = browser.use(lambda session: (dict(session), session.owner, session.label))
    assert found == ({"owner": "value", "label": "value"}, "ada", "phone")
    browser.use(lambda session: session.clear())
    found = browser.use(lambda session: (dict(session), session.owner, session.label))
    assert found == ({}, "ada", "phone")


def test_session_with_an_owner_does_not_end_when_its_last_value_is_removed(redis_url: str) -> None:
    browser = make_browser(redis_url, invalidate_empty_session=True)
    log_in(browser)
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.pop("a"))
    assert browser.use(lambda session: session.owner) == "ada"


def test_owner_is_sealed_like_any_value(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    assert b"ada" in redis_client.hgetall(browser.key)[b"owner"]
    browser.another().use(lambda session: session.update(a=1))
    attacker = browser.another()
    log_in(attacker, "eve")
    for forged in (
        b"sada",
        redis_client.hget(browser.key, "owner"),
        b"\0" * 16 + b"sada",
    ):
        redis_client.hset(attacker.key, "owner", forged)
        assert attacker.copy().use(lambda session: session.owner) is None


# -- login -------------------------------------------------------------------------


def test_login_gives_a_new_token_and_keeps_the_data(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(cart=1))
    token = browser.use(lambda session: session.get_csrf_token())
    before = browser.copy()
    log_in(browser)
    assert browser.session_id == before.session_id
    assert browser.token != before.token
    values = stored_values(redis_client, browser.factory, browser.session_id or "")
    assert values == {"cart": 1}
    assert browser.use(lambda session: session.get_csrf_token()) != token
    assert before.use(dict) == {}


def test_same_owner_again_keeps_the_token_and_another_owner_renews_it(redis_url: str) -> None:
    browser = make_browser(redis_url)
    name = log_in(browser, 1)
    first = browser.copy()
    assert log_in(browser, 1) == name
    assert browser.token == first.token
    assert log_in(browser, "1") == name
    assert browser.token != first.token
    assert names(browser, 1) == []
    assert names(browser, "1") == [fingerprint(name)]
    # Who holds the cookie of the owner before does not become the next one.
    assert first.use(lambda session: session.owner) is None


def test_session_without_owner_is_not_listed_any_more(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    first = browser.token
    browser.use(lambda session: setattr(session, "owner", None))
    assert browser.token != first
    assert browser.use(lambda session: session.owner) is None
    assert listed(browser) == []


def test_label_can_be_changed_without_a_new_id(redis_url: str) -> None:
    browser = make_browser(redis_url)
    name = log_in(browser, label="phone")
    browser.use(lambda session: setattr(session, "label", "laptop"))
    assert browser.session_id == name
    assert [info.label for info in listed(browser)] == ["laptop"]
    browser.use(lambda session: setattr(session, "label", None))
    assert [info.label for info in listed(browser)] == [None]


@pytest.mark.parametrize("first", ["regenerate_id", "owner"])
def test_login_restarts_the_lifetime_when_it_is_asked_to_in_any_order(
    redis_url: str, redis_client: redis.Redis, first: str
) -> None:
    browser = make_browser(redis_url, absolute_timeout=3600, timeout=0)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 3000)

    def view(request: Any) -> None:
        if first == "owner":
            request.session.owner = "ada"
        request.session.regenerate_id(restart_lifetime=True)
        if first == "regenerate_id":
            request.session.owner = "ada"

    browser.visit(view)
    assert redis_client.ttl(browser.key) > 3500  # type: ignore[operator]


def test_login_keeps_the_csrf_token_when_it_is_asked_to(redis_url: str) -> None:
    browser = make_browser(redis_url)
    token = browser.use(lambda session: session.get_csrf_token())

    def view(request: Any) -> None:
        request.session.regenerate_id(renew_csrf_token=False)
        request.session.owner = "ada"

    browser.visit(view)
    assert browser.use(lambda session: session.get_csrf_token()) == token


def test_login_keeps_the_start_of_the_session_unless_it_is_asked_not_to(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, absolute_timeout=3600, timeout=0)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 3000)
    log_in(browser)
    assert redis_client.ttl(browser.key) <= 600  # type: ignore[operator]
    browser.use(lambda session: session.adjust_session_timeout(86400))
    assert redis_client.ttl(browser.key) <= 600  # type: ignore[operator]


@pytest.mark.parametrize("start", ["nothing", "anonymous", "ensured", "invalidated", "logged in"])
def test_login_is_one_pipeline_after_the_load(proxy: CountingProxy, start: str) -> None:
    browser = make_browser(proxy.url)
    if start != "nothing":
        browser.use(lambda session: session.update(a=1))
    if start == "logged in":
        log_in(browser, "bob")

    def view(request: Any) -> None:
        if start == "ensured":
            request.session.ensure_id()
        if start == "invalidated":
            request.session.invalidate()
        request.session.owner = "ada"

    proxy.reset()
    browser.visit(view)
    loads = 0 if start in ("nothing", "invalidated") else 1
    assert proxy.round_trips == loads + 1
    assert call_names(proxy) == ["EVALSHA"] * (loads + (3 if start == "invalidated" else 2))


def test_session_is_in_the_index_before_it_is_the_owners(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.get("a"))
    proxy.reset()
    log_in(browser)
    load, index, save = keys_of(proxy)
    assert (load, save) == (browser.key, browser.key)
    assert index.startswith("session:owner:")


def test_first_session_of_a_user_is_in_the_index_before_it_is_created(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(dict)
    proxy.reset()
    log_in(browser)
    index, created = keys_of(proxy)
    assert index.startswith("session:owner:")
    assert created == browser.key


def keys_of(proxy: CountingProxy) -> list[str]:
    """The keys of the calls so far."""
    return [command.args[3].decode() for command in calls(proxy)]


def test_repeated_login_in_one_request_is_one_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)

    def view(request: Any) -> None:
        request.session.owner = "bob"
        request.session.owner = "ada"
        request.session.regenerate_id()

    browser.visit(view)
    assert len(index_of(redis_client)) == 1
    assert names(browser) == [fingerprint(browser.session_id or "")]
    assert names(browser, "bob") == []


def test_reply_to_a_login_that_was_lost_makes_one_session(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.get("a"))  # connects

    def view(request: Any) -> None:
        request.session.owner = "ada"
        proxy.lose_replies(1)

    browser.visit(view)
    assert index_of(redis_client) == [browser.session_id]
    assert names(browser) == [fingerprint(browser.session_id or "")]


# -- listing -----------------------------------------------------------------------


def test_all_sessions_of_an_owner_and_no_others_are_listed(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser, label="phone")
    laptop = browser.another()
    log_in(laptop, label="laptop")
    log_in(browser.another(), "bob", "bob's")
    before = datetime.datetime.now(UTC) - datetime.timedelta(minutes=1)

    found = laptop.visit(lambda request: sessions_of(request, "ada"))
    assert [info.label for info in found] == ["phone", "laptop"]
    assert [info.current for info in found] == [False, True]
    assert [info.fingerprint for info in found] == [
        fingerprint(user.session_id or "") for user in (browser, laptop)
    ]
    now = datetime.datetime.now(UTC) + datetime.timedelta(minutes=1)
    for info in found:
        assert info.last_seen is not None
        assert before < info.created <= info.last_seen < now
        assert info.created.tzinfo is UTC


def test_listing_is_one_read_of_the_index_and_one_pipeline(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    for _ in range(5):
        log_in(browser.another())
    proxy.reset()
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 5
    assert proxy.round_trips == 2
    proxy.reset()
    assert sessions_of(browser.wsgi.registry, "nobody") == []
    assert proxy.round_trips == 1


def test_registry_lists_without_a_current_session(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    assert [info.current for info in sessions_of(browser.wsgi.registry, "ada")] == [False]


def test_listing_refreshes_no_session(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, timeout=1200)
    log_in(browser)
    let_time_pass(redis_client, browser.key, 600)
    for _ in range(2):
        (info,) = listed(browser)
        assert info.last_seen is not None
        assert 599 < (datetime.datetime.now(UTC) - info.last_seen).total_seconds() < 660
    assert redis_client.ttl(browser.key) <= 600


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": 1200, "absolute_timeout": 900},
        {"timeout": 1200, "first_timeout": 60},
    ],
)
def test_last_seen_is_unknown_where_no_ttl_tells_it(redis_url: str, options: Any) -> None:
    browser = make_browser(redis_url, **options)
    log_in(browser)
    assert [info.last_seen for info in listed(browser)] == [None]


def test_last_seen_is_never_before_the_start_when_the_timeout_was_raised(redis_url: str) -> None:
    browser = make_browser(redis_url, timeout=60)
    log_in(browser)
    (info,) = sessions_of(make_browser(redis_url, timeout=86400).wsgi.registry, "ada")
    assert info.last_seen == info.created


def test_sessions_are_listed_by_their_start_when_ids_were_regenerated(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser, label="first")
    started = listed(browser)[0].created
    wait_until(lambda: datetime.datetime.now(UTC) > started + datetime.timedelta(milliseconds=5))
    log_in(browser.another(), label="second")
    browser.use(lambda session: session.regenerate_id())
    found = listed(browser)
    assert [info.label for info in found] == ["first", "second"]
    assert found[0].fingerprint == fingerprint(browser.session_id or "")


def test_regenerated_session_stays_listed_under_its_new_id_alone(redis_url: str) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    for _ in range(3):
        browser.use(lambda session: session.regenerate_id())
        assert names(browser) == [fingerprint(browser.session_id or "")]


@pytest.mark.parametrize("end", ["log out", "expire", "evict"])
def test_session_that_has_ended_is_not_listed(
    redis_url: str, redis_client: redis.Redis, end: str
) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    if end == "log out":
        browser.use(lambda session: session.invalidate())
    elif end == "expire":
        let_time_pass(redis_client, browser.key, 3600)
    else:
        redis_client.delete(browser.key)
    assert listed(browser) == []


def test_info_shows_no_id_and_no_value(redis_url: str) -> None:
    browser = make_browser(redis_url)
    name = log_in(browser)
    assert name not in repr(listed(browser))


@pytest.mark.parametrize(
    "written",
    [
        {"@": b"x" * 16},
        {"@": b"\xff" * 22},
        {"@": b"\xff" * 28},
        {"@": b"\xff" * 400},
        {"timeout": "1e999"},
        {"timeout": "nan"},
        {"timeout": "-5"},
        {"deadline": "x"},
        {"expires": "9" * 18},
        {"label": b""},
        {"label": b"\xff" * 50},
    ],
    ids=str,
)
def test_listing_stands_what_somebody_wrote_into_a_session(
    redis_url: str, redis_client: redis.Redis, written: dict[str, Any]
) -> None:
    browser = make_browser(redis_url)
    log_in(browser, label="phone")
    redis_client.hset(browser.key, mapping=written)
    assert len(listed(browser)) <= 1
    browser.another().visit(lambda request: revoke(request, "ada"))


def test_label_that_does_not_decode_is_none(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    log_in(browser, label="phone")
    sealed = browser.bound.seal(b"label", b"?")
    redis_client.hset(browser.key, "label", sealed)
    assert [info.label for info in listed(browser)] == [None]


def test_sessions_of_another_package_are_a_clear_error(redis_url: str) -> None:
    config = Configurator()
    with pytest.raises(SessionError, match="not those of this package"):
        sessions_of(config.registry, "ada")


# -- the index stays in order ------------------------------------------------------


def test_ended_sessions_are_pruned_at_login(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    ended = [log_in(browser.another()) for _ in range(12)]
    redis_client.delete(*(f"session:{name}" for name in ended[:10]))
    make_index_older(redis_client, 120)
    new = log_in(browser.another())
    assert index_of(redis_client) == [*ended[10:], new]


def test_login_under_way_is_not_pruned(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url)
    ended = [log_in(browser.another()) for _ in range(12)]
    redis_client.delete(*(f"session:{name}" for name in ended))
    make_index_older(redis_client, 120)
    # As another login's first step leaves it: in the index, and not there yet.
    (index,) = index_keys(redis_client)
    redis_client.zadd(index, {"under way": redis_client.time()[0] * 1_000_000})  # type: ignore[index]
    new = log_in(browser.another())
    assert index_of(redis_client) == ["under way", new]


def test_login_costs_no_more_when_the_index_is_tidy(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    for _ in range(3):
        proxy.reset()
        log_in(browser.another())
        assert proxy.round_trips == 1


def test_full_index_ends_its_oldest_session(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, owner_sessions=3)
    users = [browser.another() for _ in range(5)]
    for user in users:
        log_in(user)
    assert [user.use(lambda session: session.owner) for user in users] == [
        None,
        None,
        "ada",
        "ada",
        "ada",
    ]
    assert index_of(redis_client) == [user.session_id for user in users[2:]]


def test_login_under_a_clock_that_was_set_back_stands_though_the_index_is_full(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, owner_sessions=3)
    olds = [browser.another() for _ in range(3)]
    for user in olds:
        log_in(user)
    (index,) = index_keys(redis_client)
    for member in redis_client.zrange(index, 0, -1):
        redis_client.zincrby(index, 2_000_000, member)
    log_in(browser)
    owners = [user.use(lambda session: session.owner) for user in (browser, *olds)]
    assert owners == ["ada", None, "ada", "ada"]


def test_owner_may_have_only_one_session(redis_url: str) -> None:
    browser = make_browser(redis_url, owner_sessions=1)
    other = browser.another()
    log_in(browser)
    log_in(other)
    assert browser.use(lambda session: session.owner) is None
    assert other.use(lambda session: session.owner) == "ada"


def test_session_that_is_ended_for_another_ends_at_once_for_requests_in_flight(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, owner_sessions=1)
    name = log_in(browser)
    log_in(browser.another())
    assert set(redis_client.hgetall(f"session:{name}")) == {b"moved"}


@pytest.mark.parametrize("how", ["regenerate", "log out and in"])
def test_ids_that_have_ended_do_not_count_against_the_limit(redis_url: str, how: str) -> None:
    phone = make_browser(redis_url, owner_sessions=3)
    laptop = phone.another()
    log_in(phone)
    log_in(laptop)
    for _ in range(8):
        if how == "regenerate":
            laptop.use(lambda session: session.regenerate_id())
        else:
            laptop.use(lambda session: session.invalidate())
            log_in(laptop)
    assert laptop.use(lambda session: session.owner) == "ada"
    assert phone.use(lambda session: session.owner) == "ada", "two sessions, and three may be"


@pytest.mark.parametrize("start", ["nothing", "anonymous"])
def test_login_does_not_fail_when_the_index_cannot_be_tidied(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    start: str,
) -> None:
    redis_client.execute_command(*"ACL SETUSER tidy on >pw ~* +@all -zrem".split())
    browser = make_browser(redis_url.replace("://", "://tidy:pw@"), owner_sessions=1)
    try:
        log_in(browser.another())
        if start == "anonymous":
            browser.use(lambda session: session.update(a=1))
        log_in(browser)
        assert browser.use(lambda session: session.owner) == "ada"
        assert "WARNING" in caplog.text
    finally:
        redis_client.execute_command("ACL", "DELUSER", "tidy")


@pytest.mark.parametrize(("absolute", "expected"), [(None, -1), (3600, 3600)])
def test_index_ends_on_its_own_where_absolute_timeout_bounds_it(
    redis_url: str, redis_client: redis.Redis, absolute: Any, expected: int
) -> None:
    browser = make_browser(redis_url, absolute_timeout=absolute, timeout=600)
    log_in(browser)
    (key,) = index_keys(redis_client)
    found: Any = redis_client.ttl(key)
    assert found == -1 if expected == -1 else expected < found <= expected + 60


def test_no_session_outlives_its_index(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, absolute_timeout=3600, timeout=0)
    log_in(browser)
    (index,) = index_keys(redis_client)
    assert redis_client.pttl(browser.key) <= redis_client.pttl(index)
    browser.use(lambda session: session.regenerate_id(restart_lifetime=True))
    assert redis_client.pttl(browser.key) <= redis_client.pttl(index)


# -- others in the index -----------------------------------------------------------


def test_foreign_ids_in_an_index_are_neither_listed_nor_ended(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # Somebody with write access to Redis puts ids of others into his own index.
    victim = make_browser(redis_url)
    log_in(victim)
    anonymous = victim.another()
    anonymous.use(lambda session: session.update(a=1))
    attacker = victim.another()
    log_in(attacker, "eve")
    key = next(
        key
        for key in index_keys(redis_client)
        if redis_client.zscore(key, attacker.session_id or "")
    )
    redis_client.zadd(key, {victim.session_id or "": 1, anonymous.session_id or "": 2})
    redis_client.set("session:text", "x")
    redis_client.zadd(key, {"text": 3, "nothing": 4, b"\xff\xfe": 5, "": 6})

    assert names(victim, "eve") == [fingerprint(attacker.session_id or "")]
    assert attacker.visit(lambda request: revoke(request, "eve", except_current=False)) == 1
    assert victim.use(lambda session: session.owner) == "ada"
    assert anonymous.use(dict) == {"a": 1}
    assert names(victim) == [fingerprint(victim.session_id or "")]


def test_session_that_somebody_took_out_of_its_index_is_found_when_it_gets_a_new_id(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # The limit of what an index proves; docs/security.rst names it.
    thief = make_browser(redis_url)
    hidden = log_in(thief)
    (index,) = index_keys(redis_client)
    redis_client.zrem(index, hidden)
    registry = thief.wsgi.registry
    assert (sessions_of(registry, "ada"), revoke(registry, "ada")) == ([], 0)
    assert thief.use(lambda session: session.owner) == "ada"
    # Right after a revoke such a new id is refused; see index_session.
    make_index_older(redis_client, 61)
    thief.use(lambda session: session.regenerate_id())
    assert names(thief) == [fingerprint(thief.session_id or "")]
    assert revoke(registry, "ada") == 1
    assert thief.use(lambda session: session.owner) is None


def test_owner_copied_from_another_session_gets_nobody_into_an_index(
    redis_url: str, redis_client: redis.Redis
) -> None:
    victim = make_browser(redis_url)
    log_in(victim)
    attacker = victim.another()
    attacker.use(lambda session: session.update(a=1))
    redis_client.hset(attacker.key, "owner", redis_client.hget(victim.key, "owner") or b"")
    redis_client.zadd(index_keys(redis_client)[0], {attacker.session_id or "": 1})
    assert names(victim) == [fingerprint(victim.session_id or "")]


def test_full_index_ends_no_foreign_session(redis_url: str, redis_client: redis.Redis) -> None:
    victim = make_browser(redis_url, owner_sessions=2)
    log_in(victim, "bob")
    attacker = victim.another()
    log_in(attacker, "eve")
    key = next(
        key
        for key in index_keys(redis_client)
        if redis_client.zscore(key, attacker.session_id or "")
    )
    redis_client.zadd(key, {victim.session_id or "": 1})
    log_in(attacker.another(), "eve")
    assert victim.use(lambda session: session.owner) == "bob"
    assert attacker.use(lambda session: session.owner) == "eve"


def poison(client: redis.Redis, kind: str) -> None:
    """Put something else in place of the only index."""
    (key,) = index_keys(client)
    client.delete(key)
    if kind == "string":
        client.set(key, "x")
    elif kind == "hash":
        client.hset(key, "@", "1")
    else:
        client.rpush(key, "x")


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
@pytest.mark.parametrize("call", ["list", "revoke", "revoke one"])
def test_poisoned_index_is_an_empty_one_that_is_logged(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    call: str,
) -> None:
    browser = make_browser(redis_url)
    name = log_in(browser)
    poison(redis_client, kind)
    registry = browser.wsgi.registry
    if call == "list":
        assert sessions_of(registry, "ada") == []
    elif call == "revoke":
        assert revoke(registry, "ada") == 0
    else:
        assert revoke(registry, "ada", fingerprint=fingerprint(name)) == 0
    (record,) = caplog.records
    assert (record.levelname, "index" in record.message) == ("ERROR", True)
    assert "ada" not in record.message
    other = browser.another()
    log_in(other)
    assert names(browser) == [fingerprint(other.session_id or "")]


def test_poisoned_index_heals_as_its_sessions_get_new_tokens(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    log_in(browser)
    other = browser.another()
    log_in(other)
    poison(redis_client, "string")
    assert browser.visit(lambda request: revoke(request, "ada")) == 0
    # They are in it again as soon as they get a new token.
    assert names(browser) == []
    browser.use(lambda session: session.regenerate_id())
    assert names(browser) == [fingerprint(browser.session_id or "")]
    other.use(lambda session: session.regenerate_id())
    assert len(names(browser)) == 2
    assert browser.visit(lambda request: revoke(request, "ada")) == 1
    assert other.use(lambda session: session.owner) is None


@pytest.mark.parametrize("lost", ["poisoned", "evicted"])
def test_session_of_the_request_is_found_though_its_index_was_lost(
    redis_url: str, redis_client: redis.Redis, lost: str
) -> None:
    browser = make_browser(redis_url)
    name = fingerprint(log_in(browser))

    def lose() -> None:
        if lost == "poisoned":
            poison(redis_client, "string")
        else:
            redis_client.delete(*index_keys(redis_client))

    lose()
    found = browser.visit(lambda request: sessions_of(request, "ada"))
    assert [(info.fingerprint, info.current) for info in found] == [(name, True)]
    end = lambda **how: browser.visit(lambda request: revoke(request, "ada", **how))  # noqa: E731
    assert end(fingerprint=name) == 0  # it is spared
    assert end(except_current=False, fingerprint=name) == 1
    log_in(browser)
    lose()
    assert end(except_current=False) == 1
    assert browser.use(lambda session: session.owner) is None


# -- ids of the application's own --------------------------------------------------


class Ids:
    """An id generator whose ids repeat."""

    def __init__(self, *given: str) -> None:
        self._given: Iterator[str] = itertools.chain(given, map("id{}".format, itertools.count()))

    def __call__(self) -> str:
        return next(self._given)


def test_taken_id_in_an_index_is_not_the_owners_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    victim = make_browser(redis_url, id_generator=Ids("one", "one", "two"))
    log_in(victim, "bob")
    user = victim.another()
    log_in(user)
    assert user.session_id == "two"
    assert names(user) == [fingerprint("two")]
    assert user.visit(lambda request: revoke(request, "ada", except_current=False)) == 1
    assert victim.use(lambda session: session.owner) == "bob"


@pytest.mark.parametrize("prefix", ["session:", "", "app{x}:"])
def test_ids_and_prefixes_of_any_kind_are_indexed(
    redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    browser = make_browser(redis_url, id_generator=Ids("ä id: of\nours"), prefix=prefix)
    log_in(browser)
    assert names(browser) == [fingerprint("ä id: of\nours")]
    assert len(index_keys(redis_client, prefix)) == 1
    browser.visit(lambda request: revoke(request, "ada", except_current=False))
    assert browser.use(lambda session: session.owner) is None


def test_two_applications_on_one_redis_keep_their_owners_apart(redis_url: str) -> None:
    one, two = make_browser(redis_url, prefix="one:"), make_browser(redis_url, prefix="two:")
    log_in(one)
    log_in(two)
    assert names(one) == [fingerprint(one.session_id or "")]
    one.visit(lambda request: revoke(request, "ada", except_current=False))
    assert two.use(lambda session: session.owner) == "ada"


@pytest.mark.parametrize(
    "options",
    [
        {"set_redis_ttl": False},
        {"on_conflict": "retry"},
        {"seal": False, "serialize": "json"},
        {"seal": False, "serialize": "msgpack"},
        {"serialize": "json"},
        {"encryption_key": "an encryption key of at least thirty-two bytes"},
        {"first_timeout": 60},
        {"timeout_trigger": 600},
    ],
    ids=str,
)
def test_owners_go_with_every_other_setting(redis_url: str, options: dict[str, Any]) -> None:
    browser = make_browser(redis_url, **options)
    other = browser.another()
    browser.use(lambda session: session.update(a=1))
    log_in(browser, label="phone")
    log_in(other, label="laptop")
    assert [info.label for info in listed(browser)] == ["phone", "laptop"]
    assert browser.visit(lambda request: revoke(request, "ada")) == 1
    assert other.use(dict) == {}
    assert [info.label for info in listed(browser)] == ["phone"]


def test_decoding_client_lists_and_revokes(redis_url: str) -> None:
    clients: list[redis.Redis] = []

    def client(request: Any, **options: Any) -> redis.Redis:
        if not clients:
            clients.append(redis.Redis.from_url(redis_url, decode_responses=True))
        return clients[0]

    browser = make_browser(None, client_callable=client)
    log_in(browser, "ä", "ö")
    assert [info.label for info in listed(browser, "ä")] == ["ö"]
    assert browser.visit(lambda request: revoke(request, "ä", except_current=False)) == 1
    clients[0].close()


def test_response_that_carries_no_cookie_leaves_no_session_in_the_list(redis_url: str) -> None:
    browser = make_browser(redis_url, func_check_response_allow_cookies=lambda response: False)

    def view(request: Any) -> Response:
        request.session.owner = "ada"
        return Response("done")

    browser.visit(view)
    assert listed(browser) == []


@pytest.mark.parametrize("most", [1, 2])
def test_double_click_on_a_new_id_logs_nobody_out(redis_url: str, most: int) -> None:
    """Two requests of one session get a new id for it at once: none of it is a login."""
    with Overlap(redis_url, owner_sessions=most) as overlap:
        log_in = lambda session: setattr(session, "owner", "ada")  # noqa: E731
        cookies = [overlap.run(None, log_in).cookie for _ in range(most)]
        clicks = [overlap.begin(cookies[-1]) for _ in range(2)]
        for click in clicks:
            click.do(lambda session: session.owner)
            click.do(lambda session: session.regenerate_id())
        answers = [click.finish() for click in clicks]
        (cookies[-1],) = [answer.cookie for answer in answers if answer.cookie]
        owners = [overlap.begin(cookie).do(lambda session: session.owner) for cookie in cookies]
        assert owners == ["ada"] * most


# -- logins that overlap -------------------------------------------------------------


def is_owned(overlap: Overlap, cookie: str | None) -> bool:
    driven = overlap.begin(cookie)
    found = driven.do(lambda session: session.owner) == "ada"
    driven.finish()
    return found


def log_in_at_once(overlap: Overlap, cookies: list[str | None]) -> list[str | None]:
    """Log in with each of these cookies at the same moment; return what the browsers get."""
    logins = [overlap.begin(cookie) for cookie in cookies]
    for login in logins:
        login.do(lambda session: setattr(session, "owner", "ada"))
    return [answer.cookie for answer in overlap.together(logins)]


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("start", ["nothing", "anonymous"])
def test_newest_sessions_live_when_two_logins_overlap(
    redis_url: str, redis_client: redis.Redis, start: str, most: int
) -> None:
    with Overlap(redis_url, owner_sessions=most) as overlap:
        for _ in range(50):
            redis_client.flushdb()
            elsewhere = overlap.run(None, lambda session: setattr(session, "owner", "ada")).cookie
            before: list[str | None] = [None, None]
            if start == "anonymous":
                before = [overlap.run(None, put("cart", 1)).cookie for _ in before]
            cookies = log_in_at_once(overlap, before)
            assert sum(is_owned(overlap, cookie) for cookie in cookies) == min(most, 2)
            assert is_owned(overlap, elsewhere) == (most == 3)
            assert len(sessions_of(overlap.registry, "ada")) == most


def test_someone_stays_logged_in_when_the_button_is_clicked_twice(
    redis_url: str, redis_client: redis.Redis
) -> None:
    with Overlap(redis_url, owner_sessions=1) as overlap:
        for _ in range(50):
            redis_client.flushdb()
            overlap.run(None, lambda session: setattr(session, "owner", "ada"))  # elsewhere
            before = overlap.run(None, put("cart", 1)).cookie
            cookies = log_in_at_once(overlap, [before, before])
            assert sum(is_owned(overlap, cookie) for cookie in cookies) == 1


@pytest.mark.parametrize("most", [1, 3, 40])
def test_exactly_the_newest_sessions_live_when_many_logins_overlap(
    redis_url: str, redis_client: redis.Redis, most: int
) -> None:
    with Overlap(redis_url, owner_sessions=most) as overlap:
        for _ in range(3):
            redis_client.flushdb()
            log_in_at_once(overlap, [None] * 3)
            cookies = log_in_at_once(overlap, [None] * 60)
            newest = index_of(redis_client)[-most:]
            alive = {fingerprint(id_in(c)) for c in cookies if c and is_owned(overlap, c)}
            assert alive == {fingerprint(name) for name in newest}
            assert len(sessions_of(overlap.registry, "ada")) == most


@pytest.mark.parametrize("most", [1, 3])
def test_every_session_that_an_overlapping_login_ends_is_told_of_once(
    redis_url: str, redis_client: redis.Redis, most: int
) -> None:
    created, ended = [], []

    def configure(config: Configurator) -> None:
        config.add_subscriber(lambda e: created.append(e.fingerprint), SessionCreated)
        config.add_subscriber(lambda e: ended.append(e.fingerprint), SessionInvalidated)

    with Overlap(redis_url, configure=configure, owner_sessions=most) as overlap:
        log_in_at_once(overlap, [None] * 60)
        assert len(created) == 60
        assert sorted(ended) == sorted({*created} - {*map(fingerprint, index_of(redis_client))})


def test_login_that_a_newer_one_has_ended_sends_no_cookie(redis_url: str) -> None:
    """The browser may have sent both, and the newer one's cookie must stay."""
    with Overlap(redis_url, owner_sessions=1) as overlap:
        overlap.run(None, lambda session: setattr(session, "owner", "ada"))
        newer: list[str | None] = []

        def overtake(request: Any, response: Any) -> None:
            # The session of this login stands, and it has not tidied up yet.
            newer.append(overlap.run(None, lambda s: setattr(s, "owner", "ada")).cookie)

        slow = overlap.begin()
        slow.do(lambda session: setattr(session, "owner", "ada"))
        slow.do_request(lambda request: request.add_response_callback(overtake))
        assert slow.finish().cookie is None
        assert is_owned(overlap, newer[0])
        assert [problem.reason for problem in slow.problems] == [
            "session has ended; changes dropped"
        ]


@pytest.mark.parametrize("most", [1, 2])
def test_login_under_way_counts_and_is_renewed_when_it_is_too_many(
    redis_url: str, redis_client: redis.Redis, most: int
) -> None:
    ids = Ids("first", "second", "under way", "later")
    browser = make_browser(redis_url, owner_sessions=most, id_generator=ids)
    other, late = browser.another(), browser.another()
    log_in(browser)
    # On Redis Cluster others may come between the two calls of a login.
    (index,) = index_keys(redis_client)
    redis_client.zadd(index, {"under way": redis_client.time()[0] * 1_000_000 + 999_999})  # type: ignore[index]
    log_in(other)
    assert browser.use(lambda session: session.owner) is None
    log_in(late)
    # Where it was too many its id is taken; it is the newest one then.
    assert late.session_id == ("later" if most == 1 else "under way")
    assert late.use(lambda session: session.owner) == "ada"
    assert other.use(lambda session: session.owner) == (None if most == 1 else "ada")
