"""Sessions in a transaction that ``pyramid_tm`` manages."""

from __future__ import annotations

import sys
from typing import Any

import transaction
from transaction.interfaces import (
    IDataManagerSavepoint,
    ISavepointDataManager,
    NoTransaction,
    TransactionFailedError,
)
from zope.interface import implementer

from .engine.admission import admit_early

try:
    from pyramid_tm import AbortWithResponse
except ImportError:  # something else manages transactions

    class AbortWithResponse(Exception):  # type: ignore[no-redef]
        """Nobody raises it."""


__all__ = ["SessionDataManager", "can_commit_after_exception", "join", "join_after_exception"]

#: Sort before, and after, what databases use as sort keys (``~sqlalchemy:…``).
FIRST, LAST = "\0", "~~"


def join(turn: Any) -> bool:
    """Have the request's transaction save a session in its vote.

    :returns: ``False`` where there is none, or the application has ended it.
    """
    manager = getattr(turn.request, "tm", None)
    if manager is None:
        return False
    try:
        current = manager.get()
    except NoTransaction:
        return False
    joining = SessionDataManager(turn, manager)
    try:
        current.join(joining)
    except TransactionFailedError:
        turn.roll_back()
        raise
    turn.joined = joining
    return True


def join_after_exception(turn: Any) -> None:
    """As :func:`join`; the exception of the view is the one that counts."""
    try:
        join(turn)
    except TransactionFailedError:
        pass  # nothing of it is to be saved, and nothing is


def can_commit_after_exception(request: Any) -> bool:
    """Whether a commit veto decides; without one ``pyramid_tm`` aborts."""
    settings = request.registry.settings
    return any(settings.get(name) for name in ("tm.commit_veto", "pyramid_tm.commit_veto"))


@implementer(IDataManagerSavepoint)
class NoRollback:
    """A savepoint to which a session does not roll back."""

    def rollback(self) -> None:
        pass


@implementer(ISavepointDataManager)
class SessionDataManager:
    """Saves one session when its transaction commits.

    With ``on_conflict = merge`` it votes after the databases, and saves in its
    vote, so that one which refuses leaves no trace in Redis. With ``retry`` it
    votes before them, so that a conflict aborts them: its vote only stages what
    is saved when all have agreed.
    """

    def __init__(self, turn: Any, transaction_manager: transaction.TransactionManager) -> None:
        self.transaction_manager = transaction_manager
        #: ``None`` once the request is answered: the transaction was around it, not its own.
        self._turn = turn
        self._stages = turn.settings.on_conflict == "retry"
        # It names the session, so that the two of one request never wait crosswise for those
        # of another.
        name = f"{turn.settings.prefix}{turn.state.session_id}:{id(self)}"
        self._sort_key = f"{FIRST if self._stages else LAST}pyramid_redis_lua_sessions:{name}"
        self._begun = False
        #: What the vote has staged may set a cookie; ``None``: it has staged nothing.
        self._cookie_can_go: bool | None = None

    def let_go(self) -> None:
        """The request is answered before the transaction has ended: have no part in its end."""
        self._turn.joined = None
        self._turn = None

    def abort(self, transaction: Any) -> None:
        """Leave the changes to the response callback if the application wants the abort.

        A veto, or ``doom()``, is no failure: ``pyramid_tm`` has a response then.
        """
        if self._turn is None:
            return
        error = sys.exc_info()[1]
        if self._begun or not (error is None or isinstance(error, AbortWithResponse)):
            self._turn.roll_back()
        self._turn.joined = None

    def tpc_begin(self, transaction: Any) -> None:
        if self._turn is not None:
            self._begun = True
            self._turn.state.take_up()

    def commit(self, transaction: Any) -> None:
        # A value that cannot be serialized is found before any database votes, and a login
        # that is one too many.
        turn = self._turn
        if turn is not None:
            turn.state.changes()
            if turn.response is not None and not turn.is_repeated():
                admit_early(turn.state)

    def tpc_vote(self, transaction: Any) -> None:
        turn = self._turn
        if turn is None or turn.is_repeated():
            # A veto may have the page of an error committed that pyramid_retry repeats
            # nevertheless. The response callback throws the attempt away.
            return
        # Of an exception view's response nobody knows here whether it carries a
        # cookie, nor its status: the response callback saves what depends on that.
        late = turn.state.needs_cookie() or not turn.settings.save_on_exception
        if turn.response is None and late:
            return
        if self._stages:
            self._cookie_can_go = turn.stage()
        else:
            turn.save()

    def tpc_finish(self, transaction: Any) -> None:
        turn = self._turn
        if turn is None:
            return
        turn.joined = None
        if turn.response is not None and self._cookie_can_go is not None:
            turn.apply(self._cookie_can_go)

    def tpc_abort(self, transaction: Any) -> None:
        if self._turn is not None:
            self._turn.joined = None
            self._turn.roll_back()

    def savepoint(self) -> NoRollback:
        """Allow savepoints of the transaction; what a session holds is not rolled back to one."""
        return NoRollback()

    def sortKey(self) -> str:
        return self._sort_key
