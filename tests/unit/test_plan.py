"""What is done with a session at a save point: the whole table."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pyramid_redis_lua_sessions.engine.plan import (
    ADRIFT,
    FRESH,
    NOTHING,
    STORED,
    TABLE,
    UNREAD,
    Act,
    Facts,
    Phase,
    Plan,
    Reason,
    plan,
)

FLAGS = Facts._fields[1:]
EVERY = [
    Facts(phase, *flags)
    for phase in Phase
    for flags in itertools.product((False, True), repeat=len(FLAGS))
]

REST = Plan(Act.REST)
CREATE = Plan(Act.CREATE)
SAVE = Plan(Act.SAVE)
ADJUST = Plan(Act.ADJUST)
RENEW = Plan(Act.RENEW)
ENDED = Plan(Act.DROP, Reason.ENDED)
LOCKED = Plan(Act.DROP, Reason.LOCKED)
UNREACHABLE = Plan(Act.DROP, Reason.UNREACHABLE)
UNDELIVERABLE = Plan(Act.DROP, Reason.UNDELIVERABLE)

#: What is asked of a session, in every kind.
ASKED: tuple[dict[str, Any], ...] = (
    {"sets": True},
    {"deletes": True},
    {"lifetime": True},
    {"renews": True},
    {"login": True},
    {"lost": True},
)


@pytest.mark.parametrize("name", FLAGS)
def test_what_is_asked_is_a_change_and_what_is_known_is_none(name: str) -> None:
    asked = any(name in kind for kind in ASKED)
    assert Facts(STORED, **{name: True}).changed is asked
    assert not Facts(UNREAD, **{name: True}).changed


def test_it_is_total() -> None:
    assert len(EVERY) == 4 * 2 ** len(FLAGS) == len(set(EVERY))
    for facts in EVERY:
        assert isinstance(plan(facts), Plan)


def test_it_is_pure() -> None:
    uncached = plan.__wrapped__
    for facts in EVERY:
        assert plan(facts) == uncached(facts) == uncached(facts)


def test_it_says_what_the_first_row_says_whose_facts_hold() -> None:
    for facts in EVERY:
        holds = facts._asdict()
        holds["changed"] = facts.phase is not UNREAD and any(
            (facts.sets, facts.deletes, facts.lifetime, facts.renews, facts.login, facts.lost)
        )
        rows = [found for wanted, found in TABLE if wanted.items() <= holds.items()]
        assert plan(facts) == rows[0]


def test_every_row_decides_something() -> None:
    # A row that none of the facts reaches says something that is not so.
    deciding = set()
    for facts in EVERY:
        holds = {**facts._asdict(), "changed": facts.changed}
        deciding.add(
            next(at for at, (wanted, _) in enumerate(TABLE) if wanted.items() <= holds.items())
        )
    assert deciding == set(range(len(TABLE)))


def test_every_row_speaks_of_facts_that_there_are() -> None:
    for wanted, _ in TABLE:
        assert set(wanted) <= {*Facts._fields, "changed"}


def test_only_a_drop_has_a_reason() -> None:
    for facts in EVERY:
        decided = plan(facts)
        assert (decided.act is Act.DROP) == (decided.reason is not Reason.NONE)
    assert NOTHING == REST


# -- spelled out -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        # Nobody looked: Redis is not asked.
        (Facts(UNREAD), REST),
        # Looked at, and left as it was.
        (Facts(FRESH), REST),
        (Facts(STORED), REST),
        (Facts(ADRIFT), REST),
        (Facts(STORED, checks=True), REST),
        (Facts(ADRIFT, reachable=False), REST),
        (Facts(STORED, cookie_can_go=False), REST),
        # A visitor's first value creates the session; nothing less does.
        (Facts(FRESH, sets=True), CREATE),
        (Facts(FRESH, sets=True, renews=True), CREATE),
        (Facts(FRESH, sets=True, lifetime=True), CREATE),
        (Facts(FRESH, sets=True, login=True), CREATE),
        (Facts(FRESH, deletes=True), REST),
        (Facts(FRESH, lifetime=True), REST),
        (Facts(FRESH, renews=True), REST),
        # No cookie, no session that nobody could open.
        (Facts(FRESH, sets=True, cookie_can_go=False), UNDELIVERABLE),
        (Facts(FRESH, lifetime=True, cookie_can_go=False), REST),
        # A plain write needs no cookie.
        (Facts(STORED, sets=True), SAVE),
        (Facts(STORED, deletes=True), SAVE),
        (Facts(STORED, sets=True, deletes=True, lifetime=True), SAVE),
        (Facts(STORED, sets=True, cookie_can_go=False), SAVE),
        (Facts(STORED, deletes=True, cookie_can_go=False), SAVE),
        # Only a lifetime; with retry, what was read must still be so.
        (Facts(STORED, lifetime=True), ADJUST),
        (Facts(STORED, lifetime=True, cookie_can_go=False), ADJUST),
        (Facts(STORED, lifetime=True, checks=True), SAVE),
        # An owner that is stored already, by ensure_id().
        (Facts(STORED, login=True), REST),
        # regenerate_id(), and a login, whatever else is asked.
        (Facts(STORED, renews=True), RENEW),
        (Facts(STORED, sets=True, renews=True), RENEW),
        (Facts(STORED, sets=True, deletes=True, lifetime=True, renews=True, login=True), RENEW),
        # Its cookie is what it is about.
        (Facts(STORED, renews=True, cookie_can_go=False), UNDELIVERABLE),
        (Facts(STORED, sets=True, renews=True, login=True, cookie_can_go=False), UNDELIVERABLE),
        # The session ended meanwhile: a login gets one of its own, all else is lost.
        (Facts(ADRIFT, sets=True), ENDED),
        (Facts(ADRIFT, sets=True, renews=True), ENDED),
        (Facts(ADRIFT, lifetime=True), ENDED),
        (Facts(ADRIFT, lost=True), ENDED),
        (Facts(ADRIFT, sets=True, renews=True, login=True), CREATE),
        (Facts(ADRIFT, sets=True, login=True, lost=True), CREATE),
        (Facts(ADRIFT, sets=True, renews=True, login=True, cookie_can_go=False), UNDELIVERABLE),
        # So it is with one that is locked, which lives.
        (Facts(ADRIFT, sets=True, locked=True), LOCKED),
        (Facts(ADRIFT, sets=True, renews=True, locked=True), LOCKED),
        (Facts(ADRIFT, sets=True, login=True, locked=True), CREATE),
        # An empty session that stands for one that could not be loaded is never saved.
        (Facts(ADRIFT, sets=True, reachable=False), UNREACHABLE),
        (Facts(ADRIFT, sets=True, renews=True, login=True, reachable=False), UNREACHABLE),
        (Facts(ADRIFT, lifetime=True, reachable=False, cookie_can_go=False), UNREACHABLE),
    ],
    ids=lambda value: (
        " ".join(
            [value.phase.value, *(f"{n}={v}" for n, v in value._asdict().items() if v is True)]
        )
        if isinstance(value, Facts)
        else value.act.value
    ),
)
def test_plan_of(facts: Facts, expected: Plan) -> None:
    assert plan(facts) == expected


def test_nothing_is_sent_for_a_session_that_nobody_looked_at() -> None:
    assert {plan(facts) for facts in EVERY if facts.phase is UNREAD} == {REST}


@pytest.mark.parametrize("phase", [FRESH, STORED, ADRIFT])
def test_nothing_is_sent_where_nothing_is_asked(phase: Phase) -> None:
    for flags in itertools.product((False, True), repeat=3):
        checks, reachable, cookie_can_go = flags
        facts = Facts(phase, checks=checks, reachable=reachable, cookie_can_go=cookie_can_go)
        assert plan(facts) == REST


def test_no_session_comes_into_being_whose_cookie_cannot_go() -> None:
    for facts in EVERY:
        if not facts.cookie_can_go:
            assert plan(facts).act not in (Act.CREATE, Act.RENEW)


def test_nothing_is_saved_to_a_session_that_does_not_live() -> None:
    for facts in EVERY:
        if facts.phase is not STORED:
            assert plan(facts).act not in (Act.SAVE, Act.ADJUST, Act.RENEW)
        else:
            assert plan(facts).act is not Act.CREATE


def test_what_was_asked_of_a_session_that_ended_is_never_lost_in_silence() -> None:
    for asked in ASKED:
        for reachable, cookie_can_go in itertools.product((False, True), repeat=2):
            facts = Facts(ADRIFT, **asked, reachable=reachable, cookie_can_go=cookie_can_go)
            assert plan(facts).act in (Act.DROP, Act.CREATE)


def test_nothing_that_was_written_to_a_living_session_is_dropped_unless_it_needs_a_cookie() -> None:
    for facts in EVERY:
        if facts.phase is STORED and plan(facts).act is Act.DROP:
            assert facts.renews
            assert not facts.cookie_can_go


def test_who_is_not_logging_in_gets_no_session_in_place_of_one_that_ended() -> None:
    for facts in EVERY:
        if facts.phase is ADRIFT and plan(facts).act is Act.CREATE:
            assert facts.login
            assert facts.reachable
