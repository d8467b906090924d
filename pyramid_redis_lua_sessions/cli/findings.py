"""What a check finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    *("FAILED", "LEVELS", "NOTE", "OK", "PAGES", "SUBJECTS", "WARNING"),
    *("Change", "Finding", "cli", "conf", "ini"),
]

OK, NOTE, WARNING, FAILED = LEVELS = ("ok", "note", "warning", "failed")

#: What is looked at, and the page of the documentation that is about it.
PAGES = {
    "server": "deployment",
    "connection": "deployment",
    "access": "redis-user",
    "permissions": "redis-user",
    "scripts": "operations",
    "round trip": "outages",
    "clock": "lifetimes",
    "memory": "deployment",
    "persistence": "deployment",
    "replication": "deployment",
    "session tried": "messages",
    "settings": "settings",
    "secrets": "secrets",
    "cookie": "cookie",
    "profile": "security",
    "lifetimes": "lifetimes",
    "device binding": "devices",
    "client": "outages",
    "migration": "migrating",
    "stored sessions": "secrets",
    "rotation": "secrets",
    "session memory": "scaling",
}

#: Programs go by these names, as ``check`` of the JSON has them.
SUBJECTS = tuple(PAGES)

#: Where a line is to be changed.
INI, CONF, CLI = "the ini file", "redis.conf", "redis-cli"


class Change(NamedTuple):
    """A line that mends, or improves, what was found.

    :ivar where: ``INI``; ``CONF``, or with ``CONFIG SET``; or ``CLI``.
    """

    where: str
    line: str


class Finding(NamedTuple):
    """One line of the report.

    :ivar subject: what it is about: one of ``SUBJECTS``.
    :ivar level: ``ok``; ``note``: good to know; ``warning``: worth mending;
        ``failed``: sessions do not work, or are not safe.
    :ivar data: the same as numbers, for ``--json``.
    :ivar nodes: addresses of the servers that it is about; none: all.
    :ivar changes: what to write, and where.
    """

    level: str
    subject: str
    words: str
    data: Mapping[str, Any] = {}
    nodes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def page(self) -> str:
        """The page of the documentation."""
        return PAGES[self.subject]

    def document(self) -> dict[str, Any]:
        return {
            "check": self.subject.replace(" ", "_"),
            "level": self.level,
            "subject": self.subject,
            "words": self.words,
            "documentation": self.page,
            **({"nodes": list(self.nodes)} if self.nodes else {}),
            **({"changes": [change._asdict() for change in self.changes]} if self.changes else {}),
            **self.data,
        }


def ini(*lines: str) -> tuple[Change, ...]:
    return tuple(Change(INI, f"redis.sessions.{line}") for line in lines)


def conf(*lines: str) -> tuple[Change, ...]:
    return tuple(Change(CONF, line) for line in lines)


def cli(*lines: str) -> tuple[Change, ...]:
    return tuple(Change(CLI, line) for line in lines)
