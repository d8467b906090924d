"""Runs the tests on every Redis or Valkey server that is found, one after the other.

``python -m tests.support.servers [arguments of pytest]``, which ``make test-servers`` does. Exit
status 1 if the tests failed on any server.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from pyramid_redis_lua_sessions.testing import find_redis_servers


class Run(NamedTuple):
    """How the tests went on one server.

    :ivar status: exit status of pytest.
    """

    server: str
    version: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    status: int


def name_and_version(binary: str) -> tuple[str, str]:
    """``("Redis", "7.0.15")``, as the server calls itself."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\w+) server v=(\S+)", said)
    return (found[1], found[2]) if found else (Path(binary).name, said.strip())


def run_on(binary: str, arguments: list[str]) -> Run:
    name, version = name_and_version(binary)
    print(f"\n=== {name} {version}: {binary}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junit-xml={report}", *arguments]
        status = subprocess.run(command, env={**os.environ, "REDIS_SERVER": binary}).returncode
        counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        seconds = 0.0
        if report.exists():
            for suite in ElementTree.parse(report).iter("testsuite"):
                seconds += float(suite.get("time", "0"))
                for key in counts:
                    counts[key] += int(suite.get(key, "0"))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return Run(name, version, passed, failed, counts["skipped"], seconds, status)


def table(runs: list[Run]) -> str:
    """Format the runs, one a line."""
    rows = [("server", "version", "passed", "failed", "skipped", "seconds")]
    rows += [(*map(str, run[:5]), f"{run.seconds:.0f}") for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        words = [word.ljust(width) for word, width in zip(row[:2], widths[:2], strict=True)]
        words += [word.rjust(width) for word, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(words))
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    binaries = find_redis_servers()
    if not binaries:
        print("no server found: set REDIS_SERVER, or install one", file=sys.stderr)
        return 1
    runs = [run_on(binary, arguments) for binary in binaries]
    print(f"\n{table(runs)}")
    return int(any(run.status for run in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
