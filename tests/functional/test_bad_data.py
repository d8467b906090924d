"""What is not a session of ours under the id of one gives the user a new session."""

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import RawDeserializationError
from pyramid_redis_lua_sessions.engine.tokens import Token, as_stored, draw_verifier
from tests.support.application import (
    data_fields,
    make_app,
    set_cookies,
    signed_cookie,
    stored_sessions,
    token_in,
)
from tests.support.browser import Reports, make_browser
from tests.support.stored import A_SESSION, TOKEN

VICTIM = "session:victim"
VICTIMS = Token.of("victim", draw_verifier())
PLANTED = as_stored(VICTIMS.digest, 1_700_000_000_000, 1_700_000_000_000)


def write(request: Any) -> None:
    request.session["value"] = "mine"
    request.session["other"] = ["nested"]
    request.session.flash("message")


def read(request: Any) -> str:
    session = request.session
    return f"{sorted(session.items())} {session.peek_flash()}"


def change(request: Any) -> str:
    request.session["changed"] = True
    return read(request)


VIEWS = {"write": write, "read": read, "change": change}
WRITTEN = "[('other', ['nested']), ('value', 'mine')] ['message']"


def get(app: TestApp, path: str, cookie: str) -> Any:
    app.reset()
    return app.get(path, extra_environ={"HTTP_COOKIE": cookie})


def new_session(app: TestApp, client: redis.Redis) -> tuple[str, str]:
    """Make a session; return its key in Redis and its cookie."""
    before = set(stored_sessions(client))
    app.reset()
    (cookie,) = set_cookies(app.get("/write"))
    app.reset()
    (session_id,) = set(stored_sessions(client)) - before
    return "session:" + session_id, f"session={cookie.value}"


FOREIGN: dict[str, Callable[[redis.Redis], object]] = {
    "string": lambda client: client.set(VICTIM, "value"),
    "empty string": lambda client: client.set(VICTIM, ""),
    "number": lambda client: client.set(VICTIM, 5),
    "huge string": lambda client: client.set(VICTIM, b"\x00" * 5_000_000),
    "pickled payload of a predecessor": lambda client: client.set(
        VICTIM, pickle.dumps({"m": {"user": 1}, "c": 1, "v": 1})
    ),
    "list": lambda client: client.rpush(VICTIM, "a", "b"),
    "set": lambda client: client.sadd(VICTIM, "a"),
    "zset": lambda client: client.zadd(VICTIM, {"a": 1}),
    "stream": lambda client: client.xadd(VICTIM, {"a": "b"}),
    "hyperloglog": lambda client: client.pfadd(VICTIM, "a"),
    "hash without a token": lambda client: client.hset(VICTIM, ".value", "x"),
    "hash with an empty field": lambda client: client.hset(VICTIM, "", "x"),
    "hash with an empty token": lambda client: client.hset(VICTIM, TOKEN, ""),
    "hash with a token in words": lambda client: client.hset(VICTIM, TOKEN, "yesterday"),
    "hash with a binary token": lambda client: client.hset(VICTIM, TOKEN, b"\xff\x00"),
    "hash with a token that is too short": lambda client: client.hset(VICTIM, TOKEN, b"x" * 21),
    "value without a seal": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, ".value": "sadmin"}
    ),
    "value that is empty": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, ".value": ""}
    ),
    "value as short as a seal": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, ".value": "x" * 16}
    ),
    "huge value": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, ".value": b"x" * 5_000_000}
    ),
    "flash message without a seal": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, "~\x1fid": "sadmin"}
    ),
    "integer key without a seal": lambda client: client.hset(
        VICTIM, mapping={TOKEN: PLANTED, "#1": "sadmin"}
    ),
}


@pytest.mark.parametrize("plant", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("path", ["read", "change"])
def test_foreign_value_gives_a_new_session_that_is_reported(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    plant: Callable[[redis.Redis], object],
    path: str,
) -> None:
    reports = Reports()
    app = make_app(redis_url, VIEWS, func_invalid_logger=reports)
    plant(redis_client)
    planted = redis_client.dump(VICTIM)
    response = get(app, f"/{path}", signed_cookie(VICTIMS))
    assert response.text == ("[] []" if path == "read" else "[('changed', True)] []")
    assert reports.kinds == ["InvalidSession_DeserializationError"]
    (record,) = [r for r in caplog.records if r.name.startswith("pyramid_redis_lua_sessions")]
    assert record.levelno >= logging.WARNING
    # What somebody else stored there is not ours to change.
    assert redis_client.dump(VICTIM) == planted
    assert len(set_cookies(response)) == (path == "change")
    if path == "change":
        assert app.get("/read").text == "[('changed', True)] []"


@pytest.mark.parametrize("plant", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_value_raises_a_clear_error_when_that_is_wanted(
    redis_url: str, redis_client: redis.Redis, plant: Callable[[redis.Redis], object]
) -> None:
    seen: list[Any] = []

    def render(exc: Any, request: Any) -> Response:
        seen.append(exc)
        # The exception view may use the session: it is an empty one.
        return Response(read(request), status=503)

    reports = Reports()
    app = make_app(
        redis_url,
        VIEWS,
        configure=lambda c: c.add_exception_view(render, context=RawDeserializationError),
        deserialized_fails_new="false",
        func_invalid_logger=reports,
    )
    plant(redis_client)
    app.reset()
    response = app.get("/read", extra_environ={"HTTP_COOKIE": signed_cookie(VICTIMS)}, status=503)
    assert response.text == "[] []"
    assert [type(error) for error in seen] == [RawDeserializationError]
    assert len(reports.problems) == 1


@pytest.mark.parametrize("act", ["invalidate", "regenerate", "adjust"])
@pytest.mark.parametrize("plant", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_value_breaks_no_other_call_either(
    redis_url: str, redis_client: redis.Redis, plant: Callable[[redis.Redis], object], act: str
) -> None:
    def view(request: Any) -> None:
        if act == "invalidate":
            request.session.invalidate()
        elif act == "regenerate":
            request.session["user"] = "kim"
            request.session.regenerate_id()
        else:
            request.session.adjust_session_timeout(60)

    app = make_app(redis_url, {**VIEWS, "view": view})
    plant(redis_client)
    get(app, "/view", signed_cookie(VICTIMS))


@pytest.mark.parametrize("act", ["save", "invalidate", "regenerate", "adjust"])
def test_session_that_turns_into_something_else_meanwhile_breaks_nothing(
    redis_url: str, redis_client: redis.Redis, act: str
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session.get("value")
        redis_client.delete(key)
        redis_client.set(key, "a string")
        if act == "save":
            session["value"] = "second"
        elif act == "invalidate":
            session.invalidate()
        elif act == "regenerate":
            session["user"] = "kim"
            session.regenerate_id()
        else:
            session.adjust_session_timeout(60)

    reports = Reports()
    app = make_app(redis_url, {**VIEWS, "view": view}, func_invalid_logger=reports)
    key, cookie = new_session(app, redis_client)
    get(app, "/view", cookie)
    assert redis_client.get(key) == b"a string"
    if act in ("save", "adjust"):
        assert len(reports.problems) == 1  # the change was lost


# -- seals -----------------------------------------------------------------------------


def test_every_corrupted_byte_of_a_value_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    genuine: Any = redis_client.hget(key, ".value")
    for position in range(len(genuine)):
        broken = bytearray(genuine)
        broken[position] ^= 1
        redis_client.hset(key, ".value", bytes(broken))
        assert get(app, "/read", cookie).text == "[] []"
    redis_client.hset(key, ".value", genuine)
    assert get(app, "/read", cookie).text == WRITTEN


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda stored: b"",
    "cut": lambda stored: stored[:-1],
    "seal alone": lambda stored: stored[:16],
    "without its seal": lambda stored: stored[16:],
    "longer": lambda stored: stored + b"x",
    "doubled": lambda stored: stored * 2,
    "another seal": lambda stored: os.urandom(16) + stored[16:],
}


@pytest.mark.parametrize("broken", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("kind", [b".", b"~"], ids=["value", "flash message"])
def test_changed_value_is_noticed(
    redis_url: str, redis_client: redis.Redis, broken: Callable[[bytes], bytes], kind: bytes
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    fields: Any = redis_client.hgetall(key)
    for field in data_fields(fields):
        if field.startswith(kind):
            redis_client.hset(key, field, broken(fields[field]))
    assert get(app, "/read", cookie).text == "[] []"


def test_value_that_is_transplanted_from_another_key_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    redis_client.hset(key, ".admin", redis_client.hget(key, ".value"))
    assert get(app, "/read", cookie).text == "[] []"


def test_value_that_is_transplanted_from_another_session_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    other, _ = new_session(app, redis_client)
    redis_client.hset(key, ".value", redis_client.hget(other, ".value"))
    assert get(app, "/read", cookie).text == "[] []"


@pytest.mark.parametrize(
    "renew",
    [lambda session: session.regenerate_id(), lambda session: setattr(session, "owner", "ada")],
    ids=["regenerate_id", "login"],
)
def test_value_from_before_a_new_token_is_noticed_when_it_is_put_back(
    redis_url: str, redis_client: redis.Redis, renew: Callable[[Any], None]
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(role="guest"))
    before: Any = redis_client.hget(browser.key, ".role")
    browser.use(renew)
    assert browser.use(lambda session: session["role"]) == "guest"
    redis_client.hset(browser.key, ".role", before)
    assert browser.use(dict) == {}


def test_whole_session_that_is_copied_to_another_id_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    redis_client.copy(key, "session:chosen")
    token = token_in(cookie)
    assert token is not None
    chosen = signed_cookie(token._replace(locator="chosen"))
    assert get(app, "/read", chosen).text == "[] []"


def test_whole_session_that_is_copied_to_another_prefix_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    redis_client.copy(key, key.replace("session:", "other:"))
    assert get(make_app(redis_url, VIEWS, prefix="other:"), "/read", cookie).text == "[] []"


def test_flash_message_that_is_transplanted_into_another_queue_is_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    fields: Any = redis_client.hgetall(key)
    (message,) = [field for field in fields if field.startswith(b"~")]
    redis_client.hset(key, message.replace(b"~", b"~admin"), fields[message])
    assert get(app, "/read", cookie).text == "[] []"


def test_one_broken_seal_refuses_the_session_before_any_value_is_used(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> str:
        return str(request.session.get("value"))

    app = make_app(redis_url, {**VIEWS, "view": view})
    key, cookie = new_session(app, redis_client)
    redis_client.hset(key, ".zzz", "broken")
    assert get(app, "/view", cookie).text == "None"


def test_values_sealed_with_another_secret_are_noticed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS)
    _, cookie = new_session(app, redis_client)
    other = "another secret of the tests with more than 32 bytes"
    token = token_in(cookie)
    assert token is not None
    again = signed_cookie(token, secret=other)
    assert get(make_app(redis_url, VIEWS, secret=other), "/read", again).text == "[] []"


# -- a session of ours with odd fields -----------------------------------------------------


def short(value: Any) -> str | None:
    """Name a parameter; a long one by its start and length."""
    if isinstance(value, dict):
        return None
    text = repr(value)
    return text if len(text) < 40 else f"{text[:6]}...{len(text)}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unknown", "x"),
        ("", "x"),
        ("\xff\xfe", "x"),
        ("Created", "x"),
        ("version", "7"),
        ("timeout", ""),
        ("timeout", "soon"),
        ("timeout", "-1"),
        ("timeout", "1e3"),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("timeout", "0x10"),
        ("timeout", "9" * 400),
        ("timeout", "9" * 5000),
        ("timeout", b"\xff\x00"),
        ("timeout", "\u0661\u0662"),
        ("expires", "never"),
        ("expires", "nan"),
        ("expires", "inf"),
        ("expires", "9" * 400),
        ("deadline", "never"),
        ("deadline", "nan"),
        ("deadline", "9" * 400),
        ("deadline", "9" * 5000),
        ("first", "x"),
        ("first", "nan"),
        ("first", "9" * 400),
        ("saves", b"\xff " * 1000),
        ("saves", "a" * 100_000),
        ("saves", ""),
        ("moved", "x"),
        ("moved", ""),
        ("moved", "nan nonce"),
        ("@", ""),
        ("@", "1"),
        ("@", b"x" * 16),
        ("@", b"x" * 21),
        ("@", A_SESSION),
        ("@", A_SESSION + b"\xff" * 6),
        ("@", b"\xff" * 5000),
    ],
    ids=short,
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"set_redis_ttl": "false"},
        {"absolute_timeout": "9000", "on_conflict": "retry", "timeout_trigger": "600"},
    ],
    ids=["default", "LRU mode", "all limits"],
)
def test_odd_metadata_are_no_error(
    redis_url: str,
    redis_client: redis.Redis,
    field: str,
    value: Any,
    options: dict[str, str],
) -> None:
    def properties(request: Any) -> str:
        session = request.session
        return repr(
            [session.created, session.timeout, session.expires, session.new, session.timestamp]
        )

    def login(request: Any) -> None:
        request.session["user"] = "kim"
        request.session.regenerate_id()

    def adjust(request: Any) -> None:
        request.session.adjust_session_timeout(60)

    def logout(request: Any) -> None:
        request.session.invalidate()

    views = {"properties": properties, "login": login, "adjust": adjust, "logout": logout}
    app = make_app(redis_url, {**VIEWS, **views}, **options)
    failures = {}
    for path in ("/read", "/change", "/properties", "/login", "/adjust", "/logout"):
        key, cookie = new_session(app, redis_client)
        redis_client.hset(key, field, value)
        try:
            text = get(app, path, cookie).text
        except Exception as exc:
            failures[path] = exc
        else:
            # Either the session as it was, or a new one; nothing in between.
            if path == "/read" and text not in (WRITTEN, "[] []"):
                failures[path] = text
    assert failures == {}


def test_unknown_fields_are_left_alone(redis_url: str, redis_client: redis.Redis) -> None:
    app = make_app(redis_url, VIEWS)
    key, cookie = new_session(app, redis_client)
    redis_client.hset(key, "of a later version", "kept")
    assert get(app, "/read", cookie).text == WRITTEN
    get(app, "/change", cookie)
    assert redis_client.hget(key, "of a later version") == b"kept"


def test_key_that_no_session_key_can_have_is_skipped_where_no_seal_protects(
    redis_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(redis_url, VIEWS, seal="false", serialize="json")
    key, cookie = new_session(app, redis_client)
    redis_client.hset(key, mapping={"#x": "1", "#01": "1", b".\xff": "1", "#": "1", "~": "1"})
    assert "('value', 'mine')" in get(app, "/read", cookie).text


def test_value_that_does_not_decode_is_absent_reported_and_left_stored(
    redis_url: str, redis_client: redis.Redis
) -> None:
    reports = Reports()
    app = make_app(redis_url, VIEWS, seal="false", serialize="json", func_invalid_logger=reports)
    key, cookie = new_session(app, redis_client)
    redis_client.hset(key, ".value", b"\xff not json")
    expected = "[('other', ['nested'])] ['message']"
    assert get(app, "/read", cookie).text == expected
    assert reports.kinds == ["InvalidSession_DeserializationError"]
    assert "('changed', True), ('other', ['nested'])" in get(app, "/change", cookie).text
    assert redis_client.hget(key, ".value") == b"\xff not json"


# -- code in Redis ---------------------------------------------------------------------


class Gadget:
    """What an intruder pickles: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "options",
    [{}, {"seal": "false", "serialize": "json"}, {"seal": "false", "serialize": "msgpack"}],
    ids=["sealed pickle", "bare json", "bare msgpack"],
)
@pytest.mark.parametrize("wrap", ["bare", "tagged", "with a seal made up", "flash", "string"])
def test_pickle_gadget_that_is_planted_does_nothing(
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
    options: dict[str, str],
    wrap: str,
) -> None:
    proof = tmp_path / "executed"
    gadget = pickle.dumps(Gadget(proof))
    app = make_app(redis_url, VIEWS, **options)
    key, cookie = new_session(app, redis_client)
    if wrap == "string":
        redis_client.delete(key)
        redis_client.set(key, gadget)
    else:
        stored = {
            "bare": gadget,
            "tagged": b"p" + gadget,
            "with a seal made up": bytes(16) + b"p" + gadget,
            "flash": bytes(16) + b"p" + gadget,
        }[wrap]
        redis_client.hset(key, "~\x1f0" if wrap == "flash" else ".value", stored)
    get(app, "/read", cookie)
    get(app, "/change", cookie)
    assert not proof.exists()
    # The gadget does work, or this test would prove nothing.
    pickle.loads(gadget)
    assert proof.exists()


def test_bare_pickle_is_refused_at_configuration(redis_url: str) -> None:
    with pytest.raises(ValueError, match="allow_unsealed_pickle"):
        make_app(redis_url, VIEWS, seal="false")
