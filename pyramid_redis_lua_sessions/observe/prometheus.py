"""Metrics for Prometheus, in ``prometheus_client``'s own registry.

It knows of several processes where ``PROMETHEUS_MULTIPROC_DIR`` is set before it is imported.
"""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from pyramid.response import Response

from .measuring import METRICS, Measuring, Metric

__all__ = ["Metrics", "metrics", "name_of"]

#: Upper bounds of the classes of a duration, seconds: a call takes a fraction of a millisecond
#: in the same data centre, and ``redis_socket_timeout`` at most.
BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)

UNITS = {"s": "_seconds", "By": "_bytes"}


def name_of(metric: Metric) -> str:
    """Return a metric's name; behind a counter's, the text format puts ``_total``."""
    return f"redis_sessions_{metric.name}{UNITS.get(metric.unit, '')}"


def _make(metric: Metric) -> Any:
    name, labels = name_of(metric), ("prefix", *metric.labels)
    if metric.kind == "counter":
        return Counter(name, metric.help, labels)
    if metric.kind == "histogram":
        return Histogram(name, metric.help, labels, buckets=BUCKETS)
    # Of several processes the sum counts, and of one that has ended nothing.
    return Gauge(name, metric.help, labels, multiprocess_mode="livesum")


_made = {name: _make(metric) for name, metric in METRICS.items()}


class Metrics(Measuring):
    """Told what becomes of the sessions of one factory."""

    def add(self, name: str, amount: int, **labels: str) -> None:
        _made[name].labels(prefix=self.prefix, **labels).inc(amount)

    def record(self, name: str, seconds: float, **labels: str) -> None:
        _made[name].labels(prefix=self.prefix, **labels).observe(seconds)

    def stand(self, name: str, number: int, **labels: str) -> None:
        _made[name].labels(prefix=self.prefix, **labels).set(number)


def metrics(request: Any) -> Response:
    """A view of everything that ``prometheus_client`` has collected in this application.

    It does not look at the session. Whoever can reach it sees the figures.
    """
    registry = REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), headerlist=[("Content-Type", CONTENT_TYPE_LATEST)])
