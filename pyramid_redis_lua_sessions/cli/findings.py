"""What a check finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FAILED", "LEVELS", "NOTE", "OK", "WARNING", "Finding"]

OK, NOTE, WARNING, FAILED = LEVELS = ("ok", "note", "warning", "failed")


class Finding(NamedTuple):
    """One line of the report.

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
            "level": self.level,
            "subject": self.subject,
            "words": self.words,
            **({"nodes": list(self.nodes)} if self.nodes else {}),
            **self.data,
        }
