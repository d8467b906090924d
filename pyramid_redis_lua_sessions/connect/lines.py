"""How commands travel to Redis, over whatever client there is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError, ResponseError

from .pools import Pool, PoolUse

try:
    from redis.observability.providers import get_observability_instance
except ImportError:  # before 7.2
    get_observability_instance = cast("Any", None)

__all__ = ["Argument", "Beside", "Command", "Line", "Prepared", "is_multi_db", "line_to", "pack"]

#: What is handed over: bytes and text, numbers as their digits. In a rare state of the
#: interpreter hiredis may end the process over anything else.
Argument = bytes | str

Command = tuple[Argument, ...]


#: ``(command) -> bytes``: in Redis' protocol. Its own types know only commands of one word.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


class Prepared:
    """A command of which only some arguments change from call to call.

    :param before: what comes before these.
    """

    def __init__(self, before: tuple[bytes, ...]) -> None:
        self._before = before
        self._head = b"\r\n" + _bulk(before)[:-2]

    def command(self, arguments: Sequence[bytes]) -> Command:
        name, *rest = self._before
        # RedisCluster looks the name up, as text.
        return (name.decode("ascii"), *rest, *arguments)

    def packed(self, arguments: Sequence[bytes]) -> bytes:
        """Return the command in Redis' protocol (RESP).

        Every save pays for this: hiredis takes more than twice as long.
        """
        heads, known = _HEADS, len(_HEADS)
        parts = [b"*%d" % (len(self._before) + len(arguments)), self._head]
        for data in arguments:
            size = len(data)
            parts.append(heads[size] if size < known else b"\r\n$%d\r\n" % size)
            parts.append(data)
        parts.append(b"\r\n")
        return b"".join(parts)


class Beside:
    """Two commands on one key that travel in one packet; the second takes one argument more.

    :param name: the first; ``before``: what comes before key and argument of the second,
        ``after``: what comes after them.
    """

    def __init__(self, name: bytes, before: tuple[bytes, ...], after: tuple[bytes, ...]) -> None:
        self._first, self._second, self._after = Prepared((name,)), Prepared(before), after
        # Each part ends before the end of a line, with which the size of an argument begins.
        self._begin = b"*2\r\n" + _bulk((name,))[:-2]
        count = b"\r\n*%d\r\n" % (len(before) + 2 + len(after))
        self._middle = count + _bulk(before)[:-2]
        self._end = b"\r\n" + _bulk(after)

    def commands(self, key: bytes, argument: bytes) -> list[Command]:
        return [self._first.command((key,)), self._second.command((key, argument, *self._after))]

    def packed(self, key: bytes, argument: bytes) -> bytes:
        """Return the commands in Redis' protocol (RESP)."""
        named = _sized(key)
        return b"".join((self._begin, named, self._middle, named, _sized(argument), self._end))


#: What stands before an argument, by its size: the end of the one before it, and the size.
_HEADS = tuple(b"\r\n$%d\r\n" % size for size in range(256))


def _sized(argument: bytes) -> bytes:
    size = len(argument)
    return (_HEADS[size] if size < len(_HEADS) else b"\r\n$%d\r\n" % size) + argument


def _bulk(arguments: Sequence[bytes]) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(data), data) for data in arguments])


class Line(Protocol):
    """Sends commands that may be repeated without harm, and returns their replies as bytes.

    All raise the errors of redis-py for a Redis that cannot be reached.
    """

    #: Two commands that travel together cost hardly more than one.
    packs: bool

    @property
    def losses(self) -> int | None:
        """How many calls were lost so far, of which a copy may still be on its way.

        ``None`` where it is not known. A call over which this does not change, in whatever
        thread, was sent once, and answered.
        """

    def one(self, command: Command) -> Any:
        """Send a command; an error with which Redis answers is raised."""

    def prepared(self, command: Prepared, arguments: Sequence[bytes]) -> Any:
        """Send a command that was prepared, as :meth:`one`."""

    def many(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one packet; errors with which Redis answers are among the replies."""

    def both(self, commands: Beside, key: bytes, argument: bytes) -> list[Any]:
        """Send two commands that were prepared, as :meth:`many`."""

    def use(self) -> PoolUse | None:
        """Tell how the connections to Redis stand; ``None`` where their pool is none of ours."""


def line_to(client: Any) -> Line:
    """Return the way to Redis over a client.

    :param client: ``Redis`` or ``RedisCluster`` of redis-py, ours or an application's.
    """
    # A cluster's client is not asked for an attribute: it would connect.
    pool = None if isinstance(client, RedisCluster) else getattr(client, "connection_pool", None)
    return PoolLine(client) if isinstance(pool, Pool) else ClientLine(client)


def _are_metrics_collected() -> bool:
    """Tell whether redis-py is to measure its commands: it knows only those that it sends."""
    if get_observability_instance is None:
        return False
    return get_observability_instance().get_provider_manager() is not None


def is_multi_db(client: Any) -> bool:
    """Whether it is redis-py's client of several databases, whose pipelines are transactions.

    Its module is not imported here: that needs a package which redis-py itself does not.
    """
    module = sys.modules.get("redis.multidb.client")
    return module is not None and isinstance(client, module.MultiDBClient)


class PoolLine:
    """Over a pool of ours, to one server."""

    packs = True

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._exchange = client.connection_pool.exchange
        self._measured = ClientLine(client)

    @property
    def losses(self) -> int:
        losses: int = self._pool.losses
        return losses

    def one(self, command: Command) -> Any:
        if _are_metrics_collected():
            return self._unseen().one(command)
        return self._answered(pack(command))

    def prepared(self, command: Prepared, arguments: Sequence[bytes]) -> Any:
        if _are_metrics_collected():
            return self._unseen().prepared(command, arguments)
        return self._answered(command.packed(arguments))

    def _unseen(self) -> ClientLine:
        """Return the way on which redis-py may repeat a call, and nobody knows."""
        self._pool.note_loss()
        return self._measured

    def _answered(self, data: bytes) -> Any:
        (reply,) = self._exchange(data, 1)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def many(self, commands: Sequence[Command]) -> list[Any]:
        if _are_metrics_collected():
            return self._unseen().many(commands)
        replies: list[Any] = self._exchange(b"".join(map(pack, commands)), len(commands))
        return replies

    def both(self, commands: Beside, key: bytes, argument: bytes) -> list[Any]:
        if _are_metrics_collected():
            return self._measured.both(commands, key, argument)
        replies: list[Any] = self._exchange(commands.packed(key, argument), 2)
        return replies

    def use(self) -> PoolUse | None:
        return cast("Pool", self._pool).use()


class ClientLine:
    """Over a client of redis-py, as it is."""

    packs = False
    losses = None

    def __init__(self, client: Any) -> None:
        self._client = client

    def one(self, command: Command) -> Any:
        try:
            # NEVER_DECODE: replies are bytes also from a decode_responses client.
            return self._client.execute_command(*command, NEVER_DECODE=True)
        except RedisError:
            raise
        except BaseException:
            self._hang_up()
            raise

    def prepared(self, command: Prepared, arguments: Sequence[bytes]) -> Any:
        return self.one(command.command(arguments))

    def many(self, commands: Sequence[Command]) -> list[Any]:
        if is_multi_db(self._client):
            return [self._answer(command) for command in commands]
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command, NEVER_DECODE=True)
                return cast("list[Any]", pipeline.execute(raise_on_error=False))
        except RedisError:
            raise
        except BaseException:
            self._hang_up()
            raise

    def both(self, commands: Beside, key: bytes, argument: bytes) -> list[Any]:
        return self.many(commands.commands(key, argument))

    def use(self) -> PoolUse | None:
        if not isinstance(self._client, RedisCluster) or "nodes_manager" not in vars(self._client):
            return None  # or it would connect
        clients = [node.redis_connection for node in cast("Any", self._client).get_nodes()]
        pools = [client.connection_pool for client in clients if client is not None]
        uses = [pool.use() for pool in pools if isinstance(pool, Pool)]
        return PoolUse(*map(sum, zip(*uses, strict=True))) if uses else None

    def _answer(self, command: Command) -> Any:
        try:
            return self.one(command)
        except ResponseError as exc:
            return exc

    def _hang_up(self) -> None:
        """Disconnect what is free, as a reply may be left on it that nobody has read.

        A pool of ours looks after that itself; that of an application's own client may not.
        """
        nodes: list[Any] = [self._client]
        if isinstance(self._client, RedisCluster):
            nodes = [node.redis_connection for node in cast("Any", self._client).get_nodes()]
        for node in nodes:
            pool = getattr(node, "connection_pool", None)
            if pool is not None and not isinstance(pool, Pool):
                pool.disconnect(inuse_connections=False)
