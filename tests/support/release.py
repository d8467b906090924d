"""Builds a release and tries it as its users get it: ``make release-check``.

What fails is an error that says so; what is built stays in ``dist/``. With ``RELEASE_TAG`` set
(``v1.2.3``), that tag has to name the version, and CHANGES.rst the day.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
PACKAGE = "pyramid_redis_lua_sessions"

#: Run by the Python of an environment in which nothing but the package was installed.
PROGRAM = f"""\
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
import {PACKAGE}
from {PACKAGE}.testing import RedisServer

def view(request):
    request.session["n"] = request.session.get("n", 0) + 1
    return Response(str(request.session["n"]))

with RedisServer() as server:
    settings = {{"redis.sessions.url": server.url, "redis.sessions.secret": "for tests only " * 3}}
    with Configurator(settings=settings) as config:
        config.include("{PACKAGE}")
        config.add_route("home", "/")
        config.add_view(view, route_name="home")
        app = config.make_wsgi_app()
    first = Request.blank("/").get_response(app)
    cookie = first.headers["Set-Cookie"].partition(";")[0]
    second = Request.blank("/", headers={{"Cookie": cookie}}).get_response(app)
    assert (first.text, second.text) == ("1", "2")
print({PACKAGE}.__version__)
"""


class Unfit(Exception):
    """What is wrong with the release."""


def main() -> int:
    try:
        version = stated_version(os.environ.get("RELEASE_TAG", ""))
        built = build()
        check_names(built, version)
        run(sys.executable, "-m", "twine", "check", "--strict", *built)
        say("the long description renders")
        for archive in built:
            check_installed(archive, version)
    except Unfit as exc:
        print(f"release-check: {exc}", file=sys.stderr)
        return 1
    say(f"{version} is fit to be released: {', '.join(path.name for path in built)}")
    return 0


def stated_version(tag: str) -> str:
    """Return the version that package and CHANGES.rst state, and the tag if there is one."""
    package = (ROOT / PACKAGE / "__init__.py").read_text("utf-8")
    version = re.findall(r'^__version__ = "(.+)"$', package, re.MULTILINE)[0]
    changes = (ROOT / "CHANGES.rst").read_text("utf-8")
    heading = re.search(r"^(\S+) \((.+)\)\n-+$", changes, re.MULTILINE)
    if heading is None or heading[1] != version:
        said = "nothing" if heading is None else heading[1]
        raise Unfit(f"the package is {version}, and the latest in CHANGES.rst {said}")
    if tag and tag != f"v{version}":
        raise Unfit(f"the tag is {tag}, and the package {version}")
    if tag and not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[2]):
        raise Unfit(f"CHANGES.rst says {heading[0].splitlines()[0]}, and not on which day")
    say(f"package and CHANGES.rst say {version} ({heading[2]})")
    return str(version)


def build() -> list[Path]:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    return sorted(DIST.iterdir())


def check_names(built: list[Path], version: str) -> None:
    wanted = [f"{PACKAGE}-{version}-py3-none-any.whl", f"{PACKAGE}-{version}.tar.gz"]
    names = [path.name for path in built]
    if names != wanted:
        raise Unfit(f"built {names}, and not {wanted}")


def check_installed(archive: Path, version: str) -> None:
    """Install one archive, with what it requires, and have sessions on a real Redis."""
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        bin_directory = Path(name) / "bin"
        run(bin_directory / "pip", "install", "--quiet", archive, cwd=name)
        run(bin_directory / "pip", "check", cwd=name)
        said = run(bin_directory / "python", "-I", "-c", PROGRAM, cwd=name)
        command = run(bin_directory / "redis-lua-sessions", "--version", cwd=name)
    if said.strip() != version or version not in command:
        raise Unfit(f"{archive.name} says that it is {said.strip()}, and its command {command!r}")
    say(f"{archive.name} works where nothing else is installed")


def run(*command: object, **options: Any) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        check=False,
        **options,
    )
    if done.returncode:
        raise Unfit(f"{command[0]} {command[1]} failed:\n{done.stdout}")
    return done.stdout


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
