"""How commands and scripts travel to Redis, and what their failures mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from redis.cluster import RedisCluster
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from .cluster import LazyCluster
from .errors import StoreError, StoreUnavailable
from .pools import Pool
from .scripts import Script, Status
from .sentinels import PrimaryPool

__all__ = [
    "FAILURES",
    "Argument",
    "Call",
    "Caller",
    "failure",
    "is_wrong_type",
    "raise_failed",
    "showable",
]

log = logging.getLogger(__package__)

#: What redis-py raises; that it finds no node of a cluster is no RedisError.
FAILURES = (RedisError, RedisClusterException)

#: Codes that redis-py cuts off the message, as it has a class for them.
CODES = (
    (ReadOnlyError, "READONLY"),
    (OutOfMemoryError, "OOM"),
    (NoPermissionError, "NOPERM"),
    (TryAgainError, "TRYAGAIN"),
    (AskError, "MOVED"),
)

#: Codes with which Redis says that it cannot serve the call at present.
UNAVAILABLE_CODES = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
)

#: Further codes that a call may meet. What other messages begin with need not be a code, as
#: redis-py cuts ``ERR`` off: "DB index is out of range".
OTHER_CODES = frozenset(
    (
        "ASK",
        "CROSSSLOT",
        "DENIED",
        "EXECABORT",
        "MOVED",
        "NOAUTH",
        "NOPERM",
        "NOPROTO",
        "NOSCRIPT",
        "WRONGPASS",
        "WRONGTYPE",
    )
)

#: What is handed to the client: bytes and text, numbers as their digits. In a rare state of the
#: interpreter hiredis may end the process over anything else.
Argument = bytes | str

#: A script, its key, its arguments.
Call = tuple[Script, bytes, Sequence[Argument]]

#: How a script says that something else is stored under the id.
_FOREIGN_REPLY = (Status.GONE, 2)


class Caller:
    """Calls scripts over a client; each call is one round trip.

    A script that Redis does not know heals within the call, and so does a
    server that has become a replica.

    :param client: a redis-py client, ``Redis`` or ``RedisCluster``; one made
        with ``decode_responses`` will do.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def _call(self, script: Script, key: bytes, args: Iterable[Argument]) -> Any:
        try:
            # NEVER_DECODE: replies are bytes also from a decode_responses client.
            return self.client.execute_command(
                "EVALSHA", script.sha1, b"1", key, *args, NEVER_DECODE=True
            )
        except NoScriptError:
            return self._call_by_source(script, key, args)
        except FAILURES as exc:
            if self._left_demoted(exc):
                return self._call_by_source(script, key, args)
            if is_wrong_type(exc):
                return _FOREIGN_REPLY
            raise failure(script.name, exc, self.client) from showable(exc)
        except BaseException:
            self._hang_up()
            raise

    def _call_by_source(
        self, script: Script, key: bytes, args: Iterable[Argument], again: bool = True
    ) -> Any:
        """EVAL runs the script and caches it, on the very node that lacked it."""
        try:
            return self.client.execute_command(
                "EVAL", script.source, b"1", key, *args, NEVER_DECODE=True
            )
        except FAILURES as exc:
            if again and self._left_demoted(exc):
                return self._call_by_source(script, key, args, again=False)
            if is_wrong_type(exc):
                return _FOREIGN_REPLY
            raise failure(script.name, exc, self.client) from showable(exc)
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        """Disconnect what is free, as a reply may be left on it that nobody has read.

        A pool of ours looks after that itself; that of an application's own client may not.
        """
        nodes: list[Any] = [self.client]
        if isinstance(self.client, RedisCluster):
            nodes = [node.redis_connection for node in cast("Any", self.client).get_nodes()]
        for node in nodes:
            pool = getattr(node, "connection_pool", None)
            if pool is not None and not isinstance(pool, Pool):
                pool.disconnect(inuse_connections=False)

    def _left_demoted(self, exc: Exception) -> bool:
        """Leave a server that has become a replica; the next connection finds the primary.

        :returns: whether that was so, and the call is worth repeating.
        """
        pool = getattr(self.client, "connection_pool", None) if _is_demoted(exc) else None
        if pool is None:
            return False
        pool.disconnect(inuse_connections=False)
        return True

    def _try(self, method: Callable[..., Any], *args: Any) -> None:
        """Clean up as far as Redis lets us; the failure before it is what is raised."""
        try:
            method(*args)
        except StoreError as exc:
            log.warning("after a failed call: %s", exc)

    def _command(self, *args: Argument) -> Any:
        """Send a command; ``None`` where something of another type is stored at its key."""
        try:
            return self.client.execute_command(*args, NEVER_DECODE=True)
        except FAILURES as exc:
            if is_wrong_type(exc):
                return None
            raise failure(str(args[0]).lower(), exc, self.client) from showable(exc)
        except BaseException:
            self._hang_up()
            raise

    def _together(self, calls: list[Call]) -> list[Any]:
        """Make calls in one pipeline; on Redis Cluster one after the other, in order.

        :returns: their replies; for a call that failed the ``StoreError``.
        """
        if not isinstance(self.client, RedisCluster):
            return self._pipeline(calls) if calls else []
        return self._in_turn(calls)

    def _in_turn(self, calls: list[Call]) -> list[Any]:
        """Make calls one after the other, as :meth:`_together`."""
        replies: list[Any] = []
        goes_on = True
        for call in calls:
            if not goes_on:
                replies.append(replies[-1])  # what comes later stands on it
                continue
            try:
                replies.append(self._call(*call))
            except StoreError as exc:
                replies.append(exc)
            goes_on = self._goes_on(call, replies[-1])
        return replies

    def _goes_on(self, call: Call, reply: Any) -> bool:
        """Tell whether the calls after this one are still to be made."""
        return not isinstance(reply, StoreError)

    def _pipeline(self, calls: list[Call]) -> list[Any]:
        """Send calls together; return their replies, or what they failed with."""
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for script, key, args in calls:
                    pipeline.execute_command(
                        "EVALSHA", script.sha1, b"1", key, *args, NEVER_DECODE=True
                    )
                replies = pipeline.execute(raise_on_error=False)
        except FAILURES as exc:
            raise failure(calls[0][0].name, exc, self.client) from showable(exc)
        except BaseException:
            self._hang_up()
            raise
        if any(_is_demoted(reply) and self._left_demoted(reply) for reply in replies):
            # The new primary may lack what the old one did for the other calls.
            return self._in_turn(calls)
        for number, (script, key, args) in enumerate(calls):
            reply = replies[number]
            if isinstance(reply, NoScriptError):
                try:
                    replies[number] = self._call_by_source(script, key, args)
                except StoreError as exc:
                    replies[number] = exc
            elif isinstance(reply, RedisError):
                wrong = is_wrong_type(reply)
                replies[number] = _FOREIGN_REPLY if wrong else failure(script.name, reply)
        return cast("list[Any]", replies)


def raise_failed(*replies: Any) -> None:
    for reply in replies:
        if isinstance(reply, StoreError):
            raise reply


def is_wrong_type(exc: Exception) -> bool:
    return isinstance(exc, ResponseError) and "WRONGTYPE" in str(exc)


def _is_demoted(reply: Any) -> bool:
    """Whether a write met a replica, which was the primary when the connection was made."""
    return isinstance(reply, ReadOnlyError) or (
        isinstance(reply, ResponseError) and "-READONLY " in str(reply)  # as 6.2 wraps it
    )


def showable(exc: Exception) -> Exception | None:
    """Return an error that may be chained: an answer of Redis may quote keys and values."""
    return None if isinstance(exc, ResponseError) else exc


def failure(call: str, exc: Exception, client: Any = None) -> StoreError:
    """Classify an error; Redis 6.2 wraps a script's, so the code may stand anywhere.

    :param client: that met it, to name its Redis; hosts, ports and errno are no secrets.
    """
    where = _where(client, exc)
    at = f" at {where}" if where else ""
    if isinstance(
        exc,
        (
            BusyLoadingError,
            ClusterError,
            ConnectionError,
            MaxConnectionsError,
            RedisClusterException,
            TimeoutError,
        ),
    ):
        return StoreUnavailable(f"Redis cannot be reached for {call}{at} ({_reason(exc)})")
    words = [code for kind, code in CODES if isinstance(exc, kind)]
    words += str(exc).replace("-", " ").replace(":", " ").split()
    for code in UNAVAILABLE_CODES:
        if code in words:
            return StoreUnavailable(f"Redis refuses {call} at present ({code})")
    code = next((word for word in words if word in OTHER_CODES), "ERR")
    if "DB index is out of range" in str(exc):  # the words are Redis' own, and quote nothing
        code = f"{code}: no such database{at}"
    return StoreError(f"Redis answered {call} with an error ({code})")


def _where(client: Any, exc: Exception) -> str:
    """Name the Redis that a client was to reach; empty where it does not tell."""
    node: Any = getattr(exc, "connection", None)  # redis-py's cluster client notes it
    if getattr(node, "host", None):
        return f"{node.host}:{node.port}"
    if isinstance(client, LazyCluster):
        return _hosts(client.hosts)
    pool = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", {})
    if isinstance(pool, PrimaryPool):
        where = _hosts([pool.master_address]) if pool.master_address else ""
        if not where:
            sentinels = [one.connection_pool for one in pool.sentinel_manager.sentinels]
            hosts = [
                (one.connection_kwargs["host"], one.connection_kwargs["port"]) for one in sentinels
            ]
            where = f"{pool.service_name} of the sentinels {_hosts(hosts)}"
    elif "path" in options:
        where = str(options["path"])
    else:
        where = _hosts([(options["host"], options.get("port"))]) if "host" in options else ""
    return f"{where}, db {options['db']}" if where and options.get("db") else where


def _hosts(hosts: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in hosts)


def _reason(exc: Exception) -> str:
    """Say what happened: what the system said, if it said something, or redis-py."""
    kind = type(exc).__name__
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{kind}: errno {cause.errno}, {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    # Of other kinds the text may be Redis' own.
    return f"{kind}: {exc}" if type(exc) in (ConnectionError, TimeoutError) else kind
