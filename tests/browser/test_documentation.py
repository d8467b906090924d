"""The documentation in a real browser, page by page: wide and narrow, by day and by night."""

from __future__ import annotations

import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.browser.contrast import LUMINANCE
from tests.browser.driver import IN_CHROMIUM

pytestmark = IN_CHROMIUM

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.rst"))

#: CSS pixels.
WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as ``make docs`` builds it."""
    pytest.importorskip("furo", reason="the documentation's tools are not installed")
    directory = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [*(sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html"), ROOT / "docs", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


#: What is wider than the page, and does not scroll by itself.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
const scrolls = (one) => {
  for (; one; one = one.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(one).overflowX)) return true;
  return false;
};
return [...document.querySelectorAll("article *")]
  .filter((one) => one.getBoundingClientRect().right > width + 1 && !scrolls(one))
  .map((one) => one.outerHTML.slice(0, 120));
"""

#: Texts of the article that stand out too little from their ground (WCAG 2.2, 1.4.3).
FAINT = (
    LUMINANCE
    + """
return [...document.querySelectorAll("article p, article li, article td, article h1, article h2")]
  .filter((one) => one.checkVisibility() && !one.closest("svg, .highlight"))
  .map((one) => {
    const pair = [light(parse(getComputedStyle(one).color)), light(ground(one))];
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), one.outerHTML.slice(0, 80)];
  })
  .filter(([ratio]) => ratio < 4.5);
"""
)

OVERFLOW = "const one = document.documentElement; return one.scrollWidth - one.clientWidth"

#: Pictures that did not load.
BROKEN = """
return [...document.images].filter((one) => one.complete && !one.naturalWidth)
  .map((one) => one.src);
"""


@pytest.mark.parametrize("page", PAGES)
def test_page_fits_and_is_read_by_day_and_by_night(page: str, built: Path, browser: Any) -> None:
    grounds = set()
    for width in WIDTHS.values():
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(f"file://{built}/{page}.html")
        assert browser.execute_script(TOO_WIDE) == []
        assert browser.execute_script(OVERFLOW) <= 0
        assert browser.execute_script(BROKEN) == []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            grounds.add(
                browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            )
            assert browser.execute_script(FAINT) == []
    assert len(grounds) == 2
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


# -- links -----------------------------------------------------------------------------


class Page(HTMLParser):
    """:ivar links: where its links lead; ``places``: what a link can name in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := found.get(name))}
        for name in ("href", "src"):
            if link := found.get(name):
                self.links.add(link)


def test_every_link_within_the_documentation_leads_somewhere(built: Path) -> None:
    pages = {path.name: Page(path) for path in built.glob("*.html")}
    assert len(pages) > len(PAGES)
    followed = 0
    for name, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or (link.startswith("#") and len(link) == 1):
                continue
            target = parts.path or name
            assert (built / target).exists(), f"{name}: {link}"
            if parts.fragment and target in pages:
                assert urllib.parse.unquote(parts.fragment) in pages[target].places, (
                    f"{name}: {link}"
                )
                followed += 1
    assert followed > 100
