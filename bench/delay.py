"""A network that takes its time: a TCP proxy in a process of its own, alike for all contenders.

    python -m bench.delay PORT MILLISECONDS

listens on a free port of the loopback interface, prints it, and passes everything on to ``PORT``;
what a client sends, it passes on so much later. So every round trip takes that much longer, however
many commands it carries.
"""

from __future__ import annotations

import collections
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["delayed"]

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 1 << 20


@contextmanager
def delayed(port: int, milliseconds: float) -> Iterator[str]:
    """Run the proxy; return the URL of the server behind it."""
    command = [sys.executable, "-m", __name__, str(port), str(milliseconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"redis://{LOOPBACK}:{int(process.stdout.readline())}/0"
        finally:
            process.terminate()


def main(upstream: int, delay: float) -> None:
    """Serve until standard input ends or the process does.

    :param upstream: port; ``delay``: seconds.
    """
    listener = socket.create_server((LOOPBACK, 0))
    print(listener.getsockname()[1], flush=True)
    #: Each socket to the one on the other side.
    other: dict[socket.socket, socket.socket] = {}
    clients: set[socket.socket] = set()
    waiting: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        # select() counts in microseconds; epoll in milliseconds.
        for ready in select.select([sys.stdin, listener, *other], [], [], wait)[0]:
            if ready is sys.stdin:
                return
            if ready is listener:
                client, server = (
                    listener.accept()[0],
                    socket.create_connection((LOOPBACK, upstream)),
                )
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                other.update({client: server, server: client})
                clients.add(client)
                continue
            if ready not in other:
                continue  # closed a moment ago
            data = _received(ready)
            if not data:
                for end in (ready, other.pop(ready)):
                    other.pop(end, None)
                    end.close()
            elif ready in clients:
                waiting.append((time.monotonic() + delay, other[ready], data))
            else:
                other[ready].sendall(data)
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, data = waiting.popleft()
            if end in other:
                end.sendall(data)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(CHUNK_BYTES)
    except OSError:
        return b""


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) / 1000)
