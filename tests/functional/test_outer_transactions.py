"""Sessions in a transaction that is not the request's: a test's own, or an outer request's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import transaction
from pyramid.httpexceptions import HTTPFound
from pyramid.request import Request
from pyramid.response import Response

from pyramid_redis_lua_sessions import UnserializableValue
from tests.support.application import make_app, set_cookies, stored_sessions
from tests.support.ledger import Ledger

EXPLICIT = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


@pytest.fixture(params=["merge", "retry"])
def on_conflict(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_tm(config: Any) -> None:
    config.include("pyramid_tm")


def count(request: Any) -> str:
    session = request.session
    session["n"] = session.get("n", 0) + 1
    return str(session["n"])


def show(request: Any) -> str:
    session = request.session
    return f"{sorted(session.items())} {session.peek_flash()} {session.owner}"


VIEWS: dict[str, Callable[[Any], Any]] = {"count": count, "show": show}


# -- the fixtures of Pyramid's cookiecutter ------------------------------------------------


def serve(url: str, tm: Any, views: Any = VIEWS, configure: Any = with_tm, **options: Any) -> Any:
    """The application, as the cookiecutter's ``testapp`` runs it: in the test's transaction."""
    app = make_app(url, {**VIEWS, **views}, settings=EXPLICIT, configure=configure, **options)
    app.extra_environ.update({"tm.active": True, "tm.manager": tm})
    return app


def test_counter_counts_in_a_transaction_that_the_test_aborts_later(
    redis_url: str, redis_client: redis.Redis, tm: Any, on_conflict: str
) -> None:
    app = serve(redis_url, tm, on_conflict=on_conflict)
    answers = [app.get("/count") for _ in range(3)]
    assert [answer.text for answer in answers] == ["1", "2", "3"]
    assert [len(set_cookies(answer)) for answer in answers] == [1, 0, 0]
    before = stored_sessions(redis_client)
    tm.abort()
    assert stored_sessions(redis_client) == before
    tm.begin()
    assert app.get("/count").text == "4"


def test_counter_counts_in_a_transaction_that_the_test_commits_later(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str
) -> None:
    def pay(request: Any) -> str:
        if "n" not in request.session:
            ledger.add(request, "paid")
        return count(request)

    tm = transaction.TransactionManager(explicit=True)
    tm.begin()
    app = serve(redis_url, tm, {"pay": pay}, on_conflict=on_conflict)
    assert [app.get("/pay").text for _ in range(3)] == ["1", "2", "3"]
    before = stored_sessions(redis_client)
    # What it wrote once is not written again over what others wrote since.
    app.extra_environ.clear()
    assert app.get("/count").text == "4"
    assert ledger.entries == []
    tm.commit()
    assert ledger.entries == ["paid"]
    assert set(stored_sessions(redis_client)) == set(before)
    assert app.get("/count").text == "5"


@pytest.mark.parametrize("settings", [EXPLICIT, {}], ids=["explicit", "of the thread"])
def test_counter_counts_where_only_the_mark_is_set(
    redis_url: str, settings: Any, on_conflict: str
) -> None:
    app = make_app(redis_url, VIEWS, settings=settings, configure=with_tm, on_conflict=on_conflict)
    app.extra_environ["tm.active"] = True
    assert [app.get("/count").text for _ in range(3)] == ["1", "2", "3"]
    transaction.abort()
    assert app.get("/count").text == "4"


def test_counter_counts_where_the_mark_is_set_and_pyramid_tm_is_not_there(redis_url: str) -> None:
    app = make_app(redis_url, VIEWS)
    app.extra_environ["tm.active"] = True
    assert [app.get("/count").text for _ in range(3)] == ["1", "2", "3"]


ACTS: dict[str, Callable[[Any], Any]] = {
    "write": lambda session: session.update(a=1),
    "flash": lambda session: session.flash("hello"),
    "log in": lambda session: setattr(session, "owner", "ann"),
    "log out": lambda session: session.invalidate(),
    "log out, say so": lambda session: (session.invalidate(), session.flash("bye")),
    "regenerate": lambda session: session.regenerate_id(),
    "adjust": lambda session: session.adjust_session_timeout(60),
    "clear": lambda session: session.clear(),
}
ENDS: dict[str, Callable[[Any], Any]] = {
    "returned": lambda request: None,
    "redirected": lambda request: HTTPFound("/show"),
    "raised": lambda request: _raise(HTTPFound("/show")),
}


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_every_change_in_a_transaction_of_the_test_is_saved_as_without_one(
    redis_url: str,
    redis_client: redis.Redis,
    tm: Any,
    act: Callable[[Any], Any],
    end: Callable[[Any], Any],
    on_conflict: str,
) -> None:
    def view(request: Any) -> Any:
        act(request.session)
        return end(request)

    def outcome(app: Any) -> list[Any]:
        app.get("/count")
        (first,) = stored_sessions(redis_client)
        answer = app.get("/view")
        (given,) = [cookie.deletes for cookie in set_cookies(answer)] or [None]
        text = app.get("/show").text
        lives = [
            (session_id == first, fields.get(b"timeout"))
            for session_id, fields in stored_sessions(redis_client).items()
        ]
        redis_client.flushdb()
        return [answer.status, given, text, lives]

    views = {**VIEWS, "view": view}
    alone = outcome(make_app(redis_url, views, on_conflict=on_conflict))
    assert outcome(serve(redis_url, tm, views, on_conflict=on_conflict)) == alone


def test_exception_in_a_transaction_of_the_test_is_as_without_one(
    redis_url: str, tm: Any, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session["view"] = True
        raise ValueError

    def render(exc: Any, request: Any) -> Response:
        request.session.flash("sorry")
        return Response(status=500)

    def with_error_view(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=ValueError)

    saving = serve(redis_url, tm, {"view": view}, with_error_view, on_conflict=on_conflict)
    saving.get("/count")
    saving.get("/view", status=500)
    assert saving.get("/show").text == "[('n', 1), ('view', True)] ['sorry'] None"

    dropping = serve(redis_url, tm, {"view": view}, with_error_view, save_on_exception=False)
    dropping.get("/count")
    dropping.get("/view", status=500)
    assert dropping.get("/show").text == "[('n', 1)] [] None"


def test_error_of_a_save_in_a_transaction_of_the_test_is_raised(
    redis_url: str, tm: Any, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session["culprit"] = lambda: None

    app = serve(redis_url, tm, {"view": view}, on_conflict=on_conflict)
    with pytest.raises(UnserializableValue):
        app.get("/view")


def test_conflict_in_a_transaction_of_the_test_runs_again(redis_url: str, tm: Any) -> None:
    def view(request: Any) -> str:
        session = request.session
        n = session["n"]
        if not others:
            cookie = {"Cookie": request.environ["HTTP_COOKIE"]}
            others.append(other.get("/count", headers=cookie).text)
        session["n"] = n + 1
        return str(n + 1)

    def with_tm_and_retry(config: Any) -> None:
        config.include("pyramid_tm")
        config.include("pyramid_retry")

    others: list[str] = []
    other = make_app(redis_url, VIEWS)
    app = serve(redis_url, tm, {"view": view}, with_tm_and_retry, on_conflict="retry")
    assert app.get("/count").text == "1"
    assert app.get("/view").text == "3"
    assert app.get("/count").text == "4"
    assert others == ["2"]


def test_exception_that_nobody_renders_in_a_transaction_of_the_test_saves_nothing(
    redis_url: str, tm: Any, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session["view"] = True
        raise ValueError

    app = serve(redis_url, tm, {"view": view}, on_conflict=on_conflict)
    app.get("/count")
    with pytest.raises(ValueError):  # noqa: PT011 - the view's own, without a text
        app.get("/view")
    assert app.get("/show").text == "[('n', 1)] [] None"


# -- subrequests through the tweens ----------------------------------------------------------


def sub(request: Any, path: str) -> Any:
    """A subrequest as Pyramid's documentation makes it, in the environ of its request."""
    inner = request.copy()
    inner.path_info = path
    inner.registry = request.registry
    return request.invoke_subrequest(inner, use_tweens=True)


def blank(request: Any, path: str) -> Any:
    """A subrequest with an environ of its own: pyramid_tm manages it like any request."""
    inner = Request.blank(path, cookies=request.cookies)
    return request.invoke_subrequest(inner, use_tweens=True)


@pytest.mark.parametrize("make", [sub, blank], ids=["copy", "blank"])
def test_what_a_subrequest_does_with_the_session_is_kept(
    redis_url: str, ledger: Ledger, make: Callable[[Any, str], Any], on_conflict: str
) -> None:
    def inner(request: Any) -> str:
        request.session["inner"] = True
        request.session.flash("inner")
        return "inside"

    def outer(request: Any) -> str:
        ledger.add(request, "outer")
        request.session["outer"] = True
        text: str = make(request, "/inner").text
        return text

    views = {**VIEWS, "inner": inner, "outer": outer}
    app = make_app(redis_url, views, settings=EXPLICIT, configure=with_tm, on_conflict=on_conflict)
    app.get("/count")
    assert app.get("/outer").text == "inside"
    assert ledger.entries == ["outer"]
    expected = "[('inner', True), ('n', 1), ('outer', True)] ['inner'] None"
    assert app.get("/show").text == expected


def test_login_in_a_subrequest_is_kept(redis_url: str, on_conflict: str) -> None:
    def inner(request: Any) -> None:
        request.session.owner = "ann"

    def outer(request: Any) -> Any:
        return sub(request, "/inner")

    views = {**VIEWS, "inner": inner, "outer": outer}
    app = make_app(redis_url, views, settings=EXPLICIT, configure=with_tm, on_conflict=on_conflict)
    app.get("/count")
    assert len(set_cookies(app.get("/outer"))) == 1
    assert app.get("/show").text == "[('n', 1)] [] ann"


@pytest.mark.parametrize("rendered", [True, False])
def test_request_that_fails_after_its_subrequest_drops_only_its_own_changes(
    redis_url: str, ledger: Ledger, rendered: bool, on_conflict: str
) -> None:
    def inner(request: Any) -> None:
        request.session["inner"] = True

    def outer(request: Any) -> None:
        ledger.add(request, "aborted")
        request.session["outer"] = True
        sub(request, "/inner")
        raise ValueError

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        if rendered:
            config.add_exception_view(lambda exc, request: Response(status=500), context=ValueError)

    views = {**VIEWS, "inner": inner, "outer": outer}
    app = make_app(
        redis_url, views, settings=EXPLICIT, configure=configure, on_conflict=on_conflict
    )
    app.get("/count")
    if rendered:
        app.get("/outer", status=500)
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - the view's own, without a text
            app.get("/outer")
    assert ledger.entries == []
    assert app.get("/show").text == "[('inner', True), ('n', 1)] [] None"
