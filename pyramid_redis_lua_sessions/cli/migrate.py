"""``redis-lua-sessions migrate``: all sessions of another library, ahead of time."""

from __future__ import annotations

import argparse
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..census import Census
from ..errors import SessionError
from ..migrate import Migration, Summary, migrate_all, old_name
from ..seals import make_sealer
from ..serializers import make_codec
from .console import Console, RedisFailure, UsageError
from .target import add_ini_arguments, client_of, settings_of_ini

__all__ = ["add_to", "migrate"]


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "migrate",
        help="take over all sessions of another library",
        description="Convert all sessions of the libraries that redis.sessions.migrate_from "
        "names, ahead of the users' return. Their old cookies lead to the converted sessions. "
        "The old application must not run any more; the new one may. The command can be "
        "interrupted, and run again.",
    )
    add_ini_arguments(command)
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
    command.set_defaults(command=migrate)


def migrate(console: Console, args: argparse.Namespace) -> int:
    settings = settings_of_ini(args.config_uri, args.config_vars)
    try:
        migration = Migration(settings, make_codec(settings), make_sealer(settings))
    except ConfigurationError as exc:
        raise UsageError(f"{args.config_uri}: {exc}") from exc
    if not settings.migrate_from:
        raise UsageError(f"{args.config_uri}: redis.sessions.migrate_from names no library")
    if migration.over():
        raise UsageError(f"{args.config_uri}: redis.sessions.migrate_until has passed")
    libraries = " and ".join(settings.migrate_from)
    console.ask(f"Convert all sessions of {libraries}?", args.yes or args.dry_run)

    summary = Summary()
    with client_of(settings, args.config_uri) as client, console.progress() as advance:
        try:
            migrate_all(
                migration,
                Census(client, settings, make_sealer(settings)),
                names=None if args.match else old_name(settings),
                match=args.match or "*",
                dry_run=args.dry_run,
                refused=lambda name, why: console.out(f"left as it was: session {name}: {why}"),
                progress=lambda steps, so_far: advance(steps, f"{so_far.moved} moved"),
                summary=summary,
            )
            ended = None
        except KeyboardInterrupt:
            ended = "interrupted"
        except SessionError as exc:
            ended = str(exc)
    for name, meaning in Summary.MEANINGS.items():
        count = getattr(summary, name)
        if count or name == "moved":
            console.out(f"{count:>9}  {meaning[args.dry_run]}")
    if ended is not None:
        raise RedisFailure(f"{ended}; no session is lost: run the command again to go on")
    return 0
