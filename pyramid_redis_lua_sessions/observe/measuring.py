"""What is measured: the same, whoever collects it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from ..engine.observer import Step, Watcher
from ..errors import InvalidSession_ChangesDropped
from ..events import (
    DeviceRefreshed,
    DeviceRegistered,
    SessionConflicted,
    SessionCreated,
    SessionInvalidated,
    SessionRegenerated,
    SessionRejected,
)
from ..settings import Settings

__all__ = ["METRICS", "Measuring", "Metric", "what"]


class Metric(NamedTuple):
    """One metric. Each also has the label ``prefix``: the setting of that name.

    :ivar name: without what every one begins with.
    :ivar kind: ``counter``, ``gauge`` or ``histogram``.
    :ivar unit: as OpenTelemetry writes it (UCUM): ``s``, ``By``, or what is counted, in braces.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "calls",
            "counter",
            "{call}",
            ("script", "status"),
            "Calls of scripts (and the few commands) by what came of them: a status, or the "
            "name of an error",
        ),
        Metric(
            "call_duration",
            "histogram",
            "s",
            ("script",),
            "Time that a step took, with the wait for a connection; scripts that travelled "
            "together are one step",
        ),
        Metric("round_trips", "counter", "{trip}", (), "Round trips to Redis"),
        Metric("sent", "counter", "By", (), "Bytes sent to Redis"),
        Metric("received", "counter", "By", (), "Bytes received from Redis"),
        Metric(
            "redirections",
            "counter",
            "{redirection}",
            (),
            "Calls that a node of a cluster sent to another one, or that a server refused which "
            "had become a replica",
        ),
        Metric(
            "connection_wait",
            "histogram",
            "s",
            (),
            "Waits for a connection, as all were in use",
        ),
        Metric(
            "connections",
            "gauge",
            "{connection}",
            ("state",),
            "Connections to Redis that are used, and that are idle",
        ),
        Metric("connections_max", "gauge", "{connection}", (), "Most connections there may be"),
        Metric("created", "counter", "{session}", ("reason",), "Sessions that were created"),
        Metric("regenerated", "counter", "{session}", ("reason",), "Sessions that got a new token"),
        Metric("ended", "counter", "{session}", ("reason",), "Sessions that were ended"),
        Metric(
            "conflicts",
            "counter",
            "{request}",
            ("reason",),
            "Saves that failed as others had come first (on_conflict = retry)",
        ),
        Metric(
            "rejected",
            "counter",
            "{session}",
            ("reason",),
            "Cookies and sessions that were refused",
        ),
        Metric(
            "device_registrations",
            "counter",
            "{session}",
            ("reason",),
            "Sessions that were bound to a device",
        ),
        Metric(
            "device_refreshes",
            "counter",
            "{proof}",
            ("reason",),
            "Proofs that a session is still on its device",
        ),
        Metric(
            "dropped_changes",
            "counter",
            "{request}",
            ("reason",),
            "Requests whose changes could not be kept",
        ),
    )
}

#: Kind of event to the metric that counts it.
COUNTED_EVENTS = {
    SessionCreated: "created",
    SessionRegenerated: "regenerated",
    SessionInvalidated: "ended",
    SessionConflicted: "conflicts",
    DeviceRegistered: "device_registrations",
    DeviceRefreshed: "device_refreshes",
}


class Measuring(Watcher):
    """Measures; who derives from it says where that goes."""

    def __init__(self, settings: Settings) -> None:
        self.prefix = settings.prefix

    @abstractmethod
    def add(self, name: str, amount: int, **labels: str) -> None:
        """Count."""

    @abstractmethod
    def record(self, name: str, seconds: float, **labels: str) -> None:
        """Add a value to a distribution."""

    @abstractmethod
    def stand(self, name: str, number: int, **labels: str) -> None:
        """Say how many there are now."""

    def step(self, step: Step) -> None:
        for script, status in zip(step.names, step.statuses, strict=True):
            self.add("calls", 1, script=script, status=status or "OK")
        self.record("call_duration", step.microseconds / 1e6, script=what(step))
        self.add("round_trips", step.round_trips)
        self.add("sent", step.bytes_sent)
        self.add("received", step.bytes_received)
        if step.redirections:
            self.add("redirections", step.redirections)
        if step.waits:
            self.record("connection_wait", step.microseconds_waited / 1e6)
        if step.connections is not None:
            used, idle, limit = step.connections
            self.stand("connections", used, state="used")
            self.stand("connections", idle, state="idle")
            self.stand("connections_max", limit)

    def event(self, event: Any) -> None:
        if isinstance(event, SessionRejected):
            dropped = isinstance(event.problem, InvalidSession_ChangesDropped)
            self.add("dropped_changes" if dropped else "rejected", 1, reason=event.reason)
            return
        name = COUNTED_EVENTS.get(type(event))
        if name is not None:
            self.add(name, 1, reason=event.reason)


def what(step: Step) -> str:
    """Name a step so that there are only a few such names: each script in it once."""
    return " + ".join(dict.fromkeys(step.names))
