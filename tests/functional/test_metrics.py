"""Where an application collects the metrics of redis-py, the commands of sessions are among them.

The two set up OpenTelemetry once in a process, so that this takes one of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from webtest import TestApp

from pyramid_redis_lua_sessions.testing import RedisServer

pytest.importorskip("redis.observability.providers", reason="redis-py before 7.2 has no metrics")


def visits(request: Request) -> str:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return str(request.session["visits"])


def main(url: str) -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from redis.observability import MetricGroup, OTelConfig, get_observability_instance

    settings = {"redis.sessions.secret": "s" * 32, "redis.sessions.url": url}
    with Configurator(settings=settings) as config:
        config.include("pyramid_redis_lua_sessions")
        config.add_route("visits", "/")
        config.add_view(visits, route_name="visits", renderer="string")
    browser = TestApp(config.make_wsgi_app())
    browser.get("/")

    # After the first request, as in a worker's hook that comes late.
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    options: Any = {"metric_groups": [MetricGroup.COMMAND]}
    get_observability_instance().init(OTelConfig(**options))
    browser.get("/")
    answer = browser.get("/").text
    data: Any = reader.get_metrics_data()
    counts = {
        point.attributes["db.operation.name"]: point.count
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    print(json.dumps({"answer": answer, "counts": counts}))


def test_commands_are_counted(redis_server: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", __name__, redis_server.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen = json.loads(done.stdout)
    assert seen["answer"] == "3"
    # The two requests read and wrote.
    assert sum(seen["counts"].values()) >= 4


if __name__ == "__main__":
    main(sys.argv[1])
