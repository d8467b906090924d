"""A proxy in front of a Redis server that breaks connections at a chosen call."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import hiredis

from pyramid_redis_lua_sessions.testing import CountingProxy
from pyramid_redis_lua_sessions.testing.proxy import RequestParser
from pyramid_redis_lua_sessions.testing.servers import LOOPBACK

#: What can happen to a call. Half of a request: all but its last byte, so that of a pipeline
#: all calls but the last reach Redis. Of those that have the connection stay open, ``stall``
#: and ``late`` are never answered; and what is ``late`` reaches Redis long after its sender
#: has given up, as what lay in the buffers of a server that was paused.
FAULTS = ("before", "half_request", "no_reply", "half_reply", "delay", "stall", "late")

#: What a client library sends of its own when it connects.
HANDSHAKE = {"AUTH", "CLIENT", "HELLO", "PING", "SELECT"}

#: Seconds that a delayed reply takes longer.
DELAY = 0.03

NOT_ENOUGH = object()


class FaultProxy(CountingProxy):
    """A proxy that does harm to one call, or to several in a row; a context manager.

    A call is whatever is sent together and answered together: one command, or a pipeline.
    What the client library sends of its own when it connects is none.

    :ivar calls: calls since :meth:`strike`.
    """

    def __init__(self, port: int, host: str = LOOPBACK) -> None:
        super().__init__(port, host)
        self.calls = 0
        self._fault: str | Callable[[], object] = ""
        self._first = self._last = 0
        self._silent = False
        self._late: list[tuple[socket.socket, bytes, int]] = []
        self._delivered = threading.Event()

    def strike(self, fault: str | Callable[[], object], nth: int = 1, times: int = 1) -> None:
        """Let a fault happen to the n-th call from now on, and to the ones after it.

        :param fault: one of ``FAULTS``; or a function that is called before the call is
            passed on, and may return one of these.
        :param times: to how many calls in all.
        """
        assert callable(fault) or fault in FAULTS
        with self._lock:
            self.calls = 0
            self._fault = fault
            self._first, self._last = nth, nth + times - 1

    @property
    def has_struck(self) -> bool:
        """Whether the fault has happened."""
        with self._lock:
            return self.calls >= self._first

    def fall_silent(self) -> None:
        """From now on accept connections and whatever they send, and never answer."""
        with self._lock:
            self._silent = True

    def heal(self) -> None:
        """Do no harm any more. Connections that hang stay so."""
        with self._lock:
            self._fault, self._silent = "", False

    def deliver_late(self) -> None:
        """Send to Redis what is late, and wait until it has done that."""
        with self._lock:
            late, self._late = self._late, []
            delivered, self._delivered = self._delivered, threading.Event()
        for server, request, commands in late:
            server.sendall(request)
            self._replies(server, commands)
        delivered.set()

    def close(self) -> None:
        with self._lock:
            self._delivered.set()
        super().close()

    def _relay(self, client: socket.socket, server: socket.socket, number: int) -> None:
        parser = RequestParser()
        while True:
            request, names = self._request(client, parser)
            if not request:
                return
            with self._lock:
                fault = self._next_fault(names)
                silent, delivered = self._silent, self._delivered
                if fault == "late":
                    self._late.append((server, request, len(names)))
            if silent:
                while client.recv(65536):
                    pass
                return
            if callable(fault):
                fault = cast("str", fault())
            if fault == "before":
                return
            if fault == "late":
                # The client gives up meanwhile; its request is on its way all the same.
                delivered.wait()
                return
            if fault == "half_request":
                server.sendall(request[:-1])
                server.shutdown(socket.SHUT_WR)
                while server.recv(65536):  # Redis has done what it got, and sees the end
                    pass
                return
            server.sendall(request)
            replies = self._replies(server, len(names))
            if fault == "no_reply":
                return
            if fault == "half_reply":
                client.sendall(replies[: len(replies) // 2])
                return
            if fault == "stall":
                client.recv(1)  # until the client gives up
                return
            if fault == "delay":
                delivered.wait(DELAY)
            client.sendall(replies)

    def _next_fault(self, names: list[str]) -> str | Callable[[], object]:
        if all(name in HANDSHAKE for name in names):
            return ""
        self.calls += 1
        return self._fault if self._first <= self.calls <= self._last else ""

    @staticmethod
    def _request(client: socket.socket, parser: RequestParser) -> tuple[bytes, list[str]]:
        """Read whole commands: the bytes, and the commands' names."""
        request, names = b"", []
        while True:
            data = client.recv(65536)
            if not data:
                return b"", []
            request += data
            names += [args[0].decode("latin-1").upper() for args in parser.feed(data)]
            if names and not parser._buffer:
                return request, names

    @staticmethod
    def _replies(server: socket.socket, count: int) -> bytes:
        """Read so many replies."""
        reader: Any = hiredis.Reader(notEnoughData=NOT_ENOUGH)
        replies = b""
        while count:
            data = server.recv(65536)
            if not data:
                raise ConnectionError("the server ended the connection")
            replies += data
            reader.feed(data)
            while count and reader.gets() is not NOT_ENOUGH:
                count -= 1
        return replies
