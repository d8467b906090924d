"""Who watches a store: told of each step, what it was, what came of it and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from ..connect.lines import Beside, Command, Line, Prepared, pack
from ..errors import StoreError
from .scripts import Status

__all__ = ["Observer", "Step"]


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
    """

    names: tuple[str, ...]
    statuses: tuple[str, ...]
    round_trips: int
    microseconds: int
    bytes_sent: int
    bytes_received: int
    prefix: str

    @property
    def name(self) -> str:
        """The names, joined by " + "."""
        return " + ".join(self.names)

    @property
    def status(self) -> str:
        """The statuses, joined by " + "."""
        return " + ".join(self.statuses)


class Observer:
    """Told by a store of each step; it is also the line over which the store sends, and counts.

    :param line: over which the store would send.
    :param tell: called with each :class:`Step`.
    :param prefix: the setting ``prefix``.
    """

    def __init__(self, line: Line, tell: Callable[[Step], object], prefix: str) -> None:
        self._line = line
        self.packs = line.packs
        self._tell = tell
        self._prefix = prefix
        self._noting = False
        self._trips = self._sent = self._received = 0

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
            counts = (self._trips, took, self._sent, self._received)
            self._tell(Step(names, statuses, *counts, self._prefix))

    # -- as a line -------------------------------------------------------------------

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

    def _note_answers(self, commands: Sequence[Command], replies: list[Any]) -> None:
        if any(not isinstance(reply, Exception) or _answer(reply) for reply in replies):
            self._trips += 1
        for command, reply in zip(commands, replies, strict=True):
            self._received += _size_of_reply(reply, times=command[0] == "TIME")


def _status(reply: Any) -> str:
    if isinstance(reply, StoreError):
        return type(reply).__name__
    return Status(reply[0]).name


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
