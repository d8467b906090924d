"""docs/cookiecutter.rst, followed to the letter, in an application of the cookiecutter's shape.

Nothing is installed or fetched: the application is on the path of this Python.
"""

from __future__ import annotations

import http.cookiejar
import os
import re
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.functional.test_documentation import samples
from tests.support.waiting import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cookiecutter.rst"

INI = """\
[app:main]
use = egg:shop
pyramid.default_locale_name = en

[server:main]
use = egg:waitress#main
listen = localhost:6543

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARN
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(levelname)-5.5s [%(name)s] %(message)s
"""

#: What is there before the page begins; its own files are written over these.
GENERATED = {
    "shop/routes.py": """\
        def includeme(config):
            config.add_static_view("static", "static", cache_max_age=3600)
            config.add_route("home", "/")
        """,
    "shop/views/__init__.py": "",
    "shop/views/default.py": """\
        from pyramid.view import view_config

        @view_config(route_name="home", renderer="shop:templates/home.jinja2")
        def my_view(request):
            return {"project": "shop"}
        """,
    "shop/templates/home.jinja2": "<p>{{ project }}</p>\n",
    "shop/static/theme.css": "",
    "tests/__init__.py": "",
    "tests/conftest.py": """\
        import os

        import pytest
        import webtest
        from pyramid.paster import get_appsettings

        from shop import main

        def pytest_addoption(parser):
            parser.addoption("--ini", action="store", metavar="INI_FILE")

        @pytest.fixture(scope="session")
        def ini_file(request):
            return os.path.abspath(request.config.option.ini or "testing.ini")

        @pytest.fixture(scope="session")
        def app_settings(ini_file):
            return get_appsettings(ini_file)

        @pytest.fixture(scope="session")
        def app(app_settings):
            return main({}, **app_settings)

        @pytest.fixture
        def testapp(app):
            return webtest.TestApp(app, extra_environ={"HTTP_HOST": "example.com"})
        """,
    "tests/test_functional.py": """\
        def test_root(testapp):
            assert testapp.get("/", status=200).text == "<p>shop</p>"

        def test_notfound(testapp):
            assert testapp.get("/badurl", status=404).status_code == 404
        """,
    "shop.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: shop\nVersion: 0.0\n",
    "shop.egg-info/entry_points.txt": "[paste.app_factory]\nmain = shop:main\n",
}


class Shop(NamedTuple):
    directory: Path

    def run(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(self.directory),
                "SESSION_SECRET": "a secret of more than thirty-two bytes",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def insert(self, name: str, after: str, text: str) -> None:
        before, found, rest = (self.directory / name).read_text().partition(after)
        assert found, after
        self.write(name, before + found + text + rest)


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Shop:
    """The application, as the page has it in the end."""
    files = {name: textwrap.dedent(text) for name, text in GENERATED.items()}
    page = PAGE.read_text("utf-8")
    (lines,) = samples(PAGE, "ini")
    ours = lines.text.replace("[app:main]\n", "").replace("redis://localhost:6379/0", redis_url)
    assert redis_url in ours
    (more,) = re.findall(r"In ``production.ini`` one more: ``(.*?)``", page)
    for name in ("development", "testing", "production"):
        added = ours + (f"{more}\n" if name == "production" else "")
        files[f"{name}.ini"] = INI.replace("[app:main]\n", f"[app:main]\n{added}")
    conftest = files["tests/conftest.py"]
    for name, text in files_of(page).items():
        if name == "tests/conftest.py":
            # "replace the fixture": the rest of the file stays.
            old = re.search(r"@pytest.fixture.*\ndef app_settings.*\n(?:    .*\n)+", conftest)
            assert old is not None
            text = conftest.replace(old[0], text)
        files[name] = text
    shop = Shop(tmp_path)
    for name, text in files.items():
        shop.write(name, text)
    return shop


def files_of(page: str) -> dict[str, str]:
    """The files of the page: a paragraph that begins with, or is about, their path; their code."""
    block = r"\n\n\.\. code-block:: (?:python|html\+jinja)\n\n((?: {4}.*\n|\n)+)"
    found = re.findall(r"``((?:shop|tests)/\S+)``[^`]*(?:``\w+``[^`]*)?:?" + block, page)
    found += re.findall(r"In ``(tests/conftest.py)`` [^\n]*(?:\n[^\n]+)*" + block, page)
    files = {name: textwrap.dedent(text).strip("\n") + "\n" for name, text in found}
    assert sorted(files) == [
        "shop/__init__.py",
        "shop/security.py",
        "shop/templates/login.jinja2",
        "shop/views/login.py",
        "tests/conftest.py",
        "tests/test_login.py",
    ]
    return files


def test_its_tests_pass(shop: Shop) -> None:
    tests = shop.run("pytest", "-q", "-p", "no:cacheprovider", "tests")
    output, _ = tests.communicate(timeout=120)
    assert tests.returncode == 0, output
    assert "4 passed" in output


def test_tests_of_its_login_pass_beside_the_form_that_logs_out_everywhere(shop: Shop) -> None:
    page = PAGE.with_name("log-out-everywhere.rst")
    ((view, module, route, template, above),) = re.findall(
        r"``(shop/\S+)``:(?:.|\n)*?In ``(shop/\S+)``, at the end, add ``(.*)``, and in\s+"
        r"``(shop/\S+)``, below the form that logs (\w+):",
        page.read_text("utf-8"),
    )
    (text,) = (one.text for one in samples(page, "python") if "@view_config" in one.text)
    (form,) = (one.text for one in samples(page, r"html\+jinja"))
    shop.write(view, text)
    shop.insert(module, '    config.add_route("logout", "/logout")\n', f"    {route}\n")
    shop.insert(template, f"<button>Log {above}</button>\n</form>\n", form)
    shop.write("tests/test_everywhere.py", EVERYWHERE)
    tests = shop.run("pytest", "-q", "-p", "no:cacheprovider", "tests")
    output, _ = tests.communicate(timeout=120)
    assert tests.returncode == 0, output
    assert "6 passed" in output


#: Of a reader who has followed docs/log-out-everywhere.rst, too.
EVERYWHERE = """\
import webtest

from .test_login import send


def test_log_out_everywhere(app, testapp):
    phone = webtest.TestApp(app, extra_environ={"HTTP_HOST": "example.com"})
    for browser in (testapp, phone):
        assert "You are ann." in send(browser, "/login", name="ann", password="tea")
    assert "You are logged out everywhere." in send(testapp, "/log_out_everywhere")
    for browser in (testapp, phone):
        assert "You are ann." not in browser.get("/login")


def test_visitor_ends_nothing(testapp):
    token = testapp.get("/login").form["csrf_token"].value
    page = testapp.post("/log_out_everywhere", {"csrf_token": token}).follow()
    assert "logged out" not in page
"""


def test_check_is_green(shop: Shop) -> None:
    check = shop.run("pyramid_redis_lua_sessions", "check", "production.ini")
    output, _ = check.communicate(timeout=60)
    assert check.returncode == 0, output
    assert "failed" not in output
    assert "warning" not in output, output


@pytest.fixture
def url(shop: Shop) -> Iterator[str]:
    """The application behind gunicorn, as the page starts it, but with the ini file for http."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (line,) = re.findall(r"\$ env/bin/(gunicorn .*)", PAGE.read_text("utf-8"))
    command = line.replace("production.ini", "development.ini").replace("8000", str(port)).split()
    server = shop.run(*command, "--no-control-socket")
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, 60)
        yield address
    finally:
        server.terminate()
        server.communicate(timeout=60)


class Visitor:
    def __init__(self, url: str) -> None:
        self.url = url
        cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))

    def open_form(self) -> str:
        """Return its CSRF token."""
        with self.opener.open(f"{self.url}/login", timeout=20) as response:
            (token,) = re.findall(r'name="csrf_token" value="(.+?)"', response.read().decode())
        return str(token)

    def send(self, path: str, token: str, **fields: str) -> str:
        data = urllib.parse.urlencode({**fields, "csrf_token": token}).encode()
        try:
            with self.opener.open(self.url + path, data, timeout=20) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as refused:
            return f"{refused.code} {refused.read().decode()}"

    def log_in(self, password: str, token: str | None = None) -> str:
        return self.send("/login", token or self.open_form(), name="ann", password=password)


def test_login_and_logout_behind_gunicorn(url: str) -> None:
    visitor = Visitor(url)
    assert "That is not right." in visitor.log_in("milk")
    assert "You are ann." in visitor.log_in("tea")
    assert "Good bye." in visitor.send("/logout", visitor.open_form())


def test_login_with_a_form_whose_session_has_expired(url: str, redis_client: redis.Redis) -> None:
    visitor = Visitor(url)
    token = visitor.open_form()
    (key,) = redis_client.scan_iter("session:*")
    assert 0 < redis_client.ttl(key) <= 300
    redis_client.pexpire(key, 0)
    page = visitor.log_in("tea", token)
    assert page.startswith("400 ")
    assert "That form was open for too long." in page
    assert "You are ann." in visitor.log_in("tea")
