"""Sessions in a transaction that ``pyramid_tm`` manages."""

from __future__ import annotations

import logging
from typing import Any

import transaction
from transaction.interfaces import (
    IDataManagerSavepoint,
    ISavepointDataManager,
    NoTransaction,
)
from zope.interface import implementer

from .errors import StoreError

__all__ = ["SessionDataManager", "join"]

#: Sort before, and after, what databases use as sort keys (``~sqlalchemy:…``).
FIRST, LAST = "\0", "~~"

log = logging.getLogger(__package__)


def join(turn: Any) -> bool:
    """Have the request's transaction save a session in its vote.

    :returns: ``False`` where the application has ended the transaction.
    """
    manager = turn.request.tm
    try:
        current = manager.get()
    except NoTransaction:
        return False
    current.join(SessionDataManager(turn, manager))
    return True


@implementer(IDataManagerSavepoint)
class NoRollback:
    """A savepoint to which a session does not roll back."""

    def rollback(self) -> None:
        pass


@implementer(ISavepointDataManager)
class SessionDataManager:
    """Saves one session when its transaction commits.

    With ``on_conflict = merge`` it votes after the databases, so that one
    which refuses leaves no trace in Redis; with ``retry`` before them, so that
    a conflict aborts them.
    """

    def __init__(self, turn: Any, transaction_manager: transaction.TransactionManager) -> None:
        self.transaction_manager = transaction_manager
        self._turn = turn
        self._begun = False

    def abort(self, transaction: Any) -> None:
        """A veto leaves the changes to the response callback; a failed commit does not."""
        if self._begun:
            self._turn.roll_back()

    def tpc_begin(self, transaction: Any) -> None:
        self._begun = True
        self._turn.session.take_up()
        if self._turn.session.undo is None and self._first():
            self._turn.session.undo = []

    def commit(self, transaction: Any) -> None:
        # A value that cannot be serialized is found before any database votes.
        self._turn.session.prepare()

    def tpc_vote(self, transaction: Any) -> None:
        turn = self._turn
        if turn.response is not None or not turn.session.needs_cookie():
            turn.save()
        # Else an exception view's response, which nobody has seen here, is to carry a cookie.

    def tpc_finish(self, transaction: Any) -> None:
        self._turn.session.undo = None

    def tpc_abort(self, transaction: Any) -> None:
        self._turn.roll_back()
        try:
            self._turn.session.put_back()
        except StoreError as exc:
            log.error("a session could not be put back after a failed transaction: %s", exc)

    def savepoint(self) -> NoRollback:
        """Allow savepoints of the transaction; what a session holds is not rolled back to one."""
        return NoRollback()

    def sortKey(self) -> str:
        return f"{FIRST if self._first() else LAST}pyramid_redis_lua_sessions:{id(self)}"

    def _first(self) -> bool:
        return bool(self._turn.factory.settings.on_conflict == "retry")
