"""What the sessions of one request asked of Redis: for development, demos and tests.

A request that nobody watches pays for this with one lookup in its environ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError

from .calls import Call as ScriptCall
from .errors import StoreError
from .factory import TURNS, WATCHER
from .scripts import Script, Status
from .store import Absent, Ending, Foreign, Loaded, Replaced, Saved, Store

__all__ = ["Call", "watch"]


class Call(NamedTuple):
    """One step that a session asked of Redis; it carries no session id and no value.

    :ivar names: the scripts called, several if they were sent together in one
        pipeline; for a step without a script the Redis command, in lower case.
    :ivar statuses: for each name what came of it: a script's status, or the
        name of an error; ``""`` for a command that succeeded.
    :ivar round_trips: how often something was sent and answered. A script that
        Redis does not know yet takes a second one.
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


def watch(request: Any) -> list[Call]:
    """Record what the sessions of a request ask of Redis from now on.

    The list fills while the request runs, callbacks included; read it in the
    view, or when the request is over. Watching a request again returns the
    same list, and so does an attempt that ``pyramid_retry`` repeats.

    Round trips and bytes are those of the session's own commands. What the
    client library does beyond them shows only in the time: connecting,
    repeating a call after a lost connection, and on Redis Cluster following
    a slot that has moved.

    :param request: a request of the application.
    """
    watcher = request.environ.get(WATCHER)
    if watcher is None:
        watcher = request.environ[WATCHER] = _Watcher()
        for turn in getattr(request, TURNS, ()):
            turn.watch(watcher)
    calls: list[Call] = watcher.calls
    return calls


class _Watcher:
    """Makes the watched stores of one request."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, store: Store) -> Store:
        return store if isinstance(store, WatchedStore) else WatchedStore(store, self.calls)


class WatchedStore(Store):
    """The same store; it notes down each call.

    :param store: the store to watch, over the client that serves the request.
    :param calls: where to.
    :ivar loaded: the id that was loaded last, and its fields as they were then.
    :ivar written: the fields that were set since then.
    :ivar ended: the ids that were ended.
    """

    def __init__(self, store: Store, calls: list[Call]) -> None:
        self.__dict__.update(vars(store))
        self._calls = calls
        self.loaded: tuple[str, dict[bytes, bytes]] | None = None
        self.written: set[bytes] = set()
        self.ended: list[str] = []
        self.client = self._tally = _Tally(store.client)

    def load(self, session_id: str) -> Loaded | Absent:
        found = super().load(session_id)
        if isinstance(found, Loaded):
            self.loaded = (session_id, dict(found.fields))
            self.written.clear()
        return found

    def save(
        self, session_id: str, values: Mapping[bytes, bytes], *args: Any, **options: Any
    ) -> Saved | Absent | Status:
        result = super().save(session_id, values, *args, **options)
        if isinstance(result, Saved):
            self.written.update(values)
        return result

    def end(self, session_id: str, *args: Any, **options: Any) -> Ending:
        return self._noted_ending(session_id, super().end(session_id, *args, **options))

    def replace(
        self,
        old_id: str,
        seal: Callable[[str], Mapping[bytes, bytes]],
        *args: Any,
        **options: Any,
    ) -> Replaced:
        ended = self.ended.copy()
        try:
            replaced = super().replace(old_id, seal, *args, **options)
        finally:
            self.ended = ended  # a new id that it ended again was never anybody's
        self.written.update(getattr(seal, "own", ()))
        self._noted_ending(old_id, replaced.ending)
        return replaced

    def _noted_ending(self, session_id: str, ending: Ending) -> Ending:
        if ending.status is Status.ENDED and session_id not in self.ended:
            self.ended.append(session_id)
        return ending

    def _call(self, script: Script, key: bytes, args: Iterable[Any]) -> Any:
        step = super()._call
        return self._noted((script.name,), lambda: step(script, key, args), lambda reply: [reply])

    def _pipeline(self, calls: list[ScriptCall]) -> list[Any]:
        step = super()._pipeline
        names = tuple(script.name for script, _, _ in calls)
        replies: list[Any] = self._noted(names, lambda: step(calls), lambda replies: replies)
        return replies

    def _command(self, *args: Any) -> Any:
        step = super()._command
        return self._noted((str(args[0]).lower(),), lambda: step(*args), lambda reply: [None])

    def read_foreign(self, key: str, session_id: str) -> Foreign | None:
        step = super().read_foreign
        found: Foreign | None = self._noted(
            ("time", "get", "pttl"), lambda: step(key, session_id), lambda _: [None] * 3
        )
        return found

    def _noted(
        self,
        names: tuple[str, ...],
        step: Callable[[], Any],
        replies_of: Callable[[Any], list[Any]],
    ) -> Any:
        tally = self._tally
        if tally.counting:
            return step()  # a part of a step that is counted already
        tally.start()
        statuses: tuple[str, ...] = ()
        began = time.perf_counter_ns()
        try:
            result = step()
            statuses = tuple(map(_status, replies_of(result)))
            return result
        except BaseException as exc:
            statuses = (type(exc).__name__,) * len(names)
            raise
        finally:
            took = (time.perf_counter_ns() - began) // 1000
            tally.counting = False
            prefix = self._prefix.decode("utf-8", "surrogatepass")
            counts = (tally.round_trips, took, tally.sent, tally.received)
            self._calls.append(Call(names, statuses, *counts, prefix))


def _status(reply: Any) -> str:
    if reply is None:
        return ""
    if isinstance(reply, StoreError):
        return type(reply).__name__
    return Status(reply[0]).name


class _Tally:
    """A client, or a pipeline, that counts while it is told to.

    For ``isinstance`` it is what it wraps, so that the store treats it alike,
    and so does an application that asks its session for the client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.counting = False
        self.start(counting=False)

    def start(self, counting: bool = True) -> None:
        """Count from nothing."""
        self.counting = counting
        self.round_trips = self.sent = self.received = 0

    @property  # type: ignore[misc]  # as unittest.mock has it
    def __class__(self) -> Any:
        return type(self._client)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if not self.counting:
            return self._client.execute_command(*args, **options)
        self.sent += _size_of_command(args)
        try:
            reply = self._client.execute_command(*args, **options)
        except RedisError as exc:
            self._note_answers([args], [exc])
            raise
        self._note_answers([args], [reply])
        return reply

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipeline = self._client.pipeline(*args, **options)
        return _Pipeline(self, pipeline) if self.counting else pipeline

    def _note_answers(self, commands: list[tuple[Any, ...]], replies: list[Any]) -> None:
        if any(not isinstance(reply, Exception) or _answer(reply) for reply in replies):
            self.round_trips += 1
        for args, reply in zip(commands, replies, strict=True):
            self.received += _size_of_reply(reply, times=args[0] == "TIME")


class _Pipeline:
    """The few methods of a pipeline that a store uses."""

    def __init__(self, tally: _Tally, pipeline: Any) -> None:
        self._tally = tally
        self._pipeline = pipeline
        self._commands: list[tuple[Any, ...]] = []

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.reset()

    def execute_command(self, *args: Any, **options: Any) -> None:
        self._commands.append(args)
        self._pipeline.execute_command(*args, **options)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        self._tally.sent += sum(map(_size_of_command, self._commands))
        replies: list[Any] = self._pipeline.execute(raise_on_error=False)
        self._tally._note_answers(self._commands, replies)
        for reply in replies:
            if raise_on_error and isinstance(reply, Exception):
                raise reply
        return replies


# -- sizes in Redis' protocol (RESP) -----------------------------------------------

#: It never connects; it has redis-py's own packer.
_packer = cast("Any", redis.Connection)()


def _size_of_command(args: tuple[Any, ...]) -> int:
    packed: list[bytes] = _packer.pack_command(*args)
    return sum(map(len, packed))


def _size_of_reply(reply: Any, times: bool = False) -> int:
    """Return how long a reply was before redis-py read it.

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
