"""``revoke``: log out everywhere, also where logins and new ids are under way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pyramid.response import Response
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions import (
    SessionEvent,
    SessionInvalidated,
    SessionRegenerated,
    StoreError,
    revoke,
    sessions_of,
)
from pyramid_redis_lua_sessions.errors import (
    InvalidSession_ChangesDropped,
    InvalidSession_NotInBackend,
    fingerprint,
)
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.application import set_cookies, stored_sessions
from tests.support.browser import Browser, make_browser
from tests.support.ledger import UNKNOWN_ACCOUNT, Ledger
from tests.support.overlap import Overlap, Start, id_in, put
from tests.support.voting import Voting


def log_in(browser: Browser, owner: Any = "ada", label: str | None = None) -> Browser:
    def view(request: Any) -> None:
        request.session.owner = owner
        request.session.label = label

    browser.visit(view)
    return browser


def everywhere(browser: Browser, count: int = 4, owner: Any = "ada") -> list[Browser]:
    """Log in from so many devices."""
    return [log_in(browser.another(), owner) for _ in range(count)]


def owner_of(browser: Browser) -> Any:
    return browser.use(lambda session: session.owner)


# -- what is ended -----------------------------------------------------------------


def test_all_other_sessions_end_and_the_current_one_stays(redis_url: str) -> None:
    browser = make_browser(redis_url)
    devices = everywhere(browser)
    stranger = log_in(browser.another(), "bob")
    assert devices[1].visit(lambda request: revoke(request, "ada")) == 3
    assert [owner_of(device) for device in devices] == [None, "ada", None, None]
    assert owner_of(stranger) == "bob"
    assert devices[1].visit(lambda request: revoke(request, "ada")) == 0


def test_current_session_ends_too_when_it_is_not_excepted(redis_url: str) -> None:
    devices = everywhere(make_browser(redis_url))
    assert devices[0].visit(lambda request: revoke(request, "ada", except_current=False)) == 4
    assert [owner_of(device) for device in devices] == [None] * 4


def test_registry_spares_no_session(redis_url: str) -> None:
    devices = everywhere(make_browser(redis_url))
    assert revoke(devices[0].wsgi.registry, "ada") == 4
    assert [owner_of(device) for device in devices] == [None] * 4


def test_one_session_ends_when_it_is_named(redis_url: str) -> None:
    devices = everywhere(make_browser(redis_url))

    def view(request: Any) -> Any:
        chosen = sessions_of(request, "ada")[2].fingerprint
        return revoke(request, "ada", fingerprint=chosen)

    assert devices[0].visit(view) == 1
    assert [owner_of(device) for device in devices] == ["ada", "ada", None, "ada"]


@pytest.mark.parametrize("name", ["", "0" * 12, "x"])
def test_nothing_ends_when_the_named_session_is_unknown(redis_url: str, name: str) -> None:
    devices = everywhere(make_browser(redis_url))
    assert revoke(devices[0].wsgi.registry, "ada", fingerprint=name) == 0
    assert [owner_of(device) for device in devices] == ["ada"] * 4


def test_session_of_another_owner_does_not_end_when_it_is_named(redis_url: str) -> None:
    browser = log_in(make_browser(redis_url), "bob")
    everywhere(browser)
    name = fingerprint(browser.session_id or "")
    assert revoke(browser.wsgi.registry, "ada", fingerprint=name) == 0
    assert owner_of(browser) == "bob"


def test_current_session_is_spared_also_when_it_is_named(redis_url: str) -> None:
    browser = log_in(make_browser(redis_url))
    name = fingerprint(browser.session_id or "")
    assert browser.visit(lambda request: revoke(request, "ada", fingerprint=name)) == 0

    def view(request: Any) -> Any:
        return revoke(request, "ada", except_current=False, fingerprint=name)

    assert browser.visit(view) == 1
    assert owner_of(browser) is None


def test_unknown_owner_has_nothing_to_end(redis_url: str) -> None:
    assert revoke(make_browser(redis_url).wsgi.registry, "nobody") == 0


def test_nothing_but_markers_is_left_behind(redis_url: str, redis_client: redis.Redis) -> None:
    devices = everywhere(make_browser(redis_url))
    revoke(devices[0].wsgi.registry, "ada")
    for device in devices:
        assert set(redis_client.hgetall(device.key)) == {b"moved"}
        assert 0 < redis_client.pttl(device.key) <= 60_000  # type: ignore[operator]
    assert redis_client.keys("session:owner:*") == []


def test_login_after_a_revoke_is_a_new_session(redis_url: str) -> None:
    browser = make_browser(redis_url)
    devices = everywhere(browser)
    revoke(browser.wsgi.registry, "ada")
    log_in(devices[0])
    assert [owner_of(device) for device in devices] == ["ada", None, None, None]


def test_revoke_takes_four_round_trips(proxy: CountingProxy) -> None:
    browser = make_browser(proxy.url)
    everywhere(browser, 20)
    proxy.reset()
    assert revoke(browser.wsgi.registry, "ada") == 20
    # Read the index, look at the sessions, end them, take them out.
    assert proxy.round_trips == 4


def test_revoke_that_fails_is_an_error_and_not_dropped(
    new_redis_server: Callable[..., RedisServer],
) -> None:
    server = new_redis_server()
    browser = make_browser(server.url)
    everywhere(browser)
    server.kill()
    with pytest.raises(StoreError):
        revoke(browser.wsgi.registry, "ada")


def test_two_revokes_at_once_end_everything(redis_url: str) -> None:
    devices = everywhere(make_browser(redis_url), 30)
    registry = devices[0].wsgi.registry
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(revoke(registry, "ada"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 30
    assert [owner_of(device) for device in devices] == [None] * 30


def test_reply_to_a_revoke_that_was_lost_changes_nothing(proxy: CountingProxy) -> None:
    devices = everywhere(make_browser(proxy.url))
    owner_of(devices[0])
    proxy.lose_replies(1)
    revoke(devices[0].wsgi.registry, "ada")
    assert [owner_of(device) for device in devices] == [None] * 4


@pytest.mark.parametrize("ahead", [float("inf"), 4e15])
def test_revoke_that_somebody_wrote_into_an_index_logs_nobody_out_for_good(
    ahead: float, redis_url: str, redis_client: redis.Redis
) -> None:
    browser = log_in(make_browser(redis_url))
    (index,) = redis_client.keys("session:owner:*")  # type: ignore[misc]
    redis_client.zadd(index, {"": ahead})
    # It may end what was there before, as a revoke does; not those who log in again.
    again = log_in(browser.another())
    for _ in range(2):
        again.use(lambda session: session.regenerate_id())
        assert owner_of(again) == "ada"
    assert again.visit(lambda request: revoke(request, "ada")) == 1
    assert owner_of(again) == "ada"


# -- requests in flight ------------------------------------------------------------


def own(owner: Any) -> Callable[[Any], None]:
    return lambda session: setattr(session, "owner", owner)


def regenerate(session: Any) -> None:
    session.regenerate_id()


def log_out_everywhere(overlap: Overlap) -> int:
    return revoke(overlap.registry, "ada")


def still_owned(client: Any) -> list[str]:
    """The ids of live sessions that have an owner."""
    return [name for name, fields in stored_sessions(client).items() if b"owner" in fields]


def test_request_in_flight_saves_nothing(start: Start, redis_client: Any) -> None:
    overlap = start()
    cookie = overlap.run(None, own("ada"), put("n", 1)).cookie
    slow = overlap.begin(cookie)
    assert slow.do(lambda session: session["n"]) == 1
    slow.do(put("n", 2))
    assert log_out_everywhere(overlap) == 1
    answer = slow.finish()
    assert answer.cookies == []
    assert [type(problem) for problem in slow.problems] == [InvalidSession_ChangesDropped]
    assert stored_sessions(redis_client) == {}


def test_request_that_arrives_after_a_revoke_is_logged_out(start: Start) -> None:
    overlap = start(grace=0)
    cookie = overlap.run(None, own("ada")).cookie
    log_out_everywhere(overlap)
    late = overlap.begin(cookie)
    assert late.do(lambda session: session.owner) is None
    assert [type(problem) for problem in late.problems] == [InvalidSession_NotInBackend]
    late.finish()


@pytest.mark.parametrize("mode", ["merge", "retry"])
def test_regeneration_that_ends_after_a_revoke_brings_nothing_back(
    start: Start, redis_client: Any, mode: str
) -> None:
    overlap = start(on_conflict=mode)
    cookie = overlap.run(None, own("ada"), put("n", 1)).cookie
    slow = overlap.begin(cookie)
    slow.do(regenerate)
    log_out_everywhere(overlap)
    answer = slow.finish()
    assert stored_sessions(redis_client) == {}
    assert overlap.read(answer.cookie or cookie) == {}


def test_regeneration_after_a_revoke_saves_nothing(start: Start, redis_client: Any) -> None:
    overlap = start()
    cookie = overlap.run(None, own("ada"), put("secret", 1)).cookie
    slow = overlap.begin(cookie)
    slow.do(regenerate)
    slow.do(put("n", 2))
    log_out_everywhere(overlap)
    answer = slow.finish()
    assert answer.cookies == []
    assert [str(problem).partition(" (")[0] for problem in slow.problems] == [
        "session has ended; changes dropped"
    ]
    assert stored_sessions(redis_client) == {}


@pytest.mark.parametrize("order", ["new id first", "owner first"])
def test_same_owner_set_again_with_a_new_id_is_a_login(
    start: Start, redis_client: Any, order: str
) -> None:
    overlap = start()
    slow = overlap.begin(overlap.run(None, own("ada"), put("secret", 1)).cookie)
    steps = [regenerate, own("ada")]
    for step in steps if order == "new id first" else reversed(steps):
        slow.do(step)
    log_out_everywhere(overlap)
    answer = slow.finish()
    assert still_owned(redis_client) == [id_in(answer.cookie)]
    assert overlap.read(answer.cookie) == {}


def test_login_after_a_revoke_can_get_new_ids(redis_url: str) -> None:
    browser = log_in(make_browser(redis_url))
    revoke(browser.wsgi.registry, "ada")
    log_in(browser)
    for _ in range(3):
        browser.use(regenerate)
    assert owner_of(browser) == "ada"


@pytest.mark.parametrize("lost", [False, True], ids=["index there", "index evicted"])
def test_spared_session_can_get_new_ids(
    redis_url: str, redis_client: redis.Redis, lost: bool
) -> None:
    devices = everywhere(make_browser(redis_url))
    if lost:
        redis_client.delete(*redis_client.keys("session:owner:*"))  # type: ignore[misc]

    def view(request: Any) -> int:
        ended = revoke(request, "ada")
        request.session.regenerate_id()
        return ended

    assert devices[0].visit(view) == (0 if lost else 3)
    devices[0].use(regenerate)
    assert owner_of(devices[0]) == "ada"


def test_session_of_somebody_else_is_not_put_into_the_owners_index(
    redis_url: str, redis_client: redis.Redis
) -> None:
    administrator = log_in(make_browser(redis_url), "root")
    log_in(administrator.another())
    assert administrator.visit(lambda request: revoke(request, "ada")) == 1
    names = [redis_client.zrange(key, 0, -1) for key in redis_client.keys("session:owner:*")]  # type: ignore[union-attr]
    assert names == [[(administrator.session_id or "").encode()]]
    administrator.use(regenerate)
    assert owner_of(administrator) == "root"


def test_new_id_is_no_revocation_when_the_index_was_evicted(
    redis_url: str, redis_client: redis.Redis
) -> None:
    browser = log_in(make_browser(redis_url))
    redis_client.delete(*redis_client.keys("session:owner:*"))  # type: ignore[misc]
    browser.use(regenerate)
    assert owner_of(browser) == "ada"


def test_login_that_ends_after_a_revoke_is_a_new_login(start: Start) -> None:
    # Whoever can log in can do so after the revoke as well: an application that revokes because
    # of a stolen password changes it first.
    overlap = start()
    old = overlap.run(None, own("ada"), put("cart", 1)).cookie
    slow = overlap.begin(old)
    slow.do(own("bob"))
    log_out_everywhere(overlap)
    answer = slow.finish()
    assert overlap.read(answer.cookie) == {}
    driven = overlap.begin(answer.cookie)
    assert driven.do(lambda session: session.owner) == "bob"


def test_logout_after_a_revoke_still_deletes_the_cookie(start: Start, redis_client: Any) -> None:
    overlap = start()
    cookie = overlap.run(None, own("ada")).cookie
    slow = overlap.begin(cookie)
    slow.do(lambda session: session.owner)
    log_out_everywhere(overlap)
    slow.do(lambda session: session.invalidate())
    slow.finish()
    assert stored_sessions(redis_client) == {}


class Step:
    """Runs something between two commands that reach Redis, by a client that waits there.

    A pipeline is cut into its commands, in their order: what Redis itself may do with one that
    is larger than its read buffer, and what Redis Cluster makes of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.number = 0
        #: What to run before which command, counted from 1.
        self.before: dict[int, Callable[[], object]] = {}
        #: What to run before every command of a name.
        self.before_each: dict[str, Callable[[], object]] = {}

    def come_to(self, name: str) -> None:
        """A command of this name is about to be sent."""
        self.number += 1
        action = self.before.pop(self.number, None)
        if action is not None:
            action()
        if name in self.before_each:
            self.before_each[name]()

    def client(self, request: Any, **options: Any) -> Any:
        step = self

        class Pipeline:
            def __init__(self, send: Callable[..., Any]) -> None:
                self.send = send
                self.calls: list[tuple[Any, ...]] = []

            def __enter__(self) -> Pipeline:
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def execute_command(self, *args: Any, **options: Any) -> None:
                self.calls.append(args)

            def execute(self, raise_on_error: bool) -> list[Any]:
                replies: list[Any] = []
                for args in self.calls:
                    try:
                        replies.append(self.send(*args, NEVER_DECODE=True))
                    except redis.RedisError as exc:
                        replies.append(exc)
                return replies

        on_cluster = self.url.startswith("redis+cluster://")
        kind: Any = redis.RedisCluster if on_cluster else redis.Redis

        class Client(kind):  # type: ignore[misc]
            def execute_command(self, *args: Any, **options: Any) -> Any:
                step.come_to(args[0])
                return super().execute_command(*args, **options)

            def pipeline(self, transaction: Any = True, shard_hint: Any = None) -> Any:
                return Pipeline(self.execute_command)

            def get_redis_connection(self, node: Any) -> Any:
                """That of a node of a cluster, to which pipelines go."""
                found = super().get_redis_connection(node)

                def send(*args: Any, **options: Any) -> Any:
                    step.come_to(args[0])
                    return found.execute_command(*args, **options)

                found.pipeline = lambda transaction: Pipeline(send)
                return found

        if not hasattr(self, "_client"):
            self._client = Client.from_url(self.url.replace("+cluster", "").partition(",")[0])
        return self._client


@pytest.fixture
def step(redis_url: str) -> Iterator[Step]:
    made = Step(redis_url)
    yield made
    if hasattr(made, "_client"):
        made._client.close()


@pytest.mark.parametrize("what", ["regenerate", "regenerate and write", "log in as another"])
@pytest.mark.parametrize("place", [1, 2])  # before the index, the save
def test_revoke_between_any_two_steps_of_a_new_id_leaves_nothing_older_alive(
    redis_url: str, redis_client: Any, step: Step, what: str, place: int
) -> None:
    # The revoke comes from another process.
    other = make_browser(redis_url)
    browser = make_browser(None, client_callable=step.client, grace=0)

    def first_login(session: Any) -> None:
        session.owner = "ada"
        session["secret"] = 1

    browser.use(first_login)

    def view(request: Any) -> None:
        session = request.session
        assert session["secret"] == 1
        session.regenerate_id()
        if what == "regenerate and write":
            session["new"] = 1
        elif what == "log in as another":
            session.owner = "bob"
        step.number = 0
        step.before = {place: lambda: revoke(other.wsgi.registry, "ada")}

    browser.visit(view)
    assert step.before == {}
    assert "secret" not in browser.use(dict)
    if what != "log in as another":
        assert stored_sessions(redis_client) == {}
    # Who has logged in as somebody else keeps that.
    assert still_owned(redis_client) == (
        [browser.session_id] if what == "log in as another" else []
    )


@pytest.mark.parametrize("place", [1, 2])
def test_revoke_between_any_two_steps_of_a_login_comes_before_it(
    redis_url: str, redis_client: Any, step: Step, place: int
) -> None:
    other = make_browser(redis_url)
    browser = make_browser(None, client_callable=step.client, grace=0)
    browser.use(lambda session: session.update(cart=1))

    def view(request: Any) -> None:
        request.session.owner = "ada"
        step.number = 0
        step.before = {place: lambda: revoke(other.wsgi.registry, "ada")}

    browser.visit(view)
    assert step.before == {}
    assert still_owned(redis_client) == [browser.session_id]
    browser.use(regenerate)
    assert owner_of(browser) == "ada"
    # The next revoke finds it.
    revoke(other.wsgi.registry, "ada")
    assert still_owned(redis_client) == []


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("place", range(1, 9))
@pytest.mark.parametrize("how", ["regenerate", "regenerate and log out", "undone"])
def test_new_id_between_any_two_steps_of_a_revoke_leaves_nothing_older_alive(
    redis_url: str, redis_client: Any, step: Step, how: str, place: int, devices: int
) -> None:
    # What the revoke looks at is older than what happens meanwhile.
    def may_set(response: Any) -> bool:
        return "no-cookie" not in response.headers

    other = make_browser(redis_url, func_check_response_allow_cookies=may_set, grace=0)
    users = [log_in(other.another()) for _ in range(devices)]
    browser = make_browser(None, client_callable=step.client)

    def view(request: Any) -> Response:
        request.session.regenerate_id()
        if how == "undone":
            request.add_response_callback(
                lambda request, response: response.headers.update({"no-cookie": "1"})
            )
        return Response("done")

    def meanwhile() -> None:
        tab = users[-1].copy()
        users[-1].visit(view)
        if how == "regenerate and log out":
            # Of the old id, in another tab that has not heard of the new one.
            tab.use(lambda session: session.invalidate())

    step.number = 0
    step.before = {place: meanwhile}
    revoke(browser.wsgi.registry, "ada")
    happened = not step.before
    step.before = {}
    assert happened or place > 4
    assert still_owned(redis_client) == []
    assert stored_sessions(redis_client) == {}


def test_session_that_gets_a_new_token_during_a_revoke_ends_with_it(
    redis_url: str, redis_client: Any, step: Step
) -> None:
    # The revoke has read the index when the new token is put in place.
    events: list[SessionEvent] = []

    def configure(config: Any) -> None:
        config.add_subscriber(events.append, SessionEvent)

    other = make_browser(redis_url, configure=configure)
    user = log_in(other.another())
    old = user.session_id or ""
    browser = make_browser(None, client_callable=step.client, configure=configure)
    events.clear()
    step.number = 0
    step.before = {2: lambda: user.use(regenerate)}
    revoke(browser.wsgi.registry, "ada")
    assert stored_sessions(redis_client) == {}
    assert [(type(event), event.fingerprint) for event in events] == [
        (SessionRegenerated, fingerprint(old)),
        (SessionInvalidated, fingerprint(old)),
    ]
    assert owner_of(user) is None


@pytest.mark.parametrize("what", ["regenerate", "log in", "log in with a cart", "log in again"])
def test_lost_reply_to_a_login_brings_nothing_back_after_a_revoke(
    redis_url: str, redis_client: Any, proxy: CountingProxy, what: str
) -> None:
    # The call came through, and its session was revoked, before the client repeats it.
    other = make_browser(redis_url)
    between: list[Callable[[], object]] = []

    class Between(NoBackoff):
        def compute(self, failures: int) -> float:
            if between:
                between.pop()()
            return 0

    client = redis.Redis.from_url(proxy.url, retry=Retry(Between(), 1))
    problems: list[Any] = []
    browser = make_browser(
        None,
        client_callable=lambda request, **options: client,
        func_invalid_logger=lambda request, problem: problems.append(problem),
    )
    if what == "log in with a cart":
        browser.use(lambda session: session.update(cart=1))
    elif what != "log in":
        log_in(browser)
    before = browser.session_id
    ended: list[int] = []

    def view(request: Any) -> None:
        session = request.session
        known = what in ("regenerate", "log in again")
        assert session.owner == ("ada" if known else None)
        if known:
            session.regenerate_id()
        if what != "regenerate":
            session.owner = "ada"
        session["n"] = 1
        between.append(lambda: ended.append(revoke(other.wsgi.registry, "ada")))
        proxy.lose_replies(1)

    browser.visit(view)
    assert ended == [1]
    assert stored_sessions(redis_client) == {}
    assert browser.session_id == before
    # No login has succeeded, and no cookie of the ended session goes out.
    assert set_cookies(browser.response) == []
    assert [type(problem) for problem in problems] == [InvalidSession_ChangesDropped]
    assert owner_of(browser) is None
    client.close()


def test_revoke_ends_although_logins_keep_coming(
    redis_url: str, redis_client: Any, step: Step
) -> None:
    other = make_browser(redis_url)
    old = [log_in(other.another()) for _ in range(3)]
    browser = make_browser(None, client_callable=step.client)
    came: list[Browser] = []

    step.before_each = {"EVALSHA": lambda: came.append(log_in(other.another()))}
    # They came after the revoke had read the index.
    assert revoke(browser.wsgi.registry, "ada") == 3
    step.before_each = {}
    assert [owner_of(device) for device in old] == [None] * 3
    assert len(came) >= 6
    assert [owner_of(device) for device in came] == ["ada"] * len(came)
    assert revoke(other.wsgi.registry, "ada") == len(came)


def test_revoke_ends_although_new_ids_keep_coming(
    redis_url: str, redis_client: Any, step: Step
) -> None:
    other = make_browser(redis_url)
    users = [log_in(other.another()) for _ in range(3)]
    browser = make_browser(None, client_callable=step.client)

    def new_ids_come() -> None:
        for user in users:
            user.use(regenerate)

    step.before_each = {"EVALSHA": new_ids_come}
    assert revoke(browser.wsgi.registry, "ada") <= 3
    step.before_each = {}
    assert stored_sessions(redis_client) == {}


# -- what could take an ending back ------------------------------------------------


def test_regeneration_that_is_taken_back_after_a_revoke_revives_nothing(
    redis_url: str, redis_client: redis.Redis
) -> None:
    # Its response turns out to carry no cookie.
    def allows_cookies(response: Any) -> bool:
        return "no-cookie" not in response.headers

    browser = make_browser(redis_url, func_check_response_allow_cookies=allows_cookies)
    log_in(browser)

    def view(request: Any) -> Response:
        request.session.regenerate_id()

        def too_late(request: Any, response: Any) -> None:
            # The new token is in place: now.
            assert revoke(request.registry, "ada") == 1
            response.headers["no-cookie"] = "1"

        request.add_response_callback(too_late)
        return Response("done")

    old = browser.copy()
    browser.visit(view)
    assert stored_sessions(redis_client) == {}
    assert owner_of(old) is None


@pytest.mark.parametrize("how", ["revoke", "logout"])
def test_aborted_transaction_does_not_revive_a_session_that_was_ended_meanwhile(
    start: Start, redis_client: Any, tmp_path: Any, how: str
) -> None:
    # The session votes first in retry mode; then the database refuses its commit, and what was
    # staged is given up: but not what somebody else did to it in between.
    ledger = Ledger(tmp_path)
    holder: list[Callable[[], object]] = []

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.include("pyramid_retry")

    overlap = start(on_conflict="retry", configure=configure)
    cookie = overlap.run(None, own("ada"), put("n", 1)).cookie
    rival = overlap.begin(cookie)
    rival.do(lambda session: session.owner)

    driven = overlap.begin(cookie)
    driven.do(regenerate)

    def commit_fails(request: Any) -> None:
        ledger.add(request, "x", account=UNKNOWN_ACCOUNT)
        # After the session, and before the database.
        Voting(request, lambda: holder.pop()(), "!~")

    if how == "revoke":
        holder.append(lambda: revoke(overlap.registry, "ada"))
    else:
        rival.do(lambda session: session.invalidate())
        holder.append(rival.finish)
    driven.do_request(commit_fails)
    with pytest.raises(Exception, match="FOREIGN KEY"):
        driven.finish()
    assert holder == [], "the session was not ended while its new id stood"
    assert still_owned(redis_client) == []


def test_cookie_of_a_revoked_session_is_not_sent_again(start: Start) -> None:
    overlap = start(cookie_max_age=3600)
    cookie = overlap.run(None, own("ada")).cookie
    slow = overlap.begin(cookie)
    slow.do(lambda session: session.please_recookie())
    log_out_everywhere(overlap)
    assert slow.finish().cookies == []


def test_id_in_the_answer_is_that_of_a_live_session(start: Start) -> None:
    overlap = start()
    answer = overlap.run(overlap.run(None, own("ada")).cookie, regenerate)
    assert [info.fingerprint for info in sessions_of(overlap.registry, "ada")] == [
        fingerprint(id_in(answer.cookie))
    ]
