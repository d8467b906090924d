"""What is measured, in which sizes, and in which order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from pyramid_redis_lua_sessions.testing import RedisServer

from .capacity import find_benchmark, measure_capacity, measure_propagation
from .contenders import libraries
from .contents import of_keys, of_size, size_of, typical
from .delay import delayed
from .driving import make_lanes
from .filling import copy_session
from .measuring import measure_timings, measure_traffic
from .memory import measure_listpack_values, measure_memory
from .placement import placed
from .report import ratios, spreads
from .scenarios import FIRST_WRITE, READ, SCENARIOS, WRITE
from .seal_cost import measure_seals

__all__ = ["EFFORTS", "PARTS", "Effort", "measure"]

#: Milliseconds that each round trip takes longer.
DELAY = 1.0
DELAYED = (READ, FIRST_WRITE, WRITE)
GROWING = (READ, WRITE)
LARGE = 100_000


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    :ivar rounds: of the requests of a typical session; ``batch``: requests in one, per scenario
        and contender.
    :ivar few_rounds: of everything else, with ``few`` requests in one.
    :ivar sizes: of sessions, bytes.
    :ivar keys: in a session.
    :ivar live: sessions in Redis.
    :ivar stored: sessions of which the memory is measured.
    :ivar limits: values of ``hash-max-listpack-value``.
    :ivar calls: to keep Redis busy with.
    :ivar visited: sessions that take turns where many are live.
    :ivar revisit: seconds, roughly, until a session is visited again. A read of
        ``pyramid_session_redis`` costs less within the second of the last write.
    :ivar pause: seconds that are waited for the same reason.
    """

    rounds: int
    batch: int
    few_rounds: int
    few: int
    sizes: tuple[int, ...]
    keys: tuple[int, ...]
    live: tuple[int, ...]
    stored: int
    limits: tuple[int, ...]
    calls: int
    visited: int
    revisit: float = 1.6
    pause: float = 1.1


EFFORTS = {
    "tiny": Effort(3, 2, 2, 2, (3000,), (40,), (100,), 256, (64, 512), 100, 20, 0.0, 0.0),
    "quick": Effort(
        rounds=100,
        batch=10,
        few_rounds=20,
        few=5,
        sizes=(200, 2000, 20_000, 200_000),
        keys=(6, 60, 600),
        live=(1000, 10_000, 100_000),
        stored=1024,
        limits=(64, 512),
        calls=20_000,
        visited=1000,
    ),
    "full": Effort(
        rounds=400,
        batch=10,
        few_rounds=80,
        few=5,
        sizes=(200, 2000, 5000, 20_000, 100_000, 200_000),
        keys=(6, 20, 60, 200, 600),
        live=(1000, 10_000, 100_000, 1_000_000),
        stored=4096,
        limits=(64, 128, 256, 512, 1024),
        calls=50_000,
        visited=2000,
    ),
}

PLACED = {"apart": "one each", "same": "one for both", "free": "as the scheduler likes"}

Progress = Callable[[str], None]


class Bench:
    """One run."""

    def __init__(self, server: RedisServer, effort: Effort) -> None:
        self.server = server
        self.effort = effort

    # Each part returns what it found, as JSON takes it.

    def requests(self) -> dict[str, Any]:
        """All kinds of request of a typical session."""
        effort, contents = self.effort, typical()
        found = self._timed(contents, SCENARIOS, effort.rounds, effort.batch)
        return {**found, "traffic": self._traffic(contents, SCENARIOS)}

    def delay(self) -> dict[str, Any]:
        """The same over a slower network."""
        effort = self.effort
        with delayed(self.server.port, DELAY) as url:
            found = self._timed(typical(), DELAYED, effort.few_rounds, effort.few, url=url)
        return {"delay_ms": DELAY, **found}

    def sizes(self) -> list[dict[str, Any]]:
        """Reads and writes against the size of the session."""
        return [self._grown(of_size(size)) for size in self.effort.sizes]

    def large(self) -> list[dict[str, Any]]:
        """What travels for a session of 100 KB."""
        return self._traffic(of_size(LARGE), GROWING)

    def keys(self) -> list[dict[str, Any]]:
        """Reads and writes against the number of keys in the session."""
        return [self._grown(of_keys(keys)) for keys in self.effort.keys]

    def live(self) -> list[dict[str, Any]]:
        """Reads and writes against the number of live sessions."""
        effort, found = self.effort, []
        for live in effort.live:
            with self.server.client() as client:
                for number, model in enumerate(self._models(client)):
                    copy_session(client, model, f"copy:{number}:", live)
                one = self._timed(
                    typical(),
                    GROWING,
                    effort.few_rounds,
                    effort.few,
                    least_browsers=min(effort.visited, live),
                )
                found.append({"sessions": live, **one})
                client.flushall()
        return found

    def _models(self, client: redis.Redis) -> list[bytes]:
        """Store a session of each library; return their keys."""
        models: list[bytes] = []
        for contender in libraries():
            (lane,) = make_lanes(contender, self.server.url, typical(), (FIRST_WRITE,), browsers=0)
            lane.run(1)
            models += set(cast("list[bytes]", client.keys())) - set(models)
        return models

    def memory(self) -> dict[str, Any]:
        """Memory per session."""
        stored = self.effort.stored
        return {"sessions": stored, "shapes": measure_memory(self.server, stored)}

    def listpack(self) -> list[dict[str, Any]]:
        """Memory per session against ``hash-max-listpack-value``."""
        effort = self.effort
        sizes = (2000, 10_000)
        return measure_listpack_values(
            self.server, effort.limits, sizes, max(effort.stored // 8, 8)
        )

    def seal(self) -> list[dict[str, Any]]:
        """What a seal costs."""
        return measure_seals(self.effort.few_rounds)

    def capacity(self) -> dict[str, Any]:
        """Requests per second of one core of Redis."""
        benchmark = find_benchmark(self.server)
        if benchmark is None:
            return {"missing": "redis-benchmark was not found", "requests": []}
        effort = self.effort
        found = measure_capacity(
            self.server,
            typical(),
            sessions=max(effort.live[:3]),
            requests=effort.calls,
            benchmark=benchmark,
            pause=effort.pause,
        )
        return {"sessions": max(effort.live[:3]), "requests": found}

    def propagation(self) -> list[dict[str, Any]]:
        """What goes to replicas and to the append-only file."""
        effort = self.effort
        requests = effort.few * 40
        return measure_propagation(self.server.binary, typical(), requests, effort.pause)

    # -- what they share -----------------------------------------------------------

    def _timed(
        self,
        contents: dict[str, Any],
        scenarios: Any,
        rounds: int,
        batch: int,
        url: str | None = None,
        least_browsers: int = 0,
    ) -> dict[str, Any]:
        timings = measure_timings(
            self.server,
            contents,
            scenarios,
            rounds=rounds,
            batch=batch,
            url=url,
            least_browsers=least_browsers,
            revisit_seconds=self.effort.revisit,
        )
        return {
            "session_bytes": size_of(contents),
            "session_keys": len(contents),
            "rounds": rounds,
            "requests_in_a_round": batch,
            "same_session_again_after_s": timings.revisit_seconds,
            "absolute": spreads(timings),
            "ratios": [asdict(ratio) for ratio in ratios(timings)],
        }

    def _grown(self, contents: dict[str, Any]) -> dict[str, Any]:
        effort = self.effort
        with self.server.client() as client:
            client.flushall()
        found = self._timed(contents, GROWING, effort.few_rounds, effort.few)
        return {**found, "traffic": self._traffic(contents, GROWING)}

    def _traffic(self, contents: dict[str, Any], scenarios: Any) -> list[dict[str, Any]]:
        traffic = measure_traffic(self.server, contents, scenarios)
        return [
            {"scenario": scenario, "contender": contender, **asdict(one)}
            for (scenario, contender), one in traffic.items()
        ]


#: In the order in which they are measured.
PARTS: dict[str, Callable[[Bench], Any]] = {
    "requests": Bench.requests,
    "delay": Bench.delay,
    "sizes": Bench.sizes,
    "large": Bench.large,
    "keys": Bench.keys,
    "live": Bench.live,
    "memory": Bench.memory,
    "listpack": Bench.listpack,
    "seal": Bench.seal,
    "capacity": Bench.capacity,
    "propagation": Bench.propagation,
}


def measure(
    binary: str | None, parts: list[str], effort: Effort, cpus: str, progress: Progress
) -> Iterator[tuple[str, Any]]:
    """Measure some parts, one after the other, on a server of their own.

    :param cpus: see :mod:`.placement`.
    :returns: the name of each part, and what it found; first ``run``: on what.
    """
    with RedisServer(binary) as server, placed(server, cpus) as placement:
        with server.client() as client:
            info: Any = client.info("server")
        valkey = f" (Valkey {info['valkey_version']})" if "valkey_version" in info else ""
        yield (
            "run",
            {
                "Redis": info["redis_version"] + valkey,
                "CPUs of application and Redis": PLACED[placement],
            },
        )
        bench = Bench(server, effort)
        for part in parts:
            progress(part)
            with server.client() as client:
                client.flushall()
            before = os.getloadavg()[0]
            found = PARTS[part](bench)
            yield part, {"load_average": [before, os.getloadavg()[0]], "found": found}
