"""What the failures of calls mean, and what of them may be shown."""

from __future__ import annotations

from typing import Any

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterError,
    ConnectionError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from ..connect.naming import reason_of, where_is
from ..errors import SessionError, StoreError, StoreUnavailable

__all__ = [
    "FAILURES",
    "failure",
    "is_demoted",
    "is_wrong_type",
    "raise_failed",
    "showable",
    "was_answered",
]

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


def raise_failed(*replies: Any) -> None:
    for reply in replies:
        if isinstance(reply, StoreError):
            raise reply


def was_answered(exc: BaseException) -> bool:
    """Whether Redis answered the call: its effect is known. If not, it may also come late."""
    return isinstance(exc, SessionError) and exc.__cause__ is None


def is_demoted(reply: Any) -> bool:
    """Whether a write met a replica, which was the primary when the connection was made."""
    return isinstance(reply, ReadOnlyError) or (
        isinstance(reply, ResponseError) and "-READONLY " in str(reply)  # as 6.2 wraps it
    )


def is_wrong_type(exc: Exception) -> bool:
    return isinstance(exc, ResponseError) and "WRONGTYPE" in str(exc)


def showable(exc: Exception) -> Exception | None:
    """Return an error that may be chained: an answer of Redis may quote keys and values."""
    return None if isinstance(exc, ResponseError) else exc


def failure(call: str, exc: Exception, client: Any = None) -> StoreError:
    """Classify an error; Redis 6.2 wraps a script's, so the code may stand anywhere.

    :param client: that met it, to name its Redis; hosts, ports and errno are no secrets.
    """
    where = where_is(client, exc)
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
        return StoreUnavailable(f"Redis cannot be reached for {call}{at} ({reason_of(exc)})")
    words = [code for kind, code in CODES if isinstance(exc, kind)]
    words += str(exc).replace("-", " ").replace(":", " ").split()
    for code in UNAVAILABLE_CODES:
        if code in words:
            return StoreUnavailable(f"Redis refuses {call} at present ({code})")
    code = next((word for word in words if word in OTHER_CODES), "ERR")
    if "DB index is out of range" in str(exc):  # the words are Redis' own, and quote nothing
        code = f"{code}: no such database{at}"
    elif code == "MOVED" or "SELECT is not allowed in cluster mode" in str(exc):
        # A client of the cluster would follow, and select nothing.
        code = f"{code}: a node of a Redis Cluster{at}; use redis+cluster://"
    return StoreError(f"Redis answered {call} with an error ({code})")
