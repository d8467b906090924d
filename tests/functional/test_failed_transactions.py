"""Sessions under pyramid_tm when a transaction fails, at any step, or is redirected away from."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import redis
import transaction.interfaces
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import (
    SessionEvent,
    SessionRegenerated,
    StoreUnavailable,
    UnserializableValue,
)
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.application import make_app, set_cookies, stored_sessions
from tests.support.ledger import UNKNOWN_ACCOUNT, Ledger
from tests.support.overlap import Overlap, token_of
from tests.support.voting import Voting

TM = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


class Boom(Exception):
    """What fails."""


class Retryable(transaction.interfaces.TransientError):
    """A database that asks for another attempt."""


@pytest.fixture(params=["merge", "retry"])
def on_conflict(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(request: Any) -> None:
    request.session["value"] = "first"


def show(request: Any) -> str:
    session = request.session
    return f"{sorted(session.items())} {session.peek_flash()} {session.owner}"


VIEWS: dict[str, Callable[[Any], Any]] = {"start": start, "show": show}


def never(request: Any, response: Any) -> bool:
    """A veto that never vetoes."""
    return False


def rendering(
    seen: list[Any], act: Callable[[Any], Any] = lambda request: None, *includes: str
) -> Callable[[Any], None]:
    """Configure an exception view that acts, and answers 500."""

    def render(exc: Any, request: Any) -> Response:
        seen.append(exc)
        act(request)
        return Response("sorry", status=500)

    def configure(config: Any) -> None:
        for name in ("pyramid_tm", *includes):
            config.include(name)
        config.add_exception_view(render, context=Exception)

    return configure


def serve(url: str, view: Callable[[Any], Any], **options: Any) -> TestApp:
    """The application with one more view, in explicit transactions."""
    return make_app(url, {**VIEWS, "view": view}, settings=TM, **options)


# -- a redirect that was raised: what it changed is saved, or its error is seen -----------


def test_value_that_cannot_be_saved_before_a_raised_redirect_reaches_the_exception_view(
    redis_url: str, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session["culprit"] = lambda: None
        raise HTTPFound("/show")

    seen: list[Any] = []
    app = serve(redis_url, view, configure=rendering(seen), on_conflict=on_conflict)
    app.get("/start")
    app.get("/view", status=500)
    assert [type(error) for error in seen] == [UnserializableValue]


@pytest.mark.parametrize("act", ["invalidate", "regenerate_id"])
def test_nobody_is_redirected_as_if_logged_out_or_in_when_redis_fails(
    own_redis: RedisServer, act: str
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["value"]  # it is loaded
        getattr(session, act)()
        own_redis.pause()
        raise HTTPFound("/show")

    seen: list[Any] = []
    app = serve(own_redis.url, view, configure=rendering(seen), redis_socket_timeout=0.2)
    app.get("/start")
    try:
        app.get("/view", status=500)
    finally:
        own_redis.resume()
    assert [type(error) for error in seen] == [StoreUnavailable]


@pytest.fixture
def own_redis() -> Any:
    with RedisServer() as server:
        yield server


def test_conflict_of_a_raised_redirect_runs_again(redis_url: str) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["n"] = session.get("n", 0) + 1
        if not others:
            others.append(other.get("/more", headers={"Cookie": request.environ["HTTP_COOKIE"]}))
        raise HTTPFound("/show")

    def more(request: Any) -> None:
        request.session["n"] += 1

    def configure(config: Any) -> None:
        config.include("pyramid_retry")
        config.include("pyramid_tm")

    others: list[Any] = []
    other = make_app(redis_url, {"more": more})
    settings = {**TM, "retry.attempts": 3}
    views = {"make": lambda request: request.session.update(n=1), "view": view, "show": show}
    app = make_app(redis_url, views, settings=settings, configure=configure, on_conflict="retry")
    app.get("/make")
    app.get("/view", status=302)
    assert app.get("/show").text.startswith("[('n', 3)]")


# -- a transaction that fails before it comes to the session --------------------------------


def hook(request: Any) -> None:
    def fail() -> None:
        raise Boom

    request.tm.get().addBeforeCommitHook(fail)


def savepoint(request: Any) -> None:
    """A savepoint fails, and the view goes on."""
    request.tm.get().join(FailingSavepoint(Boom))
    with pytest.raises(Boom):
        request.tm.savepoint()


class FailingSavepoint:
    """A data manager that has no savepoint to give."""

    transaction_manager: Any = None

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def savepoint(self) -> None:
        raise self._error

    def sortKey(self) -> str:
        return "a database"

    def nothing(self, transaction: Any) -> None:
        pass

    abort = tpc_begin = commit = tpc_vote = tpc_finish = tpc_abort = nothing


def failing_veto(request: Any, response: Any) -> bool:
    if request.path == "/view":
        raise Boom
    return False


def failing_tween_factory(handler: Any, registry: Any) -> Any:
    def tween(request: Any) -> Any:
        response = handler(request)
        if request.path == "/view":
            raise Boom
        return response

    return tween


FAILURES: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "hook": (hook, {}),
    "savepoint": (savepoint, {}),
    "veto": (lambda request: None, {"tm.commit_veto": failing_veto}),
    "tween": (lambda request: None, {}),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("logs_in", [False, True])
def test_transaction_that_fails_before_the_vote_leaves_no_trace(
    redis_url: str, redis_client: redis.Redis, on_conflict: str, failure: str, logs_in: bool
) -> None:
    act, settings = FAILURES[failure]

    def view(request: Any) -> None:
        request.session["paid"] = True
        if logs_in:
            request.session.owner = "bob"
        act(request)

    def configure(config: Any) -> None:
        rendering([])(config)
        if failure == "tween":
            config.add_tween(
                f"{__name__}.failing_tween_factory",
                under="pyramid_tm.tm_tween_factory",
                over="pyramid.tweens.excview_tween_factory",
            )

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings={**TM, **settings},
        configure=configure,
        on_conflict=on_conflict,
    )
    app.get("/start")
    before = stored_sessions(redis_client)
    try:
        answer = app.get("/view", status=500)
        assert set_cookies(answer) == []
    except Boom:
        pass  # nothing renders it so far out
    assert stored_sessions(redis_client) == before
    assert app.get("/show").text == "[('value', 'first')] [] None"


@pytest.mark.parametrize("changed", [False, True])
def test_exception_of_a_view_is_not_hidden_by_a_transaction_that_takes_no_session_any_more(
    redis_url: str, changed: bool
) -> None:
    attempts: list[int] = []

    def view(request: Any) -> None:
        attempts.append(1)
        if changed:
            request.session["value"] = f"attempt {len(attempts)}"
        if len(attempts) == 1:
            request.tm.get().join(FailingSavepoint(Retryable))
            request.tm.savepoint()

    def configure(config: Any) -> None:
        config.include("pyramid_retry")
        config.include("pyramid_tm")

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings={**TM, "retry.attempts": 3},
        configure=configure,
    )
    app.get("/start")
    app.get("/view")
    assert len(attempts) == 2
    expected = "attempt 2" if changed else "first"
    assert app.get("/show").text == f"[('value', '{expected}')] [] None"


# -- what a failed transaction leaves --------------------------------------------------------


def refuse(ledger: Ledger) -> Callable[[Any], None]:
    return lambda request: ledger.add(request, "refused", UNKNOWN_ACCOUNT)


def test_session_that_was_emptied_and_put_back_lives_on(redis_url: str, ledger: Ledger) -> None:
    def view(request: Any) -> None:
        del request.session["value"]
        refuse(ledger)(request)

    app = serve(
        redis_url,
        view,
        configure=rendering([], lambda request: request.session["value"]),
        on_conflict="retry",
        invalidate_empty_session=True,
    )
    app.get("/start")
    assert set_cookies(app.get("/view", status=500)) == []
    assert app.get("/show").text == "[('value', 'first')] [] None"


def test_session_created_at_once_by_a_failed_request_is_no_orphan(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session.ensure_id()
        request.session["value"] = "second"
        refuse(ledger)(request)

    app = make_app(
        redis_url,
        {"view": view},
        settings=TM,
        configure=rendering([]),
        on_conflict=on_conflict,
    )
    answer = app.get("/view", status=500)
    assert len(stored_sessions(redis_client)) == len(set_cookies(answer))


@pytest.mark.parametrize("attempts", [1, 2])
def test_subscribers_learn_that_it_ended_when_the_transaction_is_over(
    redis_url: str, on_conflict: str, attempts: int
) -> None:
    """What they raise, or begin, is no part of the abort."""
    seen: list[tuple[str, bool]] = []

    def view(request: Any) -> None:
        request.session.ensure_id()
        request.session["value"] = "second"

        def refuses() -> None:
            raise Retryable

        Voting(request, refuses)

    def note(event: Any) -> None:
        names = {frame.name for frame in traceback.extract_stack()}
        seen.append((event.reason, bool(names & {"abort", "tpc_abort"})))

    def configure(config: Any) -> None:
        rendering([], lambda request: None, *["pyramid_retry"] * (attempts > 1))(config)
        config.add_subscriber(note, SessionEvent)

    app = make_app(
        redis_url,
        {"view": view},
        settings={**TM, "retry.attempts": attempts},
        configure=configure,
        on_conflict=on_conflict,
    )
    app.get("/view", status=500)
    assert seen == [("ensure_id", False), ("undelivered", False)] * attempts


def test_invalidated_session_ends_once_whatever_becomes_of_the_transaction(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        request.session.invalidate()
        request.session["value"] = "new"
        refuse(ledger)(request)

    app = serve(
        redis_url,
        view,
        configure=rendering([], lambda request: dict(request.session)),
        on_conflict=on_conflict,
    )
    app.get("/start")
    (cookie,) = set_cookies(app.get("/view", status=500))
    assert cookie.deletes
    assert stored_sessions(redis_client) == {}


def test_failed_login_ends_no_other_session_of_a_user_who_may_have_one(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    def log_in(request: Any) -> None:
        request.session.owner = "ada"
        if request.params:
            refuse(ledger)(request)

    devices = [
        make_app(
            redis_url,
            {**VIEWS, "log_in": log_in},
            settings=TM,
            configure=rendering([]),
            on_conflict=on_conflict,
            owner_sessions=1,
        )
        for _ in range(2)
    ]
    devices[0].get("/log_in")
    devices[1].get("/log_in?fail=1", status=500)
    assert devices[0].get("/show").text.endswith(" ada")
    devices[1].get("/log_in")
    assert devices[0].get("/show").text.endswith(" None")
    assert devices[1].get("/show").text.endswith(" ada")


@pytest.mark.parametrize("save_on_exception", [True, False])
def test_save_on_exception_decides_where_the_transaction_commits_all_the_same(
    redis_url: str, on_conflict: str, save_on_exception: bool
) -> None:
    def view(request: Any) -> None:
        request.session["value"] = "second"
        raise Boom

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings={**TM, "tm.commit_veto": never},
        configure=rendering([]),
        on_conflict=on_conflict,
        save_on_exception=save_on_exception,
    )
    app.get("/start")
    app.get("/view", status=500)
    value = "second" if save_on_exception else "first"
    assert app.get("/show").text == f"[('value', '{value}')] [] None"


#: What subscribers are told where a view sets an owner and raises, by whether there was a session
#: before, and by the owner that the exception view sets.
LAST_WORDS = {
    (True, None): [("SessionRegenerated", "regenerate_id")],
    (True, "eve"): [("SessionRegenerated", "login")],
    (False, None): [("SessionCreated", "first write")],
    (False, "eve"): [("SessionCreated", "login")],
}


@pytest.mark.parametrize(("stored", "owner"), LAST_WORDS)
def test_exception_view_that_changes_the_owner_has_the_last_word(
    redis_url: str, on_conflict: str, stored: bool, owner: str | None
) -> None:
    seen: list[tuple[str, str]] = []

    def view(request: Any) -> None:
        request.session.owner = "bob"
        raise Boom

    def render(exc: Any, request: Any) -> Response:
        request.session.owner = owner
        request.session["tried"] = 1
        return Response(status=302)

    def note(event: Any) -> None:
        seen.append((type(event).__name__, event.reason))

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=Boom)
        config.add_subscriber(note, SessionEvent)

    app = serve(redis_url, view, configure=configure, on_conflict=on_conflict)
    if stored:
        app.get("/start")
        seen.clear()
    app.get("/view", status=302)
    assert seen == LAST_WORDS[stored, owner]
    assert app.get("/show").text.endswith(f" {owner}")


@pytest.mark.parametrize("how", ["regenerate_id", "invalidate"])
@pytest.mark.parametrize("late", [False, True], ids=["in the view", "in the commit"])
def test_failed_login_in_flight_does_not_replace_the_cookie_of_the_one_that_succeeded(
    redis_url: str, ledger: Ledger, how: str, late: bool
) -> None:
    with Overlap(
        redis_url,
        settings=TM,
        configure=rendering([], lambda request: request.session.flash("try again")),
    ) as overlap:
        cookie = overlap.run(None, lambda session: session.update(a=1)).cookie
        second = overlap.begin(cookie)
        login = overlap.run(cookie, lambda session: session.regenerate_id())
        assert second.do(dict) == {}
        second.do(lambda session: getattr(session, how)())
        second.do(lambda session: session.update(user="bob"))
        if late:
            second.do_request(refuse(ledger))
        answer = second.finish(None if late else Boom())
        assert answer.status == 500
        assert answer.cookies == []
        assert overlap.read(login.cookie) == {"a": 1}
        assert token_of(login.cookie) != token_of(cookie)


# -- the application's own functions, when the databases have agreed ---------------------


#: What an error may quote.
VALUE = "a value of the session"


class Trap:
    """A function of the application's, which fails once it is armed.

    :ivar sprung: how often it has failed.
    """

    def __init__(self, answer: object = None) -> None:
        self._answer = answer
        self.armed = False
        self.sprung = 0

    def __call__(self, *args: Any) -> Any:
        if self.armed:
            self.sprung += 1
            raise Boom(VALUE)
        return self._answer


def regenerate(request: Any) -> None:
    request.session.regenerate_id()
    request.session["value"] = "second"


def change(request: Any) -> None:
    request.session["value"] = "second"


#: (what fails, what the view does, whether the session ends before the session is saved)
TRAPS = {
    "subscriber": (regenerate, False),
    "func_check_response_allow_cookies": (regenerate, False),
    "func_invalid_logger": (change, True),
    "id_generator": (regenerate, True),
}


@pytest.mark.parametrize("what", TRAPS)
def test_databases_commit_also_where_a_function_of_the_application_fails_at_the_save(
    redis_url: str,
    redis_client: redis.Redis,
    ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    act, ends = TRAPS[what]
    trap = Trap({"func_check_response_allow_cookies": True, "id_generator": "locator"}.get(what))

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        act(request)

        def vote() -> None:
            trap.armed = True
            if ends:
                redis_client.flushdb()

        Voting(request, vote)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        if what == "subscriber":
            config.add_subscriber(trap, SessionRegenerated)

    options: dict[str, Any] = {} if what == "subscriber" else {what: trap}
    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=TM,
        configure=configure,
        on_conflict="retry",
        **options,
    )
    app.get("/start")
    if what == "id_generator":
        app.get("/view")  # nobody sees it but the log
        assert "could not be saved" in caplog.text
    else:
        with pytest.raises(Boom):  # from the response callback, as any that is late
            app.get("/view")
    assert ledger.entries == ["paid"]
    assert trap.sprung == 1
    assert VALUE not in caplog.text
    trap.armed = False
    assert stored_sessions(redis_client) == {}  # no token that could not be sent opens one
    assert app.get("/show").text == "[] [] None"


def test_subscribers_learn_when_the_databases_have_committed_what_became_of_the_session(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    seen: list[Any] = []

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        regenerate(request)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_subscriber(
            lambda event: seen.append((type(event), ledger.entries)), SessionRegenerated
        )

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=TM,
        configure=configure,
        on_conflict=on_conflict,
    )
    app.get("/start")
    app.get("/view")
    assert seen == [(SessionRegenerated, ["paid"])]
    assert app.get("/show").text == "[('value', 'second')] [] None"
