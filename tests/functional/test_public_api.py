"""What an application of either predecessor calls on a session, name by name."""

from __future__ import annotations

import datetime
import inspect
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import redis
from pyramid.events import NewResponse
from pyramid.interfaces import ISession, ISessionFactory
from zope.interface.verify import verifyClass, verifyObject

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import RedisSessionFactory, SessionCreated, sessions_of
from tests.support.browser import (
    Browser,
    Reports,
    data_fields,
    let_time_pass,
    make_browser,
    take_along,
)
from tests.support.stored import set_start

METHODS: dict[str, list[str]] = {
    # name: names of the parameters with which applications call it
    "adjust_cookie_expires": ["expires"],
    "adjust_cookie_max_age": ["max_age"],
    "adjust_expires_for_session": ["expires_epoch"],
    "adjust_session_expires": ["expires_epoch"],
    "adjust_session_timeout": ["timeout_seconds"],
    "adjust_timeout_for_session": ["timeout_seconds"],
    "changed": [],
    "clear": [],
    "do_persist": [],
    "do_refresh": [],
    "ensure_id": [],
    "flash": ["msg", "queue", "allow_duplicate"],
    "get_csrf_token": [],
    "has_key": ["key"],
    "invalidate": [],
    "iteritems": [],
    "iterkeys": [],
    "itervalues": [],
    "new_csrf_token": [],
    "peek_flash": ["queue"],
    "please_recookie": [],
    "pop_flash": ["queue"],
    "regenerate_id": [],
}
PROPERTIES = {
    # name: type in a session that is stored, and in one that is not
    "_invalidated": (bool, bool),
    "created": (int, int),
    "ended": (bool, bool),
    "expires": (int, type(None)),
    "fingerprint": (str, type(None)),
    "managed_dict": (dict, dict),
    "new": (bool, bool),
    "session_id": (str, type(None)),
    "session_id_safecheck": (str, type(None)),
    "timeout": (int, int),
    "timestamp": (int, int),
    "token_made": (int, int),
    "version": (int, int),
}
#: Names that ``pyramid_session_redis`` and ``pyramid_redis_sessions`` gave to applications.
OF_THE_PREDECESSORS = """
    adjust_cookie_expires adjust_cookie_max_age adjust_expires_for_session adjust_session_expires
    adjust_session_timeout adjust_timeout_for_session changed do_persist do_refresh ensure_id
    expires get_csrf_token has_key iteritems iterkeys itervalues managed_dict new_csrf_token
    please_recookie redis session_id session_id_safecheck timeout timestamp version
""".split()
ADDED = {
    *("ended", "fingerprint", "index", "label", "owner", "regenerate_id", "token_made", "touch"),
    *("bind_device", "device_bound", "device_locked"),
    *("confirm", "confirmed_within", "last_seen", "set"),
}


@pytest.fixture
def browser(redis_url: str) -> Browser:
    return make_browser(redis_url)


# -- names -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_method_is_there_with_its_arguments(browser: Browser, name: str) -> None:
    signature = browser.use(lambda session: inspect.signature(getattr(session, name)))
    signature.bind(**dict.fromkeys(METHODS[name], ""))
    signature.bind(*METHODS[name])


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_is_there_with_its_type(browser: Browser, name: str) -> None:
    stored, not_stored = PROPERTIES[name]
    assert isinstance(browser.use(lambda session: getattr(session, name)), not_stored)
    browser.use(lambda session: session.update(a=1))
    assert isinstance(browser.use(lambda session: getattr(session, name)), stored)


@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != "managed_dict"])
def test_property_cannot_be_assigned_to(browser: Browser, name: str) -> None:
    def view(session: Any) -> None:
        with pytest.raises(AttributeError):
            setattr(session, name, None)

    browser.use(view)


def test_session_has_no_other_public_name(browser: Browser) -> None:
    """Each name hides a key of the same name in templates: ``{{ request.session.label }}``."""
    expected = {*ISession.names(all=True), *dir(dict), *OF_THE_PREDECESSORS, *ADDED}
    found = browser.use(lambda session: {n for n in dir(session) if not n.startswith("_")})
    assert found == {name for name in expected if not name.startswith("_")}


def test_names_that_were_added_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.rst").read_text("utf-8")
    members = page.partition(".session.RedisSession")[2].partition("A user's sessions")[0]
    assert set(re.findall(r"\w+", members)) >= ADDED


@pytest.mark.parametrize("name", ["phase", "save", "rest", "ends", "undo", "alive", "reseal"])
def test_key_of_any_other_name_is_found_by_a_template(browser: Browser, name: str) -> None:
    """Jinja2 asks for the attribute first, and then for the item."""
    browser.use(lambda session: session.update({name: "mine"}))
    show = jinja2.Template(f"{{{{ session.{name} }}}}").render
    assert browser.use(lambda session: show(session=session)) == "mine"


def test_unknown_attribute_is_refused(browser: Browser) -> None:
    def view(session: Any) -> None:
        with pytest.raises(AttributeError):
            session.user_id = 1  # a slip for session["user_id"]

    browser.use(view)


def test_interfaces_are_provided(browser: Browser) -> None:
    assert verifyObject(ISessionFactory, browser.factory)
    assert verifyClass(ISessionFactory, RedisSessionFactory)
    assert browser.use(lambda session: verifyObject(ISession, session))


def test_names_of_the_package_are_there() -> None:
    for name in pyramid_redis_lua_sessions.__all__:
        assert getattr(pyramid_redis_lua_sessions, name)
    for name in ("includeme", "session_factory_from_settings", "RedisSessionFactory"):
        assert name in pyramid_redis_lua_sessions.__all__
    assert "check_response_allow_cookies" in pyramid_redis_lua_sessions.__all__
    assert pyramid_redis_lua_sessions.__version__ == pyramid_redis_lua_sessions.__VERSION__


# -- session_id, ensure_id, session_id_safecheck ---------------------------------------------


def test_session_id_is_none_until_the_session_is_stored(browser: Browser) -> None:
    def view(session: Any) -> None:
        assert session.session_id is None
        session["a"] = 1
        assert session.session_id is None

    browser.use(view)
    assert browser.use(lambda session: session.session_id) == browser.session_id


def test_ensure_id_creates_at_once(browser: Browser, redis_client: redis.Redis) -> None:
    def view(session: Any) -> str:
        session["a"] = 1
        session_id: str = session.ensure_id()
        assert data_fields(redis_client, f"session:{session_id}").keys() == {b".a"}
        session["b"] = 2
        assert session.ensure_id() == session.session_id == session_id
        return session_id

    assert browser.use(view) == browser.session_id
    assert browser.use(dict) == {"a": 1, "b": 2}


def test_ensure_id_creates_an_empty_session_too(browser: Browser) -> None:
    session_id = browser.use(lambda session: session.ensure_id())
    assert session_id == browser.session_id
    assert browser.use(lambda session: (session.new, session.ensure_id())) == (False, session_id)


def test_session_id_safecheck_makes_no_session_of_an_empty_one(
    browser: Browser, redis_client: redis.Redis
) -> None:
    assert browser.use(lambda session: session.session_id_safecheck) is None
    assert redis_client.dbsize() == 0

    def view(session: Any) -> str:
        session["a"] = 1
        session_id: str = session.session_id_safecheck
        return session_id

    assert browser.use(view) == browser.session_id is not None


def test_session_id_safecheck_makes_a_session_of_one_with_a_message(browser: Browser) -> None:
    """With the predecessors a flash message is content: it lies under a key."""

    def view(session: Any) -> str | None:
        session.flash("message")
        session_id: str | None = session.session_id_safecheck
        return session_id

    session_id = browser.use(view)
    assert session_id is not None
    assert session_id == browser.session_id
    assert browser.use(lambda session: session.session_id_safecheck) == session_id


# -- new, created, timeout, expires, timestamp, version ---------------------------------------


def test_new_says_whether_the_session_came_with_the_request(browser: Browser) -> None:
    assert browser.use(lambda session: session.new) is True
    assert browser.use(lambda session: (session.update(a=1), session.new)[1]) is True
    assert browser.use(lambda session: session.new) is False
    assert browser.use(lambda session: (session.invalidate(), session.new)[1]) is True


def test_new_stays_true_in_the_request_that_created_it(browser: Browser) -> None:
    assert browser.use(lambda session: (session.ensure_id(), session.new)[1]) is True


def test_new_is_true_again_when_the_session_is_gone(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update(a=1))
    redis_client.delete(browser.key)
    assert browser.use(lambda session: (session.new, dict(session))) == (True, {})


def test_created_is_the_moment_of_creation(browser: Browser, redis_client: redis.Redis) -> None:
    browser.use(lambda session: session.update(a=1))
    set_start(redis_client, browser.key, 1_700_000_000_123)
    assert browser.use(lambda session: session.created) == 1700000000
    browser.use(lambda session: session.update(b=1))
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(lambda session: session.created) == 1700000000


def test_token_made_is_the_moment_of_the_last_new_id(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update(a=1))

    def moments(session: Any) -> tuple[int, int]:
        return session.created, session.token_made

    created, made = browser.use(moments)
    assert created == made
    for _ in range(2):
        let_time_pass(redis_client, browser.key, 600)
        assert browser.use(moments) == (created - 600, made - 600)
        created, (before, _) = created - 600, redis_client.time()
        browser.use(lambda session: session.regenerate_id())
        found, made = browser.use(moments)
        assert found == created
        assert before <= made <= redis_client.time()[0]
    let_time_pass(redis_client, browser.key, 600)
    browser.use(lambda session: session.regenerate_id(restart_lifetime=True))
    created, made = browser.use(moments)
    assert created == made >= before


def test_token_made_is_known_to_the_request_that_makes_it(
    redis_url: str, redis_client: Any
) -> None:
    seen = []

    def configure(config: Any) -> None:
        config.add_subscriber(lambda e: seen.append(e.request.session.token_made), NewResponse)

    browser = make_browser(redis_url, configure=configure)
    for work in (
        lambda session: session.update(a=1),
        lambda session: session.regenerate_id(),
        lambda session: session.regenerate_id(restart_lifetime=True),
    ):
        browser.use(work)
        let_time_pass(redis_client, browser.key, 600)
        said, (now, _) = seen[-1], redis_client.time()
        assert now - 60 <= said <= now
        assert browser.use(lambda session: session.token_made) == said - 600


def test_token_made_is_now_where_nothing_is_stored(browser: Browser) -> None:
    before = int(time.time())
    assert before <= browser.use(lambda session: session.token_made) <= time.time()


@pytest.mark.parametrize("stored", ["", "soon", "9" * 400, "-1"])
def test_token_made_that_is_no_time_is_that_of_creation(
    browser: Browser, redis_client: redis.Redis, stored: str
) -> None:
    browser.use(lambda session: session.update(a=1))
    redis_client.hset(browser.key, "@", stored)
    created, made = browser.use(lambda session: (session.created, session.token_made))
    assert created == made


def test_created_is_now_where_nothing_is_stored(browser: Browser) -> None:
    before = int(time.time())
    assert before <= browser.use(lambda session: session.created) <= time.time()


def test_timeout_is_what_applies_to_the_session(redis_url: str) -> None:
    browser = make_browser(redis_url, timeout="77")
    assert browser.use(lambda session: session.timeout) == 77
    browser.use(lambda session: (session.update(a=1), session.adjust_session_timeout(5)))
    assert browser.use(lambda session: session.timeout) == 5
    assert browser.another().use(lambda session: session.timeout) == 77


def test_timeout_is_none_where_it_is_never(redis_url: str) -> None:
    browser = make_browser(redis_url, timeout="0")
    browser.use(lambda session: session.update(a=1))
    assert browser.use(lambda session: (session.timeout, session.expires)) == (None, None)


def test_expires_is_when_the_session_ends(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    before = time.time()
    expires = browser.use(lambda session: session.expires)
    assert before + 1199 <= expires <= math.ceil(time.time() + 1201)


def test_timestamp_is_now_and_version_is_1(browser: Browser) -> None:
    before = int(time.time())
    timestamp, version = browser.use(lambda session: (session.timestamp, session.version))
    assert before <= timestamp <= time.time() + 1
    assert version == 1


# -- ended, fingerprint ----------------------------------------------------------------------


def test_session_that_another_request_ended_says_so(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    window = browser.copy()
    assert browser.use(lambda session: session.ended) is False

    def slow(session: Any) -> tuple[bool, bool]:
        before = session.ended
        window.use(lambda other: other.invalidate())
        return before, session.ended  # nobody has told this request

    assert browser.use(slow) == (False, False)
    assert browser.use(lambda session: session.ended) is True  # its cookie is of before
    assert window.use(lambda session: session.ended) is False


def test_session_that_ended_before_its_save_says_so_after_it(redis_url: str) -> None:
    said = []

    def configure(config: Any) -> None:
        config.add_subscriber(lambda e: said.append(e.request.session.ended), NewResponse)

    browser = make_browser(redis_url, configure=configure)
    browser.use(lambda session: session.update(a=1))
    window = browser.copy()

    def slow(session: Any) -> None:
        session["a"] = 2
        window.use(lambda other: other.invalidate())

    browser.use(slow)
    assert said == [False, False, True]


def test_session_that_logs_in_anew_or_is_invalidated_has_not_ended(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    window = browser.copy()
    window.use(lambda session: session.invalidate())
    for again in (
        lambda session: session.invalidate(),
        lambda session: (session.regenerate_id(), session.update(user="alice")),
        lambda session: setattr(session, "owner", "alice"),
    ):

        def view(session: Any, again: Any = again) -> tuple[bool, bool]:
            before = session.ended
            again(session)
            return before, session.ended

        assert browser.copy().use(view) == (True, False)


def test_session_that_only_gets_a_new_token_has_ended_as_before(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    browser.copy().use(lambda session: session.invalidate())
    assert browser.use(lambda session: (session.regenerate_id(), session.ended)[1])


def test_session_that_stands_for_one_out_of_reach_has_not_ended(redis_url: str) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    nowhere = take_along(browser, "redis://localhost:1/0", on_redis_error="ephemeral")
    assert nowhere.use(lambda session: (session.ended, dict(session))) == (False, {})


def test_fingerprint_is_what_events_and_lists_show(redis_url: str) -> None:
    created = []

    def configure(config: Any) -> None:
        config.add_subscriber(lambda event: created.append(event.fingerprint), SessionCreated)

    browser = make_browser(redis_url, configure=configure)
    assert browser.use(lambda session: session.fingerprint) is None
    browser.use(lambda session: setattr(session, "owner", "alice"))
    (shown,) = browser.visit(lambda request: sessions_of(request, "alice"))
    fingerprint = browser.use(lambda session: session.fingerprint)
    assert [fingerprint] == created == [shown.fingerprint]
    assert str(browser.session_id) not in fingerprint


# -- invalidate, _invalidated ----------------------------------------------------------------


def test_invalidated_session_is_empty_at_once_and_gone_afterwards(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: (session.update(a=1), session.flash("m")))
    key = browser.key

    def view(session: Any) -> None:
        assert not session._invalidated
        session.invalidate()
        assert session._invalidated
        assert session == {}
        assert session.pop_flash() == []
        assert session.session_id is None
        assert redis_client.hexists(key, "@")  # nothing happens before the save point

    browser.use(view)
    assert not redis_client.hexists(key, "@")
    assert browser.session_id is None
    assert browser.use(dict) == {}


def test_invalidated_session_that_is_filled_again_is_a_new_one(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    session_id = browser.session_id

    def view(session: Any) -> None:
        session.invalidate()
        session["b"] = 2
        assert not session._invalidated
        assert session.new

    browser.use(view)
    assert browser.session_id not in (None, session_id)
    assert browser.use(dict) == {"b": 2}


def test_invalidate_twice_is_invalidate_once(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: (session.invalidate(), session.invalidate()))
    assert browser.use(dict) == {}


# -- regenerate_id ------------------------------------------------------------------------------


def test_regenerated_session_has_its_data_under_another_token(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update({"a": [1], 1: "n", "gone": 1}))
    old = browser.copy()
    old_id, old_token = browser.session_id, browser.token

    def view(session: Any) -> None:
        session.regenerate_id()
        session["a"].append(2)
        session["user"] = "alice"
        del session["gone"]
        assert session.session_id == old_id

    browser.use(view)
    assert browser.session_id == old_id
    assert browser.token not in (None, old_token)
    assert browser.use(dict) == {"a": [1, 2], 1: "n", "user": "alice"}
    assert redis_client.hexists(browser.key, "@")
    assert old.use(dict) == {}


def test_regenerate_id_of_a_new_session_is_harmless(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.regenerate_id())
    assert redis_client.dbsize() == 0
    browser.use(lambda session: (session.regenerate_id(), session.update(a=1)))
    assert browser.use(dict) == {"a": 1}
    assert redis_client.dbsize() == 1


# -- changed, do_persist, do_refresh, redis --------------------------------------------------------


def test_calls_that_ask_for_nothing_store_nothing(
    browser: Browser, redis_client: redis.Redis
) -> None:
    def view(session: Any) -> None:
        session.changed()
        session.do_persist()
        session.do_refresh()
        session.clear()
        session.please_recookie()

    browser.use(view)
    assert redis_client.dbsize() == 0
    assert browser.session_id is None


def test_do_refresh_refreshes(browser: Browser, redis_client: redis.Redis) -> None:
    browser.use(lambda session: session.update(a=1))
    redis_client.pexpire(browser.key, 5000)
    browser.use(lambda session: session.do_refresh())
    assert redis_client.pttl(browser.key) > 1_100_000


def test_redis_is_the_client(browser: Browser, redis_client: redis.Redis) -> None:
    assert browser.use(lambda session: session.redis.ping()) is True
    browser.use(lambda session: session.redis.set("mine", "1"))
    assert redis_client.get("mine") == b"1"


# -- clear text that must not leak ---------------------------------------------------------


def test_repr_shows_neither_id_nor_content(browser: Browser) -> None:
    def view(session: Any) -> str:
        session["key-name"] = "private-value"
        return repr(session)

    texts = [browser.use(repr), browser.use(view), browser.use(view)]
    texts += [browser.use(lambda session: (session["key-name"], repr(session))[1])]
    assert browser.session_id is not None
    for text in texts:
        assert "RedisSession" in text
        assert "private-value" not in text
        assert browser.session_id not in text


def test_session_that_nobody_looked_at_shows_no_more_than_that(
    browser: Browser,
) -> None:
    assert "unread" in browser.use(repr)


# -- wrong arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adjust_session_timeout", "adjust_session_expires"])
@pytest.mark.parametrize("value", [-1, "soon", math.nan, math.inf, 1e300, True, object()])
def test_value_that_is_no_time_is_refused_at_the_call(
    browser: Browser, method: str, value: Any
) -> None:
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        with pytest.raises(ValueError, match="number of seconds"):
            getattr(session, method)(value)

    browser.use(view)
    assert browser.use(dict) == {"a": 1}
    assert browser.use(lambda session: session.timeout) == 1200


@pytest.mark.parametrize("method", ["adjust_session_expires", "adjust_expires_for_session"])
@pytest.mark.parametrize("hours", [0, 1, 24 * 365 * 60])
def test_end_that_is_a_timedelta_is_refused(browser: Browser, method: str, hours: int) -> None:
    browser.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        with pytest.raises(ValueError, match="since the epoch, not a timedelta"):
            getattr(session, method)(datetime.timedelta(hours=hours))

    browser.use(view)
    assert browser.use(dict) == {"a": 1}


def test_timeout_may_be_a_timedelta(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1))
    browser.use(lambda session: session.adjust_session_timeout(datetime.timedelta(hours=1)))
    assert browser.use(lambda session: (session["a"], session.timeout)) == (1, 3600)


# -- a session after its request ---------------------------------------------------------


def test_session_that_is_kept_beyond_its_request_still_shows_what_it_loaded(
    redis_url: str,
) -> None:
    reports = Reports()
    browser = make_browser(redis_url, func_invalid_logger=reports)
    browser.use(lambda session: session.update(a=[1]))
    kept: list[Any] = []
    browser.use(lambda session: kept.extend([session, session["a"]]))
    assert kept[0]["a"] == [1]
    assert "RedisSession" in repr(kept[0])
    kept[0]["a"].append(2)  # goes nowhere
    assert browser.use(dict) == {"a": [1]}
    assert reports.problems == []


LATE: dict[str, Callable[[Any], Any]] = {
    "read": lambda session: session.get("a"),
    "write": lambda session: session.update(a=2),
    "id": lambda session: session.ensure_id(),
}


@pytest.mark.parametrize("name", LATE)
def test_session_first_looked_at_after_its_request_fails_aloud(browser: Browser, name: str) -> None:
    browser.use(lambda session: session.update(a=1))
    kept = browser.use(lambda session: session)
    with pytest.raises(RuntimeError, match="over"):
        LATE[name](kept)
    assert browser.use(dict) == {"a": 1}
