"""``redis-lua-sessions list``, ``show`` and ``revoke``."""

from __future__ import annotations

import argparse
import datetime
import re
from contextlib import suppress
from typing import Any

from ..engine.fields import DATA_KINDS, DEVICE_FIELD, INDEX_KIND, LABEL_FIELD, OWNER_FIELD
from ..engine.index import Index
from ..engine.seals import Bound
from ..migrate import OLD_KEY_FIELD
from ..owners import revoke as revoke_owner
from .console import Console, RedisFailure, UsageError, duration, plural, printable, size
from .found import (
    META,
    Found,
    all_hashes,
    decode,
    find,
    forget_predecessors,
    name_of,
    naming,
    reveal,
)
from .target import Target, connected

__all__ = ["add_to"]

#: Sessions that it looks at and ends together.
ENDED_TOGETHER = 50


def add_to(commands: Any, target: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "list",
        parents=[target],
        help="list live sessions",
        description="List live sessions, by the fingerprints of their ids, oldest first.",
    )
    command.add_argument("--owner", help="only those of this owner")
    command.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="at most N, whichever are found first; 0: all (default: 100)",
    )
    command.add_argument("--reveal", action="store_true", help="show owners and labels")
    command.set_defaults(command=list_sessions)

    command = commands.add_parser(
        "show",
        parents=[target],
        help="show one session",
        description="Show one live session, without touching it. Values stay hidden.",
    )
    command.add_argument("--session", required=True, metavar="NAME", help=NAME_HELP)
    command.add_argument("--reveal", action="store_true", help="show values, owner and label")
    command.set_defaults(command=show)

    command = commands.add_parser(
        "revoke",
        parents=[target],
        help="end sessions",
        description="End sessions at once, also for requests under way.",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", metavar="NAME", help=f"one: {NAME_HELP}")
    which.add_argument(
        "--owner", help="those of an owner; a number also means the owner that is that int"
    )
    which.add_argument("--all", action="store_true", help="all: every user is logged out")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(command=revoke)


NAME_HELP = (
    "its fingerprint (as logs and list show it), its id, or the value of its cookie; "
    "- reads that from standard input"
)


# -- list ------------------------------------------------------------------------------


def list_sessions(console: Console, args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise UsageError("--limit must be 0 or more")
    with connected(args) as target:
        if args.owner is not None or args.reveal:
            target.require_configuration("--owner" if args.owner is not None else "--reveal")
        sessions, more = gather(console, target, args.owner, args.limit)
        sessions.sort(key=lambda session: session.started_ms)
        if args.json:
            console.json([as_json(target, session, args.reveal) for session in sessions])
            return 0
        headings = ["session", "created", "last seen", "ends in", "keys", "size"]
        rows = [row_of(session) for session in sessions]
        if args.reveal:
            headings += ["owner", "label"]
            for row, session in zip(rows, sessions, strict=True):
                row += [meta(target, session, name) for name in (OWNER_FIELD, LABEL_FIELD)]
        console.table(headings, rows, numbers=("keys", "size"), whole=("created",))
        if more:
            console.error(f"there are more than {args.limit}: --limit 0 lists all")
    return 0


def gather(
    console: Console, target: Target, owner: str | None, limit: int
) -> tuple[list[Found], bool]:
    """Return live sessions, at most so many; and whether there are more."""
    sessions: list[Found] = []
    if owner is not None:
        store, names = target.store, []
        for encoded in owners_named(target, owner).values():
            index = Index(store, target.sealer, encoded)
            for members in index.members():
                names += [name for name, _ in index.survey(members).owned]
        looked = store.look(names, *META).items() if names else ()
        sessions = [Found(name, stored, target.settings) for name, stored in looked]
        sessions = [session for session in sessions if session.alive]
    else:
        with console.progress() as advance:
            for steps, found in all_hashes(target, *META):
                sessions += [session for session in found if session.alive]
                advance(steps, plural(len(sessions), "session"))
                if limit and len(sessions) > limit:
                    break
    if limit and len(sessions) > limit:
        return sessions[:limit], True
    return sessions, False


def row_of(session: Found) -> list[str]:
    keys = session.stored.length - len(session.stored.fields)
    return [
        session.fingerprint,
        moment(session.started_ms),
        seen(session),
        "never" if session.remaining_ms is None else duration(session.remaining_ms),
        str(keys),
        size(session.stored.size),
    ]


def as_json(target: Target, session: Found, revealed: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "session": session.fingerprint,
        "created": session.started_ms / 1000,
        "last_seen_seconds_ago": None if session.seen_ms is None else session.seen_ms / 1000,
        "ends_in_seconds": None if session.remaining_ms is None else session.remaining_ms / 1000,
        "keys": session.stored.length - len(session.stored.fields),
        "bytes": session.stored.size,
        "device_bound": DEVICE_FIELD in session.stored.fields,
    }
    if revealed:
        document["owner"] = decoded(target, session, OWNER_FIELD)
        document["label"] = decoded(target, session, LABEL_FIELD)
    return document


def decoded(target: Target, session: Found, field: bytes) -> str | int | None:
    """Return the owner or the label; ``None`` where there is none that can be read."""
    try:
        value = decode(target, session, field)
    except (KeyError, ValueError):
        return None
    return value if isinstance(value, (str, int)) else None


def meta(target: Target, session: Found, field: bytes) -> str:
    """Say who the owner is, or what the label is."""
    return reveal(target, session, field) if field in session.stored.fields else "-"


def moment(ms: int) -> str:
    try:
        then = datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return "?"
    return then.strftime("%Y-%m-%d %H:%M:%S UTC")


def seen(session: Found) -> str:
    if session.waiting:
        return "not yet back"
    return "?" if session.seen_ms is None else f"{duration(session.seen_ms)} ago"


# -- show ------------------------------------------------------------------------------


def show(console: Console, args: argparse.Namespace) -> int:
    with connected(args) as target:
        if args.reveal:
            target.require_configuration("--reveal")
        session = find(console, target, args.session)
        bound = session.bound(target.sealer)
        held = []
        for field, stored in sorted(session.stored.fields.items()):
            if field[:1] not in [b"%c" % kind for kind in DATA_KINDS]:
                continue
            more = {}
            if target.configured:
                more["protection"] = protection(target, bound, field, stored)
            if args.reveal:
                more["value"] = reveal(target, session, field)
            held.append((field, len(stored), more))
        if args.json:
            console.json(
                {
                    **as_json(target, session, args.reveal),
                    **lifetimes(target, session),
                    "values": [
                        {**naming(field), "bytes": stored, **more} for field, stored, more in held
                    ],
                }
            )
            return 0
        console.table(("", ""), list(facts(target, session, args.reveal).items()))
        console.out()
        headings = ["key", "stored", *(["protection"] if target.configured else [])]
        headings += ["value"] if args.reveal else []
        rows = [[name_of(field), size(stored), *more.values()] for field, stored, more in held]
        console.table(headings, rows, numbers=("stored",))
    return 0


def lifetimes(target: Target, session: Found) -> dict[str, Any]:
    """Say what bounds a session's life, for JSON, as far as it is known."""
    own = b"timeout" in session.stored.fields
    known = target.configured or own
    deadline_ms = session.deadline_ms
    return {
        "idle_timeout_seconds": session.timeout_ms / 1000 or None if known else None,
        "idle_timeout_is_its_own": own,
        "ends_at_last": None if deadline_ms is None else deadline_ms / 1000,
    }


def facts(target: Target, session: Found, revealed: bool) -> dict[str, str]:
    """Say what is known of a session beside its keys."""
    fields = session.stored.fields
    own = "its own" if b"timeout" in fields else "the default"
    timeout = duration(session.timeout_ms) if session.timeout_ms else "none"
    found = {
        "session": session.fingerprint,
        "created": f"{moment(session.started_ms)}, {duration(session.age_ms)} ago",
        "last seen": seen(session),
        "ends in": "never" if session.remaining_ms is None else duration(session.remaining_ms),
    }
    if target.configured or b"timeout" in fields:
        found["idle timeout"] = f"{timeout} ({own})"
    if session.deadline_ms is not None:
        found["ends at last"] = moment(session.deadline_ms)
    found["memory"] = size(session.stored.size)
    for name, field in (("owner", OWNER_FIELD), ("label", LABEL_FIELD)):
        if field in fields:
            found[name] = meta(target, session, field) if revealed else "(hidden)"
    for field in sorted(fields):
        if field[:1] == INDEX_KIND:
            name = printable(field[1:].decode("ascii", "backslashreplace"))
            found[f"index {name}"] = meta(target, session, field) if revealed else "(hidden)"
    if DEVICE_FIELD in fields:
        found["device"] = binding(target, session)
    return found


def binding(target: Target, session: Found) -> str:
    """Say what a binding to a device comes to."""
    if not target.configured:
        return "bound"
    stored = session.stored.fields[DEVICE_FIELD]
    if session.bound(target.sealer).open(DEVICE_FIELD, stored) is None:
        return "bound, and the key is not authentic"
    if not target.settings.device_binding:
        return "bound, without effect: device_binding is off"
    return "bound: without its device cookie it is locked"


def protection(target: Target, bound: Bound, field: bytes, stored: bytes) -> str:
    if not target.settings.seal:
        return "none"
    bound.outdated.clear()
    if bound.open(field, stored) is None:
        return "not authentic"
    if bound.outdated:
        return "under an older secret"
    return "encrypted" if target.settings.encryption_key else "sealed"


# -- revoke ----------------------------------------------------------------------------


def revoke(console: Console, args: argparse.Namespace) -> int:
    with connected(args) as named:
        target = named.publishing()
        if args.session is not None:
            ended, left = revoke_one(console, args, target)
        elif args.owner is not None:
            ended, left = revoke_owners(console, args, target)
        else:
            ended, left = revoke_all(console, args, target)
    if args.json:
        console.json({"ended": ended, "may_live_again": left})
    elif args.session is None:
        console.out(f"ended {plural(ended, 'session')}")
    if left:
        console.error(
            f"{plural(left, 'session')} may live again by an old cookie: they name what they were "
            "migrated from, but with this configuration that cannot be verified"
        )
    if args.all and target.settings.migrate_from and not args.json:
        console.out(
            "Sessions that were not carried over yet are as they were: their old cookies work "
            "until redis.sessions.migrate_from is removed."
        )
    return 0


# Each returns how many sessions it ended, and of how many what they were migrated from is left.


def revoke_one(console: Console, args: argparse.Namespace, target: Target) -> tuple[int, int]:
    session = find(console, target, args.session)
    name = session.fingerprint
    console.ask(
        f"End session {name}, created {moment(session.started_ms)}, last seen {seen(session)}?",
        args.yes,
    )
    left = forget_predecessors(target, [session.session_id])
    store, owner = target.store, owner_of(session, target)
    if not store.end_all([session.session_id], owner_of=lambda _: owner):
        raise RedisFailure(f"session {name} had ended in the meantime")
    if owner:
        Index(store, target.sealer, owner).forget([session.session_id])
    if not args.json:
        console.out(f"ended session {name}")
    return 1, left


def owner_of(session: Found, target: Target) -> bytes | None:
    """Return the owner of a session, encoded; ``None`` where it has none that is authentic."""
    stored = session.stored.fields.get(OWNER_FIELD)
    return session.bound(target.sealer).open(OWNER_FIELD, stored) if stored else None


def owners_named(target: Target, owner: str) -> dict[str | int, bytes]:
    """Return the owners that an argument may mean, and each encoded.

    A number may be text, or an ``int``; one that Python does not write so, as
    ``007``, is text alone.

    :raises UsageError: it can be no owner.
    """
    number = re.fullmatch("0|-?[1-9][0-9]{0,39}", owner)
    owners: dict[str | int, bytes] = {}
    for name in (owner, int(owner)) if number else (owner,):
        # What the serializer refuses, as msgpack does large numbers, no session has.
        with suppress(Exception):
            owners[name] = target.codec.encode(name)
    if not owners:
        raise UsageError("--owner: no session can have this owner")
    return owners


def revoke_owners(console: Console, args: argparse.Namespace, target: Target) -> tuple[int, int]:
    target.require_configuration("--owner")
    sessions, _ = gather(console, target, args.owner, 0)
    console.ask(f"End {plural(len(sessions), 'session')} of this owner?", args.yes)
    registry = target.registry()
    left = forget_predecessors(target, [session.session_id for session in sessions])
    return sum(revoke_owner(registry, owner) for owner in owners_named(target, args.owner)), left


def revoke_all(console: Console, args: argparse.Namespace, target: Target) -> tuple[int, int]:
    console.ask(
        f"End ALL sessions under the prefix {target.settings.prefix!r}? Every user is logged out.",
        args.yes,
    )
    # SCAN returns all that is there all the time, and a session keeps its key. What comes
    # while it runs are logins after this one.
    ended, left = 0, 0
    with console.progress() as advance:
        for steps, found in all_hashes(target, *META, batch=ENDED_TOGETHER):
            ending = [session for session in found if session.endable]
            cut_off = [s.session_id for s in ending if OLD_KEY_FIELD in s.stored.fields]
            left += forget_predecessors(target, cut_off) if cut_off else 0
            owners = {session.session_id: owner_of(session, target) for session in ending}
            ended += len(target.store.end_all([*owners], owner_of=owners.get))
            advance(steps, f"{ended} ended")
    return ended, left
