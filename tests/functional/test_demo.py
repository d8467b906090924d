"""The demo: its page and forms through WebTest, its process as its users run it."""

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import webtest

from demo.app import make_app
from pyramid_redis_lua_sessions.engine.state import SessionState
from pyramid_redis_lua_sessions.settings.profiles import PROFILES
from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer
from tests.support.demo_process import ROOT, START_SECONDS, DemoProcess
from tests.support.waiting import wait_until

TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def start_demo(redis_binary: str) -> Iterator[Callable[..., DemoProcess]]:
    started: list[DemoProcess] = []

    def start(port: str = "0", **options: bool) -> DemoProcess:
        started.append(DemoProcess(redis_binary, port, **options))
        return started[-1]

    yield start
    for demo in started:
        demo.close()


def answer(url: str) -> tuple[int, str]:
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    try:
        connection.request("GET", address.path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


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


def server_among(pids: list[int], binary: str) -> int:
    """The process of a server, whatever its name."""
    (found,) = (pid for pid in pids if os.path.samefile(f"/proc/{pid}/exe", binary))
    return found


def test_demo_when_its_redis_is_away(
    start_demo: Callable[..., DemoProcess], redis_binary: str
) -> None:
    demo = start_demo()
    assert answer(demo.url)[0] == 200
    os.kill(server_among(processes_of(demo.process.pid), redis_binary), signal.SIGKILL)
    status, page = answer(demo.url)
    assert status == 503
    assert "Redis is away" in page


def test_demo_has_called_a_script_before_its_first_visitor(
    start_demo: Callable[..., DemoProcess], redis_binary: str
) -> None:
    demo = start_demo()
    pid = server_among(processes_of(demo.process.pid), redis_binary)
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    server = " ".join(arguments)
    port = int(re.findall(r":(\d+)", server)[-1])
    with redis.Redis(port=port) as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] > 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_demo_ends_cleanly_and_leaves_no_process_when_signalled(
    signum: signal.Signals, start_demo: Callable[..., DemoProcess], redis_binary: str
) -> None:
    demo = start_demo()
    assert answer(demo.url)[0] == 200
    started = processes_of(demo.process.pid)
    assert server_among(started, redis_binary)

    demo.process.send_signal(signum)
    rest, _ = demo.process.communicate(timeout=20)
    assert demo.process.returncode == 0
    assert "Traceback" not in rest
    wait_until(lambda: not any(is_alive(pid) for pid in started))


def test_demo_that_binds_is_served_over_https_and_leaves_no_key_behind(
    start_demo: Callable[..., DemoProcess],
) -> None:
    demo = start_demo(devices=True)
    assert demo.authority is not None
    assert [path.name for path in demo.authority.parent.iterdir()] == ["authority.pem"]
    address = urllib.parse.urlsplit(demo.url)
    context = ssl.create_default_context(cafile=str(demo.authority))
    connection = http.client.HTTPSConnection(address.netloc, timeout=10, context=context)
    try:
        connection.request("GET", address.path)
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(START_SECONDS) == 0
    assert not demo.authority.parent.exists()


def test_demo_listens_on_the_port_that_it_is_given(start_demo: Callable[..., DemoProcess]) -> None:
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


# -- the page and its forms ------------------------------------------------------------


class Visitor:
    """A browser without JavaScript."""

    def __init__(self, app: Any, agent: str = "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0"):
        self.app = webtest.TestApp(app, extra_environ={"HTTP_USER_AGENT": agent})
        self.page: Any = None

    def get(self, path: str = "/") -> Any:
        self.page = self.app.get(path)
        return self.page

    def submit(self, action: str, button: str = "", value: str = "", **fields: str) -> Any:
        """Send the present page's form of that action, and follow the redirect."""
        form = next(form for form in self.page.forms.values() if form.action == action)
        for name, text in fields.items():
            form[name] = text
        # A button is named by its value, too: a form may have several.
        chosen = {button: value} if button else {}
        sent = [(name, text) for name, text in form.submit_fields() if name not in chosen]
        answered = self.app.post(action, [*sent, *chosen.items()])
        assert answered.status_int == 303
        self.page = answered.follow()
        return self.page

    def log_in(self, name: str) -> None:
        self.get()
        self.submit("/login", name=name)

    def text(self, element_id: str) -> str:
        element = self.page.html.find(id=element_id)
        assert element, f"no element {element_id}"
        return " ".join(element.text.split())

    def has(self, element_id: str) -> bool:
        return self.page.html.find(id=element_id) is not None

    @property
    def notes(self) -> list[str]:
        return [" ".join(note.text.split()) for note in self.page.html.select(".note")]

    @property
    def sessions(self) -> list[str]:
        """Labels of the user's sessions; ``*`` marks the visitor's own."""
        return [
            item.strong.text + ("*" if item.select(".tag") else "")
            for item in self.page.html.select(".sessions li")
        ]

    @property
    def cookie(self) -> str:
        return str(self.app.cookies["session"])

    @property
    def token(self) -> str:
        return str(self.page.html.find(attrs={"name": "csrf_token"})["value"])


@pytest.fixture
def app(redis_server: RedisServer, redis_client: redis.Redis) -> Any:
    # Importing the predecessor changes the standard library; the browser tests race it.
    return make_app(redis_server.url, with_predecessor=False)


@pytest.fixture
def visitor(app: Any) -> Visitor:
    return Visitor(app)


def test_login_gives_a_new_token_and_keeps_the_data(app: Any, visitor: Visitor) -> None:
    visitor.get()
    visitor.submit("/cart", "add", "oolong")
    before, name = (visitor.cookie, visitor.token), visitor.text("fingerprint")

    page = visitor.submit("/login", name=" <b>Ann</b>  B ")
    assert "<b>" not in page
    assert visitor.text("user") == "<b>Ann</b> B"
    assert visitor.notes == [
        "Welcome, <b>Ann</b> B. Your session has a new token, and kept its data."
    ]
    assert visitor.text("number-oolong") == "1"
    after = (visitor.cookie, visitor.token)
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert visitor.text("fingerprint") == name

    def opened_with(cookie: str) -> Visitor:
        thief = Visitor(app)
        thief.app.set_cookie("session", cookie)
        thief.get()
        return thief

    assert opened_with(after[0]).has("user")  # so that what follows shows something
    visitor.submit("/logout")
    assert not visitor.has("user")
    assert visitor.text("number-oolong") == "0"
    assert visitor.cookie not in (before[0], after[0])

    # The cookies of before open nothing any more.
    for cookie in (before[0], after[0]):
        assert not opened_with(cookie).has("user")
        assert opened_with(cookie).text("number-oolong") == "0"


def test_login_without_a_name_is_refused(visitor: Visitor) -> None:
    visitor.log_in("  ")
    assert visitor.notes == ["Please enter a name."]
    assert not visitor.has("user")


def test_cart_adds_removes_and_empties(visitor: Visitor) -> None:
    visitor.get()
    for tea in ("assam", "sencha", "sencha"):
        visitor.submit("/cart", "add", tea)
    assert (visitor.text("number-assam"), visitor.text("number-sencha")) == ("1", "2")
    assert visitor.text("total") == "€ 20.30"
    visitor.submit("/cart", "remove", "sencha")
    visitor.submit("/cart", "remove", "assam")
    visitor.submit("/cart", "remove", "assam")  # as from a page that is out of date
    visitor.submit("/cart", "add", "coffee")
    assert (visitor.text("number-assam"), visitor.text("number-sencha")) == ("0", "1")
    visitor.submit("/cart", "empty", "1")
    assert visitor.text("total") == "€ 0.00"


def test_cart_takes_no_more_when_it_is_full(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.views.MOST_IN_CART", 2)
    visitor.get()
    for _ in range(3):
        visitor.submit("/cart", "add", "assam")
    assert visitor.text("number-assam") == "2"
    assert visitor.notes == ["The cart is full."]


def test_voucher_counts_until_it_ends(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.get()
    visitor.submit("/cart", "add", "assam")
    assert visitor.text("total") == "€ 5.90"
    visitor.submit("/voucher")
    assert visitor.text("total") == "€ 5.31"
    monkeypatch.setattr("demo.views.VOUCHER_SECONDS", 0.2)
    visitor.app.post("/voucher", {"csrf_token": visitor.token}, status=303)

    def ended() -> bool:
        visitor.get()
        return visitor.text("total") == "€ 5.90"

    wait_until(ended)
    assert visitor.text("number-assam") == "1"


def test_delicate_page_asks_once_more_who_the_user_is(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor.get()
    visitor.log_in("Ann")
    before = visitor.cookie
    page = visitor.app.get("/payment", status=303).follow()
    assert page.request.path_qs == "/confirm?next=%2Fpayment"
    page.form["name"] = "Bob"
    page = page.form.submit(status=200)
    assert "not the name" in page
    page.form["name"] = "Ann"
    page = page.form.submit(status=303).follow(status=200)
    assert page.request.path == "/payment"
    assert "Ann pays by invoice" in page
    assert visitor.cookie != before
    monkeypatch.setattr(SessionState, "now_ms", lambda state: int(time.time() * 1000) + 61_000)
    visitor.app.get("/payment", status=303)


def test_who_is_not_logged_in_is_sent_home_from_the_delicate_page(visitor: Visitor) -> None:
    away = visitor.app.get("/payment", status=303).follow(status=303)
    assert away.location.endswith("/#account")


def test_page_shows_what_the_standard_asks_and_which_of_it_is_so(redis_url: str) -> None:
    shown = {}
    for name, options in {"plain": {}, "profile": {"profile": "asvs-l2"}}.items():
        page = make_app(redis_url, with_predecessor=False, **options)
        items = webtest.TestApp(page).get("/").html.select("#profile li")
        shown[name] = [item.get_text(" ", strip=True) for item in items]
        assert len(items) == len(PROFILES["asvs-l2"])
    assert "✗ cookie_secure = None should be true; 3.3.1" in shown["plain"]
    assert "✓ timeout = 600 7.1.1, 7.3.1" in shown["plain"]
    assert [line for line in shown["profile"] if not line.startswith("✓")] == []


def test_question_how_long_the_session_has_is_no_visit(
    visitor: Visitor, redis_client: redis.Redis
) -> None:
    visitor.get()
    visitor.submit("/timeout", "seconds", "20")
    (key,) = redis_client.scan_iter("session:*")
    redis_client.pexpire(key, 15_000)
    assert visitor.app.get("/session-time-left").json["seconds"] <= 15
    assert 0 < redis_client.pttl(key) <= 15_000


def test_message_stands_in_the_card_that_it_is_about(visitor: Visitor) -> None:
    visitor.get()
    for action, card, fields in (
        ("/timeout", "session", {}),
        ("/flash", "flash", {"message": "x"}),
        ("/login", "account", {"name": "Ann"}),
        ("/logout", "account", {}),
    ):
        button = ("seconds", "20") if action == "/timeout" else ("", "")
        visitor.submit(action, *button, **fields)
        assert len(visitor.notes) == 1
        assert len(visitor.page.html.select(f"#{card} .note")) == 1


def test_flash_message_is_shown_once(visitor: Visitor) -> None:
    visitor.get()
    visitor.submit("/flash", message="<i>Hello</i>")
    assert visitor.notes == ["<i>Hello</i>"]
    visitor.get()
    assert visitor.notes == []


def test_timeout_of_this_session_alone_is_changed(
    app: Any, visitor: Visitor, redis_client: redis.Redis
) -> None:
    visitor.get()
    visitor.submit("/timeout", "seconds", "20")
    assert int(visitor.page.html.find(id="left")["data-seconds"]) in (19, 20)
    assert visitor.page.html.find("button", {"aria-pressed": "true"}).text == "20 s"
    (key,) = redis_client.scan_iter("session:*")
    assert 0 < redis_client.pttl(key) <= 20_000

    visitor.submit("/timeout", "seconds", "86400")  # none of those to choose from
    assert int(visitor.page.html.find(id="left")["data-seconds"]) <= 20
    other = Visitor(app)
    other.get()
    assert int(other.page.html.find(id="left")["data-seconds"]) > 500


def test_sessions_of_a_user_are_listed_named_and_ended_one_by_one(app: Any) -> None:
    laptop = Visitor(app)
    phone = Visitor(app, "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/604.1")
    phone.log_in("Ann")
    laptop.log_in("Ann")
    Visitor(app).log_in("Bob")
    laptop.get()
    assert laptop.sessions == ["Safari on iPhone", "Firefox on Linux*"]
    phone.get()
    phone.submit("/label", label="My phone")
    phone.submit("/elsewhere")
    laptop.get()
    assert laptop.sessions[:2] == ["My phone", "Firefox on Linux*"]
    assert len(laptop.sessions) == 3

    fingerprint = phone.text("fingerprint")
    laptop.get("/devices")
    assert laptop.text("user") == "Ann"
    assert laptop.sessions[0] == "Firefox on Linux*"
    assert "Mobile Safari, iOS" in laptop.text("devices")
    laptop.submit("/devices", "end", fingerprint)
    assert laptop.notes == ["One device was logged out."]
    assert len(laptop.sessions) == 2

    # A page that was under way at that moment gets no session of its own.
    phone.get()
    assert not phone.has("user")
    assert "This session has ended a moment ago" in phone.notes[0]
    assert "Set-Cookie" not in phone.page.headers


@pytest.mark.parametrize("button", ["others", "everywhere"])
def test_logout_of_several_sessions(button: str, app: Any) -> None:
    here, there, bob = Visitor(app), Visitor(app), Visitor(app)
    for one, name in ((here, "Ann"), (there, "Ann"), (bob, "Bob")):
        one.log_in(name)
    here.get("/devices")
    here.submit("/devices", button, "1")
    for one in (here, there, bob):
        one.get()
    assert here.has("user") == (button == "others")
    assert not there.has("user")
    assert bob.has("user")


def test_forms_about_a_user_do_nothing_without_one(visitor: Visitor) -> None:
    visitor.get()
    for path in ("/label", "/elsewhere"):
        visitor.app.post(path, {"csrf_token": visitor.token, "label": "x"}, status=303)
    visitor.get()
    assert visitor.notes == []


FORMS = ["cart", "devices", "elsewhere", "flash", "label", "login", "logout", "timeout", "voucher"]


@pytest.mark.parametrize("path", [*FORMS, "race/ours", "race/ours/1"])
def test_form_without_its_token_is_refused(path: str, visitor: Visitor) -> None:
    visitor.log_in("Ann")
    values = {"add": "assam", "message": "x", "name": "Eve", "label": "x", "seconds": "20"}
    for token in ({}, {"csrf_token": "forged"}):
        refused = visitor.app.post(f"/{path}", {**values, **token}, status=400)
        assert "This form has expired" in refused
    visitor.get()
    assert visitor.text("user") == "Ann"
    assert visitor.notes == []
    assert visitor.text("keys") == "0"  # the token is not stored
    assert visitor.page.html.find("button", {"aria-pressed": "true"}).text == "10 min"


def test_page_asks_for_nothing_from_elsewhere_and_runs_nothing_within(visitor: Visitor) -> None:
    visitor.log_in("Ann")
    for element in visitor.page.html.find_all(True):
        assert element.name != "style"
        assert not [name for name in element.attrs if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            assert element.get(name, "/").startswith(("/", "#"))
        assert element.name != "script" or element.has_attr("src")
    missing = visitor.app.get("/missing", status=404)
    for answered in (visitor.page, missing, visitor.app.get("/static/demo.css")):
        policy = answered.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy
    assert visitor.page.headers["Cache-Control"] == "no-store"


# -- what browsers do not send --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("cart", "add"),
        ("cart", "remove"),
        ("flash", "message"),
        ("label", "label"),
        ("login", "name"),
        ("timeout", "seconds"),
    ],
)
def test_form_with_a_file_where_a_text_belongs_changes_nothing(
    path: str, field: str, visitor: Visitor
) -> None:
    visitor.log_in("Ann")
    visitor.get()
    keys = visitor.text("keys")
    file = (field, "name.txt", b"Eve")
    visitor.app.post(f"/{path}", {"csrf_token": visitor.token}, upload_files=[file], status=303)
    visitor.get()
    assert visitor.text("user") == "Ann"
    assert visitor.sessions == ["Firefox on Linux*"]
    assert visitor.text("keys") == keys


def test_address_that_is_no_text_has_a_page_of_the_demo(visitor: Visitor) -> None:
    answered = visitor.app.get("/%ff", status=400)
    assert "No such page" in answered
    assert answered.headers["Content-Security-Policy"].startswith("default-src 'none'")


# -- what the engine did ------------------------------------------------------------------


def test_log_shows_what_went_to_redis_for_this_very_request(proxy: CountingProxy) -> None:
    visitor = Visitor(make_app(proxy.url, with_predecessor=False))
    for action in ("", "/flash", "/login"):
        visitor.get()
        proxy.reset()
        if action:
            fields = {"/flash": {"message": "x"}, "/login": {"name": "Ann"}}[action]
            visitor.submit(action, **fields)
        else:
            visitor.get()
        shown = int(visitor.text("round-trips"))
        assert shown > 0
        if action:  # the form's own request stands below that of the page that it leads to
            shown += int(visitor.page.html.select_one("summary .soft").text.split()[0])
        assert shown == proxy.round_trips
    # The save after the page was made, too: the message of the login was taken out.
    assert "save_fields" in [code.text for code in visitor.page.html.select(".calls code")]

    proxy.reset()
    assert "This very request" not in visitor.app.get("/log")
    visitor.app.get("/static/demo.js")
    assert proxy.round_trips == 0


def test_log_is_shown_to_its_visitor_alone(app: Any, visitor: Visitor) -> None:
    visitor.get()
    visitor.submit("/flash", message="x")
    assert "POST /flash" in visitor.page
    other = Visitor(app)
    other.get()
    assert "POST /flash" not in other.page
    # A visitor cannot choose the name under which a log is kept.
    other.app.set_cookie("demo_log", "chosen")
    other.get()
    assert other.app.cookies["demo_log"] != "chosen"


# -- the race ---------------------------------------------------------------------------------


def test_race_keeps_every_request(app: Any, visitor: Visitor) -> None:
    visitor.get()
    headers = {"X-CSRF-Token": visitor.token}
    assert visitor.app.post("/race/ours", headers=headers).json == {"requests": 20}
    cookies = {"Cookie": f"session={visitor.cookie}; demo_log={visitor.app.cookies['demo_log']}"}
    together = threading.Barrier(20)

    def send(number: int) -> None:
        together.wait(10)
        webtest.TestApp(app).post(f"/race/ours/{number}", headers={**headers, **cookies})

    threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = visitor.app.get("/race/ours").json
    assert result["kept"] == list(range(20))
    visitor.get()
    assert str(result["keys"]) == visitor.text("keys")
    log = " ".join(visitor.app.get("/log").text.split())
    assert f"20 {TIMES} POST /race/ours/…" in log
    assert f"All together: 20 {TIMES} load_and_touch, 20 {TIMES} save_fields" in log

    visitor.app.post("/race/ours", headers=headers)
    assert visitor.app.get("/race/ours").json["kept"] == []


def test_page_says_so_where_there_is_nothing_to_race_against(visitor: Visitor) -> None:
    visitor.get()
    assert "install pyramid_session_redis" in visitor.text("race")
    for engine in ("predecessor", "other"):
        visitor.app.get(f"/race/{engine}", status=404)


def test_metrics_count_what_visitors_do(app: Any, visitor: Visitor) -> None:
    browser = webtest.TestApp(app)

    def logins() -> float:
        found = re.findall(
            r'^redis_sessions_\w+_total\{prefix="session:",reason="login"\} (\S+)$',
            browser.get("/metrics").text,
            re.MULTILINE,
        )
        return sum(map(float, found))

    before = logins()
    visitor.log_in("Ada")
    assert logins() == before + 1
    assert browser.get("/session-health").json["ready"]


def test_page_of_who_is_logged_in_names_its_session_and_others_do_not(
    app: Any, visitor: Visitor
) -> None:
    assert "data-session" not in webtest.TestApp(app).get("/").text
    visitor.log_in("Ada")
    assert re.search(r'<body data-session="[0-9a-f]{12}">', visitor.page.text)
