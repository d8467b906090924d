"""What a request did with its session, for those who show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import fingerprint
from .contents import Contents
from .pieces import joined
from .tokens import Token

__all__ = ["UNTRACED", "Dropped", "Trace"]


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
    :ivar past: what the session held when it ended in this request.
    """

    name: str | None = None
    fields: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    sizes: dict[bytes, int] = dataclasses.field(default_factory=dict)
    written: set[bytes] = dataclasses.field(default_factory=set)
    ended: list[str] = dataclasses.field(default_factory=list)
    past: Contents | None = None
    dropped: list[Dropped] = dataclasses.field(default_factory=list)
    #: The fields that were written with a token that this request has put in place.
    _placed: frozenset[bytes] = frozenset()

    def loads(self, token: Token, fields: Mapping[bytes, bytes], values: Iterable[bytes]) -> None:
        """A session was loaded.

        :param values: the fields that hold values.
        """
        self.name = fingerprint(token.locator)
        self.fields = dict(fields)
        whole = joined(fields)
        self.sizes = {field: len(whole[field]) for field in values}
        self.written = set()

    def writes(self, fields: Iterable[bytes]) -> None:
        """Fields were set."""
        self.written.update(fields)

    def places(self, fields: Iterable[bytes]) -> None:
        """Fields were written with a new token."""
        self._placed = frozenset(fields)

    def ends(self, name: str) -> None:
        """A session was ended."""
        self.ended.append(name)

    def leaves(self, contents: Contents) -> None:
        """The session is over that held this."""
        self.past = contents

    def loses(self, reason: str, contents: Contents, detect: bool, others: Sequence[str]) -> None:
        """Changes that were not saved yet are lost.

        :param contents: with the changes; ``detect``: as in :meth:`.Contents.changes`.
        :param others: what else was asked for, in words.
        """
        if contents.pending() or others:
            self.dropped.append(Dropped(reason, lambda: contents.touched(detect), others))

    def loses_placed(self, reason: str) -> None:
        """What was written with a new token is lost, and that token."""
        fields = self._placed
        self.dropped.append(Dropped(reason, lambda: fields, ["the new token"]))


class _Untraced(Trace):
    """For all the others nothing is kept."""

    _ignore: Any = lambda self, *_: None

    loads = writes = places = ends = leaves = loses = loses_placed = _ignore


UNTRACED = _Untraced()
