"""What the sessions of one request asked of Redis: for development, demos and tests.

A request that nobody watches pays for this with one lookup in its environ.
"""

from __future__ import annotations

from typing import Any

from .engine.observer import Step as Call
from .turn import TURNS, WATCHED

__all__ = ["Call", "watch"]


def watch(request: Any) -> list[Call]:
    """Record what the sessions of a request ask of Redis from now on.

    The list fills while the request runs, callbacks included; read it in the
    view, or when the request is over. Watching a request again returns the
    same list, and so does an attempt that ``pyramid_retry`` repeats.

    Round trips and bytes are those of the session's own commands. What the
    client library does beyond them shows only in the time: connecting,
    repeating a call after a lost connection, and on Redis Cluster following
    a slot that has moved.

    :param request: a request of the application.
    """
    calls: list[Call] | None = request.environ.get(WATCHED)
    if calls is None:
        calls = request.environ[WATCHED] = []
        for turn in getattr(request, TURNS, ()):
            turn.watch(calls.append)
    return calls
