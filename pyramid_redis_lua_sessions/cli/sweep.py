"""``redis-lua-sessions sweep``: the indexes of owners, and others."""

from __future__ import annotations

import argparse
from typing import Any

from .console import Console, plural
from .target import connected

__all__ = ["add_to", "sweep"]


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "sweep",
        parents=[target],
        help="remove expired sessions from the indexes of their owners",
        description="Remove from the indexes of owners, and from others that the application "
        "has asked for, the sessions that have expired. An "
        "owner's next login does the same; this is for owners who do not log in any more. It "
        "ends no session, can run beside live traffic, be interrupted and run again.",
    )
    command.set_defaults(command=sweep)


def sweep(console: Console, args: argparse.Namespace) -> int:
    indexes = emptied = removed = 0
    with connected(args) as target, console.progress() as advance:
        for steps, keys in target.store.scan_indexes():
            for key in keys:
                gone, left = target.store.sweep(key)
                indexes += 1
                removed += gone
                emptied += bool(gone) and not left
            advance(steps, f"{removed:,} removed")
    if args.json:
        console.json({"indexes": indexes, "removed": removed, "indexes_emptied": emptied})
        return 0
    console.out(
        f"{plural(indexes, 'index', 'indexes')}: {plural(removed, 'expired session')} "
        f"removed, {plural(emptied, 'index', 'indexes')} of which nothing is left"
    )
    return 0
