"""How many sessions an owner may have, and what happens to one that would be too many."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

from pyramid_redis_lua_sessions import StoreError, TooManySessions, revoke, sessions_of
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.application import set_cookies, stored_sessions
from tests.support.browser import Browser, make_browser
from tests.support.ledger import UNKNOWN_ACCOUNT, Ledger
from tests.support.overlap import Overlap, Start, put

MODES = ["merge", "retry"]


def refusing(url: str, most: Any = 2, **options: Any) -> Browser:
    return make_browser(url, owner_sessions=most, owner_sessions_policy="refuse", **options)


def own(owner: Any = "ada") -> Callable[[Any], None]:
    return lambda session: setattr(session, "owner", owner)


def owner_of(browser: Browser) -> Any:
    return browser.use(lambda session: session.owner)


def log_in(browser: Browser, owner: Any = "ada", status: int = 200) -> Browser:
    browser.use(own(owner), status=status)
    return browser


def make_older(client: Any) -> None:
    """As if two minutes had passed since all that stands in an index was put there."""
    for key in client.keys("session:owner:*"):
        for name in client.zrange(key, 0, -1):
            client.zincrby(key, -120_000_000, name)


def with_transactions(config: Any) -> None:
    config.include("pyramid_tm")
    config.include("pyramid_retry")


# -- refuse --------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["nothing", "anonymous"])
@pytest.mark.parametrize("mode", MODES)
def test_login_that_is_one_too_many_is_refused_and_changes_nothing(
    redis_url: str, redis_client: Any, mode: str, start: str
) -> None:
    browser = refusing(redis_url, on_conflict=mode)
    users = [log_in(browser.another()) for _ in range(2)]
    late = browser.another()
    if start == "anonymous":
        late.use(put("cart", 1))
    before, stored = late.token, stored_sessions(redis_client)

    def view(request: Any) -> None:
        request.session["cart"] = 2
        request.session.owner = "ada"

    late.visit(view, status=403)
    assert set_cookies(late.response) == []
    assert late.token == before
    assert stored_sessions(redis_client) == stored
    assert late.use(dict) == ({"cart": 1} if start == "anonymous" else {})
    assert [owner_of(user) for user in users] == ["ada", "ada"]
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 2


def test_refusal_reaches_the_exception_views_of_the_application(redis_url: str) -> None:
    def configure(config: Any) -> None:
        config.add_exception_view(lambda request: HTTPFound("/devices"), context=TooManySessions)

    browser = refusing(redis_url, 1, configure=configure)
    log_in(browser.another())
    log_in(browser, status=302)
    assert browser.response.location == "http://localhost/devices"
    assert owner_of(browser) is None


def test_refusal_says_nothing_of_the_owner(redis_url: str) -> None:
    browser = refusing(redis_url, 1)
    log_in(browser.another(), "ada@example.org")

    def view(request: Any) -> str:
        request.session.owner = "ada@example.org"
        with pytest.raises(TooManySessions) as caught:
            request.session.ensure_id()
        return f"{caught.value} {caught.value!r}"

    assert "ada" not in browser.visit(view, status=403)


@pytest.mark.parametrize("how", ["logout", "revoke", "another owner", "expiry"])
def test_session_that_has_ended_makes_room(redis_url: str, redis_client: Any, how: str) -> None:
    browser = refusing(redis_url)
    users = [log_in(browser.another()) for _ in range(2)]
    if how == "logout":
        users[0].use(lambda session: session.invalidate())
    elif how == "revoke":
        name = sessions_of(browser.wsgi.registry, "ada")[0].fingerprint
        assert revoke(browser.wsgi.registry, "ada", fingerprint=name) == 1
    else:
        if how == "another owner":
            log_in(users[0], "bob")
        else:
            redis_client.delete(users[0].key)
        log_in(browser, status=403)  # for a minute it may be that of a login under way
        make_older(redis_client)
    log_in(browser)
    assert owner_of(browser) == owner_of(users[1]) == "ada"
    log_in(browser.another(), status=403)


def test_many_that_have_ended_make_room_at_once(redis_url: str, redis_client: Any) -> None:
    browser = refusing(redis_url, 700)
    (key,) = [log_in(browser) and redis_client.keys("session:owner:*")][0]
    redis_client.zadd(key, {f"gone{number}": number for number in range(699)})
    log_in(browser.another())
    assert redis_client.zcard(key) == 2


def test_nothing_ends_when_the_limit_is_lowered(redis_url: str) -> None:
    users = [log_in(make_browser(redis_url)) for _ in range(3)]
    browser = refusing(redis_url, 1)
    for cookie in users[0].app.cookiejar:
        browser.app.cookiejar.set_cookie(cookie)

    def again(session: Any) -> None:
        session.regenerate_id()
        session.owner = "ada"  # the password was asked for once more

    browser.use(again)
    browser.use(lambda session: session.regenerate_id())
    assert owner_of(browser) == "ada"
    assert [owner_of(user) for user in users[1:]] == ["ada", "ada"]
    log_in(browser.another(), status=403)


@pytest.mark.parametrize("mode", MODES)
def test_session_that_ends_with_the_login_takes_no_room(redis_url: str, mode: str) -> None:
    browser = refusing(redis_url, 1, on_conflict=mode)
    log_in(browser)
    first = browser.session_id

    def view(request: Any) -> None:
        request.session.get("n")
        request.session.invalidate()
        request.session.owner = "ada"

    browser.visit(view)
    assert owner_of(browser) == "ada"
    assert browser.session_id != first
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 1
    log_in(browser.another(), status=403)


def test_owner_who_comes_back_to_a_session_counts_once(redis_url: str, redis_client: Any) -> None:
    browser = refusing(redis_url, 1)
    log_in(browser)
    make_older(redis_client)
    log_in(log_in(browser, "bob"))
    assert owner_of(browser) == "ada"
    # Its entry is young again: nobody takes its room.
    log_in(browser.another(), status=403)
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 1


def test_refused_login_costs_three_round_trips_and_others_one_more_than_before(
    proxy: CountingProxy,
) -> None:
    browser = refusing(proxy.url)
    for _ in range(2):
        proxy.reset()
        log_in(browser.another())
        assert proxy.round_trips == 2
    proxy.reset()
    log_in(browser, status=403)
    # Ask; look at the index, and at its sessions: nothing has ended, so nobody asks again.
    assert proxy.round_trips == 3


@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("start", ["nothing", "anonymous"])
def test_no_more_than_there_is_room_for_get_in_however_many_log_in_at_once(
    redis_url: str, redis_client: Any, start: str, most: int
) -> None:
    with Overlap(redis_url, owner_sessions=most, owner_sessions_policy="refuse") as overlap:
        for _ in range(3):
            redis_client.flushall()
            befores = [None] * 50
            if start == "anonymous":
                befores = [overlap.run(None, put("n", 1)).cookie for _ in befores]  # type: ignore[misc]
            logins = [overlap.begin(cookie) for cookie in befores]
            for login in logins:
                login.do(own())
            statuses = [answer.status for answer in overlap.together(logins)]
            assert sorted(statuses) == [200] * most + [403] * (50 - most)
            assert len(sessions_of(overlap.registry, "ada")) == most


def test_room_that_an_ended_session_leaves_is_taken_once(redis_url: str, redis_client: Any) -> None:
    with Overlap(redis_url, owner_sessions=1, owner_sessions_policy="refuse") as overlap:
        for _ in range(20):
            redis_client.flushall()
            gone = overlap.run(None, own()).cookie
            overlap.run(gone, lambda session: session.invalidate())
            logins = [overlap.begin() for _ in range(10)]
            for login in logins:
                login.do(own())
            answers = overlap.together(logins)
            assert sorted(answer.status for answer in answers) == [200] + [403] * 9
            assert len(sessions_of(overlap.registry, "ada")) == 1


@pytest.mark.parametrize("start", ["nothing", "anonymous"])
def test_lost_reply_to_being_let_in_does_not_count_twice(proxy: CountingProxy, start: str) -> None:
    browser = refusing(proxy.url, 1)
    if start == "anonymous":
        browser.use(put("n", 1))

    def view(request: Any) -> None:
        request.session.owner = "ada"
        len(request.session)
        proxy.lose_replies(1)

    browser.visit(view)
    assert owner_of(browser) == "ada"
    log_in(browser.another(), status=403)


def test_login_that_redis_refuses_leaves_its_room(redis_url: str, redis_client: Any) -> None:
    # Redis lets it into the index, and then takes no session.
    browser = refusing(redis_url, 1)
    user = "no_sessions on >pw ~* +@all"
    redis_client.execute_command("ACL", "SETUSER", *user.split())
    limited = refusing(redis_url.replace("://", "://no_sessions:pw@"), 1)
    assert owner_of(limited) is None
    redis_client.execute_command("ACL", "SETUSER", "no_sessions", "-hset")
    try:
        with pytest.raises(StoreError):
            log_in(limited)
        assert redis_client.keys("session:owner:*") == []
        log_in(browser)
    finally:
        redis_client.execute_command("ACL", "DELUSER", "no_sessions")


# -- transactions ------------------------------------------------------------------


#: One session an owner, and a transaction around each request.
ONE_SESSION: dict[str, Any] = {
    "configure": with_transactions,
    "owner_sessions": 1,
    "owner_sessions_policy": "refuse",
}


@pytest.mark.parametrize("start_with", ["nothing", "anonymous"])
@pytest.mark.parametrize("mode", MODES)
def test_refused_login_aborts_the_transaction(
    start: Start, ledger: Ledger, mode: str, start_with: str
) -> None:
    overlap = start(**ONE_SESSION, on_conflict=mode)
    cookie = overlap.run(None, put("n", 1)).cookie if start_with == "anonymous" else None
    overlap.run(None, own())
    late = overlap.begin(cookie)
    late.do(own())
    late.do_request(lambda request: ledger.add(request, "logged in"))
    assert late.finish().status == 403
    assert ledger.entries == []


@pytest.mark.parametrize("policy", ["end_oldest", "refuse", "end_others"])
@pytest.mark.parametrize("start_with", ["nothing", "anonymous"])
@pytest.mark.parametrize("mode", MODES)
def test_limit_is_asked_before_the_databases_vote_and_an_error_of_it_aborts_them(
    start: Start, ledger: Ledger, mode: str, start_with: str, policy: str
) -> None:
    asked = []

    def most(request: Any, owner: Any) -> Any:
        asked.append((owner, ledger.entries))
        return 3 if owner == "ada" else None

    options = {"owner_sessions": most, "owner_sessions_policy": policy, "on_conflict": mode}
    overlap = start(configure=with_transactions, **options)
    cookie = overlap.run(None, put("n", 1)).cookie if start_with == "anonymous" else None
    for owner in ("bob", "ada"):
        login = overlap.begin(cookie)
        login.do(own(owner))
        login.do_request(lambda request: ledger.add(request, "logged in"))
        if owner == "bob":
            with pytest.raises(ValueError, match="owner_sessions must return"):
                login.finish()
            assert ledger.entries == []
    reading = overlap.begin(login.finish().cookie)
    assert reading.do(lambda session: session.owner) == "ada"
    assert ledger.entries == ["logged in"]
    assert asked == [("bob", []), ("ada", [])]


@pytest.mark.parametrize("mode", MODES)
def test_login_within_the_limit_is_committed_with_its_transaction(
    start: Start, ledger: Ledger, mode: str
) -> None:
    overlap = start(**ONE_SESSION, on_conflict=mode)
    anonymous = overlap.run(None, put("n", 1)).cookie
    login = overlap.begin(anonymous)
    login.do(own())
    login.do_request(lambda request: ledger.add(request, "logged in"))
    answer = login.finish()
    assert answer.status == 200
    assert ledger.entries == ["logged in"]
    reading = overlap.begin(answer.cookie)
    assert reading.do(lambda session: session.owner) == "ada"


@pytest.mark.parametrize("start_with", ["nothing", "anonymous"])
@pytest.mark.parametrize("mode", MODES)
def test_login_whose_transaction_fails_takes_no_room_or_for_a_minute(
    start: Start, ledger: Ledger, redis_client: Any, mode: str, start_with: str
) -> None:
    overlap = start(**ONE_SESSION, on_conflict=mode)
    cookie = overlap.run(None, put("n", 1)).cookie if start_with == "anonymous" else None
    login = overlap.begin(cookie)
    login.do(own())
    login.do_request(lambda request: ledger.add(request, "no", account=UNKNOWN_ACCOUNT))
    with pytest.raises(Exception, match="FOREIGN KEY"):
        login.finish()
    if start_with == "anonymous":
        # A login of the same session may be under way elsewhere, so its place stays for now.
        assert overlap.run(None, own()).status == 403
        make_older(redis_client)
    assert overlap.run(None, own()).status == 200


# -- end others --------------------------------------------------------------------


def test_one_more_ends_all_others(redis_url: str, redis_client: Any) -> None:
    browser = make_browser(redis_url, owner_sessions=3, owner_sessions_policy="end_others")
    users = [log_in(browser.another()) for _ in range(3)]
    assert [owner_of(user) for user in users] == ["ada"] * 3
    log_in(browser)
    assert [owner_of(user) for user in users] == [None] * 3
    assert owner_of(browser) == "ada"
    (key,) = redis_client.keys("session:owner:*")
    assert redis_client.zrange(key, 0, -1) == [(browser.session_id or "").encode()]
    # From here it counts anew.
    log_in(users[0])
    assert owner_of(browser) == "ada"


@pytest.mark.parametrize("policy", ["end_oldest", "end_others"])
@pytest.mark.parametrize("now", ["bob", None])
@pytest.mark.parametrize("mode", MODES)
def test_login_does_not_end_what_was_the_owners_a_moment_ago(
    redis_url: str, mode: str, now: str | None, policy: str
) -> None:
    browser = make_browser(
        redis_url, owner_sessions=1, owner_sessions_policy=policy, on_conflict=mode
    )
    log_in(browser)
    browser.use(lambda session: session.update(n=1))
    browser.use(own(now))
    other = log_in(browser.another())
    assert browser.use(lambda session: (session.owner, session.get("n"))) == (now, 1)
    assert owner_of(other) == "ada"
    # Who comes back is one too many, as ever.
    browser.use(own("ada"))
    assert (owner_of(browser), owner_of(other)) == ("ada", None)


@pytest.mark.parametrize("policy", ["end_oldest", "end_others"])
def test_who_comes_back_after_long_stays(redis_url: str, redis_client: Any, policy: str) -> None:
    browser = make_browser(redis_url, owner_sessions=1, owner_sessions_policy=policy)
    log_in(browser)
    browser.use(own("bob"))
    make_older(redis_client)
    other = log_in(browser.another())
    make_older(redis_client)
    browser.use(own("ada"))
    assert (owner_of(browser), owner_of(other)) == ("ada", None)


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_than_the_limit_stay_when_logins_that_end_all_others_overlap(
    redis_url: str, redis_client: Any, most: int
) -> None:
    with Overlap(redis_url, owner_sessions=most, owner_sessions_policy="end_others") as overlap:
        for _ in range(3):
            redis_client.flushall()
            logins = [overlap.begin() for _ in range(50)]
            for login in logins:
                login.do(own())
            overlap.together(logins)
            (key,) = redis_client.keys("session:owner:*")
            newest = redis_client.zrange(key, -1, -1)[0].decode()
            alive = set(stored_sessions(redis_client))
            assert newest in alive
            assert len(alive) <= most


# -- the limit of an owner -----------------------------------------------------------


@pytest.mark.parametrize("policy", ["end_oldest", "refuse", "end_others"])
def test_limit_is_asked_for_each_owner_at_the_login(redis_url: str, policy: str) -> None:
    asked = []

    def most(request: Any, owner: Any) -> int:
        asked.append((request.path, owner))
        return 3 if owner == 7 else 1

    browser = make_browser(redis_url, owner_sessions=most, owner_sessions_policy=policy)
    statuses = []
    for owner in (7, 7, 7, "ada", "ada"):
        user = browser.another()
        user.use(own(owner), expect_errors=True)
        statuses.append(user.response.status_int)
    assert statuses == [200] * 4 + [403 if policy == "refuse" else 200]
    assert len(sessions_of(browser.wsgi.registry, 7)) == 3
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 1
    assert asked == [("/", 7)] * 3 + [("/", "ada")] * 2


def test_limit_is_not_asked_for_without_a_login(redis_url: str) -> None:
    asked = []

    def most(request: Any, owner: Any) -> int:
        asked.append(owner)
        return 1

    browser = make_browser(redis_url, owner_sessions=most)
    browser.use(put("n", 1))
    log_in(browser)
    asked.clear()
    browser.use(put("n", 2))
    browser.use(lambda session: session.regenerate_id())
    assert owner_of(browser) == "ada"
    assert asked == []


@pytest.mark.parametrize("answer", [0, -1, None, True, "3", 1.5])
def test_limit_that_is_no_number_is_an_error_at_the_login(
    redis_url: str, redis_client: Any, answer: Any
) -> None:
    browser = make_browser(redis_url, owner_sessions=lambda request, owner: answer)
    with pytest.raises(ValueError, match="owner_sessions must return a whole number, 1 or more"):
        log_in(browser)
    assert stored_sessions(redis_client) == {}


def test_parallel_logins_by_threads_never_pass_the_limit(redis_url: str) -> None:
    browser = refusing(redis_url, 3)
    users = [browser.another() for _ in range(50)]
    start = threading.Barrier(len(users))

    def run(user: Browser) -> None:
        start.wait()
        user.use(own(), expect_errors=True)

    threads = [threading.Thread(target=run, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sessions_of(browser.wsgi.registry, "ada")) == 3
    assert [user.response.status_int for user in users].count(200) == 3


def test_response_without_a_cookie_takes_no_room(redis_url: str) -> None:
    browser = refusing(
        redis_url, 1, func_check_response_allow_cookies=lambda r: "no" not in r.headers
    )

    def view(request: Any) -> Response:
        request.session.owner = "ada"
        return Response("done", headers={"no": "1"})

    browser.visit(view)
    log_in(browser)
    assert owner_of(browser) == "ada"
