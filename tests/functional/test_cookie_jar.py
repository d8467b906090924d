"""The browser's side: responses arrive in every order, and nobody is logged out by surprise.

The browser has a session and sends several requests at once. They overlap on the server in
some order; then their responses arrive in every possible one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.application import stored_sessions
from tests.support.jar import Jar, orders
from tests.support.overlap import Answer, Driven, Overlap, id_in


@pytest.fixture
def overlap(redis_url: str) -> Iterator[Overlap]:
    with Overlap(redis_url) as overlap:
        yield overlap


@pytest.fixture
def emptying(redis_url: str) -> Iterator[Overlap]:
    with Overlap(redis_url, invalidate_empty_session=True) as overlap:
        yield overlap


# -- what a request does ---------------------------------------------------------------------


def log_in(session: Any) -> None:
    session["user"] = "ada"
    session.regenerate_id()


def log_in_afresh(session: Any) -> None:
    """As applications do that knew only ``invalidate()``."""
    session.invalidate()
    session["user"] = "ada"


def log_out(session: Any) -> None:
    session.invalidate()


def write(session: Any) -> None:
    session["seen"] = True


#: Requests that are in flight while the user logs in: none of them is a login.
BYSTANDERS: dict[str, Callable[[Any], Any]] = {
    "read": dict,
    "write": write,
    "nested change": lambda session: session.setdefault("list", []).append(1),
    "delete": lambda session: session.pop("cart", None),
    "flash": lambda session: session.flash("hello"),
    "pop_flash": lambda session: session.pop_flash(),
    "csrf": lambda session: session.get_csrf_token(),
    "clear": lambda session: session.clear(),
    "recookie": lambda session: (session.get("cart"), session.please_recookie()),
    "max_age": lambda session: (session.get("cart"), session.adjust_cookie_max_age(99)),
    "timeout": lambda session: session.adjust_session_timeout(99),
    "ensure_id": lambda session: session.ensure_id(),
    "rotate": lambda session: session.regenerate_id(),
    "logout": log_out,
    "read, logout": lambda session: (dict(session), session.invalidate()),
    "read, logout twice": lambda session: (
        dict(session),
        session.invalidate(),
        session.invalidate(),
    ),
    "rotate, logout": lambda session: (session.regenerate_id(), session.invalidate()),
}


def anonymous(overlap: Overlap) -> Jar:
    """A browser with an anonymous session."""
    jar = Jar()
    jar.receive(overlap.run(None, lambda session: session.update(cart=1)))
    assert jar.cookie is not None
    return jar


def logged_in(overlap: Overlap, jar: Jar) -> bool:
    return overlap.read(jar.cookie).get("user") == "ada"


def load(session: Any) -> None:
    session.session_id  # noqa: B018


#: When a bystander looks at its session: before the login is through, or after.
LOADS = {"loaded before": True, "loaded after": False}


def begin(overlap: Overlap, jar: Jar, loads: bool) -> Driven:
    driven = overlap.begin(jar.cookie)
    if loads:
        driven.do(load)
    return driven


# -- requests in flight --------------------------------------------------------------------


@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("login", [log_in, log_in_afresh])
@pytest.mark.parametrize("bystander", BYSTANDERS.values(), ids=BYSTANDERS)
def test_no_request_in_flight_replaces_or_deletes_the_cookie_when_the_user_logs_in(
    emptying: Overlap, bystander: Any, login: Any, loads: bool
) -> None:
    overlap = emptying
    jar = anonymous(overlap)
    slow = begin(overlap, jar, loads)
    entered = overlap.run(jar.cookie, login)
    slow.do(bystander)
    late = slow.finish()
    assert late.cookies == []
    for arriving in orders([entered, late]):
        browser = Jar(jar.cookie)
        for answer in arriving:
            browser.receive(answer)
        assert logged_in(overlap, browser) is (entered in arriving)


@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
def test_the_user_stays_logged_in_when_many_requests_were_in_flight(
    overlap: Overlap, loads: bool
) -> None:
    jar = anonymous(overlap)
    in_flight = [begin(overlap, jar, loads) for _ in range(3)]
    entered = overlap.run(jar.cookie, log_in)
    late = []
    for driven, bystander in zip(in_flight, ("write", "flash", "recookie"), strict=True):
        driven.do(BYSTANDERS[bystander])
        late.append(driven.finish())
    for arriving in itertools.permutations([entered, *late]):
        browser = Jar(jar.cookie)
        for answer in arriving:
            browser.receive(answer)
        assert logged_in(overlap, browser)


@pytest.mark.parametrize("bystander", BYSTANDERS.values(), ids=BYSTANDERS)
def test_no_request_of_the_old_session_touches_the_cookie_when_the_user_logged_out_and_in(
    overlap: Overlap, bystander: Any
) -> None:
    jar = anonymous(overlap)
    old = [begin(overlap, jar, loads) for loads in LOADS.values()]
    jar.receive(overlap.run(jar.cookie, log_out))
    assert jar.cookie is None
    jar.receive(overlap.run(jar.cookie, log_in))
    for driven in old:
        driven.do(bystander)
        jar.receive(driven.finish())
        assert logged_in(overlap, jar)


# -- logins ----------------------------------------------------------------------------------


def finish_in(order: tuple[int, ...], requests: list[Driven]) -> list[Answer]:
    """Let requests finish on the server in an order; return the answers as they were begun."""
    answers: dict[int, Answer] = {}
    for number in order:
        answers[number] = requests[number].finish()
    return [answers[number] for number in range(len(requests))]


@pytest.mark.parametrize("login", [log_in, log_in_afresh])
@pytest.mark.parametrize("clicks", [2, 3])
@pytest.mark.parametrize("loads", [*itertools.product([True, False], repeat=2)], ids=str)
@pytest.mark.parametrize("with_session", [True, False], ids=["anonymous", "no cookie"])
def test_the_user_is_logged_in_when_the_login_was_clicked_more_than_once(
    overlap: Overlap, login: Any, clicks: int, loads: tuple[bool, bool], with_session: bool
) -> None:
    for order in itertools.permutations(range(clicks)):
        jar = anonymous(overlap) if with_session else Jar()
        requests = [begin(overlap, jar, loads[number % 2]) for number in range(clicks)]
        answers = []
        for driven in (requests[number] for number in order):
            driven.do(login)
            answers.append(driven.finish())
        for arriving in orders(answers):
            browser = Jar(jar.cookie)
            for answer in arriving:
                browser.receive(answer)
            assert logged_in(overlap, browser) is bool(arriving)


@pytest.mark.parametrize("login", [log_in, log_in_afresh])
def test_the_user_is_logged_in_when_the_response_to_the_first_login_was_lost(
    overlap: Overlap, login: Any
) -> None:
    jar = anonymous(overlap)
    lost = overlap.run(jar.cookie, login)
    # The page is reloaded, and the form sent again, with the old cookie.
    jar.receive(overlap.run(jar.cookie, dict, lambda session: session.flash("try again")))
    jar.receive(overlap.run(jar.cookie, login))
    assert logged_in(overlap, jar)
    jar.receive(lost)  # it was only late
    assert logged_in(overlap, jar)


@pytest.mark.parametrize("login", [log_in, log_in_afresh])
@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
def test_the_user_is_logged_in_when_the_login_comes_right_after_a_logout(
    overlap: Overlap, login: Any, loads: bool
) -> None:
    jar = anonymous(overlap)
    entering = begin(overlap, jar, loads)
    left = overlap.run(jar.cookie, log_out)
    entering.do(login)
    entered = entering.finish()
    # The logout was sent first, and a browser takes the answer to what it was asked last as
    # the latest; that the answer to a logout is lost does no harm.
    for arriving in ([left, entered], [entered]):
        browser = Jar(jar.cookie)
        for answer in arriving:
            browser.receive(answer)
        assert logged_in(overlap, browser)


def test_the_user_stays_logged_in_when_a_second_click_on_logout_comes_after_the_next_login(
    overlap: Overlap,
) -> None:
    jar = anonymous(overlap)
    first, second = overlap.begin(jar.cookie), overlap.begin(jar.cookie)
    first.do(log_out)
    jar.receive(first.finish())
    jar.receive(overlap.run(jar.cookie, log_in))
    second.do(log_out)
    jar.receive(second.finish())
    assert logged_in(overlap, jar)


# -- logouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("bystander", BYSTANDERS.values(), ids=BYSTANDERS)
def test_the_user_stays_logged_out_when_requests_were_in_flight(
    overlap: Overlap, bystander: Any, loads: bool, redis_client: Any
) -> None:
    jar = anonymous(overlap)
    jar.receive(overlap.run(jar.cookie, log_in))
    slow = begin(overlap, jar, loads)
    left = overlap.run(jar.cookie, log_out)
    slow.do(bystander)
    late = slow.finish()
    for arriving in orders([left, late]):
        browser = Jar(jar.cookie)
        for answer in arriving:
            browser.receive(answer)
        assert not logged_in(overlap, browser)
        if left in arriving:
            assert browser.cookie is None
    assert stored_sessions(redis_client) == {}


def test_the_user_can_log_in_again_when_the_response_to_the_logout_was_lost(
    overlap: Overlap,
) -> None:
    jar = anonymous(overlap)
    overlap.run(jar.cookie, log_out)
    jar.receive(overlap.run(jar.cookie, log_in))
    assert logged_in(overlap, jar)


def test_late_logout_of_a_session_that_it_saw_alive_spares_the_cookie_of_a_login_however_old(
    redis_url: str, redis_client: Any
) -> None:
    with Overlap(redis_url) as overlap:
        jar = anonymous(overlap)
        slow = begin(overlap, jar, loads=True)
        old_key = f"session:{id_in(jar.cookie)}"
        jar.receive(overlap.run(jar.cookie, log_in))
        redis_client.hset(old_key, "moved", "1 long-ago")
        slow.do(log_out)
        jar.receive(slow.finish())
        assert logged_in(overlap, jar)


def test_request_that_emptied_the_session_spares_the_cookie_of_a_login(emptying: Overlap) -> None:
    overlap = emptying
    jar = anonymous(overlap)
    login = begin(overlap, jar, loads=True)
    login.do(log_in)
    emptied = overlap.run(jar.cookie, lambda session: session.clear())
    jar.receive(login.finish())
    jar.receive(emptied)
    assert logged_in(overlap, jar)


@pytest.mark.parametrize("late", ["write", "logout"])
def test_request_in_flight_spares_the_login_that_followed_an_emptied_session(
    emptying: Overlap, late: str
) -> None:
    overlap = emptying
    jar = anonymous(overlap)
    login, slow = begin(overlap, jar, loads=True), begin(overlap, jar, loads=False)
    overlap.run(jar.cookie, lambda session: session.clear())
    login.do(log_in)
    jar.receive(login.finish())
    slow.do(BYSTANDERS[late])
    jar.receive(slow.finish())
    assert logged_in(overlap, jar)
