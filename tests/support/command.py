"""Runs the console script against an application of the tests."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyramid_redis_lua_sessions.cli import main
from tests.support.browser import SECRET


def unused_app(global_config: object, **settings: object) -> None:
    """What the ini files name as their application; the command does not start it."""
    raise AssertionError("the application must not be started")


def write_ini(directory: Path, url: str | None, **options: Any) -> str:
    """Write the configuration of the application that ``make_browser`` makes; return its path."""
    given = {"secret": SECRET, "url": url, **options}
    lines = [f"redis.sessions.{name} = {val}" for name, val in given.items() if val is not None]
    path = directory / "app.ini"
    path.write_text("\n".join(["[app:main]", f"use = call:{__name__}:unused_app", *lines, ""]))
    return str(path)


def run(command: str, *args: Any) -> int:
    return main(["redis-lua-sessions", command, *map(str, args)])


def on_a_terminal(
    *args: Any, answer: str = "", without: str = "", columns: int = 150
) -> tuple[int, str]:
    """Run the command on a terminal; return its status and all that it shows.

    :param without: name of a package that is not installed.
    """
    own, its = pty.openpty()
    program = (
        f"import sys; sys.modules[{without!r}] = None; "
        "from pyramid_redis_lua_sessions.cli import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        **{"stdin": its, "stdout": its, "stderr": its},
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
    ) as process:
        os.close(its)
        os.write(own, answer.encode())
        shown = b""
        while True:
            try:
                data = os.read(own, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not data:
                break
            shown += data
    os.close(own)
    return process.returncode, shown.decode()


def failure_of(command: list[str], out: Any, unbuffered: str) -> str:
    """Run a command whose output cannot be written; return the one line that it says."""
    done = subprocess.run(
        command,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line
