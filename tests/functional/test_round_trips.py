"""Round trips, commands and bytes, counted on the socket between the client and Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import redis

from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import Browser, let_time_pass, make_browser
from tests.support.traffic import call_names, calls
from tests.support.waiting import wait_until

NAMES = {script.sha1: name for name, script in SCRIPTS.items()}
READING_COMMANDS = {"HGETALL", "HMGET", "HGET", "HEXISTS", "TIME", "PTTL", "EXISTS", "HKEYS"}


class Traffic(NamedTuple):
    round_trips: int
    scripts: list[str]


@pytest.fixture
def count(proxy: CountingProxy) -> Callable[..., Traffic]:
    """Returns the traffic of one request, which may consist of nothing but scripts."""

    def measure(browser: Browser, view: Callable[[Any], Any]) -> Traffic:
        proxy.reset()
        browser.use(view)
        return Traffic(proxy.round_trips, [NAMES[c.sha or ""] for c in calls(proxy)])

    return measure


@pytest.fixture
def browser(proxy: CountingProxy) -> Browser:
    """A user with a session ``{"a": 1, "list": [1]}``."""
    made = make_browser(proxy.url)
    made.use(lambda session: session.update(a=1, list=[1]))
    return made


@pytest.fixture
def visitor(browser: Browser) -> Browser:
    """A user without a cookie."""
    return browser.another()


LOAD, CREATE = "load_and_touch", "create_unique"
#: Fields alone; or whatever a save may be about.
FIELDS, SAVE, RENEW = "save_fields", "save_if_changed", "renew_token"
ADJUST, END, INDEX = "adjust_timeout", "end_session", "index_session"

# -- a user with a session ------------------------------------------------------------------

REQUESTS: dict[str, tuple[Callable[[Any], Any], int, list[str]]] = {
    "never touched": (lambda s: None, 0, []),
    "shown": (repr, 0, []),
    "read": (lambda s: s["a"], 1, [LOAD]),
    "read twice": (lambda s: (s["a"], s["list"], s.get("x"), "a" in s, len(s)), 1, [LOAD]),
    "its properties read": (lambda s: (s.new, s.created, s.expires, s.session_id), 1, [LOAD]),
    "compared": (lambda s: s == {}, 1, [LOAD]),
    "managed_dict read": (lambda s: s.managed_dict["a"], 1, [LOAD]),
    "popped without a find": (lambda s: (s.pop("x", 0), s.pop_flash(), s.peek_flash()), 1, [LOAD]),
    "setdefault that finds": (lambda s: s.setdefault("a", 2), 1, [LOAD]),
    "do_refresh": (lambda s: s.do_refresh(), 1, [LOAD]),
    "changed, and nothing did": (lambda s: s.changed(), 1, [LOAD]),
    "ensure_id": (lambda s: s.ensure_id(), 1, [LOAD]),
    "set and deleted": (lambda s: (s.update(x=1), s.pop("x")), 1, [LOAD]),
    "flashed and popped": (lambda s: (s.flash("m"), s.pop_flash()), 1, [LOAD]),
    "read and written": (lambda s: s.update(a=s["a"] + 1), 2, [LOAD, FIELDS]),
    "only written": (lambda s: s.update(a=2), 2, [LOAD, FIELDS]),
    "many keys written": (lambda s: s.update({str(n): n for n in range(5000)}), 2, [LOAD, FIELDS]),
    "changed in place": (lambda s: s["list"].append(2), 2, [LOAD, FIELDS]),
    "deleted from": (lambda s: s.pop("a"), 2, [LOAD, FIELDS]),
    "cleared": (lambda s: s.clear(), 2, [LOAD, FIELDS]),
    "flashed": (lambda s: s.flash("m"), 2, [LOAD, FIELDS]),
    "the CSRF token": (lambda s: s.get_csrf_token(), 1, [LOAD]),
    "a new CSRF token": (lambda s: s.new_csrf_token(), 2, [LOAD, FIELDS]),
    "timeout adjusted": (lambda s: s.adjust_session_timeout(50), 2, [LOAD, ADJUST]),
    "expires adjusted": (lambda s: s.adjust_session_expires(4e9 - 1e9), 2, [LOAD, ADJUST]),
    "timeout adjusted, written": (
        lambda s: (s.adjust_session_timeout(50), s.update(a=2)),
        2,
        [LOAD, SAVE],
    ),
    "log in": (lambda s: (s.regenerate_id(), s.update(user="alice")), 2, [LOAD, RENEW]),
    "log in as an owner": (lambda s: setattr(s, "owner", "alice"), 2, [LOAD, INDEX, RENEW]),
    "renew the token": (lambda s: s.regenerate_id(), 2, [LOAD, RENEW]),
    "log out": (lambda s: s.invalidate(), 1, [END]),
    "log out after a read": (lambda s: (s["a"], s.invalidate()), 2, [LOAD, END]),
    "log out and flash": (lambda s: (s.invalidate(), s.flash("bye")), 1, [END, CREATE]),
    "log out and in": (lambda s: (s["a"], s.invalidate(), s.update(b=1)), 2, [LOAD, END, CREATE]),
    # The last call finds the session alive, before its cookie goes out again.
    "cookie wanted again": (lambda s: s.please_recookie(), 2, [LOAD, ADJUST]),
    "cookie wanted again after a read": (
        lambda s: (s["a"], s.please_recookie()),
        2,
        [LOAD, ADJUST],
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_session_of_a_user_is(name: str, browser: Browser, count: Callable[..., Traffic]) -> None:
    view, round_trips, scripts = REQUESTS[name]
    assert count(browser, view) == (round_trips, scripts)


def test_log_in_is_one_pipeline_after_the_load(proxy: CountingProxy, browser: Browser) -> None:
    proxy.reset()
    browser.use(lambda session: setattr(session, "owner", "alice"))
    assert proxy.round_trips == 2
    index, save = calls(proxy)[1:]
    assert index.connection == save.connection


# -- a visitor without a cookie ---------------------------------------------------------------

VISITS: dict[str, tuple[Callable[[Any], Any], int, list[str]]] = {
    "never touched": (lambda s: None, 0, []),
    "only read": (lambda s: (s.get("a"), len(s), s.new, dict(s), s.pop_flash(), s.expires), 0, []),
    "first write": (lambda s: s.update(a=1), 1, [CREATE]),
    "first flash": (lambda s: s.flash("m"), 1, [CREATE]),
    "first CSRF token": (lambda s: s.get_csrf_token(), 1, [CREATE]),
    "written with a timeout": (
        lambda s: (s.update(a=1), s.adjust_session_timeout(5)),
        1,
        [CREATE],
    ),
    "many keys": (lambda s: s.update({str(n): n for n in range(5000)}), 1, [CREATE]),
    "ensure_id": (lambda s: s.ensure_id(), 1, [CREATE]),
    "ensure_id after the write": (lambda s: (s.update(a=1), s.ensure_id()), 1, [CREATE]),
    "ensure_id, then a write": (lambda s: (s.ensure_id(), s.update(a=1)), 2, [CREATE, FIELDS]),
    "log in": (lambda s: (s.regenerate_id(), s.update(user="alice")), 1, [CREATE]),
    "log out": (lambda s: s.invalidate(), 0, []),
    "timeout adjusted": (lambda s: s.adjust_session_timeout(5), 0, []),
}


@pytest.mark.parametrize("name", VISITS)
def test_session_of_a_visitor_is(
    name: str, visitor: Browser, count: Callable[..., Traffic]
) -> None:
    view, round_trips, scripts = VISITS[name]
    assert count(visitor, view) == (round_trips, scripts)


def test_forged_cookie_costs_no_round_trip(visitor: Browser, count: Callable[..., Traffic]) -> None:
    visitor.app.set_cookie("session", "forged")
    assert count(visitor, lambda session: session.get("a")) == (0, [])


def test_second_read_of_a_dead_session_costs_no_more_than_the_first(
    browser: Browser, redis_client: redis.Redis, count: Callable[..., Traffic]
) -> None:
    redis_client.flushall()
    assert count(browser, lambda s: (s.get("a"), s.get("b"), len(s))) == (1, [LOAD])
    assert count(browser, lambda s: s.update(a=1)) == (2, [LOAD, CREATE])


@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
@pytest.mark.parametrize("set_redis_ttl", ["true", "false"])
def test_counts_are_the_same_in_every_mode(
    proxy: CountingProxy, count: Callable[..., Traffic], on_conflict: str, set_redis_ttl: str
) -> None:
    options = {"on_conflict": on_conflict, "set_redis_ttl": set_redis_ttl, "timeout_trigger": "50"}
    browser = make_browser(
        proxy.url, absolute_timeout="900", first_timeout="60", timeout="100", **options
    )
    assert count(browser, lambda s: s.update(a=1)) == (1, [CREATE])
    for view, round_trips, scripts in (
        (lambda s: s["a"], 1, [LOAD]),
        (lambda s: s.update(a=s["a"] + 1), 2, [LOAD, SAVE]),
        (lambda s: s.adjust_session_timeout(5), 2, [LOAD, ADJUST]),
        (lambda s: s.regenerate_id(), 2, [LOAD, RENEW]),
        (lambda s: s.invalidate(), 1, [END]),
    ):
        assert count(browser, view) == (round_trips, scripts)


# -- SCRIPT LOAD -------------------------------------------------------------------------


def test_scripts_are_loaded_at_start_and_never_again(proxy: CountingProxy) -> None:
    proxy.reset()
    browser = make_browser(proxy.url)
    loads = [c.args[2] for c in proxy.commands if c.name == "SCRIPT"]
    assert sorted(loads) == sorted(script.source.encode() for script in SCRIPTS.values())
    proxy.reset()
    browser.use(lambda session: session.update(a=1))
    for view in (dict, lambda s: s.update(a=2), lambda s: s.regenerate_id()):
        browser.use(view)
    browser.use(lambda session: session.invalidate())
    assert set(call_names(proxy)) == {"EVALSHA"}


# -- bytes -------------------------------------------------------------------------------


def test_save_carries_only_what_changed(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(big="x" * 100_000, large=["y" * 100_000], n=1))
    proxy.reset()
    browser.use(lambda session: session.update(n=session["n"] + len(session["large"])))
    assert proxy.round_trips == 2
    assert proxy.bytes_sent < 1000
    save = calls(proxy)[1].args
    assert b".n" in save
    assert b".big" not in save
    assert b".large" not in save


def test_deletion_carries_the_name_only(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(big="x" * 100_000, n=1))
    proxy.reset()
    browser.use(lambda session: session.pop("big"))
    assert proxy.bytes_sent < 1000
    assert b".big" in calls(proxy)[1].args


def test_read_sends_few_bytes_whatever_the_session_holds(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(big=["x" * 100_000]))
    proxy.reset()
    browser.use(lambda session: session["big"])
    assert proxy.bytes_sent < 300


# -- a read within the trigger window writes nothing at all ---------------------------------------

WINDOW = {"timeout": "1000", "timeout_trigger": "500"}

#: Settings under which a read may be a pure one, and time that passes before it.
PURE_READS: dict[str, tuple[dict[str, str], float]] = {
    "trigger": (WINDOW, 300),
    "trigger and absolute timeout": ({**WINDOW, "absolute_timeout": "5000"}, 300),
    "trigger and no TTL": ({**WINDOW, "set_redis_ttl": "false"}, 300),
    "trigger and first timeout": ({**WINDOW, "first_timeout": "60"}, 300),
    "timeout of never": ({"timeout": "0"}, 300),
    "the end is fixed": ({"timeout": "1000", "absolute_timeout": "900"}, 300),
}


class Pair(NamedTuple):
    primary: RedisServer
    client: redis.Redis
    replica: redis.Redis

    def offset(self) -> int:
        """How much was sent to the replica, in bytes, as the primary counts."""
        return int(self.client.info("replication")["master_repl_offset"])


@pytest.fixture(scope="module")
def pair(redis_binary: str) -> Iterator[Pair]:
    """A primary with a real replica."""
    # Without its pings, which count as bytes sent.
    config = {"repl-ping-replica-period": 3600, "repl-diskless-sync-delay": 0}
    with RedisServer(redis_binary, config=config) as primary:
        replicaof = {"replicaof": f"127.0.0.1 {primary.port}"}
        with (
            RedisServer(redis_binary, config=replicaof) as second,
            primary.client() as client,
            second.client() as replica,
        ):
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
            yield Pair(primary, client, replica)


@pytest.mark.parametrize("name", PURE_READS)
def test_replica_hears_nothing_of_a_read_with(name: str, pair: Pair) -> None:
    options, seconds = PURE_READS[name]
    browser = make_browser(pair.primary.url, **options)
    browser.use(lambda session: session.update(a=1, list=[1]))
    browser.use(dict)  # the first one ends ``first_timeout``
    let_time_pass(pair.client, browser.key, seconds)
    key = browser.key
    wait_until(lambda: pair.replica.hgetall(key) == pair.client.hgetall(key))
    before = pair.offset()
    for _ in range(5):
        assert browser.use(dict) == {"a": 1, "list": [1]}
    assert pair.offset() == before
    # A write is heard of: the measurement works.
    browser.use(lambda session: session.update(a=2))
    assert pair.offset() > before
    wait_until(lambda: pair.replica.hgetall(key) == pair.client.hgetall(key))


def test_replica_hears_of_a_read_at_the_trigger(pair: Pair) -> None:
    browser = make_browser(pair.primary.url, **WINDOW)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(pair.client, browser.key, 501)
    before = pair.offset()
    browser.use(dict)
    after = pair.offset()
    assert after > before
    browser.use(dict)
    assert pair.offset() == after


def test_replica_hears_only_of_the_expiry_when_a_session_is_read(pair: Pair) -> None:
    """What a read without a trigger costs, however much the session holds."""
    browser = make_browser(pair.primary.url)
    browser.use(lambda session: session.update(big="x" * 100_000))
    before = pair.offset()
    browser.use(dict)
    assert 0 < pair.offset() - before < 300


def test_replica_hears_nothing_of_an_unknown_session(pair: Pair) -> None:
    browser = make_browser(pair.primary.url)
    browser.use(lambda session: session.update(a=1))
    pair.client.delete(browser.key)
    before = pair.offset()
    assert browser.use(dict) == {}
    assert pair.offset() == before


def commands_of(client: redis.Redis, browser: Browser, view: Callable[[Any], Any]) -> list[str]:
    """Return the commands that Redis executes for one request, those in scripts included."""
    with client.monitor() as monitor:
        browser.use(view)
        client.echo("the end")
        names = []
        while True:
            seen = monitor.next_command()
            name = seen["command"].split(" ")[0].upper()
            if name == "ECHO":
                return names
            if name in ("HGETALL", "EVALSHA") or seen["client_type"] == "lua":
                names.append(name)


@pytest.mark.parametrize("name", PURE_READS)
def test_redis_executes_only_reading_commands_for_a_read_with(
    name: str, redis_url: str, redis_client: redis.Redis
) -> None:
    options, seconds = PURE_READS[name]
    browser = make_browser(redis_url, **options)
    browser.use(lambda session: session.update(a=1))
    browser.use(dict)
    let_time_pass(redis_client, browser.key, seconds)
    names = commands_of(redis_client, browser, dict)
    assert names[:2] == ["HGETALL", "EVALSHA"]
    assert {"HGET", "HMGET"} & set(names)  # commands within a script are seen
    assert set(names[2:]) <= READING_COMMANDS


def test_redis_executes_one_write_for_a_read_without_a_trigger(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    names = commands_of(redis_client, browser, dict)
    assert [name for name in names if name not in READING_COMMANDS] == ["EVALSHA", "PEXPIRE"]


def test_append_only_file_does_not_grow_by_a_read_within_the_window(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server(config={"appendonly": "yes", "appendfsync": "always"})
    browser = make_browser(server.url, **WINDOW)
    browser.use(lambda session: session.update(a=1))
    with server.client() as client:

        def size() -> int:
            return int(client.info("persistence")["aof_current_size"])

        before = size()
        for _ in range(5):
            browser.use(dict)
        assert size() == before
        browser.use(lambda session: session.update(a=2))
        assert size() > before
