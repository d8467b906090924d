"""Takes time and Redis CPU in interleaved rounds, and, apart from that, counts traffic."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer

from .contenders import all_contenders
from .driving import Lane, make_lanes
from .scenarios import Scenario

__all__ = ["Series", "Spread", "Timings", "Traffic", "measure_timings", "measure_traffic"]

#: A read of ``pyramid_session_redis`` differs from one in the second of the last write.
A_LITTLE_MORE_THAN_A_SECOND = 1.1
WARM_UP_ROUNDS = 3
WARM_UP_REQUESTS = 2

CPU_FIELDS = ("used_cpu_sys", "used_cpu_user")

#: (scenario, contender), by name.
Where = tuple[str, str]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, method="inclusive")
        return cls(median, low, high)


@dataclass
class Series:
    """What one lane took, a figure per round, each a mean per request.

    :ivar wall: seconds, waiting included.
    :ivar app_cpu: CPU seconds of the application, which the load of the machine hardly
        disturbs; the driver's own are included, and go when the floor is subtracted.
    :ivar redis_cpu: CPU seconds of the Redis process; the reading itself is included, and goes
        likewise.
    """

    wall: list[float] = field(default_factory=list)
    app_cpu: list[float] = field(default_factory=list)
    redis_cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Timings:
    """What the rounds gave.

    :ivar series: by scenario and contender. Figures of one index are of one round.
    :ivar revisit_seconds: after how long a session was visited again.
    """

    series: dict[Where, Series]
    revisit_seconds: float


@dataclass(frozen=True)
class Traffic:
    """What one request exchanged with Redis."""

    round_trips: int
    commands: list[str]
    bytes_sent: int
    bytes_received: int


def measure_timings(
    server: RedisServer,
    contents: dict[str, Any],
    scenarios: tuple[Scenario, ...],
    *,
    rounds: int,
    batch: int,
    browsers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Timings:
    """Run every contender through every scenario, in rounds.

    In each round each contender sends one small batch per scenario, one contender right after
    the other and in alternating order: whatever disturbs the machine meanwhile hits all alike.

    :param batch: requests per contender, scenario and round.
    :param browsers: sessions among which a contender's requests take turns.
    """
    lanes = [
        lane
        for contender in all_contenders()
        for lane in make_lanes(contender, server.url, contents, scenarios, browsers)
    ]
    series = {(lane.scenario.name, lane.contender.name): Series() for lane in lanes}
    with server.client() as client:
        for _ in range(WARM_UP_ROUNDS):
            for lane in lanes:
                lane.run(batch)
        # The applications themselves are no garbage: the collector need not look at them, as
        # in a server that freezes them before it forks.
        gc.collect()
        gc.freeze()
        start = time.monotonic()
        try:
            for number in range(rounds):
                for scenario in scenarios:
                    turns = [lane for lane in lanes if lane.scenario is scenario]
                    for lane in turns if number % 2 == 0 else reversed(turns):
                        _batch(lane, client, batch, series[scenario.name, lane.contender.name])
                progress(number + 1)
        finally:
            gc.unfreeze()
        seconds = time.monotonic() - start
    return Timings(series, seconds / rounds * browsers / batch)


def _batch(lane: Lane, client: redis.Redis, requests: int, series: Series) -> None:
    # Each pays for its own garbage only. A full collection would also empty the interpreter's
    # free lists, and slow down what is measured next.
    gc.collect(1)
    lane.run(WARM_UP_REQUESTS)
    redis_cpu = _redis_cpu(client)
    app_cpu = time.thread_time()
    wall = lane.run(requests)
    app_cpu = time.thread_time() - app_cpu
    redis_cpu = _redis_cpu(client) - redis_cpu
    series.wall.append(wall / requests)
    series.app_cpu.append(app_cpu / requests)
    series.redis_cpu.append(redis_cpu / requests)


def _redis_cpu(client: redis.Redis) -> float:
    info: Any = client.info("cpu")
    return sum(info[name] for name in CPU_FIELDS)


def measure_traffic(
    server: RedisServer, contents: dict[str, Any], scenarios: tuple[Scenario, ...]
) -> dict[Where, Traffic]:
    """Count what one request of each lane sends to Redis and gets back."""
    counted = {}
    with CountingProxy(server.port) as proxy:
        lanes = [
            lane
            for contender in all_contenders()
            for lane in make_lanes(contender, proxy.url, contents, scenarios, browsers=2)
        ]
        for lane in lanes:
            lane.run(1)  # connects
        time.sleep(A_LITTLE_MORE_THAN_A_SECOND)
        for lane in lanes:
            proxy.reset()
            lane.run(1)
            counted[lane.scenario.name, lane.contender.name] = Traffic(
                proxy.round_trips, proxy.command_names, proxy.bytes_sent, proxy.bytes_received
            )
    return counted
