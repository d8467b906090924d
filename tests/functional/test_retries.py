"""Attempts that pyramid_retry repeats, and conflicts with ``on_conflict = retry``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.events import NewRequest, NewResponse
from pyramid.response import Response
from pyramid_retry import IRetryableError, RetryableException
from transaction.interfaces import TransientError

from pyramid_redis_lua_sessions import SessionConflict
from tests.support.application import data_fields, make_app, set_cookies, stored_sessions
from tests.support.ledger import Ledger


def with_retry(config: Any) -> None:
    config.include("pyramid_retry")


def with_tm_and_retry(config: Any) -> None:
    config.include("pyramid_tm")
    config.include("pyramid_retry")


TM = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


def start(request: Any) -> None:
    request.session.update(value="first", n=5, basket=[])
    request.session.flash("hello")


def show(request: Any) -> str:
    return f"{sorted(request.session.items())} {request.session.peek_flash()}"


VIEWS = {"start": start, "show": show}
START = "[('basket', []), ('n', 5), ('value', 'first')] ['hello']"


def attempt(request: Any) -> int:
    return int(request.environ["retry.attempt"])


# -- an attempt that is repeated leaves no trace -----------------------------------------

ACTS: dict[str, Callable[[Any], object]] = {
    "write": lambda session: session.update(value="attempt", other="attempt"),
    "nested": lambda session: session["basket"].append(1),
    "delete": lambda session: session.pop("value"),
    "flash": lambda session: session.flash("attempt"),
    "pop_flash": lambda session: session.pop_flash(),
    "invalidate": lambda session: session.invalidate(),
    "invalidate and write": lambda session: (session.invalidate(), session.update(new=1)),
    "regenerate": lambda session: (session.update(value="attempt"), session.regenerate_id()),
    "adjust timeout": lambda session: session.adjust_session_timeout(1),
    "clear": lambda session: session.clear(),
}


def rendered(config: Any) -> None:
    """An exception view that renders every attempt, the repeated ones too."""
    config.add_exception_view(
        lambda exc, request: Response("try again", status=503), context=RetryableException
    )


@pytest.mark.parametrize("tm", [False, True], ids=["alone", "with pyramid_tm"])
@pytest.mark.parametrize("view_matches", [False, True], ids=["no exception view", "exception view"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_repeated_attempt_leaves_no_trace(
    redis_url: str,
    redis_client: redis.Redis,
    tm: bool,
    view_matches: bool,
    act: Callable[[Any], object],
) -> None:
    seen: list[str] = []

    def view(request: Any) -> None:
        if attempt(request) == 0:
            act(request.session)
            raise RetryableException
        seen.append(show(request))

    def configure(config: Any) -> None:
        (with_tm_and_retry if tm else with_retry)(config)
        if view_matches:
            rendered(config)

    app = make_app(redis_url, {**VIEWS, "view": view}, settings=TM, configure=configure)
    app.get("/start")
    before = stored_sessions(redis_client)
    assert set_cookies(app.get("/view")) == []
    assert seen[-1] == START
    assert stored_sessions(redis_client) == before


# A response callback runs after the save point, and after pyramid_tm has committed: what fails
# there comes too late for the database and for the session alike.


def fail_late(request: Any) -> None:
    """Have the first attempt fail after its save point."""

    def fail(request: Any, response: Any) -> None:
        raise RetryableException

    if attempt(request) == 0:
        request.add_response_callback(fail)


@pytest.mark.parametrize("tm", [False, True], ids=["alone", "with pyramid_tm"])
@pytest.mark.parametrize("act", ["write", "nested", "delete", "flash", "pop_flash", "clear"])
def test_what_was_saved_before_a_late_failure_stays(redis_url: str, tm: bool, act: str) -> None:
    expected: list[str] = []
    seen: list[str] = []

    def view(request: Any) -> None:
        fail_late(request)
        if attempt(request) == 0:
            ACTS[act](request.session)
            expected.append(show(request))
        else:
            seen.append(show(request))

    configure = with_tm_and_retry if tm else with_retry
    app = make_app(redis_url, {**VIEWS, "view": view}, settings=TM, configure=configure)
    app.get("/start")
    assert set_cookies(app.get("/view")) == []
    assert seen == expected
    assert app.get("/show").text == expected[0]


@pytest.mark.parametrize("begins", ["ensure_id", "write", "invalidate and write"])
def test_session_that_is_created_before_a_late_failure_does_not_stay(
    redis_url: str, redis_client: redis.Redis, begins: str
) -> None:
    def view(request: Any) -> None:
        fail_late(request)
        if attempt(request) == 0:
            if begins == "ensure_id":
                request.session.ensure_id()
            else:
                ACTS[begins](request.session)

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry)
    if begins.startswith("invalidate"):
        app.get("/start")
    assert set_cookies(app.get("/view")) == []
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("tm", [False, True], ids=["alone", "with pyramid_tm"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "in each attempt"])
@pytest.mark.parametrize("act", ["regenerate", "log in"])
def test_token_that_is_renewed_before_a_late_failure_reaches_the_browser(
    redis_url: str, redis_client: redis.Redis, act: str, again: bool, tm: bool
) -> None:
    def view(request: Any) -> None:
        fail_late(request)
        if again or attempt(request) == 0:
            if act == "log in":
                request.session.owner = "ada"
            else:
                request.session.regenerate_id()
        request.session["attempts"] = attempt(request) + 1

    configure = with_tm_and_retry if tm else with_retry
    app = make_app(
        redis_url,
        {**VIEWS, "view": view, "owner": lambda request: str(request.session.owner)},
        settings=TM,
        configure=configure,
    )
    app.get("/start")
    before = app.cookies["session"]
    assert len(set_cookies(app.get("/view"))) == 1
    assert len(stored_sessions(redis_client)) == 1
    assert app.get("/show").text == START.replace("[('basket'", "[('attempts', 2), ('basket'")
    assert app.get("/owner").text == ("ada" if act == "log in" else "None")
    app.reset()
    app.set_cookie("session", before)
    assert app.get("/show").text == "[] []"


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("on_conflict", ["merge", "retry"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_repeated_attempt_leaves_no_trace_where_a_veto_has_its_error_page_committed(
    redis_url: str,
    redis_client: redis.Redis,
    act: Callable[[Any], object],
    on_conflict: str,
    status: int,
) -> None:
    seen: list[str] = []

    def view(request: Any) -> None:
        if attempt(request) == 0:
            act(request.session)
            raise TransientError
        seen.append(show(request))

    def configure(config: Any) -> None:
        with_tm_and_retry(config)
        config.add_exception_view(
            lambda exc, request: Response("try again", status=status), context=TransientError
        )

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings={**TM, "tm.commit_veto": lambda request, response: False},
        configure=configure,
        on_conflict=on_conflict,
    )
    app.get("/start")
    before = stored_sessions(redis_client)
    assert set_cookies(app.get("/view")) == []
    assert seen == [START]
    assert stored_sessions(redis_client) == before


@pytest.mark.parametrize("view_matches", [False, True], ids=["no exception view", "exception view"])
def test_repeated_attempt_that_made_a_session_leaves_only_that_of_the_last(
    redis_url: str, redis_client: redis.Redis, view_matches: bool
) -> None:
    def view(request: Any) -> None:
        request.session.ensure_id()
        request.session["attempt"] = attempt(request)
        if attempt(request) < 2:
            raise RetryableException

    def configure(config: Any) -> None:
        with_retry(config)
        if view_matches:
            rendered(config)

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=configure)
    assert len(set_cookies(app.get("/view"))) == 1
    assert len(stored_sessions(redis_client)) == 1
    assert app.get("/show").text == "[('attempt', 2)] []"


def with_last_word(
    config: Any, where: str, act: Callable[[Any], object], render: bool = False
) -> None:
    """Have something act on the session when the response, or even the request, is done."""

    def on_response(request: Any, response: Any) -> None:
        act(request)

    def on_finished(request: Any) -> None:
        act(request)

    def new_request(event: Any) -> None:
        if where == "response callback":
            event.request.add_response_callback(on_response)
        elif where == "finished callback":
            event.request.add_finished_callback(on_finished)

    with_retry(config)
    if render:
        rendered(config)
    config.add_subscriber(new_request, NewRequest)
    if where == "NewResponse subscriber":
        config.add_subscriber(lambda event: act(event.request), NewResponse)


LAST_WORDS = ["response callback", "NewResponse subscriber", "finished callback"]


@pytest.mark.parametrize("where", LAST_WORDS)
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_what_is_done_last_in_a_repeated_attempt_leaves_no_trace(
    redis_url: str, redis_client: redis.Redis, act: Callable[[Any], object], where: str
) -> None:
    seen: list[str] = []

    def view(request: Any) -> None:
        seen.append(show(request))
        if attempt(request) == 0:
            raise RetryableException

    def last_word(request: Any) -> None:
        if request.path == "/view" and attempt(request) == 0:
            act(request.session)

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        configure=lambda config: with_last_word(config, where, last_word, render=True),
    )
    app.get("/start")
    before = stored_sessions(redis_client)
    assert set_cookies(app.get("/view")) == []
    assert seen == [START, START]
    assert stored_sessions(redis_client) == before


@pytest.mark.parametrize("where", LAST_WORDS)
@pytest.mark.parametrize("looks", [False, True], ids=["first use", "used by the view"])
def test_attempts_without_a_session_make_one_in_the_end(
    redis_url: str, redis_client: redis.Redis, where: str, looks: bool
) -> None:
    def view(request: Any) -> None:
        if looks:
            request.session["value"] = 1
        if attempt(request) < 2:
            raise RetryableException

    def last_word(request: Any) -> None:
        session = request.session
        session["pages"] = session.get("pages", 0) + 1

    app = make_app(
        redis_url,
        {"view": view},
        configure=lambda config: with_last_word(config, where, last_word, render=True),
    )
    assert len(set_cookies(app.get("/view"))) == 1
    assert len(stored_sessions(redis_client)) == 1


@pytest.mark.parametrize("where", LAST_WORDS)
def test_page_whose_save_conflicts_is_counted_once(redis_url: str, where: str) -> None:
    # The package's own view renders each conflict, as 409.
    race = Race(redis_url, intrude=increment)

    def view(request: Any) -> None:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1

    def last_word(request: Any) -> None:
        session = request.session
        session["pages"] = session.get("pages", 0) + 1

    app = make_app(
        redis_url,
        {"start": start, "view": view},
        on_conflict="retry",
        configure=lambda config: with_last_word(config, where, last_word),
    )
    app.get("/start")
    app.get("/view")
    assert race.attempts == 2
    assert "('pages', 2)" in make_shower(redis_url, app)


def make_shower(redis_url: str, app: Any) -> str:
    """Show the session of an application's user without any last word."""
    other = make_app(redis_url, {"show": show})
    text: str = other.get("/show", headers={"Cookie": f"session={app.cookies['session']}"}).text
    return text


def test_last_attempt_that_fails_keeps_its_changes_as_any_failed_request(redis_url: str) -> None:
    def view(request: Any) -> None:
        request.session[f"attempt{attempt(request)}"] = True
        raise RetryableException

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry)
    app.get("/start")
    with pytest.raises(RetryableException):
        app.get("/view")
    assert "attempt2" in app.get("/show").text
    assert "attempt1" not in app.get("/show").text
    assert "attempt0" not in app.get("/show").text


def test_error_that_is_not_retryable_is_no_repeated_attempt(redis_url: str) -> None:
    def view(request: Any) -> None:
        request.session["value"] = "second"
        raise ValueError

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry)
    app.get("/start")
    with pytest.raises(ValueError):  # noqa: PT011 - the view's own, without a text
        app.get("/view")
    assert "('value', 'second')" in app.get("/show").text


# -- conflicts -------------------------------------------------------------------------


class Race:
    """An application in whose requests another one writes, at a moment that we choose."""

    def __init__(self, redis_url: str, intrusions: int = 1, **views: Callable[[Any], Any]) -> None:
        self.attempts = 0
        self.intrusions = intrusions
        self._other = make_app(redis_url, {"intrude": views.pop("intrude")})

    def intrude(self, request: Any) -> None:
        """Serve a whole request of the same browser, in the middle of this one."""
        self.attempts += 1
        if self.attempts <= self.intrusions:
            self._other.reset()
            self._other.get(
                "/intrude", extra_environ={"HTTP_COOKIE": request.environ["HTTP_COOKIE"]}
            )


def increment(request: Any) -> None:
    request.session["n"] = request.session["n"] + 1


@pytest.mark.parametrize("tm", [False, True], ids=["alone", "with pyramid_tm"])
def test_counter_is_exact_under_retry(redis_url: str, tm: bool) -> None:
    race = Race(redis_url, intrude=increment)

    def view(request: Any) -> str:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1
        return str(n + 1)

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=TM,
        configure=with_tm_and_retry if tm else with_retry,
        on_conflict="retry",
    )
    app.get("/start")
    assert app.get("/view").text == "7"
    assert race.attempts == 2
    assert "('n', 7)" in app.get("/show").text


def test_counter_loses_an_update_under_merge_as_documented(redis_url: str) -> None:
    # What shows that the race of these tests is one.
    race = Race(redis_url, intrude=increment)

    def view(request: Any) -> None:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry)
    app.get("/start")
    app.get("/view")
    assert race.attempts == 1
    assert "('n', 6)" in app.get("/show").text


def set_n(request: Any) -> None:
    request.session["n"] = 6


def add_key(request: Any) -> None:
    request.session["added"] = True


def delete_value(request: Any) -> None:
    del request.session["value"]


def flash(request: Any) -> None:
    request.session.flash("intruder")


def pop_flash(request: Any) -> None:
    request.session.pop_flash()


def read_only(request: Any) -> None:
    assert request.session["n"] == 5


def set_same_bytes(request: Any) -> None:
    request.session["n"] = 5


def append_to_basket(request: Any) -> None:
    request.session["basket"].append("intruder")


Look = Callable[[Any], object]
Intrusion = Callable[[Any], None]

CONFLICTS: dict[str, tuple[Look, Intrusion]] = {
    "get, changed": (lambda session: session["n"], set_n),
    "get, deleted": (lambda session: session["value"], delete_value),
    "get of an absent key, added": (lambda session: session.get("added"), add_key),
    "in of an absent key, added": (lambda session: "added" in session, add_key),
    "in of a present key, deleted": (lambda session: "value" in session, delete_value),
    "iteration, added": (list, add_key),
    "iteration, deleted": (list, delete_value),
    "len, added": (len, add_key),
    "bool, added": (bool, add_key),
    "keys, added": (lambda session: list(session.keys()), add_key),
    "items, changed": (lambda session: dict(session.items()), set_n),
    "values, changed": (lambda session: list(session.values()), set_n),
    "copy, changed": (lambda session: session.copy(), set_n),
    "equal, changed": (lambda session: session == {}, set_n),
    "equal, added": (lambda session: session == {}, add_key),
    "peek_flash, added": (lambda session: session.peek_flash(), flash),
    "peek_flash, popped": (lambda session: session.peek_flash(), pop_flash),
    "flash without duplicate, added": (
        lambda session: session.flash("intruder", allow_duplicate=False),
        flash,
    ),
    "managed_dict, changed": (lambda session: session.managed_dict["n"], set_n),
    "nested, changed": (lambda session: session["basket"][:], append_to_basket),
    "pop, changed": (lambda session: session.pop("n"), set_n),
    "setdefault, added": (lambda session: session.setdefault("added", 1), add_key),
    "delete, deleted": (lambda session: session.pop("value"), delete_value),
}


@pytest.mark.parametrize(("look", "intrusion"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_request_runs_again_when_what_it_read_was_changed(
    redis_url: str, look: Look, intrusion: Intrusion
) -> None:
    race = Race(redis_url, intrude=intrusion)

    def view(request: Any) -> None:
        try:
            look(request.session)
        except KeyError:
            pass  # what the second attempt finds deleted
        race.intrude(request)
        request.session["written"] = race.attempts

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert race.attempts == 2
    assert "('written', 2)" in app.get("/show").text


PEACES: dict[str, tuple[Look, Intrusion]] = {
    "blind write of the same key": (lambda session: session.update(n=7), set_n),
    "blind write of another key": (lambda session: session.update(other=7), set_n),
    "read of another key": (lambda session: session["value"], set_n),
    "presence of a key that changed": (lambda session: "n" in session, set_n),
    "names, where a value changed": (list, set_n),
    "only read by the other": (lambda session: session["n"], read_only),
    "flash beside flash": (lambda session: session.flash("mine"), flash),
    "flash beside a new key": (lambda session: session.flash("mine"), add_key),
    "absent key, another added": (lambda session: session.get("absent"), add_key),
    "own write read back": (
        lambda session: (session.update(n=7), session["n"]),
        set_n,
    ),
}


@pytest.mark.parametrize(("look", "intrusion"), PEACES.values(), ids=PEACES.keys())
def test_request_does_not_run_again_when_what_it_read_still_holds(
    redis_url: str, look: Look, intrusion: Intrusion
) -> None:
    race = Race(redis_url, intrude=intrusion)

    def view(request: Any) -> None:
        look(request.session)
        race.intrude(request)
        request.session["written"] = race.attempts

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert race.attempts == 1
    assert "('written', 1)" in app.get("/show").text


def test_last_writer_wins_between_blind_writes(redis_url: str) -> None:
    race = Race(redis_url, intrude=set_n)

    def view(request: Any) -> None:
        request.session["n"] = "mine"
        race.intrude(request)

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert "('n', 'mine')" in app.get("/show").text


def test_equal_bytes_are_no_excuse(redis_url: str) -> None:
    # Both count from 5 to 6, so both would store the same bytes.
    race = Race(redis_url, intrude=set_n)

    def view(request: Any) -> None:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert race.attempts == 2
    assert "('n', 7)" in app.get("/show").text


def test_request_that_only_read_never_conflicts(redis_url: str) -> None:
    race = Race(redis_url, intrude=set_n)

    def view(request: Any) -> None:
        list(request.session.items())
        race.intrude(request)

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert race.attempts == 1


def test_conflict_with_a_new_token_keeps_the_old_one_good_for_the_next_attempt(
    redis_url: str, redis_client: redis.Redis
) -> None:
    race = Race(redis_url, intrude=increment)

    def login(request: Any) -> None:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1
        request.session.regenerate_id()

    app = make_app(redis_url, {**VIEWS, "login": login}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    before = app.cookies["session"]
    assert len(set_cookies(app.get("/login"))) == 1
    assert race.attempts == 2
    assert "('n', 7)" in app.get("/show").text
    assert len(stored_sessions(redis_client)) == 1
    app.reset()
    app.set_cookie("session", before)
    assert app.get("/show").text == "[] []"


# -- what the application sees of a conflict -----------------------------------------------


def test_conflict_is_an_error_that_others_know_to_repeat() -> None:
    assert issubclass(SessionConflict, TransientError)
    assert IRetryableError.implementedBy(SessionConflict)


def conflicting(race: Race) -> Callable[[Any], None]:
    def view(request: Any) -> None:
        n = request.session["n"]
        race.intrude(request)
        request.session["n"] = n + 1
        request.session["half"] = True
        request.session.flash("half")

    return view


def data_of(client: redis.Redis) -> dict[bytes, bytes]:
    (fields,) = stored_sessions(client).values()
    return {field: fields[field] for field in data_fields(fields)}


@pytest.mark.parametrize("attempts", [None, 3], ids=["no pyramid_retry", "last attempt"])
@pytest.mark.parametrize("own_view", [False, True], ids=["default view", "own view"])
@pytest.mark.parametrize("tm", [False, True], ids=["alone", "with pyramid_tm"])
def test_conflict_that_is_not_repeated_is_answered_and_nothing_is_half_saved(
    redis_url: str,
    redis_client: redis.Redis,
    tmp_path: Path,
    attempts: int | None,
    own_view: bool,
    tm: bool,
) -> None:
    ledger = Ledger(tmp_path)
    race = Race(redis_url, intrusions=100, intrude=increment)
    conflict = conflicting(race)

    def view(request: Any) -> None:
        if tm:
            ledger.add(request, "must not be")
        conflict(request)

    def configure(config: Any) -> None:
        if tm:
            config.include("pyramid_tm")
        if attempts is not None:
            config.include("pyramid_retry")
        if own_view:
            config.add_exception_view(
                lambda exc, request: Response("please try again", status=503),
                context=SessionConflict,
            )

    app = make_app(
        redis_url, {**VIEWS, "view": view}, settings=TM, configure=configure, on_conflict="retry"
    )
    app.get("/start")
    before = data_of(redis_client)
    response = app.get("/view", status=503 if own_view else 409)
    assert ("please try again" in response.text) is own_view
    tries = attempts or 1
    assert race.attempts == tries
    after = data_of(redis_client)
    assert {field for field in after if before.get(field) != after[field]} == {b".n"}
    assert set(after) == set(before)
    assert f"('n', {5 + tries})" in app.get("/show").text
    assert ledger.entries == []


def test_exception_views_own_flash_is_kept_after_a_conflict(redis_url: str) -> None:
    race = Race(redis_url, intrude=increment)

    def render(exc: Any, request: Any) -> Response:
        request.session.flash("please try again")
        return Response("conflict", status=409)

    def configure(config: Any) -> None:
        config.add_exception_view(render, context=SessionConflict)

    app = make_app(
        redis_url,
        {**VIEWS, "view": conflicting(race)},
        configure=configure,
        on_conflict="retry",
    )
    app.get("/start")
    app.get("/view", status=409)
    assert app.get("/show").text == (
        "[('basket', []), ('n', 6), ('value', 'first')] ['hello', 'please try again']"
    )


@pytest.mark.parametrize("intrusions", [0, 1, 2])
def test_successful_request_commits_the_database_exactly_once(
    redis_url: str, tmp_path: Path, intrusions: int
) -> None:
    ledger = Ledger(tmp_path)
    race = Race(redis_url, intrusions=intrusions, intrude=increment)

    def view(request: Any) -> None:
        n = request.session["n"]
        ledger.add(request, f"attempt {attempt(request)}")
        race.intrude(request)
        request.session["n"] = n + 1

    app = make_app(
        redis_url,
        {**VIEWS, "view": view},
        settings=TM,
        configure=with_tm_and_retry,
        on_conflict="retry",
    )
    app.get("/start")
    app.get("/view")
    assert ledger.entries == [f"attempt {intrusions}"]
    assert f"('n', {6 + intrusions})" in app.get("/show").text


def test_conflict_in_a_late_callback_is_no_silent_loss(redis_url: str) -> None:
    race = Race(redis_url, intrude=increment)

    def view(request: Any) -> None:
        session = request.session
        n = session["n"]

        def late(request: Any, response: Any) -> None:
            race.intrude(request)
            session["n"] = n + 1

        request.add_response_callback(late)

    app = make_app(redis_url, {**VIEWS, "view": view}, configure=with_retry, on_conflict="retry")
    app.get("/start")
    app.get("/view")
    assert race.attempts == 2
    assert "('n', 7)" in app.get("/show").text
