"""What README and docs/ say is so: samples run, names exist, figures hold."""

import ast
import configparser
import http.cookiejar
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
import types
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docutils.core
import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from webtest import TestApp

import pyramid_redis_lua_sessions
from pyramid_redis_lua_sessions import testing, watch
from pyramid_redis_lua_sessions.cli import SessionsCommand
from pyramid_redis_lua_sessions.engine.scripts import SCRIPTS
from pyramid_redis_lua_sessions.settings import PREFIX, Row, Settings, SettingsError, rows
from pyramid_redis_lua_sessions.testing import CountingProxy
from tests.support.browser import let_time_pass, make_browser
from tests.support.serving import running
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.rst"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.rst"))]
SECRET = "a secret of more than thirty-two bytes"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the samples take from the reader's."""
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    monkeypatch.setenv("REDIS_PASSWORD", "the password")
    keep_eventlet_out(monkeypatch)


def keep_eventlet_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """sentry-sdk imports it where it is there, and it changes ``os.fork`` of whoever does."""
    monkeypatch.setitem(sys.modules, "eventlet", None)
    monkeypatch.setitem(sys.modules, "eventlet.patcher", None)


def pages_with(language: str) -> list[Any]:
    return [pytest.param(page, id=page.stem) for page in PAGES if samples(page, language)]


class Sample(NamedTuple):
    line: int
    text: str


def samples(page: Path, language: str) -> list[Sample]:
    """The code blocks of one language on a page."""
    text = page.read_text(encoding="utf-8")
    block = rf"^\.\. code-block:: {language}\n\n((?: {{4}}.*\n|\n)+)"
    return [
        Sample(text.count("\n", 0, found.start(1)), textwrap.dedent(found.group(1)))
        for found in re.finditer(block, text, re.MULTILINE)
    ]


def extension(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- samples -----------------------------------------------------------------------


def test_every_sample_is_of_a_language_that_a_test_runs() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        languages = set(re.findall(r"\.\. code(?:-block)?:: *(\S*)", text))
        assert languages <= {"python", "ini", "console", "text", "html+jinja"}, page.name
        for language in languages - {"text"}:
            language = re.escape(language)
            count = len(re.findall(rf"\.\. code(?:-block)?:: *{language}", text))
            assert len(samples(page, language)) == count, page.name


@pytest.mark.parametrize("page", pages_with("ini"))
def test_every_line_of_an_ini_sample_is_accepted(page: Path, redis_url: str) -> None:
    for sample in samples(page, "ini"):
        parser = configparser.ConfigParser()
        parser.read_string(sample.text)
        settings = {
            key: value for section in parser.sections() for key, value in parser.items(section)
        }
        # As a whole, so that the settings go together, and each line on its own.
        Settings.from_ini(settings)
        for key, value in settings.items():
            assert key.startswith(PREFIX), key
            alone = {key: value}
            if key != f"{PREFIX}secret":
                alone[f"{PREFIX}secret"] = SECRET
            Settings.from_ini(alone)
            with pytest.raises(SettingsError):
                Settings.from_ini({**alone, f"{key}_misspelt": value})


#: The pages that tests of their own follow to the letter, and what their readers' shells have.
FOLLOWED = {"getting-started", "cookiecutter", "README"}
SHELL = {"mkdir", "cd", ".", "export", "cookiecutter"}


@pytest.mark.parametrize("page", pages_with("console"))
def test_every_command_of_a_console_sample_exists(page: Path) -> None:
    for sample in samples(page, "console"):
        for line in sample.text.splitlines():
            if not line.startswith("$ "):
                continue
            program, *args = shlex.split(line[2:], comments=True)
            program = re.sub(r"^(env|tools)/bin/", "", program)
            if program in SHELL:
                assert page.stem in FOLLOWED, line
                continue
            if program == "make":
                assert_is_target(args[0])
            elif program == "redis-lua-sessions":
                SessionsCommand([]).make_parser().parse_args(args)
            else:
                assert program in {"python", "python3", "pserve", "pip", "pytest", "gunicorn"}, line


def assert_is_target(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"no target {name}"


def test_make_targets_that_the_pages_name_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"(?:``|^    )make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert_is_target(name)


def test_what_contributors_are_told_exists() -> None:
    files = ("CONTRIBUTING.rst", ".github/workflows/ci.yml", ".pre-commit-config.yaml")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    targets = re.findall(r"(?:run: |^    |``|\")make ([a-z-]+)", text, re.MULTILINE)
    assert len(targets) > 12
    for name in targets:
        assert_is_target(name)
    paths = re.findall(r"``((?:tests|docs|lua)/[\w./]*)``", text)
    assert len(paths) > 4
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.fixture
def run_page(redis_url: str) -> Iterator[Callable[[Path], Any]]:
    """Runs the Python samples of a page, one after the other, as one module."""
    names = []

    def run(page: Path) -> Any:
        module: Any = types.ModuleType(f"samples_of_{page.stem.replace('-', '_')}")
        names.append(module.__name__)
        sys.modules[module.__name__] = module  # config.scan() finds its caller there
        module.config = Configurator(
            settings={"redis.sessions.url": redis_url, "redis.sessions.secret": SECRET}
        )
        module.redis_url = redis_url
        for sample in samples(page, "python"):
            source = "\n" * sample.line + sample.text
            exec(compile(source, str(page), "exec"), module.__dict__)
        return module

    yield run
    for name in names:
        del sys.modules[name]


#: Pages whose samples are a whole that tests of their own run.
WHOLE = {"cookiecutter", "README"}


@pytest.mark.parametrize("page", [page for page in pages_with("python") if page.id not in WHOLE])
def test_python_samples_run(page: Path, run_page: Callable[[Path], Any]) -> None:
    run_page(page)


def test_readme_sample_is_ten_lines_that_serve_sessions(redis_url: str, tmp_path: Path) -> None:
    (sample,) = samples(README, "python")
    assert len([line for line in sample.text.splitlines() if line]) <= 10

    def command(port: int) -> list[str]:
        source = sample.text
        # Where the reader's Redis is, and a port that nobody else has.
        for theirs, ours in (
            ("settings={", f"settings={{'redis.sessions.url': {redis_url!r}, "),
            ("6543", str(port)),
        ):
            assert source.count(theirs) == 1
            source = source.replace(theirs, ours)
        (tmp_path / "app.py").write_text(source)
        return [sys.executable, "app.py"]

    with running(command, tmp_path / "log", tmp_path) as port:
        visitor = Visitor(f"http://127.0.0.1:{port}")
        assert [visitor.send() for _ in range(3)] == [f"Visits: {n}" for n in (1, 2, 3)]


def test_settings_most_often_changed_keep_who_comes_daily_and_has_three_days(
    redis_url: str, redis_client: Any
) -> None:
    sample = samples(DOCS / "settings.rst", "ini")[0]
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(sample.text)
    own = {"redis.sessions.url": redis_url, "redis.sessions.secret": SECRET}
    browser = make_browser(None, settings={**parser["app:main"], **own})
    day = 24 * 3600
    browser.use(lambda session: (session.update(a=1), session.adjust_session_timeout(3 * day)))
    for _ in range(20):
        let_time_pass(redis_client, browser.key, day)
        assert browser.use(dict) == {"a": 1}


#: What stands in for ``python`` and ``python3`` of a reader's shell: nothing is installed, and
#: the environment that they make is none; all else is run by the Python of the tests.
READERS_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && touch "$3/bin/activate" ;;
  "-m pip") echo "$@" >> "$PIP_LOG" ;;
  *) exec "$TESTS_PYTHON" "$@" ;;
esac
"""


class Started(NamedTuple):
    """The application of a page, run as the page says.

    :ivar url: its address, without a slash.
    :ivar installed: the arguments of ``pip`` that came before.
    """

    url: str
    installed: list[str]


@pytest.fixture
def getting_started(tmp_path: Path, redis_url: str) -> Iterator[Started]:
    """Follows the page to the letter, in a directory of its own, as somebody with a shell."""
    page = DOCS / "getting-started.rst"
    (program,) = samples(page, "python")
    install, run = (
        [line.removeprefix("$ ") for line in sample.text.splitlines() if line]
        for sample in samples(page, "console")
    )
    source = program.text
    # Where the reader's Redis is, and a port that nobody else has.
    for theirs, ours in (
        ("redis://localhost:6379/0", redis_url),
        ("127.0.0.1:6543", "127.0.0.1:0"),
    ):
        assert source.count(theirs) == 1
        source = source.replace(theirs, ours)
    for directory in ("checkout", "bin"):
        (tmp_path / directory).mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).write_text(READERS_PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "app.py").write_text(source)
    run[-1] = f"exec {run[-1]}"  # so that there is one process to end
    printed = tmp_path / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-ec", "\n".join([*install, "cp ../app.py app.py", *run])],
            cwd=tmp_path / "checkout",
            env={
                "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
                "PIP_LOG": str(tmp_path / "installed"),
                "TESTS_PYTHON": sys.executable,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def url() -> str | None:
        assert process.poll() is None, printed.read_text()
        found = re.search(r"Serving on (http://127\.0\.0\.1:\d+)\n", printed.read_text())
        return found and found.group(1)

    try:
        yield Started(str(wait_until(url, 30)), (tmp_path / "installed").read_text().split())
    finally:
        process.kill()
        process.wait()


class Visitor:
    """Somebody with a browser that keeps cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        handler = urllib.request.HTTPCookieProcessor(self.cookies)
        self._opener = urllib.request.build_opener(handler)

    def send(self, path: str = "/", fields: dict[str, str] | None = None) -> str:
        data = None if fields is None else urllib.parse.urlencode(fields).encode("ascii")
        with self._opener.open(self.url + path, data, timeout=10) as response:
            return str(response.read().decode("utf-8"))

    def submit(self, path: str, **fields: str) -> str:
        """Fill in the form of the page that posts to ``path``."""
        (form,) = re.findall(rf'<form method="post" action="{path}">.*?</form>', self.send(), re.S)
        assert {*re.findall(r'name="(\w+)"', form)} == {*fields, "csrf_token"}
        (token,) = re.findall(r'name="csrf_token" value="([^"]+)"', form)
        return self.send(path, {**fields, "csrf_token": token})

    @property
    def cookie(self) -> str:
        (cookie,) = self.cookies
        return f"{cookie.name}={cookie.value}"


def test_getting_started_can_be_followed_to_the_letter(getting_started: Started) -> None:
    visitor = Visitor(getting_started.url)
    assert "Hello, stranger" in visitor.send()
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        visitor.send("/cart", {"item": "tea"})
    refused.value.close()
    page = visitor.submit("/cart", item="<tea>")
    assert "It is in your cart." in page
    assert "In your cart: &lt;tea&gt;</p>" in page
    page = visitor.submit("/cart", item="milk")  # a change inside the list
    assert "In your cart: &lt;tea&gt;, milk</p>" in page

    anonymous = visitor.cookie
    page = visitor.submit("/login", name="Ann", password="")
    assert "Hello, Ann" in page
    assert "milk" in page
    logged_in = visitor.cookie
    assert logged_in != anonymous
    page = visitor.submit("/logout")
    assert "Hello, stranger" in page
    assert "In your cart: nothing" in page
    for old in (anonymous, logged_in):
        request = urllib.request.Request(getting_started.url, headers={"Cookie": old})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert b"In your cart: nothing" in response.read()


def test_getting_started_installs_all_that_its_application_imports(
    getting_started: Started,
) -> None:
    module, verb, *packages = getting_started.installed[1:]
    assert (module, verb) == ("pip", "install")
    packages[packages.index(".")] = "pyramid_redis_lua_sessions"
    there = {*packages}
    for name in packages:
        needed = importlib.metadata.requires(name) or []
        there |= {re.split(r"[^\w-]", one)[0] for one in needed if "extra ==" not in one}
    (program,) = samples(DOCS / "getting-started.rst", "python")
    imported = set()
    for node in ast.walk(ast.parse(program.text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert "waitress" in imported
    assert imported - sys.stdlib_module_names <= there


def test_getting_started_application_takes_the_settings_of_an_ini_file(
    run_page: Callable[[Path], Any], redis_url: str
) -> None:
    page = DOCS / "getting-started.rst"
    parser = configparser.ConfigParser()
    parser.read_string(samples(page, "ini")[0].text)
    settings = {**parser["app:main"], "redis.sessions.url": redis_url}
    app = TestApp(run_page(page).main({}, **settings))
    form = app.get("/").forms[0]
    form["item"] = "tea"
    form.submit(status=303)
    assert "It is in your cart." in app.get("/").text


def test_tests_of_the_testing_page_pass(tmp_path: Path, redis_binary: str) -> None:
    blocks = [sample.text for sample in samples(DOCS / "testing.rst", "python")]
    file = tmp_path / "test_samples.py"
    file.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "REDIS_SERVER": redis_binary},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(block.count("def test_") for block in blocks)
    assert f"{count} passed" in done.stdout


def test_debug_toolbar_settings_bring_the_panel(redis_url: str) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(samples(DOCS / "debugtoolbar.rst", "text")[0].text)
    with Configurator(
        settings={
            **dict(parser.items("app:main")),
            "redis.sessions.url": redis_url,
            "redis.sessions.secret": SECRET,
        }
    ) as config:
        config.include("pyramid_redis_lua_sessions")
        config.add_route("home", "/")
        config.add_view(lambda request: Response(), route_name="home")
        app = TestApp(config.make_wsgi_app(), extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    app.get("/")
    ((number, _),) = app.app.registry.pdtb_history.last(1)
    assert "Redis session" in app.get(f"/_debug_toolbar/{number}").text


# -- names -------------------------------------------------------------------------


def documented(page: Path, module: str) -> set[str]:
    """The names of one module that the page's autodoc directives document."""
    names = set()
    current = ""
    pattern = re.compile(
        r"^\.\. (module|auto(?:data|class|function|exception))::\s+(\S+)", re.MULTILINE
    )
    for kind, name in pattern.findall(page.read_text(encoding="utf-8")):
        if kind == "module":
            current = name
        elif "." not in name and current == module:
            assert name not in names, f"{name} is documented twice"
            names.add(name)
    return names


def test_api_page_documents_exactly_the_public_names() -> None:
    package = pyramid_redis_lua_sessions
    assert documented(DOCS / "api.rst", package.__name__) == set(package.__all__)
    assert documented(DOCS / "api.rst", watch.__name__) == set(watch.__all__)
    assert documented(DOCS / "testing.rst", testing.__name__) == set(testing.__all__)


def test_scripts_page_shows_every_script_and_every_part_under_its_name() -> None:
    text = (DOCS / "scripts.rst").read_text(encoding="utf-8")
    shown = re.findall(r"^(\w+)\n-+\n\n\.\. lua-script:: (\w+)$", text, re.MULTILINE)
    assert sorted(shown) == [(name, name) for name in sorted(SCRIPTS)]
    shown = re.findall(r"^(\w+)\n~+\n\n\.\. lua-part:: (\w+)$", text, re.MULTILINE)
    parts = sorted(path.stem for path in (ROOT / "lua" / "parts").glob("*.lua"))
    assert sorted(shown) == [(name, name) for name in parts]


def test_settings_page_shows_every_setting_once() -> None:
    settings_page = extension("session_settings")
    groups = settings_page.grouped()
    shown = re.findall(
        r"^\.\. session-settings:: (.+)$", (DOCS / "settings.rst").read_text(), re.MULTILINE
    )
    assert shown == list(groups)
    assert [row.name for group in groups.values() for row in group] == [row.name for row in rows()]
    assert [row for row in rows() if row.gone] == groups["Without effect"]
    for row in rows():
        text = settings_page.describe(row)
        assert f".. confval:: {PREFIX}{row.name}\n" in text
        for alias in row.aliases:
            assert f"``{PREFIX}{alias}``" in text


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows()])
def test_default_that_the_settings_page_shows_parses_to_the_default(row: Row) -> None:
    shown = extension("session_settings").default_of(row)
    if "from code only" in row.doc:
        assert row.default is None
        assert shown == "None"
    else:
        assert row.parser(shown) == row.default


def test_settings_that_the_pages_name_exist() -> None:
    known = {name for row in rows() for name in (row.name, *row.aliases)}
    for page in PAGES:
        for name in re.findall(r"redis\.sessions\.(\w+)", page.read_text(encoding="utf-8")):
            assert name in known, f"{page.name}: {name}"


def test_pages_of_the_documentation_are_all_in_its_tree() -> None:
    index = (DOCS / "index.rst").read_text(encoding="utf-8")
    entries = set()
    for tree in re.findall(r"\.\. toctree::\n(?:   :.*\n)*\n((?:   \S+\n)+)", index):
        entries.update(tree.split())
    assert entries == {page.stem for page in DOCS.glob("*.rst")} - {"index"}


#: Of these groups, pages that are about no feature of sessions.
NO_FEATURES = {"security", "testing", "debugtoolbar"}


def features() -> list[str]:
    index = (DOCS / "index.rst").read_text(encoding="utf-8")
    trees = re.findall(
        r"\.\. toctree::\n   :caption: (?:Users|Sessions|Security)\n   :hidden:\n\n((?:   \S+\n)+)",
        index,
    )
    assert len(trees) == 3
    return sorted({*" ".join(trees).split()} - NO_FEATURES)


@pytest.mark.parametrize("name", features())
def test_page_of_a_feature_says_when_not_to_use_it_and_what_it_protects_from(name: str) -> None:
    text = (DOCS / f"{name}.rst").read_text(encoding="utf-8")
    assert re.search(r"^When not(\n-+$|: )|[ (]When not: ", text, re.MULTILINE)
    assert re.search(r"^What it protects from\n-+$", text, re.MULTILINE)
    assert re.search(r"^Settings: |^There are no settings", text, re.MULTILINE)
    assert re.search(r"^\.\. code-block:: (python|ini|text)$", text, re.MULTILINE)
    assert re.search(r":(doc|ref):`", text)


def test_change_log_says_which_release_it_is() -> None:
    changes = (ROOT / "CHANGES.rst").read_text(encoding="utf-8")
    releases = re.findall(r"^(\S+) \((?:unreleased|\d{4}-\d\d-\d\d)\)\n-+$", changes, re.MULTILINE)
    assert releases[0] == pyramid_redis_lua_sessions.__version__


def test_readme_and_change_log_are_plain_restructuredtext() -> None:
    # The package index renders them with docutils, which knows no Sphinx roles.
    for name in ("README.rst", "CHANGES.rst", "CONTRIBUTING.rst"):
        docutils.core.publish_string(
            (ROOT / name).read_text(encoding="utf-8"),
            writer="html",
            settings_overrides={"halt_level": 2, "report_level": 2, "_disable_config": True},
        )


def test_files_that_the_readme_links_exist() -> None:
    linked = re.findall(r"<([\w./-]+)>`_", README.read_text(encoding="utf-8"))
    assert len(linked) > 8
    for path in linked:
        assert (ROOT / path).is_file(), path


# -- figures -----------------------------------------------------------------------


def round_trips_in_readme() -> dict[str, int]:
    """The table of README: what a request does, to the round trips it is said to take here."""
    section = README.read_text(encoding="utf-8").partition(".. round-trips")[2]
    return {
        found.group(1).strip(): int(found.group(2))
        for found in re.finditer(r"^(\S.*?) {2,}\d+ +(\d+)$", section, re.MULTILINE)
    }


def login(request: Any) -> None:
    request.session.regenerate_id()
    request.session["user"] = "Ann"


#: For each row of the table: whether the request comes with a session, and what it does.
REQUESTS: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "session never touched": (True, lambda request: None),
    "no cookie, and only read": (False, lambda request: request.session.get("a")),
    "session read": (True, lambda request: request.session["a"]),
    "first write: a new session": (False, lambda request: request.session.update(a=1)),
    "read and write": (True, lambda request: request.session.update(a=request.session["a"] + 1)),
    "log in: a new token, the data kept": (True, login),
}


def test_round_trips_are_those_of_the_readme(proxy: CountingProxy) -> None:
    with Configurator(
        settings={"redis.sessions.url": proxy.url, "redis.sessions.secret": SECRET}
    ) as config:
        config.include("pyramid_redis_lua_sessions")

        def view(request: Any) -> Response:
            REQUESTS[request.GET["do"]][1](request)
            return Response()

        config.add_route("home", "/")
        config.add_view(view, route_name="home")
        application = config.make_wsgi_app()

    measured = {}
    for name, (with_session, _) in REQUESTS.items():
        browser = TestApp(application)
        if with_session:
            browser.get("/", {"do": "first write: a new session"})
        proxy.reset()
        browser.get("/", {"do": name})
        measured[name] = proxy.round_trips
    assert measured == round_trips_in_readme()
