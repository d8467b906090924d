"""The demo in a real browser: Chromium without a window, driven through WebDriver."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.contrast import LUMINANCE
from tests.browser.driver import IN_CHROMIUM
from tests.support.demo_process import DemoProcess
from tests.support.waiting import wait_until

# isort: split
# After the driver, without which all this is left out.
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = IN_CHROMIUM

PHONE = (360, 740)
RACERS = 20


@pytest.fixture(scope="module")
def demo(chromium: webdriver.Chrome, redis_binary: str) -> Iterator[DemoProcess]:
    with DemoProcess(redis_binary) as process:
        yield process


class Tab:
    """What a visitor does in the present tab of the browser."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self) -> None:
        self.driver.get(self.url)

    def one(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return str(self.one(css).text)

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def leaves(self, act: Any) -> None:
        """Do what leads to another page, and wait for that."""
        self.run("window.isOld = true")
        act()
        wait_until(self._is_new)

    def _is_new(self) -> bool:
        try:
            return bool(self.run("return !window.isOld && document.readyState == 'complete'"))
        except WebDriverException:
            return False  # between the pages

    def press(self, css: str) -> None:
        self.leaves(self.one(css).click)

    def log_in(self, name: str) -> None:
        self.one("#name").send_keys(name)
        self.press("form[action='/login'] button")
        assert self.text("#user") == name

    @property
    def cookie(self) -> dict[str, Any]:
        found = self.driver.get_cookie("session")
        assert found is not None
        return found

    def be_a_phone(self, size: tuple[int, int] = PHONE) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, **wishes: str) -> None:
        """Set the ``prefers-...`` features of the media."""
        features = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in wishes.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def accessible(self, css: str) -> dict[str, Any]:
        """What the accessibility tree has of an element: nothing, if it leaves that out."""
        call = self.driver.execute_cdp_cmd
        root = call("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
        wanted = call("DOM.querySelector", {"nodeId": root, "selector": css})["nodeId"]
        nodes = call("Accessibility.getPartialAXTree", {"nodeId": wanted, "fetchRelatives": False})
        (node,) = nodes["nodes"]
        if node["ignored"]:
            return {}
        properties = {one["name"]: one["value"]["value"] for one in node["properties"]}
        return {"role": node["role"]["value"], **properties}

    def tabs_on(self, backwards: bool = False) -> None:
        """Move the focus, as the Tab key does."""
        keys = webdriver.ActionChains(self.driver)
        if backwards:
            keys = keys.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT)
        else:
            keys = keys.send_keys(Keys.TAB)
        keys.perform()

    def complaints(self) -> list[str]:
        """What the console has said since the last time; policies refused stand there, too."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]


@pytest.fixture
def tab(chromium: webdriver.Chrome, demo: DemoProcess) -> Iterator[Tab]:
    """A tab that shows the page, of a browser without cookies. No error may be in its console."""
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    tab = Tab(chromium, demo.url)
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    tab.prefers(color_scheme="light", reduced_motion="reduce")
    tab.open()
    first = chromium.current_window_handle
    yield tab
    for handle in chromium.window_handles:
        if handle != first:
            chromium.switch_to.window(handle)
            chromium.close()
    chromium.switch_to.window(first)
    assert tab.complaints() == []


# -- the session -------------------------------------------------------------------------


def test_cookie_as_the_browser_sees_it(tab: Tab) -> None:
    cookie = tab.cookie
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Lax"
    assert cookie["secure"] is False  # this page came over HTTP
    assert cookie["path"] == "/"
    assert "expiry" not in cookie  # it ends with the browser
    assert cookie["domain"] == "127.0.0.1"
    assert tab.run("return document.cookie") == ""


def test_login_replaces_the_cookie_and_keeps_the_cart(tab: Tab) -> None:
    tab.press("button[name=add][value=oolong]")
    before, fingerprint = tab.cookie["value"], tab.text("#fingerprint")
    tab.log_in("Ann")
    assert tab.cookie["value"] != before
    assert tab.text("#fingerprint") == fingerprint  # the id stays, the token is another
    assert tab.text("#number-oolong") == "1"


def test_clicks_in_parallel_are_all_kept(tab: Tab) -> None:
    # Ten clicks each on two buttons, before the first is answered.
    failed = tab.driver.execute_async_script(
        """
        const done = arguments[0];
        const token = document.querySelector("[name=csrf_token]").value;
        const click = (tea) => fetch("/cart", {
          method: "POST", redirect: "manual",
          body: new URLSearchParams({ csrf_token: token, add: tea }),
        });
        const teas = Array.from({ length: 20 }, (_, n) => n % 2 ? "assam" : "sencha");
        Promise.all(teas.map(click)).then(() => done(null), (error) => done(String(error)));
        """
    )
    assert failed is None
    tab.open()
    assert (tab.text("#number-assam"), tab.text("#number-sencha")) == ("10", "10")


def test_race_loses_nothing_here_and_shows_what_is_lost_there(tab: Tab) -> None:
    tab.one("#start-race").click()
    text = wait_until(lambda: tab.text("#race-result"), timeout=20)
    kept = int(tab.text("#lane-predecessor output"))
    assert tab.text("#lane-ours output") == str(RACERS)
    assert len(tab.all("#lane-ours .kept")) == RACERS
    assert 0 < kept < RACERS
    assert len(tab.all("#lane-predecessor .kept")) == kept
    assert len(tab.all("#lane-predecessor .lost")) == RACERS - kept
    assert text == (
        f"This engine kept 20 of 20. pyramid_session_redis kept {kept}, and lost {RACERS - kept}."
    )
    wait_until(lambda: "POST /race/ours" in tab.text("#log h3"))
    assert tab.text("#round-trips") == "2"  # of each, as everywhere on the page

    # What the page shows of the session is true after the race, too.
    keys = tab.text("#keys")
    assert int(keys) > RACERS
    tab.open()
    assert tab.text("#keys") == keys


def test_race_in_a_session_that_has_ended_leaves_no_score(tab: Tab) -> None:
    scores = [score.text for score in tab.all(".score")]
    tab.driver.delete_all_cookies()
    tab.one("#start-race").click()
    text = wait_until(lambda: tab.text("#race-result"))
    assert text == "The session has ended meanwhile. Reload the page and try again."
    assert [score.text for score in tab.all(".score")] == scores
    (complaint,) = tab.complaints()
    assert "400" in complaint


def test_logout_in_a_second_tab_holds_for_the_first(tab: Tab) -> None:
    tab.press("button[name=add][value=assam]")
    tab.log_in("Ann")
    first = tab.driver.current_window_handle
    tab.driver.switch_to.new_window("tab")
    tab.open()
    assert tab.text("#user") == "Ann"
    tab.press("form[action='/logout'] button")

    # The first tab still shows the old page, but of nobody; its forms do nothing any more.
    tab.driver.switch_to.window(first)
    wait_until(lambda: tab.text(".who") == "")
    assert tab.text("#left") == "Over"
    edges = "return [...document.querySelectorAll('#session-ended, .top')].map((one) => "
    told, header = tab.run(f"{edges}getComputedStyle(one).paddingLeft)")
    assert told == header != "0px"
    tab.press("button[name=add][value=assam]")
    assert tab.text("h1") == "This form has expired"
    complaints = tab.complaints()
    assert len(complaints) == 1
    assert "400" in complaints[0]
    tab.press(".button")
    assert tab.all("#user") == []
    assert tab.text("#number-assam") == "0"


def test_back_button_after_a_logout_shows_nothing_of_the_session(tab: Tab) -> None:
    tab.press("button[name=add][value=assam]")
    tab.log_in("Ann")
    # Chromium keeps the page as it is in memory, if it may, when one leaves for another address.
    tab.driver.get("about:blank")
    first = tab.driver.current_window_handle
    tab.driver.switch_to.new_window("tab")
    tab.open()
    tab.press("form[action='/logout'] button")
    tab.leaves(tab.driver.back)
    assert tab.all("#user") == []
    tab.driver.switch_to.window(first)
    for _ in range(2):
        tab.leaves(tab.driver.back)
        assert tab.all("#user") == []
        assert tab.text("#number-assam") == "0"


def test_reload_after_a_form_does_not_send_it_again(tab: Tab) -> None:
    tab.press("button[name=add][value=assam]")
    tab.leaves(tab.driver.refresh)
    assert tab.text("#number-assam") == "1"


def test_other_sessions_are_ended_at_once(tab: Tab) -> None:
    tab.log_in("Cleo")
    tab.press("form[action='/elsewhere'] button")
    tab.press("form[action='/elsewhere'] button")
    assert len(tab.all(".sessions li")) == 3
    tab.press("a[href='/devices']")
    assert len(tab.all(".sessions li")) == 3
    tab.press(".sessions button[name=end]")
    assert len(tab.all(".sessions li")) == 2
    told = "One device was logged out."
    wait_until(lambda: tab.one("#news[role=status]").get_property("textContent") == told)
    tab.one(".note .close").click()
    assert tab.all(".note") == []
    tab.press("button[name=everywhere]")
    assert tab.all("#user") == []


# -- the page --------------------------------------------------------------------------


def test_remaining_life_counts_down_and_follows_the_timeout(tab: Tab) -> None:
    def seconds() -> int:
        minutes, _, rest = tab.text("#left").partition(":")
        return 60 * int(minutes) + int(rest)

    assert 590 < seconds() <= 600
    tab.press("button[name=seconds][value='20']")
    assert tab.one("button[name=seconds][value='20']").get_attribute("aria-pressed") == "true"
    began = seconds()
    assert began <= 20
    wait_until(lambda: seconds() < began)
    assert tab.run("return document.getElementById('life').value") < 20


def test_nobody_is_logged_in_any_more_once_the_time_is_over(tab: Tab) -> None:
    tab.log_in("Ann")
    assert "Ann" in tab.text(".who")
    tab.run("countDown(0)")
    assert tab.text("#left") == "Over"
    assert tab.text(".who") == ""


def test_messages_lie_over_nothing(tab: Tab) -> None:
    tab.log_in("Ann")
    tab.one("#message").send_keys("Hi")
    tab.press("form[action='/flash'] button")
    (notes,) = tab.all(".notes")
    assert tab.run("return getComputedStyle(arguments[0]).position", notes) == "static"


def test_message_is_announced_and_can_be_closed(tab: Tab) -> None:
    tab.one("#message").send_keys("<b>Hello</b>")
    tab.press("form[action='/flash'] button")
    note = tab.one(".note")
    assert "<b>Hello</b>" in note.text
    # A screen reader announces what comes into a live region, not what was there already.
    wait_until(lambda: tab.one("#news[role=status]").get_property("textContent") == "<b>Hello</b>")
    note.find_element(By.TAG_NAME, "button").click()
    assert tab.all(".note") == []


def test_closing_a_message_keeps_the_focus_near(tab: Tab) -> None:
    tab.driver.execute_async_script(
        """
        const done = arguments[0];
        const send = (message) => fetch("/flash", { method: "POST", redirect: "manual",
          body: new URLSearchParams({ message,
            csrf_token: document.querySelector("[name=csrf_token]").value }) });
        Promise.all(["One", "Two"].map(send)).then(() => done());
        """
    )
    tab.open()
    first, second = tab.all(".note button")
    focused = "return document.activeElement"
    first.click()
    assert tab.run(focused) == second
    second.click()
    assert tab.run(focused) == tab.one("main")


def test_result_of_the_race_is_announced_and_its_scores_are_not(tab: Tab) -> None:
    # A region that is not in the tree before its text is there is not announced.
    said = tab.accessible("#race-result")
    assert (said["role"], said["live"]) == ("status", "polite")
    for engine in ("ours", "predecessor"):
        assert "live" not in tab.accessible(f"#lane-{engine} output")


#: Elements that do not change at once; the parts of a control stand in its own tree.
MOVING = """
return [...document.querySelectorAll("*")]
  .map((one) => [one, getComputedStyle(one)])
  .filter(([, style]) => style.transitionDuration !== "0s" || style.animationName !== "none")
  .map(([one]) => one.outerHTML);
"""


def test_whoever_prefers_less_motion_sees_none(tab: Tab) -> None:
    call = tab.driver.execute_cdp_cmd
    call("DOM.enable", {})
    call("CSS.enable", {})
    nodes = call("DOM.getFlattenedDocument", {"depth": -1, "pierce": True})["nodes"]
    (bar,) = (n for n in nodes if "-webkit-progress-value" in n.get("attributes", ()))

    def seconds_of_bar() -> str:
        found = call("CSS.getComputedStyleForNode", {"nodeId": bar["nodeId"]})["computedStyle"]
        return str(next(one["value"] for one in found if one["name"] == "transition-duration"))

    tab.prefers(reduced_motion="no-preference")
    assert tab.run(MOVING)
    assert seconds_of_bar() == "0.5s"
    tab.prefers(reduced_motion="reduce")
    assert tab.run(MOVING) == []
    assert seconds_of_bar() == "0s"


FOCUSABLE = """
return [...document.querySelectorAll("a[href], button, input, summary")]
  .filter((one) => !one.disabled && one.type !== "hidden" && one.checkVisibility()).length
"""

FOCUSED = """
const one = document.activeElement;
if (one === document.body) return null;
window.seen ??= [];
const style = getComputedStyle(one);
const isNew = !window.seen.includes(one);
window.seen.push(one);
return [isNew, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, one.outerHTML];
"""


@pytest.mark.parametrize("logged_in", [False, True])
def test_everything_is_reached_with_the_keyboard_and_shows_it(logged_in: bool, tab: Tab) -> None:
    if logged_in:
        tab.log_in("Ann")
        tab.open()
    count = tab.run(FOCUSABLE)
    assert count > 10
    for _ in range(count):
        tab.tabs_on()
        is_new, is_shown, element = tab.run(FOCUSED)
        assert is_new, element
        assert is_shown, element


#: Whether something else lies over all of what has the focus (WCAG 2.2, 2.4.11).
HIDDEN = """
const one = document.activeElement;
if (one === document.body) return false;
const box = one.getBoundingClientRect();
const xs = [box.left + 4, (box.left + box.right) / 2, box.right - 4];
const ys = [box.top + 4, (box.top + box.bottom) / 2, box.bottom - 4];
return !xs.some((x) => ys.some((y) => one.contains(document.elementFromPoint(x, y))))
  && one.outerHTML;
"""


@pytest.mark.parametrize("size", [(320, 256), (390, 844)])
def test_nothing_hides_what_has_the_focus(size: tuple[int, int], tab: Tab) -> None:
    tab.be_a_phone(size)
    tab.one("#message").send_keys("A long message " * 8)
    tab.press("form[action='/flash'] button")
    count = tab.run(FOCUSABLE)
    for backwards in (False, True):
        for _ in range(count):
            tab.tabs_on(backwards)
            assert not tab.run(HIDDEN)


def test_login_with_the_keyboard_alone(tab: Tab) -> None:
    def type_keys(*keys: str) -> None:
        webdriver.ActionChains(tab.driver).send_keys(*keys).perform()

    type_keys(Keys.TAB, Keys.ENTER)  # the first stop skips to the content
    assert tab.run("return document.activeElement.id") == "content"
    while tab.run("return document.activeElement.id") != "name":
        type_keys(Keys.TAB)
        assert tab.run("return document.activeElement !== document.body")
    type_keys("Ann")
    tab.leaves(lambda: type_keys(Keys.ENTER))
    assert tab.text("#user") == "Ann"


def test_every_control_has_a_name_of_its_own(tab: Tab) -> None:
    tab.log_in("Ann")
    tab.press("form[action='/elsewhere'] button")
    names = [one.accessible_name for one in tab.all("button, input:not([type=hidden])")]
    assert all(names)
    assert len(set(names)) == len(names)
    landmarks = [one.aria_role for one in tab.all("body > header, main, aside, footer")]
    assert landmarks == ["banner", "main", "complementary", "contentinfo"]
    outside = """
    return [...document.querySelectorAll("body *")]
      .filter((one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
      .filter((one) => one.checkVisibility() && !one.closest(".skip, header, main, aside, footer"))
      .map((one) => one.outerHTML)
    """
    assert tab.run(outside) == []
    levels = [int(one.tag_name[1]) for one in tab.all("h1, h2, h3")]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("logged_in", [False, True])
def test_page_fits_a_phone(logged_in: bool, tab: Tab) -> None:
    tab.be_a_phone()
    tab.open()
    if logged_in:
        tab.log_in("A name without any spaces in it, just long"[:40].replace(" ", "_"))
    assert tab.run("return document.documentElement.scrollWidth") == PHONE[0]
    assert tab.one(".bar").is_displayed()
    for one in tab.all("button:not(.close), input:not([type=hidden])"):
        # 44 CSS pixels: WCAG 2.2, success criterion 2.5.5.
        assert one.size["height"] >= 44, one.get_attribute("outerHTML")
        assert one.location["x"] >= 0
        assert one.location["x"] + one.size["width"] <= PHONE[0]


#: Texts whose colour stands out too little, by the formula of WCAG 2.2 (1.4.3).
FAINT = (
    LUMINANCE
    + """
return [...document.querySelectorAll("body *")]
  .filter((one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .filter((one) => one.checkVisibility() && !one.closest(":disabled, noscript, .skip"))
  .map((one) => {
    const pair = [light(parse(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    return [ratio, `${one.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`];
  })
  .filter(([ratio]) => ratio < 4.5).map(([, text]) => text);
"""
)


def test_text_stands_out_by_day_and_by_night(tab: Tab) -> None:
    tab.log_in("Ann")
    tab.press("form[action='/elsewhere'] button")
    ground = "return getComputedStyle(document.body).backgroundColor"
    colours = set()
    for scheme in ("light", "dark"):
        tab.prefers(color_scheme=scheme)
        colours.add(tab.run(ground))
        assert tab.run(FAINT) == []
    assert len(colours) == 2
