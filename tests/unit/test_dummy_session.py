"""``testing.DummySession``: the whole interface of a session, in unit tests without Redis."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pyramid import testing
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.csrf import check_csrf_token, get_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.interfaces import ISession
from pyramid.testing import DummyRequest
from zope.interface.verify import verifyObject

from pyramid_redis_lua_sessions import RedisSessionFactory, UnserializableValue
from pyramid_redis_lua_sessions.session import RedisSession
from pyramid_redis_lua_sessions.testing import DummySession


@pytest.fixture
def config() -> Iterator[Any]:
    with testing.testConfig() as config:
        yield config


def public(session: Any) -> set[str]:
    return {name for name in dir(session) if not name.startswith("_")}


def test_interface_is_that_of_a_session() -> None:
    session = DummySession()
    assert verifyObject(ISession, session)
    assert isinstance(session, RedisSession)
    factory = RedisSessionFactory("a secret of these tests, over 32 bytes")
    assert public(session) == public(factory(DummyRequest()))


def test_new_session_holds_nothing() -> None:
    session = DummySession()
    assert (session.new, dict(session), session.session_id) == (True, {}, None)
    assert (session.owner, session.label, session.fingerprint) == (None, None, None)
    assert (session.ended, session.expires, session.timeout) == (False, None, 1200)


def test_session_with_values_was_there_before() -> None:
    session = DummySession({"cart": ["tea"], 5: "five"}, owner=7, label="phone", timeout=60)
    assert (session.new, session.owner, session.label) == (False, 7, "phone")
    assert session == {"cart": ["tea"], 5: "five"}
    assert session.session_id
    assert session.timeout == 60
    assert time.time() <= (session.expires or 0) <= time.time() + 61
    assert abs(session.created - time.time()) < 60
    assert session.token_made == session.created


def test_session_holds_a_copy_of_the_values() -> None:
    values = {"cart": ["tea"]}
    session = DummySession(values)
    session["cart"].append("milk")
    assert values == {"cart": ["tea"]}


def test_value_that_cannot_be_stored_is_an_error() -> None:
    with pytest.raises(UnserializableValue, match="'call'"):
        DummySession({"call": lambda: None})
    with pytest.raises(TypeError):
        DummySession({1.5: "no key"})


def test_session_that_ended_under_way() -> None:
    session = DummySession(ended=True)
    assert (session.ended, session.session_id, dict(session)) == (True, None, {})
    session.owner = "ada"
    assert (session.ended, session.owner) == (False, "ada")


METHODS: dict[str, Any] = {
    "adjust_cookie_expires": [None],
    "adjust_cookie_max_age": [60],
    "adjust_session_expires": [2_000_000_000],
    "adjust_session_timeout": [60],
    "changed": [],
    "clear": [],
    "do_persist": [],
    "do_refresh": [],
    "ensure_id": [],
    "flash": ["message"],
    "get_csrf_token": [],
    "has_key": ["a"],
    "invalidate": [],
    "new_csrf_token": [],
    "peek_flash": [],
    "please_recookie": [],
    "pop_flash": [],
    "popitem": [],
    "regenerate_id": [],
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("values", [{}, {"a": 1}], ids=["new", "stored"])
def test_method_needs_no_redis(name: str, values: dict[str, int]) -> None:
    session = DummySession(values)
    if name == "popitem" and not values:
        with pytest.raises(KeyError):
            session.popitem()
    else:
        getattr(session, name)(*METHODS[name])


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("values", [{}, {"a": 1}], ids=["new", "stored"])
def test_property_needs_no_redis(values: dict[str, int], ended: bool) -> None:
    session = DummySession(values, ended=ended)
    names = [n for n, member in inspect.getmembers(RedisSession) if isinstance(member, property)]
    assert len(names) > 10
    for name in set(names) - {"redis"}:
        getattr(session, name)
    with pytest.raises(RuntimeError, match="has no Redis"):
        session.redis  # noqa: B018


def test_id_is_there_once_it_is_asked_for() -> None:
    session = DummySession()
    session["a"] = 1
    assert session.session_id is None
    assert session.ensure_id() == session.session_id == session.session_id_safecheck
    assert (session.new, dict(session)) == (True, {"a": 1})


def test_flash_messages_go_round() -> None:
    session = DummySession()
    session.flash("a")
    session.flash("b", "queue")
    assert (session.pop_flash(), session.pop_flash(), session.peek_flash("queue")) == (
        ["a"],
        [],
        ["b"],
    )


def test_login_renews_the_token_against_forgery() -> None:
    session = DummySession({"cart": 1})
    token = session.get_csrf_token()
    session.owner = "ada"
    assert session.owner == "ada"
    assert session.get_csrf_token() != token
    assert session["cart"] == 1


def test_logout_empties_the_session() -> None:
    session = DummySession({"cart": 1}, owner="ada")
    session.invalidate()
    assert (dict(session), session.owner, session.session_id, session.new) == ({}, None, None, True)


def test_pyramid_finds_the_token_against_forgery(config: Any) -> None:
    request = DummyRequest(session=DummySession())
    token = get_csrf_token(request)
    assert token == request.session.get_csrf_token()
    request.POST = {"csrf_token": token}
    assert check_csrf_token(request)
    request.POST = {"csrf_token": "another"}
    with pytest.raises(BadCSRFToken):
        check_csrf_token(request)


def test_pyramid_remembers_a_user(config: Any) -> None:
    request = DummyRequest(session=DummySession())
    helper = SessionAuthenticationHelper()
    helper.remember(request, "ada")
    assert helper.authenticated_userid(request) == "ada"
    helper.forget(request)
    assert helper.authenticated_userid(request) is None
