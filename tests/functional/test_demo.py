"""The demo, run as its users run it: a process, HTTP, a signal."""

import html
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30


class Demo(NamedTuple):
    process: "subprocess.Popen[str]"
    url: str


def first_line(process: "subprocess.Popen[str]") -> str:
    """What the process prints first; an error if it prints nothing in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(START_SECONDS), "the demo printed nothing"
    return process.stdout.readline()


@pytest.fixture
def start_demo(redis_binary: str) -> Iterator[Callable[..., Demo]]:
    processes: list[subprocess.Popen[str]] = []

    def start(port: str = "0") -> Demo:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            env={**os.environ, "PORT": port, "REDIS_SERVER": redis_binary},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # signals of the test run's terminal are not for it
        )
        processes.append(process)
        line = first_line(process)
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        return Demo(process, found.group())

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Browser:
    """Cookies, links and forms; no more."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )
        self.page = ""

    def get(self, path: str = "") -> str:
        with self._opener.open(self.url + path, timeout=10) as response:
            self.page = response.read().decode()
        return self.page

    def submit(self, action: str, **fields: str) -> str:
        """Send the form of the present page that has that action."""
        form = re.search(rf'<form method="post" action="/{action}">.*?</form>', self.page, re.S)
        assert form, f"no form {action}"
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', form.group()))
        return self.post(action, **hidden, **fields)

    def post(self, action: str, **fields: str) -> str:
        data = urllib.parse.urlencode(fields).encode()
        with self._opener.open(self.url + action, data, timeout=10) as response:
            self.page = response.read().decode()
        return self.page

    def text_of(self, element_id: str) -> str:
        found = re.search(rf'id="{element_id}"[^>]*>(.*?)</', self.page, re.S)
        assert found, f"no element {element_id}"
        return html.unescape(re.sub(r"<[^>]+>", "", found.group(1))).strip()

    @property
    def cookie(self) -> Cookie | None:
        return next(iter(self.cookies), None)


def processes_of(pid: int) -> list[int]:
    """The child processes, of whichever thread."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_demo_counts_flashes_logs_in_and_out(start_demo: Callable[..., Demo]) -> None:
    browser = Browser(start_demo().url)
    browser.get()
    assert browser.text_of("count") == "0"
    assert browser.cookie is not None  # the forms' CSRF token is in the session
    assert browser.cookie.has_nonstandard_attr("HttpOnly")
    assert browser.cookie.get_nonstandard_attr("SameSite") == "Lax"

    browser.submit("count")
    browser.submit("count")
    assert browser.text_of("count") == "2"
    assert re.fullmatch(r"(9:5\d|10:00)", browser.text_of("left"))

    assert "A message, left at" in browser.submit("flash")
    assert "A message, left at" not in browser.get()

    before = (browser.cookie.value, browser.text_of("session"))
    assert re.fullmatch("[0-9a-f]{12}", before[1])
    page = browser.submit("login", name="<b>Ann</b>")
    assert "<b>" not in page
    assert browser.text_of("user") == "<b>Ann</b>"
    assert browser.text_of("count") == "2"
    after = (browser.cookie.value, browser.text_of("session"))
    assert before[0] != after[0]
    assert before[1] != after[1]

    assert "You are logged out" in browser.submit("logout")
    assert browser.text_of("user") == "nobody"
    assert browser.text_of("count") == "0"
    assert browser.cookie.value not in (before[0], after[0])

    # The cookies of before open nothing any more.
    for value in (before[0], after[0]):
        browser.cookie.value = value
        browser.get()
        assert browser.text_of("user") == "nobody"
        assert browser.text_of("count") == "0"


@pytest.mark.parametrize("action", ["count", "flash", "login", "logout"])
def test_demo_refuses_a_form_without_its_token(
    action: str, start_demo: Callable[..., Demo]
) -> None:
    browser = Browser(start_demo().url)
    browser.get()
    browser.submit("login", name="Ann")
    for fields in ({}, {"csrf_token": "forged"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            browser.post(action, name="Eve", **fields)
        with refused.value:
            assert refused.value.code == 400
            assert "This form has expired" in refused.value.read().decode()
    browser.get()
    assert browser.text_of("user") == "Ann"
    assert browser.text_of("count") == "0"


def test_demo_when_its_redis_is_away(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    browser = Browser(demo.url)
    browser.get()
    for pid in processes_of(demo.process.pid):
        if b"redis" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(urllib.error.HTTPError) as refused:
        browser.get()
    with refused.value:
        assert refused.value.code == 503
        assert "Redis is away" in refused.value.read().decode()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_demo_ends_cleanly_and_leaves_no_process_when_signalled(
    signum: signal.Signals, start_demo: Callable[..., Demo]
) -> None:
    demo = start_demo()
    Browser(demo.url).get()
    started = processes_of(demo.process.pid)
    assert any(b"redis" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started)

    demo.process.send_signal(signum)
    rest, _ = demo.process.communicate(timeout=20)
    assert demo.process.returncode == 0
    assert "Traceback" not in rest
    wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_demo_listens_on_the_port_that_it_is_given(start_demo: Callable[..., Demo]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    assert start_demo(port).url == f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("port", ["no-port", "65536", "-1"])
def test_demo_when_the_port_is_wrong(port: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, "PORT": port},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"demo: PORT={port!r} is not a port\n"


def test_demo_when_the_port_is_taken(redis_binary: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            env={
                **os.environ,
                "PORT": str(taken.getsockname()[1]),
                "REDIS_SERVER": redis_binary,
            },
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
