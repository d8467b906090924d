"""What a request did with its session, for those who show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .contents import Contents

__all__ = ["Dropped", "Trace"]


class Dropped(NamedTuple):
    """Changes that were lost.

    :ivar fields: tells which of the session's fields it was about.
    :ivar others: what else was asked for, in words.
    """

    reason: str
    fields: Callable[[], Collection[bytes]]
    others: Sequence[str] = ()


@dataclasses.dataclass
class Trace:
    """What a request did, for those who show it.

    :ivar name: fingerprint of the session that was loaded, ``None`` if none was.
    :ivar fields: what was loaded; ``sizes``: of the values among it, bytes in Redis.
    :ivar written: the fields that the request has set since then.
    :ivar ended: fingerprints of the sessions that it ended.
    """

    name: str | None = None
    fields: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    sizes: dict[bytes, int] = dataclasses.field(default_factory=dict)
    written: set[bytes] = dataclasses.field(default_factory=set)
    ended: list[str] = dataclasses.field(default_factory=list)
    #: The fields that were written with a token that this request has put in place.
    wrote: Collection[bytes] = ()
    #: What the session held when it ended in this request.
    past: Contents | None = None
    dropped: list[Dropped] = dataclasses.field(default_factory=list)

    def loaded(self, name: str, fields: Mapping[bytes, bytes], values: Iterable[bytes]) -> None:
        """A session was loaded.

        :param values: the fields that hold values.
        """
        self.name = name
        self.fields = dict(fields)
        self.sizes = {field: len(fields[field]) for field in values}
        self.written = set()

    def lose(
        self, reason: str, fields: Callable[[], Collection[bytes]], others: Sequence[str]
    ) -> None:
        """Changes were lost: see :class:`Dropped`."""
        self.dropped.append(Dropped(reason, fields, others))
