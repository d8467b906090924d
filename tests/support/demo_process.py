"""The demo as its users run it: a process that prints its address."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30


class DemoProcess:
    """``python -m demo``, as a context manager.

    :param redis_binary: the server that it is to start.
    :param port: where it is to listen; ``"0"`` = on any free port.
    :param devices: over https, and with sessions bound to the device.
    :ivar url: its address, as it printed it.
    :ivar authority: what a browser has to trust, as it printed it; ``None`` over http.
    """

    authority: Path | None = None

    def __init__(self, redis_binary: str, port: str = "0", *, devices: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo"],
            cwd=ROOT,
            env={
                **os.environ,
                "PORT": port,
                "REDIS_SERVER": redis_binary,
                "DEVICES": "1" if devices else "",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # signals of the test run's terminal are not for it
        )
        try:
            self.url = self._address()
            if devices:
                self.authority = self._authority()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DemoProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _address(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(START_SECONDS), "the demo printed nothing"
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/|https://localhost:\d+/", line)
        assert found, line
        return found.group()

    def _authority(self) -> Path:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().endswith(".pem"):
                return Path(line.strip())
        raise AssertionError("the demo printed no certificate")

    def close(self) -> None:
        """Kill it; its Redis goes with it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
