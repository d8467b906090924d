"""Metrics and traces: what the setting ``observe`` names is told of each step and event."""

from __future__ import annotations

import importlib

from ..engine.observer import Watcher
from ..settings import PREFIX, Settings, SettingsError

__all__ = ["make_watchers"]

#: What the setting may name, to what has to be installed for it.
NEEDED = {"prometheus": "prometheus_client", "otel": "opentelemetry"}


def make_watchers(settings: Settings) -> tuple[Watcher, ...]:
    """Make what the setting ``observe`` names.

    :raises SettingsError: the extra of that name is not installed.
    """
    return tuple(_make(name, settings) for name in dict.fromkeys(settings.observe))


def _make(name: str, settings: Settings) -> Watcher:
    try:
        importlib.import_module(NEEDED[name])
    except ImportError as exc:
        raise SettingsError(
            f"{PREFIX}observe = {name} needs the extra {name}: "
            f"pip install 'pyramid_redis_lua_sessions[{name}]'"
        ) from exc
    watcher: Watcher = importlib.import_module(f".{name}", __package__).Metrics(settings)
    return watcher
