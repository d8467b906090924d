"""What docs/how-it-works.rst draws from the code is what a request does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import pytest

from pyramid_redis_lua_sessions import cookies
from pyramid_redis_lua_sessions.engine import memory, staging, store
from pyramid_redis_lua_sessions.engine.plan import FRESH, STORED, TABLE, Act, Facts, plan
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.watch import watch
from tests.support.browser import make_browser

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("session_plan")


@pytest.fixture
def diagram(plans: Any) -> Any:
    return importlib.import_module("request_diagram")


# -- the table of plans ------------------------------------------------------------


def test_table_has_a_row_for_each_of_the_code_in_its_order(plans: Any) -> None:
    rows = plans.table().count("\n   * - ")
    assert rows == 1 + len(TABLE)
    words = [plans.facts_in_words(wanted) for wanted, _ in TABLE]
    assert len(set(words)) == len(words)
    first = [row.partition("\n")[0] for row in plans.table().split("\n   * - ")[2:]]
    assert first == words


def test_table_has_no_words_that_the_code_does_not_use(plans: Any) -> None:
    assert set(plans.FACTS) == {fact for wanted, _ in TABLE for fact in wanted.items()}
    assert set(plans.ACTS) == {found.act for _, found in TABLE} == set(Act)


#: Requests that do each act, on a session or without one; the facts of each, and its script.
REQUESTS: list[tuple[Act, bool, Callable[[Any], object], Facts, str]] = [
    (
        Act.CREATE,
        False,
        lambda session: session.update(a=1),
        Facts(FRESH, sets=True),
        "create_unique",
    ),
    (Act.SAVE, True, lambda session: session.update(a=2), Facts(STORED, sets=True), "save_fields"),
    (Act.SAVE, True, lambda session: session.pop("a"), Facts(STORED, deletes=True), "save_fields"),
    (
        Act.SAVE,
        True,
        lambda session: (session.update(a=2), session.adjust_session_timeout(99)),
        Facts(STORED, sets=True, lifetime=True),
        "save_if_changed",
    ),
    (
        Act.ADJUST,
        True,
        lambda session: session.adjust_session_timeout(99),
        Facts(STORED, lifetime=True),
        "adjust_timeout",
    ),
    (
        Act.RENEW,
        True,
        lambda session: session.regenerate_id(),
        Facts(STORED, renews=True),
        "renew_token",
    ),
]


@pytest.mark.parametrize(
    ("act", "with_session", "use", "facts", "script"),
    REQUESTS,
    ids=[f"{act.value} by {script}" for act, _, _, _, script in REQUESTS],
)
def test_table_names_the_scripts_that_are_called(
    plans: Any,
    redis_url: str,
    act: Act,
    with_session: bool,
    use: Callable[[Any], object],
    facts: Facts,
    script: str,
) -> None:
    assert plan(facts).act is act
    assert script in plans.SCRIPTS[act]
    browser = make_browser(redis_url)
    if with_session:
        browser.use(lambda session: session.update(a=1))
    calls: list[Any] = browser.visit(
        lambda request: (watch(request), request.session.get("a"), use(request.session))[0]
    )
    loads = ["load_and_touch"] if with_session else []
    assert [call.name for call in calls] == [*loads, script]


def test_table_names_no_script_that_no_act_calls(plans: Any) -> None:
    named = {(act, script) for act, scripts in plans.SCRIPTS.items() for script in scripts}
    assert named == {(act, script) for act, _, _, _, script in REQUESTS}


# -- figures -----------------------------------------------------------------------


def test_figures_on_the_pages_are_those_of_the_code() -> None:
    how = " ".join((DOCS / "how-it-works.rst").read_text("utf-8").split())
    megabytes = memory.MOST // 2**20
    assert f"up to {cookies.REMEMBERED:,} cookies" in how
    assert f"that it loaded or saved last, up to {megabytes} MB" in how
    overlap = " ".join((DOCS / "concurrency.rst").read_text("utf-8").split())
    assert f"waits up to {staging.PATIENCE * 1000:.0f} ms and then conflicts" in overlap
    assert staging.LAST_PATIENCE == store.STAGE_MS / 1000 == 10
    assert "(up to ten seconds)" in overlap
    assert "that died lapses after ten seconds" in overlap


# -- the diagram -------------------------------------------------------------------


def test_diagram_is_drawn_from_the_code_as_it_is(diagram: Any) -> None:
    assert diagram.TARGET == DOCS / "life-of-a-request.svg"
    assert diagram.TARGET.read_text("utf-8") == diagram.draw(), (
        "python docs/_ext/request_diagram.py draws it again"
    )


def test_diagram_is_a_picture_that_names_scripts_which_exist(diagram: Any) -> None:
    svg = ElementTree.fromstring(diagram.draw())
    texts = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    named = texts & set(SCRIPTS)
    assert {"load_and_touch", "save_fields", "renew_token", "end_session"} <= named
    drawn = [part for part in diagram.LIFE if isinstance(part, diagram.Ways)]
    assert {script for _, script in drawn[0].ways} - {""} <= set(SCRIPTS)


def code_of(function: Any) -> Any:
    return function.__code__


def test_diagram_shows_the_steps_of_a_request_in_their_order(diagram: Any, redis_url: str) -> None:
    browser = make_browser(redis_url)
    browser.use(lambda session: session.update(a=1))
    parts = [*diagram.LIFE, diagram.AFTER]
    steps = [code_of(part.what) for part in parts if getattr(part, "what", None) is not None]
    seen: list[Any] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in steps and frame.f_code not in seen:
            seen.append(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        browser.use(lambda session: session.update(a=session["a"] + 1))
    finally:
        sys.setprofile(before)
    assert [code.co_name for code in seen] == [code.co_name for code in steps]
