"""``redis-lua-sessions check``: is this Redis fit for these sessions?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ..census import primaries
from ..connect.naming import reason_of, where_is
from ..engine.failures import FAILURES
from ..errors import StoreError, StoreUnavailable
from .console import Console, UsageError
from .findings import FAILED, LEVELS, NOTE, OK, WARNING, Finding
from .server_checks import Node, check_clocks, check_node
from .session_checks import check_settings, check_stored, try_a_session
from .target import Target, address, connected

__all__ = ["add_to", "check"]

STYLES = {OK: "green", NOTE: "cyan", WARNING: "yellow", FAILED: "bold red"}


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "check",
        parents=[target],
        help="tell whether this Redis, and these settings, are fit for sessions",
        description="Connect as the application would, and report what is well (ok), good to know "
        "(note), worth mending (warning), and wrong (failed). Exit status 1 if something failed.",
    )
    command.add_argument("--strict", action="store_true", help="exit status 1 for warnings, too")
    command.add_argument(
        "--no-write",
        action="store_true",
        help="leave out what writes: a session that is created, used and ended",
    )
    command.add_argument(
        "--sample",
        type=int,
        default=1000,
        metavar="N",
        help="look at N sessions to tell what settings of Redis would save memory (default: "
        "1000); while secrets are rotated, all are looked at",
    )
    command.set_defaults(command=check)


def check(console: Console, args: argparse.Namespace) -> int:
    if args.sample < 0:
        raise UsageError("--sample must be 0 or more")
    with connected(args) as target:
        try:
            found = list(examine(console, target, args))
        except (StoreUnavailable, *FAILURES) as exc:
            if not args.json:
                raise
            # Who parses the answer gets one, also of a Redis that is not there.
            where = where_is(target.client, exc)
            words = str(exc) if isinstance(exc, StoreUnavailable) else reason_of(exc)
            found = [Finding(FAILED, "connection", words, nodes=(where,) if where else ())]
    merged = merge(found)
    worst = max(merged, key=lambda finding: LEVELS.index(finding.level)).level
    if args.json:
        console.json(
            {"status": worst, "findings": [finding.document() for finding in merged]},
        )
    else:
        several = len({node for finding in found for node in finding.nodes}) > 1
        headings = ["", "", "found", *(["node"] if several else [])]
        rows = [
            [f.level, f.subject, f.words, *([", ".join(f.nodes)] if several else [])]
            for f in merged
        ]
        console.table(headings, rows, styles=STYLES)
        to_do = [
            [f.subject, f.page, where, line]
            for f in merged
            for where, line in f.changes or ([("", "")] if f.level in (WARNING, FAILED) else [])
        ]
        if to_do:
            console.out()
            console.table(["", "documentation", "change in", "this line"], to_do)
    return int(worst == FAILED or (args.strict and worst == WARNING))


def examine(console: Console, target: Target, args: argparse.Namespace) -> Iterable[Finding]:
    nodes = []
    for client in primaries(target.client):
        # One connection, so that all is about one server (Sentinel chooses it).
        with client.client() as single:
            node = Node(single, target, may_write=not args.no_write)
            nodes.append(node)
            for finding in check_node(node):
                yield finding._replace(nodes=(address(single.connection),))
    yield from check_clocks(nodes)
    if not args.no_write:
        yield from try_a_session(target)
    yield from check_settings(target)
    try:
        with console.progress() as advance:
            yield from check_stored(
                target, args.sample, nodes[0].compact_limit, nodes[0].jemalloc, advance
            )
    except StoreUnavailable:
        raise
    except StoreError as exc:
        yield Finding(
            NOTE,
            "stored sessions",
            f"not looked at: {exc}; with --url you can log in as a user who may do more",
        )


def merge(found: Iterable[Finding]) -> list[Finding]:
    """Put what is the same on several nodes into one."""
    merged: dict[Any, Finding] = {}
    for finding in found:
        key = (finding.level, finding.subject, finding.words)
        known = merged.get(key)
        merged[key] = known._replace(nodes=known.nodes + finding.nodes) if known else finding
    return list(merged.values())
