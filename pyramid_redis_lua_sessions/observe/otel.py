"""Metrics and traces for OpenTelemetry, by its API alone.

What is a matter of any database has the names of the semantic conventions:
https://opentelemetry.io/docs/specs/semconv/db/redis/. No session id, key or value is among them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from .. import __version__
from ..connect.addresses import parse_url
from ..engine.observer import Step
from ..engine.scripts import SCRIPTS
from ..engine.scripts import Status as Reply
from ..settings import Settings
from .measuring import METRICS, Measuring, what

__all__ = ["Metrics", "name_of"]

SCOPE = "pyramid_redis_lua_sessions"

#: Statuses of steps that did not fail.
REPLIES = {"", *Reply.__members__}

#: What the conventions have a name of their own for.
CONVENTIONAL = {
    "call_duration": "db.client.operation.duration",
    "connection_wait": "db.client.connection.wait_time",
    "connections": "db.client.connection.count",
    "connections_max": "db.client.connection.max",
}


def name_of(name: str) -> str:
    """Return a metric's name."""
    return CONVENTIONAL.get(name, f"redis_sessions.{name}")


class Metrics(Measuring):
    """Told what becomes of the sessions of one factory; makes a span of each step."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._server = _server(settings)
        self._pool = {"db.client.connection.pool.name": settings.prefix}
        self._tracer = trace.get_tracer(SCOPE, __version__)
        meter = metrics.get_meter(SCOPE, __version__)
        self._instruments: dict[str, Any] = {}
        #: What there is at present, by metric and state.
        self._stands: dict[tuple[str, str], int] = {}
        for name, metric in METRICS.items():
            given: Any = {"name": name_of(name), "unit": metric.unit, "description": metric.help}
            if metric.kind == "counter":
                self._instruments[name] = meter.create_counter(**given)
            elif metric.kind == "histogram":
                self._instruments[name] = meter.create_histogram(**given)
            else:
                meter.create_observable_up_down_counter(callbacks=[self._reader(name)], **given)

    def _reader(self, name: str) -> Any:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            for (metric, state), number in list(self._stands.items()):
                if metric == name:
                    of_state = {"db.client.connection.state": state} if state else {}
                    yield Observation(number, {**self._pool, **of_state})

        return read

    def add(self, name: str, amount: int, **labels: str) -> None:
        self._instruments[name].add(amount, {"prefix": self.prefix, **labels})

    def record(self, name: str, seconds: float, **labels: str) -> None:
        if name == "connection_wait":
            self._instruments[name].record(seconds, self._pool)

    def stand(self, name: str, number: int, **labels: str) -> None:
        self._stands[name, labels.get("state", "")] = number

    def step(self, step: Step) -> None:
        super().step(step)
        attributes = self._attributes(step)
        # By wall clock: nothing was done for it before the step, where nobody watches.
        end = time.time_ns()
        self._instruments["call_duration"].record(step.microseconds / 1e6, attributes)
        number = len(step.names)
        span = self._tracer.start_span(
            f"{attributes['db.operation.name']} {what(step)}".removesuffix(" "),
            kind=SpanKind.CLIENT,
            attributes={
                **attributes,
                **({"db.operation.batch.size": number} if number > 1 else {}),
            },
            start_time=end - step.microseconds * 1000,
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def _attributes(self, step: Step) -> dict[str, Any]:
        """Return what the conventions want to know of a call."""
        scripts = what(step)
        command = "EVALSHA" if step.names[0] in SCRIPTS else scripts.upper()
        found = {
            "db.system.name": "redis",
            "db.operation.name": command if len(step.names) == 1 else f"PIPELINE {command}",
            **self._server,
        }
        if scripts in SCRIPTS:
            found["db.stored_procedure.name"] = scripts
        errors = [status for status in step.statuses if status not in REPLIES]
        if errors:
            found["error.type"] = errors[0]
        return found


def _server(settings: Settings) -> dict[str, Any]:
    """Say which server it is, where it is one and the settings name it."""
    host: Any = settings.redis_host
    port, db, path = settings.redis_port, settings.redis_db, settings.redis_unix_socket_path
    if settings.redis_client_callable is not None or settings.redis_connection_pool is not None:
        return {}
    if settings.redis_url is not None:
        address = parse_url(settings.redis_url, "redis.sessions.url")
        if address.kind != "redis":
            return {}
        path, db = address.path, address.options.get("db", 0)
        if path is None:
            ((host, port),) = address.hosts
    where = {"server.address": path} if path else {"server.address": host, "server.port": port}
    return {**where, "db.namespace": str(db)}
