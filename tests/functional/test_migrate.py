"""Moving in from the predecessors: what they really stored, met by the first request."""

import base64
import contextlib
import datetime
import enum
import hashlib
import hmac
import os
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import webob.cookies
from redis.cluster import RedisCluster
from webob.cookies import SignedSerializer

from pyramid_redis_lua_sessions.census import Census
from pyramid_redis_lua_sessions.errors import RawDeserializationError
from pyramid_redis_lua_sessions.migrate import OLD_KEY_FIELD, migrate_all, old_name
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import is_compact
from tests.support.browser import SECRET as OTHER_SECRET
from tests.support.browser import Browser, Reports, make_browser, stored_values
from tests.support.predecessors import LIBRARIES, SECRET, Server, User
from tests.support.traffic import call_names
from tests.support.waiting import wait_until

from .test_cli import cluster

__all__ = ["cluster"]  # fixture

PSR = "pyramid_session_redis"
PRS = "pyramid_redis_sessions"
NAMES = [name for name in LIBRARIES if name != "ours"]


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Starts each library's process once."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}

        def server(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(Server(name))
            return started[name]

        yield server


@pytest.fixture
def psr(servers: Callable[[str], Server], redis_server: RedisServer, redis_client: Any) -> Any:
    """Makes users of pyramid_session_redis 1.8.1 on an empty Redis."""
    return lambda **options: servers(f"{PSR} 1.8.1").user(redis_server.port, **options)


def moving(url: str, **options: Any) -> Browser:
    """A user of an application that takes over both predecessors' sessions."""
    return make_browser(url, **{"secret": SECRET, "migrate_from": f"{PSR}, {PRS}", **options})


def come_back(browser: Browser, old: User | str, view: Any = lambda s: dict(s)) -> Any:
    """The first request with the old cookie; the browser keeps what it gets."""
    cookie = old if isinstance(old, str) else old.cookie
    return browser.use(view, headers={"Cookie": cookie})


def old_keys(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if client.type(key) == b"string"]


def new_keys(client: redis.Redis) -> list[bytes]:
    hashes = [key for key in client.scan_iter() if client.type(key) == b"hash"]
    return [key for key in hashes if client.hexists(key, "@")]


def edit(client: redis.Redis, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the one old payload, as if time had passed or the application were another."""
    (key,) = old_keys(client)
    payload = pickle.loads(client.get(key))  # type: ignore[arg-type]
    change(payload)
    client.set(key, pickle.dumps(payload), keepttl=True)


# -- a session moves, whole ----------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", [None, "shop:"])
def test_session_of_every_predecessor_moves_with_everything(
    name: str,
    prefix: str | None,
    servers: Callable[[str], Server],
    redis_server: RedisServer,
    redis_client: redis.Redis,
) -> None:
    options = {} if prefix is None else {"prefix": prefix}
    old = servers(name).user(redis_server.port, **options)
    token = old.do(
        "session['user'] = 'Ann'; session['cart'] = {1: ['a', 'b']}; session[7] = b'bytes'\n"
        "session['void'] = None; session['set'] = {1, 2}; session['_f_odd'] = 'no list'\n"
        "session.flash('one'); session.flash('two'); session.flash({'n': 3}, 'queue')\n"
        "session.adjust_timeout_for_session(5000); result = session.get_csrf_token()"
    )
    old_id, created = old.do("result = session.session_id, session.created")
    assert old_id.startswith(prefix or "")
    assert old_keys(redis_client) == [old_id.encode()]

    new = moving(redis_server.url, **options)
    seen: dict[str, Any] = {}

    def view(session: Any) -> None:
        seen["new"], seen["created"], seen["timeout"] = (
            session.new,
            session.created,
            session.timeout,
        )
        seen["flash"] = session.peek_flash(), session.pop_flash("queue"), session.peek_flash("odd")
        seen["data"], seen["token"] = dict(session), session.get_csrf_token()

    come_back(new, old, view)
    assert seen == {
        "new": False,
        "created": int(created),
        "timeout": 5000,
        "flash": (["one", "two"], [{"n": 3}], []),
        "data": {
            "user": "Ann",
            "cart": {1: ["a", "b"]},
            7: b"bytes",
            "void": None,
            "set": {1, 2},
            "_f_odd": "no list",
            "_csrft_": token,
        },
        "token": token,
    }
    assert old_keys(redis_client) == []
    assert new_keys(redis_client) == [new.key.encode()]
    assert 4_990_000 < redis_client.pttl(new.key) <= 5_000_000  # type: ignore[operator]
    assert not redis_client.hexists(new.key, OLD_KEY_FIELD.decode())
    # The new cookie stands alone, and the session goes on.
    new.use(lambda session: session.update(user="Eve"))
    assert new.use(lambda session: (session["user"], session.pop_flash())) == (
        "Eve",
        ["one", "two"],
    )
    assert stored_values(redis_client, new.factory, str(new.session_id))["user"] == "Eve"


def test_default_timeout_stays_the_default(psr: Any, redis_url: str, redis_client: Any) -> None:
    old = psr(timeout=600)
    old.do("session['a'] = 1")
    new = moving(redis_url, timeout=600)
    come_back(new, old)
    assert not redis_client.hexists(new.key, "timeout")


def test_session_with_a_long_value_moves_to_one_that_takes_little_memory(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 300 * 'a'")
    new = moving(redis_url)
    assert come_back(new, old) == {"a": 300 * "a"}
    assert is_compact(redis_client, new.key)


def test_another_default_is_kept_for_the_sessions_that_had_it(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr(timeout=600)
    old.do("session['a'] = 1")
    new = moving(redis_url, timeout=30)
    assert come_back(new, old, lambda session: session.timeout) == 600
    assert redis_client.hget(new.key, "timeout") == b"600000"


def test_session_that_never_ended_still_never_does(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr(timeout=0)
    old.do("session['a'] = 1")
    new = moving(redis_url)
    assert come_back(new, old, lambda session: session.timeout) is None
    assert redis_client.pttl(new.key) == -1


def test_fixed_end_of_a_session_without_timeout_is_kept(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr(timeout=0)
    old.do("session['a'] = 1")
    end = int(time.time()) + 500
    old.do(f"session.adjust_session_expires({end})")
    assert redis_client.ttl(old_keys(redis_client)[0]) == -1
    new = moving(redis_url)
    come_back(new, old)
    assert redis_client.hget(new.key, "deadline") == b"%d" % (end * 1000)
    assert 490 < redis_client.ttl(new.key) <= 500


@pytest.mark.parametrize("use_ttl", [True, False])
def test_end_far_beyond_the_timeout_is_kept(
    use_ttl: bool, psr: Any, redis_url: str, redis_client: Any
) -> None:
    # Nothing else makes a session of the old library live longer than its timeout.
    old = psr(set_redis_ttl="false", timeout=100, timeout_trigger=50)
    old.do("session['a'] = 1")
    end = int(time.time()) + 30 * 86400
    old.do(f"session.adjust_session_expires({end})")
    old.do("session.get('a')")
    assert pickle.loads(redis_client.get(*old_keys(redis_client)))["x"] == end
    new = moving(redis_url, set_redis_ttl=use_ttl, timeout=100, timeout_trigger=50)
    for _ in range(2):
        assert come_back(new, old, lambda s: (s["a"], s.timeout)) == (1, None)
        assert redis_client.hget(new.key, "deadline") == b"%d" % (end * 1000)
        if use_ttl:
            assert 30 * 86400 - 100 < redis_client.ttl(new.key) <= 30 * 86400
        else:
            assert abs(int(redis_client.hget(new.key, "expires")) - end * 1000) <= 1000


@pytest.mark.parametrize(
    ("ahead", "ttl"),
    [
        (3000, None),  # it may come of a clock
        (30 * 86400, 1000),  # the TTL was the end
    ],
)
def test_end_a_little_beyond_the_timeout_gives_way_to_it(
    ahead: int, ttl: int | None, psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr(set_redis_ttl="false")
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload.update(x=int(time.time()) + ahead))
    if ttl is not None:
        redis_client.expire(old_keys(redis_client)[0], ttl)
    new = moving(redis_url)
    assert come_back(new, old, lambda s: (s["a"], s.timeout)) == (1, 1200)
    assert redis_client.hget(new.key, "deadline") is None
    new.use(dict)
    assert 1190 < redis_client.ttl(new.key) <= 1200


@pytest.mark.parametrize(
    "odd", [{"x": 9e12}, {"t": 9 * 10**12}, {"c": -9e12}, {"c": 9e12, "x": 8e12}]
)
def test_times_that_are_far_from_now_move(
    odd: dict[str, float], psr: Any, redis_url: str, redis_client: Any
) -> None:
    # Someone took milliseconds for seconds.
    old = psr(timeout=0)
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload.update(odd))
    (key,) = old_keys(redis_client)
    payload = redis_client.get(key)
    for use_ttl in (True, False):
        redis_client.flushdb()
        redis_client.set(key, payload)
        new = moving(redis_url, set_redis_ttl=use_ttl)
        assert come_back(new, old) == {"a": 1}
        timeout, created = new.use(lambda session: (session.timeout, session.created))
        assert timeout == odd.get("t")
        assert 0 <= created <= time.time() + 1
        new.use(lambda session: session.regenerate_id())
        assert new.use(lambda session: (dict(session), session.timeout)) == ({"a": 1}, timeout)
        end = redis_client.hget(new.key, "deadline")
        assert end == (b"%d" % (odd["x"] * 1000) if "x" in odd else None)


def test_session_in_an_lru_cache_moves_both_ways(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    for old_ttl, new_ttl in ((False, True), (True, False), (False, False)):
        redis_client.flushdb()
        old = psr(set_redis_ttl=str(old_ttl))
        old.do("session['a'] = 1")
        new = moving(redis_url, set_redis_ttl=new_ttl)
        assert come_back(new, old) == {"a": 1}
        assert (redis_client.pttl(new.key) > 0) is new_ttl
        assert redis_client.hexists(new.key, "expires") is not new_ttl


def test_empty_session_moves_too(
    servers: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    old = servers(f"{PRS} 1.0.1").user(redis_server.port)
    created = old.do("result = session.created")  # it stores a session for every visitor
    new = moving(redis_server.url)
    assert come_back(new, old, lambda s: (s.new, dict(s), s.created)) == (False, {}, int(created))
    assert old_keys(redis_client) == []


def test_request_that_does_not_look_at_the_session_moves_nothing(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    new = moving(redis_url)
    new.visit(lambda request: None, headers={"Cookie": old.cookie})
    assert "Set-Cookie" not in new.response.headers
    assert len(old_keys(redis_client)) == 1


def test_expired_session_does_not_move(psr: Any, redis_url: str, redis_client: Any) -> None:
    old = psr()
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload.update(x=int(time.time()) - 1))
    reports = Reports()
    assert come_back(moving(redis_url, func_invalid_logger=reports), old) == {}
    assert reports.kinds == ["InvalidSession_NotInBackend"]
    assert new_keys(redis_client) == []


def test_session_older_than_absolute_timeout_does_not_move(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload.update(c=int(time.time()) - 1000))
    assert come_back(moving(redis_url, absolute_timeout=900), old) == {}
    new = moving(redis_url, absolute_timeout=1100)
    assert come_back(new, old) == {"a": 1}
    assert 90 < redis_client.ttl(new.key) <= 101


def test_creation_time_in_the_future_is_not_believed(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload.update(c=int(time.time()) + 10_000))
    new = moving(redis_url)
    assert come_back(new, old, lambda session: session.created) <= time.time() + 1


def test_many_requests_at_once_end_in_one_session(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    users = [moving(redis_url)]
    users += [users[0].another() for _ in range(49)]
    ready = threading.Barrier(len(users))
    seen: list[Any] = []

    def first_request(number: int) -> None:
        ready.wait()
        seen.append(
            come_back(users[number], old, lambda s: (s["a"], s.update({f"k{number}": 1}))[0])
        )

    threads = [threading.Thread(target=first_request, args=(n,)) for n in range(len(users))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * len(users)
    assert len({user.session_id for user in users}) == 1
    assert redis_client.keys() == [users[0].key.encode()]
    assert set(users[0].use(dict)) == {"a", *(f"k{n}" for n in range(len(users)))}


# -- gone means gone -----------------------------------------------------------------


def forget_markers(client: redis.Redis) -> None:
    """Let the minute pass after which the end of a session is forgotten."""
    for key in list(client.scan_iter()):
        if client.type(key) == b"hash" and client.hexists(key, "moved"):
            client.delete(key)


def test_session_that_was_logged_out_does_not_come_back_through_the_old_cookie(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    for look_first in (True, False):
        redis_client.flushdb()
        old = psr()
        old.do("session['user'] = 'Ann'")
        new = moving(redis_url)

        def log_out(session: Any, look_first: bool = look_first) -> None:
            assert not look_first or session["user"] == "Ann"
            session.invalidate()

        come_back(new, old, log_out)
        assert "Max-Age=0" in new.response.headers["Set-Cookie"]
        assert come_back(new.another(), old) == {}
        forget_markers(redis_client)
        assert come_back(new.another(), old) == {}
        assert redis_client.keys() == []


def test_login_right_after_the_move_is_not_undone_by_a_request_in_flight(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['cart'] = 1")
    new, late = moving(redis_url), None

    def log_in(session: Any) -> None:
        session.regenerate_id()
        session["user"] = "Ann"

    come_back(new, old, log_in)
    late = new.another()
    assert come_back(late, old) == {}  # in flight: it sees an empty session,
    assert "Set-Cookie" not in late.response.headers  # and touches no cookie
    assert new.use(dict) == {"cart": 1, "user": "Ann"}
    forget_markers(redis_client)
    assert come_back(new.another(), old) == {}


def test_cookie_that_could_not_be_sent_is_sent_with_the_next_response(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    allowed: list[bool] = []
    new = moving(redis_url, func_check_response_allow_cookies=lambda response: bool(allowed))
    assert come_back(new, old) == {"a": 1}
    assert "Set-Cookie" not in new.response.headers
    allowed.append(True)
    assert come_back(new, old) == {"a": 1}
    assert new.use(dict) == {"a": 1}


# -- cookies -------------------------------------------------------------------------


def test_old_cookie_means_nothing_without_the_setting(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    reports = Reports()
    new = make_browser(redis_url, secret=SECRET, func_invalid_logger=reports)
    assert new.factory.migration is None
    assert come_back(new, old) == {}
    assert reports.kinds == ["InvalidSession_BadCookie"]
    assert len(old_keys(redis_client)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_only_the_libraries_named_are_accepted(
    name: str, servers: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    library = LIBRARIES[name][0]
    old = servers(name).user(redis_server.port)
    old.do("session['a'] = 1")
    other = PRS if library == PSR else PSR
    assert come_back(moving(redis_server.url, migrate_from=other), old) == {}
    assert come_back(moving(redis_server.url, migrate_from=library), old) == {"a": 1}


@pytest.mark.parametrize("name", NAMES)
def test_cookie_of_another_secret_or_a_changed_one_is_refused(
    name: str, servers: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    old = servers(name).user(redis_server.port)
    old.do("session['a'] = 1")
    assert come_back(moving(redis_server.url, secret=OTHER_SECRET), old) == {}
    browser = moving(redis_server.url)
    head, _, value = old.cookie.partition("=")
    for place in range(0, len(value), 7):
        other = "A" if value[place] != "A" else "B"
        changed = f"{head}={value[:place]}{other}{value[place + 1 :]}"
        assert come_back(browser.another(), changed) == {}
    for bad in ("", "x", value[:40], value[:80], value + "AAAA", "é" * 50, "=" * 60):
        assert come_back(browser.another(), f"{head}={bad}".encode().decode("latin-1")) == {}
    assert len(old_keys(redis_client)) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secret", ["sécret " * 6, "秘密 " * 12])
def test_secret_that_is_not_ascii(
    name: str, secret: str, servers: Any, redis_server: RedisServer, redis_client: Any
) -> None:
    old = servers(name).user(redis_server.port, secret=secret)
    old.do("session['a'] = 1")
    assert come_back(moving(redis_server.url, secret=secret), old) == {"a": 1}


def test_old_cookies_survive_that_a_newer_secret_is_put_before_theirs(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    first = moving(redis_url)
    assert come_back(first, old) == {"a": 1}
    rotated = moving(redis_url, secret=[OTHER_SECRET, SECRET])
    assert come_back(rotated, old) == {"a": 1}
    assert rotated.session_id == first.session_id


def steps(newer: str) -> list[list[str]]:
    """The settings of ``secret`` in the steps of a rotation, until the old one is removed."""
    return [[SECRET], [SECRET, newer], [newer, SECRET]]


@pytest.mark.parametrize("newer", [f"a newer secret of over 32 bytes, {n}" for n in range(4)])
@pytest.mark.parametrize(("moved_in", "met_in"), [(0, 1), (0, 2), (1, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("bulk", [True, False])
def test_old_cookie_leads_to_its_session_in_every_step_of_a_rotation(
    newer: str, moved_in: int, met_in: int, bulk: bool, psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    first = moving(redis_url, secret=steps(newer)[moved_in])
    if bulk:
        census = Census(redis_client, first.factory.settings)
        signed = SECRET.encode()
        assert migrate_all(first.factory.migration, census, signed, names=None).moved == 1
    else:
        come_back(first, old)
    # The response with the new cookie was lost.
    assert come_back(moving(redis_url, secret=steps(newer)[met_in]), old) == {"a": 1}
    assert len(new_keys(redis_client)) == 1


def test_one_of_several_cookies_is_old(psr: Any, redis_url: str, redis_client: Any) -> None:
    old = psr()
    old.do("session['a'] = 1")
    new = moving(redis_url)
    assert come_back(new, f"session=stale; other=1,{old.cookie}") == {"a": 1}
    dead = psr()
    dead.do("session['a'] = 2")
    redis_client.delete(*old_keys(redis_client))
    third = psr()
    third.do("session['a'] = 3")
    assert come_back(new.another(), f"{dead.cookie}; {third.cookie}") == {"a": 3}


def test_header_of_any_length_reaches_no_parser_that_takes_its_square(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(webob.cookies, "_parse_cookie", lambda data: parsed.append(data) or [])
    flood = "a" * 32_000 + '"'
    for options in ({}, {"migrate_from": None}):
        new = moving(redis_url, **options)
        assert come_back(new, f"{flood}; session={flood}") == {}
    assert parsed == []


class Signer:
    """What ``cookie_signer`` may be: the same object, before and after."""

    def __init__(self) -> None:
        self._signer = SignedSerializer("another", "salt", serializer=self.Plain())

    class Plain:
        dumps = staticmethod(lambda text: text.encode())
        loads = staticmethod(lambda data: data.decode())

    def dumps(self, text: str) -> bytes:
        return self._signer.dumps(text)  # type: ignore[no-any-return]

    def loads(self, value: bytes) -> str:
        return self._signer.loads(value)  # type: ignore[no-any-return]


def test_cookie_signer_reads_the_old_cookies_too(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    cookie = f"session={Signer().dumps(key.decode()).decode()}"
    for options in ({"seal_secret": SECRET}, {"seal": False, "serialize": "json"}):
        new = moving(redis_url, secret=None, cookie_signer=Signer(), **options)
        assert come_back(new, cookie) == {"a": 1}
        assert new.use(dict) == {"a": 1}
        redis_client.flushdb()
        redis_client.set(key, pickle.dumps({"m": {"a": 1}, "c": 1, "v": 1}))


def test_encrypted_and_other_serializers(psr: Any, redis_url: str, redis_client: Any) -> None:
    for options in ({"encryption_key": OTHER_SECRET}, {"serialize": "json"}):
        old = psr()
        old.do("session['a'] = {'b': [1]}")
        new = moving(redis_url, **options)
        assert come_back(new, old) == {"a": {"b": [1]}}
        assert new.use(dict) == {"a": {"b": [1]}}


# -- byte-exact samples ----------------------------------------------------------------

#: Written by pyramid_redis_sessions 1.0.1 with the secret of these tests: the cookie's value,
#: the key, and the payload, on Python 3.
SAMPLE_COOKIE = (
    "94dc79b496ee996c83cedde76d9aa528235e0699gAWVRAAAAAAAAACMQDdmMjc1YzdkM2FmMmYxZGRkNTg4NjQ5Mj"
    "Q5YTljMjM2ZDBmZmQ2ODE2ZGM1MjE1Njk2MmE2MWFmNzRkNmJiOTmULg=="
)
SAMPLE_KEY = b"7f275c7d3af2f1ddd588649249a9c236d0ffd6816dc52156962a61af74d6bb99"
SAMPLE_PAYLOAD = bytes.fromhex(
    "80049557000000000000007d94288c0c6d616e616765645f64696374947d94288c0475736572948c03416e6e94"
    "8c045f665f71945d948c0568656c6c6f9461758c0763726561746564944741dac05a6b94993c8c0774696d656f"
    "7574944db004752e"
)


def test_sample_of_pyramid_redis_sessions(redis_url: str, redis_client: Any) -> None:
    redis_client.set(SAMPLE_KEY, SAMPLE_PAYLOAD, ex=1000)
    new = moving(redis_url, migrate_from=PRS)
    assert come_back(new, f"session={SAMPLE_COOKIE}", lambda s: (dict(s), s.pop_flash("q"))) == (
        {"user": "Ann"},
        ["hello"],
    )


def test_sample_of_pyramid_redis_sessions_on_python_2(redis_url: str, redis_client: Any) -> None:
    """There ``cPickle.dumps`` writes protocol 0, and the cookie's id is a byte string."""
    old_id = "0123456789abcdef" * 4
    payload = (
        b"(dp1\nS'managed_dict'\np2\n(dp3\nS'user'\np4\nVAnn\np5\nsS'_f_'\np6\n(lp7\nVhello\n"
        b"p8\nassS'created'\np9\nF1500000000.25\nsS'timeout'\np10\nI1200\ns."
    )
    pickled = b"\x80\x02U@" + old_id.encode() + b"q\x01."
    redis_client.set(old_id, payload, ex=1000)
    new = moving(redis_url, migrate_from=PRS)
    seen = come_back(new, signed(pickled), lambda s: (dict(s), s.pop_flash(), s.created))
    assert seen == ({"user": "Ann"}, ["hello"], 1500000000)


def signed(pickled: bytes) -> str:
    """A cookie as Pyramid's ``signed_serialize`` made it."""
    signature = hmac.new(SECRET.encode(), pickled, hashlib.sha1).hexdigest()
    return f"session={signature}{base64.b64encode(pickled).decode()}"


class Bomb:
    def __reduce__(self) -> Any:
        return os._exit, (99,)


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps(Bomb()),
        pickle.dumps(Bomb(), protocol=2),
        pickle.dumps(Bomb(), protocol=0),
        pickle.dumps(["a", Bomb()]),
        pickle.dumps("0123456789abcdef" * 4)[:-1] + b"0" + pickle.dumps(Bomb()),
        pickle.dumps(b"bytes"),
        pickle.dumps(5),
        pickle.dumps(("a" * 64,)),
        b"\x80\x04.",
        b"",
        b".",
        b"\x80",
        b"\x80\x04\x8c\xff",
        b"\x80\x04X\xff\xff\xff\xff",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
        b"\x80\x04\x8c\x01\xff.",
        b"cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_pickle_under_the_signature_is_never_run(
    pickled: bytes, redis_url: str, redis_client: Any
) -> None:
    reports = Reports()
    new = moving(redis_url, migrate_from=PRS, func_invalid_logger=reports)
    assert come_back(new, signed(pickled)) == {}
    assert reports.kinds == ["InvalidSession_BadCookie"]


# -- what cannot be carried over -----------------------------------------------------


class Color(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        ({("a", 1): "x"}, {}, "tuple"),
        ({1.5: "x"}, {}, "float"),
        ({None: "x"}, {}, "NoneType"),
        ({True: "x"}, {}, "bool"),
        ({b"a": "x"}, {}, "bytes"),
        ({"private when": datetime.date(2000, 1, 1)}, {"serialize": "json"}, ": a date cannot be"),
        ({"_f_": [{1, 2}]}, {"serialize": "json"}, ": a set cannot be"),
        ("no dict", {}, "not a dict"),
    ],
)
def test_session_that_cannot_be_carried_over_is_left_and_reported(
    data: Any,
    options: dict[str, Any],
    reason: str,
    psr: Any,
    redis_url: str,
    redis_client: Any,
) -> None:
    old = psr()
    old.do("session['fine'] = 'private value'")
    edit(redis_client, lambda payload: payload.update(m=data))
    (key,) = old_keys(redis_client)
    before = redis_client.get(key)
    reports = Reports()
    new = moving(redis_url, func_invalid_logger=reports, **options)
    assert come_back(new, old) == {}
    assert redis_client.get(key) == before
    assert new_keys(redis_client) == []
    assert reports.kinds[0] == "InvalidSession_DeserializationError"
    message = str(reports.problems[0])
    assert reason in message
    # Nor the name of a key: the reason is a label of metrics.
    assert "private" not in message
    assert key.decode() not in message
    assert come_back(new, old, lambda session: session.invalidate()) is None
    assert "Max-Age=0" in new.response.headers["Set-Cookie"]
    with pytest.raises(RawDeserializationError):
        come_back(moving(redis_url, deserialized_fails_new=False, **options), old)
    assert redis_client.get(key) == before


def test_keys_of_subclasses_are_carried_over_as_an_assignment_takes_them(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    edit(redis_client, lambda payload: payload["m"].update({Color.RED: "red"}))
    new = moving(redis_url)
    assert come_back(new, old) == {"a": 1, 1: "red"}
    assert {type(key) for key in new.use(dict)} == {str, int}


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"garbage",
        pickle.dumps([1]),
        pickle.dumps({}),
        pickle.dumps({"m": {}, "c": 1}),
        pickle.dumps({"m": {}, "c": 1, "v": 0}),
        pickle.dumps({"m": {}, "c": "1", "v": 1}),
        pickle.dumps({"m": {}, "c": float("nan"), "v": 1}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "t": "1200"}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "x": [1]}),
        pickle.dumps({"m": {}, "c": 1e306, "v": 1}),
        pickle.dumps({"m": {}, "c": -1e13, "v": 1}),
        pickle.dumps({"m": {}, "c": 10**400, "v": 1}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "t": 10**400}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "t": 1e306}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "t": -5}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "x": 1e306}),
        pickle.dumps({"m": {}, "c": 1, "v": 1, "x": float("inf")}),
        pickle.dumps({"managed_dict": {}, "created": 1, "timeout": -5}),
        pickle.dumps({"managed_dict": {}, "created": 1, "timeout": 1e306}),
        b"cno_such_module\nname\n.",
    ],
)
def test_payload_that_is_broken_is_left_and_reported(
    stored: bytes, psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    redis_client.set(key, stored)
    reports = Reports()
    new = moving(redis_url, func_invalid_logger=reports)
    assert come_back(new, old) == {}
    assert reports.kinds[0] == "InvalidSession_DeserializationError"
    assert redis_client.get(key) == stored
    # Nor does it stop those who move all sessions.
    census = Census(redis_client, new.factory.settings)
    for dry_run in (True, False):
        summary = migrate_all(
            new.factory.migration, census, SECRET.encode(), names=None, dry_run=dry_run
        )
        assert (summary.refused, summary.moved) == (1, 0)
    assert redis_client.get(key) == stored


def test_key_that_holds_no_string_is_no_session(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    redis_client.delete(key)
    redis_client.rpush(key, "x")
    assert come_back(moving(redis_url), old) == {}
    assert redis_client.type(key) == b"list"


def test_something_else_under_the_new_id_is_left_alone(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    new = moving(redis_url)
    taken = f"session:{new.factory.migration.token(key.decode(), SECRET.encode()).locator}"
    redis_client.rpush(taken, "x")
    assert come_back(new, old) == {}
    assert redis_client.exists(key, taken) == 2


# -- serializers of the application's own --------------------------------------------


def dumps(value: Any) -> bytes:
    return b"mine" + pickle.dumps(value)


def loads(data: bytes) -> Any:
    if not data.startswith(b"mine"):
        raise ValueError("not mine")
    return pickle.loads(data[4:])


def test_serializer_of_the_application_reads_the_old_payloads(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = [1]")
    (key,) = old_keys(redis_client)
    mine = b"mine" + redis_client.get(key)
    for options in (
        {"serialize": dumps, "deserialize": loads},
        {"serialize": "json", "migrate_deserialize": loads},
    ):
        redis_client.set(key, mine)
        new = moving(redis_url, **options)
        assert come_back(new, old) == {"a": [1]}
        assert new.use(dict) == {"a": [1]}
        redis_client.flushdb()
    redis_client.set(key, mine)
    assert come_back(moving(redis_url), old) == {}


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_built_in_deserializer_for_old_payloads(
    name: str, psr: Any, redis_url: str, redis_client: Any
) -> None:
    import json

    import msgspec

    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    encode = {"json": lambda p: json.dumps(p).encode(), "msgpack": msgspec.msgpack.encode}[name]
    redis_client.set(key, encode({"m": {"a": [1]}, "c": 1500000000, "v": 1, "t": 1200}))
    new = moving(redis_url, migrate_deserialize=name)
    assert come_back(new, old, lambda s: (dict(s), s.created)) == ({"a": [1]}, 1500000000)


# -- the end of it -------------------------------------------------------------------


def test_nothing_old_is_accepted_after_migrate_until(
    psr: Any, redis_url: str, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    reports = Reports()
    for until in (now - day, (now - 2 * day).date(), time.time() - 1, "2020-01-01"):
        new = moving(redis_url, migrate_until=until, func_invalid_logger=reports)
        assert come_back(new, old) == {}
    assert reports.kinds == ["InvalidSession_BadCookie"] * 4
    assert len(old_keys(redis_client)) == 1
    moment = time.time() + 0.3
    new = moving(redis_url, migrate_until=moment)
    assert come_back(new, old) == {"a": 1}
    wait_until(lambda: time.time() >= moment)
    assert come_back(new.another(), old) == {}  # the cookie is refused as well,
    assert new.use(dict) == {"a": 1}  # and who has come in stays in


# -- what it costs -------------------------------------------------------------------


def test_requests_with_new_cookies_cost_what_they_cost_without_the_setting(
    psr: Any, proxy: CountingProxy, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    new = moving(proxy.url)
    come_back(new, old)
    proxy.reset()
    new.use(lambda session: session["a"])
    assert (proxy.round_trips, call_names(proxy)) == (1, ["EVALSHA"])
    proxy.reset()
    new.another().use(lambda session: session.get("a"))
    assert proxy.round_trips == 0


def test_first_request_sends_what_a_move_needs(
    psr: Any, proxy: CountingProxy, redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    new = moving(proxy.url)
    new.use(lambda session: session.redis.ping())
    proxy.reset()
    come_back(new, old)
    # read; create and give life; delete; forget; load; is it still there, for the cookie
    assert call_names(proxy) == [
        *("TIME", "GET", "PTTL"),
        *("EVALSHA", "EVALSHA"),
        *("DEL", "HDEL"),
        *("EVALSHA", "EVALSHA"),
    ]
    assert proxy.round_trips == 6


# -- Redis Cluster ---------------------------------------------------------------------


def test_session_moves_on_a_cluster(
    psr: Any, cluster: list[RedisServer], redis_client: Any
) -> None:
    old = psr()
    old.do("session['a'] = 1")
    (key,) = old_keys(redis_client)
    with RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
        client.set(key, redis_client.get(key), ex=1000)

        def cluster_client(request: Any, **options: Any) -> Any:
            return client

        new = moving("redis://unused", redis_client_callable=cluster_client)
        assert come_back(new, old) == {"a": 1}
        assert come_back(new.another(), old) == {"a": 1}
        assert client.exists(key) == 0
        assert client.pttl(new.key) > 1_190_000
        # All at once: a session per node at least, by the odds.
        payload = pickle.dumps({"m": {"a": 1}, "c": 1500000000, "v": 1})
        for _ in range(60):
            client.set(secrets.token_urlsafe(48), payload, ex=1000)
        factory = new.factory
        summary = migrate_all(
            factory.migration,
            Census(factory.store_for(None).client, factory.settings),
            SECRET.encode(),
            names=old_name(factory.settings),
        )
        assert (summary.moved, summary.others) == (60, 0)
        found = list(client.scan_iter(match="session:*"))
        assert len(found) == 61
        assert all(900 < client.ttl(name) <= 1200 for name in found)


def test_session_that_moves_takes_a_value_that_ends(
    psr: Callable[..., User], redis_url: str, redis_client: redis.Redis
) -> None:
    old = psr()
    old.do("session['user'] = 'Ann'")
    browser = moving(redis_url)
    come_back(browser, old, lambda session: session.set("code", "1234", ttl=600))
    assert browser.use(dict) == {"user": "Ann", "code": "1234"}
    browser.use(lambda session: session.confirm())
    assert browser.use(lambda session: session.confirmed_within(300))
    browser.use(lambda session: session.set("code", "5678", ttl=0.05))
    assert wait_until(lambda: browser.use(dict) == {"user": "Ann"})
