"""Serves an application over HTTP, for what WebTest cannot show."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from demo.tls import Certificate, make_tls_server
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


@contextmanager
def served(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application with waitress on the loopback interface; gives the port.

    :param options: of waitress.
    """
    server = create_server(app, host="127.0.0.1", port=0, **options)
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        yield server.effective_port
    finally:
        # Connections that a browser keeps, too: closing the server alone waits for them. By the
        # thread that serves them, which would meet closed files otherwise.
        with suppress(OSError):  # it was awake, and has closed the trigger, too
            server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map, ignore_all=True))
        serving.join()
        server.task_dispatcher.shutdown()


@contextmanager
def served_over_tls(app: Any, certificate: Certificate, port: int = 0) -> Iterator[int]:
    """Serve an application over https on the loopback interface; gives the port."""
    server = make_tls_server(app, certificate, "127.0.0.1", port)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextmanager
def running(
    command: Callable[[int], list[str]], log: Path, cwd: Path = ROOT, **environ: str
) -> Iterator[int]:
    """Start a server, and give the port on which it listens; end it, and with it its workers.

    :param command: makes the command line for a port.
    :param log: what it prints goes there.
    """
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(port),
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdout=out,
            stderr=out,
            start_new_session=True,  # a group of its own
        )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None, 30)
            assert process.poll() is None, log.read_text()
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
