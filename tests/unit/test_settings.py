"""The table of settings: spellings, parsers, combinations, and what errors show."""

from __future__ import annotations

import datetime
import json
import logging
import pickle
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.exceptions import ConfigurationError
from webob.cookies import SignedSerializer

from pyramid_redis_lua_sessions.settings import POSITIONAL, PREFIX, Settings, SettingsError, rows

SECRET = "0123456789abcdef0123456789abcdef"
ROWS = {row.name: row for row in rows()}
SIGNER = SignedSerializer(SECRET, "salt.")
POOL = redis.ConnectionPool()


def options(**given: Any) -> dict[str, Any]:
    """With a secret, where none is given or not wanted."""
    return {"secret": SECRET, **given}


def parse(**given: Any) -> Settings:
    return Settings.from_options(options(**given))


def ini(**given: Any) -> Settings:
    return Settings.from_ini({PREFIX + name: value for name, value in options(**given).items()})


def answer() -> bool:
    """A function that a dotted name can find."""
    return True


NOT_CALLABLE = 5
EMPTY = [None, "", "None"]
HERE = __name__


# -- the predecessors' spellings ---------------------------------------------------

# Every setting of pyramid_session_redis 1.8.1, and of pyramid_redis_sessions 1.0.1 under its
# other name: a value that an ini file may hold, and what it means.
SPELLINGS: list[tuple[str, str, Any, str]] = [
    ("timeout", "1800", 1800, "timeout"),
    ("cookie_name", "sid", "sid", "cookie_name"),
    ("cookie_max_age", "86400", 86400, "cookie_max_age"),
    ("cookie_path", "/app", "/app", "cookie_path"),
    ("cookie_domain", "example.com", "example.com", "cookie_domain"),
    ("cookie_secure", "true", True, "cookie_secure"),
    ("cookie_httponly", "false", False, "cookie_httponly"),
    ("cookie_comment", "ours", "ours", "cookie_comment"),
    ("cookie_samesite", "strict", "Strict", "cookie_samesite"),
    ("cookie_on_exception", "false", False, "cookie_on_exception"),
    ("redis_url", "redis://h/1", "redis://h/1", "redis_url"),
    ("url", "redis://h/1", "redis://h/1", "redis_url"),
    ("redis_host", "h", "h", "redis_host"),
    ("host", "h", "h", "redis_host"),
    ("redis_port", "6380", 6380, "redis_port"),
    ("port", "6380", 6380, "redis_port"),
    ("redis_db", "2", 2, "redis_db"),
    ("db", "2", 2, "redis_db"),
    ("redis_password", "pw", "pw", "redis_password"),
    ("password", "pw", "pw", "redis_password"),
    ("redis_client_callable", f"{HERE}.answer", answer, "redis_client_callable"),
    ("client_callable", f"{HERE}:answer", answer, "redis_client_callable"),
    ("redis_socket_timeout", "0.5", 0.5, "redis_socket_timeout"),
    ("socket_timeout", "5", 5.0, "redis_socket_timeout"),
    ("redis_encoding", "utf-8", "utf-8", "redis_encoding"),
    ("encoding", "utf-8", "utf-8", "redis_encoding"),
    ("redis_encoding_errors", "strict", "strict", "redis_encoding_errors"),
    ("encoding_errors", "strict", "strict", "redis_encoding_errors"),
    ("redis_errors", "strict", "strict", "redis_encoding_errors"),
    ("redis_unix_socket_path", "/run/r.sock", "/run/r.sock", "redis_unix_socket_path"),
    ("unix_socket_path", "/run/r.sock", "/run/r.sock", "redis_unix_socket_path"),
    ("serialize", "cPickle.dumps", "pickle", "serialize"),
    ("deserialize", "pickle.loads", "pickle", "deserialize"),
    ("id_generator", f"{HERE}.answer", answer, "id_generator"),
    ("prefix", "app:", "app:", "prefix"),
    ("set_redis_ttl", "false", False, "set_redis_ttl"),
    ("set_redis_ttl_readheavy", "true", True, "set_redis_ttl_readheavy"),
    ("detect_changes", "false", False, "detect_changes"),
    ("deserialized_fails_new", "false", False, "deserialized_fails_new"),
    (
        "func_check_response_allow_cookies",
        f"{HERE}.answer",
        answer,
        "func_check_response_allow_cookies",
    ),
    ("func_invalid_logger", f"{HERE}.answer", answer, "func_invalid_logger"),
    ("timeout_trigger", "600", 600, "timeout_trigger"),
    ("python_expires", "false", False, "python_expires"),
    ("invalidate_empty_session", "true", True, "invalidate_empty_session"),
]


@pytest.mark.parametrize(("name", "raw", "value", "row"), SPELLINGS)
def test_every_spelling_of_the_predecessors_works(
    name: str, raw: str, value: Any, row: str
) -> None:
    found = getattr(ini(**{name: raw}), row)
    assert found == value
    assert type(found) in (type(value), float)
    assert getattr(parse(**{name: raw}), row) == value


@pytest.mark.parametrize("name", ["redis_connection_pool", "connection_pool"])
def test_a_connection_pool_comes_from_code_alone(name: str) -> None:
    assert parse(**{name: POOL}).redis_connection_pool is POOL
    with pytest.raises(SettingsError, match=rf"redis\.sessions\.{name} = 'pool' should be"):
        ini(**{name: "pool"})


def test_a_cookie_signer_may_be_a_dotted_name() -> None:
    found = ini(secret=None, cookie_signer=f"{HERE}.SIGNER", seal_secret=SECRET)
    assert found.cookie_signer is SIGNER


@pytest.mark.parametrize("value", [datetime.timedelta(days=1), datetime.datetime(2030, 1, 1), None])
def test_cookie_expires_comes_from_code_alone(value: Any) -> None:
    assert parse(cookie_expires=value).cookie_expires == value
    with pytest.raises(SettingsError, match=r"redis\.sessions\.cookie_expires = '2030'"):
        ini(cookie_expires="2030")


@pytest.mark.parametrize(
    ("both", "row"),
    [({"url": "redis://a", "redis_url": "redis://a"}, "redis_url"), ({"db": 1, "redis_db": 1}, "")],
)
def test_one_setting_in_two_spellings_is_fine_when_they_agree(
    both: dict[str, Any], row: str
) -> None:
    assert parse(**both)


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("empty_name", ["url", "redis_url"])
def test_spelling_without_a_value_gives_way_to_the_other(empty_name: str, empty: Any) -> None:
    for names in (("url", "redis_url"), ("redis_url", "url")):
        given = {name: empty if name == empty_name else "redis://a" for name in names}
        assert ini(**given).redis_url == "redis://a"


def test_one_setting_in_two_spellings_is_an_error_when_they_differ() -> None:
    with pytest.raises(SettingsError) as caught:
        ini(url="redis://:hunter2@a", redis_url="redis://:hunter3@b")
    assert str(caught.value) == (
        "redis.sessions.url and redis.sessions.redis_url are one setting with two values "
        "[docs: settings]"
    )


def test_defaults() -> None:
    found = parse()
    expected = {
        "timeout": 1200,
        "timeout_trigger": None,
        "last_seen": False,
        "profile": None,
        "absolute_timeout": None,
        "first_timeout": None,
        "owner_sessions": 100,
        "owner_sessions_policy": "end_oldest",
        "device_page_fresh": None,
        "set_redis_ttl": True,
        "on_conflict": "merge",
        "on_redis_error": "raise",
        "grace": 5,
        "seal": True,
        "allow_unsealed_pickle": False,
        "cookie_name": "session",
        "cookie_max_age": None,
        "cookie_path": "/",
        "cookie_domain": None,
        "cookie_secure": None,
        "cookie_httponly": True,
        "cookie_samesite": "Lax",
        "cookie_on_exception": True,
        "save_on_exception": True,
        "detect_changes": True,
        "confirm_route": None,
        "invalidate_empty_session": False,
        "deserialized_fails_new": True,
        "serialize": "pickle",
        "prefix": "session:",
        "redis_host": "localhost",
        "redis_port": 6379,
        "redis_db": 0,
        "redis_password": None,
        "preload_scripts": True,
    }
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize("row", rows(), ids=ROWS)
def test_default_is_a_value_that_the_parser_keeps(row: Any) -> None:
    # So that writing a default into the ini file, or the code, changes nothing.
    if row.name == "cookie_secure":
        assert row.parser("auto") is row.default
    elif row.name != "cookie_signer" or row.default is not None:
        assert row.parser(row.default) == row.default


# -- parsers, row by row -----------------------------------------------------------

NEVER = [None, "", "None", "0", 0, 0.0, datetime.timedelta(0)]
TRUE = [True, "true", "True", "yes", "on", "1", "t", "y", " true ", 1]
FALSE = [False, "false", "no", "off", "0", "f", "n", "False", 0]
BAD_FLAG = ["maybe", *EMPTY, "2", "truee"]
BAD_SECONDS = ["-1", -1, "x", "nan", "inf", "1h", True, False, "1e99", 0.0001, [], object()]
FUNCTION = [(answer, answer), (f"{HERE}.answer", answer), (f"{HERE}:answer", answer)]
NO_FUNCTION = [
    "no.such.module",
    f"{HERE}.missing",
    "answer",
    f"{HERE}.NOT_CALLABLE",
    "a b",
    ".",
    "..x",
    5,
]

GOOD: dict[str, list[tuple[Any, Any]]] = {
    "secret": [
        (SECRET, (SECRET.encode(),)),
        (SECRET.encode(), (SECRET.encode(),)),
        ("é" * 32, ("é".encode() * 32,)),
        (f"\n    {SECRET}\n    {'x' * 32}\n", (SECRET.encode(), b"x" * 32)),
        (f"{SECRET}\r\n{'x' * 32}", (SECRET.encode(), b"x" * 32)),
        ([SECRET, b"x" * 32], (SECRET.encode(), b"x" * 32)),
        ((SECRET,), (SECRET.encode(),)),
    ],
    "cookie_signer": [(None, None), ("", None), (SIGNER, SIGNER), (f"{HERE}.SIGNER", SIGNER)],
    "seal_secret": [(None, ()), ("", ()), (SECRET, (SECRET.encode(),))],
    "encryption_key": [(None, ()), ("", ()), (SECRET, (SECRET.encode(),))],
    "timeout": [*((raw, None) for raw in NEVER), ("1200", 1200), (0.5, 0.5), ("0.5", 0.5)],
    "timeout_trigger": [*((raw, None) for raw in NEVER), ("600", 600), (1.5, 1.5)],
    "absolute_timeout": [*((raw, None) for raw in NEVER), ("86400", 86400)],
    "first_timeout": [*((raw, None) for raw in NEVER), (datetime.timedelta(minutes=1), 60)],
    "owner_sessions": [("5", 5), (1, 1), (1.0, 1), (f"{HERE}.answer", answer), (answer, answer)],
    "device_page_fresh": [*((raw, None) for raw in NEVER), ("300", 300)],
    "owner_sessions_policy": [(name, name) for name in ("end_oldest", "refuse", "end_others")],
    "on_conflict": [("merge", "merge"), ("retry", "retry")],
    "profile": [(None, None), ("", None), ("None", None), ("asvs-l2", "asvs-l2")],
    "confirm_route": [(None, None), ("", None), ("None", None), ("confirm", "confirm")],
    "on_redis_error": [("raise", "raise"), ("ephemeral", "ephemeral")],
    "grace": [(None, 0), ("", 0), ("0", 0), ("None", 0), ("2.5", 2.5)],
    "cookie_name": [("sid", "sid"), ("__Host-sid", "__Host-sid")],
    "cookie_max_age": [*((raw, None) for raw in NEVER), ("60", 60), (datetime.timedelta(1), 86400)],
    "cookie_path": [(path, path) for path in ("/", "/a", "/a/", "/a-b_c.d/~e/%20:@!$&'()*+=")],
    "cookie_domain": [
        (None, None),
        ("", None),
        ("None", None),
        *(
            (d, d)
            for d in (
                ".a.org",
                "a.org",
                "A.Org",
                "localhost",
                "a_b.c-d.x1",
                "xn--bcher-kva.example",
            )
        ),
    ],
    "cookie_secure": [
        ("auto", None),
        ("Auto", None),
        *((raw, True) for raw in TRUE),
        *((raw, False) for raw in FALSE),
    ],
    "cookie_samesite": [
        (None, None),
        ("", None),
        ("None", "None"),
        ("none", "None"),
        ("LAX", "Lax"),
        (" strict ", "Strict"),
    ],
    "cookie_expires": [(None, None)],
    "cookie_comment": [(None, None), ("", None), ("ours", "ours")],
    "clear_site_data": [
        *((raw, ()) for raw in (None, "", "None", ())),
        ("cache", ("cache",)),
        ("*", ("*",)),
        ('"cookies", "storage"', ("cookies", "storage")),
        ("cache executionContexts\nstorage", ("cache", "executionContexts", "storage")),
        (["clientHints"], ("clientHints",)),
    ],
    "func_check_response_allow_cookies": [(None, None), ("", None), ("None", None), *FUNCTION],
    "func_invalid_logger": [(None, None), ("", None), *FUNCTION],
    "id_generator": [(None, None), ("", None), *FUNCTION],
    "redis_client_callable": [(None, None), ("None", None), *FUNCTION],
    "serialize": [
        (None, "pickle"),
        ("", "pickle"),
        *((s, s) for s in ("pickle", "json", "msgpack")),
        *((f"{m}.dumps", "pickle") for m in ("pickle", "cPickle", "_pickle")),
        ("pickle:dumps", "pickle"),
        (pickle.dumps, "pickle"),
        (json.dumps, json.dumps),
        ("json.dumps", json.dumps),
    ],
    "deserialize": [
        (None, None),
        ("", None),
        ("cPickle.loads", "pickle"),
        (pickle.loads, "pickle"),
        ("json.loads", json.loads),
    ],
    "prefix": [("", ""), ("app:", "app:")],
    "redis_url": [(None, None), ("", None), ("None", None), ("redis://h", "redis://h")],
    "redis_host": [("h", "h")],
    "redis_port": [("6379", 6379), (6379, 6379), (6379.0, 6379)],
    "redis_db": [("0", 0), (15, 15)],
    "redis_password": [(None, None), ("", None), ("None", None), ("pw", "pw")],
    "redis_unix_socket_path": [(None, None), ("", None), ("/r", "/r")],
    "redis_socket_timeout": [*((raw, None) for raw in NEVER), ("0.5", 0.5), ("5", 5), (5, 5)],
    "redis_socket_connect_timeout": [*((raw, None) for raw in NEVER), ("0.5", 0.5)],
    "redis_max_connections": [("10", 10)],
    "redis_retries": [("0", 0), ("3", 3)],
    "redis_encoding": [(None, None), ("None", None), ("utf-8", "utf-8")],
    "redis_encoding_errors": [(None, None), ("", None), ("strict", "strict")],
    "redis_connection_pool": [(None, None), (POOL, POOL)],
    "observe": [
        *((raw, ()) for raw in (None, "", "None", ())),
        ("prometheus", ("prometheus",)),
        ("otel, prometheus", ("otel", "prometheus")),
    ],
    "migrate_from": [
        (None, ()),
        ("", ()),
        ("None", ()),
        ("pyramid_session_redis", ("pyramid_session_redis",)),
        (
            "pyramid_session_redis, pyramid_redis_sessions",
            ("pyramid_session_redis", "pyramid_redis_sessions"),
        ),
        (["pyramid_redis_sessions"], ("pyramid_redis_sessions",)),
    ],
    "migrate_until": [
        (None, None),
        ("", None),
        ("None", None),
        ("1893456000", 1893456000),
        (1893456000.5, 1893456000.5),
        ("2030-01-01", 1893456000 + 86400),  # a date counts to its end
        (datetime.date(2030, 1, 1), 1893456000 + 86400),
        ("2030-01-01T00:00:00", 1893456000),  # UTC
        ("2030-01-01T00:00:00Z", 1893456000),
        ("2030-01-01T02:00:00+02:00", 1893456000),
        (datetime.datetime(2030, 1, 1), 1893456000),
    ],
    "migrate_deserialize": [
        (None, None),
        ("", None),
        ("cPickle.loads", "pickle"),
        ("json", "json"),
        ("json.loads", json.loads),
    ],
    "set_redis_ttl_readheavy": [(None, None), ("", None), ("None", None), ("true", True)],
    "device_binding_lifetime": [("300", 300), (1, 1), (240.0, 240)],
    "device_binding_path": [(path, path) for path in ("/", "/a", "/.well-known/device-session")],
}

BAD: dict[str, list[Any]] = {
    "secret": [5, True, [5], [SECRET, None], object(), " ", [SECRET, " \t"]],
    "cookie_signer": ["no.such.module", f"{HERE}.answer", answer, 5],
    "seal_secret": [5, [None]],
    "encryption_key": [5, [None]],
    "timeout": BAD_SECONDS,
    "timeout_trigger": BAD_SECONDS,
    "absolute_timeout": BAD_SECONDS,
    "first_timeout": BAD_SECONDS,
    "owner_sessions": ["0", 0, -1, "x", "", None, 1.5, True, "1.5", f"{HERE}.SIGNER"],
    "device_page_fresh": BAD_SECONDS,
    "owner_sessions_policy": ["", "Refuse", None, "end_newest", True, []],
    "on_conflict": ["", "Merge", None, "lock", True, []],
    "on_redis_error": ["", "Raise", None, "ignore", True, []],
    "grace": BAD_SECONDS,
    "cookie_name": ["", None, 5, b"session"],
    "cookie_max_age": [*BAD_SECONDS, "0.5", 1.5],
    "cookie_path": [
        *(*EMPTY, 5, b"/"),
        *("a", "a/b", "./", " /", "/ ", "/a b", "/a\tb", "/a;b", "/a,b", "/a?b", "/a#b", "/\xe9"),
        *("/a\r\nX: y", "/a\x7f", '/a"b', "/a\\b", "https://x/y"),
    ],
    "cookie_domain": [
        *(5, b"a", " example.com", "example.com ", " example.com ", "a.com, b.com", "a.com b.com"),
        *("localhost:6543", "http://localhost", "https://x/y", "example.com/", "example.com/y"),
        *("*.example.com", "*", ".", "..a.org", "a..org", "a.org.", "-a.org", "a-.org", "\xe9.org"),
        *("127.0.0.1", ".127.0.0.1", "1.2.3", "0x7f000001", "a.0x7f", "[::1]", "::1", "a.org;x"),
        *("a.org\n", "a.org\r\nX: y", "user@a.org", f"{'a' * 64}.org", "\u017f.org"),
    ],
    "cookie_secure": [*BAD_FLAG, "https"],
    "cookie_samesite": ["x", 5, True, "laxx"],
    "cookie_expires": ["2030-01-01", "", 5, datetime.date(2030, 1, 1)],
    "cookie_comment": [5],
    "profile": ["asvs", "ASVS-L2", 5, True, []],
    "confirm_route": [5, True, b"confirm"],
    "clear_site_data": ["Cookies", "history", "cache history", ["history"], 5, True],
    "func_check_response_allow_cookies": NO_FUNCTION,
    "func_invalid_logger": NO_FUNCTION,
    "id_generator": NO_FUNCTION,
    "redis_client_callable": NO_FUNCTION,
    "serialize": [*NO_FUNCTION, "yaml", "pickl"],
    "deserialize": [*NO_FUNCTION, "yaml"],
    "prefix": [None, 5, b"a"],
    "redis_url": [5],
    "redis_host": ["", None, 5],
    "redis_port": [
        "",
        None,
        "x",
        "-1",
        -1,
        0,
        "65536",
        "6379.5",
        6379.5,
        True,
        "None",
        "inf",
        "nan",
    ],
    "redis_db": ["", None, "x", -1, True],
    "redis_password": [5],
    "redis_unix_socket_path": [5],
    "redis_socket_timeout": BAD_SECONDS,
    "redis_socket_connect_timeout": BAD_SECONDS,
    "redis_max_connections": ["", None, "x", -1, True],
    "redis_retries": ["", None, "x", -1, True],
    "redis_encoding": [5],
    "redis_encoding_errors": [5],
    "redis_connection_pool": ["pool"],
    "observe": ["statsd", "prometheus statsd", 5, True],
    "migrate_from": ["beaker", "pyramid_session_redis beaker", ["beaker"], 5, True],
    "migrate_until": ["soon", "2030-13-01", "2030-02-30", True, "nan", [], object()],
    "migrate_deserialize": [*NO_FUNCTION, "yaml"],
    "set_redis_ttl_readheavy": ["maybe"],
    "device_binding_lifetime": ["0", 0, -1, "x", "", None, 1.5, True, "1.5"],
    "device_binding_path": [
        *(*EMPTY, 5, "a", "/a b", "/a?b", '/a"b', "https://x/y", "/{a}", "/a*", "/a%20b"),
    ],
}

FLAGS = [
    "seal",
    "allow_unsealed_pickle",
    "last_seen",
    "set_redis_ttl",
    "cookie_httponly",
    "cookie_partitioned",
    "device_binding",
    "cookie_on_exception",
    "save_on_exception",
    "detect_changes",
    "invalidate_empty_session",
    "publish_endings",
    "deserialized_fails_new",
    "preload_scripts",
    "python_expires",
]
GOOD.update({name: [(v, True) for v in TRUE] + [(v, False) for v in FALSE] for name in FLAGS})
BAD.update({name: list(BAD_FLAG) for name in FLAGS})


def test_every_row_has_good_and_bad_examples() -> None:
    assert set(ROWS) == set(GOOD) == set(BAD)


@pytest.mark.parametrize("name", ROWS)
def test_parser_accepts(name: str) -> None:
    for raw, value in GOOD[name]:
        found = ROWS[name].parser(raw)
        assert found == value, raw
        assert (found is None) == (value is None), raw
        assert isinstance(found, bool) == isinstance(value, bool), raw


@pytest.mark.parametrize("name", ROWS)
def test_parser_refuses_with_what_is_expected(name: str) -> None:
    for raw in BAD[name]:
        with pytest.raises(ValueError, match=r"^\S.{3,}") as caught:
            ROWS[name].parser(raw)
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", ROWS)
def test_bad_value_is_quoted_with_its_full_key_unless_it_is_secret(name: str) -> None:
    for raw in BAD[name]:
        if raw is None or raw in EMPTY:
            continue
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_ini({f"redis.sessions.{n}": v for n, v in options(**{name: raw}).items()})
        message = str(caught.value)
        assert message.startswith(f"redis.sessions.{name} ")
        assert " should be " in message
        if not ROWS[name].secret and "://" not in repr(raw):
            assert f" = {raw!r}" in message


@pytest.mark.parametrize("raw", EMPTY)
@pytest.mark.parametrize("name", ROWS)
def test_empty_value_is_the_default_where_it_has_no_meaning_of_its_own(name: str, raw: Any) -> None:
    # Templates of ini files, and code that hands over what it was not given, have them.
    if raw in BAD[name]:
        assert getattr(ini(**{name: raw}), name) == ROWS[name].default


def test_flag_is_not_just_any_object() -> None:
    # Pyramid's asbool takes each of them for False.
    for raw in (2, -1, 0.5, [], [True], object()):
        with pytest.raises(ValueError, match="true or false"):
            ROWS["cookie_httponly"].parser(raw)


MISPLACED = "redis://user:hunter2@host/0"


@pytest.mark.parametrize("raw", [MISPLACED, [MISPLACED], MISPLACED.encode()])
@pytest.mark.parametrize("name", ROWS)
def test_url_in_a_wrong_place_is_not_quoted(name: str, raw: Any) -> None:
    # Nor by what led to the error, which a traceback would show.
    try:
        ROWS[name].parser(raw)
    except ValueError:
        with pytest.raises(SettingsError) as caught:
            ini(**{name: raw})
        assert f"redis.sessions.{name} should be " in str(caught.value)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["redis_host", "redis_unix_socket_path"])
def test_url_is_neither_a_host_nor_a_path(name: str) -> None:
    # redis-py would show it whenever it cannot connect.
    with pytest.raises(SettingsError, match=rf"^redis\.sessions\.{name} should be a .* see url"):
        ini(**{name: MISPLACED})


def test_alias_is_quoted_as_it_was_written() -> None:
    with pytest.raises(SettingsError, match=r"^redis\.sessions\.port = 'x' should be a port"):
        ini(port="x")
    with pytest.raises(SettingsError, match=r"^port = 'x' should be a port"):
        parse(port="x")


def test_every_row_is_documented() -> None:
    for row in rows():
        assert len(row.doc) > 10
        assert row.doc.rstrip(")").endswith("."), row.name


# -- unknown settings --------------------------------------------------------------


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("timout", "timeout"),
        ("cookie_htponly", "cookie_httponly"),
        ("cookie-name", "cookie_name"),
        ("sercet", "secret"),
        ("redis_uri", "redis_url"),
        ("timeout_triger", "timeout_trigger"),
        ("on_conflcit", "on_conflict"),
        ("client_calable", "client_callable"),
        ("Timeout", "timeout"),
    ],
)
def test_typo_gets_the_nearest_name(typo: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ini(**{typo: "hunter2"})
    message = str(caught.value)
    assert f"redis.sessions.{typo}" in message
    assert message.endswith(f"did you mean redis.sessions.{nearest}? [docs: settings]")
    # It may be a misspelt secret.
    assert "hunter2" not in message


@pytest.mark.parametrize("name", ["xyzzy", "assume_redis_ttl_of_another_age", "", "x.secret"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"redis.sessions.{name}")):
        ini(**{name: "1"})


def test_other_settings_of_the_application_are_ignored() -> None:
    settings = {
        "redis.sessions.secret": SECRET,
        "redis.session.timeout": "x",
        "redis.sessions": "x",
        "redis.sessionsx": "x",
        "my.redis.sessions.timeout": "x",
        "session.timeout": "x",
        5: "x",
    }
    assert Settings.from_ini(settings) == parse()


def test_settings_error_is_pyramids_and_a_value_error() -> None:
    # ValueError is what pyramid_session_redis raised from its factory.
    assert issubclass(SettingsError, ConfigurationError)
    assert issubclass(SettingsError, ValueError)


# -- combinations ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"secret": None}, "exactly one of", id="neither secret nor signer"),
        pytest.param({"secret": ""}, "exactly one of", id="empty secret"),
        pytest.param({"secret": []}, "exactly one of", id="no secrets"),
        pytest.param({"cookie_signer": SIGNER}, "exactly one of", id="secret and signer"),
        pytest.param({"seal_secret": SECRET}, "seal_secret goes with", id="two seals"),
        pytest.param(
            {"secret": None, "cookie_signer": SIGNER}, "needs redis.sessions.seal_secret", id="no"
        ),
        pytest.param({"seal": False}, "would run code", id="unsealed pickle"),
        pytest.param(
            {"seal": False, "serialize": "json", "encryption_key": SECRET},
            "encryption_key does not go with",
            id="encrypted and not sealed",
        ),
        pytest.param({"seal": False, "serialize": pickle.dumps}, "would run code", id="spelt out"),
        pytest.param({"serialize": json.dumps}, "must undo each other", id="no deserialize"),
        pytest.param({"deserialize": json.loads}, "must undo each other", id="no serialize"),
        pytest.param(
            {"serialize": "json", "deserialize": "msgpack"}, "does not go with", id="two kinds"
        ),
        pytest.param(
            {"serialize": json.dumps, "deserialize": "pickle"},
            "must undo each other",
            id="one callable",
        ),
        pytest.param({"cookie_samesite": "None"}, "needs redis.sessions.cookie_secure", id="auto"),
        pytest.param(
            {"cookie_samesite": "none", "cookie_secure": False}, "cookie_secure", id="insecure"
        ),
        pytest.param({"cookie_name": "__Secure-s"}, "cookie_secure = true", id="__Secure-, auto"),
        pytest.param(
            {"cookie_name": "__Host-s", "cookie_secure": False},
            "cookie_secure = true",
            id="__Host-",
        ),
        pytest.param(
            {"cookie_name": "__host-s", "cookie_secure": False},
            "cookie_secure = true",
            id="__host-",
        ),
        pytest.param(
            {"cookie_name": "__Host-s", "cookie_secure": True, "cookie_path": "/a"},
            "cookie_path = /",
            id="__Host- with a path",
        ),
        pytest.param(
            {"cookie_name": "__Host-s", "cookie_secure": True, "cookie_domain": "a.org"},
            "no redis.sessions.cookie_domain",
            id="__Host- with a domain",
        ),
        pytest.param({"cookie_partitioned": True}, "cookie_secure = true", id="partitioned, auto"),
        *(
            pytest.param(
                {"cookie_name": name, "cookie_secure": True, **given},
                f"{name!r} needs redis.sessions.{words}",
                id=name,
            )
            for name, given, words in [
                ("__Http-s", {"cookie_secure": "auto"}, "cookie_secure = true"),
                ("__Http-s", {"cookie_httponly": False}, "cookie_httponly = true"),
                ("__host-HTTP-s", {"cookie_httponly": False}, "cookie_httponly = true"),
                ("__Host-Http-s", {"cookie_path": "/a"}, "cookie_path = / and no"),
                ("__Host-Http-s", {"cookie_domain": "a.org"}, "cookie_path = / and"),
                (
                    "__Host-Http-s",
                    {"cookie_secure": False, "cookie_httponly": False},
                    "cookie_secure = true, redis.sessions.cookie_httponly = true",
                ),
            ]
        ),
        *(
            pytest.param({"cookie_name": name}, repr(name), id=f"cookie name {number}")
            for number, name in enumerate(
                [
                    *("a b", "a=b", "a;b", "a,b", 'a"b', "a\tb", "é", "a\x00", "$a"),
                    *("Path", "expires", "Partitioned"),
                ]
            )
        ),
        pytest.param({"cookie_comment": "a; b"}, "'a; b' cannot stand", id="attribute"),
        pytest.param({"cookie_comment": "a\r\nX: y"}, "cannot stand", id="header injection"),
        pytest.param({"cookie_comment": "é"}, "cannot stand", id="comment"),
    ],
)
def test_combination_that_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        parse(**given)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"secret": None, "cookie_signer": SIGNER, "seal_secret": SECRET},
        {"secret": None, "cookie_signer": SIGNER, "seal": False, "serialize": "json"},
        {"seal": False, "allow_unsealed_pickle": True},
        {"seal": False, "serialize": json.dumps, "deserialize": json.loads},
        {"serialize": "json", "deserialize": "json"},
        {"serialize": "pickle.dumps", "deserialize": "cPickle.loads"},
        {"cookie_samesite": "None", "cookie_secure": True},
        {"cookie_name": "__Secure-s", "cookie_secure": True, "cookie_domain": "a.org"},
        {"cookie_name": "__Host-s", "cookie_secure": True},
        {"cookie_name": "__Host-s", "cookie_secure": True, "cookie_httponly": False},
        {"cookie_name": "__Host-Http-s", "cookie_secure": True, "cookie_partitioned": True},
        {"cookie_name": "__Http-s", "cookie_secure": True, "cookie_domain": "a.org"},
        {"timeout": 60, "timeout_trigger": 60},
        {"prefix": "app:", "id_generator": answer},
        {"set_redis_ttl": False, "timeout_trigger": 60},
    ],
)
def test_combination_that_works_is_accepted(given: dict[str, Any]) -> None:
    assert parse(**given)


# -- secrets -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.secret])
def test_value_of_a_secret_is_in_no_error_and_no_repr(name: str) -> None:
    class Leak(str):
        def __repr__(self) -> str:
            return "hunter2"

    row = ROWS[name]
    for key in (name, *row.aliases):
        with pytest.raises(SettingsError) as caught:
            ini(**{key: [Leak("hunter2"), 5] if "redis" not in name else [Leak("hunter2")]})
        assert "hunter2" not in f"{caught.value} {caught.value!r}"
    assert "hunter2" not in repr(parse(secret="hunter2" * 10, url="redis://:hunter2@h"))


def test_secret_rows_are_those_that_hold_secrets() -> None:
    assert {name for name, row in ROWS.items() if row.secret} == {
        "secret",
        "seal_secret",
        "encryption_key",
        "redis_url",
        "redis_password",
    }


# -- where a secret stands ---------------------------------------------------------

REFERRING = ["secret", "seal_secret", "encryption_key", "redis_url", "redis_password"]


def read_back(name: str, raw: Any) -> Any:
    """The value of one setting, whatever it takes to have it."""
    given: dict[str, Any] = {name: raw}
    if name == "seal_secret":
        given.update(secret=None, cookie_signer=SIGNER)
    return getattr(ini(**given), name)


@pytest.mark.parametrize("name", REFERRING)
def test_secret_may_stand_in_the_environment_or_in_a_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    value = "100% secret, €: file:none, of thirty-two bytes"
    monkeypatch.setenv("SOME_SECRET", value)
    (tmp_path / "lf").write_text(value + "\n", "utf-8")
    (tmp_path / "crlf").write_bytes(f"{value}\r\n".encode())
    expected = value if name.startswith("redis") else (value.encode(),)
    monkeypatch.chdir(tmp_path)
    for where in ("env:SOME_SECRET", f"file:{tmp_path}/lf", f"file://{tmp_path}/crlf", "file:lf"):
        assert read_back(name, where) == expected
        assert read_back(name, value) == expected


@pytest.mark.parametrize("name", REFERRING)
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("env:NO_SUCH_SECRET", "environment variable NO_SUCH_SECRET, which is not set"),
        ("env:EMPTY_SECRET", "environment variable EMPTY_SECRET, which is not set, or empty"),
        ("env:hunter2 hunter2", '"env:" and the name of an environment variable'),
        ("env:", '"env:" and the name of an environment variable'),
        ("file:{tmp}/missing", "file {tmp}/missing, which cannot be read (FileNotFoundError)"),
        ("file:{tmp}", "file {tmp}, which cannot be read (IsADirectoryError)"),
        ("file:{tmp}/empty", "file {tmp}/empty, which is empty"),
        ("file:{tmp}/binary", "file {tmp}/binary, which is no UTF-8 text"),
    ],
)
def test_secret_that_is_not_where_it_should_be_is_an_error_that_says_so(
    name: str, where: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMPTY_SECRET", "")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigurationError) as caught:
        read_back(name, where.format(tmp=tmp_path))
    message = str(caught.value)
    assert message.startswith(f"redis.sessions.{name} should be ")
    assert words.format(tmp=tmp_path) in message
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_several_secrets_may_stand_in_several_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEW_SECRET", "new" * 12)
    (tmp_path / "old").write_text(f"\n{'older' * 8}\n\n  {'oldest' * 8}\n")
    expected = (b"new" * 12, b"older" * 8, b"oldest" * 8, SECRET.encode())
    places = ["env:NEW_SECRET", f"file:{tmp_path}/old", SECRET]
    assert ini(secret="\n    ".join(["", *places])).secret == expected
    assert parse(secret=places).secret == expected
    # Bytes are no reference.
    assert parse(secret=b"env:NEW_SECRET").secret == (b"env:NEW_SECRET",)


@pytest.mark.parametrize("sample", ["itsaseekreet", "secret", "your-secret"])
def test_sample_secret_is_a_warning_that_does_not_show_it(
    sample: str, caplog: pytest.LogCaptureFixture
) -> None:
    parse(secret=[SECRET, sample])
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    message = caplog.records[0].getMessage()
    for ours in ("redis.sessions.secret", "[docs: secrets]"):
        message = message.replace(ours, "")
    assert "sample" in message
    assert sample not in message


@pytest.mark.parametrize(("secret", "warned"), [("k" * 31, True), ("k" * 32, False)])
def test_short_secret_is_a_warning_that_does_not_show_it(
    secret: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parse(secret=secret)
    assert len(caplog.records) == warned
    assert "kkk" not in caplog.text
    if warned:
        assert "redis.sessions.secret is shorter than 32 bytes" in caplog.text


def test_short_seal_secret_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parse(secret=None, cookie_signer=SIGNER, seal_secret="short")
    assert "redis.sessions.seal_secret is shorter" in caplog.text


# -- settings whose meaning is gone ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("python_expires", "true"), ("set_redis_ttl_readheavy", "false")]
)
def test_setting_without_effect_logs_why(
    name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    ini(**{name: value})
    assert f"redis.sessions.{name} has no effect: " in caplog.text


@pytest.mark.parametrize(
    ("timeout", "why"), [("None", "there is no timeout"), ("60", "it is longer than the timeout")]
)
def test_trigger_that_can_trigger_nothing_is_noted(
    timeout: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    ini(timeout=timeout, timeout_trigger="61")
    told = f"redis.sessions.timeout_trigger has no effect: {why} [docs: lifetimes]"
    assert caplog.messages == [told]


def test_settings_that_the_engine_serves_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    given = {name: raw for name, raw, _, row in SPELLINGS if ROWS[row].gone is None}
    for alias in ("url", "host", "port", "db", "password", "client_callable", "socket_timeout"):
        given.pop(alias)
    for alias in ("encoding", "encoding_errors", "redis_errors", "unix_socket_path"):
        given.pop(alias)
    ini(**given)
    assert caplog.records == []


# -- positional arguments ----------------------------------------------------------


def test_positional_order_is_that_of_pyramid_session_redis() -> None:
    # inspect.signature(pyramid_session_redis.RedisSessionFactory), version 1.8.1.
    assert (
        list(POSITIONAL)
        == """
        secret timeout cookie_name cookie_max_age cookie_path cookie_domain cookie_secure
        cookie_httponly cookie_expires cookie_comment cookie_samesite cookie_on_exception
        redis_url redis_host redis_port redis_db redis_password redis_client_callable serialize
        deserialize id_generator set_redis_ttl set_redis_ttl_readheavy detect_changes
        deserialized_fails_new func_check_response_allow_cookies func_invalid_logger
        timeout_trigger python_expires cookie_signer redis_socket_timeout redis_connection_pool
        redis_encoding redis_encoding_errors redis_unix_socket_path invalidate_empty_session
        """.split()
    )
    assert set(POSITIONAL) <= set(ROWS)


def test_defaults_of_pyramid_session_redis_are_accepted_by_position() -> None:
    # Who passes one late argument by position passes the defaults before it.
    defaults = [
        *(SECRET, 1200, "session", None, "/", None, False, True, None, None, None, True),
        *(None, "localhost", 6379, 0, None, None, pickle.dumps, pickle.loads, answer, True, None),
        *(True, None, None, None, None, True, None, None, None, None, None, None, True),
    ]
    found = Settings.from_options(dict(zip(POSITIONAL, defaults, strict=True)))
    assert found.timeout == 1200
    assert found.serialize == found.deserialize == "pickle"
    assert found.id_generator is answer
    assert found.cookie_samesite is None
    assert found.invalidate_empty_session is True


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse().timeout = 5  # type: ignore[misc]
