"""What a call meets on its way to Redis, for those who watch it."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["TALLY", "Tally", "note_redirection", "note_wait"]


class Tally:
    """Counted during one step.

    :ivar waits: how often it had to wait for a connection, as all were in use.
    :ivar waited_ns: for how long in all, nanoseconds.
    :ivar redirections: how often a node of a cluster sent it to another one (MOVED, ASK), or
        a server that had become a replica refused it.
    """

    __slots__ = ("redirections", "waited_ns", "waits")

    def __init__(self) -> None:
        self.waits = self.waited_ns = self.redirections = 0


#: Of the step that is under way in this thread or greenlet; ``None``: nobody watches it.
TALLY: ContextVar[Tally | None] = ContextVar("redis_lua_sessions_tally", default=None)


def note_wait(nanoseconds: int) -> None:
    tally = TALLY.get()
    if tally is not None:
        tally.waits += 1
        tally.waited_ns += nanoseconds


def note_redirection() -> None:
    tally = TALLY.get()
    if tally is not None:
        tally.redirections += 1
