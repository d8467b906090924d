"""Who watches sessions: told of each step, what it was, what came of it and what it cost.

This is the one source for the debug toolbar, the demo, metrics and traces. Of what becomes of
sessions a :class:`Watcher` is told by the events that an application's subscribers get.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from ..connect.lines import Beside, Command, Line, Prepared, pack
from ..connect.pools import PoolUse
from ..connect.tally import TALLY, Tally
from ..errors import StoreError
from .scripts import Status

__all__ = ["Observer", "Step", "Watcher", "guarded"]

log = logging.getLogger(__package__)


class Step(NamedTuple):
    """One step that a session asked of Redis; it carries no session id and no value.

    :ivar names: the scripts called, several if they were sent together in one
        pipeline; for a step without a script the Redis command, in lower case.
    :ivar statuses: for each name what came of it: a script's status, or the
        name of an error; ``""`` for a command that succeeded.
    :ivar round_trips: how often something was sent and answered. A script that
        Redis does not know yet takes a second one; that a cluster's node is first
        sent the script by itself is not counted.
    :ivar microseconds: time that the application waited, with that for a free
        connection and what the client library needs.
    :ivar bytes_sent: of the commands, in Redis' protocol.
    :ivar bytes_received: of their replies.
    :ivar prefix: the setting ``prefix`` of the session's factory, where an
        application has several.
    :ivar waits: how often it waited for a connection, as all were in use;
        ``microseconds_waited``: for how long in all.
    :ivar redirections: how often a node of a cluster sent it to another one, or a
        server that had become a replica refused it.
    :ivar connections: how the connections stood when it was over; ``None`` where
        the application brings its own client.
    """

    names: tuple[str, ...]
    statuses: tuple[str, ...]
    round_trips: int
    microseconds: int
    bytes_sent: int
    bytes_received: int
    prefix: str
    waits: int = 0
    microseconds_waited: int = 0
    redirections: int = 0
    connections: PoolUse | None = None

    @property
    def name(self) -> str:
        """The names, joined by " + "."""
        return " + ".join(self.names)

    @property
    def status(self) -> str:
        """The statuses, joined by " + "."""
        return " + ".join(self.statuses)


class Watcher(Protocol):
    """Who is told what becomes of all sessions of a factory, in any thread.

    What it raises is logged, and reaches no request.
    """

    def step(self, step: Step) -> object:
        """Take note of a step that was just taken."""

    def event(self, event: Any) -> object:
        """Take note of an event, as subscribers get it."""


#: Seconds between two lines of the log about a watcher that fails.
FAILURES_LOGGED = 60.0

_failure_logged = -FAILURES_LOGGED


def guarded(tell: Callable[[Any], object], what: Any) -> None:
    """Tell a watcher; that it fails is no matter of a request."""
    global _failure_logged
    try:
        tell(what)
    except Exception as exc:
        now = time.monotonic()
        if now - _failure_logged >= FAILURES_LOGGED:
            _failure_logged = now
            log.warning(
                "an observer of sessions failed, and misses what happens (%s) [docs: monitoring]",
                type(exc).__name__,
            )


class Observer:
    """Told by a store of each step; it is also the line over which the store sends, and counts.

    It is of one request: no two threads use it at a time.

    :param line: over which the store would send.
    :param prefix: the setting ``prefix``.
    """

    def __init__(self, line: Line, prefix: str) -> None:
        self._line = self._whole = line
        self.packs = line.packs
        #: Called with each :class:`Step`.
        self.listeners: list[Callable[[Step], object]] = []
        self._prefix = prefix
        self._noting = False
        self._trips = self._sent = self._received = 0

    def over(self, line: Line) -> Observer:
        """Return one that tells the same listeners, of what goes to one node of a cluster.

        How the connections stand is asked of all nodes.
        """
        other = Observer(line, self._prefix)
        other.listeners, other._whole = self.listeners, self._whole
        return other

    def note(
        self, names: tuple[str, ...], step: Callable[[], list[Any]], scripts: bool = True
    ) -> list[Any]:
        """Take a step, and tell of it.

        :param scripts: each reply is one of a script.
        """
        if self._noting:
            return step()  # a part of a step that is noted already
        self._noting = True
        self._trips = self._sent = self._received = 0
        tally = Tally()
        token = TALLY.set(tally)
        statuses: tuple[str, ...] = ()
        began = time.perf_counter_ns()
        try:
            replies = step()
            statuses = tuple(map(_status, replies)) if scripts else ("",) * len(names)
            return replies
        except BaseException as exc:
            statuses = (type(exc).__name__,) * len(names)
            raise
        finally:
            took = (time.perf_counter_ns() - began) // 1000
            self._noting = False
            TALLY.reset(token)
            counts = (self._trips, took, self._sent, self._received)
            met = (tally.waits, tally.waited_ns // 1000, tally.redirections, self._whole.use())
            noted = Step(names, statuses, *counts, self._prefix, *met)
            for listener in self.listeners:
                listener(noted)

    # -- as a line -------------------------------------------------------------------

    @property
    def losses(self) -> int | None:
        return self._line.losses

    def one(self, command: Command) -> Any:
        self._sent += len(pack(command))
        try:
            reply = self._line.one(command)
        except RedisError as exc:
            self._note_answers([command], [exc])
            raise
        self._note_answers([command], [reply])
        return reply

    def prepared(self, command: Prepared, arguments: Sequence[bytes]) -> Any:
        return self.one(command.command(arguments))

    def many(self, commands: Sequence[Command]) -> list[Any]:
        self._sent += sum(len(pack(command)) for command in commands)
        replies = self._line.many(commands)
        self._note_answers(commands, replies)
        return replies

    def both(self, commands: Beside, key: bytes, argument: bytes) -> list[Any]:
        return self.many(commands.commands(key, argument))

    def use(self) -> PoolUse | None:
        return self._whole.use()

    def _note_answers(self, commands: Sequence[Command], replies: list[Any]) -> None:
        if any(not isinstance(reply, Exception) or _answer(reply) for reply in replies):
            self._trips += 1
        for command, reply in zip(commands, replies, strict=True):
            self._received += _size_of_reply(reply, times=command[0] == "TIME")


def _status(reply: Any) -> str:
    if isinstance(reply, StoreError):
        return type(reply).__name__
    return Status(reply if isinstance(reply, int) else reply[0]).name


# -- sizes in Redis' protocol (RESP) -----------------------------------------------


def _size_of_reply(reply: Any, times: bool = False) -> int:
    """Return how long a reply was.

    :param times: numbers travelled as strings, as in the reply to ``TIME``.
    """
    if isinstance(reply, bytes):
        return len(b"$%d\r\n" % len(reply)) + len(reply) + 2
    if isinstance(reply, int):
        digits = b"%d" % reply
        return _size_of_reply(digits) if times else len(digits) + 3
    if isinstance(reply, float):  # a score, which is a whole number, over RESP3
        return len(b",%.17g\r\n" % reply)
    if isinstance(reply, list | tuple):
        head = len(b"*%d\r\n" % len(reply))
        return head + sum(_size_of_reply(item, times) for item in reply)
    if isinstance(reply, dict):
        head = len(b"%%%d\r\n" % len(reply))
        return head + sum(map(_size_of_reply, (*reply, *reply.values())))
    if isinstance(reply, Exception):
        return len(_answer(reply).encode("utf-8", "surrogateescape"))
    return len(b"$-1\r\n")  # none


def _answer(exc: Exception) -> str:
    """Return the line with which Redis answered; ``""`` for an error of redis-py's own.

    redis-py cuts the code off where it has a class for it.
    """
    text = str(exc)
    for code, kind in redis.connection.DefaultParser.EXCEPTION_CLASSES.items():
        if isinstance(kind, type) and type(exc) is kind:
            return f"-{code} {text}\r\n"
    if not isinstance(exc, ResponseError) or isinstance(exc, ConnectionError):
        return ""
    code = text.partition(" ")[0]
    return f"-{text}\r\n" if code.isupper() else f"-ERR {text}\r\n"
