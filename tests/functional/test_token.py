"""The locator names a session and the verifier opens it: what that keeps from whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.errors import fingerprint
from tests.support.application import signed_cookie, stored_sessions
from tests.support.browser import Browser, make_browser

SECRET = "a secret of the tests, more than 32 bytes long"
ENCRYPTED = {"encryption_key": "an encryption key of these tests, over 32 bytes"}


def log_in(session: Any) -> None:
    session["account"] = "of ada"
    session.owner = "ada"


def log_in_without_owners(session: Any) -> None:
    session["account"] = "of ada"
    session.regenerate_id()


def everything(session: Any) -> Any:
    return dict(session), session.peek_flash(), session.owner


def show(browser: Browser, header: str) -> Any:
    """What a request finds that comes with this ``Cookie`` header."""
    return browser.another().use(everything, headers={"Cookie": header})


# -- a planted cookie, and write access to Redis ---------------------------------------------

#: What is put back of the anonymous session that was planted.
PUT_BACK: dict[str, Callable[[dict[bytes, bytes]], dict[bytes, bytes]]] = {
    "the token": lambda old: {b"@": old[b"@"]},
    "token and memory": lambda old: {b"@": old[b"@"], b"saves": old[b"saves"]},
    "all fields": lambda old: old,
    "all but the values": lambda old: {name: old[name] for name in old if name[:1] != b"."},
}


@pytest.mark.parametrize("login", [log_in, log_in_without_owners])
@pytest.mark.parametrize("options", [{}, ENCRYPTED], ids=["sealed", "encrypted"])
@pytest.mark.parametrize("put_back", PUT_BACK.values(), ids=PUT_BACK.keys())
def test_planted_cookie_opens_no_login_though_redis_can_be_written(
    redis_url: str,
    redis_client: redis.Redis,
    options: dict[str, Any],
    put_back: Callable[[dict[bytes, bytes]], dict[bytes, bytes]],
    login: Callable[[Any], None],
) -> None:
    attacker = make_browser(redis_url, **options)
    attacker.use(lambda session: session.update(cart=1))
    attacker.use(lambda session: session.update(cart=2))
    old: Any = redis_client.hgetall(attacker.key)
    victim = attacker.copy()
    victim.use(login)
    assert victim.use(lambda session: session["account"]) == "of ada"
    assert victim.key == attacker.key
    redis_client.hset(attacker.key, mapping=put_back(old))  # type: ignore[arg-type]
    assert attacker.copy().use(everything) == ({}, [], None)


def test_token_of_another_session_opens_none(redis_url: str, redis_client: redis.Redis) -> None:
    victim = make_browser(redis_url)
    victim.use(log_in)
    attacker = victim.another()
    attacker.use(lambda session: session.update(mine=1))
    token = redis_client.hget(attacker.key, "@")
    redis_client.hset(victim.key, "@", token)  # type: ignore[arg-type]
    assert attacker.token is not None
    mixed = attacker.token._replace(locator=victim.session_id)
    assert show(victim, signed_cookie(mixed, secret=SECRET)) == ({}, [], None)


# -- a locator without its verifier ----------------------------------------------------------


def cookies_that_open_nothing(browser: Browser) -> dict[str, str]:
    """Signed cookies that name the session, and none of which opens it."""
    token = browser.token
    assert token is not None
    locator, verifier, digest = token
    other = "x" + verifier[1:] if verifier[0] != "x" else "y" + verifier[1:]
    values = {
        "no verifier": f"{locator}.",
        "another verifier": f"{locator}.{other}",
        "half a verifier": f"{locator}.{verifier[:11]}",
        "more than a verifier": f"{locator}.{verifier}A",
        "the digest": f"{locator}.{digest.hex()}",
        "no dot": locator,
    }
    signer = browser.factory.cookies._signer
    return {
        name: "session=" + signer.dumps(f"1700000000  {value}").decode()
        for name, value in values.items()
    }


@pytest.mark.parametrize("lru", [False, True], ids=["TTL", "expires"])
def test_locator_without_its_verifier_opens_nothing_and_refreshes_nothing(
    redis_url: str, redis_client: redis.Redis, lru: bool
) -> None:
    browser = make_browser(redis_url, timeout=1200, set_redis_ttl=not lru)
    browser.use(log_in)
    if lru:
        now: Any = redis_client.time()
        redis_client.hset(browser.key, "expires", (now[0] + 100) * 1000)
    else:
        redis_client.pexpire(browser.key, 100_000)
    before: Any = redis_client.hgetall(browser.key)
    cookies = cookies_that_open_nothing(browser)
    for name, header in cookies.items():
        for view in (
            everything,
            lambda session: session.do_refresh(),
            lambda session: session.please_recookie(),
            lambda session: session.adjust_session_timeout(5000),
            lambda session: session.update(mine=1),
            lambda session: session.regenerate_id(),
            lambda session: session.invalidate(),
        ):
            stranger = browser.another()
            found = stranger.use(view, headers={"Cookie": header})
            if view is everything:
                assert found == ({}, [], None), name
            # Whatever it is given is a session of its own.
            assert stranger.session_id != browser.session_id
        assert redis_client.hgetall(browser.key) == before, name
        if not lru:
            assert redis_client.pttl(browser.key) <= 100_000, name  # type: ignore[operator]
    assert browser.use(everything) == ({"account": "of ada"}, [], "ada")


def test_redis_and_the_secret_together_log_nobody_in(
    redis_url: str, redis_client: redis.Redis
) -> None:
    """Who has read all of Redis, and can sign: there is no verifier in it."""
    browser = make_browser(redis_url)
    browser.use(log_in)
    assert browser.token is not None
    held: Any = redis_client.hgetall(browser.key)
    assert browser.token.verifier.encode() not in b"".join([*held, *held.values()])
    for name, header in cookies_that_open_nothing(browser).items():
        assert show(browser, header) == ({}, [], None), name


def test_cookie_with_the_right_verifier_opens_the_session(redis_url: str) -> None:
    """What makes the tests above mean something."""
    browser = make_browser(redis_url)
    browser.use(log_in)
    assert browser.token is not None
    header = signed_cookie(browser.token, secret=SECRET)
    assert show(browser, header) == ({"account": "of ada"}, [], "ada")


def test_no_log_shows_a_verifier(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    browser = make_browser(redis_url)
    browser.use(log_in)
    old = browser.copy()
    browser.use(lambda session: session.regenerate_id())
    old.use(lambda session: session.update(a=1))
    for user in (old, browser):
        assert user.token is not None
        assert user.token.verifier not in caplog.text
        assert user.token.verifier not in repr(user.token)
    assert fingerprint(browser.session_id or "") in caplog.text


# -- what changes, and what stays ------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.regenerate_id(),
        lambda session: setattr(session, "owner", "bob"),
        lambda session: setattr(session, "owner", None),
        lambda session: (session.regenerate_id(), session.update(a=1)),
    ],
    ids=["regenerate_id", "another owner", "no owner", "regenerate_id and a value"],
)
def test_session_id_stays_and_the_token_changes(
    redis_url: str, redis_client: redis.Redis, change: Callable[[Any], Any]
) -> None:
    browser = make_browser(redis_url)
    browser.use(log_in)
    before, old = browser.token, browser.copy()
    fields: Any = redis_client.hgetall(browser.key)
    browser.use(change)
    assert before is not None
    assert browser.token is not None
    assert browser.session_id == before.locator
    assert browser.use(lambda session: session.session_id) == before.locator
    assert browser.token.verifier != before.verifier
    after: Any = redis_client.hgetall(browser.key)
    assert after[b"@"][:16] == browser.token.digest != before.digest
    assert after[b".account"] != fields[b".account"]
    assert after[b"@"][16:22] == fields[b"@"][16:22]
    assert old.use(everything) == ({}, [], None)
    assert list(stored_sessions(redis_client)) == [before.locator]


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.update(a=1),
        lambda session: setattr(session, "owner", "ada"),
        lambda session: setattr(session, "label", "phone"),
        lambda session: session.new_csrf_token(),
        lambda session: session.adjust_session_timeout(50),
        lambda session: session.clear(),
    ],
)
def test_token_stays_when_no_privilege_changes(
    redis_url: str, change: Callable[[Any], Any]
) -> None:
    browser = make_browser(redis_url)
    browser.use(log_in)
    before = browser.token
    browser.use(change)
    assert browser.response.headers.getall("Set-Cookie") == []
    assert browser.token == before
