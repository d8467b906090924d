"""Wiring: ``config.include``, factories made in code, and both predecessors' spellings."""

from __future__ import annotations

import configparser
import logging
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import ISessionFactory, ITweens
from pyramid.response import Response
from pyramid.tweens import EXCVIEW

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import (
    RedisSessionFactory,
    SettingsError,
    session_factory_from_settings,
)
from tests.support.browser import SECRET, Browser, add_view, make_browser

INCLUDE = "pyramid_redis_lua_sessions"


def settings_of(url: str, **more: Any) -> dict[str, Any]:
    return {"redis.sessions.secret": SECRET, "redis.sessions.url": url, **more}


def application(config: Configurator) -> Browser:
    add_view(config)
    return Browser(config.make_wsgi_app())


def works(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=[1]))
    browser.use(lambda session: session["a"].append(2))
    assert browser.use(dict) == {"a": [1, 2]}


# -- include -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [INCLUDE, pyramid_redis_lua_sessions, "."])
def test_include_gives_an_application_its_sessions(redis_url: str, target: Any) -> None:
    config = Configurator(settings=settings_of(redis_url), package=pyramid_redis_lua_sessions)
    config.include(target)
    works(application(config))


def test_pyramid_includes_in_the_settings_will_do(redis_url: str) -> None:
    settings = settings_of(redis_url, **{"pyramid.includes": f"\n{INCLUDE}\n"})
    works(application(Configurator(settings=settings)))


def test_include_twice_is_include_once(redis_url: str, redis_client: redis.Redis) -> None:
    config = Configurator(settings=settings_of(redis_url))
    config.include(INCLUDE)
    config.include(INCLUDE)
    works(application(config))


def test_include_adds_one_tween_right_under_the_exception_views(redis_url: str) -> None:
    config = Configurator(
        settings=settings_of(redis_url, **{"redis.sessions.preload_scripts": "false"})
    )
    config.add_tween(f"{__name__}.some_tween_factory")
    config.include(INCLUDE)
    config.commit()
    names = [name for name, _ in config.registry.queryUtility(ITweens).implicit()]
    assert names.count(f"{INCLUDE}.tween.session_tween_factory") == 1
    assert names.index(f"{INCLUDE}.tween.session_tween_factory") == names.index(EXCVIEW) + 1


def some_tween_factory(handler: Any, registry: Any) -> Any:
    return handler


def test_include_beside_another_include_that_sets_a_session_factory_is_a_conflict(
    redis_url: str,
) -> None:
    config = Configurator(settings=settings_of(redis_url))
    config.include(INCLUDE)
    config.include(lambda inner: inner.set_session_factory(lambda request: {}))
    with pytest.raises(ConfigurationError):
        config.commit()


def test_session_factory_of_the_application_takes_precedence(redis_url: str) -> None:
    config = Configurator(
        settings=settings_of(redis_url, **{"redis.sessions.preload_scripts": "false"})
    )
    config.include(INCLUDE)
    mine = RedisSessionFactory(SECRET, redis_url=redis_url, cookie_name="mine")
    config.set_session_factory(mine)
    browser = application(config)
    assert browser.factory is mine
    works(browser)
    assert list(browser.app.cookies) == ["mine"]


def test_exception_view_of_the_application_takes_precedence(redis_url: str) -> None:
    def configure(config: Configurator) -> None:
        config.add_exception_view(
            lambda exc, request: Response("mine"),
            context=pyramid_redis_lua_sessions.SessionConflict,
        )

    browser = make_browser(redis_url, configure=configure)

    def view(request: Any) -> None:
        raise pyramid_redis_lua_sessions.SessionConflict

    browser.visit(view)
    assert browser.response.text == "mine"


def test_conflict_is_answered_with_409_by_default(redis_url: str) -> None:
    def view(request: Any) -> None:
        raise pyramid_redis_lua_sessions.SessionConflict

    make_browser(redis_url).visit(view, status=409)


def test_application_that_is_only_configured_connects_to_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    config = Configurator(settings=settings_of("redis://localhost:1/0"))
    config.include(INCLUDE)  # what a command line tool or ``proutes`` does
    assert config.registry.settings["redis.sessions.url"]


#: As the documentation of pyramid_session_redis 1.8.1 shows its settings ("client_callable"
#: left out), and, of those with another name there, that of pyramid_redis_sessions 1.0.1.
PREDECESSORS_INI = """
    redis.sessions.secret = your_cookie_signing_secret
    redis.sessions.timeout = 1200
    redis.sessions.cookie_name = session
    redis.sessions.cookie_max_age =
    redis.sessions.cookie_path =
    redis.sessions.cookie_domain =
    redis.sessions.cookie_secure = False
    redis.sessions.cookie_httponly =
    redis.sessions.cookie_on_exception = None
    redis.sessions.serialize = cPickle.dumps
    redis.sessions.deserialize = cPickle.loads
    redis.sessions.prefix = mycoolprefix
"""
PREDECESSORS_REDIS = {
    "pyramid_session_redis": """
        redis.sessions.redis_url = {url}
        redis.sessions.redis_host = localhost
        redis.sessions.redis_port =
        redis.sessions.redis_db = 0
        redis.sessions.redis_password = None
        redis.sessions.redis_socket_timeout =
        redis.sessions.redis_connection_pool =
        redis.sessions.redis_encoding = utf-8
        redis.sessions.redis_errors = strict
        redis.sessions.redis_unix_socket_path =
        redis.sessions.timeout_trigger = 1800
        redis.sessions.python_expires =
    """,
    "pyramid_redis_sessions": """
        redis.sessions.url = {url}
        redis.sessions.host = localhost
        redis.sessions.port = 6379
        redis.sessions.db = 0
        redis.sessions.password = None
        redis.sessions.socket_timeout =
        redis.sessions.connection_pool =
        redis.sessions.encoding = utf-8
        redis.sessions.encoding_errors = strict
        redis.sessions.unix_socket_path =
    """,
}


@pytest.mark.parametrize("predecessor", PREDECESSORS_REDIS)
def test_settings_of_the_predecessors_documentation_start_the_application(
    redis_url: str, predecessor: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = PREDECESSORS_INI + PREDECESSORS_REDIS[predecessor].format(url=redis_url)
    parser = configparser.ConfigParser()
    parser.read_string("[app:main]" + textwrap.dedent(text.replace("    ", "")))
    config = Configurator(settings=dict(parser["app:main"]))
    config.include(INCLUDE)
    browser = application(config)
    works(browser)
    header = (
        browser.visit(lambda request: request.session.please_recookie())
        or (browser.response.headers["Set-Cookie"])
    )
    assert "; Path=/; HttpOnly;" in header
    ours = [record.getMessage() for record in caplog.records if record.name == INCLUDE]
    expected = ["redis.sessions.secret is shorter than 32 bytes [docs: secrets]"]
    if predecessor == "pyramid_session_redis":
        expected = [
            "redis.sessions.python_expires has no effect: lifetimes are always enforced, by the "
            "clock of Redis [docs: settings]",
            *expected,
            "redis.sessions.timeout_trigger has no effect: it is longer than the timeout "
            "[docs: lifetimes]",
        ]
    assert ours == expected


@pytest.mark.parametrize("given", [{"timeout": "None"}, {"timeout": "600"}])
def test_trigger_without_effect_leaves_sessions_their_life(
    redis_url: str, redis_client: redis.Redis, given: dict[str, str]
) -> None:
    browser = make_browser(redis_url, timeout_trigger="1200", **given)
    browser.use(lambda session: session.update(a=1))
    if given["timeout"] == "None":
        browser.use(dict)
        assert redis_client.ttl(browser.key) == -1
    else:
        redis_client.expire(browser.key, 500)
        assert browser.use(dict) == {"a": 1}
        assert redis_client.ttl(browser.key) > 590


# -- errors of the configuration ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tiemout", "5", ["redis.sessions.tiemout", "redis.sessions.timeout"]),
        ("timeout", "soon", ["redis.sessions.timeout", "'soon'"]),
        ("timeout", "-5", ["redis.sessions.timeout", "'-5'"]),
        ("cookie_domain", "localhost:6543", ["cookie_domain = 'localhost:6543'", "port"]),
        ("cookie_path", "app", ["redis.sessions.cookie_path = 'app'", '"/"']),
        ("on_conflict", "wait", ["redis.sessions.on_conflict", "'wait'", "merge or retry"]),
        ("cookie_samesite", "None", ["cookie_samesite", "cookie_secure"]),
        ("cookie_name", "__Host-x", ["__Host-x", "cookie_secure"]),
        ("client_callable", "no.such.name", ["client_callable", "'no.such.name'"]),
        ("url", "nonsense", ["redis.sessions.url"]),
        ("redis_url", "redis://other", ["redis.sessions.url", "redis.sessions.redis_url"]),
        ("redis_connection_pool", "pool", ["redis.sessions.redis_connection_pool"]),
    ],
)
def test_mistake_in_the_settings_is_an_error_of_include(
    redis_url: str, name: str, value: str, words: list[str]
) -> None:
    settings = settings_of(redis_url, **{f"redis.sessions.{name}": value})
    with pytest.raises(ConfigurationError) as caught:
        Configurator(settings=settings).include(INCLUDE)
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in str(caught.value)


def test_missing_secret_is_an_error_of_include() -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.sessions\.secret"):
        Configurator(settings={}).include(INCLUDE)


# -- in code ---------------------------------------------


def test_factory_from_settings_works(redis_url: str) -> None:
    settings = settings_of(redis_url, **{"redis.sessions.cookie_name": "mine", "other.key": "x"})
    factory = session_factory_from_settings(settings)
    assert ISessionFactory.providedBy(factory)
    config = Configurator()
    config.set_session_factory(factory)
    browser = application(config)
    works(browser)
    assert list(browser.app.cookies) == ["mine"]


def test_factory_takes_the_arguments_by_position_as_the_predecessor(redis_url: str) -> None:
    factory = RedisSessionFactory(
        SECRET,  # secret
        77,  # timeout
        "mine",  # cookie_name
        3600,  # cookie_max_age
        "/",  # cookie_path
        None,  # cookie_domain
        False,  # cookie_secure
        True,  # cookie_httponly
        None,  # cookie_expires
        None,  # cookie_comment
        "Strict",  # cookie_samesite
        True,  # cookie_on_exception
        redis_url,  # redis_url
    )
    config = Configurator(session_factory=factory)
    browser = application(config)
    browser.use(lambda session: session.update(a=1))
    header = browser.response.headers["Set-Cookie"]
    assert header.startswith("mine=")
    assert "Max-Age=3600" in header
    assert "SameSite=Strict" in header
    assert browser.use(lambda session: (session.timeout, session["a"])) == (77, 1)


def test_factory_refuses_arguments_that_make_no_sense() -> None:
    with pytest.raises(TypeError, match="secret was given twice"):
        RedisSessionFactory(SECRET, secret=SECRET)
    with pytest.raises(TypeError, match="positional"):
        RedisSessionFactory(*[None] * 100)
    with pytest.raises(SettingsError, match="unknown setting tiemout"):
        RedisSessionFactory(SECRET, tiemout=5)
    with pytest.raises(SettingsError, match="secret"):
        RedisSessionFactory()


# -- without include: no tween, the response callback saves ----------------------------------------


@pytest.fixture
def bare(redis_url: str) -> Browser:
    """A user of an application that only called ``config.set_session_factory``."""
    config = Configurator()
    config.set_session_factory(RedisSessionFactory(SECRET, redis_url=redis_url))
    config.add_exception_view(lambda exc, request: Response("sorry", status=500), context=KeyError)
    return application(config)


REQUESTS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    # what the view does, and what is there afterwards
    "nothing": (lambda s: None, {"a": 1, "list": [1]}),
    "assignment": (lambda s: s.update(a=2), {"a": 2, "list": [1]}),
    "change in place": (lambda s: s["list"].append(2), {"a": 1, "list": [1, 2]}),
    "deletion": (lambda s: s.pop("a"), {"list": [1]}),
    "new id": (lambda s: s.regenerate_id(), {"a": 1, "list": [1]}),
    "ending": (lambda s: s.invalidate(), {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_factory_without_include_saves_in_the_response_callback(
    bare: Browser, redis_client: redis.Redis, name: str
) -> None:
    view, expected = REQUESTS[name]
    bare.use(lambda session: session.update(a=1, list=[1]))
    before = redis_client.hgetall(bare.key)

    def unsaved(session: Any) -> None:
        view(session)
        assert redis_client.hgetall(key) == before

    key = bare.key
    bare.use(unsaved)
    assert bare.use(dict) == expected


def test_factory_without_include_saves_after_an_exception_view(bare: Browser) -> None:
    bare.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session["a"] = 2
        raise KeyError("for the exception view")

    bare.use(view, status=500)
    assert bare.use(dict) == {"a": 2}


def test_factory_without_include_saves_after_an_unhandled_exception(bare: Browser) -> None:
    bare.use(lambda session: session.update(a=1))

    def view(session: Any) -> None:
        session["a"] = 2
        raise RuntimeError("for nobody")

    with pytest.raises(RuntimeError, match="for nobody"):
        bare.use(view)
    assert bare.use(dict) == {"a": 2}


def test_factory_without_include_stores_no_new_session_after_an_unhandled_exception(
    bare: Browser, redis_client: redis.Redis
) -> None:
    def view(session: Any) -> None:
        session["a"] = 2
        raise RuntimeError("for nobody")

    with pytest.raises(RuntimeError, match="for nobody"):
        bare.use(view)
    assert redis_client.dbsize() == 0


def warnings_of_the_tween(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "tween" in record.getMessage()]


def test_factory_without_include_warns_once_of_what_is_lost(
    bare: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of_the_tween(caplog) == []
    for _ in range(3):
        bare.use(lambda session: session.update(a=1))
    (warning,) = warnings_of_the_tween(caplog)
    assert f"config.include('{INCLUDE}')" in warning


def test_tweens_that_were_listed_without_that_of_the_sessions_are_warned_of(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for listed, warned in ((EXCVIEW, 1), (f"{EXCVIEW} {INCLUDE}.tween.session_tween_factory", 0)):
        caplog.clear()
        browser = make_browser(redis_url, settings={"pyramid.tweens": listed})
        works(browser)
        assert len(warnings_of_the_tween(caplog)) == warned


def test_factory_of_the_application_beside_the_include_has_the_tween(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = Configurator(settings=settings_of(redis_url))
    config.include(INCLUDE)
    config.set_session_factory(RedisSessionFactory(SECRET, redis_url=redis_url))
    works(application(config))
    assert warnings_of_the_tween(caplog) == []


# -- both predecessors' spellings ------------------------------------------------------------

SPELLINGS = [
    ("url", "redis_url"),
    ("host", "redis_host"),
    ("port", "redis_port"),
    ("db", "redis_db"),
    ("password", "redis_password"),
    ("socket_timeout", "redis_socket_timeout"),
    ("connection_pool", "redis_connection_pool"),
    ("encoding", "redis_encoding"),
    ("encoding_errors", "redis_encoding_errors"),
    ("unix_socket_path", "redis_unix_socket_path"),
    ("client_callable", "redis_client_callable"),
]
PARSED = {"port": "7", "db": "3", "socket_timeout": "0.5", "client_callable": "builtins.dict"}


@pytest.mark.parametrize(("old", "new"), SPELLINGS)
def test_setting_is_accepted_under_both_spellings(old: str, new: str) -> None:
    value: Any = PARSED.get(old, "value")
    if old == "connection_pool":
        value = object()
    found = [
        getattr(
            pyramid_redis_lua_sessions.settings.Settings.from_options(
                {"secret": SECRET, name: value}
            ),
            new,
        )
        for name in (old, new)
    ]
    assert found[0] == found[1] is not None


INI_OF_PSR = """
    secret = {secret}
    redis_url = {url}
    timeout = 1200
    cookie_name = mine
    cookie_max_age = None
    cookie_path = /
    cookie_domain =
    cookie_secure = False
    cookie_httponly = True
    cookie_comment =
    cookie_samesite = lax
    cookie_on_exception = True
    redis_host = localhost
    redis_port = 6379
    redis_db = 0
    redis_password = None
    redis_socket_timeout = 0.5
    redis_encoding = utf-8
    redis_encoding_errors = strict
    serialize = cPickle.dumps
    deserialize = cPickle.loads
    id_generator = tests.functional.test_includeme.generated_id
    prefix = mycoolprefix
    set_redis_ttl = True
    detect_changes = True
    deserialized_fails_new = True
    func_check_response_allow_cookies = pyramid_redis_lua_sessions.check_response_allow_cookies
    func_invalid_logger = tests.functional.test_includeme.invalid_logger
    timeout_trigger = 600
    python_expires = True
    invalidate_empty_session = False
"""
INI_OF_PRS = """
    secret = {secret}
    url = {url}
    timeout = 1200
    cookie_name = mine
    cookie_max_age = 604800
    cookie_path = /
    cookie_secure = False
    cookie_httponly = True
    cookie_on_exception = True
    host = localhost
    port = 6379
    db = 0
    socket_timeout = 5.0
    encoding = utf-8
    encoding_errors = strict
    serialize = pickle.dumps
    deserialize = pickle.loads
    prefix = mycoolprefix
"""
_numbers = iter(range(1_000_000))


def generated_id() -> str:
    return f"generated {next(_numbers)}"


def invalid_logger(request: Any, problem: Any) -> None:
    raise AssertionError("no session is invalid here")


@pytest.mark.parametrize("ini", [INI_OF_PSR, INI_OF_PRS], ids=["psr", "prs"])
def test_ini_file_of_a_predecessor_works(
    ini: str, redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {}
    for line in ini.format(secret=SECRET, url=redis_url).strip().splitlines():
        name, _, value = line.partition("=")
        settings[f"redis.sessions.{name.strip()}"] = value.strip()
    config = Configurator(settings=settings)
    with caplog.at_level(logging.INFO, INCLUDE):
        config.include(INCLUDE)
    noted = [record.getMessage() for record in caplog.records]
    assert len(noted) == ("python_expires" in ini)  # accepted, with a note of why it has no effect
    browser = application(config)
    works(browser)
    assert [key for key in redis_client.keys("*") if key.startswith(b"mycoolprefix")]
    assert "mycoolprefix" not in (browser.session_id or "")


def test_settings_whose_meaning_is_gone_are_noted(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, INCLUDE):
        works(make_browser(redis_url, set_redis_ttl_readheavy="true", python_expires="false"))
    assert "redis.sessions.set_redis_ttl_readheavy has no effect" in caplog.text
    assert "redis.sessions.python_expires has no effect" in caplog.text
