"""``update_sessions`` and ``export_sessions``: all sessions of a user."""

from __future__ import annotations

import datetime
import decimal
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions import (
    SessionConflict,
    StoreError,
    UnserializableValue,
    accounts,
    export_sessions,
    revoke,
    update_sessions,
)
from pyramid_redis_lua_sessions.engine.tokens import Token
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.browser import Browser, make_browser
from tests.support.command import run
from tests.support.overlap import Start, put
from tests.support.waiting import wait_until

from .test_cli_sessions import write_ini
from .test_device_page import FIREFOX
from .test_revoke import Step, own, step  # noqa: F401

ROLES = {"roles": ["reader", "writer"], 7: "seven"}
MODES = ["merge", "retry"]


def log_in(browser: Browser, owner: Any = "ada", **values: Any) -> Browser:
    def view(session: Any) -> None:
        session.owner = owner
        session.update(values)

    other = browser.another()
    other.use(view)
    return other


def contents(*browsers: Browser) -> list[dict[Any, Any]]:
    return [browser.use(dict) for browser in browsers]


# -- update --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", ["registry", "stranger", "current"])
def test_values_are_set_in_all_sessions_of_the_owner(redis_url: str, by: str, mode: str) -> None:
    browser = make_browser(redis_url, on_conflict=mode)
    users = [log_in(browser, n=number, roles=["none"]) for number in range(3)]
    other = log_in(browser, "bob", roles=["none"])
    if by == "registry":
        assert update_sessions(browser.wsgi.registry, "ada", ROLES) == 3
    else:
        visitor = browser if by == "stranger" else users[1]
        assert visitor.visit(lambda request: update_sessions(request, "ada", ROLES)) == 3
    assert contents(*users) == [{"n": number, **ROLES} for number in range(3)]
    assert contents(other) == [{"roles": ["none"]}]


def test_current_session_is_changed_within_the_request(redis_url: str) -> None:
    user = log_in(make_browser(redis_url))

    def view(request: Any) -> Any:
        update_sessions(request, "ada", ROLES)
        seen = dict(request.session)
        request.session.regenerate_id()
        return seen

    assert user.visit(view) == ROLES
    assert contents(user) == [ROLES]


def test_sessions_are_found_by_another_index(redis_url: str) -> None:
    browser = make_browser(redis_url)
    users = [log_in(browser, number) for number in range(3)]
    for user in users[:2]:
        user.use(lambda session: session.index("customer", "acme"))
    registry = browser.wsgi.registry
    assert update_sessions(registry, None, ROLES, customer="acme") == 2
    assert contents(*users) == [ROLES, ROLES, {}]
    assert len(export_sessions(registry, customer="acme")) == 2
    for asked in ({}, {"customer": "acme", "sid": 1}):
        with pytest.raises(TypeError):
            update_sessions(registry, None, ROLES, **asked)
        with pytest.raises(TypeError):
            export_sessions(registry, **asked)


def test_nobody_is_kept_alive(redis_url: str, redis_client: Any) -> None:
    user = log_in(make_browser(redis_url))
    redis_client.pexpire(user.key, 60_000)
    assert update_sessions(user.wsgi.registry, "ada", ROLES) == 1
    assert 0 < redis_client.pttl(user.key) <= 60_000
    assert contents(user) == [ROLES]


def test_nobody_is_kept_alive_in_lru_mode(redis_url: str, redis_client: Any) -> None:
    user = log_in(make_browser(redis_url, set_redis_ttl=False))
    before = redis_client.hget(user.key, "expires")
    redis_client.hset(user.key, "expires", int(before) - 60_000)
    assert update_sessions(user.wsgi.registry, "ada", ROLES) == 1
    assert redis_client.hget(user.key, "expires") == b"%d" % (int(before) - 60_000)
    assert redis_client.pttl(user.key) == -1


def test_session_that_has_ended_is_not_brought_back(redis_url: str, redis_client: Any) -> None:
    browser = make_browser(redis_url)
    users = [log_in(browser) for _ in range(3)]
    ended = users[0].key
    users[0].use(lambda session: session.invalidate())
    redis_client.delete(users[1].key)
    assert update_sessions(browser.wsgi.registry, "ada", ROLES) == 1
    assert not redis_client.exists(users[1].key)
    assert set(redis_client.hgetall(ended)) == {b"moved"}


@pytest.mark.parametrize("what", ["ends", "changes hands", "gets a new token", "saves"])
def test_what_happens_to_a_session_between_the_look_and_the_save(
    redis_url: str,
    redis_client: redis.Redis,
    step: Step,  # noqa: F811
    what: str,
) -> None:
    other = make_browser(redis_url)
    user = log_in(other, n=1)
    browser = make_browser(None, client_callable=step.client)
    acts: dict[str, Callable[[Any], None]] = {
        "ends": lambda session: session.invalidate(),
        "changes hands": own("bob"),
        "gets a new token": lambda session: session.regenerate_id(),
        "saves": put("m", 2),
    }
    step.number = 0
    step.before = {3: lambda: user.use(acts[what])}
    count = update_sessions(browser.wsgi.registry, "ada", ROLES)
    assert step.before == {}
    kept = {"ends": {}, "saves": {"n": 1, "m": 2, **ROLES}, "changes hands": {"n": 1}}
    assert contents(user) == [kept.get(what, {"n": 1, **ROLES})]
    assert count == (what in ("gets a new token", "saves"))


def test_session_that_gets_new_tokens_all_the_time_is_told_of(
    redis_url: str,
    step: Step,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounts, "LAST_PATIENCE", 0)
    other = make_browser(redis_url)
    user, still = log_in(other), log_in(other)
    browser = make_browser(None, client_callable=step.client)
    step.before_each = {"EVALSHA": lambda: user.use(lambda session: session.regenerate_id())}
    with pytest.raises(SessionConflict):
        update_sessions(browser.wsgi.registry, "ada", ROLES)
    with pytest.raises(SessionConflict):  # and not a list without it
        export_sessions(browser.wsgi.registry, "ada")
    step.before_each = {}
    assert contents(user, still) == [{}, ROLES]
    assert len(export_sessions(browser.wsgi.registry, "ada")) == 2


def test_session_that_a_transaction_has_staged_is_waited_for(
    redis_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = log_in(make_browser(redis_url, on_conflict="retry"), roles=["none"])
    store = user.factory.store_for(None)
    token = user.token
    assert isinstance(token, Token)
    store.stage(token, "other", values=[b".roles"])
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        store.unstage(token, "other")

    monkeypatch.setattr(accounts.time, "sleep", sleep)
    assert update_sessions(user.wsgi.registry, "ada", ROLES) == 1
    assert len(waited) == 1
    assert contents(user) == [ROLES]


def test_request_in_flight_conflicts_where_it_read_the_value(start: Start) -> None:
    overlap = start(on_conflict="retry")
    cookie = overlap.run(None, own("ada"), put("roles", []), put("n", 1)).cookie
    reader, other = overlap.begin(cookie), overlap.begin(cookie)
    reader.do(lambda session: session["roles"])
    reader.do(put("m", 1))
    other.do(put("k", 1))
    assert update_sessions(overlap.registry, "ada", ROLES) == 1
    assert reader.finish().status == 409
    assert other.finish().status == 200
    assert overlap.read(cookie) == {"n": 1, "k": 1, **ROLES}


def test_value_that_cannot_be_serialized_changes_nothing(redis_url: str) -> None:
    user = log_in(make_browser(redis_url))
    for values, error in (({"n": 1, "o": lambda: 1}, UnserializableValue), ({1.5: 1}, TypeError)):
        with pytest.raises(error):
            update_sessions(user.wsgi.registry, "ada", values)
    assert contents(user) == [{}]


@pytest.mark.parametrize("options", [{"encryption_key": "k" * 40}, {"seal": False}])
def test_values_are_protected_as_those_of_the_session(
    redis_url: str, redis_client: Any, options: dict[str, Any]
) -> None:
    browser = make_browser(redis_url, serialize="json", **options)
    users = [log_in(browser) for _ in range(2)]
    assert update_sessions(browser.wsgi.registry, "ada", {"secret": "tea"}) == 2
    assert contents(*users) == [{"secret": "tea"}] * 2
    stored = [redis_client.hget(user.key, ".secret") for user in users]
    if "seal" not in options:
        assert stored[0] != stored[1]
        assert not any(b"tea" in value for value in stored)


def test_update_is_one_pipeline(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    for _ in range(20):
        log_in(browser)
    proxy.reset()
    assert update_sessions(browser.wsgi.registry, "ada", ROLES) == 20
    # Read the index, look at the sessions, save.
    assert proxy.round_trips == 3
    proxy.reset()
    assert len(export_sessions(browser.wsgi.registry, "ada")) == 20
    assert proxy.round_trips == 3


def test_lost_reply_to_an_update_writes_nothing_over_what_came_since(
    proxy: CountingProxy,
) -> None:
    user = log_in(make_browser(proxy.url))
    user.use(dict)
    proxy.lose_replies(1)
    assert update_sessions(user.wsgi.registry, "ada", ROLES) == 1
    assert contents(user) == [ROLES]


def test_redis_that_fails_is_an_error(new_redis_server: Callable[..., RedisServer]) -> None:
    server = new_redis_server()
    registry = log_in(make_browser(server.url)).wsgi.registry
    server.kill()
    with pytest.raises(StoreError):
        update_sessions(registry, "ada", ROLES)
    with pytest.raises(StoreError):
        export_sessions(registry, "ada")


# -- export --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_export_has_all_that_the_sessions_hold(redis_url: str, mode: str) -> None:
    browser = make_browser(redis_url, on_conflict=mode, serialize="pickle")
    moment = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)

    def view(session: Any) -> None:
        session.owner = 7
        session.label = "a phone"
        session.index("customer", "acme")
        session["odd"] = [moment, b"\0", {1}, float("nan"), decimal.Decimal("1.5"), (None, True)]
        session[7] = {"a": {2: "é\ud800"}, "b": {1: "x", "1": "y"}}
        session.flash("Hello", "q")
        session.flash("there")

    user = browser.another()
    user.use(view)
    log_in(browser, 7)
    log_in(browser, 8, secret=1)
    documents = user.visit(lambda request: export_sessions(request, 7))
    assert json.loads(json.dumps(documents, allow_nan=False)) == documents
    first, second = documents
    assert first["session"] == user.use(lambda session: session.fingerprint)
    assert (first["owner"], first["label"], first["current"]) == (7, "a phone", True)
    assert first["indexes"] == {"customer": "acme"}
    assert first["device_bound"] is False
    assert datetime.datetime.fromisoformat(first["created"]) <= datetime.datetime.fromisoformat(
        first["last_seen"]
    )
    assert {one["key"]: one["value"] for one in first["values"]} == {
        "odd": [moment.isoformat(), "AA==", [1], "nan", "1.5", [None, True]],
        7: {"a": {"2": "é\ud800"}, "b": [[1, "x"], ["1", "y"]]},
    }
    assert first["messages"] == [
        {"queue": "q", "message": "Hello"},
        {"queue": "", "message": "there"},
    ]
    assert (second["values"], second["messages"], second["current"]) == ([], [], False)


@pytest.mark.parametrize("mode", MODES)
def test_export_has_what_else_is_known_of_the_user(redis_url: str, mode: str) -> None:
    browser = make_browser(
        redis_url,
        on_conflict=mode,
        configure=lambda config: config.include("pyramid_redis_lua_sessions.device_page"),
    )
    plain = log_in(make_browser(redis_url))

    def view(session: Any) -> None:
        session.owner = "ada"
        session.confirm("totp")

    place = {"extra_environ": {"REMOTE_ADDR": "192.0.2.1"}, "headers": {"User-Agent": FIREFOX}}
    user = browser.another()
    user.use(view, **place)
    place["extra_environ"]["REMOTE_ADDR"] = "192.0.2.2"
    user.use(dict, **place)
    first, second = export_sessions(user.wsgi.registry, "ada")
    assert first["session"] == plain.use(lambda session: session.fingerprint)
    assert (first["confirmed"], first["places"]) == ({}, [])
    assert second["places"] == ["192.0.2.1", "Firefox, Linux", "192.0.2.2", "Firefox, Linux"]
    (confirmed,) = second["confirmed"].items()
    assert confirmed[0] == "totp"
    assert abs(datetime.datetime.fromisoformat(confirmed[1]).timestamp() - time.time()) < 600


def test_export_of_what_no_seal_protects_and_somebody_wrote(
    redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url, seal="false", serialize="json")
    user = log_in(browser)
    encode = browser.factory.codec.encode
    times = json.dumps({"past": -(10**30), "future": 10**30})
    redis_client.hset(user.key, b"=\xff", b"1")
    redis_client.hset(user.key, "confirmed", encode(times))
    redis_client.hset(user.key, "places", encode([1]))
    (document,) = export_sessions(browser.wsgi.registry, "ada")
    assert document["confirmed"].keys() == {"past", "future"}
    assert (document["indexes"], document["places"]) == ({"\ufffd": 1}, [])


def test_export_has_no_credentials(redis_url: str) -> None:
    user = log_in(make_browser(redis_url))
    csrf = user.use(lambda session: session.new_csrf_token())
    text = json.dumps(export_sessions(user.wsgi.registry, "ada"))
    token = user.token
    assert token is not None
    for secret in (csrf, token.locator, token.verifier, token.digest.hex()):
        assert secret not in text


def test_export_touches_no_session(redis_url: str, redis_client: Any) -> None:
    user = log_in(make_browser(redis_url), n=1)
    redis_client.pexpire(user.key, 60_000)
    before = redis_client.hgetall(user.key)
    assert len(export_sessions(user.wsgi.registry, "ada")) == 1
    assert redis_client.hgetall(user.key) == before
    assert redis_client.pttl(user.key) <= 60_000


def test_session_that_somebody_altered_is_exported_without_values(
    redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url)
    users = [log_in(browser, n=number) for number in range(2)]
    redis_client.hset(users[0].key, ".n", redis_client.hget(users[1].key, ".n"))
    redis_client.hset(users[1].key, ".x", b"")
    documents = export_sessions(browser.wsgi.registry, "ada")
    assert [document["values"] for document in documents] == [None, None]


def test_session_that_ended_since_the_look_is_not_exported(
    redis_url: str,
    step: Step,  # noqa: F811
) -> None:
    other = make_browser(redis_url)
    user = log_in(other, n=1)
    browser = make_browser(None, client_callable=step.client)
    for act, number in ((lambda session: session.regenerate_id(), 1), (own("bob"), 0)):
        step.number = 0
        step.before = {3: lambda act=act: user.use(act)}  # type: ignore[misc]
        assert len(export_sessions(browser.wsgi.registry, "ada")) == number


# -- the command -------------------------------------------------------------------


def test_commands_update_and_export(redis_url: str, tmp_path: Any, capsys: Any) -> None:
    browser = make_browser(redis_url)
    users = [log_in(browser, owner) for owner in ("7", 7, "ada")]
    ini = write_ini(tmp_path, redis_url)
    sets = ["--set", 'roles=["a=b"]', "--set", "n=1", "--yes"]
    assert run("update", ini, "--owner", "7", *sets) == 0
    assert capsys.readouterr().out == "changed 2 sessions\n"
    assert contents(*users) == [{"roles": ["a=b"], "n": 1}] * 2 + [{}]
    assert run("update", ini, "--owner", "7", *sets, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"changed": 2}
    assert run("export", ini, "--owner", "7") == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["owner"] for document in documents] == ["7", 7]
    assert revoke(browser.wsgi.registry, 7) == 1
    assert run("export", ini, "--owner", "nobody") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("value", ["roles", "roles=", "roles=[", "=x", "roles='secret'"])
def test_command_refuses_what_is_no_json_and_does_not_quote_it(
    redis_url: str, tmp_path: Any, capsys: Any, value: str
) -> None:
    ini = write_ini(tmp_path, redis_url)
    assert run("update", ini, "--owner", "ada", "--set", value, "--yes") == 2
    assert "secret" not in capsys.readouterr().err


# -- values that end ---------------------------------------------------------------------


def test_value_that_ends_is_exported_and_an_update_lets_it_stay(redis_url: str) -> None:
    user = log_in(make_browser(redis_url))
    user.use(lambda session: session.set("code", "1234", ttl=600))
    user.use(lambda session: session.set("over", "x", ttl=0.001))
    user.use(put("n", 1))
    wait_until(lambda: user.use(lambda session: "over" not in session))
    (document,) = export_sessions(user.wsgi.registry, "ada")
    assert {one["key"]: one["value"] for one in document["values"]} == {"code": "1234", "n": 1}
    assert update_sessions(user.wsgi.registry, "ada", {"code": "5678", "over": "y"}) == 1
    assert contents(user) == [{"code": "5678", "over": "y", "n": 1}]
