"""A client of the primary that sentinels name."""

from __future__ import annotations

import _thread
import copy
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from .addresses import Address
from .pools import NO_SETINFO, PACKER, Pool

__all__ = ["SENTINEL_TIMEOUT", "PrimaryPool", "make_primary_client"]

log = logging.getLogger(__package__)

#: Seconds to wait for a sentinel; it answers from memory, and there are others.
SENTINEL_TIMEOUT = 0.5

#: Seconds that asking all of them takes at most, by a wide margin.
LONGEST_ASKING = 30.0

#: Seconds after which the sentinels are asked again who the primary is, while it is used.
ASK_AGAIN = 1.0


def make_primary_client(address: Address, options: dict[str, Any]) -> redis.Redis:
    """Make a client of the primary that the sentinels name at each connect."""
    own = dict(address.sentinel)
    fewest = own.pop("min_other_sentinels", 0)
    asking: dict[str, Any] = {
        **NO_SETINFO,
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        # The next sentinel is the retry.
        "retry": Retry(NoBackoff(), 0),
    }
    if own.pop("sentinel_ssl", address.secure):
        asking["ssl"] = True
        asking.update((key, val) for key, val in options.items() if key.startswith("ssl_"))
    asking.update((key.removeprefix("sentinel_"), val) for key, val in own.items())
    sentinel = cast("Any", Sentinels)(
        address.hosts, min_other_sentinels=fewest, sentinel_kwargs=asking
    )
    kind = PrimarySSLConnection if address.secure else PrimaryConnection
    client = sentinel.master_for(
        address.service,
        connection_pool_class=PrimaryPool,
        connection_class=kind,
        command_packer=PACKER,
        **options,
    )
    kind(**client.connection_pool.connection_kwargs)  # are the options good?
    return cast("redis.Redis", client)


class Sentinels(Sentinel):
    """Sentinels that are asked who the primary is; the first good answer counts.

    The sentinel that leads a failover names the old primary until the last of the replicas
    follows the new one, while the others know better: it is asked last.
    """

    sentinels: list[Any]
    named_by_leader: tuple[str, int] | None = None

    def discover_master(self, service_name: str) -> tuple[str, int]:
        # redis-py swaps the sentinels in a list of all threads: two of them may lose one.
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        own.named_by_leader = None
        try:
            found = cast("Any", super(Sentinels, own)).discover_master(service_name)
        except MasterNotFoundError:
            if own.named_by_leader is None:
                raise
            found = own.named_by_leader
        self.sentinels = own.sentinels
        return cast("tuple[str, int]", found)

    def check_master_state(self, state: Mapping[str, Any], service_name: str) -> bool:
        if not cast("Any", super()).check_master_state(state, service_name):
            return False
        if "failover_in_progress" in state["flags"]:
            self.named_by_leader = (state["ip"], state["port"])
            return False
        return True

    def over_own_connections(self) -> Sentinels:
        """The same sentinels, in the same order, and nothing shared with these."""
        hosts = [one.connection_pool.connection_kwargs for one in self.sentinels]
        anew = cast("Any", Sentinels)(
            [(host["host"], host["port"]) for host in hosts],
            min_other_sentinels=self.min_other_sentinels,
            sentinel_kwargs=self.sentinel_kwargs,
        )
        return cast("Sentinels", anew)


class PrimaryPool(SentinelConnectionPool, Pool):
    """Connections to the primary; who finds all in use waits.

    In a planned failover nothing ends the connections to the old primary, and it takes writes
    until the sentinels make a replica of it, about ten seconds later: all that is then lost. So
    while connections are handed out the sentinels are asked in the background once a second.
    Nobody waits for that, and an idle process asks nobody.
    """

    _asked = -math.inf
    #: Which process asks at present, and until when at most.
    _asking = (0, -math.inf)

    def get_connection(self, *args: Any, **options: Any) -> Any:
        self._ask_now_and_then()
        return cast("Any", super()).get_connection(*args, **options)

    def _take_fresh(self) -> Any:
        self._ask_now_and_then()
        return super()._take_fresh()

    def _give_back(self, connection: Any) -> None:
        if cast("Any", self).owns_connection(connection):  # it leads to the primary
            super()._give_back(connection)
        else:
            self._close(connection)

    def _ask_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._asked > ASK_AGAIN:
            self._asked = now
            self._ask()

    def _ask(self) -> None:
        if self.master_address is None:
            return  # the connection that is about to be made asks
        # One thread at a time; to a process that was forked off, that of the other one is none.
        process, until = self._asking
        if (process == os.getpid() and self._asked < until) or sys.is_finalizing():
            return
        self._asking = (os.getpid(), self._asked + LONGEST_ASKING)
        try:
            # Thread.start() would wait until the new thread has run.
            _thread.start_new_thread(self._follow, ())
        except RuntimeError as exc:  # there are too many
            log.debug("no thread to ask the sentinels: %s", exc)

    def _follow(self) -> None:
        """Leave the old primary where the sentinels name another one."""
        # A process may be forked off meanwhile: it must not meet locks that this thread holds.
        sentinels = self.sentinel_manager.over_own_connections()
        try:
            address = sentinels.discover_master(self.service_name)
            if address != self.master_address:
                self.proxy.master_address = address
                # Connections in use are ended when they come back.
                self.disconnect(inuse_connections=False)
        except Exception as exc:
            log.debug("the sentinels name no primary (%s)", type(exc).__name__)
        finally:
            for sentinel in sentinels.sentinels:
                sentinel.close()
            self._asking = (0, -math.inf)


class _AskAgain:
    """A connection that asks the sentinels again when a command is repeated.

    redis-py does so in ``connect``; within a call that it repeats, it goes
    back to the old address.
    """

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if retry_socket_connect:
            cast("Any", self).connect()
        else:  # this is connect(), with the address that the sentinels gave
            cast("Any", super()).connect_check_health(check_health, retry_socket_connect)


class PrimaryConnection(_AskAgain, SentinelManagedConnection):
    """A connection to the primary."""


class PrimarySSLConnection(_AskAgain, SentinelManagedSSLConnection):
    """A connection to the primary over TLS."""
