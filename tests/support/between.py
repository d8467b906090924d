"""A proxy that keeps two commands of one packet apart."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from types import TracebackType

import hiredis

LOOPBACK = "127.0.0.1"


class Between:
    """Passes on what a client sends, and steps in between a load's HGETALL and its script.

    :param port: of the server.
    :ivar act: what to do in between, once; the server has answered the HGETALL by then.
    """

    def __init__(self, port: int) -> None:
        self.act: Callable[[], object] | None = None
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((LOOPBACK, port)) as server:
                    outer._relay(self.request, server)

        self._server = socketserver.ThreadingTCPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"redis://{LOOPBACK}:{self._server.server_address[1]}/0"

    def __enter__(self) -> Between:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        commands, replies = hiredis.Reader(), hiredis.Reader()
        while data := client.recv(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                server.sendall(hiredis.pack_command(tuple(command)))
                while replies.gets() is False:
                    answer = server.recv(65536)
                    replies.feed(answer)
                    client.sendall(answer)
                if command[0] == b"HGETALL" and self.act is not None:
                    act, self.act = self.act, None
                    act()
