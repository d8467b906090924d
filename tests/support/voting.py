"""A part of a request's transaction that stands for a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transaction.interfaces import IDataManager
from zope.interface import implementer


@implementer(IDataManager)
class Voting:
    """Does something when its turn to vote comes: there it commits, or refuses to.

    :param name: orders the votes. In retry mode sessions vote before all of them, in merge mode
        after those of databases, ``~...``.
    """

    def __init__(self, request: Any, act: Callable[[], object], name: str = "~database") -> None:
        self.transaction_manager = request.tm
        self._act = act
        self._name = name
        request.tm.get().join(self)

    def abort(self, transaction: Any) -> None:
        pass

    tpc_begin = commit = tpc_finish = tpc_abort = abort

    def tpc_vote(self, transaction: Any) -> None:
        self._act()

    def sortKey(self) -> str:
        return self._name
