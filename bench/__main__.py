"""``python -m bench``: measure, and print the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from . import pages, report
from .placement import PLACEMENTS
from .plan import EFFORTS, PARTS, measure

#: What the figures depend on.
PACKAGES = {
    "redis-py": "redis",
    "hiredis": "hiredis",
    "Pyramid": "pyramid",
    "WebOb": "WebOb",
    "pyramid_session_redis": "pyramid_session_redis",
}


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if not redis.utils.HIREDIS_AVAILABLE:
        print("hiredis is not installed: all would be slower, but not alike", file=sys.stderr)
        return 1
    warning = busy(os.getloadavg()[0], os.cpu_count() or 1)
    if warning:
        print(warning, file=sys.stderr)
    found: dict[str, Any] = {}
    start = time.monotonic()
    parts = [part for part in PARTS if not options.parts or part in options.parts]
    measured = measure(options.server, parts, EFFORTS[options.effort], options.cpus, _progress)
    for part, one in measured:
        found[part] = {**_machine(options.effort), **one} if part == "run" else one
    found["run"]["took"] = f"{time.monotonic() - start:.0f} s"
    print(report.text(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.pages is not None:
        pages.write(found, options.pages)
    return 0


def busy(load: float, cpus: int) -> str:
    """Return a warning where others use the machine, else ``""``.

    A machine is taken to be idle up to a load average of one for every two CPUs: application
    and Redis need two.
    """
    if load <= max(1.0, cpus / 2):
        return ""
    return (
        f"warning: the machine is not idle, its load average is {load:.1f} on {cpus} CPUs: "
        "times and CPU times will be too high, and ratios blurred"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure sessions side by side with pyramid_session_redis 1.8.1.",
    )
    parser.add_argument(
        "--effort", choices=EFFORTS, default="quick", help="how much to measure; default: quick"
    )
    parser.add_argument(
        "--part", choices=PARTS, action="append", dest="parts", help="only this; may be repeated"
    )
    parser.add_argument(
        "--cpus",
        choices=PLACEMENTS,
        default="apart",
        help="on which CPUs application and Redis run, see bench/placement.py; default: apart",
    )
    parser.add_argument("--server", help="path of the redis-server binary; default: as the tests")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument(
        "--pages", type=Path, help="write JSON, tables and charts for the documentation there"
    )
    return parser


def _machine(effort: str) -> dict[str, Any]:
    return {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m bench --effort {effort}",
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: version(package) for name, package in PACKAGES.items()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _progress(part: str) -> None:
    print(f"measuring: {part}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
