"""Serializers, built in and of the application, get and give plain bytes."""

from __future__ import annotations

import base64
import datetime
import decimal
import importlib
import json
import pickle
from typing import Any

import pytest
import redis
from markupsafe import Markup, escape
from pyramid.i18n import TranslationStringFactory

from pyramid_redis_lua_sessions import UnserializableValue
from tests.support.browser import make_browser, take_along

PLAIN = {"text": "ä\udc80", "int": -(2**70), "float": 0.1, "true": True, "none": None}
JSON = {"list": [1, "a", None], "dict": {"a": {"b": [1.5]}}, "empty": []}
PICKLE = {
    "set": {1, 2},
    "tuple": (1, [2]),
    "decimal": decimal.Decimal("1.10"),
    "date": datetime.date(2030, 1, 1),
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pickle", PLAIN | JSON | PICKLE),
        ("json", PLAIN | JSON),
        ("msgpack", PLAIN | JSON),
    ],
)
def test_values_come_back_as_they_were(redis_url: str, name: str, values: dict[str, Any]) -> None:
    browser = make_browser(redis_url, serialize=name)
    browser.use(lambda session: session.update(values))
    found = browser.use(dict)
    assert found == values
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in values.items()
    }


@pytest.mark.parametrize("value", PICKLE.values(), ids=PICKLE.keys())
@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_value_that_would_change_its_type_is_refused_with_its_key(
    redis_url: str, name: str, value: Any
) -> None:
    browser = make_browser(redis_url, serialize=name)
    browser.use(lambda session: session.update(a=1, basket={"things": []}))
    for key, view in (
        ("'mine'", lambda session: session.update(a=2, mine=value)),
        ("'mine'", lambda session: session.update(a=2, mine=[{"in": value}])),
        ("'basket'", lambda session: session["basket"]["things"].append(value)),
        ("5", lambda session: session.managed_dict.update({5: value})),
        ("'flash message'", lambda session: session.flash(value)),
    ):
        with pytest.raises(UnserializableValue, match=f"session key {key}, ") as caught:
            browser.use(view)
        assert "1.10" not in str(caught.value)
    found = browser.use(lambda session: (dict(session), session.pop_flash()))
    assert found == ({"a": 1, "basket": {"things": []}}, [])


@pytest.mark.parametrize("name", ["pickle", "json", "msgpack"])
def test_what_pyramid_applications_flash_comes_back(redis_url: str, name: str) -> None:
    _ = TranslationStringFactory("shop")
    greeting = _("hello ${name}", default="Hello ${name}", mapping={"name": "Ann"})
    browser = make_browser(redis_url, serialize=name)
    browser.use(lambda session: session.flash(Markup("<b>saved</b>")))
    browser.use(lambda session: session.flash(greeting))
    browser.use(lambda session: session.flash({"html": Markup("<i>"), "kind": "info"}))
    browser.use(lambda session: session.flash(Markup("<b>saved</b>"), allow_duplicate=False))
    saved, hello, last = browser.use(lambda session: session.pop_flash())
    assert escape(saved) == saved == "<b>saved</b>"  # it is not escaped once more
    assert (hello.interpolate(), hello.domain) == ("Hello Ann", "shop")
    assert escape(last["html"]) == "<i>"


@pytest.mark.parametrize("name", ["pickle", "json", "msgpack"])
def test_marked_string_that_is_only_read_is_not_saved(
    redis_url: str, redis_client: redis.Redis, name: str
) -> None:
    browser = make_browser(redis_url, serialize=name)
    browser.use(lambda session: session.update(page={"title": Markup("<b>")}))
    before = redis_client.hgetall(browser.key)
    assert browser.use(lambda session: escape(session["page"]["title"])) == "<b>"
    assert redis_client.hgetall(browser.key) == before
    browser.use(lambda session: session["page"].update(title="<b>"))
    assert browser.use(lambda session: escape(session["page"]["title"])) == "&lt;b&gt;"


@pytest.mark.parametrize("name", ["pickle", "json", "msgpack"])
def test_bytes_are_kept_without_the_serializer(redis_url: str, name: str) -> None:
    browser = make_browser(redis_url, serialize=name)
    browser.use(lambda session: session.update(a=bytes(range(256))))
    assert browser.use(dict) == {"a": bytes(range(256))}


def test_value_that_the_serializer_cannot_take_names_its_key(redis_url: str) -> None:
    browser = make_browser(redis_url, serialize="json")
    browser.use(lambda session: session.update(a=1))
    with pytest.raises(UnserializableValue, match="'moment'"):
        browser.use(lambda session: session.update(a=2, moment=datetime.date(2030, 1, 1)))
    assert browser.use(dict) == {"a": 1}


# -- spellings of pickle -----------------------------------------------------------

SPELLINGS = [
    f"{module}{separator}{function}"
    for module in ("pickle", "cPickle", "_pickle")
    for separator in ".:"
    for function in ("dumps", "loads")
]


def mate(spelling: str) -> str:
    if spelling.endswith("dumps"):
        return spelling.removesuffix("dumps") + "loads"
    return spelling.removesuffix("loads") + "dumps"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pickle_functions_by_name_mean_the_built_in_sealed_serializer(
    redis_url: str, redis_client: redis.Redis, spelling: str
) -> None:
    # As the documentation of the predecessors, and their users from Python 2, write it.
    serialize, deserialize = sorted((spelling, mate(spelling)), key=lambda name: name[-5:])
    browser = make_browser(redis_url, serialize=serialize, deserialize=deserialize)
    browser.use(lambda session: session.update(PICKLE))
    assert take_along(browser, redis_url).use(dict) == PICKLE
    stored: Any = redis_client.hget(browser.key, ".set")
    bound = browser.bound
    assert len(stored) > 16
    assert bound.open(b".set", stored) == b"p" + pickle.dumps({1, 2}, protocol=4)
    assert bound.open(b".set", stored[16:]) is None


@pytest.mark.parametrize("module", ["pickle", "_pickle"])
def test_pickle_functions_themselves_mean_it_too(redis_url: str, module: str) -> None:
    found = importlib.import_module(module)
    browser = make_browser(redis_url, serialize=found.dumps, deserialize=found.loads)
    browser.use(lambda session: session.update(PICKLE))
    assert take_along(browser, redis_url).use(dict) == PICKLE


@pytest.mark.parametrize("module", ["json"])
def test_json_functions_by_name_work(redis_url: str, module: str) -> None:
    browser = make_browser(redis_url, serialize=f"{module}.dumps", deserialize=f"{module}.loads")
    browser.use(lambda session: session.update(JSON))
    assert browser.use(dict) == JSON


# -- functions of the application --------------------------------------------------


class Functions:
    """A serializer that notes what passes through it."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.got: list[Any] = []

    def dumps(self, value: Any) -> bytes:
        self.given.append(value)
        return b"<" + json.dumps(value).encode() + b">"

    def loads(self, data: Any) -> Any:
        self.got.append(data)
        assert type(data) is bytes
        assert (data[:1], data[-1:]) == (b"<", b">")
        return json.loads(data[1:-1])


PROTECTIONS: list[dict[str, Any]] = [
    {},
    {"encryption_key": "an encryption key of these tests, over 32 bytes"},
    {"seal": False},
]


@pytest.mark.parametrize("options", PROTECTIONS, ids=["sealed", "encrypted", "bare"])
def test_functions_get_and_give_plain_bytes(redis_url: str, options: dict[str, Any]) -> None:
    functions = Functions()
    browser = make_browser(
        redis_url, serialize=functions.dumps, deserialize=functions.loads, **options
    )
    browser.use(lambda session: session.update(JSON))
    assert browser.use(dict) == JSON
    assert set(functions.got) == {b"<" + json.dumps(v).encode() + b">" for v in JSON.values()}


def test_function_may_return_text(redis_url: str) -> None:
    browser = make_browser(redis_url, serialize=json.dumps, deserialize=json.loads)
    browser.use(lambda session: session.update(a=["ä"]))
    assert browser.use(dict) == {"a": ["ä"]}


def test_what_the_functions_gave_is_sealed(redis_url: str, redis_client: redis.Redis) -> None:
    functions = Functions()
    browser = make_browser(redis_url, serialize=functions.dumps, deserialize=functions.loads)
    browser.use(lambda session: session.update(a=[1]))
    stored: Any = redis_client.hget(browser.key, ".a")
    assert stored.endswith(b"<[1]>")
    for forged in (b"<[2]>", stored[:-3] + b"2]>", b"x<[1]>"):
        redis_client.hset(browser.key, ".a", forged)
        functions.got.clear()
        assert browser.copy().use(dict) == {}
        assert functions.got == [], "it was decoded before its seal was verified"


def test_serializer_that_was_changed_leaves_old_values_absent_and_stored(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(text="t", items={1}))
    changed = take_along(browser, redis_url, serialize="json")
    assert changed.use(dict) == {"text": "t"}
    assert take_along(browser, redis_url).use(dict) == {"text": "t", "items": {1}}


def test_base64_serializer_of_a_predecessors_user_works(redis_url: str) -> None:
    browser = make_browser(
        redis_url,
        serialize=lambda value: base64.b64encode(pickle.dumps(value)),
        deserialize=lambda data: pickle.loads(base64.b64decode(data)),
    )
    browser.use(lambda session: session.update(PICKLE))
    assert browser.use(dict) == PICKLE
