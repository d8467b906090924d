"""Takes time and Redis CPU in interleaved rounds, and, apart from that, counts traffic."""

from __future__ import annotations

import gc
import math
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import redis

from pyramid_redis_lua_sessions.testing import CountingProxy, RedisServer

from .contenders import all_contenders
from .driving import Lane, make_lanes
from .scenarios import Scenario

__all__ = [
    "Series",
    "Spread",
    "Timings",
    "Traffic",
    "measure_timings",
    "measure_traffic",
    "redis_cpu",
]

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
    """What one lane took per request, a figure per round.

    :ivar wall: seconds, waiting included; the median, as where others use the machine a few
        requests wait for a CPU, and much longer than a request takes.
    :ivar app_cpu: CPU seconds of the application, the mean. The driver's own are included, and go
        when the floor is subtracted.
    :ivar redis_cpu: CPU seconds of the Redis process, the mean; the reading itself is included,
        and goes likewise.
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
    url: str | None = None,
    least_browsers: int = 0,
    revisit_seconds: float = 0.0,
) -> Timings:
    """Run every contender through every scenario, in rounds.

    In each round each contender sends one small batch per scenario, one contender right after
    the other and in alternating order: whatever disturbs the machine meanwhile hits all alike.

    :param batch: requests per contender, scenario and round.
    :param url: where the contenders find the server; default: its own address.
    :param least_browsers: sessions among which a contender's requests take turns, at least.
    :param revisit_seconds: until a session is visited again, judged by a first round.
    """
    lanes = [
        lane
        for contender in all_contenders()
        for lane in make_lanes(contender, url or server.url, contents, scenarios, batch)
    ]
    series = {(lane.scenario.name, lane.contender.name): Series() for lane in lanes}
    with server.client() as client:
        for _ in range(WARM_UP_ROUNDS):
            for lane in lanes:
                lane.run(batch)
        start = time.monotonic()
        _round(lanes, scenarios, client, batch, 0, {where: Series() for where in series})
        seconds = time.monotonic() - start
        used_in_a_round = batch + WARM_UP_REQUESTS
        browsers = max(least_browsers, math.ceil(revisit_seconds / seconds) * used_in_a_round)
        for lane in lanes:
            lane.grow(browsers)
        # The applications themselves are no garbage: the collector need not look at them, as
        # in a server that freezes them before it forks.
        gc.collect()
        gc.freeze()
        start = time.monotonic()
        try:
            for number in range(rounds):
                _round(lanes, scenarios, client, batch, number, series)
        finally:
            gc.unfreeze()
        seconds = (time.monotonic() - start) / rounds
    return Timings(series, seconds * browsers / used_in_a_round)


def _round(
    lanes: list[Lane],
    scenarios: tuple[Scenario, ...],
    client: redis.Redis,
    batch: int,
    number: int,
    series: dict[Where, Series],
) -> None:
    for scenario in scenarios:
        turns = [lane for lane in lanes if lane.scenario is scenario]
        for lane in turns if number % 2 == 0 else reversed(turns):
            _batch(lane, client, batch, series[scenario.name, lane.contender.name])


def _batch(lane: Lane, client: redis.Redis, requests: int, series: Series) -> None:
    # Each pays for its own garbage only. A full collection would also empty the interpreter's
    # free lists, and slow down what is measured next.
    gc.collect(1)
    lane.run(WARM_UP_REQUESTS)
    server_cpu = redis_cpu(client)
    app_cpu = time.thread_time()
    seconds = lane.run(requests)
    app_cpu = time.thread_time() - app_cpu
    server_cpu = redis_cpu(client) - server_cpu
    series.wall.append(statistics.median(seconds))
    series.app_cpu.append(app_cpu / requests)
    series.redis_cpu.append(server_cpu / requests)


def redis_cpu(client: redis.Redis) -> float:
    """Return the CPU seconds that the server has used so far."""
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
