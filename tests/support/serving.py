"""Serves an application over HTTP, for what WebTest cannot show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from demo.tls import Certificate, make_tls_server


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
