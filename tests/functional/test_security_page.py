"""What the pages about security say is so: their samples do it, and each threat has tests."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.testing import DummyRequest

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import errors
from pyramid_redis_lua_sessions.settings.checks import SAMPLE_SECRETS
from pyramid_redis_lua_sessions.testing import DummySession
from tests.functional.test_documentation import samples
from tests.support.browser import Browser, let_time_pass, make_browser

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: The pages whose samples are tried here.
SAMPLED = ("secrets", "lifetimes", "log-out-everywhere", "events")


def text_of(page: str) -> str:
    return (DOCS / f"{page}.rst").read_text("utf-8")


THREATS = [
    "Attacker on the network",
    "Attacker with a stolen cookie",
    "Attacker with a fixated id",
    "Attacker with a forged cookie",
    "Attacker with read access to Redis",
    "Attacker with write access to Redis",
    "Flooding without cookies",
    "Attacker with a login of his own",
]


def threats() -> list[str]:
    """The threats of docs/security.rst, in its order."""
    page = text_of("security")
    section = page.partition("\nThreats\n-------\n")[2].partition("\n.. _profile:\n")[0]
    return re.findall(r"^(\S.*)\n(?=    )", section, re.MULTILINE)


def test_every_threat_is_there_and_has_tests_that_auditors_find() -> None:
    assert threats() == THREATS
    section = text_of("guarantees").partition("\nThreats and their tests\n")[2]
    rows = re.findall(r"^   \* - (.*)\n     - ``tests/", section, re.MULTILINE)
    assert rows == THREATS


@pytest.mark.parametrize("page", sorted(page.stem for page in DOCS.glob("*.rst")))
def test_names_of_tests_are_left_to_auditors(page: str) -> None:
    if page not in {"guarantees", "changes"}:
        assert re.findall(r"``(?:tests/\S+::)?test_\w+``", text_of(page)) == []


def test_every_reason_of_a_rejection_is_on_the_page() -> None:
    package = ROOT / "pyramid_redis_lua_sessions"
    sources = "".join(path.read_text("utf-8") for path in package.rglob("*.py"))
    kinds = "|".join(name for name in errors.__all__ if name.startswith("InvalidSession_"))
    used = set(re.findall(rf'(?:{kinds})[(,]\s*"([^"]+)"', sources))
    used |= set(re.findall(r'_refuse_corrupt\((?:state, )?name, "([^"]+)"', sources))
    used |= set(re.findall(r'"([^"]+; changes dropped)"', sources))
    used |= set(re.findall(r'"(locked: [^"]+)"', sources))
    reasons = (
        text_of("events")
        .partition("``SessionRejected.reason`` is one of:")[2]
        .partition("``func_invalid_logger``")[0]
    )
    assert len(used) >= 9
    assert used == set(re.findall(r"^``([^`\n]+)``$", reasons, re.MULTILINE))


# -- the samples -------------------------------------------------------------------


@pytest.fixture
def page(redis_url: str) -> Any:
    """The functions of the samples of these pages."""
    module = types.ModuleType("security_pages")
    for name in SAMPLED:
        path = DOCS / f"{name}.rst"
        for sample in samples(path, "python"):
            exec(compile(sample.text, str(path), "exec"), module.__dict__)
    return module


def owner_of(browser: Browser) -> Any:
    return browser.use(lambda session: session.owner)


def test_samples_list_and_end_sessions(page: Any, redis_url: str) -> None:
    def use_of(function: Any) -> Any:
        return lambda request: function(request, 7)

    phone = make_browser(redis_url, configure=lambda config: config.add_route("login", "/login"))
    laptop, tablet = phone.another(), phone.another()
    for user, agent in ((phone, "phone"), (laptop, "laptop"), (tablet, "tablet")):
        user.visit(use_of(page.logged_in), headers={"User-Agent": agent})
    devices = phone.visit(page.my_devices)
    assert [found["device"] for found in devices] == ["phone", "laptop", "tablet"]
    assert [found["this one"] for found in devices] == [True, False, False]

    phone.visit(lambda request: page.log_out_device(request, devices[2]["name"]))
    assert [owner_of(user) for user in (phone, laptop, tablet)] == [7, 7, None]
    assert phone.visit(page.log_out_everywhere_else) == 1
    assert [owner_of(user) for user in (phone, laptop, tablet)] == [7, None, None]
    laptop.visit(use_of(page.logged_in))
    phone.visit(page.log_out_everywhere)
    assert [owner_of(user) for user in (phone, laptop, tablet)] == [None, None, None]


def test_sample_labels_the_session_of_a_request_without_a_server(page: Any) -> None:
    for headers, label in (({"User-Agent": "phone"}, "phone"), ({}, None)):
        request = DummyRequest(session=DummySession(), headers=headers)
        page.logged_in(request, 7)
        assert (request.session.owner, request.session.label) == (7, label)


def test_sample_lists_and_ends_nothing_of_a_visitor(page: Any, redis_url: str) -> None:
    visitor = make_browser(redis_url)
    for function in (page.my_devices, page.log_out_everywhere_else):
        with pytest.raises(TypeError, match="give an owner"):
            visitor.visit(function)


def test_sample_restarts_the_lifetime_at_login(
    page: Any, redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url, absolute_timeout=3600, timeout=0)
    browser.use(lambda session: session.update(a=1))
    let_time_pass(redis_client, browser.key, 3000)
    assert redis_client.ttl(browser.key) <= 600
    browser.visit(lambda request: page.log_in(request, 7))
    assert owner_of(browser) == 7
    assert redis_client.ttl(browser.key) > 3500


def test_sample_renews_the_token_once_it_is_old(
    page: Any, redis_url: str, redis_client: Any
) -> None:
    browser = make_browser(redis_url, timeout=0, configure=page.includeme)
    token = browser.use(lambda session: (session.update(a=1), session.get_csrf_token())[1])

    def tokens(**headers: str) -> set[Any]:
        found = set()
        for _ in range(5):
            assert browser.use(dict, headers=headers)["a"] == 1
            found.add(browser.token)
        return found

    for _ in range(2):
        before = browser.token
        assert tokens() == {before}
        let_time_pass(redis_client, browser.key, page.RENEW_AFTER + 1)
        assert tokens(**{"Sec-Fetch-Mode": "cors"}) == {before}
        after = tokens(**{"Sec-Fetch-Mode": "navigate"})
        assert len(after) == 1
        assert before not in after
        assert tokens() == after
    assert browser.use(lambda session: session.get_csrf_token()) == token


def test_sample_of_a_subscriber_writes_the_audit_log(
    page: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def configure(config: Configurator) -> None:
        config.add_subscriber(page.note, pyramid_redis_lua_sessions.SessionEvent)

    caplog.set_level("INFO", logger="audit")
    browser = make_browser(redis_url, configure=configure)
    browser.use(lambda session: session.update(a=1))
    browser.use(dict, headers={"Cookie": "session=forged"})
    found = [record.getMessage() for record in caplog.records if record.name == "audit"]
    assert [line.split(" ")[0] for line in found] == ["SessionCreated", "SessionRejected"]
    assert found[1].endswith("None no cookie of the session verifies")


def test_sample_of_a_cookie_signer_signs(page: Any, redis_url: str) -> None:
    options = {"secret": None, "seal_secret": "seal " * 10, "cookie_signer": page.Signer(b"key")}
    browser = make_browser(redis_url, **options)
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}
    header = "session=" + browser.app.cookies["session"]
    stranger = make_browser(redis_url, **{**options, "cookie_signer": page.Signer(b"other")})
    assert stranger.use(dict, headers={"Cookie": header}) == {}


def test_no_secret_of_the_documentation_passes_for_one() -> None:
    pages = "".join(page.read_text("utf-8") for page in DOCS.glob("*.rst"))
    shown = re.findall(r"(?m)^ {8}(the \w+ secret, .*)$|encryption_key = (.*)$", pages)
    shown += re.findall(r'secret="(.*?)()"', pages)
    assert len(shown) >= 5
    for one, other in shown:
        assert (one or other).encode() in SAMPLE_SECRETS
