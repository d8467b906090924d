"""Values: which come back, when a change is noticed, when they are decoded, and when they fail."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import http
import json
import logging
import math
import os
import pickle
import re
import subprocess
import sys
import traceback
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from markupsafe import Markup
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_redis_lua_sessions import UnserializableValue
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import Browser, Reports, data_fields, make_browser, stored_values

NAMES = {script.sha1: name for name, script in SCRIPTS.items()}


def scripts_called(proxy: CountingProxy) -> list[str]:
    """Return the names of the scripts that were called, in order."""
    return [NAMES[command.sha] for command in proxy.commands if command.sha is not None]


@pytest.fixture
def browser(redis_url: str) -> Browser:
    return make_browser(redis_url)


@pytest.fixture
def counted(proxy: CountingProxy) -> Callable[[Browser, Callable[[Any], Any]], list[str]]:
    """Returns the scripts that one request calls."""

    def count(browser: Browser, function: Callable[[Any], Any]) -> list[str]:
        proxy.reset()
        browser.use(function)
        return scripts_called(proxy)

    return count


# -- values that come back ---------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Named(collections.UserString):
    pass


@dataclasses.dataclass
class Cart:
    items: list[str] = dataclasses.field(default_factory=list)


Point = collections.namedtuple("Point", "x y")

ATOMS: list[Any] = [
    *(None, True, False, 0, 1, -1, 255, -256, 2**63, -(2**64), 10**100, 0.0, -0.0, 0.1, 1e300),
    *(5e-324, -1.5, math.inf, -math.inf, math.nan, "", "a", "é", "\x00", "\ud800", "\U0001f600"),
    *("s", "true", "x" * 10_000, b"", b"\x00\xff", b"p" * 10_000),
]
STRUCTURES: list[Any] = [
    *([], {}, (), set(), frozenset(), [[]], [None, True, 1, 1.5, "x", b"y"], {"a": {"b": ["c"]}}),
    *({1: "int key", None: "none", ("t",): "tuple key"}, ((1, 2), [3, {4}]), {"x", "y", "z"}),
    *({"sets": [{"a", "b"}, frozenset("cd")]}, bytearray(b"abc"), range(5), 1 + 2j, ...),
    *(datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), datetime.timedelta(1)),
    *(decimal.Decimal("0.10"), uuid.UUID(int=5), Markup("<b>"), Colour.RED, Level.LOW),
    *(http.HTTPStatus.OK, Point(1, 2), Cart(["x"]), collections.Counter("aab"), Named("n")),
    *(collections.OrderedDict(b=1, a=2), collections.deque([1], 3), Path("a") / "b"),
]


@pytest.mark.parametrize(
    "value",
    ATOMS + STRUCTURES,
    # Not by what they hold: a set has no order that stays.
    ids=[f"{number} {type(value).__name__}" for number, value in enumerate(ATOMS + STRUCTURES)],
)
def test_value_comes_back_as_it_was(browser: Browser, value: Any) -> None:
    browser.use(lambda session: session.update(value=value))
    back = browser.use(lambda session: session["value"])
    assert type(back) is type(value)
    assert back == value or back != back
    if not isinstance(value, (set, frozenset, dict, tuple)):
        assert repr(back) == repr(value)


def test_values_that_are_only_read_are_not_saved(proxy: CountingProxy, counted: Any) -> None:
    browser = make_browser(proxy.url)
    values = {repr(value)[:40]: value for value in ATOMS + STRUCTURES}
    browser.use(lambda session: session.update(values))
    for read in (
        lambda session: [session[key] for key in values],
        lambda session: list(session.items()),
        lambda session: dict(session.managed_dict),
        lambda session: session.copy(),
        lambda session: session == {},
    ):
        called = counted(browser, read)
        assert called == ["load_and_touch"], proxy.commands[-1].args[13::2]


def test_atoms_are_stored_without_the_serializer(redis_url: str) -> None:
    def refuse(value: Any) -> bytes:
        raise AssertionError("called for an atom")

    browser = make_browser(redis_url, serialize=refuse, deserialize=refuse)
    values = {f"value {number}": value for number, value in enumerate(ATOMS)}
    browser.use(lambda session: session.update(values))
    assert repr(sorted(browser.use(dict).items())) == repr(sorted(values.items()))


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_structures_come_back_from_each_serializer(redis_url: str, serializer: str) -> None:
    browser = make_browser(redis_url, serialize=serializer)
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}
    browser.use(lambda session: session.update(value=value))
    browser.use(lambda session: session["value"]["a"].append("more"))
    assert browser.use(lambda session: session["value"]["a"][-1]) == "more"


# -- changes ---------------------------------------------------------------------------

NESTED_CHANGES: dict[str, Callable[[Any], Any]] = {
    "list append": lambda v: v["list"].append(1),
    "list item": lambda v: v["list"].__setitem__(0, "other"),
    "list sort": lambda v: v["list"].sort(reverse=True),
    "dict key": lambda v: v["dict"].update(new=1),
    "dict key removed": lambda v: v["dict"].pop("k"),
    "deep": lambda v: v["dict"]["k"][0].append({"x"}),
    "set add": lambda v: v["set"].add("new"),
    "set discard": lambda v: v["set"].discard("one"),
    "object attribute": lambda v: setattr(v["cart"], "items", ["other"]),
    "object's list": lambda v: v["cart"].items.append("more"),
    "equal, of another type": lambda v: v["list"].__setitem__(1, True),
    "0 to -0.0": lambda v: v["dict"].__setitem__("zero", -0.0),
    "bytearray": lambda v: v["bytes"].extend(b"x"),
    "order of a dict": lambda v: v["dict"].update(k=v["dict"].pop("k")),
}


def nested() -> dict[str, Any]:
    return {
        "list": ["a", 1],
        "dict": {"k": [[1]], "zero": 0.0},
        "set": {"one", "two"},
        "cart": Cart(["x"]),
        "bytes": bytearray(b"b"),
    }


def described(value: dict[str, Any]) -> str:
    return repr({**value, "set": sorted(value["set"])})


@pytest.mark.parametrize("name", NESTED_CHANGES)
def test_change_in_place_is_saved_when(name: str, browser: Browser) -> None:
    change = NESTED_CHANGES[name]
    expected = nested()
    change(expected) if name != "list sort" else expected["list"].reverse()

    def view(session: Any) -> None:
        if name == "list sort":
            session["v"]["list"].reverse()
        else:
            change(session["v"])

    browser.use(lambda session: session.update(v=nested()))
    browser.use(view)
    assert described(browser.use(lambda session: session["v"])) == described(expected)


def test_change_in_place_of_a_value_just_assigned_is_saved(browser: Browser) -> None:
    def view(session: Any) -> None:
        value: list[int] = []
        session["v"] = value
        value.append(1)

    browser.use(view)
    assert browser.use(dict) == {"v": [1]}


def test_object_assigned_to_two_keys_is_two_values_afterwards(browser: Browser) -> None:
    shared: list[int] = []
    browser.use(lambda session: session.update(a=shared, b=shared))
    browser.use(lambda session: session["a"].append(1))
    assert browser.use(dict) == {"a": [1], "b": []}


def test_change_that_was_taken_back_is_not_saved(proxy: CountingProxy, counted: Any) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(v=[1]))
    change = lambda session: (session["v"].append(2), session["v"].pop())  # noqa: E731
    assert counted(browser, change) == ["load_and_touch"]


def test_only_the_value_that_changed_is_sent(proxy: CountingProxy, counted: Any) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=[1], b=[2], c=[3]))

    def view(session: Any) -> None:
        assert len(list(session.values())) == 3
        session["b"].append(4)

    assert counted(browser, view) == ["load_and_touch", "save_fields"]
    save = proxy.commands[-1].args
    assert [arg for arg in save if re.fullmatch(rb"\.[abc]", arg)] == [b".b"]


def test_assignment_of_an_equal_value_is_a_write(proxy: CountingProxy, counted: Any) -> None:
    """So the last writer wins, whoever wrote in between."""
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.update(a=1))
    window = browser.copy()

    def view(session: Any) -> None:
        window.use(lambda other: other.update(a=2))
        session["a"] = 1

    assert counted(browser, view) == 2 * ["load_and_touch", "save_fields"]
    assert browser.use(dict) == {"a": 1}


# -- sets pickle in another order in another process ----------------------------------------

SET_PROGRAM = """
import os, pickle, sys
from tests.support.browser import make_browser

mode, url, cookie = sys.argv[1:]
values = {
    "set": {f"member {n}" for n in range(50)},
    "nested": {"k": [frozenset(f"m{n}" for n in range(50))]},
}
browser = make_browser(url)
if cookie:
    browser.app.set_cookie("session", cookie)

def write(session):
    session.update(values)

def read(session):
    assert session["set"] == values["set"] and session["nested"] == values["nested"]

def change(session):
    session["set"].add("added in another process")

browser.use({"write": write, "read": read, "change": change}[mode])
print(browser.app.cookies["session"])
print(pickle.dumps(values["set"], 4).hex())
"""


def in_process(seed: int, mode: str, url: str, cookie: str = "") -> tuple[str, str]:
    """Make one request in a process with a hash seed of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SET_PROGRAM, mode, url, cookie],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    value, pickled = done.stdout.split()
    return value.strip('"'), pickled


def test_set_that_pickles_in_another_order_is_not_saved_by_every_read(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    cookie, pickled = in_process(1, "write", proxy.url)
    (key,) = redis_client.keys("session:*")
    before = data_fields(redis_client, key)
    proxy.reset()
    _, pickled_there = in_process(2, "read", proxy.url, cookie)
    # The two processes disagree about the bytes, or this test would show nothing.
    assert pickled != pickled_there
    assert scripts_called(proxy) == ["load_and_touch"]
    assert data_fields(redis_client, key) == before
    # A real change is still found.
    proxy.reset()
    in_process(3, "change", proxy.url, cookie)
    assert scripts_called(proxy) == ["load_and_touch", "save_fields"]
    browser = make_browser(proxy.url)
    browser.app.set_cookie("session", cookie)
    assert "added in another process" in browser.use(lambda session: session["set"])


# -- detect_changes = false -----------------------------------------------------------------


def test_change_in_place_is_not_looked_for_when_detection_is_off(
    proxy: CountingProxy, counted: Any
) -> None:
    browser = make_browser(proxy.url, detect_changes="false")
    browser.use(lambda session: session.update(v=[1], other=[1]))
    assert counted(browser, lambda session: session["v"].append(2)) == ["load_and_touch"]
    assert browser.use(dict) == {"v": [1], "other": [1]}


@pytest.mark.parametrize("call", ["changed", "do_persist"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_changed_has_a_change_in_place_saved_when_detection_is_off(
    redis_url: str, call: str, when: str
) -> None:
    browser = make_browser(redis_url, detect_changes="false")
    browser.use(lambda session: session.update(v=[1]))

    def view(session: Any) -> None:
        if when == "before":
            getattr(session, call)()
        session["v"].append(2)
        if when == "after":
            getattr(session, call)()

    browser.use(view)
    assert browser.use(dict) == {"v": [1, 2]}


def test_assignments_and_deletions_are_saved_when_detection_is_off(redis_url: str) -> None:
    browser = make_browser(redis_url, detect_changes="false")
    browser.use(lambda session: session.update(a=[1], b=[2], c=[3]))

    def view(session: Any) -> None:
        session["a"] = [9]
        del session["b"]
        session.setdefault("d", []).append(1)
        session.flash("m")
        session.managed_dict["e"] = 5

    browser.use(view)
    assert browser.use(dict) == {"a": [9], "c": [3], "d": [1], "e": 5}
    assert browser.use(lambda session: session.pop_flash()) == ["m"]


# -- decoded when accessed ------------------------------------------------------------------


class CountingPickle:
    """A serializer that counts what it decodes."""

    def __init__(self) -> None:
        self.loaded: list[Any] = []

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, 4)

    def loads(self, data: bytes) -> Any:
        value = pickle.loads(data)
        self.loaded.append(value)
        return value


@pytest.mark.parametrize(
    ("look", "decoded"),
    [
        (lambda s: None, 0),
        (lambda s: (s.new, s.session_id, s.created, s.timeout, s.expires), 0),
        (lambda s: s.peek_flash(), 0),
        (lambda s: "missing" in s, 0),
        (lambda s: s.get("missing"), 0),
        (lambda s: s["atom"], 0),
        (lambda s: s.__setitem__("v1", 5), 0),
        (lambda s: s["v1"], 1),
        (lambda s: (s["v1"], s.get("v1"), "v1" in s, s["v1"]), 1),
        (lambda s: (s["v1"], s["v2"]), 2),
        (lambda s: s.pop("v1"), 1),
        (lambda s: dict(s), 3),
        (lambda s: (dict(s), list(s.values()), s["v1"]), 3),
    ],
    ids=lambda value: "",
)
def test_value_is_decoded_only_when_it_is_accessed(
    redis_url: str, look: Callable[[Any], Any], decoded: int
) -> None:
    counter = CountingPickle()
    browser = make_browser(redis_url, serialize=counter.dumps, deserialize=counter.loads)
    browser.use(lambda session: session.update(v1=[1], v2=[2], v3=[3], atom="a"))
    counter.loaded.clear()
    browser.use(look)
    assert len(counter.loaded) == decoded


def test_value_that_did_not_change_is_decoded_once(redis_url: str) -> None:
    counter = CountingPickle()
    browser = make_browser(redis_url, serialize=counter.dumps, deserialize=counter.loads)
    browser.use(lambda session: session.update(v=[1]))
    counter.loaded.clear()
    browser.use(lambda session: session["v"])
    assert counter.loaded == [[1]]


# -- values that do not decode ------------------------------------------------------------


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module of the application, from which a later release removes a class."""
    name = "application_with_a_class"
    made = types.ModuleType(name)
    exec("class Gone:\n    pass\n", made.__dict__)
    sys.modules[name] = made
    yield made
    del sys.modules[name]


def test_value_that_does_not_decode_is_absent_reported_and_left(
    redis_url: str, redis_client: redis.Redis, module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reports = Reports()
    browser = make_browser(redis_url, func_invalid_logger=reports)
    gone = module.Gone
    browser.use(lambda session: session.update(good=[1], bad=gone()))
    before = data_fields(redis_client, browser.key)
    del module.Gone

    def view(session: Any) -> None:
        assert "bad" not in session
        assert session.get("bad", "default") == "default"
        with pytest.raises(KeyError):
            session["bad"]
        assert list(session) == ["good"]
        assert len(session) == 1
        assert session == {"good": [1]}
        assert session.managed_dict == {"good": [1]}
        session["good"].append(2)

    with caplog.at_level(logging.INFO, "pyramid_redis_lua_sessions"):
        browser.use(view)
    assert reports.kinds == ["InvalidSession_DeserializationError"]
    assert "does not decode" in caplog.text
    assert "Gone" not in caplog.text
    after = data_fields(redis_client, browser.key)
    assert after[b".bad"] == before[b".bad"]
    assert after[b".good"] != before[b".good"]
    # The release is rolled back: the value is there again.
    module.Gone = gone
    assert type(browser.use(lambda session: session["bad"])) is gone


def test_value_that_does_not_decode_moves_to_a_new_id(redis_url: str, module: Any) -> None:
    browser = make_browser(redis_url)
    gone = module.Gone
    browser.use(lambda session: session.update(good=1, bad=gone()))
    del module.Gone
    browser.use(lambda session: (session.regenerate_id(), session.get("bad")))
    module.Gone = gone
    assert browser.use(set) == {"good", "bad"}


@pytest.mark.parametrize("value", ["newer", ["newer"]])
def test_value_that_does_not_decode_can_be_replaced_in_managed_dict(
    redis_url: str, module: Any, value: Any
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(bad=module.Gone()))
    del module.Gone
    browser.use(lambda session: session.managed_dict.update(bad=value))
    assert browser.use(dict) == {"bad": value}


def test_value_that_does_not_decode_can_be_replaced(redis_url: str, module: Any) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(bad=module.Gone(), worse=module.Gone()))
    del module.Gone
    browser.use(lambda session: session.setdefault("bad", "new"))
    browser.use(lambda session: session.managed_dict.update(worse="newer"))
    assert browser.use(dict) == {"bad": "new", "worse": "newer"}


REMOVALS: dict[str, Callable[[Any], Any]] = {
    "del": lambda session: session.__delitem__("bad"),
    "pop": lambda session: session.pop("bad", None),
    "clear": lambda session: session.clear(),
    "managed_dict: del": lambda session: session.managed_dict.__delitem__("bad"),
    "managed_dict: pop": lambda session: session.managed_dict.pop("bad", None),
    "managed_dict: clear": lambda session: session.managed_dict.clear(),
    "clear after managed_dict": lambda session: (session.managed_dict, session.clear()),
    "replaced, then removed": lambda session: (session.update(bad=1), session.pop("bad")),
    "replaced, then removed in managed_dict": lambda session: (
        session.managed_dict.update(bad=1),
        session.managed_dict.pop("bad"),
    ),
}


@pytest.mark.parametrize("conflict", ["merge", "retry"])
@pytest.mark.parametrize("others", [{}, {"good": [1]}], ids=["alone", "with another"])
@pytest.mark.parametrize("name", REMOVALS)
def test_value_that_does_not_decode_can_be_removed(
    redis_url: str,
    redis_client: redis.Redis,
    module: Any,
    name: str,
    others: dict[str, Any],
    conflict: str,
) -> None:
    browser = make_browser(redis_url, on_conflict=conflict)
    browser.use(lambda session: session.update(bad=module.Gone(), **others))
    gone = module.__dict__.pop("Gone")

    def view(session: Any) -> dict[Any, Any]:
        REMOVALS[name](session)
        assert "bad" not in session
        with pytest.raises(KeyError):
            session.pop("bad")
        with pytest.raises(KeyError):
            del session.managed_dict["bad"]
        return dict(session)

    left = browser.use(view)
    assert left == ({} if "clear" in name else others)
    module.Gone = gone
    assert browser.use(dict) == left
    assert b".bad" not in data_fields(redis_client, browser.key)


def test_pop_without_a_default_removes_what_it_cannot_return(redis_url: str, module: Any) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(bad=module.Gone(), good=1))
    gone = module.__dict__.pop("Gone")

    def view(session: Any) -> None:
        with pytest.raises(KeyError):
            session.pop("bad")

    browser.use(view)
    module.Gone = gone
    assert browser.use(set) == {"good"}


def test_copy_of_managed_dict_is_a_dict(redis_url: str) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=[1]))

    def view(session: Any) -> None:
        found = session.managed_dict
        for copied in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert (type(copied), copied) == (dict, {"a": [1]})
        session["copy"] = found.copy()

    browser.use(view)
    assert browser.use(dict) == {"a": [1], "copy": {"a": [1]}}


def test_value_that_does_not_decode_is_no_reason_to_end_an_emptied_session(
    redis_url: str, redis_client: redis.Redis, module: Any
) -> None:
    browser = make_browser(redis_url, invalidate_empty_session="true")
    browser.use(lambda session: session.update(good=1, bad=module.Gone()))
    gone = module.__dict__.pop("Gone")
    browser.use(lambda session: session.__delitem__("good"))
    assert set(data_fields(redis_client, browser.key)) == {b".bad"}
    module.Gone = gone
    assert browser.use(set) == {"bad"}


def test_value_that_does_not_decode_is_not_reported_when_nobody_looks(
    redis_url: str, module: Any
) -> None:
    reports = Reports()
    browser = make_browser(redis_url, func_invalid_logger=reports)
    browser.use(lambda session: session.update(good=1, bad=module.Gone()))
    del module.Gone
    assert browser.use(lambda session: session["good"]) == 1
    assert reports.problems == []


# -- values that cannot be serialized ---------------------------------------------------------


class Unpicklable:
    """Its text is what an error must not repeat."""

    def __repr__(self) -> str:
        return "the-private-value"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise ValueError("the-private-value")


BAD_VALUES: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: "the-private-value",
    "object": Unpicklable,
    "nested": lambda: {"the-private-value": [Unpicklable()]},
    "generator": lambda: (n for n in ["the-private-value"]),
    "recursion": lambda: _deep(),
}


def _deep() -> Any:
    value: Any = "the-private-value"
    for _ in range(100_000):
        value = [value]
    return value


def with_error_view(redis_url: str, **options: Any) -> tuple[Browser, list[Exception]]:
    """Make an application with an exception view, which keeps what it was given."""
    errors: list[Exception] = []

    def configure(config: Configurator) -> None:
        def view(exc: Exception, request: Any) -> Response:
            errors.append(exc)
            return Response("sorry", status=500)

        config.add_exception_view(view, context=UnserializableValue)

    return make_browser(redis_url, configure=configure, **options), errors


@pytest.mark.parametrize("name", BAD_VALUES)
def test_value_that_cannot_be_serialized_fails_at_the_save_point_when_it_is_a(
    name: str, redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.update(good=1))
    before = redis_client.hgetall(browser.key)
    reached_end = []

    def view(session: Any) -> None:
        session["good"] = 2
        session["the culprit"] = BAD_VALUES[name]()
        reached_end.append(True)  # an assignment does not fail

    with caplog.at_level(logging.DEBUG):
        browser.use(view, status=500)
    assert browser.response.text == "sorry"
    assert reached_end == [True]
    (error,) = errors
    assert isinstance(error, UnserializableValue)
    assert error.key == "the culprit"
    assert "'the culprit'" in str(error)
    shown = "".join(traceback.format_exception(error))  # as a logger writes it
    for text in (str(error), repr(error), repr(error.args), shown, caplog.text):
        assert "the-private-value" not in text
    assert redis_client.hgetall(browser.key) == before
    assert browser.use(dict) == {"good": 1}


def test_value_that_cannot_be_serialized_stores_no_new_session(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.update(bad=Unpicklable()), status=500)
    assert len(errors) == 1
    assert redis_client.dbsize() == 0
    assert browser.session_id is None


def test_value_that_became_unserializable_in_place_is_named(redis_url: str) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.update(list=[1], number=2))
    browser.use(lambda session: session["list"].append(Unpicklable()), status=500)
    assert [getattr(error, "key", None) for error in errors] == ["list"]
    assert browser.use(dict) == {"list": [1], "number": 2}


def test_value_that_was_replaced_before_the_save_does_not_fail(redis_url: str) -> None:
    browser, errors = with_error_view(redis_url)

    def view(session: Any) -> None:
        session["v"] = session["w"] = Unpicklable()
        session["v"] = 1
        del session["w"]

    browser.use(view)
    assert errors == []
    assert browser.use(dict) == {"v": 1}


def test_flash_message_that_cannot_be_serialized_is_named_as_one(redis_url: str) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.flash(Unpicklable()), status=500)
    assert [getattr(error, "key", None) for error in errors] == ["flash message"]


def test_int_key_of_a_value_that_cannot_be_serialized_is_named(redis_url: str) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.update({5: Unpicklable()}), status=500)
    assert [getattr(error, "key", None) for error in errors] == [5]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_value_that_only_pickle_knows_is_refused_by_other_serializers(
    redis_url: str, serializer: str
) -> None:
    browser, errors = with_error_view(redis_url, serialize=serializer)
    browser.use(lambda session: session.update(v=[1 + 2j]), status=500)
    assert [getattr(error, "key", None) for error in errors] == ["v"]


def test_login_with_a_value_that_cannot_be_serialized_keeps_the_old_id(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser, errors = with_error_view(redis_url)
    browser.use(lambda session: session.update(good=1))
    session_id = browser.session_id
    view = lambda session: (session.regenerate_id(), session.update(bad=Unpicklable()))  # noqa: E731
    browser.use(view, status=500)
    assert len(errors) == 1
    assert browser.session_id == session_id
    assert browser.use(dict) == {"good": 1}
    assert redis_client.dbsize() == 1


def test_serializer_may_return_text(redis_url: str, redis_client: redis.Redis) -> None:
    browser = make_browser(redis_url, serialize=json.dumps, deserialize=json.loads)
    browser.use(lambda session: session.update(v={"a": [1, "é"]}))
    assert stored_values(redis_client, browser.factory, browser.session_id or "") == {
        "v": {"a": [1, "é"]}
    }
    assert browser.use(dict) == {"v": {"a": [1, "é"]}}
