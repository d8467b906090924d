"""The session as a mapping: every method of ``dict``, tried on a ``dict`` and on a session."""

from __future__ import annotations

import copy
import json
from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyramid.interfaces import ISession
from zope.interface.verify import verifyObject

from tests.support.browser import Browser, Reports, data_fields, make_browser, stored_values


class Text(str):
    """A ``str`` that is not exactly one."""


class Number(int):
    """An ``int`` that is not exactly one."""


CONTENT = {
    "a": 1,
    "list": [1, 2],
    "nested": {"k": ("x", {"y"})},
    "none": None,
    "": "empty key",
    "1": "text one",
    1: "number one",
    0: "zero",
    -7: "minus seven",
    "ключ": "кириллица",
    ". #~": "kinds of fields",
}
UNHASHABLE: Any = []


def seen(result: Any) -> Any:
    """Put what an operation returned into a form in which order does not count."""
    if isinstance(result, MutableMapping):
        return {"mapping": {(type(k), k): seen(v) for k, v in result.items()}}
    if isinstance(result, (set, frozenset)):
        return sorted(map(repr, result))
    if isinstance(result, (str, bytes, int, float, tuple, list, type(None))):
        return type(result), repr(result)
    return sorted(map(repr, result))  # views and iterators


def attempt(operation: Callable[[Any], Any], mapping: Any) -> Any:
    """Return what came of an operation: its result, or the exception."""
    try:
        return "returned", seen(operation(mapping))
    except KeyError as exc:
        return "raised", KeyError, [type(arg) for arg in exc.args]
    except Exception as exc:
        return "raised", type(exc)


def put(mapping: Any, key: Any, value: Any) -> None:
    mapping[key] = value


def remove(mapping: Any, key: Any) -> None:
    del mapping[key]


def ior(mapping: Any, other: Any) -> Any:
    before = mapping
    mapping |= other
    assert mapping is before
    return mapping


def pairs_that_end_early() -> Any:
    yield "before", 1
    raise RuntimeError


def change_while_iterating(m: Any) -> None:
    for key in m:
        m[f"{key} again"] = 1


def matched(m: Any) -> Any:
    match m:
        case {"a": 1, "list": [1, *rest], **others}:
            return rest, len(others)
    return None


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    # reading
    "len": len,
    "bool": bool,
    "get item": lambda m: m["a"],
    "get item that is missing": lambda m: m["missing"],
    "get item, unhashable": lambda m: m[UNHASHABLE],
    "get item, text one": lambda m: m["1"],
    "get item, number one": lambda m: m[1],
    "get item, True": lambda m: m[True],
    "get item, 1.0": lambda m: m[1.0],
    "get item, 1.5": lambda m: m[1.5],
    "get item, False": lambda m: m[False],
    "get item, -0.0": lambda m: m[-0.0],
    "get item, nan": lambda m: m[float("nan")],
    "get item, inf": lambda m: m[float("inf")],
    "get item, Fraction(1)": lambda m: m[Fraction(1)],
    "get item, str subclass": lambda m: m[Text("a")],
    "get item, int subclass": lambda m: m[Number(-7)],
    "get item, bytes": lambda m: m[b"a"],
    "get item, None": lambda m: m[None],
    "get item, tuple": lambda m: m[("a",)],
    "get item, unhashable in a tuple": lambda m: m[(UNHASHABLE,)],
    "get": lambda m: m.get("a"),
    "get that is missing": lambda m: m.get("missing"),
    "get that is missing, with default": lambda m: m.get("missing", 5),
    "get None that is there": lambda m: m.get("none", 5),
    "get, unhashable": lambda m: m.get(UNHASHABLE),
    "get, two defaults": lambda m: m.get("a", 1, 2),
    "in": lambda m: ("a" in m, "missing" in m, 1 in m, "1" in m, 1.0 in m, True in m, 2 in m),
    "in, odd keys": lambda m: (None in m, b"a" in m, 1.5 in m, ("a",) in m, Text("a") in m),
    "in, unhashable": lambda m: UNHASHABLE in m,
    "not in": lambda m: ("a" not in m, "missing" not in m),
    "iter": lambda m: iter(m),
    "reversed is the reverse": lambda m: list(reversed(m)) == list(m)[::-1],
    "reversed keys view": lambda m: list(reversed(m.keys())) == list(m.keys())[::-1],
    "keys": lambda m: m.keys(),
    "values": lambda m: m.values(),
    "items": lambda m: m.items(),
    "sorted keys": lambda m: sorted(m.keys(), key=repr),
    "dict()": dict,
    "unpacking": lambda m: {**m},
    "dict(**m) needs str keys": lambda m: dict(**m),
    "pattern matching": matched,
    "copy": lambda m: (type(m.copy()).__name__, m.copy() == dict(m), m.copy() is m),
    "copy.copy of the values": lambda m: copy.copy(dict(m)),
    "copy is shallow": lambda m: m.copy()["list"] is m["list"],
    "change of a copy": lambda m: m.copy().clear(),
    "json of the copy": lambda m: len(json.dumps({k: v for k, v in m.items() if k == "a"})),
    "fromkeys": lambda m: m.fromkeys(["x", "y"], 0),
    # comparing
    "== the same": lambda m: m == CONTENT,
    "== a reversed dict": lambda m: m == dict(reversed(CONTENT.items())),
    "== reflected": lambda m: m == CONTENT,
    "== less": lambda m: m == {"a": 1},
    "== another value": lambda m: m == {**CONTENT, "a": 2},
    "== a list": lambda m: m == [1],
    "== None": lambda m: m == None,  # noqa: E711
    "!=": lambda m: (m != CONTENT, m != {"a": 1}, m != 5),
    "== itself": lambda m: m == m,
    "<": lambda m: m < {},
    "hash": hash,
    # merging
    "|": lambda m: m | {"a": 2, "new": 3},
    "| reflected": lambda m: {"a": 2, "new": 3} | m,
    "| wins on the right": lambda m: (({"a": 2} | dict(m))["a"], (m | {"a": 2})["a"]),
    "| itself": lambda m: m | m,
    "| a list": lambda m: m | [("a", 2)],
    "| leaves it": lambda m: len(m | {"new": 1}) - len(m),
    "|=": lambda m: ior(m, {"a": 2, "new": 3}),
    "|= pairs": lambda m: ior(m, [("a", 2), ("new", 3)]),
    "|= None": lambda m: ior(m, None),
    "update, mapping": lambda m: m.update({"a": 2, "new": 3}),
    "update, keywords": lambda m: m.update(a=2, new=3),
    "update, both": lambda m: m.update({"a": 2, "x": 0}, a=3),
    "update, pairs": lambda m: m.update([("a", 2), ["new", 3]]),
    "update, generator": lambda m: m.update((k, 0) for k in ("a", "new")),
    "update, nothing": lambda m: m.update(),
    "update, empty": lambda m: m.update({}),
    "update, UserDict": lambda m: m.update(UserDict(a=2)),
    "update, itself": lambda m: m.update(m),
    "update, keywords named self and other": lambda m: m.update(self=1, other=2),
    "update, a number": lambda m: m.update(5),
    "update, triples": lambda m: m.update([("a", 2, 3)]),
    "update, two mappings": lambda m: m.update({}, {}),
    "update that fails half way": lambda m: m.update(pairs_that_end_early()),
    # changing
    "set item": lambda m: put(m, "a", [5]),
    "set item, new": lambda m: put(m, "new", {"k": {1, 2}}),
    "set item, number": lambda m: put(m, 1, "other"),
    "set item, text": lambda m: put(m, "1", "other"),
    "set item, unhashable": lambda m: put(m, UNHASHABLE, 1),
    "set item, and get": lambda m: (put(m, "a", 9), m["a"], m.get("a"), len(m)),
    "del": lambda m: remove(m, "a"),
    "del that is missing": lambda m: remove(m, "missing"),
    "del twice": lambda m: (remove(m, "a"), remove(m, "a")),
    "del, 1.0": lambda m: (remove(m, 1.0), "1" in m, 1 in m),
    "del, unhashable": lambda m: remove(m, UNHASHABLE),
    "del and set": lambda m: (remove(m, "a"), put(m, "a", 3), m["a"]),
    "set and del": lambda m: (put(m, "new", 3), remove(m, "new"), "new" in m, len(m)),
    "pop": lambda m: m.pop("a"),
    "pop that is missing": lambda m: m.pop("missing"),
    "pop with default": lambda m: (m.pop("a", 5), m.pop("missing", 5), m.pop("missing", None)),
    "pop, True": lambda m: m.pop(True),
    "pop, unhashable": lambda m: m.pop(UNHASHABLE),
    "pop, no argument": lambda m: m.pop(),
    "pop, two defaults": lambda m: m.pop("a", 1, 2),
    "setdefault": lambda m: (m.setdefault("a", 5), m.setdefault("new", [1]), m.setdefault("n2")),
    "setdefault, then change": lambda m: m.setdefault("new", []).append(1),
    "setdefault, is the stored": lambda m: m.setdefault("list", None) is m["list"],
    "setdefault on None": lambda m: m.setdefault("none", 5),
    "setdefault, unhashable": lambda m: m.setdefault(UNHASHABLE, 5),
    "setdefault, True": lambda m: m.setdefault(True, 5),
    "clear": lambda m: m.clear(),
    "clear, then bool and len": lambda m: (m.clear(), bool(m), len(m), list(m)),
    "clear, then set": lambda m: (m.clear(), put(m, "a", 7), put(m, "new", 8)),
    "popitem until empty": lambda m: sorted(repr(m.popitem()) for _ in range(len(m))),
    "popitem when empty": lambda m: (m.clear(), m.popitem()),
    "popitem, an item that was there": lambda m: m.popitem() in CONTENT.items() and len(m),
    "popitem after set": lambda m: (put(m, "new", 1), m.popitem()),
    "nested list": lambda m: m["list"].append(3),
    "nested dict": lambda m: m["nested"].update(more=[1]),
    "nested through values": lambda m: [v.append(3) for v in m.values() if isinstance(v, list)],
    "nested through items": lambda m: [v.append(3) for k, v in m.items() if k == "list"],
    "nested through copy": lambda m: m.copy()["list"].append(3),
    "nested through |": lambda m: (m | {})["list"].append(3),
    "nested through ==": lambda m: m == {} or m["list"].append(3),
    "nested through pop": lambda m: m.pop("list").append(3),
    "change while iterating": change_while_iterating,
    "delete while iterating": lambda m: [remove(m, key) for key in m],
    "delete while iterating over a list": lambda m: [remove(m, key) for key in list(m)],
    # views
    "views have a length": lambda m: (len(m.keys()), len(m.values()), len(m.items())),
    "views are live": lambda m: [
        (put(m, "new", "live"), len(view), view_has in view)
        for view, view_has in (
            (m.keys(), "new"),
            (m.values(), "live"),
            (m.items(), ("new", "live")),
        )
    ],
    "views after del": lambda m: (
        lambda keys, items: (remove(m, "a"), "a" in keys, ("a", 1) in items, len(keys))
    )(m.keys(), m.items()),
    "views after clear": lambda m: (lambda keys: (m.clear(), len(keys), list(keys)))(m.keys()),
    "in views": lambda m: ("a" in m.keys(), ("a", 1) in m.items(), 1 in m.values()),  # noqa: SIM118
    "keys & ": lambda m: m.keys() & {"a", "missing"},
    "keys | ": lambda m: m.keys() | {"a", "missing"},
    "keys - ": lambda m: m.keys() - {"a", "missing"},
    "keys ^ ": lambda m: m.keys() ^ {"a", "missing"},
    "set - keys": lambda m: {"a", "missing"} - m.keys(),
    "keys isdisjoint": lambda m: (m.keys().isdisjoint({"a"}), m.keys().isdisjoint({"q"})),
    "keys ==": lambda m: (m.keys() == set(CONTENT), m.keys() == CONTENT.keys()),
    "keys <=": lambda m: (m.keys() <= set(CONTENT), m.keys() < set(CONTENT)),
    "items & ": lambda m: (
        {k: v for k, v in m.items() if not isinstance(v, (list, dict))}.items() & {("a", 1)}
    ),
    "items ==": lambda m: m.items() == CONTENT.items(),
    "mapping of a view": lambda m: dict(m.keys().mapping) == CONTENT,
    "a view cannot be assigned to": lambda m: put(m.keys(), "a", 1),
    "mapping of a view cannot be assigned to": lambda m: put(m.keys().mapping, "a", 1),
}


#: Which item these meet first is not specified: only what came of them is compared.
ORDER_DEPENDENT = {
    "popitem until empty",
    "popitem, an item that was there",
    "popitem after set",
    "change while iterating",
    "delete while iterating",
}


@pytest.fixture
def browser(redis_url: str) -> Browser:
    return make_browser(redis_url)


@pytest.mark.parametrize("name", OPERATIONS)
def test_session_does_as_dict_when(name: str, browser: Browser) -> None:
    operation = OPERATIONS[name]
    expected = copy.deepcopy(CONTENT)
    expected_outcome = attempt(operation, expected)
    browser.use(lambda session: session.update(copy.deepcopy(CONTENT)))

    # Nothing else looks at the session in this request: it must notice by itself what changed.
    outcome = browser.use(lambda session: attempt(operation, session))
    content = browser.use(dict)
    if name in ORDER_DEPENDENT:
        assert outcome[0] == expected_outcome[0]
        assert len(content) == len(expected)
    else:
        assert outcome == expected_outcome
        # Keys with their types, values with theirs.
        assert repr(sorted(content.items(), key=repr)) == repr(sorted(expected.items(), key=repr))


@pytest.mark.parametrize("name", OPERATIONS)
def test_session_that_is_new_does_as_dict_when(name: str, browser: Browser) -> None:
    operation = OPERATIONS[name]
    expected = copy.deepcopy(CONTENT)
    expected_outcome = attempt(operation, expected)

    def fresh(session: Any) -> tuple[Any, Any]:
        session.update(copy.deepcopy(CONTENT))
        return attempt(operation, session), dict(session)

    outcome, content = browser.use(fresh)
    if name in ORDER_DEPENDENT:
        assert outcome[0] == expected_outcome[0]
        assert len(content) == len(expected)
    else:
        assert outcome == expected_outcome
        assert content == expected
    assert browser.use(dict) == content


def test_every_public_method_of_dict_is_there(browser: Browser) -> None:
    there = browser.use(lambda session: {name for name in dir(dict) if hasattr(session, name)})
    own_to_dict = {"__class_getitem__", "__init__"}  # of the class, not of an instance
    assert set(dir(dict)) - there <= own_to_dict


def test_session_is_a_mapping_and_an_isession(browser: Browser) -> None:
    def view(session: Any) -> None:
        assert isinstance(session, MutableMapping)
        assert isinstance(session, Mapping)
        assert verifyObject(ISession, session)

    browser.use(view)  # not looked at yet
    browser.use(lambda session: (session.update(a=1), view(session)))
    browser.use(lambda session: (session["a"], view(session)))


@pytest.mark.parametrize(
    "key",
    [None, True, False, 1.0, 1.5, b"a", ("a",), frozenset(), object()],
    ids=lambda key: type(key).__name__ + (f" {key}" if isinstance(key, (bool, float)) else ""),
)
@pytest.mark.parametrize("method", ["set item", "setdefault", "update", "update pairs", "|="])
def test_key_of_another_type_is_refused_when_it_is_assigned(
    browser: Browser, key: Any, method: str
) -> None:
    def assign(session: Any) -> None:
        if method == "set item":
            session[key] = 1
        elif method == "setdefault":
            session.setdefault(key, 1)
        elif method == "update":
            session.update({key: 1})
        elif method == "update pairs":
            session.update([(key, 1)])
        else:
            session |= {key: 1}

    def view(session: Any) -> None:
        session["kept"] = 1
        with pytest.raises(TypeError, match=f"str or int, not {type(key).__name__}"):
            assign(session)

    browser.use(view)
    assert browser.use(dict) == {"kept": 1}


def test_keys_of_subclasses_are_stored_as_their_exact_type(browser: Browser) -> None:
    class Shouting(str):
        def __str__(self) -> str:
            return self.upper()

    browser.use(lambda session: session.update({Shouting("a"): 1, Number(5): 2}))
    stored = browser.use(dict)
    assert stored == {"a": 1, 5: 2}
    assert {type(key) for key in stored} == {str, int}


def test_numbers_and_their_texts_are_different_keys(browser: Browser) -> None:
    numbers = [0, 1, -1, 10**30, -(10**30)]
    browser.use(lambda session: session.update({n: f"number {n}" for n in numbers}))
    browser.use(lambda session: session.update({str(n): f"text {n}" for n in numbers}))
    browser.use(lambda session: remove(session, "10" + "0" * 29))
    expected = {n: f"number {n}" for n in numbers} | {str(n): f"text {n}" for n in numbers}
    del expected[str(10**30)]
    assert browser.use(dict) == expected


@pytest.mark.parametrize(
    "key",
    [
        "created",
        "timeout",
        "moved",
        "expires",
        ".",
        "#1",
        "~",
        "\x00",
        "\x1f",
        "\ud800",
        "a" * 5000,
    ],
    ids=repr,
)
def test_key_of_any_text_is_only_a_key(browser: Browser, key: str) -> None:
    browser.use(lambda session: put(session, key, "mine"))
    assert browser.use(dict) == {key: "mine"}
    assert browser.use(lambda session: session.peek_flash()) == []
    browser.use(lambda session: remove(session, key))
    assert browser.use(dict) == {}


def test_sessions_compare_by_content(browser: Browser) -> None:
    def view(request: Any) -> None:
        other = browser.factory(request)
        assert request.session == other
        assert (request.session != other) is False
        request.session["a"].append(2)
        assert request.session != other

    browser.use(lambda session: session.update(a=[1]))
    browser.visit(view)


def test_empty_session_is_falsy_and_equals_an_empty_dict(browser: Browser) -> None:
    def view(session: Any) -> None:
        assert not session
        assert session == {}
        assert len(session) == 0
        assert list(session) == []

    browser.use(view)


# -- managed_dict ----------------------------------------------------------------------


MANAGED: dict[str, Callable[[Any], Any]] = {
    "assigned": lambda d: put(d, "new", [1]),
    "replaced": lambda d: put(d, "a", 2),
    "replaced by an equal value of another type": lambda d: put(d, "a", True),
    "deleted": lambda d: remove(d, "a"),
    "changed in place": lambda d: d["list"].append(3),
    "deleted and assigned": lambda d: (remove(d, "list"), put(d, "list", [1, 2])),
    "cleared": lambda d: d.clear(),
    "number beside text": lambda d: put(d, 1, "n"),
    "nothing": lambda d: d["list"],
}


@pytest.mark.parametrize("name", MANAGED)
def test_change_through_managed_dict_is_saved_when(name: str, browser: Browser) -> None:
    expected: dict[Any, Any] = {"a": 1, "list": [1, 2], "1": "t"}
    browser.use(lambda session: session.update(copy.deepcopy(expected)))
    MANAGED[name](expected)
    browser.use(lambda session: MANAGED[name](session.managed_dict))
    stored = browser.use(dict)
    assert repr(sorted(stored.items(), key=repr)) == repr(sorted(expected.items(), key=repr))


def test_managed_dict_and_the_session_show_the_same(browser: Browser) -> None:
    def view(session: Any) -> None:
        managed = session.managed_dict
        assert isinstance(managed, dict)
        assert managed == {"a": 1}
        session["b"] = 2
        assert managed["b"] == 2
        managed["c"] = 3
        assert session["c"] == 3
        del managed["a"]
        assert "a" not in session
        assert session.managed_dict is managed

    browser.use(lambda session: put(session, "a", 1))
    browser.use(view)
    assert browser.use(dict) == {"b": 2, "c": 3}


def test_key_of_a_wrong_type_in_managed_dict_is_refused_at_the_save(browser: Browser) -> None:
    browser.use(lambda session: put(session, "a", 1))
    with pytest.raises(TypeError, match="str or int, not tuple"):
        browser.use(lambda session: put(session.managed_dict, ("wrong",), 1))
    assert browser.use(dict) == {"a": 1}


def test_last_of_the_session_and_its_managed_dict_wins(browser: Browser) -> None:
    browser.use(lambda session: session.update(a=1, b=1, c=1))

    def view(session: Any) -> None:
        managed = session.managed_dict
        session["new"] = session["a"] = 2
        del managed["new"], managed["a"]
        del session["b"]
        managed["b"] = 3
        managed["c"] = 4
        session["c"] = 5

    browser.use(view)
    assert browser.use(dict) == {"b": 3, "c": 5}


def test_new_session_is_stored_by_a_change_through_managed_dict(browser: Browser) -> None:
    browser.use(lambda session: put(session.managed_dict, "a", 1))
    assert browser.use(dict) == {"a": 1}


# -- spellings of the predecessors -----------------------------------------------------


def test_old_spellings_do_what_their_successors_do(browser: Browser) -> None:
    browser.use(lambda session: session.update(copy.deepcopy(CONTENT)))

    def view(session: Any) -> None:
        assert session.has_key("a")
        assert not session.has_key("missing")
        assert list(session.iterkeys()) == list(session.keys())
        assert list(session.itervalues()) == list(session.values())
        assert list(session.iteritems()) == list(session.items())
        assert next(session.iterkeys()) in session  # iterators, as in Python 2
        assert next(session.itervalues()) in session.values()
        assert next(session.iteritems()) in session.items()

    browser.use(view)


# -- what Pyramid's own session tests expect --------------------------------------------


def test_session_passes_what_pyramid_asks_of_its_own(browser: Browser) -> None:
    """After ``SharedCookieSessionTests`` of pyramid/tests/test_session.py."""

    def mapping(session: Any) -> None:
        session["a"] = 1
        session["b"] = 2
        session["c"] = 3
        assert list(session.items()) == [("a", 1), ("b", 2), ("c", 3)]
        session["d"] = 4
        del session["d"]
        assert session.get("a") == 1
        assert session.get("other", 9) == 9
        assert "a" in session
        assert "d" not in session
        assert session.pop("c") == 3
        assert session.setdefault("b", 9) == 2
        assert session.setdefault("e", 5) == 5
        session.update({"f": 6})
        assert sorted(session) == ["a", "b", "e", "f"]
        assert session.new is True
        assert isinstance(session.created, int)

    def flashes(session: Any) -> None:
        session.flash("msg1")
        session.flash("msg2")
        session.flash("msg2", allow_duplicate=False)
        session.flash("warned", queue="warn")
        assert session.peek_flash("") == ["msg1", "msg2"]
        assert session.pop_flash("") == ["msg1", "msg2"]
        assert session.pop_flash("") == []
        assert session.pop_flash("warn") == ["warned"]

    def tokens(session: Any) -> None:
        token = session.get_csrf_token()
        assert token == session.get_csrf_token()
        assert session.new_csrf_token() != token
        assert "_csrft_" in session

    browser.use(mapping)
    browser.use(flashes)
    browser.use(tokens)
    browser.use(lambda session: (session.invalidate(), session == {}, session.changed()))
    assert browser.use(dict) == {}


# -- any operations, in any order ---------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "1", "", 1, 0, -1])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


def append(mapping: Any, key: Any, value: Any) -> None:
    if isinstance(mapping.get(key), list):
        mapping[key].append(value)


STEPS = st.one_of(
    st.builds(
        lambda k, v: (f"m[{k!r}] = {v!r}", lambda m: put(m, k, copy.deepcopy(v))), KEYS, VALUES
    ),
    st.builds(lambda k: (f"del m[{k!r}]", lambda m: remove(m, k)), KEYS),
    st.builds(lambda k: (f"m[{k!r}]", lambda m: m[k]), KEYS),
    st.builds(lambda k: (f"{k!r} in m", lambda m: k in m), KEYS),
    st.builds(lambda k: (f"m.pop({k!r})", lambda m: m.pop(k)), KEYS),
    st.builds(lambda k: (f"m.pop({k!r}, 0)", lambda m: m.pop(k, 0)), KEYS),
    st.builds(
        lambda k, v: (f"m.setdefault({k!r}, {v!r})", lambda m: m.setdefault(k, copy.deepcopy(v))),
        KEYS,
        VALUES,
    ),
    st.builds(
        lambda d: (f"m.update({d!r})", lambda m: m.update(copy.deepcopy(d))),
        st.dictionaries(KEYS, VALUES, max_size=3),
    ),
    st.builds(
        lambda k, v: (f"m[{k!r}].append({v!r})", lambda m: append(m, k, copy.deepcopy(v))),
        KEYS,
        VALUES,
    ),
    st.sampled_from(
        [
            ("len(m)", len),
            ("list(m)", lambda m: set(m)),
            ("m.copy()", lambda m: m.copy()),
            ("m.values()", lambda m: m.values()),
            ("m.clear()", lambda m: m.clear()),
            ("m.changed()", lambda m: m.changed() if hasattr(m, "changed") else None),
            ("m.managed_dict", lambda m: dict(getattr(m, "managed_dict", m))),
        ]
    ),
)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=st.lists(st.lists(STEPS, max_size=6), max_size=5))
def test_any_operations_in_any_requests_leave_what_they_leave_in_a_dict(
    browser: Browser, redis_client: redis.Redis, requests: list[list[tuple[str, Any]]]
) -> None:
    browser = browser.another()
    model: dict[Any, Any] = {}
    for steps in requests:

        def view(session: Any, steps: Any = steps) -> None:
            for name, step in steps:
                assert attempt(step, session) == attempt(step, model), name
            if steps and steps[-1][0] == "len(m)":
                assert session == model

        browser.use(view)
        if browser.session_id is not None:
            stored = stored_values(redis_client, browser.factory, browser.session_id)
            assert repr(sorted(stored.items(), key=repr)) == repr(sorted(model.items(), key=repr))
        else:
            assert model == {}
    assert browser.use(dict) == model


def test_session_that_was_emptied_stays_and_can_be_filled_again(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.update(a=1))
    session_id = browser.session_id
    browser.use(lambda session: session.clear())
    assert data_fields(redis_client, browser.key) == {}
    assert browser.use(lambda session: (dict(session), session.new)) == ({}, False)
    browser.use(lambda session: session.update(b=2))
    assert browser.use(dict) == {"b": 2}
    assert browser.session_id == session_id


def test_problems_are_not_reported_by_any_of_this(redis_url: str) -> None:
    reports = Reports()
    browser = make_browser(redis_url, func_invalid_logger=reports)
    browser.use(lambda session: session.update(copy.deepcopy(CONTENT)))
    for operation in OPERATIONS.values():
        browser.copy().use(lambda session, op=operation: attempt(op, session))
    assert reports.problems == []
