"""The predecessors themselves, so that tests have real sessions of theirs to move.

``pyramid_session_redis`` 1.8.1 runs on Pyramid 2; 1.5.3 and ``pyramid_redis_sessions`` 1.0.1
need Pyramid 1 and redis-py 3. So they live in virtual environments of their own under
``.cache``, made on first use, with pip; a test that needs one fails where that is not possible.
"""

from __future__ import annotations

import ast
import fcntl
import http.client
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "predecessors"
SERVER = Path(__file__).with_name("predecessor_server.py")
SECRET = "the secret with which the old cookies are signed"

#: Pyramid 1.10 needs pkg_resources, which newer releases of setuptools have lost.
BUILD = ["setuptools<81", "wheel"]

#: Environment to what is installed there; the last part of its name is raised on a change.
ENVIRONMENTS = {
    "pyramid2-1": ["pyramid>=2,<3", "pyramid_session_redis==1.8.1"],
    "pyramid1-2": [
        "pyramid<2",
        "redis<4",
        "pyramid_session_redis==1.5.3",
        "pyramid_redis_sessions==1.0.1",
    ],
}

#: Name in the tests to library and environment; ``None``: that of the tests.
LIBRARIES = {
    "pyramid_session_redis 1.8.1": ("pyramid_session_redis", "pyramid2-1"),
    "pyramid_session_redis 1.5.3": ("pyramid_session_redis", "pyramid1-2"),
    "pyramid_redis_sessions 1.0.1": ("pyramid_redis_sessions", "pyramid1-2"),
    "ours": ("pyramid_redis_lua_sessions", None),
}


def interpreter(environment: str | None) -> str:
    """Return the path of an environment's Python; make the environment if need be."""
    if environment is None:
        return sys.executable
    CACHE.mkdir(parents=True, exist_ok=True)
    name = f"{environment}-py{sys.version_info[0]}{sys.version_info[1]}"
    directory = CACHE / name
    python = directory / "bin" / "python"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may share the cache
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            install(pip, BUILD)
            install([*pip, "--no-build-isolation"], ENVIRONMENTS[environment])
            (directory / "complete").touch()
    return str(python)


def install(pip: list[str], requirements: list[str]) -> None:
    done = subprocess.run([*pip, *requirements], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(requirements)} cannot be installed:\n{done.stderr}"


class Server:
    """A process that serves applications of one library; a context manager.

    :param name: one of ``LIBRARIES``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.library, environment = LIBRARIES[name]
        extra = {} if environment else {"cwd": ROOT, "env": environment_of_the_tests()}
        self._process = subprocess.Popen(
            [interpreter(environment), str(SERVER), self.library],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            **extra,  # type: ignore[call-overload]
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{name} does not start"
        self.port = int(line)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def user(self, redis_port: int, cookie: str = "", **options: Any) -> User:
        """Return a user of the application with these settings of its sessions."""
        address = {"port": redis_port, "db": 0}
        if self.name == "pyramid_session_redis 1.8.1":
            address = {f"redis_{name}": value for name, value in address.items()}
        given = {"secret": SECRET, **address, **options}
        settings = {f"redis.sessions.{name}": value for name, value in given.items()}
        return User(self.port, settings, cookie)


def environment_of_the_tests() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


class User:
    """One user of a served application, with a cookie.

    :ivar cookie: what the browser sends, ``name=value``; ``""``: nothing.
    """

    def __init__(self, port: int, settings: Mapping[str, Any], cookie: str = "") -> None:
        self._port = port
        self._settings = dict(settings)
        self.cookie = cookie

    def do(self, code: str) -> Any:
        """Run code in a request, with ``session``; return its variable ``result``."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        headers = {"X-Settings": json.dumps(self._settings), "Content-Type": "text/plain"}
        if self.cookie:
            headers["Cookie"] = self.cookie
        try:
            connection.request("POST", "/", code.encode("utf-8"), headers)
            response = connection.getresponse()
            body = response.read().decode("utf-8")
        finally:
            connection.close()
        assert response.status == 200, body
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                pair = value.partition(";")[0]
                self.cookie = pair if pair.partition("=")[2] else ""
        return ast.literal_eval(body)
