"""How long a call over a client that the application made can hang."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import redis
from redis.cluster import RedisCluster

from .cluster import LazyCluster
from .lines import is_multi_db
from .pools import Pool

__all__ = ["waits_long"]

#: Seconds that a page can hang, from which on that is worth a warning.
LONG = 10.0


class Terms(NamedTuple):
    """How a client waits.

    :ivar reply: seconds for one reply; ``None``: for ever.
    :ivar retries: how often a call is repeated; less than 0: for ever.
    """

    reply: float | None
    retries: int

    def longest(self) -> float:
        """How long a call can take, seconds, without the pauses between its tries."""
        if self.reply is None or self.retries < 0:
            return float("inf")
        return (self.retries + 1) * self.reply


def waits_long(client: Any) -> str:
    """Say how long a call over an application's client can hang, where that is long.

    :param client: as the application made it; of ours, and of those that do not tell, nothing
        is said.
    """
    terms = _terms(client)
    if terms is None or terms.longest() <= LONG:
        return ""
    seconds = terms.longest()
    how_long = "for ever" if seconds == float("inf") else f"for {seconds:g} s and more"
    return (
        f"where Redis hangs, a page hangs {how_long}: the application's own redis client has "
        f"socket_timeout={terms.reply} and repeats a call {terms.retries} times; give it a shorter "
        "timeout, and retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 1)"
    )


def _terms(client: Any) -> Terms | None:
    if isinstance(client, LazyCluster):
        return None
    if isinstance(client, RedisCluster):
        node = cast("Any", client).get_default_node()
        terms = _terms(client.get_redis_connection(node))
        return None if terms is None else Terms(terms.reply, client.retry.get_retries())
    if is_multi_db(client):
        all_terms = [_terms(database.client) for database, _ in client.get_databases()]
        worst = max(filter(None, all_terms), key=Terms.longest, default=None)
        if worst is None or worst.retries < 0:
            return worst
        again = client.command_executor.command_retry.get_retries()
        return Terms(worst.reply, (again + 1) * (worst.retries + 1) - 1 if again >= 0 else again)
    pool = getattr(client, "connection_pool", None) if isinstance(client, redis.Redis) else None
    if pool is None or isinstance(pool, Pool):
        return None
    connection = pool.connection_class(**pool.connection_kwargs)  # does not connect
    return Terms(connection.socket_timeout, connection.retry.get_retries())
