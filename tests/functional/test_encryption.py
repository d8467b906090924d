"""Encryption at rest: what Redis holds shows no value, and gives none to who alters it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import sessions_of
from tests.support.browser import make_browser, take_along

KEY = "an encryption key of these tests, over 32 bytes"
OTHER = "another encryption key of these tests, over 32 bytes"

#: Appears in every value, in some encoding of text.
SECRET_VALUE = "confidential"


def fill(session: Any) -> None:
    session["text"] = SECRET_VALUE
    session["bytes"] = SECRET_VALUE.encode()
    session["nested"] = {"list": [SECRET_VALUE, {SECRET_VALUE}]}
    session["long"] = SECRET_VALUE * 1000
    session.flash(SECRET_VALUE)
    session.owner = SECRET_VALUE
    session.label = SECRET_VALUE


def everything(client: redis.Redis) -> bytes:
    """All that Redis holds: names of keys and fields, values, members."""
    held = []
    for key in client.scan_iter():
        held.append(key)
        if client.type(key) == b"hash":
            fields: Any = client.hgetall(key)
            held += [part for pair in fields.items() for part in pair]
        else:
            members: Any = client.zrange(key, 0, -1)
            held += members
    return b"\n".join(held)


def contents(session: Any) -> Any:
    return dict(session), session.peek_flash(), session.owner, session.label


@pytest.mark.parametrize("serialize", ["pickle", "json", "msgpack"])
def test_redis_shows_no_value(redis_url: str, redis_client: redis.Redis, serialize: str) -> None:
    def fill_plain(session: Any) -> None:
        fill(session)
        session["nested"] = {"list": [SECRET_VALUE]}

    sealed = make_browser(redis_url, serialize=serialize)
    sealed.use(fill_plain)
    assert SECRET_VALUE.encode() in everything(redis_client)
    redis_client.flushall()

    browser = make_browser(redis_url, encryption_key=KEY, serialize=serialize)
    browser.use(fill_plain)
    shown = everything(redis_client)
    assert SECRET_VALUE.encode() not in shown
    # Names of keys stay readable, and the documentation says so.
    assert b".nested" in shown
    assert browser.use(lambda session: session["nested"]) == {"list": [SECRET_VALUE]}


def test_everything_is_there_again(redis_url: str) -> None:
    plain = make_browser(redis_url)
    plain.use(fill)
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(fill)
    assert browser.use(contents) == plain.use(contents)


def test_equal_values_look_different(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(lambda session: session.update({str(n): SECRET_VALUE for n in range(50)}))
    stored: Any = redis_client.hgetall(browser.key)
    values = [value for field, value in stored.items() if field[:1] == b"."]
    # A nonce that came twice would show where two values are equal, and more.
    assert len({value[:12] for value in values}) == 50
    assert len({value[12:-16] for value in values}) == 50
    browser.use(lambda session: session.update({"0": SECRET_VALUE}))
    again: Any = redis_client.hget(browser.key, ".0")
    assert again[:12] not in {value[:12] for value in values}


def test_value_that_did_not_change_is_not_encrypted_again(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(fill)
    stored: Any = redis_client.hgetall(browser.key)
    browser.use(lambda session: list(session.values()))
    assert redis_client.hgetall(browser.key) == stored
    browser.use(lambda session: session["nested"]["list"].append(1))
    now: Any = redis_client.hgetall(browser.key)
    changed = {field for field in now if now[field] != stored.get(field)}
    assert changed == {b".nested", b"saves"}


# -- keys --------------------------------------------------------------------------


def test_without_the_key_nothing_opens(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(fill)
    before: Any = redis_client.hgetall(browser.key)
    for options in ({"encryption_key": OTHER}, {}):
        assert take_along(browser, redis_url, **options).use(dict) == {}
    assert redis_client.hgetall(browser.key) == before


def test_first_key_encrypts_and_all_decrypt(redis_url: str) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(lambda session: session.update(a=SECRET_VALUE))
    both = take_along(browser, redis_url, encryption_key=f"{OTHER}\n{KEY}")
    assert both.use(dict) == {"a": SECRET_VALUE}
    both.use(lambda session: session.update(b=SECRET_VALUE))
    only = take_along(both, redis_url, encryption_key=OTHER)
    assert only.use(dict) == {"a": SECRET_VALUE, "b": SECRET_VALUE}


def test_live_sessions_are_encrypted_when_it_is_turned_on(
    redis_url: str, redis_client: redis.Redis
) -> None:
    plain = make_browser(redis_url)
    plain.use(fill)
    expected = plain.use(contents)
    assert SECRET_VALUE.encode() in everything(redis_client)
    browser = take_along(plain, redis_url, encryption_key=KEY)
    assert browser.use(contents) == expected
    assert SECRET_VALUE.encode() not in everything(redis_client)
    assert browser.use(contents) == expected


def test_secret_can_be_rotated_beside_it(redis_url: str) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(lambda session: session.update(a=1))
    secrets = ["a new secret of these tests, over 32 bytes", browser.factory.settings.secret[0]]
    rotated = take_along(browser, redis_url, encryption_key=KEY, secret=secrets)
    assert rotated.use(dict) == {"a": 1}
    alone = take_along(rotated, redis_url, encryption_key=KEY, secret=secrets[0])
    assert alone.use(dict) == {"a": 1}


# -- who writes to Redis -----------------------------------------------------------


def test_every_flipped_byte_is_noticed(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(lambda session: session.update(a=1))
    stored: Any = redis_client.hget(browser.key, ".a")
    for position in range(len(stored)):
        forged = bytearray(stored)
        forged[position] ^= 1
        redis_client.hset(browser.key, ".a", bytes(forged))
        assert browser.copy().use(dict) == {}
    redis_client.hset(browser.key, ".a", stored)
    assert browser.use(dict) == {"a": 1}


def cut(stored: dict[bytes, bytes], other: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**stored, b".admin": stored[b".admin"][:10]}


def from_another_key(stored: dict[bytes, bytes], other: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**stored, b".admin": stored[b".member"]}


def from_another_session(
    stored: dict[bytes, bytes], other: dict[bytes, bytes]
) -> dict[bytes, bytes]:
    return {**stored, b".admin": other[b".admin"]}


def as_owner(stored: dict[bytes, bytes], other: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**stored, b"owner": stored[b".member"]}


def as_message(stored: dict[bytes, bytes], other: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**stored, b"~\x1f0": stored[b".member"]}


def sealed_by_nobody(stored: dict[bytes, bytes], other: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**stored, b".admin": bytes(16) + b"t"}


@pytest.mark.parametrize(
    "forge", [cut, from_another_key, from_another_session, as_owner, as_message, sealed_by_nobody]
)
def test_transplanted_or_invented_value_is_noticed(
    redis_url: str, redis_client: redis.Redis, forge: Callable[..., dict[bytes, bytes]]
) -> None:
    admin = make_browser(redis_url, encryption_key=KEY)
    admin.use(lambda session: session.update(admin=True, member=True))
    user = admin.another()
    user.use(lambda session: session.update(admin=False, member=True))
    stored: Any = redis_client.hgetall(user.key)
    others: Any = redis_client.hgetall(admin.key)
    redis_client.hset(user.key, mapping=forge(stored, others))  # type: ignore[arg-type]
    assert user.use(dict) == {}


def test_value_under_another_prefix_does_not_open(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url, encryption_key=KEY, prefix="one:")
    browser.use(lambda session: session.update(a=1))
    redis_client.copy(browser.key, f"two:{browser.session_id}")
    assert take_along(browser, redis_url, encryption_key=KEY, prefix="two:").use(dict) == {}


def test_owners_sessions_are_found(redis_url: str) -> None:
    browser = make_browser(redis_url, encryption_key=KEY)
    browser.use(fill)
    infos = sessions_of(browser.wsgi.registry, SECRET_VALUE)
    assert [info.label for info in infos] == [SECRET_VALUE]
