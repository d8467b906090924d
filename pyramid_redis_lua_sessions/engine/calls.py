"""How scripts are called, and what is mended within a call."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ..connect.lines import Argument, Command, Prepared, line_to
from ..connect.tally import note_redirection
from ..errors import StoreError
from .failures import FAILURES, failure, is_demoted, is_wrong_type, showable
from .observer import Observer
from .scripts import SCRIPTS, Script, Status

__all__ = ["LANES", "Call", "Caller", "take_lane"]

log = logging.getLogger(__package__)

#: A script, its key, its arguments.
Call = tuple[Script, bytes, Sequence[bytes]]

#: How a script says that something else is stored under the id.
_FOREIGN_REPLY = (Status.GONE, 2)


_PREPARED = {
    script.name: Prepared((b"EVALSHA", script.sha1.encode("ascii"), b"1"))
    for script in SCRIPTS.values()
}


#: The last call in each lane in which none is under way, see ``lua/parts/remembered.lua``.
LANES: list[bytes] = []

# Each process has lanes of its own.
os.register_at_fork(after_in_child=LANES.clear)


def take_lane() -> bytes:
    """Name a call, in a lane that is free or new. Who knows that it is over gives it back.

    :returns: 3 bytes of the lane, 1 that counts, so that it is none of those remembered before
        it, and 2 at random, as a process may go on twice from one image of its memory.
    """
    try:
        last = LANES.pop()
    except IndexError:
        return os.urandom(6)
    return last[:3] + bytes(((last[3] + 1) % 256,)) + os.urandom(2)


class Caller:
    """Calls scripts; each call is one round trip.

    A script that Redis does not know heals within the call, and so does a
    server that has become a replica.

    :param client: a redis-py client, ``Redis`` or ``RedisCluster``; one made
        with ``decode_responses`` will do.
    """

    #: Is told of each step, where somebody watches.
    observer: Observer | None = None

    def __init__(self, client: Any) -> None:
        self.client = client
        self.line = line_to(client)

    def call(self, script: Script, key: bytes, args: Sequence[bytes]) -> Any:
        if self.observer is not None:
            return self.observer.note((script.name,), lambda: [self._run(script, key, args)])[0]
        return self._run(script, key, args)

    def _run(self, script: Script, key: bytes, args: Sequence[bytes]) -> Any:
        try:
            return self.line.prepared(_PREPARED[script.name], (key, *args))
        except FAILURES as exc:
            return self._mend(exc, script, key, args)

    def _mend(self, exc: Exception, script: Script, key: bytes, args: Sequence[bytes]) -> Any:
        """Repeat a call where that helps; else raise what its failure means."""
        if isinstance(exc, NoScriptError) or self._left_demoted(exc):
            return self._run_by_source(script, key, args)
        if is_wrong_type(exc):
            return _FOREIGN_REPLY
        raise failure(script.name, exc, self.client) from showable(exc)

    def _run_by_source(
        self, script: Script, key: bytes, args: Sequence[bytes], again: bool = True
    ) -> Any:
        """Run a script that Redis lacks, so that it stays there.

        Since 7.4 Redis evicts a script that came by EVAL, even if SCRIPT LOAD follows: so that
        comes first. The call itself is an EVAL, as the script may be flushed in between, or the
        key be on another node by now.
        """
        load: Command = ("SCRIPT", "LOAD", script.source)
        call: Command = ("EVAL", script.source, b"1", key, *args)
        try:
            if isinstance(self.client, RedisCluster):
                cluster = cast("Any", self.client)
                with suppress(ResponseError):  # that one user may not is no matter
                    node = cluster.get_node_from_key(key)
                    cluster.execute_command("SCRIPT LOAD", script.source, target_nodes=node)
                return self.line.one(call)
            _, reply = self.line.many([load, call])
            if isinstance(reply, Exception):
                raise reply
            return reply
        except FAILURES as exc:
            if again and self._left_demoted(exc):
                return self._run_by_source(script, key, args, again=False)
            if is_wrong_type(exc):
                return _FOREIGN_REPLY
            raise failure(script.name, exc, self.client) from showable(exc)

    def _left_demoted(self, exc: Exception) -> bool:
        """Leave a server that has become a replica; the next connection finds the primary.

        :returns: whether that was so, and the call is worth repeating.
        """
        pool = getattr(self.client, "connection_pool", None) if is_demoted(exc) else None
        if pool is None:
            return False
        note_redirection()
        pool.disconnect(inuse_connections=False)
        return True

    def _try(self, method: Callable[..., Any], *args: Any) -> None:
        """Clean up as far as Redis lets us; the failure before it is what is raised."""
        try:
            method(*args)
        except StoreError as exc:
            log.warning("a failed call could not be taken back: %s", exc)

    def command(self, *command: Argument) -> Any:
        """Send a command; ``None`` where something of another type is stored at its key."""
        if self.observer is not None:
            name = str(command[0]).lower()
            return self.observer.note((name,), lambda: [self._send(command)], scripts=False)[0]
        return self._send(command)

    def _send(self, command: Command) -> Any:
        try:
            return self.line.one(command)
        except FAILURES as exc:
            if is_wrong_type(exc):
                return None
            raise failure(str(command[0]).lower(), exc, self.client) from showable(exc)

    def together(self, calls: list[Call]) -> list[Any]:
        """Make calls in one pipeline; on Redis Cluster one after the other, in order.

        :returns: their replies; for a call that failed the ``StoreError``.
        """
        if not isinstance(self.client, RedisCluster):
            return self._pipeline(calls) if calls else []
        return self.one_by_one(calls)

    def apart(self, calls: list[Call]) -> list[Any]:
        """Make calls of which none stands on another, as :meth:`together`; on Redis Cluster in
        one pipeline for each node.

        redis-py's pipeline over a cluster would hold connections to several nodes at once, and
        repeat each call by itself where one node hangs. Here a call to which a node has no
        answer, as its slot is moving, is repeated by itself up to the first that fails.
        """
        if len(calls) < 2 or not isinstance(self.client, RedisCluster):
            return self.together(calls)
        cluster = cast("Any", self.client)
        nodes: dict[str, tuple[Any, list[int]]] = {}
        try:
            for number, (_, key, _args) in enumerate(calls):
                node = cluster.get_node_from_key(key)
                nodes.setdefault(node.name, (node, []))[1].append(number)
        except FAILURES:
            return self.one_by_one(calls)
        replies: list[Any] = [None] * len(calls)
        for node, numbers in nodes.values():
            there = self._over(cluster.get_redis_connection(node))
            try:
                found = there.together([calls[number] for number in numbers])
            except StoreError as exc:
                found = [exc] * len(numbers)
            for number, reply in zip(numbers, found, strict=True):
                replies[number] = reply
        again = [n for n, reply in enumerate(replies) if isinstance(reply, StoreError)]
        for number, reply in zip(again, self.one_by_one([calls[n] for n in again]), strict=True):
            replies[number] = reply
        return replies

    def _over(self, client: Any) -> Caller:
        """Return the same over another client, watched by the same."""
        other = copy.copy(self)
        other.client, other.line = client, line_to(client)
        if self.observer is not None:
            other.line = other.observer = self.observer.over(other.line)
        return other

    def one_by_one(self, calls: list[Call]) -> list[Any]:
        """Make calls one after the other, as :meth:`together`."""
        replies: list[Any] = []
        for call in calls:
            try:
                replies.append(self.call(*call))
            except StoreError as exc:
                # What comes later stands on it.
                return replies + [exc] * (len(calls) - len(replies))
        return replies

    def _pipeline(self, calls: list[Call]) -> list[Any]:
        """Send calls together; return their replies, or what they failed with."""
        if self.observer is not None:
            names = tuple(script.name for script, _, _ in calls)
            return self.observer.note(names, lambda: self._run_all(calls))
        return self._run_all(calls)

    def _run_all(self, calls: list[Call]) -> list[Any]:
        try:
            replies = self.line.many(
                [("EVALSHA", script.sha1, b"1", key, *args) for script, key, args in calls]
            )
        except FAILURES as exc:
            raise failure(calls[0][0].name, exc, self.client) from showable(exc)
        if any(is_demoted(reply) and self._left_demoted(reply) for reply in replies):
            # The new primary may lack what the old one did for the other calls.
            return self.one_by_one(calls)
        for number, (script, key, args) in enumerate(calls):
            reply = replies[number]
            if isinstance(reply, NoScriptError):
                try:
                    replies[number] = self._run_by_source(script, key, args)
                except StoreError as exc:
                    replies[number] = exc
            elif isinstance(reply, RedisError):
                wrong = is_wrong_type(reply)
                replies[number] = _FOREIGN_REPLY if wrong else failure(script.name, reply)
        return replies
