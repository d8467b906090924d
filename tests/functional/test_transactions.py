"""Sessions under pyramid_tm, beside a real database."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
import sqlalchemy.exc
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from webtest import TestApp

from pyramid_redis_lua_sessions import StoreUnavailable, UnserializableValue
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import make_app, set_cookies, stored_sessions
from tests.support.ledger import UNKNOWN_ACCOUNT, Ledger


class Boom(Exception):
    """What the views of these tests fail with."""


SETTINGS = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
VETO = {**SETTINGS, "tm.commit_veto": "pyramid_tm.default_commit_veto"}


def with_tm(config: Any) -> None:
    config.include("pyramid_tm")


def with_error_view(seen: list[Any]) -> Callable[[Any], None]:
    """An exception view that flashes, outside of any transaction as pyramid_tm has it."""

    def render(exc: Any, request: Any) -> Response:
        seen.append(exc)
        request.session.flash("sorry")
        return Response("sorry", status=500)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=Exception)

    return configure


def start(request: Any) -> None:
    request.session["value"] = "first"


def show(request: Any) -> str:
    return f"{sorted(request.session.items())} {request.session.peek_flash()}"


VIEWS = {"start": start, "show": show}


def serve(
    url: str, view: Callable[[Any], Any], configure: Any = with_tm, **options: Any
) -> TestApp:
    """The application with one more view, in explicit transactions."""
    views = {**VIEWS, "view": view}
    return make_app(url, views, settings=SETTINGS, configure=configure, **options)


def saves(proxy: CountingProxy) -> int:
    names = ("save_fields", "save_if_changed", "renew_token", "create_unique")
    writing = {SCRIPTS[name].sha1 for name in names}
    return sum(command.sha in writing for command in proxy.commands)


@pytest.fixture(params=["merge", "retry"])
def on_conflict(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- success ---------------------------------------------------------------------------


def test_successful_request_commits_once_and_saves_once(
    proxy: CountingProxy, ledger: Ledger, on_conflict: str
) -> None:
    inside: list[int] = []

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        request.session["value"] = "second"
        inside.append(saves(proxy))

    app = serve(proxy.url, view, on_conflict=on_conflict)
    app.get("/start")
    proxy.reset()
    app.get("/view")
    assert inside == [0]
    assert saves(proxy) == 1
    assert ledger.entries == ["paid"]
    assert app.get("/show").text == "[('value', 'second')] []"


def test_raised_redirect_aborts_the_database_and_saves_the_session_as_without_transaction(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    # pyramid_tm aborts for every exception that was rendered, redirects included.
    def view(request: Any) -> None:
        ledger.add(request, "aborted")
        request.session["value"] = "second"
        raise HTTPFound("/show")

    app = serve(redis_url, view, on_conflict=on_conflict)
    app.get("/start")
    app.get("/view", status=302)
    assert ledger.entries == []
    assert app.get("/show").text == "[('value', 'second')] []"


def test_new_session_of_a_successful_request_gets_its_cookie(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "paid")
        request.session["value"] = "first"

    app = serve(redis_url, view, on_conflict=on_conflict)
    assert len(set_cookies(app.get("/view"))) == 1
    assert app.get("/show").text == "[('value', 'first')] []"


def test_session_is_saved_without_any_database_work(redis_url: str, on_conflict: str) -> None:
    app = make_app(redis_url, VIEWS, settings=SETTINGS, configure=with_tm, on_conflict=on_conflict)
    app.get("/start")
    assert app.get("/show").text == "[('value', 'first')] []"


def test_transaction_of_the_thread_will_do_too(redis_url: str, ledger: Ledger) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "paid")
        request.session["value"] = "second"

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_tm)
    app.get("/start")
    app.get("/view")
    assert ledger.entries == ["paid"]
    assert app.get("/show").text == "[('value', 'second')] []"


def test_request_that_pyramid_tm_does_not_manage_saves_as_ever(redis_url: str) -> None:
    app = make_app(
        redis_url,
        VIEWS,
        settings={**SETTINGS, "tm.activate_hook": lambda request: False},
        configure=with_tm,
    )
    app.get("/start")
    assert app.get("/show").text == "[('value', 'first')] []"


# -- exceptions ------------------------------------------------------------------------


def test_exception_leaves_no_trace_but_the_exception_views_own_flash(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "aborted")
        request.session["value"] = "second"
        request.session.flash("paid")
        raise Boom

    seen: list[Any] = []
    app = serve(redis_url, view, configure=with_error_view(seen), on_conflict=on_conflict)
    app.get("/start")
    app.get("/view", status=500)
    assert [type(error) for error in seen] == [Boom]
    assert ledger.entries == []
    assert app.get("/show").text == "[('value', 'first')] ['sorry']"


def test_unhandled_exception_leaves_no_trace(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "aborted")
        request.session["value"] = "second"
        raise Boom

    app = serve(redis_url, view, on_conflict=on_conflict)
    app.get("/start")
    before = stored_sessions(redis_client)
    with pytest.raises(Boom):
        app.get("/view")
    assert ledger.entries == []
    assert stored_sessions(redis_client) == before


# -- exceptions that are rendered as something else --------------------------------------


class LoginNeeded(Exception):
    """An application's own exception, which is rendered as a redirect."""


def never(request: Any, response: Any) -> bool:
    """A veto that never vetoes."""
    return False


#: (who decides on the commit, status of the rendered exception) to (committed, saved)
OUTCOMES = {
    (None, 302): (False, True),
    (None, 500): (False, False),
    ("pyramid_tm.default_commit_veto", 302): (True, True),
    ("pyramid_tm.default_commit_veto", 500): (False, False),
    (never, 500): (True, True),
}


@pytest.mark.parametrize(
    "decides",
    OUTCOMES,
    ids=lambda decides: f"{getattr(decides[0], '__name__', decides[0])} {decides[1]}",
)
@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
def test_changes_before_an_exception_count_as_the_transaction_does_or_if_it_is_rendered_as_none(
    redis_url: str,
    ledger: Ledger,
    on_conflict: str,
    decides: tuple[Any, int],
    existing: bool,
) -> None:
    veto, status = decides
    committed, saved = OUTCOMES[decides]

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        session = request.session
        session.update(value="second", paid=True, twice="view")
        session.flash("view")
        raise LoginNeeded

    def render(exc: Any, request: Any) -> Response:
        request.session["twice"] = "exception view"
        request.session.flash("exception view")
        return Response(status=status)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=LoginNeeded)

    settings = SETTINGS if veto is None else {**SETTINGS, "tm.commit_veto": veto}
    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=settings,
        configure=configure,
        on_conflict=on_conflict,
    )
    if existing:
        app.get("/start")
    app.get("/view", status=status)
    assert ledger.entries == (["paid"] if committed else [])
    items = {"value": "first"} if existing else {}
    messages = ["exception view"]
    if saved:
        items |= {"paid": True, "value": "second"}
        messages.insert(0, "view")
    items["twice"] = "exception view"
    assert app.get("/show").text == f"{sorted(items.items())} {messages}"


@pytest.mark.parametrize("logs_in", [True, False])
def test_every_kind_of_change_before_an_exception_is_saved_with_the_transaction(
    proxy: CountingProxy,
    redis_client: redis.Redis,
    ledger: Ledger,
    on_conflict: str,
    logs_in: bool,
) -> None:
    def make(request: Any) -> None:
        request.session.update(kept=1, gone=1, basket=[1], back=1, last="make")
        request.session.flash("popped")

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        session = request.session
        del session["gone"], session["back"]
        session["basket"].append(2)
        session["last"] = "view"
        session.pop_flash()
        session.adjust_session_timeout(60)
        if logs_in:
            session.owner = "alice"
        raise LoginNeeded

    def render(exc: Any, request: Any) -> Response:
        session = request.session
        assert session["gone"] == 1  # as stored: nobody knows yet what will become of it
        assert session["basket"] == [1]
        session["back"] = 2
        del session["last"]
        return Response(status=302)

    def show_all(request: Any) -> str:
        session = request.session
        items = sorted(session.items())
        return f"{items} {session.peek_flash()} {session.timeout} {session.owner}"

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=LoginNeeded)

    app = make_app(
        proxy.url,
        {"make": make, "view": view, "show": show_all},
        settings=VETO,
        configure=configure,
        on_conflict=on_conflict,
    )
    app.get("/make")
    before = app.cookies["session"]
    proxy.reset()
    app.get("/view", status=302)
    assert saves(proxy) == 1
    assert ledger.entries == ["paid"]
    assert (app.cookies["session"] != before) == logs_in
    owner = "alice" if logs_in else None
    assert app.get("/show").text == f"[('back', 2), ('basket', [1, 2]), ('kept', 1)] [] 60 {owner}"


def test_conflict_over_what_was_read_before_an_exception_aborts_the_commit(
    redis_url: str, ledger: Ledger
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "paid")
        request.session["value"] += " and more"
        other.get("/other", extra_environ={"HTTP_COOKIE": request.environ["HTTP_COOKIE"]})
        raise LoginNeeded

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(lambda exc, request: Response(status=302), context=LoginNeeded)

    def change(request: Any) -> None:
        request.session["value"] = "other"

    other = make_app(redis_url, {"other": change})
    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=VETO,
        configure=configure,
        on_conflict="retry",
    )
    app.get("/start")
    app.get("/view", status=409)
    assert ledger.entries == []
    assert app.get("/show").text == "[('value', 'other')] []"


# -- aborted on purpose ------------------------------------------------------------------


def doom(request: Any) -> Response:
    request.tm.doom()
    return Response("ok")


def veto(request: Any) -> Response:
    return Response("no", status=400)


@pytest.mark.parametrize(("answer", "status"), [(doom, 200), (veto, 400)], ids=["doom", "veto"])
@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
def test_session_is_saved_in_the_response_callback_when_the_application_aborts_the_transaction(
    redis_url: str,
    ledger: Ledger,
    on_conflict: str,
    answer: Callable[[Any], Response],
    status: int,
    existing: bool,
) -> None:
    # A form with an error: nothing goes into the database, and the message must be seen.
    def view(request: Any) -> Response:
        ledger.add(request, "aborted")
        request.session["value"] = "second"
        return answer(request)

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=VETO,
        configure=with_tm,
        on_conflict=on_conflict,
    )
    if existing:
        app.get("/start")
    response = app.get("/view", status=status)
    assert len(set_cookies(response)) == (not existing)
    assert ledger.entries == []
    assert app.get("/show").text == "[('value', 'second')] []"


# -- a database that refuses its commit --------------------------------------------------


@pytest.mark.parametrize("how", ["write", "nested", "flash", "delete", "adjust", "regenerate"])
def test_failed_database_commit_leaves_the_session_as_it_was(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str, how: str
) -> None:
    def make(request: Any) -> None:
        request.session.update(value="first", basket=[1])

    def view(request: Any) -> None:
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)
        session = request.session
        if how == "write":
            session.update(value="second", other="new")
        elif how == "nested":
            session["basket"].append(2)
        elif how == "flash":
            session.flash("paid")
        elif how == "delete":
            del session["value"]
        elif how == "adjust":
            session.adjust_session_timeout(60)
        else:
            session["value"] = "second"
            session.regenerate_id()

    seen: list[Any] = []
    app = make_app(
        redis_url,
        {**VIEWS, "make": make, "view": view},
        settings=SETTINGS,
        configure=with_error_view(seen),
        on_conflict=on_conflict,
    )
    app.get("/make")
    (before,) = stored_sessions(redis_client)
    timeout = stored_sessions(redis_client)[before].get(b"timeout")
    assert set_cookies(app.get("/view", status=500)) == []
    assert [type(error) for error in seen] == [sqlalchemy.exc.IntegrityError]
    assert ledger.entries == []
    # Only what the exception view put in itself.
    assert app.get("/show").text == "[('basket', [1]), ('value', 'first')] ['sorry']"
    after = stored_sessions(redis_client)
    assert set(after) == {before}
    assert after[before].get(b"timeout") == timeout


def test_failed_database_commit_stores_no_new_session(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)
        request.session["value"] = "new"

    app = serve(redis_url, view, on_conflict=on_conflict)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        app.get("/view")
    assert ledger.entries == []
    assert stored_sessions(redis_client) == {}


class Between:
    """A data manager between the session's and the database's."""

    transaction_manager: Any = None

    def sortKey(self) -> str:
        return "the middle"

    def nothing(self, transaction: Any) -> None:
        pass

    abort = tpc_begin = commit = tpc_vote = tpc_finish = tpc_abort = nothing


def test_write_of_another_request_survives_when_a_save_is_put_back(
    redis_url: str, ledger: Ledger
) -> None:
    # In retry mode the save precedes the database's commit; another request writes in between.
    class Intruder(Between):
        def tpc_vote(self, transaction: Any) -> None:
            other.get("/intrude", extra_environ={"HTTP_COOKIE": cookies[0]})

    def view(request: Any) -> None:
        request.session.update(value="second", mine="second")
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)
        cookies.append(request.environ["HTTP_COOKIE"])
        request.tm.get().join(Intruder())

    def intrude(request: Any) -> None:
        request.session.update(value="third", theirs="third")

    cookies: list[str] = []
    other = make_app(redis_url, {"intrude": intrude})
    app = serve(redis_url, view, on_conflict="retry")
    app.get("/start")
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        app.get("/view")
    assert app.get("/show").text == "[('theirs', 'third'), ('value', 'third')] []"


#: What another request does between the vote of the session and that of the database.
MEANWHILE: dict[str, Callable[[Any], Any]] = {
    "new id": lambda session: session.regenerate_id(),
    "login": lambda session: setattr(session, "owner", "ann"),
    "copy": lambda session: session.update(copy=session.get("mine")),
}


@pytest.mark.parametrize("act", MEANWHILE.values(), ids=MEANWHILE.keys())
def test_nothing_of_an_aborted_save_lives_on_by_what_another_request_did_meanwhile(
    redis_url: str, ledger: Ledger, act: Callable[[Any], Any]
) -> None:
    class Intruder(Between):
        def tpc_vote(self, transaction: Any) -> None:
            other.get("/act", extra_environ={"HTTP_COOKIE": cookies[0]})

    def view(request: Any) -> None:
        request.session.update(value="second", mine="second")
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)
        cookies.append(request.environ["HTTP_COOKIE"])
        request.tm.get().join(Intruder())

    cookies: list[str] = []
    other = make_app(redis_url, {"act": lambda request: act(request.session), "show": show})
    app = serve(redis_url, view, on_conflict="retry")
    other.set_cookie("session", set_cookies(app.get("/start"))[0].value)
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        app.get("/view")
    assert ledger.entries == []
    text = other.get("/show").text
    assert "('value', 'first')" in text
    assert "second" not in text


@pytest.mark.parametrize("failure", ["view", "commit"])
def test_invalidate_is_executed_even_if_the_transaction_fails(
    redis_url: str, redis_client: redis.Redis, ledger: Ledger, failure: str
) -> None:
    def view(request: Any) -> None:
        request.session.invalidate()
        if failure == "view":
            raise Boom
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)

    app = make_app(
        redis_url, {**VIEWS, "view": view}, settings=SETTINGS, configure=with_error_view([])
    )
    app.get("/start")
    (old_id,) = stored_sessions(redis_client)
    app.get("/view", status=500)
    assert old_id not in stored_sessions(redis_client)


# -- a session that cannot be saved ------------------------------------------------------


def test_unserializable_value_stops_the_database_commit(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        ledger.add(request, "must not be")
        request.session["value"] = "second"
        request.session["culprit"] = lambda: None

    seen: list[Any] = []
    app = serve(redis_url, view, configure=with_error_view(seen), on_conflict=on_conflict)
    app.get("/start")
    app.get("/view", status=500)
    assert [type(error) for error in seen] == [UnserializableValue]
    assert seen[0].key == "culprit"
    assert ledger.entries == []
    assert app.get("/show").text == "[('value', 'first')] ['sorry']"


@pytest.mark.parametrize("existing", [True, False], ids=["existing session", "new session"])
def test_redis_that_is_down_at_the_vote_reaches_the_exception_view(
    new_redis_server: Callable[..., RedisServer], ledger: Ledger, on_conflict: str, existing: bool
) -> None:
    server = new_redis_server()

    def view(request: Any) -> None:
        ledger.add(request, "paid")
        request.session["value"] = "second"
        server.kill()

    seen: list[Any] = []

    def render(exc: Any, request: Any) -> Response:
        seen.append(exc)
        return Response("sorry", status=503)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(render, context=Exception)

    app = serve(server.url, view, configure=configure, on_conflict=on_conflict)
    if existing:
        app.get("/start")
    assert set_cookies(app.get("/view", status=503)) == []
    assert [type(error) for error in seen] == [StoreUnavailable]
    # In retry mode the session votes first, so its failure stops the database.
    assert ledger.entries == (["paid"] if on_conflict == "merge" else [])


def test_changes_after_the_commit_are_saved_too(
    redis_url: str, ledger: Ledger, on_conflict: str
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["value"] = "second"
        ledger.add(request, "paid")
        request.add_response_callback(lambda request, response: session.update(late="third"))

    app = serve(redis_url, view, on_conflict=on_conflict)
    app.get("/start")
    app.get("/view")
    assert ledger.entries == ["paid"]
    assert app.get("/show").text == "[('late', 'third'), ('value', 'second')] []"
