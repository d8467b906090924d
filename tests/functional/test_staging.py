"""``on_conflict = retry`` under pyramid_tm: the vote only announces, and what commits is saved."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyramid.request import Request
from pyramid.response import Response
from transaction.interfaces import TransientError

from pyramid_redis_lua_sessions import SessionConflict
from tests.support.application import make_app
from tests.support.overlap import Overlap, Start, id_in, look, put, session_with, take
from tests.support.voting import Voting

TM = {"tm.manager_hook": "pyramid_tm.explicit_manager"}

#: How long a database takes to commit, seconds.
COMMIT = 0.005


class Refused(Exception):
    """What a database says that does not commit."""


def with_tm(config: Any) -> None:
    config.include("pyramid_tm")
    config.add_exception_view(lambda exc, request: Response(status=503), context=Refused)


def with_tm_and_retry(config: Any) -> None:
    with_tm(config)
    config.include("pyramid_retry")


def refuse() -> None:
    raise Refused


# -- many at once --------------------------------------------------------------------------


def test_twenty_increments_at_once_all_succeed_and_nobody_reads_what_was_not_committed(
    redis_url: str,
) -> None:
    increments, refused = 20, 5
    committed, seen = [0], []
    start = threading.Barrier(increments + refused)
    done = threading.Event()

    def increment(request: Any) -> None:
        n = request.session["n"]
        seen.append((n, n in committed))
        request.session["n"] = n + 1

        def commit() -> None:
            time.sleep(COMMIT)
            committed.append(n + 1)

        Voting(request, commit)

    def fail(request: Any) -> None:
        request.session["n"] = -1

        def commit() -> None:
            time.sleep(COMMIT)
            raise Refused

        Voting(request, commit)

    def show(request: Any) -> None:
        n = request.session["n"]
        seen.append((n, n in committed))

    def begin(request: Any) -> None:
        request.session["n"] = 0

    views = {"begin": begin, "increment": increment, "fail": fail, "show": show}
    app = make_app(redis_url, views, settings=TM, configure=with_tm_and_retry, on_conflict="retry")
    app.get("/begin")
    cookie = "session=" + app.cookies["session"]

    def get(path: str) -> int:
        request = Request.blank(path, environ={"HTTP_COOKIE": cookie})
        if path != "/show":
            start.wait()
        status: int = request.get_response(app.app).status_int
        return status

    def read_on() -> None:
        while not done.is_set():
            assert get("/show") == 200

    with ThreadPoolExecutor(increments + refused + 1) as threads:
        reader = threads.submit(read_on)
        paths = ["/increment"] * increments + ["/fail"] * refused
        statuses = list(threads.map(get, paths))
        done.set()
        reader.result()
    assert statuses == [200] * increments + [503] * refused
    get("/show")
    assert seen[-1] == (increments, True)
    assert committed == list(range(increments + 1))
    assert [n for n, was_committed in seen if not was_committed] == []


def test_last_attempt_keeps_nobody_from_a_session_that_it_does_not_use(
    redis_url: str, redis_client: Any
) -> None:
    """Of two cookies, the session of the first has a value that is not authentic."""
    found: list[Any] = []

    def view(request: Any) -> None:
        if request.environ["retry.attempt"] < 2:
            raise SessionConflict
        found.append(request.session["n"])
        found.append([staged(redis_client, cookie) is not None for cookie in cookies])

    def begin(request: Any) -> None:
        request.session["n"] = 1

    app = make_app(
        redis_url,
        {"begin": begin, "view": view},
        settings=TM,
        configure=with_tm_and_retry,
        on_conflict="retry",
    )
    cookies = []
    for _ in range(2):
        app.reset()
        app.get("/begin")
        cookies.append("session=" + app.cookies["session"])
    app.reset()
    redis_client.hset(f"session:{id_in(cookies[0])}", ".n", "broken")
    app.get("/view", headers={"Cookie": "; ".join(cookies)})
    assert found == [1, [False, True]]
    assert [staged(redis_client, cookie) for cookie in cookies] == [None, None]


# -- what is announced, and who waits --------------------------------------------------------


@pytest.fixture
def overlap(start: Start) -> Overlap:
    return start(on_conflict="retry", settings=TM, configure=with_tm)


def staged(client: Any, cookie: str) -> bytes | None:
    found: bytes | None = client.hget(f"session:{id_in(cookie)}", "staged")
    return found


def status_of(overlap: Overlap, cookie: str, *steps: Callable[[Any], Any]) -> int:
    return overlap.run(cookie, *steps).status


def test_who_touches_the_same_fields_conflicts_while_a_commit_is_under_way(
    overlap: Overlap, redis_client: Any
) -> None:
    cookie = session_with(overlap, put("n", 1), put("read", 1), put("other", 1))
    found: dict[str, Any] = {}

    def commit() -> None:
        found["same field"] = status_of(overlap, cookie, put("n", 5))
        found["what it read"] = status_of(overlap, cookie, put("read", 5))
        found["new token"] = status_of(overlap, cookie, lambda s: s.regenerate_id())
        found["reads"] = overlap.read(cookie)["n"]
        found["read, other written"] = status_of(overlap, cookie, look("n"), put("other", 2))
        found["other field"] = status_of(overlap, cookie, put("other", 3))

    slow = overlap.begin(cookie)
    slow.do(look("read"))
    slow.do(put("n", 2))
    slow.do_request(lambda request: Voting(request, commit))
    assert slow.finish().status == 200
    assert found == {
        "same field": 409,
        "what it read": 409,
        "new token": 409,
        "reads": 1,
        "read, other written": 409,
        "other field": 200,
    }
    assert overlap.read(cookie) == {"n": 2, "read": 1, "other": 3}
    assert staged(redis_client, cookie) is None


def test_new_token_without_a_transaction_waits_for_what_is_announced(
    overlap: Overlap, start: Start
) -> None:
    cookie = session_with(overlap, put("n", 1))
    plain = start(on_conflict="retry")
    found: list[int] = []

    def commit() -> None:
        found.append(status_of(plain, cookie, lambda session: session.regenerate_id()))

    slow = overlap.begin(cookie)
    slow.do(put("n", 2))
    slow.do_request(lambda request: Voting(request, commit))
    assert (slow.finish().status, found) == (200, [409])
    assert overlap.read(cookie) == {"n": 2}


def test_nothing_stays_announced_when_the_database_refuses(
    overlap: Overlap, redis_client: Any
) -> None:
    cookie = session_with(overlap, put("n", 1))
    held: list[bytes | None] = []

    def commit() -> None:
        held.append(staged(redis_client, cookie))
        raise Refused

    slow = overlap.begin(cookie)
    slow.do(put("n", 2))
    slow.do_request(lambda request: Voting(request, commit))
    assert slow.finish().status == 503
    assert held[0]
    assert staged(redis_client, cookie) is None
    assert status_of(overlap, cookie, put("n", 3)) == 200
    assert overlap.read(cookie) == {"n": 3}


def test_what_a_process_that_died_had_announced_lapses_after_ten_seconds(
    overlap: Overlap, redis_client: Any
) -> None:
    cookie = session_with(overlap, put("n", 1))
    key = f"session:{id_in(cookie)}"
    left: list[bytes] = []
    slow = overlap.begin(cookie)
    slow.do(put("n", 2))
    slow.do_request(
        lambda request: Voting(request, lambda: left.append(redis_client.hget(key, "staged")))
    )
    assert slow.finish().status == 200
    # What stands there if it dies before it can save, or give up.
    redis_client.hset(key, "staged", left[0])
    assert status_of(overlap, cookie, put("n", 3)) == 409
    (until,) = re.findall(rb":(\d{13}):", left[0])
    seconds, micros = redis_client.time()
    assert int(until) <= seconds * 1000 + micros // 1000 + 10_000
    # As if these ten seconds had gone by.
    redis_client.hset(key, "staged", left[0].replace(until, b"%d" % (int(until) - 10_000)))
    assert status_of(overlap, cookie, put("n", 3)) == 200
    assert overlap.read(cookie) == {"n": 3}
    assert status_of(overlap, cookie, put("n", 4)) == 200


# -- a session that is emptied meanwhile ------------------------------------------------------


def test_what_is_announced_is_saved_though_another_request_empties_the_session(
    start: Start, redis_client: Any
) -> None:
    overlap = start(
        on_conflict="retry", settings=TM, configure=with_tm, invalidate_empty_session=True
    )
    cookie = session_with(overlap, put("n", 1))
    found: list[int] = []

    def commit() -> None:
        found.append(status_of(overlap, cookie, take("n")))

    slow = overlap.begin(cookie)
    slow.do(put("x", 2))
    slow.do_request(lambda request: Voting(request, commit))
    assert slow.finish().status == 200
    assert (found, slow.problems) == ([200], [])
    assert overlap.read(cookie) == {"x": 2}
    # The next one that empties it finds nothing announced.
    assert status_of(overlap, cookie, take("x")) == 200
    assert redis_client.hexists(f"session:{id_in(cookie)}", "moved")


# -- a session that is invalidated, and another one begun ---------------------------------------


def start_over(session: Any) -> None:
    """Log in as cautious applications do: nothing but the cart comes along."""
    cart = session.get("cart")
    session.invalidate()
    session.owner = "ada"
    session["cart"] = cart


def living(client: Any) -> list[str]:
    """The locators of all sessions that live."""
    names = (key.decode() for key in client.keys("session:*") if b"owner:" not in key)
    return [name.removeprefix("session:") for name in names if client.hexists(name, "@")]


@pytest.mark.parametrize("failures", [1, 2])
def test_attempt_that_a_database_has_repeated_finds_the_session_that_the_one_before_invalidated(
    start: Start, redis_client: Any, failures: int
) -> None:
    overlap = start(on_conflict="retry", settings=TM, configure=with_tm_and_retry)
    cookie = session_with(overlap, put("cart", "full"))
    csrf = overlap.begin(cookie)
    token = csrf.do(lambda session: session.get_csrf_token())
    csrf.finish()
    left = [TransientError()] * failures

    def commit() -> None:
        if left:
            raise left.pop()

    login = overlap.begin(cookie)
    for attempt in range(failures + 1):
        assert login.do(lambda session: session.get_csrf_token()) == token
        login.do(start_over)
        login.do_request(lambda request: Voting(request, commit))
        if attempt < failures:
            assert login.finish_attempt()
            assert living(redis_client) == [id_in(cookie)]
    answer = login.finish()
    assert (answer.status, login.problems) == (200, [])
    assert living(redis_client) == [id_in(answer.cookie)]
    reader = overlap.begin(answer.cookie)
    assert reader.do(lambda session: (session["cart"], session.owner)) == ("full", "ada")
    reader.finish()


def test_invalidated_session_lives_until_the_databases_have_voted(
    overlap: Overlap, redis_client: Any
) -> None:
    cookie = session_with(overlap, put("cart", "full"), put("other", 1))
    found: list[Any] = []

    def commit() -> None:
        found.append(overlap.read(cookie)["cart"])
        found.append(status_of(overlap, cookie, put("cart", "empty")))  # what it has read
        found.append(status_of(overlap, cookie, put("other", 2)))

    login = overlap.begin(cookie)
    login.do(start_over)
    login.do_request(lambda request: Voting(request, commit))
    answer = login.finish()
    assert (answer.status, found) == (200, ["full", 409, 200])
    assert living(redis_client) == [id_in(answer.cookie)]


def test_invalidated_session_that_was_changed_meanwhile_is_a_conflict(overlap: Overlap) -> None:
    cookie = session_with(overlap, put("cart", "full"))
    committed: list[bool] = []
    login = overlap.begin(cookie)
    login.do(start_over)
    login.do_request(lambda request: Voting(request, lambda: committed.append(True)))
    assert status_of(overlap, cookie, put("cart", "empty")) == 200
    assert (login.finish().status, committed) == (409, [])


@pytest.mark.parametrize("reads", [True, False])
def test_no_session_is_left_over_when_the_database_refuses_a_login_that_starts_over(
    overlap: Overlap, redis_client: Any, reads: bool
) -> None:
    cookie = session_with(overlap, put("cart", "full"))
    login = overlap.begin(cookie)
    if reads:
        login.do(look("cart"))
    login.do(lambda session: session.invalidate())
    login.do(put("new", 1))
    login.do_request(lambda request: Voting(request, refuse))
    answer = login.finish()
    # It was asked for, and is done whatever becomes of the transaction.
    assert (answer.status, answer.deletes, living(redis_client)) == (503, True, [])
