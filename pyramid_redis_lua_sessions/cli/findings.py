"""What a check finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FAILED", "LEVELS", "NOTE", "OK", "SUBJECTS", "WARNING", "Finding"]

OK, NOTE, WARNING, FAILED = LEVELS = ("ok", "note", "warning", "failed")

#: What is looked at. Programs go by these names, as ``check`` of the JSON has them.
SUBJECTS = (
    *("server", "connection", "access", "permissions", "scripts", "round trip", "clock"),
    *("memory", "persistence", "replication", "session tried", "settings", "secrets", "cookie"),
    *(
        "lifetimes",
        "device binding",
        "client",
        "migration",
        "stored sessions",
        "rotation",
        "session memory",
    ),
)


class Finding(NamedTuple):
    """One line of the report.

    :ivar subject: what it is about: one of ``SUBJECTS``.
    :ivar level: ``ok``; ``note``: good to know; ``warning``: worth mending;
        ``failed``: sessions do not work, or are not safe.
    :ivar data: the same as numbers, for ``--json``.
    :ivar nodes: addresses of the servers that it is about; none: all.
    """

    level: str
    subject: str
    words: str
    data: Mapping[str, Any] = {}
    nodes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "check": self.subject.replace(" ", "_"),
            "level": self.level,
            "subject": self.subject,
            "words": self.words,
            **({"nodes": list(self.nodes)} if self.nodes else {}),
            **self.data,
        }
