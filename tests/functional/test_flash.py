"""Flash messages: queues, order, duplicates, and that no request writes those of another."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import redis

from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import is_compact
from tests.support.browser import Browser, Reports, data_fields, make_browser, take_along

QUEUES = [
    "",
    "a",
    "A",
    "a ",
    "a\x1f",
    "\x1f",
    "\x1fa",
    "a\x1fb",
    "é",
    "\ud800",
    "~",
    ".a",
    "q" * 999,
]


@pytest.fixture
def browser(redis_url: str) -> Browser:
    return make_browser(redis_url)


def test_messages_are_there_in_the_next_request_in_order(browser: Browser) -> None:
    browser.use(lambda session: [session.flash(n) for n in range(300)])
    assert browser.use(lambda session: session.peek_flash()) == list(range(300))
    assert browser.use(lambda session: session.pop_flash()) == list(range(300))
    assert browser.use(lambda session: session.pop_flash()) == []


def test_messages_of_several_requests_stay_in_order(browser: Browser) -> None:
    for n in range(10):
        browser.use(lambda session, n=n: (session.flash(f"{n}a"), session.flash(f"{n}b")))
    expected = [f"{n}{half}" for n in range(10) for half in "ab"]
    assert browser.use(lambda session: session.pop_flash()) == expected


def test_messages_are_there_in_the_same_request(browser: Browser) -> None:
    def view(session: Any) -> None:
        assert session.peek_flash() == []
        session.flash("one")
        session.flash("two")
        assert session.peek_flash() == ["one", "two"]
        assert session.pop_flash() == ["one", "two"]
        assert session.pop_flash() == []
        session.flash("three")
        assert session.peek_flash() == ["three"]

    browser.use(view)
    assert browser.use(lambda session: session.pop_flash()) == ["three"]


def test_message_popped_in_its_own_request_is_never_stored(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: (session.flash("gone"), session.pop_flash()))
    assert redis_client.dbsize() == 0
    assert "Set-Cookie" not in browser.response.headers


def test_message_added_after_a_pop_comes_alone(browser: Browser) -> None:
    browser.use(lambda session: session.flash("old"))
    browser.use(lambda session: (session.pop_flash(), session.flash("new")))
    assert browser.use(lambda session: session.pop_flash()) == ["new"]


def test_peek_leaves_and_pop_removes(browser: Browser, redis_client: redis.Redis) -> None:
    browser.use(lambda session: session.flash("m"))
    for _ in range(2):
        assert browser.use(lambda session: session.peek_flash()) == ["m"]
    assert len(data_fields(redis_client, browser.key)) == 1
    assert browser.use(lambda session: session.pop_flash()) == ["m"]
    assert data_fields(redis_client, browser.key) == {}


def test_list_from_a_peek_is_the_callers_own(browser: Browser) -> None:
    browser.use(lambda session: session.flash("m"))
    browser.use(lambda session: session.peek_flash().append("smuggled"))
    assert browser.use(lambda session: session.pop_flash()) == ["m"]


@pytest.mark.parametrize("queue", QUEUES, ids=ascii)
def test_queue_of_any_name_is_kept_apart_from_all_others(browser: Browser, queue: str) -> None:
    browser.use(lambda session: [session.flash([name], name) for name in QUEUES])
    assert browser.use(lambda session: session.pop_flash(queue)) == [[queue]]
    left = browser.use(lambda session: [session.pop_flash(name) for name in QUEUES])
    assert left == [[] if name == queue else [[name]] for name in QUEUES]


def test_duplicates_are_allowed_by_default(browser: Browser) -> None:
    browser.use(lambda session: (session.flash("m"), session.flash("m")))
    browser.use(lambda session: session.flash("m", "", True))
    assert browser.use(lambda session: session.pop_flash()) == ["m"] * 3


@pytest.mark.parametrize("message", ["text", 5, {"a": [1]}, ("t", 1), {"x", "y"}, None])
def test_duplicate_is_suppressed_when_it_is_not_allowed(browser: Browser, message: Any) -> None:
    def flash(session: Any) -> None:
        session.flash(message, allow_duplicate=False)
        session.flash(message, queue="other", allow_duplicate=False)
        session.flash(message, "", False)

    browser.use(flash)
    browser.use(flash)
    assert browser.use(lambda session: session.pop_flash()) == [message]
    assert browser.use(lambda session: session.pop_flash("other")) == [message]
    browser.use(flash)
    assert browser.use(lambda session: session.pop_flash()) == [message]


@pytest.mark.parametrize(
    "message", ["", "text", b"bytes", 1.5, True, None, {"a": {"b"}}, ["l"], ("t",), "<b>é\ud800"]
)
def test_message_of_any_type_comes_back_as_it_was(browser: Browser, message: Any) -> None:
    browser.use(lambda session: session.flash(message))
    (back,) = browser.use(lambda session: session.pop_flash())
    assert (type(back), back) == (type(message), message)


def test_messages_are_no_keys_of_the_session(browser: Browser) -> None:
    def view(session: Any) -> None:
        session.flash("m")
        assert dict(session) == {}
        assert len(session) == 0
        assert session == {}

    browser.use(view)
    browser.use(view)
    assert browser.use(lambda session: session.pop_flash()) == ["m", "m"]


def test_key_under_which_others_keep_their_queues_is_a_key_like_any(browser: Browser) -> None:
    """As docs/migrating.rst says: Pyramid's cookie sessions and Beaker keep lists there."""
    browser.use(lambda session: session.flash("m"))
    assert browser.use(lambda session: session.get("_f_")) is None
    browser.use(lambda session: session.update(_f_=["mine"]))
    assert browser.use(lambda session: session["_f_"]) == ["mine"]
    assert browser.use(lambda session: session.pop_flash()) == ["m"]


def test_session_with_only_a_message_is_stored(browser: Browser) -> None:
    browser.use(lambda session: session.flash("m"))
    assert browser.session_id is not None
    assert browser.use(lambda session: session.new) is False


def test_clear_and_invalidate_remove_messages(browser: Browser) -> None:
    for end in ("clear", "invalidate"):
        browser.use(lambda session: (session.flash("m"), session.flash("n", "q")))
        browser.use(lambda session, end=end: getattr(session, end)())
        assert browser.use(lambda session: session.pop_flash() + session.pop_flash("q")) == []


def test_messages_survive_a_new_id(browser: Browser) -> None:
    browser.use(lambda session: (session.flash("one"), session.flash("q", "queue")))
    browser.use(lambda session: (session.regenerate_id(), session.flash("two")))
    assert browser.use(lambda session: session.pop_flash()) == ["one", "two"]
    assert browser.use(lambda session: session.pop_flash("queue")) == ["q"]


def test_message_that_was_added_meanwhile_survives_a_pop(browser: Browser) -> None:
    """Each message is a field of its own, so that nobody writes a whole queue back."""
    browser.use(lambda session: session.flash("one"))
    window = browser.copy()

    def slow(session: Any) -> list[Any]:
        popped: list[Any] = session.pop_flash()
        window.use(lambda other: other.flash("two"))
        return popped

    assert browser.use(slow) == ["one"]
    assert browser.use(lambda session: session.pop_flash()) == ["two"]


def test_messages_of_overlapping_requests_all_survive_in_order(browser: Browser) -> None:
    browser.use(lambda session: session.flash("first"))
    window = browser.copy()

    def slow(session: Any) -> None:
        session.flash("second")
        window.use(lambda other: other.flash("third"))

    browser.use(slow)
    # As they were saved: which was asked for first, two machines may see differently.
    assert browser.use(lambda session: session.pop_flash()) == ["first", "third", "second"]


@pytest.mark.parametrize(
    "options",
    [{}, {"encryption_key": "k" * 32}, {"seal": "false", "serialize": "json"}],
    ids=["sealed", "encrypted", "bare"],
)
def test_order_is_that_of_the_saves_whatever_the_clocks_of_the_machines(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    browser = make_browser(redis_url, **options)
    clock = itertools.count(time.time_ns(), -20_000_000)  # each next machine is 20 ms behind
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: next(clock))
        for n in range(40):
            browser.use(lambda session, n=n: session.flash(n))
    assert browser.use(lambda session: session.pop_flash()) == list(range(40))


@pytest.mark.parametrize("options", [{}, {"encryption_key": "k" * 32}], ids=["sealed", "encrypted"])
def test_order_survives_new_ids_and_new_secrets(redis_url: str, options: dict[str, str]) -> None:
    old, new = "old" * 11, "new" * 11
    browser = make_browser(redis_url, secret=old, **options)
    for n in range(0, 200, 10):
        browser.use(lambda session, n=n: [session.flash(n + i) for i in range(10)])
    browser.use(lambda session: (session.regenerate_id(), session.flash(200)))
    if options:
        options = {"encryption_key": f"{'l' * 32}\n{'k' * 32}"}
    browser = take_along(browser, redis_url, secret=f"{new}\n{old}", **options)
    for _ in range(3):  # the cookie, then the values
        assert browser.use(lambda session: session.peek_flash()) == list(range(201))
    if options:
        options = {"encryption_key": "l" * 32}
    browser = take_along(browser, redis_url, secret=new, **options)
    browser.use(lambda session: session.flash(201))
    assert browser.use(lambda session: session.pop_flash()) == list(range(202))


def test_order_is_kept_by_a_request_that_saves_more_than_once(browser: Browser) -> None:
    browser.use(lambda session: [session.flash(n) for n in range(3)])

    def view(session: Any) -> None:
        session.flash(3)
        session.regenerate_id()
        session.flash(4)

    browser.use(view)
    other = browser.another()
    other.use(lambda session: (session.flash(0), session.ensure_id(), session.flash(1)))
    other.use(lambda session: (session.flash(2), session.regenerate_id(), session.flash(3)))
    assert browser.use(lambda session: session.pop_flash()) == list(range(5))
    assert other.use(lambda session: session.pop_flash()) == list(range(4))


def test_pop_of_an_empty_queue_saves_nothing(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    browser.use(lambda session: session.flash("m", "other"))
    proxy.reset()
    assert browser.use(lambda session: (session.pop_flash(), session.peek_flash())) == ([], [])
    assert proxy.round_trips == 1
    proxy.reset()
    assert browser.another().use(lambda session: session.pop_flash()) == []
    assert proxy.round_trips == 0


def test_message_whose_value_cannot_be_decoded_does_not_hide_the_others(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def load(data: bytes) -> Any:
        if data == b"bad":
            raise ValueError
        return data.decode()

    browser = make_browser(
        redis_url, serialize=lambda value: "".join(value).encode(), deserialize=load
    )
    words = ("one", "bad", "two")
    browser.use(lambda session: [session.flash(tuple(word)) for word in words])
    browser.use(lambda session: [session.flash(tuple(word), "a") for word in words])
    for _ in range(2):
        assert browser.use(lambda session: session.peek_flash()) == ["one", "two"]
    # It goes with the others of its queue, whose pop is the last that anybody asks for them.
    assert browser.use(lambda session: session.pop_flash()) == ["one", "two"]
    assert len(data_fields(redis_client, browser.key)) == 3
    assert browser.use(lambda session: session.pop_flash("a")) == ["one", "two"]
    assert data_fields(redis_client, browser.key) == {}


def test_message_that_does_not_decode_goes_though_it_is_alone(
    redis_url: str, redis_client: redis.Redis
) -> None:
    def load(data: bytes) -> Any:
        raise ValueError

    reports = Reports()
    browser = make_browser(redis_url, serialize=repr, deserialize=load, func_invalid_logger=reports)
    for remove in (lambda session: session.pop_flash(), lambda session: session.clear()):
        browser.use(lambda session: session.flash(("bad",)))
        assert len(data_fields(redis_client, browser.key)) == 1
        browser.use(remove)
        assert data_fields(redis_client, browser.key) == {}
        reports.problems.clear()
        browser.use(lambda session: session.pop_flash())
        assert reports.problems == []


# -- very many -------------------------------------------------------------------------

KINDS = [
    {},
    {"serialize": "json"},
    {"encryption_key": "k" * 32},
    {"seal": "false", "serialize": "json"},
]


@pytest.mark.parametrize("options", KINDS, ids=["sealed", "json", "encrypted", "bare"])
def test_many_messages_of_a_request_come_back_as_they_were(
    redis_url: str, options: dict[str, str]
) -> None:
    browser = make_browser(redis_url, **options)
    texts = ["", "text", "ä", "two\nlines", "x" * 500, "a\x1fb", "{}", "*"]
    if "seal" not in options:
        texts += ["\0", "a\0b", "\0\0", "\ud83d", "\ude00", "\ud83d\ude00"]
    kinds = [*texts, 7, None, True, 1.5, ["list"], *texts, {"key": "value"}]
    many = [kinds[n % len(kinds)] for n in range(300)]
    browser.use(lambda session: [session.flash(message) for message in many])
    browser.use(lambda session: [session.flash(message, "other") for message in many[::-1]])
    browser.use(lambda session: [session.flash(message) for message in many])
    found = browser.use(lambda session: session.peek_flash())
    assert found == many + many
    assert [type(message) for message in found] == [type(message) for message in many + many]
    browser.use(lambda session: session.regenerate_id())
    assert browser.use(lambda session: session.pop_flash("other")) == many[::-1]
    assert browser.use(lambda session: session.pop_flash()) == many + many
    assert browser.use(lambda session: session.pop_flash()) == []


def test_many_texts_of_a_request_share_a_field(browser: Browser, redis_client: redis.Redis) -> None:
    texts = [f"message {n}" for n in range(1000)]
    browser.use(lambda session: [session.flash(text) for text in texts])
    assert len(data_fields(redis_client, browser.key)) < 10
    assert browser.use(lambda session: session.pop_flash()) == texts
    assert data_fields(redis_client, browser.key) == {}


def test_few_messages_leave_a_session_compact(browser: Browser, redis_client: redis.Redis) -> None:
    browser.use(lambda session: [session.flash("Your changes were saved.") for _ in range(8)])
    assert is_compact(redis_client, browser.key)


def test_many_messages_grow_by_those_of_other_requests_alone(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: [session.flash(f"{n}") for n in range(50)])
    before = set(data_fields(redis_client, browser.key))
    window = browser.copy()

    def slow(session: Any) -> None:
        for n in range(50, 100):
            session.flash(f"{n}")
        assert window.use(lambda other: len(other.pop_flash())) == 50

    browser.use(slow)
    assert before.isdisjoint(data_fields(redis_client, browser.key))
    assert browser.use(lambda session: session.pop_flash()) == [f"{n}" for n in range(50, 100)]


def test_many_messages_are_saved_once_by_a_request_that_saves_more_than_once(
    browser: Browser,
) -> None:
    def view(session: Any) -> None:
        for n in range(20):
            session.flash(f"{n}")
        session.ensure_id()
        for n in range(20, 40):
            session.flash(f"{n}")

    browser.use(view)
    assert browser.use(lambda session: session.pop_flash()) == [f"{n}" for n in range(40)]


def test_message_that_was_read_and_popped_meanwhile_does_not_come_back(browser: Browser) -> None:
    browser.use(lambda session: session.flash("gone"))
    window = browser.copy()

    def view(request: Any) -> None:
        session = request.session
        assert session.peek_flash() == ["gone"]
        assert window.use(lambda other: other.pop_flash()) == ["gone"]
        session.regenerate_id()  # which loads again, as others have saved
        request.add_finished_callback(lambda request: request.session.flash("late"))

    browser.visit(view)
    assert browser.use(lambda session: session.pop_flash()) == ["late"]
