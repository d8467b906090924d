"""How values look in Redis: fields, and encoding."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import math
import pickle
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from pyramid.i18n import TranslationString

from pyramid_redis_lua_sessions.engine.fields import field_of, key_of
from pyramid_redis_lua_sessions.engine.serializers import ChangedType, Codec, make_codec
from pyramid_redis_lua_sessions.settings import Settings

# A busy machine is no failure.
no_deadline = settings(deadline=None)

SECRET = b"0123456789abcdef0123456789abcdef"


def codec(**options: Any) -> Codec:
    return make_codec(Settings.from_options({"secret": SECRET, **options}))


class Number(enum.IntEnum):
    ONE = 1


class Word(str, enum.Enum):
    HELLO = "hello"


class Text(str):
    pass


class Whole(int):
    pass


class Real(float):
    pass


class Raw(bytes):
    pass


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
NESTED = st.recursive(
    ATOMS | st.datetimes() | st.decimals(allow_nan=False) | st.sets(st.integers()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


# -- fields ------------------------------------------------------------------------


@no_deadline
@given(st.text(st.characters() | st.characters(categories=["Cs"])) | st.integers())
def test_key_comes_back_from_its_field(key: str | int) -> None:
    back = key_of(field_of(key))
    assert back == key
    assert type(back) is type(key)


@pytest.mark.parametrize("key", ["", "\udcff\ud800", "a\x00b\x1f", ".", "~q", "é", "@"])
def test_unusual_text_key_comes_back(key: str) -> None:
    assert key_of(field_of(key)) == key


@pytest.mark.parametrize("key", [0, -1, 2**64, -(2**64), 10**4000])
def test_unusual_number_key_comes_back(key: int) -> None:
    assert key_of(field_of(key)) == key


def test_no_two_keys_share_a_field() -> None:
    keys: list[Any] = ["1", 1, "-1", -1, "", "#1", ".1", "@", "moved", "é", "e\u0301", 0, "0"]
    assert len({field_of(key) for key in keys}) == len(keys)


def test_no_key_hides_behind_a_field_of_the_scripts() -> None:
    for name in ("@", "timeout", "expires", "deadline", "first", "saves", "moved", "~q\x1f"):
        assert field_of(name)[:1] == b"."


@pytest.mark.parametrize(
    "key", [None, True, 1.0, b"a", (), Number.ONE, Word.HELLO, Text("a"), Whole(1), Decimal(1)]
)
def test_key_of_another_type_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match=f"str or int, not {type(key).__name__}"):
        field_of(key)


@pytest.mark.parametrize(
    "field", [b"#", b"#x", b"#01", b"#+1", b"# 1", b"#1_0", b"#-0", b"#1.0", b"#\xd9\xa1", b".\xff"]
)
def test_field_that_no_key_has_is_refused(field: bytes) -> None:
    # Else two fields would be one key, and one of them could never be deleted.
    with pytest.raises(ValueError, match=r"."):
        key_of(field)


# -- encoding ----------------------------------------------------------------------


@no_deadline
@given(ATOMS)
def test_atom_comes_back_with_its_type_from_every_serializer(value: Any) -> None:
    for name in ("pickle", "json", "msgpack"):
        back = codec(serialize=name).decode(codec(serialize=name).encode(value))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 0.1, 5e-324, 1.7976931348623157e308])
def test_float_comes_back_to_the_last_bit(value: float) -> None:
    back = codec().decode(codec().encode(value))
    assert back.hex() == value.hex()


def test_float_takes_eight_bytes_and_its_tag() -> None:
    assert len(codec().encode(1_767_225_600.25)) == 9


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(codec().decode(codec().encode(math.nan)))


@pytest.mark.parametrize(
    "value",
    [10**10_000, -(10**10_000), "\udcff\ud800"],
    ids=["huge", "huge negative", "surrogates"],
)
def test_unusual_atom_comes_back(value: Any) -> None:
    # More digits than int() takes in decimal, and text that is no UTF-8.
    assert codec().decode(codec().encode(value)) == value


def test_atoms_need_no_serializer() -> None:
    def refuse(value: Any) -> Any:
        raise AssertionError("called")

    own = codec(serialize=refuse, deserialize=refuse)
    for value in (None, True, False, 0, -5, 1.5, "text", b"bytes"):
        assert own.decode(own.encode(value)) == value


@no_deadline
@given(NESTED)
def test_any_value_comes_back_from_pickle(value: Any) -> None:
    back = codec().decode(codec().encode(value))
    assert back == value
    assert type(back) is type(value)


@no_deadline
@given(JSON_VALUES)
def test_json_value_comes_back_from_json(value: Any) -> None:
    own = codec(serialize="json")
    assert own.decode(own.encode(value)) == value


@no_deadline
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    )
)
def test_msgpack_value_comes_back_from_msgpack(value: Any) -> None:
    own = codec(serialize="msgpack")
    assert own.decode(own.encode(value)) == value


@pytest.mark.parametrize(
    "value", [Number.ONE, Word.HELLO, Text("a"), Whole(1), Real(1.5), Raw(b"a"), Markup("<b>")]
)
def test_subclass_of_an_atom_keeps_its_type(value: Any) -> None:
    back = codec().decode(codec().encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.skipif(not hasattr(enum, "StrEnum"), reason="StrEnum is new in Python 3.11")
def test_str_enum_keeps_its_type() -> None:
    # A member of the standard library, for pickle finds classes by their name.
    import http

    value = http.HTTPMethod.GET
    back = codec().decode(codec().encode(value))
    assert back is value


def test_dates_and_decimals_come_back_from_pickle() -> None:
    value = {"at": datetime(2024, 2, 29, tzinfo=timezone.utc), "price": Decimal("9.90")}
    assert codec().decode(codec().encode(value)) == value


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        ("pickle", lambda: None),
        ("json", {1, 2}),
        ("json", datetime(2024, 1, 1)),
        ("msgpack", object()),
        ("msgpack", 2**70),
    ],
)
def test_value_that_cannot_be_serialized_raises(serializer: str, value: Any) -> None:
    if type(value) is int:
        value = [value]  # an int alone is an atom
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError, OverflowError)):
        codec(serialize=serializer).encode(value)


def test_own_serializer_is_used_and_may_return_text() -> None:
    own = codec(serialize=json.dumps, deserialize=json.loads)
    assert own.encode([1, "é"]) == b'x[1, "\\u00e9"]'
    assert own.decode(own.encode([1, "é"])) == [1, "é"]


# -- json and msgpack know few types -------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


Pair = collections.namedtuple("Pair", "x y")

#: Values that neither gives back as they were.
CHANGED = [
    {1, 2},
    frozenset((1,)),
    (1, 2),
    Pair(1, 2),
    Colour.RED,
    Decimal("1.10"),
    Decimal(1),
    uuid.UUID(int=1),
    date(2030, 1, 1),
    datetime(2030, 1, 1),
    timedelta(1),
    Point(1),
    collections.deque([1]),
]
MESSAGE = TranslationString(
    "hello ${name}",
    domain="shop",
    default="Hello ${name}",
    mapping={"name": Markup("<b>"), "number": 1},
    context="page",
)
MARKED = [
    Markup("<b>&amp;\u2028</b>"),
    Markup(""),
    [Markup("a"), "a", {"b": Markup("c"), "d": ["e"]}],
    MESSAGE,
    TranslationString("bare"),
    {"messages": [MESSAGE, Markup("<i>"), "text"]},
    TranslationString("nested", default=MESSAGE),
]


def parts_of(value: Any) -> Any:
    """A value with the types of all its strings."""
    if isinstance(value, dict):
        return {key: parts_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [parts_of(inner) for inner in value]
    if isinstance(value, TranslationString):
        return (TranslationString, [parts_of(part) for part in value.__getstate__()])
    return (type(value), value)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("value", CHANGED, ids=repr)
@pytest.mark.parametrize("options", [{}, {"seal": False}], ids=["sealed", "bare"])
@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_value_that_would_come_back_as_another_is_refused(
    name: str, options: dict[str, Any], value: Any, nested: bool
) -> None:
    own = codec(serialize=name, **options)
    with pytest.raises(TypeError):
        own.encode({"a": [value]} if nested else value)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {True: 1}}, {None: 1}, {1.5: "a"}])
def test_key_that_json_makes_text_of_is_refused(value: Any) -> None:
    with pytest.raises(ChangedType, match=r"^(int|bool|NoneType|float) would come back"):
        codec(serialize="json").encode(value)
    own = codec(serialize="msgpack")
    assert own.decode(own.encode(value)) == value


@pytest.mark.parametrize("value", MARKED, ids=repr)
@pytest.mark.parametrize("options", [{}, {"seal": False}], ids=["sealed", "bare"])
@pytest.mark.parametrize("name", ["pickle", "json", "msgpack"])
def test_markup_and_translation_strings_come_back(
    name: str, options: dict[str, Any], value: Any
) -> None:
    own = codec(serialize=name, allow_unsealed_pickle=True, **options)
    data = own.encode(value)
    assert parts_of(own.decode(data)) == parts_of(value)
    assert own.encode(own.decode(data)) == data


def test_json_shows_markup_so_that_other_programs_can_read_it() -> None:
    bare = codec(serialize="json", seal=False)
    assert bare.encode([Markup("<b>"), "<b>"]) == b'[{"__html__":"<b>"},"<b>"]'


@pytest.mark.parametrize("value", [{"__html__": "x"}, [{"__translation__": ["x"]}]])
def test_value_that_looks_like_a_marked_string_is_refused_and_not_changed(value: Any) -> None:
    with pytest.raises(ChangedType, match="dict would come back"):
        codec(serialize="json").encode(value)
    own = codec(serialize="json")
    for same in ({"__html__": "x", "a": 1}, {"__html__": 1}, ["__html__"], ["__translation__"]):
        assert own.decode(own.encode(same)) == same


@pytest.mark.parametrize(
    "value", [[math.nan], {"a": [math.inf, math.nan]}, [True, 1, 0, False], [{}], {"": []}]
)
@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_value_that_comes_back_equal_is_taken(name: str, value: Any) -> None:
    own = codec(serialize=name)
    assert repr(own.decode(own.encode(value))) == repr(value)


@pytest.mark.parametrize("parts", [[], [1, 2, 3, 4, 5, 6]])
def test_marked_string_that_nobody_encoded_raises(parts: list[int]) -> None:
    with pytest.raises(TypeError):
        codec(serialize="json").decode(b'j{"__translation__":%b}' % json.dumps(parts).encode())


def test_extension_type_that_nobody_encoded_raises() -> None:
    data = b"m" + msgspec.msgpack.encode(msgspec.msgpack.Ext(77, b"x"))
    with pytest.raises(ValueError, match="unknown"):
        codec(serialize="msgpack").decode(data)


@pytest.mark.parametrize("data", [b"", b"?", b"z1", b"i", b"ix", b"d", b"dx", b"d\xff", b"s\xff"])
def test_bytes_that_nobody_encoded_raise(data: bytes) -> None:
    with pytest.raises(Exception, match=r"."):
        codec().decode(data)


@pytest.mark.parametrize("serializer", ["pickle", "json", "msgpack"])
def test_what_another_serializer_wrote_is_not_decoded(serializer: str) -> None:
    # After a change of the setting: absent, never misread, and pickle is not run.
    own = codec(serialize=serializer)
    for other in {"pickle", "json", "msgpack"} - {serializer}:
        with pytest.raises(ValueError, match="not encoded by this serializer"):
            own.decode(codec(serialize=other).encode([1, 2]))


def test_without_seal_the_serializer_alone_writes() -> None:
    # For sharing the values with other programs.
    bare = codec(serialize="json", seal=False)
    assert bare.encode("text") == b'"text"'
    assert bare.encode({"a": [1, None]}) == b'{"a":[1,null]}'
    assert bare.decode(b'"text"') == "text"
    packed = codec(serialize="msgpack", seal=False)
    assert packed.encode([1]) == msgspec.msgpack.encode([1])
