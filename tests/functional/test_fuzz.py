"""Whatever stands in the Cookie header or in Redis: a right answer, and nothing that we did
not write ourselves."""

import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from webtest import TestApp

from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.application import make_app, set_cookies, signed_cookie, stored_sessions

FUZZ = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

EXECUTED: list[str] = []


def execute() -> str:
    EXECUTED.append("code from Redis was run")
    return "executed"


class Gadget:
    """What an intruder pickles: unpickling it runs a function."""

    def __reduce__(self) -> Any:
        return execute, ()


WRITTEN = {"value": "mine", "list": [1, 2], "number": 5}
MESSAGE = "message"


def write(request: Any) -> None:
    request.session.update(WRITTEN)
    request.session.flash(MESSAGE)


def read(request: Any) -> str:
    session = request.session
    return json.dumps([list(session.items()), session.pop_flash(), session.new])


def properties(request: Any) -> str:
    session = request.session
    session.get("value")
    return repr(
        [
            session,
            session.created,
            session.timeout,
            session.expires,
            session.session_id,
            len(session),
        ]
    )


def change(request: Any) -> str:
    request.session["changed"] = True
    request.session.pop("value", None)
    return "changed"


def login(request: Any) -> str:
    request.session["user"] = "kim"
    request.session.regenerate_id()
    return "logged in"


def adjust(request: Any) -> str:
    request.session.adjust_session_timeout(60)
    request.session.adjust_session_expires(None)
    return "adjusted"


def logout(request: Any) -> str:
    request.session.invalidate()
    return "logged out"


VIEWS = {
    "write": write,
    "read": read,
    "properties": properties,
    "change": change,
    "login": login,
    "adjust": adjust,
    "logout": logout,
}
LATER = ("properties", "change", "login", "adjust", "logout")


class Target(NamedTuple):
    """An application with one session, and how to reach it."""

    app: TestApp
    client: redis.Redis
    cookie: str
    key: str
    genuine: dict[bytes, bytes]

    def get(self, path: str, cookie: str | None = None) -> Any:
        self.app.reset()
        header = self.cookie if cookie is None else cookie
        return self.app.get("/" + path, extra_environ={"HTTP_COOKIE": header}, status=200)

    def restore(self) -> None:
        """Bring Redis back to the one genuine session."""
        self.client.flushall()
        self.client.hset(self.key, mapping=self.genuine)  # type: ignore[arg-type]


def make_target(server: RedisServer, client: redis.Redis, **options: str) -> Target:
    client.flushall()
    app = make_app(server.url, VIEWS, **options)
    (cookie,) = set_cookies(app.get("/write"))
    ((session_id, fields),) = stored_sessions(client).items()
    return Target(app, client, f"session={cookie.value}", "session:" + session_id, fields)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of refused sessions are not worth a log record each."""
    logger = logging.getLogger("pyramid_redis_lua_sessions")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def sealed(redis_server: RedisServer, client: redis.Redis) -> Target:
    return make_target(redis_server, client)


@pytest.fixture(scope="module")
def sealed_retry(redis_server: RedisServer, client: redis.Redis) -> Target:
    return make_target(
        redis_server,
        client,
        on_conflict="retry",
        absolute_timeout="7200",
        timeout_trigger="600",
        set_redis_ttl="false",
        invalidate_empty_session="true",
    )


@pytest.fixture(scope="module")
def bare_json(redis_server: RedisServer, client: redis.Redis) -> Target:
    return make_target(redis_server, client, seal="false", serialize="json")


# -- the Cookie header -----------------------------------------------------------------

GENUINE = "\N{SNOWMAN}genuine\N{SNOWMAN}"  # stands for the genuine cookie's value

pieces = st.one_of(
    st.sampled_from(
        'session|=|;|; |,|"|\\|\\377|\\999| |\t|\n|$|%|Session=|x=1; |\xff|\x00'.split("|")
    ),
    st.sampled_from(["session=", 'session="', "\xc3\x28", "A" * 43, "-_" * 30]),
    st.sampled_from([GENUINE, f"session={GENUINE}", f'session="{GENUINE}"']),
    st.binary(max_size=12).map(lambda data: data.decode("latin-1")),
)


@FUZZ
@given(st.lists(pieces, max_size=12))
@example(["session=x; "] * 100)
@example([f"session={GENUINE}"])
def test_no_cookie_header_breaks_a_request_or_opens_another_session(
    sealed: Target, parts: list[str]
) -> None:
    sealed.restore()
    value = sealed.cookie.partition("=")[2]
    header = "".join(parts).replace(GENUINE, value)
    items, messages, new = json.loads(sealed.get("read", header).text)
    if new:
        assert (items, messages) == ([], [])
    else:
        assert value in header
        assert (dict(items), messages) == (WRITTEN, [MESSAGE])
    for path in LATER:
        sealed.get(path, header)


@FUZZ
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), tail=st.binary(max_size=4))
def test_no_changed_cookie_opens_a_session(
    sealed: Target, position: int, bit: int, tail: bytes
) -> None:
    sealed.restore()
    raw = bytearray(sealed.cookie.partition("=")[2].encode("ascii"))
    raw[position % len(raw)] ^= 1 << bit
    header = "session=" + (bytes(raw) + tail).decode("latin-1")
    items, _, new = json.loads(sealed.get("read", header).text)
    assert new
    assert items == []


@FUZZ
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@example("")
@example(" ")
@example("\x00")
@example("x" * 2000)
def test_no_session_id_breaks_a_request(sealed: Target, session_id: str) -> None:
    sealed.restore()
    header = signed_cookie(session_id)
    for path in ("read", *LATER):
        sealed.get(path, header)
    assert session_id not in stored_sessions(sealed.client)


# -- what is stored --------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(lambda n: b"%d" % n),
    st.floats().map(lambda f: repr(f).encode()),
    st.sampled_from([b"", b"0", b"-1", b"1e308", b"nan", b"inf", b"-inf", b"0x7fffffffffffffff"]),
    st.integers(300, 6000).map(lambda n: b"9" * n),
)
GADGET = pickle.dumps(Gadget())
values = st.one_of(
    numbers,
    st.binary(max_size=40),
    st.sampled_from(
        [GADGET, b"p" + GADGET, bytes(16) + b"p" + GADGET, b"sadmin", bytes(16) + b"sadmin"]
    ),
    numbers.map(lambda number: number + b" nonce"),
    st.sampled_from(["value", "list", "number", "flash"]),  # a genuine value of that name
)
metadata = st.sampled_from(
    b"created token timeout expires deadline first saves saves1 moved staged".split()
)
fields = st.one_of(
    metadata,
    st.sampled_from([b".value", b".list", b".number", b".admin", b".", b"#1", b"#x", b"~", b""]),
    st.sampled_from(
        [b"~\x1f0", b"~admin\x1f0", b"~\xff\x1f0", b".\xff", b"#-1", b"#" + b"9" * 5000]
    ),
    st.binary(max_size=8),
)
stored = st.one_of(
    st.tuples(st.just("string"), values),
    st.tuples(st.sampled_from(["list", "set", "zset", "stream"]), st.binary(max_size=8)),
    st.tuples(st.just("hash"), st.dictionaries(fields, values, min_size=1, max_size=6)),
    # Over the genuine session.
    st.tuples(st.just("changed"), st.dictionaries(metadata, numbers, min_size=1, max_size=2)),
    st.tuples(st.just("changed"), st.dictionaries(fields, values, min_size=1, max_size=4)),
)


def genuine_value(target: Target, value: bytes | str) -> bytes:
    if isinstance(value, bytes):
        return value
    for field, data in target.genuine.items():
        if field == f".{value}".encode() or (value == "flash" and field.startswith(b"~")):
            return data
    raise AssertionError(value)


def plant(target: Target, kind: str, content: Any) -> None:
    client, key = target.client, target.key
    client.flushall()
    if kind == "string":
        client.set(key, genuine_value(target, content))
    elif kind == "list":
        client.rpush(key, content)
    elif kind == "set":
        client.sadd(key, content)
    elif kind == "zset":
        client.zadd(key, {content: 1})
    elif kind == "stream":
        client.xadd(key, {b"field": content})
    else:
        mapping: Any = {field: genuine_value(target, value) for field, value in content.items()}
        if kind == "changed":
            mapping = {**target.genuine, **mapping}
        client.hset(key, mapping=mapping)


def check_stored(target: Target, kind: str, content: Any, sealed: bool) -> None:
    plant(target, kind, content)
    items, messages, _ = json.loads(target.get("read").text)
    if sealed:
        # All that comes out went in, under the same name.
        assert all(WRITTEN.get(key) == value for key, value in items)
        assert messages in ([], [MESSAGE])
    for path in LATER:
        plant(target, kind, content)
        target.get(path)
    assert EXECUTED == []


@FUZZ
@given(stored)
def test_nothing_stored_breaks_a_request_or_is_believed(
    sealed: Target, planted: tuple[str, Any]
) -> None:
    check_stored(sealed, *planted, sealed=True)


@FUZZ
@given(stored)
def test_nothing_stored_breaks_a_request_or_is_believed_with_all_limits_set(
    sealed_retry: Target, planted: tuple[str, Any]
) -> None:
    check_stored(sealed_retry, *planted, sealed=True)


@FUZZ
@given(stored)
def test_nothing_stored_breaks_a_request_or_runs_code_when_values_are_bare_json(
    bare_json: Target, planted: tuple[str, Any]
) -> None:
    check_stored(bare_json, *planted, sealed=False)


def test_gadget_of_these_tests_works() -> None:
    assert pickle.loads(GADGET) == "executed"
    assert EXECUTED == ["code from Redis was run"]
    EXECUTED.clear()
