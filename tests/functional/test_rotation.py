"""Rotation of secrets completes by itself: removing the old one then costs nobody a session."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import RedisSessionFactory, revoke, sessions_of
from pyramid_redis_lua_sessions.errors import InvalidSession_DeserializationError
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import set_cookies
from tests.support.browser import Browser, make_browser, take_along
from tests.support.overlap import Overlap

OLD = "the old secret of these tests, over 32 bytes"
NEW = "the new secret of these tests, over 32 bytes"
OTHER = "another secret of these tests, over 32 bytes"

BOTH = f"\n  {NEW}\n  {OLD}\n"

#: For what is rotated: the settings before, during and after.
ROTATIONS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "secret": ({"secret": OLD}, {"secret": BOTH}, {"secret": NEW}),
    "encryption key": (
        {"secret": OTHER, "encryption_key": OLD},
        {"secret": OTHER, "encryption_key": BOTH},
        {"secret": OTHER, "encryption_key": NEW},
    ),
    "secret beside encryption": (
        {"secret": OLD, "encryption_key": OTHER},
        {"secret": BOTH, "encryption_key": OTHER},
        {"secret": NEW, "encryption_key": OTHER},
    ),
    "encryption on": (
        {"secret": OTHER},
        {"secret": OTHER, "encryption_key": NEW},
        {"secret": OTHER, "encryption_key": NEW},
    ),
}

every_rotation = pytest.mark.parametrize(
    ("before", "during", "after"), ROTATIONS.values(), ids=ROTATIONS
)


def fill(browser: Browser) -> None:
    """Every kind of thing that is sealed."""

    def use(session: Any) -> None:
        session.update({"text": "t", 1: [1, {2}], "none": None})
        session.flash("one")
        session.flash("two", "queue")
        session.owner = "ada"
        session.label = "phone"

    browser.use(use)


def contents(session: Any) -> Any:
    return (
        dict(session),
        session.peek_flash(),
        session.peek_flash("queue"),
        session.owner,
        session.label,
    )


FILLED = ({"text": "t", 1: [1, {2}], "none": None}, ["one"], ["two"], "ada", "phone")


def sealed_fields(stored: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {f: v for f, v in stored.items() if f[:1] in b".#~" or f in (b"owner", b"label")}


def outdated(client: redis.Redis, browser: Browser) -> list[bytes]:
    """The fields of the session that do not open under the new settings alone."""
    bound = browser.bound
    stored: Any = client.hgetall(browser.key)
    assert bound.open_all(sealed_fields(stored)) is not None
    return list(bound.outdated)


@every_rotation
def test_rotation_is_complete_when_the_new_cookie_came_back_and_costs_no_session(
    redis_url: str, redis_client: redis.Redis, before: Any, during: Any, after: Any
) -> None:
    old = make_browser(redis_url, **before)
    fill(old)
    user = take_along(old, redis_url, **during)
    # With encryption the secret signs only the cookie.
    only_cookie = before.get("encryption_key") == OTHER
    assert len(outdated(redis_client, user)) == (0 if only_cookie else 7)
    if "secret" in during and during["secret"] == BOTH:
        # This sends the new cookie. Whether it arrives, shows when it comes back.
        left = outdated(redis_client, user)
        assert user.use(contents) == FILLED
        assert outdated(redis_client, user) == left
    assert user.use(contents) == FILLED
    assert outdated(redis_client, user) == []
    new = take_along(user, redis_url, **after)
    assert new.use(contents) == FILLED
    assert [info.label for info in sessions_of(new.wsgi.registry, "ada")] == ["phone"]
    new.use(lambda session: session.update(more=1))
    assert revoke(new.wsgi.registry, "ada") == 1


@every_rotation
def test_reading_is_enough_and_a_third_request_writes_nothing(
    proxy: CountingProxy, before: Any, during: Any, after: Any
) -> None:
    old = make_browser(proxy.url, **before)
    fill(old)
    user = take_along(old, proxy.url, **during)
    user.use(lambda session: session.get("text"))
    user.use(lambda session: session.get("text"))
    proxy.reset()
    user.use(lambda session: session.get("text"))
    assert proxy.round_trips == 1
    assert set_cookies(user.response) == []


def test_view_that_ignores_the_session_rotates_nothing(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    old = make_browser(proxy.url, secret=OLD)
    fill(old)
    user = take_along(old, proxy.url, secret=BOTH)
    proxy.reset()
    user.visit(lambda request: None)
    assert proxy.commands == []
    assert len(outdated(redis_client, user)) == 7


def test_each_of_the_two_requests_of_a_rotation_makes_one_more_round_trip(
    proxy: CountingProxy,
) -> None:
    old = make_browser(proxy.url, secret=OLD)
    fill(old)
    user = take_along(old, proxy.url, secret=BOTH)
    user.another().use(dict)  # connects
    proxy.reset()
    user.use(dict)
    # Load; and before the cookie goes out again, whether its session still lives.
    assert proxy.round_trips == 2
    proxy.reset()
    user.use(dict)
    # Load; seal all values again.
    assert proxy.round_trips == 2


def test_lifetime_is_left_alone_by_the_new_seals(redis_url: str, redis_client: redis.Redis) -> None:
    old = make_browser(redis_url, secret=OLD, timeout=1200, timeout_trigger=600)
    fill(old)
    redis_client.expire(old.key, 900)
    fields: Any = redis_client.hgetall(old.key)
    user = take_along(
        old, redis_url, secret=[OTHER, OLD], timeout=1200, timeout_trigger=600, cookie_max_age=None
    )
    user.use(dict)
    user.use(dict)
    now: Any = redis_client.hgetall(old.key)
    assert now[b"@"] == fields[b"@"]
    assert set(now) == {*fields, b"saves"}


def test_session_of_a_user_who_did_not_come_back_is_refused_when_the_old_secret_is_gone(
    redis_url: str,
) -> None:
    old = make_browser(redis_url, secret=OLD)
    fill(old)
    assert take_along(old, redis_url, secret=NEW).use(dict) == {}


def test_secret_that_leaked_opens_nothing_when_it_is_gone(
    redis_url: str, redis_client: redis.Redis
) -> None:
    user = make_browser(redis_url, secret=NEW)
    fill(user)
    leaked = RedisSessionFactory(OLD).sealer.bind(user.token.locator, user.token.digest)
    redis_client.hset(user.key, ".admin", leaked.seal(b".admin", b"t"))
    assert user.use(dict) == {}


@pytest.mark.parametrize("number", [2, 5])
def test_any_number_of_secrets_is_accepted(redis_url: str, number: int) -> None:
    secrets = [f"secret number {n}, of more than 32 bytes" for n in range(number)]
    for secret in secrets:
        old = make_browser(redis_url, secret=secret)
        fill(old)
        assert take_along(old, redis_url, secret=secrets).use(contents) == FILLED


def test_second_rotation_before_the_first_is_complete_loses_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    user = make_browser(redis_url, secret=OLD)
    fill(user)
    during = take_along(user, redis_url, secret=[NEW, OLD])
    during.use(lambda session: session.update(text="t"))
    redis_client.hset(
        user.key,
        ".text",
        RedisSessionFactory(OLD)
        .sealer.bind(user.token.locator, user.token.digest)
        .seal(b".text", b"st"),
    )
    later = take_along(during, redis_url, secret=[OTHER, NEW, OLD])
    assert later.use(contents) == FILLED
    assert later.use(contents) == FILLED
    assert take_along(later, redis_url, secret=OTHER).use(contents) == FILLED


# -- only what is still what was read ----------------------------------------------


@pytest.fixture
def overlap(redis_url: str) -> Iterator[Overlap]:
    """An application in the middle of a rotation, whose requests overlap as the test says."""
    with Overlap(redis_url, secret=[NEW, OLD]) as made:
        yield made


@pytest.fixture
def rotated_cookie(redis_url: str) -> str:
    """The new cookie of a session whose values are from before the rotation."""
    with Overlap(redis_url, secret=OLD) as before:

        def use(session: Any) -> None:
            session.update(a=1, b=[1], c=1)
            session.flash("one")
            session.owner = "ada"

        cookie = before.run(None, use).cookie
    with Overlap(redis_url, secret=[NEW, OLD]) as during:
        cookie = during.run(cookie, dict).cookie
    assert cookie is not None
    return cookie


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        pytest.param(lambda s: s.update(a=2), {"a": 2, "b": [1], "c": 1}, id="write"),
        pytest.param(lambda s: s["b"].append(2), {"a": 1, "b": [1, 2], "c": 1}, id="nested"),
        pytest.param(lambda s: s.pop("a"), {"b": [1], "c": 1}, id="delete"),
        pytest.param(lambda s: s.update(d=1), {"a": 1, "b": [1], "c": 1, "d": 1}, id="new key"),
    ],
)
def test_write_of_another_request_is_not_undone_by_new_seals(
    overlap: Overlap, rotated_cookie: str, meanwhile: Callable[[Any], Any], expected: Any
) -> None:
    slow = overlap.begin(rotated_cookie)
    assert slow.do(lambda session: session["a"]) == 1
    overlap.run(rotated_cookie, meanwhile)
    slow.finish()
    assert overlap.read(rotated_cookie) == expected


def test_message_that_was_popped_does_not_come_back_with_new_seals(
    overlap: Overlap, rotated_cookie: str
) -> None:
    slow = overlap.begin(rotated_cookie)
    slow.do(dict)
    fast = overlap.begin(rotated_cookie)
    assert fast.do(lambda session: session.pop_flash()) == ["one"]
    fast.finish()
    slow.finish()
    last = overlap.begin(rotated_cookie)
    assert last.do(dict) == {"a": 1, "b": [1], "c": 1}
    assert last.do(lambda session: session.pop_flash()) == []


def test_write_of_the_same_request_is_not_undone_by_new_seals(
    overlap: Overlap, rotated_cookie: str
) -> None:
    def use(session: Any) -> None:
        session["a"] = 5
        session["b"].append(2)
        del session["c"]

    overlap.run(rotated_cookie, use)
    assert overlap.read(rotated_cookie) == {"a": 5, "b": [1, 2]}


@pytest.mark.parametrize("end", ["logout", "regenerate"])
def test_new_seals_change_nothing_of_a_session_that_has_moved_on(
    overlap: Overlap, rotated_cookie: str, redis_client: redis.Redis, end: str
) -> None:
    slow = overlap.begin(rotated_cookie)
    slow.do(dict)
    (key,) = [key for key in redis_client.keys("session:*") if b"owner:" not in key]
    overlap.run(rotated_cookie, lambda s: s.invalidate() if end == "logout" else s.regenerate_id())
    before = redis_client.hgetall(key)
    assert slow.finish().cookies == []
    assert redis_client.hgetall(key) == before
    assert (b"@" in before) == (end == "regenerate")


def test_login_in_the_middle_of_a_rotation_moves_everything_under_the_new_secret(
    overlap: Overlap, rotated_cookie: str, redis_url: str
) -> None:
    cookie = overlap.run(rotated_cookie, lambda session: setattr(session, "owner", "bob")).cookie
    with Overlap(redis_url, secret=NEW) as after:
        driven = after.begin(cookie)
        assert driven.do(dict) == {"a": 1, "b": [1], "c": 1}
        assert driven.do(lambda session: session.owner) == "bob"
        assert driven.do(lambda session: session.peek_flash()) == ["one"]


def test_write_under_the_old_secret_that_slips_in_before_a_login_is_kept(
    overlap: Overlap, rotated_cookie: str, redis_url: str
) -> None:
    # Not every process of the application puts the new secret first yet.
    with Overlap(redis_url, secret=[OLD, NEW]) as before:
        slow = overlap.begin(rotated_cookie)
        slow.do(lambda session: session["a"])
        before.run(rotated_cookie, lambda session: session.update(late=1))
        slow.do(lambda session: session.regenerate_id())
        cookie = slow.finish().cookie
    with Overlap(redis_url, secret=NEW) as after:
        assert after.read(cookie) == {"a": 1, "b": [1], "c": 1, "late": 1}


def test_processes_with_the_new_secret_second_read_what_the_others_write(redis_url: str) -> None:
    # How to rotate without an interruption: first all learn the new secret, then all use it.
    learned = make_browser(redis_url, secret=[OLD, NEW])
    learned.use(lambda session: session.update(a=1))
    using = take_along(learned, redis_url, secret=[NEW, OLD])
    using.use(lambda session: session.update(a=session["a"] + 1))
    again = take_along(using, redis_url, secret=[OLD, NEW])
    again.use(lambda session: session.update(a=session["a"] + 1))
    assert take_along(again, redis_url, secret=[NEW, OLD]).use(dict) == {"a": 3}


# -- nothing of it is an error of the request --------------------------------------


def test_redis_that_refuses_the_new_seals_is_no_error_of_the_request(
    new_redis_server: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_redis_server()
    old = make_browser(server.url, secret=OLD)
    fill(old)
    user = take_along(old, server.url, secret=BOTH, cookie_max_age=None)
    user.use(dict)  # gets the new cookie
    with server.client() as client:
        # Reads go on, writes are refused.
        client.config_set("min-replicas-to-write", 1)
        assert user.use(contents) == FILLED
        assert user.response.status_int == 200
        assert "could not be sealed under the first secret" in caplog.text
        client.config_set("min-replicas-to-write", 0)
        assert user.use(contents) == FILLED
        assert outdated(client, user) == []


def test_redis_that_dies_before_the_new_seals_is_no_error_of_the_request(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    old = make_browser(server.url, encryption_key=OLD)
    fill(old)
    user = take_along(old, server.url, encryption_key=BOTH)

    def view(request: Any) -> None:
        assert contents(request.session) == FILLED
        server.kill()

    user.visit(view)
    assert user.response.status_int == 200


def test_request_that_fails_rotates_too(redis_url: str, redis_client: redis.Redis) -> None:
    old = make_browser(redis_url, secret=OLD)
    fill(old)
    user = take_along(old, redis_url, secret=BOTH)
    user.use(dict)  # gets the new cookie

    def view(request: Any) -> None:
        dict(request.session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        user.visit(view)
    assert outdated(redis_client, user) == []


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_both_modes_rotate(redis_url: str, mode: str) -> None:
    old = make_browser(redis_url, secret=OLD, on_conflict=mode)
    fill(old)
    user = take_along(old, redis_url, secret=BOTH, on_conflict=mode)
    user.use(lambda session: session.update(more=len(session)))
    user.use(dict)
    after = take_along(user, redis_url, secret=NEW, on_conflict=mode)
    assert after.use(lambda session: session["more"]) == 3


def test_broken_seal_is_refused_in_a_rotation_as_ever(
    redis_url: str, redis_client: redis.Redis
) -> None:
    problems: list[Any] = []
    old = make_browser(redis_url, secret=OLD)
    fill(old)
    user = take_along(
        old,
        redis_url,
        secret=BOTH,
        func_invalid_logger=lambda request, problem: problems.append(problem),
    )
    redis_client.hset(user.key, ".text", b"x" * 40)
    before: Any = redis_client.hgetall(user.key)
    assert user.use(dict) == {}
    assert [type(problem) for problem in problems] == [InvalidSession_DeserializationError]
    assert redis_client.hgetall(user.key) == before


# -- warnings at start -------------------------------------------------------------


@pytest.mark.parametrize("name", ["secret", "seal_secret", "encryption_key"])
@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("x" * 31, "is shorter than 32 bytes"),
        (["y" * 32, "x" * 31], "is shorter than 32 bytes"),
        ("seekrit", "is a well-known sample value"),
        ("itsaseekreet", "is a well-known sample value"),
        (["y" * 32, "secret"], "is a well-known sample value"),
        ("x" * 32, None),
        (["x" * 32, "y" * 32], None),
        ("é" * 16, None),
    ],
)
def test_weak_secret_gets_a_warning_at_start_that_does_not_show_it(
    redis_url: str, caplog: pytest.LogCaptureFixture, name: str, value: Any, warning: str | None
) -> None:
    options: dict[str, Any] = {name: value}
    if name == "seal_secret":
        signer = RedisSessionFactory("z" * 32).cookies._signer
        options |= {"secret": None, "cookie_signer": signer}
    with caplog.at_level(logging.WARNING):
        make_browser(redis_url, **options)
    found = [record.getMessage() for record in caplog.records]
    assert found == (
        [] if warning is None else [f"redis.sessions.{name} {found[0].split(' ', 1)[1]}"]
    )
    if warning is not None:
        assert warning in found[0]
        for item in [value] if isinstance(value, str) else value:
            assert item == "secret" or item not in found[0]
