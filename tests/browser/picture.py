"""Takes the picture of the demo that README and documentation show: ``make picture``."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.by import By

from tests.browser.driver import started
from tests.support.demo_process import ROOT, DemoProcess
from tests.support.waiting import wait_until

PICTURE = ROOT / "docs" / "demo.png"

#: CSS pixels, and how many of the picture's there are to one.
SIZE, SCALE = (1180, 532), 1

#: So few that the picture is small; the page has about as many.
COLOURS = 48


def take(path: Path = PICTURE) -> None:
    """Log in at a demo of its own, send the twenty requests, and keep what is seen then."""
    with DemoProcess(shutil.which("redis-server") or "") as demo, started() as driver:
        size = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": SCALE, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        driver.get(demo.url)
        driver.find_element(By.ID, "name").send_keys("Ann")
        driver.find_element(By.CSS_SELECTOR, "form[action='/login'] button").click()
        wait_until(lambda: driver.find_elements(By.ID, "user"))
        driver.find_element(By.ID, "start-race").click()
        wait_until(lambda: driver.find_element(By.ID, "race-result").text)
        wait_until(lambda: "race" in driver.find_element(By.CSS_SELECTOR, "#log h3").text)
        driver.execute_script(
            "document.activeElement.blur(); scrollTo(0, document.getElementById('race')"
            ".getBoundingClientRect().top + scrollY - 16)"
        )
        seen = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    seen.convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    take()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")
