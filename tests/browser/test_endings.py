"""Open tabs say that the session has ended: two browsers, and the demo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.httpexceptions import HTTPBadGateway

from demo.app import make_app
from tests.browser.driver import IN_CHROMIUM, started
from tests.browser.test_demo import Tab
from tests.support.serving import served
from tests.support.waiting import wait_until

# isort: split
# After the driver, without which all this is left out.
from selenium import webdriver

pytestmark = IN_CHROMIUM

NOTE = "#session-ended"


@pytest.fixture(scope="module")
def other_chromium() -> Iterator[webdriver.Chrome]:
    with started() as driver:
        yield driver


class Proxy:
    """Stands before the demo.

    :ivar is_down: the demo is restarted, say: it answers that there is nobody behind it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.is_down = False

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if self.is_down:
            return HTTPBadGateway()(environ, start_response)
        return self.app(environ, start_response)


@pytest.fixture
def proxy(redis_url: str) -> Proxy:
    return Proxy(make_app(redis_url, with_predecessor=False))


@pytest.fixture
def demo(proxy: Proxy) -> Iterator[str]:
    with served(proxy, threads=32) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def tab(chromium: webdriver.Chrome, demo: str) -> Iterator[Tab]:
    yield from opened(chromium, demo)


@pytest.fixture
def other(other_chromium: webdriver.Chrome, demo: str) -> Iterator[Tab]:
    yield from opened(other_chromium, demo)


def opened(driver: webdriver.Chrome, url: str) -> Iterator[Tab]:
    tab = Tab(driver, url)
    tab.open()
    yield tab
    for handle in driver.window_handles[1:]:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(driver.window_handles[0])
    driver.delete_all_cookies()
    driver.get("about:blank")  # no stream stays open


def listens(tab: Tab) -> Any:
    """Whether the page's stream is open."""
    return tab.run("return typeof stream === 'object' && stream.readyState === EventSource.OPEN")


def log_others_out(tab: Tab) -> None:
    """On the page of devices; and come back from there."""
    tab.press("a[href='/devices']")
    tab.press("button[name='others']")
    tab.open()


def says(tab: Tab) -> str:
    wait_until(lambda: tab.all(NOTE), 20)
    assert tab.one(NOTE).get_attribute("role") == "alert"
    # The browser does not come again: it was told once and for all.
    assert tab.run("return stream.readyState === EventSource.CLOSED")
    return tab.text(NOTE)


def test_other_tab_says_that_this_one_has_logged_out(tab: Tab) -> None:
    tab.log_in("Ada")
    first = tab.driver.current_window_handle
    wait_until(lambda: listens(tab))
    tab.driver.switch_to.new_window("tab")
    tab.open()
    wait_until(lambda: listens(tab))
    tab.press("form[action='/logout'] button")
    assert not tab.all("#user")
    assert not tab.all(NOTE)  # who has logged out need not be told
    tab.driver.switch_to.window(first)
    assert says(tab) == "You were logged out. Reload the page to go on."
    tab.open()
    assert not tab.all(NOTE)
    assert not tab.all("[data-session]")


def test_other_browser_says_that_it_was_logged_out_from_here(tab: Tab, other: Tab) -> None:
    for each in (tab, other):
        each.log_in("Ada")
        wait_until(lambda each=each: listens(each))
    log_others_out(other)
    assert says(tab) == "You were logged out. Reload the page to go on."
    assert not other.all(NOTE)
    assert other.text("#user") == "Ada"
    wait_until(lambda: listens(other))


def test_visitor_who_is_not_logged_in_holds_no_connection(tab: Tab) -> None:
    assert not tab.all("[data-session]")
    assert tab.run("return typeof stream === 'undefined' || stream === undefined")


def test_tab_says_that_the_session_has_expired(chromium: webdriver.Chrome, redis_url: str) -> None:
    app = make_app(redis_url, with_predecessor=False, timeout="2")
    with served(app, threads=32) as port:
        pages = opened(chromium, f"http://127.0.0.1:{port}/")
        tab = next(pages)
        tab.log_in("Ada")
        assert says(tab) == "Your session has expired. Reload the page to go on."
        next(pages, None)


def test_stream_that_breaks_off_is_opened_again_and_finds_what_it_missed(
    tab: Tab, other: Tab
) -> None:
    for each in (tab, other):
        each.log_in("Ada")
        wait_until(lambda each=each: listens(each))
    tab.run("stream.close()")
    log_others_out(other)
    assert not tab.all(NOTE)
    tab.run("listen()")
    assert says(tab) == "You were logged out. Reload the page to go on."


def test_page_comes_again_when_a_proxy_has_refused_it(tab: Tab, other: Tab, proxy: Proxy) -> None:
    """An EventSource alone gives up for ever at any other answer than its own."""
    for each in (tab, other):
        each.log_in("Ada")
        wait_until(lambda each=each: listens(each))
    tab.run("const wait = setTimeout; window.setTimeout = (call, ms) => wait(call, ms / 100)")
    proxy.is_down = True
    tab.run("stream.close(); listen()")
    wait_until(lambda: tab.run("return stream.readyState === EventSource.CLOSED"))
    proxy.is_down = False
    wait_until(lambda: listens(tab))
    log_others_out(other)
    assert says(tab) == "You were logged out. Reload the page to go on."


def test_page_that_is_gone_back_to_listens_again(tab: Tab, other: Tab) -> None:
    for each in (tab, other):
        each.log_in("Ada")
        wait_until(lambda each=each: listens(each))
    tab.run("window.isKept = true")
    tab.press("a[href='/devices']")
    tab.driver.back()
    wait_until(lambda: listens(tab))
    log_others_out(other)
    assert says(tab) == "You were logged out. Reload the page to go on."


def test_page_that_is_left_before_it_was_shown_fails_nowhere(tab: Tab) -> None:
    tab.log_in("Ada")
    wait_until(lambda: listens(tab))
    failed = """
        stream.close(); stream = undefined;
        let failed = false;
        addEventListener("error", () => { failed = true; });
        dispatchEvent(new PageTransitionEvent("pagehide"));
        return failed"""
    assert tab.run(failed) is False
