"""All old sessions at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..census import Census
from ..engine.store import Store
from ..engine.tokens import Token
from ..errors import fingerprint
from ..settings import Settings
from .foreign import read_foreign
from .moves import Migration, Outcome
from .predecessors import CannotMigrate

__all__ = ["Summary", "migrate_all", "old_name"]


@dataclasses.dataclass
class Summary:
    """What a bulk run found and did.

    :ivar moved: sessions that were carried over (or, dry, would be).
    :ivar finished: moves that had been interrupted, and were completed.
    :ivar expired: sessions whose end had come; left to Redis.
    :ivar vanished: sessions that others moved or ended meanwhile.
    :ivar refused: sessions that cannot be carried over; left as they were.
    :ivar others: strings that are no session of the predecessors.
    """

    moved: int = 0
    finished: int = 0
    expired: int = 0
    vanished: int = 0
    refused: int = 0
    others: int = 0

    #: What each count is called: after a run, and after a dry run.
    MEANINGS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "moved": ("sessions converted", "sessions to convert"),
        "finished": ("interrupted conversions completed", ""),
        "refused": (
            "sessions that cannot be converted; left as they were",
            "sessions that cannot be converted",
        ),
        "expired": ("sessions at their end; left to expire",) * 2,
        "vanished": ("sessions that users came back to, or that ended, meanwhile",) * 2,
        "others": ("other keys of the type string; not looked at",) * 2,
    }


def old_name(settings: Settings) -> re.Pattern[str]:
    """Return a pattern of the keys that the predecessors' own generators make."""
    return re.compile(rf"(?:{re.escape(settings.prefix)})?[A-Za-z0-9_-]{{64}}")


def migrate_all(
    migration: Migration,
    store: Census,
    secret: bytes,
    *,
    names: re.Pattern[str] | None,
    match: str = "*",
    dry_run: bool = False,
    refused: Callable[[str, str], object] = lambda name, reason: None,
    progress: Callable[[int, Summary], object] = lambda steps, summary: None,
    summary: Summary | None = None,
) -> Summary:
    """Move all sessions. It can be stopped at any moment, and run again.

    :param secret: that signed the old cookies.
    :param names: names of the keys to look at; ``None``: all that match. Other
        strings are not even read: they may not be trusted to be unpickled.
    :param match: glob-style pattern, for Redis.
    :param dry_run: convert, but store nothing.
    :param refused: called with fingerprint and reason for every session that
        cannot be carried over.
    :param progress: called with how much of the work was done since it was
        called last, 0 to 1000 in all, and the summary so far.
    :param summary: to count in, so that the caller has it when this is stopped.
    :raises StoreError: Redis failed; what was moved so far is safe.
    """
    summary = Summary() if summary is None else summary
    for steps, keys in store.scan_foreign(match):
        for key in keys:
            try:
                old_id = key.decode("utf-8")
            except UnicodeDecodeError:
                summary.others += 1
                continue
            if names is not None and not names.fullmatch(old_id):
                summary.others += 1
                continue
            try:
                token = migration.token(old_id, secret)
                move = _try if dry_run else Migration.move
                outcome = move(migration, store, old_id, token)
            except CannotMigrate as exc:
                summary.refused += 1
                refused(fingerprint(old_id), str(exc))
                continue
            if outcome is Outcome.MOVED:
                summary.moved += 1
            elif outcome is Outcome.FINISHED:
                summary.finished += 1
            elif outcome is Outcome.EXPIRED:
                summary.expired += 1
            else:
                summary.vanished += 1
        progress(steps, summary)
    return summary


def _try(migration: Migration, store: Store, old_id: str, token: Token) -> Outcome:
    """Find out what a move would come to."""
    found = read_foreign(store, old_id, token.locator)
    if found is None:
        return Outcome.ABSENT
    carried = migration.convert(found)
    return Outcome.EXPIRED if carried.ends_ms <= found.now_ms else Outcome.MOVED
