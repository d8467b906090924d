"""Connections to one server, and how often a call over them is repeated."""

from __future__ import annotations

import builtins
import math
import os
import sys
import threading
import time
from typing import Any, NamedTuple, cast
from weakref import WeakSet

import hiredis
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    ConnectionError,
    MaxConnectionsError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from .tally import note_wait

try:
    from redis.driver_info import DriverInfo
except ImportError:  # before 7.2
    _UNNAMED: dict[str, Any] = {"lib_name": None, "lib_version": None}
else:
    _UNNAMED = {"driver_info": DriverInfo(name="", lib_version="")}

__all__ = [
    "LONGEST_BACKOFF",
    "NO_NOTIFICATIONS",
    "NO_SETINFO",
    "PACKER",
    "PROTOCOL",
    "Pool",
    "PoolUse",
    "make_retry",
    "socket_of",
]

OSTimeout = builtins.TimeoutError

#: Seconds for which a connection that was left in order is taken to be so without a look: a
#: server closes those that are idle for longer.
FRESH = 1.0

#: Seconds between two tries at most.
LONGEST_BACKOFF = 0.5

#: Redis Enterprise can announce its maintenance on every connection. A connection that waits
#: for that may have something unread at any time, and a left over reply would not be noticed.
NO_NOTIFICATIONS = MaintNotificationsConfig(enabled=False)

#: With CLIENT SETINFO a connection tells the server which library it is of. A user who may do
#: only what sessions need is refused that, and real denials drown in its ACL LOG.
NO_SETINFO = _UNNAMED


#: The version of Redis' protocol, unless an address asks for another. In version 3 a hash comes
#: as a dict, for which hiredis takes ten times as long as for the list that it is in version 2.
PROTOCOL = 2


def make_retry(retries: int) -> Retry:
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=LONGEST_BACKOFF), retries)


class ScriptPacker(HiredisRespSerializer):
    """Packs commands for connections; those of scripts without a look at each argument."""

    def pack(self, *args: Any) -> list[bytes]:
        if args[0] == "EVALSHA":  # one word, and all of its arguments are bytes or text
            return [hiredis.pack_command(args)]
        # Only bytes and text for hiredis, also where redis-py itself has numbers: SELECT, HELLO.
        texts = (arg if isinstance(arg, (bytes, str)) else _as_bytes(arg) for arg in args)
        return cast("list[bytes]", cast("Any", super()).pack(*texts))


def _as_bytes(argument: Any) -> bytes:
    if isinstance(argument, (bytearray, memoryview)):
        return bytes(argument)
    return str(argument).encode()


#: What connections to one server take as ``command_packer``.
PACKER = ScriptPacker()


class PoolUse(NamedTuple):
    """How a pool stands.

    :ivar used: connections that are out; ``idle``: that are free; ``limit``: how many there may
        be.
    """

    used: int
    idle: int
    limit: int


class Pool(redis.ConnectionPool):
    """Connections to one server; who finds all in use waits.

    A connection over which a call did not end cleanly is closed when it comes back: a reply
    that is still to come would answer somebody else's call. What ended the call may have been
    raised anywhere, by a signal's handler or by ``gevent.Timeout``, also where redis-py does
    not look for it. A connection that never comes back, for the same reason, leaves its place
    to another as soon as it is collected.

    Connections that are free lie in a list, to which threads and greenlets come without a
    lock. Who waits has a lock of its own, and no condition: where a timeout of ``gevent`` comes
    while a condition takes its lock back, it is released by who does not have it.

    :param timeout: seconds to wait for a connection; ``None`` = for ever.
    """

    def __init__(self, *, timeout: float | None = None, **options: Any) -> None:
        self.timeout = timeout
        retry = options.get("retry")
        self._repeats = retry is not None and retry.get_retries() > 0
        #: How often a call was lost: it, or a part of it, may still be on its way.
        self.losses = 0
        options["maint_notifications_config"] = NO_NOTIFICATIONS
        cast("Any", super()).__init__(**options)

    def reset(self) -> None:
        """Begin anew; redis-py asks for it also in a process that was forked off."""
        self._free: list[Any] = []
        self._made: WeakSet[Any] = WeakSet()
        #: Of each who waits, a lock that is released when it is to look again.
        self._waiting: list[Any] = []
        self._making = threading.Lock()
        self._lock = threading.RLock()  # redis-py's own, which may be held where we come from
        super().reset()

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Take a connection that is ready for a call.

        :raises MaxConnectionsError: none became free in time.
        """
        self._checkpid()
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._wait()
        connection.loan = self._loan()
        try:
            _make_ready(connection)
        except BaseException:
            self.release(connection)
            raise
        return connection

    def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send commands in one packet, and read their replies: what redis-py does, in fewer steps.

        It has to be harmless that a call is sent twice: it is repeated as redis-py repeats it.

        :param data: the commands, packed; ``count``: how many they are.
        :returns: their replies; for those that Redis refuses the error.
        :raises ConnectionError: Redis cannot be reached; ``TimeoutError``: it does not answer.
        """
        failures: list[Exception] = []
        connection = self._take_fresh()
        if connection is None:
            connection = self.get_connection()
        else:
            try:
                replies = _talk(connection, data, count)
            except (ConnectionError, TimeoutError) as exc:
                failures.append(exc)  # the first of those that it may have
            except BaseException:
                self._close(connection)
                raise
            else:
                connection.left = time.monotonic()
                self._give_back(connection)
                return replies
            # It is repeated without a wait for another connection: redis-py does that too, and
            # what is repeated later than a save is remembered would be saved a second time.
            connection.loan = self._loan()
        try:

            def attempt() -> list[Any]:
                if failures:
                    raise failures.pop()
                if socket_of(connection) is None:
                    connection.connect()
                return _talk(connection, data, count)

            def lost(error: Exception) -> None:
                self.note_loss()
                connection.disconnect()

            return cast("list[Any]", connection.retry.call_with_retry(attempt, lost))
        finally:
            self.release(connection)

    def note_loss(self) -> None:
        """Note that a call was lost, or may have been."""
        with self._making:
            self.losses += 1

    def _take_fresh(self) -> Any:
        """Take a connection that was left in order just now, without a look at it.

        None where a call that meets a connection which Redis has ended is not repeated.
        """
        if self.pid != os.getpid():
            self._checkpid()
        try:
            connection = self._free.pop()
        except IndexError:
            return None
        if (
            self._repeats
            and connection.left > time.monotonic() - FRESH
            and socket_of(connection) is not None
            and not connection.should_reconnect()
        ):
            return connection
        self._give_back(connection)
        return None

    def _close(self, connection: Any) -> None:
        """Close a connection for good; nobody gets it, also where this is interrupted."""
        self._made.discard(connection)
        connection.disconnect()
        self._wake()

    def _give_back(self, connection: Any) -> None:
        """Let others have a connection, where it is still one of this pool."""
        if connection.pid != self.pid:
            self._close(connection)
            return
        self._free.append(connection)
        if self._waiting:
            self._wake()

    def release(self, connection: Any) -> None:
        """Give back a connection, if it is this thread that has it from here.

        redis-py's cluster client gives one back a second time, and to another node's pool,
        where that node cannot be reached after a redirection. Two threads would then share
        it, and read each other's replies.
        """
        self._checkpid()
        lender, borrower, before = getattr(connection, "loan", None) or (0, 0, 0)
        if (lender, borrower) != (id(self), threading.get_ident()):
            return
        connection.loan = None
        error = sys.exc_info()[1]
        # An error that Redis answers with was read to its end.
        is_clean = id(error) == before or isinstance(error, ResponseError)
        if not is_clean or connection.should_reconnect():
            connection.disconnect()
        connection.left = time.monotonic()
        self._give_back(connection)

    def _loan(self) -> tuple[int, int, int]:
        """Which pool lends a connection, to which thread, and what that is handling already."""
        return (id(self), threading.get_ident(), id(sys.exc_info()[1]))

    def _wait(self) -> Any:
        """Make a connection where there may be one more, or else wait for one."""
        end = time.monotonic() + self.patience()
        waited = 0
        while True:
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
            try:
                # Only now: what comes back from here on wakes this one, if none is there yet.
                connection = self._take()
                remaining = end - time.monotonic()
                if connection is None and remaining > 0:
                    began = time.perf_counter_ns()
                    turn.acquire(timeout=min(remaining, threading.TIMEOUT_MAX))
                    waited += time.perf_counter_ns() - began
                    connection = self._take()
            finally:
                try:
                    self._waiting.remove(turn)
                except ValueError:  # woken: then another one may look, too
                    if self._free:
                        self._wake()
            if waited and (connection is not None or remaining <= 0):
                note_wait(waited)
            if connection is not None:
                return connection
            if remaining <= 0:
                # Not the error of a lost connection: nothing is gained by a repetition.
                raise MaxConnectionsError("no connection became free in time")

    def _take(self) -> Any:
        """Take a connection that is free, or one more; ``None``: there is none."""
        try:
            return self._free.pop()
        except IndexError:
            pass
        with self._making:
            return self.make_connection() if len(self._made) < self.max_connections else None

    def _wake(self) -> None:
        try:
            self._waiting.pop(0).release()
        except IndexError:
            pass  # nobody waits

    def patience(self) -> float:
        """Seconds to wait for a connection at most."""
        return math.inf if self.timeout is None else self.timeout

    def use(self) -> PoolUse:
        """Tell how the pool stands."""
        made, idle = len(self._made), len(self._free)
        return PoolUse(max(0, made - idle), idle, self.max_connections)

    def make_connection(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        #: When it was left in order; its socket, and what reads from that; who has it.
        connection.left = 0.0
        connection.reader = (None, None)
        connection.loan = None
        self._made.add(connection)
        return connection

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect the connections that are free, and on request those in use.

        When a server is lost, redis-py does so whatever becomes of them meanwhile: a thread
        that has just taken one would meet a TypeError. Here none is taken before all are done.
        """
        self._checkpid()
        held = []
        try:
            while self._free:
                held.append(self._free.pop())
        except IndexError:
            pass  # another thread was faster
        for connection in held:
            connection.disconnect()
        if inuse_connections:
            for connection in self._get_in_use_connections():
                connection.disconnect()
        self._free.extend(reversed(held))
        for _ in held:
            self._wake()

    def disconnect_free_connections(self, *args: Any, **options: Any) -> None:
        self.disconnect(inuse_connections=False)

    # How redis-py asks which connections there are.

    def _get_free_connections(self) -> Any:
        return list(self._free)

    def _get_in_use_connections(self) -> Any:
        return set(self._made).difference(self._free)


#: Stands for a reply that has not come yet.
_MORE: Any = object()

#: What Redis tells unasked.
_PUSHED = hiredis.PushNotification


def socket_of(connection: Any) -> Any:
    """Return the socket of a connection, ``None`` where it has none.

    Of all that redis-py keeps to itself, this and :func:`_parse_error` are what we stand on.
    """
    return connection._sock


def _parse_error(text: str) -> Exception:
    """Return the exception that stands for an error of Redis."""
    error: Exception = cast("Any", redis.connection.DefaultParser).parse_error(text)
    return error


def _talk(connection: Any, data: bytes, count: int) -> list[Any]:
    """Send commands over a connection, and read so many replies."""
    sock = socket_of(connection)
    if sock is None:  # another thread disconnects what is in use
        raise ConnectionError("Connection closed.")
    mine, reader = connection.reader
    if mine is not sock:
        reader = hiredis.Reader(replyError=_parse_error, notEnoughData=_MORE)
        connection.reader = (sock, reader)
    replies: list[Any] = []
    try:
        sock.sendall(data)
        # What was begun is read to its end: redis-py has a reader of its own.
        while len(replies) < count or reader.has_data():
            chunk = sock.recv(65536)
            if not chunk:
                raise ConnectionError("Connection closed by server.")
            reader.feed(chunk)
            reply = reader.gets()
            while reply is not _MORE:
                # Over RESP3 Redis tells of more than it is asked, as after CLIENT TRACKING.
                if type(reply) is not _PUSHED:
                    replies.append(reply)
                reply = reader.gets()
    except (OSError, hiredis.HiredisError) as exc:
        if isinstance(exc, OSTimeout):
            raise TimeoutError("Timeout reading from socket") from exc
        raise ConnectionError("Connection lost") from exc
    if len(replies) > count:
        raise ConnectionError("more replies than commands")
    return replies


def _make_ready(connection: Any) -> None:
    """Connect, where that is needed; also anew, where something is unread or the end was met."""
    if not getattr(connection, "is_connected", False):  # redis-py 7 does not tell
        connection.connect()
    try:
        unread = connection.can_read()
    except (RedisError, OSError):
        unread = True
    if unread:
        connection.disconnect()
        connection.connect()
