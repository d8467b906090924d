"""A proxy that counts what travels to Redis."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .servers import LOOPBACK

__all__ = ["Command", "CountingProxy", "RequestParser"]

CHUNK_BYTES = 65536


@dataclass(frozen=True)
class Command:
    """One command as the client sent it."""

    args: tuple[bytes, ...]
    """The whole command: its name, then its arguments."""

    connection: int
    """Number of the connection, counted from 1 since the proxy started."""

    @property
    def name(self) -> str:
        """The name in upper case; of a command with subcommands only the first word."""
        return self.args[0].decode("latin-1").upper() if self.args else ""

    @property
    def sha(self) -> str | None:
        """SHA1 in hex of the script that an EVALSHA or EVALSHA_RO calls, else ``None``."""
        if self.name in {"EVALSHA", "EVALSHA_RO"} and len(self.args) > 1:
            return self.args[1].decode("latin-1").lower()
        return None


class RequestParser:
    """Cuts one connection's client bytes into commands (RESP arrays, or inline commands)."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[bytes, ...]]:
        """The commands that ``data`` completed. Raises ``ValueError`` on a broken protocol."""
        self._buffer += data
        commands = []
        start = 0
        while (parsed := self._command_at(start)) is not None:
            args, start = parsed
            if args:  # Redis ignores an empty line
                commands.append(args)
        self._buffer = self._buffer[start:]
        return commands

    def _line_at(self, start: int) -> tuple[bytes, int] | None:
        end = self._buffer.find(b"\r\n", start)
        return None if end < 0 else (self._buffer[start:end], end + 2)

    def _command_at(self, start: int) -> tuple[tuple[bytes, ...], int] | None:
        if (line := self._line_at(start)) is None:
            return None
        head, position = line
        if not head.startswith(b"*"):
            return tuple(head.split()), position
        args = []
        for _ in range(int(head[1:])):
            if (line := self._line_at(position)) is None:
                return None
            size, position = int(line[0].removeprefix(b"$")), line[1]
            if len(self._buffer) < position + size + 2:
                return None
            args.append(self._buffer[position : position + size])
            position += size + 2
        return tuple(args), position


class CountingProxy:
    """A TCP proxy in front of a Redis server that counts what passes, as a context manager.

    :param port: the server's TCP port.
    :param host: the server's address.
    :param settle: seconds. A reply is passed on only when the client has been silent for so
        long. A client may send one pipeline in several pieces, and the server may answer the
        first before the second is sent; as the client sees no reply before it has sent
        everything, the count stays exact. It is also the time each round trip is slowed down.

    Every connection is relayed on its own, and all are counted together. Numbers are up to
    date when the client has its reply. What the client library sends when it connects
    (``HELLO``, ``AUTH``, ``SELECT``, ``CLIENT SETINFO``) is counted like everything else: make
    the client connect first, then call :meth:`reset`.
    """

    def __init__(self, port: int, host: str = LOOPBACK, *, settle: float = 0.005) -> None:
        self._upstream = (host, port)
        self._settle = settle
        self._lock = threading.Lock()
        self._round_trips = 0
        self._bytes_sent = 0
        self._bytes_received = 0
        self._commands: list[Command] = []
        self._replies_to_lose = 0
        self._accepted = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._wake: socket.socket | None = None

    def __enter__(self) -> CountingProxy:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Port that the proxy listens on. Raises ``RuntimeError`` if it is not started."""
        if self._listener is None:
            raise RuntimeError("the proxy is not started")
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """``redis://`` URL of database 0 through the proxy."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def round_trips(self) -> int:
        """How many times a client sent something, then got something back.

        A pipeline is one, whatever its size. What was sent and never answered is none.
        """
        with self._lock:
            return self._round_trips

    @property
    def bytes_sent(self) -> int:
        """Bytes from clients to the server."""
        with self._lock:
            return self._bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes from the server to clients."""
        with self._lock:
            return self._bytes_received

    @property
    def commands(self) -> list[Command]:
        """The commands so far, in the order of their arrival; a copy."""
        with self._lock:
            return list(self._commands)

    @property
    def command_names(self) -> list[str]:
        """:attr:`Command.name` of :attr:`commands`."""
        return [command.name for command in self.commands]

    def reset(self) -> None:
        """Set all counts to zero and forget the commands; open connections stay open."""
        with self._lock:
            self._round_trips = self._bytes_sent = self._bytes_received = 0
            self._commands = []

    def lose_replies(self, count: int = 1) -> None:
        """Lose the next ``count`` replies: the server has done what was asked, but the
        connection breaks before the client hears of it."""
        with self._lock:
            self._replies_to_lose = count

    def start(self) -> CountingProxy:
        """Listen on a free port of the loopback interface."""
        if self._listener is not None:
            return self
        self._listener = socket.create_server((LOOPBACK, 0))
        self._wake, woken = socket.socketpair()
        self._run(self._accept, self._listener, woken)
        return self

    def close(self) -> None:
        """Stop listening, break all connections, and wait for the threads."""
        if self._listener is None or self._wake is None:
            return
        self._wake.close()
        self._threads[0].join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was faster
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._listener = self._wake = None

    def _run(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="counting-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if woken in ready:
                    return
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self._upstream)
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._accepted += 1
                    number = self._accepted
                    self._open |= {client, server}
                self._run(self._serve, client, server, number)

    def _serve(self, client: socket.socket, server: socket.socket, number: int) -> None:
        try:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._relay(client, server, number)
        except OSError:
            pass  # one side broke the connection: so does the proxy
        finally:
            with self._lock:
                self._open -= {client, server}
                client.close()
                server.close()

    def _relay(self, client: socket.socket, server: socket.socket, number: int) -> None:
        parser = RequestParser()
        held = b""  # what the server has answered and the client has not seen
        asked = False  # whether the client has sent anything since it last saw an answer
        quiet_at = 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                wait = max(0.0, quiet_at - time.monotonic()) if held else None
                ready = {key.fileobj for key, _ in selector.select(wait)}
                if client in ready:
                    data = client.recv(CHUNK_BYTES)
                    if not data:
                        return
                    commands = [Command(args, number) for args in parser.feed(data)]
                    with self._lock:
                        self._bytes_sent += len(data)
                        self._commands += commands
                    server.sendall(data)
                    asked = True
                    quiet_at = time.monotonic() + self._settle
                    continue
                server_ended = False
                if server in ready:
                    data = server.recv(CHUNK_BYTES)
                    held += data
                    server_ended = not data
                if held and (server_ended or time.monotonic() >= quiet_at):
                    with self._lock:
                        self._round_trips += asked
                        self._bytes_received += len(held)
                        lost = asked and self._replies_to_lose > 0
                        self._replies_to_lose -= lost
                    if lost:
                        return
                    client.sendall(held)
                    held, asked = b"", False
                if server_ended:
                    return
