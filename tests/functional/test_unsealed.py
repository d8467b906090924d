"""``seal = false``: bare bytes, for those who share sessions with other programs."""

from __future__ import annotations

import json
import pickle
from typing import Any

import msgspec
import pytest
import redis
from pyramid.exceptions import ConfigurationError

from pyramid_redis_lua_sessions import revoke, sessions_of
from tests.support.browser import make_browser

DUMPS = {"json": json.dumps, "msgpack": msgspec.msgpack.encode, "pickle": pickle.dumps}
LOADS = {"json": json.loads, "msgpack": msgspec.msgpack.decode, "pickle": pickle.loads}

VALUES = {"text": "t", "int": 7, "none": None, "true": True, "float": 0.5, "list": [1, {"a": "b"}]}


def options_of(name: str) -> dict[str, Any]:
    return {"seal": False, "serialize": name, "allow_unsealed_pickle": name == "pickle"}


every_serializer = pytest.mark.parametrize("name", ["json", "msgpack", "pickle"])


@every_serializer
def test_another_program_reads_every_value(
    redis_url: str, redis_client: redis.Redis, name: str
) -> None:
    browser = make_browser(redis_url, **options_of(name))
    browser.use(lambda session: session.update(VALUES))
    stored: Any = redis_client.hgetall(browser.key)
    found = {
        field[1:].decode(): LOADS[name](value)
        for field, value in stored.items()
        if field[:1] == b"."
    }
    assert found == VALUES
    assert browser.use(dict) == VALUES


@every_serializer
def test_another_program_writes_values(
    redis_url: str, redis_client: redis.Redis, name: str
) -> None:
    browser = make_browser(redis_url, **options_of(name))
    browser.use(lambda session: session.update(a=1))
    data: Any = DUMPS[name]({"from": ["elsewhere"]})
    redis_client.hset(browser.key, ".b", data)
    assert browser.use(dict) == {"a": 1, "b": {"from": ["elsewhere"]}}


@every_serializer
def test_value_that_nobody_can_decode_is_absent_and_left_stored(
    redis_url: str, redis_client: redis.Redis, name: str
) -> None:
    browser = make_browser(redis_url, **options_of(name))
    browser.use(lambda session: session.update(a=1))
    redis_client.hset(browser.key, ".b", b"\xc1 no such thing")
    assert browser.use(dict) == {"a": 1}
    browser.use(lambda session: session.update(a=2))
    assert redis_client.hget(browser.key, ".b") == b"\xc1 no such thing"


@every_serializer
def test_flash_csrf_owner_and_new_ids_work(redis_url: str, name: str) -> None:
    browser = make_browser(redis_url, **options_of(name))

    def use(session: Any) -> None:
        session.flash("message")
        session.owner = 7
        session.label = "phone"

    browser.use(use)
    token = browser.use(lambda session: session.get_csrf_token())
    assert browser.use(lambda session: session.get_csrf_token()) == token
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(lambda session: session.pop_flash()) == ["message"]
    assert [info.label for info in sessions_of(browser.wsgi.registry, 7)] == ["phone"]
    assert revoke(browser.wsgi.registry, 7) == 1
    assert browser.use(dict) == {}


# -- what is refused at configuration ----------------------------------------------


def refused(redis_url: str, **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make_browser(redis_url, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "spelling", [None, "pickle", "pickle.dumps", "cPickle.dumps", "_pickle:dumps"]
)
def test_bare_pickle_is_refused(redis_url: str, spelling: str | None) -> None:
    message = refused(redis_url, seal=False, serialize=spelling)
    assert "redis.sessions.seal" in message
    assert "allow_unsealed_pickle" in message


def test_bare_pickle_functions_are_refused(redis_url: str) -> None:
    options = {"serialize": pickle.dumps, "deserialize": pickle.loads}
    assert "allow_unsealed_pickle" in refused(redis_url, seal=False, **options)


def test_bare_pickle_can_be_asked_for(redis_url: str) -> None:
    browser = make_browser(redis_url, seal="false", allow_unsealed_pickle="true")
    browser.use(lambda session: session.update(a={1}))
    assert browser.use(dict) == {"a": {1}}


def test_encryption_of_bare_values_is_refused(redis_url: str) -> None:
    options = {"serialize": "json", "encryption_key": "x" * 32}
    assert "encryption_key" in refused(redis_url, seal=False, **options)


class Signer:
    """A ``cookie_signer`` that signs nothing."""

    def dumps(self, text: str) -> bytes:
        return text.encode()

    def loads(self, data: bytes) -> str:
        return data.decode()


def test_cookie_signer_needs_something_to_seal_with(redis_url: str) -> None:
    options: dict[str, Any] = {"secret": None, "cookie_signer": Signer()}
    assert "seal_secret" in refused(redis_url, **options)
    for more in ({"seal_secret": "x" * 32}, {"seal": False, "serialize": "json"}):
        browser = make_browser(redis_url, **options, **more)
        browser.use(lambda session: session.update(a=1))
        assert browser.use(dict) == {"a": 1}


def test_bare_values_are_no_secret_of_the_seal(redis_url: str, redis_client: redis.Redis) -> None:
    # Who switches the seal on over bare sessions: they are refused, never believed.
    browser = make_browser(redis_url, **options_of("json"))
    browser.use(lambda session: session.update(a=1))
    sealed = make_browser(redis_url, serialize="json")
    for cookie in browser.app.cookiejar:
        sealed.app.cookiejar.set_cookie(cookie)
    assert sealed.use(dict) == {}
