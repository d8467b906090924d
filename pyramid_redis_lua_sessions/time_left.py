"""How long a user still has: a view for pages that warn before the timeout.

An application includes it: ``config.include("pyramid_redis_lua_sessions.time_left")``.
WCAG 2.2.1 (Timing Adjustable) asks that users are warned before time expires, and can
extend it with a simple action, at least 20 seconds before.
"""

from __future__ import annotations

from typing import Any

from pyramid.security import NO_PERMISSION_REQUIRED

from .engine.plan import STORED

__all__ = ["includeme"]

PATH = "/session-time-left"


def includeme(config: Any) -> None:
    """Add the route ``session_time_left``, at ``/session-time-left``.

    ``GET`` answers how long the session still has, and does not touch it. ``POST``, with the
    CSRF token where the application asks for one, refreshes it and answers the same. An
    application has it elsewhere by ``route_prefix`` of ``config.include``.
    """
    config.add_route("session_time_left", PATH)
    for method, touch in (("GET", False), ("POST", True)):
        config.add_view(
            time_left,
            route_name="session_time_left",
            request_method=method,
            touch_session=touch,
            renderer="json",
            # Who is logged in no more is to be told so, and not to be refused the answer.
            permission=NO_PERMISSION_REQUIRED,
        )


def time_left(request: Any) -> dict[str, Any]:
    """Answer ``{"alive": ..., "seconds": ...}``.

    ``seconds`` are whole ones, rounded down; ``null`` for a session that never ends. Of a
    visitor without a session, or whose session has ended, ``alive`` is ``false``.

    :raises StoreUnavailable: Redis cannot be reached, whatever ``on_redis_error`` says.
    """
    request.response.cache_control = "no-store"
    state = request.session._state
    state.look_in_earnest()
    if state.phase is not STORED:
        return {"alive": False, "seconds": 0}
    left = state.remaining_ms
    return {"alive": True, "seconds": None if left < 0 else left // 1000}
