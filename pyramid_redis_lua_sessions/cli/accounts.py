"""``redis-lua-sessions update`` and ``export``: all sessions of an owner."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..accounts import export_sessions, update_sessions
from .console import Console, UsageError, plural
from .sessions import owners_named
from .target import Target, connected

__all__ = ["add_to"]

OWNER_HELP = "whose; a number also means the owner that is that int"


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "update",
        parents=[target],
        help="set values in all sessions of an owner",
        description="Set values in all live sessions of an owner, at once. Other values stay, and "
        "no session lives longer for it.",
    )
    command.add_argument("--owner", required=True, help=OWNER_HELP)
    command.add_argument(
        "--set",
        required=True,
        action="append",
        metavar="KEY=JSON",
        dest="values",
        help="a key and its value, as JSON; may be given several times",
    )
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(command=update)

    command = commands.add_parser(
        "export",
        parents=[target],
        help="print what an owner's sessions hold, as JSON",
        description="Print all that the live sessions of an owner hold, as JSON, for a request of "
        "access to personal data. Values are shown; ids, tokens and CSRF tokens are not. It "
        "touches no session.",
    )
    command.add_argument("--owner", required=True, help=OWNER_HELP)
    command.set_defaults(command=export)


def update(console: Console, args: argparse.Namespace) -> int:
    values = dict(map(_pair, args.values))
    with connected(args) as target:
        owners = _owners(target, args)
        console.ask(f"Set {', '.join(map(repr, values))} in all sessions of this owner?", args.yes)
        registry = target.registry()
        counts = [update_sessions(registry, owner, values) for owner in owners]
    if args.json:
        console.json({"changed": sum(counts)})
    else:
        console.out(f"changed {plural(sum(counts), 'session')}")
    return 0


def export(console: Console, args: argparse.Namespace) -> int:
    with connected(args) as target:
        registry = target.registry()
        owners = _owners(target, args)
        console.json([one for owner in owners for one in export_sessions(registry, owner)])
    return 0


def _owners(target: Target, args: argparse.Namespace) -> list[str | int]:
    target.require_configuration("--owner")
    return [*owners_named(target, args.owner)]


def _pair(text: str) -> tuple[str, Any]:
    """Parse ``KEY=JSON``; an error does not quote the value."""
    key, equals, value = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return key, json.loads(value)
    except ValueError:
        raise UsageError(f"--set takes KEY=JSON, as {key or 'roles'}='[\"admin\"]'") from None
