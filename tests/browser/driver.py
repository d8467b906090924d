"""Chromium, driven through WebDriver. Where it is not there, who imports this is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None or shutil.which("chromedriver") is None:
    pytest.skip(
        "chromium and chromedriver are not installed (Debian: chromium-driver)",
        allow_module_level=True,
    )

IN_CHROMIUM = pytest.mark.browser


@contextmanager
def started(*arguments: str, home: Path | None = None) -> Iterator[webdriver.Chrome]:
    """A Chromium without a window.

    :param arguments: further ones of its command line.
    :param home: its home directory, with what it trusts; see :func:`trust`.
    """
    wanted = webdriver.ChromeOptions()
    wanted.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--force-prefers-reduced-motion",
        "--no-first-run",
        "--no-proxy-server",
        "--window-size=1280,1000",
        *arguments,
    ):
        wanted.add_argument(argument)
    if os.geteuid() == 0:
        wanted.add_argument("--no-sandbox")  # Chromium refuses to start as root otherwise
    wanted.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environ = {**os.environ, **({} if home is None else {"HOME": str(home)})}
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"), env=environ)
    with webdriver.Chrome(options=wanted, service=service) as driver:
        driver.set_page_load_timeout(20)
        driver.set_script_timeout(20)
        yield driver


def trust(home: Path, authority: Path) -> None:
    """Have a browser that starts with this home directory trust a certificate authority."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for arguments in (
        ("-N", "--empty-password"),
        ("-A", "-n", "tests", "-t", "C,,", "-i", str(authority)),
    ):
        subprocess.run(["certutil", "-d", f"sql:{database}", *arguments], check=True)
