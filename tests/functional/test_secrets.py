"""Secrets that stand in the environment or in a file: for an ini file, code and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.paster import get_app, get_appsettings
from webtest import TestApp

from pyramid_redis_lua_sessions import RedisSessionFactory
from pyramid_redis_lua_sessions.testing import RedisServer
from tests.support.browser import SECRET, make_browser
from tests.support.command import run

PASSWORD = "100%pass/word:of@Redis"
INCLUDE = "pyramid_redis_lua_sessions"


@pytest.fixture(scope="module")
def server(redis_binary: str) -> Iterator[RedisServer]:
    """One that asks for a password."""
    with RedisServer(redis_binary, config={"requirepass": PASSWORD}) as server:
        yield server


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: RedisServer) -> None:
    """Where the secrets stand."""
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/0"
    monkeypatch.setenv("REDIS_URL", url)
    (tmp_path / "url").write_text(url)
    monkeypatch.chdir(tmp_path)


URLS = {
    "variable": "redis://:env:REDIS_PASSWORD@127.0.0.1:{port}/0",
    "user and variable": "redis://default:env:REDIS_PASSWORD@127.0.0.1:{port}/0",
    "file": "redis://:file:password@127.0.0.1:{port}/0",
    "absolute file": "redis://:file:{encoded}%2Fpassword@127.0.0.1:{port}/0",
    "option": "redis://127.0.0.1:{port}/0?password=file:{directory}/password",
    "URL in a variable": "env:REDIS_URL",
    "URL in a file": "file:url",
}


def url_of(kind: str, server: RedisServer, directory: Path) -> str:
    encoded = str(directory).replace("/", "%2F")
    return URLS[kind].format(port=server.port, directory=directory, encoded=encoded)


@pytest.mark.parametrize("kind", URLS)
def test_password_of_a_url_stands_elsewhere(
    kind: str, server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(kind, server, tmp_path)
    browser = make_browser(url, secret="env:SESSION_SECRET")
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}
    assert run("stats", "--url", url) == 0
    assert PASSWORD not in "".join(capsys.readouterr())


def test_password_beside_the_host_stands_elsewhere(server: RedisServer) -> None:
    where = {"host": "127.0.0.1", "port": server.port, "password": "file:password"}
    browser = make_browser(None, secret="env:SESSION_SECRET", **where)
    browser.use(lambda session: session.update(a=1))
    assert browser.use(dict) == {"a": 1}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:env:NO_SUCH_PASSWORD@h/0", "variable NO_SUCH_PASSWORD, which is not set"),
        ("redis://:file:missing@h/0", "file missing, which cannot be read (FileNotFoundError)"),
        ("redis://h/0?password=env:NO_SUCH_PASSWORD", "variable NO_SUCH_PASSWORD, which is not"),
        (
            "redis+sentinel://h/s/0?sentinel_password=env:NO_SUCH_PASSWORD",
            "option sentinel_password: expected the environment variable NO_SUCH_PASSWORD",
        ),
        ("env:NO_SUCH_URL", "variable NO_SUCH_URL, which is not set"),
        ("file:missing", "file missing, which cannot be read"),
    ],
)
def test_password_that_is_not_there_is_an_error_at_start(
    url: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_browser(url)
    assert "redis.sessions.url " in str(caught.value)
    assert words in str(caught.value)
    assert run("load-scripts", "--url", url) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--url " in line
    assert words in line


def test_factory_made_in_code_takes_references(server: RedisServer) -> None:
    factory = RedisSessionFactory("env:SESSION_SECRET", redis_url="env:REDIS_URL")
    assert factory.settings.secret == (SECRET.encode(),)


# -- an application with an ini file ---------------------------------------------------


def visits(request: Any) -> str:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return str(request.session["visits"])


def main(global_config: object, **settings: Any) -> Any:
    """The application of the ini file."""
    with Configurator(settings=settings) as config:
        config.include(INCLUDE)
        config.add_route("visits", "/")
        config.add_view(visits, route_name="visits", renderer="string")
        return config.make_wsgi_app()


@pytest.fixture
def ini(tmp_path: Path) -> str:
    path = tmp_path / "app.ini"
    path.write_text(
        f"[app:main]\nuse = call:{__name__}:main\n"
        "redis.sessions.secret = env:SESSION_SECRET\nredis.sessions.url = file:%(here)s/url\n"
    )
    return str(path)


def test_application_of_an_ini_file_without_secrets_serves(ini: str) -> None:
    app = TestApp(get_app(ini))
    assert [app.get("/").text for _ in range(3)] == ["1", "2", "3"]
    assert run("check", ini) in (0, 1)


def test_tools_that_only_read_the_ini_file_need_no_secret(
    ini: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As alembic, and the scripts and tests of a cookiecutter's application.
    monkeypatch.delenv("SESSION_SECRET")
    settings = get_appsettings(ini)
    assert settings["redis.sessions.secret"] == "env:SESSION_SECRET"
    with pytest.raises(ConfigurationError, match="variable SESSION_SECRET, which is not set"):
        main({}, **settings)


def test_tools_of_pyramid_run_without_the_secret_in_their_arguments(ini: str) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pyramid.scripts.proutes", ini],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "visits" in done.stdout
