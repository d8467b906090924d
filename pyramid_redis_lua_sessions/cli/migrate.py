"""``redis-lua-sessions migrate``: all sessions of another library, ahead of time."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..errors import SessionError
from ..migrate import Summary, migrate_all, old_name
from .console import Console, RedisFailure, UsageError
from .target import Target, connected

__all__ = ["add_to", "migrate"]


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "migrate",
        parents=[target],
        help="take over all sessions of another library",
        description="Convert all sessions of the libraries that redis.sessions.migrate_from "
        "names, ahead of the users' return. Their old cookies lead to the converted sessions. "
        "The old application must not run any more; the new one may. The command can be "
        "interrupted, and run again.",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="convert everything, but store nothing"
    )
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument(
        "--match",
        metavar="PATTERN",
        help="look at the keys of this glob-style pattern (for ids of an id_generator of your "
        "own), not at those whose names look like ids of the libraries; what they hold is "
        "unpickled, so it must not match keys that others can write",
    )
    command.add_argument(
        "--signed-by",
        type=int,
        metavar="N",
        help="the old cookies are signed with the N-th of redis.sessions.secret; needed where "
        "there are several",
    )
    command.set_defaults(command=migrate)


def migrate(console: Console, args: argparse.Namespace) -> int:
    with connected(args) as target:
        target.require_configuration("migrate")
        take_over(console, args, target)
    return 0


def take_over(console: Console, args: argparse.Namespace, target: Target) -> None:
    settings, migration = target.settings, target.migration
    if not settings.migrate_from:
        raise UsageError(f"{args.config_uri}: redis.sessions.migrate_from names no library")
    if migration.over():
        raise UsageError(f"{args.config_uri}: redis.sessions.migrate_until has passed")
    secrets = migration.secrets
    if args.signed_by is None and len(secrets) > 1:
        raise UsageError("there are several secrets: say with --signed-by which signed the cookies")
    number = 1 if args.signed_by is None else args.signed_by
    if not 1 <= number <= len(secrets):
        raise UsageError(f"--signed-by must be from 1 to {len(secrets)}")
    libraries = " and ".join(settings.migrate_from)
    console.ask(f"Convert all sessions of {libraries}?", args.yes or args.dry_run)

    summary, ended = Summary(), ""
    refused: list[dict[str, str]] = []

    def refuse(name: str, why: str) -> None:
        refused.append({"session": name, "why": why})
        if not args.json:
            console.out(f"left as it was: session {name}: {why}")

    try:
        with console.progress() as advance:
            migrate_all(
                migration,
                target.store,
                secrets[number - 1],
                names=None if args.match else old_name(settings),
                match=args.match or "*",
                dry_run=args.dry_run,
                refused=refuse,
                progress=lambda steps, so_far: advance(steps, f"{so_far.moved} moved"),
                summary=summary,
            )
    except KeyboardInterrupt:
        ended = "interrupted"
    except (SessionError, OSError) as exc:  # OSError: what is printed does not arrive
        ended = str(exc)
    counted = [
        (count, meaning[args.dry_run])
        for name, meaning in Summary.MEANINGS.items()
        if (count := getattr(summary, name)) or name == "moved"
    ]
    try:
        if args.json:
            counts = dataclasses.asdict(summary)
            console.json({**counts, "left_as_they_were": refused, "complete": not ended})
        else:
            for count, meaning in counted:
                console.out(f"{count:>9}  {meaning}")
        console.flush()
    except OSError as exc:
        told = "; ".join(f"{count} {meaning}" for count, meaning in counted)
        ended = f"{ended or exc}; {told}"
    if ended:
        raise RedisFailure(f"{ended}; no session is lost: run the command again to go on")
