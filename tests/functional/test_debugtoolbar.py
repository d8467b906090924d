"""The panel of ``pyramid_debugtoolbar``: what it shows, and that showing it touches nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response

from pyramid_redis_lua_sessions import RedisSessionFactory, SessionConflict
from pyramid_redis_lua_sessions.errors import fingerprint
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import SECRET, Browser, close_with, make_browser
from tests.support.ledger import UNKNOWN_ACCOUNT, Ledger

PANEL = "pyramid_redis_lua_sessions.debugtoolbar"
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}
ONLY_OURS = {
    "debugtoolbar.includes": PANEL,
    "debugtoolbar.panels": "redis_session",
    "debugtoolbar.global_panels": "tweens",
}


def make(
    url: str,
    settings: dict[str, Any] = ONLY_OURS,
    configure: Callable[[Configurator], None] = lambda config: None,
    **options: Any,
) -> Browser:
    """A user of an application that has the toolbar."""

    def with_toolbar(config: Configurator) -> None:
        config.include("pyramid_debugtoolbar")
        configure(config)

    return make_browser(url, configure=with_toolbar, settings=settings, **options)


def panels(browser: Browser) -> dict[str, Any]:
    """The contents of all panels, by their titles, as the toolbar shows the last request."""
    number, _ = browser.wsgi.registry.pdtb_history.last(1)[0]
    page = browser.app.get(f"/_debug_toolbar/{number}", extra_environ=LOCAL).html
    titles = [title.h3.get_text(strip=True) for title in page.select(".pDebugPanelTitle")]
    return dict(zip(titles, page.select(".pDebugPanelContent"), strict=True))


def rows(panel: Any) -> list[list[str]]:
    return [
        [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]
        for row in panel.find_all("tr")
    ]


def visit(browser: Browser, view: Callable[[Any], Any]) -> Any:
    """Make one request, and return our panel of it."""
    browser.visit(view, extra_environ=LOCAL)
    return panels(browser)["Redis session"]


def state(panel: Any) -> str:
    return str(panel.h4.get_text().partition(": ")[2])


def keys(panel: Any) -> dict[str, tuple[str, str]]:
    """Each key as shown, to what happened to it and its type."""
    return {row[0]: (row[1], row[2]) for row in key_rows(panel)}


def key_rows(panel: Any) -> list[list[str]]:
    return [row for row in rows(panel) if len(row) == 4 and row[3].isdigit()]


def scripts(panel: Any) -> list[str]:
    """The scripts that were called; on a cluster none are called together."""
    found = [row[0] for row in rows(panel) if len(row) == 6 and row[2].isdigit()]
    return " + ".join(found).split(" + ") if found else []


def facts(panel: Any) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(panel) if len(row) == 2}


@pytest.fixture
def browser(redis_url: str) -> Browser:
    made = make(redis_url)
    made.visit(lambda request: request.session.update(name="Ann", cart=["tea"], old=1, other=2.5))
    return made


def test_session_that_was_read_and_changed_is_shown(
    browser: Browser, redis_client: redis.Redis
) -> None:
    def view(request: Any) -> None:
        session = request.session
        session["cart"].append("milk")
        session["name"]
        session[7] = b"seven"
        session.flash("saved", "info")
        del session["old"]

    panel = visit(browser, view)
    assert state(panel) == "loaded"
    assert keys(panel) == {
        "'cart'": ("changed", "list"),
        "'name'": ("read", "str"),
        "7": ("added", "bytes"),
        "flash message in queue 'info'": ("added", ""),
        "'old'": ("deleted", ""),
        "'other'": ("", ""),
    }
    assert [row[:3] for row in rows(panel) if len(row) == 6] == [
        ["Scripts", "Status", "Round trips"],
        ["load_and_touch", "LOADED", "1"],
        ["save_fields", "SAVED", "1"],
    ]
    shown = facts(panel)
    assert shown["Fingerprint of the id"] == fingerprint(browser.session_id or "")
    assert shown["Idle timeout"] == shown["Remaining life"] == "0:20:00"
    assert shown["Prefix of the keys in Redis"] == "session:"
    assert shown["Created"].endswith(" UTC")
    sizes = {row[0]: int(row[3]) for row in key_rows(panel)}
    stored = redis_client.hgetall(browser.key)
    assert sizes["'cart'"] == len(stored[b".cart"])
    assert sizes["7"] == len(stored[b"#7"])
    assert sizes["'old'"] == 0


def assign(session: Any) -> None:
    session["name"] = "Ann"


def delete_and_assign(session: Any) -> None:
    del session["name"]
    session["name"] = "Ann"


def regenerate_and_assign(session: Any) -> None:
    session.regenerate_id()
    assign(session)


@pytest.mark.parametrize("change", [assign, delete_and_assign, regenerate_and_assign])
def test_key_that_was_given_its_own_value_again_is_changed(
    change: Callable[[Any], None], browser: Browser
) -> None:
    """A save sends it, and writes over what others wrote meanwhile."""

    def view(request: Any) -> None:
        request.session["other"]
        change(request.session)

    panel = visit(browser, view)
    assert keys(panel) == {
        "'cart'": ("", ""),
        "'name'": ("changed", "str"),
        "'old'": ("", ""),
        "'other'": ("read", "float"),
    }


def test_invalidated_session_is_shown_as_it_was(
    browser: Browser, redis_client: redis.Redis
) -> None:
    browser.use(lambda session: session.adjust_session_timeout(600))
    name = fingerprint(browser.session_id or "")
    stored = redis_client.hgetall(browser.key)

    def view(request: Any) -> None:
        request.session["name"]
        request.session["never saved"] = 1
        request.session.invalidate()

    panel = visit(browser, view)
    shown = facts(panel)
    assert shown.pop("Created").endswith(" UTC")
    assert shown == {
        "Prefix of the keys in Redis": "session:",
        "Fingerprint of the id": name,
        "Idle timeout": "0:10:00",
    }
    assert {tuple(row) for row in key_rows(panel)} == {
        ("'cart'", "ended", "", str(len(stored[b".cart"]))),
        ("'name'", "read, ended", "str", str(len(stored[b".name"]))),
        ("'old'", "ended", "", str(len(stored[b".old"]))),
        ("'other'", "ended", "", str(len(stored[b".other"]))),
    }


def test_session_that_was_invalidated_unread_is_shown_by_its_id(browser: Browser) -> None:
    name = fingerprint(browser.session_id or "")
    panel = visit(browser, lambda request: request.session.invalidate())
    assert facts(panel)["Fingerprint of the id"] == name
    assert key_rows(panel) == []


def test_id_that_was_replaced_is_shown_beside_the_new_one(browser: Browser) -> None:
    old = fingerprint(browser.session_id or "")

    def view(request: Any) -> None:
        request.session["name"]
        request.session.invalidate()
        request.session["name"] = "Bob"

    panel = visit(browser, view)
    assert facts(panel)["Fingerprint of the old id"] == old
    assert facts(panel)["Fingerprint of the id"] == fingerprint(browser.session_id or "") != old
    assert sorted((row[0], row[1]) for row in key_rows(panel)) == [
        ("'cart'", "ended"),
        ("'name'", "added"),
        ("'name'", "read, ended"),
        ("'old'", "ended"),
        ("'other'", "ended"),
    ]


def test_id_stays_the_same_when_the_token_is_renewed(browser: Browser) -> None:
    name = fingerprint(browser.session_id or "")

    def view(request: Any) -> None:
        request.session["name"]
        request.session.regenerate_id()
        request.session["name"] = "Bob"

    panel = visit(browser, view)
    assert state(panel) == "loaded, and its token renewed"
    assert facts(panel)["Fingerprint of the id"] == name
    assert "Fingerprint of the old id" not in facts(panel)
    assert keys(panel) == {
        "'cart'": ("", ""),
        "'name'": ("changed", "str"),
        "'old'": ("", ""),
        "'other'": ("", ""),
    }


@pytest.mark.parametrize("how", ["invalidate", "regenerate_id"])
def test_id_that_a_conflict_kept_from_being_replaced_is_the_one_shown(
    how: str, redis_url: str
) -> None:
    def with_conflicts_shown(config: Configurator) -> None:
        config.add_exception_view(lambda exc, request: Response("conflict"), SessionConflict)

    browser = make(redis_url, configure=with_conflicts_shown, on_conflict="retry")
    browser.use(lambda session: session.update(name="Ann"))
    other, name = browser.copy(), fingerprint(browser.session_id or "")

    def view(request: Any) -> None:
        request.session["name"]
        getattr(request.session, how)()
        request.session["new"] = 1
        other.use(lambda session: session.update(name="Bob"))

    panel = visit(browser, view)
    assert browser.response.text == "conflict"
    assert state(panel) == ("invalidated" if how == "invalidate" else "loaded")
    assert facts(panel)["Fingerprint of the id"] == name
    assert "Fingerprint of the old id" not in facts(panel)


def test_id_that_no_cookie_could_tell_of_is_not_shown(redis_url: str) -> None:
    browser = make(redis_url, func_check_response_allow_cookies=lambda response: False)
    panel = visit(browser, lambda request: request.session.ensure_id())
    assert scripts(panel) == ["create_unique", "end_session"]
    assert facts(panel) == {"Prefix of the keys in Redis": "session:"}


def log_in(request: Any) -> None:
    request.session.regenerate_id()
    request.session["user"] = 1


STATES: dict[str, tuple[Callable[[Any], Any], str, list[str]]] = {
    "loaded": (lambda request: request.session.get("name"), "loaded", ["load_and_touch"]),
    "not looked at": (lambda request: request.session, "not looked at", []),
    "invalidated": (lambda request: request.session.invalidate(), "invalidated", ["end_session"]),
    "replaced": (
        lambda request: (request.session.invalidate(), request.session.flash("bye")),
        "invalidated, and a new one created",
        ["end_session", "create_unique"],
    ),
    "regenerated": (
        log_in,
        "loaded, and its token renewed",
        ["load_and_touch", "renew_token"],
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_a_session_is_shown(name: str, browser: Browser) -> None:
    view, expected, called = STATES[name]
    panel = visit(browser, view)
    assert state(panel) == expected
    assert scripts(panel) == called
    if name == "regenerated":
        assert keys(panel)["'user'"] == ("added", "int")
        assert keys(panel)["'name'"] == ("", "")


def test_state_of_a_visitor_is_shown(browser: Browser) -> None:
    visitor = browser.another()
    assert state(visit(visitor, lambda request: request.session.get("x"))) == "empty, not stored"
    assert state(visit(visitor, lambda request: request.session.update(x=1))) == "new"
    assert "No session was asked for." in visit(visitor, lambda request: None).get_text()


def test_save_that_was_only_staged_is_shown_as_not_done(redis_url: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(lambda exc, request: Response("sorry", status=500))

    explicit = {**ONLY_OURS, "tm.manager_hook": "pyramid_tm.explicit_manager"}
    browser = make(redis_url, explicit, configure, on_conflict="retry")
    browser.use(lambda session: session.update(name="value"), extra_environ=LOCAL)
    loaded = facts(visit(browser, lambda request: request.session["name"]))

    def view(request: Any) -> None:
        request.session["name"] = "other"
        ledger.add(request, "refused", UNKNOWN_ACCOUNT)

    browser.visit(view, status=500, extra_environ=LOCAL)
    panel = panels(browser)["Redis session"]
    assert state(panel) == "loaded"
    assert scripts(panel) == ["load_and_touch", "stage_save", "stage_save"]  # and given up
    assert keys(panel) == {"'name'": ("", "")}
    for name in ("Fingerprint of the id", "Created", "Idle timeout"):
        assert facts(panel)[name] == loaded[name]


def test_session_that_ended_under_way_is_shown(browser: Browser) -> None:
    old = browser.copy()
    browser.use(lambda session: session.invalidate())
    panel = visit(old, lambda request: request.session.get("name"))
    assert state(panel).startswith("ended elsewhere")
    assert facts(panel) == {"Prefix of the keys in Redis": "session:"}


def test_session_that_ended_before_the_save_is_shown_as_it_was(browser: Browser) -> None:
    other, name = browser.copy(), fingerprint(browser.session_id or "")

    def view(request: Any) -> None:
        request.session["name"] = request.session["name"] + "a"
        other.use(lambda session: session.invalidate())

    panel = visit(browser, view)
    assert state(panel).startswith("ended elsewhere")
    assert facts(panel)["Fingerprint of the id"] == name
    assert keys(panel) == {
        "'cart'": ("ended", ""),
        "'name'": ("read, ended", "str"),
        "'old'": ("ended", ""),
        "'other'": ("ended", ""),
    }


def test_calls_of_callbacks_are_shown(browser: Browser) -> None:
    def late(request: Any, *_: Any) -> None:
        request.session["late"] = request.session.get("late", 0) + 1

    def view(request: Any) -> None:
        request.session.get("name")
        request.add_response_callback(late)
        request.add_finished_callback(late)

    panel = visit(browser, view)
    assert scripts(panel) == ["load_and_touch", "save_fields", "save_fields"]
    assert keys(panel)["'late'"] == ("added", "int")


def test_panel_adds_no_command_and_showing_it_sends_none(
    proxy: CountingProxy, redis_client: redis.Redis
) -> None:
    plain, watched = make_browser(proxy.url), make(proxy.url)
    for user in (plain, watched):
        user.visit(lambda request: request.session.update(a=[1], b=2), extra_environ=LOCAL)

    views: list[Callable[[Any], Any]] = [
        lambda request: request.session,
        lambda request: request.session.get("b"),
        lambda request: request.session["a"].append(1),
        lambda request: request.session.regenerate_id(),
    ]
    for view in views:
        sent = []
        for user in (plain, watched):
            proxy.reset()
            user.visit(view, extra_environ=LOCAL)
            sent.append([(command.name, command.sha) for command in proxy.commands])
        assert sent[0] == sent[1]

        proxy.reset()
        redis_client.pexpire(watched.key, 500_000)
        before = redis_client.dump(watched.key)
        assert panels(watched)["Redis session"].get_text()
        assert proxy.commands == []
        assert redis_client.dump(watched.key) == before
        assert redis_client.pttl(watched.key) <= 500_000


HOSTILE = "</td><script>alert(1)</script>${1+1}<%\n x %>\x00\u202e\udc80'\""


def test_what_is_hostile_is_escaped_and_values_are_not_shown(redis_url: str) -> None:
    browser = make(redis_url, prefix="<b>prefix&")

    def view(request: Any) -> None:
        request.session[HOSTILE] = "swordfish" + HOSTILE
        request.session["x" * 10_000] = ["swordfish"]
        request.session.flash("swordfish", HOSTILE)

    panel = visit(browser, view)
    assert not panel.find_all(["script", "b"])
    assert "swordfish" not in str(panel)
    assert (browser.session_id or "?") not in str(panel)
    assert facts(panel)["Prefix of the keys in Redis"] == "<b>prefix&"
    shown = keys(panel)
    assert shown[repr(HOSTILE)] == ("added", "str")
    assert "\\x00\\u202e\\udc80" in repr(HOSTILE)
    assert f"flash message in queue {HOSTILE!r}" in shown
    assert max(map(len, shown)) < 200


def test_thousands_of_keys_are_cut_short(browser: Browser) -> None:
    panel = visit(browser, lambda r: r.session.update({f"k{n:04}": n for n in range(3000)}))
    assert len(keys(panel)) == 200
    assert "2804 more keys are not shown" in panel.get_text()


def test_every_session_of_a_request_is_shown(redis_url: str) -> None:
    browser = make(redis_url)
    other = RedisSessionFactory(SECRET, url=redis_url, cookie_name="admin", prefix="admin:")
    close_with(browser.wsgi, other)

    def view(request: Any) -> None:
        request.session["a"] = 1
        other(request)["b"] = 2

    panel = visit(browser, view)
    titles = [title.get_text() for title in panel.find_all("h4")]
    assert titles == [
        "Session of the cookie session: new",
        "Session of the cookie admin: new",
        "Calls to Redis",
    ]
    assert set(keys(panel)) == {"'a'", "'b'"}


def test_panel_of_an_attempt_that_is_repeated_shows_its_own_calls(redis_url: str) -> None:
    from pyramid_retry import RetryableException

    browser = make(
        redis_url, {**ONLY_OURS, "retry.attempts": 2}, lambda c: c.include("pyramid_retry")
    )
    browser.use(lambda session: session.update(name="Bob"))
    attempts = []

    def view(request: Any) -> None:
        request.session.get("name")
        attempts.append(request)
        if len(attempts) == 1:
            raise RetryableException

    panel = visit(browser, view)
    assert len(attempts) == 2
    assert scripts(panel) == ["load_and_touch"]


# -- what was dropped, and why -------------------------------------------------------------


def dropped(panel: Any) -> list[str]:
    """What is shown as lost: "why: which keys"."""
    found = panel.select(".redis-session-dropped")
    texts = [" ".join(each.get_text(" ").split()) for each in found]
    assert all(text.startswith("Dropped , as ") for text in texts)
    return [text.removeprefix("Dropped , as ") for text in texts]


def refused(panel: Any) -> list[str]:
    return [each.get_text() for each in panel.select(".redis-session-refused")]


def change(request: Any) -> None:
    request.session["cart"].append("swordfish")
    request.session["added"] = "swordfish"
    del request.session["old"]


CHANGED = "'added', 'cart', 'old'"


@pytest.mark.parametrize("when", ["before the load", "before the save"])
def test_changes_to_a_session_that_has_ended_are_shown(browser: Browser, when: str) -> None:
    other = browser.copy()

    def end() -> None:
        other.use(lambda session: session.invalidate())

    def view(request: Any) -> None:
        if when == "before the load":
            end()
            request.session["added"] = "swordfish"
        else:
            change(request)
            end()

    panel = visit(browser, view)
    lost = "'added'" if when == "before the load" else CHANGED
    assert dropped(panel) == [f"session has ended: {lost}"]
    assert len(refused(panel)) == (when == "before the load")
    assert "swordfish" not in str(panel)


@pytest.mark.parametrize("which", ["new", "regenerated", "created at once", "regenerated at once"])
def test_changes_whose_cookie_could_not_be_sent_are_shown(redis_url: str, which: str) -> None:
    def allowed(response: Any) -> bool:
        return "no-cookie" not in response.headers

    browser = make(redis_url, func_check_response_allow_cookies=allowed)
    if "regenerated" in which:
        browser.use(lambda session: session.update(name="Ann", cart=["tea"]))

    def view(request: Any) -> Response:
        request.session["added"] = "swordfish"
        if "regenerated" in which:
            request.session["cart"].append("milk")
            request.session.regenerate_id()
        if which == "created at once":
            request.session.ensure_id()
        response = Response("done")
        if which == "regenerated at once":
            # It is stored when the response turns out to carry no cookie.
            request.add_response_callback(
                lambda request, response: response.headers.update({"no-cookie": "1"})
            )
        else:
            response.headers["no-cookie"] = "1"
        return response

    lost = "'added', 'cart', the new token" if "regenerated" in which else "'added'"
    lost = "'added', the new token" if which == "created at once" else lost
    assert dropped(visit(browser, view)) == [f"the cookie cannot be sent: {lost}"]


def test_changes_of_a_request_that_failed_are_shown(redis_url: str) -> None:
    def configure(config: Any) -> None:
        config.add_exception_view(lambda exc, request: Response("sorry", status=500))

    browser = make(redis_url, configure=configure, save_on_exception=False)
    browser.use(lambda session: session.update(cart=["tea"], old=1))

    def view(request: Any) -> None:
        change(request)
        request.session.adjust_session_timeout(60)
        raise ValueError

    browser.visit(view, status=500, extra_environ=LOCAL)
    (shown,) = dropped(panels(browser)["Redis session"])
    reason = "the request failed, and save_on_exception is false"
    assert shown == f"{reason}: {CHANGED}, the lifetime"


@pytest.mark.parametrize("how", ["view", "doom", "merge", "retry"])
def test_changes_of_a_transaction_that_failed_are_shown(
    redis_url: str, tmp_path: Path, how: str
) -> None:
    ledger = Ledger(tmp_path)

    def configure(config: Any) -> None:
        config.include("pyramid_tm")
        config.add_exception_view(lambda exc, request: Response("sorry", status=500))

    explicit = {**ONLY_OURS, "tm.manager_hook": "pyramid_tm.explicit_manager"}
    options = {"on_conflict": "retry"} if how == "retry" else {}
    browser = make(redis_url, explicit, configure, **options)
    browser.use(lambda session: session.update(cart=["tea"], old=1), extra_environ=LOCAL)

    def view(request: Any) -> None:
        change(request)
        if how == "view":
            raise ValueError
        if how == "doom":
            request.tm.doom()
        else:
            ledger.add(request, "refused", UNKNOWN_ACCOUNT)

    browser.visit(view, status=200 if how == "doom" else 500, extra_environ=LOCAL)
    panel = panels(browser)["Redis session"]
    reason = "the request failed" if how == "view" else "the transaction was aborted"
    assert dropped(panel) == ([] if how == "doom" else [f"{reason}: {CHANGED}"])


@pytest.mark.parametrize("error", ["UnserializableValue", "SessionConflict"])
def test_changes_that_could_not_be_saved_are_shown(redis_url: str, error: str) -> None:
    def configure(config: Any) -> None:
        config.add_exception_view(lambda exc, request: Response("sorry", status=500))

    browser = make(redis_url, configure=configure, on_conflict="retry")
    browser.use(lambda session: session.update(cart=["tea"], old=1))
    other = browser.copy()

    def view(request: Any) -> None:
        change(request)
        if error == "SessionConflict":
            other.use(lambda session: session["cart"].append("milk"))
        else:
            request.session["added"] = lambda: "swordfish"

    browser.visit(view, status="*", extra_environ=LOCAL)
    panel = panels(browser)["Redis session"]
    assert dropped(panel) == [f"the save failed ({error}): {CHANGED}"]
    assert "swordfish" not in str(panel)


def test_cookie_that_gave_no_session_is_shown(browser: Browser, redis_client: redis.Redis) -> None:
    name = fingerprint(browser.session_id or "")
    redis_client.delete(browser.key)
    panel = visit(browser, lambda request: request.session.get("name"))
    assert refused(panel) == [f"Refused: no such session (session {name})"]
    assert dropped(panel) == []


def test_nothing_is_shown_as_dropped_when_nothing_was(browser: Browser) -> None:
    for view in (change, lambda request: request.session["cart"], log_in):
        panel = visit(browser, view)
        assert (dropped(panel), refused(panel)) == ([], [])


# -- how it gets there -------------------------------------------------------------------


def test_panel_takes_the_place_of_the_one_that_reads_the_session(proxy: CountingProxy) -> None:
    browser = make(proxy.url, {"debugtoolbar.includes": PANEL})
    browser.use(lambda session: session.update(a=1))
    proxy.reset()
    browser.visit(lambda request: request.session, extra_environ=LOCAL)
    assert proxy.commands == []
    shown = panels(browser)
    assert "Redis session" in shown
    assert "Session" not in shown


def test_panel_that_the_settings_name_stays(redis_url: str) -> None:
    settings = {"debugtoolbar.includes": PANEL, "debugtoolbar.panels": "session redis_session"}
    browser = make(redis_url, settings)
    visit(browser, lambda request: None)
    assert {"Session", "Redis session"} <= set(panels(browser))


def test_panel_can_be_included_by_the_application(redis_url: str) -> None:
    browser = make(redis_url, {}, lambda config: config.include(PANEL))
    assert state(visit(browser, lambda request: request.session.get("a"))) == "empty, not stored"


def test_panel_can_be_an_extra_panel(redis_url: str) -> None:
    browser = make(redis_url, {"debugtoolbar.extra_panels": f"{PANEL}.SessionPanel"})
    assert "No session" in visit(browser, lambda request: None).get_text()


def test_panel_without_the_toolbar_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="include pyramid_debugtoolbar before"):
        Configurator().include(PANEL)
